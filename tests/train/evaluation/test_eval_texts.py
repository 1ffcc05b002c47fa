"""Answers that are texts: metrics worked out by hand, and a model's texts from prompt to file."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import pack
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import Task, all_tasks
from data_pipeline.tree import Tree
from modeling.backbone import build_backbone
from modeling.shape import ModelShape
from train.distributed import DistributedContext
from train.evaluation.baselines import BASELINES, Questions
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import MAX_NEW_TOKENS, EvaluationConfig
from train.evaluation.metrics import METRICS, secondary_metrics
from train.evaluation.prediction_file import read_predictions, write_predictions
from train.evaluation.predictions import predict
from train.evaluation.protocol import Contestant, Evaluation, evaluate
from train.evaluation.questions import collect, targets_fingerprint
from train.evaluation.results import summary_lines
from train.evaluation.run import write_evaluation
from train.evaluation.scores import TargetScores, Texts
from train.evaluation.texts import answered_by_text, right_text
from train.objectives import LabelObjective, Tally
from train.objectives.base import ROWS

SHAPE = ModelShape(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)
MIXTURE = MixtureConfig(targets_per_tree=8, history_events=8)
CONFIG = EvaluationConfig(
    max_targets=30,
    max_title_targets=12,
    calibration_targets=0,
    baseline_trees=40,
    baseline_trials=1,
    max_tokens=2000,
    bootstrap=BootstrapConfig(resamples=100),
)
NAMES = ("like", "explanation", "taste_summary", "next_item_title")
TEXTS = ("explanation", "taste_summary")


def said(pairs: list[tuple[str, str]], ground: str = "") -> TargetScores:
    """Scores of texts that were said beside the right ones."""
    n = len(pairs)
    zeros = np.zeros(n, np.int64)
    return TargetScores(
        groups_N=np.arange(n),
        subjects_N=zeros,
        labels_N=zeros,
        n_choices_N=zeros,
        probabilities_NK=np.zeros((n, 0)),
        gains_NK=np.zeros((n, 0)),
        values_N=np.full(n, math.nan),
        class_values_K=np.zeros(0),
        better_N=zeros - 1,
        tied_N=zeros,
        ranked_N=zeros,
        label_mass_N=np.full(n, math.nan),
        texts=Texts(
            said_N=np.array([one for one, _ in pairs], object),
            right_N=np.array([other for _, other in pairs], object),
            ground_N=np.array([ground] * n, object),
        ),
    )


# Metrics


@pytest.mark.parametrize(
    ("ours", "right", "value"),
    [
        # Lin 2004, section 3.1: three of four words in order, and two of four.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("A b, c!", "a B C", 1.0),  # neither case nor punctuation counts
        ("a a a a", "a b", 2 * 1 / 6),  # a word counts as often as in both
        ("c a b d e", "a x b c d", 2 * 3 / 10),  # a b d, though c comes before a here
        ("b", "a", 0.0),
        ("", "a b", 0.0),
        ("a", "", 0.0),
    ],
)
def test_rouge_l_is_that_of_the_longest_common_subsequence(
    ours: str, right: str, value: float
) -> None:
    assert METRICS["rouge_l"](said([(ours, right)])) == pytest.approx(value)


def test_grounded_words_are_those_of_record_and_history() -> None:
    shown = "Heat (1995) | Crime, Drama\nToday | Alien (1979) | Horror | rated 5"
    share = METRICS["grounded_share"]
    assert share(said([("This is a great crime drama", "x")], shown)) == pytest.approx(2 / 3)
    assert share(said([("The ALIEN!", "x")], shown)) == 1.0
    assert share(said([("dull", "x")], shown)) == 0.0
    nothing = said([("It is what it was, 1995.", "x"), ("", "x")], shown)
    assert math.isnan(share(nothing))  # no content word: nothing to hold on to
    both = said([("crime", "x"), ("", "x"), ("dull", "x")], shown)
    assert share(both) == pytest.approx(0.5)


def test_facts_count_whole_and_in_any_order() -> None:
    right = "likes Comedy | dislikes Horror | rates high"
    f1 = METRICS["fact_f1"]
    assert f1(said([("rates  high | LIKES comedy", right)])) == pytest.approx(2 * 2 / 5)
    assert f1(said([(right, right)])) == 1.0
    assert f1(said([("likes Horror | dislikes Comedy", right)])) == 0.0
    assert f1(said([("likes Comedy | likes Comedy", right)])) == pytest.approx(2 * 1 / 4)
    assert f1(said([("", right)])) == 0.0
    assert f1(said([("", right), (right, right)])) == pytest.approx(0.5)


def test_metrics_of_texts_want_texts_and_are_reported_beside_each_other() -> None:
    without = dataclasses.replace(said([("a", "a")]), texts=None)
    for name in ("rouge_l", "grounded_share", "fact_f1"):
        with pytest.raises(ValueError, match="needs answers that are texts"):
            METRICS[name](without)
    assert secondary_metrics("text", "rouge_l", 0, False) == ("grounded_share",)
    assert secondary_metrics("text", "fact_f1", 0, False) == ("rouge_l",)


def test_a_part_of_the_targets_has_its_own_texts() -> None:
    scores = said([("a", "a"), ("b", "x"), ("c", "c")])
    assert METRICS["rouge_l"](scores.take(np.array([2, 1]))) == pytest.approx(0.5)
    assert METRICS["rouge_l"](scores.take(np.array([True, False, True]))) == 1.0


# A model's texts


@pytest.fixture(scope="module")
def model(rich_store: TokenStore) -> torch.nn.Module:
    """Random weights, but sharp, so that rounding changes no text; it does not repeat itself."""
    shape = dataclasses.replace(SHAPE, tie_word_embeddings=False)
    model = build_backbone(shape, vocab_size=rich_store.card.vocab_size, seed=5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6.0)
    return model


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [all_tasks()[name] for name in NAMES]


@pytest.fixture(scope="module")
def trees(rich_store: TokenStore, tasks: list[Task]) -> list[Tree]:
    return list(
        EvaluationSet(rich_store, tasks, phase=Phase.TEST, config=MIXTURE, seed=0, max_targets=12)
    )


@torch.no_grad()
def slowly(model: torch.nn.Module, store: TokenStore, prompt: np.ndarray) -> str:
    """One prompt, read anew for every token."""
    ids = prompt.tolist()
    made: list[int] = []
    while len(made) < MAX_NEW_TOKENS:
        made.append(int(model(torch.tensor([ids + made])).logits[0, -1].argmax()))
        if made[-1] in store.encoder.control_ids:
            made.pop()
            break
        if "\n" in store.encoder.decode([made[-1]]):
            break
    return store.encoder.decode(made).split("\n")[0].strip()


def test_texts_are_what_the_model_writes_behind_each_prompt_alone(
    rich_store: TokenStore, model: torch.nn.Module, tasks: list[Task], trees: list[Tree]
) -> None:
    scores = predict(model, trees, tasks, rich_store, DistributedContext(), max_tokens=900)
    place = dict.fromkeys(NAMES, 0)
    for tree in trees:
        for branch in tree.branches:
            name = tasks[branch.task].name
            row, place[name] = place[name], place[name] + 1
            texts = scores[name].texts
            assert (texts is not None) == (name in TEXTS)
            if texts is None:
                continue
            prompt = branch.tokens[: len(branch.tokens) - len(branch.answer) + 1]
            alone = slowly(model, rich_store, np.concatenate([tree.trunk, prompt]))
            assert texts.said_N[row] == alone
            assert texts.right_N[row] == rich_store.encoder.decode(branch.answer).strip()
            assert rich_store.encoder.decode(tree.trunk) in texts.ground_N[row]
    assert place == {name: len(scores[name]) for name in NAMES}
    different = {text for name in TEXTS for text in scores[name].texts.said_N}  # type: ignore[union-attr]
    assert len(different) > 4
    # The tasks beside them are scored as they are without any text.
    others = [
        dataclasses.replace(t, branches=tuple(b for b in t.branches if not b.question.text))
        for t in trees
    ]
    alone_scores = predict(
        model, [t for t in others if t.branches], tasks, rich_store, DistributedContext(),
        max_tokens=900,
    )  # fmt: skip
    for name in ("like", "next_item_title"):
        for field in ("probabilities_NK", "better_N", "tied_N"):
            np.testing.assert_allclose(
                getattr(scores[name], field), getattr(alone_scores[name], field), atol=1e-5
            )


def test_every_right_text_is_short_enough_to_be_written(
    rich_store: TokenStore, trees: list[Tree]
) -> None:
    answers = [b.answer for tree in trees for b in tree.branches if b.question.text]
    assert max(map(len, answers)) <= MAX_NEW_TOKENS
    ends = rich_store.encoder.line_ends
    for answer in answers:
        assert [token in ends for token in answer.tolist()] == [False] * (len(answer) - 1) + [True]


def run(store: TokenStore, folder: Path | None, seed: int = 1) -> Evaluation:
    def contestant(seed: int) -> Contestant:
        return Contestant(
            name=f"seed {seed}",
            load=lambda: build_backbone(SHAPE, vocab_size=store.card.vocab_size, seed=seed).eval(),
            weights_hash=str(seed),
        )

    return evaluate(
        contestant(seed), contestant(2), [store], [all_tasks()[name] for name in NAMES], MIXTURE,
        DistributedContext(), CONFIG, cache_folder=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluation(rich_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return run(rich_store, tmp_path_factory.mktemp("texts"))


def test_a_text_task_has_a_row_like_any_other(evaluation: Evaluation, tmp_path: Path) -> None:
    rows = {row.task: row for row in evaluation.results.rows}
    for name in TEXTS:
        row, task = rows[name], all_tasks()[name]
        assert row.kind == "text"
        assert row.label_mass is None
        assert row.temperature is None
        assert 0 < row.n <= CONFIG.max_title_targets
        assert row.value is not None
        assert row.untrained_value is not None
        assert set(row.baselines) == set(task.baselines)
        assert row.trivial == "common_text"
        assert not row.sampled
        best = row.baseline_value
        assert best is not None
        assert best > 0.0
    assert 0.0 <= (rows["explanation"].secondary.get("grounded_share") or 0.0) <= 1.0
    assert "rouge_l" in rows["taste_summary"].secondary
    (line,) = [x for x in summary_lines(evaluation.results) if x.startswith("Decoding")]
    assert f"texts: greedy, to the end of the line or {MAX_NEW_TOKENS} tokens" in line
    examples = {example["task"]: example for example in evaluation.examples}
    assert "said" in examples["taste_summary"]
    assert "choices" not in examples["taste_summary"]
    write_evaluation(evaluation, tmp_path)
    # What was said and what is right lies beside the result, and nothing of it is lost.
    read = read_predictions(tmp_path / "predictions.parquet")
    for key, scores in evaluation.predictions.items():
        texts, again = scores.texts, read[key].texts
        assert (texts is None) == (again is None) == (key[1] not in TEXTS)
        if texts is not None and again is not None:
            for field in ("said_N", "right_N", "ground_N"):
                assert getattr(texts, field).tolist() == getattr(again, field).tolist()
            metric = METRICS[all_tasks()[key[1]].metric]
            assert metric(read[key]) == metric(scores) == rows[key[1]].value


def test_baselines_of_texts_are_cached(rich_store: TokenStore, tmp_path: Path) -> None:
    first, again = (run(rich_store, tmp_path).results.rows for _ in range(2))
    assert len(list(tmp_path.glob("baselines-*.json"))) == 1
    assert [row.baselines for row in first] == [row.baselines for row in again]


def test_predictions_of_an_older_file_have_no_texts(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions(path, {("c", "t"): dataclasses.replace(said([("a", "b")]), texts=None)})
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["said", "right", "ground"]), path)
    assert read_predictions(path)["c", "t"].texts is None


def test_other_right_texts_are_other_targets(
    rich_store: TokenStore, tasks: list[Task], trees: list[Tree]
) -> None:
    asked = collect(trees, tasks)["explanation"]
    other = [
        dataclasses.replace(
            asked[0], question=dataclasses.replace(asked[0].question, text=asked[1].question.text)
        ),
        *asked[1:],
    ]
    assert right_text(rich_store, asked[0].question) != right_text(rich_store, asked[1].question)
    assert targets_fingerprint(rich_store, asked) != targets_fingerprint(rich_store, other)


# Baselines


def test_baselines_say_what_was_said_in_training(
    rich_store: TokenStore, tasks: list[Task], trees: list[Tree]
) -> None:
    task = all_tasks()["explanation"]
    asked = collect(trees, tasks)["explanation"]
    train = [asked[0], asked[1], asked[0]]
    questions = Questions(train=train, validation=[], test=asked)
    common = BASELINES["common_text"](rich_store, 0).answer(task, questions).texts
    assert common is not None
    assert set(common.said_N) == {right_text(rich_store, asked[0].question)}
    baseline = BASELINES["item_text"](rich_store, 0)
    baseline.fit()
    texts = baseline.answer(task, questions).texts
    assert texts is not None
    store = rich_store
    reviews = store.event_phase_E == Phase.TRAIN
    alike = 0
    for one, text in zip(asked, texts.said_N, strict=True):
        item, action = store.event_item_E[one.subject], store.event_action_E[one.subject]
        rows = [
            row
            for row in np.flatnonzero(reviews & (store.event_item_E == item)).tolist()
            if len(store.piece(store.piece_of("sentence", row)))
        ]
        same = [row for row in rows if store.event_action_E[row] == action]
        chosen = (same or rows)[:1]
        alike += bool(same)
        expected = [
            store.encoder.decode(store.piece(store.piece_of("sentence", r))) for r in chosen
        ]
        assert text == (expected[0].strip() if expected else common.said_N[0])
        assert one.subject not in chosen
    assert alike > 3


def test_a_perfect_answer_is_worth_one(
    rich_store: TokenStore, tasks: list[Task], trees: list[Tree]
) -> None:
    for name in TEXTS:
        asked = collect(trees, tasks)[name]
        right = [right_text(rich_store, one.question) for one in asked]
        task = all_tasks()[name]
        assert METRICS[task.metric](answered_by_text(rich_store, task, asked, right)) == 1.0


# Training


def test_losses_of_texts_are_means_over_their_tokens_and_add_up_by_task(
    rich_store: TokenStore,
) -> None:
    names = dict.fromkeys(("like", *TEXTS), 1.0)
    mixture = Mixture([rich_store], MixtureConfig(tasks=names, targets_per_tree=6), seed=3)
    trees = [mixture[index] for index in range(4)]
    model = build_backbone(SHAPE, vocab_size=rich_store.card.vocab_size, seed=1)
    objective = LabelObjective(len(mixture.tasks))
    batch = pack(trees, len(mixture.tasks))
    output = objective(model, batch)
    tally = Tally(output.sums.numpy())
    expected = np.zeros(len(mixture.tasks))
    for tree in trees:
        for branch in tree.branches:
            ids = torch.tensor([[*tree.trunk.tolist(), *branch.tokens.tolist()]])
            with torch.no_grad():
                log_p = model(ids).logits[0].double().log_softmax(-1)[-len(branch.answer) :]
            answer = torch.from_numpy(branch.answer.astype(np.int64))
            expected[branch.task] -= float(log_p.gather(1, answer[:, None]).mean())
    by_name = {task.name: expected[n] for n, task in enumerate(mixture.tasks)}
    assert all(by_name[name] > 0 for name in TEXTS)
    np.testing.assert_allclose(tally.sums[0, : len(mixture.tasks)], expected, rtol=1e-4)
    assert output.loss.item() == pytest.approx(expected.sum(), rel=1e-4)
    mass = {t.name: tally.sums[ROWS.index("mass"), n] for n, t in enumerate(mixture.tasks)}
    assert mass["explanation"] == mass["taste_summary"] == 0.0 < mass["like"]
