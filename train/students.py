"""Fit a sequence student on the TRAIN events of a store, with or without a teacher.

Shapes: B windows or histories, L positions, M supervised positions, N items, R sampled negatives.
"""

import copy
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, field, replace
from dataclasses import dataclass as plain_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save_file

from modeling.students import SASRec, SASRecShape
from train.progress import NoProgress, ProgressView
from train.sequences import NextItemTargets, SequenceData, pad_left, rank_targets

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
    """How a SASRec student is built and fitted."""

    hidden_size: int = Field(default=64, ge=1)
    """Width of item vectors and layers."""
    n_layers: int = Field(default=2, ge=1)
    """Attention blocks."""
    n_heads: int = Field(default=2, ge=1)
    """Attention heads; divides `hidden_size`."""
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

    def shape(self, n_items: int, teacher_width: int = 0) -> SASRecShape:
        """The tensor sizes for a catalog of `n_items`."""
        return SASRecShape(
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

    def loss(self, student: SASRec, step: int) -> torch.Tensor:
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

    model: SASRec
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
            "kind": "sasrec",
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
            ValueError: if the folder holds no student.
        """
        path = folder / CARD_FILE
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no student: {CARD_FILE} is missing; make one with "
                f"`brewhouse distill RUN`"
            )
        card = json.loads(path.read_text(encoding="utf-8"))
        model = SASRec(SASRecShape(**card["shape"]))
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
    """Fit a SASRec on all TRAIN events and keep the epoch that validates best.

    The same data, config, teacher and number of threads give the same student on a CPU.

    Args:
        data: sequences and targets of one store.
        config: sizes and schedule.
        teacher: adds its loss to every step and its item vectors, if any, to the input.
        progress: told after every step.
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
        self.model = SASRec(shape, table).to(self.device)
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
        for inputs_BL, targets_BL in training_windows(self.data, self.config, generator):
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
            loss = _cross_entropy(self.model, inputs, targets)
        else:
            loss = _binary_cross_entropy(
                self.model, inputs, targets, self.config.negatives, generator
            )
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


def training_windows(
    data: SequenceData, config: StudentConfig, generator: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Windows of one epoch as (inputs, targets) `[B, L]`: every TRAIN event is a target once.

    Every sequence is cut from a random phase, so that an event meets every position over the
    epochs. Its first event is predicted from padding alone: that is what an empty history is.
    """
    L, padding = config.max_length, data.n_items
    windows: list[tuple[int, int, int]] = []  # first event of the sequence, first target, stop
    for first, stop in zip(data.train_offsets_U1[:-1], data.train_offsets_U1[1:], strict=True):
        if first == stop:
            continue
        ends = np.arange(first + int(generator.integers(1, L + 1)), stop, L)
        bounds = [int(first), *ends.tolist(), int(stop)]
        windows += [(int(first), start, end) for start, end in pairwise(bounds)]
    order = generator.permutation(len(windows))
    for start in range(0, len(order), config.batch_size):
        rows = order[start : start + config.batch_size]
        inputs_BL = np.full((len(rows), L), padding, dtype=np.int64)
        targets_BL = np.full((len(rows), L), padding, dtype=np.int64)
        for row, index in enumerate(rows):
            first, begin, end = windows[index]
            targets_BL[row, L - (end - begin) :] = data.train_item_E[begin:end]
            # Inputs reach back before the window as far as the row is wide.
            known = data.train_item_E[max(first, end - 1 - L) : end - 1]
            inputs_BL[row, L - len(known) :] = known
        yield inputs_BL, targets_BL


def _cross_entropy(
    model: SASRec, inputs_BL: torch.Tensor, targets_BL: torch.Tensor
) -> torch.Tensor:
    wanted_BL = targets_BL != model.padding_item
    hidden_MD = model(inputs_BL)[wanted_BL]
    # The same as F.cross_entropy, whose backward fills the whole [M, N] twice more.
    of_target_M = (hidden_MD * model.items(targets_BL[wanted_BL])).sum(-1)
    loss: torch.Tensor = (hidden_MD @ model.output_vectors().T).logsumexp(-1) - of_target_M
    return loss.mean()


def _binary_cross_entropy(
    model: SASRec,
    inputs_BL: torch.Tensor,
    targets_BL: torch.Tensor,
    n_negatives: int,
    generator: np.random.Generator,
) -> torch.Tensor:
    wanted_BL = targets_BL != model.padding_item
    hidden_MD = model(inputs_BL)[wanted_BL]
    target_M = targets_BL[wanted_BL]
    drawn = generator.integers(0, model.shape.n_items, size=(len(target_M), n_negatives))
    negative_MR = torch.from_numpy(drawn).to(target_M.device)
    positive_M = (hidden_MD * model.items(target_M)).sum(-1)
    against_MR = torch.einsum("md,mrd->mr", hidden_MD, model.items(negative_MR))
    # A negative that is an item of the same window is none.
    rows_M = wanted_BL.nonzero()[:, 0]
    window_ML = targets_BL[rows_M]
    valid_MR = (negative_MR[:, :, None] != window_ML[:, None, :]).all(-1)
    negative_loss = (F.softplus(against_MR) * valid_MR).sum() / valid_MR.sum().clamp(min=1)
    return F.softplus(-positive_M).mean() + negative_loss


def _judge(
    model: SASRec, config: StudentConfig, data: SequenceData, targets: NextItemTargets
) -> tuple[float, float] | None:
    """NDCG@10 and HR@10 on the targets; None without any."""
    if not len(targets):
        return None
    ranks = rank_targets(FittedStudent(model=model, config=config).item_scores, data, targets)
    return float(ranks.ndcg(10).mean()), float(ranks.hits(10).mean())


def with_seed(config: StudentConfig, seed: int) -> StudentConfig:
    """The same student from another seed."""
    return replace(config, seed=seed)
