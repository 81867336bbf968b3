"""A question in, passages out: by meaning (dense), by words (lexical), or both fused (hybrid, the default).

It does not know how an index is built or printed; it reads one published generation and never writes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from index.dense import DenseFacts, DenseIndex, Hit, IdSet
from index.encoder import Encoder, Fingerprint, open_encoder
from index.layout import DATABASE, DENSE, ENCODER, LEXICAL, VECTORS
from index.lexical import LexicalIndex
from index.vectors import Vectors
from retrieval.closeness import closeness
from store.database import Filter, Found, Store
from store.generations import Collection, Generation
from store.records import Chunk, LookaheadError

LONGEST_QUERY = 10_000  # characters; the encoder reads a few hundred words of them
MOST = 10_000  # results of one search
DEPTH = 60  # candidates each list gives to the fusion
DENSE_WEIGHT = 0.7  # these three were measured: README, "Choices that were measured"
CLOSENESS_WEIGHT = 2.0
READ = 20  # of the fused list are read for how close the question's words stand
EVERYTHING = Filter()
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


@dataclass(frozen=True, slots=True)
class Parts:
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


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage whose text need not have been looked up yet."""

    chunk_id: int
    score: float
    parts: Parts
    found: Found | None = None


class Searcher:
    """One generation, opened for questions. What a search does not need is not loaded."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._facts = generation.manifest.facts
        self.live = int(generation.manifest.counts["live"])
        self._warm = False

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
        if "beside" in self.__dict__:
            self.beside.shutdown()
        if "store" in self.__dict__:
            self.store.close()

    @cached_property
    def store(self) -> Store:
        return Store.open(self.generation.path / DATABASE)

    @cached_property
    def vectors(self) -> Vectors:
        facts = self._facts["vectors"]
        rows = self.generation.manifest.counts["chunks"]
        return Vectors(self.generation.path / VECTORS, rows, facts["dim"], facts["shard_rows"])

    @cached_property
    def dense(self) -> DenseIndex:
        return DenseIndex.open(self.generation.path / DENSE, DenseFacts.from_json(self._facts["dense"]), self.vectors)

    @cached_property
    def lexical(self) -> LexicalIndex:
        return LexicalIndex.open(self.generation.path / LEXICAL, self._facts["lexical"]["language"])

    @cached_property
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

    @cached_property
    def beside(self) -> ThreadPoolExecutor:
        """One thread for what can be done beside something else."""
        return ThreadPoolExecutor(1)

    @property
    def fingerprint(self) -> Fingerprint:
        """The space of this collection's vectors."""
        return Fingerprint.from_json(self._facts["encoder"]["fingerprint"])

    @cached_property
    def alive(self) -> IdSet | None:
        """The chunks that may answer; None when all may."""
        rows = self.generation.manifest.counts["chunks"]
        if rows == self.live:
            return None
        return IdSet(np.setdiff1d(np.arange(rows), self.store.dead_ids(), assume_unique=True), rows)

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
        query = tidy_query(query)
        if not 1 <= k <= MOST:
            raise LookaheadError(f"-k is between 1 and {MOST}, not {k}")
        self.warm(mode)
        within = self.within(wanted)
        available = self.live if within is None else len(within)
        depth = max(DEPTH, 2 * k)
        while True:
            ranked = self.rank(query, depth, mode=mode, within=within, fusion=fusion)
            passages = self._passages(ranked, k)
            if len(passages) >= k or depth >= available or len(ranked) < depth:
                return passages
            depth *= 4

    def within(self, wanted: Filter) -> IdSet | None:
        """The chunks that pass a filter; None when all do."""
        if not wanted:
            return self.alive
        return IdSet(self.store.ids_where(wanted), self.generation.manifest.counts["chunks"])

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
        if mode is Mode.LEXICAL:
            return [
                Ranked(hit.chunk_id, hit.score, Parts(lexical=hit.score, lexical_rank=place))
                for place, hit in enumerate(self.lexical.search(query, depth, within), 1)
            ]
        by_words = self.beside.submit(self.lexical.search, query, depth, within) if mode is Mode.HYBRID else None
        vector = self.encoder.encode_queries([query])[0]
        near = self.dense.search(vector, depth, within)
        if by_words is None:
            return [
                Ranked(hit.chunk_id, hit.score, Parts(dense=hit.score, dense_rank=place))
                for place, hit in enumerate(near, 1)
            ]
        worded = by_words.result()
        both = np.unique([hit.chunk_id for hit in near + worded]).astype(np.int64)
        cosines = self.dense.cosines(vector, both)
        bm25 = self._bm25(query, both, worded)
        fused = fuse(both, cosines, bm25, near, worded, fusion)
        return fused if fusion is Fusion.RRF else self._read(query, fused)

    def _read(self, query: str, fused: Sequence[Ranked]) -> list[Ranked]:
        """The top of a list again, by what its texts say: closeness is added to their scores."""
        top, rest = fused[:READ], fused[READ:]
        rarity = self.lexical.rarity(self.lexical.words(query))
        again = []
        for one, found in zip(top, self.store.chunks([one.chunk_id for one in top]), strict=True):
            near = closeness(rarity, self.lexical.stems(found.chunk.text))
            parts = replace(one.parts, closeness=near)
            again.append(Ranked(one.chunk_id, one.score + CLOSENESS_WEIGHT * near, parts, found))
        again.sort(key=lambda one: (-one.score, one.chunk_id))
        return [*again, *rest]

    def _bm25(self, query: str, ids: NDArray[np.int64], worded: Sequence[Hit]) -> NDArray[np.float32]:
        """BM25 of every candidate, those outside the lexical list too."""
        known = {hit.chunk_id: hit.score for hit in worded}
        outside = np.array([chunk_id for chunk_id in ids.tolist() if chunk_id not in known], dtype=np.int64)
        known |= self.lexical.scores(query, outside)
        return np.array([known.get(chunk_id, 0.0) for chunk_id in ids.tolist()], dtype=np.float32)

    def _passages(self, ranked: Sequence[Ranked], k: int) -> list[Passage]:
        """Looks texts up, best first, until there are k different ones."""
        passages: list[Passage] = []
        told: set[str] = set()
        for start in range(0, len(ranked), k + 5):
            some = ranked[start : start + k + 5]
            unread = iter(self.store.chunks([one.chunk_id for one in some if one.found is None]))
            for place in some:
                found = place.found or next(unread)
                if found.text_key not in told and len(passages) < k:
                    told.add(found.text_key)
                    passages.append(_passage(place, found))
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
    return [
        Ranked(
            chunk_id := int(ids[place]),
            float(scores[place]),
            Parts(float(cosines[place]), dense_rank.get(chunk_id), float(bm25[place]), lexical_rank.get(chunk_id)),
        )
        for place in order
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
