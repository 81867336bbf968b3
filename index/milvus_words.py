"""Chunks by their words on a Milvus server: BM25 as an inner product of sparse vectors, equal to what tantivy scores.

A chunk's vector holds what BM25 makes of its own words, a question's vector how rare each of its words is. The
dimensions are 2n for word n of the vocabulary in a text, and 2n + 1 for the same word in a title. This file does not
know how the vectors get to the server.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import vocabulary
from index.dense import Hit, IdSet
from index.engines import Draft, Ints
from index.layout import LEXICAL
from index.lexical import LONGEST_QUERY, TITLE_WEIGHT, Analyzer, rareness
from index.milvus_server import MOST, Server, between
from index.progress import bar
from index.vocabulary import Vocabulary
from store.generations import write_atomically

K1, B = 1.2, 0.75  # tantivy's
COUNTED = "words.tmp"  # what was counted, until it is on the server
WORDS = "words"  # the field
_DONE = "done.json"
_NAMED = 10_000  # ids that one question names
_FETCHED = 1_000  # chunks whose words are asked for at once
_KEPT = 16_384  # words with their numbers and rarity
_SECTION = 8  # bytes of a section's key

Sparse = dict[int, float]


# -- making them -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counted:
    """The words of consecutive rows: those of row r are `dims[starts[r] : starts[r + 1]]`, with how often each is
    there; dead rows have none. `sections` are the keys of the rows' sections."""

    starts: Ints
    dims: Ints
    counts: Ints
    sections: Ints

    def vectors(self, facts: Mapping[str, Any], words: int) -> list[Sparse]:
        """One for each row; one without words has something in a dimension that no question asks for."""
        rows = len(self.sections)
        row_of = np.repeat(np.arange(rows), np.diff(self.starts))
        lengths = np.bincount(2 * row_of + self.dims % 2, weights=self.counts, minlength=2 * rows)
        average = np.maximum(np.array(facts["tokens"]) / max(facts["rows"], 1), 1e-9)
        norms = K1 * (1 - B + B * as_kept(lengths.reshape(rows, 2)) / average)
        weights = self.counts * (K1 + 1) / (self.counts + norms[row_of, self.dims % 2])
        pairs = list(zip(self.dims.tolist(), weights.astype(np.float32).tolist(), strict=True))
        starts = self.starts.tolist()
        return [dict(pairs[start:stop]) or {2 * words: 1.0} for start, stop in pairwise(starts)]


def count_words(draft: Draft) -> dict[str, Any]:
    """Counts the words of the live rows, shard by shard, beside the draft; what comes back is for the manifest.

    "ids" are all rows, "rows" the live ones, "tokens" their words in all, of texts and of titles.
    """
    folder = draft.folder / COUNTED
    asked = _digest(str(len(draft.vectors)).encode(), draft.gone.tobytes(), draft.language.encode())
    done = folder / _DONE
    if done.exists():
        told = json.loads(done.read_bytes())
        if told["asked"] == asked:  # an id never changes its text
            facts: dict[str, Any] = told["facts"]
            return facts
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    counting = _Counting(Analyzer(draft.language))
    rows, step, dead = len(draft.vectors), draft.vectors.shard_rows, set(draft.gone.tolist())
    with bar("counting words", rows, "chunks", quiet=draft.quiet) as shown:
        for number, first in enumerate(range(0, rows, step)):
            batch = draft.store.texts(first, min(first + step, rows))
            counting.add(folder / f"{number:05d}.npz", first, batch, dead)
            shown.update(len(batch))
    facts = {
        "language": draft.language,
        "ids": rows,
        "rows": rows - len(dead),
        "tokens": counting.tokens.tolist(),
    }
    words, holding = counting.sorted_into(folder)
    vocabulary.write(draft.folder / LEXICAL, words, holding)
    mark = _digest(asked.encode(), "\n".join(words).encode(), holding.tobytes(), json.dumps(facts).encode())
    write_atomically(done, json.dumps({"asked": asked, "facts": facts, "mark": mark}).encode())
    return facts


def facts_of(folder: Path) -> tuple[dict[str, Any], str]:
    """What `count_words` gave, and a mark of what it came to: vectors made of another count do not go with these."""
    told = json.loads((folder / COUNTED / _DONE).read_bytes())
    return told["facts"], told["mark"]


def counted(folder: Path, number: int) -> Counted:
    """The words of a shard."""
    path = folder / COUNTED
    places = np.load(path / "places.npy", mmap_mode="r")
    with np.load(path / f"{number:05d}.npz") as held:
        dims = held["dims"]
        return Counted(held["starts"], 2 * places[dims // 2] + dims % 2, held["counts"], held["sections"])


class _Counting:
    """Numbers words as they come, and counts who holds them."""

    def __init__(self, analyzer: Analyzer) -> None:
        self._stems = analyzer.stems
        self._title = lru_cache(64)(analyzer.stems)  # an article's chunks come one after the other
        self._numbers: dict[str, int] = {}
        self._holding = np.zeros(0, dtype=np.int64)
        self.tokens = np.zeros(2, dtype=np.int64)

    def add(self, path: Path, first: int, batch: Sequence[tuple[str, str, str]], dead: set[int]) -> None:
        """Writes what is counted of (title, section, text) rows; `first` is the id of the first."""
        numbers = self._numbers
        dims: list[int] = []
        lengths: list[int] = []
        for chunk_id, (title, _, text) in enumerate(batch, first):
            before = len(dims)
            if chunk_id not in dead:
                dims += [2 * numbers.setdefault(word, len(numbers)) for word in self._stems(text)]
                dims += [2 * numbers.setdefault(word, len(numbers)) + 1 for word in self._title(title)]
            lengths.append(len(dims) - before)
        width = max(2 * len(numbers), 1)
        tokens = np.array(dims, dtype=np.int64)
        self.tokens += np.bincount(tokens % 2, minlength=2)
        keys, counts = np.unique(np.repeat(np.arange(len(batch)), lengths) * width + tokens, return_counts=True)
        if len(self._holding) < width:  # doubled, so that growing costs little in all
            self._holding = np.concatenate([self._holding, np.zeros(width, dtype=np.int64)])
        self._holding[:width] += np.bincount(keys % width, minlength=width)
        with path.open("wb") as file:
            np.savez(
                file,
                starts=np.searchsorted(keys, np.arange(len(batch) + 1) * width),
                dims=keys % width,
                counts=counts,
                sections=np.array([section_key(section) for _, section, _ in batch], dtype=np.int64),
            )

    def sorted_into(self, folder: Path) -> tuple[list[str], NDArray[np.int64]]:
        """The words in order and who holds them; where each word went is left in the folder."""
        words = sorted(self._numbers)
        order = np.array([self._numbers[word] for word in words], dtype=np.int64)
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        np.save(folder / "places.npy", places)
        return words, self._holding[: 2 * len(words)].reshape(-1, 2)[order]


def section_key(section: str) -> int:
    """64 bits that are the same for a section's name in any case."""
    # letter by letter, as a database does: Python has another letter for a capital sigma at the end of a word
    lower = "".join(letter.lower()[0] for letter in section)
    return int.from_bytes(hashlib.sha256(lower.encode("utf-8", "replace")).digest()[:_SECTION], "big", signed=True)


def _lengths() -> Ints:
    """The lengths that one byte can tell apart: all up to 40, and then steps of an eighth of what they lie beyond."""
    return np.array([n if n < 24 else 24 + _float4(n - 24) for n in range(256)], dtype=np.int64)


def _float4(code: int) -> int:
    """Of three bits, and an exponent for what is more than those can hold."""
    exponent = code >> 3
    return code if exponent == 0 else (code & 7 | 8) << exponent - 1


_LENGTHS = _lengths()


def as_kept(lengths: NDArray[Any]) -> Ints:
    """Lengths as tantivy keeps them, rounded down to one that it has a byte for."""
    return _LENGTHS[np.searchsorted(_LENGTHS, lengths, side="right") - 1]


def _digest(*parts: bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


# -- asking for them -------------------------------------------------------------------------------------------


class MilvusWords(Analyzer):
    """The words of one generation's chunks. Threads may search at once."""

    def __init__(
        self,
        server: Server,
        name: str,
        words: Vocabulary,
        facts: Mapping[str, Any],
        passing: Callable[[IdSet], str | None],
    ) -> None:
        """`passing` makes a condition of a set of ids that is a filter's, or None."""
        super().__init__(facts["language"])
        self._server = server
        self._name = name
        self._words = words
        self._facts = facts
        self._passing = passing
        self._look_up = lru_cache(_KEPT)(self._looked_up)

    def __len__(self) -> int:
        return int(self._facts["rows"])

    def close(self) -> None:
        """The connection is everybody's."""

    def rarity(self, words: Iterable[str]) -> dict[str, float]:
        """BM25's inverse document frequency of each word."""
        return {word: self._look_up(word)[1] for word in words}

    def search(self, query: str, k: int, within: IdSet | None = None) -> list[Hit]:
        """The `k` chunks with the highest BM25, fewer where fewer hold any of the words (and lie in `within`)."""
        asked = self._vector(query)
        k = min(k, len(self) if within is None else len(within))
        if not asked or k < 1:
            return []
        hits = [hit for condition in self._conditions(k, within) for hit in self._ask(asked, k, condition)]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))[:k]

    def scores(self, query: str, ids: Ints) -> dict[int, float]:
        """BM25 of those chunks; one that holds none of the words is absent."""
        asked = self._vector(query)
        found: dict[int, float] = {}
        for some in _parts(ids, _FETCHED) if asked else ():
            # not as a search, which would look through all chunks that hold a word
            for chunk_id, row in self._server.sparse(self._name, WORDS, named(some)).items():
                score = sum(weight * row[dim] for dim, weight in asked.items() if dim in row)
                if score > 0:
                    found[chunk_id] = score
        return found

    def _ask(self, asked: Sparse, k: int, condition: str) -> list[Hit]:
        (found,) = self._server.search(self._name, WORDS, [asked], min(k, MOST), condition, {"metric_type": "IP"})
        return [hit for hit in found if hit.score > 0]

    def _conditions(self, k: int, within: IdSet | None) -> list[str]:
        """One or several, of which no two let the same chunk pass, and none more than the server gives at once."""
        passing = "" if within is None else self._passing(within)
        if within is not None and passing is None:
            return [named(some) for some in _parts(within.ids, _NAMED)]
        if k <= MOST:
            return [passing or ""]
        runs = [between(start, start + MOST) for start in range(0, self._facts["ids"], MOST)]
        return [f"{run} and {passing}" if passing else run for run in runs]

    def _vector(self, query: str) -> Sparse:
        asked: Sparse = {}
        for word in self.words(query)[:LONGEST_QUERY]:
            number, in_texts, in_titles = self._look_up(word)
            if number is not None and self._words.holding[number, 0]:
                asked[2 * number] = in_texts
            if number is not None and self._words.holding[number, 1]:
                asked[2 * number + 1] = TITLE_WEIGHT * in_titles
        return asked

    def _looked_up(self, word: str) -> tuple[int | None, float, float]:
        """The number of a word, and its rarity in texts and in titles."""
        number = self._words.find(word)
        in_texts, in_titles = (0, 0) if number is None else self._words.holding[number].tolist()
        return number, rareness(len(self), in_texts), rareness(len(self), in_titles)


def named(ids: Ints) -> str:
    return f"chunk_id in {ids.tolist()}"


def _parts(ids: Ints, size: int) -> Iterator[Ints]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
