"""What a tokenizer is trained on: texts as prompts hold them, of training time alone.

Shape letters: N items, Q queries, G distinct tags.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_pipeline.build_config import BuildConfig
from data_pipeline.corpus import Corpus, Field
from data_pipeline.corpus_checks import codes_of
from data_pipeline.described import DescribedCorpus, describe
from data_pipeline.errors import DataError
from data_pipeline.files import atomic_folder, refuse_existing
from data_pipeline.splits import Phase, Split, split_corpus
from data_pipeline.store_tables import REVIEW_KIND
from data_pipeline.tasks import Task, all_tasks, applicable
from data_pipeline.tasks.options import decade_name
from data_pipeline.tasks.texts import answer_texts, prompt_texts
from data_pipeline.tokenizer import TextEncoder, train_tokenizer
from data_pipeline.verbalize import Budget, NumberWords, Verbalizer

log = logging.getLogger(__name__)

_MOST_ANSWER_NAMES: Final = 64
"""A field with more names is answered by letter: its names would crowd the vocabulary."""
_PROMPT_REPEATS: Final = 200
_ANSWER_REPEATS: Final = 4000
# A tokenizer learns nothing more from more of the same kind.
_MOST_ITEMS: Final = 200_000
_MOST_USERS: Final = 50_000
_MOST_REVIEWS: Final = 10_000
_SHARED_CHARACTERS: Final = 8_000_000
_ROWS: Final = 20_000


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """A table's rows, a bounded number of them in memory."""
    for batch in table.to_batches(max_chunksize=_ROWS):
        yield from batch.to_pylist()


def has_reviews(corpus: Corpus) -> bool:
    """Whether events have texts that their users wrote."""
    return Field(name=REVIEW_KIND, kind="text") in corpus.card.event_fields


def training_weights(corpus: Corpus, split: Split) -> NDArray[np.int64]:
    """How often each item is met in training: in events and, where there are any, judgements.

    Where there are neither, every item counts once: nothing of it can be new.
    """
    n_items = len(corpus.items)
    train = split.phase_E == Phase.TRAIN
    weight_N = np.bincount(corpus.event_item_E[train], minlength=n_items)
    if "judgements" in corpus.schemas:
        assert split.queries is not None, "what was judged are queries"
        queries = corpus.column("queries", "query_id")
        query_J = codes_of(corpus.column("judgements", "query_id"), queries)
        item_J = codes_of(corpus.column("judgements", "item_id"), corpus.items["item_id"])
        train_J = split.queries[query_J] == Phase.TRAIN
        weight_N = weight_N + np.bincount(item_J[train_J], minlength=n_items)
    return weight_N if weight_N.any() else np.ones(n_items, np.int64)


def fit_verbalizer(corpus: Corpus, split: Split) -> Verbalizer:
    """Fit percentile words on what training time has seen: no later item or user shifts a word."""
    seen = split.phase_E == Phase.TRAIN
    rows = {
        "item": np.flatnonzero(training_weights(corpus, split)),
        "user": np.unique(corpus.event_user_E[seen]),
    }
    tables = (
        ("item", corpus.items, corpus.card.item_fields),
        ("user", corpus.users, corpus.card.user_fields),
    )
    numbers = {
        f.name: NumberWords(
            table[f.name].to_numpy(zero_copy_only=False).astype(np.float64)[rows[kind]]
        )
        for kind, table, fields in tables
        for f in fields
        if f.kind == "number"
    }
    return Verbalizer(corpus.card.item_fields, corpus.card.user_fields, numbers, Budget())


def train_on_corpus(
    described: DescribedCorpus,
    verbalizer: Verbalizer,
    config: BuildConfig,
    split: Split,
    vocab_size: int,
) -> TextEncoder:
    """Train a tokenizer on one corpus."""

    def texts() -> Iterator[str]:
        yield from _fixed_texts([(described.corpus, _applying(described))])
        yield from _corpus_texts(described.corpus, verbalizer, config, split)

    return train_tokenizer(texts(), vocab_size=vocab_size)


def train_shared_tokenizer(
    corpora: Sequence[Corpus],
    folder: str | Path,
    vocab_size: int,
    config: BuildConfig | None = None,
    *,
    overwrite: bool = False,
) -> TextEncoder:
    """Train one tokenizer for several corpora, each of which has the same say.

    Args:
        corpora: opened corpora; of small ones texts are repeated, of large ones left out.
        folder: where the tokenizer shall be; `compile_store` takes it for each of the corpora.
        vocab_size: tokens of the vocabulary.
        config: split and styles, as the stores will be compiled with.
        overwrite: replace a folder that exists.

    Raises:
        DataError: there is no corpus, one cannot be split, the vocabulary is too small, or the
            folder exists.
    """
    config = config or BuildConfig()
    folder = Path(folder)
    refuse_existing(folder, overwrite)
    if not corpora:
        raise DataError("a tokenizer needs texts", remedy="name at least one corpus")
    splits = [split_corpus(corpus, config.split) for corpus in corpora]
    verbalizers = list(map(fit_verbalizer, corpora, splits))
    applying = [
        _applying(describe(corpus, split, config))
        for corpus, split in zip(corpora, splits, strict=True)
    ]

    def texts(index: int) -> Iterator[str]:
        return _corpus_texts(corpora[index], verbalizers[index], config, splits[index])

    sizes = [max(1, sum(map(len, texts(index)))) for index in range(len(corpora))]
    wanted = min(max(sizes), _SHARED_CHARACTERS)

    def balanced() -> Iterator[str]:
        yield from _fixed_texts(list(zip(corpora, applying, strict=True)))
        for index, size in enumerate(sizes):
            log.info("%s gives %s characters", corpora[index].name, f"{size:,}")
            yield from _resized(texts(index), wanted / size)

    encoder = train_tokenizer(balanced(), vocab_size=vocab_size)
    with atomic_folder(folder, overwrite=overwrite) as temp:
        encoder.save(temp)
    return encoder


def _resized(texts: Iterable[str], factor: float) -> Iterator[str]:
    """Each text `factor` times on average, evenly: all of them often, or every n-th once."""
    for index, text in enumerate(texts):
        for _ in range(int((index + 1) * factor) - int(index * factor)):
            yield text


def _applying(described: DescribedCorpus) -> list[Task]:
    """Tasks whose words prompts of this corpus hold."""
    return [task for task in all_tasks().values() if applicable(task, described) is None]


def _fixed_texts(corpora: Sequence[tuple[Corpus, Sequence[Task]]]) -> Iterator[str]:
    """The prompts' own words, often, as they stand in each prompt.

    Only those of tasks that apply: words of the others would take the room of frequent records.
    Answers come so often that each becomes one token, whatever the size of the vocabulary.
    """
    tasks_of: dict[str, dict[Task, None]] = {}
    for corpus, applying in corpora:
        tasks_of.setdefault(corpus.card.item_noun, {}).update(dict.fromkeys(applying))
    for noun, tasks in tasks_of.items():
        own = prompt_texts(list(tasks), noun)
        for _ in range(_PROMPT_REPEATS):
            yield from own
    names = [name for corpus, _ in corpora for name in _answer_names(corpus)]
    answers = answer_texts([task for tasks in tasks_of.values() for task in tasks], names)
    for _ in range(_ANSWER_REPEATS):
        yield from answers


def _answer_names(corpus: Corpus) -> list[str]:
    """Categories and decades that questions can be answered by, of fields with few of them."""
    names: list[str] = []
    for declared in corpus.card.item_fields:
        column = corpus.items[declared.name]
        if declared.kind == "year":
            years = column.drop_null().to_numpy()
            found = [decade_name(decade) for decade in np.unique(years // 10).astype(int).tolist()]
        elif declared.kind in ("category", "categories"):
            flat = pc.list_flatten(column) if declared.kind == "categories" else column
            found = sorted(pc.unique(flat.drop_null()).to_pylist())
        else:
            continue
        names += found if len(found) <= _MOST_ANSWER_NAMES else []
    return names


def _corpus_texts(
    corpus: Corpus, verbalizer: Verbalizer, config: BuildConfig, split: Split
) -> Iterator[str]:
    """Texts of items, users, queries, tags and reviews.

    What training time has not seen is left out: the tokenizer, too, is frozen at its end.
    """
    weight_N = training_weights(corpus, split)
    chosen_N = weight_N > 0
    if chosen_N.sum() > _MOST_ITEMS:
        order = np.argsort(-weight_N, kind="stable")
        chosen_N[order[_MOST_ITEMS:]] = False
    items = corpus.items.filter(pa.array(chosen_N))
    for row, weight in zip(rows_of(items), weight_N[chosen_N].tolist(), strict=True):
        # By the root of popularity: what prompts show often gets short, and rare items get a say.
        for _ in range(round(weight**0.5)):
            yield from (f"| {verbalizer.record(row, style)}\n" for style in config.styles)
            yield f"| {verbalizer.bare_title(row)}\n"
    n_users = len(corpus.users)
    every = max(1, -(-n_users // _MOST_USERS))
    for row in rows_of(corpus.users.filter(pa.array(np.arange(n_users) % every == 0))):
        yield f": {verbalizer.profile(row)}\n"
    yield from _query_texts(corpus, verbalizer, split)
    yield from _tag_texts(corpus, verbalizer, split)
    yield from _review_texts(corpus, verbalizer, split)


def _query_texts(corpus: Corpus, verbalizer: Verbalizer, split: Split) -> Iterator[str]:
    """Queries whose judgements are learned from, or that were searched in training time."""
    queries = corpus.table("queries")
    if queries is None:
        return
    assert split.queries is not None, "queries are split where there are any"
    count_Q = np.zeros(len(queries), np.int64)
    held_Q = split.queries != Phase.TRAIN
    used_Q = np.zeros(len(queries), bool)
    if "judgements" in corpus.schemas:
        query_J = codes_of(corpus.column("judgements", "query_id"), queries["query_id"])
        used_Q[query_J] = True
        count_Q[used_Q & ~held_Q] = 1
    if "searches" in corpus.schemas:
        query_S = codes_of(corpus.column("searches", "query_id"), queries["query_id"])
        used_Q[query_S] = True
        count_Q += np.bincount(query_S[split.searches == Phase.TRAIN], minlength=len(queries))
    count_Q[~used_Q & ~held_Q] = 1
    yield from _repeated(queries["text"], count_Q, verbalizer.query)


def _tag_texts(corpus: Corpus, verbalizer: Verbalizer, split: Split) -> Iterator[str]:
    if "tags" not in corpus.schemas:
        return
    column = corpus.column("tags", "tag")
    texts = pa.chunked_array([pc.unique(column)])
    tag_A = codes_of(column, texts)
    count_G = np.bincount(tag_A[split.tags == Phase.TRAIN], minlength=len(texts))
    yield from _repeated(texts, count_G, verbalizer.tag)


def _repeated(texts: pa.ChunkedArray, counts: NDArray[np.int64], clean: Any) -> Iterator[str]:
    chosen = np.flatnonzero(counts)
    every = -(-len(chosen) // _MOST_ITEMS) if len(chosen) else 1
    for row in chosen[::every].tolist():
        text = f": {clean(texts[row].as_py())}\n"
        for _ in range(round(float(counts[row]) ** 0.5)):
            yield text


def _review_texts(corpus: Corpus, verbalizer: Verbalizer, split: Split) -> Iterator[str]:
    """Some reviews of training time, evenly spread, as words: a whole one would be one field."""
    if not has_reviews(corpus):
        return
    train = split.phase_E == Phase.TRAIN
    every = max(1, -(-int(train.sum()) // _MOST_REVIEWS))
    place_E = np.cumsum(train) - 1
    row = 0
    for batch in corpus.batches("events", [REVIEW_KIND]):
        rows = slice(row, row + len(batch))
        row += len(batch)
        chosen = train[rows] & (place_E[rows] % every == 0)
        for text in batch.column(0).filter(pa.array(chosen)).drop_null().to_pylist():
            words = verbalizer.review(text).replace(":", " ").replace("|", " ")
            yield f"{words}\n"
