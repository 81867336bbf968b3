"""A question in, passages out: by meaning (dense), by words (lexical), or both fused (hybrid, the default).

It does not know how an index is built or printed; it reads one published generation and never writes.
"""

from __future__ import annotations

import sys
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from index.dense import Hit, IdSet
from index.encoder import Encoder, Fingerprint, open_encoder
from index.engines import VectorIndex, WordIndex, engine_of
from index.layout import ENCODER, VECTORS
from index.vectors import Vectors
from retrieval.closeness import closeness
from store.database import Filter, Found, Store
from store.generations import Collection, Generation
from store.kept import Kept
from store.records import Chunk, LookaheadError

LONGEST_QUERY = 10_000  # characters; the encoder reads a few hundred words of them
MOST = 10_000  # results of one search
DEPTH = 60  # candidates each list gives to the fusion
DENSE_WEIGHT = 0.7  # these three were measured: README, "Choices that were measured"
CLOSENESS_WEIGHT = 2.0
READ = 20  # of the fused list are read for how close the question's words stand
EVERYTHING = Filter()
_MORE = 5  # texts looked up beyond k, for equal ones among them
_STEMS_KEPT = 16_384  # chunks whose stems are kept at hand: about 1 KB each
_RRF = 60  # Cormack, Clarke and Büttcher, 2009


class Mode(StrEnum):
    """Which lists answer; hybrid fuses both and then reads its best candidates."""

    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


class Fusion(StrEnum):
    """How two lists become one: a weighted sum of standardised scores and closeness, or reciprocal ranks alone."""

    ZSUM = "zsum"
    RRF = "rrf"


class Parts(NamedTuple):
    """Where a score comes from: cosine and BM25, with the rank in each list (from 1) or None outside its top, and the
    closeness of the question's words (None where it was not read)."""

    dense: float | None = None
    dense_rank: int | None = None
    lexical: float | None = None
    lexical_rank: int | None = None
    closeness: float | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk as an answer. Scores of one search may be compared with each other, not with another's."""

    chunk: Chunk
    title: str
    score: float
    parts: Parts


class Ranked(NamedTuple):
    """A passage whose text was not looked up yet. A tuple, as `Hit` is."""

    chunk_id: int
    score: float
    parts: Parts


@dataclass(frozen=True, slots=True)
class Question:
    """One of the searches that are made together: what `Searcher.search` is given."""

    query: str
    k: int = 5
    mode: Mode = Mode.HYBRID
    wanted: Filter = EVERYTHING
    fusion: Fusion = Fusion.ZSUM


@dataclass(slots=True)
class _Asked:
    """A question as it is worked on: each list gives its top `depth`, which grows where too few answers came of it."""

    query: str
    depth: int
    mode: Mode
    within: IdSet | None
    fusion: Fusion
    vector: NDArray[np.float32] | None = None  # once it is encoded; never in lexical mode
    near: list[Hit] = field(default_factory=list)
    worded: list[Hit] = field(default_factory=list)
    ranked: list[Ranked] = field(default_factory=list)  # of the two lists or the one


T = TypeVar("T")


class _once(cached_property[T]):
    """A property that is made when it is first asked for, by one thread while the others that ask wait."""

    @overload
    def __get__(self, searcher: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, searcher: object, owner: type | None = None) -> T: ...
    def __get__(self, searcher: object | None, owner: type | None = None) -> Self | T:
        if searcher is None:
            return self
        assert isinstance(searcher, Searcher)
        assert self.attrname is not None
        there = searcher.__dict__
        with searcher.making.setdefault(self.attrname, threading.Lock()):
            if self.attrname not in there:
                there[self.attrname] = self.func(searcher)
            made: T = there[self.attrname]
            return made


class Searcher:
    """One generation, opened for questions from any number of threads. What a search does not need is not loaded."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.live = int(generation.manifest.counts["live"])
        self.making: dict[str, threading.Lock] = {}  # one for each part that is made once
        self._facts = generation.manifest.facts
        self._warm = False
        self._stems: Kept[int, tuple[str, ...]] = Kept(_STEMS_KEPT)

    @classmethod
    def open(cls, collection: Collection) -> Self:
        return cls(collection.current())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """For when nobody is searching any more."""
        if "beside" in self.__dict__:
            self.beside.shutdown()
        for part in ("dense", "lexical", "store"):
            if part in self.__dict__:
                getattr(self, part).close()

    @_once
    def store(self) -> Store:
        return Store.at(self.generation)

    @_once
    def vectors(self) -> Vectors:
        facts = self._facts["vectors"]
        rows = self.generation.manifest.counts["chunks"]
        return Vectors(self.generation.path / VECTORS, rows, facts["dim"], facts["shard_rows"])

    @_once
    def dense(self) -> VectorIndex:
        return engine_of(self._facts).open_vectors(self.generation.path, self._facts, self.vectors)

    @_once
    def lexical(self) -> WordIndex:
        return engine_of(self._facts).open_words(self.generation.path, self._facts)

    @_once
    def encoder(self) -> Encoder:
        return open_encoder(self.generation.path / ENCODER)

    def warm(self, mode: Mode = Mode.HYBRID) -> None:
        """Opens all that a search in this mode needs, the encoder beside the rest: half the wait of a first search.

        From then on the searcher goes on answering when its generation's files lose their names.
        """
        if mode is Mode.LEXICAL:
            _ = self.store, self.lexical
        elif not self._warm:
            loading = self.beside.submit(lambda: self.encoder)
            _ = self.store, self.lexical, self.dense
            self.vectors.hold()
            loading.result()
            self._warm = True

    @_once
    def beside(self) -> ThreadPoolExecutor:
        """One thread for what can be done beside something else."""
        return ThreadPoolExecutor(1)

    @property
    def fingerprint(self) -> Fingerprint:
        """The space of this collection's vectors."""
        return Fingerprint.from_json(self._facts["encoder"]["fingerprint"])

    @_once
    def alive(self) -> IdSet | None:
        """The chunks that may answer; None when all may."""
        rows = self.generation.manifest.counts["chunks"]
        if rows == self.live:
            return None
        return IdSet(np.setdiff1d(np.arange(rows), self.store.dead_ids(), assume_unique=True), rows, EVERYTHING)

    def search(
        self,
        query: str,
        k: int = 5,
        *,
        mode: Mode = Mode.HYBRID,
        wanted: Filter = EVERYTHING,
        fusion: Fusion = Fusion.ZSUM,
    ) -> list[Passage]:
        """The `k` best passages that pass the filter, best first, equal texts once; fewer only where fewer exist
        (in lexical mode: where fewer hold any of the words)."""
        (answer,) = self.search_many([Question(query, k, mode, wanted, fusion)])
        if isinstance(answer, LookaheadError):
            raise answer
        return answer

    def search_many(self, questions: Sequence[Question]) -> list[list[Passage] | LookaheadError]:
        """`search` for each, with what they have in common done at once: together they cost half as much or less.

        A question that cannot be answered has its error in the place of its passages, and does not disturb the others.
        """
        answers: list[list[Passage] | LookaheadError] = [[] for _ in questions]
        waiting: dict[int, _Asked] = {}
        passing: dict[Filter, IdSet | None] = {}
        for place, question in enumerate(questions):
            try:
                waiting[place] = self._asked(question, passing)
            except LookaheadError as error:
                answers[place] = error
        while waiting:
            short: dict[int, _Asked] = {}
            found = self._rank(list(waiting.values()), [questions[place].k + _MORE for place in waiting])
            for place, asked in waiting.items():
                k = questions[place].k
                answers[place] = passages = self._passages(asked.ranked, k, found)
                available = self.live if asked.within is None else len(asked.within)
                if len(passages) < k and asked.depth < available and len(asked.ranked) >= asked.depth:
                    asked.depth *= 4
                    short[place] = asked
            waiting = short
        return answers

    def _asked(self, question: Question, passing: dict[Filter, IdSet | None]) -> _Asked:
        """`passing` has what `within` says of the filters that were met before."""
        query = tidy_query(question.query)
        if not 1 <= question.k <= MOST:
            raise LookaheadError(f"-k is between 1 and {MOST}, not {question.k}")
        self.warm(question.mode)
        if question.wanted not in passing:
            passing[question.wanted] = self.within(question.wanted)
        depth = max(DEPTH, 2 * question.k)
        return _Asked(query, depth, question.mode, passing[question.wanted], question.fusion)

    def within(self, wanted: Filter) -> IdSet | None:
        """The chunks that pass a filter; None when all do."""
        if not wanted:
            return self.alive
        rows, told = self.generation.manifest.counts["chunks"], None if wanted.titles else wanted
        return IdSet(self.store.ids_where(wanted), rows, told)  # a title is one run of ids

    def rank(
        self,
        query: str,
        depth: int = DEPTH,
        *,
        mode: Mode = Mode.HYBRID,
        within: IdSet | None = None,
        fusion: Fusion = Fusion.ZSUM,
    ) -> list[Ranked]:
        """Chunk ids with scores, best first; each list gives its top `depth`."""
        asked = _Asked(query, depth, mode, within, fusion)
        self._rank([asked], [0])
        return asked.ranked

    def _rank(self, asked: Sequence[_Asked], enough: Sequence[int]) -> dict[int, Found]:
        """Gives each its list. Says which texts were looked up: the first `enough` of each list, and those read."""
        worded = [one for one in asked if one.mode is not Mode.DENSE]
        meant = [one for one in asked if one.mode is not Mode.LEXICAL]
        if worded and meant:
            beside = self.beside.submit(self._find_words, worded)
            self._find_near(meant)
            beside.result()
        elif meant:
            self._find_near(meant)
        else:
            self._find_words(worded)
        self._fuse([one for one in asked if one.mode is Mode.HYBRID])
        tops = [max(count, READ) if _is_read(one) else count for one, count in zip(asked, enough, strict=True)]
        ids = [place.chunk_id for one, top in zip(asked, tops, strict=True) for place in one.ranked[:top]]
        found = {one.chunk.chunk_id: one for one in self.store.chunks(list(dict.fromkeys(ids)))}
        for one in asked:
            if _is_read(one):
                one.ranked = self._read(one.query, one.ranked, found)
        return found

    def _find_words(self, asked: Sequence[_Asked]) -> None:
        for one in asked:
            one.worded = self.lexical.search(one.query, one.depth, one.within)
            if one.mode is Mode.LEXICAL:
                one.ranked = [
                    Ranked(hit.chunk_id, hit.score, Parts(lexical=hit.score, lexical_rank=place))
                    for place, hit in enumerate(one.worded, 1)
                ]

    def _find_near(self, asked: Sequence[_Asked]) -> None:
        """Encodes all at once, and looks for those together that ask alike."""
        fresh = [one for one in asked if one.vector is None]
        if fresh:
            for one, vector in zip(fresh, self.encoder.encode_queries([one.query for one in fresh]), strict=True):
                one.vector = vector
        alike: dict[tuple[int, int], list[_Asked]] = {}
        for one in asked:
            alike.setdefault((one.depth, id(one.within)), []).append(one)
        for (depth, _), some in alike.items():
            for one, hits in zip(some, self.dense.search_many(_vectors(some), depth, some[0].within), strict=True):
                one.near = hits
                if one.mode is Mode.DENSE:
                    one.ranked = [
                        Ranked(hit.chunk_id, hit.score, Parts(dense=hit.score, dense_rank=place))
                        for place, hit in enumerate(hits, 1)
                    ]

    def _fuse(self, asked: Sequence[_Asked]) -> None:
        if not asked:
            return
        ids = [_ids_of(one.near + one.worded) for one in asked]
        for one, both, cosines in zip(asked, ids, self.dense.cosines_many(_vectors(asked), ids), strict=True):
            bm25 = self._bm25(one.query, both, one.worded)
            one.ranked = fuse(both, cosines, bm25, one.near, one.worded, one.fusion)

    def _read(self, query: str, fused: Sequence[Ranked], found: Mapping[int, Found]) -> list[Ranked]:
        """The top of a list again, by what its texts say: closeness is added to their scores."""
        top, rest = fused[:READ], fused[READ:]
        rarity = self.lexical.rarity(self.lexical.words(query))
        stems = self._stems.of(
            [one.chunk_id for one in top],
            lambda unread: {one: self._interned(found[one].chunk.text) for one in unread},
        )
        again = []
        for one in top:
            near, parts = closeness(rarity, stems[one.chunk_id]), one.parts
            parts = Parts(parts.dense, parts.dense_rank, parts.lexical, parts.lexical_rank, near)
            again.append(Ranked(one.chunk_id, one.score + CLOSENESS_WEIGHT * near, parts))
        again.sort(key=lambda one: (-one.score, one.chunk_id))
        return [*again, *rest]

    def _interned(self, text: str) -> tuple[str, ...]:
        """The stems of a text; a word that many hold is kept once."""
        return tuple(map(sys.intern, self.lexical.stems(text)))

    def _bm25(self, query: str, ids: NDArray[np.int64], worded: Sequence[Hit]) -> NDArray[np.float32]:
        """BM25 of every candidate, those outside the lexical list too."""
        known = {hit.chunk_id: hit.score for hit in worded}
        outside = np.array([chunk_id for chunk_id in ids.tolist() if chunk_id not in known], dtype=np.int64)
        known |= self.lexical.scores(query, outside)
        return np.array([known.get(chunk_id, 0.0) for chunk_id in ids.tolist()], dtype=np.float32)

    def _passages(self, ranked: Sequence[Ranked], k: int, found: dict[int, Found]) -> list[Passage]:
        """The best k of different texts. What is not among those found is looked up, and then is."""
        passages: list[Passage] = []
        told: set[str] = set()
        for start in range(0, len(ranked), k + _MORE):
            some = ranked[start : start + k + _MORE]
            unread = [one.chunk_id for one in some if one.chunk_id not in found]
            if unread:
                found.update({one.chunk.chunk_id: one for one in self.store.chunks(unread)})
            for place in some:
                text = found[place.chunk_id]
                if text.text_key not in told and len(passages) < k:
                    told.add(text.text_key)
                    passages.append(_passage(place, text))
            if len(passages) == k:
                break
        return passages


def fuse(
    ids: NDArray[np.int64],
    cosines: NDArray[np.float32],
    bm25: NDArray[np.float32],
    near: Sequence[Hit],
    worded: Sequence[Hit],
    fusion: Fusion,
    dense_weight: float = DENSE_WEIGHT,
) -> list[Ranked]:
    """One list of two. `cosines` and `bm25` belong to `ids`; ranks are those in `near` and `worded`."""
    dense_rank = {hit.chunk_id: place for place, hit in enumerate(near, 1)}
    lexical_rank = {hit.chunk_id: place for place, hit in enumerate(worded, 1)}
    if fusion is Fusion.ZSUM:
        scores = dense_weight * _standardised(cosines) + (1 - dense_weight) * _standardised(bm25)
    else:
        scores = np.array(
            [_reciprocal(dense_rank.get(one)) + _reciprocal(lexical_rank.get(one)) for one in ids.tolist()]
        )
    order = np.lexsort((ids, -scores))
    rows = zip(*(column[order].tolist() for column in (ids, scores, cosines, bm25)), strict=True)
    return [
        Ranked(one, score, Parts(cosine, dense_rank.get(one), words, lexical_rank.get(one)))
        for one, score, cosine, words in rows
    ]


def tidy_query(query: str) -> str:
    """One line without control characters; an empty or endless one is refused."""
    if len(query) > LONGEST_QUERY:
        raise LookaheadError(f"the query has {len(query):,} characters, at most {LONGEST_QUERY:,} are read; shorten it")
    tidy = " ".join("".join(_readable(query)).split())
    if not tidy:
        raise LookaheadError('the query is empty; type for example: lookahead search "how do bridges carry load"')
    return tidy


def _readable(text: str) -> Iterable[str]:
    for letter in unicodedata.normalize("NFC", text):
        yield " " if unicodedata.category(letter) in ("Cc", "Cs") else letter


def _standardised(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    if not len(scores):
        return np.zeros(0)
    spread = scores.std()
    return np.asarray((scores - scores.mean()) / (spread if spread > 0 else 1.0), dtype=np.float64)


def _reciprocal(rank: int | None) -> float:
    return 0.0 if rank is None else 1.0 / (_RRF + rank)


def _is_read(asked: _Asked) -> bool:
    return asked.mode is Mode.HYBRID and asked.fusion is Fusion.ZSUM


def _ids_of(hits: Sequence[Hit]) -> NDArray[np.int64]:
    """Ascending, each once."""
    return np.array(sorted({hit.chunk_id for hit in hits}), dtype=np.int64)


def _vectors(asked: Sequence[_Asked]) -> NDArray[np.float32]:
    return np.stack([one.vector for one in asked if one.vector is not None])


def _passage(place: Ranked, found: Found) -> Passage:
    return Passage(found.chunk, found.title, place.score, place.parts)


def collection_at(home: Path, name: str) -> Collection:
    """A collection by its name; a name is letters, digits, dot, dash and underscore, never a path."""
    if (
        not 1 <= len(name.encode("utf-8", "replace")) <= 100
        or name.startswith(".")
        or not all(letter.isalnum() or letter in "._-" for letter in name)
    ):
        raise LookaheadError(f"{name[:60]!r} is not a name for a collection; use letters, digits, dash and underscore")
    return Collection(home / "collections" / name)
