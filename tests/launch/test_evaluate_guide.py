"""The guide to evaluation: its commands parse, and it leaves out no curve, axis or field."""

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from launch.cli import app
from launch.commands.evaluate import Over
from train.evaluation.bootstrap import BootstrapConfig
from train.evaluation.config import EvaluationConfig
from train.evaluation.curves import CURVES
from train.evaluation.curves.over import AXES
from train.evaluation.results import Results
from train.evaluation.tiers import TIERS

GUIDE = Path(__file__).resolve().parents[2] / "launch" / "guides" / "evaluate.md"
TEXT = GUIDE.read_text(encoding="utf-8")
LINES = re.findall(r"brewhouse eval ([^`\n]+)", TEXT)


@pytest.mark.parametrize("line", LINES)
def test_every_eval_command_parses(line: str) -> None:
    group: Any = get_command(app)
    command = group.get_command(None, "eval")
    context = command.make_context("eval", shlex.split(line))
    given = context.params
    assert given["run_dirs"]
    assert (given["over"] is None) == (len(given["run_dirs"]) == 1)
    assert set(given["curve"] or ()) <= set(CURVES)


def test_there_are_commands_of_every_kind() -> None:
    for option in ("--task", "--curve", "--against", "--over", "--phrasing", "--store", "--json"):
        assert any(option in line for line in LINES), option


def test_every_curve_has_one_line() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)[: len(CURVES)]) == sorted(
        CURVES
    )


def test_every_axis_tier_and_field_is_named() -> None:
    assert {one.value for one in Over} == set(AXES)
    names = [*AXES, *(entry.name for entry in fields(Results))]
    assert [name for name in names if f"`{name}" not in TEXT] == []
    assert [tier for tier in TIERS if f"**{tier}**" not in TEXT] == []


def test_its_numbers_are_the_defaults() -> None:
    config = EvaluationConfig()
    assert f"`--max-targets` ({config.max_targets})" in TEXT
    assert f"`--max-title-targets` ({config.max_title_targets})" in TEXT
    assert f"{BootstrapConfig().resamples:,} bootstrap resamples" in TEXT
    assert config.baseline_trials == 3
