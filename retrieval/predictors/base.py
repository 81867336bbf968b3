"""What all next-vector predictors share: the shape of a question and of an answer, and the start at the context.

It does not know how any of them is trained, saved or run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.sequences import CONTEXT


class Predictor(nn.Module, ABC):
    """(context (B, 5, D), mask (B, 5)) → predicted next vector (B, D) of length one.

    Context vectors have length one, the nearest chunk last; where the mask is false there is no chunk, and what stands
    there makes no difference. At least the last chunk is always there.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @abstractmethod
    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        """The prediction (B, D) before it is brought to length one; `context` is zero where the mask is false."""

    def forward(self, context: Tensor, mask: Tensor) -> Tensor:
        return functional.normalize(self.raw(context * mask.unsqueeze(-1), mask), dim=-1)


class Anchored(Predictor):
    """Starts at a mixture of the context with learned weights and adds what `net` predicts: L2(Σ wᵢ xᵢ + g · net).

    Before training it copies the last chunk, the baseline hardest to beat (weights e^-4 for the others, g = 0).
    """

    def __init__(self, net: Predictor) -> None:
        super().__init__(net.dim)
        self.net = net
        start = torch.full((CONTEXT,), -4.0)
        start[-1] = 0.0
        self.weights = nn.Parameter(start)
        self.gain = nn.Parameter(torch.zeros(()))

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        weights = torch.softmax(self.weights.masked_fill(~mask, -1e9), dim=-1)
        mixture = torch.einsum("bt,btd->bd", weights, context)
        return mixture + self.gain * self.net.raw(context, mask)
