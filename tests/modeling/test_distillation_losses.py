"""Distillation losses against hand-computed numbers and naive references."""

import math

import pytest
import torch

from modeling.distillation import (
    ImportanceWeights,
    dllm2rec_ranking,
    importance_weights,
    listwise_kl,
)


def scores(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_zero_for_the_same_distribution(temperature: float) -> None:
    teacher_BS = scores(5, 7, 0)
    # Logits are known up to a constant per slate.
    student_BS = (teacher_BS + scores(5, 1, 1)).requires_grad_()
    loss = listwise_kl(student_BS, teacher_BS, temperature=temperature)
    assert abs(loss.item()) < 1e-5
    loss.backward()
    assert student_BS.grad is not None
    assert student_BS.grad.abs().max() < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_equals_a_naive_sum(temperature: float) -> None:
    teacher_BS, student_BS = scores(4, 6, 2), scores(4, 6, 3)
    expected = 0.0
    for teacher_S, student_S in zip(teacher_BS.tolist(), student_BS.tolist(), strict=True):
        p = [math.exp(x / temperature) for x in teacher_S]
        q = [math.exp(x / temperature) for x in student_S]
        for a, b in zip(p, q, strict=True):
            expected += a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
    expected *= temperature**2 / 4
    assert listwise_kl(student_BS, teacher_BS, temperature=temperature).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_kl_moves_the_student_towards_the_teacher_and_never_the_teacher() -> None:
    teacher_BS = torch.tensor([[2.0, 0.0, -2.0]], requires_grad=True)
    student_BS = torch.zeros(1, 3, requires_grad=True)
    listwise_kl(student_BS, teacher_BS, temperature=1.0).backward()
    assert teacher_BS.grad is None
    assert student_BS.grad is not None
    assert student_BS.grad[0, 0] < 0 < student_BS.grad[0, 2]


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature=0"):
        listwise_kl(torch.zeros(1, 2), torch.zeros(1, 2), temperature=0)


def test_importance_weights_by_hand() -> None:
    distance_BK = torch.tensor([[0.0, math.log(2.0), math.log(4.0)]], dtype=torch.float64)
    agreed_BK = torch.tensor([[False, True, False]])
    weights = ImportanceWeights(position=0.3, confidence=0.5, consistency=0.1, decay=1.0)
    found_K = importance_weights(distance_BK, agreed_BK, weights)[0]
    # e^-1, e^-2, e^-3 over their sum; 4/7, 2/7, 1/7; 0, 1, 0.
    position = [0.6652409558, 0.2447284711, 0.0900305732]
    mixed = [
        0.3 * position[0] + 0.5 * 4 / 7,
        0.3 * position[1] + 0.5 * 2 / 7 + 0.1,
        0.3 * position[2] + 0.5 * 1 / 7,
    ]
    expected_K = torch.tensor([part / sum(mixed) for part in mixed], dtype=torch.float64)
    torch.testing.assert_close(found_K, expected_K, rtol=0, atol=1e-6)


def test_each_importance_sign_alone() -> None:
    distance_BK = torch.tensor([[3.0, 0.0]])
    agreed_BK = torch.tensor([[True, False]])

    def shares(position: float, confidence: float, consistency: float) -> list[float]:
        weights = ImportanceWeights(
            position=position, confidence=confidence, consistency=consistency
        )
        found: list[float] = importance_weights(distance_BK, agreed_BK, weights)[0].tolist()
        return found

    assert shares(1, 0, 0) == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)])
    assert shares(0, 1, 0)[1] == pytest.approx(1 / (1 + math.exp(-3)))
    assert shares(0, 0, 1) == pytest.approx([1.0, 0.0], abs=1e-6)


def test_importance_weights_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="not all zero"):
        ImportanceWeights(position=0, confidence=0, consistency=0)
    with pytest.raises(ValueError, match="decay=0"):
        ImportanceWeights(decay=0)


def test_dllm2rec_equals_a_naive_sum_with_the_papers_negative_term() -> None:
    top_BK, negative_B = scores(3, 4, 5), scores(3, 1, 6)[:, 0]
    weights_BK = torch.rand(3, 4, generator=torch.Generator().manual_seed(7))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = released = 0.0
    for b in range(3):
        for k in range(4):
            w, s, n = weights_BK[b, k].item(), top_BK[b, k].item(), negative_B[b].item()
            expected += w * (-math.log(sigmoid(s)) - math.log(1 - sigmoid(n))) / 3
            released += w * (-math.log(sigmoid(s)) - math.log(sigmoid(1 - n))) / 3
    found = dllm2rec_ranking(top_BK, negative_B, weights_BK).item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert abs(found - released) > 0.05


def test_dllm2rec_pulls_heavy_items_up_more_and_the_negative_down() -> None:
    top_BK = torch.zeros(1, 2, requires_grad=True)
    negative_B = torch.zeros(1, requires_grad=True)
    dllm2rec_ranking(top_BK, negative_B, torch.tensor([[0.9, 0.1]])).backward()
    assert top_BK.grad is not None
    assert negative_B.grad is not None
    assert top_BK.grad[0, 0] < top_BK.grad[0, 1] < 0 < negative_B.grad[0]
