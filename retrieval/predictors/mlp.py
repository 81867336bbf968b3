"""The published MLP: all five context vectors at once through one hidden layer (4,720,384 parameters at 768).

It does not know the order of the chunks other than by their place, and sees a missing chunk as zeros.
"""

from __future__ import annotations

from torch import Tensor, nn

from retrieval.predictors.base import Predictor
from retrieval.sequences import CONTEXT


class MLP(Predictor):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.net = nn.Sequential(nn.Linear(CONTEXT * dim, 1024), nn.ReLU(), nn.Dropout(0.1), nn.Linear(1024, dim))

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        prediction: Tensor = self.net(context.flatten(1))
        return prediction
