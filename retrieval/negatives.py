"""Hard negatives of a window: chunks of its article, near misses of the towers as they are, and who took part.

It speaks global chunk ids only, never places in a batch: a positive that was excluded by its place has leaked into its
own negatives before. It does not know torch, nor who searches for near misses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from retrieval.sequences import Bools, Floats, Ints, Sequences
from store.records import LookaheadError

NONE = -1  # the id of no chunk
DUPLICATE = 0.98  # cosine from which two chunks say the same
CEILING = 0.95  # of the positive's score: a near miss above it may well be right (NV-Retriever, arXiv 2407.15831)
SPARE = 4  # near misses looked at beyond those asked for, should some say the same as the positive


@dataclass(frozen=True, slots=True)
class Asked:
    """Windows by id: `target` (B,), and how many chunks before it are the `context` (B,), 1 to 5."""

    target: Ints
    context: Ints


class SameArticle:
    """Draws chunks of the target's own article: never the target, never the window's own context and, without
    `neighbours`, never the chunk beside the target."""

    def __init__(self, sequences: Sequences, *, many: int, neighbours: bool, seed: int) -> None:
        order = np.argsort(sequences.first, kind="stable")
        self._first = sequences.first[order]
        self._count = sequences.count[order]
        self._many = many
        self._neighbours = neighbours
        self._seed = seed

    def draw(self, asked: Asked, epoch: int, number: int) -> Ints:
        """(B, K) different ids for each window of the batch `number` of an epoch; NONE where an article has no more."""
        chance = np.random.default_rng([self._seed, epoch, number, _DRAWS])
        first, stop = self._bounds(asked.target)
        # what is excluded is one run around the target: the context, the target, and the chunk behind it
        low = np.maximum(asked.target - asked.context, first)
        high = np.minimum(asked.target + (1 if self._neighbours else 2), stop)
        allowed = (stop - first) - (high - low)
        taken = np.full((len(asked.target), self._many), np.iinfo(np.int64).max)
        found = np.full((len(asked.target), self._many), NONE)
        for turn in range(self._many):
            left = allowed - turn
            place = chance.integers(0, np.maximum(left, 1))
            for before in np.sort(taken[:, :turn], axis=1).T:  # the place-th of those not yet taken
                place += place >= before
            taken[:, turn] = place
            chunk = first + place
            chunk += np.where(chunk >= low, high - low, 0)
            found[:, turn] = np.where(left > 0, chunk, NONE)
        return found

    def after(self, target: Ints) -> Ints:
        """The chunk after each target (B,), NONE behind an article's last."""
        return np.where(target + 1 < self._bounds(target)[1], target + 1, NONE)

    def _bounds(self, target: Ints) -> tuple[Ints, Ints]:
        """The first id of each target's article and the one behind its last."""
        article = np.searchsorted(self._first, target, side="right") - 1
        return self._first[article], self._first[article] + self._count[article]


_DRAWS = 7  # keeps these draws apart from those that made the batch


@dataclass(frozen=True, slots=True)
class NearMisses:
    """A mined table: `ids` (W, N) for each of the targets (W,), which are in order; NONE where fewer passed. `step` is
    when it was mined."""

    target: Ints
    ids: Ints
    step: int

    @classmethod
    def none(cls, many: int) -> NearMisses:
        """Before anything was mined."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros((0, many), dtype=np.int64), -1)

    def of(self, target: Ints) -> Ints:
        """(B, N); NONE for a target that is not in the table."""
        if not len(self.target):
            return np.full((len(target), self.ids.shape[1]), NONE)
        at = np.minimum(np.searchsorted(self.target, target), len(self.target) - 1)
        return np.where((self.target[at] == target)[:, None], self.ids[at], NONE)


def passed(
    asked: Asked,
    score: Floats,
    candidates: Ints,
    scores: Floats,
    vectors: Callable[[Ints], Floats],
    *,
    many: int,
    neighbours: bool,
) -> Ints:
    """The `many` best candidates of each window that are wrong beyond doubt, (B, many), NONE where fewer are.

    `score` (B,) is the positive's, `candidates` (B, C) are ids, best first, with their `scores`; NONE is none. Left out
    are the positive, the window's own context, without `neighbours` the chunks beside the positive, what scores above
    95 % of the positive, and what says the same as it; `vectors` gives unit vectors of ids, as the encoder made them.
    """
    ahead = candidates - asked.target[:, None]
    fine = (candidates != NONE) & ~((-asked.context[:, None] <= ahead) & (ahead <= 0))
    if not neighbours:
        fine &= np.abs(ahead) != 1
    fine &= scores <= CEILING * score[:, None]
    first = _leading(candidates, fine, many + SPARE)
    there = first != NONE
    row, _ = np.nonzero(there)
    alike = np.zeros(first.shape, dtype=bool)
    alike[there] = np.einsum("nd,nd->n", vectors(first[there]), vectors(asked.target)[row]) >= DUPLICATE
    return _leading(first, there & ~alike, many)


def _leading(ids: Ints, kept: Bools, many: int) -> Ints:
    """(B, many): the first of a row's ids that are kept, NONE behind them."""
    order = np.argsort(~kept, axis=1, kind="stable")[:, :many]
    found = np.where(np.take_along_axis(kept, order, axis=1), np.take_along_axis(ids, order, axis=1), NONE)
    told: Ints = np.pad(found, ((0, 0), (0, many - found.shape[1])), constant_values=NONE)
    return told


@dataclass(frozen=True, slots=True)
class Turn:
    """When hard negatives take part: not in the first `start` share of the steps, then in all; near misses are mined
    anew every `refresh` steps from there."""

    steps: int
    start: float
    refresh: int

    @property
    def first(self) -> int:
        """The first step with hard negatives."""
        return min(round(self.start * self.steps), self.steps - 1)  # a turn that never comes would be a silence

    def has_come(self, step: int) -> bool:
        return step >= self.first

    def mined_at(self, step: int) -> int:
        """The step whose weights the near misses of this step are mined with."""
        assert self.has_come(step)
        return self.first + (step - self.first) // self.refresh * self.refresh


@dataclass(frozen=True, slots=True)
class Participation:
    """Who took part in a step: hard negatives per window, their mean score, and how many per window would not have been
    in the batch anyway."""

    negatives: float
    score: float
    fresh: float

    @classmethod
    def of(cls, scores: Floats, fresh: int) -> Participation:
        """From the scores (B, K) of a batch's hard negatives, NaN where one did not take part. A step where none did is
        an error, not a silence."""
        took = np.isfinite(scores)
        if not took.any():
            raise LookaheadError(
                f"none of the {scores.shape[1]} hard negatives a window took part in this step; the articles are too "
                "short for --negatives, or no near miss is clearly wrong: train without, or start later (--hard-from)"
            )
        return cls(float(took.sum() / len(scores)), float(scores[took].mean()), fresh / len(scores))
