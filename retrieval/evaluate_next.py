"""Judges predicted next vectors: the rank of the true next chunk in several banks, its cosine, and what lies near it.

It does not know what predicts (a callable from contexts to vectors), what orders chunks in a way of its own (a
`Ranker`), nor how a report looks (`next_report`).

Banks: `heldout` is every chunk of the articles judged, `full` every live chunk of the collection, `article` the
target's own article. In each, `seen` leaves the query's own context in (as published figures do, and there the context
outranks the target), and `new` takes it out, which is what a reader wants.

Ranks. A chunk is ahead of the target when it scores higher, or the same within 1e-6, so that a constant answer earns
nothing from ties. A chunk of the same score that is a duplicate of the target (cosine of the two at least 1 − 1e-5) is
not: finding the same text elsewhere is no mistake. A prediction that is zero or not finite has found nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise, product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from index.progress import bar
from index.vectors import Vectors
from retrieval.baselines import Predicts
from retrieval.runs import Run
from retrieval.sequences import CONTEXT, Bools, Floats, Ints, Sequences, Windows
from store.records import LookaheadError

Values = NDArray[np.float64]  # one a query
Block = tuple[int, Floats]  # (column of its first row, rows of length one)
Blocks = Callable[[], Iterator[Block]]
Tick = Callable[[int], object]

TIE = 1e-6
DUPLICATE = 1 - 1e-5  # cosine of two chunks of which finding either is right
WRONG = 5  # nearest wrong chunks a prediction is contrasted with
DEEPEST = 50
FULL_QUERIES = 4_000  # asked of the whole collection; all of them would take minutes a row
PUBLISHED_QUERIES = 1_600
PUBLISHED_CHUNKS = (15, 60)  # an article has, in the protocol of published figures

RANDOM, ORACLE = "random in article", "oracle"

_QUERIES, _COLUMNS = 1_024, 4_096  # of one block of scores: 16 MB
_PREDICTED = 2_048  # contexts handed to a predictor at once


class Bank(StrEnum):
    """Where the next chunk is looked for."""

    HELDOUT = "heldout"
    FULL = "full"
    ARTICLE = "article"


class View(StrEnum):
    """Whether the query's own context may be found."""

    SEEN = "seen"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Judged:
    """One row of a table, one value a query. A rank is infinite where nothing was found; `before` are the ranks before
    a reranker came, None where none did.

    `cosine` of prediction and target. `contrast`: the share of the five chunks of the held-out bank nearest to the
    *target* (no duplicates of it) that are farther from the prediction than the target is; after the contrastive
    accuracy of Meta's Large Concept Model. `gap`: the cosine of the target and its nearest other real chunk, less that
    of the prediction and its nearest real chunk but the target: 0 for a prediction that lies where chunks lie, positive
    for one off their manifold, negative for one that copies a chunk. It stands for LCM's round trip through a decoder.
    All three are None for a row that orders chunks without a vector, and in `new` leave the context out. They are
    measured among the held-out chunks whatever the bank.
    """

    ranks: Values
    cosine: Values | None = None
    contrast: Values | None = None
    gap: Values | None = None
    before: Values | None = None

    def measures(self) -> dict[str, Values]:
        """Every measure of every query, in the order of a table. Contain@50 is R@50 before reranking."""
        found = {f"R@{k}": (self.ranks <= k).astype(np.float64) for k in (1, 3, 5, 10, 20, 50)}
        first = self.ranks if self.before is None else self.before
        found[f"Contain@{DEEPEST}"] = (first <= DEEPEST).astype(np.float64)
        found[f"MRR@{DEEPEST}"] = np.where(self.ranks <= DEEPEST, 1 / self.ranks, 0.0)
        vectors = {"cosine": self.cosine, "contrast": self.contrast, "gap": self.gap}
        return found | {name: values for name, values in vectors.items() if values is not None}


@dataclass(frozen=True, slots=True)
class Judgement:
    """A bank in one view, asked by every row. `article` numbers each query's article; `chunks` is the bank's size, the
    mean over queries where each article is a bank of its own."""

    bank: Bank
    view: View
    chunks: float
    article: Ints
    rows: dict[str, Judged]


class Chunks(Protocol):
    """What a bank holds, in columns; an article's chunks are one run of them."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[Block]:
        """All of it."""

    def take(self, columns: Ints) -> Floats:
        """(n, D) of length one, in the order asked."""


@dataclass(frozen=True, slots=True)
class Held:
    """Unit vectors in memory, as a bank."""

    rows: Floats

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[Block]:
        for start in range(0, len(self.rows), _COLUMNS):
            yield start, self.rows[start : start + _COLUMNS]

    def take(self, columns: Ints) -> Floats:
        return self.rows[columns]


@dataclass(frozen=True, slots=True)
class Whole:
    """The live chunks of a collection, as a bank."""

    vectors: Vectors
    live: Ints  # ids, ascending

    def __len__(self) -> int:
        return len(self.live)

    def blocks(self) -> Iterator[Block]:
        first = 0
        for start, rows in self.vectors.blocks():
            low, high = np.searchsorted(self.live, (start, start + len(rows)))
            yield first, normalised(rows[self.live[low:high] - start])
            first += int(high - low)

    def take(self, columns: Ints) -> Floats:
        return normalised(self.vectors.gather(self.live[columns]))


@dataclass(frozen=True, slots=True)
class Asked:
    """The queries of a bank: the target's vector and its column, and how many columns before it are the context.

    `twin_query` and `twin_column` are pairs of a query and a duplicate of its target, ordered by query.
    """

    target: Floats
    column: Ints
    length: Ints
    twin_query: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    twin_column: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.column)

    @property
    def context(self) -> Ints:
        """(n, 5) columns of the context, -1 where there is none."""
        back = np.arange(-CONTEXT, 0)
        return np.where(back >= -self.length[:, None], self.column[:, None] + back, -1)

    @property
    def context_is_twin(self) -> Bools:
        """(n, 5) where a chunk of the context is a duplicate of the target."""
        told = np.zeros((len(self), CONTEXT), dtype=bool)
        back = self.column[self.twin_query] - self.twin_column
        near = (back >= 1) & (back <= self.length[self.twin_query])
        told[self.twin_query[near], CONTEXT - back[near]] = True
        return told

    def part(self, start: int, stop: int, first: int = 0, columns: int | None = None) -> Asked:
        """The queries `start … stop - 1`, in a bank that is the columns from `first` on."""
        low, high = np.searchsorted(self.twin_query, (start, stop))
        query, column = self.twin_query[low:high] - start, self.twin_column[low:high] - first
        inside = (column >= 0) & (column < columns) if columns is not None else np.ones(len(column), dtype=bool)
        return Asked(
            self.target[start:stop],
            self.column[start:stop] - first,
            self.length[start:stop],
            query[inside],
            column[inside],
        )


@dataclass(frozen=True, slots=True)
class Questions:
    """What a ranker is asked of a bank: windows of `sequences` with the prediction told (n, D) for each, of length one
    or zero, and for each the columns `first … first + count - 1` of its own article."""

    sequences: Sequences
    windows: Windows
    told: Floats
    asked: Asked
    first: Ints
    count: Ints

    def __len__(self) -> int:
        return len(self.windows)

    def contexts(self, some: slice) -> tuple[Floats, Bools]:
        return self.sequences.contexts(self.windows[some])


class Ranker(Protocol):
    """Orders the chunks of a bank in ways of its own, a row of the table for each way."""

    @property
    def name(self) -> str:
        """For a progress bar."""

    def predict(self, context: Floats, mask: Bools) -> Floats:
        """As a predictor does; asked once for all banks."""

    def rows(self, bank: Bank) -> tuple[str, ...]:
        """Those it gives of a bank; none of one that it is not to be asked of."""

    def passes(self, bank: Bank) -> int:
        """How much work that is, in comparisons of every query with every chunk."""

    def judged(self, questions: Questions, chunks: Chunks, bank: Bank, tick: Tick) -> dict[str, dict[View, Judged]]:
        """Every row in both views, by the rules of ranks above; `tick` is told of comparisons made."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that was judged: a judgement for each bank and view, and a run for each row that has vectors."""

    judgements: tuple[Judgement, ...]
    runs: dict[str, Run]


def judge(
    sequences: Sequences,
    windows: Windows,
    predictors: Mapping[str, Predicts],
    rankers: Sequence[Ranker] = (),
    *,
    banks: Iterable[Bank] = (Bank.HELDOUT,),
    whole: Whole | None = None,
    full_queries: int = FULL_QUERIES,
    run_queries: int = 0,
    seed: int = 0,
    quiet: bool = True,
) -> Outcome:
    """Asks every predictor and ranker for the target of every window; adds the rows `random in article` and `oracle`.

    The bank `full` needs `whole` and is asked at most `full_queries` of the windows, drawn with `seed`; for
    `run_queries` of them, drawn likewise, the first 50 that a predictor finds in `heldout`, `new` are kept. An
    imperfect oracle raises.
    """
    banks = tuple(dict.fromkeys(banks))
    if not len(windows) or (np.diff(windows.article) < 0).any():
        raise ValueError("expected one or more windows, article by article")
    names = [RANDOM, ORACLE, *predictors]
    for ranker in rankers:
        names += dict.fromkeys(row for bank in Bank for row in ranker.rows(bank))
    if len(set(names)) < len(names):
        raise ValueError(f"a name for two rows; {RANDOM!r} and {ORACLE!r} are rows of the evaluator: {names}")
    everything = np.arange(len(windows))
    sample = drawn(len(windows), full_queries, seed)
    run_sample = drawn(len(windows), run_queries, seed)

    ids, rows = sequences.ids(), _bank_of(sequences)
    held = Held(rows)
    column = np.searchsorted(ids, windows.target)
    asked = Asked(rows[column], column, windows.length)
    asked, near = _compared(asked, held.blocks, wrong=WRONG + CONTEXT)
    wrong = {view: _wrong_in(view, asked, near) for view in View}
    full: Asked | None = None
    if Bank.FULL in banks:
        if whole is None:
            raise ValueError("the bank full needs the whole collection")
        column = np.searchsorted(whole.live, windows.target[sample])
        full, _ = _compared(Asked(rows[asked.column[sample]], column, windows.length[sample]), whole.blocks)

    everywhere = _runs_of(sequences, windows, ids)

    def put(bank: Bank, told: Floats) -> Iterator[tuple[Questions, Chunks]]:
        """A bank with what is asked of it, or each article with its own."""
        if bank is not Bank.FULL:
            questions = Questions(sequences, windows, told, asked, *everywhere)
            yield from [(questions, held)] if bank is Bank.HELDOUT else _in_articles(questions, rows)
        elif full is not None and whole is not None:
            some = windows[sample]
            yield Questions(sequences, some, told[sample], full, *_runs_of(sequences, some, whole.live)), whole

    tables: dict[tuple[Bank, View], dict[str, Judged]] = {pair: {} for pair in product(banks, View)}
    runs: dict[str, Run] = {}
    best: Scan | None = None  # the oracle's, from which the gap is measured
    work = {Bank.HELDOUT: len(windows) * len(held), Bank.FULL: 0}
    work[Bank.ARTICLE] = int(sequences.count[windows.article].sum()) if Bank.ARTICLE in banks else 0
    if full is not None and whole is not None:
        work[Bank.FULL] = len(sample) * len(whole)
    for name in (ORACLE, *predictors):
        with bar(name, sum(work.values()), "cosines", quiet=quiet, scale=True) as shown:
            told = asked.target if name == ORACLE else predictions(predictors[name], sequences, windows)
            scans = {
                bank: [scan(one.told, one.asked, chunks.blocks, shown.update) for one, chunks in put(bank, told)]
                for bank in dict.fromkeys((Bank.HELDOUT, *banks))
            }
        (found,) = scans[Bank.HELDOUT]
        best = best or found
        cosine = dots(told, asked.target)
        contrast = {view: _contrast(told, cosine, wrong[view], rows) for view in View}
        gap = {view: _gap(best.nearest[view], found.nearest[view]) for view in View}
        for bank, view in tables:
            some = sample if bank is Bank.FULL else everything
            ranks = np.concatenate([one.ranks[view] for one in scans[bank]])
            tables[bank, view][name] = Judged(ranks, cosine[some], contrast[view][some], gap[view][some])
        if run_queries and name != ORACLE:
            runs[name] = _run(told, asked, found.ranks[View.NEW], ids, rows, run_sample)
    for ranker in rankers:
        several = {bank: ranker.passes(bank) * work[bank] for bank in banks if ranker.rows(bank)}
        with bar(ranker.name, sum(several.values()), "cosines", quiet=quiet, scale=True) as shown:
            told = predictions(ranker.predict, sequences, windows)
            for bank in several:
                parts = [ranker.judged(one, chunks, bank, shown.update) for one, chunks in put(bank, told)]
                for row, view in product(ranker.rows(bank), View):
                    tables[bank, view][row] = _joined([part[row][view] for part in parts])

    chance = random_ranks(windows, sequences.count, seed)
    sizes = {
        Bank.HELDOUT: float(len(held)),
        Bank.FULL: float(len(whole)) if whole is not None else 0.0,
        Bank.ARTICLE: float(sequences.count[windows.article].mean()),
    }
    judgements = []
    for (bank, view), table in tables.items():
        some = sample if bank is Bank.FULL else everything
        oracle = table.pop(ORACLE)
        _refuse_imperfect(oracle, f"{bank}, {view}")
        table |= {RANDOM: Judged(chance[view][some]), ORACLE: oracle}
        judgements.append(Judgement(bank, view, sizes[bank], windows.article[some], table))
    return Outcome(tuple(judgements), runs)


def predictions(predict: Predicts, sequences: Sequences, windows: Windows) -> Floats:
    """What is predicted for each window, (n, D), of length one; zero where it is zero or not finite."""
    told = np.zeros((len(windows), sequences.dim), dtype=np.float32)
    for start in range(0, len(windows), _PREDICTED):
        some = slice(start, start + _PREDICTED)
        raw = predict(*sequences.contexts(windows[some]))
        if raw.shape != told[some].shape:
            raise ValueError(f"expected predictions of shape {told[some].shape}, found {raw.shape}")
        told[some] = normalised(np.where(np.isfinite(raw).all(axis=1, keepdims=True), raw, np.float32(0)))
    return told


def random_ranks(windows: Windows, count: Ints, seed: int) -> dict[View, Values]:
    """Ranks of the target where its article's chunks come first, in random order. `count` is the articles' sizes."""
    rng = np.random.default_rng(seed)
    ranks = {view: np.zeros(len(windows)) for view in View}
    for place, (article, length) in enumerate(zip(windows.article.tolist(), windows.length.tolist(), strict=True)):
        chunks = int(count[article])
        rank = int(rng.integers(1, chunks + 1))
        before = rng.hypergeometric(rank - 1, chunks - rank, length) if length else 0  # of its context
        ranks[View.SEEN][place] = rank
        ranks[View.NEW][place] = rank - before
    return ranks


def drawn(many: int, most: int, seed: int) -> Ints:
    """Up to `most` of the numbers below `many`, in order."""
    if many <= most:
        return np.arange(many)
    return np.sort(np.random.default_rng(seed).choice(many, most, replace=False))


def published(
    sequences: Sequences, collection: str, *, shortest: int = CONTEXT, seed: int = 0
) -> tuple[Sequences, Windows]:
    """A draw as earlier work made it: articles of 15 to 60 chunks, about 1,600 queries. Their chunks are the bank."""
    low, high = PUBLISHED_CHUNKS
    fitting = np.flatnonzero((sequences.count >= low) & (sequences.count <= high))
    if not len(fitting):
        raise LookaheadError(
            f"the published protocol needs articles of {low} to {high} chunks, and {collection} has none among the "
            f"{len(sequences.articles):,} asked for; take --protocol all"
        )
    return at_most(sequences.only(fitting.tolist()), PUBLISHED_QUERIES, shortest=shortest, seed=seed)


def at_most(sequences: Sequences, queries: int, *, shortest: int = CONTEXT, seed: int = 0) -> tuple[Sequences, Windows]:
    """Whole articles in random order until they have so many windows; those beyond are left out, not their chunks."""
    order = np.random.default_rng(seed).permutation(len(sequences.count))
    windows = np.cumsum(np.maximum(sequences.count[order] - shortest, 0))
    some = sequences.only(np.sort(order[: int(np.searchsorted(windows, queries)) + 1]).tolist())
    return some, some.windows(shortest)[:queries]


# -- one bank, one row -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over a bank finds for each query: the target's rank, and the cosine of the prediction with the
    nearest chunk that is not the target (-inf where there is none)."""

    ranks: dict[View, Values]
    nearest: dict[View, Values]


def scan(
    told: Floats,
    asked: Asked,
    blocks: Blocks,
    tick: Tick = lambda _: None,
    also: Callable[[Floats, slice, int], object] = lambda scores, some, first: None,
) -> Scan:
    """Compares every prediction with every chunk of the bank, a block of each at a time.

    `also` is shown each block's scores, for which queries they are and its first column; the target's own are -inf, and
    the scores are gone when it returns.
    """
    score = dots(told, asked.target).astype(np.float32)
    ahead = {view: np.zeros(len(asked), dtype=np.int64) for view in View}
    nearest = {view: np.full(len(asked), -np.inf) for view in View}
    twin_context = asked.context_is_twin
    for scores, some, first, part in _scores(told, asked, blocks):
        also(scores, some, first)
        low, high = score[some] - TIE, score[some] + TIE
        width = scores.shape[1]
        query, step = np.nonzero((part.context >= first) & (part.context < first + width))
        place = part.context[query, step] - first
        before = scores[query, place]  # the context's scores
        scores[query, place] = -np.inf
        new = scores.max(axis=1)
        seen = new.copy()
        np.maximum.at(seen, query, before)
        query_twin, twin = _inside(part.twin_query, part.twin_column, first, width)
        tied = scores[query_twin, twin] <= high[query_twin]
        scores[query_twin[tied], twin[tied]] = -np.inf
        count = np.count_nonzero(scores >= low[:, None], axis=1)
        ahead[View.NEW][some] += count
        counts = (before >= low[query]) & ~(twin_context[some][query, step] & (before <= high[query]))
        ahead[View.SEEN][some] += count + np.bincount(query[counts], minlength=len(count))
        for view, found in ((View.NEW, new), (View.SEEN, seen)):
            nearest[view][some] = np.maximum(nearest[view][some], found)
        tick(scores.size)
    found = np.linalg.norm(told, axis=1) > 0.5
    return Scan({view: np.where(found, 1.0 + ahead[view], np.inf) for view in View}, nearest)


def _compared(asked: Asked, blocks: Blocks, wrong: int = 0) -> tuple[Asked, Ints]:
    """The queries with the duplicates of their targets, and (n, wrong) columns of the chunks nearest to the target
    that are none, nearest first, -1 where there are no more."""
    best = np.full((len(asked), wrong), -np.inf, dtype=np.float32)
    who = np.full((len(asked), wrong), -1, dtype=np.int64)
    queries, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for scores, some, first, _ in _scores(asked.target, asked, blocks):
        query, column = np.nonzero(scores >= DUPLICATE)
        queries.append(query + some.start)
        columns.append(column + first)
        if wrong:
            scores[query, column] = -np.inf
            best[some], who[some] = best_of(best[some], who[some], scores, first)
    query, column = np.concatenate(queries), np.concatenate(columns)
    order = np.lexsort((column, query))
    return replace(asked, twin_query=query[order], twin_column=column[order]), np.where(np.isfinite(best), who, -1)


def _scores(told: Floats, asked: Asked, blocks: Blocks) -> Iterator[tuple[Floats, slice, int, Asked]]:
    """(scores, which queries, first column, those queries) block by block; the target's own score is -inf.

    The scores may be written to; they are gone with the next block.
    """
    parts = {start: asked.part(start, start + _QUERIES) for start in range(0, len(asked), _QUERIES)}
    room = np.empty(0, dtype=np.float32)
    for first, rows in blocks():
        for start, part in parts.items():
            some = slice(start, start + len(part))
            if room.size < len(part) * len(rows):
                room = np.empty(len(part) * len(rows), dtype=np.float32)
            scores = room[: len(part) * len(rows)].reshape(len(part), len(rows))
            np.matmul(told[some], rows.T, out=scores)
            query, column = _inside(np.arange(len(part)), part.column, first, len(rows))
            scores[query, column] = -np.inf
            yield scores, some, first, part


def _inside(query: Ints, column: Ints, first: int, width: int) -> tuple[Ints, Ints]:
    """The pairs whose column lies in a block, with the column counted from its start."""
    kept = (column >= first) & (column < first + width)
    return query[kept], column[kept] - first


def best_of(best: Floats, who: Ints, scores: Floats, first: int) -> tuple[Floats, Ints]:
    """The highest scores so far and those of a block merged, highest first."""
    keep = best.shape[1]
    if scores.shape[1] > keep:
        column = np.argpartition(scores, scores.shape[1] - keep, axis=1)[:, -keep:]
    else:
        column = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    best = np.concatenate([best, np.take_along_axis(scores, column, axis=1)], axis=1)
    who = np.concatenate([who, column + first], axis=1)
    order = np.argsort(-best, axis=1, kind="stable")[:, :keep]
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(who, order, axis=1)


def _in_articles(questions: Questions, rows: Floats) -> Iterator[tuple[Questions, Held]]:
    """Questions to the held-out chunks put to each article as a bank of its own, article by article."""
    edges = np.flatnonzero(np.diff(questions.windows.article, prepend=-1, append=-1))
    for start, stop in pairwise(edges.tolist()):
        some = slice(start, stop)
        first, count = int(questions.first[start]), int(questions.count[start])
        yield (
            Questions(
                questions.sequences,
                questions.windows[some],
                questions.told[some],
                questions.asked.part(start, stop, first, count),
                questions.first[some] - first,
                questions.count[some],
            ),
            Held(rows[first : first + count]),
        )


def _runs_of(sequences: Sequences, windows: Windows, ids: Ints) -> tuple[Ints, Ints]:
    """(first column, columns) of each window's article in a bank of chunks with those ids, ascending."""
    first = sequences.first[windows.article]
    start = np.searchsorted(ids, first)
    return start, np.searchsorted(ids, first + sequences.count[windows.article]) - start


def _joined(parts: Sequence[Judged]) -> Judged:
    """One row from those of parts of the queries, in order."""

    def whole(values: list[Values | None]) -> Values | None:
        there = [one for one in values if one is not None]
        return np.concatenate(there) if len(there) == len(values) else None

    return Judged(
        np.concatenate([part.ranks for part in parts]),
        whole([part.cosine for part in parts]),
        whole([part.contrast for part in parts]),
        whole([part.gap for part in parts]),
        whole([part.before for part in parts]),
    )


def _wrong_in(view: View, asked: Asked, near: Ints) -> Ints:
    """(n, 5): the nearest wrong chunks that may be found in this view; -1 where there are fewer."""
    if view is View.NEW:
        near = np.where((near[:, :, None] == asked.context[:, None, :]).any(axis=2), -1, near)
    order = np.argsort(near < 0, axis=1, kind="stable")[:, :WRONG]
    return np.take_along_axis(near, order, axis=1)


def _contrast(told: Floats, cosine: Values, wrong: Ints, rows: Floats) -> Values:
    """The share of the wrong chunks that are farther from the prediction than the target; 1 where there are none."""
    share = np.ones(len(told))
    for start in range(0, len(told), _QUERIES):
        some = slice(start, start + _QUERIES)
        there = wrong[some] >= 0
        scores = np.einsum("nd,nwd->nw", told[some], rows[wrong[some]])
        farther = (scores < cosine[some, None] - TIE) & there
        share[some] = np.where(there.any(axis=1), farther.sum(axis=1) / np.maximum(there.sum(axis=1), 1), 1.0)
    return share


def _gap(target: Values, prediction: Values) -> Values:
    """How much nearer to a real chunk the target lies than the prediction; 0 where there is no other chunk."""
    there = np.isfinite(target)
    return np.where(there, np.where(there, target, 0.0) - np.where(there, prediction, 0.0), 0.0)


def _run(told: Floats, asked: Asked, ranks: Values, ids: Ints, rows: Floats, sample: Ints) -> Run:
    """The first 50 of some queries, the context left out, with the target at its rank whatever ties with it."""
    run = {}
    for query in sample.tolist():
        part = asked.part(query, query + 1)
        scores = rows @ told[query]
        own = scores[part.column[0]]
        left_out = part.context[0]
        scores[left_out[left_out >= 0]] = -np.inf
        scores[part.column[0]] = -np.inf
        column = np.argpartition(scores, -min(DEEPEST, len(scores)))[-DEEPEST:]
        column = column[np.argsort(-scores[column], kind="stable")]
        found = [(str(ids[place]), float(scores[place])) for place in column if np.isfinite(scores[place])]
        if np.isfinite(ranks[query]):
            found.insert(int(ranks[query]) - 1, (str(ids[part.column[0]]), float(own)))
        run[str(ids[part.column[0]])] = found[:DEEPEST]
    return run


def _refuse_imperfect(oracle: Judged, where: str) -> None:
    """Raises where a row that was told the answers is not perfect: then the test is wrong, not the row."""
    for measure, values in oracle.measures().items():
        goal, slack = (0.0, 0.0) if measure == "gap" else (1.0, 1e-5 if measure == "cosine" else 0.0)
        if not (np.abs(values - goal) <= slack).all():
            raise LookaheadError(
                f"{where}: the oracle has {measure} {values.mean():.6f}, expected {goal:.0f}; the test is wrong"
            )


def _bank_of(sequences: Sequences) -> Floats:
    """The unit vectors of all chunks, article by article."""
    rows = np.empty((int(sequences.count.sum()), sequences.dim), dtype=np.float32)
    ids = sequences.ids()
    for start in range(0, len(ids), _COLUMNS):
        rows[start : start + _COLUMNS] = sequences.unit(ids[start : start + _COLUMNS])
    return rows


def dots(one: Floats, other: Floats) -> Values:
    dots: Values = np.einsum("nd,nd->n", one, other).astype(np.float64)
    return dots
