"""What a student encoder learns from: texts of many lengths out of a collection, and its teacher's vectors of them.

It does not know who learns. The vectors of chunks are the collection's own where the teacher made them; all others are
embedded once and kept in numbered parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from index.encoder import Encoder, Fingerprint
from index.progress import bar
from retrieval.questions import QuestionSet, Unit
from retrieval.search import Searcher
from retrieval.spans import kept_rows
from store.chunking import ChunkingRules, embedded_text, length_of, sentences_of
from store.database import ArticleRow
from store.generations import MANIFEST, seal_of
from store.records import LookaheadError, Split

Ints = NDArray[np.int64]
Half = NDArray[np.float16]
_SHORTEST = 4  # words of a sentence worth learning from
_READ = 2_048  # chunks read from the database at once


class Kind(StrEnum):
    """`PASSAGE` is two to four consecutive chunks of an article; `QUERY` a title, alone or with a heading."""

    CHUNK = "chunk"
    PASSAGE = "passage"
    SENTENCE = "sentence"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Mix:
    """How many texts of each kind, where there are so many."""

    chunks: int = 120_000
    passages: int = 8_000
    sentences: int = 200_000
    queries: int = 40_000

    def scaled(self, texts: int) -> Mix:
        """The same mixture of about so many texts in all."""
        share = texts / sum(asdict(self).values())
        return Mix(*(max(1, round(count * share)) if count else 0 for count in asdict(self).values()))


WATCHED = Mix(chunks=500, passages=50, sentences=500, queries=150)


@dataclass(frozen=True, slots=True)
class Lessons:
    """Texts, their kinds, and the teacher's vectors of them (n, D), of length one in half precision."""

    texts: list[str]
    kinds: list[Kind]
    vectors: Half

    def __len__(self) -> int:
        return len(self.texts)

    def as_read(self, fingerprint: Fingerprint) -> list[str]:
        """The texts with the words that the teacher puts before a document or a question."""
        before = {Kind.QUERY: fingerprint.query_prefix}
        return [
            before.get(kind, fingerprint.document_prefix) + text
            for kind, text in zip(self.kinds, self.texts, strict=True)
        ]

    def counts(self) -> dict[str, int]:
        return {kind.value: self.kinds.count(kind) for kind in Kind}


def taught(searcher: Searcher, split: Split, asked: Sequence[QuestionSet]) -> list[ArticleRow]:
    """The articles of a split, less those that questions of a set are about: they are for judging only."""
    pages, titles = set(), set()
    for one in asked:
        titles |= {paragraph.title.lower() for paragraph in one.passages}
        if one.unit is Unit.ARTICLE:
            pages |= {int(page) for question in one.questions for page in question.relevant}
    rows = searcher.store.articles(split)
    return [row for row in rows if row.page_id not in pages and row.title.lower() not in titles]


def lessons(
    searcher: Searcher,
    articles: Sequence[ArticleRow],
    teacher: Encoder,
    mix: Mix,
    kept: Path,
    *,
    seed: int,
    quiet: bool,
) -> Lessons:
    """Texts drawn from articles with the seed. Vectors that have to be made are kept in a folder in `kept`, named by
    what they are made from."""
    if not articles:
        raise LookaheadError("there is no article to learn from or to judge by; ingest more")
    ids = np.concatenate([np.arange(row.first_chunk, row.first_chunk + row.chunk_count) for row in articles])
    rng = np.random.default_rng(seed)
    rules = ChunkingRules.from_json(searcher.generation.manifest.facts["chunking"])
    own = searcher.encoder.fingerprint == teacher.fingerprint
    chunk_ids = _some(ids, mix.chunks, rng)
    made: list[tuple[Kind, str]] = []
    with bar("drawing texts", sum(asdict(mix).values()), "texts", quiet=quiet) as shown:

        def drawn(kind: Kind, texts: list[str]) -> None:
            made.extend((kind, text) for text in texts)
            shown.update(len(texts))

        drawn(Kind.PASSAGE, _passages(searcher, articles, mix.passages, rng))
        for some_ids in _blocks(_some(ids, mix.sentences, rng)):
            drawn(Kind.SENTENCE, _sentences(searcher, some_ids, rules, rng))
        drawn(Kind.QUERY, _queries(searcher, articles, mix.queries, rng))
        chunks: list[str] = []
        for some_ids in _blocks(chunk_ids):
            chunks += _chunk_texts(searcher, some_ids, rules)
            shown.update(len(some_ids))
    if not own:
        made = [*((Kind.CHUNK, text) for text in chunks), *made]
    texts = [text for _, text in made]
    facts: dict[str, Any] = {
        "manifest": seal_of(searcher.generation.path / MANIFEST).sha256,
        "teacher": teacher.fingerprint.key,
        "texts": hashlib.sha256("\0".join(texts).encode()).hexdigest(),
    }
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    kinds = [kind for kind, _ in made]
    asked = kinds.index(Kind.QUERY) if Kind.QUERY in kinds else len(kinds)  # queries come last

    def some(rows: slice) -> Half:
        middle = min(max(asked, rows.start), rows.stop)
        parts = [teacher.encode(texts[rows.start : middle]), teacher.encode_queries(texts[middle : rows.stop])]
        return _unit(np.concatenate([part for part in parts if len(part)]))

    vectors = np.zeros((0, teacher.dim), np.float16)
    if texts:
        vectors = kept_rows(kept / name, facts, len(texts), some, what="the teacher's vectors", quiet=quiet)
    if own:
        vectors = np.concatenate([_unit(searcher.vectors.gather(chunk_ids)), vectors])
        texts, kinds = [*chunks, *texts], [Kind.CHUNK] * len(chunks) + kinds
    return Lessons(texts, kinds, vectors)


def _some(ids: Ints, most: int, rng: np.random.Generator) -> Ints:
    """At most so many of them, drawn, ascending."""
    return np.sort(rng.permutation(ids)[:most]).astype(np.int64)


def _blocks(ids: Ints) -> Iterator[Ints]:
    """What is read from the database at once."""
    return (ids[start : start + _READ] for start in range(0, len(ids), _READ))


def _chunk_texts(searcher: Searcher, ids: Ints, rules: ChunkingRules) -> list[str]:
    """What the teacher read for those chunks, its prefix included."""
    return [
        embedded_text(found.title, found.chunk.section, found.chunk.text, rules.prefix)
        for found in searcher.store.chunks(ids.tolist())
    ]


def _sentences(searcher: Searcher, ids: Ints, rules: ChunkingRules, rng: np.random.Generator) -> list[str]:
    """One sentence out of each chunk that has one of a few words."""
    told = []
    for found in searcher.store.chunks(ids.tolist()):
        whole = [one for one in sentences_of(found.chunk.text, rules.language) if length_of(one) >= _SHORTEST]
        if whole:
            told.append(whole[int(rng.integers(len(whole)))])
    return told


def _passages(searcher: Searcher, articles: Sequence[ArticleRow], most: int, rng: np.random.Generator) -> list[str]:
    long = [row for row in articles if row.chunk_count >= 2]
    told = []
    for place in rng.permutation(len(long))[:most].tolist():
        row = long[place]
        count = min(int(rng.integers(2, 5)), row.chunk_count)
        first = row.first_chunk + int(rng.integers(row.chunk_count - count + 1))
        told.append(" ".join(text for _, _, text in searcher.store.texts(first, first + count)))
    return told


def _queries(searcher: Searcher, articles: Sequence[ArticleRow], most: int, rng: np.random.Generator) -> list[str]:
    """Half of them titles, the others titles with a heading of the same article; shuffled, no two alike."""
    order = rng.permutation(len(articles)).tolist()
    titles = [articles[place].title for place in order][: most // 2]
    headed: dict[str, None] = {}
    for place in order:
        if len(headed) >= most - len(titles):
            break
        row = articles[place]
        rows = searcher.store.texts(row.first_chunk, row.first_chunk + row.chunk_count)
        headed |= {f"{row.title} {section}": None for _, section, _ in rows if section}
    return list(dict.fromkeys([*titles, *list(headed)[: most - len(titles)]]))


def _unit(vectors: NDArray[np.float32]) -> Half:
    return normalised(vectors).astype(np.float16)
