"""Rerankers: networks that order a list of candidates by features that vectors alone give.

They do not know how lists are made or learned from (`train_reranker`), nor which model's predictions they are told.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.rerank_features import NAMES, Told, told_of
from store.records import LookaheadError

_NEARNESS = 20.0  # the sharpest head begins by looking at its few nearest
_NEVER = -1e9
_START = 25.0  # the score a reranker starts from is the prediction's, as sharp as a temperature of .04


class Reranker(nn.Module, ABC):
    """(context (B, 5, D), mask (B, 5), prediction (B, D), candidates (B, N, D), passages (B, N, D), present (B, N)) →
    scores (B, N), higher is likelier next; what absent candidates get means nothing.

    All vectors have length one; see `rerank_features` for what is made of them. It starts at the prediction's own
    order, and the order candidates come in makes no difference.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(len(NAMES)))
        self.register_buffer("scale", torch.ones(len(NAMES)))

    def fit(self, told: Told) -> None:
        """Sets what features are standardised by: their mean and deviation over the candidates of some lists."""
        rows = told.features[told.present]
        self.centre.copy_(rows.mean(dim=0))
        self.scale.copy_(1 / rows.std(dim=0, correction=0).clamp(min=1e-3))

    @abstractmethod
    def judged(self, told: Told) -> Tensor:
        """Corrections (B, N) from standardised features; zero before training."""

    def forward(
        self, context: Tensor, mask: Tensor, prediction: Tensor, candidates: Tensor, passages: Tensor, present: Tensor
    ) -> Tensor:
        return self.scores(told_of(context, mask, prediction, candidates, passages, present))

    def scores(self, told: Told) -> Tensor:
        """`forward` from what is told of the lists."""
        standard = ((told.features - self.centre) * self.scale).clamp(-6.0, 6.0) * told.present.unsqueeze(-1)
        return _START * told.features[..., _PREDICTION] + self.judged(Told(standard, told.among, told.present))


class MLPReranker(Reranker):
    """Two layers over each candidate by itself."""

    def __init__(self, hidden: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.inner = nn.Linear(len(NAMES), hidden)
        self.outer = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.last = _zero(nn.Linear(hidden, 1))

    def judged(self, told: Told) -> Tensor:
        h = self.dropout(functional.gelu(self.inner(told.features)))
        correction: Tensor = self.last(h + functional.gelu(self.outer(h)))
        return correction.squeeze(-1)


class ListReranker(Reranker):
    """The candidates of a list look at each other, more at those near to them: pre-norm attention over the list, with
    cosines added to its logits. There are no positions in it."""

    def __init__(self, hidden: int = 64, layers: int = 2, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.inner = nn.Linear(len(NAMES), hidden)
        self.blocks = nn.ModuleList(_Block(hidden, heads, dropout) for _ in range(layers))
        self.outer = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.last = _zero(nn.Linear(hidden, 1))

    def judged(self, told: Told) -> Tensor:
        h = self.dropout(functional.gelu(self.inner(told.features)))
        for block in self.blocks:
            h = block(h, told.among, told.present)
        correction: Tensor = self.last(h + functional.gelu(self.outer(h)))
        return correction.squeeze(-1)


class _Block(nn.Module):
    """Attention and a network twice as wide, each added to what it was given."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self._heads = heads
        self.nearness = nn.Parameter(torch.linspace(0.0, _NEARNESS, heads))  # how much a cosine weighs in each head
        self.before, self.between = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.three = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.wide, self.narrow = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, among: Tensor, present: Tensor) -> Tensor:
        lists, many, hidden = h.shape
        split = self.three(self.before(h)).view(lists, many, 3, self._heads, hidden // self._heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        bias = self.nearness.view(1, -1, 1, 1) * among.unsqueeze(1)
        bias = bias.masked_fill(~present[:, None, None, :], _NEVER)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        h = h + self.dropout(self.out(seen.transpose(1, 2).reshape(lists, many, hidden)))
        fed: Tensor = h + self.dropout(self.narrow(functional.gelu(self.wide(self.between(h)))))
        return fed


RERANKERS: dict[str, type[Reranker]] = {"mlp": MLPReranker, "list": ListReranker}
_PREDICTION = NAMES.index("prediction · passage")


def build_reranker(kind: str, options: dict[str, Any] | None = None) -> Reranker:
    """A reranker with fresh weights (seed torch first). `options` are the class's own keyword arguments."""
    if kind not in RERANKERS:
        raise LookaheadError(f"there is no reranker {kind!r}; there are: {', '.join(RERANKERS)}")
    return RERANKERS[kind](**(options or {}))


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
