"""A curve whose points are runs: in order, in pairs, and only where they can be compared."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from tiny_run import MIXTURE, SHAPE, evaluate_tiny_run, make_tiny_run

from data_pipeline.mixture import Mixture
from data_pipeline.store import TokenStore
from train.evaluation.against import compare, read_recorded
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.curves.over import AXES, curve_over
from train.evaluation.results import Results, read_results, write_results

SIZES = {"small": (16, 0.3, 300), "middle": (24, 0.6, 2_000), "large": (32, 1.0, 40_000)}
"""Hidden size, fraction of the users, targets."""


@pytest.fixture(scope="module")
def runs(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs, the largest first."""
    base = tmp_path_factory.mktemp("over")
    made = []
    for name in ("large", "small", "middle"):
        size, fraction, targets = SIZES[name]
        shape = dataclasses.replace(SHAPE, hidden_size=size, intermediate_size=2 * size)
        mixture = dataclasses.replace(MIXTURE, user_fraction=fraction)
        run = make_tiny_run(base / name, tiny_store, shape=shape, mixture=mixture)
        made.append(evaluate_tiny_run(run, targets=targets))
    return made


def copies(runs: list[Path], folder: Path) -> list[Path]:
    return [copytree(run, folder / run.name) for run in runs]


def results_of(run: Path) -> Results:
    return read_results(run / "evaluation" / "results.json")


@pytest.mark.parametrize("over", AXES)
def test_runs_stand_in_the_order_of_what_they_differ_in(
    over: str, runs: list[Path], tiny_store: TokenStore, tmp_path: Path
) -> None:
    large, small, middle = runs
    found = curve_over(runs, over)
    path = tmp_path / "curve.json"
    write_results(found, path)
    assert read_results(path) == found
    assert found.curve is not None
    assert (found.curve.name, found.curve.same_targets) == (over, True)
    assert found.curve.left_out == {}
    ordered = [small, middle, large]
    expected = {
        "parameters": [results_of(run).parameters for run in ordered],
        "targets": [300, 2_000, 40_000],
        "tokens": [3_000, 20_000, 400_000],
        "users": [
            Mixture(
                [tiny_store], dataclasses.replace(MIXTURE, user_fraction=fraction), seed=0
            ).training_users["tiny"]
            for fraction in (0.3, 0.6, 1.0)
        ],
    }[over]
    for task in ("like", "rating"):
        rows = [row for row in found.rows if row.task == task]
        assert [row.x for row in rows] == expected
        own = [next(r for r in results_of(run).rows if r.task == task) for run in ordered]
        assert [(row.value, row.low, row.high) for row in rows] == [
            (row.value, row.low, row.high) for row in own
        ]
    names = list(found.curve.x_names.values())
    assert [name.rpartition(" ")[2] for name in names] == ["small", "middle", "large"]


def test_a_value_of_x_is_short_and_names_its_run(runs: list[Path]) -> None:
    card = curve_over(runs, "tokens").curve
    assert card is not None
    assert card.x_names == {"3000": "3.0k small", "20000": "20.0k middle", "400000": "400.0k large"}


def test_differences_are_those_of_a_comparison(runs: list[Path]) -> None:
    large, small, middle = (read_recorded(run) for run in runs)
    config = BootstrapConfig(resamples=100)
    to_first = {row.task: row.difference for row in compare(large, small, config).rows}
    to_previous = {row.task: row.difference for row in compare(large, middle, config).rows}
    rows = curve_over(runs, "parameters").rows
    assert all(row.difference_to_first is None for row in rows[::3])
    for row in rows[2::3]:
        assert row.difference_to_first == to_first[row.task]
        assert row.difference_to_previous == to_previous[row.task]
    assert any(row.difference_to_previous.value for row in rows if row.difference_to_previous)


def edited(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = run / "evaluation" / "results.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["corpora"][0].update(split_hash="x"), "different split_hash of tiny"),
        (lambda d: d["rows"][0].update(targets_hash="x"), "other targets of tiny/like"),
        (lambda d: d["corpora"][0].update(name="shop"), r"of the corpora tiny and .* of shop"),
        (lambda d: d.update(model_hash="x"), "other weights than"),
        (lambda d: d.update(model="small/checkpoint-9"), "no such checkpoint"),
        (lambda d: d.update(predictions=None), "names no predictions"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    runs: list[Path],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    made = copies(runs, tmp_path)
    edited(made[1], change)
    with pytest.raises(ValueError, match=message):
        curve_over(made, "targets")


def test_what_has_no_x_is_said(runs: list[Path], tmp_path: Path) -> None:
    made = copies(runs, tmp_path)
    edited(made[0], lambda data: data.update(parameters=None))
    with pytest.raises(ValueError, match="does not say how many parameters"):
        curve_over(made, "parameters")
    (made[1] / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"no config\.yaml, which would say whom"):
        curve_over(made, "users")
    with pytest.raises(ValueError, match=r"have the same parameters \([\d,]+\)"):
        curve_over([runs[0], runs[0]], "parameters")
    with pytest.raises(ValueError, match="needs two runs or more"):
        curve_over(runs[:1], "parameters")
    with pytest.raises(ValueError, match="over 'token'; nearest: tokens"):
        curve_over(runs, "token")


def test_a_task_that_was_not_asked_of_every_run_is_left_out_and_said(
    runs: list[Path], tmp_path: Path
) -> None:
    made = copies(runs, tmp_path)
    edited(made[2], lambda data: data["rows"].pop(0))
    found = curve_over(made, "tokens")
    assert {row.task for row in found.rows} == {"rating"}
    assert found.curve is not None
    assert found.curve.left_out == {"tiny/like": "asked of 2 of 3 runs"}


def test_a_result_of_before_this_curve_is_still_read(runs: list[Path], tmp_path: Path) -> None:
    made = copies(runs, tmp_path)

    def older(data: dict[str, Any]) -> None:
        del data["parameters"]
        for row in data["rows"]:
            del row["difference_to_previous"]

    edited(made[0], older)
    assert results_of(made[0]).parameters is None
    assert len(curve_over(made, "tokens").rows) == 6
