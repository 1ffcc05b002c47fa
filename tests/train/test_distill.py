"""Distillation: a teacher that knows helps, a shuffled one does not, and the record says which."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import make_tiny_run

from data_pipeline.errors import DataError
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from train.cached_teacher import CachedTeacher, DistillConfig, teacher_scores
from train.distill import (
    DistillJob,
    better,
    compare,
    distill,
    parse_job,
    verdict,
)
from train.sequences import NextItemRanks, SequenceData, rank_targets
from train.students import FittedStudent, StudentConfig, fit_student
from train.teacher_cache import TeacherCache, TeacherCacheConfig

N_ITEMS, LENGTH, USERS, SLATE = 40, 12, 60, 16
STUDENT = StudentConfig(
    hidden_size=32,
    n_layers=1,
    max_length=8,
    batch_size=16,
    epochs=30,
    patience=30,
    dropout=0.0,
    learning_rate=0.003,
    device="cpu",
)


def noisy_steps() -> SequenceData:
    """A quarter of the steps go from item i to i + 1, the others anywhere; targets all follow."""
    rng = np.random.Generator(np.random.Philox(key=[11, 0]))
    items = rng.integers(0, N_ITEMS, size=(USERS, LENGTH)).astype(np.int32)
    for column in range(1, LENGTH):
        follows = rng.random(USERS) < (0.25 if column < LENGTH - 2 else 1.0)
        items[follows, column] = (items[follows, column - 1] + 1) % N_ITEMS
    phases = np.full((USERS, LENGTH), Phase.TRAIN, dtype=np.int8)
    phases[:, -2], phases[:, -1] = Phase.VALIDATION, Phase.TEST
    return SequenceData.from_events(
        n_items=N_ITEMS,
        user_offsets_U1=np.arange(USERS + 1) * LENGTH,
        item_E=items.ravel(),
        time_E=np.tile(np.arange(LENGTH), USERS),
        phase_E=phases.ravel(),
    )


def knowing_teacher(data: SequenceData, *, shuffled: bool = False) -> TeacherCache:
    """A cache whose teacher gives the item that follows the newest one a far better score."""
    rng = np.random.Generator(np.random.Philox(key=[12, 0]))
    start_B = np.repeat(np.arange(USERS) * LENGTH, LENGTH - 3)
    cut_B = start_B + np.tile(np.arange(1, LENGTH - 2), USERS)
    right_B = (data.item_E[cut_B - 1] + 1) % N_ITEMS
    slate_BS = np.stack(
        [
            np.concatenate([[right], rng.permutation(np.delete(np.arange(N_ITEMS), right))])[:SLATE]
            for right in right_B
        ]
    )
    score_BS = rng.normal(size=slate_BS.shape).astype(np.float32)
    score_BS[:, 0] = 6.0
    if shuffled:
        score_BS = rng.permuted(score_BS, axis=1)
    return TeacherCache(
        folder=Path(),
        card={},
        user_B=(start_B // LENGTH).astype(np.int32),
        start_B=start_B,
        cut_B=cut_B,
        slate_BS=slate_BS.astype(np.int32),
        score_BS=score_BS,
        prior_BS=np.zeros_like(score_BS),
        target_B=np.zeros(len(cut_B), dtype=np.int32),
    )


def hit_rate(data: SequenceData, config: DistillConfig, cache: TeacherCache | None) -> float:
    """Mean over three students: sixty test targets of one alone move by five points."""
    rates = []
    for seed in range(3):
        student = replace(config.student, seed=seed)
        teacher = cache and CachedTeacher(cache, data, replace(config, student=student))
        fitted = fit_student(data, student, teacher)
        ranks = rank_targets(fitted.item_scores, data, data.test, exclude_history=False)
        rates.append(float(ranks.hits(1).mean()))
    return float(np.mean(rates))


@pytest.mark.parametrize("objective", ["listwise_kl", "dllm2rec"])
def test_a_knowing_teacher_helps_and_a_shuffled_one_does_not(objective: str) -> None:
    data = noisy_steps()
    config = DistillConfig(objective=objective, weight=1.0, temperature=1.0, student=STUDENT)  # type: ignore[arg-type]
    alone = hit_rate(data, config, None)
    taught, misled = (
        hit_rate(data, config, knowing_teacher(data, shuffled=shuffled))
        for shuffled in (False, True)
    )
    assert taught > alone + 0.1
    assert taught > misled + 0.2
    assert misled <= alone + 0.05


def test_the_loss_is_a_pure_function_of_the_step_and_scales_with_the_weight() -> None:
    data = noisy_steps()
    student = fit_student(data, replace(STUDENT, epochs=1)).model
    for objective in ("listwise_kl", "dllm2rec"):
        config = DistillConfig(objective=objective, weight=0.5, student=STUDENT)  # type: ignore[arg-type]
        teacher = CachedTeacher(knowing_teacher(data), data, config)
        first, other = teacher.loss(student, 3).item(), teacher.loss(student, 4).item()
        assert teacher.loss(student, 3).item() == first != other
        double = CachedTeacher(knowing_teacher(data), data, replace(config, weight=1.0))
        assert double.loss(student, 3).item() == pytest.approx(2 * first, rel=1e-5)


def test_calibration_takes_off_the_text_and_puts_popularity_in_its_place() -> None:
    data = noisy_steps()
    plain = knowing_teacher(data)
    length_BS = np.random.Generator(np.random.Philox(key=[3, 3])).normal(size=plain.slate_BS.shape)
    length_BS = length_BS.astype(np.float32) * 9
    cache = replace(plain, score_BS=plain.score_BS + length_BS, prior_BS=length_BS)
    count_N = np.bincount(data.train_item_E, minlength=N_ITEMS)
    expected_BS = plain.score_BS + np.log1p(count_N)[plain.slate_BS]
    np.testing.assert_allclose(teacher_scores(cache, data, "prior"), expected_BS, atol=1e-4)
    assert teacher_scores(cache, data, "none") is cache.score_BS


def test_negatives_are_outside_of_history_and_slate() -> None:
    data = noisy_steps()
    teacher = CachedTeacher(knowing_teacher(data), data, DistillConfig(student=STUDENT))
    rows = np.arange(200)
    generator = np.random.Generator(np.random.Philox(key=[0, 0]))
    negatives = teacher._negatives(rows, generator)
    assert negatives.min() >= 0
    assert negatives.max() < N_ITEMS
    for row, negative in zip(rows, negatives, strict=True):
        assert negative not in teacher._history_BL[row]
        assert negative not in teacher._slate_BS[row]


def test_teacher_vectors_reach_the_student(tmp_path: Path) -> None:
    data, cache = noisy_steps(), knowing_teacher(noisy_steps())
    vectors = np.random.Generator(np.random.Philox(key=[1, 1])).normal(size=(N_ITEMS, 5))
    np.savez(tmp_path / "item_vectors.npz", vectors=vectors.astype(np.float32))
    config = DistillConfig(student=replace(STUDENT, epochs=1), teacher_vectors=True)
    with pytest.raises(ValueError, match=r"has no item_vectors\.npz"):
        CachedTeacher(cache, data, config)
    teacher = CachedTeacher(replace(cache, folder=tmp_path), data, config)
    student = fit_student(data, config.student, teacher)
    assert student.model.shape.teacher_width == 5
    expected = torch.from_numpy(vectors.astype(np.float32))
    assert torch.equal(student.model.teacher_items[:N_ITEMS], expected)


def test_the_comparison_is_paired_over_users() -> None:
    data = noisy_steps()
    student = fit_student(data, replace(STUDENT, epochs=2))
    found = compare({"with_teacher": student, "without_teacher": student}, data, 1000, seed=0)
    assert found["test"]["n"] == found["test"]["users"] == USERS
    assert found["test"]["difference_ndcg@10"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["test"]["with_teacher"] == found["test"]["without_teacher"]
    ranks = rank_targets(student.item_scores, data, data.test)
    assert isinstance(ranks, NextItemRanks)
    assert found["test"]["with_teacher"]["hr@10"] == pytest.approx(ranks.hits(10).mean())


@pytest.mark.parametrize(
    ("low", "high", "helps", "words"),
    [
        (0.001, 0.02, True, "the teacher helps"),
        (-0.02, -0.001, False, "the teacher hurts"),
        (-0.01, 0.01, False, "no difference beyond"),
    ],
)
def test_the_verdict_is_the_intervals(low: float, high: float, helps: bool, words: str) -> None:
    gap = {"value": (low + high) / 2, "low": low, "high": high}
    found, text = verdict({"test": {"difference_ndcg@10": gap}})
    assert found is helps
    assert words in text
    assert "on test" in text


def test_validation_decides_which_student_is_kept() -> None:
    def phases(taught: float, alone: float) -> dict[str, dict[str, dict[str, float]]]:
        numbers = {"with_teacher": {"ndcg@10": taught}, "without_teacher": {"ndcg@10": alone}}
        opposite = {"with_teacher": {"ndcg@10": alone}, "without_teacher": {"ndcg@10": taught}}
        return {"validation": numbers, "test": opposite}

    assert better(phases(0.2, 0.1)) == "with_teacher"
    assert better(phases(0.1, 0.1)) == "with_teacher"
    assert better(phases(0.1, 0.2)) == "without_teacher"
    assert better({}) == "with_teacher"


def test_no_targets_is_said() -> None:
    assert verdict({}) == (None, "no validation or test targets: nothing was compared")


@pytest.fixture(scope="module")
def run(tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_run(tmp_path_factory.mktemp("distill") / "run", tiny_store)


QUICK = DistillConfig(
    student=StudentConfig(hidden_size=16, epochs=2, max_length=10),
    cache=TeacherCacheConfig(max_moments=8, slate_size=8, shard_size=4),
    teacher_vectors=True,
)


def test_a_run_becomes_a_student_folder(run: Path, tiny_store: TokenStore) -> None:
    folder = distill(DistillJob(run=run, config=QUICK))
    assert folder == run / "students" / "sasrec"
    assert sorted(path.name for path in folder.iterdir()) == [
        "catalog.json",
        "metrics.json",
        "model.safetensors",
        "student.json",
    ]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["verdict"]
    kept = metrics["kept"]
    assert kept == json.loads((folder / "student.json").read_text())["kept"] == better(metrics)
    assert metrics["teacher"]["moments"] == 8
    for phase in ("validation", "test"):
        for which in ("with_teacher", "without_teacher"):
            assert 0 <= metrics[phase][which]["ndcg@10"] <= metrics[phase][which]["hr@10"] <= 1
        assert metrics[phase]["n"] > 0
    catalog = json.loads((folder / "catalog.json").read_text())
    assert [item["item_id"] for item in catalog["items"]] == tiny_store.item_ids
    scores = FittedStudent.load(folder).item_scores([[0, 1]])
    assert scores.shape == (1, tiny_store.n_items)
    with pytest.raises(DataError, match="exists already"):
        distill(DistillJob(run=run, config=QUICK))
    again = distill(DistillJob(run=run, config=QUICK, overwrite=True))
    np.testing.assert_array_equal(FittedStudent.load(again).item_scores([[0, 1]]), scores)


def test_a_failed_distillation_leaves_no_student(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "student"
    bad = replace(QUICK, cache=replace(QUICK.cache, slate_size=10_000))
    with pytest.raises(ValueError, match="slate of 10000 items cannot be filled"):
        distill(DistillJob(run=run, output=target, config=bad))
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_reads_into_the_config() -> None:
    plain = parse_job(["--run", "r"]).config
    assert (plain.objective, plain.factor) == ("dllm2rec", 0.1)
    assert DistillConfig(objective="listwise_kl").factor == 0.02
    assert DistillConfig(objective="listwise_kl", weight=3).factor == 3
    job = parse_job(["--run", "r", "--objective", "dllm2rec", "--max-moments", "7", "--seed", "5"])
    assert job.config.objective == "dllm2rec"
    assert job.config.cache.max_moments == 7
    assert job.config.student.seed == job.config.cache.seed == 5
