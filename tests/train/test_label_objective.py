"""The label objective against torch's own cross entropy, and its two normalisations."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import MicroBatch, pack
from data_pipeline.store import TokenStore
from modeling import linear_cross_entropy
from modeling.backbone import build_backbone
from modeling.exactness import KeepDouble
from modeling.head import Fp32Head
from modeling.shape import ModelShape
from train.objectives import LabelObjective, Tally

N_TASKS, VOCABULARY = 3, 50
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def batch_of(rng: np.random.Generator) -> MicroBatch:
    """Two branches with choices, one title of three tokens, two supervised history places."""
    n_labels = 2 + 3 + 2
    positions = rng.permutation(40)[:n_labels].astype(np.int64)
    return MicroBatch(
        tokens_T=rng.integers(0, VOCABULARY, 40),
        positions_T=np.arange(40),
        trunk_lengths=np.array([40]),
        branch_counts=np.array([0]),
        branch_lengths=np.array([], np.int64),
        attach_lengths=np.array([], np.int64),
        window_sizes=np.array([0]),
        event_counts=np.array([0]),
        event_starts=np.array([], np.int64),
        label_positions_M=positions,
        label_tokens_M=np.array([7, 9, 20, 21, 22, 30, 31]),
        label_weights_M=np.array([1, 2, 1 / 3, 1 / 3, 1 / 3, 0.5, 0], np.float32),
        label_columns_M=np.array([0, 1, 2, 2, 2, 3, 3]),
        targets_K=np.array([1, 1, 1, 2]),
        tokens_K=np.array([0, 0, 0, 40]),
        branch_label_positions_B=positions[[0, 1, 2]],
        choice_offsets=np.array([0, 2, 5, 5]),
        choice_tokens=np.array([7, 8, 8, 9, 10]),
    )


class Logits(nn.Module):
    """A model whose logits are a parameter, one row per label, with or without a head of ours."""

    def __init__(self, rows: Tensor, *, fused: bool = True) -> None:
        super().__init__()
        self.rows_MV = nn.Parameter(rows)
        if fused:
            self.head = Fp32Head(VOCABULARY, VOCABULARY, bias=False, dtype=rows.dtype)
            nn.init.eye_(self.head.weight)

    def forward(self, tree_layout: Any, **kwargs: Any) -> Any:
        tree_layout.state.uses += 1  # what an attention layer does
        head = getattr(self, "head", nn.Identity())
        return SimpleNamespace(logits=head(self.rows_MV[None]))


@pytest.fixture(params=[torch.float32, torch.float64])
def rows(request: pytest.FixtureRequest) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(7, VOCABULARY, generator=generator, dtype=request.param) * 3


def naive(rows_MV: Tensor, batch: MicroBatch, *, restricted: bool) -> Tensor:
    """The losses one label at a time."""
    losses = []
    for row, token in enumerate(batch.label_tokens_M):
        allowed = list(range(VOCABULARY))
        if restricted and row < 2:
            allowed = batch.choice_tokens[
                batch.choice_offsets[row] : batch.choice_offsets[row + 1]
            ].tolist()
        target = torch.tensor([allowed.index(int(token))])
        losses.append(F.cross_entropy(rows_MV[row, allowed][None], target))
    return torch.stack(losses)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_losses_and_gradients_equal_the_naive_ones(
    rows: Tensor, restricted: bool, fused: bool
) -> None:
    batch = batch_of(np.random.Generator(np.random.Philox(key=[1, 0])))
    model = Logits(rows.clone(), fused=fused)
    objective = LabelObjective(
        N_TASKS, label_loss="label_tokens" if restricted else "full_vocabulary"
    )
    output = objective(model, batch)
    (output.loss * 3.0).backward()  # type: ignore[no-untyped-call]

    reference = rows.clone().requires_grad_()
    losses = naive(reference, batch, restricted=restricted)
    weights = torch.from_numpy(batch.label_weights_M).to(rows.dtype)
    (weights @ losses * 3.0).backward()  # type: ignore[no-untyped-call]
    tolerance = 1e-12 if rows.dtype == torch.float64 else 1e-5
    assert output.loss.item() == pytest.approx((weights @ losses).item(), rel=tolerance)
    assert model.rows_MV.grad is not None
    torch.testing.assert_close(model.rows_MV.grad, reference.grad, rtol=tolerance, atol=tolerance)

    tally = Tally(output.sums.numpy())
    expected = [(weights[i] @ losses[i]).item() for i in ([0], [1], [2, 3, 4], [5, 6])]
    assert tally.row("loss") == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert tally.row("weight") == pytest.approx([1, 2, 1, 0.5])
    assert tally.row("targets").tolist() == [1, 1, 1, 2]
    assert tally.total("tokens") == 40
    assert tally.loss == pytest.approx(sum(expected) / 4.5, rel=1e-5)


def test_mass_and_accuracy_are_of_the_questions_with_choices(rows: Tensor) -> None:
    batch = batch_of(np.random.Generator(np.random.Philox(key=[1, 0])))
    rows[0, 7], rows[0, 8] = 10.0, 9.0  # right, by the best of the choices
    rows[1, 8], rows[1, 9] = 10.0, 9.0  # wrong
    rows[1, 40] = 30.0  # the best of all is no choice, and takes the mass
    tally = Tally(LabelObjective(N_TASKS)(Logits(rows), batch).sums.numpy())
    assert tally.row("answered").tolist() == [1, 1, 0, 0]
    assert tally.row("correct").tolist() == [1, 0, 0, 0]
    mass = [rows[0].softmax(0)[[7, 8]].sum(), rows[1].softmax(0)[[8, 9, 10]].sum()]
    assert tally.row("mass")[:2] == pytest.approx([float(m) for m in mass], rel=1e-5)
    assert tally.label_mass == pytest.approx(float(sum(mass)) / 2, rel=1e-5)
    tasks = tally.per_task(("like", "rank", "title", "history"))
    assert tasks["like"]["accuracy"] == 1.0
    assert tasks["rank"]["accuracy"] == 0.0
    assert "accuracy" not in tasks["title"]


def test_training_over_choices_estimates_the_label_mass_from_every_eighth_question(
    rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_cross_entropy, "MASS_STRIDE", 2)
    batch = batch_of(np.random.Generator(np.random.Philox(key=[1, 0])))
    objective = LabelObjective(N_TASKS, label_loss="label_tokens")
    mass = [float(rows[0].softmax(0)[[7, 8]].sum()), float(rows[1].softmax(0)[[8, 9, 10]].sum())]
    trained = Tally(objective(Logits(rows), batch).sums.numpy())
    assert trained.row("mass").tolist() == pytest.approx([mass[0], mass[0], 0, 0], rel=1e-5)
    with torch.no_grad():
        scored = Tally(objective(Logits(rows), batch).sums.numpy())
    assert scored.row("mass").tolist() == pytest.approx([*mass, 0, 0], rel=1e-5)


def test_no_gradient_buffer_without_gradients(rows: Tensor) -> None:
    with torch.no_grad():
        output = LabelObjective(N_TASKS)(
            Logits(rows), batch_of(np.random.Generator(np.random.Philox(key=[1, 0])))
        )
    assert not output.loss.requires_grad


def test_weight_is_known_before_the_forward() -> None:
    batch = batch_of(np.random.Generator(np.random.Philox(key=[1, 0])))
    assert LabelObjective(N_TASKS).weight(batch) == pytest.approx(4.5)


SHAPE = ModelShape(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


L2 = MixtureConfig(history_loss_weight=0.3)
L1 = replace(L2, moments_per_tree=0, ages="gaps")
TREE = replace(L2, moments_per_tree=5, ages="gaps")


@pytest.mark.parametrize("config", [L1, L2, TREE], ids=["L1", "L2", "tree"])
def test_one_prompt_per_branch_gives_equal_losses_and_gradients_in_fp64(
    tiny_store: TokenStore, config: MixtureConfig
) -> None:
    mixture = Mixture([tiny_store], config, seed=5)
    n_tasks = len(mixture.tasks)
    objective = LabelObjective(n_tasks)
    trees = [mixture[index] for index in range(3)]
    results = {}
    for layout in ("L0", "L2"):
        model = build_backbone(SHAPE, vocab_size=tiny_store.card.vocab_size, seed=0).double()
        with KeepDouble():
            output = objective(model, pack(trees, n_tasks, layout=layout))
            output.loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results[layout] = (output, gradients)
    (l0, gradients0), (l2, gradients2) = results["L0"], results["L2"]
    assert l0.loss.item() == pytest.approx(l2.loss.item(), rel=1e-12)
    difference = (l0.sums - l2.sums)[:-1].abs().max()  # the last row counts tokens read
    assert difference < 1e-9
    assert len(gradients0) == len(gradients2) > 20
    for one, other in zip(gradients0, gradients2, strict=True):
        assert (one - other).abs().max() < 1e-9


def test_a_supervised_history_equals_one_prompt_per_past_action_in_fp64(
    tiny_store: TokenStore,
) -> None:
    mixture = Mixture([tiny_store], L1, seed=5)
    n_tasks = len(mixture.tasks)
    tree = mixture[0]
    labels = tree.trunk_labels
    prompts = [
        replace(
            tree,
            trunk=tree.trunk[: place + 1],
            trunk_labels=replace(
                labels,
                positions=labels.positions[i : i + 1],
                tokens=labels.tokens[i : i + 1],
                weights=labels.weights[i : i + 1],
                targets=1,
            ),
        )
        for i, place in enumerate(labels.positions)
    ]
    assert len(prompts) > 3
    model = build_backbone(SHAPE, vocab_size=tiny_store.card.vocab_size, seed=0).double()
    with KeepDouble():
        whole, single = (
            LabelObjective(n_tasks)(model, pack(trees, n_tasks)) for trees in ([tree], prompts)
        )
    assert whole.loss.item() == pytest.approx(single.loss.item(), rel=1e-12)
    assert Tally(whole.sums.numpy()).total("targets") == len(prompts)


def test_a_window_of_the_mixture_reaches_the_attention(tiny_store: TokenStore) -> None:
    """It changes losses where it cuts, not where all events fit into it; forgetting does too."""

    def loss(window: int | None, forgetting: float = 0.0) -> float:
        config = MixtureConfig(
            history_events=12, ages="gaps", history_loss_weight=1.0, history_window=window
        )
        mixture = Mixture([tiny_store], config, seed=0)
        batch = pack([mixture[index] for index in range(4)], len(mixture.tasks))
        model = build_backbone(ModelShape(**SIZES), vocab_size=tiny_store.card.vocab_size, seed=0)
        objective = LabelObjective(len(mixture.tasks), window_forgetting=forgetting)
        return float(objective(model.train(), batch).loss)

    exact = loss(None)
    assert loss(12) == pytest.approx(exact, rel=1e-5)
    assert abs(loss(2) - exact) > 1e-3
    assert abs(loss(2, 1.0) - loss(2)) > 1e-3
