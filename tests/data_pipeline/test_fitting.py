"""A model with few positions: the oldest whole events go, and what cannot fit is named."""

import pytest

from data_pipeline.errors import DataError
from data_pipeline.fitting import excess
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.store import TokenStore
from data_pipeline.tree import Tree

CONFIG = MixtureConfig(targets_per_tree=5, history_events=8)


def longest(tree: Tree) -> int:
    return max(len(tree.before(branch)) + len(branch.tokens) for branch in tree.branches)


def mixture(store: TokenStore, positions: int | None, **changes: object) -> Mixture:
    config = MixtureConfig(targets_per_tree=5, history_events=8, **changes)  # type: ignore[arg-type]
    made = Mixture([store], config, seed=3)
    made.context_length = positions
    return made


def test_trunks_leave_room_for_their_longest_branch(tiny_store: TokenStore) -> None:
    free, bound = mixture(tiny_store, None), mixture(tiny_store, 190)
    shortened = 0
    for index in range(60):
        whole, tree = free[index], bound[index]
        assert longest(tree) <= 190
        assert excess(tree, 190) == 0
        # The same questions, behind the newest of the same events.
        assert [b.tokens.tolist() for b in tree.branches] == [
            b.tokens.tolist() for b in whole.branches
        ]
        assert tree.moment == whole.moment
        assert (tree.dropped_events > 0) == (longest(whole) > 190)
        shortened += tree.dropped_events > 0
        assert whole.dropped_events == 0
    assert 5 < shortened < 60


def test_no_more_events_are_dropped_than_must_be(tiny_store: TokenStore) -> None:
    free, bound = mixture(tiny_store, None), mixture(tiny_store, 190)
    for index in range(60):
        tree = bound[index]
        if not tree.dropped_events:
            continue
        moment = tree.moment
        one_more, _ = tiny_store.trunk(moment, "plain", len(tree.trunk))
        assert one_more.tolist() == tree.trunk.tolist()
        room = 190 - max(len(branch.tokens) for branch in tree.branches)
        best, spans = tiny_store.trunk(moment, "plain", room)
        assert len(best) == len(tree.trunk)
        assert tree.dropped_events == moment.cut - moment.start - len(spans.items)
        assert len(free[index].trunk) > room


def test_the_trunks_own_bound_counts_as_well(tiny_store: TokenStore) -> None:
    bound = mixture(tiny_store, None, max_trunk_tokens=120)
    trees = [bound[index] for index in range(60)]
    for tree in (tree for tree in trees if tree.dropped_events):
        assert len(tree.trunk) <= 120
    assert any(tree.dropped_events for tree in trees)


def test_a_question_that_cannot_fit_names_its_task_and_item(tiny_store: TokenStore) -> None:
    bound = mixture(tiny_store, 44, tasks={"like": 1.0})
    with pytest.raises(DataError, match="the model has 44 positions") as caught:
        [bound[index] for index in range(60)]
    text = str(caught.value)
    assert "a question of task 'like' about" in text
    assert any(repr(item) in text for item in tiny_store.item_ids)
    assert "though all of the history was dropped" in text
    assert "mixture.tasks" in text


def test_a_profile_that_cannot_fit_names_the_user(tiny_store: TokenStore) -> None:
    bound = mixture(tiny_store, 8, tasks={"like": 1.0})
    with pytest.raises(DataError, match=r"takes \d+ tokens without any history") as caught:
        bound[0]
    assert caught.value.value in tiny_store.user_ids
