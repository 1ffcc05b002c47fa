"""How fast and how full: operations of a micro-batch, the device's peak, and memory.

Counts matrix products only, two operations per multiply-add, backward twice the forward (once
where weights are frozen); recomputed activations are not counted: model FLOPs as in PaLM (Chowdhery
et al. 2022, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_pipeline.balance import Cost
from data_pipeline.packing import MicroBatch
from train.batch_layout import layout_of

PEAK_BF16_FLOPS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A10": 125e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}
"""Dense bf16 peak of the vendors' data sheets by the exact name that the driver reports. A device
that is not listed has no MFU: a guessed peak has misled other trainers by a factor of three."""


class FlopCounter(Cost):
    """Operations of forward and backward: rates of a model, as `Cost` has them."""

    @classmethod
    def of(cls, model: nn.Module) -> FlopCounter | None:
        """Read sizes off a Hugging Face decoder; None for a mixture of experts."""
        config: Any = model.config
        if getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None):
            return None
        heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        frozen = not all(parameter.requires_grad for parameter in model.parameters())
        passes = 2 if frozen else 3
        output: Any = model.get_output_embeddings()  # type: ignore[operator]
        outside = {
            id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
        }
        outside.add(id(output.weight))
        inner = sum(
            int(getattr(parameter, "ds_numel", parameter.numel()))
            for parameter in model.parameters()
            if id(parameter) not in outside
            and len(getattr(parameter, "ds_shape", parameter.shape)) > 1
        )
        return cls(
            per_token=2.0 * passes * inner,
            per_label=2.0 * passes * config.vocab_size * config.hidden_size,
            per_pair=4.0 * 3 * config.num_hidden_layers * heads * head_width,
        )

    def flops(self, batch: MicroBatch) -> float:
        """Operations of one micro-batch."""
        labels = len(batch.label_positions_M)
        return (
            self.per_token * batch.n_tokens
            + self.per_label * labels
            + self.per_pair * layout_of(batch).attention_pairs
        )


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak in operations per second; None where it is not known."""
    if device.type != "cuda":
        return None
    return PEAK_BF16_FLOPS.get(torch.cuda.get_device_name(device))


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: allocated on the GPU, or resident of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose `ru_maxrss` is also the peak of whoever started this process
        return int(status.read_text(encoding="ascii").partition("VmHWM:")[2].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
