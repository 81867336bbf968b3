"""Chunks by their words: BM25 over text and title, the only file that imports tantivy.

It does not know vectors; a filter reaches it as a set of ids.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import tantivy
from numpy.typing import NDArray

from index.dense import Hit, IdSet
from store.records import LookaheadError

TITLE_WEIGHT = 0.5  # of a word in the title against one in the text; measured: README
LONGEST_QUERY = 64  # different words; the rest of a longer query is not looked up
_SET_QUERY_BELOW = 5_000  # a filter that leaves fewer ids becomes part of the query
_NAMED_BELOW = 1_000  # so few ids are found sooner one by one than as a set
_ALONE_BELOW = 1_000  # ids times words: so few are looked up sooner than read past
_WORDS_KEPT = 16_384  # of texts that were shown, with their stems, and of questions, with their rarity
_QUERIES_KEPT = 1_024  # with their words, which one search asks for several times

_PARTS = re.compile(r"(\w+)")
_STEMMERS = {
    "ar": "arabic",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "fi": "finnish",
    "fr": "french",
    "hu": "hungarian",
    "it": "italian",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
}


class Analyzer:
    """How a text becomes words, in an index and in a question to it. Threads may share one."""

    def __init__(self, language: str) -> None:
        self._analyzer = _analyzer(language)
        self._stems_in = lru_cache(_WORDS_KEPT)(self.stems)
        self._words_of = lru_cache(_QUERIES_KEPT)(lambda text: tuple(dict.fromkeys(self.stems(text))))

    def stems(self, text: str) -> list[str]:
        """The words of a text, in order, as the index spells them: lower case, no accents, stemmed."""
        return list(self._analyzer.analyze(text))

    def words(self, text: str) -> list[str]:
        """The different words of a text, in the order in which they first come."""
        return list(self._words_of(text))

    def spans(self, text: str, query: str) -> list[tuple[int, int]]:
        """Where in a text the query's words stand, whatever their ending."""
        wanted = set(self.words(query))
        parts = _PARTS.split(text)  # a word, what stands between, a word, …
        alike = {word for word in set(parts[1::2]) if not wanted.isdisjoint(self._stems_in(word))}
        stops = list(accumulate(map(len, parts)))
        return [(stops[2 * place], stops[2 * place + 1]) for place, word in enumerate(parts[1::2]) if word in alike]


class LexicalIndex(Analyzer):
    """A tantivy index; searching one that is being replaced by the next generation goes on undisturbed.

    Threads may search at once: none of tantivy's parts that are used here has a state of its own.
    """

    def __init__(self, index: tantivy.Index, language: str) -> None:
        super().__init__(language)
        self._index = index
        self._searcher = index.searcher()
        self._schema = index.schema
        self._rarity_of = lru_cache(_WORDS_KEPT)(self._rareness)

    @classmethod
    def open(cls, folder: Path, language: str) -> LexicalIndex:
        # tantivy locks the folder it reads, and a published one never changes (nor may it be writable): it is
        # given a folder of links, and has opened every file when that goes
        links = Path(tempfile.mkdtemp(prefix="lookahead-"))
        try:
            for path in folder.iterdir():
                (links / path.name).symlink_to(path.resolve())
            return cls(_open(links, language), language)
        except (OSError, ValueError) as error:
            raise _unreadable(folder, error) from error
        finally:
            for _ in range(5):  # its watcher may put a lock in while the folder is being emptied
                shutil.rmtree(links, ignore_errors=True)
                if not links.exists():
                    break

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def close(self) -> None:
        """The files are let go when the last reference is."""

    def rarity(self, words: Iterable[str]) -> dict[str, float]:
        """BM25's inverse document frequency of each word."""
        return {word: self._rarity_of(word) for word in words}

    def _rareness(self, word: str) -> float:
        count = len(self)
        # dead chunks are counted until their segment is merged away
        return rareness(count, min(count, self._searcher.doc_freq("text", word)))

    def search(self, query: str, k: int, within: IdSet | None = None) -> list[Hit]:
        """The `k` chunks with the highest BM25, fewer where fewer hold any of the words (and lie in `within`)."""
        wanted = self._any_of(self.words(query)[:LONGEST_QUERY])
        if wanted is None or k < 1 or not len(self):
            return []
        if within is None:
            return self._top(wanted, k)
        if len(within) <= _SET_QUERY_BELOW:
            return self._top(self._only(wanted, within.ids), k)
        return self._top_among(wanted, k, within)

    def scores(self, query: str, ids: NDArray[np.int64]) -> dict[int, float]:
        """BM25 of those chunks; one that holds none of the words is absent."""
        words = self.words(query)[:LONGEST_QUERY]
        wanted = self._any_of(words)
        if wanted is None or not len(ids):
            return {}
        if len(words) * len(ids) < _ALONE_BELOW:
            wanted = self._those(ids)
            for word in self._each(words):  # upon each other: tantivy reads an "or" on through the chunks between
                wanted = tantivy.Query.boolean_query([(tantivy.Occur.Must, wanted), (tantivy.Occur.Should, word)])
        else:
            wanted = self._only(wanted, ids)
        return {hit.chunk_id: hit.score for hit in self._top(wanted, len(ids)) if hit.score > 0}

    def _any_of(self, words: list[str]) -> tantivy.Query | None:
        should = [(tantivy.Occur.Should, word) for word in self._each(words)]
        return tantivy.Query.boolean_query(should) if should else None

    def _each(self, words: list[str]) -> Iterator[tantivy.Query]:
        """Every word in the text and in the title."""
        for word in words:
            yield tantivy.Query.term_query(self._schema, "text", word)
            title = tantivy.Query.term_query(self._schema, "title", word)
            yield tantivy.Query.boost_query(title, TITLE_WEIGHT)

    def _only(self, wanted: tantivy.Query, ids: NDArray[np.int64]) -> tantivy.Query:
        return tantivy.Query.boolean_query([(tantivy.Occur.Must, wanted), (tantivy.Occur.Must, self._those(ids))])

    def _those(self, ids: NDArray[np.int64]) -> tantivy.Query:
        """The chunks of those ids, with a score of 0."""
        if len(ids) < _NAMED_BELOW:  # parsed: a term made of a Python int is signed and matches nothing here
            named = " ".join(f"chunk_id:{chunk_id}" for chunk_id in ids.tolist() if chunk_id >= 0)
            those = self._index.parse_query(named, ["chunk_id"])
        else:
            those = tantivy.Query.term_set_query(self._schema, "chunk_id", ids.tolist())
        return tantivy.Query.const_score_query(those, 0.0)

    def _top(self, wanted: tantivy.Query, k: int) -> list[Hit]:
        found = self._searcher.search(wanted, k, count=False).hits
        ids = self._searcher.fast_field_values("chunk_id", [address for _, address in found])
        hits = [Hit(int(chunk_id or 0), float(score)) for chunk_id, (score, _) in zip(ids, found, strict=True)]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))

    def _top_among(self, wanted: tantivy.Query, k: int, within: IdSet) -> list[Hit]:
        """Asks for more until enough lie in `within` or there are no more."""
        allowed = set(within.ids.tolist())
        depth = k * max(2, 2 * within.size // len(within))
        while True:
            hits = self._top(wanted, min(depth, len(self)))
            kept = [hit for hit in hits if hit.chunk_id in allowed]
            if len(kept) >= k or len(hits) < depth:
                return kept[:k]
            depth *= 4


def build(
    folder: Path,
    language: str,
    rows: Iterable[tuple[int, str, str]],
    *,
    gone: NDArray[np.int64] | None = None,
) -> None:
    """Adds (chunk id, title, text) to the index in `folder`, made where there is none, and takes `gone` out."""
    if (folder / "meta.json").exists():
        try:
            index = _open(folder, language)
        except (OSError, ValueError) as error:
            raise _unreadable(folder, error) from error
    else:
        folder.mkdir(parents=True, exist_ok=True)
        index = tantivy.Index(_schema(), path=str(folder))
        index.register_tokenizer("words", _analyzer(language))
    writer = index.writer(heap_size=64_000_000, num_threads=1)
    if gone is not None and len(gone):  # by query: a term made of a Python int is signed and matches nothing here
        writer.delete_documents_by_query(tantivy.Query.term_set_query(index.schema, "chunk_id", gone.tolist()))
    for chunk_id, title, text in rows:
        document = tantivy.Document(title=title, text=text)
        document.add_unsigned("chunk_id", chunk_id)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    for lock in folder.glob(".tantivy-*.lock"):
        lock.unlink()


def rareness(count: int, holds: int) -> float:
    """BM25's inverse document frequency of a word that so many of `count` chunks hold."""
    return math.log(1 + (count - holds + 0.5) / (holds + 0.5))


def stemmed_languages() -> list[str]:
    return sorted(_STEMMERS)


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("chunk_id", fast=True, indexed=True)
    builder.add_text_field("title", tokenizer_name="words", index_option="freq")
    builder.add_text_field("text", tokenizer_name="words", index_option="freq")
    return builder.build()


def _analyzer(language: str) -> Any:
    """Lower case, no accents, stemmed where the language has a stemmer.

    English drops its accents before stemming, so that "resume" and "résumé" end alike; elsewhere a stemmer reads them.
    """
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    builder = builder.filter(tantivy.Filter.remove_long(60)).filter(tantivy.Filter.lowercase())
    if language == "en":
        builder = builder.filter(tantivy.Filter.ascii_fold())
    if language in _STEMMERS:
        builder = builder.filter(tantivy.Filter.stemmer(_STEMMERS[language]))
    return builder.filter(tantivy.Filter.ascii_fold()).build()


def _open(folder: Path, language: str) -> tantivy.Index:
    index = tantivy.Index.open(str(folder))
    index.register_tokenizer("words", _analyzer(language))
    return index


def _unreadable(folder: Path, error: Exception) -> LookaheadError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return LookaheadError(f"cannot open {folder}: {reason}; run: lookahead verify")
