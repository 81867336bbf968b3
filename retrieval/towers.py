"""The P tower, which candidates go through, and the pair of towers that are trained together.

It does not know how they are trained (`train_towers`), nor where the passages are kept (`space`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.predictors.base import Predictor
from store.records import LookaheadError

COLDEST = 0.01  # a learned temperature stays above it, as CLIP's does: below, near-ties are all that counts


class PassageTower(nn.Module, ABC):
    """Chunks' vectors (N, D) of length one → the same chunks as candidates (N, D), of length one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @abstractmethod
    def raw(self, vectors: Tensor) -> Tensor:
        """The passages (N, D) before they are brought to length one."""

    def forward(self, vectors: Tensor) -> Tensor:
        return functional.normalize(self.raw(vectors), dim=-1)


class IdentityTower(PassageTower):
    """x + g · up(h + GELU(h)) with h = W x + b, of low rank; g starts at 0, so that it starts at the identity and the
    space stays one that can be decoded."""

    def __init__(self, dim: int, rank: int = 256, dropout: float = 0.2) -> None:
        super().__init__(dim)
        self.down = nn.Linear(dim, rank)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(rank, dim)
        self.gain = nn.Parameter(torch.zeros(()))
        nn.init.normal_(self.up.weight, std=0.01)
        nn.init.zeros_(self.up.bias)

    def raw(self, vectors: Tensor) -> Tensor:
        h = self.down(vectors)
        passages: Tensor = vectors + self.gain * self.up(self.dropout(h + functional.gelu(h)))
        return passages


class ReferenceTower(PassageTower):
    """The published one: Linear, GELU, LayerNorm, Linear (1,182,720 parameters at 768). A space of its own."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.net = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, dim))

    def raw(self, vectors: Tensor) -> Tensor:
        passages: Tensor = self.net(vectors)
        return passages


TOWERS: dict[str, type[PassageTower]] = {"identity": IdentityTower, "reference": ReferenceTower}


def build_tower(kind: str, dim: int, options: dict[str, Any] | None = None) -> PassageTower:
    """A P tower with fresh weights (seed torch first). `options` are the class's own keyword arguments."""
    if kind not in TOWERS:
        raise LookaheadError(f"there is no P tower {kind!r}; there are: {', '.join(TOWERS)}")
    return TOWERS[kind](dim, **(options or {}))


def kept_of(query: Predictor, tower: dict[str, Any]) -> nn.Module:
    """What is stored of a model with this Q tower and the P tower of its config, {} where it has none."""
    passage = build_tower(tower["kind"], query.dim, tower["options"]) if tower else None
    return Towers(query, passage).kept()


class Towers(nn.Module):
    """A Q tower over the context, a P tower over candidates (None: they stay as they are), and the temperature at which
    the two are compared: fixed, or learned from there on."""

    def __init__(
        self, query: Predictor, passage: PassageTower | None, temperature: float = 0.04, *, learned: bool = False
    ) -> None:
        coldest = COLDEST if learned else 0.0
        if temperature <= coldest:
            raise LookaheadError(f"a temperature of {temperature:g} is too low; give one above {coldest:g}")
        super().__init__()
        self.query = query
        self.passage = passage
        self._fixed = temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature - COLDEST))) if learned else None

    def passages(self, vectors: Tensor) -> Tensor:
        """Chunks' unit vectors (N, D) as candidates (N, D)."""
        if self.passage is None:
            return vectors
        passages: Tensor = self.passage(vectors)
        return passages

    def temperature(self) -> Tensor | float:
        return self._fixed if self.log_temperature is None else COLDEST + self.log_temperature.exp()

    def kept(self) -> nn.Module:
        """What is stored of them: weights named "query.…" and "passage.…", or a plain predictor's own names where there
        is no P tower. The temperature is of use in training only."""
        if self.passage is None:
            return self.query
        return nn.ModuleDict({"query": self.query, "passage": self.passage})

    def parameters_kept(self) -> int:
        return sum(value.numel() for value in self.kept().parameters() if value.requires_grad)
