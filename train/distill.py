"""Distil a run's backbone into a SASRec student: `python -m train.distill --run RUN`.

    RUN/teacher_cache/KEY/    what the backbone thinks of slates (train.teacher_cache)
    RUN/students/sasrec/      model.safetensors, student.json, catalog.json, metrics.json

The same student is fitted twice from the same seed, without and with the teacher. The one that
ranks validation better is kept; `metrics.json` holds both, and says whether the teacher helped.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from data_pipeline.files import atomic_folder
from data_pipeline.mixture import MixtureConfig
from data_pipeline.store import TokenStore
from train.cached_teacher import CachedTeacher, DistillConfig
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
    rank_targets,
)
from train.students import FittedStudent, fit_student, most_steps
from train.teacher_cache import TeacherCache, TeacherCacheConfig, build_teacher_cache

log = logging.getLogger(__name__)

STUDENT: Final = "sasrec"
METRICS: Final = "metrics.json"
WITH: Final = "with_teacher"
WITHOUT: Final = "without_teacher"
_RESAMPLES: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
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
    settings = asdict(job.config) | {"weight": job.config.factor}
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
    parser = argparse.ArgumentParser(
        prog="python -m train.distill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="run or checkpoint: the teacher")
    parser.add_argument("--store", help="token store; default: the run's")
    parser.add_argument("--output", type=Path, help="folder of the student")
    parser.add_argument("--overwrite", action="store_true", help="replace a student that is there")
    parser.add_argument(
        "--objective", choices=("listwise_kl", "dllm2rec"), default=default.objective
    )
    parser.add_argument("--weight", type=float, default=default.weight)
    parser.add_argument("--calibration", choices=("prior", "none"), default=default.calibration)
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
        calibration=given.calibration,
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
