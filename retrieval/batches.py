"""Training batches: many windows of a few articles, judged against every chunk of those articles.

A batch is a pure function of seed, epoch and number, so a training that was killed goes on with the very batches it
would have had. It does not know torch, nor what is learned from a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from retrieval.sequences import CONTEXT, Bools, Floats, Ints, Sequences


@dataclass(frozen=True, slots=True)
class Batch:
    """`bank` (M, D) are the chunks of some runs of articles, `ids` (M,) their global ids; windows point into it:
    `context` (B, 5) rows with the nearest last, `mask` (B, 5) true where there is a chunk, `target` (B,).

    Where two runs of an article adjoin, the last chunks of one are the first contexts of the other, and stand twice.
    """

    bank: Floats
    context: Ints
    mask: Bools
    target: Ints
    ids: Ints

    def once(self) -> Batch:
        """The same with each chunk once, in the order of their ids: a row is masked then wherever it came from."""
        ids, kept, place = np.unique(self.ids, return_index=True, return_inverse=True)
        if len(ids) == len(self.ids):  # nothing twice: the order does not matter
            return self
        return Batch(self.bank[kept], place[self.context], self.mask, place[self.target], ids)

    def with_chunks(self, ids: Ints, read: Callable[[Ints], Floats]) -> Batch:
        """The same with those chunks of `ids` that the bank lacks behind it, each once; -1 stands for none."""
        fresh = np.setdiff1d(ids[ids >= 0], self.ids)
        if not len(fresh):
            return self
        bank = np.concatenate([self.bank, read(fresh)])
        return Batch(bank, self.context, self.mask, self.target, np.concatenate([self.ids, fresh]))


def places_of(ids: Ints, among: Ints) -> Ints:
    """Where each of `ids` stands among others, in the shape asked; -1 for one that is not there."""
    order = np.argsort(among, kind="stable")
    at = np.minimum(np.searchsorted(among, ids, sorter=order), len(order) - 1)
    place = order[at]
    told: Ints = np.where(among[place] == ids, place, -1)
    return told


@dataclass(frozen=True, slots=True)
class Run:
    """The windows of one article whose targets are at positions `start … stop - 1`."""

    article: int
    start: int
    stop: int


class Batches:
    """All windows of `sequences`, `windows` or a few more in a batch, at most `run` of one article.

    A share `short` of the windows is given a context of random length; an article's second to fifth chunk have short
    ones anyway.
    """

    def __init__(self, sequences: Sequences, *, windows: int, run: int, short: float, seed: int) -> None:
        self._sequences = sequences
        self._windows = windows
        self._run = run
        self._short = short
        self._seed = seed
        self.total = int(np.maximum(sequences.count - 1, 0).sum())

    def epoch(self, number: int) -> list[list[Run]]:
        """The runs of each batch of an epoch; every window is in exactly one."""
        generator = np.random.default_rng([self._seed, number])
        runs = []
        for article, count in enumerate(self._sequences.count.tolist()):
            if count < 2:
                continue
            # the first run is of random length: windows that never meet as negatives in one epoch do in another
            start, stop = 1, 1 + int(generator.integers(1, self._run + 1)) if count - 1 > self._run else count
            while start < count:
                runs.append(Run(article, start, min(stop, count)))
                start, stop = stop, stop + self._run
        order = generator.permutation(len(runs))
        batches: list[list[Run]] = [[]]
        held = 0
        for place in order.tolist():
            if held >= self._windows:
                batches.append([])
                held = 0
            batches[-1].append(runs[place])
            held += runs[place].stop - runs[place].start
        if held < self._windows // 4 and len(batches) > 1:  # a handful of negatives teaches little
            last = batches.pop()
            batches[-1] += last
        return batches

    def read(self, runs: list[Run], epoch: int, number: int) -> Batch:
        """The vectors and windows of one batch."""
        generator = np.random.default_rng([self._seed, epoch, number])
        banks, contexts, masks, targets, ids = [], [], [], [], []
        offset = 0
        back = np.arange(-CONTEXT, 0)
        for run in runs:
            begin = max(0, run.start - CONTEXT)
            first = int(self._sequences.first[run.article])
            banks.append(self._sequences.between(first + begin, first + run.stop))
            ids.append(np.arange(first + begin, first + run.stop))
            position = np.arange(run.start, run.stop)
            longest = np.minimum(position, CONTEXT)
            shorter = generator.random(len(position)) < self._short
            length = np.where(shorter, generator.integers(1, longest + 1), longest)
            mask = back >= -length[:, None]
            rows = position[:, None] + back - begin + offset
            contexts.append(np.where(mask, rows, offset))
            masks.append(mask)
            targets.append(position - begin + offset)
            offset += run.stop - begin
        parts = (np.concatenate(one) for one in (banks, contexts, masks, targets, ids))
        return Batch(*parts)


class Steps:
    """The batches of a training by the number of a step, epoch after epoch."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._epoch: tuple[int, list[list[Run]]] = (0, batches.epoch(0))
        self.per_epoch = len(self._epoch[1])

    def at(self, step: int) -> tuple[Batch, int, int]:
        """(batch, epoch, number of the batch in it)."""
        epoch, number = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._batches.epoch(epoch)
        plan = self._epoch[1]
        number %= len(plan)  # random first runs may make an epoch a batch shorter or longer than the first one
        return self._batches.read(plan[number], epoch, number), epoch, number
