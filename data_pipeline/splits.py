"""Which rows may be learned from and which are asked about: by global time, by user, or leave-last.

A split by time is cut at two moments: given ones, those that the corpus's source published, or
quantiles (`boundaries`).

Events come first; searches and tags then fall to the side of the same cut on which their time or
user lies, and judged queries are divided as published, or by their ids.

Shape letters: E events (by user, then time), U users, U1 = U + 1 offsets, Q queries, J judgements,
R rows of searches or tags.
"""

import hashlib
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from enum import IntEnum
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ConfigDict
from pydantic import Field as Bounds
from pydantic.dataclasses import dataclass as validated_dataclass

from data_pipeline.boundaries import Moment, cut_moments
from data_pipeline.corpus import Corpus
from data_pipeline.corpus_checks import codes_of, milliseconds
from data_pipeline.corpus_schema import PUBLISHED_SPLITS
from data_pipeline.errors import DataError
from data_pipeline.files import fingerprint

MS_PER_DAY = 86_400_000
_MONTH_DAYS = 30.0
_ENOUGH_DAYS = 730
_LAST_MS = np.iinfo(np.int64).max


class Phase(IntEnum):
    """What an event is for."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    GAP = 3
    """Left out of everything asked; it may still stand in a later history."""


@validated_dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class SplitConfig:
    """How events are divided into training, validation and test."""

    method: Literal["auto", "global_time", "leave_last", "by_user", "published"] = "auto"
    """`global_time`: one moment for all users, the only split without a look into the future.
    `published`: `global_time` at the moments that the corpus's card names as its publisher's.
    `leave_last`: each user's last event is TEST and the one before VALIDATION, as many papers do;
    other users' later events are then trained on.
    `by_user`: all of a user's events are in one phase, by a hash of the user's id.
    `auto`: `global_time` where events have times, else `by_user`."""

    validation_share: Annotated[float, Bounds(ge=0, lt=1)] = 0.1
    """Share of events (`global_time`, before the gap is taken out), of users (`by_user`) and of
    judged queries in VALIDATION."""

    test_share: Annotated[float, Bounds(ge=0, lt=1)] = 0.1
    """Share of events (`global_time`), of users (`by_user`) and of judged queries in TEST."""

    gap_days: Annotated[float, Bounds(ge=0, allow_inf_nan=False)] | Literal["auto"] = "auto"
    """Days before each boundary whose events are neither learned from nor asked about
    (`global_time` only): labels that arrive late cannot leak. `auto` is one month (30 days) where
    events span two years or more and VALIDATION two months or more, else none; none with
    `published`, whose results are compared with others'."""

    train_end: Moment | None = None
    """Moment at which VALIDATION begins, instead of `validation_share` (`global_time` only):
    milliseconds since 1970, or a text such as 2021-08-11 or 2021-08-11T00:56:54Z, in UTC."""

    validation_end: Moment | None = None
    """Moment at which TEST begins, instead of `test_share`; alone, `validation_share` of all events
    before it are VALIDATION."""

    @property
    def has_moments(self) -> bool:
        """Whether a boundary is given."""
        return self.train_end is not None or self.validation_end is not None

    def __post_init__(self) -> None:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share {self.validation_share} + test_share {self.test_share} leave "
                "nothing to train on: their sum must stay below 1"
            )
        if self.method in ("leave_last", "by_user") and self.gap_days not in (0, "auto"):
            raise ValueError(
                f"gap_days={self.gap_days} has no meaning with method={self.method}: "
                "set gap_days=0 or method=global_time"
            )
        if self.method not in ("auto", "global_time") and self.has_moments:
            raise ValueError(
                f"train_end and validation_end have no meaning with method={self.method}: "
                "leave them out or set method=global_time"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The phase of every event, and where it came from."""

    phase_E: npt.NDArray[np.int8]
    """`Phase` of each event, in the corpus's event order."""

    card: dict[str, Any] = dataclass_field(repr=False)
    """method, validation_share, test_share, gap_days; `train_end` and `validation_end` in ms since
    1970 (None where there is no such moment): TRAIN is strictly before the first, TEST at or after
    the second; `counts` per phase name."""

    hash: str
    """Of the method, its thresholds and all phases: equal hash, equal split."""

    searches: npt.NDArray[np.int8] | None = None
    """`Phase` of each search; None where the corpus has none."""

    tags: npt.NDArray[np.int8] | None = None
    """`Phase` of each row of the tags table."""

    queries: npt.NDArray[np.int8] | None = None
    """`Phase` of each query's judgements."""


def split_corpus(corpus: Corpus, config: SplitConfig) -> Split:
    """Give every event, search, tag and judged query of a corpus its phase.

    Raises:
        DataError: the method needs times and there are none, its moments do not divide the events,
            none are published, or a phase that was asked for would have no event.
    """
    config = _with_published(corpus, config)
    users = corpus.column("users", "user_id")
    offsets_U1, time_E, has_times = corpus.user_offsets_U1, corpus.time_E, corpus.card.has_times
    split = split_events(offsets_U1, time_E, config, user_ids=users, has_times=has_times)
    found: dict[str, npt.NDArray[np.int8]] = {}
    for name in ("searches", "tags"):
        if name in corpus.schemas:
            user_R = codes_of(corpus.column(name, "user_id"), users)
            time_R = milliseconds(corpus.column(name, "timestamp"))
            found[name] = split_rows(corpus, split, user_R, time_R)
    if "queries" in corpus.schemas:
        queries = corpus.column("queries", "query_id")
        query_J, published = np.empty(0, np.int32), pa.chunked_array([], pa.string())
        if "judgements" in corpus.schemas:
            query_J = codes_of(corpus.column("judgements", "query_id"), queries)
            published = corpus.column("judgements", "split")
        found["queries"] = split_queries(queries, query_J, published, config)
    if not found:
        return split
    hashes = {name: hashlib.sha256(phase.tobytes()).hexdigest() for name, phase in found.items()}
    return Split(
        phase_E=split.phase_E, card=split.card, hash=fingerprint([split.hash, hashes]), **found
    )


def split_events(
    user_offsets_U1: npt.NDArray[np.int64],
    time_E: npt.NDArray[np.int64],
    config: SplitConfig,
    *,
    user_ids: pa.ChunkedArray | None = None,
    has_times: bool = True,
) -> Split:
    """Give every event its phase.

    Args:
        user_offsets_U1: user u's events are rows offsets[u] to offsets[u + 1].
        time_E: ms since 1970, ascending within a user.
        config: the method and its shares.
        user_ids: of all users; needed by method `by_user`.
        has_times: whether `time_E` says anything.

    Raises:
        DataError: the method needs times and there are none, its moments do not divide the events,
            or a phase that was asked for would be empty, unless there are no events at all.
    """
    assert config.method != "published", "`split_corpus` knows what was published"
    assert user_offsets_U1[0] == 0, "user offsets start at 0"
    assert user_offsets_U1[-1] == len(time_E), "user offsets end at the number of events"
    method = _method(config, has_times)
    train_end: int | None = None
    validation_end: int | None = None
    gap_days = 0.0
    if method == "global_time":
        train_end, validation_end = cut_moments(
            time_E,
            train_end=config.train_end,
            validation_end=config.validation_end,
            validation_share=config.validation_share,
            test_share=config.test_share,
        )
        gap_days = _gap_days(time_E, train_end, validation_end, config)
        phase_E = _phases_by_time(time_E, train_end, validation_end, gap_days)
    elif method == "by_user":
        assert user_ids is not None, "a split by user needs the users' ids"
        phase_U = phases_by_id(user_ids, config.validation_share, config.test_share)
        phase_E = np.repeat(phase_U, np.diff(user_offsets_U1))
    else:
        phase_E = _leave_last(user_offsets_U1)
    counts = {phase.name.lower(): int((phase_E == phase).sum()) for phase in Phase}
    if len(phase_E):
        _refuse_empty(counts, method, config)
    card: dict[str, Any] = {
        "method": method,
        "validation_share": config.validation_share,
        "test_share": config.test_share,
        "gap_days": gap_days,
        "train_end": train_end,
        "validation_end": validation_end,
        "counts": counts,
    }
    phases = hashlib.sha256(phase_E.tobytes()).hexdigest()
    return Split(phase_E=phase_E, card=card, hash=fingerprint({**card, "phases": phases}))


def split_rows(
    corpus: Corpus,
    split: Split,
    user_R: npt.NDArray[np.int32],
    time_R: npt.NDArray[np.int64],
) -> npt.NDArray[np.int8]:
    """Give rows beside the events their phase: on the side of the cut where their time lies.

    By user it is their user's phase; with leave-last, the phase of what the user did last up to
    then. What has neither time nor user was always known, so it is TRAIN.

    Args:
        corpus: whose events were split.
        split: of its events.
        user_R: row of each row's user, or -1.
        time_R: ms since 1970, or `UNKNOWN_TIME`.
    """
    card = split.card
    if card["method"] == "global_time":
        return _phases_by_time(time_R, card["train_end"], card["validation_end"], card["gap_days"])
    # Behind the last user stands one who is never held out, for rows of nobody.
    if card["method"] == "by_user":
        users = corpus.column("users", "user_id")
        phase_U = phases_by_id(users, card["validation_share"], card["test_share"])
        return np.append(phase_U, np.int8(Phase.TRAIN))[user_R]
    phase_R = np.full(len(user_R), Phase.TRAIN, np.int8)
    for phase in (Phase.VALIDATION, Phase.TEST):
        since_U = np.full(len(corpus.users) + 1, _LAST_MS)
        asked_E = split.phase_E == phase
        since_U[corpus.event_user_E[asked_E]] = corpus.time_E[asked_E]
        phase_R[time_R >= since_U[user_R]] = phase
    return phase_R


def split_queries(
    query_ids: pa.ChunkedArray,
    query_J: npt.NDArray[np.int32],
    published: pa.ChunkedArray,
    config: SplitConfig,
) -> npt.NDArray[np.int8]:
    """Give every query the phase of its judgements: as published, else by a hash of its id.

    A query that was published in several splits is in the last of them, so that nothing asked
    about is learned from. Where no VALIDATION was published, a share of the published TRAIN is it.

    Args:
        query_ids: of all queries.
        query_J: row of each judgement's query.
        published: "train", "validation", "test" or null, of each judgement.
        config: the shares.
    """
    by_hash_Q = phases_by_id(query_ids, config.validation_share, config.test_share)
    split_J = codes_of(published, pa.chunked_array([pa.array(PUBLISHED_SPLITS)]))
    published_Q = np.full(len(query_ids), -1, np.int64)
    np.maximum.at(published_Q, query_J, split_J)
    phases = np.array([Phase.TRAIN, Phase.VALIDATION, Phase.TEST], np.int8)
    phase_Q = np.where(published_Q >= 0, phases[published_Q], by_hash_Q)
    if not (published_Q == Phase.VALIDATION).any():
        share = config.validation_share / (1 - config.test_share)
        held_Q = phases_by_id(query_ids, share, 0.0) == Phase.VALIDATION
        phase_Q[held_Q & (published_Q == Phase.TRAIN)] = Phase.VALIDATION
    return phase_Q.astype(np.int8)


def phases_by_id(
    ids: pa.ChunkedArray, validation_share: float, test_share: float
) -> npt.NDArray[np.int8]:
    """A phase that depends on the id alone: more ids, or fewer, move none of the others."""
    phases = []
    for chunk in ids.chunks:
        digests = [hashlib.blake2b(i.encode(), digest_size=8).digest() for i in chunk.to_pylist()]
        place = np.frombuffer(b"".join(digests), "<u8") / 2.0**64
        phase = np.full(len(chunk), Phase.TRAIN, np.int8)
        phase[place < test_share + validation_share] = Phase.VALIDATION
        phase[place < test_share] = Phase.TEST
        phases.append(phase)
    return np.concatenate(phases) if phases else np.empty(0, np.int8)


def _with_published(corpus: Corpus, config: SplitConfig) -> SplitConfig:
    """The config with what was published in place of the method of that name."""
    if config.method != "published":
        return config
    published = corpus.card.published_split
    if published is None:
        raise DataError(
            f"{corpus.name} names no published moments to be split at",
            file=corpus.folder,
            remedy="give train_end and validation_end; where its source publishes them, fetch the "
            "corpus again",
        )
    return replace(
        config,
        method="global_time",
        train_end=published.train_end,
        validation_end=published.validation_end,
        gap_days=0.0 if config.gap_days == "auto" else config.gap_days,
    )


def _method(config: SplitConfig, has_times: bool) -> str:
    method = "global_time" if config.has_moments else config.method
    if method == "auto":
        return "global_time" if has_times else "by_user"
    if not has_times and method != "by_user":
        raise DataError(
            f"the corpus does not say when events happened, so method {method} has nothing "
            "to go by",
            remedy="use method by_user, or auto; or give the times",
        )
    return method


def _gap_days(
    time_E: npt.NDArray[np.int64],
    train_end: int | None,
    validation_end: int | None,
    config: SplitConfig,
) -> float:
    if config.gap_days != "auto":
        return config.gap_days
    if not len(time_E):
        return 0.0
    spans_enough = int(time_E.max() - time_E.min()) >= _ENOUGH_DAYS * MS_PER_DAY
    if train_end is not None and validation_end is not None:
        spans_enough &= validation_end - train_end >= 2 * _MONTH_DAYS * MS_PER_DAY
    return _MONTH_DAYS if spans_enough else 0.0


def _phases_by_time(
    time_E: npt.NDArray[np.int64],
    train_end: int | None,
    validation_end: int | None,
    gap_days: float,
) -> npt.NDArray[np.int8]:
    phase_E = np.full(len(time_E), Phase.TRAIN, dtype=np.int8)
    if train_end is not None:
        phase_E[time_E >= train_end] = Phase.VALIDATION
    if validation_end is not None:
        phase_E[time_E >= validation_end] = Phase.TEST
    gap_ms = round(gap_days * MS_PER_DAY)
    for boundary in {train_end, validation_end} - {None}:
        assert boundary is not None
        phase_E[(time_E >= boundary - gap_ms) & (time_E < boundary)] = Phase.GAP
    return phase_E


def _leave_last(user_offsets_U1: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    phase_E = np.full(int(user_offsets_U1[-1]), Phase.TRAIN, dtype=np.int8)
    last_U = user_offsets_U1[1:] - 1
    long_enough = np.diff(user_offsets_U1) >= 3
    phase_E[last_U[long_enough]] = Phase.TEST
    phase_E[last_U[long_enough] - 1] = Phase.VALIDATION
    return phase_E


def _refuse_empty(counts: dict[str, int], method: str, config: SplitConfig) -> None:
    by_share = method != "leave_last"
    wanted = {
        "train": True,
        "validation": not by_share or config.train_end is not None or config.validation_share > 0,
        "test": not by_share or config.validation_end is not None or config.test_share > 0,
    }
    remedy = (
        "are all timestamps equal? Then order is unknown. Otherwise: "
        "larger shares, a smaller gap_days, or method leave_last"
    )
    if config.has_moments:
        remedy = "moments farther from each other and from the ends of the data, or less gap_days"
    elif method == "by_user":
        remedy = "more users, or larger shares; a share of 0 asks for no such phase"
    for phase, is_wanted in wanted.items():
        if is_wanted and counts[phase] == 0:
            raise DataError(
                f"the {method} split leaves no event for {phase}, of {counts}", remedy=remedy
            )
