"""Compile a corpus into a token store: `brewhouse data build`."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from data_pipeline.corpus import Corpus
from data_pipeline.errors import DataError
from data_pipeline.files import atomic_folder, fingerprint
from data_pipeline.splits import Phase, Split, SplitConfig, split_events
from data_pipeline.statistics import Statistics, compute_statistics
from data_pipeline.store import (
    CARD_FILE,
    SCHEMA_VERSION,
    TOKENIZER_FOLDER,
    StoreCard,
    TokenStore,
)
from data_pipeline.tasks.options import decade_name
from data_pipeline.tasks.texts import answer_texts, prompt_texts
from data_pipeline.tokenizer import Ids, TextEncoder, train_tokenizer
from data_pipeline.verbalize import AGES, Budget, NumberWords, Verbalizer, action_text

log = logging.getLogger(__name__)

TRAIN_PREFIX: Final = "train:"
_CHUNK: Final = 20_000
_MOST_ANSWER_NAMES: Final = 64
"""A field with more names is answered by letter: its names would crowd the vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class BuildConfig:
    """How a corpus is compiled."""

    split: SplitConfig = field(default_factory=SplitConfig)
    """Which events may be learned from, and which are asked about."""

    like_at_least: float | None = None
    """Value from which an event is a like; None: three quarters up the corpus's scale."""

    dislike_at_most: float | None = None
    """Value up to which an event is a dislike; None: one quarter up the corpus's scale."""

    styles: tuple[Literal["plain", "labelled"], ...] = ("plain", "labelled")
    """Verbalisation styles to compile; a mixture chooses among them."""


def compile_store(
    corpus: Corpus,
    tokenizer: str | Path,
    folder: str | Path,
    config: BuildConfig | None = None,
    *,
    overwrite: bool = False,
) -> TokenStore:
    """Compile a corpus for one tokenizer into a folder that appears whole or not at all.

    Args:
        corpus: an opened corpus.
        tokenizer: `train:VOCAB_SIZE` trains one on the corpus; else a folder or hub id.
        folder: where the store shall be.
        config: split, thresholds and styles.
        overwrite: replace a folder that exists.

    Raises:
        DataError: the corpus has no training events, the tokenizer cannot be loaded or does not
            split where prompts are cut, or the folder exists.
    """
    config = config or BuildConfig()
    folder = Path(folder)
    split = split_events(corpus.user_offsets_U1, corpus.time_E, config.split)
    if not (split.phase_E == Phase.TRAIN).any():
        raise DataError(
            "no event falls into training time",
            file=corpus.folder,
            remedy="lower validation_share, test_share or gap_days",
        )
    with atomic_folder(folder, overwrite=overwrite) as temp:
        _compile(corpus, str(tokenizer), temp, config, split)
    store = TokenStore.open(folder)
    log.info("token store %s: %s", folder, store.card.counts)
    return store


def _compile(corpus: Corpus, tokenizer: str, temp: Path, config: BuildConfig, split: Split) -> None:
    verbalizer = _fit_verbalizer(corpus, split)
    encoder = _encoder(corpus, tokenizer, verbalizer, config, split)
    encoder.save(temp / TOKENIZER_FOLDER)
    values_E = corpus.events["value"].to_numpy(zero_copy_only=False).astype(np.float32)
    action_E, actions = _actions(corpus, values_E)
    pieces = _Pieces()
    first_piece, title_lengths = _encode_all(corpus, verbalizer, encoder, config, actions, pieces)
    pieces.save(temp)
    like, dislike = _thresholds(corpus.card.values, config)
    statistics = _statistics(corpus, split, values_E, like)
    (temp / "statistics").mkdir()
    statistics.save(temp / "statistics")
    _save_fields(corpus, temp / "fields")
    arrays = {
        "title_lengths": title_lengths,
        "user_offsets": corpus.user_offsets_U1,
        "train_stops": _train_stops(corpus, split),
        "event_item": corpus.event_item_E,
        "event_time": corpus.time_E,
        "event_action": action_E,
        "event_value": values_E,
        "event_phase": split.phase_E,
        "event_opens_request": _opens_request(corpus),
    }
    for name, array in arrays.items():
        np.save(temp / f"{name}.npy", array, allow_pickle=False)
    pq.write_table(corpus.items.select(["item_id", "title"]), temp / "items.parquet")
    pq.write_table(corpus.users.select(["user_id"]), temp / "users.parquet")
    card = _card(corpus, encoder, config, split, first_piece, (like, dislike))
    card |= {
        "action_label_offset": _label_offset(encoder, actions),
        "counts": {
            "items": len(corpus.items),
            "users": len(corpus.users),
            "events": len(corpus.events),
            "pieces": pieces.count,
            "tokens": pieces.tokens,
        },
    }
    validated = TypeAdapter(StoreCard).validate_python(card)
    (temp / CARD_FILE).write_bytes(TypeAdapter(StoreCard).dump_json(validated, indent=2))


def _card(
    corpus: Corpus,
    encoder: TextEncoder,
    config: BuildConfig,
    split: Split,
    first_piece: dict[str, int],
    thresholds: tuple[float | None, float | None],
) -> dict[str, Any]:
    fields = corpus.card.item_fields
    verbalisation = {"styles": config.styles, "thresholds": thresholds, "budget": asdict(Budget())}
    parts = [corpus.fingerprint, encoder.fingerprint, split.hash, verbalisation, SCHEMA_VERSION]
    return {
        "schema_version": SCHEMA_VERSION,
        "corpus_name": corpus.name,
        "corpus_fingerprint": corpus.fingerprint,
        "tokenizer_fingerprint": encoder.fingerprint,
        "fingerprint": fingerprint(parts),
        "item_noun": corpus.card.item_noun,
        "source": corpus.card.source,
        "licence": corpus.card.licence,
        "values": corpus.card.values,
        "actions": corpus.card.actions,
        "like_at_least": thresholds[0],
        "dislike_at_most": thresholds[1],
        "styles": config.styles,
        "user_fields": tuple(f.name for f in corpus.card.user_fields),
        "category_fields": tuple(f.name for f in fields if f.kind in ("category", "categories")),
        "number_fields": tuple(f.name for f in fields if f.kind == "number"),
        "year_fields": tuple(f.name for f in fields if f.kind == "year"),
        "first_piece": first_piece,
        "vocab_size": encoder.vocab_size,
        "split": {**split.card, "hash": split.hash},
    }


# Text


def _fit_verbalizer(corpus: Corpus, split: Split) -> Verbalizer:
    """Fit percentile words on what training time has seen: no later item or user shifts a word."""
    seen = split.phase_E == Phase.TRAIN
    rows = {
        "item": np.unique(corpus.event_item_E[seen]),
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


def _encoder(
    corpus: Corpus, tokenizer: str, verbalizer: Verbalizer, config: BuildConfig, split: Split
) -> TextEncoder:
    if not tokenizer.startswith(TRAIN_PREFIX):
        return TextEncoder.load(tokenizer)
    size = tokenizer.removeprefix(TRAIN_PREFIX)
    if not size.isdecimal():
        raise DataError(
            "the vocabulary size is no number", value=tokenizer, remedy="write train:4096"
        )
    texts = _training_texts(corpus, verbalizer, config, split)
    return train_tokenizer(texts, vocab_size=int(size))


def _training_texts(
    corpus: Corpus, verbalizer: Verbalizer, config: BuildConfig, split: Split
) -> Iterator[str]:
    """Texts that prompts hold while training; their own words often, as they stand in each prompt.

    Answers come so often that each becomes one token, whatever the size of the vocabulary. Items
    without a training event are left out: the tokenizer, too, is frozen at the end of training.
    """
    own = prompt_texts(corpus.card.item_noun)
    for _ in range(200):
        yield from own
    answers = answer_texts(_answer_names(corpus))
    for _ in range(4000):
        yield from answers
    train = split.phase_E == Phase.TRAIN
    counts = np.bincount(corpus.event_item_E[train], minlength=len(corpus.items))
    for row, count in zip(_rows(corpus.items), counts.tolist(), strict=True):
        # By the root of popularity: what prompts show often gets short, and rare items get a say.
        for _ in range(round(count**0.5)):
            yield from (f"| {verbalizer.record(row, style)}\n" for style in config.styles)
            yield f"| {verbalizer.bare_title(row)}\n"
    for row in _rows(corpus.users):
        yield f": {verbalizer.profile(row)}\n"


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


def _encode_all(
    corpus: Corpus,
    verbalizer: Verbalizer,
    encoder: TextEncoder,
    config: BuildConfig,
    actions: Sequence[str],
    pieces: "_Pieces",
) -> tuple[dict[str, int], NDArray[np.int64]]:
    """Encode every piece; the kinds follow each other, each in the order of its table's rows."""
    first: dict[str, int] = {}

    def add(kind: str, texts: Iterator[str]) -> None:
        first[kind] = pieces.count
        chunk: list[str] = []
        for text in texts:
            chunk.append(text)
            if len(chunk) == _CHUNK:
                pieces.extend(encoder.pieces(chunk))
                chunk = []
        pieces.extend(encoder.pieces(chunk))

    for style in config.styles:
        add(f"inline/{style}", (f" {verbalizer.record(r, style)}" for r in _rows(corpus.items)))
        add(f"line/{style}", (f" {verbalizer.record(r, style)}\n" for r in _rows(corpus.items)))
    add("title", (f" {verbalizer.title(r)}\n" for r in _rows(corpus.items)))
    add("bare", (f" {verbalizer.bare_title(r)}\n" for r in _rows(corpus.items)))
    add("profile", (f" {verbalizer.profile(r)}\n" for r in _rows(corpus.users)))
    add("age", (f"{words} |" for _, words in AGES))
    add("action", (f" | {text}\n" for text in actions))
    titles = encoder.pieces([f" {verbalizer.title(r)}" for r in _rows(corpus.items)])
    lengths = np.array([len(ids) for ids in titles], np.int64)
    return first, lengths


def _label_offset(encoder: TextEncoder, actions: Sequence[str]) -> int | None:
    """Find the one token by which action pieces differ; None where they differ in more."""
    encoded = encoder.pieces([f" | {text}\n" for text in actions])
    if len(encoded) < 2 or len({len(ids) for ids in encoded}) > 1:
        return None
    table = np.stack(encoded)
    differing = np.flatnonzero((table != table[0]).any(axis=0))
    if len(differing) != 1 or len(np.unique(table[:, differing[0]])) != len(actions):
        return None
    return int(differing[0])


# Events


def _actions(corpus: Corpus, values_E: NDArray[np.float32]) -> tuple[NDArray[np.int16], list[str]]:
    """Number the distinct (action, value) pairs, in the order of actions, then values."""
    encoded = pc.dictionary_encode(corpus.events["action"].combine_chunks())
    names = encoded.dictionary.to_pylist()
    code_E = encoded.indices.to_numpy(zero_copy_only=False)
    rank = np.argsort(np.argsort(names))
    keys = np.stack([rank[code_E].astype(np.float64), np.nan_to_num(values_E, nan=-np.inf)], axis=1)
    distinct, action_E = np.unique(keys, axis=0, return_inverse=True)
    ordered = sorted(names)
    texts = [
        action_text(ordered[int(code)], None if np.isneginf(value) else float(value))
        for code, value in distinct
    ]
    if len(texts) > np.iinfo(np.int16).max:
        raise DataError(
            f"events have {len(texts):,} distinct actions and values",
            file=corpus.folder,
            column="value",
            remedy="put continuous values into buckets before importing",
        )
    return action_E.reshape(-1).astype(np.int16), texts


def _opens_request(corpus: Corpus) -> NDArray[np.bool_]:
    """Mark events that no earlier event of their request, or of the same instant, precedes."""
    time, user = corpus.time_E, corpus.event_user_E
    opens = np.ones(len(time), bool)
    new_user = user[1:] != user[:-1]
    opens[1:] = new_user | (time[1:] > time[:-1])
    if corpus.events["request_id"].null_count < len(time):
        request = pc.dictionary_encode(
            pc.fill_null(corpus.events["request_id"].combine_chunks(), "")
        )
        code = request.indices.to_numpy(zero_copy_only=False)
        named = request.dictionary.to_numpy(zero_copy_only=False)[code] != ""
        key = user.astype(np.int64) * (len(request.dictionary) + 1) + code
        key[~named] = -1 - np.flatnonzero(~named)
        # A row is inside a request when the request began before it and has not ended yet.
        _, inverse = np.unique(key, return_inverse=True)
        rows = np.arange(len(key))
        last = np.zeros(inverse.max() + 1, np.int64)
        np.maximum.at(last, inverse, rows)
        open_until = np.maximum.accumulate(last[inverse])
        opens[1:] &= open_until[:-1] < rows[1:]
    return opens


def _train_stops(corpus: Corpus, split: Split) -> NDArray[np.int64]:
    """Row behind each user's last training event; training events come first in every split."""
    train = split.phase_E == Phase.TRAIN
    counts = np.bincount(corpus.event_user_E[train], minlength=len(corpus.users))
    stops: NDArray[np.int64] = corpus.user_offsets_U1[:-1] + counts
    return stops


def _statistics(
    corpus: Corpus, split: Split, values_E: NDArray[np.float32], like: float | None
) -> Statistics:
    train = split.phase_E == Phase.TRAIN
    return compute_statistics(
        user_E=corpus.event_user_E[train],
        item_E=corpus.event_item_E[train],
        value_E=values_E[train],
        n_users=len(corpus.users),
        n_items=len(corpus.items),
        values=corpus.card.values,
        like_at_least=like,
    )


def _thresholds(
    values: tuple[float, ...], config: BuildConfig
) -> tuple[float | None, float | None]:
    if len(values) < 3:
        return config.like_at_least, config.dislike_at_most
    low, span = values[0], values[-1] - values[0]
    like = config.like_at_least if config.like_at_least is not None else low + 0.75 * span
    dislike = config.dislike_at_most if config.dislike_at_most is not None else low + 0.25 * span
    if dislike >= like:
        raise DataError(
            f"dislike_at_most {dislike:g} is not below like_at_least {like:g}",
            remedy="leave a gap between them",
        )
    return like, dislike


# Files


def _save_fields(corpus: Corpus, folder: Path) -> None:
    folder.mkdir()
    for spec in corpus.card.item_fields:
        column = corpus.items[spec.name].combine_chunks()
        if spec.kind in ("number", "year"):
            values = column.to_numpy(zero_copy_only=False).astype(np.float64)
            np.save(folder / f"{spec.name}.number.npy", values, allow_pickle=False)
        elif spec.kind in ("category", "categories"):
            lists = [
                (value if isinstance(value, list) else [value]) if value is not None else []
                for value in column.to_pylist()
            ]
            names = sorted({name for row in lists for name in row if name})
            code = {name: i for i, name in enumerate(names)}
            codes = [[code[name] for name in row if name] for row in lists]
            offsets = np.cumsum([0, *map(len, codes)])
            flat = np.array([c for row in codes for c in row], np.int32)
            np.save(folder / f"{spec.name}.offsets.npy", offsets, allow_pickle=False)
            np.save(folder / f"{spec.name}.codes.npy", flat, allow_pickle=False)
            table = pa.table({"name": pa.array(names, pa.string())})
            pq.write_table(table, folder / f"{spec.name}.names.parquet")


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=_CHUNK):
        yield from batch.to_pylist()


class _Pieces:
    """Collects pieces; written as one flat array of ids and the offsets into it."""

    def __init__(self) -> None:
        self._parts: list[Ids] = []
        self._lengths: list[int] = []

    @property
    def count(self) -> int:
        return len(self._lengths)

    @property
    def tokens(self) -> int:
        return sum(self._lengths)

    def extend(self, pieces: Sequence[Ids]) -> None:
        self._parts += [np.concatenate(pieces)] if pieces else []
        self._lengths += [len(piece) for piece in pieces]

    def save(self, folder: Path) -> None:
        offsets = np.cumsum([0, *self._lengths])
        np.save(folder / "tokens.npy", np.concatenate(self._parts), allow_pickle=False)
        np.save(folder / "piece_offsets.npy", offsets, allow_pickle=False)
