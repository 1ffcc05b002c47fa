"""SASRec: a causal transformer over the items of one user's history.

Source: Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, section III.

Shapes: B histories, L positions, D width, H heads.

Positions count from the right, so the newest event is always at position 0.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from modeling.students.base import Student, StudentShape


class _Block(nn.Module):
    """Pre-norm attention and feed-forward.

    The paper normalises the query only; later practice is full pre-norm, which keeps the residual
    path clean and so trains at 1e-3 without a warm-up, which a few hundred steps cannot afford.
    """

    def __init__(self, shape: StudentShape) -> None:
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


class SASRec(Student):
    """Causal self-attention over the history; positions count from the right.

    Raises:
        ValueError: `n_heads` does not divide `hidden_size`.
    """

    name: ClassVar[str] = "sasrec"

    def __init__(self, shape: StudentShape, teacher_NW: torch.Tensor | None = None) -> None:
        super().__init__(shape, teacher_NW)
        if shape.hidden_size % shape.n_heads:
            raise ValueError(
                f"hidden_size={shape.hidden_size} is not divisible by n_heads={shape.n_heads}; "
                f"choose n_heads among the divisors of hidden_size"
            )
        self.positions = nn.Embedding(shape.max_length, shape.hidden_size)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.n_layers))
        self.norm = nn.LayerNorm(shape.hidden_size)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, items_BL: torch.Tensor) -> torch.Tensor:
        """State after each event, `[B, L, D]`."""
        L = items_BL.shape[1]
        from_right_L = L - 1 - torch.arange(L, device=items_BL.device)
        x_BLD = self.input_vectors(items_BL) + self.positions(from_right_L)
        x_BLD = F.dropout(x_BLD, self.shape.dropout, self.training)
        mask_B1LL = self._mask(items_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_B1LL)
        state_BLD: torch.Tensor = self.norm(x_BLD)
        return state_BLD

    def _mask(self, items_BL: torch.Tensor) -> torch.Tensor:
        L = items_BL.shape[1]
        rows_L = torch.arange(L, device=items_BL.device)
        causal_LL = rows_L[:, None] >= rows_L[None, :]
        # A padding row must attend somewhere, or its softmax is 0/0: to itself.
        self_LL = rows_L[:, None] == rows_L[None, :]
        known_B1L = (items_BL != self.padding_item)[:, None, :]
        return ((causal_LL & known_B1L) | self_LL)[:, None]
