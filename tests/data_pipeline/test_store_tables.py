"""Queries, judgements, searches, tags, links, reviews and event fields of token stores."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_rich import EVENT_FIELDS, make_rich_corpus

from data_pipeline.build import BuildConfig, compile_store
from data_pipeline.build_pieces import within_budget
from data_pipeline.build_tables import opens_request
from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.errors import DataError
from data_pipeline.splits import Phase, SplitConfig, split_corpus
from data_pipeline.store import TokenStore
from data_pipeline.store_tables import Names
from data_pipeline.tree import Moment
from data_pipeline.verbalize import Budget, clean_beginning

HOUR = 3_600_000


def rows(corpus: Corpus, name: str) -> list[dict[str, Any]]:
    table = corpus.table(name)
    assert table is not None
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def text(store: TokenStore, piece: int) -> str:
    return store.encoder.decode(store.piece(piece))


# --- tables --------------------------------------------------------------------------------------


def test_plain_stores_have_none_of_it(tiny_store: TokenStore) -> None:
    store = tiny_store
    tables = (store.queries, store.judgements, store.searches, store.tags, store.links)
    assert tables == (None,) * 5
    assert store.card.event_fields == {}
    assert store.card.has_times
    assert len(store.statistics.tag_count) == 0
    assert store.review_piece(0) is None
    with pytest.raises(KeyError):
        store.event_number("hours")


def test_queries_keep_their_texts_ids_and_phases(
    rich_corpus: Corpus, rich_store: TokenStore
) -> None:
    queries = rich_store.queries
    assert queries is not None
    assert queries.n_queries == 42
    assert list(queries.ids) == [row["query_id"] for row in rows(rich_corpus, "queries")]
    assert list(queries.texts) == [row["text"] for row in rows(rich_corpus, "queries")]
    split = split_corpus(rich_corpus, SplitConfig())
    assert split.queries is not None
    assert queries.phase_Q.tolist() == split.queries.tolist()
    assert set(queries.phase_Q.tolist()) == {Phase.TRAIN, Phase.VALIDATION, Phase.TEST}
    for query in (0, 17, 41):
        assert text(rich_store, rich_store.query_piece(query)) == f" {queries.texts[query]}\n"


def test_judgements_stand_by_query(rich_corpus: Corpus, rich_store: TokenStore) -> None:
    store, table = rich_store, rich_store.judgements
    assert table is not None
    assert store.queries is not None
    given = rows(rich_corpus, "judgements")
    given.sort(key=lambda row: list(store.queries.ids).index(row["query_id"]))  # type: ignore[union-attr]
    found = [
        {
            "query_id": store.queries.ids[table.query_J[row]],
            "item_id": store.item_ids[table.item_J[row]],
            "grade": float(table.grade_J[row]),
            "label": table.labels[table.label_J[row]],
            "split": None,
        }
        for row in range(len(table.query_J))
    ]
    assert found == given
    assert (table.phase_J == store.queries.phase_Q[table.query_J]).all()
    assert all(set(table.query_J[list(table.of(q))]) == {q} for q in range(42))
    assert list(table.labels) == ["complement", "exact", "irrelevant", "substitute"]


def test_searches_stand_as_in_the_corpus(rich_corpus: Corpus, rich_store: TokenStore) -> None:
    store, table = rich_store, rich_store.searches
    assert table is not None
    assert store.queries is not None
    given = rows(rich_corpus, "searches")
    for row, expected in enumerate(given):
        assert store.user_ids[table.user_S[row]] == expected["user_id"]
        assert store.queries.ids[table.query_S[row]] == expected["query_id"]
        assert store.item_ids[table.item_S[row]] == expected["item_id"]
        assert table.actions[table.action_S[row]] == expected["action"]
        assert table.position_S[row] == expected["position"]
        assert table.time_S[row] == round(expected["timestamp"].timestamp() * 1000)
        before = given[row - 1]["request_id"] if row else None
        assert table.opens_request_S[row] == (before != expected["request_id"])
    for user in (0, 60, 119):
        assert set(table.user_S[list(table.of(user))]) <= {user}
    assert table.offsets_U1[-1] == len(given)
    split = split_corpus(rich_corpus, SplitConfig())
    assert split.searches is not None
    assert table.phase_S.tolist() == split.searches.tolist()


def test_tags_stand_by_item(rich_corpus: Corpus, rich_store: TokenStore) -> None:
    store, table = rich_store, rich_store.tags
    assert table is not None
    given = rows(rich_corpus, "tags")
    for row in given:
        row["timestamp"] = row["timestamp"] and round(row["timestamp"].timestamp() * 1000)
    given.sort(key=lambda row: store.item_ids.index(row["item_id"]))
    found = [
        {
            "item_id": store.item_ids[table.item_A[row]],
            "tag": table.texts[table.tag_A[row]],
            "user_id": store.user_ids[table.user_A[row]] if table.user_A[row] >= 0 else None,
            "timestamp": int(table.time_A[row]) if table.time_A[row] >= 0 else None,
            "weight": None if np.isnan(table.weight_A[row]) else float(table.weight_A[row]),
        }
        for row in range(len(table.tag_A))
    ]
    assert found == given
    assert table.n_tags == len(set(table.texts)) == 13
    for tag in range(table.n_tags):
        assert text(store, store.tag_piece(tag)) == f" {table.texts[tag]}\n"


def test_links_stand_by_item(rich_corpus: Corpus, rich_store: TokenStore) -> None:
    store, table = rich_store, rich_store.links
    assert table is not None
    found = [
        (item, store.item_ids[table.other_L[row]], table.relations[table.relation_L[row]])
        for n, item in enumerate(store.item_ids)
        for row in table.of(n)
    ]
    given = [
        (row["item_id"], row["other_id"], row["relation"]) for row in rows(rich_corpus, "links")
    ]
    assert sorted(found) == sorted(given)
    assert np.isnan(table.weight_L).all()


def test_missing_parts_have_their_signs(
    tmp_path: Path, rich_corpus: Corpus, rich_store: TokenStore
) -> None:
    """A search without item, a judgement without label: -1; a number that is not there: NaN."""
    queries = rich_corpus.table("queries")
    corpus = write_corpus(
        tmp_path / "corpus",
        name="bare",
        items=rich_corpus.items,
        item_fields=rich_corpus.card.item_fields,
        users=rich_corpus.users,
        user_fields=rich_corpus.card.user_fields,
        events=rich_corpus.events.select(["user_id", "item_id", "timestamp", "action"]),
        queries=queries,
        judgements=pa.table(
            {
                "query_id": ["q-war", "q-war"],
                "item_id": ["i1", "i2"],
                "grade": [1.0, 0.0],
                "label": ["exact", None],
                "split": ["test", "test"],
            }
        ),
        searches=pa.table(
            {
                "user_id": ["u1"],
                "query_id": ["q-war"],
                "timestamp": pa.array([1_500_000_000_000], pa.timestamp("ms", "UTC")),
                "action": ["clicked"],
            }
        ),
    )
    store = compile_store(corpus, rich_store.tokenizer_folder, tmp_path / "store")
    assert store.searches is not None
    assert store.judgements is not None
    assert store.searches.item_S.tolist() == [-1]
    assert np.isnan(store.searches.position_S).all()
    assert store.judgements.label_J.tolist() == [0, -1]
    assert store.judgements.phase_J.tolist() == [Phase.TEST, Phase.TEST]
    assert (store.tags, store.links) == (None, None)


def test_tags_are_counted_up_to_the_end_of_training(rich_store: TokenStore) -> None:
    tags = rich_store.tags
    assert tags is not None
    end = rich_store.card.split["train_end"]
    early = tags.tag_A[tags.time_A < end]  # -1, unknown, included
    assert len(early) < len(tags.tag_A)
    counts = np.bincount(early, minlength=tags.n_tags)
    assert rich_store.statistics.tag_count.tolist() == counts.tolist()


# --- event fields --------------------------------------------------------------------------------


def test_event_fields_follow_the_events(rich_corpus: Corpus, rich_store: TokenStore) -> None:
    assert rich_store.card.event_fields == {field.name: field.kind for field in EVENT_FIELDS}
    for field in EVENT_FIELDS:
        given = rich_corpus.events[field.name].to_pylist()
        if field.kind == "number":
            found = rich_store.event_number(field.name)
            assert found.dtype == np.float32
            expected = np.array([np.nan if value is None else value for value in given], np.float32)
            assert np.array_equal(found, expected, equal_nan=True)
            assert np.isnan(found).any() or field.name == "hours"
        elif field.kind == "category":
            category = rich_store.event_category(field.name)
            assert list(category.names) == ["no", "yes"]
            found_texts = [category.names[c] if c >= 0 else None for c in category.codes_E.tolist()]
            assert found_texts == given
    with pytest.raises(KeyError):
        rich_store.event_number("recommended")
    with pytest.raises(KeyError):
        rich_store.event_category("hours")


def test_a_review_is_a_piece_of_its_event(rich_corpus: Corpus, rich_store: TokenStore) -> None:
    given = rich_corpus.events["review"].to_pylist()
    seen = 0
    for event, review in enumerate(given):
        piece = rich_store.review_piece(event)
        assert (piece is None) == (review is None)
        if piece is not None:
            seen += 1
            assert text(rich_store, piece) == f" {review}\n"
            assert rich_store.encoder.control_ids.isdisjoint(rich_store.piece(piece).tolist())
    assert seen > 2_000
    pieces = [rich_store.constant("Review:"), rich_store.review_piece(0) or 0]
    ids, lengths = rich_store.gather(pieces)
    assert ids.tolist() == [*rich_store.piece(pieces[0]), *rich_store.piece(pieces[1])]
    assert lengths.tolist() == [len(rich_store.piece(piece)) for piece in pieces]


def test_reviews_are_cut_to_their_budget(tmp_path: Path) -> None:
    reviews = [
        "word " * 3_000,
        "x" * 50_000,
        "😀" * 2_000,
        "short",
        None,
        "\u00a0",
        "one:two|three " * 300,
        "fine",
    ]
    n = len(reviews)
    times = pa.array(
        [1_600_000_000_000 + row * HOUR for row in range(n)], pa.timestamp("ms", "UTC")
    )
    corpus = write_corpus(
        tmp_path / "corpus",
        name="shop",
        items=pa.table({"item_id": ["a", "b"], "title": ["A", "B"]}),
        users=pa.table({"user_id": ["u"]}),
        events=pa.table(
            {
                "user_id": ["u"] * n,
                "item_id": ["a", "b"] * (n // 2),
                "timestamp": times,
                "action": ["reviewed"] * n,
                "review": reviews,
            }
        ),
        event_fields=[Field(name="review", kind="text")],
    )
    config = BuildConfig(split=SplitConfig(validation_share=0, test_share=0))
    store = compile_store(corpus, "train:600", tmp_path / "store", config)
    lengths = [len(store.piece(store.piece_of("review", event))) for event in range(n)]
    assert max(lengths) <= Budget().review_tokens
    assert [length > 0 for length in lengths] == [True, True, True, True, False, False, True, True]
    assert min(lengths[:3]) > Budget().review_tokens // 3, "the budget is used"
    for event in (0, 6):
        shown = text(store, store.piece_of("review", event))
        assert shown.endswith("\n")
        assert str(reviews[event]).startswith(shown.strip())
        assert str(reviews[event])[len(shown.strip())] == " ", "cut behind a word"


VISIBLE = st.text(max_size=80).map(lambda t: clean_beginning(t, 60)).filter(bool)


@settings(max_examples=80, deadline=None)
@given(st.lists(VISIBLE, max_size=6), st.integers(8, 40))
def test_texts_are_cut_to_any_budget(rich_store: TokenStore, texts: list[str], limit: int) -> None:
    encoder = rich_store.encoder
    for given_text, ids in zip(texts, within_budget(encoder, texts, limit), strict=True):
        whole = encoder.piece(f" {given_text}\n")
        assert len(ids) <= limit
        if len(whole) <= limit:
            assert ids.tolist() == whole.tolist()
        shown = encoder.decode(ids)
        assert shown[0] == " "
        assert shown[-1] == "\n"
        assert given_text.startswith(shown[1:-1])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.integers(1, 60))
def test_beginnings_are_one_line_within_their_characters(given_text: str, characters: int) -> None:
    kept = clean_beginning(given_text, characters)
    assert len(kept) <= characters
    assert kept == " ".join(kept.split())
    assert not set(kept) & set("\n\r\t\x00\x85\u2028\u2029")
    visible = "".join(c for c in given_text if c.isprintable() and not c.isspace())
    shown = "".join(c for c in kept if c.isprintable() and not c.isspace())
    assert visible.startswith(shown)


# --- without times, without events ---------------------------------------------------------------


@pytest.fixture(scope="module")
def untimed(tmp_path_factory: pytest.TempPathFactory, rich_store: TokenStore) -> TokenStore:
    folder = tmp_path_factory.mktemp("untimed")
    corpus = make_rich_corpus(folder / "corpus", has_times=False, users=60)
    return compile_store(corpus, rich_store.tokenizer_folder, folder / "store")


def test_histories_without_times_leave_the_age_out(untimed: TokenStore) -> None:
    assert not untimed.card.has_times
    assert set(untimed.event_time_E.tolist()) == {-1}
    assert untimed.card.split["method"] == "by_user"
    first = int(untimed.user_offsets_U1[3])
    moment = Moment(user=3, start=first, cut=first + 4, stop=first + 6, time=-1)
    trunk, spans = untimed.trunk(moment, "plain", 500)
    lines = untimed.encoder.decode(trunk).splitlines()
    history = lines[lines.index("History:") + 1 :]
    assert len(history) == 4
    for line, row in zip(history, range(first, first + 4), strict=True):
        item = untimed.event_item_E[row]
        record = text(untimed, untimed.piece_of("inline/plain", item))
        action = text(untimed, untimed.piece_of("action", int(untimed.event_action_E[row])))
        assert line + "\n" == f"|{record}{action}"
    alone = untimed.encoder.tokenizer(untimed.encoder.decode(trunk), split_special_tokens=True)[
        "input_ids"
    ]
    assert alone == trunk.tolist()
    assert len(spans.records) == 4


def test_without_times_only_requests_belong_together(untimed: TokenStore) -> None:
    opens = untimed.event_opens_request_E
    rated = untimed.card.actions.index("rated")
    of_rated = opens[untimed.event_action_E >= 0][: int(untimed.user_offsets_U1[1])]
    assert rated == 1
    assert of_rated[:40].all()
    assert not opens.all()


def test_judged_queries_alone_make_a_store(tmp_path: Path, rich_corpus: Corpus) -> None:
    corpus = write_corpus(
        tmp_path / "corpus",
        name="judged",
        items=rich_corpus.items,
        item_fields=rich_corpus.card.item_fields,
        queries=rich_corpus.table("queries"),
        judgements=rich_corpus.table("judgements"),
    )
    store = compile_store(corpus, "train:1024", tmp_path / "store")
    assert (store.n_users, store.n_events, store.n_items) == (0, 0, 60)
    assert store.judgements is not None
    assert len(store.judgements.item_J) == 504
    assert not store.card.has_times
    title = text(store, store.piece_of("title", 5))
    assert len(store.title_tokens(5)) < len(title) / 2, "the tokenizer has seen the titles"


# --- requests ------------------------------------------------------------------------------------


def test_requests_open_as_a_walk_over_the_rows_says() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        n = 40
        user = np.sort(rng.integers(0, 3, n)).astype(np.int32)
        time = np.array(sorted(zip(user, rng.integers(0, 25, n), strict=True)))[:, 1]
        names = [None if rng.random() < 0.3 else f"r{rng.integers(6)}" for _ in range(n)]
        column = pa.chunked_array([names[:7], names[7:]], pa.string())
        for has_times in (True, False):
            found = opens_request(user, time.astype(np.int64), column, has_times=has_times)
            last = {}
            for row in range(n):
                last[user[row], names[row] or -row - 1] = row
            open_until = -1
            for row in range(n):
                tied = (
                    has_times and row and (user[row], time[row]) == (user[row - 1], time[row - 1])
                )
                assert found[row] == (not tied and row > open_until)
                open_until = max(open_until, last[user[row], names[row] or -row - 1])


# --- files ---------------------------------------------------------------------------------------


def test_the_same_corpus_compiles_to_the_same_bytes(
    rich_corpus: Corpus, rich_store: TokenStore, tmp_path: Path
) -> None:
    again = compile_store(rich_corpus, "train:1024", tmp_path / "store")
    assert again.fingerprint == rich_store.fingerprint
    for path in sorted(rich_store.folder.rglob("*")):
        if path.is_file():
            other = again.folder / path.relative_to(rich_store.folder)
            assert other.read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    "name",
    [
        "judgements/grade_J.npy",
        "searches/actions.parquet",
        "tags/texts.parquet",
        "queries/texts.parquet",
        "event_fields/hours.number.npy",
        "event_fields/finished/codes_E.npy",
        "piece_offsets.npy",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_table_is_a_clear_error(
    rich_store: TokenStore, tmp_path: Path, name: str, damage: str
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(rich_store.folder, folder)
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-40])
    with pytest.raises(DataError, match="compile it again"):
        TokenStore.open(folder)


def test_names_are_read_when_asked_for(tmp_path: Path) -> None:
    Names(["a", "b\nc", "😀"]).save(tmp_path / "names.parquet")
    names = Names(tmp_path / "names.parquet")
    assert len(names) == 3
    assert "_names" not in names.__dict__
    assert list(names) == ["a", "b\nc", "😀"]
    assert names[1:] == ["b\nc", "😀"]
    assert "a" in names
    assert names.index("😀") == 2


TYPED = st.text(min_size=1, max_size=30).filter(lambda t: bool(clean_beginning(t, 30)))


@settings(max_examples=8, deadline=None)
@given(
    st.lists(TYPED, min_size=12, max_size=12),
    st.lists(st.text(max_size=60), min_size=12, max_size=12),
)
def test_any_strings_stay_one_line_of_plain_text(
    rich_store: TokenStore,
    tmp_path_factory: pytest.TempPathFactory,
    words: list[str],
    reviews: list[str],
) -> None:
    """Whatever people type, its piece joins to what the tokenizer itself gives for the text."""
    folder = tmp_path_factory.mktemp("any")
    n = len(words)
    numbers = [str(row) for row in range(n)]
    times = pa.array(
        [1_600_000_000_000 + row * HOUR for row in range(n)], pa.timestamp("ms", "UTC")
    )
    corpus = write_corpus(
        folder / "corpus",
        name="any",
        items=pa.table({"item_id": numbers, "title": numbers}),
        users=pa.table({"user_id": ["u"]}),
        events=pa.table(
            {
                "user_id": ["u"] * n,
                "item_id": numbers,
                "timestamp": times,
                "action": ["reviewed"] * n,
                "review": reviews,
            }
        ),
        event_fields=[Field(name="review", kind="text")],
        queries=pa.table({"query_id": numbers, "text": words}),
        tags=pa.table({"item_id": numbers, "tag": words}),
    )
    config = BuildConfig(split=SplitConfig(validation_share=0, test_share=0))
    store = compile_store(corpus, rich_store.tokenizer_folder, folder / "store", config)
    assert store.tags is not None
    pieces = [store.query_piece(row) for row in range(n)]
    pieces += [store.tag_piece(int(tag)) for tag in store.tags.tag_A]
    pieces += [piece for row in range(n) if (piece := store.review_piece(row)) is not None]
    for piece in pieces:
        ids = [*store.piece(store.constant("Text:")), *store.piece(piece)]
        shown = store.encoder.decode(ids)
        assert shown.startswith("Text: ")
        assert shown.count("\n") == 1
        assert shown.endswith("\n")
        assert store.encoder.tokenizer(shown, split_special_tokens=True)["input_ids"] == ids
        assert store.encoder.control_ids.isdisjoint(ids)
