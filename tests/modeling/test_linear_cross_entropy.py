"""The fused loss against torch's own cross entropy, one label at a time."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor
from torch import Tensor

from modeling import linear_cross_entropy as fused
from modeling.linear_cross_entropy import (
    LabelLosses,
    Labels,
    cross_entropy_of_logits,
    linear_cross_entropy,
)


def labels_of(
    generator: torch.Generator, M: int, V: int, C: int, *, over_choices: bool = False
) -> Labels:
    """About half of the labels have 1 to C choices, some with a weight of 0."""
    choices_MC = torch.stack([torch.randperm(V, generator=generator)[:C] for _ in range(M)])
    counts_M = torch.randint(0, 2 * C, (M,), generator=generator) - C + 1
    right_M = torch.randint(0, C, (M,), generator=generator) % counts_M.clamp(min=1)
    tokens_M = choices_MC.gather(1, right_M[:, None])[:, 0]
    choices_MC[torch.arange(C)[None] >= counts_M[:, None]] = -1
    weights_M = torch.rand(M, generator=generator) * torch.randint(0, 3, (M,), generator=generator)
    return Labels(tokens_M, weights_M, choices_MC, over_choices)


def naive(logits_MV: Tensor, labels: Labels) -> LabelLosses:
    losses, mass, correct = [], [], []
    for row, token, choices in zip(logits_MV, labels.tokens_M, labels.choices_MC, strict=True):
        own = [int(choice) for choice in choices if choice >= 0]
        allowed = own if labels.over_choices and own else list(range(len(row)))
        losses.append(F.cross_entropy(row[allowed][None], torch.tensor([allowed.index(token)])))
        mass.append(row.softmax(0)[own].sum())
        correct.append(float(bool(own) and own[int(row[own].argmax())] == token))
    losses_M = torch.stack(losses)
    weights_M = labels.weights_M.to(losses_M.dtype)
    return LabelLosses(
        weights_M @ losses_M, losses_M, torch.stack(mass), losses_M.new_tensor(correct)
    )


def leaves(
    generator: torch.Generator, M: int, D: int, V: int, dtype: torch.dtype, *, bias: bool
) -> list[Tensor]:
    shapes: list[tuple[int, ...]] = [(M, D), (V, D), *([(V,)] if bias else [])]
    return [
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes
    ]


def gradients(loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss * 3.0, tensors))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    M=st.integers(1, 9),
    C=st.integers(1, 5),
    chunk=st.sampled_from([1, 4, 128]),
    over_choices=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_losses_and_gradients_equal_the_naive_ones(
    seed: int, M: int, C: int, chunk: int, over_choices: bool, bias: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = labels_of(generator, M, 30, C, over_choices=over_choices)
    tensors = leaves(generator, M, 6, 30, dtype, bias=bias)
    hidden_MD, weight_VD, bias_V = *tensors, *([] if bias else [None])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "CHUNK_ROWS", chunk)
        patch.setattr(fused, "MASS_STRIDE", 1)
        got = linear_cross_entropy(hidden_MD, weight_VD, bias_V, labels)
    logits_MV = F.linear(hidden_MD, weight_VD, bias_V)
    limit = 1e-9 if dtype == torch.float64 else 1e-5
    expected = naive(logits_MV, labels)
    wanted = gradients(expected.loss, tensors)
    plain = cross_entropy_of_logits(F.linear(hidden_MD, weight_VD, bias_V), labels)
    for losses in (got, plain):
        torch.testing.assert_close(losses, expected, rtol=limit, atol=limit)
        torch.testing.assert_close(gradients(losses.loss, tensors), wanted, rtol=limit, atol=limit)
        assert not losses.losses_M.requires_grad


def test_only_what_learns_gets_a_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = labels_of(generator, 8, 30, 3)
    hidden_MD, weight_VD = leaves(generator, 8, 6, 30, torch.float32, bias=False)
    loss = linear_cross_entropy(hidden_MD, weight_VD.detach(), None, labels).loss
    (kept,) = [tensor for tensor in loss.grad_fn.saved_tensors if tensor is not None]  # type: ignore[union-attr]
    assert kept.shape == hidden_MD.shape
    with torch.no_grad():
        assert linear_cross_entropy(hidden_MD, weight_VD, None, labels).loss.grad_fn is None


def test_label_mass_over_choices_is_sampled_in_training_and_whole_without_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = labels_of(generator, 40, 30, 3, over_choices=True)
    hidden_MD, weight_VD = leaves(generator, 40, 6, 30, torch.float64, bias=False)
    asked_M = (labels.choices_MC >= 0).any(1)
    expected_M = naive(hidden_MD @ weight_VD.T, labels).mass_M
    mass_M = linear_cross_entropy(hidden_MD, weight_VD, None, labels).mass_M
    measured_M = ~mass_M.isnan() & asked_M
    assert measured_M.sum() == -(-asked_M.sum() // fused.MASS_STRIDE)
    torch.testing.assert_close(mass_M[measured_M], expected_M[measured_M])
    assert (mass_M[~asked_M] == 0).all()
    with torch.no_grad():
        mass_M = linear_cross_entropy(hidden_MD, weight_VD, None, labels).mass_M
    torch.testing.assert_close(mass_M, expected_M)


def test_far_apart_logits_stay_finite() -> None:
    hidden_MD = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight_VD = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    labels = Labels(torch.tensor([0, 0]), torch.ones(2), torch.full((2, 1), -1))
    losses = linear_cross_entropy(hidden_MD, weight_VD, None, labels)
    assert losses.losses_M.tolist() == [0.0, 2e4]
    assert all(gradient.isfinite().all() for gradient in gradients(losses.loss, [hidden_MD]))


@pytest.mark.parametrize("over_choices", [False, True])
def test_memory_is_a_chunk_of_rows_whatever_their_number(
    over_choices: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    M, D, V, chunk = 400, 4, 500, 16
    monkeypatch.setattr(fused, "CHUNK_ROWS", chunk)
    generator = torch.Generator().manual_seed(0)
    labels = labels_of(generator, M, V, 3, over_choices=over_choices)
    tensors = leaves(generator, M, D, V, torch.float32, bias=False)
    with LargestTensor() as largest:
        loss = linear_cross_entropy(tensors[0], tensors[1], None, labels).loss
        gradients(loss, tensors)
    assert largest.numel <= max(chunk * V, V * D, M * D)
    with LargestTensor() as largest:
        gradients(cross_entropy_of_logits(tensors[0] @ tensors[1].T, labels).loss, tensors)
    assert largest.numel >= M * V, "the measure sees what it must see"
