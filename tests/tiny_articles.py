"""Small collections of vectors for the tests of what comes next: shards on disk, articles in memory, no text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.vectors import Vectors, shard_name, write_shard
from retrieval.sequences import Sequences
from store.database import ArticleRow
from store.records import Split

Floats = NDArray[np.float32]


def vectors_of(folder: Path, rows: Floats, shard_rows: int = 16) -> Vectors:
    """The rows in shards, as a collection has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(rows), shard_rows)):
        write_shard(folder / shard_name(number), rows[start : start + shard_rows])
    return Vectors(folder, len(rows), rows.shape[1], shard_rows)


def article_rows(counts: Sequence[int], split: Split = Split.TEST, first: int = 0) -> list[ArticleRow]:
    """Articles of so many chunks, one after the other; page ids count from 100."""
    rows = []
    for place, count in enumerate(counts):
        rows.append(ArticleRow(100 + place, f"Article {place}", split, "s", "d", first, count))
        first += count
    return rows


def sequences_of(folder: Path, articles: Sequence[Floats]) -> Sequences:
    """A split of articles, each given as the vectors of its chunks."""
    rows = np.concatenate(articles)
    return Sequences(article_rows([len(one) for one in articles]), vectors_of(folder, rows))


def wandering(counts: Sequence[int], dim: int = 24, seed: int = 0) -> list[Floats]:
    """Articles as Wikipedia has them: each about something, neighbours nearer to each other than chunks far apart."""
    rng = np.random.default_rng(seed)
    articles = []
    for count in counts:
        topic, drift, chunks = rng.normal(size=dim), rng.normal(size=dim), []
        for _ in range(count):
            drift = 0.7 * drift + 0.7 * rng.normal(size=dim)
            chunks.append(topic + drift + 0.4 * rng.normal(size=dim))
        articles.append(np.array(chunks, dtype=np.float32))
    return articles
