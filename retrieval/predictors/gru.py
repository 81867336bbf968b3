"""The published GRU: four one-layer blocks with residual and LayerNorm (7,095,552 parameters at 768).

It does not know how long a context could have been: a short one is a short sequence.
"""

from __future__ import annotations

from torch import Tensor, nn

from retrieval.predictors.base import Predictor, at, to_front

WIDTH = 512


class GRU(Predictor):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.into = nn.Linear(dim, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(WIDTH, dim)

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        steps, last = to_front(context, mask)
        states = self.into(steps)
        for block in self.blocks:
            states = block(states)
        prediction: Tensor = self.head(at(states, last))
        return prediction


class Block(nn.Module):
    """LayerNorm(x + GRU(x)), (B, T, 512) to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        normed: Tensor = self.norm(states + self.gru(states)[0])
        return normed
