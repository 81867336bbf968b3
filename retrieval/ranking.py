"""Chunks of a collection in the order in which they may come next: two indexes, a first score, a list, a reranker.

It does not know titles and texts, nor which chunks may not answer; `predict` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.dense import normalised
from index.engines import VectorIndex
from index.vectors import Vectors
from retrieval.candidates import assisted, decayed, marginal
from retrieval.pipeline import Pipeline
from retrieval.search import Searcher
from retrieval.sequences import CONTEXT, Bools, Floats, Ints
from retrieval.space import Space

_WIDER = 2  # lists that variety is chosen from
_NONE: Ints = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Asked:
    """A context (1, 5, D) with the nearest chunk last, its mask (1, 5), and what is foretold from it (1, D)."""

    context: Floats
    mask: Bools
    prediction: Floats


@dataclass(frozen=True, slots=True)
class Scored:
    """Chunks by their first score, best first, ties by id: their cosines to the prediction, their unit vectors and
    those of their passages (m, D), which are the same where the model has no P tower."""

    ids: Ints
    first: Floats
    cosines: Floats
    rows: Floats
    passages: Floats

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, places: Ints | Bools | slice) -> Scored:
        return Scored(
            self.ids[places], self.first[places], self.cosines[places], self.rows[places], self.passages[places]
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of candidates in its last order. `scores` are a reranker's, as shares of the list, and the cosines to the
    prediction where there is none."""

    ids: Ints
    scores: Floats
    cosines: Floats


class Ranker:
    """A pipeline over an opened collection."""

    def __init__(self, searcher: Searcher, pipeline: Pipeline, space: Space | None = None) -> None:
        self.searcher = searcher
        self.pipeline = pipeline
        self.space = space

    @property
    def index(self) -> VectorIndex:
        """Over the passages."""
        return self.searcher.dense if self.space is None else self.space.dense

    @property
    def reach(self) -> int:
        """How many of the best by the first score a list is chosen from; 0 where that score has the last word."""
        choice = self.pipeline.choice
        if choice.variety is not None:
            return _WIDER * choice.depth
        return choice.depth if self.pipeline.reranker is not None or choice.assist else 0

    def asked(self, unit: Floats) -> Asked:
        """From the unit vectors (T, D) of the last chunks, at most five, in their order."""
        context = np.zeros((1, CONTEXT, unit.shape[1]), dtype=np.float32)
        context[0, CONTEXT - len(unit) :] = unit
        mask = np.arange(CONTEXT)[None] >= CONTEXT - len(unit)
        return Asked(context, mask, self.pipeline.predict(context, mask))

    def near(self, asked: Asked, depth: int) -> Ints:
        """Ids among which are the best by the first score, as far as the indexes find them, ascending."""
        if not self.pipeline.choice.blend:
            return np.sort(_ids(self.index, asked.prediction[0], depth, self.searcher))
        # side by side: each takes about a millisecond of one core
        context = decayed(asked.context, asked.mask)[0]
        by_context = self.searcher.beside.submit(_ids, self.searcher.dense, context, depth, self.searcher)
        return np.union1d(_ids(self.index, asked.prediction[0], depth, self.searcher), by_context.result())

    def scored(self, asked: Asked, ids: Ints) -> Scored:
        """Exactly, whatever an index said."""
        rows = normalised(self.searcher.vectors.gather(ids))
        passages = rows if self.space is None else normalised(self.space.vectors.gather(ids))
        queries = self.pipeline.queries(asked.context, asked.mask, asked.prediction)
        first = self.pipeline.keys(rows, passages) @ queries[0]
        found = Scored(ids, first, passages @ asked.prediction[0], rows, passages)
        return found[np.lexsort((ids, -first))]

    def everywhere(self, asked: Asked, others: Sequence[Floats] = ()) -> tuple[Floats, Floats, Floats]:
        """Of every row, exactly: (first scores (rows,), cosines to the prediction (rows,), cosines of the `others` (D,)
        in the encoder's own space (others, rows)). Dead rows are at minus infinity."""
        choice, vectors = self.pipeline.choice, self.searcher.vectors
        asking = [*([asked.prediction[0]] if self.space is None else []), *others]
        if choice.blend:
            asking.append(decayed(asked.context, asked.mask)[0])
        own = _cosines(np.array(asking, dtype=np.float32).reshape(-1, vectors.dim), vectors)
        if self.searcher.alive is not None:
            own[:, self.searcher.store.dead_ids()] = -np.inf
        if self.space is None:
            cosines, own = own[0], own[1:]
        else:
            cosines = _cosines(asked.prediction, self.space.vectors)[0]
            if self.searcher.alive is not None:
                cosines[self.searcher.store.dead_ids()] = -np.inf
        first = cosines + np.float32(choice.blend) * own[-1] if choice.blend else cosines.copy()
        return first, cosines, own[: len(others)]

    def listed(self, asked: Asked, pool: Scored, own: Ints = _NONE) -> Listed:
        """The list chosen from the best by the first score (by maximal marginal relevance out of twice as many, where
        there is to be `variety`) and from chunks of the article at hand; reranked, where there is a reranker."""
        choice, reranker = self.pipeline.choice, self.pipeline.reranker
        members = pool[: self.reach]
        if choice.variety is not None:
            members = members[marginal(members.first, members.rows, choice.variety, choice.depth)]
        if choice.assist:
            helped = self.scored(asked, own)
            ids = assisted(members.ids, helped.ids, choice.assist, choice.depth)
            both = _together(members, helped)
            every, place = np.unique(both.ids, return_index=True)
            members = both[place[np.searchsorted(every, ids)]]
        if reranker is not None and len(members):
            scores = self.pipeline.rerank(
                asked.context,
                asked.mask,
                asked.prediction,
                members.rows[None],
                members.passages[None],
                np.ones((1, len(members)), dtype=np.bool_),
            )[0]
            order = np.argsort(-scores, kind="stable")
            return Listed(members.ids[order], shares(scores[order]), members.cosines[order])
        return Listed(members.ids, members.cosines, members.cosines)


def shares(scores: Floats) -> Floats:
    """Scores (m,) as shares of one, in the same order: their softmax."""
    raised = np.exp(scores - scores.max())
    told: Floats = (raised / raised.sum()).astype(np.float32)
    return told


def _ids(index: VectorIndex, query: Floats, depth: int, searcher: Searcher) -> Ints:
    return np.array([hit.chunk_id for hit in index.search(query, depth, searcher.alive)], dtype=np.int64)


def _together(one: Scored, other: Scored) -> Scored:
    return Scored(
        np.concatenate([one.ids, other.ids]),
        np.concatenate([one.first, other.first]),
        np.concatenate([one.cosines, other.cosines]),
        np.concatenate([one.rows, other.rows]),
        np.concatenate([one.passages, other.passages]),
    )


def _cosines(unit: Floats, vectors: Vectors) -> Floats:
    """Cosines of unit vectors (q, D) with every row, (q, rows)."""
    out = np.empty((len(unit), len(vectors)), dtype=np.float32)
    for first, rows in vectors.blocks():
        lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        out[:, first : first + len(rows)] = unit @ rows.T / np.maximum(lengths, 1e-12)
    return out
