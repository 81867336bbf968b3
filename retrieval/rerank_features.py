"""What a reranker is told of each candidate: numbers from vectors alone, the same for a list in any order.

It sees no text, title, position or article. It does not know what is made of the numbers (`reranker`).

Names: B lists of N candidates c with their passages p (c through the P tower), T = 5 context chunks x₁ … x₅ with x₅
the nearest, prediction q. All vectors have length one; what is not there is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from retrieval.baselines import DECAY
from retrieval.sequences import CONTEXT

NAMES = (
    *(f"cosine to x{place}" for place in range(1, CONTEXT + 1)),
    "cosine to the context's mean",
    "cosine to its decayed mean",
    "nearest context chunk",
    "prediction · passage",
    "prediction · candidate",
    *(f"x{place}, less the list's best" for place in range(1, CONTEXT + 1)),
    *(f"x{place}, less the five nearest candidates" for place in range(1, CONTEXT + 1)),
    "nearest candidate",
    "five nearest candidates",
    "ten nearest candidates",
    "all candidates",
    "cosine to the list's centre",
    "rank by the prediction",
    "prediction, less the list's best",
    "prediction, standardised in the list",
    "in the context",
)
_SHARPNESS = 20.0  # of the weights by which candidates make the list's centre
_NEAR = 10  # candidates around one; where there are fewer, those that lack count as right angles
_THE_SAME = 0.9995  # cosine from which a candidate is a context chunk itself


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of B lists: features (B, N, F), zero for absent candidates; the candidates' cosines to each other
    (B, N, N), -1 to itself and to an absent one; and which candidates are there (B, N)."""

    features: Tensor
    among: Tensor
    present: Tensor

    def __getitem__(self, lists: slice) -> Told:
        return Told(self.features[lists].float(), self.among[lists].float(), self.present[lists])


def told_of(
    context: Tensor, mask: Tensor, prediction: Tensor, candidates: Tensor, passages: Tensor, present: Tensor
) -> Told:
    """All that a reranker is told of contexts (B, T, D) with mask (B, T), predictions (B, D), candidates and passages
    (B, N, D), of which those count that are `present` (B, N)."""
    there = present.unsqueeze(-1)
    # filled, not multiplied: what is no number would stay none, and spread
    candidates, passages = candidates.masked_fill(~there, 0.0), passages.masked_fill(~there, 0.0)
    context = _filled(context, mask)
    weights = torch.tensor(DECAY, dtype=context.dtype, device=context.device) * mask
    mean = functional.normalize((context * mask.unsqueeze(-1)).sum(dim=1), dim=-1)
    decayed = functional.normalize((context * weights.unsqueeze(-1)).sum(dim=1), dim=-1)

    to_context = candidates @ context.transpose(1, 2)
    to_mean, to_decayed = _dot(candidates, mean), _dot(candidates, decayed)
    by_passage, by_candidate = _dot(passages, prediction), _dot(candidates, prediction)

    among = _among(candidates, present)
    room = max(0, _NEAR - among.shape[-1])
    near = functional.pad(among, (0, room), value=-1.0).topk(_NEAR, dim=-1).values.clamp(min=0.0)
    five = near[..., :5].mean(dim=-1)
    count = present.sum(dim=1, keepdim=True).clamp(min=1)
    cohesion = among.clamp(min=0.0).sum(dim=-1) / count

    lowered = by_passage.masked_fill(~present, -2.0)
    share = torch.softmax(_SHARPNESS * lowered, dim=1)
    centre = functional.normalize((share.unsqueeze(-1) * candidates).sum(dim=1), dim=-1)
    rank = (lowered.unsqueeze(1) > lowered.unsqueeze(2)).sum(dim=-1).to(candidates.dtype)
    average = (by_passage * present).sum(dim=1, keepdim=True) / count
    spread = (((by_passage - average) * present).square().sum(dim=1, keepdim=True) / count + 1e-6).sqrt()
    nearest = to_context.amax(dim=-1)

    numbers = torch.cat(
        [
            to_context,
            torch.stack([to_mean, to_decayed, nearest, by_passage, by_candidate], dim=-1),
            to_context - to_context.masked_fill(~there, -2.0).amax(dim=1, keepdim=True),
            to_context - five.unsqueeze(-1),
            torch.stack([near[..., 0], five, near.mean(dim=-1), cohesion, _dot(candidates, centre)], dim=-1),
            torch.stack(
                [
                    torch.log1p(rank),
                    by_passage - lowered.amax(dim=1, keepdim=True),
                    (by_passage - average) / spread,
                    (nearest >= _THE_SAME).to(candidates.dtype),
                ],
                dim=-1,
            ),
        ],
        dim=-1,
    )
    return Told(numbers.masked_fill(~there, 0.0), among, present)


def _among(candidates: Tensor, present: Tensor) -> Tensor:
    """(B, N, N) cosines between the candidates of a list; -1 where it is the same one, or one of them is not there."""
    cosines = candidates @ candidates.transpose(1, 2)
    itself = torch.eye(candidates.shape[1], dtype=torch.bool, device=candidates.device)
    return cosines.masked_fill(itself | ~present.unsqueeze(1) | ~present.unsqueeze(2), -1.0)


def _filled(context: Tensor, mask: Tensor) -> Tensor:
    """Missing chunks in front of a short context take the vector of the first one there is."""
    place = torch.arange(CONTEXT, device=context.device)
    first = (CONTEXT - mask.sum(dim=1, keepdim=True)).clamp(max=CONTEXT - 1)
    source = torch.maximum(place.unsqueeze(0), first)
    return context.gather(1, source.unsqueeze(-1).expand(-1, -1, context.shape[-1]))


def _dot(rows: Tensor, vector: Tensor) -> Tensor:
    """(B, N) products of rows (B, N, D) with one vector a list (B, D)."""
    return (rows @ vector.unsqueeze(-1)).squeeze(-1)
