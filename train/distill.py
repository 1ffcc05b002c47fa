"""Distil a run's backbone into a SASRec student: `python -m train.distill --run RUN`.

    RUN/teacher_cache/KEY/    what the backbone thinks of slates (train.teacher_cache)
    RUN/students/sasrec/      model.safetensors, student.json, catalog.json, metrics.json

The same student is fitted twice from the same seed, without and with the teacher. The one that
ranks validation better is kept; `metrics.json` holds both, and says whether the teacher helped.

Shapes: B moments of a step, K items of the teacher's top list, S items of a slate, N items.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, field, replace
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from data_pipeline.files import atomic_folder
from data_pipeline.mixture import MixtureConfig
from data_pipeline.store import TokenStore
from modeling.distillation import (
    ImportanceWeights,
    dllm2rec_ranking,
    importance_weights,
    listwise_kl,
)
from modeling.students import SASRec
from train.catalog import write_catalog
from train.checkpoint import resolve_model_folder
from train.evaluation.models import weights_hash
from train.evaluation.run import find_config
from train.model_setup import load_trained
from train.plugins import load_plugins
from train.progress import show_progress
from train.sequences import (
    NextItemRanks,
    NextItemTargets,
    SequenceData,
    pad_left,
    rank_targets,
)
from train.students import FittedStudent, StudentConfig, fit_student, most_steps
from train.teacher_cache import TeacherCache, TeacherCacheConfig, build_teacher_cache

log = logging.getLogger(__name__)

STUDENT: Final = "sasrec"
METRICS: Final = "metrics.json"
WITH: Final = "with_teacher"
WITHOUT: Final = "without_teacher"
_NEGATIVE_TRIES: Final = 20
_RESAMPLES: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class DistillConfig:
    """How a student learns from a teacher."""

    objective: Literal["listwise_kl", "dllm2rec"] = "listwise_kl"
    """`listwise_kl`: follow the teacher's distribution over each slate. `dllm2rec`: rank the
    teacher's top items up, weighted by place, confidence and agreement (RecSys 2024)."""
    weight: float = Field(default=0.5, ge=0)
    """Factor on the distillation loss beside the next-item loss."""
    temperature: float = Field(default=2.0, gt=0)
    """Softens both distributions of `listwise_kl`."""
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
        self._score_BS = cache.score_BS
        self._n_items = data.n_items

    def loss(self, student: SASRec, step: int) -> torch.Tensor:
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
        return self.config.weight * loss

    def _dllm2rec(
        self,
        student: SASRec,
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


@plain_dataclass(frozen=True, kw_only=True, slots=True)
class DistillJob:
    """One distillation as a person asks for it."""

    run: Path
    """A run or checkpoint: the teacher."""
    store: str | None = None
    """Token store; None: the only one of the run's config."""
    output: Path | None = None
    """Folder of the student; None: RUN/students/sasrec."""
    overwrite: bool = False
    """Replace a student that is there."""
    config: DistillConfig = field(default_factory=DistillConfig)


def distill(job: DistillJob) -> Path:
    """Fit the student with and without its teacher, compare, and write it whole.

    Returns:
        The student's folder.

    Raises:
        ValueError: no model or store, or a folder that may not be overwritten.
    """
    started = time.monotonic()
    config = job.config
    run_config = find_config(job.run)
    load_plugins(run_config.plugins if run_config else ())
    store = TokenStore.open(_store_folder(job, run_config.stores if run_config else ()))
    output = job.output or job.run / "students" / STUDENT
    with atomic_folder(output, overwrite=job.overwrite) as folder:
        data = SequenceData.from_store(store)
        cache = _ask_teacher(job, store, run_config.mixture if run_config else MixtureConfig())
        students = {}
        for name, teacher in (
            (WITHOUT, None),
            (WITH, CachedTeacher(cache, data, config)),
        ):
            bar = show_progress(
                most_steps(data, config.student), f"student {name.replace('_', ' ')}"
            )
            try:
                students[name] = fit_student(data, config.student, teacher, bar)
            finally:
                bar.close()
        metrics = compare(students, data, config.max_targets, config.student.seed)
        kept = better(metrics)
        card = _card(job, store, cache, students, metrics, time.monotonic() - started)
        students[kept].save(folder, store_fingerprint=store.fingerprint, kept=kept)
        write_catalog(store, folder)
        (folder / METRICS).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    log.info("%s: %s", output, card["verdict"])
    return output


def _ask_teacher(job: DistillJob, store: TokenStore, mixture: MixtureConfig) -> TeacherCache:
    folder = resolve_model_folder(job.run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = load_trained(folder, dtype=dtype).to(device).eval()
    inside = folder.parent.name if folder.name == "model" else folder.name
    bar = show_progress(job.config.cache.max_moments, "teacher cache")
    try:
        return build_teacher_cache(
            model,
            store,
            job.run / "teacher_cache",
            job.config.cache,
            mixture=mixture,
            teacher={"name": inside, "weights": weights_hash(folder)},
            with_item_vectors=job.config.teacher_vectors,
            progress=bar,
        )
    finally:
        bar.close()


def _store_folder(job: DistillJob, stores: Sequence[str]) -> str:
    if job.store is not None:
        return job.store
    if len(stores) == 1:
        return stores[0]
    raise ValueError(
        f"{job.run} was trained on {len(stores)} token stores ({', '.join(stores) or 'unknown'}), "
        f"and a student serves one catalog: name it with --store STORE"
    )


def compare(
    students: dict[str, FittedStudent], data: SequenceData, max_targets: int, seed: int
) -> dict[str, Any]:
    """Full-catalog NDCG@10 and HR@10 of both students on validation and test.

    Items of the history are excluded from the ranking. The difference has a 95% percentile
    interval over users, paired: both students answer the same targets in every resample.
    """
    phases: dict[str, Any] = {}
    for phase, targets in (("validation", data.validation), ("test", data.test)):
        if not len(targets):
            continue
        chosen = targets.sample(max_targets, seed)
        ranks = {name: rank_targets(s.item_scores, data, chosen) for name, s in students.items()}
        phases[phase] = {
            "n": len(chosen),
            "n_of_phase": len(targets),
            "n_without_history": targets.n_without_history,
            "users": len(np.unique(chosen.user_B)),
            **{name: _metrics(rank) for name, rank in ranks.items()},
            "difference_ndcg@10": _difference(chosen, ranks[WITH], ranks[WITHOUT], seed),
        }
    return phases


def _metrics(ranks: NextItemRanks) -> dict[str, float]:
    return {"ndcg@10": float(ranks.ndcg(10).mean()), "hr@10": float(ranks.hits(10).mean())}


def _difference(
    targets: NextItemTargets, ours: NextItemRanks, theirs: NextItemRanks, seed: int
) -> dict[str, float]:
    gain_B = ours.ndcg(10) - theirs.ndcg(10)
    _, user_B = np.unique(targets.user_B, return_inverse=True)
    gain_U = np.bincount(user_B, weights=gain_B)
    count_U = np.bincount(user_B)
    generator = np.random.Generator(np.random.Philox(key=[seed, len(gain_B)]))
    n = len(gain_U)
    draws_RU = generator.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    means_R = (draws_RU @ gain_U) / np.maximum(draws_RU @ count_U, 1)
    low, high = np.quantile(means_R, [0.025, 0.975])
    return {"value": float(gain_B.mean()), "low": float(low), "high": float(high)}


def better(phases: dict[str, Any]) -> str:
    """Which student to keep: the one with the better validation NDCG@10, the taught one on a tie.

    Test plays no part in the choice.
    """
    if "validation" not in phases:
        return WITH
    taught, alone = (phases["validation"][name]["ndcg@10"] for name in (WITH, WITHOUT))
    return WITH if taught >= alone else WITHOUT


def verdict(phases: dict[str, Any]) -> tuple[bool | None, str]:
    """Whether the teacher helped on the last phase there is, in words."""
    if not phases:
        return None, "no validation or test targets: nothing was compared"
    name = "test" if "test" in phases else "validation"
    gap = phases[name]["difference_ndcg@10"]
    numbers = f"{gap['value']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}] NDCG@10 on {name}"
    if gap["low"] > 0:
        return True, f"the teacher helps: {numbers}"
    if gap["high"] < 0:
        return False, f"the teacher hurts: {numbers}"
    return False, f"the teacher makes no difference beyond the interval: {numbers}"


def _card(
    job: DistillJob,
    store: TokenStore,
    cache: TeacherCache,
    students: dict[str, FittedStudent],
    phases: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    helps, words = verdict(phases)
    settings = asdict(job.config)
    return {
        "schema_version": 1,
        "student": STUDENT,
        "verdict": words,
        "kept": better(phases),
        "teacher_helps": helps,
        "ranking": "full catalog, history excluded, ties against the target",
        **phases,
        "corpus": store.card.corpus_name,
        "store_fingerprint": store.fingerprint,
        "split": store.card.split.get("method"),
        "teacher": {**cache.card["teacher"], "cache": cache.key, "moments": len(cache)},
        "objective": settings.pop("objective"),
        "config": settings,
        "fit": {
            name: {
                "seconds": round(student.seconds, 1),
                "epochs": len(student.epochs),
                "best_epoch": student.best_epoch,
            }
            for name, student in students.items()
        },
        "seconds": round(seconds, 1),
    }


def parse_job(arguments: Sequence[str] | None = None) -> DistillJob:
    """Read the command line."""
    default = DistillConfig()
    parser = argparse.ArgumentParser(prog="python -m train.distill", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run or checkpoint: the teacher")
    parser.add_argument("--store", help="token store; default: the run's")
    parser.add_argument("--output", type=Path, help="folder of the student")
    parser.add_argument("--overwrite", action="store_true", help="replace a student that is there")
    parser.add_argument(
        "--objective", choices=("listwise_kl", "dllm2rec"), default=default.objective
    )
    parser.add_argument("--weight", type=float, default=default.weight)
    parser.add_argument("--temperature", type=float, default=default.temperature)
    parser.add_argument("--teacher-vectors", action="store_true")
    parser.add_argument("--max-moments", type=int, default=default.cache.max_moments)
    parser.add_argument("--slate-size", type=int, default=default.cache.slate_size)
    parser.add_argument("--epochs", type=int, default=default.student.epochs)
    parser.add_argument("--max-targets", type=int, default=default.max_targets)
    parser.add_argument("--seed", type=int, default=default.student.seed)
    given = parser.parse_args(arguments)
    config = DistillConfig(
        objective=given.objective,
        weight=given.weight,
        temperature=given.temperature,
        teacher_vectors=given.teacher_vectors,
        max_targets=given.max_targets,
        cache=TeacherCacheConfig(
            max_moments=given.max_moments, slate_size=given.slate_size, seed=given.seed
        ),
        student=replace(default.student, seed=given.seed, epochs=given.epochs),
    )
    return DistillJob(
        run=given.run,
        store=given.store,
        output=given.output,
        overwrite=given.overwrite,
        config=config,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Distil from the command line."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    distill(parse_job(arguments))


if __name__ == "__main__":
    main()
