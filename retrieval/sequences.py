"""Windows over articles: up to five consecutive chunks (the context) and the one that follows (the target).

It reads vectors straight from the shards, by the rule that an article's chunks are one run of rows. It does not know
who predicts, nor how a prediction is judged. All vectors it hands out have length one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from index.vectors import Vectors
from store.database import ArticleRow
from store.records import LookaheadError, Split

CONTEXT = 5  # chunks; published systems of this kind look at five

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Windows:
    """One entry a window: the target's chunk id, how many chunks before it are its context (1 to 5, all of the same
    article), and the number of its article in the order of `Sequences.articles`."""

    target: Ints
    length: Ints
    article: Ints

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, places: Ints | slice) -> Windows:
        return Windows(self.target[places], self.length[places], self.article[places])


class Sequences:
    """The articles of one split of a collection, as runs of unit vectors."""

    def __init__(self, articles: Sequence[ArticleRow], vectors: Vectors) -> None:
        self.articles = list(articles)
        self._vectors = vectors
        self.first = np.array([row.first_chunk for row in self.articles], dtype=np.int64)
        self.count = np.array([row.chunk_count for row in self.articles], dtype=np.int64)

    @property
    def dim(self) -> int:
        return self._vectors.dim

    def only(self, numbers: Sequence[int]) -> Sequences:
        """The same for some of the articles."""
        return Sequences([self.articles[number] for number in numbers], self._vectors)

    def windows(self, shortest: int = CONTEXT) -> Windows:
        """Every chunk that has at least `shortest` chunks of its article before it, with up to five of them."""
        if not 1 <= shortest <= CONTEXT:
            raise ValueError(f"contexts are 1 to {CONTEXT} chunks, not {shortest}")
        article = np.repeat(np.arange(len(self.articles)), np.maximum(self.count - shortest, 0))
        if not len(article):
            return Windows(*(np.zeros(0, dtype=np.int64) for _ in range(3)))
        position = np.concatenate([np.arange(shortest, count) for count in self.count if count > shortest])
        return Windows(self.first[article] + position, np.minimum(position, CONTEXT), article)

    def contexts(self, windows: Windows) -> tuple[Floats, Bools]:
        """(context, mask): (n, 5, D) with the nearest chunk last and zeros in front of short ones, (n, 5) true where
        there is a chunk."""
        back = np.arange(-CONTEXT, 0)
        mask = back >= -windows.length[:, None]
        context = np.zeros((len(windows), CONTEXT, self.dim), dtype=np.float32)
        context[mask] = self.unit((windows.target[:, None] + back)[mask])
        return context, mask

    def unit(self, ids: Ints) -> Floats:
        """Unit vectors of chunks, (n, D), in the order asked."""
        return normalised(self._vectors.gather(ids))

    def ids(self) -> Ints:
        """The ids of all chunks of these articles, article by article."""
        if not self.articles:
            return np.zeros(0, dtype=np.int64)
        return np.concatenate(
            [np.arange(first, first + count) for first, count in zip(self.first, self.count, strict=True)]
        )

    def between(self, first: int, stop: int) -> Floats:
        """Unit vectors of the chunks `first … stop - 1`, (stop - first, D): a run of an article costs one read."""
        return normalised(self._vectors.between(first, stop))


def needed(sequences: Sequences, split: Split, collection: str, shortest: int = CONTEXT) -> Windows:
    """The windows of a split; a split without any is refused."""
    windows = sequences.windows(shortest)
    if not len(windows):
        raise LookaheadError(
            f"{collection}: none of the {len(sequences.articles):,} articles in the {split.value} split has "
            f"{shortest + 1} chunks, so there is no window; ingest more articles"
        )
    return windows
