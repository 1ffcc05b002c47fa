"""What every student is: item vectors, a state after each event, scores by their product.

Shapes: B histories, L positions, D width, N items, S items of a slate, W width of a teacher's item
vectors.

Histories are rows of item numbers 0..N-1, oldest first, padded on the left with `padding_item` (N).
A history and the same history behind any amount of padding have the same scores.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentShape:
    """The sizes that fix every tensor of a student; one that has no use for a size ignores it."""

    n_items: int
    """Items of the catalog, N; their numbers are 0..N-1."""
    hidden_size: int = 64
    """Width D of item vectors and of the states that they are compared with."""
    n_layers: int = 2
    """Attention blocks, or recurrent layers."""
    n_heads: int = 2
    """Attention heads; divides `hidden_size`."""
    max_length: int = 50
    """Longest history that is read."""
    dropout: float = 0.2
    """Share of activations dropped while training."""
    teacher_width: int = 0
    """Width W of frozen teacher vectors added to the input; 0 = none."""
    teacher_weight: float = 0.2
    """Factor on the projected teacher vectors."""

    def __post_init__(self) -> None:
        if self.n_items < 1 or self.max_length < 1:
            raise ValueError(
                f"a student needs at least one item and one position, not n_items={self.n_items}, "
                f"max_length={self.max_length}"
            )


class Student(nn.Module, abc.ABC):
    """Scores every item of the catalog as the next one, with input and output vectors tied.

    A subclass turns histories into states in `forward`; it starts from `input_vectors`.

    Args:
        shape: the sizes.
        teacher_NW: frozen item vectors of a teacher, float32 `[n_items, teacher_width]`; they enter
            at the input through a learned projection (DLLM2Rec, Cui et al., RecSys 2024, section
            3.3, collaborative embedding distillation; the item vector is the learnable offset).
            None leaves zeros to be loaded.

    Raises:
        ValueError: when `teacher_NW` does not have the declared shape.
    """

    name: ClassVar[str]
    """What it is called in configs, folders and results."""
    teacher_items: torch.Tensor  # [N + 1, W]

    def __init__(self, shape: StudentShape, teacher_NW: torch.Tensor | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.items = nn.Embedding(shape.n_items + 1, shape.hidden_size, padding_idx=shape.n_items)
        nn.init.normal_(self.items.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[shape.n_items].zero_()
        if shape.teacher_width:
            self._add_teacher(teacher_NW)
        elif teacher_NW is not None:
            raise ValueError("teacher vectors were given, but teacher_width is 0")

    def _add_teacher(self, teacher_NW: torch.Tensor | None) -> None:
        expected = (self.shape.n_items, self.shape.teacher_width)
        table_NW = torch.zeros(expected) if teacher_NW is None else teacher_NW.float()
        if tuple(table_NW.shape) != expected:
            raise ValueError(
                f"teacher vectors have shape {tuple(table_NW.shape)}; this student needs "
                f"{expected}: one row per item of the catalog, in its order"
            )
        # One more row, zero, for the padding item.
        self.register_buffer("teacher_items", F.pad(table_NW, (0, 0, 0, 1)))
        self.teacher_projection = nn.Linear(self.shape.teacher_width, self.shape.hidden_size)

    @property
    def padding_item(self) -> int:
        """The number that fills a history on the left."""
        return self.shape.n_items

    @abc.abstractmethod
    def forward(self, items_BL: torch.Tensor) -> torch.Tensor:
        """State after each event, `[B, L, D]`; row l knows events 0..l only.

        Args:
            items_BL: int64 item numbers, left-padded, L <= `max_length`.
        """

    def input_vectors(self, items_BL: torch.Tensor) -> torch.Tensor:
        """Item vectors at the input, a teacher's added, `[B, L, D]`; zero-centred, of size 1."""
        # The factor is the usual one of tied vectors: small at the output, of size 1 at the input.
        x_BLD: torch.Tensor = self.items(items_BL) * self.shape.hidden_size**0.5
        if self.shape.teacher_width:
            projected_BLD = self.teacher_projection(self.teacher_items[items_BL])
            x_BLD = x_BLD + self.shape.teacher_weight * projected_BLD
        return x_BLD

    def output_vectors(self) -> torch.Tensor:
        """Item vectors that states are compared with, `[N, D]`."""
        return self.items.weight[: self.shape.n_items]

    def item_scores(self, items_BL: torch.Tensor) -> torch.Tensor:
        """Logits of every item as the next one, `[B, N]`; softmax gives the model's belief."""
        state_BLD: torch.Tensor = self(items_BL)
        return state_BLD[:, -1] @ self.output_vectors().T

    def slate_scores(self, items_BL: torch.Tensor, slate_BS: torch.Tensor) -> torch.Tensor:
        """The same logits for the items of one slate per history only, `[B, S]`."""
        return torch.einsum("bd,bsd->bs", self(items_BL)[:, -1], self.items(slate_BS))
