"""Caps, curriculum and history sampling on whole trees: each a function of (seed, index)."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tiny_corpus import make_corpus

from data_pipeline.build import compile_store
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.mixture_config import Caps, Stage
from data_pipeline.store import TokenStore

CONFIG = MixtureConfig(tasks={"rating": 1.0}, targets_per_tree=4, history_events=12)


@pytest.fixture(scope="module")
def small_store(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("small")
    corpus = make_corpus(folder / "corpus", users=30, seed=9)
    return compile_store(corpus, tiny_store.tokenizer_folder, folder / "store")


def targets_of_users(mixture: Mixture, indices: range) -> Counter[int]:
    counts: Counter[int] = Counter()
    for index in indices:
        tree = mixture[index]
        counts[tree.moment.user] += len(tree.branches)
    return counts


@pytest.mark.parametrize(("cap", "most"), [(9, 8), (3, 3), (1000, 1000)])
def test_a_user_has_at_most_the_capped_targets_in_every_epoch(
    tiny_store: TokenStore, cap: int, most: int
) -> None:
    mixture = Mixture([tiny_store], replace(CONFIG, caps=Caps(per_user=cap)), seed=1)
    length = mixture.epoch_lengths[0]
    for number in range(2):
        counts = targets_of_users(mixture, range(number * length, (number + 1) * length))
        trained = (tiny_store.train_stops_U > tiny_store.user_offsets_U1[:-1]).sum()
        assert len(counts) == trained
        assert max(counts.values()) <= most
        assert cap == 1000 or max(counts.values()) > most / 2


def test_a_capped_corpus_counts_for_less(tiny_store: TokenStore, small_store: TokenStore) -> None:
    """The share is min(events, cap) to the power of the temperature, exactly, in each round."""
    stores = [tiny_store, small_store]
    sizes = [int((s.train_stops_U - s.user_offsets_U1[:-1]).sum()) for s in stores]
    assert sizes[0] > 2 * sizes[1]
    for cap in (None, sizes[1]):
        config = replace(CONFIG, temperature=1.0, caps=Caps(per_corpus=cap))
        mixture = Mixture(stores, config, seed=0)
        counted = [min(size, cap or size) for size in sizes]
        share = np.mean([mixture.part_of(index)[0] for index in range(4096)])
        assert share == pytest.approx(counted[1] / sum(counted), abs=1 / 4096)
    with pytest.raises(ValueError, match="keep one"):
        replace(config, store_weights=(1.0, 1.0))


def test_each_corpus_walks_its_own_epochs_beside_others(
    tiny_store: TokenStore, small_store: TokenStore
) -> None:
    mixture = Mixture([tiny_store, small_store], CONFIG, seed=0)
    length = mixture.epoch_lengths[1]
    users: list[int] = []
    index = 0
    while len(users) < length:
        if mixture.part_of(index)[0] == 1:
            users.append(mixture[index].moment.user)
        index += 1
    blocks = -(-(small_store.train_stops_U - small_store.user_offsets_U1[:-1]) // 4)
    assert Counter(users) == {user: n for user, n in enumerate(blocks.tolist()) if n}


def test_a_curriculum_lengthens_the_trunks(tiny_store: TokenStore) -> None:
    stages = (
        Stage(until_tree=30, history_events=2, max_trunk_tokens=60),
        Stage(until_tree=60, history_events=6, max_trunk_tokens=4096),
    )
    plain = Mixture([tiny_store], CONFIG, seed=5)
    mixture = Mixture([tiny_store], replace(CONFIG, curriculum=stages), seed=5)
    for index in range(90):
        tree, long = mixture[index], plain[index]
        events = 2 if index < 30 else 6 if index < 60 else 12
        whole = long.moment.cut - long.moment.start
        assert tree.moment.cut - tree.moment.start == min(events, whole)
        assert index >= 30 or len(tree.trunk) <= 60
        if index >= 60:
            assert np.array_equal(tree.trunk, long.trunk)


def test_stages_that_do_not_rise_are_refused() -> None:
    stage = Stage(until_tree=30, history_events=2, max_trunk_tokens=60)
    with pytest.raises(ValueError, match=r"until trees \[30, 30\].*behind the one before"):
        MixtureConfig(curriculum=(stage, stage))


def test_sliding_windows_cover_a_history_and_latest_only_its_end(tiny_store: TokenStore) -> None:
    covered = {}
    for history in ("sliding", "latest"):
        mixture = Mixture([tiny_store], replace(CONFIG, history=history), seed=2)
        seen = np.zeros(tiny_store.n_events, bool)
        for index in range(3 * mixture.epoch_lengths[0]):
            moment = mixture[index].moment
            seen[moment.cut : moment.stop] = True
            if history == "latest":
                assert moment.stop == tiny_store.train_stops_U[moment.user]
        covered[history] = seen
    stops, first = tiny_store.train_stops_U, tiny_store.user_offsets_U1[:-1]
    ends = [np.arange(max(f, s - 4), s) for f, s in zip(first, stops, strict=True)]
    assert set(np.flatnonzero(covered["latest"])) <= set(np.concatenate(ends).tolist())
    assert covered["latest"].sum() < covered["sliding"].sum() / 4


def test_with_every_limit_a_tree_depends_on_seed_and_index_alone(
    tiny_store: TokenStore, small_store: TokenStore
) -> None:
    config = MixtureConfig(
        targets_per_tree=4,
        caps=Caps(per_user=9, per_corpus=300),
        curriculum=(Stage(until_tree=50, history_events=2, max_trunk_tokens=90),),
        styles=("plain", "labelled"),
    )
    stores = [tiny_store, small_store]
    for history in ("sliding", "latest"):
        varied = replace(config, history=history)
        forwards, again = (Mixture(stores, varied, seed=4) for _ in range(2))
        for index in (*range(60, 40, -1), 4095, 4096, 10**9):
            again[index]
        for index in (*range(40, 60), 4095, 4096, 10**9):
            one, other = forwards[index], again[index]
            assert (one.corpus, one.moment) == (other.corpus, other.moment)
            assert np.array_equal(one.trunk, other.trunk)
            assert [b.tokens.tolist() for b in one.branches] == [
                b.tokens.tolist() for b in other.branches
            ]
    assert {forwards[index].corpus for index in range(40)} == {0, 1}
