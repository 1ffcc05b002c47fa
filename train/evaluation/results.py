"""The result of an evaluation: typed, written as JSON, read back, and put into words.

`RUN/evaluation/results.json` is a contract with reports and other programs. Numbers that are
undefined (an interval of one user, a metric of one class) are null, never NaN.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.files import atomic_write
from train.evaluation.bootstrap import Interval

SCHEMA_VERSION = 1
DECODING = "likelihood, full catalog, history excluded"
"""Title tasks rank every known item by log p(title | prompt); nothing is sampled or generated."""

T = TypeVar("T")
Number = float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A value and its interval; null where undefined."""

    value: Number
    low: Number
    high: Number

    @classmethod
    def of(cls, interval: Interval) -> Range:
        """From a bootstrap interval."""
        return cls(
            value=number(interval.value), low=number(interval.low), high=number(interval.high)
        )

    @property
    def above_zero(self) -> bool:
        """Whether a difference is better beyond its interval."""
        return self.low is not None and self.low > 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The headline metric on a part of the targets."""

    name: str
    n: int
    users: int
    value: Number
    low: Number
    high: Number


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One task of one corpus.

    Differences are paired and oriented: positive = the model is better, also for metrics where
    less is better. `beats_*` is true when the whole interval of the difference is above zero.
    """

    corpus: str
    task: str
    code: str
    family: str
    tier: str
    kind: str
    n: int
    """targets scored"""
    users: int
    """users (items, for questions without a user) that the bootstrap resamples"""
    metric: str
    higher_is_better: bool
    value: Number
    low: Number
    high: Number
    baselines: dict[str, Number]
    """headline metric of each baseline, on the same targets"""
    trivial: str | None
    """name of the trivial baseline"""
    baseline: str | None
    """name of the best baseline"""
    baseline_value: Number
    untrained_value: Number
    difference_to_untrained: Range | None
    difference_to_trivial: Range | None
    difference_to_best: Range | None
    beats_untrained: bool | None
    beats_trivial: bool | None
    beats_best: bool | None
    label_mass: Number
    """mean probability that the model gives to the answers together; null for title tasks"""
    secondary: dict[str, Number]
    """further metrics of the model"""
    users_with_one_class: int
    """users that a per-user AUC cannot count"""
    slices: list[Slice] = field(default_factory=list)
    """by events known of the user"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusResult:
    """What was evaluated on."""

    name: str
    store_fingerprint: str
    corpus_fingerprint: str
    split_hash: str
    split: dict[str, Any]
    set_fingerprint: str
    """hash of all questions: equal fingerprint, same targets in the same order"""
    users_expected: int
    users_scored: int
    targets_expected: int
    targets_scored: int
    skipped: dict[str, str]
    """tasks without a row, and why"""
    baseline_settings: dict[str, dict[str, Number]]
    """what baselines chose on validation"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """An evaluation of one model."""

    schema_version: int
    model: str
    """run, checkpoint or export, by name"""
    model_hash: str
    """sha256 over the weight files"""
    untrained: str | None
    """what the untrained model is"""
    phase: str
    phrasing: str
    """`trained` instructions, or `held_out` ones that training never saw"""
    decoding: str
    split_hash: str
    """of the split of every corpus together"""
    seed: int
    mixture_seed: int
    bootstrap: dict[str, Any]
    max_targets: int
    max_title_targets: int
    world_size: int
    seconds: dict[str, float]
    targets_per_second: float
    corpora: list[CorpusResult]
    rows: list[Row]


def number(value: float | None) -> Number:
    """A finite float, or None: JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)


def to_json(results: Results) -> str:
    """Results as a JSON text."""
    return json.dumps(dataclasses.asdict(results), indent=1, allow_nan=False) + "\n"


def write_results(results: Results, path: Path) -> None:
    """Write the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, to_json(results))


def read_results(path: Path) -> Results:
    """Read a result file.

    Raises:
        ValueError: not a result file, of another schema version, or with missing or unknown keys.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as an evaluation result: {error}") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version {version}, this version reads {SCHEMA_VERSION}: run "
            "`brewhouse eval` again"
        )
    rows = [
        _build(
            Row,
            {
                **row,
                **{key: _range(row.get(key), path) for key in row if key.startswith("difference_")},
                "slices": [_build(Slice, part, path) for part in row.get("slices", [])],
            },
            path,
        )
        for row in data.get("rows", [])
    ]
    corpora = [_build(CorpusResult, corpus, path) for corpus in data.get("corpora", [])]
    return _build(Results, {**data, "rows": rows, "corpora": corpora}, path)


def _range(value: dict[str, Any] | None, path: Path) -> Range | None:
    return None if value is None else _build(Range, value, path)


def _build(kind: type[T], data: dict[str, Any], path: Path) -> T:
    names = {entry.name for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    missing, unknown = sorted(names - set(data)), sorted(set(data) - names)
    if missing or unknown:
        raise ValueError(
            f"{path} is not a result of this version: {kind.__name__} has missing keys {missing} "
            f"and unknown keys {unknown}; run `brewhouse eval` again"
        )
    return kind(**data)


# --- in words ------------------------------------------------------------------------------------

COLUMNS = ("task", "metric", "n", "users", "model", "95% interval", "untrained", "trivial", "best")


def render_table(results: Results) -> list[list[str]]:
    """Rows of text under `COLUMNS`, one per task, for a command line or a report."""
    return [
        [
            row.task if len(results.corpora) == 1 else f"{row.corpus}/{row.task}",
            row.metric + ("" if row.higher_is_better else " (less is better)"),
            str(row.n),
            str(row.users),
            _show(row.value),
            f"{_show(row.low)} to {_show(row.high)}",
            _beaten(row.untrained_value, row.beats_untrained),
            _beaten(row.baselines.get(row.trivial or ""), row.beats_trivial, row.trivial),
            _beaten(row.baseline_value, row.beats_best, row.baseline),
        ]
        for row in results.rows
    ]


def summary_lines(results: Results) -> list[str]:
    """Plain sentences: on how many tasks the model beats what, and the names of those it does not.

    "Beats" means that the whole interval of the paired difference is above zero.
    """
    lines = [
        _verdict(results.rows, "beats_untrained", "the untrained model"),
        _verdict(results.rows, "beats_trivial", "the trivial baseline"),
        _verdict(results.rows, "beats_best", "the best baseline"),
    ]
    users = sum(corpus.users_scored for corpus in results.corpora)
    targets = sum(corpus.targets_scored for corpus in results.corpora)
    lines.append(
        f"Scored {targets:,} {results.phase} targets of {users:,} users, all that were expected, "
        f"at {results.targets_per_second:.0f} targets/s ({results.phrasing} phrasing)."
    )
    for corpus in results.corpora:
        lines += [f"Not evaluated on {corpus.name}: {t}: {w}" for t, w in corpus.skipped.items()]
    return lines


def _verdict(rows: Sequence[Row], key: str, opponent: str) -> str:
    judged = [row for row in rows if getattr(row, key) is not None]
    if not judged:
        return f"Not compared with {opponent}."
    lost = [
        f"{row.task} ({row.metric} {_show(row.value)})" for row in judged if not getattr(row, key)
    ]
    won = len(judged) - len(lost)
    line = f"Beats {opponent} beyond the interval on {won} of {len(judged)} tasks"
    return f"{line}; not on: {', '.join(lost)}." if lost else f"{line}."


def _show(value: Number) -> str:
    return "-" if value is None else f"{value:.4f}"


def _beaten(value: Number, beaten: bool | None, name: str | None = None) -> str:
    if value is None:
        return "-"
    mark = "" if beaten is None else (" beaten" if beaten else " not beaten")
    return f"{_show(value)}{f' {name}' if name else ''}{mark}"
