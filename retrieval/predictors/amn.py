"""The published attention mixture network: the context mean, corrected from an attended mixture (1,510,912 at 768).

It does not know the order of the chunks: any permutation of the context gives the same prediction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from retrieval.predictors.base import Predictor, mixture

KEYS = 256


class AMN(Predictor):
    """mean + residual([mean, mixture]); the mean asks, the chunks answer: softmax(q·k/√256) mixes the raw context."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.context_encoder = nn.Linear(dim, KEYS)
        self.query_encoder = nn.Linear(dim, KEYS)
        self.residual = nn.Sequential(
            nn.Linear(2 * dim, 512),
            nn.GELU(),
            nn.LayerNorm(512),
            nn.Linear(512, 256),
            nn.GELU(),
            nn.LayerNorm(256),
            nn.Linear(256, dim),
        )

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        mean = context.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        scores = torch.bmm(self.context_encoder(context), self.query_encoder(mean).unsqueeze(-1)).squeeze(-1)
        weights = torch.softmax((scores / math.sqrt(KEYS)).masked_fill(~mask, -math.inf), dim=-1)
        prediction: Tensor = mean + self.residual(torch.cat([mean, mixture(weights, context)], dim=-1))
        return prediction
