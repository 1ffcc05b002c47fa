"""The pieces of a token store: every text that prompts are put together from, encoded once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.build_config import BuildConfig
from data_pipeline.corpus import Corpus
from data_pipeline.piece_files import PieceWriter
from data_pipeline.store_tables import QUERY_KIND, REVIEW_KIND, SENTENCE_KIND, TAG_KIND
from data_pipeline.tokenizer import Ids, TextEncoder
from data_pipeline.training_texts import has_reviews, rows_of
from data_pipeline.verbalize import AGES, UNTIMED, Verbalizer

_CHUNK: Final = 20_000


def encode_all(
    corpus: Corpus,
    verbalizer: Verbalizer,
    encoder: TextEncoder,
    config: BuildConfig,
    actions: Sequence[str],
    tags: Sequence[str],
    pieces: PieceWriter,
) -> dict[str, int]:
    """Encode every piece; the kinds follow each other, each in the order of its table's rows.

    Returns:
        The first piece of each kind.
    """
    first: dict[str, int] = {}

    def add(kind: str, texts: Iterable[str]) -> None:
        first[kind] = pieces.count
        for chunk in _chunks(texts):
            pieces.extend(encoder.pieces(chunk))

    items, users = corpus.items, corpus.users
    for style in config.styles:
        add(f"inline/{style}", (f" {verbalizer.record(r, style)}" for r in rows_of(items)))
        add(f"line/{style}", (f" {verbalizer.record(r, style)}\n" for r in rows_of(items)))
    add("title", (f" {verbalizer.title(r)}\n" for r in rows_of(items)))
    add("bare", (f" {verbalizer.bare_title(r)}\n" for r in rows_of(items)))
    add("profile", (f" {verbalizer.profile(r)}\n" for r in rows_of(users)))
    ages = [f"{words} |" for _, words in AGES] if corpus.card.has_times else [UNTIMED]
    add("age", ages)
    add("action", (f" | {text}\n" for text in actions))
    queries = corpus.table("queries")
    if queries is not None:
        add(QUERY_KIND, (f" {verbalizer.query(row['text'])}\n" for row in rows_of(queries)))
    if tags:
        add(TAG_KIND, (f" {verbalizer.tag(tag)}\n" for tag in tags))
    if has_reviews(corpus):
        budget = verbalizer.budget
        first[REVIEW_KIND] = pieces.count
        _add_reviews(corpus, verbalizer.review, encoder, budget.review_tokens, pieces)
        first[SENTENCE_KIND] = pieces.count
        _add_reviews(corpus, verbalizer.sentence, encoder, budget.sentence_tokens, pieces)
    return first


def title_lengths(
    corpus: Corpus, verbalizer: Verbalizer, encoder: TextEncoder
) -> NDArray[np.int64]:
    """Tokens of each item's title with its year, as it begins a record; shape [N]."""
    titles = (f" {verbalizer.title(row)}" for row in rows_of(corpus.items))
    lengths = [len(ids) for chunk in _chunks(titles) for ids in encoder.pieces(chunk)]
    return np.array(lengths, np.int64)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _add_reviews(
    corpus: Corpus,
    part: Callable[[str], str],
    encoder: TextEncoder,
    limit: int,
    pieces: PieceWriter,
) -> None:
    """A piece for every event, a part of its review; without a token where nothing was written."""
    for batch in corpus.batches("events", [REVIEW_KIND]):
        texts = [part(text or "") for text in batch.column(0).to_pylist()]
        given = np.array([bool(text) for text in texts])
        lengths = np.zeros(len(texts), np.int64)
        found = within_budget(encoder, [text for text in texts if text], limit)
        lengths[given] = [len(ids) for ids in found]
        pieces.extend_flat(np.concatenate([*found, np.empty(0, np.int32)]), lengths)


def within_budget(encoder: TextEncoder, texts: Sequence[str], limit: int) -> list[Ids]:
    """Encode texts as lines of at most `limit` tokens, cut behind a word where that is possible."""
    left = list(texts)
    pieces = encoder.pieces([f" {text}\n" for text in left])
    long = [i for i, piece in enumerate(pieces) if len(piece) > limit]
    while long:
        for i in long:
            left[i] = _shortened(left[i], limit / len(pieces[i]))
        again = encoder.pieces([f" {left[i]}\n" for i in long])
        for i, piece in zip(long, again, strict=True):
            pieces[i] = piece
        long = [i for i in long if len(pieces[i]) > limit]
    return pieces


def _shortened(text: str, share: float) -> str:
    """About that share of a text, and always less than all of it."""
    words = text.split(" ")
    if len(words) > 1:
        return " ".join(words[: max(1, min(len(words) - 1, int(len(words) * share)))])
    assert len(text) > 1, "a single character is within any budget"
    return text[: max(1, min(len(text) - 1, int(len(text) * share)))]
