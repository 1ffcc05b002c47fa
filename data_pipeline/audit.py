"""What is in a corpus, and whether results on it can be believed: a report for people and machines.

Shape letters: E events.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from data_pipeline import audit_checks as checks
from data_pipeline.audit_checks import AuditCheck, Level, percent
from data_pipeline.audit_tables import describe_tables, table_checks
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.splits import MS_PER_DAY, Split, SplitConfig, split_corpus

__all__ = ["AuditCheck", "AuditReport", "audit"]

_QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_MOST_VALUES = 20
_UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditReport:
    """Counts, distributions and checks of one corpus under one split."""

    corpus: str
    fingerprint: str
    licence: str
    counts: dict[str, int]
    first_event: str
    """ISO 8601, UTC; "unknown" in a corpus without times."""
    last_event: str
    days: float
    density: float
    """Share of the user-item pairs that have an event."""
    events_per_user: dict[str, float]
    """Quantiles over users with events, and the mean."""
    events_per_item: dict[str, float]
    """Quantiles over items with events, and the mean."""
    actions: dict[str, int]
    values: dict[str, int]
    """Events per value; in equal bins where there are many different ones."""
    tables: dict[str, dict[str, Any]]
    """What is in queries, judgements, searches, tags and links, where there are any."""
    split: dict[str, Any] | None
    """The split's card and hash; None when the corpus cannot be split so."""
    checks: tuple[AuditCheck, ...]

    @property
    def level(self) -> Level:
        """The worst of the checks."""
        levels: list[Level] = [check.level for check in self.checks]
        return "error" if "error" in levels else "warning" if "warning" in levels else "ok"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        return {**asdict(self), "checks": [asdict(c) for c in self.checks], "level": self.level}

    def to_markdown(self) -> str:
        """The report as a page to read."""
        return "\n".join(_markdown(self))


def audit(corpus: Corpus, split: SplitConfig | Split) -> AuditReport:
    """Measure a corpus and check what would make results on it worthless.

    Args:
        corpus: an opened corpus.
        split: how it is to be split, or a split already made. A corpus that cannot be split as
            asked is a finding of level `error`, not an exception.
    """
    has_events = len(corpus.event_user_E) > 0
    findings = [check(corpus) for check in _EVENT_CHECKS] if has_events else []
    findings += [
        checks.check_unused_items(corpus),
        checks.check_titles(corpus),
        checks.check_missing(corpus.items, _names(corpus.card.item_fields), "item_fields"),
    ]
    if len(corpus.users):
        fields = _names(corpus.card.user_fields)
        findings.append(checks.check_missing(corpus.users, fields, "user_fields"))
    result, finding = _split(corpus, split)
    findings.append(finding)
    if result is not None and has_events:
        findings.append(checks.check_leakage(corpus, result))
        findings.append(checks.check_empty_histories(corpus, result))
        findings.append(checks.check_cold(corpus, result))
    findings += table_checks(corpus, result)
    first, last, days = _span(corpus)
    pairs_E = corpus.event_user_E.astype(np.int64) * len(corpus.items) + corpus.event_item_E
    return AuditReport(
        corpus=corpus.name,
        fingerprint=corpus.fingerprint,
        licence=corpus.card.licence,
        counts=corpus.card.counts,
        first_event=first,
        last_event=last,
        days=days,
        density=len(np.unique(pairs_E)) / max(1, len(corpus.users) * len(corpus.items)),
        events_per_user=_quantiles(np.bincount(corpus.event_user_E)),
        events_per_item=_quantiles(np.bincount(corpus.event_item_E)),
        actions=_action_counts(corpus),
        values=_histogram(corpus),
        tables=describe_tables(corpus),
        split=None if result is None else {**result.card, "hash": result.hash},
        checks=tuple(findings),
    )


_EVENT_CHECKS: tuple[Callable[[Corpus], AuditCheck], ...] = (
    checks.check_time,
    checks.check_order,
    checks.check_duplicates,
    checks.check_dropped,
    checks.check_requests,
    checks.check_short_histories,
    checks.check_values,
    checks.check_event_fields,
)


def _span(corpus: Corpus) -> tuple[str, str, float]:
    """First and last moment of events, and the days between."""
    if not corpus.card.has_times:
        return _UNKNOWN, _UNKNOWN, 0.0
    first, last = int(corpus.time_E.min()), int(corpus.time_E.max())
    days = (last - first) / MS_PER_DAY
    return f"{np.datetime64(first, 'ms')}Z", f"{np.datetime64(last, 'ms')}Z", days


def _names(fields: Sequence[Any]) -> list[str]:
    return [field.name for field in fields]


def _split(corpus: Corpus, split: SplitConfig | Split) -> tuple[Split | None, AuditCheck]:
    try:
        if isinstance(split, SplitConfig):
            split = split_corpus(corpus, split)
    except DataError as error:
        return None, AuditCheck(
            name="split", level="error", message=f"{error.message}: {error.remedy}", measured={}
        )
    counts: dict[str, int] = split.card["counts"]
    total = max(1, len(split.phase_E))
    shares = ", ".join(f"{phase} {percent(n / total)}" for phase, n in counts.items())
    return split, AuditCheck(
        name="split", level="ok", message=f"{split.card['method']}: {shares}.", measured=counts
    )


def _quantiles(counts: npt.NDArray[np.int64]) -> dict[str, float]:
    counts = counts[counts > 0]
    if not len(counts):
        return {}
    found = {name: float(np.quantile(counts, share)) for name, share in _QUANTILES.items()}
    return {**found, "mean": float(counts.mean())}


def _action_counts(corpus: Corpus) -> dict[str, int]:
    counts = pc.value_counts(corpus.column("events", "action"))
    pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def _histogram(corpus: Corpus) -> dict[str, int]:
    values = corpus.column("events", "value").drop_null().to_numpy()
    if len(values) == 0:
        return {}
    if len(corpus.card.values) <= _MOST_VALUES:
        distinct, counts = np.unique(values, return_counts=True)
        return {f"{value:g}": int(n) for value, n in zip(distinct, counts, strict=True)}
    counts, edges = np.histogram(values.astype(np.float64), bins=10)
    names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return {name: int(n) for name, n in zip(names, counts, strict=True)}


def _markdown(report: AuditReport) -> list[str]:
    worst = {"ok": "nothing to mend", "warning": "read the warnings", "error": "mend the errors"}
    lines = [
        f"# Audit of {report.corpus}: {worst[report.level]}",
        "",
        f"fingerprint `{report.fingerprint}`; licence: {report.licence or 'not stated'}",
        "",
        *_table(("what", "count"), [(name, f"{n:,}") for name, n in report.counts.items()]),
        "",
        _span_line(report),
        "",
    ]
    if report.events_per_user:
        named = (("user", report.events_per_user), ("item", report.events_per_item))
        rows = [(name, *(f"{value:,.4g}" for value in found.values())) for name, found in named]
        lines += [*_table(("events per", *report.events_per_user), rows), ""]
    total = max(1, report.counts["events"])
    for title, counts in (("action", report.actions), ("value", report.values)):
        if counts:
            rows = [(name, f"{n:,}", percent(n / total)) for name, n in counts.items()]
            lines += [*_table((title, "events", "share"), rows), ""]
    for name, described in report.tables.items():
        rows = [(part, _shown(value)) for part, value in described.items()]
        lines += [*_table((name, "what there is"), rows), ""]
    lines += ["## Checks", ""]
    rows = [(check.level, check.name, check.message) for check in report.checks]
    rows.sort(key=lambda row: ("error", "warning", "ok").index(row[0]))
    lines += [*_table(("level", "check", "finding"), rows), ""]
    if report.split is not None:
        lines += [f"Split hash `{report.split['hash']}`.", ""]
    return lines


def _span_line(report: AuditReport) -> str:
    if report.first_event == _UNKNOWN:
        return "It is not known when events happened."
    return (
        f"From {report.first_event} to {report.last_event}, {report.days:,.1f} days; "
        f"{percent(report.density)} of all user-item pairs have an event."
    )


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count:,}" for name, count in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), line(["---"] * len(header)), *(line(row) for row in rows)]
