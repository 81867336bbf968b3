"""Measures of search, from the rank of the first relevant unit, with bootstrap intervals.

It does not know what a unit is (an article, a paragraph), who ranked it or where the questions came from.

Every measure is computed from ranks alone: one entry a question that was asked, counted from 1, None where nothing
relevant was found. None scores zero and still counts in the mean; beir averages over the questions that came back.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ranks = Sequence[int | None]

RESAMPLES = 2000
LEVEL = 0.95


def each_once(units: Iterable[str]) -> list[str]:
    """The units of ranked chunks in the same order, each at its best place: an article counts by its best chunk."""
    return list(dict.fromkeys(units))


def first_relevant_rank(ranked: Sequence[str], relevant: AbstractSet[str]) -> int | None:
    """The place, from 1, of the first relevant unit in a list that names each unit once."""
    return next((place for place, unit in enumerate(ranked, 1) if unit in relevant), None)


def ranks_of(relevant: Mapping[str, AbstractSet[str]], found: Mapping[str, Sequence[str]]) -> list[int | None]:
    """One rank for each question of `relevant`, in its order; a question that `found` lacks has found nothing."""
    return [first_relevant_rank(found.get(question, ()), units) for question, units in relevant.items()]


def recall_at(ranks: Ranks, k: int) -> Floats:
    """1 for each question with a relevant unit among its first k, else 0; the mean is R@k.

    This is what most papers on retrieval for question answering print as Recall@k or "top-k accuracy". ir_measures
    and trec_eval call it Success@k; their Recall@k is the share of *all* the relevant units that were found.
    """
    _check_cut(k)
    return np.array([rank is not None and _checked(rank) <= k for rank in ranks], dtype=np.float64)


def contain_at(ranks: Ranks, k: int) -> Floats:
    """1 for each question whose relevant unit is among the k candidates fetched: what no reranker can exceed.

    The arithmetic is that of `recall_at`; the ranks must be those in the list of candidates, before any reranking.
    """
    return recall_at(ranks, k)


def reciprocal_rank(ranks: Ranks, cut: int = 10) -> Floats:
    """1/rank for each question, 0 beyond the cut; the mean is MRR@cut (RR@cut in ir_measures)."""
    _check_cut(cut)
    kept = [0.0 if rank is None or _checked(rank) > cut else 1.0 / rank for rank in ranks]
    return np.array(kept, dtype=np.float64)


def chance_recall(units: int, relevant: int, k: int) -> float:
    """R@k expected of `units` in random order, of which `relevant` are right: 1 - C(n-m, k) / C(n, k)."""
    _check_cut(k)
    if not 0 < relevant <= units:
        raise ValueError(f"{relevant} relevant of {units} units")
    if k > units - relevant:
        return 1.0
    return 1.0 - math.prod((units - relevant - i) / (units - i) for i in range(k))


def chance_reciprocal_rank(units: int, relevant: int, cut: int = 10) -> float:
    """MRR@cut expected of a random order: the sum over ranks r of P(first relevant one at r) / r."""
    reached = [0.0] + [chance_recall(units, relevant, k) for k in range(1, min(cut, units) + 1)]
    return sum((after - before) / rank for rank, (before, after) in enumerate(pairwise(reached), 1))


def bootstrap_interval(
    values: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean: (low, high).

    With `groups` (one label a value) whole groups are drawn, since questions about one article stand or fall together.
    Below some 20 groups such an interval is a little too narrow.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level {level}, resamples {resamples}")
    cells, times = _cells(np.asarray(values, dtype=np.float64), groups)
    # Drawing n groups with replacement is drawing how often each *kind* of group comes up. Right-or-wrong values have
    # two kinds however many questions there are, which makes 2,000 resamples a matter of a millisecond.
    drawn = np.random.default_rng(seed).multinomial(int(times.sum()), times / times.sum(), size=resamples)
    sums, sizes = (drawn @ cells).T
    low, high = np.quantile(sums / sizes, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Resampled:
    """`bootstrap_interval` over groups for many measures of the same questions: the groups are drawn once.

    `number` is each question's group, `sizes` its questions, `drawn` (resamples, groups) how often it came up.
    """

    number: NDArray[np.int64]
    sizes: Floats
    drawn: Floats
    level: float = LEVEL

    @classmethod
    def of(cls, groups: NDArray[np.int64], *, seed: int, resamples: int = RESAMPLES) -> Resampled:
        number = np.unique(groups, return_inverse=True)[1].astype(np.int64)
        sizes = np.bincount(number).astype(np.float64)
        even = np.full(len(sizes), 1 / len(sizes))
        drawn = np.random.default_rng(seed).multinomial(len(sizes), even, size=resamples)
        return cls(number, sizes, drawn.astype(np.float64))

    def mean(self, values: Floats) -> tuple[float, float, float]:
        """(mean, low, high) of one value a question."""
        return self._of_sums(self._sums(values), self.sizes)

    def ratio(self, above: Floats, below: Floats) -> tuple[float, float, float]:
        """(ratio of the means, low, high); 0 where the lower mean is 0."""
        return self._of_sums(self._sums(above), self._sums(below))

    def _sums(self, values: Floats) -> Floats:
        if values.shape != self.number.shape or not np.isfinite(values).all():
            raise ValueError(f"expected {len(self.number)} finite values, one a question")
        return np.bincount(self.number, weights=values, minlength=len(self.sizes)).astype(np.float64)

    def _of_sums(self, above: Floats, below: Floats) -> tuple[float, float, float]:
        top, bottom = self.drawn @ above, self.drawn @ below
        found = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        low, high = np.quantile(found, [(1 - self.level) / 2, (1 + self.level) / 2])
        whole = float(below.sum())
        return float(above.sum()) / whole if whole > 0 else 0.0, float(low), float(high)


def paired_difference(
    a: Sequence[float] | Floats,
    b: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[float, float, float]:
    """How much higher `a` scores than `b` on the same questions: (mean, low, high). Resampled as pairs."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} values are not pairs")
    difference = first - second
    low, high = bootstrap_interval(difference, groups, seed=seed, resamples=resamples, level=level)
    return float(difference.mean()), low, high


def _cells(values: Floats, groups: Sequence[Hashable] | None) -> tuple[Floats, NDArray[np.int64]]:
    """The different (sum, size) that groups have, and how many groups have each; without groups each value is one."""
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("expected a list of one or more finite values")
    if groups is None:
        kinds, times = np.unique(values, return_counts=True)
        return np.column_stack([kinds, np.ones(len(kinds))]), times
    if len(groups) != len(values):
        raise ValueError(f"{len(groups)} groups for {len(values)} values")
    number: dict[Hashable, int] = {}
    numbers = np.array([number.setdefault(group, len(number)) for group in groups])
    totals = np.column_stack([np.bincount(numbers, weights=values), np.bincount(numbers).astype(np.float64)])
    cells, times = np.unique(totals, axis=0, return_counts=True)
    return cells, times


def _check_cut(k: int) -> None:
    if k < 1:
        raise ValueError(f"a cut of {k}; the first place is 1")


def _checked(rank: int) -> int:
    if rank < 1:
        raise ValueError(f"a rank of {rank}; the first place is 1")
    return rank
