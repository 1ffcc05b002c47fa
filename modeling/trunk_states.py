"""Keys and values of a trunk, kept so that the trunk need not be encoded again.

Legend: L layers, H_kv key heads, P tokens held, D width of a head.
"""

from collections.abc import Sequence

import torch

KeyValue = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of a trunk's first tokens in one layer, [H_kv, P, D] each."""


def held_by(past: Sequence[KeyValue | None] | None, tree: int) -> KeyValue:
    """Keys and values of a tree whose layout says that its trunk is cached.

    Raises:
        ValueError: they were not given.
    """
    held = past[tree] if past is not None else None
    if held is None:
        raise ValueError(
            f"the layout says that tree {tree} has a cached trunk, and no states of it were given: "
            f"pass them as trunk_states"
        )
    return held


class TrunkStates:
    """Keys (after rotary embedding) and values of one trunk in every layer.

    Given to a model's forward as one of `trunk_states`, it is read as far as the layout says that
    the trunk is cached; while `recording`, the rest of the trunk, which lies in the row, is
    appended by every layer. A forward that fails midway leaves layers of unequal length:
    `truncate` to the length from before.
    """

    def __init__(self, *, recording: bool = True) -> None:
        self.recording = recording
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    @property
    def length(self) -> int:
        """P, the tokens that all layers hold."""
        return min((key.shape[1] for key in self._keys), default=0)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(x.numel() * x.element_size() for x in (*self._keys, *self._values))

    def read(self, layer: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Key and value of the first `length` tokens, [H_kv, length, D] each.

        Raises:
            ValueError: the layer holds fewer tokens.
        """
        held = self._keys[layer].shape[1] if layer < len(self._keys) else 0
        if held < length:
            raise ValueError(
                f"{length} cached trunk tokens are asked of layer {layer}, which holds {held}: "
                f"these states belong to another trunk or model, or were never recorded"
            )
        return self._keys[layer][:, :length], self._values[layer][:, :length]

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Add tokens to a layer: key and value [H_kv, new, D]. Layers come in their order."""
        if layer == len(self._keys):
            # Copies: a view would keep the whole row's keys in memory.
            self._keys.append(key.detach().clone(memory_format=torch.contiguous_format))
            self._values.append(value.detach().clone(memory_format=torch.contiguous_format))
            return
        self._keys[layer] = torch.cat([self._keys[layer], key.detach()], dim=1)
        self._values[layer] = torch.cat([self._values[layer], value.detach()], dim=1)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if length < 1:
            self._keys, self._values = [], []
            return
        self._keys = [key[:, :length].clone() for key in self._keys]
        self._values = [value[:, :length].clone() for value in self._values]

    def copy(self, length: int) -> "TrunkStates":
        """States of the first `length` tokens, which can grow on their own."""
        twin = TrunkStates(recording=self.recording)
        if length:
            twin._keys = [key[:, :length].clone() for key in self._keys]
            twin._values = [value[:, :length].clone() for value in self._values]
        return twin
