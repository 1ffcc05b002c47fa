"""`brewhouse eval RUN RUN --over X`: the table, the file, the report, and what is refused."""

import dataclasses
import json
from pathlib import Path

import pytest
from tiny_run import SHAPE, evaluate_tiny_run, make_tiny_run
from typer.testing import CliRunner

from data_pipeline.errors import DataError
from data_pipeline.store import TokenStore
from launch.cli import app
from launch.report import write_report
from train.evaluation.results import read_results


@pytest.fixture(scope="module")
def runs(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("over")
    made = []
    for name, size, targets in (("small", 16, 500), ("large", 32, 4_000)):
        shape = dataclasses.replace(SHAPE, hidden_size=size, intermediate_size=size)
        run = make_tiny_run(base / name, tiny_store, shape=shape)
        made.append(evaluate_tiny_run(run, targets=targets))
    return made


def over(runs: list[Path], *words: str) -> str:
    result = CliRunner().invoke(app, ["eval", *map(str, runs), "--over", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_table_a_file_and_a_picture(runs: list[Path]) -> None:
    text = over(runs, "targets")
    assert "x is targets trained on" in text
    file = runs[-1] / "evaluation" / "curve-targets.json"
    assert f"Written to {file}" in text
    rows = read_results(file).rows
    assert {row.x for row in rows} == {500.0, 4000.0}
    gain = rows[1].difference_to_previous
    assert gain is not None
    assert f"{gain.value:+.4f}" in text
    assert not (runs[0] / "evaluation" / "curve-targets.json").exists()
    write_report(runs[-1])
    markdown = (runs[-1] / "report.md").read_text(encoding="utf-8")
    assert "**targets**: targets trained on; the same targets at every point" in markdown
    assert "| targets trained on | 500 small | 4.0k large |" in markdown


def test_one_json_object(runs: list[Path]) -> None:
    (curve,) = json.loads(over(runs, "parameters", "--json"))["curves"]
    assert curve["curve"]["name"] == "parameters"
    assert len(curve["rows"]) == 4


def test_a_run_that_was_not_evaluated_is_told(runs: list[Path], tmp_path: Path) -> None:
    words = ["eval", str(runs[0]), str(tmp_path), "--over", "tokens"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, DataError)
    assert f"brewhouse eval {tmp_path}" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b"], "several runs are compared"),
        (["a", "b", "--over", "tokens", "--curve", "shots"], "--over reads results"),
        (["a", "b", "--over", "size"], "size"),
    ],
)
def test_wrong_usage_is_told(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["eval", *words])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
