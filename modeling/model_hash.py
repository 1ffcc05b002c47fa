"""What a model computes, as a hash: models with one hash give the same states on the same device.

Numbers cached of a model are worth nothing once it is trained on or its adapter is switched.
`ModelHash` says when: it looks at addresses and versions of all tensors, which costs a millisecond,
and reads the tensors themselves only where these have moved.

The content of a tensor is hashed where it lies, as a sum of its 32-bit words times fixed random
numbers modulo 2^64 (multilinear hashing: Carter and Wegman 1979), so a GPU's weights stay there.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain

import torch
from torch import nn

# Words hashed at a time: their products, in int64, take 2 MB and stay in a CPU's cache.
_WORDS_AT_ONCE = 1 << 18


class ModelHash:
    """The hash of a model, taken again when the model has changed.

    In-place changes are seen as torch counts them (`optimizer.step()`, `copy_`, `load_state_dict`),
    replaced tensors and peft's switches too. Writes through `parameter.data` are not counted by
    torch: call `forget` after them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._marks: tuple[object, ...] | None = None
        self._value = ""

    @property
    def value(self) -> str:
        """64 hexadecimal digits."""
        marks = tuple(_marks(self._model))
        if marks != self._marks:
            self._value, self._marks = _content_hash(self._model), marks
        return self._value

    def forget(self) -> None:
        """Read all weights again when next asked."""
        self._marks = None


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


def _marks(model: nn.Module) -> Iterator[object]:
    for _, tensor in _tensors(model):
        yield tensor.data_ptr(), tensor._version
    yield from _switches(model)


def _switches(model: nn.Module) -> Iterator[object]:
    """Which of peft's adapters are on, merged, and how much each counts."""
    for name, module in model.named_modules():
        if hasattr(module, "active_adapters") and hasattr(module, "merged_adapters"):
            scaling = getattr(module, "scaling", {})
            yield (
                name,
                tuple(module.active_adapters),
                tuple(module.merged_adapters),
                bool(module.disable_adapters),
                tuple(sorted(scaling.items())),
            )


@torch.no_grad()
def _content_hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in _tensors(model):
        kind = f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device}"
        digest.update(f"{kind} {_words_hash(tensor)};".encode())
    digest.update(repr(list(_switches(model))).encode())
    return digest.hexdigest()


def _words_hash(tensor: torch.Tensor) -> str:
    octets = tensor.detach().contiguous().view(-1).view(torch.uint8)
    whole = len(octets) // 4 * 4
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for words in torch.split(octets[:whole].view(torch.int32), _WORDS_AT_ONCE):
        # Times an odd number: chunks in another order have another sum.
        total = total * 31 + (words * _factors(tensor.device)[: len(words)]).sum()
    return f"{int(total)} {octets[whole:].tolist()}"


@lru_cache(maxsize=8)
def _factors(device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    limits = torch.iinfo(torch.int64)
    return torch.randint(
        limits.min, limits.max, (_WORDS_AT_ONCE,), generator=generator, dtype=torch.int64
    ).to(device)
