"""Judges whole pipelines in a bank: where the true next chunk stands by the first score, in the list, and reranked.

It does not know which banks there are nor what a report says (`evaluate_next` asks it, as a `Ranker`), nor how a
pipeline's parts were trained.

Lists. The best `depth` by the first score, as they are; or by maximal marginal relevance out of twice as many
(`variety`); or with `assist` chunks of the context's own article, which `candidates.assisted` puts behind the 5 best
of the bank, so that the first 50 of a list mean something before it is reranked too. In `new` the query's own context
is in none of them, in `seen` it may be.

Ranks are those of `evaluate_next`. A chunk in the list is ahead of the target by the order of the list, one outside it
is behind the list and ahead of the target, if that is outside too, by the first score. A duplicate of the target that
ties with it by the first score is the target: the better of the two counts. A list of which a score is no number has
found nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from retrieval.candidates import ASSIST, Choice, assisted
from retrieval.evaluate_next import (
    TIE,
    Asked,
    Bank,
    Block,
    Chunks,
    Judged,
    Questions,
    Scan,
    Tick,
    Values,
    View,
    best_of,
    dots,
    scan,
)
from retrieval.next_report import Apart, reranked
from retrieval.pipeline import Pipeline
from retrieval.sequences import CONTEXT, Bools, Floats, Ints

WIDER = 2  # lists that variety chooses from
VARIETY = 0.7  # λ of an ablation's row

_LISTS = 128  # queries whose candidates' vectors are in memory at once: 100 of each are 40 MB
_QUERIES = 2_048  # contexts read at once


@dataclass(frozen=True, slots=True)
class PipelineRanker:
    """Rows of one model: pipelines that share a predictor and a P tower, each with its reranker and its choice of
    candidates. Those in `apart` are asked of the held-out chunks alone."""

    name: str
    pipelines: Mapping[str, Pipeline]
    apart: Mapping[str, Pipeline] = field(default_factory=dict)

    def predict(self, context: Floats, mask: Bools) -> Floats:
        return self._any.predict(context, mask)

    def rows(self, bank: Bank) -> tuple[str, ...]:
        return tuple(self._of(bank))

    def passes(self, bank: Bank) -> int:
        """One for each first score and one for each row that needs lists."""
        pipelines = self._of(bank).values()
        return len({one.choice.blend for one in pipelines}) + sum(map(_listed, pipelines))

    def judged(self, questions: Questions, chunks: Chunks, bank: Bank, tick: Tick) -> dict[str, dict[View, Judged]]:
        pipelines = self._of(bank)
        found = np.linalg.norm(questions.told, axis=1) > 0.5
        firsts = {}
        for blend in dict.fromkeys(one.choice.blend for one in pipelines.values()):
            alike = [one for one in pipelines.values() if one.choice.blend == blend]
            keep = max((_reach(one.choice) for one in alike if _listed(one)), default=0)
            firsts[blend] = _first(alike[0], questions, chunks, keep, tick)
        lists = {name: one for name, one in pipelines.items() if _listed(one)}
        ranks = {(name, view): np.zeros(len(questions)) for name in lists for view in View}
        before = {key: values.copy() for key, values in ranks.items()}
        for start in range(0, len(questions) if lists else 0, _LISTS):
            some = slice(start, min(start + _LISTS, len(questions)))
            batch = _Batch.of(questions, some, chunks, list(lists.values()), firsts)
            for name, one in lists.items():
                for view in View:
                    before[name, view][some], ranks[name, view][some] = batch.ranked(one, view)
                tick((some.stop - some.start) * len(chunks))
        told: dict[str, dict[View, Judged]] = {}
        for name, one in pipelines.items():
            told[name] = {}
            for view in View:
                if name not in lists:
                    by_score = np.where(found, firsts[one.choice.blend].scan.ranks[view], np.inf)
                    told[name][view] = Judged(by_score, dots(questions.told, questions.asked.target))
                    continue
                last, first = (np.where(found, values[name, view], np.inf) for values in (ranks, before))
                told[name][view] = Judged(last, before=first if one.reranker is not None else None)
        return told

    @property
    def _any(self) -> Pipeline:
        return next(iter({**self.pipelines, **self.apart}.values()))

    def _of(self, bank: Bank) -> Mapping[str, Pipeline]:
        return {**self.pipelines, **self.apart} if bank is Bank.HELDOUT else self.pipelines


@dataclass(frozen=True, slots=True)
class InOrder:
    """The rule "the chunk after the last one": it sees positions, and is right by construction."""

    name: str = "rule: the chunk after the last one"

    def predict(self, context: Floats, mask: Bools) -> Floats:
        return context[:, -1]

    def rows(self, bank: Bank) -> tuple[str, ...]:
        return (self.name,)

    def passes(self, bank: Bank) -> int:
        return 0

    def judged(self, questions: Questions, chunks: Chunks, bank: Bank, tick: Tick) -> dict[str, dict[View, Judged]]:
        asked = questions.asked
        ranks = np.where(asked.context[:, -1] + 1 == asked.column, 1.0, np.inf)
        return {self.name: {view: Judged(ranks) for view in View}}


def ranker_of(
    name: str, pipeline: Pipeline, *, assist: int = 0, variety: float | None = None, ablate: bool = False
) -> PipelineRanker:
    """The rows of a model: as it is, unless the evaluator can tell that from its predictor alone; with its reranker;
    with chunks of the article; varied. `ablate` adds what its reranked row is made of, one part left out or put in at a
    time."""
    plain, choice = pipeline.without_reranker(), pipeline.choice
    rows = {name: plain} if pipeline.tower is not None else {}
    whole = name
    if pipeline.reranker is not None:
        whole = reranked(name)
        rows[whole] = pipeline
    if assist:
        rows[_with_assist(whole, assist)] = pipeline.choosing(replace(choice, assist=assist))
    if variety is not None:
        rows[_with_variety(whole, variety)] = pipeline.choosing(replace(choice, variety=variety))
    parts: dict[str, Pipeline] = {}
    if ablate and pipeline.reranker is not None:
        if choice.blend:
            parts[f"{whole}, blend 0"] = pipeline.choosing(replace(choice, blend=0.0))
        for called, one in ((whole, pipeline), (name, plain)):
            parts[_with_assist(called, ASSIST)] = one.choosing(replace(one.choice, assist=ASSIST))
            parts[_with_variety(called, VARIETY)] = one.choosing(replace(one.choice, variety=VARIETY))
    return PipelineRanker(name, rows, {called: one for called, one in parts.items() if called not in rows})


def ablation_of(name: str, ranker: PipelineRanker) -> Apart:
    """The table of a model with a reranker: its rows, that with the reranker first."""
    whole = reranked(name)
    rows = dict.fromkeys((whole, name, *ranker.pipelines, *ranker.apart))
    return Apart(f"ablation of {whole}, each other row less that one", tuple(rows))


def models_apart(names: Sequence[str], rerank: Collection[str]) -> list[Apart]:
    """The tables of several models, each held against the first of them: without rerankers, and with them where the
    first has one. `rerank` are those that have."""
    first, *others = names
    told = [Apart(f"models, each other less {first}", tuple(names))] if others else []
    able = [reranked(name) for name in names if name in rerank]
    if first in rerank and len(able) > 1:
        told.append(Apart(f"models with their rerankers, each other less {reranked(first)}", tuple(able)))
    return told


def _with_assist(name: str, assist: int) -> str:
    return f"{name}, assist {assist}"


def _with_variety(name: str, variety: float) -> str:
    return f"{name}, variety {variety:g}"


def varied(scores: Floats, rows: Floats, weight: float, many: int) -> Ints:
    """Places (n, many) as `candidates.marginal` has them for each of n lists at once, -1 where no more are left: scores
    (n, m), -inf where there is no chunk, of rows (n, m, D)."""
    alike = np.matmul(rows, rows.transpose(0, 2, 1))
    lists = np.arange(len(scores))
    worth = np.where(np.isfinite(scores), np.float32(weight) * np.maximum(scores, np.float32(-1e9)), -np.inf)
    nearest = np.zeros_like(scores)
    taken = np.full((len(scores), many), -1, dtype=np.int64)
    for step in range(many):
        now = worth - (1 - weight) * nearest
        place = now.argmax(axis=1)
        left = np.isfinite(now[lists, place])
        if not left.any():
            break
        taken[:, step] = np.where(left, place, -1)
        worth[lists, place] = -np.inf
        nearest = alike[lists, place] if step == 0 else np.maximum(nearest, alike[lists, place])
    return taken


# -- the first score, over a whole bank ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _First:
    """What one pass over a bank finds by a first score: exact ranks, the target's own score (n,), and the best columns
    (n, keep + 5) with their scores, the target and the context among them; -1 and -inf where there are no more."""

    scan: Scan
    queries: Floats
    own: Floats
    columns: Ints
    scores: Floats


def _first(pipeline: Pipeline, questions: Questions, chunks: Chunks, keep: int, tick: Tick) -> _First:
    queries = _queries(pipeline, questions)
    target = questions.asked.target
    asked = replace(questions.asked, target=pipeline.keys(target, pipeline.passages(target)))
    keep = min(keep + CONTEXT, len(chunks)) if keep else 0
    scores = np.full((len(asked), keep), -np.inf, dtype=np.float32)
    columns = np.full((len(asked), keep), -1, dtype=np.int64)

    def collect(block: Floats, some: slice, first: int) -> None:
        if keep:
            scores[some], columns[some] = _better(scores[some], columns[some], block, first)

    def keys() -> Iterator[Block]:
        for first, rows in chunks.blocks():
            yield first, pipeline.keys(rows, pipeline.passages(rows))

    found = scan(queries, asked, keys, tick, collect)
    own = dots(queries, asked.target).astype(np.float32)
    if keep:  # the target itself, which no block showed
        scores = np.concatenate([scores, own[:, None]], axis=1)
        columns = np.concatenate([columns, asked.column[:, None]], axis=1)
        order = np.lexsort((columns, -scores), axis=1)[:, :keep]
        scores, columns = np.take_along_axis(scores, order, axis=1), np.take_along_axis(columns, order, axis=1)
    return _First(found, queries, own, columns, scores)


def _queries(pipeline: Pipeline, questions: Questions) -> Floats:
    if not pipeline.choice.blend:
        return questions.told
    parts = []
    for start in range(0, len(questions), _QUERIES):
        some = slice(start, start + _QUERIES)
        parts.append(pipeline.queries(*questions.contexts(some), questions.told[some]))
    return np.concatenate(parts)


def _better(best: Floats, who: Ints, scores: Floats, first: int) -> tuple[Floats, Ints]:
    """As `best_of`, by looking only at what beats the worst so far: after a few blocks that is little."""
    keep = best.shape[1]
    query, column = np.nonzero(scores > best[:, -1:])
    hits = np.bincount(query, minlength=len(best))
    width = int(hits.max(initial=0))
    if width > 4 * keep:
        return best_of(best, who, scores, first)
    place = np.arange(len(query)) - np.repeat(np.cumsum(hits) - hits, hits)
    found = np.full((len(best), width), -np.inf, dtype=np.float32)
    where = np.full((len(best), width), -1, dtype=np.int64)
    found[query, place] = scores[query, column]
    where[query, place] = column + first
    found, where = np.concatenate([best, found], axis=1), np.concatenate([who, where], axis=1)
    order = np.argsort(-found, axis=1, kind="stable")[:, :keep]
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(where, order, axis=1)


# -- lists, a batch of queries at a time -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some of the queries, and the vectors and passages of all that may be in their lists: `union` are its columns,
    ascending."""

    context: Floats
    mask: Bools
    told: Floats
    asked: Asked
    first: dict[float, _First]
    start: Ints
    count: Ints
    union: Ints
    rows: Floats
    passages: Floats

    @classmethod
    def of(
        cls, questions: Questions, some: slice, chunks: Chunks, pipelines: list[Pipeline], firsts: dict[float, _First]
    ) -> _Batch:
        part = {
            blend: _First(
                Scan({view: one.scan.ranks[view][some] for view in View}, {}),
                one.queries[some],
                one.own[some],
                one.columns[some],
                one.scores[some],
            )
            for blend, one in firsts.items()
        }
        start, count = questions.first[some], questions.count[some]
        needed = [one.columns.ravel() for one in part.values()]
        if any(one.choice.assist for one in pipelines):
            needed += [
                np.arange(first, first + many)
                for first, many in dict.fromkeys(zip(start.tolist(), count.tolist(), strict=True))
            ]
        union = np.unique(np.concatenate(needed))
        union = union[union >= 0]
        rows = chunks.take(union)
        context, mask = questions.contexts(some)
        asked = questions.asked.part(some.start, some.stop)
        told = questions.told[some]
        return cls(context, mask, told, asked, part, start, count, union, rows, pipelines[0].passages(rows))

    def ranked(self, pipeline: Pipeline, view: View) -> tuple[Values, Values]:
        """Ranks (n,) of the targets before a reranker came and after, which are the same where none does."""
        choice, first = pipeline.choice, self.first[pipeline.choice.blend]
        columns, scores = self._listed(pipeline, view)
        before = first.scan.ranks[view]
        members = _Members.of(columns, scores, first.own, self.asked, before)
        if choice.assist or choice.variety is not None:
            before = members.by_place()
        if pipeline.reranker is None:
            return before, before
        there = columns >= 0
        place = np.where(there, np.searchsorted(self.union, columns), 0)
        rows = self.rows[place]
        passages = self.passages[place] if self.passages is not self.rows else rows
        for one in (rows, passages):
            one[~there] = 0
        told = pipeline.rerank(self.context, self.mask, self.told, rows, passages, there)
        return before, members.by_score(told, closed=choice.assist > 0 or choice.variety is not None)

    def _listed(self, pipeline: Pipeline, view: View) -> tuple[Ints, Floats]:
        """Columns of the lists (n, m) and their first scores, in the order of the list."""
        choice, first = pipeline.choice, self.first[pipeline.choice.blend]
        columns, scores = first.columns, first.scores
        left_out = self.asked.context if view is View.NEW else None
        if left_out is not None:
            columns, scores = _without(columns, scores, left_out)
        if choice.variety is not None:
            columns, scores = columns[:, : WIDER * choice.depth], scores[:, : WIDER * choice.depth]
            rows = self.rows[np.searchsorted(self.union, np.maximum(columns, self.union[0]))]
            order = varied(scores, rows, choice.variety, choice.depth)
            none, order = order < 0, np.maximum(order, 0)
            columns = np.where(none, -1, np.take_along_axis(columns, order, axis=1))
            scores = np.where(none, np.float32(-np.inf), np.take_along_axis(scores, order, axis=1))
        if choice.assist:
            columns, scores = self._assisted(pipeline, columns, scores, left_out)
        return columns[:, : choice.depth], scores[:, : choice.depth]

    def _assisted(
        self, pipeline: Pipeline, columns: Ints, scores: Floats, left_out: Ints | None
    ) -> tuple[Ints, Floats]:
        choice, first = pipeline.choice, self.first[pipeline.choice.blend]
        out = np.full((len(columns), choice.depth), -1, dtype=np.int64)
        told = np.full((len(columns), choice.depth), -np.inf, dtype=np.float32)
        for start, count in dict.fromkeys(zip(self.start.tolist(), self.count.tolist(), strict=True)):
            own = np.arange(start, start + count)
            low = int(np.searchsorted(self.union, start))
            keys = pipeline.keys(self.rows[low : low + count], self.passages[low : low + count])
            for query in np.flatnonzero(self.start == start).tolist():
                mine = keys @ first.queries[query]
                if left_out is not None:
                    mine[np.isin(own, left_out[query])] = -np.inf
                order = np.argsort(-mine, kind="stable")[: np.count_nonzero(np.isfinite(mine))]
                there = columns[query] >= 0
                best = columns[query][there]
                chosen = assisted(best, own[order], choice.assist, choice.depth)
                every, place = np.unique(np.concatenate([best, own[order]]), return_index=True)
                known = np.concatenate([scores[query][there], mine[order]])[place]
                out[query, : len(chosen)] = chosen
                told[query, : len(chosen)] = known[np.searchsorted(every, chosen)]
        return out, told


@dataclass(frozen=True, slots=True)
class _Members:
    """The chunks of lists (n, m): which there are, which are the target or a duplicate tied with it (`same`), and which
    tie with it by the first score. `beyond` counts what is ahead of the target by the first score and not in the
    list."""

    there: Bools
    same: Bools
    tied: Bools
    beyond: Values

    @classmethod
    def of(cls, columns: Ints, scores: Floats, own: Floats, asked: Asked, ranks: Values) -> _Members:
        there = columns >= 0
        # as `scan` has it, to the last bit: were a duplicate tied there and not here, a rank could be 0
        tied = there & (scores >= own[:, None] - TIE) & (scores <= own[:, None] + TIE)
        size = 1 + max(int(columns.max(initial=0)), int(asked.twin_column.max(initial=0)))
        number = size * np.arange(len(columns))[:, None] + columns
        twin = there & np.isin(number, size * asked.twin_query + asked.twin_column)
        same = (columns == asked.column[:, None]) | (twin & tied)
        ahead = there & ~same & (scores >= own[:, None] - TIE)
        return cls(there, same, tied, ranks - 1 - ahead.sum(axis=1))

    def by_place(self) -> Values:
        """Ranks by the order of the list; what ties with the target is ahead of it wherever it stands."""
        stands = self.same.argmax(axis=1)  # of a text that comes twice, the first
        ahead = (np.arange(self.there.shape[1]) < stands[:, None]) | self.tied
        return self._ranks(ahead, np.zeros(len(stands)))

    def by_score(self, scores: Floats, *, closed: bool) -> Values:
        """Ranks by a reranker's scores (n, m). In a list that is not `closed`, that of the best by the first score, no
        chunk outside is better than the target in it, but may tie with it; then it is ahead."""
        own = np.where(self.same, scores, -np.inf).max(axis=1, keepdims=True)
        ahead = scores >= own - TIE * np.maximum(np.abs(own), 1)
        ranks = self._ranks(ahead, np.zeros(len(scores)) if closed else self.beyond)
        broken = (self.there & ~np.isfinite(scores)).any(axis=1)
        return np.where(broken, np.inf, ranks)

    def _ranks(self, ahead: Bools, outside: Values) -> Values:
        """`outside` are ahead of a target in the list though they are not."""
        others = self.there & ~self.same
        inside = 1 + (ahead & others).sum(axis=1) + outside
        ranks: Values = np.where(self.same.any(axis=1), inside, 1 + others.sum(axis=1) + self.beyond)
        return ranks


def _without(columns: Ints, scores: Floats, left_out: Ints) -> tuple[Ints, Floats]:
    """The same in their order without some columns (n, 5); -1 and -inf behind them."""
    gone = (columns[:, :, None] == left_out[:, None, :]).any(axis=2)
    order = np.argsort(gone, axis=1, kind="stable")
    columns, scores = np.where(gone, -1, columns), np.where(gone, np.float32(-np.inf), scores)
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _listed(pipeline: Pipeline) -> bool:
    """Whether the order is that of a list, and not of the first score alone."""
    choice = pipeline.choice
    return pipeline.reranker is not None or choice.assist > 0 or choice.variety is not None


def _reach(choice: Choice) -> int:
    return choice.depth * (1 if choice.variety is None else WIDER)
