"""No tensor of tokens x vocabulary: measured over all operations of a step and an evaluation."""

from typing import Any

import pytest
import torch
from largest_tensor import LargestTensor
from torch import nn

from data_pipeline.evaluation_set import EvaluationSet
from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import MicroBatch, pack
from data_pipeline.splits import Phase
from data_pipeline.store import TokenStore
from data_pipeline.tasks import all_tasks
from modeling import linear_cross_entropy
from modeling.backbone import build_backbone
from modeling.head import fp32_head
from modeling.shape import ModelShape
from train.distributed import DistributedContext
from train.evaluation.predictions import predict
from train.objectives import LabelObjective

VOCABULARY = 30_000
CHUNK = 4
WIDTH = 8
SHAPE = ModelShape(
    hidden_size=WIDTH,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
)
MIXTURE = MixtureConfig(targets_per_tree=16, history_events=10, history_title_weight=0.1)


def whole_row(model: nn.Module) -> nn.Module:
    """Let a model make the logits of all tokens first, and pick the labels' afterwards."""
    forward = model.forward

    def wasteful(*, logits_to_keep: torch.Tensor, **kwargs: Any) -> Any:
        output = forward(**kwargs)
        output.logits = output.logits[:, logits_to_keep]
        return output

    model.forward = wasteful
    return model


@pytest.fixture
def model() -> nn.Module:
    return build_backbone(SHAPE, vocab_size=VOCABULARY, seed=0)


@pytest.fixture(scope="module")
def batch(tiny_store: TokenStore) -> tuple[MicroBatch, int]:
    mixture = Mixture([tiny_store], MIXTURE, seed=0)
    return pack([mixture[0], mixture[1]], len(mixture.tasks)), len(mixture.tasks)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_cross_entropy, "CHUNK_ROWS", CHUNK)


def largest_of_a_step(model: nn.Module, batch: MicroBatch, objective: LabelObjective) -> int:
    with LargestTensor() as largest:
        objective(model, batch).loss.backward()  # type: ignore[no-untyped-call]
    return largest.numel


@pytest.mark.parametrize("label_loss", ["full_vocabulary", "label_tokens"])
def test_a_training_step_holds_a_chunk_of_logits_and_the_heads_gradient(
    model: nn.Module, batch: tuple[MicroBatch, int], label_loss: Any
) -> None:
    packed, n_tasks = batch
    assert len(packed.label_positions_M) > 2 * WIDTH, "else the bound says nothing of the labels"
    largest = largest_of_a_step(model, packed, LabelObjective(n_tasks, label_loss=label_loss))
    assert largest <= max(CHUNK, WIDTH) * VOCABULARY


def test_the_measure_finds_a_row_of_logits(model: nn.Module, batch: tuple[MicroBatch, int]) -> None:
    packed, n_tasks = batch
    objective = LabelObjective(n_tasks)
    head = fp32_head(model)
    assert head is not None
    head.changed_after = True  # as for a model with a scale behind its head
    assert len(packed.tokens_T) > len(packed.label_positions_M) * 4
    labels_alone = largest_of_a_step(model, packed, objective)
    assert labels_alone == len(packed.label_positions_M) * VOCABULARY
    all_tokens = largest_of_a_step(whole_row(model), packed, objective)
    assert all_tokens == len(packed.tokens_T) * VOCABULARY
    head.changed_after = False
    with pytest.raises(ValueError, match="logits_to_keep"):
        objective(model, packed)


def test_an_evaluation_holds_logits_of_labels_alone(
    tiny_store: TokenStore, model: nn.Module
) -> None:
    tasks = [all_tasks()[name] for name in ("like", "next_item_choice", "rating")]
    asked = EvaluationSet(
        tiny_store, tasks, phase=Phase.TEST, config=MIXTURE, seed=0, max_targets=6
    )
    trees = list(asked)
    numels = []
    for waste in (False, True):
        scorer = whole_row(model) if waste else model
        with LargestTensor() as largest, torch.no_grad():
            predict(scorer, trees, tasks, tiny_store, DistributedContext(), max_tokens=600)
        numels.append(largest.numel)
    labels = sum(len(branch.answer) for tree in trees for branch in tree.branches)
    assert numels[0] <= labels * VOCABULARY
    assert numels[1] > 4 * numels[0], "the measure finds tokens x vocabulary"
