"""An evaluation cannot lie silently: every clause, broken on purpose, stops it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.mixture import MixtureConfig
from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks
from modeling.backbone import build_backbone
from modeling.scoring import Score
from modeling.shape import ModelShape
from train.distributed import DistributedContext
from train.evaluation import predictions, protocol
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.honesty import CLAUSES, DishonestResultError, check_results
from train.evaluation.protocol import Contestant, Evaluation, evaluate
from train.evaluation.results import Range, Results, Row
from train.evaluation.run import write_evaluation
from train.evaluation.scores import TargetScores

SHAPE = ModelShape(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)
CONFIG = EvaluationConfig(
    max_targets=20,
    max_title_targets=4,
    calibration_targets=0,
    with_baselines=False,
    max_tokens=1000,
    bootstrap=BootstrapConfig(resamples=50),
)
TASKS = ("like", "will_watch", "next_item_title")


def run(store: TokenStore) -> Evaluation:
    def load() -> torch.nn.Module:
        return build_backbone(SHAPE, vocab_size=store.card.vocab_size, seed=1).eval()

    return evaluate(
        Contestant(name="seed 1", load=load, weights_hash="1"),
        None,
        [store],
        [all_tasks()[name] for name in TASKS],
        MixtureConfig(targets_per_tree=8, history_events=6),
        DistributedContext(),
        CONFIG,
    )


@pytest.fixture(scope="module")
def honest(tiny_store: TokenStore) -> Results:
    return run(tiny_store).results


def with_row(results: Results, name: str, **changes: Any) -> Results:
    rows = [dataclasses.replace(r, **changes) if r.task == name else r for r in results.rows]
    return dataclasses.replace(results, rows=rows)


def with_corpus(results: Results, **changes: Any) -> Results:
    corpora = [dataclasses.replace(corpus, **changes) for corpus in results.corpora]
    return dataclasses.replace(results, corpora=corpora)


def without(setting: str) -> Callable[[Results], Results]:
    def change(results: Results) -> Results:
        left = {key: value for key, value in results.decoding.items() if key != setting}
        return dataclasses.replace(results, decoding=left)

    return change


def like(results: Results) -> Row:
    return next(row for row in results.rows if row.task == "like")


BREACHES: list[tuple[str, Callable[[Results], Results], str]] = [
    (
        "everyone_expected_was_scored",
        lambda r: with_corpus(r, users_scored=r.corpora[0].users_scored - 1),
        r"tiny: \d+ users were expected, \d+ were scored",
    ),
    (
        "everyone_expected_was_scored",
        lambda r: with_corpus(r, targets_scored=0),
        "targets were expected, 0 were scored",
    ),
    (
        "rankings_are_of_the_full_catalog",
        lambda r: with_row(r, "next_item_title", ranked_items=20.0),
        "next_item_title ranked 20 items and excluded",
    ),
    (
        "rankings_are_of_the_full_catalog",
        lambda r: with_row(r, "next_item_title", ranked_items=None),
        "does not say how many items it ranked",
    ),
    ("decoding_is_stated", without("candidates"), r"\['candidates'\] are missing"),
    ("decoding_is_stated", without("collisions"), r"\['collisions'\] are missing"),
    ("decoding_is_stated", without("texts"), r"\['texts'\] are missing"),
    ("decoding_is_stated", without("sampling"), r"\['sampling'\] are missing"),
    (
        "seeds_are_stated",
        lambda r: dataclasses.replace(r, seed=None),  # type: ignore[arg-type]
        r"\['seed'\] are missing",
    ),
    (
        "seeds_are_stated",
        lambda r: dataclasses.replace(r, bootstrap={"resamples": 50}),
        r"\['bootstrap.seed'\] are missing",
    ),
    ("the_split_is_stated", lambda r: dataclasses.replace(r, split_hash=""), "split_hash is empty"),
    ("the_split_is_stated", lambda r: with_corpus(r, split_hash=""), "tiny has no split hash"),
    (
        "invalid_answers_are_counted",
        lambda r: with_row(r, "next_item_title", invalid_rate=None),
        "next_item_title has invalid_rate None",
    ),
    (
        "every_value_has_an_interval",
        lambda r: with_row(r, "like", low=None),
        "like has a row without an interval",
    ),
    (
        "every_value_has_an_interval",
        lambda r: with_row(
            r, "like", slices=[dataclasses.replace(like(r).slices[0], value=0.5, high=None)]
        ),
        "like has a slice without an interval",
    ),
    (
        "every_value_has_an_interval",
        lambda r: with_row(r, "like", difference_to_best=Range(value=0.1, low=None, high=0.2)),
        "like has a range without an interval",
    ),
    (
        "sampled_metrics_say_so",
        lambda r: with_row(r, "will_watch", metric="auc"),
        r"candidates of will_watch are sampled, but not the names \['auc'\]",
    ),
    (
        "sampled_metrics_say_so",
        lambda r: with_row(r, "will_watch", secondary={"logloss": 0.1}),
        r"\['logloss'\]",
    ),
]


def test_an_honest_result_passes_and_says_everything(honest: Results) -> None:
    check_results(honest)
    title = next(row for row in honest.rows if row.kind == "title")
    assert title.ranked_items is not None
    assert title.excluded_items is not None
    assert title.ranked_items + title.excluded_items == honest.corpora[0].catalog_items
    assert title.invalid_rate == 0.0
    assert next(row for row in honest.rows if row.task == "will_watch").sampled
    assert not title.sampled


@pytest.mark.parametrize(
    ("clause", "change", "message"), BREACHES, ids=[f"{b[0]}-{i}" for i, b in enumerate(BREACHES)]
)
def test_a_result_that_hides_something_is_not_written(
    honest: Results,
    tmp_path: Path,
    clause: str,
    change: Callable[[Results], Results],
    message: str,
) -> None:
    broken = change(honest)
    with pytest.raises(DishonestResultError, match=message) as caught:
        write_evaluation(
            Evaluation(results=broken, examples=[], predictions={}), tmp_path / "evaluation"
        )
    assert f"{clause}: " in str(caught.value)
    assert not (tmp_path / "evaluation").exists()


def test_every_clause_is_broken_by_a_test() -> None:
    assert {clause.__name__ for clause in CLAUSES} == {name for name, _, _ in BREACHES}


def losing_a_user(scores: dict[str, TargetScores]) -> dict[str, TargetScores]:
    lost = scores["like"].groups_N[0]
    return {name: part.take(part.groups_N != lost) for name, part in scores.items()}


def ranking_a_part(scores: dict[str, TargetScores]) -> dict[str, TargetScores]:
    title = scores["next_item_title"]
    few = dataclasses.replace(title, ranked_N=np.minimum(title.ranked_N, 20))
    return {**scores, "next_item_title": few}


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (losing_a_user, r"users with \d+ targets were expected, \d+ with \d+ were scored"),
        (ranking_a_part, "'next_item_title' was ranked among 20 items instead of all"),
    ],
)
def test_answers_that_are_not_all_of_the_answers_stop_the_evaluation(
    tiny_store: TokenStore,
    monkeypatch: pytest.MonkeyPatch,
    tamper: Callable[[dict[str, TargetScores]], dict[str, TargetScores]],
    message: str,
) -> None:
    real = protocol.predict
    monkeypatch.setattr(protocol, "predict", lambda *a, **k: tamper(real(*a, **k)))
    with pytest.raises(RuntimeError, match=message):
        run(tiny_store)


def test_a_catalog_cut_short_inside_the_scorer_is_noticed(
    tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if somebody ranked a sample of the items to save time."""
    real = predictions.seen_items

    def more_than_seen(store: TokenStore, one: Any) -> np.ndarray:
        return np.union1d(real(store, one), np.arange(0, store.n_items, 3))

    monkeypatch.setattr(predictions, "seen_items", more_than_seen)
    with pytest.raises(RuntimeError, match="a ranking of a part of the catalog is no result"):
        run(tiny_store)


@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), ValueError("bad batch")])
def test_a_failed_batch_is_an_error_and_no_smaller_result(
    tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    real, calls = predictions.Scorer.score, []

    def sometimes(*args: Any) -> list[list[Score]]:
        calls.append(1)
        if len(calls) == 3:
            raise failure
        return real(*args)

    monkeypatch.setattr(predictions.Scorer, "score", sometimes)
    with pytest.raises(type(failure), match=str(failure)):
        run(tiny_store)
    assert len(calls) == 3  # and nothing goes on behind it
