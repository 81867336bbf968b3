"""What an evaluation of encoders says: the rows of each, and how much of the collection's own each keeps.

It does not know how a question was answered; it is handed ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.benchmarks.speed_tables import aligned, in_markdown, wrapped
from retrieval.evaluate_encoders import OWN, Answers
from retrieval.evaluate_search import Run
from retrieval.metrics import Floats, Ranks, Resampled, paired_difference, recall_at, reciprocal_rank
from retrieval.questions import QuestionSet, groups_of
from retrieval.reports import Estimate, SearchReport, number

MODES = ("dense", "hybrid")  # words alone are the same whoever embeds
KEPT = ("R@1", "R@5", "R@10", "MRR@10")
_HEAD = ("", "", "", "kept", "", "difference", "")


@dataclass(frozen=True, slots=True)
class Kept:
    """An encoder's measure as a share of the collection's own, and less it, on the same questions."""

    mode: str
    measure: str
    share: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Judged:
    """An encoder's answers and what they keep."""

    answers: Answers
    kept: tuple[Kept, ...]

    def as_json(self) -> dict[str, Any]:
        one = self.answers
        rate = None if not one.seconds else one.chunks / one.seconds
        return {
            "name": one.name,
            "fingerprint": one.fingerprint.as_json(),
            "precision": one.precision,
            "status": None if one.student is None else one.student.status.value,
            "reasons": [] if one.student is None else list(one.student.reasons),
            "chunks": one.chunks,
            "seconds": one.seconds,
            "chunks_per_second": rate,
            "kept": [
                {
                    "mode": kept.mode,
                    "measure": kept.measure,
                    "share": _estimate(kept.share),
                    "difference": _estimate(kept.difference),
                }
                for kept in self.kept
            ],
        }

    def lines(self) -> list[str]:
        one = self.answers
        found = [f"{one.name}: {one.fingerprint}{f', run in {one.precision}' if one.precision else ''}"]
        if one.seconds:
            found[0] += (
                f"; {one.chunks:,} chunks embedded in {one.seconds:,.1f} s, {one.chunks / one.seconds:,.0f} a second"
            )
        if one.student is not None:
            reasons = "; ".join(one.student.reasons)
            found.append(
                f"{one.name} is a student said to be {one.student.status.value}{f': {reasons}' if reasons else ''}"
            )
        return found


@dataclass(frozen=True, slots=True)
class EncodersReport:
    """A report of search in which the rows `dense`, `lexical` and `hybrid` are those of the collection's own encoder,
    and every other has one for each mode that it takes part in. `left_out` counts the articles that nobody searched."""

    search: SearchReport
    own: Answers
    judged: tuple[Judged, ...]
    left_out: int

    @classmethod
    def of(
        cls,
        asked: QuestionSet,
        own: Answers,
        others: Sequence[Answers],
        *,
        units: int,
        left_out: int,
        collection: str,
        counts: Mapping[str, int],
        command: str,
        seed: int,
    ) -> EncodersReport:
        search = SearchReport.of(
            asked,
            rows_of(own, others),
            units=units,
            collection=collection,
            counts=counts,
            command=command,
            seed=seed,
        )
        groups = groups_of(asked)
        labels = np.arange(search.questions) if groups is None else np.unique(groups, return_inverse=True)[1]
        resampled = Resampled.of(labels.astype(np.int64), seed=seed)
        judged = tuple(Judged(one, _kept(one, own, resampled, groups, seed)) for one in others)
        return cls(search, own, judged, left_out)

    def as_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return {
            **self.search.as_json(),
            "articles_left_out": self.left_out,
            "own": Judged(self.own, ()).as_json(),
            "encoders": [one.as_json() for one in self.judged],
        }

    def table(self) -> str:
        """Aligned text for a terminal."""
        foot = [line for said in self._foot() for line in wrapped(said)]
        return "\n".join([self.search.table(), "", *aligned(self._grid(), 3), "", *foot])

    def markdown(self) -> str:
        """The same in Markdown."""
        return "\n".join([self.search.markdown(), "", *in_markdown(self._grid(), 3), "", "  \n".join(self._foot())])

    def _grid(self) -> list[Sequence[str]]:
        rows: list[Sequence[str]] = [_HEAD]
        for one in self.judged:
            for kept in one.kept:
                share, less = kept.share, kept.difference
                rows.append(
                    (
                        one.answers.name,
                        kept.mode,
                        kept.measure,
                        f"{100 * share.mean:.1f} %",
                        f"{100 * share.low:.1f}–{100 * share.high:.1f}",
                        number(less.mean, signed=True),
                        f"{number(less.low, signed=True)} to {number(less.high, signed=True)}",
                    )
                )
        return rows

    def _foot(self) -> list[str]:
        said = [
            f"kept: an encoder's measure as a share of that of {OWN}, {self.own.fingerprint}; every encoder's vectors "
            "are searched exactly, and the words of all in one index"
        ]
        if self.left_out:
            said.append(
                f"searched: the articles that answer, and some others drawn with seed {self.search.seed}; "
                f"{self.left_out:,} articles were left out, so that every figure is higher than in the whole collection"
            )
        return [*said, *(line for one in self.judged for line in one.lines())]


def rows_of(own: Answers, others: Sequence[Answers]) -> dict[str, list[int | None]]:
    """Ranks by the name of their row: the collection's own by its mode alone."""
    return {**own.ranks, **{f"{one.name} {mode}": one.ranks[mode] for one in others for mode in MODES}}


def runs_of(own: Answers, others: Sequence[Answers]) -> dict[str, Run]:
    """The same of their runs."""
    return {**own.runs, **{f"{one.name} {mode}": one.runs[mode] for one in others for mode in MODES}}


def _kept(
    one: Answers, own: Answers, resampled: Resampled, groups: Sequence[str] | None, seed: int
) -> tuple[Kept, ...]:
    found = []
    for mode in MODES:
        ours, theirs = _values(one.ranks[mode]), _values(own.ranks[mode])
        for measure in KEPT:
            share = resampled.ratio(ours[measure], theirs[measure])
            less = paired_difference(ours[measure], theirs[measure], groups, seed=seed)
            found.append(Kept(mode, measure, Estimate(*share), Estimate(*less)))
    return tuple(found)


def _values(ranks: Ranks) -> dict[str, Floats]:
    return {**{f"R@{k}": recall_at(ranks, k) for k in (1, 5, 10)}, "MRR@10": reciprocal_rank(ranks, 10)}


def _estimate(one: Estimate) -> dict[str, float]:
    return {"mean": one.mean, "low": one.low, "high": one.high}
