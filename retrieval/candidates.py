"""Which chunks a reranker is given: the best of a first score, chunks of the article at hand, and how varied they are.

Pure functions over scores and rows. They know neither an index nor who reads the list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrieval.baselines import DECAY
from retrieval.sequences import Bools, Floats, Ints

DEPTH = 100  # candidates of one list
ASSIST = 45  # of them, at most, that are nearest in the last context chunk's own article ("shard assist")
HEAD = 5  # of a list, that its own article leaves in their places


@dataclass(frozen=True, slots=True)
class Choice:
    """How candidates are chosen: `depth` of them by the score

        prediction · passage + blend × (decayed mean of the context) · chunk

    The first term finds the next chunk, the second the article it is in, which reaches deeper. `assist` places of the
    list are for chunks of the last context chunk's own article, which nobody knows who was given a text only. `variety`
    is the weight λ of the score in maximal marginal relevance, or None for the best as they are.
    """

    depth: int = DEPTH
    blend: float = 0.0
    assist: int = 0
    variety: float | None = None


def decayed(context: Floats, mask: Bools) -> Floats:
    """The decayed mean (n, D) of contexts (n, 5, D), of length one; what is missing does not count."""
    weights = np.where(mask, np.array(DECAY, dtype=np.float32), np.float32(0))
    mixed = np.einsum("nt,ntd->nd", weights, context)
    told: Floats = mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
    return told


def marginal(scores: Floats, rows: Floats, weight: float, many: int) -> Ints:
    """Places of `many` of a list's chunks by maximal marginal relevance: λ · score − (1 − λ) · nearest one taken.

    `scores` (m,) with rows (m, D) of length one. Carbonell and Goldstein, SIGIR 1998.
    """
    taken: list[int] = []
    nearest = np.zeros(len(scores), dtype=np.float32)  # the first is taken by its score alone
    left = np.isfinite(scores)
    known = np.where(left, scores, np.float32(0))  # a weight of 0 times infinity is no number
    while len(taken) < many and left.any():
        worth = np.where(left, weight * known - (1 - weight) * nearest, -np.inf)
        place = int(worth.argmax())
        taken.append(place)
        left[place] = False
        near = rows @ rows[place]
        nearest = near if len(taken) == 1 else np.maximum(nearest, near)
    return np.array(taken, dtype=np.int64)


def assisted(best: Ints, own: Ints, assist: int, depth: int) -> Ints:
    """A list of at most `depth`, from the best of all and those of the article at hand, each best first: the best five
    stand first, behind them the article's `assist` best that are not among those five, and then the others."""
    head, rest = best[:HEAD], best[HEAD:]
    own = own[~np.isin(own, head)][:assist]
    return np.concatenate([head, own, rest[~np.isin(rest, own)]])[:depth]
