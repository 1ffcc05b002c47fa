"""Logits at label positions, and probabilities of label tokens."""

import math

import pytest
import torch
from tiny_decoders import SCORED_VOCABULARY as V
from tiny_decoders import scored_backbone

from modeling.label_scores import choice_probabilities, label_logits
from modeling.tree_layout import TreeLayout


def test_label_logits_are_rows_of_the_full_logits() -> None:
    model, layout = scored_backbone(), TreeLayout((5, 2), ((3, 2), (4,)))
    tokens_T = torch.arange(layout.n_tokens)
    everything = label_logits(
        model, tokens_T, layout.positions(), layout, torch.arange(layout.n_tokens)
    )
    some = torch.tensor([7, 4, 15])
    picked = label_logits(model, tokens_T, layout.positions(), layout, some)
    assert picked.shape == (3, V)
    torch.testing.assert_close(picked, everything[some], rtol=0, atol=1e-6)


def test_label_logits_are_fp32_when_the_model_is_bf16() -> None:
    layout = TreeLayout((5,), ((3, 2),))
    logits = label_logits(
        scored_backbone(torch.bfloat16),
        torch.arange(10),
        layout.positions(),
        layout,
        torch.tensor([9]),
    )
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float()), "rounded to bf16 on the way"


def test_a_half_precision_head_is_refused() -> None:
    model, layout = scored_backbone(torch.bfloat16), TreeLayout((5,), ((3, 2),))
    model.lm_head.__class__ = torch.nn.Linear
    with pytest.raises(ValueError, match=r"logits in torch\.bfloat16; scores need an fp32 head"):
        label_logits(model, torch.arange(10), layout.positions(), layout, torch.tensor([9]))


def test_choice_probabilities_against_plain_python() -> None:
    logits_MV = torch.randn(3, V, generator=torch.Generator().manual_seed(0)) * 5
    choices = [[4, 9], [], [0, 1, 2, 50]]
    probabilities_C, mass_M = choice_probabilities(
        logits_MV, torch.tensor([*choices[0], *choices[2]]), torch.tensor([0, 2, 2, 6])
    )
    expected, masses = [], []
    for row, tokens in zip(logits_MV.tolist(), choices, strict=True):
        weights = [math.exp(row[token]) for token in tokens]
        expected += [weight / sum(weights) for weight in weights]
        masses.append(sum(weights) / sum(map(math.exp, row)))
    torch.testing.assert_close(probabilities_C, torch.tensor(expected).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(mass_M, torch.tensor(masses).double(), rtol=1e-5, atol=1e-12)
    assert probabilities_C.dtype == mass_M.dtype == torch.float64


def test_choice_probabilities_keep_apart_what_fp32_would_tie() -> None:
    logits_MV = torch.full((1, V), -1.0)
    logits_MV[0, 3], logits_MV[0, 4] = 900.0, 880.0  # exp overflows; 1 - p(3) is below fp32's 6e-8
    probabilities_C, mass_M = choice_probabilities(
        logits_MV, torch.tensor([3, 4]), torch.tensor([0, 2])
    )
    assert 0 < probabilities_C[1] < 1e-8
    assert probabilities_C.sum() == pytest.approx(1, abs=1e-15)
    assert mass_M[0] == pytest.approx(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(bad: float) -> None:
    logits_MV = torch.zeros(4, V)
    logits_MV[2, 7] = bad
    with pytest.raises(ValueError, match="not finite at position 2 of 4"):
        choice_probabilities(logits_MV, torch.tensor([1, 2]), torch.tensor([0, 2, 2, 2, 2]))


def test_choices_that_do_not_fit_are_refused() -> None:
    logits_MV = torch.zeros(2, V)
    with pytest.raises(ValueError, match="2 offsets that end at 1 for 2 positions"):
        choice_probabilities(logits_MV, torch.tensor([1]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=f"outside of the vocabulary of {V}"):
        choice_probabilities(logits_MV, torch.tensor([1, V]), torch.tensor([0, 1, 2]))
