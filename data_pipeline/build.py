"""Compile a corpus into a token store: `brewhouse data build`."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter

from data_pipeline import build_tables as arrays
from data_pipeline.build_config import BuildConfig
from data_pipeline.build_pieces import encode_all, title_lengths
from data_pipeline.corpus import Corpus
from data_pipeline.corpus_checks import codes_of
from data_pipeline.described import DescribedCorpus, describe
from data_pipeline.errors import DataError
from data_pipeline.files import atomic_folder, fingerprint, refuse_existing
from data_pipeline.piece_files import PieceWriter
from data_pipeline.splits import Phase, Split, split_corpus
from data_pipeline.statistics import Statistics, compute_statistics
from data_pipeline.store import EVENT_FIELDS_FOLDER, TOKENIZER_FOLDER, TokenStore
from data_pipeline.store_card import CARD_FILE, SCHEMA_VERSION, StoreCard
from data_pipeline.store_tables import Tags, save_table
from data_pipeline.tokenizer import TextEncoder
from data_pipeline.training_texts import (
    fit_verbalizer,
    train_on_corpus,
    train_shared_tokenizer,
)
from data_pipeline.verbalize import Budget, Verbalizer, action_text

__all__ = ["BuildConfig", "compile_store", "train_shared_tokenizer"]

log = logging.getLogger(__name__)

TRAIN_PREFIX: Final = "train:"


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
    refuse_existing(folder, overwrite)
    split = split_corpus(corpus, config.split)
    if len(split.phase_E) and not (split.phase_E == Phase.TRAIN).any():
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
    verbalizer = fit_verbalizer(corpus, split)
    described = describe(corpus, split, config)
    encoder = _encoder(described, tokenizer, verbalizer, config, split)
    encoder.save(temp / TOKENIZER_FOLDER)
    values_E = corpus.column("events", "value").to_numpy().astype(np.float32)
    action_E, actions = _actions(corpus, values_E)
    tags = described.tags
    texts = () if tags is None else tags.texts
    with PieceWriter(temp) as pieces:
        first_piece = encode_all(corpus, verbalizer, encoder, config, actions, texts, pieces)
    (temp / "statistics").mkdir()
    like = described.card.like_at_least
    _statistics(corpus, split, values_E, like, tags).save(temp / "statistics")
    arrays.save_item_fields(corpus, temp / "fields")
    arrays.save_event_fields(corpus, temp / EVENT_FIELDS_FOLDER)
    for name, table in described.tables.items():
        save_table(table, temp / name)
    _save_events(corpus, split, values_E, action_E, temp)
    lengths_N = title_lengths(corpus, verbalizer, encoder)
    np.save(temp / "title_lengths.npy", lengths_N, allow_pickle=False)
    pq.write_table(corpus.items.select(["item_id", "title"]), temp / "items.parquet")
    pq.write_table(corpus.users.select(["user_id"]), temp / "users.parquet")
    card = _card(described, encoder, config, split, first_piece)
    card |= {
        "action_label_offset": _label_offset(encoder, actions),
        "counts": {name: corpus.card.counts[name] for name in corpus.schemas}
        | {"pieces": pieces.count, "tokens": pieces.tokens},
    }
    validated = TypeAdapter(StoreCard).validate_python(card)
    (temp / CARD_FILE).write_bytes(TypeAdapter(StoreCard).dump_json(validated, indent=2))


def _save_events(
    corpus: Corpus,
    split: Split,
    values_E: NDArray[np.float32],
    action_E: NDArray[np.int16],
    temp: Path,
) -> None:
    opens_E = arrays.opens_request(
        corpus.event_user_E,
        corpus.time_E,
        corpus.column("events", "request_id"),
        has_times=corpus.card.has_times,
    )
    named: dict[str, NDArray[Any]] = {
        "user_offsets": corpus.user_offsets_U1,
        "train_stops": _train_stops(corpus, split),
        "event_item": corpus.event_item_E,
        "event_time": corpus.time_E,
        "event_action": action_E,
        "event_value": values_E,
        "event_phase": split.phase_E,
        "event_opens_request": opens_E,
    }
    for name, array in named.items():
        np.save(temp / f"{name}.npy", array, allow_pickle=False)


def _card(
    described: DescribedCorpus,
    encoder: TextEncoder,
    config: BuildConfig,
    split: Split,
    first_piece: dict[str, int],
) -> dict[str, Any]:
    corpus, facts = described.corpus, described.card
    thresholds = (facts.like_at_least, facts.dislike_at_most)
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
        **asdict(facts),
        "styles": config.styles,
        "first_piece": first_piece,
        "vocab_size": encoder.vocab_size,
        "split": {**split.card, "hash": split.hash},
    }


def _encoder(
    described: DescribedCorpus,
    tokenizer: str,
    verbalizer: Verbalizer,
    config: BuildConfig,
    split: Split,
) -> TextEncoder:
    if not tokenizer.startswith(TRAIN_PREFIX):
        return TextEncoder.load(tokenizer)
    size = tokenizer.removeprefix(TRAIN_PREFIX)
    if not size.isdecimal():
        raise DataError(
            "the vocabulary size is no number", value=tokenizer, remedy="write train:4096"
        )
    return train_on_corpus(described, verbalizer, config, split, int(size))


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
    names = corpus.card.actions
    code_E = codes_of(corpus.column("events", "action"), pa.chunked_array([names], pa.string()))
    values = np.array(corpus.card.values, np.float32)
    # 0 stands for no value, which comes first.
    rank_E = np.searchsorted(values, values_E).astype(np.int64) + 1
    rank_E[np.isnan(values_E)] = 0
    key_E = code_E * np.int64(len(values) + 1) + rank_E
    distinct = np.flatnonzero(np.bincount(key_E, minlength=1))
    if len(distinct) > np.iinfo(np.int16).max:
        raise DataError(
            f"events have {len(distinct):,} distinct actions and values",
            file=corpus.folder,
            column="value",
            remedy="put continuous values into buckets before importing, or make them a field of "
            "events",
        )
    texts = [
        action_text(names[code], float(values[rank - 1]) if rank else None)
        for code, rank in (divmod(int(key), len(values) + 1) for key in distinct)
    ]
    return np.searchsorted(distinct, key_E).astype(np.int16), texts


def _train_stops(corpus: Corpus, split: Split) -> NDArray[np.int64]:
    """Row behind each user's last training event; training events come first in every split."""
    train = split.phase_E == Phase.TRAIN
    counts = np.bincount(corpus.event_user_E[train], minlength=len(corpus.users))
    stops: NDArray[np.int64] = corpus.user_offsets_U1[:-1] + counts
    return stops


def _statistics(
    corpus: Corpus,
    split: Split,
    values_E: NDArray[np.float32],
    like: float | None,
    tags: Tags | None,
) -> Statistics:
    train = split.phase_E == Phase.TRAIN
    n_tags, tag_A = 0, np.empty(0, np.int32)
    if tags is not None:
        n_tags, tag_A = tags.n_tags, tags.tag_A[tags.phase_A == Phase.TRAIN]
    return compute_statistics(
        user_E=corpus.event_user_E[train],
        item_E=corpus.event_item_E[train],
        value_E=values_E[train],
        tag_A=tag_A,
        n_users=len(corpus.users),
        n_items=len(corpus.items),
        n_tags=n_tags,
        values=corpus.card.values,
        like_at_least=like,
    )
