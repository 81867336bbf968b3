"""What would come next: the real chunks nearest to a predicted vector, after a place in an article or after a text.

It does not know how a model was trained, nor how an answer is printed.
"""

from __future__ import annotations

import math
from collections.abc import Collection as Group
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from retrieval.candidates import ASSIST
from retrieval.models import Model, find_model
from retrieval.pipeline import Pipeline
from retrieval.ranking import Asked, Listed, Ranker
from retrieval.rerankers import rerankers_for
from retrieval.search import MOST, Parts, Passage, Searcher
from retrieval.sequences import CONTEXT
from retrieval.space import open_space
from store.chunking import ChunkingRules, embedded_text, length_of, pieces_of
from store.database import ArticleRow, text_key
from store.generations import Collection
from store.layouts import plain
from store.records import Article, LookaheadError

LONGEST_TEXT = 1_000_000  # characters; cutting them takes a second, and only the last five chunks are read

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_NONE: Ints = np.zeros(0, dtype=np.int64)
_EMPTY = Listed(_NONE, np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.float32))


@dataclass(frozen=True, slots=True)
class Context:
    """What a prediction was made from: the texts of the up to five last chunks, in order, and how many there were.

    After a place in an article `article` is its row and `position` the place; for a text both are None.
    """

    texts: tuple[str, ...]
    chunks: int
    article: ArticleRow | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """How an answer was found. `tower`: chunks were compared as the model's P tower has them. `candidates`: how many of
    the best by a first score made a list, 0 where that score alone decided; `reranked`: whether a reranker ordered the
    list; `assist` and `variety` as in `Choice`."""

    model: str
    tower: bool
    reranked: bool
    candidates: int
    assist: int
    variety: float | None


@dataclass(frozen=True, slots=True)
class Truth:
    """The chunk that does come next, and where it came among the `among` live chunks that could have been answers.

    `rank` counts from 1; `copied` is its rank when the last chunk itself is taken for the prediction, in the encoder's
    own space. Both are exact, whatever the dense index finds: a list of candidates is chosen by scores of every chunk,
    and what is not in the list comes behind it. `cosine` is the prediction's. `place` is its place in the prediction's
    passages, from 1, or None; equal texts are one passage, so that it may be less than the rank.
    """

    passage: Passage
    cosine: float
    rank: int
    copied: int
    among: int
    place: int | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted vector (D,) of length one, the real chunks that answer to it, best first, and what it was made from.

    A passage's score is its cosine to the vector, or where a list was reranked its share of the list: all of it makes
    1, and what is behind the list has 0. Its parts tell the cosine and the rank by the first score as those of `dense`.
    `truth` is known inside an article only. `notes` are sentences for the reader: what makes this prediction less sure
    than others.
    """

    vector: Floats
    passages: list[Passage]
    context: Context
    truth: Truth | None
    notes: tuple[str, ...]
    way: Way


@dataclass(frozen=True, slots=True)
class _Order:
    """Chunks as they answer, with what is told of each; `ranks` by the first score count from 1, and are 0 of a chunk
    that only its article brought in."""

    ids: Ints
    scores: Floats
    cosines: Floats
    ranks: Ints


class LookAhead:
    """A collection and a model for its vectors, opened for "what would come next?"."""

    def __init__(self, searcher: Searcher, model: Model, ranker: Ranker) -> None:
        self.searcher = searcher
        self.model = model
        self.ranker = ranker
        self.rules = ChunkingRules.from_json(searcher.generation.manifest.facts["chunking"])

    @classmethod
    def open(
        cls,
        searcher: Searcher,
        name: str | None = None,
        *,
        texts: bool = True,
        shipped: Path | None = None,
        rerank: bool | None = None,
        assist: int = 0,
        variety: float | None = None,
        quiet: bool = True,
    ) -> Self:
        """With the model of that name, or else the best there is (`find_model`, which also explains `shipped`).

        All that is needed is loaded side by side; the encoder is, only where `texts` are to be read. The space of a
        model with a P tower is made first where there is none for this generation (`open_space`, which tells so unless
        `quiet`). `rerank` as in `Pipeline.open`, `assist` and `variety` as in `Choice`.
        """
        _check_choice(assist, variety)
        collection = Collection(searcher.generation.path.parent)
        model = find_model(collection, searcher.fingerprint, name, shipped)
        with ThreadPoolExecutor(2) as beside:
            encoder = beside.submit(lambda: searcher.encoder) if texts else None
            opening = beside.submit(Pipeline.open, model, rerankers_for(collection, shipped), rerank=rerank)
            _ = searcher.store, searcher.dense
            pipeline = opening.result()
            space = None
            if pipeline.tower is not None:
                space = open_space(searcher, model, pipeline.tower, quiet=quiet)
            if encoder is not None:
                encoder.result()
        pipeline = pipeline.choosing(replace(pipeline.choice, assist=assist, variety=variety))
        return cls(searcher, model, Ranker(searcher, pipeline, space))

    @property
    def way(self) -> Way:
        pipeline, choice = self.ranker.pipeline, self.ranker.pipeline.choice
        candidates = choice.depth if self.ranker.reach else 0
        reranked = pipeline.reranker is not None
        return Way(self.model.name, self.ranker.space is not None, reranked, candidates, choice.assist, choice.variety)

    def after(self, article: ArticleRow, position: int, k: int = 5, *, include_context: bool = False) -> Prediction:
        """What comes at `position` of an article, foretold from the up to five chunks before it.

        Positions count from 0; an article's own count is the place after its end, where nothing is true. The context
        does not answer unless `include_context`, nor does another chunk of the same text.
        """
        _check_k(k)
        _check_position(article, position)
        first = max(0, position - CONTEXT)
        ids = article.first_chunk + np.arange(first, position)
        unit = normalised(self.searcher.vectors.gather(ids))
        found = self.searcher.store.chunks(ids.tolist())
        context = Context(tuple(one.chunk.text for one in found), position, article, position)
        masked = set() if include_context else {one.text_key for one in found}
        asked = self.ranker.asked(unit)
        own = np.arange(article.first_chunk, article.first_chunk + article.chunk_count)
        if position == article.chunk_count:
            passages, truth = self._nearest(asked, k, masked, own), None
        else:
            passages, truth = self._judged(asked, unit[-1], article.first_chunk + position, k, masked, own)
        return Prediction(asked.prediction[0], passages, context, truth, self._notes(), self.way)

    def text(self, text: str, k: int = 5, *, include_context: bool = False) -> Prediction:
        """What comes after a text of one or several paragraphs, cut as the collection is.

        Chunks of the collection that stand in the text do not answer unless `include_context`. No article is at hand,
        so that `assist` finds nothing.
        """
        _check_k(k)
        if len(text) > LONGEST_TEXT:
            raise LookaheadError(
                f"the text has {len(text):,} characters, at most {LONGEST_TEXT:,} are read; shorten it"
            )
        article = Article(0, "", plain(text))
        pieces = [piece.text for piece in pieces_of(article, self.rules)]
        if not pieces:
            raise LookaheadError('the text is empty; type for example: lookahead predict-next --text "Bees dance."')
        last = pieces[-CONTEXT:]
        encoder = self.searcher.encoder
        unit = normalised(encoder.encode([embedded_text("", "", piece, self.rules.prefix) for piece in last]))
        asked = self.ranker.asked(unit)
        masked = set() if include_context else {text_key(piece) for piece in pieces}
        whole = "" if include_context else _squeezed(" ".join(section.text for section in article.sections))
        passages = self._nearest(asked, k, masked, text=whole)
        context = Context(tuple(last), len(pieces))
        return Prediction(asked.prediction[0], passages, context, None, self._notes(pieces), self.way)

    def _notes(self, pieces: Sequence[str] = ()) -> tuple[str, ...]:
        notes = []
        trained = self.model.config.chunking
        other = [
            f"{name} {trained.get(name, 'not told')} (here {value})"
            for name, value in self.rules.as_json().items()
            if trained.get(name) != value
        ]
        if other:
            notes.append(f"model {self.model.name} was trained on chunks cut by other rules: {', '.join(other)}")
        if len(pieces) == 1 and 2 * length_of(pieces[0]) < self.rules.words:
            notes.append(
                f"the text has {length_of(pieces[0])} words, less than half a chunk ({self.rules.words}); "
                "the model was trained on whole ones"
            )
        return tuple(notes)

    def _nearest(self, asked: Asked, k: int, masked: Group[str], own: Ints = _NONE, text: str = "") -> list[Passage]:
        """The `k` best as far as the indexes find them, without masked ones and those that stand in `text`; `own` are
        the chunks of the article at hand."""
        banned = self.searcher.store.ids_of_texts(masked)
        own = np.setdiff1d(own, banned)
        wanted = max(k, self.ranker.reach)
        depth = wanted + 2 * CONTEXT
        while True:
            ids = np.setdiff1d(self.ranker.near(asked, depth), banned)
            pool = self.ranker.scored(asked, self._outside(ids, text))
            listed = self.ranker.listed(asked, pool, own) if self.ranker.reach else _EMPTY
            order = self._ordered(listed, pool.ids, pool.cosines)
            told = self._told(order, k)
            if (len(told) == k and len(pool) >= wanted) or depth >= self.searcher.live:
                return [passage for passage, _ in told]
            depth *= 4

    def _outside(self, ids: Ints, text: str) -> Ints:
        """Those of the chunks that do not stand in a text."""
        if not text:
            return ids
        found = self.searcher.store.chunks(ids.tolist())
        return ids[np.array([_squeezed(one.chunk.text) not in text for one in found], dtype=np.bool_)]

    def _ordered(self, listed: Listed, ids: Ints, cosines: Floats) -> _Order:
        """A list, and behind it the others of `ids`, which are all by their first score, best first."""
        behind = ~np.isin(ids, listed.ids)
        shown = np.zeros(len(ids), np.float32) if self.ranker.pipeline.reranker is not None else cosines
        ranks = np.zeros(len(listed.ids), dtype=np.int64)
        if len(ranks):
            _, mine, theirs = np.intersect1d(listed.ids, ids, assume_unique=True, return_indices=True)
            ranks[mine] = 1 + theirs
        return _Order(
            np.concatenate([listed.ids, ids[behind]]),
            np.concatenate([listed.scores, shown[behind]]),
            np.concatenate([listed.cosines, cosines[behind]]),
            np.concatenate([ranks, 1 + np.flatnonzero(behind)]),
        )

    def _told(self, order: _Order, k: int) -> list[tuple[Passage, str]]:
        """The first `k` of an order, equal texts once, each with its text key."""
        told: dict[str, Passage] = {}
        step = k + CONTEXT
        for start in range(0, len(order.ids), step):
            some = order.ids[start : start + step].tolist()
            for place, found in enumerate(self.searcher.store.chunks(some), start):
                if found.text_key in told:
                    continue
                parts = Parts(dense=float(order.cosines[place]), dense_rank=int(order.ranks[place]) or None)
                told[found.text_key] = Passage(found.chunk, found.title, float(order.scores[place]), parts)
                if len(told) == k:
                    return [(passage, key) for key, passage in told.items()]
        return [(passage, key) for key, passage in told.items()]

    def _judged(
        self, asked: Asked, last: Floats, true: int, k: int, masked: Group[str], own: Ints
    ) -> tuple[list[Passage], Truth]:
        """As `_nearest`, but every chunk is compared, so that the list and the ranks of the true one agree."""
        store, ranker = self.searcher.store, self.ranker
        found = store.chunks([true])[0]
        first, cosines, copies = ranker.everywhere(asked, [last])
        copied = copies[0]
        banned = np.setdiff1d(store.ids_of_texts(masked), true)
        first[banned] = copied[banned] = -np.inf
        among = int(np.isfinite(first).sum())
        best = np.argsort(-first, kind="stable")[:among]
        listed = _EMPTY
        if ranker.reach:
            listed = ranker.listed(asked, ranker.scored(asked, best[: ranker.reach]), np.setdiff1d(own, banned))
        order = self._ordered(listed, best, cosines[best])
        told = self._told(order, k)
        place = next((place for place, (_, key) in enumerate(told, 1) if key == found.text_key), None)
        others = np.ones(len(first), dtype=np.bool_)
        others[store.ids_of_texts([found.text_key])] = False  # its own text elsewhere does not stand before it
        before = listed.ids.tolist()
        if true in before:
            rank = 1 + int(others[before[: before.index(true)]].sum())
        else:
            behind = others.copy()
            behind[before] = False
            rank = 1 + int(others[before].sum()) + int((behind & (first > first[true])).sum())
        copied_rank = 1 + int((others & (copied > copied[true])).sum())
        cosine = float(cosines[true])
        there = int(np.flatnonzero(order.ids == true)[0])
        parts = Parts(dense=cosine, dense_rank=int(order.ranks[there]))
        passage = Passage(found.chunk, found.title, float(order.scores[there]), parts)
        return [passage for passage, _ in told], Truth(passage, cosine, rank, copied_rank, among, place)


def _check_k(k: int) -> None:
    if not 1 <= k <= MOST:
        raise LookaheadError(f"-k is between 1 and {MOST}, not {k}")


def _check_choice(assist: int, variety: float | None) -> None:
    if not 0 <= assist <= ASSIST:
        raise LookaheadError(f"--assist is between 0 and {ASSIST}, not {assist}")
    if variety is not None and not (math.isfinite(variety) and 0 <= variety <= 1):
        raise LookaheadError(f"--variety is between 0 (nothing but variety) and 1 (none), not {variety:g}")


def _check_position(article: ArticleRow, position: int) -> None:
    count = article.chunk_count
    places = f"positions are 1 to {count}, and {count} is the place after its end"
    if position == 0:
        raise LookaheadError(
            f'position 0 is the first chunk of "{article.title}": it has a context of zero chunks; {places}'
        )
    if not 0 < position <= count:
        raise LookaheadError(f'"{article.title}" has {count} chunks, there is no position {position}; {places}')


def _squeezed(text: str) -> str:
    """In lower case, with single spaces."""
    return " ".join(text.lower().split())
