"""A run folder as training, evaluation, distillation and export leave it, with made numbers."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.tasks import all_tasks
from data_pipeline.tasks.base import Task
from train.evaluation.metrics import SAMPLED, find_metric
from train.evaluation.results import (
    DECODING,
    SCHEMA_VERSION,
    CorpusResult,
    CurveCard,
    Range,
    Results,
    Row,
    Slice,
    to_json,
)

HOSTILE = "<script>alert('x')</script> | ``` & <b>"
"""A title out of somebody's data: it must stay text in both forms of the report."""


def make_run(folder: Path, *, steps: int = 120, most_tasks: int | None = None) -> Path:
    """Write every file that a report reads."""
    rng = np.random.Generator(np.random.Philox(key=[5, 0]))
    tasks = list(all_tasks().values())[:most_tasks]
    corpus = folder.parent / "corpus"
    _write(corpus / "audit.json", audit())
    config = {
        "stores": [str(folder.parent / "corpus-store")],
        "model": {"architecture": "qwen3", "hidden_size": 192, "num_hidden_layers": 6},
        "output_dir": str(folder),
        "deepspeed": "zero2",
        "learning_rate": 2e-3,
        "provenance": {"commit": "0123abc", "python": "3.11.7", "packages": {"torch": "2.13.0"}},
    }
    _write(folder / "config.yaml", config)
    lines = [_step(step, tasks, rng) for step in range(5, steps + 1, 5)]
    lines += [_evaluation(step, tasks, rng) for step in range(30, steps + 1, 30)]
    text = "".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda x: x["step"]))
    _write(folder / "metrics.jsonl", text)
    trained = results([_row(task, i, rng) for i, task in enumerate(tasks)])
    _write(folder / "evaluation" / "results.json", to_json(trained))
    held_out = replace(trained, phrasing="held_out")
    _write(folder / "evaluation" / "results-held_out.json", to_json(held_out))
    for name, made in curves(tasks, rng).items():
        _write(folder / "evaluation" / f"curve-{name}.json", to_json(made))
    _write(folder / "evaluation" / "examples.json", examples())
    _write(folder / "students" / "sasrec" / "metrics.json", student())
    for name, passed in (("merged", True), ("onnx", False)):
        _write(folder / "exports" / name / "proof.json", proof(passed))
    lora = {"finetuning_type": "lora", "mixture": {"tasks": {"pointwise": 1.0}}}
    _write(folder / "lora" / "config.yaml", lora)
    _write(folder / "lora" / "metrics.jsonl", text)
    _write(folder / "lora" / "exports" / "adapter" / "proof.json", proof(True))
    _write(
        folder / "timings.json",
        {
            "fetch": {"seconds": 3.2, "peak_mb": 210.0, "skipped": True},
            "train": {"seconds": 321.0, "peak_mb": 2310.5, "skipped": False},
        },
    )
    return folder


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def _losses(progress: float, tasks: list[Task], rng: np.random.Generator) -> dict[str, Any]:
    return {
        task.name: {
            "loss": math.log(2 + i % 7) * (0.45 + 0.55 * math.exp(-3 * progress))
            + 0.06 * float(rng.standard_normal()),
            "targets": 10 + i,
        }
        for i, task in enumerate(tasks)
    }


def _step(step: int, tasks: list[Task], rng: np.random.Generator) -> dict[str, Any]:
    per_task = _losses(step / 120, tasks, rng)
    return {
        "step": step,
        "loss": float(np.mean([numbers["loss"] for numbers in per_task.values()])),
        "learning_rate": 1e-3,
        "grad_norm": 0.8,
        "label_mass": 0.98,
        "targets": sum(numbers["targets"] for numbers in per_task.values()),
        "tokens": 9000,
        "seconds": 2.5,
        "targets_per_s": 120.0,
        "tokens_per_s": 3600.0,
        "padding_share": 0.0,
        "memory_mb": 812.0,
        "skipped_steps": 0,
        "tasks": per_task,
    }


def _evaluation(step: int, tasks: list[Task], rng: np.random.Generator) -> dict[str, Any]:
    per_task = _losses(step / 120, tasks, rng)
    mean = float(np.mean([numbers["loss"] for numbers in per_task.values()]))
    return {"step": step, "evaluation": {"loss": mean, "targets": 900, "tasks": per_task}}


def _row(task: Task, index: int, rng: np.random.Generator) -> Row:
    metric = find_metric(task.metric)
    value = 0.55 + 0.3 * float(rng.random())
    half = 0.01 + 0.02 * float(rng.random())
    if metric.name.endswith("rmse"):
        value, half = 1.02, 0.03
    sign = 1 if metric.higher_is_better else -1
    trivial, best, untrained = (
        value - sign * 0.08,
        value + (index % 3 - 1) * 0.03,
        value - sign * 0.1,
    )
    lost = index % 3 == 2
    return Row(
        corpus="movielens-100k",
        task=task.name,
        code=task.code,
        family=task.family,
        tier=task.tier,
        kind=task.kind,
        n=1500 + index,
        users=140,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        value=value,
        low=value - half,
        high=value + half,
        baselines={"majority": trivial, "item_knn": best},
        trivial="majority",
        baseline="item_knn",
        baseline_value=best,
        untrained_value=untrained,
        difference_to_untrained=Range(value=0.1, low=0.08, high=0.12),
        difference_to_trivial=Range(value=0.08, low=0.05, high=0.1),
        difference_to_best=Range(value=-0.03 if lost else 0.03, low=-0.05, high=0.05),
        beats_untrained=True,
        beats_trivial=index != 4,
        beats_best=not lost,
        label_mass=None if task.is_written else 0.99,
        secondary={f"{SAMPLED if metric.name.startswith(SAMPLED) else ''}logloss": 0.6},
        users_with_one_class=0,
        slices=[
            Slice(name="0 to 5", n=200, users=20, value=value - 0.02, low=0.5, high=0.6),
            Slice(name="6 and more", n=1300, users=120, value=None, low=None, high=None),
        ],
        level=metric.level,
        sampled=metric.name.startswith(SAMPLED),
        targets_hash=f"targets of {task.name}",
        **(TITLE if task.kind == "title" else {}),
    )


TITLE: dict[str, Any] = {"ranked_items": 1580.0, "excluded_items": 100.0, "invalid_rate": 0.0}


def curves(tasks: list[Task], rng: np.random.Generator) -> dict[str, Results]:
    """Curves over shots and over phrasings of the first two tasks."""
    made = {}
    for name, xs, x_names in (
        ("shots", (0.0, 5.0, 20.0, 100.0), {}),
        ("phrasing", (0.0, 1.0, 2.0), {"0": "seen 1", "1": "seen 2", "2": "unseen 1"}),
    ):
        rows = [
            replace(
                _row(task, index, rng),
                x=x,
                reached=1.0 if x < 100 else 0.4,
                slices=[],
                difference_to_previous=Range(value=0.01, low=-0.01, high=0.03) if x else None,
            )
            for index, task in enumerate(tasks[:2])
            for x in xs
        ]
        card = CurveCard(
            name=name,
            x_label="events of the history (shots)" if name == "shots" else "phrasing",
            scale="log" if name == "shots" else "names",
            same_targets=True,
            x_names=x_names,
            left_out={"1000": "the model has 512 positions"} if name == "shots" else {},
        )
        made[name] = replace(results(rows), curve=card)
    return made


def results(rows: list[Row]) -> Results:
    corpus = CorpusResult(
        name="movielens-100k",
        store_fingerprint="aaaa",
        corpus_fingerprint="bbbb",
        split_hash="cccc",
        split={"method": "global_time"},
        set_fingerprint="dddd",
        users_expected=140,
        users_scored=140,
        targets_expected=27_000,
        targets_scored=27_000,
        skipped={"recommend": "its events carry no such action"},
        baseline_settings={},
        catalog_items=1680,
    )
    return Results(
        schema_version=SCHEMA_VERSION,
        model="quickstart/checkpoint-600",
        model_hash="f" * 64,
        untrained="the same config, not trained",
        phase="test",
        phrasing="trained",
        decoding=DECODING,
        split_hash="cccc",
        seed=0,
        mixture_seed=0,
        bootstrap={"resamples": 1000, "level": 0.95, "seed": 0, "unit": "user"},
        max_targets=1500,
        max_title_targets=200,
        max_ranked_titles=120_000,
        world_size=2,
        seconds={"model": 60.0},
        targets_per_second=250.0,
        corpora=[corpus],
        rows=rows,
    )


def audit() -> dict[str, Any]:
    quantiles = {
        "min": 20,
        "p10": 25,
        "median": 65,
        "p90": 244,
        "p99": 477,
        "max": 737,
        "mean": 106,
    }
    return {
        "corpus": "movielens-100k",
        "fingerprint": "bbbb",
        "licence": "see the publisher",
        "counts": {"items": 1682, "users": 943, "events": 100_000},
        "first_event": "1997-09-20T03:05:10.000Z",
        "last_event": "1998-04-22T23:10:38.000Z",
        "days": 214.8,
        "density": 0.063,
        "events_per_user": quantiles,
        "events_per_item": quantiles,
        "actions": {"rated": 100_000},
        "values": {"1": 6110, "2": 11370, "3": 27145, "4": 34174, "5": 21201},
        "split": {
            "method": "global_time",
            "counts": {"TRAIN": 80_000, "VALIDATION": 10_000, "TEST": 10_000, "GAP": 0},
            "hash": "cccc",
        },
        "checks": [
            {"name": "time", "level": "ok", "message": "214.8 days of events.", "measured": {}},
            {"name": "cold", "level": "warning", "message": "Most users are new.", "measured": {}},
        ],
        "level": "warning",
    }


def examples() -> dict[str, Any]:
    prompt = f"Profile: 24, technician\nHistory:\n 2 days | {HOSTILE} | liked\nWill she like it?"
    like = {
        "corpus": "movielens-100k",
        "task": "like",
        "kind": "label",
        "prompt": f"{prompt}\nAnswer:",
        "answer": "Yes",
        "label": 1,
        "choices": ["No", "Yes"],
        "probabilities": [0.1877, 0.8123],
        "label_mass": 0.99,
    }
    title = like | {"task": "next_item_title", "answer": "Heat (1995)", "rank": 12.5}
    return {"schema_version": 1, "examples": [like, title]}


def student() -> dict[str, Any]:
    phase = {
        "n": 2000,
        "without_teacher": {"ndcg@10": 0.0241, "hr@10": 0.047},
        "with_teacher": {"ndcg@10": 0.0263, "hr@10": 0.051},
        "difference_ndcg@10": {"value": 0.0022, "low": 0.0004, "high": 0.0041},
    }
    return {
        "student": "sasrec",
        "verdict": "the teacher helps: +0.0022 [+0.0004, +0.0041] NDCG@10 on test",
        "teacher_helps": True,
        "ranking": "full catalog, history excluded, ties against the target",
        "validation": phase,
        "test": phase,
        "teacher": {"name": "checkpoint-600"},
        "objective": "listwise_kl",
    }


def proof(passed: bool) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "kind": "merged",
        "passed": passed,
        "probes": 32,
        "max_logit_difference": 1.3e-6,
        "max_probability_difference": 2e-7,
        "top_k_identical": 32,
        "tokenizer_identical": None,
        "versions": {"transformers": "5.23.0"},
        "files": [{"name": "config.json", "bytes": 3, "sha256": "00"}],
    }
