"""What all next-vector predictors share: the shape of a question and of an answer, and the start at the context.

It does not know how any of them is trained, saved or run.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.sequences import CONTEXT


class Predictor(nn.Module, ABC):
    """(context (B, 5, D), mask (B, 5)) → predicted next vector (B, D) of length one.

    Context vectors have length one, the nearest chunk last; where the mask is false there is no chunk, and what stands
    there makes no difference. Chunks that are missing are missing in front: the last one is always there.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @abstractmethod
    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        """The prediction (B, D) before it is brought to length one; `context` is zero where the mask is false."""

    def forward(self, context: Tensor, mask: Tensor) -> Tensor:
        # filled, not multiplied: zero times what is not a number is not zero
        return functional.normalize(self.raw(context.masked_fill(~mask.unsqueeze(-1), 0.0), mask), dim=-1)


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
        weights = torch.softmax(self.weights.masked_fill(~mask, -math.inf), dim=-1)
        return mixture(weights, context) + self.gain * self.net.raw(context, mask)


def mixture(weights: Tensor, context: Tensor) -> Tensor:
    """Σ wᵢ xᵢ of weights (B, T) and vectors (B, T, D): (B, D)."""
    return torch.bmm(weights.unsqueeze(1), context).squeeze(1)


def to_front(states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """States (B, T, H) rolled so that those that are there come first, and the place (B,) of the last of them.

    A model that looks back only, asked at that place, has then never seen the padding: no step of it needs a mask.
    """
    missing = mask.shape[1] - mask.sum(dim=1, keepdim=True)
    places = (torch.arange(mask.shape[1], device=mask.device) + missing) % mask.shape[1]
    return states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1])), mask.sum(dim=1) - 1


def at(states: Tensor, place: Tensor) -> Tensor:
    """The state (B, H) that stands at each row's place (B,)."""
    return states.gather(1, place.view(-1, 1, 1).expand(-1, 1, states.shape[-1])).squeeze(1)


def sinusoids(width: int, length: int = CONTEXT) -> Tensor:
    """Sinusoidal positions (length, width) of "Attention is all you need", sines and cosines alternating."""
    angles = torch.arange(length).unsqueeze(1) * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
