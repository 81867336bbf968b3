"""What would come next: the real chunks nearest to a predicted vector, after a place in an article or after a text.

It does not know how a model was trained, nor how an answer is printed.
"""

from __future__ import annotations

from collections.abc import Collection as Group
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from retrieval.models import Model, find_model
from retrieval.runtime import CompiledPredictor
from retrieval.search import MOST, Parts, Passage, Searcher
from retrieval.sequences import CONTEXT
from store.chunking import ChunkingRules, embedded_text, length_of, pieces_of
from store.database import ArticleRow, text_key
from store.generations import Collection
from store.layouts import plain
from store.records import Article, LookaheadError

LONGEST_TEXT = 1_000_000  # characters; cutting them takes a second, and only the last five chunks are read

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


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
class Truth:
    """The chunk that does come next, and where it came among the `among` live chunks that could have been answers.

    `rank` counts from 1; `copied` is its rank when the last chunk itself is taken for the prediction. Both are exact,
    whatever the dense index finds. `cosine` is the prediction's. `place` is its place in the prediction's passages,
    from 1, or None; equal texts are one passage, so that it may be less than the rank.
    """

    passage: Passage
    cosine: float
    rank: int
    copied: int
    among: int
    place: int | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted vector (D,) of length one, the real chunks nearest to it, best first, and what it was made from.

    A passage's score is its cosine to the vector. `truth` is known inside an article only. `notes` are sentences for
    the reader: what makes this prediction less sure than others.
    """

    vector: Floats
    passages: list[Passage]
    context: Context
    truth: Truth | None
    notes: tuple[str, ...]


class LookAhead:
    """A collection and a predictor for its vectors, opened for "what would come next?"."""

    def __init__(self, searcher: Searcher, model: Model, predictor: CompiledPredictor) -> None:
        self.searcher = searcher
        self.model = model
        self.predictor = predictor
        self.rules = ChunkingRules.from_json(searcher.generation.manifest.facts["chunking"])

    @classmethod
    def open(
        cls, searcher: Searcher, name: str | None = None, *, texts: bool = True, shipped: Path | None = None
    ) -> Self:
        """With the model of that name, or else the best there is (`find_model`, which also explains `shipped`).

        All that is needed is loaded side by side; the encoder is, only where `texts` are to be read.
        """
        collection = Collection(searcher.generation.path.parent)
        model = find_model(collection, searcher.fingerprint, name, shipped)
        with ThreadPoolExecutor(2) as beside:
            encoder = beside.submit(lambda: searcher.encoder) if texts else None
            predictor = beside.submit(CompiledPredictor.open, model.folder)
            _ = searcher.store, searcher.dense
            if encoder is not None:
                encoder.result()
            return cls(searcher, model, predictor.result())

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
        vector = self._foretold(unit)
        if position == article.chunk_count:
            return Prediction(vector, self._nearest(vector, k, masked), context, None, self._notes())
        passages, truth = self._judged(vector, unit[-1], article.first_chunk + position, k, masked)
        return Prediction(vector, passages, context, truth, self._notes())

    def text(self, text: str, k: int = 5, *, include_context: bool = False) -> Prediction:
        """What comes after a text of one or several paragraphs, cut as the collection is.

        Chunks of the collection that stand in the text do not answer unless `include_context`.
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
        vector = self._foretold(unit)
        masked = set() if include_context else {text_key(piece) for piece in pieces}
        whole = "" if include_context else _squeezed(" ".join(section.text for section in article.sections))
        passages = self._nearest(vector, k, masked, whole)
        return Prediction(vector, passages, Context(tuple(last), len(pieces)), None, self._notes(pieces))

    def _foretold(self, unit: Floats) -> Floats:
        """The prediction (D,) from unit vectors (T, D)."""
        vector: Floats = self.predictor.predict(unit[None], np.ones((1, len(unit)), dtype=np.bool_))[0]
        return vector

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

    def _nearest(self, vector: Floats, k: int, masked: Group[str], text: str = "") -> list[Passage]:
        """The `k` chunks nearest to a vector by the dense index, without masked ones and those that stand in `text`."""
        depth = k + 2 * CONTEXT
        while True:
            hits = self.searcher.dense.search(vector, depth, self.searcher.alive)
            ids = np.array([hit.chunk_id for hit in hits], dtype=np.int64)
            scores = np.array([hit.score for hit in hits], dtype=np.float32)
            told = self._told(ids, scores, k, masked, text)
            if len(told) == k or depth >= self.searcher.live:
                return [passage for passage, _ in told]
            depth *= 4

    def _told(self, ids: Ints, scores: Floats, k: int, masked: Group[str], text: str = "") -> list[tuple[Passage, str]]:
        """The first `k` of a ranking that may be told, equal texts once, each with its text key."""
        told: dict[str, Passage] = {}
        step = k + CONTEXT
        for start in range(0, len(ids), step):
            for place, found in enumerate(self.searcher.store.chunks(ids[start : start + step].tolist()), start):
                key = found.text_key
                if key in told or key in masked or (text and _squeezed(found.chunk.text) in text):
                    continue
                score = float(scores[place])
                told[key] = Passage(found.chunk, found.title, score, Parts(dense=score, dense_rank=place + 1))
                if len(told) == k:
                    return [(passage, key) for key, passage in told.items()]
        return [(passage, key) for key, passage in told.items()]

    def _judged(
        self, vector: Floats, last: Floats, true: int, k: int, masked: Group[str]
    ) -> tuple[list[Passage], Truth]:
        """As `_nearest`, but compared with every chunk, so that the list and the ranks of the true one agree."""
        store = self.searcher.store
        found = store.chunks([true])[0]
        cosines = self._all_cosines(np.stack([vector, last]))
        true_cosines = cosines[:, true].copy()
        cosines[:, np.setdiff1d(store.ids_of_texts(masked), true)] = -np.inf
        among = int(np.isfinite(cosines[0]).sum())
        order = np.argsort(-cosines[0], kind="stable")[:among]
        told = self._told(order, cosines[0, order], k, ())
        place = next((place for place, (_, key) in enumerate(told, 1) if key == found.text_key), None)
        cosines[:, store.ids_of_texts([found.text_key])] = -np.inf  # its own text elsewhere does not stand before it
        rank, copied = (1 + (cosines > true_cosines[:, None]).sum(axis=1)).tolist()
        cosine = float(true_cosines[0])
        passage = Passage(found.chunk, found.title, cosine, Parts(dense=cosine, dense_rank=rank))
        return [passage for passage, _ in told], Truth(passage, cosine, rank, copied, among, place)

    def _all_cosines(self, unit: Floats) -> Floats:
        """Cosines of vectors (q, D) with every row, (q, rows); dead rows are at minus infinity."""
        vectors = self.searcher.vectors
        out = np.full((len(unit), len(vectors)), -np.inf, dtype=np.float32)
        for first, rows in vectors.blocks():
            lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
            out[:, first : first + len(rows)] = unit @ rows.T / np.maximum(lengths, 1e-12)
        if self.searcher.alive is not None:
            out[:, self.searcher.store.dead_ids()] = -np.inf
        return out


def _check_k(k: int) -> None:
    if not 1 <= k <= MOST:
        raise LookaheadError(f"-k is between 1 and {MOST}, not {k}")


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
