"""The result of an evaluation: typed, written as JSON, read back, and put into words.

`RUN/evaluation/results.json`, and `curve-NAME.json` with a row per point, are a contract with
reports and other programs. Numbers that are undefined (a metric of one class) are null, never NaN.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from data_pipeline.files import atomic_write, sha256_file
from train.evaluation.bootstrap import Interval
from train.evaluation.config import MAX_NEW_TOKENS
from train.evaluation.honesty import check_results

SCHEMA_VERSION = 2
FEWEST_OF_AN_ANSWER = 10
"""Users drawn again give hardly another value when fewer targets have the rarer of two answers."""
FOLDER = "evaluation"
"""Where a run keeps its results."""
DECODING: dict[str, str | bool] = {
    "labels": "softmax over the label tokens at the answer cue",
    "titles": "log p(title | prompt) of every known item",
    "texts": f"greedy, to the end of the line or {MAX_NEW_TOKENS} tokens",
    "candidates": "full catalog",
    "history": "excluded",
    "ties": "expectation over all orders",
    "collisions": "items of one title tie",
    "sampling": False,
}
"""How a model answers. Nothing is sampled; what generates texts has no other setting."""

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
    """mean probability that the model gives to the answers; null where answers are texts"""
    secondary: dict[str, Number]
    """further metrics of the model"""
    users_with_one_class: int
    """users that a per-user AUC cannot count"""
    rarer_answer: int | None = None
    """of tasks with two answers: targets of the rarer one; with fewer than 10 nothing is
    said to be beaten"""
    slices: list[Slice] = field(default_factory=list)
    """by events known of the user"""
    level: str = "pooled"
    """`pooled` over targets, or `per_user`"""
    sampled: bool = False
    """whether candidates were drawn by a sampler, so that numbers depend on it"""
    temperature: Number = None
    """fitted on validation; `ece_calibrated` and `logloss_calibrated` are after it"""
    targets_hash: str = ""
    """of what was asked and what is right: equal for the same targets, whatever the prompt"""
    ranked_items: Number = None
    """title tasks: items ranked per target, on average"""
    excluded_items: Number = None
    """title tasks: items left out because the user had met them, on average"""
    unreachable: int = 0
    """title tasks: targets whose item could not be ranked; each counts as a miss"""
    invalid_rate: Number = None
    """title tasks: share of answers that name no item; 0 where only items are ranked"""
    x: Number = None
    """place on the curve"""
    reached: Number = None
    """share of the targets that have as much of what the curve varies as `x` says"""
    difference_to_first: Range | None = None
    """paired, to the curve's first point, where all points ask the same"""
    difference_to_previous: Range | None = None
    """the same, to the point before"""


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
    catalog_items: int = 0
    """items that may be recommended: those known at the end of training"""
    curve_slopes: dict[str, Range] = field(default_factory=dict)
    """metric per unit of x, by task; of curves over time"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """The file of all predictions, beside the result."""

    file: str
    sha256: str
    rows: int

    @classmethod
    def of(cls, path: Path, rows: int) -> Predictions:
        """Of a file that is there."""
        return cls(file=path.name, sha256=sha256_file(path), rows=rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveCard:
    """What the rows of a curve have on their x axis."""

    name: str
    x_label: str
    scale: Literal["linear", "log", "names"]
    same_targets: bool
    """whether every point asks the same, so that points are compared in pairs"""
    x_names: dict[str, str]
    """names of the values of x, where they have any"""
    left_out: dict[str, str]
    """values of x by name, or corpora, that were not measured, and why"""


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
    decoding: dict[str, str | bool]
    split_hash: str
    """of the split of every corpus together"""
    seed: int
    mixture_seed: int
    bootstrap: dict[str, Any]
    max_targets: int
    max_title_targets: int
    max_ranked_titles: int
    world_size: int
    seconds: dict[str, float]
    targets_per_second: float
    """of the model, all processes together"""
    corpora: list[CorpusResult]
    rows: list[Row]
    calibration_targets: int = 0
    """validation targets of each task that its temperature is fitted on, at most"""
    whole_impressions: bool = False
    """tasks that ask what was shown asked about whole requests"""
    mixture: dict[str, Any] = field(default_factory=dict)
    """how prompts were made"""
    provenance: dict[str, Any] = field(default_factory=dict)
    """commit and versions"""
    parameters: int | None = None
    """weights of the model, an adapter's included"""
    predictions: Predictions | None = None
    curve: CurveCard | None = None
    """set where the rows are points of a curve"""


def number(value: float | None) -> Number:
    """A finite float, or None: JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)


def to_json(results: Results) -> str:
    """Results as a JSON text."""
    return json.dumps(dataclasses.asdict(results), indent=1, allow_nan=False) + "\n"


def write_results(results: Results, path: Path) -> None:
    """Write the whole file or nothing.

    Raises:
        DishonestResultError: the result hides something that it has to say.
    """
    check_results(results)
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
    corpora = [
        _build(
            CorpusResult,
            {
                **corpus,
                "curve_slopes": {
                    task: _build(Range, slope, path)
                    for task, slope in corpus.get("curve_slopes", {}).items()
                },
            },
            path,
        )
        for corpus in data.get("corpora", [])
    ]
    optional = {
        name: None if data.get(name) is None else _build(kind, data[name], path)
        for name, kind in (("predictions", Predictions), ("curve", CurveCard))
        if name in data
    }
    return _build(Results, {**data, **optional, "rows": rows, "corpora": corpora}, path)


def _range(value: dict[str, Any] | None, path: Path) -> Range | None:
    return None if value is None else _build(Range, value, path)


def _build(kind: type[T], data: dict[str, Any], path: Path) -> T:
    entries = dataclasses.fields(kind)  # type: ignore[arg-type]
    # What has a default came later: files from before it are read all the same.
    required = {e.name for e in entries if e.default is e.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(data))
    unknown = sorted(set(data) - {entry.name for entry in entries})
    if missing or unknown:
        raise ValueError(
            f"{path} is not a result of this version: {kind.__name__} has missing keys {missing} "
            f"and unknown keys {unknown}; run `brewhouse eval` again"
        )
    return kind(**data)


# --- in words ------------------------------------------------------------------------------------


def unjudged(rarer_answer: int | None, users: int) -> str | None:
    """Why the targets of a task say too little for a verdict; None where they say enough."""
    if users < 2:
        return "of one user"
    if rarer_answer is not None and rarer_answer < FEWEST_OF_AN_ANSWER:
        return f"{rarer_answer} have the rarer answer"
    return None


def summary_lines(results: Results) -> list[str]:
    """Plain sentences: on how many tasks the model beats what, and the names of those it does not.

    "Beats" means that the whole interval of the paired difference is above zero.
    """
    lines = [
        _verdict(results.rows, "beats_untrained", "the untrained model"),
        _verdict(results.rows, "beats_trivial", "the trivial baseline"),
        _verdict(results.rows, "beats_best", "the best baseline"),
    ]
    too_few = [
        f"{row.corpus}/{row.task} ({row.n} targets, {reason})"
        for row in results.rows
        if (reason := unjudged(row.rarer_answer, row.users)) is not None
    ]
    if too_few:
        lines.append(f"No verdict on {', '.join(too_few)}.")
    users = sum(corpus.users_scored for corpus in results.corpora)
    targets = sum(corpus.targets_scored for corpus in results.corpora)
    lines.append(
        f"Scored {targets:,} {results.phase} targets of {users:,} users, all that were expected, "
        f"at {results.targets_per_second:.0f} targets/s ({results.phrasing} phrasing)."
    )
    stated = ", ".join(f"{key}: {value}" for key, value in results.decoding.items())
    lines.append(f"Decoding: {stated}.")
    for corpus in results.corpora:
        lines += _not_asked(corpus, results.phase)
    return lines


def nothing_to_ask(phase: str) -> str:
    """Why a task that applies to a corpus was not evaluated."""
    return f"no event of the {phase} phase can be asked about"


def _not_asked(corpus: CorpusResult, phase: str) -> list[str]:
    """Which tasks of the run's other corpora do not apply is no news, so these are only counted."""
    empty = [task for task, reason in corpus.skipped.items() if reason == nothing_to_ask(phase)]
    others = len(corpus.skipped) - len(empty)
    lines = []
    if empty:
        lines.append(
            f"Not evaluated on {corpus.name}, {nothing_to_ask(phase)}: {', '.join(empty)}."
        )
    if others:
        tasks = "task does" if others == 1 else "tasks do"
        lines.append(
            f"{others} more {tasks} not apply to {corpus.name}; results.json says why, and so does "
            "`brewhouse tasks list --store STORE`."
        )
    return lines


def _verdict(rows: Sequence[Row], key: str, opponent: str) -> str:
    judged = [row for row in rows if getattr(row, key) is not None]
    if not judged:
        return f"Not compared with {opponent}."
    lost: dict[str, list[str]] = {}
    for row in judged:
        if not getattr(row, key):
            lost.setdefault(row.corpus, []).append(row.task)
    won = len(judged) - sum(map(len, lost.values()))
    line = f"Beats {opponent} beyond the interval on {won} of {len(judged)} tasks"
    if not lost:
        return f"{line}."
    one_corpus = len({row.corpus for row in rows}) == 1
    named = (
        f"{'' if one_corpus else f'{corpus}: '}{', '.join(tasks)}" for corpus, tasks in lost.items()
    )
    return f"{line}; not on {'; '.join(named)}."
