"""The two moments at which a split by time is cut: given, or quantiles of the events' times.

Shape letters: E events.
"""

from datetime import UTC, datetime
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

from data_pipeline.errors import DataError


def moment(given: object) -> object:
    """Return what is meant by a moment as milliseconds since 1970; what is no text, unchanged.

    Args:
        given: a date or a time by ISO 8601, UTC unless it names a zone ("2021-08-11",
            "2021-08-11T00:56:54.042Z"), or digits that are milliseconds already.

    Raises:
        DataError: a text that is neither.
    """
    if not isinstance(given, str):
        return given
    if given.removeprefix("-").isdecimal():
        return int(given)
    try:
        time = datetime.fromisoformat(given)
    except ValueError as error:
        raise DataError(
            f"this is no moment: {error}",
            value=given,
            remedy="write a date (2021-08-11), a time in UTC (2021-08-11T00:56:54Z) or "
            "milliseconds since 1970",
        ) from error
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return round(time.timestamp() * 1000)


Moment = Annotated[int, BeforeValidator(moment)]
"""Milliseconds since 1970; a config may say it as a text that `moment` reads."""


def iso(milliseconds: int) -> str:
    """Return a moment as people read it: "2021-08-11T00:56:54.042Z"."""
    return f"{np.datetime64(milliseconds, 'ms')}Z"


def cut_moments(
    time_E: npt.NDArray[np.int64],
    *,
    train_end: int | None,
    validation_end: int | None,
    validation_share: float,
    test_share: float,
) -> tuple[int | None, int | None]:
    """Return the moments at which VALIDATION and TEST begin; None where there is no such phase.

    One that is not given is a quantile of the events' times: a time of an event, so that events of
    one moment always fall on the same side.

    Args:
        time_E: ms since 1970.
        train_end: given moment, or None.
        validation_end: given moment, or None.
        validation_share: of all events, in VALIDATION.
        test_share: of all events, in TEST; `validation_end` says otherwise where it is given.

    Raises:
        DataError: a given moment has no event before it or none behind it, or the first is not
            before the second.
    """
    ordered_E = np.sort(time_E)
    for name, given in (("train_end", train_end), ("validation_end", validation_end)):
        _check_within(ordered_E, name, given)

    def at_share(share: float) -> int | None:
        row = max(0, round(len(ordered_E) * share))
        return int(ordered_E[row]) if row < len(ordered_E) else None

    test_start = validation_end
    if test_start is None:
        test_start = at_share(1 - test_share)
    elif len(ordered_E):
        test_share = float((ordered_E >= test_start).mean())
    if train_end is None:
        start = at_share(1 - test_share - validation_share)
        if start is not None and test_start is not None:
            # Without VALIDATION it is the first event of TEST, which a given moment may precede.
            start = min(start, test_start)
        return start, test_start
    if test_start is not None and train_end >= test_start:
        raise DataError(
            f"train_end {iso(train_end)} is not before {iso(test_start)}, where TEST begins",
            remedy="give two moments in their order"
            if validation_end is not None
            else f"give validation_end too: now test_share {test_share:g} says where TEST begins",
        )
    return train_end, test_start


def _check_within(ordered_E: npt.NDArray[np.int64], name: str, given: int | None) -> None:
    if given is None or not len(ordered_E) or ordered_E[0] < given <= ordered_E[-1]:
        return
    raise DataError(
        f"{name} {iso(given)} does not divide the events: they are from {iso(int(ordered_E[0]))} "
        f"to {iso(int(ordered_E[-1]))}",
        value=given,
        remedy="give a moment between them (a date in UTC, or milliseconds since 1970)",
    )
