"""Which events may be learned from and which are asked about: by global time, or leave-last.

Shape letters: E events (by user, then time), U users, U1 = U + 1 offsets.
"""

import hashlib
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from enum import IntEnum
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict
from pydantic import Field as Bounds
from pydantic.dataclasses import dataclass as validated_dataclass

from data_pipeline.errors import DataError
from data_pipeline.files import fingerprint

MS_PER_DAY = 86_400_000


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

    method: Literal["global_time", "leave_last"] = "global_time"
    """`global_time`: one moment for all users, the only split without a look into the future.
    `leave_last`: each user's last event is TEST and the one before VALIDATION, as many papers do;
    other users' later events are then trained on."""

    validation_share: Annotated[float, Bounds(ge=0, lt=1)] = 0.1
    """Share of events in VALIDATION (`global_time` only), before the gap is taken out."""

    test_share: Annotated[float, Bounds(ge=0, lt=1)] = 0.1
    """Share of events in TEST (`global_time` only)."""

    gap_days: Annotated[float, Bounds(ge=0, allow_inf_nan=False)] = 0.0
    """Days before each boundary whose events are neither learned from nor asked about
    (`global_time` only): labels that arrive late cannot leak."""

    def __post_init__(self) -> None:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share {self.validation_share} + test_share {self.test_share} leave "
                "nothing to train on: their sum must stay below 1"
            )
        if self.method == "leave_last" and self.gap_days > 0:
            raise ValueError(
                f"gap_days={self.gap_days} has no meaning with method=leave_last: "
                "set gap_days=0 or method=global_time"
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


def split_events(
    user_offsets_U1: npt.NDArray[np.int64],
    time_E: npt.NDArray[np.int64],
    config: SplitConfig,
) -> Split:
    """Give every event its phase.

    Args:
        user_offsets_U1: user u's events are rows offsets[u] to offsets[u + 1].
        time_E: ms since 1970, ascending within a user.
        config: the method and its shares.

    Raises:
        DataError: a phase that was asked for would be empty.
    """
    assert user_offsets_U1[0] == 0, "user offsets start at 0"
    assert user_offsets_U1[-1] == len(time_E), "user offsets end at the number of events"
    train_end: int | None = None
    validation_end: int | None = None
    if config.method == "global_time":
        train_end, validation_end = _thresholds(time_E, config)
        phase_E = _phases_by_time(time_E, train_end, validation_end, config.gap_days)
    else:
        phase_E = _leave_last(user_offsets_U1)
    counts = {phase.name.lower(): int((phase_E == phase).sum()) for phase in Phase}
    _refuse_empty(counts, config)
    card: dict[str, Any] = {
        "method": config.method,
        "validation_share": config.validation_share,
        "test_share": config.test_share,
        "gap_days": config.gap_days,
        "train_end": train_end,
        "validation_end": validation_end,
        "counts": counts,
    }
    phases = hashlib.sha256(phase_E.tobytes()).hexdigest()
    return Split(phase_E=phase_E, card=card, hash=fingerprint({**card, "phases": phases}))


def _thresholds(
    time_E: npt.NDArray[np.int64], config: SplitConfig
) -> tuple[int | None, int | None]:
    """Event-time quantiles: the times at which VALIDATION and TEST begin.

    They are times of events, so events of one moment always fall on the same side.
    """
    ordered_E = np.sort(time_E)

    def at_share(share: float) -> int | None:
        row = round(len(ordered_E) * share)
        return int(ordered_E[row]) if row < len(ordered_E) else None

    validation_end = at_share(1 - config.test_share)
    train_end = at_share(1 - config.test_share - config.validation_share)
    return train_end, validation_end


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


def _refuse_empty(counts: dict[str, int], config: SplitConfig) -> None:
    by_time = config.method == "global_time"
    wanted = {
        "train": True,
        "validation": not by_time or config.validation_share > 0,
        "test": not by_time or config.test_share > 0,
    }
    for phase, is_wanted in wanted.items():
        if is_wanted and counts[phase] == 0:
            raise DataError(
                f"the {config.method} split leaves no event for {phase}, of {counts}",
                remedy="are all timestamps equal? Then order is unknown. Otherwise: "
                "larger shares, a smaller gap_days, or method leave_last",
            )
