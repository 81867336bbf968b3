"""How long a whole answer to one context takes, and each of its stages, over windows of the test articles.

It does not know whether the answers are right; `evaluate next` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from retrieval.benchmarks.measured import Figure, at_most, percentile, told
from retrieval.predict import LookAhead
from retrieval.sequences import CONTEXT, Floats, Ints, Sequences, needed
from store.records import Split

LIMIT = 5.0  # ms that towers, candidates and reranker may take for one context, of 95 in 100
RERANKER_LIMIT = 1.0  # ms for 100 candidates, of one in two
_WARM_UP = 30
_TEXTS = 5  # passages told, which are read from the database

Q_TOWER, INDEXES = "predicting (Q tower)", "the indexes, side by side"
GATHERING, RERANKING = "vectors and first score", "list and reranker"


def bench_pipeline(look: LookAhead, windows: int, say: Callable[[str], object]) -> list[Figure]:
    """Times single contexts as `predict-next` answers them without reading texts, after a warm-up."""
    ranker, searcher = look.ranker, look.searcher
    sequences = Sequences(searcher.store.articles(Split.TEST), searcher.vectors)
    every = needed(sequences, Split.TEST, searcher.generation.path.parent.name)
    rng = np.random.default_rng(0)
    drawn = every[np.sort(rng.choice(len(every), min(windows, len(every)), replace=False))]
    contexts = sequences.contexts(drawn)[0]
    say(f"{len(drawn)} windows of test articles, after {_WARM_UP} that do not count")
    before = np.resize(np.arange(len(drawn)), _WARM_UP)
    for place in before.tolist():
        timed(look, contexts[place], drawn.target[place])
    stages = [timed(look, contexts[place], drawn.target[place]) for place in range(len(drawn))]
    sums = [sum(one.values()) for one in stages]
    choice, facts = ranker.pipeline.choice, ranker.index.facts
    figures = [
        told("chunks searched", searcher.live),
        told(f"windows; {facts.kind.value} index of the passages, breadth {facts.breadth}", len(drawn)),
        told(f"recall@10 of that index on its {facts.probes} probes", facts.recall),
        told("candidates of a list" if ranker.reach else "passages asked for", choice.depth),
    ]
    for name in stages[0]:
        figures += _figures(name, [one[name] for one in stages])
    if ranker.pipeline.reranker is not None:
        alone = [_reranker_alone(look, contexts[place], drawn.target[place]) for place in range(len(drawn))]
        figures.append(
            told(f"the reranker's graph alone, {choice.depth} candidates, p95", percentile(alone, 0.95), " ms")
        )
        figures.append(
            at_most(
                f"the reranker's graph alone, {choice.depth} candidates, p50",
                percentile(alone, 0.5),
                RERANKER_LIMIT,
                " ms",
            )
        )
    figures.append(told("all of it, p50", percentile(sums, 0.5), " ms"))
    figures.append(at_most("all of it, p95", percentile(sums, 0.95), LIMIT, " ms"))
    texts = _texts(look, drawn.target)
    figures.append(told(f"beside it: {_TEXTS} passages from the database, p50", percentile(texts, 0.5), " ms"))
    return figures


def timed(look: LookAhead, unit: Floats, target: int) -> dict[str, float]:
    """Stage → ms, in order, for a context (5, D) before the chunk `target`; it does not answer itself."""
    ranker = look.ranker
    choice = ranker.pipeline.choice
    depth = max(choice.depth, ranker.reach) + 2 * CONTEXT
    clock = _Clock()
    asked = ranker.asked(unit)
    clock.lap(Q_TOWER)
    ids = ranker.near(asked, depth)
    clock.lap(INDEXES)
    pool = ranker.scored(asked, np.setdiff1d(ids, _context_of(target)))
    clock.lap(GATHERING)
    if ranker.reach:
        ranker.listed(asked, pool)
        clock.lap(RERANKING)
    return clock.laps


class _Clock:
    """Milliseconds from lap to lap."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = 1e3 * (now - self._last)
        self._last = now


def _context_of(target: int) -> Ints:
    return np.arange(target - CONTEXT, target)


def _figures(name: str, spent: Sequence[float]) -> list[Figure]:
    return [told(f"{name}, p{round(100 * share)}", percentile(spent, share), " ms") for share in (0.5, 0.95)]


def _reranker_alone(look: LookAhead, unit: Floats, target: int) -> float:
    """Milliseconds of one list through the graph, from numpy to numpy."""
    ranker = look.ranker
    depth = ranker.pipeline.choice.depth
    asked = ranker.asked(unit)
    pool = ranker.scored(asked, np.setdiff1d(ranker.near(asked, depth + CONTEXT), _context_of(target)))[:depth]
    there = np.ones((1, len(pool)), dtype=np.bool_)
    started = time.perf_counter()
    ranker.pipeline.rerank(asked.context, asked.mask, asked.prediction, pool.rows[None], pool.passages[None], there)
    return 1e3 * (time.perf_counter() - started)


def _texts(look: LookAhead, targets: Ints) -> list[float]:
    """Milliseconds that reading some passages takes; which ones does not matter."""
    spent = []
    for target in targets.tolist():
        clock = _Clock()
        look.searcher.store.chunks(list(range(target - _TEXTS + 1, target + 1)))
        clock.lap("texts")
        spent.append(clock.laps["texts"])
    return spent
