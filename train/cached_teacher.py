"""A teacher that answers from its cache: the distillation loss of each step of a student's fit.

Shapes: B moments of a step, L positions, K items of the teacher's top list, S items of a slate,
N items.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from modeling.distillation import (
    ImportanceWeights,
    dllm2rec_ranking,
    importance_weights,
    listwise_kl,
)
from modeling.students import Student
from train.sequences import SequenceData, pad_left
from train.students import StudentConfig
from train.teacher_cache import TeacherCache, TeacherCacheConfig

_NEGATIVE_TRIES: Final = 20
_WEIGHTS: Final[Mapping[str, float]] = {"dllm2rec": 0.1, "listwise_kl": 0.02}


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class DistillConfig:
    """How a student learns from a teacher."""

    objective: Literal["listwise_kl", "dllm2rec"] = "dllm2rec"
    """`listwise_kl`: follow the teacher's distribution over each slate. `dllm2rec`: rank the
    teacher's top items up, weighted by place, confidence and agreement (RecSys 2024)."""
    weight: float | None = Field(default=None, ge=0)
    """Factor on the distillation loss beside the next-item loss. None: 0.1 with `dllm2rec`, 0.02
    with `listwise_kl`, which pulls every item of a slate and so drowns the next-item loss sooner
    when the teacher is weak."""
    temperature: float = Field(default=1.0, gt=0)
    """Softens both distributions of `listwise_kl`."""
    calibration: Literal["prior", "none"] = "prior"
    """`prior`: take off what the teacher thinks of a title as a text, put popularity in its place.
    A language model's likelihood depends on how long and how common the words of a title are, which
    says nothing of the item (Holtzman et al., 2021, "surface form competition"). `none`: as is."""
    moments_per_step: int = Field(default=32, ge=1)
    """Cached moments that each step of the fit learns from."""
    top_k: int = Field(default=10, ge=1)
    """Length of the teacher's list with `dllm2rec`."""
    position_weight: float = Field(default=0.3, ge=0)
    """Share of the place in the teacher's list with `dllm2rec`."""
    confidence_weight: float = Field(default=0.5, ge=0)
    """Share of the teacher's confidence with `dllm2rec`."""
    consistency_weight: float = Field(default=0.1, ge=0)
    """Share of the agreement with the student with `dllm2rec`."""
    teacher_vectors: bool = False
    """Add the teacher's item vectors to the student's input (collaborative embedding
    distillation)."""
    cache: TeacherCacheConfig = field(default_factory=TeacherCacheConfig)
    """What the teacher is asked."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """The student."""
    max_targets: int = Field(default=5000, ge=1)
    """Targets of each phase that the two students are compared on, at most."""

    @property
    def factor(self) -> float:
        """The weight, whether given or not."""
        return _WEIGHTS[self.objective] if self.weight is None else self.weight

    @property
    def importance(self) -> ImportanceWeights:
        """The weights of `dllm2rec`."""
        return ImportanceWeights(
            position=self.position_weight,
            confidence=self.confidence_weight,
            consistency=self.consistency_weight,
        )


class CachedTeacher:
    """A teacher that answers from its cache; see `train.students.Teacher`.

    Args:
        cache: slates with scores.
        data: the sequences of the same store, for the histories.
        config: the objective and its weight.
    """

    def __init__(self, cache: TeacherCache, data: SequenceData, config: DistillConfig) -> None:
        self.config = config
        self.item_vectors = cache.item_vectors() if config.teacher_vectors else None
        bounds = zip(cache.start_B, cache.cut_B, strict=True)
        histories = [data.item_E[start:cut] for start, cut in bounds]
        self._history_BL = pad_left(histories, config.student.max_length, data.n_items)
        self._slate_BS = cache.slate_BS.astype(np.int64)
        self._score_BS = teacher_scores(cache, data, config.calibration)
        self._n_items = data.n_items

    def loss(self, student: Student, step: int) -> torch.Tensor:
        """Weighted distillation loss on the moments of this step."""
        generator = np.random.Generator(
            np.random.Philox(key=[self.config.student.seed, (1 << 32) + step])
        )
        n = len(self._score_BS)
        rows = generator.choice(n, size=min(n, self.config.moments_per_step), replace=False)
        device = student.items.weight.device
        history_BL = torch.from_numpy(self._history_BL[rows]).to(device)
        slate_BS = torch.from_numpy(self._slate_BS[rows]).to(device)
        score_BS = torch.from_numpy(self._score_BS[rows]).to(device)
        if self.config.objective == "listwise_kl":
            student_BS = student.slate_scores(history_BL, slate_BS)
            loss = listwise_kl(student_BS, score_BS, temperature=self.config.temperature)
        else:
            negative_B = torch.from_numpy(self._negatives(rows, generator)).to(device)
            loss = self._dllm2rec(student, history_BL, slate_BS, score_BS, negative_B)
        return self.config.factor * loss

    def _dllm2rec(
        self,
        student: Student,
        history_BL: torch.Tensor,
        slate_BS: torch.Tensor,
        score_BS: torch.Tensor,
        negative_B: torch.Tensor,
    ) -> torch.Tensor:
        K = min(self.config.top_k, slate_BS.shape[1])
        # The paper's distance is between a generated text and an item; ours is how unlikely the
        # item's own title is among the slate: exp(-distance) is then the teacher's probability.
        log_share_BS = torch.log_softmax(score_BS, dim=-1)
        log_share_BK, column_BK = log_share_BS.topk(K, dim=1)
        list_BK = slate_BS.gather(1, column_BK)
        logits_BN = student.item_scores(history_BL)
        own_BK = logits_BN.detach().topk(K, dim=1).indices
        agreed_BK = (list_BK[:, :, None] == own_BK[:, None, :]).any(-1)
        weights_BK = importance_weights(-log_share_BK, agreed_BK, self.config.importance)
        return dllm2rec_ranking(
            logits_BN.gather(1, list_BK),
            logits_BN.gather(1, negative_B[:, None]).squeeze(1),
            weights_BK,
        )

    def _negatives(
        self, rows: npt.NDArray[np.int64], generator: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """One item per moment outside history and slate (which holds list and true item)."""
        n_items = self._n_items
        excluded = np.concatenate([self._history_BL[rows], self._slate_BS[rows]], axis=1)
        drawn = generator.integers(0, n_items, size=len(rows))
        for _ in range(_NEGATIVE_TRIES):
            clash = (excluded == drawn[:, None]).any(1)
            if not clash.any():
                break
            drawn[clash] = generator.integers(0, n_items, size=int(clash.sum()))
        return drawn


def teacher_scores(
    cache: TeacherCache, data: SequenceData, calibration: str
) -> npt.NDArray[np.float32]:
    """The teacher's logits over each slate, float32 `[B, S]`."""
    if calibration == "none":
        return cache.score_BS
    count_N = np.bincount(data.train_item_E, minlength=data.n_items)
    popularity_N = np.log1p(count_N).astype(np.float32)
    scores: npt.NDArray[np.float32] = cache.score_BS - cache.prior_BS + popularity_N[cache.slate_BS]
    return scores
