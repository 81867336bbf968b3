"""Losses of a distillation, as small classes on one scale: 0 for the teacher itself, 1 where nothing is known.

They take unit vectors of a batch (B, D), the student's and the teacher's; they do not know who made them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class DistillLoss(Protocol):
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """A scalar for unit vectors (B, D) of the same texts."""
        ...


class Distillation:
    """Half the squared distance to the teacher's vector, which is 1 − cosine (LEAF, arXiv 2509.12539)."""

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().sum(dim=-1).mean() / 2


class Alignment:
    """How far the cosines among the student's texts are from those among the teacher's, as the share of the latter's
    variance that is not explained (similarity-preserving distillation, Tung and Mori 2019)."""

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        if len(student) < 3:  # one pair varies around nothing
            return student.sum() * 0
        above = torch.triu(torch.ones(len(student), len(student), dtype=torch.bool, device=student.device), diagonal=1)
        ours, theirs = (student @ student.T)[above], (teacher @ teacher.T)[above]
        return (ours - theirs).square().mean() / theirs.var(correction=0).clamp(min=1e-6)


class Contrastive:
    """InfoNCE: to find the text's own teacher vector among those of the batch; 1 is chance."""

    def __init__(self, temperature: float = 0.05) -> None:
        self.temperature = temperature

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        if len(student) < 2:
            return student.sum() * 0
        logits = student @ teacher.T / self.temperature
        own = torch.arange(len(student), device=student.device)
        return functional.cross_entropy(logits, own) / math.log(len(student))


class Triplet:
    """By how much the nearest other text's teacher vector is not `margin` further than the text's own; 1 where both are
    equally near."""

    def __init__(self, margin: float = 0.2) -> None:
        self.margin = margin

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        if len(student) < 2:
            return student.sum() * 0
        cosines = student @ teacher.T
        own = cosines.diagonal()
        others = cosines.masked_fill(torch.eye(len(student), dtype=torch.bool, device=student.device), -2.0)
        return functional.relu(self.margin + others.amax(dim=1) - own).mean() / self.margin


LOSSES: Mapping[str, type[Distillation] | type[Alignment] | type[Contrastive] | type[Triplet]] = {
    "distillation": Distillation,
    "alignment": Alignment,
    "contrastive": Contrastive,
    "triplet": Triplet,
}


class Weighted:
    """A weighted sum of losses, by their names."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._parts: list[tuple[str, float, DistillLoss]] = [
            (name, weight, LOSSES[name]()) for name, weight in weights.items()
        ]
        self.told: dict[str, float] = {}

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        values = [(name, weight, loss(student, teacher)) for name, weight, loss in self._parts]
        # not by their bare names: "alignment" is a figure of a validation
        self.told = {f"{name} loss": float(value.detach()) for name, _, value in values}
        return torch.stack([weight * value for _, weight, value in values]).sum()
