"""GRU4Rec: a recurrent network over the items of one user's history.

Source: Hidasi, Karatzoglou, Baltrunas and Tikk, "Session-based Recommendations with Recurrent
Neural Networks", ICLR 2016, section 3. Its ranking losses on sampled negatives are replaced by what
`losses` offers; the output is tied to the item vectors, as later practice has it.

Shapes: B histories, L positions, D width of item vectors, R width of the recurrent state.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from modeling.students.base import Student, StudentShape

_STATE_PER_WIDTH = 2
"""R / D: the state has to remember a whole history, an item vector one item."""


class GRU4Rec(Student):
    """Gated recurrent layers; `n_heads` has no meaning here."""

    name: ClassVar[str] = "gru4rec"

    def __init__(self, shape: StudentShape, teacher_NW: torch.Tensor | None = None) -> None:
        super().__init__(shape, teacher_NW)
        D, R = shape.hidden_size, _STATE_PER_WIDTH * shape.hidden_size
        self.gru = nn.GRU(D, R, num_layers=shape.n_layers, batch_first=True)
        self.out = nn.Linear(R, D)
        self.beginning = nn.Parameter(torch.zeros(D))
        """the state of a history without events"""
        nn.init.normal_(self.beginning, std=0.02)

    def forward(self, items_BL: torch.Tensor) -> torch.Tensor:
        """State after each event, `[B, L, D]`."""
        L = items_BL.shape[1]
        known_BL = items_BL != self.padding_item
        # A recurrent network has no mask. Moved to the left, the events come before the padding,
        # which then changes no state that anybody reads.
        shift_B1 = L - known_BL.sum(1, keepdim=True)
        place_L = torch.arange(L, device=items_BL.device)
        left_BL = items_BL.gather(1, (place_L + shift_B1) % L)
        x_BLD = F.dropout(self.input_vectors(left_BL), self.shape.dropout, self.training)
        state_BLR, _ = self.gru(x_BLD)
        state_BLD = self.out(F.dropout(state_BLR, self.shape.dropout, self.training))
        back_BL = (place_L - shift_B1) % L
        state_BLD = state_BLD.gather(1, back_BL[:, :, None].expand(-1, -1, state_BLD.shape[-1]))
        state: torch.Tensor = torch.where(known_BL[:, :, None], state_BLD, self.beginning)
        return state
