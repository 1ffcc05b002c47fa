"""Laws 1, 2, 4 and 5 on whole trees."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_corpus import make_corpus

from data_pipeline.build import compile_store
from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import pack
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore, open_stores
from data_pipeline.tasks import all_tasks
from data_pipeline.tree import Tree

CONFIG = MixtureConfig(targets_per_tree=8, history_events=12)


@pytest.fixture(scope="module")
def mixture(tiny_store: TokenStore) -> Mixture:
    return Mixture([tiny_store], CONFIG, seed=5)


def same(one: Tree, other: Tree) -> bool:
    a, b = (pack([tree], 32) for tree in (one, other))
    fields = ("tokens_T", "positions_T", "label_positions_M", "label_tokens_M", "choice_tokens")
    return one.moment == other.moment and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in fields
    )


def test_a_tree_depends_on_seed_and_index_alone(tiny_store: TokenStore, mixture: Mixture) -> None:
    forwards = [mixture[i] for i in range(30)]
    again = Mixture([tiny_store], CONFIG, seed=5)
    backwards = [again[i] for i in reversed(range(30))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    other_seed = Mixture([tiny_store], CONFIG, seed=6)
    assert not any(same(forwards[i], other_seed[i]) for i in range(30))


def test_another_process_gives_the_same_trees(tiny_store: TokenStore, mixture: Mixture) -> None:
    code = f"""
import json
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.store import TokenStore
mixture = Mixture(
    [TokenStore.open({str(tiny_store.folder)!r})],
    MixtureConfig(targets_per_tree=8, history_events=12),
    seed=5,
)
trees = [mixture[i] for i in (11, 3)]
print(json.dumps([[t.trunk.tolist(), [b.tokens.tolist() for b in t.branches]] for t in trees]))
print(json.dumps(mixture.fingerprints))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    trees, fingerprints = map(json.loads, done.stdout.splitlines())
    for index, (trunk, branches) in zip((11, 3), trees, strict=True):
        assert mixture[index].trunk.tolist() == trunk
        assert [b.tokens.tolist() for b in mixture[index].branches] == branches
    assert fingerprints == mixture.fingerprints


@settings(max_examples=150, deadline=None)
@given(index=st.integers(0, 10**9))
def test_no_event_of_the_history_is_as_young_as_a_target(mixture: Mixture, index: int) -> None:
    store, tree = mixture.stores[0], mixture[index]
    moment = tree.moment
    if moment.user < 0:
        return
    first, end = store.user_offsets_U1[moment.user : moment.user + 2]
    assert first <= moment.start <= moment.cut < moment.stop <= end
    window = store.event_time_E[moment.cut : moment.stop]
    assert (store.event_phase_E[moment.cut : moment.stop] == Phase.TRAIN).all()
    assert moment.time == window[0]
    if moment.cut > first:
        assert store.event_time_E[moment.cut - 1] < window.min()
    for branch in tree.branches:
        if mixture.tasks[branch.task].history != "item":
            assert moment.cut <= branch.subject < moment.stop


def test_nothing_after_training_time_changes_a_training_tree(
    tiny_corpus: Corpus, tiny_store: TokenStore, tmp_path: Path
) -> None:
    """Statistics, negatives, buckets and labels are frozen: rewrite the future and compare."""
    changed = make_corpus(tmp_path / "corpus")
    later = changed.time_E >= int(tiny_store.card.split["train_end"])
    values = changed.events["value"].to_numpy()
    column = changed.events.schema.get_field_index("value")
    rewritten = pa.array(np.where(later, 6 - values, values), pa.float32())
    changed.__dict__["events"] = changed.events.set_column(column, "value", rewritten)
    other = compile_store(changed, tiny_store.tokenizer_folder, tmp_path / "store")
    assert not np.array_equal(other.event_value_E, tiny_store.event_value_E)
    before = Mixture([tiny_store], CONFIG, seed=1)
    after = Mixture([other], CONFIG, seed=1)
    assert all(same(before[i], after[i]) for i in range(200))


def test_changing_the_past_does_change_trees(tiny_store: TokenStore) -> None:
    """The comparison above can fail."""
    shifted = TokenStore.open(tiny_store.folder)
    shifted.event_item_E = (tiny_store.event_item_E + 1) % tiny_store.n_items
    before = Mixture([tiny_store], CONFIG, seed=1)
    after = Mixture([shifted], CONFIG, seed=1)
    assert not all(same(before[i], after[i]) for i in range(50))


def test_joined_ids_equal_the_tokenizer_on_whole_prompts(mixture: Mixture) -> None:
    encoder = mixture.stores[0].encoder
    for index in range(60):
        tree = mixture[index]
        for branch in tree.branches:
            ids = [*tree.trunk.tolist(), *branch.tokens.tolist(), int(branch.answer[-1])]
            text = encoder.decode(ids)
            assert encoder.tokenizer(text, split_special_tokens=True)["input_ids"] == ids


def test_one_epoch_of_blocks_shows_every_training_event(tiny_store: TokenStore) -> None:
    """Every window's block comes once before any comes again, so every event is asked about."""
    config = replace(CONFIG, tasks={"rating": 1.0}, targets_per_tree=4)
    mixture = Mixture([tiny_store], config, seed=0)
    covered = np.zeros(tiny_store.n_events, bool)
    for index in range(3 * 3840 // 4):
        moment = mixture[index].moment
        covered[moment.cut : moment.stop] = True
    train = tiny_store.event_phase_E == Phase.TRAIN
    assert covered[train].mean() > 0.97
    assert not covered[~train].any()


def test_every_task_comes_and_every_label_is_right(mixture: Mixture) -> None:
    store = mixture.stores[0]
    seen = set()
    for index in range(400):
        tree = mixture[index]
        for branch in tree.branches:
            task, question = mixture.tasks[branch.task], branch.question
            seen.add(task.name)
            if task.kind == "title":
                answer = store.encoder.decode(branch.answer)
                assert answer.strip().startswith(store.titles[question.label])
                continue
            if task.kind == "text":
                assert branch.answer.tolist() == store.gather(question.text)[0].tolist()
                assert store.encoder.decode(branch.answer).endswith("\n")
                continue
            assert branch.answer.tolist() == [branch.choices[question.label]]
            assert len(branch.choices) == question.n_choices
            word = store.encoder.decode(branch.answer).strip()
            assert word == task.labels[question.label]
            if task.name in ("rating", "like", "above_own_mean"):
                assert question.value == store.event_value_E[branch.subject]
            if task.name in ("pairwise", "best_of_list", "favourite_choice"):
                assert question.gains is not None
                assert question.gains[question.label] == max(question.gains)
            if task.name == "next_item_choice":
                assert question.candidates[question.label] == store.event_item_E[branch.subject]
    missing = {task.name for task in mixture.tasks} - seen
    assert missing <= {"similar"}  # the tiny corpus has too few co-likes


def test_history_labels_name_the_tokens_that_follow(tiny_store: TokenStore) -> None:
    config = replace(CONFIG, history_loss_weight=1.0, history_title_weight=0.5)
    mixture = Mixture([tiny_store], config, seed=2)
    decode = tiny_store.encoder.decode
    checked = 0
    for index in range(40):
        tree = mixture[index]
        labels = tree.trunk_labels
        assert (tree.trunk[labels.positions + 1] == labels.tokens).all()
        n_events = tree.moment.cut - tree.moment.start
        if not n_events or tree.moment.user < 0:
            assert labels.targets == 0
            continue
        checked += 1
        assert labels.targets == 2 * n_events
        assert labels.weights.sum() == pytest.approx(1.5 * n_events)
        values = tiny_store.event_value_E[tree.moment.start : tree.moment.cut]
        assert [decode([t]).strip() for t in labels.tokens[:n_events]] == [f"{v:g}" for v in values]
        titles = decode(labels.tokens[n_events:])
        rows = tiny_store.event_item_E[tree.moment.start : tree.moment.cut]
        assert all(tiny_store.titles[item] in titles for item in rows)
    assert checked > 20


def test_a_long_history_drops_its_oldest_whole_events(tiny_store: TokenStore) -> None:
    whole = Mixture([tiny_store], CONFIG, seed=5)
    short = Mixture([tiny_store], replace(CONFIG, max_trunk_tokens=90), seed=5)
    shortened = 0
    for index in range(40):
        full, cut = whole[index], short[index]
        if full.moment.user < 0 or full.moment.cut == full.moment.start:
            continue
        texts = [tiny_store.encoder.decode(tree.trunk).splitlines() for tree in (full, cut)]
        assert len(cut.trunk) <= 90
        assert texts[1][:3] == texts[0][:3]  # start, profile, heading stay
        kept = texts[1][3:]
        assert kept == texts[0][len(texts[0]) - len(kept) :]  # whole lines, the newest
        shortened += len(kept) < len(texts[0]) - 3
    assert shortened > 5


def test_weights_by_task_and_family(tiny_store: TokenStore) -> None:
    config = replace(CONFIG, tasks={"comparison": 3.0, "rating": 1.0})
    mixture = Mixture([tiny_store], config, seed=0)
    assert [task.name for task in mixture.tasks] == ["rating", "pairwise", "best_of_list"]
    counts = np.zeros(3)
    for index in range(100):
        for branch in mixture[index].branches:
            counts[branch.task] += 1
    assert counts[1] > counts[0]


def test_an_unknown_task_names_the_nearest(tiny_store: TokenStore) -> None:
    with pytest.raises(DataError, match=r"'ratings'.*(?s:.)*did you mean rating"):
        Mixture([tiny_store], replace(CONFIG, tasks={"ratings": 1.0}), seed=0)


def test_a_task_for_evaluation_only_is_refused(
    tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(all_tasks()["pairwise"]), "tier", "T2a")
    with pytest.raises(DataError, match="never trained on"):
        Mixture([tiny_store], replace(CONFIG, tasks={"pairwise": 1.0}), seed=0)
    everything = Mixture([tiny_store], CONFIG, seed=0)
    assert "pairwise" not in {task.name for task in everything.tasks}


def test_fingerprints_say_which_part_changed(tiny_store: TokenStore, mixture: Mixture) -> None:
    def changed(other: Mixture) -> set[str]:
        pairs = mixture.fingerprints.items() ^ other.fingerprints.items()
        return {name for name, _ in pairs}

    assert changed(Mixture([tiny_store], replace(CONFIG, history_events=9), seed=5)) == {"mixture"}
    fewer = Mixture([tiny_store], replace(CONFIG, tasks={"rating": 1.0}), seed=5)
    assert changed(fewer) == {"mixture", "tasks"}


def test_two_stores_share_the_trees_and_a_tokenizer(
    tiny_corpus: Corpus, tiny_store: TokenStore, tmp_path: Path
) -> None:
    other = compile_store(
        make_corpus(tmp_path / "corpus", users=30, seed=9),
        tiny_store.tokenizer_folder,
        tmp_path / "store",
    )
    stores = open_stores([tiny_store.folder, other.folder])
    mixture = Mixture(stores, replace(CONFIG, store_weights=(1.0, 3.0)), seed=0)
    share = np.mean([mixture[i].corpus for i in range(400)])
    assert share == pytest.approx(0.75, abs=0.07)
    foreign = compile_store(tiny_corpus, "train:700", tmp_path / "foreign")
    with pytest.raises(DataError, match="different tokenizers"):
        open_stores([tiny_store.folder, foreign.folder])
