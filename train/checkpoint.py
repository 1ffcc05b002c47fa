"""Checkpoints that are whole or not there: written beside, hashed, renamed; then `latest` moves.

    RUN/checkpoint-N/model/               a Hugging Face folder: weights or adapter, tokenizer
    RUN/checkpoint-N/zero/                optimizer state, a part per rank, as DeepSpeed writes it
    RUN/checkpoint-N/trainer_state.json   step, next tree, fingerprints, counters
    RUN/checkpoint-N/config.yaml          the run's config
    RUN/checkpoint-N/manifest.json        size and SHA-256 of each file above
    RUN/latest                            the name of the newest complete one

`latest` is ours, not DeepSpeed's: that one moves before the other ranks have written. All ranks
must see one file system under RUN.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from data_pipeline.files import atomic_write, sha256_file, sync
from train.distributed import DistributedContext
from train.errors import CheckpointError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "trainer_state.json"
LATEST = "latest"
_NAME = re.compile(r"checkpoint-(\d+)")
_HASH_THREADS = 8


@dataclass(kw_only=True, slots=True)
class TrainerState:
    """Where a run stands: what a checkpoint holds besides weights and optimizer."""

    step: int = 0
    """Optimizer steps done, skipped ones included."""
    next_index: int = 0
    """Index of the first tree that no step has consumed: the whole state of the data stream."""
    skipped_steps: int = 0
    """Steps whose gradient was thrown away."""
    targets: int = 0
    tokens: int = 0
    consumed: list[list[int]] = field(default_factory=list)
    """Targets and tokens of each column of a tally, skipped steps included: what was consumed."""
    seconds: float = 0.0
    """Seconds spent in the loop, over all sittings."""
    recent_losses: list[float] = field(default_factory=list)
    """Window of the loss guard."""
    bad_in_a_row: int = 0
    wandb_id: str | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Of corpora, tokenizer, tasks and mixture: what the next index counts in."""
    seed: int = 0
    global_batch: int = 0
    world_size: int = 1
    zero_stage: int = 0
    only_model: bool = False
    """Whether the optimizer was left out, so that no run can go on from here."""


def resolve_model_folder(path: str | Path) -> Path:
    """Find the Hugging Face folder to load under a run, a checkpoint, an export, or itself.

    Raises:
        CheckpointError: nothing loadable is there.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is no folder. Give a run, a checkpoint or a model folder")
    if newest := newest_checkpoint(path):
        return newest / "model"
    if (path / LATEST).is_file():
        raise CheckpointError(f"{path / LATEST} names no complete checkpoint in {path}")
    for folder in (path / "model", path):
        if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
            return folder
    raise CheckpointError(
        f"{path} holds no checkpoint, no model/ and no config.json. Give the folder of a run that "
        "has saved a checkpoint, a checkpoint-N inside it, an export, or a Hugging Face model"
    )


def complete_checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run that were written to the end, newest first. Hashes are not read.

    Newest is what `latest` names. One with a higher step is older: the run once went back to an
    earlier checkpoint, and came to `latest` from there.
    """
    found = {}
    for folder in run.iterdir() if run.is_dir() else ():
        match = _NAME.fullmatch(folder.name)
        if match and (folder / MANIFEST).is_file():
            found[int(match[1])] = folder
    steps = sorted(found, reverse=True)
    named = _NAME.fullmatch(_latest_name(run))
    if named and (top := int(named[1])) in found:
        steps = [step for step in steps if step <= top] + [step for step in steps if step > top]
    return [found[step] for step in steps]


def newest_checkpoint(run: Path) -> Path | None:
    """The complete checkpoint that `latest` names, or else the one with the highest step."""
    return next(iter(complete_checkpoints(run)), None)


def _latest_name(run: Path) -> str:
    try:
        return (run / LATEST).read_text().strip()
    except FileNotFoundError:
        return ""


def read_state(checkpoint: Path) -> TrainerState:
    """Read `trainer_state.json`.

    Raises:
        CheckpointError: it is unreadable or of another version of the program.
    """
    try:
        values = json.loads((checkpoint / STATE).read_text())
        known = {each.name for each in fields(TrainerState)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown entries {', '.join(sorted(unknown))}")
        return TrainerState(**values)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint / STATE} cannot be read: {error}") from error


class CheckpointFolder:
    """The checkpoints of one run. Every method is called by all ranks alike.

    Args:
        run: the run folder.
        context: this process's place.
        keep: complete checkpoints to keep; None keeps all.
    """

    def __init__(self, run: Path, context: DistributedContext, *, keep: int | None = None) -> None:
        self.run = run
        self.keep = keep
        self._context = context

    def save(self, state: TrainerState, config_text: str, write: Callable[[Path], None]) -> Path:
        """Write a checkpoint whole, move `latest` to it, and drop the oldest beyond `keep`.

        Args:
            state: where the run stands.
            config_text: content of config.yaml.
            write: called on every rank with the folder to fill; writes model/ and zero/.

        Raises:
            CheckpointError: on every rank when any rank could not write. What was there before,
                `latest` included, is untouched.
        """
        final = self.run / f"checkpoint-{state.step}"
        partial = self.run / f".{final.name}.partial"
        with self._everywhere_or_nowhere(final, partial):
            self._main_only(lambda: _fresh_folder(partial))
        with self._everywhere_or_nowhere(final, partial):
            write(partial)
        with self._everywhere_or_nowhere(final, partial):
            self._main_only(lambda: _write_texts(partial, state, config_text))
        hashes: dict[str, dict[str, Any]] = {}
        with self._everywhere_or_nowhere(final, partial):
            hashes = _hash_share(partial, self._context.rank, self._context.world_size)
        parts = self._context.all_gather_object(hashes)
        manifest = {name: entry for part in parts for name, entry in part.items()}
        with self._everywhere_or_nowhere(final, partial):
            self._main_only(lambda: self._publish(partial, final, manifest))
        log.info("saved %s", final)
        return final

    def find(self, resume: bool | str) -> tuple[Path, TrainerState] | None:
        """The checkpoint to go on from, its files verified; None to start from the beginning.

        `true` takes the newest whose files are all as they were written, and reports those that
        are not. A path takes that one or fails.

        Raises:
            CheckpointError: the named checkpoint, or every one there is, is damaged.
        """
        if resume is False:
            return None
        if isinstance(resume, str):
            named = Path(resume)
            if (named / LATEST).is_file():
                named = newest_checkpoint(named) or named
            if problems := self._verify(named):
                raise CheckpointError(_damaged(named, problems))
            return named, read_state(named)
        candidates = self._context.broadcast_object(complete_checkpoints(self.run))
        for candidate in candidates:
            problems = self._verify(candidate)
            if not problems:
                return candidate, read_state(candidate)
            log.warning("%s The one before it is tried", _damaged(candidate, problems))
        if candidates:
            raise CheckpointError(
                f"every checkpoint in {self.run} is damaged, see above. Restore one from a copy, "
                "or start over with overwrite_output_dir=true"
            )
        return None

    def _verify(self, checkpoint: Path) -> list[str]:
        """What is wrong with a checkpoint's files; the ranks share the reading."""
        rank, size = self._context.rank, self._context.world_size
        found = self._context.all_gather_object(_check_share(checkpoint, rank, size))
        return sorted({problem for part in found for problem in part})

    def _main_only(self, action: Callable[[], None]) -> None:
        if self._context.is_main:
            action()

    @contextmanager
    def _everywhere_or_nowhere(self, final: Path, partial: Path) -> Iterator[None]:
        """End a stage together: when one rank failed, all raise, and the partial folder goes."""
        failure: BaseException | None = None
        try:
            yield
        except Exception as error:
            failure = error
        told = _explain(failure, self.run) if failure else None
        reasons = self._context.all_gather_object(told)
        if not any(reasons):
            return
        self._main_only(lambda: shutil.rmtree(partial, ignore_errors=True))
        listed = "; ".join(f"rank {rank}: {why}" for rank, why in enumerate(reasons) if why)
        raise CheckpointError(
            f"{final} could not be written ({listed}). The checkpoints before it are untouched: "
            "mend this and start again with resume_from_checkpoint=true"
        ) from failure

    def _publish(self, partial: Path, final: Path, manifest: dict[str, Any]) -> None:
        text = json.dumps({"files": dict(sorted(manifest.items()))}, indent=1)
        atomic_write(partial / MANIFEST, text)
        _sync_folders(partial)
        if final.exists():  # the run went back to an older checkpoint and came here again
            _remove(final)
        partial.rename(final)
        sync(self.run)
        atomic_write(self.run / LATEST, final.name + "\n")
        if self.keep is not None:
            for old in complete_checkpoints(self.run)[self.keep :]:
                _remove(old)


def write_once(path: Path, text: str, context: DistributedContext) -> None:
    """Write a text file on the main rank; the others go on."""
    if context.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, text)


def check_same_run(checkpoint: Path, saved: TrainerState, now: TrainerState) -> None:
    """Refuse to go on from a checkpoint that this run would not have written.

    Raises:
        CheckpointError: says which part differs, and the cure.
    """
    _check_match(checkpoint, saved, now, "seed")
    parts = sorted(set(saved.fingerprints) | set(now.fingerprints))
    changed = [part for part in parts if saved.fingerprints.get(part) != now.fingerprints.get(part)]
    if changed:
        listed = ", ".join(
            f"{part} ({saved.fingerprints.get(part, 'absent')} there, "
            f"{now.fingerprints.get(part, 'absent')} now)"
            for part in changed
        )
        raise CheckpointError(
            f"{checkpoint} was trained on other data; changed: {listed}. Restore what it was "
            f"trained on, or start a new run from its weights with model_name_or_path={checkpoint}"
        )
    if saved.only_model:
        raise CheckpointError(
            f"{checkpoint} was saved with save_only_model=true and has no optimizer state. Start a "
            f"new run from its weights with model_name_or_path={checkpoint}"
        )
    for name in _MUST_MATCH:
        _check_match(checkpoint, saved, now, name)


_MUST_MATCH = {
    "seed": "The seed decides which trees come next: set it back, or start a new run",
    "global_batch": "A step would mean other trees: choose global_batch_size (or batch size, "
    "accumulation and processes) so that a step has as many trees as before",
    "world_size": "Optimizer state is kept in one part per process: start as many as before, or "
    "start a new run from the weights with model_name_or_path",
    "zero_stage": "Each ZeRO stage keeps optimizer state in its own form: set deepspeed back",
}


def _check_match(checkpoint: Path, saved: TrainerState, now: TrainerState, name: str) -> None:
    before, after = getattr(saved, name), getattr(now, name)
    if before != after:
        raise CheckpointError(
            f"{checkpoint} has {name} {before}, this run {after}. {_MUST_MATCH[name]}"
        )


def _fresh_folder(partial: Path) -> None:
    """Make the folder; remove what runs that were killed while saving or deleting left."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    for left in partial.parent.glob(".checkpoint-*"):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir()


def _write_texts(partial: Path, state: TrainerState, config_text: str) -> None:
    (partial / STATE).write_text(json.dumps(asdict(state), indent=1))
    (partial / "config.yaml").write_text(config_text)


def _files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    )


def _hash_share(folder: Path, rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    """Flush and hash this rank's share of the files."""

    def one(name: str) -> dict[str, Any]:
        path = folder / name
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}

    names = _files(folder)[rank::world_size]
    with ThreadPoolExecutor(_HASH_THREADS) as pool:  # hashing releases the interpreter lock
        return dict(zip(names, pool.map(one, names), strict=True))


def _check_share(folder: Path, rank: int, world_size: int) -> list[str]:
    """Problems of this rank's share of the files."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        names = sorted(files)[rank::world_size]
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            found = pool.map(lambda name: _check_file(folder / name, files[name]), names)
            pairs = zip(names, found, strict=True)
            return [f"{name} {problem}" for name, problem in pairs if problem]
    except FileNotFoundError:
        return [f"{MANIFEST} is not there"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{MANIFEST} cannot be read: {error}"]


def _check_file(path: Path, expected: dict[str, Any]) -> str | None:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"has {size:,} bytes instead of {expected['bytes']:,}"
        if sha256_file(path) != expected["sha256"]:
            return "has another content than was written (SHA-256 differs)"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _damaged(checkpoint: Path, problems: list[str]) -> str:
    shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if problems[3:] else "")
    return f"{checkpoint} is no complete checkpoint: {shown}."


def _explain(error: BaseException, run: Path) -> str:
    """An error in a few words; libraries tell of a full disk in many ways."""
    free = shutil.disk_usage(run).free if run.exists() else None
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (free is not None and free < 2**20):
        return f"no space left on the disk of {run}, {free or 0:,} bytes are free"
    return f"{type(error).__name__}: {error}"


def _remove(checkpoint: Path) -> None:
    """Delete under a hidden name, so that no half of it can be taken for a checkpoint."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.deleted")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _sync_folders(folder: Path) -> None:
    for parent, _, _ in os.walk(folder):
        sync(Path(parent))
