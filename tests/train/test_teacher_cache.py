"""The teacher cache: right numbers, reusable, resumable, honest about what it is of."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_corpus import make_corpus
from tiny_run import MIXTURE, SHAPE
from transformers import PreTrainedModel

from data_pipeline.build import compile_store
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tree import Ids, Tree
from modeling.backbone import build_backbone
from train import teacher_cache
from train.slates import SlateMaker
from train.teacher_cache import TeacherCache, TeacherCacheConfig, build_teacher_cache

CONFIG = TeacherCacheConfig(max_moments=12, slate_size=10, shard_size=5, seed=3)
TEACHER = {"name": "tiny", "weights": "0123"}


@pytest.fixture(scope="module")
def model(tiny_store: TokenStore) -> PreTrainedModel:
    return build_backbone(SHAPE, vocab_size=tiny_store.card.vocab_size, seed=1).eval()


def build(
    model: PreTrainedModel, store: TokenStore, root: Path, config: TeacherCacheConfig = CONFIG
) -> TeacherCache:
    return build_teacher_cache(model, store, root, config, mixture=MIXTURE, teacher=TEACHER)


@pytest.fixture(scope="module")
def cache(
    model: PreTrainedModel, tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory
) -> TeacherCache:
    return build(model, tiny_store, tmp_path_factory.mktemp("cache"))


def test_moments_are_of_training_time_and_slates_hold_the_next_item(
    cache: TeacherCache, tiny_store: TokenStore
) -> None:
    assert len(cache) == 12
    assert len(set(cache.cut_B.tolist())) == 12
    for b in range(len(cache)):
        cut, start = int(cache.cut_B[b]), int(cache.start_B[b])
        assert tiny_store.event_phase_E[cut] == Phase.TRAIN
        assert start == tiny_store.user_offsets_U1[cache.user_B[b]] < cut
        assert tiny_store.event_time_E[cut - 1] < tiny_store.event_time_E[cut]
        slate = cache.slate_BS[b].tolist()
        assert slate[cache.target_B[b]] == tiny_store.event_item_E[cut]
        assert len(set(slate)) == 10
        assert not set(slate) & set(tiny_store.event_item_E[start:cut].tolist())


def test_the_targets_place_tells_nothing(cache: TeacherCache) -> None:
    assert len(set(cache.target_B.tolist())) > 3


def log_likelihood(
    model: PreTrainedModel, store: TokenStore, tree: Tree, trunk: Ids, item: int
) -> float:
    """log p(title | trunk, question) by one plain forward."""
    (branch,) = tree.branches
    context = [*trunk, *branch.tokens[: len(branch.tokens) - len(branch.answer) + 1]]
    assert store.encoder.decode(context).endswith("Title:")
    title = store.title_tokens(item).tolist()
    ids = torch.tensor([[int(token) for token in (*context, *title)]])
    with torch.inference_mode():
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
    places = range(len(context) - 1, len(context) + len(title) - 1)
    return sum(float(logs[place, token]) for place, token in zip(places, title, strict=True))


def test_scores_are_log_likelihoods_of_titles_behind_the_prompt(
    cache: TeacherCache, tiny_store: TokenStore, model: PreTrainedModel
) -> None:
    config = replace(MIXTURE, tasks={"next_item_title": 1.0}, targets_per_tree=1)
    mixture = Mixture([tiny_store], config, seed=CONFIG.seed)
    trees = (mixture[index] for index in range(10_000))
    tree = next(t for t in trees if t.moment.cut == cache.cut_B[2])
    for column in (0, 7):
        item = int(cache.slate_BS[2, column])
        expected = log_likelihood(model, tiny_store, tree, tree.trunk, item)
        assert cache.score_BS[2, column] == pytest.approx(expected, abs=1e-3)


def test_the_prior_is_of_the_title_without_a_history(
    cache: TeacherCache, tiny_store: TokenStore, model: PreTrainedModel, tmp_path: Path
) -> None:
    slates, priors = cache.slate_BS.ravel(), cache.prior_BS.ravel()
    assert cache.prior_BS.shape == cache.slate_BS.shape
    for item in np.unique(slates):
        assert len(set(priors[slates == item].tolist())) == 1
    config = replace(MIXTURE, tasks={"next_item_title": 1.0}, targets_per_tree=1)
    mixture = Mixture([tiny_store], config, seed=CONFIG.seed)
    expected = 0.0
    for cut in cache.cut_B[:2]:
        tree = next(t for t in map(mixture.__getitem__, range(10_000)) if t.moment.cut == cut)
        profile, _ = tiny_store.trunk(replace(tree.moment, start=tree.moment.cut), "plain", 4096)
        assert "History" not in tiny_store.encoder.decode(profile)
        expected += log_likelihood(model, tiny_store, tree, profile, int(slates[0])) / 2
    assert priors[0] == pytest.approx(expected, abs=1e-3)
    folder = tmp_path / cache.key
    shutil.copytree(cache.folder, folder)
    (folder / "prior.npz").unlink()
    with pytest.raises(ValueError, match=r"prior\.npz cannot be read"):
        TeacherCache.open(folder, store=tiny_store)
    again = build(model, tiny_store, tmp_path)
    np.testing.assert_allclose(again.prior_BS, cache.prior_BS, atol=1e-5)


def test_a_second_build_asks_the_teacher_nothing(
    cache: TeacherCache,
    tiny_store: TokenStore,
    model: PreTrainedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(teacher_cache, "score_continuations", never)
    again = build(model, tiny_store, cache.folder.parent)
    np.testing.assert_array_equal(again.score_BS, cache.score_BS)
    with pytest.raises(AssertionError, match="the teacher was asked"):
        build(model, tiny_store, cache.folder.parent, replace(CONFIG, max_moments=16))


def test_an_interrupted_build_goes_on_and_a_damaged_shard_is_made_again(
    cache: TeacherCache, tiny_store: TokenStore, model: PreTrainedModel, tmp_path: Path
) -> None:
    folder = tmp_path / cache.key
    shutil.copytree(cache.folder, folder)
    (folder / "shard-00001.npz").unlink()
    whole = (folder / "shard-00002.npz").read_bytes()
    (folder / "shard-00002.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"shard-00002\.npz is damaged"):
        TeacherCache.open(folder, store=tiny_store)
    again = build(model, tiny_store, tmp_path)
    np.testing.assert_array_equal(again.slate_BS, cache.slate_BS)
    np.testing.assert_allclose(again.score_BS, cache.score_BS, atol=1e-5)


def test_other_teachers_and_settings_get_folders_of_their_own(
    cache: TeacherCache, tiny_store: TokenStore, model: PreTrainedModel, tmp_path: Path
) -> None:
    small = replace(CONFIG, max_moments=1, shard_size=1)
    keys = {
        build(model, tiny_store, tmp_path, replace(small, seed=seed, slate_size=size)).key
        for seed, size in ((3, 10), (4, 10), (3, 9))
    }
    other = build_teacher_cache(
        model,
        tiny_store,
        tmp_path,
        small,
        mixture=MIXTURE,
        teacher={"name": "x", "weights": "9"},
    )
    assert len(keys | {other.key}) == 4


def test_a_cache_of_another_corpus_is_refused(cache: TeacherCache, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", users=30, seed=9)
    other = compile_store(corpus, "train:1024", tmp_path / "store")
    with pytest.raises(ValueError, match="is a teacher cache of token store"):
        TeacherCache.open(cache.folder, store=other)
    with pytest.raises(ValueError, match="is no teacher cache"):
        TeacherCache.open(tmp_path, store=other)


def test_files_are_plain_arrays_and_json(cache: TeacherCache) -> None:
    for path in cache.folder.glob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            assert all(file[name].dtype != object for name in file.files)
    card = json.loads((cache.folder / "teacher_cache.json").read_text())
    assert card["teacher"] == TEACHER
    assert card["made_of"]["store"]


def test_item_vectors_do_not_depend_on_the_batch(
    tiny_store: TokenStore, model: PreTrainedModel
) -> None:
    vectors_NW = teacher_cache.item_vectors(model, tiny_store, batch_size=7)
    assert vectors_NW.shape == (tiny_store.n_items, SHAPE.hidden_size)
    np.testing.assert_allclose(np.linalg.norm(vectors_NW, axis=1), 1, rtol=1e-5)
    alone = teacher_cache.item_vectors(model, tiny_store, batch_size=1)
    np.testing.assert_allclose(alone, vectors_NW, atol=1e-5)
    assert np.linalg.norm(vectors_NW[0] - vectors_NW[1]) > 1e-3


def test_slates_prefer_what_like_minded_users_met(tiny_store: TokenStore) -> None:
    """Neighbours share more users with the history than items drawn by popularity do."""
    met_by: list[set[int]] = [set() for _ in range(tiny_store.n_items)]
    for row in np.flatnonzero(tiny_store.event_phase_E == Phase.TRAIN):
        met_by[tiny_store.event_item_E[row]].add(tiny_store.user_of_event(int(row)))
    makers = {
        share: SlateMaker(tiny_store, size=12, neighbour_share=share, seed=0)
        for share in (0.0, 1.0)
    }
    shared = dict.fromkeys(makers, 0.0)
    users = np.flatnonzero(tiny_store.train_stops_U - tiny_store.user_offsets_U1[:-1] > 20)[:20]
    for user in users:
        start = int(tiny_store.user_offsets_U1[user])
        history = tiny_store.event_item_E[start : start + 10]
        target = int(tiny_store.event_item_E[start + 10])
        for share, maker in makers.items():
            slate, column = maker.slate(int(user), start, start + 10, target)
            again, _ = maker.slate(int(user), start, start + 10, target)
            assert slate.tolist() == again.tolist()
            assert slate[column] == target
            for item in set(slate.tolist()) - {target}:
                others = [len((met_by[item] & met_by[known]) - {user}) for known in history]
                shared[share] += sum(others) / max(1, len(met_by[item])) ** 0.5
    assert shared[1.0] > 1.02 * shared[0.0]


def test_a_slate_larger_than_the_catalog_is_refused(tiny_store: TokenStore) -> None:
    with pytest.raises(ValueError, match=r"slate of 500 items cannot be filled.*slate_size <= "):
        SlateMaker(tiny_store, size=500, neighbour_share=0.5, seed=0)


@pytest.mark.parametrize("moments", [0, 5])
def test_a_teacher_is_asked_where_histories_end_wherever_it_was_trained(
    tiny_store: TokenStore, moments: int
) -> None:
    trained = MixtureConfig(moments_per_tree=moments, ages="gaps", history_loss_weight=1.0)
    asked = teacher_cache._next_item_mixture(tiny_store, trained, seed=0)
    tree = next(asked[i] for i in range(50) if asked[i].moment.cut > asked[i].moment.start)
    assert [branch.attach for branch in tree.branches] == [None]
    assert "Time since the last one" in tiny_store.encoder.decode(tree.trunk)
