"""The engine whose indexes are collections of a Milvus server, one for each generation, under names never used again.

The vectors stay in the folder's shards as well: what the server finds is scored from them, exactly, and what it cannot
answer is. This file does not know how the server is spoken to.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from index.dense import (
    FLAT_UP_TO,
    DenseFacts,
    Hit,
    IdSet,
    Kind,
    check_queries,
    cosines_many,
    exact_search,
    normalised,
    rescored,
    tuned,
)
from index.engines import Draft, Floats, Ints
from index.layout import LEXICAL
from index.milvus_server import MOST, Server, server_of, whole_spec
from index.milvus_words import WORDS, MilvusWords, count_words, counted, facts_of, section_key
from index.progress import bar
from index.vectors import Vectors, shard_count
from index.vocabulary import Vocabulary
from store.database import Filter
from store.generations import write_atomically
from store.records import LookaheadError

VECTOR = "vector"  # the field
_DONE = "milvus.tmp"  # which shards are on the server
_SENT = 4_000_000  # bytes of a request, more or less
_GRAPH = {"M": 24, "efConstruction": 80}  # as in the embedded index
_BREADTH = 256  # or more: the way to a server and back takes longer than so wide a walk
_WIDER = 4  # times the breadth for a filter, as there
_WIDEST = 32_768
_ALONE_UP_TO = 1_000  # ids of a filter that are compared here, in a millisecond
_NAMED = 1_000  # values of a field that one question names


class Milvus:
    """See `index.engines.Engine`."""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    @classmethod
    def of(cls, spec: str) -> Self:
        return cls(whole_spec(spec))

    @property
    def _server(self) -> Server:
        return server_of(self.spec)

    def index_words(self, draft: Draft) -> dict[str, Any]:
        """Counts only: a chunk's words go to the server with its vector."""
        return count_words(draft)

    def index_vectors(self, draft: Draft) -> DenseFacts:
        """Sends the shards that are not there yet, and sees that all live chunks are."""
        server, name = self._server, draft.name
        live = np.setdiff1d(np.arange(len(draft.vectors)), draft.gone, assume_unique=True)
        done = self._begun(draft)
        kind = Kind.FLAT if len(live) <= FLAT_UP_TO else Kind.HNSW
        facts = DenseFacts(kind, len(live), draft.vectors.dim, 1, 1.0, len(draft.probes))
        with bar("sending chunks", len(live), "chunks", quiet=draft.quiet) as shown:
            for again in (False, True):
                self._send(draft, live, done, shown.update)
                server.flush(name)
                server.index(name, VECTOR, kind.value.upper(), "COSINE", _GRAPH if kind is Kind.HNSW else {})
                server.index(name, WORDS, "SPARSE_INVERTED_INDEX", "IP", {})
                server.load(name)
                held = server.count(name)
                if held == len(live):
                    break
                if again or held > len(live):
                    server.drop(name)
                    raise LookaheadError(
                        f"{self.spec} holds {held} chunks of {len(live)}; type the same command again: all is sent anew"
                    )
                missing = np.setdiff1d(live, server.ids(name, len(draft.vectors)), assume_unique=True)
                for number in np.unique(missing // draft.vectors.shard_rows):
                    _marker(done, int(number)).unlink(missing_ok=True)
        if kind is Kind.FLAT:
            return facts

        def answered(trial: DenseFacts) -> list[list[Hit]]:
            return MilvusVectors(server, name, trial, draft.vectors).search_many(draft.probes, 10)

        return tuned(facts, draft.vectors, draft.probes, answered, among=live, least=_BREADTH)

    def place(self, draft: Draft) -> dict[str, str]:
        return {"spec": self.spec, "collection": draft.name, "alias": _alias(draft.title)}

    def open_vectors(self, folder: Path, facts: Mapping[str, Any], vectors: Vectors) -> MilvusVectors:
        name = facts["index"]["collection"]
        self._server.load(name)
        return MilvusVectors(self._server, name, DenseFacts.from_json(facts["dense"]), vectors)

    def open_words(self, folder: Path, facts: Mapping[str, Any]) -> MilvusWords:
        name = facts["index"]["collection"]
        self._server.load(name)
        return MilvusWords(self._server, name, Vocabulary.open(folder / LEXICAL), facts["lexical"], condition)

    def holds(self, rows: int, live: int) -> int:
        return live

    def publish(self, facts: Mapping[str, Any], owner: str) -> None:
        told = facts.get("index")
        if told is None or _owner(told["collection"]) != owner:  # the original's, whose copy this is
            return
        self._refuse_strangers(told["alias"], owner)
        if self._server.meant_by(told["alias"]) != told["collection"]:
            self._server.point(told["alias"], told["collection"])

    def parts(self, owner: str) -> list[str]:
        return [name for name in self._server.collections() if _owner(name) == owner]

    def sweep(self, owner: str, keep: Collection[str]) -> list[str]:
        going = [name for name in self.parts(owner) if name not in keep]
        for name in going:
            self._server.drop(name)
        return going

    def refuse_strangers(self, title: str, owner: str) -> None:
        self._refuse_strangers(_alias(title), owner)

    def _refuse_strangers(self, alias: str, owner: str) -> None:
        meant = self._server.meant_by(alias)
        if meant is not None and _owner(meant) != owner:
            raise LookaheadError(
                f"{alias} on {self.spec} belongs to another collection folder ({meant}; a copied or restored folder is "
                "another one); use another --collection name or milvus://HOST/DATABASE, or keep the indexes of this "
                "one here: lookahead compact --index faiss"
            )

    def _begun(self, draft: Draft) -> Path:
        """The folder of what is on the server already; an empty one where the collection had to be made (anew)."""
        server, name, folder = self._server, draft.name, draft.folder / _DONE
        note, (_, mark) = folder / "mark", facts_of(draft.folder)
        there = name in server.collections()
        if there and note.exists() and note.read_text() == mark:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        if there:
            server.drop(name)
        told = {"program": "lookahead", "collection": draft.title, "owner": draft.owner, "generation": name}
        server.create(name, json.dumps(told), draft.vectors.dim)
        folder.mkdir()
        write_atomically(note, mark.encode())
        return folder

    def _send(self, draft: Draft, live: Ints, done: Path, progress: Any) -> None:
        rows = draft.store.articles()
        firsts = np.array([row.first_chunk for row in rows], dtype=np.int64)
        words = len(Vocabulary.open(draft.folder / LEXICAL))
        facts, _ = facts_of(draft.folder)
        step = max(1, _SENT // (4 * draft.vectors.dim + 1000))
        size = draft.vectors.shard_rows
        for number in range(shard_count(len(draft.vectors), size)):
            first = number * size
            ids = live[np.searchsorted(live, first) : np.searchsorted(live, first + size)]
            if _marker(done, number).exists():
                progress(len(ids))
                continue
            shard = counted(draft.folder, number)
            sparse = shard.vectors(facts, words)
            owners = np.searchsorted(firsts, ids, side="right") - 1
            for start in range(0, len(ids), step):
                some = ids[start : start + step]
                units = normalised(draft.vectors.gather(some))
                self._server.put(
                    draft.name,
                    [
                        {
                            "chunk_id": one,
                            "page_id": rows[owner].page_id,
                            "split": rows[owner].split.value,
                            "section_key": int(shard.sections[one - first]),
                            VECTOR: unit,
                            WORDS: sparse[one - first],
                        }
                        for one, owner, unit in zip(some.tolist(), owners[start : start + step], units, strict=True)
                    ],
                )
                progress(len(some))
            _marker(done, number).touch()


class MilvusVectors:
    """The vectors of one generation. Threads may search at once."""

    def __init__(self, server: Server, name: str, facts: DenseFacts, vectors: Vectors) -> None:
        self._server = server
        self._name = name
        self._vectors = vectors
        self.facts = facts

    def __len__(self) -> int:
        return self.facts.rows

    def ids(self) -> Ints:
        return self._server.ids(self._name, len(self._vectors))

    def close(self) -> None:
        """The connection is everybody's."""

    def search(self, query: Floats, k: int, within: IdSet | None = None) -> list[Hit]:
        """The `k` chunks nearest to one vector (dim,) by cosine, fewer where fewer exist (or lie in `within`)."""
        return self.search_many(query[None, :], k, within)[0]

    def search_many(self, queries: Floats, k: int, within: IdSet | None = None) -> list[list[Hit]]:
        """`search` for each row of (q, dim)."""
        check_queries(queries, self.facts.dim)
        k = min(k, len(self) if within is None else len(within))
        if k < 1:
            return [[] for _ in queries]
        unit = normalised(queries)
        passing = "" if within is None else condition(within)
        if passing is None or k > MOST or (within is not None and len(within) <= _ALONE_UP_TO):
            return self._exact(unit, k, within)
        share = 1.0 if within is None else len(within) / max(len(self), 1)
        wider = 1.0 if share > 0.9 else _WIDER / share
        breadth = min(_WIDEST, math.ceil(max(self.facts.breadth, k) * wider))
        parameters = {"metric_type": "COSINE", "params": {"ef": max(breadth, k)}}
        found = self._server.search(self._name, VECTOR, unit, k, passing, parameters)
        rows = [rescored(self._vectors, one, row, k) for one, row in zip(unit, found, strict=True)]
        short = [place for place, row in enumerate(rows) if len(row) < k]
        if short:  # the walk met too few that pass
            for place, row in zip(short, self._exact(unit[short], k, within), strict=True):
                rows[place] = row
        return rows

    def cosines(self, query: Floats, ids: Ints) -> Floats:
        """Exact cosines of one vector (dim,) with the chunks of those ids."""
        return self.cosines_many(query[None, :], [ids])[0]

    def cosines_many(self, queries: Floats, ids: Sequence[Ints]) -> list[Floats]:
        """`cosines` of each row of (q, dim) with its own ids."""
        check_queries(queries, self.facts.dim)
        return cosines_many(self._vectors, queries, ids)

    def _exact(self, unit: Floats, k: int, within: IdSet | None) -> list[list[Hit]]:
        ids = within.ids if within is not None else self.ids() if len(self) < len(self._vectors) else None
        return exact_search(self._vectors, unit, k, among=ids)


def condition(within: IdSet) -> str | None:
    """The filter whose chunks these are, as the server is told of it ("": all); None where it must be told the ids."""
    wanted = within.wanted
    if wanted is None or wanted.titles or max(len(wanted.page_ids), len(wanted.sections)) > _NAMED:
        return None
    return " and ".join(_parts(wanted))


def _parts(wanted: Filter) -> list[str]:
    fields = {
        "page_id": list(wanted.page_ids),
        "split": [split.value for split in wanted.splits],
        "section_key": [section_key(name) for name in wanted.sections],
    }
    return [f"{field} in {json.dumps(values)}" for field, values in fields.items() if values]


def _alias(title: str) -> str:
    """A collection's name as Milvus takes it: letters, digits and underscores."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", title)
    return plain if re.match(r"[A-Za-z_]", plain) else f"c{plain}"


def _owner(name: str) -> str | None:
    """Whose generation a collection is, by its name; None where it is none of ours."""
    told = re.fullmatch(r".+_([0-9a-f]{8})_\d{6,}_[0-9a-f]{6}", name)
    return told and told[1]


def _marker(done: Path, number: int) -> Path:
    return done / f"{number:05d}"
