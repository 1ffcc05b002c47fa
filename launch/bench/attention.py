"""How the cost of a step grows with trunk, targets and layers, and how exact tree attention is.

Measured twice: attention alone (forward and backward of one layer's), and a whole training step.
The exponent in the trunk is the slope of a straight line through log seconds over log tokens; the
same fit through counted operations stands beside it. It lies between 1, where the weights decide,
and 2, where the trunk's attention to itself does.

Legend: P trunk tokens, K targets, H heads, T tokens of the row, D width of a head.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data_pipeline.packing import pack
from launch.bench.timing import Case, in_turns, stopwatch
from launch.bench.workload import SHAPES, TARGETS, TRUNK_TOKENS, Size, made_tree
from modeling.backbone import build_backbone
from modeling.exactness import packing_differences
from modeling.label_scores import label_logits
from modeling.shape import ModelShape
from modeling.tree_attention import DENSE_ATTENTION, tree_attention
from modeling.tree_layout import TreeLayout
from train.batch_layout import layout_of
from train.objectives import LabelObjective
from train.throughput import FlopCounter

TRUNKS = (256, 512, 1024, 2048, 4096, 8192)
TARGET_COUNTS = (1, 8, 32, 128)
LAYER_COUNTS = (2, 4, 8)
BRANCH_TOKENS = 40
VOCABULARY = 4096
"""Small, so that the head at label positions does not hide what is looked at."""

EXACTNESS_LAYOUTS = (
    TreeLayout((TRUNK_TOKENS,), ((BRANCH_TOKENS,) * TARGETS,)),
    TreeLayout((0, 37, 5), ((7, 3), (1, 50, 2), ())),
    TreeLayout((90,), ((20, 11, 30),), attach=((0, 45, 90),)),
)
"""The benchmarks' tree; an empty trunk, a branch longer than its trunk and a trunk alone; branches
attached along the trunk."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Seconds over one size, and operations counted for the same."""

    name: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    flops: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """Of the measured seconds."""
        return fitted_exponent(self.sizes, self.seconds)

    @property
    def counted_exponent(self) -> float:
        """Of the counted operations."""
        return fitted_exponent(self.sizes, self.flops)


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The least-squares slope of log cost over log size."""
    slope, _ = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(slope)


def bench_attention(
    *,
    size: Size = "5m",
    rounds: int = 3,
    trunks: Sequence[int] = TRUNKS,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, float], list[Scaling]]:
    """Measure growth and exactness.

    Args:
        size: shape of the model, and of the heads where attention is measured alone.
        rounds: medians over so many count.
        trunks: trunk lengths to go through.
        note: told what is being done.

    Returns:
        Flat metrics, and the curves behind them.
    """
    shape = SHAPES[size]
    note("exactness")
    metrics = exactness(replace(shape, num_hidden_layers=2))
    curves = []
    for curve in (
        _kernel_over_trunk(shape, trunks, rounds),
        _step_over_trunk(shape, trunks, rounds),
        _step_over_targets(shape, rounds),
        _step_over_layers(shape, rounds),
    ):
        note(f"{curve.name}: " + ", ".join(map(_point, curve.sizes, curve.seconds)))
        curves.append(curve)
    kernel, step, targets, layers = curves
    metrics |= {
        "attention.cost_exponent_in_trunk": step.exponent,
        "attention.cost_exponent_in_trunk_counted": step.counted_exponent,
        "attention.kernel_exponent_in_trunk": kernel.exponent,
        "attention.kernel_exponent_in_trunk_counted": kernel.counted_exponent,
        "attention.cost_exponent_in_targets": targets.exponent,
        "attention.cost_exponent_in_targets_counted": targets.counted_exponent,
        "attention.cost_exponent_in_layers": layers.exponent,
        "attention.cost_exponent_in_layers_counted": layers.counted_exponent,
    }
    for prefix, curve in (("kernel", kernel), ("step", step)):
        for length, seconds in zip(curve.sizes, curve.seconds, strict=True):
            metrics[f"attention.{prefix}_seconds_trunk_{length}"] = seconds
    return metrics, curves


def exactness(shape: ModelShape) -> dict[str, float]:
    """Largest differences in fp32 to the dense mask and to one prompt per target.

    Logits of every token of a decoder with random weights, of several layouts; gradients of all
    weights under a summed cross entropy.
    """
    model = build_backbone(shape, vocab_size=VOCABULARY, seed=0).train(False)
    logit_errors, gradient_errors = [], []
    random = torch.Generator().manual_seed(0)
    for layout in EXACTNESS_LAYOUTS:
        tokens_T = torch.randint(VOCABULARY, (layout.n_tokens,), generator=random)
        labels_T = torch.randint(VOCABULARY, (layout.n_tokens,), generator=random)
        found = packing_differences(model, layout, tokens_T, labels_T)
        logit_errors += [found.logits, _dense_difference(model, layout, tokens_T)]
        gradient_errors.append(found.gradients)
    return {
        "attention.max_error_fp32": max(logit_errors),
        "attention.max_gradient_error_fp32": max(gradient_errors),
    }


@torch.no_grad()
def _dense_difference(model: Any, layout: TreeLayout, tokens_T: torch.Tensor) -> float:
    everywhere_T = torch.arange(layout.n_tokens)
    arguments = (tokens_T, layout.positions(), layout, everywhere_T)
    tree_TV = label_logits(model, *arguments)
    before = model.config._attn_implementation
    model.set_attn_implementation(DENSE_ATTENTION)
    try:
        dense_TV = label_logits(model, *arguments)
    finally:
        model.set_attn_implementation(before)
    return float((tree_TV - dense_TV).abs().max())


def _kernel_over_trunk(shape: ModelShape, trunks: Sequence[int], rounds: int) -> Scaling:
    cases = {str(length): kernel_case(shape, length, TARGETS) for length in trunks}
    flops = [_kernel_flops(shape, length, TARGETS) for length in trunks]
    return _scaling("attention alone over trunk tokens", trunks, cases, flops, rounds)


def _step_over_trunk(shape: ModelShape, trunks: Sequence[int], rounds: int) -> Scaling:
    steps = {str(length): step_case(shape, length, TARGETS) for length in trunks}
    return _steps("step over trunk tokens", trunks, steps, rounds)


def _step_over_targets(shape: ModelShape, rounds: int) -> Scaling:
    steps = {str(n): step_case(shape, TRUNK_TOKENS, n) for n in TARGET_COUNTS}
    return _steps("step over targets", TARGET_COUNTS, steps, rounds)


def _step_over_layers(shape: ModelShape, rounds: int) -> Scaling:
    steps = {
        str(n): step_case(replace(shape, num_hidden_layers=n), TRUNK_TOKENS, TARGETS)
        for n in LAYER_COUNTS
    }
    return _steps("step over layers", LAYER_COUNTS, steps, rounds)


def kernel_case(shape: ModelShape, trunk: int, n_targets: int) -> Case:
    """Forward and backward of one layer's attention over a tree, without projections."""
    layout = TreeLayout((trunk,), ((BRANCH_TOKENS,) * n_targets,))
    random = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, layout.n_tokens, shape.head_width, generator=random).requires_grad_()
        for heads in (
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.num_key_value_heads,
        )
    )
    module = nn.Identity()

    def run() -> None:
        out, _ = tree_attention(
            module, query, key, value, None, tree_layout=layout, scaling=shape.head_width**-0.5
        )
        out.sum().backward()  # type: ignore[no-untyped-call]
        query.grad = key.grad = value.grad = None

    return stopwatch(run)


def step_case(shape: ModelShape, trunk: int, n_targets: int) -> tuple[Case, float]:
    """Forward and backward of a decoder on one tree, and the operations of that."""
    model = build_backbone(shape, vocab_size=VOCABULARY, seed=0).train()
    batch = pack([made_tree(trunk, n_targets, BRANCH_TOKENS, VOCABULARY)], 1)
    objective = LabelObjective(1)
    counter = FlopCounter.of(model)
    assert counter is not None

    def run() -> None:
        objective(model, batch).loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()

    return stopwatch(run), counter.flops(batch)


def _kernel_flops(shape: ModelShape, trunk: int, n_targets: int) -> float:
    batch = pack([made_tree(trunk, n_targets, BRANCH_TOKENS, VOCABULARY)], 1)
    return 12.0 * shape.num_attention_heads * shape.head_width * layout_of(batch).attention_pairs


def _steps(
    name: str, sizes: Sequence[int], steps: Mapping[str, tuple[Case, float]], rounds: int
) -> Scaling:
    cases = {key: case for key, (case, _) in steps.items()}
    return _scaling(name, sizes, cases, [flops for _, flops in steps.values()], rounds)


def _scaling(
    name: str,
    sizes: Sequence[int],
    cases: Mapping[str, Case],
    flops: Sequence[float],
    rounds: int,
) -> Scaling:
    next(iter(cases.values()))()  # one warms up all
    seconds = in_turns(cases, rounds, warm_up=False)
    medians = tuple(statistics.median(seconds[key]) for key in cases)
    return Scaling(name, tuple(sizes), medians, tuple(flops))


def _point(size: int, seconds: float) -> str:
    return f"{size} {seconds:.3g} s"


def draw(curves: Sequence[Scaling], file: Path) -> None:
    """Seconds over size for every curve, both axes logarithmic, with the counted growth beside."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(3.6 * len(curves), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        scale = curve.seconds[-1] / curve.flops[-1]
        counted = [flops * scale for flops in curve.flops]
        axes.loglog(
            curve.sizes, curve.seconds, "o-", label=f"measured, exponent {curve.exponent:.2f}"
        )
        axes.loglog(curve.sizes, counted, "--", label=f"counted, {curve.counted_exponent:.2f}")
        axes.set_title(curve.name, fontsize=9)
        axes.set_ylabel("seconds", fontsize=8)
        axes.set_xticks(curve.sizes, [f"{size:,}" for size in curve.sizes])
        axes.yaxis.set_major_formatter("{x:g}")
        for axis in (axes.xaxis, axes.yaxis):  # a logarithmic axis labels what lies between, too
            axis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
