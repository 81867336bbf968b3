"""Other encoders in a collection's own job: the same chunks, words and questions, and vectors of their own.

Every encoder, the collection's own too, is searched exactly, so that no index's recall comes between them. It does not
know measures (`encoders_report`), nor how a question set looks (`questions`).
"""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.dense import DenseFacts, DenseIndex, Floats, Hit, IdSet, Kind, exact_search
from index.encoder import AUTO, Encoder, Fingerprint, prepare, read_recipe
from index.progress import bar, say
from index.students import Student, find_encoder, int8_of, read_student
from index.vectors import SHARD_ROWS, Vectors, read_shard, shard_count, shard_name, write_shard
from retrieval.evaluate_search import DEPTH, Run, UnitOf, ask
from retrieval.questions import QuestionSet
from retrieval.search import Fusion, Searcher, tidy_query
from store.chunking import ChunkingRules, embedded_text
from store.database import ArticleRow
from store.generations import write_atomically
from store.records import LookaheadError, digest

OWN = "the collection's own"
_AT_ONCE = 1024  # texts an encoder is given between two looks at the bar
_QUESTIONS_AT_ONCE = 256
_SPENT = "spent.json"

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trial:
    """A question set asked of some chunks of a collection: `ids`, ascending, all of them live."""

    searcher: Searcher
    asked: QuestionSet
    unit_of: UnitOf
    ids: Ids
    fusion: Fusion = Fusion.ZSUM
    quiet: bool = False

    def texts(self) -> Iterator[str]:
        """What an encoder reads for each chunk."""
        store, facts = self.searcher.store, self.searcher.generation.manifest.facts
        prefix = ChunkingRules.from_json(facts["chunking"]).prefix
        for start in range(0, store.counts().chunks, SHARD_ROWS):
            some = self.ids[np.searchsorted(self.ids, start) : np.searchsorted(self.ids, start + SHARD_ROWS)]
            if len(some):
                first, last = int(some[0]), int(some[-1])
                rows = store.texts(first, last + 1)
                for one in some:
                    title, section, text = rows[int(one) - first]
                    yield embedded_text(title, section, text, prefix)


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of an encoder: ranks and runs by mode. `seconds` is what it took to embed the chunks, None for the
    collection's own; `student` is what its folder says of it."""

    name: str
    fingerprint: Fingerprint
    precision: str
    chunks: int
    ranks: dict[str, list[int | None]]
    runs: dict[str, Run]
    seconds: float | None = None
    student: Student | None = None


def own_answers(trial: Trial) -> Answers:
    """With the vectors that the collection has."""
    searcher = trial.searcher
    with tempfile.TemporaryDirectory(prefix="lookahead-trial-") as name:
        folder = Path(name)
        for number in range(shard_count(len(trial.ids), SHARD_ROWS)):
            some = trial.ids[number * SHARD_ROWS : (number + 1) * SHARD_ROWS]
            write_shard(folder / shard_name(number), searcher.vectors.gather(some))
        vectors = Vectors(folder, len(trial.ids), searcher.fingerprint.dim, SHARD_ROWS)
        ranks, runs = _asked(trial, searcher.encoder, vectors)
    return Answers(OWN, searcher.fingerprint, "", len(trial.ids), ranks, runs)


def answers_of(trial: Trial, spec: str, home: Path, *, keep: Path | None = None, precision: str = AUTO) -> Answers:
    """With vectors that the encoder MODEL makes of the same texts; they stay in `keep` to be found by another run."""
    whole = find_encoder(spec, home)
    student = read_student(Path(whole)) if Path(whole).is_dir() else None
    with tempfile.TemporaryDirectory(prefix="lookahead-trial-") as name:
        folder = Path(name)
        encoder = prepare(
            whole,
            folder / "encoder",
            device="cpu",
            precision=precision,
            int8=int8_of(spec, home),
            note=lambda sentence: say(sentence, quiet=trial.quiet),
        )
        vectors, seconds = embedded(trial, encoder, keep or folder)
        ranks, runs = _asked(trial, encoder, vectors)
        kind = read_recipe(folder / "encoder")
    return Answers(
        spec,
        encoder.fingerprint,
        str(getattr(encoder, "precision", kind.get("precision", ""))),
        len(trial.ids),
        ranks,
        runs,
        seconds,
        student,
    )


def embedded(trial: Trial, encoder: Encoder, folder: Path) -> tuple[Vectors, float]:
    """The vectors of the trial's texts, in their order, and the seconds of encoding, of an earlier run too: shards
    that are there already, of this very space and these very texts, are not made again."""
    space = folder / f"{encoder.fingerprint.key}-{functools.reduce(digest, trial.texts(), '')[:12]}"
    space.mkdir(parents=True, exist_ok=True)
    note, rows, texts = space / _SPENT, len(trial.ids), trial.texts()
    seconds = _spent(note)
    with bar("encoding", rows, "chunks", quiet=trial.quiet) as shown:
        for number in range(shard_count(rows, SHARD_ROWS)):
            some = list(itertools.islice(texts, SHARD_ROWS))
            if (space / shard_name(number)).exists():
                read_shard(space / shard_name(number), len(some), encoder.dim)
                shown.update(len(some))
                continue
            parts = []
            for start in range(0, len(some), _AT_ONCE):
                before = time.perf_counter()
                parts.append(encoder.encode(some[start : start + _AT_ONCE]))
                seconds += time.perf_counter() - before
                shown.update(len(parts[-1]))
            # the note first: a kill between the two must not make an encoder look faster than it is
            write_atomically(note, json.dumps({"seconds": seconds}).encode())
            write_shard(space / shard_name(number), np.concatenate(parts))
    return Vectors(space, rows, encoder.dim, SHARD_ROWS), seconds


def _spent(note: Path) -> float:
    if not note.exists():
        return 0.0
    try:
        return float(json.loads(note.read_text(encoding="utf-8"))["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise LookaheadError(f"{note} is damaged; remove {note.parent} and ask again") from error


def some_articles(
    every: Sequence[ArticleRow], asked: QuestionSet, unit_of: UnitOf, others: int, seed: int
) -> list[ArticleRow]:
    """The articles that answer the questions, the set's own paragraphs, and so many others drawn by chance."""
    relevant = {unit for question in asked.questions for unit in question.relevant}
    ours = [unit_of(row.page_id) in relevant or unit_of(row.page_id) != str(row.page_id) for row in every]
    rest = np.flatnonzero(~np.array(ours))
    drawn = set(np.random.default_rng(seed).permutation(rest)[:others].tolist())
    return [row for place, (row, mine) in enumerate(zip(every, ours, strict=True)) if mine or place in drawn]


def chunks_of(rows: Sequence[ArticleRow]) -> Ids:
    """The ids of all their chunks, ascending."""
    return np.sort(np.concatenate([np.arange(row.first_chunk, row.first_chunk + row.chunk_count) for row in rows]))


class Remembered:
    """An encoder's vectors of the questions, all made beforehand: one in a batch differs from one alone by a rounding,
    and the answers are looked up by it."""

    def __init__(self, encoder: Encoder, questions: Sequence[str]) -> None:
        self.name, self.dim, self.fingerprint = encoder.name, encoder.dim, encoder.fingerprint
        self._known = dict(zip(questions, encoder.encode_queries(questions), strict=True))

    def encode(self, texts: Sequence[str]) -> Floats:
        raise NotImplementedError("questions only")

    def encode_queries(self, texts: Sequence[str]) -> Floats:
        return np.stack([self._known[text] for text in texts])


class Foreseen(DenseIndex):
    """An exact index that knows its questions: all are compared with every vector together, which takes a hundredth of
    the time. Row r of the vectors is the chunk ids[r]."""

    def __init__(self, vectors: Vectors, ids: Ids, queries: Floats, *, quiet: bool) -> None:
        super().__init__(None, DenseFacts(Kind.FLAT, len(ids), vectors.dim, 1, 1.0, 0), vectors)
        self._ids = ids
        self._near: dict[bytes, list[Hit]] = {}
        with bar("comparing", len(queries), "questions", quiet=quiet) as shown:
            for start in range(0, len(queries), _QUESTIONS_AT_ONCE):
                some = queries[start : start + _QUESTIONS_AT_ONCE]
                for query, hits in zip(some, exact_search(vectors, some, DEPTH), strict=True):
                    self._near[query.tobytes()] = [Hit(int(ids[hit.chunk_id]), hit.score) for hit in hits]
                shown.update(len(some))

    def search_many(self, queries: Floats, k: int, within: IdSet | None = None) -> list[list[Hit]]:
        """`within` is the whole of what was compared."""
        return [self._near[query.tobytes()][:k] for query in queries]

    def cosines_many(self, queries: Floats, ids: Sequence[Ids]) -> list[Floats]:
        return super().cosines_many(queries, [np.searchsorted(self._ids, some) for some in ids])


def _asked(trial: Trial, encoder: Encoder, vectors: Vectors) -> tuple[dict[str, list[int | None]], dict[str, Run]]:
    """`ask`, of a searcher whose encoder and dense index are these."""
    questions = list(dict.fromkeys(tidy_query(question.text) for question in trial.asked.questions))
    remembered = Remembered(encoder, questions)
    rows = trial.searcher.generation.manifest.counts["chunks"]
    with Searcher(trial.searcher.generation) as searcher:
        searcher.encoder = remembered
        searcher.dense = Foreseen(vectors, trial.ids, remembered.encode_queries(questions), quiet=trial.quiet)
        searcher.alive = None if len(trial.ids) == rows else IdSet(trial.ids, rows)
        return ask(searcher, trial.asked, trial.unit_of, fusion=trial.fusion, quiet=trial.quiet)
