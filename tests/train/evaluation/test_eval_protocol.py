"""A whole evaluation of a tiny model: rows, opponents, files, and what must stop it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task, all_tasks, applicable
from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from train.distributed import DistributedContext
from train.evaluation import opponents
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.exam import prepare_exam
from train.evaluation.protocol import Contestant, Evaluation, evaluate
from train.evaluation.questions import Asked
from train.evaluation.results import (
    DECODING,
    Results,
    nothing_to_ask,
    read_results,
    summary_lines,
    to_json,
    unjudged,
    write_results,
)
from train.evaluation.rows import has_sampled_candidates
from train.evaluation.run import find_config, parse_job, write_evaluation
from train.evaluation.scores import TargetScores
from train.evaluation.swap import consistency, swapped_trees

SHAPE = ModelShape(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)
MIXTURE = MixtureConfig(targets_per_tree=8, history_events=6)
CONFIG = EvaluationConfig(
    max_targets=40,
    max_title_targets=5,
    calibration_targets=30,
    baseline_trees=60,
    baseline_trials=1,
    max_tokens=2000,
    bootstrap=BootstrapConfig(resamples=200),
)


def contestant(store: TokenStore, seed: int) -> Contestant:
    def load() -> torch.nn.Module:
        return build_backbone(SHAPE, vocab_size=store.card.vocab_size, seed=seed).eval()

    return Contestant(name=f"seed {seed}", load=load, weights_hash=f"hash of {seed}")


def run(
    store: TokenStore,
    folder: Path | None,
    *,
    names: tuple[str, ...] = (),
    config: EvaluationConfig = CONFIG,
    mixture: MixtureConfig = MIXTURE,
) -> Evaluation:
    tasks = [all_tasks()[name] for name in names] or list(all_tasks().values())
    return evaluate(
        contestant(store, 1),
        contestant(store, 2),
        [store],
        tasks,
        mixture,
        DistributedContext(),
        config,
        cache_folder=folder,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def evaluation(tiny_store: TokenStore, folder: Path) -> Evaluation:
    return run(tiny_store, folder)


@pytest.fixture(scope="module")
def results(evaluation: Evaluation) -> Results:
    return evaluation.results


def test_every_task_has_a_row_or_a_reason(results: Results, tiny_store: TokenStore) -> None:
    named = {row.task for row in results.rows} | set(results.corpora[0].skipped)
    assert named == set(all_tasks())
    for row in results.rows:
        assert applicable(all_tasks()[row.task], tiny_store) is None
        assert row.n > 0
        assert row.value is not None
        assert row.untrained_value is not None
        assert set(row.baselines) == set(all_tasks()[row.task].baselines)
        assert row.trivial == all_tasks()[row.task].baselines[0]
        assert row.metric == all_tasks()[row.task].metric


def test_all_that_was_expected_was_scored(results: Results) -> None:
    corpus = results.corpora[0]
    assert corpus.users_expected == corpus.users_scored > 10
    assert corpus.targets_expected == corpus.targets_scored == sum(row.n for row in results.rows)


def test_the_header_says_what_was_measured_and_how(
    results: Results, tiny_store: TokenStore
) -> None:
    assert results.model_hash == "hash of 1"
    assert results.split_hash == tiny_store.card.split["hash"]
    assert results.decoding == DECODING
    assert results.mixture["history_events"] == MIXTURE.history_events
    assert "torch" in results.provenance["packages"]
    assert results.calibration_targets == 30
    assert results.bootstrap == {"resamples": 200, "level": 0.95, "seed": 0, "unit": "user"}
    assert results.corpora[0].store_fingerprint == tiny_store.fingerprint
    assert {"model", "untrained", "baselines", "total"} <= set(results.seconds)
    assert results.targets_per_second > 0


def test_best_baseline_and_verdicts_follow_from_the_numbers(results: Results) -> None:
    for row in results.rows:
        sign = 1 if row.higher_is_better else -1
        defined = [value for value in row.baselines.values() if value is not None]
        assert row.baseline_value == max(defined, key=lambda value: sign * value)
        for key, theirs in (
            ("untrained", row.untrained_value),
            ("trivial", row.baselines[row.trivial or ""]),
            ("best", row.baseline_value),
        ):
            difference = getattr(row, f"difference_to_{key}")
            assert difference.value == pytest.approx(sign * (row.value - theirs), abs=1e-12)
            verdict = None if unjudged(row.rarer_answer, row.users) else difference.low > 0
            assert getattr(row, f"beats_{key}") == verdict


def test_nothing_is_beaten_where_an_answer_is_too_rare(results: Results) -> None:
    assert any(row.rarer_answer is not None and row.rarer_answer >= 10 for row in results.rows)
    assert all(
        (row.rarer_answer is None) == (row.kind != "label" or row.task == "rating")
        for row in results.rows
        if row.tier == "T1"
    )
    row = next(row for row in results.rows if row.task == "like")
    rare = dataclasses.replace(row, rarer_answer=9, beats_untrained=None, beats_trivial=None)
    lines = summary_lines(dataclasses.replace(results, rows=[rare]))
    assert f"No verdict on {row.corpus}/like ({row.n} targets, 9 have the rarer answer)." in lines
    alone = dataclasses.replace(row, users=1)
    lines = summary_lines(dataclasses.replace(results, rows=[alone]))
    assert f"No verdict on {row.corpus}/like ({row.n} targets, of one user)." in lines


def test_slices_cut_the_targets_by_known_events(tiny_store: TokenStore) -> None:
    config = dataclasses.replace(
        CONFIG, max_targets=200, with_baselines=False, with_untrained=False
    )
    (row,) = run(tiny_store, None, names=("like",), config=config).results.rows
    assert {part.name for part in row.slices} <= {"0", "1-5", "6-20", "21+"}
    assert sum(part.n for part in row.slices) == row.n
    assert len(row.slices) >= 3
    assert all(part.users <= row.users for part in row.slices)


def test_results_survive_writing_and_reading(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(results, path)
    assert read_results(path) == results
    assert "NaN" not in path.read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.update(schema_version=99), "schema_version 99, this version reads 2"),
        (lambda data: data["rows"][0].pop("metric"), r"Row has missing keys \['metric'\]"),
        (lambda data: data.update(extra=1), r"unknown keys \['extra'\]"),
    ],
)
def test_a_foreign_result_file_is_refused(
    results: Results, tmp_path: Path, damage, message: str
) -> None:
    data = json.loads(to_json(results))
    damage(data)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        read_results(path)


def test_the_summary_names_what_is_not_beaten(results: Results) -> None:
    lines = summary_lines(results)
    judged = [row for row in results.rows if row.beats_trivial is not None]
    assert len(judged) < len(results.rows)
    lost = [row.task for row in judged if not row.beats_trivial]
    line = next(line for line in lines if "the trivial baseline" in line)
    assert f"on {len(judged) - len(lost)} of {len(judged)} tasks" in line
    assert all(task in line for task in lost)
    best = dataclasses.replace(results.rows[0], beats_trivial=True)
    won = dataclasses.replace(results, rows=[best])
    assert "Beats the trivial baseline beyond the interval on 1 of 1 tasks." in summary_lines(won)
    assert any("candidates: full catalog" in line and "sampling: False" in line for line in lines)


def test_the_summary_counts_what_does_not_apply_and_names_what_had_no_target(
    results: Results,
) -> None:
    one = dataclasses.replace(
        results.corpora[0],
        skipped={"like": nothing_to_ask("test"), "click": "it has no impressions", "action": "x"},
    )
    lines = summary_lines(dataclasses.replace(results, corpora=[one]))
    assert lines[-2].startswith(f"Not evaluated on {one.name}, no event of the test phase")
    assert lines[-2].endswith(": like.")
    assert lines[-1].startswith(f"2 more tasks do not apply to {one.name}")


def test_the_summary_groups_by_corpus_where_there_are_several(results: Results) -> None:
    row = dataclasses.replace(results.rows[0], beats_trivial=False)
    rows = [row, dataclasses.replace(row, corpus="other"), dataclasses.replace(row, task="more")]
    line = next(
        line
        for line in summary_lines(dataclasses.replace(results, rows=rows))
        if "the trivial baseline" in line
    )
    assert line.endswith(f"; not on {row.corpus}: {row.task}, more; other: {row.task}.")


def test_examples_are_whole_prompts_with_probabilities(evaluation: Evaluation) -> None:
    assert 8 <= len(evaluation.examples) <= 12
    like = next(example for example in evaluation.examples if example["task"] == "like")
    assert like["prompt"].startswith("Questions about films.")
    assert "Candidate:" in like["prompt"]
    assert like["choices"] == ["No", "Yes"]
    assert like["choices"][like["label"]] == like["answer"]
    assert sum(like["probabilities"]) == pytest.approx(1.0, abs=1e-4)


def test_baselines_are_fitted_once(
    results: Results, tiny_store: TokenStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("fitted again")

    assert len(list(folder.glob("baselines-*.json"))) == 1
    before = dataclasses.replace(results, seconds={}, targets_per_second=0.0)
    monkeypatch.setattr(opponents, "_fit_share", refuse)
    again = dataclasses.replace(run(tiny_store, folder).results, seconds={}, targets_per_second=0.0)
    assert again == before  # and the whole evaluation repeats itself
    with pytest.raises(AssertionError, match="fitted again"):  # other questions, other scores
        run(tiny_store, folder, config=dataclasses.replace(CONFIG, seed=1))


def test_baselines_know_everybody_whoever_the_run_learned_from(
    tiny_store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("fitted again")

    whole = run(tiny_store, tmp_path, names=("like", "rating")).results
    monkeypatch.setattr(opponents, "_fit_share", refuse)
    few = dataclasses.replace(MIXTURE, user_fraction=0.1)
    part = run(tiny_store, tmp_path, names=("like", "rating"), mixture=few).results
    assert part.rows == whole.rows
    assert part.mixture["user_fraction"] == 0.1


def test_a_damaged_cache_is_not_trusted(tiny_store: TokenStore, tmp_path: Path) -> None:
    names = ("like", "pairwise")
    first = run(tiny_store, tmp_path, names=names).results
    (cache,) = tmp_path.glob("baselines-*.json")
    content = json.loads(cache.read_text())
    content["scores"]["majority"]["like"]["probabilities"].pop()
    cache.write_text(json.dumps(content))
    assert run(tiny_store, tmp_path, names=names).results.rows == first.rows


def test_held_out_phrasings_are_asked_and_filed_apart(
    tiny_store: TokenStore, tmp_path: Path
) -> None:
    names = ("like",)
    config = dataclasses.replace(
        CONFIG, phrasing="held_out", with_baselines=False, with_untrained=False
    )
    held_out = run(tiny_store, None, names=names, config=config)
    assert (
        all_tasks()["like"].held_out_instructions[0].format(item="film")
        in (held_out.examples[0]["prompt"])
    )
    trained = run(tiny_store, None, names=names, config=dataclasses.replace(config, seed=0))
    assert write_evaluation(held_out, tmp_path).name == "results-held_out.json"
    assert read_results(tmp_path / "results-held_out.json").phrasing == "held_out"
    row = held_out.results.rows[0]
    assert row.beats_untrained is None
    assert row.baselines == {}
    assert row.n == trained.results.rows[0].n
    assert row.targets_hash == trained.results.rows[0].targets_hash  # only the words differ
    assert row.temperature is not None


def test_a_sampled_metric_must_say_so(tiny_store: TokenStore) -> None:
    class Lying(type(all_tasks()["will_watch"])):  # type: ignore[misc]
        name = "lying"
        metric = "auc"

    task: Task = Lying()
    config = dataclasses.replace(CONFIG, with_baselines=False, with_untrained=False)
    with pytest.raises(ValueError, match=r"'lying' asks about item .* Call its metric sampled_auc"):
        evaluate(
            contestant(tiny_store, 1),
            None,
            [tiny_store],
            [task],
            MIXTURE,
            DistributedContext(),
            config,
        )
    nothing: list[Asked] = []
    assert not has_sampled_candidates(all_tasks()["like"], nothing, tiny_store)
    assert has_sampled_candidates(all_tasks()["will_watch"], nothing, tiny_store)


def test_a_wrong_baseline_or_metric_name_stops_before_any_scoring(tiny_store: TokenStore) -> None:
    class Misspelt(type(all_tasks()["like"])):  # type: ignore[misc]
        name = "misspelt"
        baselines = ("majority", "item_knnn")

    class Unsuited(type(all_tasks()["next_item_title"])):  # type: ignore[misc]
        name = "unsuited"
        baselines = ("logistic",)

    for task, message in (
        (Misspelt(), "no baseline is called 'item_knnn'"),
        (Unsuited(), "of kind 'title', which baseline 'logistic' cannot answer"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(
                Contestant(name="never loaded", load=lambda: pytest.fail("loaded")),
                None,
                [tiny_store],
                [task],
                MIXTURE,
                DistributedContext(),
                CONFIG,
            )


def test_the_command_line_reads_every_setting(tmp_path: Path) -> None:
    job = parse_job(
        [
            *("--run", str(tmp_path), "--store", "a", "--store", "b", "--task", "like"),
            *("--phrasing", "held_out", "--max-targets", "7", "--resamples", "9"),
            "--no-baselines",
        ]
    )
    assert job.stores == ("a", "b")
    assert job.tasks == ("like",)
    assert job.settings.phrasing == "held_out"
    assert job.settings.max_targets == 7
    assert job.settings.bootstrap.resamples == 9
    assert job.settings.calibration_targets == 200
    assert not job.settings.with_baselines
    assert job.settings.with_untrained
    assert find_config(tmp_path) is None
    with pytest.raises(ValueError, match="max_targets=0"):
        parse_job(["--run", str(tmp_path), "--max-targets", "0"])
    curves = parse_job(["--run", str(tmp_path), "--curve", "shots", "--curve", "months"]).curves
    assert curves == ("shots", "months")


def test_interval_of_one_user_is_a_point(tiny_store: TokenStore) -> None:
    config = dataclasses.replace(CONFIG, max_targets=1, with_baselines=False)
    row = run(tiny_store, None, names=("rating",), config=config).results.rows[0]
    assert row.users == row.n == 1
    assert row.low == row.value == row.high
    assert np.isfinite(row.value)


def test_pairs_are_asked_again_in_the_other_order(tiny_store: TokenStore, results: Results) -> None:
    tasks = [all_tasks()["pairwise"], all_tasks()["like"]]
    trees = list(
        EvaluationSet(tiny_store, tasks, phase=Phase.TEST, config=MIXTURE, seed=0, max_targets=30)
    )
    pairs = [b for tree in trees for b in tree.branches if b.task == 0]
    again = [b for tree in swapped_trees(tiny_store, tasks, trees) for b in tree.branches]
    assert len(again) == len(pairs) > 10
    for branch, other in zip(pairs, again, strict=True):
        assert other.question.candidates == branch.question.candidates[::-1]
        assert other.question.label == 1 - branch.question.label
        assert sorted(other.tokens) == sorted(branch.tokens)
        assert other.phrasing == branch.phrasing
    row = next(row for row in results.rows if row.task == "pairwise")
    assert 0.0 <= row.secondary["order_swap_consistency"] <= 1.0
    assert "order_swap_consistency" not in results.rows[0].secondary


def test_consistency_follows_the_item_and_not_the_letter() -> None:
    def of(first: list[float]) -> TargetScores:
        n = len(first)
        p_N = np.array(first)
        whole = np.zeros(n, np.int64)
        return TargetScores(
            groups_N=whole,
            subjects_N=whole,
            labels_N=whole,
            n_choices_N=whole + 2,
            probabilities_NK=np.stack([p_N, 1 - p_N], 1),
            gains_NK=np.zeros((n, 0)),
            values_N=np.full(n, np.nan),
            class_values_K=np.arange(2.0),
            better_N=whole - 1,
            tied_N=whole,
            ranked_N=whole,
            label_mass_N=np.ones(n),
        )

    # Prefers the same item twice; prefers A twice; undecided.
    assert consistency(of([0.9, 0.9, 0.5]), of([0.2, 0.8, 0.3])) == pytest.approx(0.5)


def test_a_larger_catalog_is_asked_fewer_titles_but_never_none() -> None:
    config = EvaluationConfig(max_targets=400, max_title_targets=60, max_ranked_titles=120_000)
    assert config.most_targets("label", 10**7) == 400
    assert config.most_targets("text", 10**7) == 60
    assert [config.most_targets("title", n) for n in (0, 2_000, 8_000, 10**7)] == [60, 60, 15, 1]


def test_the_bound_on_ranked_titles_holds_for_titles_alone(tiny_store: TokenStore) -> None:
    n_items = len(tiny_store.statistics.known_items)
    config = EvaluationConfig(max_targets=30, max_title_targets=20, max_ranked_titles=4 * n_items)
    tasks = [all_tasks()[name] for name in ("like", "next_item_title")]
    exam = prepare_exam(tiny_store, tasks, MixtureConfig(), config)
    assert {name: len(asked) for name, asked in exam.asked.items()} == {
        "like": 30,
        "next_item_title": 4,
    }
