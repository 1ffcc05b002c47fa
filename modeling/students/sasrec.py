"""SASRec: a causal transformer over the items of one user's history.

Source: Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, section III.

Shapes: B histories, L positions, D width, N items, S items of a slate, H heads, W width of a
teacher's item vectors.

Histories are rows of item numbers 0..N-1, oldest first, padded on the left with `padding_item` (N).
Positions count from the right, so the newest event is always at position 0: a history and the same
history behind any amount of padding have the same scores.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class SASRecShape:
    """The sizes that fix every tensor of a `SASRec`."""

    n_items: int
    """Items of the catalog, N; their numbers are 0..N-1."""
    hidden_size: int = 64
    """Width D of item vectors and layers."""
    n_layers: int = 2
    """Attention blocks."""
    n_heads: int = 2
    """Attention heads; divides `hidden_size`."""
    max_length: int = 50
    """Longest history the learned positions reach."""
    dropout: float = 0.2
    """Share of activations dropped while training."""
    teacher_width: int = 0
    """Width W of frozen teacher vectors added to the input; 0 = none."""
    teacher_weight: float = 0.2
    """Factor on the projected teacher vectors."""

    def __post_init__(self) -> None:
        if self.n_items < 1 or self.max_length < 1:
            raise ValueError(
                f"a SASRec needs at least one item and one position, not n_items={self.n_items}, "
                f"max_length={self.max_length}"
            )
        if self.hidden_size % self.n_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by n_heads={self.n_heads}; "
                f"choose n_heads among the divisors of hidden_size"
            )


class _Block(nn.Module):
    """Pre-norm attention and feed-forward.

    The paper normalises the query only; later practice is full pre-norm, which keeps the residual
    path clean and so trains at 1e-3 without a warm-up, which a few hundred steps cannot afford.
    """

    def __init__(self, shape: SASRecShape) -> None:
        super().__init__()
        D = shape.hidden_size
        self.n_heads = shape.n_heads
        self.dropout = shape.dropout
        self.attention_norm = nn.LayerNorm(D)
        self.qkv = nn.Linear(D, 3 * D)
        self.out = nn.Linear(D, D)
        self.feed_forward_norm = nn.LayerNorm(D)
        self.up = nn.Linear(D, D)
        self.down = nn.Linear(D, D)

    def forward(self, x_BLD: torch.Tensor, mask_B1LL: torch.Tensor) -> torch.Tensor:
        B, L, D = x_BLD.shape
        qkv = self.qkv(self.attention_norm(x_BLD)).view(B, L, 3, self.n_heads, D // self.n_heads)
        q_BHLd, k_BHLd, v_BHLd = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed_BHLd = F.scaled_dot_product_attention(
            q_BHLd,
            k_BHLd,
            v_BHLd,
            attn_mask=mask_B1LL,
            dropout_p=self.dropout if self.training else 0.0,
        )
        mixed_BLD = self.out(mixed_BHLd.transpose(1, 2).reshape(B, L, D))
        x_BLD = x_BLD + F.dropout(mixed_BLD, self.dropout, self.training)
        fed_BLD = self.down(F.gelu(self.up(self.feed_forward_norm(x_BLD))))
        return x_BLD + F.dropout(fed_BLD, self.dropout, self.training)


class SASRec(nn.Module):
    """Scores every item of the catalog as the next one, with input and output vectors tied.

    Args:
        shape: the sizes.
        teacher_NW: frozen item vectors of a teacher, float32 `[n_items, teacher_width]`; they enter
            at the input through a learned projection (DLLM2Rec, Cui et al., RecSys 2024, section
            3.3, collaborative embedding distillation; the item vector is the learnable offset).
            None leaves zeros to be loaded.

    Raises:
        ValueError: when `teacher_NW` does not have the declared shape.
    """

    teacher_items: torch.Tensor  # [N + 1, W]

    def __init__(self, shape: SASRecShape, teacher_NW: torch.Tensor | None = None) -> None:
        super().__init__()
        self.shape = shape
        D = shape.hidden_size
        self.items = nn.Embedding(shape.n_items + 1, D, padding_idx=shape.n_items)
        self.positions = nn.Embedding(shape.max_length, D)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.n_layers))
        self.norm = nn.LayerNorm(D)
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
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

    def forward(self, items_BL: torch.Tensor) -> torch.Tensor:
        """Hidden state after each event, `[B, L, D]`; row l knows events 0..l only.

        Args:
            items_BL: int64 item numbers, left-padded, L <= `max_length`.
        """
        L = items_BL.shape[1]
        from_right_L = L - 1 - torch.arange(L, device=items_BL.device)
        x_BLD = self._input_vectors(items_BL) + self.positions(from_right_L)
        x_BLD = F.dropout(x_BLD, self.shape.dropout, self.training)
        mask_B1LL = self._mask(items_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_B1LL)
        hidden_BLD: torch.Tensor = self.norm(x_BLD)
        return hidden_BLD

    def _input_vectors(self, items_BL: torch.Tensor) -> torch.Tensor:
        # The factor is the usual one of tied vectors: small at the output, of size 1 at the input.
        x_BLD: torch.Tensor = self.items(items_BL) * self.shape.hidden_size**0.5
        if self.shape.teacher_width:
            projected_BLD = self.teacher_projection(self.teacher_items[items_BL])
            x_BLD = x_BLD + self.shape.teacher_weight * projected_BLD
        return x_BLD

    def _mask(self, items_BL: torch.Tensor) -> torch.Tensor:
        L = items_BL.shape[1]
        rows_L = torch.arange(L, device=items_BL.device)
        causal_LL = rows_L[:, None] >= rows_L[None, :]
        # A padding row must attend somewhere, or its softmax is 0/0: to itself.
        self_LL = rows_L[:, None] == rows_L[None, :]
        known_B1L = (items_BL != self.padding_item)[:, None, :]
        return ((causal_LL & known_B1L) | self_LL)[:, None]

    def output_vectors(self) -> torch.Tensor:
        """Item vectors that hidden states are compared with, `[N, D]`."""
        return self.items.weight[: self.shape.n_items]

    def item_scores(self, items_BL: torch.Tensor) -> torch.Tensor:
        """Logits of every item as the next one, `[B, N]`; softmax gives the model's belief."""
        hidden_BLD: torch.Tensor = self(items_BL)
        return hidden_BLD[:, -1] @ self.output_vectors().T

    def slate_scores(self, items_BL: torch.Tensor, slate_BS: torch.Tensor) -> torch.Tensor:
        """The same logits for the items of one slate per history only, `[B, S]`."""
        return torch.einsum("bd,bsd->bs", self(items_BL)[:, -1], self.items(slate_BS))
