"""Our own small correction of low rank, meant to be anchored: what to add to a mixture of the context.

It does not know that mixture, nor how large the correction should be (`Anchored` learns both).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from retrieval.predictors.base import Predictor
from retrieval.sequences import CONTEXT


class Residual(Predictor):
    """up(h + GELU(W h)) with h = Σ Vᵢ xᵢ + b, one Vᵢ (rank × D) for each place; starts small."""

    def __init__(self, dim: int, rank: int = 256, dropout: float = 0.2) -> None:
        super().__init__(dim)
        self.down = nn.Linear(CONTEXT * dim, rank)  # the Vᵢ side by side; a missing chunk is zeros and adds nothing
        self.bend = nn.Linear(rank, rank)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(rank, dim)
        nn.init.normal_(self.up.weight, std=0.01)
        nn.init.zeros_(self.up.bias)

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        h = self.down(context.flatten(1))
        correction: Tensor = self.up(self.dropout(h + functional.gelu(self.bend(h))))
        return correction
