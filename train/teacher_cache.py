"""What a teacher thinks of slates of items at moments of training time, kept on disk.

    CACHE/teacher_cache.json     what it was made of; two caches of equal key hold equal numbers
    CACHE/shard-00000.npz        arrays of `shard_size` moments; written whole, one after another
    CACHE/prior.npz              how likely the teacher finds each title without a history
    CACHE/item_vectors.npz       the teacher's vector of every item, if asked for

Students with any vocabulary learn from it, since it speaks of items. A shard is a pure function of
the key and its number: an interrupted build goes on where it stopped, and asking for more moments
later adds shards.

Shapes: B moments, S items of a slate, N items, W hidden width of the teacher.
"""

import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from dataclasses import dataclass as plain_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from data_pipeline.files import atomic_write, fingerprint
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.store import TokenStore
from data_pipeline.tree import Tree
from modeling.continuations import score_continuations
from train.progress import NoProgress, ProgressView
from train.slates import SlateMaker

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
CARD: Final = "teacher_cache.json"
PRIOR: Final = "prior.npz"
VECTORS: Final = "item_vectors.npz"
TASK: Final = "next_item_title"
_ARRAYS: Final = ("user", "start", "cut", "slate", "score", "target")
_PRIOR_PROFILES: Final = 2
"""Profiles that the prior is averaged over."""
_MOST_SKIPPED: Final = 1000
"""Moments in a row without any history, after which no corpus will have one."""


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class TeacherCacheConfig:
    """How many moments the teacher is asked about, and about which items."""

    max_moments: int = Field(default=512, ge=1)
    """Moments of training time, each of another event; the cost is proportional."""
    slate_size: int = Field(default=64, ge=2)
    """Items scored at each moment: the true next one and others the user has not met."""
    neighbour_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the others that are neighbours of the history; the rest is drawn by popularity."""
    shard_size: int = Field(default=32, ge=1)
    """Moments per file: what an interruption can cost."""
    max_tokens: int = Field(default=8192, ge=64)
    """Tokens of one pass of the teacher; memory grows with it."""
    seed: int = Field(default=0, ge=0)
    """Seed of the moments and slates."""


@plain_dataclass(frozen=True, kw_only=True, slots=True)
class TeacherCache:
    """Slates with the teacher's log-likelihoods of their items' titles."""

    folder: Path
    card: dict[str, Any]
    user_B: npt.NDArray[np.int32]
    start_B: npt.NDArray[np.int64]
    """First event row of the user: the whole history, longer than what the prompt shows."""
    cut_B: npt.NDArray[np.int64]
    """Event row behind the history."""
    slate_BS: npt.NDArray[np.int32]
    score_BS: npt.NDArray[np.float32]
    """log p(title | prompt), natural logarithm, summed over the title's tokens."""
    prior_BS: npt.NDArray[np.float32]
    """The same without any history, averaged over a few users' profiles: what the teacher thinks of
    the title as a text. `score - prior` is what the history adds."""
    target_B: npt.NDArray[np.int32]
    """Column of the true next item."""

    def __len__(self) -> int:
        return len(self.cut_B)

    @property
    def key(self) -> str:
        """Equal for caches that hold equal numbers."""
        return str(self.card["key"])

    @classmethod
    def open(cls, folder: Path, *, store: TokenStore, max_moments: int | None = None) -> Self:
        """Read a cache.

        Args:
            folder: where it is.
            store: the token store it must have been made of.
            max_moments: the first so many; None for all there are.

        Raises:
            ValueError: no cache, a cache of another store, or a damaged shard.
        """
        card = _read_card(folder)
        made_of = card["made_of"]["store"]
        if made_of != store.fingerprint:
            raise ValueError(
                f"{folder} is a teacher cache of token store {made_of} "
                f"({card['corpus']}), but the student is to be fitted on {store.fingerprint} "
                f"({store.card.corpus_name}); build a cache for that store, or name the other one"
            )
        paths = sorted(folder.glob("shard-*.npz"))
        size = card["made_of"]["shard_size"]
        if max_moments is not None:
            paths = paths[: -(-max_moments // size)]
        if not paths:
            raise ValueError(f"{folder} holds no finished shard; build the cache first")
        shards = [_read_shard(path, card["key"]) for path in paths]
        joined = {name: np.concatenate([s[name] for s in shards])[:max_moments] for name in _ARRAYS}
        return cls(
            folder=folder,
            card=card,
            user_B=joined["user"],
            start_B=joined["start"],
            cut_B=joined["cut"],
            slate_BS=joined["slate"],
            score_BS=joined["score"],
            prior_BS=_read_prior(folder, joined["slate"], card["key"]),
            target_B=joined["target"],
        )

    def item_vectors(self) -> npt.NDArray[np.float32]:
        """The teacher's item vectors, float32 `[N, W]`.

        Raises:
            ValueError: the cache was built without them.
        """
        path = self.folder / VECTORS
        if not path.is_file():
            raise ValueError(f"{self.folder} has no {VECTORS}: build the cache with item vectors")
        vectors: npt.NDArray[np.float32] = _load_arrays(path)["vectors"]
        return vectors


def build_teacher_cache(
    model: nn.Module,
    store: TokenStore,
    root: Path,
    config: TeacherCacheConfig,
    *,
    mixture: MixtureConfig,
    teacher: dict[str, str],
    with_item_vectors: bool = False,
    progress: ProgressView | None = None,
) -> TeacherCache:
    """Ask the teacher, or read what it answered before.

    Args:
        model: the teacher, in eval mode.
        store: whose TRAIN events the moments come from.
        root: the cache is a folder in it, named by its key.
        config: how much is asked.
        mixture: as the teacher was trained: history length, styles, token budget.
        teacher: `name` and `weights` (a hash); part of the key.
        with_item_vectors: also keep the teacher's vector of every item.
        progress: advances once per moment; those found on disk count at once.
    """
    progress = progress or NoProgress()
    asked = _next_item_mixture(store, mixture, config.seed)
    made_of = {
        "schema_version": SCHEMA_VERSION,
        "teacher": teacher["weights"],
        "store": store.fingerprint,
        "tokenizer": store.card.tokenizer_fingerprint,
        "moments": fingerprint(asked.fingerprints),
        **{name: value for name, value in asdict(config).items() if name not in _NOT_COUNTED},
    }
    key = fingerprint(made_of)
    folder = root / key
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "key": key,
        "corpus": store.card.corpus_name,
        "teacher": teacher,
        "task": TASK,
        "made_of": made_of,
    }
    atomic_write(folder / CARD, json.dumps(card, indent=1) + "\n")
    _fill(model, store, folder, config, asked, key, progress)
    _fill_prior(model, store, folder, config, asked, key)
    if with_item_vectors and not (folder / VECTORS).is_file():
        _save_arrays(folder / VECTORS, {"vectors": item_vectors(model, store)}, key)
    cache = TeacherCache.open(folder, store=store, max_moments=config.max_moments)
    log.info("teacher cache %s: %d moments, slates of %d", key, len(cache), config.slate_size)
    return cache


_NOT_COUNTED: Final = ("max_moments", "max_tokens")
"""Settings that change how much is there or how it is computed, not the numbers."""


def _next_item_mixture(store: TokenStore, mixture: MixtureConfig, seed: int) -> Mixture:
    """One question per tree, about the very next event: trees walk over all TRAIN events."""
    config = replace(
        mixture,
        tasks={TASK: 1.0},
        store_weights=(),
        targets_per_tree=1,
        moments_per_tree=1,
        history_loss_weight=0.0,
        history_title_weight=0.0,
    )
    return Mixture([store], config, seed=seed)


def _moments(store: TokenStore, mixture: Mixture) -> Iterator[Tree]:
    """Trees of distinct TRAIN events whose user has a history, in the mixture's order."""
    n_train = int((store.train_stops_U - store.user_offsets_U1[:-1]).sum())
    skipped = 0
    for index in range(n_train):
        tree = mixture[index]
        skipped = skipped + 1 if tree.moment.cut == tree.moment.start else 0
        if skipped > _MOST_SKIPPED:
            return
        if not skipped:
            yield tree


def _fill(
    model: nn.Module,
    store: TokenStore,
    folder: Path,
    config: TeacherCacheConfig,
    mixture: Mixture,
    key: str,
    progress: ProgressView,
) -> None:
    slates = SlateMaker(
        store, size=config.slate_size, neighbour_share=config.neighbour_share, seed=config.seed
    )
    trees = _moments(store, mixture)
    n_shards = -(-config.max_moments // config.shard_size)
    for number in range(n_shards):
        part = list(islice(trees, config.shard_size))
        if not part:
            log.info("the store has no more moments than %d", number * config.shard_size)
            return
        path = folder / f"shard-{number:05d}.npz"
        if _is_whole(path, key, len(part)):
            progress.advance(len(part), note="found on disk")
            continue
        rows = []
        for tree in part:
            rows.append(_ask(model, store, tree, slates, config.max_tokens))
            progress.advance()
        columns = zip(*rows, strict=True)
        arrays = {name: np.stack(column) for name, column in zip(_ARRAYS, columns, strict=True)}
        _save_arrays(path, arrays, key)


def _ask(
    model: nn.Module, store: TokenStore, tree: Tree, slates: SlateMaker, max_tokens: int
) -> tuple[np.generic | npt.NDArray[Any], ...]:
    moment, (branch,) = tree.moment, tree.branches
    context = np.concatenate([tree.trunk, _prompt_of(tree)])
    start = int(store.user_offsets_U1[moment.user])
    slate_S, target = slates.slate(moment.user, start, moment.cut, branch.question.label)
    titles = [store.title_tokens(int(item)) for item in slate_S]
    score_S = score_continuations(model, context, titles, max_tokens=max_tokens)
    return (
        np.int32(moment.user),
        np.int64(start),
        np.int64(moment.cut),
        slate_S,
        score_S.astype(np.float32),
        np.int32(target),
    )


def _fill_prior(
    model: nn.Module,
    store: TokenStore,
    folder: Path,
    config: TeacherCacheConfig,
    mixture: Mixture,
    key: str,
) -> None:
    """Score the titles of all slates behind profiles without a history, once each."""
    shards = [_read_shard(path, key) for path in sorted(folder.glob("shard-*.npz"))]
    if not shards:
        return
    items = np.unique(np.concatenate([shard["slate"].ravel() for shard in shards]))
    try:
        _read_prior(folder, items, key)
        return
    except ValueError:
        log.info("teacher cache: scoring %d titles without a history", len(items))
    titles = [store.title_tokens(int(item)) for item in items]
    total = np.zeros(len(items))
    for tree in islice(_moments(store, mixture), _PRIOR_PROFILES):
        bare = replace(tree.moment, start=tree.moment.cut)
        trunk, _ = store.trunk(bare, mixture.config.styles[0], mixture.config.max_trunk_tokens)
        context = np.concatenate([trunk, _prompt_of(tree)])
        total += score_continuations(model, context, titles, max_tokens=config.max_tokens)
    arrays = {"item": items, "score": (total / _PRIOR_PROFILES).astype(np.float32)}
    _save_arrays(folder / PRIOR, arrays, key)


def _read_prior(folder: Path, slates: npt.NDArray[np.int32], key: str) -> npt.NDArray[np.float32]:
    """The prior of every item of the slates, in their shape.

    Raises:
        ValueError: it is missing, damaged, or lacks an item.
    """
    path = folder / PRIOR
    try:
        arrays = _load_arrays(path)
        items, scores, whose = arrays["item"], arrays["score"], str(arrays["key"])
    except Exception as error:  # zip, zlib and numpy each raise their own
        raise ValueError(f"{path} cannot be read ({error}); build the cache again") from error
    place = np.minimum(np.searchsorted(items, slates), len(items) - 1)
    if whose != key or not (items[place] == slates).all():
        raise ValueError(f"{path} does not cover the slates beside it; build the cache again")
    prior: npt.NDArray[np.float32] = scores[place]
    return prior


def _prompt_of(tree: Tree) -> npt.NDArray[np.int32]:
    """The branch up to the answer."""
    (branch,) = tree.branches
    return branch.tokens[: len(branch.tokens) - len(branch.answer) + 1]


@torch.no_grad()
def item_vectors(
    model: nn.Module, store: TokenStore, *, batch_size: int = 64
) -> npt.NDArray[np.float32]:
    """Mean last hidden state over each title's tokens, float32 `[N, W]`, each of unit length."""
    device = next(model.parameters()).device
    start = store.encoder.start(f"Questions about {store.card.item_noun}s.\n")
    vectors: list[npt.NDArray[np.float32]] = []
    for first in range(0, store.n_items, batch_size):
        titles = [
            store.title_tokens(item)
            for item in range(first, min(first + batch_size, store.n_items))
        ]
        tokens_bT, mask_bT = _right_padded(start, titles)
        # Padding stands on the right, where a causal model's earlier states do not see it.
        output = model(
            input_ids=torch.from_numpy(tokens_bT).to(device),
            output_hidden_states=True,
            logits_to_keep=1,
            use_cache=False,
        )
        hidden_bTW = output.hidden_states[-1].float().cpu().numpy()
        mean_bW = (hidden_bTW * mask_bT[:, :, None]).sum(1) / mask_bT.sum(1, keepdims=True)
        length_b1 = np.linalg.norm(mean_bW, axis=1, keepdims=True)
        vectors.append((mean_bW / np.maximum(length_b1, 1e-8)).astype(np.float32))
    return np.concatenate(vectors)


def _right_padded(
    start: npt.NDArray[np.int32], titles: Sequence[npt.NDArray[np.int32]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Start and title in each row, and a mask of the title's tokens."""
    width = len(start) + max(map(len, titles))
    tokens_bT = np.zeros((len(titles), width), dtype=np.int64)
    mask_bT = np.zeros((len(titles), width), dtype=np.float32)
    for row, title in enumerate(titles):
        tokens_bT[row, : len(start)] = start
        tokens_bT[row, len(start) : len(start) + len(title)] = title
        mask_bT[row, len(start) : len(start) + len(title)] = 1
    return tokens_bT, mask_bT


def _save_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]], key: str) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, key=np.array(key), **arrays)  # type: ignore[arg-type]
    atomic_write(path, buffer.getvalue())


def _load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is no teacher cache: {CARD} cannot be read ({error})") from None
    version = card.get("made_of", {}).get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{folder} has schema {version}, this version reads {SCHEMA_VERSION}; build it again"
        )
    return card


def _read_shard(path: Path, key: str) -> dict[str, npt.NDArray[Any]]:
    try:
        arrays = _load_arrays(path)
        complete = set(_ARRAYS) <= set(arrays) and str(arrays["key"]) == key
    except Exception as error:  # zip, zlib and numpy each raise their own
        raise ValueError(f"{path} is damaged ({error}); remove it and build the cache again") from (
            error
        )
    if not complete:
        raise ValueError(f"{path} belongs to another cache; remove it and build the cache again")
    return arrays


def _is_whole(path: Path, key: str, moments: int) -> bool:
    """Whether a shard can be kept; a damaged one is made again."""
    if not path.is_file():
        return False
    try:
        return len(_read_shard(path, key)["cut"]) == moments
    except ValueError as error:
        log.warning("%s; it is made again", error)
        return False
