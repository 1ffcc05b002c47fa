import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from train.optimizer import Schedule, ScheduleName, parameter_groups

NAMES: tuple[ScheduleName, ...] = (
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "warmup_stable_decay",
)


def schedule(name: ScheduleName, **changes: float) -> Schedule:
    values = {"peak": 1e-3, "warmup_steps": 10, "total_steps": 100}
    return Schedule(name=name, **(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "constant"])
def test_warmup_rises_linearly_to_the_peak(name: ScheduleName) -> None:
    rates = [schedule(name).learning_rate(step) for step in range(10)]
    assert rates == pytest.approx([1e-3 * (step + 1) / 10 for step in range(10)])


def test_constant_has_no_warmup() -> None:
    assert {schedule("constant").learning_rate(step) for step in range(100)} == {1e-3}


@pytest.mark.parametrize("name", ["cosine", "linear", "warmup_stable_decay"])
def test_decay_ends_at_the_floor_and_never_rises(name: ScheduleName) -> None:
    rates = [schedule(name, floor_ratio=0.1).learning_rate(step) for step in range(9, 100)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4)
    assert all(earlier >= later for earlier, later in pairwise(rates))


def test_cosine_against_its_formula() -> None:
    for step in range(10, 100):
        share = 0.5 * (1 + math.cos(math.pi * (step - 10) / 89))
        expected = 1e-3 * (0.2 + 0.8 * share)
        assert schedule("cosine", floor_ratio=0.2).learning_rate(step) == pytest.approx(expected)


def test_linear_halves_in_the_middle() -> None:
    assert schedule("linear", warmup_steps=0, total_steps=101).learning_rate(50) == 5e-4


def test_stable_decay_stays_until_the_last_fifth() -> None:
    plan = schedule("warmup_stable_decay")
    assert {plan.learning_rate(step) for step in range(10, 81)} == {1e-3}
    quarter = 80 + 19 / 4  # a quarter of the way down has lost half: 1 - sqrt(1/4)
    before, after = (plan.learning_rate(int(quarter) + offset) for offset in (0, 1))
    assert before > 0.5e-3 > after


@pytest.mark.parametrize("name", NAMES)
def test_one_step_runs_do_not_divide_by_zero(name: ScheduleName) -> None:
    plan = schedule(name, warmup_steps=0, total_steps=1)
    assert plan.learning_rate(0) == 1e-3


def test_beyond_the_end_the_floor_holds() -> None:
    assert schedule("cosine", floor_ratio=0.1).learning_rate(5000) == pytest.approx(1e-4)


class Small(nn.Module):
    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embed.weight


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_decay_and_vectors_do_not(tied: bool) -> None:
    model = Small(tied=tied)
    decayed, kept = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    in_decayed = {id(parameter) for parameter in decayed["params"]}
    assert id(model.inner.weight) in in_decayed
    assert {id(model.embed.weight), id(model.head.weight)} <= in_decayed
    assert [p.dim() for p in kept["params"]] == [1, 1, 1]
    together = [*decayed["params"], *kept["params"]]
    assert {id(p) for p in together} == {id(p) for p in model.parameters()}
    assert len(together) == len({id(p) for p in together})


def test_frozen_parameters_are_left_out() -> None:
    model = Small(tied=False).requires_grad_(False)
    model.norm.requires_grad_(True)
    (only,) = parameter_groups(model, 0.1)
    assert only["weight_decay"] == 0.0
    assert [parameter.shape for parameter in only["params"]] == [torch.Size([4])] * 2


def test_nothing_trainable_is_an_error() -> None:
    with pytest.raises(ValueError, match="no parameter of the model is trainable"):
        parameter_groups(Small(tied=True).requires_grad_(False), 0.1)
