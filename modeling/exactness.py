"""Double precision all the way down, to compare two ways of computing the same thing.

Decoders compute norms, softmaxes and router probabilities in fp32 whatever the dtype of their
weights. That hides whether two layouts of a prompt are equal: rounding to fp32 in the middle leaves
1e-7 where the mathematics leaves 1e-14.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


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
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            if func is torch.Tensor.to:
                args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
