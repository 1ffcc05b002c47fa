"""Is packing exact? One prompt per target, and precision enough to tell.

`packing_differences` compares a packed row with one prompt per target, in fp64 where asked.
Decoders compute norms, softmaxes and router probabilities in fp32 whatever the dtype of their
weights. That hides whether two layouts are equal: rounding to fp32 in the middle leaves 1e-7 where
the mathematics leaves 1e-14. `KeepDouble` takes these roundings out.

Legend: T tokens of the row, V vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from modeling.label_scores import label_logits
from modeling.tree_layout import TreeLayout


class KeepDouble(TorchFunctionMode):
    """A context in which a tensor in fp64 is never turned into fp32.

    Use it around forward and backward of a model in fp64:

        with KeepDouble():
            model.double()(input_ids=...).logits.sum().backward()
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run `func`, with every cast from fp64 down to fp32 left out."""
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            if func is torch.Tensor.to:
                args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Differences:
    """Largest absolute differences between two ways to compute the same."""

    logits: float
    gradients: float


def packing_differences(
    model: torch.nn.Module, layout: TreeLayout, tokens_T: torch.Tensor, labels_T: torch.Tensor
) -> Differences:
    """Compare a packed row with one prompt per branch: all logits, all parameters' gradients.

    Works in the model's dtype; leaves its gradients empty.

    Args:
        model: a causal LM from `modeling.backbone`, without dropout.
        layout: where the trees of the row lie.
        tokens_T: int64 [T].
        labels_T: int64 [T], what the cross-entropy (summed over the row) expects after each token.
    """
    everywhere_T = torch.arange(layout.n_tokens, device=tokens_T.device)
    positions_T = layout.positions().to(tokens_T.device)
    with KeepDouble():
        packed_TV = label_logits(model, tokens_T, positions_T, layout, everywhere_T)
        packed_gradients = _gradients(model, packed_TV, labels_T)
        single_TV = one_prompt_each(model, tokens_T, layout)
        single_gradients = _gradients(model, single_TV, labels_T)
    return Differences(
        float((packed_TV - single_TV).detach().abs().max()),
        max(
            float((packed_gradients[name] - single_gradients[name]).abs().max())
            for name in packed_gradients.keys() | single_gradients.keys()
        ),
    )


def one_prompt_each(
    model: torch.nn.Module, tokens_T: torch.Tensor, layout: TreeLayout
) -> torch.Tensor:
    """Logits [T, V] in row order from stock attention, one prompt of trunk + branch at a time."""
    logits: dict[int, torch.Tensor] = {}
    for rows, answers in _prompts(layout):
        out_PV = model(input_ids=tokens_T[rows][None], use_cache=False).logits[0]
        logits |= {row: out_PV[rows.index(row)] for row in answers}
    return torch.stack([logits[row] for row in range(layout.n_tokens)])


def _prompts(layout: TreeLayout) -> Iterator[tuple[list[int], list[int]]]:
    """Per prompt its rows, and those it answers for: each trunk, and each branch behind its own."""
    trunk_rows: list[int] = []
    for piece in layout.pieces():
        rows = list(range(piece.start, piece.start + piece.length))
        if piece.branch == 0:
            trunk_rows = rows
        before = trunk_rows[: piece.attach] if piece.branch else []
        if rows:
            yield before + rows, rows


def _gradients(
    model: torch.nn.Module, logits_TV: torch.Tensor, labels_T: torch.Tensor
) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(logits_TV, labels_T, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    return gradients
