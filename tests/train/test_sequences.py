"""Sequences and the full ranking, on events small enough to check by eye."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from train.sequences import (
    NextItemTargets,
    SequenceData,
    pad_left,
    rank_targets,
    training_windows,
)

TRAIN, VALIDATION, TEST, GAP = Phase.TRAIN, Phase.VALIDATION, Phase.TEST, Phase.GAP


def two_users() -> SequenceData:
    """User 0: items 1 2 | 3 | 4 with 3 and 4 in one instant; user 1: a gap event, then 5, 0."""
    return SequenceData.from_events(
        n_items=6,
        user_offsets_U1=np.array([0, 4, 7]),
        item_E=np.array([1, 2, 3, 4, 2, 5, 0], dtype=np.int32),
        time_E=np.array([10, 20, 30, 30, 5, 31, 32]),
        phase_E=np.array([TRAIN, TRAIN, VALIDATION, TEST, GAP, VALIDATION, TEST], dtype=np.int8),
    )


def histories(data: SequenceData, targets: NextItemTargets) -> list[list[int]]:
    return [history.tolist() for history in data.histories(targets, slice(None))]


def test_targets_have_the_history_that_is_strictly_older() -> None:
    data = two_users()
    assert data.train_item_E.tolist() == [1, 2]
    assert data.train_offsets_U1.tolist() == [0, 2, 2]
    assert data.validation.item_B.tolist() == [3, 5]
    assert histories(data, data.validation) == [[1, 2], [2]]
    assert data.test.item_B.tolist() == [4, 0]
    # Item 3 came in the same instant as 4: it may not help to predict it.
    assert histories(data, data.test) == [[1, 2], [2, 5]]


def test_an_event_with_nothing_before_it_is_counted_and_left_out() -> None:
    data = SequenceData.from_events(
        n_items=3,
        user_offsets_U1=np.array([0, 1, 3]),
        item_E=np.array([0, 1, 2], dtype=np.int32),
        time_E=np.array([1, 1, 1]),
        phase_E=np.array([TRAIN, TEST, TEST], dtype=np.int8),
    )
    assert len(data.test) == 0
    assert data.test.n_without_history == 2


def test_no_training_events_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"no TRAIN events.*validation_share"):
        SequenceData.from_events(
            n_items=3,
            user_offsets_U1=np.array([0, 1]),
            item_E=np.array([0], dtype=np.int32),
            time_E=np.array([1]),
            phase_E=np.array([TEST], dtype=np.int8),
        )


def fixed(*scores: float) -> object:
    def score(rows: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.float32]:
        return np.tile(np.array(scores, dtype=np.float32), (len(rows), 1))

    return score


def ranks(score: object, **options: bool) -> list[int]:
    data = two_users()
    return rank_targets(score, data, data.test, **options).rank_B.tolist()  # type: ignore[arg-type]


def test_ranks_are_over_the_whole_catalog_without_the_history() -> None:
    # User 0 wants 4 after (1, 2); user 1 wants 0 after (2, 5).
    score = fixed(0.1, 0.9, 0.8, 0.3, 0.2, 0.7)
    assert ranks(score) == [3, 4]
    assert ranks(score, exclude_history=False) == [5, 6]


def test_ties_count_against_the_target() -> None:
    assert ranks(fixed(*[1.0] * 6)) == [4, 4]


def test_metrics_of_ranks() -> None:
    data = two_users()
    found = rank_targets(fixed(0.1, 0.9, 0.8, 0.3, 0.2, 0.7), data, data.test)  # type: ignore[arg-type]
    assert found.hits(2).tolist() == [0, 0]
    assert found.hits(3).tolist() == [1, 0]
    np.testing.assert_allclose(found.ndcg(10), [1 / np.log2(4), 1 / np.log2(5)])
    np.testing.assert_allclose(found.ndcg(3), [1 / np.log2(4), 0])


def test_a_scorer_that_fails_quietly_is_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        ranks(fixed(0.1, float("nan"), 0.8, 0.3, 0.2, 0.7))
    with pytest.raises(ValueError, match=r"answered \(2, 5\) for 2 histories and 6 items"):
        ranks(fixed(0.1, 0.9, 0.8, 0.3, 0.2))


def test_pad_left_keeps_the_newest() -> None:
    rows = [np.array([1, 2, 3]), np.array([], dtype=np.int64), np.array([4])]
    assert pad_left(rows, 2, 9).tolist() == [[2, 3], [9, 9], [9, 4]]
    assert pad_left(rows[1:2], 5, 9).tolist() == [[9]]


def test_training_windows_are_as_wide_as_their_longest() -> None:
    lengths = [1, 1, 1, 1, 30, 1, 1, 1]
    n_events = sum(lengths)
    data = SequenceData.from_events(
        n_items=n_events,
        user_offsets_U1=np.concatenate([[0], np.cumsum(lengths)]),
        item_E=np.arange(n_events, dtype=np.int32),
        time_E=np.arange(n_events),
        phase_E=np.full(n_events, TRAIN, dtype=np.int8),
    )
    generator = np.random.Generator(np.random.Philox(key=[0, 0]))
    seen: list[int] = []
    widths = set()
    for inputs_BL, targets_BL in training_windows(data, 10, 1, generator):
        assert inputs_BL.shape == targets_BL.shape
        real_BL = np.stack([inputs_BL, targets_BL]) != n_events
        assert real_BL[:, 0, 0].any()
        widths.add(inputs_BL.shape[1])
        seen += targets_BL[targets_BL != n_events].tolist()
        # Each target stands above the event before it.
        above = inputs_BL[targets_BL != n_events]
        follows = above != n_events
        assert (above[follows] == targets_BL[targets_BL != n_events][follows] - 1).all()
    assert sorted(seen) == list(range(n_events))
    assert 1 in widths
    assert max(widths) == 10


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    targets = two_users().test
    assert targets.sample(5, 0) is targets
    assert targets.sample(1, 3).item_B.tolist() == targets.sample(1, 3).item_B.tolist()


def test_sequences_of_a_store_hold_every_training_event(tiny_store: TokenStore) -> None:
    data = SequenceData.from_store(tiny_store)
    assert len(data.train_item_E) == int((tiny_store.event_phase_E == TRAIN).sum())
    for targets in (data.validation, data.test):
        assert len(targets) > 0
        for start, cut, user in zip(targets.start_B, targets.cut_B, targets.user_B, strict=True):
            assert start == tiny_store.user_offsets_U1[user] < cut
