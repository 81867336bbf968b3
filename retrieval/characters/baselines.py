"""What counting alone predicts: the most frequent characters, those after the last one, those after the last four.

A trained model earns its place above these lines only. It knows symbols, no networks; the hits of any predictor,
trained or counted, are summed by unit here, so that all are judged on the same characters by the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from retrieval.characters.texts import Corpus, Units
from retrieval.characters.vocabulary import PAD, SIZE, UNK, Symbols
from retrieval.metrics import Floats
from store.records import Split

ORDERS = {"most frequent": 1, "bigram": 2, "5-gram": 5}  # characters in a row that are counted
BEST = 3
COUNTED = ("dev_top1", "dev_top3", "test_top1", "test_top3")

Ints = NDArray[np.int64]
Codes = NDArray[np.uint32]  # 78 to the power 5 is just within: half the memory of ten million wider numbers


@dataclass(frozen=True, slots=True)
class Hits:
    """By unit: how many of its characters stood first, and among the first three; of how many."""

    top1: Floats
    top3: Floats
    size: Floats

    @classmethod
    def of(cls, ranks: Ints, targets: Symbols, unit: Ints | Codes, units: int) -> Self:
        """From the rank of each target, from 1. One that the vocabulary lacks counts as missed at any rank: UNK is no
        character, however well it is predicted."""
        known = targets != UNK
        sums = [np.bincount(unit, weights=weights, minlength=units) for weights in _hits(ranks, known)]
        return cls(*(part.astype(np.float64) for part in (*sums, np.bincount(unit, minlength=units))))

    @property
    def figures(self) -> dict[str, float]:
        total = float(self.size.sum())
        return {"top1": float(self.top1.sum()) / total, "top3": float(self.top3.sum()) / total}


def baselines(corpus: Corpus) -> dict[str, dict[str, dict[str, float]]]:
    """Language → baseline → COUNTED; each counted on the language's own train."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for language, splits in corpus.languages.items():
        tables = [Table.of(splits[Split.TRAIN], order) for order in range(1, max(ORDERS.values()) + 1)]
        found[language] = {}
        for name, order in ORDERS.items():
            dev, test = (judge(tables[:order], splits[split]).figures for split in (Split.VALID, Split.TEST))
            found[language][name] = dict(zip(COUNTED, [*dev.values(), *test.values()], strict=True))
    return found


@dataclass(frozen=True, slots=True)
class Table:
    """The characters most often seen after each context of `order` − 1 symbols."""

    order: int
    contexts: Codes  # ascending; a context is its symbols as the digits of a number
    following: Ints  # (contexts, 3): the most frequent first, ties by symbol; −1 where fewer were seen

    @classmethod
    def of(cls, units: Units, order: int) -> Self:
        context, following, _ = _places(units, order)
        grams, counts = np.unique((context * SIZE + following)[following != UNK], return_counts=True)
        ranked = np.lexsort((grams, -counts, grams // SIZE))
        contexts, first, many = np.unique(grams // SIZE, return_index=True, return_counts=True)
        places = first[:, None] + np.arange(BEST)
        there = np.arange(BEST) < many[:, None]
        symbols = (grams[ranked] % SIZE).astype(np.int64)[np.minimum(places, len(grams) - 1)]
        return cls(order, contexts, np.where(there, symbols, -1))

    def after(self, contexts: Codes) -> Ints:
        """(n, 3), −1 where nothing was seen."""
        places = np.searchsorted(self.contexts, contexts).clip(max=len(self.contexts) - 1)
        return np.where((self.contexts[places] == contexts)[:, None], self.following[places], -1)


def judge(tables: list[Table], units: Units) -> Hits:
    """Predicts each symbol of the units but their first by the longest context seen in training, and fills the three
    places up from shorter ones (back-off)."""
    _, targets, unit = _places(units, 1)
    ranks = np.full(len(targets), BEST + 1)
    chosen = np.full((len(targets), BEST), -1)
    filled = np.zeros(len(targets), dtype=np.int64)
    for table in reversed(tables):
        context, _, _ = _places(units, table.order)
        for candidate in table.after(context).T:
            new = (candidate >= 0) & (filled < BEST) & (chosen != candidate[:, None]).all(axis=1)
            chosen[new, filled[new]] = candidate[new]
            filled += new
            ranks = np.where(new & (candidate == targets), filled, ranks)
    return Hits.of(ranks, targets, unit, len(units))


def _places(units: Units, order: int) -> tuple[Codes, Symbols, Codes]:
    """(context, target, unit) of each symbol but the first of its unit; where fewer symbols stand before it in its
    unit than the order asks for, padding stands for them."""
    unit = np.repeat(np.arange(len(units), dtype=np.uint32), np.diff(units.starts))
    within = np.arange(len(unit), dtype=np.uint32) - units.starts.astype(np.uint32)[unit]
    context = np.zeros(len(unit), dtype=np.uint32)
    for back in range(order - 1, 0, -1):
        context *= SIZE
        context += np.where(within >= back, np.roll(units.symbols, back), np.uint8(PAD))
    judged = within > 0
    return context[judged], units.symbols[judged], unit[judged]


def _hits(ranks: Ints, known: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    return [(ranks <= cut) & known for cut in (1, BEST)]
