"""What is in a corpus's queries, judgements, searches, tags and links, and what is odd about it.

Shape letters: J judgements, Q queries, R rows of searches or tags.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.audit_checks import AuditCheck, Level, percent
from data_pipeline.corpus import Corpus
from data_pipeline.corpus_checks import codes_of, milliseconds
from data_pipeline.corpus_schema import OPTIONAL_TABLES, UNKNOWN_TIME
from data_pipeline.splits import Phase, Split

_MOST_COUNTED = 20
_FEW_QUERIES = 20


def describe_tables(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Rows, distinct values, counts and time span of each optional table that there is."""
    return {name: _described(corpus, name) for name in OPTIONAL_TABLES if name in corpus.schemas}


def _described(corpus: Corpus, name: str) -> dict[str, Any]:
    """Numbers of distinct ids; how many rows each label or grade has, where they are few."""
    found: dict[str, Any] = {"rows": corpus.card.counts[name]}
    for field in corpus.schemas[name]:
        column = corpus.column(name, field.name)
        if pa.types.is_timestamp(field.type):
            if column.null_count < len(column):
                span = pc.min_max(column.drop_null())
                found["first"], found["last"] = (
                    f"{np.datetime64(span[end].value, 'ms')}Z" for end in ("min", "max")
                )
                found["with_time"] = len(column) - column.null_count
            continue
        distinct = pc.count_distinct(column).as_py()
        if distinct == 0:
            continue
        is_few = distinct <= _MOST_COUNTED and not field.name.endswith("_id")
        found[field.name] = _counts(column) if is_few else distinct
    return found


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counts = pc.value_counts(column.drop_null())
    names, sizes = counts.field("values").to_pylist(), counts.field("counts").to_pylist()
    shown = [name if isinstance(name, str) else f"{name:g}" for name in names]
    pairs = zip(shown, sizes, strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def table_checks(corpus: Corpus, split: Split | None) -> list[AuditCheck]:
    """Every check of the optional tables that there are."""
    found = []
    if "judgements" in corpus.schemas:
        found.append(check_judgements(corpus))
        if split is not None:
            found.append(check_judged_phases(corpus, split))
    for name in ("searches", "tags"):
        if split is not None and name in corpus.schemas:
            found.append(check_side_leakage(corpus, split, name))
    return found


def check_judgements(corpus: Corpus) -> AuditCheck:
    """Do judges agree, and do their grades say anything?"""
    query_J, item_J = _judged(corpus)
    grade_J = corpus.column("judgements", "grade").to_numpy()
    pair_J = query_J.astype(np.int64) * len(corpus.items) + item_J
    order = np.lexsort((grade_J, pair_J))
    new_pair = np.diff(pair_J[order]) != 0
    disputed = int((~new_pair & (np.diff(grade_J[order]) != 0)).sum())
    pairs = int(new_pair.sum()) + 1
    grades = len(np.unique(grade_J))
    measured = {"pairs": pairs, "pairs_with_several_grades": disputed, "grades": grades}
    message = f"{pairs:,} pairs of query and item have {grades:,} distinct grades."
    level: Level = "ok"
    if grades == 1:
        level = "warning"
        message += " All are the same: only which items were judged says something."
    if disputed:
        level = "warning"
        message += f" {disputed:,} times a pair has another grade as well: which one is right? "
        message += "Keep one, or their mean."
    return AuditCheck(name="judgements", level=level, message=message, measured=measured)


def check_judged_phases(corpus: Corpus, split: Split) -> AuditCheck:
    """Is everything judged of a query in one phase, under whatever id and published split?"""
    assert split.queries is not None, "what was judged are queries"
    query_J, _ = _judged(corpus)
    phase_Q = split.queries
    judged_Q = np.unique(query_J)
    counts = {
        phase.name.lower(): int((phase_Q[judged_Q] == phase).sum())
        for phase in (Phase.TRAIN, Phase.VALIDATION, Phase.TEST)
    }
    published = corpus.column("judgements", "split")
    several = 0
    if published.null_count < len(published):
        splits = pa.table({"query": pa.array(query_J), "split": published}).filter(
            pc.is_valid(published)
        )
        distinct = splits.group_by(["query", "split"]).aggregate([])
        several = len(distinct) - pc.count_distinct(distinct["query"]).as_py()
    twins = _texts_in_two_phases(corpus, judged_Q, phase_Q)
    measured = {
        **{f"queries_{name}": count for name, count in counts.items()},
        "queries_in_several_published_splits": several,
        "texts_in_two_phases": twins,
    }
    shown = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    message = f"Judged queries: {shown}."
    level: Level = "ok"
    if several:
        level = "warning"
        message += f" {several:,} were published in two splits; all their judgements are in the "
        message += "later one."
    if twins:
        level = "warning"
        message += f" {twins:,} texts stand under several ids that fall into different phases, so "
        message += "what is asked about was learned from: give one text one id."
    wanted = {
        "train": 1.0,
        "validation": split.card["validation_share"],
        "test": split.card["test_share"],
    }
    if any(counts[name] < _FEW_QUERIES for name, share in wanted.items() if share > 0):
        level = "warning"
        message += f" Fewer than {_FEW_QUERIES} queries in a phase: its numbers will be noise."
    return AuditCheck(name="judged_phases", level=level, message=message, measured=measured)


def _texts_in_two_phases(
    corpus: Corpus, judged_Q: npt.NDArray[np.int32], phase_Q: npt.NDArray[np.int8]
) -> int:
    """Texts, whatever their case, that judged queries of two phases share."""
    texts = pc.utf8_lower(corpus.column("queries", "text").take(pa.array(judged_Q)))
    table = pa.table({"text": texts, "phase": pa.array(phase_Q[judged_Q])})
    distinct = table.group_by(["text", "phase"]).aggregate([])
    return int(len(distinct) - pc.count_distinct(distinct["text"]).as_py())


def _judged(corpus: Corpus) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    queries = corpus.column("queries", "query_id")
    return (
        codes_of(corpus.column("judgements", "query_id"), queries),
        codes_of(corpus.column("judgements", "item_id"), corpus.items["item_id"]),
    )


def check_side_leakage(corpus: Corpus, split: Split, name: str) -> AuditCheck:
    """Is every search, or tag, that is learned from older than what is asked about?"""
    phase_R = {"searches": split.searches, "tags": split.tags}[name]
    assert phase_R is not None, f"{name} are split where there are any"
    time_R = milliseconds(corpus.column(name, "timestamp"))
    train_R = phase_R == Phase.TRAIN
    shares = ", ".join(
        f"{phase.name.lower()} {percent(float((phase_R == phase).mean()))}" for phase in Phase
    )
    measured: dict[str, float] = {"undated_share": float((time_R == UNKNOWN_TIME).mean())}
    wrong: float
    if split.card["method"] == "by_user":
        measured["rows_of_another_phase_than_their_user"] = wrong = _phases_of_others(
            corpus, split, name, phase_R
        )
        what = f"{wrong:,} {name} are not in the phase of their user"
    else:
        since = _first_asked(corpus, split)
        late = float((time_R[train_R] >= since).sum() / max(1, len(phase_R)))
        measured["train_rows_not_before_test"] = wrong = late
        what = f"{percent(late)} of {name} are learned from and not older than the first TEST event"
    level: Level = "ok"
    message = f"Phases of {name}: {shares}; none comes after its phase."
    if wrong and split.card["method"] == "leave_last":
        level, message = "warning", f"{what}: leave_last shows the future of other users."
    elif wrong:
        level, message = "error", f"{what}: the split is broken, do not evaluate on it."
    return AuditCheck(name=f"leakage_{name}", level=level, message=message, measured=measured)


def _first_asked(corpus: Corpus, split: Split) -> int:
    if split.card["train_end"] is not None:
        return int(split.card["train_end"])
    test_E = split.phase_E == Phase.TEST
    return int(corpus.time_E[test_E].min()) if test_E.any() else int(np.iinfo(np.int64).max)


def _phases_of_others(
    corpus: Corpus, split: Split, name: str, phase_R: npt.NDArray[np.int8]
) -> int:
    """Rows in another phase than the events of their user, where the user has any."""
    user_R = codes_of(corpus.column(name, "user_id"), corpus.users["user_id"])
    phase_U = np.full(len(corpus.users), -1, np.int8)
    phase_U[corpus.event_user_E] = split.phase_E
    known_R = user_R >= 0
    known_R[known_R] = phase_U[user_R[known_R]] >= 0
    return int((phase_R[known_R] != phase_U[user_R[known_R]]).sum())
