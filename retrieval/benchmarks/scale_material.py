"""Pages and vectors for collections of any size: a real collection's, and beyond its end real ones with noise.

It does not know what is measured with them. A chunk is a section of its own, so that the product cuts the pages into
exactly these chunks again; one too short or too long for that is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from index.vectors import SHARD_ROWS, Vectors, shard_name, write_shard
from retrieval.search import Searcher
from store.chunking import ChunkingRules, Prefix, embedded_text
from store.records import LookaheadError

Floats = NDArray[np.float32]

NOISE = 0.6  # length of what is added to a vector of length one
_READ_AT_ONCE = 8192
_LONG = 20  # characters of a word; see store.chunking.length_of


@dataclass(frozen=True, slots=True)
class Material:
    """`pages` has a file of JSON lines for each size; the first `real` chunks are as they were, `left_out` are gone."""

    pages: dict[int, Path]
    real: int
    left_out: int


@dataclass(frozen=True, slots=True)
class _Page:
    """`rows` are those of the collection that its chunks come from."""

    page_id: int
    title: str
    sections: list[tuple[str, str]]
    rows: list[int]

    def first(self, most: int) -> _Page:
        return _Page(self.page_id, self.title, self.sections[:most], self.rows[:most])

    def line(self) -> str:
        told = [{"heading": heading, "text": text} for heading, text in self.sections]
        return json.dumps({"page_id": self.page_id, "title": self.title, "sections": told}, ensure_ascii=False) + "\n"


def write_material(searcher: Searcher, sizes: Sequence[int], folder: Path) -> Material:
    """Fills `folder`: a file of pages for each size, and what `Known` reads: each chunk's vector by its text."""
    rules = ChunkingRules.from_json(searcher.generation.manifest.facts["chunking"])
    real, left_out = _real_pages(searcher, rules, max(sizes))
    if not real:
        raise LookaheadError(f"{searcher.generation.path.parent} has no chunk that can be cut alike again")
    held = sum(len(page.rows) for page in real)
    paths = {size: folder / f"pages-{size}.jsonl" for size in sizes}
    writing = {size: path.open("w", encoding="utf-8") for size, path in paths.items()}
    known = _Writer(folder, searcher.vectors)
    try:
        for page in _pages(real, max(sizes)):
            for size, file in writing.items():
                if len(known) < size:
                    file.write(page.first(size - len(known)).line())
            known.add(page, rules.prefix, noisy=len(known) >= held)
    finally:
        for file in writing.values():
            file.close()
    known.close()
    return Material(paths, min(held, max(sizes)), left_out)


class Known:
    """Vectors (n, dim) by the texts that an encoder is given. Read and not mapped: the pages of a map would count as
    memory of whoever asks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys = np.load(folder / "keys.npy")
        self._rows = np.load(folder / "rows.npy")
        self._shard: tuple[int, NDArray[np.float16]] = (-1, np.zeros((0, 0), np.float16))

    def of(self, texts: Sequence[str]) -> Floats:
        wanted = np.array([key_of(text) for text in texts], dtype=np.uint64)
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        unknown = np.flatnonzero(self._keys[places] != wanted)
        if len(unknown):
            raise LookaheadError(f"a chunk was cut that has no vector: {texts[int(unknown[0])][:80]!r}")
        rows = self._rows[places]
        return np.stack([self._vector(row) for row in rows.tolist()]).astype(np.float32)

    def _vector(self, row: int) -> NDArray[np.float16]:
        number = row // SHARD_ROWS
        if number != self._shard[0]:
            self._shard = (number, np.load(self._folder / shard_name(number)))
        vector: NDArray[np.float16] = self._shard[1][row % SHARD_ROWS]
        return vector


def cut_alike(text: str, words: int) -> bool:
    """Whether a section of this text, or of its words in any order, is cut into one chunk by rules of so many words:
    with room for a few words that a dot within them makes two, and without any so long that it counts for several."""
    tokens = text.split()
    return words // 4 <= len(tokens) <= 1.4 * words and max(map(len, tokens)) < _LONG


def key_of(text: str) -> int:
    """The same for texts that differ in white space alone, which cutting them again may move."""
    raw = "".join(text.split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


class _Writer:
    """Vectors in the order of the pages, as shards of their own, and the texts' keys beside them."""

    def __init__(self, folder: Path, source: Vectors) -> None:
        self._folder, self._source = folder, source
        self._rng = np.random.default_rng(1)
        self._keys: list[int] = []
        self._waiting: list[tuple[int, bool]] = []
        self._written = 0

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, page: _Page, prefix: Prefix, *, noisy: bool) -> None:
        self._keys += [key_of(embedded_text(page.title, *section, prefix)) for section in page.sections]
        self._waiting += [(row, noisy) for row in page.rows]
        while len(self._waiting) >= SHARD_ROWS:
            self._flush()

    def close(self) -> None:
        if self._waiting:
            self._flush()
        keys, rows = np.unique(np.array(self._keys, dtype=np.uint64), return_index=True)
        np.save(self._folder / "keys.npy", keys)
        np.save(self._folder / "rows.npy", rows)

    def _flush(self) -> None:
        some, self._waiting = self._waiting[:SHARD_ROWS], self._waiting[SHARD_ROWS:]
        vectors = self._source.gather([row for row, _ in some])
        noisy = np.array([one for _, one in some])
        if noisy.any():
            vectors[noisy] = with_noise(vectors[noisy], self._rng)
        write_shard(self._folder / shard_name(self._written), vectors)
        self._written += 1


def with_noise(vectors: Floats, rng: np.random.Generator) -> Floats:
    """Vectors (n, dim) of length one, each near one of those given: its direction and Gaussian noise."""
    noise = rng.standard_normal(vectors.shape, dtype=np.float32) * np.float32(NOISE / np.sqrt(vectors.shape[1]))
    return normalised(normalised(vectors) + noise)


def _real_pages(searcher: Searcher, rules: ChunkingRules, most: int) -> tuple[list[_Page], int]:
    """Articles in their order until they have `most` chunks, and how many chunks among them were left out."""
    found: list[_Page] = []
    held = left_out = 0
    batch: list[tuple[str, str, str]] = []
    first = 0
    for row in searcher.store.articles():
        if held >= most:
            break
        if row.first_chunk + row.chunk_count > first + len(batch):
            first = row.first_chunk
            stop = max(first + _READ_AT_ONCE, first + row.chunk_count)
            batch = searcher.store.texts(first, min(stop, len(searcher.vectors)))
        page = _Page(row.page_id, row.title, [], [])
        for chunk in range(row.first_chunk, row.first_chunk + row.chunk_count):
            _, section, text = batch[chunk - first]
            if cut_alike(text, rules.words):
                page.sections.append((section, text))
                page.rows.append(chunk)
            else:
                left_out += 1
        if page.rows:
            found.append(page)
            held += len(page.rows)
    return found, left_out


def _pages(real: Sequence[_Page], rows: int) -> Iterator[_Page]:
    """Pages of so many chunks: the real ones, and then each again and again under other titles, its words shuffled."""
    rng = np.random.default_rng(0)
    ids = count(max(page.page_id for page in real) + 1)
    held = 0
    for copy in count():
        for place in rng.permutation(len(real)).tolist() if copy else range(len(real)):
            if held >= rows:
                return
            page = real[place].first(rows - held)
            held += len(page.rows)
            if copy:
                shuffled = [(heading, _shuffled(text, rng)) for heading, text in page.sections]
                page = _Page(next(ids), f"{page.title} (copy {copy})", shuffled, page.rows)
            yield page


def _shuffled(text: str, rng: np.random.Generator) -> str:
    words = text.split()
    return " ".join([words[place] for place in rng.permutation(len(words)).tolist()])
