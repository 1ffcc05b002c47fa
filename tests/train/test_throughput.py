import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from data_pipeline.mixture import Mixture, MixtureConfig
from data_pipeline.packing import pack
from data_pipeline.store import TokenStore
from modeling.backbone import build_backbone
from modeling.lora import add_lora
from modeling.shape import ModelShape
from train.batch_layout import layout_of
from train.objectives import LabelObjective
from train.throughput import FlopCounter, peak_flops, peak_memory_mb

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


CHILD = """
import torch
from train.throughput import peak_memory_mb
print(peak_memory_mb(torch.device("cpu")))
"""


def matrix_products(mode: FlopCounterMode) -> int:
    counts = mode.get_flop_counts()["Global"]
    return sum(n for operation, n in counts.items() if "attention" not in str(operation))


def addmm_operations(total: Any, left: list[int], right: list[int], **rest: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lora", [True, False])
def test_operations_are_those_that_torch_counts(
    tiny_store: TokenStore, tied: bool, lora: bool
) -> None:
    mixture = Mixture([tiny_store], MixtureConfig(), seed=0)
    batch = pack([mixture[0], mixture[1]], len(mixture.tasks))
    shape = ModelShape(**SIZES, tie_word_embeddings=tied)
    model: torch.nn.Module = build_backbone(shape, vocab_size=tiny_store.card.vocab_size, seed=0)
    if lora:
        model = add_lora(model, rank=2, alpha=2, seed=0)  # type: ignore[arg-type]
    counter = FlopCounter.of(model)
    assert counter is not None
    in_place = {torch.ops.aten.addmm_: addmm_operations}  # which torch forgets to count
    with FlopCounterMode(display=False, custom_mapping=in_place) as mode:
        LabelObjective(len(mixture.tasks))(model, batch).loss.backward()  # type: ignore[no-untyped-call]
    ours = counter.flops(batch) - counter.per_pair * layout_of(batch).attention_pairs
    # Beside frozen weights the small matrices are counted once too few, and nothing learns before
    # the first adapter: a few parts in a hundred.
    assert ours == pytest.approx(matrix_products(mode), rel=0.1 if lora else 1e-9)


def pairs_counted(store: TokenStore, config: MixtureConfig) -> float:
    mixture = Mixture([store], config, seed=0)
    batch = pack([mixture[0], mixture[1]], len(mixture.tasks))
    pairs = FlopCounter(per_token=0.0, per_pair=1.0).flops(batch)
    assert pairs == int(layout_of(batch).dense_mask().sum())
    return pairs


def test_pairs_are_those_of_the_mask(tiny_store: TokenStore) -> None:
    every = pairs_counted(tiny_store, MixtureConfig(history_events=12))
    assert pairs_counted(tiny_store, MixtureConfig(history_events=12, history_window=2)) < every


def test_attention_costs_four_operations_per_pair_and_width_three_times() -> None:
    model = build_backbone(ModelShape(**SIZES), vocab_size=64, seed=0)
    counter = FlopCounter.of(model)
    assert counter is not None
    # QK and PV are two operations each per channel; 2 layers of 4 heads of 16; backward doubles.
    assert counter.per_pair == 3 * 4 * 2 * 4 * 16


def test_experts_and_unknown_devices_have_no_mfu() -> None:
    shape = ModelShape(**SIZES, architecture="mixtral", num_local_experts=4, num_experts_per_tok=2)
    assert FlopCounter.of(build_backbone(shape, vocab_size=64, seed=0)) is None
    assert peak_flops(torch.device("cpu")) is None


def test_memory_is_in_mebibytes() -> None:
    assert 50 < peak_memory_mb(torch.device("cpu")) < 50_000


def test_memory_of_the_parent_is_not_ours() -> None:
    """A child of a process that held 300 MiB more did not hold them itself."""
    ballast = bytearray(300 << 20)
    told = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=True
    ).stdout
    assert float(told) < peak_memory_mb(torch.device("cpu")) - len(ballast) / 2**20
