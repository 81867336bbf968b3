"""How long a search takes: as a whole process, inside one, and in each of its parts.

It does not measure whether the answers are right; `evaluate search` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from index.dense import exact_search, recall
from retrieval.benchmarks.measured import Figure, at_least, at_most, median, percentile, run, told
from retrieval.search import DEPTH, Mode, Searcher
from store.generations import Collection

T = TypeVar("T")
_PROCESSES = 7
_WARM_UP = 20


def bench_search(
    collection: Collection, home: Path, questions: Sequence[str], say: Callable[[str], object]
) -> list[Figure]:
    """Times hybrid searches for k = 10 with real questions, after a warm-up."""
    say(f"{_PROCESSES} searches as whole processes")
    name = collection.name
    walls = [
        run(["--home", str(home), "search", questions[number % len(questions)], "-c", name, "-k", "5"]).seconds
        for number in range(_PROCESSES + 1)
    ][1:]
    say(f"{len(questions)} searches inside one process")
    with Searcher.open(collection) as searcher:
        for question in questions[:_WARM_UP]:
            searcher.search(question, 10)
        hybrid = _timed(lambda question: searcher.search(question, 10), questions)
        by_words = _timed(lambda question: searcher.search(question, 10, mode=Mode.LEXICAL), questions)
        encoding = _timed(lambda question: searcher.encoder.encode_queries([question]), questions)
        vectors = searcher.encoder.encode_queries(list(questions))
        dense = _timed(lambda place: searcher.dense.search(vectors[place], 10), range(len(vectors)))
        deep = _timed(lambda place: searcher.dense.search(vectors[place], DEPTH), range(len(vectors)))
        words = _timed(lambda question: searcher.lexical.search(question, DEPTH), questions)
        ids = list(range(0, searcher.live, max(1, searcher.live // 10)))[:10]
        texts = _timed(lambda _: searcher.store.chunks(ids), questions)
        found = searcher.dense.search_many(vectors, 10)
        agreement = recall(found, exact_search(searcher.vectors, vectors, 10))
        facts = searcher.dense.facts
        live = searcher.live
    return [
        told("chunks searched", live),
        told(f"questions, {facts.kind.value} index, breadth {facts.breadth}", len(questions)),
        at_most("`cli.py search` as a whole process, median", median(walls), 1.0, " s"),
        at_most("hybrid search in process, p50", 1e3 * percentile(hybrid, 0.5), 12, " ms"),
        at_most("hybrid search in process, p95", 1e3 * percentile(hybrid, 0.95), 20, " ms"),
        at_most("dense index, 10 nearest, p50", 1e3 * percentile(dense, 0.5), 1, " ms"),
        at_least("its recall@10 against exact search, on these questions", agreement, 0.99),
        told(f"dense index, {DEPTH} nearest, p50", 1e3 * percentile(deep, 0.5), " ms"),
        told("encoding the question, p50", 1e3 * percentile(encoding, 0.5), " ms"),
        told(f"lexical index, {DEPTH} best, p50", 1e3 * percentile(words, 0.5), " ms"),
        told("10 chunks from the database, p50", 1e3 * percentile(texts, 0.5), " ms"),
        told("lexical search in process, p50", 1e3 * percentile(by_words, 0.5), " ms"),
    ]


def _timed(call: Callable[[T], object], arguments: Sequence[T]) -> list[float]:
    spent = []
    for argument in arguments:
        started = time.perf_counter()
        call(argument)
        spent.append(time.perf_counter() - started)
    return spent
