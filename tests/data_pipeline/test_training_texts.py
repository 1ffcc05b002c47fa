"""A tokenizer is trained on what training time has seen, and on every corpus alike."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline import training_texts
from data_pipeline.build import compile_store, train_shared_tokenizer
from data_pipeline.build_config import BuildConfig
from data_pipeline.corpus import Corpus, Field, write_corpus
from data_pipeline.described import describe
from data_pipeline.errors import DataError
from data_pipeline.render import BranchWriter
from data_pipeline.splits import split_corpus
from data_pipeline.store import open_stores
from data_pipeline.tasks import Task, all_tasks, applicable
from data_pipeline.tasks.texts import instruction_text
from data_pipeline.tokenizer import TextEncoder, train_tokenizer

DAY = 86_400_000
N = 40


@pytest.fixture
def dated(tmp_path: Path) -> Corpus:
    """Everything on day n is called by the number n: forty events, searches, tags, reviews."""
    names = [f"{row:02d}" for row in range(N)]
    times = pa.array([1_600_000_000_000 + row * DAY for row in range(N)], pa.timestamp("ms", "UTC"))
    return write_corpus(
        tmp_path / "corpus",
        name="dated",
        items=pa.table({"item_id": names, "title": [f"title{name}" for name in names]}),
        users=pa.table({"user_id": ["u"]}),
        events=pa.table(
            {
                "user_id": ["u"] * N,
                "item_id": names,
                "timestamp": times,
                "action": ["reviewed"] * N,
                "review": [f"pros: review{name} | cons" for name in names],
            }
        ),
        event_fields=[Field(name="review", kind="text")],
        queries=pa.table(
            {
                "query_id": [*names, "train", "validation", "test"],
                "text": [
                    *(f"query{name}" for name in names),
                    "judged-train",
                    "judged-validation",
                    "judged-test",
                ],
            }
        ),
        judgements=pa.table(
            {
                "query_id": ["train", "validation", "test"],
                "item_id": ["00"] * 3,
                "grade": [1.0] * 3,
                "split": ["train", "validation", "test"],
            }
        ),
        searches=pa.table(
            {"user_id": ["u"] * N, "query_id": names, "timestamp": times, "action": ["clicked"] * N}
        ),
        tags=pa.table(
            {"item_id": names, "tag": [f"tag{name}" for name in names], "timestamp": times}
        ),
    )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that tokenizers are trained on."""
    texts: list[str] = []

    def noted(given: Iterator[str], *, vocab_size: int) -> TextEncoder:
        texts.extend(given)
        return train_tokenizer(texts, vocab_size=vocab_size)

    monkeypatch.setattr(training_texts, "train_tokenizer", noted)
    return texts


def test_later_texts_are_not_learned_from(dated: Corpus, seen: list[str], tmp_path: Path) -> None:
    store = compile_store(dated, "train:800", tmp_path / "store")
    last = int(np.flatnonzero(store.event_phase_E == 0)[-1])
    assert 25 < last < N - 5
    words = {word for text in seen for word in text.split()}
    for row in range(N):
        for kind in ("title", "query", "tag", "review"):
            assert (f"{kind}{row:02d}" in words) == (row <= last), (kind, row)
    judged = {word for word in words if word.startswith("judged-")}
    assert judged == {"judged-train"}
    assert "pros review00 cons" in " ".join(next(t for t in seen if "review00" in t).split())


def test_what_is_frequent_is_shown_more_often(
    rich_corpus: Corpus, seen: list[str], tmp_path: Path
) -> None:
    store = compile_store(rich_corpus, "train:1024", tmp_path / "store")
    assert store.tags is not None
    for tag, count in enumerate(store.statistics.tag_count):
        assert seen.count(f": {store.tags.texts[tag]}\n") == round(count**0.5)


def test_no_kind_of_text_grows_without_bound(
    rich_corpus: Corpus, seen: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training_texts, "_MOST_ITEMS", 10)
    monkeypatch.setattr(training_texts, "_MOST_USERS", 7)
    monkeypatch.setattr(training_texts, "_MOST_REVIEWS", 20)
    store = compile_store(rich_corpus, "train:1024", tmp_path / "store")
    titles = {text for text in seen if text.startswith("| The ") and " | " not in text[2:]}
    popular = np.argsort(-store.statistics.item_count_N, kind="stable")[:10]
    expected = {f"| {store.titles[item]}\n" for item in popular}
    assert len(titles & expected) >= 8  # judgements weigh in as well
    assert len(titles) <= 10
    assert sum(text.startswith(": age") for text in seen) <= 7
    assert (
        5
        <= sum(text.startswith(("Dreadful", "Weak", "Fair", "Good", "Won")) for text in seen)
        <= 20
    )


def other_corpus(folder: Path) -> Corpus:
    """A tenth of the rich corpus in size, and in other words."""
    n = 12
    return write_corpus(
        folder,
        name="kitchen",
        item_noun="pan",
        items=pa.table(
            {
                "item_id": [str(row) for row in range(n)],
                "title": [f"Kochtopf Gusseisen {row}" for row in range(n)],
            }
        ),
        users=pa.table({"user_id": [f"u{row}" for row in range(60)]}),
        events=pa.table(
            {
                "user_id": [f"u{row}" for row in range(60)],
                "item_id": [str(row % n) for row in range(60)],
                "timestamp": pa.nulls(60, pa.timestamp("ms", "UTC")),
                "action": ["bought"] * 60,
            }
        ),
    )


def test_one_tokenizer_for_several_corpora(rich_corpus: Corpus, tmp_path: Path) -> None:
    other = other_corpus(tmp_path / "other")
    folder = tmp_path / "tokenizer"
    encoder = train_shared_tokenizer([rich_corpus, other], folder, 1024)
    stores = [
        compile_store(corpus, folder, tmp_path / f"store-{corpus.name}").folder
        for corpus in (rich_corpus, other)
    ]
    opened = open_stores(stores)  # refuses stores of different tokenizers
    assert opened[0].card.tokenizer_fingerprint == encoder.fingerprint
    for store in opened:
        lengths = [len(store.title_tokens(item)) for item in range(store.n_items)]
        characters = [len(title) for title in store.titles]
        assert sum(lengths) < sum(characters) / 2, store.card.corpus_name
    with pytest.raises(DataError, match="exists already"):
        train_shared_tokenizer([other], folder, 1024)


def test_every_corpus_has_the_same_say(
    rich_corpus: Corpus, seen: list[str], tmp_path: Path
) -> None:
    other = other_corpus(tmp_path / "other")
    train_shared_tokenizer([rich_corpus, other], tmp_path / "tokenizer", 1024)
    size = {
        name: sum(len(text) for text in seen if word in text)
        for name, word in (("other", "Kochtopf"), ("rich", " Rivers"))
    }
    # Titles make up most of the one and half of the other, which has reviews and tags as well.
    assert 0.5 < size["rich"] / size["other"] < 1.5
    assert any("about pans" in text for text in seen)
    assert any("about films" in text for text in seen)


def wordings(texts: list[str], task: Task, noun: str) -> list[bool]:
    """Of every phrasing of a task, the held-out ones too, whether it is among the texts."""
    n = len(task.instructions) + len(task.held_out_instructions)
    known = set(texts)
    return [instruction_text(task, phrasing, noun) in known for phrasing in range(n)]


def test_only_questions_that_apply_are_learned_from(
    rich_corpus: Corpus, seen: list[str], tmp_path: Path
) -> None:
    for corpus in (rich_corpus, other_corpus(tmp_path / "other")):
        seen.clear()
        store = compile_store(corpus, "train:1024", tmp_path / f"store-{corpus.name}")
        noun = corpus.card.item_noun
        applies = {name for name, task in all_tasks().items() if applicable(task, store) is None}
        assert applies
        for name, task in all_tasks().items():
            assert set(wordings(seen, task, noun)) == {name in applies}, name
        labels = {label for name in applies for label in all_tasks()[name].labels}
        for task in all_tasks().values():
            for label in task.labels:
                assert (f"{label}: \n" in seen) == (label in labels), label
        # What is learned from is enough: every task that applies can be asked.
        BranchWriter(store, list(all_tasks().values()))
    # Pans are not rated, so nothing is asked about how much they are liked.
    assert "like" not in applies


def test_a_shared_tokenizer_knows_the_questions_of_each_corpus(
    rich_corpus: Corpus, seen: list[str], tmp_path: Path
) -> None:
    other = other_corpus(tmp_path / "other")
    folder = tmp_path / "tokenizer"
    train_shared_tokenizer([other, rich_corpus], folder, 1024)
    like, choice = all_tasks()["like"], all_tasks()["next_item_choice"]
    assert all(wordings(seen, like, "film"))
    assert not all(wordings(seen, like, "pan"))
    assert not all(wordings(seen, choice, "pan"))  # pans have no times
    for corpus in (rich_corpus, other):
        store = compile_store(corpus, folder, tmp_path / f"store-{corpus.name}")
        BranchWriter(store, list(all_tasks().values()))


def test_what_is_described_is_what_the_store_says(
    rich_corpus: Corpus, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """Before there is a tokenizer the same tasks apply as after."""
    for corpus in (rich_corpus, tiny_corpus, other_corpus(tmp_path / "other")):
        config = BuildConfig()
        described = describe(corpus, split_corpus(corpus, config.split), config)
        store = compile_store(corpus, "train:1024", tmp_path / corpus.name)
        for name, task in all_tasks().items():
            assert applicable(task, described) == applicable(task, store), name


def test_no_corpus_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs texts"):
        train_shared_tokenizer([], tmp_path / "tokenizer", 1024)


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 1.0, 1.7, 4.0])
def test_texts_are_repeated_or_left_out_evenly(factor: float) -> None:
    texts = [str(row) for row in range(1_000)]
    found = list(training_texts._resized(texts, factor))
    assert len(found) == round(1_000 * factor)
    counts = {found.count(text) for text in texts}
    assert counts <= {int(factor), int(factor) + 1}


def test_item_weights_fall_back_to_one_each(tmp_path: Path, rich_corpus: Corpus) -> None:
    corpus = write_corpus(
        tmp_path / "corpus",
        name="tagged",
        items=rich_corpus.items,
        item_fields=rich_corpus.card.item_fields,
        links=rich_corpus.table("links"),
    )
    split = split_corpus(corpus, BuildConfig().split)
    assert training_texts.training_weights(corpus, split).tolist() == [1] * 60
