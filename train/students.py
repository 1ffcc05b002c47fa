"""Fit a sequence student on the TRAIN events of a store, with or without a teacher.

Shapes: B windows or histories, L positions, M supervised positions, N items, R negatives of each.
"""

import copy
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, field
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save_file

from modeling.students import Student, StudentShape, find_student
from modeling.students.losses import binary_cross_entropy, cross_entropy
from train.progress import NoProgress, ProgressView
from train.sequences import (
    NextItemTargets,
    SequenceData,
    pad_left,
    rank_targets,
    training_windows,
)

__all__ = [
    "EpochRecord",
    "FittedStudent",
    "SequenceData",
    "StudentConfig",
    "Teacher",
    "fit_student",
]

log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "student.json"
SELECTION_TARGETS = 1000
"""Validation targets that one epoch is judged by; enough to tell epochs apart, and quick."""


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class StudentConfig:
    """How a student is built and fitted."""

    architecture: str = "sasrec"
    """Which student: `sasrec`, `gru4rec`, or one that a plugin registers."""
    hidden_size: int = Field(default=64, ge=1)
    """Width of item vectors and layers."""
    n_layers: int = Field(default=2, ge=1)
    """Attention blocks, or recurrent layers."""
    n_heads: int = Field(default=2, ge=1)
    """Attention heads; divides `hidden_size`. GRU4Rec has none."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of activations dropped while training."""
    max_length: int = Field(default=50, ge=1)
    """Newest events of a history that the student reads."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Step size of Adam, constant."""
    batch_size: int = Field(default=128, ge=1)
    """Windows of `max_length` events per step."""
    epochs: int = Field(default=30, ge=1)
    """Most passes over all TRAIN events."""
    patience: int = Field(default=3, ge=1)
    """Passes without a better validation NDCG@10 before it stops."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, windows, order, dropout and negatives."""
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    """`cross_entropy` over the whole catalog, or against sampled negatives as in the paper."""
    negatives: int = Field(default=1, ge=1)
    """Sampled negatives per position with `binary_cross_entropy`."""
    teacher_vector_weight: float = Field(default=0.2, ge=0)
    """Factor on projected item vectors of a teacher at the input, where the teacher brings some."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to fit; `auto` takes a GPU if there is one."""

    def shape(self, n_items: int, teacher_width: int = 0) -> StudentShape:
        """The tensor sizes for a catalog of `n_items`."""
        return StudentShape(
            n_items=n_items,
            hidden_size=self.hidden_size,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            max_length=self.max_length,
            dropout=self.dropout,
            teacher_width=teacher_width,
            teacher_weight=self.teacher_vector_weight,
        )


class Teacher(Protocol):
    """What a fit needs of a teacher: one more loss per step, perhaps vectors for the input."""

    @property
    def item_vectors(self) -> npt.NDArray[np.float32] | None:
        """Frozen vectors `[n_items, width]` for the student's input, or None."""

    def loss(self, student: Student, step: int) -> torch.Tensor:
        """Weighted distillation loss of one step; a pure function of weights and `step`."""


@plain_dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """One pass over the TRAIN events."""

    epoch: int
    """Counts from 1."""
    loss: float
    """Mean next-item loss."""
    teacher_loss: float | None
    """Mean weighted distillation loss, with a teacher."""
    validation_ndcg10: float | None
    """NDCG@10 on the validation sample, if there are validation targets."""
    validation_hr10: float | None
    """HR@10 on the same."""
    seconds: float
    """Duration with validation."""


@plain_dataclass(kw_only=True, slots=True)
class FittedStudent:
    """A student in evaluation mode and how it came about."""

    model: Student
    config: StudentConfig
    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0

    def item_scores(
        self, histories: Sequence[npt.NDArray[np.integer] | Sequence[int]]
    ) -> npt.NDArray[np.float32]:
        """Logits of every item as the next one, float32 `[B, N]`.

        Args:
            histories: item rows, oldest first, of any length; the newest `max_length` are read. An
                empty one is answered with what users begin with.
        """
        rows = [np.asarray(history, dtype=np.int64) for history in histories]
        scores_BN = np.empty((len(rows), self.model.shape.n_items), dtype=np.float32)
        device = self.model.items.weight.device
        with torch.inference_mode():
            for start in range(0, len(rows), 128):
                part = rows[start : start + 128]
                items_bL = pad_left(part, self.config.max_length, self.model.padding_item)
                scores_bN = self.model.item_scores(torch.from_numpy(items_bL).to(device))
                scores_BN[start : start + len(part)] = scores_bN.cpu().numpy()
        return scores_BN

    def save(self, folder: Path, **extra: object) -> None:
        """Write weights and card into an existing folder; `extra` joins the card."""
        state = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE)
        card = {
            "kind": self.model.name,
            "schema_version": 1,
            "shape": asdict(self.model.shape),
            "config": asdict(self.config),
            "best_epoch": self.best_epoch,
            "seconds": round(self.seconds, 2),
            "epochs": [asdict(record) for record in self.epochs],
            **extra,
        }
        (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "FittedStudent":
        """Read back what `save` wrote.

        Raises:
            ValueError: if the folder holds no student, or one of an unknown kind.
        """
        path = folder / CARD_FILE
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no student: {CARD_FILE} is missing; make one with "
                f"`brewhouse distill RUN`"
            )
        card = json.loads(path.read_text(encoding="utf-8"))
        model = find_student(card["kind"])(StudentShape(**card["shape"]))
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return cls(
            model=model.eval(),
            config=StudentConfig(**card["config"]),
            epochs=[EpochRecord(**record) for record in card["epochs"]],
            best_epoch=card["best_epoch"],
            seconds=card["seconds"],
        )


def fit_student(
    data: SequenceData,
    config: StudentConfig,
    teacher: Teacher | None = None,
    progress: ProgressView | None = None,
) -> FittedStudent:
    """Fit a student on all TRAIN events and keep the epoch that validates best.

    The same data, config, teacher and number of threads give the same student on a CPU.

    Args:
        data: sequences and targets of one store.
        config: sizes and schedule.
        teacher: adds its loss to every step and its item vectors, if any, to the input.
        progress: told after every step.

    Raises:
        ValueError: no student has the architecture's name, or it cannot have these sizes.
    """
    # Initial weights and dropout draw from torch's global generator: lend it, then restore it.
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return _Fit(data, config, teacher, progress).run()


class _Fit:
    """One run of `fit_student`: its model, its clock and the best state so far."""

    def __init__(
        self,
        data: SequenceData,
        config: StudentConfig,
        teacher: Teacher | None,
        progress: ProgressView | None,
    ) -> None:
        self.data, self.config, self.teacher = data, config, teacher
        self.progress = progress or NoProgress()
        self.device = torch.device(_device(config.device))
        vectors = None if teacher is None else teacher.item_vectors
        shape = config.shape(data.n_items, 0 if vectors is None else vectors.shape[1])
        table = None if vectors is None else torch.from_numpy(vectors)
        self.model = find_student(config.architecture)(shape, table).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.judged = data.validation.sample(SELECTION_TARGETS, config.seed)
        self.step = 0

    def run(self) -> FittedStudent:
        started = time.monotonic()
        fitted = FittedStudent(model=self.model, config=self.config)
        best_state, best_ndcg = copy.deepcopy(self.model.state_dict()), -1.0
        for epoch in range(1, self.config.epochs + 1):
            record = self._epoch(epoch, best_ndcg)
            fitted.epochs.append(record)
            # Without validation targets the last epoch is as good as any.
            ndcg = float(epoch) if record.validation_ndcg10 is None else record.validation_ndcg10
            if ndcg > best_ndcg:
                best_state, best_ndcg = copy.deepcopy(self.model.state_dict()), ndcg
                fitted.best_epoch = epoch
            elif epoch - fitted.best_epoch >= self.config.patience:
                break
        self.model.load_state_dict(best_state)
        self.model.eval()
        fitted.seconds = time.monotonic() - started
        log.info(
            "student: epoch %d of %d kept, %.1f s",
            fitted.best_epoch,
            len(fitted.epochs),
            fitted.seconds,
        )
        return fitted

    def _epoch(self, epoch: int, best_ndcg: float) -> EpochRecord:
        started = time.monotonic()
        generator = np.random.Generator(np.random.Philox(key=[self.config.seed, epoch]))
        self.model.train()
        sums, n_steps = np.zeros(2), 0
        best = "" if best_ndcg < 0 else f", best validation NDCG@10 {best_ndcg:.4f}"
        windows = training_windows(
            self.data, self.config.max_length, self.config.batch_size, generator
        )
        for inputs_BL, targets_BL in windows:
            sums += self._train_step(inputs_BL, targets_BL, generator)
            n_steps += 1
            self.progress.advance(note=f"epoch {epoch}{best}")
        self.model.eval()
        metrics = _judge(self.model, self.config, self.data, self.judged)
        losses = sums / n_steps
        return EpochRecord(
            epoch=epoch,
            loss=float(losses[0]),
            teacher_loss=None if self.teacher is None else float(losses[1]),
            validation_ndcg10=None if metrics is None else metrics[0],
            validation_hr10=None if metrics is None else metrics[1],
            seconds=time.monotonic() - started,
        )

    def _train_step(
        self,
        inputs_BL: npt.NDArray[np.int64],
        targets_BL: npt.NDArray[np.int64],
        generator: np.random.Generator,
    ) -> npt.NDArray[np.float64]:
        inputs, targets = (torch.from_numpy(x).to(self.device) for x in (inputs_BL, targets_BL))
        if self.config.loss == "cross_entropy":
            loss = cross_entropy(self.model, inputs, targets)
        else:
            n_targets = int((targets_BL != self.data.n_items).sum())
            drawn_MR = generator.integers(
                0, self.data.n_items, size=(n_targets, self.config.negatives)
            )
            negatives = torch.from_numpy(drawn_MR).to(self.device)
            loss = binary_cross_entropy(self.model, inputs, targets, negatives)
        teacher_loss = loss.new_zeros(())
        if self.teacher is not None:
            teacher_loss = self.teacher.loss(self.model, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + teacher_loss).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1
        return np.array([loss.item(), teacher_loss.item()])


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def most_steps(data: SequenceData, config: StudentConfig) -> int:
    """Steps of a fit that never stops early, about: how windows fall depends on the epoch."""
    lengths = np.diff(data.train_offsets_U1)
    # Cut from a random phase, n events give (n - 1 + phase) // max_length + 1 windows.
    windows = ((lengths[lengths > 0] - 1) / config.max_length + 1.5).sum()
    return config.epochs * int(-(-windows // config.batch_size))


def _judge(
    model: Student, config: StudentConfig, data: SequenceData, targets: NextItemTargets
) -> tuple[float, float] | None:
    """NDCG@10 and HR@10 on the targets; None without any."""
    if not len(targets):
        return None
    ranks = rank_targets(FittedStudent(model=model, config=config).item_scores, data, targets)
    return float(ranks.ndcg(10).mean()), float(ranks.hits(10).mean())
