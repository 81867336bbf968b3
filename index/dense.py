"""Nearest chunks by cosine: the only file that imports faiss, and the owner of what cosine means here.

It does not know texts, titles or filters; a filter reaches it as a set of ids. The kind of index is chosen by size,
its breadth of search is tuned at build time against exact search, and both are recorded in `DenseFacts`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from index.vectors import Vectors
from store.records import LookaheadError

if TYPE_CHECKING:
    from store.database import Filter

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

FLAT_UP_TO = 10_000  # rows; exact search of that many takes about a millisecond
EXACT_BELOW = 20_000  # a filter that leaves fewer is answered by comparing with each of them
RECALL_GOAL = 0.995  # on the probes; real questions lie farther from the chunks and get a little less
_BREADTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_LINKS = 24
_EFFORT = 80  # efConstruction
_SAMPLED = 100_000  # rows from which the range of each 8-bit code is learnt
_RESCORED = 4  # candidates per hit that a coarse index fetches before exact scores decide
_ALONE_BELOW = 64  # questions at once for which one thread searches: the others would spin for longer than they help
_AT_ONCE = 8192  # vectors gathered for exact cosines
_LEAST = 384  # of a graph: the probes were content with 96 at 100,000 rows and 256 at a million; real questions had .98
_COMPARED = 30  # rows that are compared in the time of one more in the breadth of a filtered walk, at a million rows
_WIDER = 4  # times the breadth for a filter: what passes need not lie near the question, as it does when tuning


class Hit(NamedTuple):
    """A chunk and its score; a higher score is nearer. Lists of hits are sorted and never padded.

    A tuple, for hundreds are made of each question, and a frozen dataclass takes three times as long to make.
    """

    chunk_id: int
    score: float


class Kind(StrEnum):
    """FLAT: exact. HNSW: a graph over float16 copies. HNSW8: one over 8-bit codes, IVF: lists of such; these two are
    rescored from the shards."""

    FLAT = "flat"
    HNSW = "hnsw"
    HNSW8 = "hnsw8"
    IVF = "ivf"

    @property
    def coarse(self) -> bool:
        return self in (Kind.HNSW8, Kind.IVF)


_GRAPHS = (Kind.HNSW, Kind.HNSW8)


@dataclass(frozen=True, slots=True)
class DenseFacts:
    """What the manifest says of a dense index. `breadth` is efSearch or nprobe; `recall` is recall@10 against
    exact search over `probes` queries, measured on this very index with that breadth."""

    kind: Kind
    rows: int
    dim: int
    breadth: int
    recall: float
    probes: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> DenseFacts:
        return cls(**{**raw, "kind": Kind(raw["kind"])})


class IdSet:
    """A set of chunk ids below `size`, in the shape FAISS reads. Where `wanted` is given, they are the live chunks that
    pass that filter, so that a server may be asked by their fields; its titles are page ids by then."""

    def __init__(self, ids: Ints, size: int, wanted: Filter | None = None) -> None:
        self.ids = ids
        self.size = size
        self.wanted = wanted
        mask = np.zeros(size, dtype=bool)
        mask[ids] = True
        self._bits = np.packbits(mask, bitorder="little")

    def __len__(self) -> int:
        return len(self.ids)

    def selector(self) -> Any:
        return faiss.IDSelectorBitmap(self.size, faiss.swig_ptr(self._bits))


class DenseIndex:
    """A FAISS index over the chunks of a generation, with the shards it was built from. Threads may search at once."""

    def __init__(self, index: Any, facts: DenseFacts, vectors: Vectors) -> None:
        self._index = index
        self._vectors = vectors
        self.facts = facts

    @classmethod
    def open(cls, path: Path, facts: DenseFacts, vectors: Vectors) -> DenseIndex:
        """Memory-mapped: costs milliseconds whatever the size."""
        return cls(_read(path, facts, faiss.IO_FLAG_MMAP_IFC), facts, vectors)

    def __len__(self) -> int:
        return self.facts.rows

    def ids(self) -> Ints:
        return np.arange(len(self))

    def close(self) -> None:
        """The files are let go when the last reference is."""

    def search(self, query: Floats, k: int, within: IdSet | None = None) -> list[Hit]:
        """The `k` chunks nearest to one vector (dim,) by cosine, fewer where fewer exist (or lie in `within`)."""
        return self.search_many(query[None, :], k, within)[0]

    def search_many(self, queries: Floats, k: int, within: IdSet | None = None) -> list[list[Hit]]:
        """`search` for each row of (q, dim)."""
        check_queries(queries, self.facts.dim)
        available = len(self) if within is None else len(within)
        k = min(k, available)
        if k < 1:
            return [[] for _ in queries]
        unit = normalised(queries)
        rows = self._search(unit, k, within, everywhere=within is not None and self._compares(within))
        short = [place for place, row in enumerate(rows) if len(row) < k]
        if short:  # the walk or the lists met too few that pass
            for place, row in zip(short, self._search(unit[short], k, within, everywhere=True), strict=True):
                rows[place] = row
        return rows

    def cosines(self, query: Floats, ids: Ints) -> Floats:
        """Exact cosines of one vector (dim,) with the chunks of those ids."""
        return self.cosines_many(query[None, :], [ids])[0]

    def cosines_many(self, queries: Floats, ids: Sequence[Ints]) -> list[Floats]:
        """`cosines` of each row of (q, dim) with its own ids."""
        check_queries(queries, self.facts.dim)
        return cosines_many(self._vectors, queries, ids)

    def _compares(self, within: IdSet) -> bool:
        """Whether comparing with all that pass is quick, or quicker than a walk that meets enough of them."""
        walk = _COMPARED * self.facts.breadth * self._wider(within) if self.facts.kind in _GRAPHS else 0
        return len(within) <= max(EXACT_BELOW, walk)

    def _wider(self, within: IdSet | None) -> float:
        """What passes is sparse, and need not lie near the question: the walk must be wider to meet enough of it."""
        share = 1.0 if within is None else len(within) / len(self)
        return 1.0 if share > 0.9 else _WIDER / share

    def _search(self, unit: Floats, k: int, within: IdSet | None, *, everywhere: bool) -> list[list[Hit]]:
        """Through the graph or the nearest lists, or `everywhere`: every chunk (that passes) is compared."""
        selector = within.selector() if within is not None else None
        wider = self._wider(within)
        available = len(self) if within is None else len(within)
        index, wanted = self._index, min(k * _RESCORED, available) if self.facts.kind.coarse else k
        if self.facts.kind is Kind.FLAT:
            parameters = faiss.SearchParameters(sel=selector)
        elif self.facts.kind in _GRAPHS and everywhere:
            index = faiss.downcast_index(index.storage)
            parameters = faiss.SearchParameters(sel=selector)
        elif self.facts.kind in _GRAPHS:
            parameters = faiss.SearchParametersHNSW(
                efSearch=math.ceil(max(self.facts.breadth, wanted) * wider), sel=selector
            )
        else:
            holding = math.ceil(2 * wanted / len(self) * index.nlist)  # lists of twice the candidates wanted
            lists = math.ceil(max(self.facts.breadth, holding) * wider)
            parameters = faiss.SearchParametersIVF(
                nprobe=index.nlist if everywhere else min(index.nlist, lists), sel=selector
            )
        with _threads(1 if len(unit) < _ALONE_BELOW else None):
            scores, ids = index.search(unit, wanted, params=parameters)
        rows = [_hits(row_ids, row) for row_ids, row in zip(ids, scores, strict=True)]
        if not self.facts.kind.coarse:
            return rows
        return [rescored(self._vectors, query, row, k) for query, row in zip(unit, rows, strict=True)]


def build(
    vectors: Vectors,
    path: Path,
    probes: Floats,
    *,
    memory: int,
    grown_from: tuple[Path, DenseFacts] | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> DenseFacts:
    """Writes an index over all rows to `path` and says what it is.

    `probes` (q, dim) stand for the questions to come and are what its breadth is tuned on; `memory` is the bytes the
    index may take; `grown_from` is an earlier index over the first rows, extended where its kind still fits;
    `progress` hears of the rows added.
    """
    kind = _kind_for(len(vectors), vectors.dim, memory)
    index, start = None, 0
    if grown_from is not None and grown_from[1].kind is kind and kind is not Kind.FLAT:
        before = grown_from[1]
        if before.dim == vectors.dim and len(vectors) // 2 <= before.rows <= len(vectors):
            index, start = _read(grown_from[0], before, 0), before.rows
    if index is None:
        index = _empty(kind, vectors)
    progress(start)
    for first, rows in vectors.blocks():
        fresh = rows[max(0, start - first) :]
        if len(fresh):
            index.add(normalised(fresh))
            progress(len(fresh))
    facts = DenseFacts(kind, len(vectors), vectors.dim, 1, 1.0, len(probes))
    if kind is not Kind.FLAT:
        facts = tuned(
            facts,
            vectors,
            probes,
            lambda trial: DenseIndex(index, trial, vectors).search_many(probes, 10),
            least=1 if kind is Kind.IVF else _LEAST,
        )
    temporary = path.with_suffix(".tmp")
    faiss.write_index(index, str(temporary))
    os.replace(temporary, path)
    return facts


def tuned(
    facts: DenseFacts,
    vectors: Vectors,
    probes: Floats,
    search: Callable[[DenseFacts], list[list[Hit]]],
    among: Ints | None = None,
    least: int = 1,
) -> DenseFacts:
    """The facts with the smallest breadth (of `least` or more) that reaches the goal, and the recall it has. `search`
    answers the probes with 10 hits each, as an index of the facts it is given would, which holds all rows, or those
    `among`."""
    if not len(probes):
        return facts
    truth = exact_search(vectors, probes, 10, among)
    for breadth in (one for one in _BREADTHS if one >= least):
        facts = replace(facts, breadth=breadth, recall=0.0)
        facts = replace(facts, recall=recall(search(facts), truth))
        if facts.recall >= RECALL_GOAL:
            break
    return facts


def cosines_many(vectors: Vectors, queries: Floats, ids: Sequence[Ints]) -> list[Floats]:
    """Exact cosines of each row of (q, dim) with the vectors of its own ids; they are read for several rows at once."""
    found: list[Floats] = []
    for start, stop in _stretches([len(some) for some in ids], _AT_ONCE):
        rows = vectors.gather(np.concatenate(ids[start:stop]))
        lengths = np.maximum(np.sqrt(np.einsum("nd,nd->n", rows, rows)), 1e-12)
        ends = np.cumsum([len(some) for some in ids[start:stop]])
        for unit, last, some in zip(normalised(queries[start:stop]), ends, ids[start:stop], strict=True):
            own = slice(last - len(some), last)
            found.append(rows[own] @ unit / lengths[own])
    return found


def rescored(vectors: Vectors, unit: Floats, hits: list[Hit], k: int) -> list[Hit]:
    """The best `k` of the hits by their exact cosines with one vector (dim,) of length one."""
    ids = np.array([hit.chunk_id for hit in hits], dtype=np.int64)
    return _hits(ids, normalised(vectors.gather(ids)) @ unit)[:k]


def exact_search(vectors: Vectors, queries: Floats, k: int, among: Ints | None = None) -> list[list[Hit]]:
    """The reference every index is measured against: all rows, or those `among`, one shard's worth at a time."""
    unit = normalised(queries)
    best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    who = np.zeros((len(queries), 0), dtype=np.int64)
    for ids, rows in _read_among(vectors, among):
        best = np.concatenate([best, unit @ normalised(rows).T], axis=1)
        who = np.concatenate([who, np.broadcast_to(ids, (len(queries), len(ids)))], axis=1)
        if best.shape[1] > k:
            keep = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best, who = np.take_along_axis(best, keep, axis=1), np.take_along_axis(who, keep, axis=1)
    return [_hits(ids, row) for ids, row in zip(who, best, strict=True)]


def _read_among(vectors: Vectors, among: Ints | None) -> Iterator[tuple[Ints, Floats]]:
    if among is None:
        yield from ((first + np.arange(len(rows)), rows) for first, rows in vectors.blocks())
    else:
        parts = (among[start : start + _AT_ONCE] for start in range(0, len(among), _AT_ONCE))
        yield from ((some, vectors.gather(some)) for some in parts)


def nearest(
    bank: NDArray[np.float16] | Floats, queries: Iterable[Floats], k: int
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """(rows of the bank, cosines) of each block of queries, best first, (q, k); -1 where fewer exist.

    For many queries of one bank (M, D) in memory, all vectors of length one: exact for a small bank, and for a large
    one through lists of half precision copies that are searched in part, always the same part.
    """
    rows, dim = bank.shape
    if rows <= FLAT_UP_TO:
        index = faiss.IndexFlatIP(dim)
    else:
        lists = 2 ** round(math.log2(2 * math.sqrt(rows)))
        index = faiss.index_factory(dim, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.niter, index.cp.min_points_per_centroid = 1, 6, 1
        index.nprobe = _LISTS_LOOKED_INTO
        sample = np.random.default_rng(1).choice(rows, min(rows, 39 * lists), replace=False)
        index.train(bank[np.sort(sample)].astype(np.float32))
    for start in range(0, rows, _ADDED):
        index.add(bank[start : start + _ADDED].astype(np.float32))
    for some in queries:
        scores, found = index.search(np.ascontiguousarray(some, dtype=np.float32), min(k, rows))
        room = ((0, 0), (0, k - found.shape[1]))
        yield np.pad(found, room, constant_values=-1), np.pad(scores, room, constant_values=-np.inf)


_ADDED = 65_536
_LISTS_LOOKED_INTO = 16


def normalised(vectors: Floats) -> Floats:
    """Rows of length one; a zero row stays zero, and so has cosine 0 with everything."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """How many of FAISS's threads this one may use meanwhile; None: as many as otherwise."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _stretches(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of runs whose sizes add up to `most` or less; a larger one stands alone."""
    start = held = 0
    for place, size in enumerate(sizes):
        if place > start and held + size > most:
            yield start, place
            start, held = place, 0
        held += size
    if start < len(sizes):
        yield start, len(sizes)


def _kind_for(rows: int, dim: int, memory: int) -> Kind:
    """The best that fits."""
    if rows <= FLAT_UP_TO:
        return Kind.FLAT
    return next((kind for kind in _GRAPHS if rows * bytes_a_row(kind, dim) <= memory), Kind.IVF)


def bytes_a_row(kind: Kind, dim: int) -> int:
    """What one vector takes in an index of many: its copy or code, and its links or its id."""
    links = 4 * (2 * _LINKS + 2) + 16
    return {Kind.FLAT: 4 * dim, Kind.HNSW: 2 * dim + links, Kind.HNSW8: dim + links, Kind.IVF: dim + 8}[kind]


def _empty(kind: Kind, vectors: Vectors) -> Any:
    if kind is Kind.FLAT:
        return faiss.IndexFlatIP(vectors.dim)
    if kind is not Kind.IVF:
        copy = "SQfp16" if kind is Kind.HNSW else "SQ8"
        index = faiss.index_factory(vectors.dim, f"HNSW{_LINKS}_{copy}", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _EFFORT
        # float16 has nothing to learn, but asks
        index.train(np.zeros((1, vectors.dim), np.float32) if kind is Kind.HNSW else _sample(vectors, _SAMPLED))
        return index
    lists = 2 ** round(math.log2(4 * math.sqrt(len(vectors))))
    index = faiss.index_factory(vectors.dim, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 1
    index.cp.min_points_per_centroid = 1  # below 39 it would print a warning, whatever is meant to be on the screen
    index.train(_sample(vectors, 64 * lists))
    return index


def _sample(vectors: Vectors, most: int) -> Floats:
    drawn = np.random.default_rng(1).choice(len(vectors), min(len(vectors), most), replace=False)
    return normalised(vectors.gather(np.sort(drawn)))


def recall(found: list[list[Hit]], truth: list[list[Hit]]) -> float:
    """Mean share of the exact answer that was found; a hit that ties with the last exact one counts as found."""
    shares = []
    for hits, exact in zip(found, truth, strict=True):
        floor = exact[-1].score - 1e-3  # half precision scores of equal texts differ in the fourth digit
        shares.append(min(1.0, sum(hit.score >= floor for hit in hits) / len(exact)))
    return float(np.mean(shares))


def _hits(ids: NDArray[np.int64], scores: Floats) -> list[Hit]:
    """Sorted by score, ties by id; FAISS's -1 padding and duplicates are gone."""
    pairs = {one: score for one, score in zip(ids.tolist(), scores.tolist(), strict=True) if one >= 0}
    return sorted(map(Hit._make, pairs.items()), key=_best_first)


def _best_first(hit: Hit) -> tuple[float, int]:
    return -hit.score, hit.chunk_id


def check_queries(queries: Floats, dim: int) -> None:
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise LookaheadError(f"the index has {dim} dimensions, the query has {queries.shape[-1]}")
    if not np.isfinite(queries).all():
        raise LookaheadError("the query vector has values that are not numbers")


def _read(path: Path, facts: DenseFacts, flags: int) -> Any:
    try:
        index = faiss.read_index(str(path), flags)
    except (RuntimeError, MemoryError) as error:  # the second where a damaged header asks for petabytes
        raise LookaheadError(f"cannot read {path}; run: lookahead verify") from error
    if (index.ntotal, index.d) != (facts.rows, facts.dim):
        raise LookaheadError(
            f"{path} holds {index.ntotal} vectors of {index.d} dimensions, expected {facts.rows} of {facts.dim}; "
            "run: lookahead verify"
        )
    return index
