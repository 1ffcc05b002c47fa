"""Two evaluations compared: the same numbers as from memory, and other targets refused."""

import dataclasses
import json
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
from modeling.shape import ModelShape
from train.distributed import DistributedContext
from train.evaluation.against import compare, read_recorded, write_comparison
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.metrics import find_metric
from train.evaluation.prediction_file import read_predictions
from train.evaluation.protocol import Contestant, Evaluation, evaluate
from train.evaluation.rows import paired_difference
from train.evaluation.run import write_evaluation

SHAPE = ModelShape(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)
BOOTSTRAP = BootstrapConfig(resamples=100)
CONFIG = EvaluationConfig(
    max_targets=30,
    max_title_targets=4,
    calibration_targets=0,
    with_baselines=False,
    with_untrained=False,
    max_tokens=2000,
    bootstrap=BOOTSTRAP,
)
TASKS = ("like", "rating", "pairwise", "next_item_title", "next_genre", "favourite_choice")


def run(store: TokenStore, seed: int, *, history: int = 6, **changes: Any) -> Evaluation:
    def load() -> torch.nn.Module:
        return build_backbone(SHAPE, vocab_size=store.card.vocab_size, seed=seed).eval()

    return evaluate(
        Contestant(name=f"seed {seed}", load=load, weights_hash=str(seed)),
        None,
        [store],
        [all_tasks()[name] for name in TASKS],
        MixtureConfig(targets_per_tree=8, history_events=history),
        DistributedContext(),
        dataclasses.replace(CONFIG, **changes),
    )


@pytest.fixture(scope="module")
def evaluations(tiny_store: TokenStore) -> list[Evaluation]:
    """Two models, of which the second has another history in its prompts and another phrasing."""
    return [run(tiny_store, 1), run(tiny_store, 2, history=3, phrasing="held_out")]


@pytest.fixture
def files(evaluations: list[Evaluation], tmp_path: Path) -> list[Path]:
    return [
        write_evaluation(one, tmp_path / name)
        for one, name in zip(evaluations, ("a", "b"), strict=True)
    ]


def test_predictions_survive_writing_and_reading(
    evaluations: list[Evaluation], files: list[Path]
) -> None:
    again = read_predictions(files[0].parent / "predictions.parquet")
    assert list(again) == [("tiny", name) for name in TASKS]
    for key, scores in evaluations[0].predictions.items():
        for field in dataclasses.fields(scores):
            one, two = (getattr(part, field.name) for part in (scores, again[key]))
            if one is None:
                assert two is None, (key, field.name)
                continue
            assert one.shape == two.shape, (key, field.name)
            np.testing.assert_array_equal(one, two)
    # The rows of the result follow from the file alone.
    for row in evaluations[0].results.rows:
        assert find_metric(row.metric)(again["tiny", row.task]) == row.value


def test_a_comparison_is_that_of_the_answers_in_memory(
    evaluations: list[Evaluation], files: list[Path]
) -> None:
    ours, theirs = (read_recorded(file) for file in files)
    found = compare(ours, theirs, BOOTSTRAP)
    assert [row.task for row in found.rows] == list(TASKS)
    assert (found.phrasing, found.other_phrasing) == ("trained", "held_out")
    for row in found.rows:
        one, two = (e.predictions["tiny", row.task] for e in evaluations)
        assert one.same_targets(two)
        expected = paired_difference(all_tasks()[row.task], one, two, BOOTSTRAP)
        assert row.difference == expected
        sign = 1 if row.higher_is_better else -1
        assert row.value is not None
        assert row.other_value is not None
        assert row.difference.value == pytest.approx(sign * (row.value - row.other_value))
        if row.verdict == "better":
            assert expected.low is not None
            assert expected.low > 0
    back = compare(theirs, ours, BOOTSTRAP)
    for row, turned in zip(found.rows, back.rows, strict=True):
        assert turned.difference.value == pytest.approx(-(row.difference.value or 0.0))
    written = write_comparison(found, files[0].parent, "b")
    assert written.name == "against-b.json"
    assert json.loads(written.read_text())["rows"][0]["task"] == "like"


def test_an_evaluation_against_itself_finds_nothing(files: list[Path]) -> None:
    ours = read_recorded(files[0])
    for row in compare(ours, ours, BOOTSTRAP).rows:
        assert (row.difference.value, row.difference.low, row.difference.high) == (0, 0, 0)
        assert row.verdict == "no difference"


def edited(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: data["corpora"][0].update(split_hash="other"),
            r"different split_hash of tiny, .* and other",
        ),
        (
            lambda data: data["corpora"][0].update(corpus_fingerprint="other"),
            "different corpus_fingerprint of tiny",
        ),
        (lambda data: data.update(phase="validation"), "phases test and validation"),
        (
            lambda data: data["rows"][0].update(targets_hash="other"),
            r"other targets of tiny/like \(n 30 and 30\).*--max-targets",
        ),
        (lambda data: data.update(rows=[]), "have no task in common"),
        (
            lambda data: data["rows"][0].update(metric="gauc"),
            r"different metrics of like \(auc, gauc\)",
        ),
    ],
)
def test_other_targets_are_refused(
    files: list[Path], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edited(files[1], change)
    ours, theirs = (read_recorded(file) for file in files)
    with pytest.raises(ValueError, match=message):
        compare(ours, theirs, BOOTSTRAP)


def test_another_number_of_targets_is_refused_by_their_hash(
    tiny_store: TokenStore, files: list[Path], tmp_path: Path
) -> None:
    fewer = write_evaluation(run(tiny_store, 2, max_targets=20), tmp_path / "fewer")
    with pytest.raises(ValueError, match=r"tiny/like \(n 30 and 20\)"):
        compare(read_recorded(files[0]), read_recorded(fewer), BOOTSTRAP)


def test_predictions_that_are_not_those_of_the_result_are_refused(files: list[Path]) -> None:
    beside = files[0].parent / "predictions.parquet"
    beside.write_bytes((files[1].parent / "predictions-held_out.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"is not the file that results\.json was written with"):
        read_recorded(files[0])
    edited(files[1], lambda data: data.update(predictions=None))
    with pytest.raises(ValueError, match="names no predictions"):
        read_recorded(files[1])
    with pytest.raises(ValueError, match="cannot be read as predictions"):
        read_predictions(files[1])


def test_tasks_of_one_side_are_named(files: list[Path]) -> None:
    edited(files[1], lambda data: data["rows"].pop(0))
    ours, theirs = (read_recorded(file) for file in files)
    found = compare(ours, theirs, BOOTSTRAP)
    assert found.only_here == ["tiny/like"]
    assert found.only_there == []
    assert len(found.rows) == len(TASKS) - 1
