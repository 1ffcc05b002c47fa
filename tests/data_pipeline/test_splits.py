"""Splits: nothing learned from is newer than what is asked about, and every event has one phase."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.errors import DataError
from data_pipeline.splits import MS_PER_DAY, Phase, SplitConfig, split_events

Events = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@st.composite
def events(draw: st.DrawFn) -> Events:
    """Users' ascending times, with many ties and users without events."""
    users = draw(
        st.lists(st.lists(st.integers(0, 40).map(lambda day: day * MS_PER_DAY)), min_size=1)
    )
    offsets = np.cumsum([0, *(len(user) for user in users)]).astype(np.int64)
    times = [time for user in users for time in sorted(user)]
    return offsets, np.array(times, dtype=np.int64)


def configs(method: str) -> st.SearchStrategy[SplitConfig]:
    shares = st.floats(0, 0.45)
    if method == "leave_last":
        return st.just(SplitConfig(method="leave_last"))
    return st.builds(
        SplitConfig, validation_share=shares, test_share=shares, gap_days=st.floats(0, 10)
    )


@settings(max_examples=300, deadline=None)
@given(events(), configs("global_time"))
def test_global_time_never_learns_from_later_events(data: Events, config: SplitConfig) -> None:
    offsets, time = data
    try:
        split = split_events(offsets, time, config)
    except DataError:
        return  # refused: some phase would be empty
    phase, gap_ms = split.phase_E, config.gap_days * MS_PER_DAY
    assert len(phase) == len(time)
    assert set(phase) <= set(Phase)
    train = time[phase == Phase.TRAIN]
    for asked in (time[phase == Phase.VALIDATION], time[phase == Phase.TEST]):
        if len(asked):
            assert train.max() < asked.min() - gap_ms + 1
    for earlier, later in ((Phase.TRAIN, Phase.VALIDATION), (Phase.VALIDATION, Phase.TEST)):
        before, after = time[phase == earlier], time[phase == later]
        if len(before) and len(after):
            assert before.max() < after.min()
    assert sum(split.card["counts"].values()) == len(time)


@settings(max_examples=200, deadline=None)
@given(events())
def test_leave_last_takes_the_last_two_of_long_enough_users(data: Events) -> None:
    offsets, time = data
    try:
        phase = split_events(offsets, time, SplitConfig(method="leave_last")).phase_E
    except DataError:
        assert np.diff(offsets).max() < 3
        return
    for start, stop in pairwise(offsets):
        expected = [Phase.TRAIN] * (stop - start)
        if stop - start >= 3:
            expected[-2:] = [Phase.VALIDATION, Phase.TEST]
        assert phase[start:stop].tolist() == expected


def by_time(times: list[int], **settings: Any) -> tuple[list[int], dict[str, Any]]:
    time = np.array(times, dtype=np.int64) * MS_PER_DAY
    split = split_events(np.array([0, len(times)]), time, SplitConfig(**settings))
    return split.phase_E.tolist(), split.card


def test_thresholds_are_quantiles_of_event_times() -> None:
    phase, card = by_time(list(range(10)), validation_share=0.2, test_share=0.3)
    assert phase == [0] * 5 + [1] * 2 + [2] * 3
    assert card["train_end"] == 5 * MS_PER_DAY
    assert card["validation_end"] == 7 * MS_PER_DAY
    assert card["counts"] == {"train": 5, "validation": 2, "test": 3, "gap": 0}


def test_gap_lies_before_both_boundaries() -> None:
    phase, _ = by_time(list(range(20)), validation_share=0.2, test_share=0.2, gap_days=1.5)
    assert phase == [0] * 11 + [3] + [1] * 3 + [3] + [2] * 4


def test_gap_of_whole_days_includes_its_first_moment() -> None:
    phase, _ = by_time(list(range(20)), validation_share=0.2, test_share=0.2, gap_days=2)
    assert phase == [0] * 10 + [3] * 2 + [1] * 2 + [3] * 2 + [2] * 4


def test_events_of_one_moment_stay_together() -> None:
    phase, _ = by_time([0, 1, 1, 1, 1, 2, 2, 2, 3, 3], validation_share=0.3, test_share=0.2)
    assert phase == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_no_test_share_means_no_test() -> None:
    phase, card = by_time(list(range(10)), validation_share=0.2, test_share=0)
    assert phase == [0] * 8 + [1] * 2
    assert card["validation_end"] is None


def test_equal_times_cannot_be_split_by_time() -> None:
    with pytest.raises(DataError, match="no event for train") as caught:
        by_time([5] * 10)
    assert "leave_last" in str(caught.value.remedy)


def test_gap_that_swallows_validation_is_refused() -> None:
    with pytest.raises(DataError, match="no event for validation"):
        by_time(list(range(20)), gap_days=5)


def test_hash_changes_with_method_threshold_and_phase() -> None:
    offsets, time = np.array([0, 8, 20]), np.array([*range(8), *range(12)]) * MS_PER_DAY
    hashes = {
        split_events(offsets, time, config).hash
        for config in (
            SplitConfig(validation_share=0.2),
            SplitConfig(validation_share=0.2, test_share=0.3),
            SplitConfig(validation_share=0.2, gap_days=0.001),
            SplitConfig(method="leave_last"),
        )
    }
    assert len(hashes) == 4


def test_hash_is_of_the_phases_too() -> None:
    time = np.zeros(20, dtype=np.int64)  # same counts and no thresholds, other events held out
    config = SplitConfig(method="leave_last")
    one, other = (split_events(np.array([0, cut, 20]), time, config) for cut in (8, 9))
    assert one.card == other.card
    assert one.hash != other.hash


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_share": 0.6, "test_share": 0.5}, "nothing to train on"),
        ({"method": "leave_last", "gap_days": 1.0}, "gap_days=1.0 has no meaning"),
        ({"method": "random"}, "global_time"),
        ({"gap_days": -1}, "greater than or equal to 0"),
        ({"test_shares": 0.1}, "test_shares"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SplitConfig(**settings)
