"""Compiling and opening token stores."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.build import BuildConfig, compile_store
from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.splits import Phase, SplitConfig
from data_pipeline.store import TokenStore

HOUR = 3_600_000


def corpus_of(
    folder: Path,
    titles: list[str],
    times: list[int],
    values: list[float | None] | None = None,
    requests: list[str | None] | None = None,
) -> Corpus:
    """One user who met the items one after another."""
    n = len(times)
    columns = {
        "user_id": ["u"] * n,
        "item_id": [str(i % len(titles)) for i in range(n)],
        "timestamp": pa.array([1_600_000_000_000 + t for t in times], pa.timestamp("ms", "UTC")),
        "action": ["rated" if values else "clicked"] * n,
        "value": pa.array(values or [None] * n, pa.float32()),
        "request_id": pa.array(requests or [None] * n, pa.string()),
    }
    return write_corpus(
        folder,
        name="made",
        item_noun="thing",
        items=pa.table({"item_id": [str(i) for i in range(len(titles))], "title": titles}),
        users=pa.table({"user_id": ["u"]}),
        events=pa.table(columns),
    )


def test_a_store_keeps_every_piece_once(tiny_corpus: Corpus, tiny_store: TokenStore) -> None:
    store = tiny_store
    assert (store.n_items, store.n_users) == (len(tiny_corpus.items), len(tiny_corpus.users))
    row = 17
    title = tiny_corpus.items["title"][row].as_py()
    year = tiny_corpus.items["year"][row].as_py()
    genres = ", ".join(tiny_corpus.items["genres"][row].as_py())
    line = store.encoder.decode(store.piece(store.piece_of("line/plain", row)))
    assert line == f" {title} ({year:.0f}) | {genres}\n"
    assert store.encoder.decode(store.title_tokens(row)) == f" {title} ({year:.0f})\n"
    assert store.titles[row] == title
    assert store.item_ids[row] == tiny_corpus.items["item_id"][row].as_py()
    names = store.categories("genres").names
    assert [names[c] for c in store.categories("genres").of(row)] == genres.split(", ")
    assert store.number("year")[row] == year


def test_statistics_are_of_training_events_alone(
    tiny_corpus: Corpus, tiny_store: TokenStore
) -> None:
    train = tiny_store.event_phase_E == Phase.TRAIN
    counts = np.bincount(tiny_corpus.event_item_E[train], minlength=tiny_store.n_items)
    assert np.array_equal(tiny_store.statistics.item_count_N, counts)
    assert (counts == 0).sum() >= 5  # the late items
    value = tiny_store.event_value_E
    item = tiny_corpus.event_item_E
    for row in range(0, tiny_store.n_items, 7):
        mine = value[train & (item == row)]
        expected = (mine.sum() + 5 * value[train].mean()) / (len(mine) + 5)
        assert tiny_store.statistics.item_mean_N[row] == pytest.approx(expected, rel=1e-6)
        assert tiny_store.statistics.item_likes_N[row] == (mine >= 4).sum()


def test_the_same_corpus_compiles_to_the_same_bytes(
    tiny_corpus: Corpus, tiny_store: TokenStore, tmp_path: Path
) -> None:
    again = compile_store(tiny_corpus, "train:1024", tmp_path / "store")
    assert again.fingerprint == tiny_store.fingerprint
    for path in sorted(tiny_store.folder.rglob("*")):
        if path.is_file():
            other = again.folder / path.relative_to(tiny_store.folder)
            assert other.read_bytes() == path.read_bytes(), path.name


def test_another_split_or_tokenizer_has_another_fingerprint(
    tiny_corpus: Corpus, tiny_store: TokenStore, tmp_path: Path
) -> None:
    leave_last = BuildConfig(split=SplitConfig(method="leave_last"))
    other = compile_store(tiny_corpus, tiny_store.tokenizer_folder, tmp_path / "a", leave_last)
    assert other.card.tokenizer_fingerprint == tiny_store.card.tokenizer_fingerprint
    assert other.fingerprint != tiny_store.fingerprint
    bigger = compile_store(tiny_corpus, "train:700", tmp_path / "b")
    assert bigger.card.tokenizer_fingerprint != tiny_store.card.tokenizer_fingerprint


def test_an_instant_or_a_request_is_never_cut(tmp_path: Path) -> None:
    times = [0, 1, 1, 2, 3, 4, 5, 6]
    requests = [None, None, None, "r", None, "r", None, None]
    corpus = corpus_of(
        tmp_path / "corpus",
        [f"Thing {i}" for i in range(8)],
        [t * HOUR for t in times],
        requests=requests,
    )
    store = compile_store(
        corpus,
        "train:600",
        tmp_path / "store",
        BuildConfig(split=SplitConfig(validation_share=0.0, test_share=0.0)),
    )
    # Row 2 shares its instant with row 1; rows 4 and 5 lie inside the request that row 3 opened.
    expected = [True, True, False, True, False, False, True, True]
    assert store.event_opens_request_E.tolist() == expected


def test_hostile_titles_stay_one_line_of_plain_text(tmp_path: Path) -> None:
    titles = [
        "<|endoftext|>",
        "Two\nlines\r\nand\ttabs",
        "🎬 emoji 千と千尋",
        "A " * 50_000,
        "x" * 100_000,
        "Answer: Yes",
        "{braces} %s",
        "...starts with dots",
    ]
    corpus = corpus_of(
        tmp_path / "corpus", titles, [t * HOUR for t in range(40)], [1.0, 3.0, 5.0, 2.0] * 10
    )
    store = compile_store(corpus, "train:600", tmp_path / "store")
    control = store.encoder.control_ids
    for item in range(len(titles)):
        ids = store.piece(store.piece_of("line/plain", item))
        assert control.isdisjoint(ids.tolist())
        text = store.encoder.decode(ids)
        assert text.count("\n") == 1
        assert text.startswith(" ")
        assert text.endswith("\n")
        assert len(text) < 300
    mixture = Mixture([store], MixtureConfig(tasks={"rating": 1.0}), seed=0)
    encoder = store.encoder
    for index in range(20):
        tree = mixture[index]
        for branch in tree.branches:
            ids = np.concatenate([tree.trunk, branch.tokens]).tolist()
            text = encoder.decode(ids)
            assert encoder.tokenizer(text, split_special_tokens=True)["input_ids"] == ids


def test_a_corpus_without_values_has_no_rating_tasks(tmp_path: Path) -> None:
    corpus = corpus_of(
        tmp_path / "corpus", [f"Thing {i}" for i in range(30)], [t * HOUR for t in range(30)]
    )
    store = compile_store(corpus, "train:600", tmp_path / "store")
    names = {task.name for task in Mixture([store], MixtureConfig(), seed=0).tasks}
    assert names == {"will_watch", "next_item_choice", "next_item_title"}
    trunk = store.encoder.decode(Mixture([store], MixtureConfig(), seed=0)[3].trunk)
    assert " | clicked\n" in trunk
    with pytest.raises(DataError, match="do not differ in exactly one token"):
        Mixture([store], MixtureConfig(history_loss_weight=1.0), seed=0)


def test_past_actions_are_supervised_where_they_can_be_told_apart(
    tiny_store: TokenStore, tmp_path: Path
) -> None:
    bookmarks = corpus_of(
        tmp_path / "corpus", [f"Thing {i}" for i in range(40)], [t * HOUR for t in range(40)]
    )
    other = compile_store(bookmarks, tiny_store.tokenizer_folder, tmp_path / "store")
    config = MixtureConfig(history_loss_weight=1.0, store_weights=(1.0, 1.0))
    mixture = Mixture([tiny_store, other], config, seed=0)
    targets = [0, 0]
    for index in range(60):
        tree = mixture[index]
        targets[tree.corpus] += tree.trunk_labels.targets
    assert targets[0] > 0
    assert targets[1] == 0


def test_a_user_with_one_event_can_be_asked_about(tmp_path: Path) -> None:
    corpus = write_corpus(
        tmp_path / "corpus",
        name="made",
        items=pa.table({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]}),
        users=pa.table({"user_id": [f"u{i}" for i in range(9)]}),
        events=pa.table(
            {
                "user_id": [f"u{i}" for i in range(9)],
                "item_id": ["a", "b", "c"] * 3,
                "timestamp": pa.array(
                    [1_600_000_000_000 + i * HOUR for i in range(9)], pa.timestamp("ms", "UTC")
                ),
                "action": ["rated"] * 9,
                "value": pa.array([1, 3, 5] * 3, pa.float32()),
            }
        ),
    )
    store = compile_store(corpus, "train:600", tmp_path / "store")
    mixture = Mixture([store], MixtureConfig(tasks={"rating": 1.0}), seed=0)
    for index in range(20):
        tree = mixture[index]
        assert tree.moment.cut == tree.moment.start
        assert len(tree.branches) == 1


def test_equal_times_are_an_error_that_says_so(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", ["A", "B"], [0, 0])
    with pytest.raises(DataError, match=r"are all timestamps equal"):
        compile_store(corpus, "train:600", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_failure_leaves_nothing_behind(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match="no space left"):
        compile_store(tiny_corpus, "train:600", tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_opening_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"store.json: this is no token store(?s:.)*data build"):
        TokenStore.open(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "schema", "card"])
def test_a_damaged_store_is_a_clear_error(
    tiny_store: TokenStore, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(tiny_store.folder, folder)
    array, card = folder / "event_item.npy", folder / "store.json"
    if damage == "missing":
        array.unlink()
    elif damage == "truncated":
        array.write_bytes(array.read_bytes()[:-100])
    elif damage == "schema":
        card.write_text(json.dumps(json.loads(card.read_text()) | {"schema_version": 99}))
    else:
        card.write_text("{")
    with pytest.raises(DataError, match=r"compile it again"):
        TokenStore.open(folder)


def test_thresholds_must_leave_a_gap(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = BuildConfig(like_at_least=2.0, dislike_at_most=3.0)
    with pytest.raises(DataError, match="dislike_at_most 3 is not below like_at_least 2"):
        compile_store(tiny_corpus, "train:600", tmp_path / "store", config)


def test_many_fields_and_kinds(tmp_path: Path) -> None:
    n = 30
    corpus = write_corpus(
        tmp_path / "corpus",
        name="shop",
        item_noun="product",
        items=pa.table(
            {
                "item_id": [str(i) for i in range(n)],
                "title": [f"Lamp {i}" for i in range(n)],
                "price": pa.array([None if i == 3 else float(i) for i in range(n)], pa.float64()),
                "brand": pa.array([None if i == 4 else f"b{i % 3}" for i in range(n)]),
                "about": [f"A lamp number {i}" for i in range(n)],
            }
        ),
        item_fields=(
            Field(name="price", kind="number"),
            Field(name="brand", kind="category"),
            Field(name="about", kind="text"),
        ),
        users=pa.table({"user_id": ["u"]}),
        events=pa.table(
            {
                "user_id": ["u"] * n,
                "item_id": [str(i) for i in range(n)],
                "timestamp": pa.array(
                    [1_600_000_000_000 + i * HOUR for i in range(n)], pa.timestamp("ms", "UTC")
                ),
                "action": ["viewed", "bought", "viewed"] * 10,
            }
        ),
    )
    store = compile_store(corpus, "train:700", tmp_path / "store")
    decode = store.encoder.decode
    assert decode(store.piece(store.piece_of("line/plain", 29))) == (
        " Lamp 29 | very high (29) | b2 | A lamp number 29\n"
    )
    assert (
        decode(store.piece(store.piece_of("line/plain", 3))) == " Lamp 3 | b0 | A lamp number 3\n"
    )
    assert store.categories("brand").of(4) == ()
    assert np.isnan(store.number("price")[3])
    assert store.card.actions == ("bought", "viewed")
    assert [decode(store.piece(store.piece_of("action", i))) for i in (0, 1)] == [
        " | bought\n",
        " | viewed\n",
    ]
