"""Where the two indexes of a collection live: files beside its vectors (FAISS and tantivy), or a Milvus server.

Here is what both kinds promise, so that whoever searches need not know which it is. An index is derived: it can be made
again from the chunks and their vectors at any time. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from store.records import LookaheadError

if TYPE_CHECKING:
    from index.dense import DenseFacts, Hit, IdSet
    from index.vectors import Vectors
    from store.database import Store
    from store.generations import Generation

FILES = "faiss"  # the spec of the engine whose indexes are files of the generation
INDEX = "index"  # the manifest's fact of that name; absent where they are

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class VectorIndex(Protocol):
    """The vectors of one generation, opened for any number of threads at once."""

    @property
    def facts(self) -> DenseFacts: ...

    def __len__(self) -> int:
        """How many rows it holds."""
        ...

    def ids(self) -> Ints:
        """Their chunk ids, ascending."""
        ...

    def search(self, query: Floats, k: int, within: IdSet | None = None) -> list[Hit]:
        """The `k` chunks nearest to one vector (dim,) by cosine; fewer only where fewer exist (or lie in `within`)."""
        ...

    def search_many(self, queries: Floats, k: int, within: IdSet | None = None) -> list[list[Hit]]:
        """`search` for each row of (q, dim)."""
        ...

    def cosines(self, query: Floats, ids: Ints) -> Floats:
        """Exact cosines of one vector (dim,) with the chunks of those ids."""
        ...

    def cosines_many(self, queries: Floats, ids: Sequence[Ints]) -> list[Floats]:
        """`cosines` of each row of (q, dim) with its own ids."""
        ...

    def close(self) -> None:
        """For when nobody is searching any more."""
        ...


class WordIndex(Protocol):
    """The words of one generation, opened for any number of threads at once."""

    def __len__(self) -> int: ...

    def stems(self, text: str) -> list[str]:
        """The words of a text, in order, as the index spells them."""
        ...

    def words(self, text: str) -> list[str]:
        """The different words of a text, in the order in which they first come."""
        ...

    def rarity(self, words: Iterable[str]) -> dict[str, float]:
        """BM25's inverse document frequency of each word."""
        ...

    def spans(self, text: str, query: str) -> list[tuple[int, int]]:
        """Where in a text the query's words stand, whatever their ending."""
        ...

    def search(self, query: str, k: int, within: IdSet | None = None) -> list[Hit]:
        """The `k` chunks with the highest BM25, fewer where fewer hold any of the words (and lie in `within`)."""
        ...

    def scores(self, query: str, ids: Ints) -> dict[int, float]:
        """BM25 of those chunks; one that holds none of the words is absent."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """What the indexes of a new generation are made from.

    Files written to `folder` are sealed and published with the rest, but for those whose names end in `.tmp`. `name`
    is for what is made elsewhere and is never used again; `title` is the collection's own, `owner` its mark.
    `probes` (q, dim) stand for the questions to come, `gone` are the dead rows, `memory` the bytes an index may take.
    """

    folder: Path
    name: str
    title: str
    owner: str
    store: Store
    vectors: Vectors
    probes: Floats
    gone: Ints
    language: str
    memory: int
    parent: Generation | None
    quiet: bool


class Engine(Protocol):
    """Makes, opens, publishes and drops the indexes of generations. Making may be killed anywhere and begun again."""

    @property
    def spec(self) -> str:
        """By which `open_engine` gives the same again."""
        ...

    def index_words(self, draft: Draft) -> dict[str, Any]:
        """Seen by nobody yet. What comes back is for the manifest, as "lexical"."""
        ...

    def index_vectors(self, draft: Draft) -> DenseFacts:
        """Seen by nobody yet; comes after the words. What comes back is for the manifest, as "dense"."""
        ...

    def place(self, draft: Draft) -> dict[str, str] | None:
        """For the manifest, as "index"; None where the indexes are files of the generation."""
        ...

    def open_vectors(self, folder: Path, facts: Mapping[str, Any], vectors: Vectors) -> VectorIndex:
        """Of the generation in `folder`, whose manifest has these facts."""
        ...

    def open_words(self, folder: Path, facts: Mapping[str, Any]) -> WordIndex: ...

    def holds(self, rows: int, live: int) -> int:
        """How many rows an index of so many is to hold: dead ones may be kept, and passed over in each search."""
        ...

    def refuse_strangers(self, title: str, owner: str) -> None:
        """Raises where the collection's name there stands for another's; asked before hours are spent."""
        ...

    def publish(self, facts: Mapping[str, Any], owner: str) -> None:
        """Makes this generation the one that other programs see under the collection's name; again is harmless."""
        ...

    def parts(self, owner: str) -> list[str]:
        """Names of all that is there of that owner."""
        ...

    def sweep(self, owner: str, keep: Collection[str]) -> list[str]:
        """Drops all parts of that owner but these; names what went."""
        ...


def open_engine(spec: str) -> Engine:
    """By "faiss", "milvus:FILE.db" or "milvus://HOST:PORT[/DATABASE]"; nothing is connected to yet."""
    if spec == FILES:
        from index.local import Files

        return Files()
    if spec.startswith("milvus:"):
        from index.milvus import Milvus

        return Milvus.of(spec)
    raise LookaheadError(
        f'--index is "faiss", "milvus:FILE.db" (milvus-lite) or "milvus://HOST:19530", not {spec[:80]!r}'
    )


def spec_of(facts: Mapping[str, Any]) -> str:
    """Of the engine that a generation's indexes are in."""
    told = facts.get(INDEX)
    return FILES if told is None else str(told["spec"])


def engine_of(facts: Mapping[str, Any]) -> Engine:
    """Where the indexes of a generation are, by its manifest's facts."""
    return open_engine(spec_of(facts))
