"""What a predictor is trained to make small, as small classes on one scale: a mean over the windows of a batch.

They do not know which model predicted, nor where the bank came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from retrieval.negatives import DUPLICATE as DUPLICATE

_NEVER = -1e9  # a logit that no softmax sees; -inf would make gradients of an all-masked row NaN


@dataclass(frozen=True, slots=True)
class Judged:
    """What predictions (B, D) are compared with: unit vectors of a bank (M, D), the row of each target in it (B,), and
    which rows do not count for which window (B, M): its own context, which is masked when the model is used."""

    bank: Tensor
    target: Tensor
    masked: Tensor


class Loss(Protocol):
    def __call__(self, predicted: Tensor, judged: Judged) -> Tensor:
        """A scalar for unit predictions (B, D)."""
        ...


class Cosine:
    """1 − cosine to the target: 0 when all are met, 1 for right angles."""

    def __call__(self, predicted: Tensor, judged: Judged) -> Tensor:
        return 1 - (predicted * judged.bank[judged.target]).sum(dim=-1).mean()


class MeanSquared:
    """Half the squared distance to the target.

    torch's mse_loss divides by D as well, which makes it about .001 here, so that anything mixed with it at weight .01
    drowns it. On unit vectors half the squared distance *is* 1 − cosine; it differs where lengths do.
    """

    def __call__(self, predicted: Tensor, judged: Judged) -> Tensor:
        return (predicted - judged.bank[judged.target]).square().sum(dim=-1).mean() / 2


class InfoNCE:
    """Cross-entropy of finding the target among the whole bank: the targets of other windows and every other chunk of
    the articles in the batch (van den Oord et al., arXiv 1807.03748).

    Chunks that say the same as the target (cosine ≥ `DUPLICATE`) are never negatives: they share `smoothing` of its
    probability, and with 0 they are left out.
    """

    def __init__(self, temperature: float = 0.03, smoothing: float = 0.0) -> None:
        if temperature <= 0 or not 0 <= smoothing < 1:
            raise ValueError(f"temperature {temperature} is above 0 and smoothing {smoothing} at least 0, below 1")
        self.temperature = temperature
        self.smoothing = smoothing

    def __call__(self, predicted: Tensor, judged: Judged) -> Tensor:
        logits = predicted @ judged.bank.T / self.temperature
        logits = logits.float().masked_fill(judged.masked, _NEVER)
        twins = (judged.bank[judged.target] @ judged.bank.T >= DUPLICATE) & ~judged.masked
        twins = twins.scatter(1, judged.target[:, None], False)
        if self.smoothing == 0:
            return functional.cross_entropy(logits.masked_fill(twins, _NEVER), judged.target)
        many = twins.sum(dim=1, keepdim=True)
        share = torch.where(many > 0, self.smoothing, 0.0)
        wanted = twins * share / many.clamp(min=1)
        wanted = wanted.scatter(1, judged.target[:, None], 1 - share)
        return functional.cross_entropy(logits, wanted)


class Mixture:
    """A weighted sum of losses; the weights mean what they say, since all are on one scale."""

    def __init__(self, parts: Mapping[Loss, float]) -> None:
        self.parts = parts

    def __call__(self, predicted: Tensor, judged: Judged) -> Tensor:
        return torch.stack([weight * loss(predicted, judged) for loss, weight in self.parts.items()]).sum()


class TokenLoss(torch.autograd.Function):
    """`apply(states (N, W), table (V, W), bias (V), wanted (N))`: cross_entropy(states @ table.T + bias, wanted), some
    rows at a time. All logits at once are half a gigabyte that leaves every cache, and took twice the time here."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, bias: Tensor, wanted: Tensor) -> Tensor:
        quick = torch.bfloat16 if torch.is_autocast_enabled(states.device.type) else torch.float32
        keys, rows = table.to(quick), states.to(quick)
        of_states, of_table, of_bias = torch.empty_like(rows), torch.zeros_like(table), torch.zeros_like(bias)
        total = torch.zeros((), device=states.device)
        for start in range(0, len(rows), _ROWS):
            some, true = rows[start : start + _ROWS], wanted[start : start + _ROWS, None]
            logits = (some @ keys.T).float().add_(bias)
            logits.sub_(logits.amax(dim=1, keepdim=True))
            right = logits.gather(1, true)
            parts = logits.exp_().sum(dim=1, keepdim=True)
            total += (parts.log() - right).sum()
            gradient = logits.div_(parts)  # of the softmax; the right token's is less by one
            gradient.scatter_add_(1, true, torch.full_like(right, -1.0)).div_(len(rows))
            of_bias += gradient.sum(dim=0)
            gradient = gradient.to(quick)
            of_states[start : start + _ROWS] = gradient @ keys
            of_table += gradient.T @ some
        ctx.save_for_backward(of_states.to(states.dtype), of_table, of_bias)
        return total / max(1, len(rows))

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        of_states, of_table, of_bias = ctx.saved_tensors
        return of_states * given, of_table * given, of_bias * given, None


_ROWS = 256
