"""Fitting a student: it learns what is there, the same way every time."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.splits import Phase
from modeling.students import Student
from train.sequences import SequenceData, rank_targets, training_windows
from train.students import FittedStudent, StudentConfig, fit_student, most_steps

N_ITEMS = 50  # far more than a history holds: leaving the history out must not give it away
SMALL = StudentConfig(
    hidden_size=32, n_layers=1, max_length=8, batch_size=32, epochs=30, dropout=0.0, device="cpu"
)


def cycle(users: int = 100, n_items: int = N_ITEMS, length: int = 18) -> SequenceData:
    """Every user walks round the items from a place of their own: 4, 5, 6, ..."""
    items = np.stack([(np.arange(length) + 7 * user) % n_items for user in range(users)])
    phases = np.full((users, length), Phase.TRAIN, dtype=np.int8)
    phases[:, -2], phases[:, -1] = Phase.VALIDATION, Phase.TEST
    return SequenceData.from_events(
        n_items=n_items,
        user_offsets_U1=np.arange(users + 1) * length,
        item_E=items.astype(np.int32).ravel(),
        time_E=np.tile(np.arange(length), users),
        phase_E=phases.ravel(),
    )


@pytest.mark.parametrize(
    ("architecture", "loss", "k"),
    [
        ("sasrec", "cross_entropy", 1),
        ("sasrec", "binary_cross_entropy", 4),
        ("gru4rec", "cross_entropy", 1),
    ],
)
def test_it_learns_a_deterministic_sequence(architecture: str, loss: str, k: int) -> None:
    # Sampled negatives leave out the user's own items, as in the paper: they cannot tell the next
    # item from the ones that follow it soon.
    data = cycle()
    config = replace(
        SMALL,
        architecture=architecture,
        loss=loss,
        negatives=8,
        patience=20,
        epochs=60,
        learning_rate=0.01,
    )
    student = fit_student(data, config)
    ranks = rank_targets(student.item_scores, data, data.test, exclude_history=False)
    assert ranks.hits(k).mean() > 0.95
    assert student.epochs[0].loss > student.epochs[-1].loss
    assert not student.model.training


def test_the_same_seed_gives_the_same_student_and_leaves_the_global_generator_alone() -> None:
    data, config = cycle(), replace(SMALL, epochs=2, dropout=0.3)
    before = torch.random.get_rng_state()
    first, second = fit_student(data, config), fit_student(data, config)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name
    other = fit_student(data, replace(config, seed=1))
    assert not torch.equal(first.model.items.weight, other.model.items.weight)


def test_the_best_epoch_is_kept_and_patience_ends_the_fit() -> None:
    data = cycle()
    student = fit_student(data, replace(SMALL, epochs=60, patience=2, learning_rate=0.01))
    scored = [record.validation_ndcg10 for record in student.epochs]
    assert student.best_epoch == int(np.argmax(scored)) + 1
    assert len(student.epochs) == student.best_epoch + 2 < 60
    found = rank_targets(student.item_scores, data, data.validation).ndcg(10).mean()
    assert found == pytest.approx(max(s for s in scored if s is not None))


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_every_training_event_is_a_target_exactly_once_per_epoch(epoch: int) -> None:
    data = cycle(users=7, length=19)
    generator = np.random.Generator(np.random.Philox(key=[0, epoch]))
    seen = []
    for inputs_BL, targets_BL in training_windows(
        data, SMALL.max_length, SMALL.batch_size, generator
    ):
        for inputs, targets in zip(inputs_BL.tolist(), targets_BL.tolist(), strict=True):
            wanted = [item for item in targets if item != data.n_items]
            seen += wanted
            # The input before each target is the item before it; nothing stands to its right.
            known = [item for item in inputs if item != data.n_items]
            assert all((one + 1) % N_ITEMS == two for one, two in pairwise(known))
            if known:
                assert (known[-1] + 1) % N_ITEMS == wanted[-1]
    assert sorted(seen) == sorted(data.train_item_E.tolist())


class _Pull:
    """A teacher that wants item 3 everywhere."""

    item_vectors = None

    def __init__(self) -> None:
        self.steps: list[int] = []

    def loss(self, student: Student, step: int) -> torch.Tensor:
        self.steps.append(step)
        scores_1N = student.item_scores(torch.tensor([[1, 2]]))
        return -5.0 * torch.log_softmax(scores_1N, -1)[0, 3]


def test_a_teachers_loss_reaches_the_student() -> None:
    data, config, teacher = cycle(), replace(SMALL, epochs=3), _Pull()
    taught, alone = fit_student(data, config, teacher), fit_student(data, config)
    assert teacher.steps == list(range(len(teacher.steps)))
    assert 0 < len(teacher.steps) <= most_steps(data, config)
    history = [np.array([1, 2])]
    share = [s.item_scores(history)[0] for s in (taught, alone)]
    assert share[0][3] - share[0].mean() > share[1][3] - share[1].mean()
    assert taught.epochs[0].teacher_loss is not None
    assert alone.epochs[0].teacher_loss is None


def test_scores_take_histories_of_any_length_one_by_one_or_together() -> None:
    student = fit_student(cycle(), replace(SMALL, epochs=1))
    histories = [np.arange(n) % N_ITEMS for n in (0, 1, 8, 30)]
    together = student.item_scores(histories)
    assert together.shape == (4, N_ITEMS)
    assert together.dtype == np.float32
    for history, row in zip(histories, together, strict=True):
        np.testing.assert_allclose(student.item_scores([history])[0], row, atol=1e-5)
    assert student.item_scores([]).shape == (0, N_ITEMS)


@pytest.mark.parametrize("architecture", ["sasrec", "gru4rec"])
def test_saved_and_loaded_it_gives_the_same_scores(tmp_path: Path, architecture: str) -> None:
    student = fit_student(cycle(), replace(SMALL, architecture=architecture, epochs=1))
    student.save(tmp_path, store_fingerprint="abc")
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    again = FittedStudent.load(tmp_path)
    history = [np.array([1, 2, 3])]
    np.testing.assert_array_equal(again.item_scores(history), student.item_scores(history))
    assert again.model.name == architecture
    assert again.config == student.config
    assert again.epochs == student.epochs
    with pytest.raises(ValueError, match=r"holds no student: student\.json is missing"):
        FittedStudent.load(tmp_path / "nowhere")


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="dropout"):
        StudentConfig(dropout=1.0)
    with pytest.raises(ValueError, match="hiden_size"):
        StudentConfig(hiden_size=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="no student is called 'sasrek'; nearest: sasrec"):
        fit_student(cycle(), replace(SMALL, architecture="sasrek"))
