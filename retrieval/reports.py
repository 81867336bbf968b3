"""What an evaluation says: measures with intervals for every row, and whether the hybrid is better than its parts.

It does not know how a question was answered; it is handed ranks. Nor does it print: it gives text and JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from retrieval.metrics import (
    LEVEL,
    RESAMPLES,
    Floats,
    Ranks,
    bootstrap_interval,
    chance_recall,
    chance_reciprocal_rank,
    contain_at,
    first_relevant_rank,
    paired_difference,
    recall_at,
    reciprocal_rank,
)
from retrieval.questions import Question, QuestionSet, groups_of
from store.records import LookaheadError

CUTS = (1, 5, 10, 50)
CANDIDATES = 100
MEASURES = (*(f"R@{k}" for k in CUTS), "MRR@10", f"Contain@{CANDIDATES}")
COMPARED = ("R@1", "MRR@10")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over all questions and its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One way of answering. A `check` is of the test itself: its values are exact, their intervals are points."""

    name: str
    check: bool
    measures: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher the hybrid scores than the better of its parts by the same measure."""

    measure: str
    part: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class SearchReport:
    """An evaluation of search with all that is needed to repeat it. `clusters` is the number of groups of
    questions (see `groups_of`) that the intervals draw as wholes, or None where each question was drawn by itself;
    `units` is what could have been found."""

    name: str
    unit: str
    questions: int
    clusters: int | None
    left_out: dict[str, int]
    collection: str
    counts: dict[str, int]
    units: int
    command: str
    seed: int
    resamples: int
    level: float
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]

    @classmethod
    def of(
        cls,
        question_set: QuestionSet,
        ranks: Mapping[str, Ranks],
        *,
        units: int,
        collection: str,
        counts: Mapping[str, int],
        command: str,
        seed: int,
    ) -> SearchReport:
        """A report of rows by name (`dense`, `lexical`, `hybrid`, …), one rank for each question in the set's order.

        `units` is how many units the searched collection has. Two rows are added that check the test itself:
        `oracle`, which knows the answers and must score 1 (a row of that name in `ranks` is held to it too), and
        `random`, the expectation of a random order of the units.
        """
        questions = question_set.questions
        if not questions:
            raise LookaheadError(f"{question_set.name}: no question is left to ask ({_listed(question_set.left_out)})")
        for name, row in ranks.items():
            if len(row) != len(questions):
                raise ValueError(f"{name}: {len(row)} ranks for {len(questions)} questions")
        ranks = {"oracle": _oracle(questions), **ranks}
        groups = groups_of(question_set)
        values = {name: _values(row) for name, row in ranks.items()}
        if any((scores != 1).any() for scores in values["oracle"].values()):
            raise LookaheadError(f"{question_set.name}: the oracle missed an answer it was given; the test is wrong")
        measured = {name: scores for name, scores in values.items() if name != "oracle"}
        return cls(
            name=question_set.name,
            unit=question_set.unit,
            questions=len(questions),
            clusters=None if groups is None else len(set(groups)),
            left_out=dict(question_set.left_out),
            collection=collection,
            counts=dict(counts),
            units=units,
            command=command,
            seed=seed,
            resamples=RESAMPLES,
            level=LEVEL,
            rows=(
                *(_row(name, scores, groups, seed) for name, scores in measured.items()),
                _check("oracle", values["oracle"]),
                _check("random", _chance(questions, units)),
            ),
            differences=_differences(measured, groups, seed),
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return {**asdict(self), "unit": str(self.unit)}

    def table(self) -> str:
        """Aligned text for a terminal of 88 columns: each mean with its interval below."""
        width = max(len(row.name) for row in self.rows) + 2
        grid: list[Sequence[str]] = [("", *MEASURES)]
        for row in self.rows:
            cells = [row.measures[measure] for measure in MEASURES]
            grid.append((row.name, *(number(cell.mean) for cell in cells)))
            if not row.check:
                grid.append(("", *(f"{number(cell.low)}–{number(cell.high)}" for cell in cells)))
        lines = ["".join([line[0].ljust(width), *(cell.ljust(12) for cell in line[1:])]).rstrip() for line in grid]
        return "\n".join([*self._head(), "", *lines, "", *self._foot()])

    def markdown(self) -> str:
        """The same as a Markdown table."""
        lines = ["| | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 1) + "|"]
        for row in self.rows:
            cells = [row.measures[measure] for measure in MEASURES]
            shown = [
                number(cell.mean) + ("" if row.check else f" ({number(cell.low)}–{number(cell.high)})")
                for cell in cells
            ]
            lines.append(f"| {row.name} | " + " | ".join(shown) + " |")
        return "\n".join([*self._head(), "", *lines, "", "  \n".join(self._foot())])

    def _head(self) -> list[str]:
        left_out = f"; left out: {_listed(self.left_out)}" if self.left_out else ""
        holds = f" ({_listed(self.counts)})" if self.counts else ""
        return [
            f"{self.name}: {self.questions:,} questions, answered by {self.unit}{left_out}",
            f"collection {self.collection}{holds}: {self.units:,} units to choose from",
        ]

    def _foot(self) -> list[str]:
        lines = [
            f"hybrid − {difference.part}, {difference.measure}: {number(difference.estimate.mean, signed=True)} "
            f"({number(difference.estimate.low, signed=True)} to {number(difference.estimate.high, signed=True)})"
            for difference in self.differences
        ]
        drawn = (
            "" if self.clusters is None else f", questions about one article drawn together ({self.clusters:,} groups)"
        )
        return [
            *lines,
            f"intervals: {100 * self.level:.0f} %, {self.resamples:,} bootstrap resamples, seed {self.seed}{drawn}",
            "oracle and random check the test itself: answers known beforehand, and units in random order",
            f"command: {self.command}",
        ]


def _values(ranks: Ranks) -> dict[str, Floats]:
    """Every measure of every question."""
    return {
        **{f"R@{k}": recall_at(ranks, k) for k in CUTS},
        "MRR@10": reciprocal_rank(ranks, 10),
        f"Contain@{CANDIDATES}": contain_at(ranks, CANDIDATES),
    }


def _oracle(questions: Sequence[Question]) -> list[int | None]:
    """Ranks of an answer that is the relevant units themselves; none where a question has none, which is a mistake."""
    return [first_relevant_rank(sorted(question.relevant), question.relevant) for question in questions]


def _chance(questions: Sequence[Question], units: int) -> dict[str, Floats]:
    """Every measure of every question, as expected of the units in random order."""
    sizes, which = np.unique([len(question.relevant) for question in questions], return_inverse=True)
    cuts = {**{f"R@{k}": k for k in CUTS}, f"Contain@{CANDIDATES}": CANDIDATES}
    expected = {name: [chance_recall(units, int(size), k) for size in sizes] for name, k in cuts.items()}
    expected["MRR@10"] = [chance_reciprocal_rank(units, int(size), 10) for size in sizes]
    return {name: np.array(values)[which] for name, values in expected.items()}


def _row(name: str, values: Mapping[str, Floats], groups: Sequence[str] | None, seed: int) -> Row:
    measures = {}
    for measure in MEASURES:
        low, high = bootstrap_interval(values[measure], groups, seed=seed)
        measures[measure] = Estimate(float(values[measure].mean()), low, high)
    return Row(name, False, measures)


def _check(name: str, values: Mapping[str, Floats]) -> Row:
    means = {measure: float(values[measure].mean()) for measure in MEASURES}
    return Row(name, True, {measure: Estimate(mean, mean, mean) for measure, mean in means.items()})


def _differences(
    values: Mapping[str, Mapping[str, Floats]], groups: Sequence[str] | None, seed: int
) -> tuple[Difference, ...]:
    """The hybrid against the better part, chosen for each measure; none where there is no hybrid or no part."""
    parts = [name for name in ("dense", "lexical") if name in values]
    if "hybrid" not in values or not parts:
        return ()
    found = []
    for measure in COMPARED:
        part = max(parts, key=lambda name: float(values[name][measure].mean()))
        estimate = paired_difference(values["hybrid"][measure], values[part][measure], groups, seed=seed)
        found.append(Difference(measure, part, Estimate(*estimate)))
    return tuple(found)


def number(value: float, *, signed: bool = False) -> str:
    """Three decimals without the zero before the point: .863, 1.000, +.051."""
    return re.sub(r"^([+-]?)0\.", r"\1.", format(value, "+z.3f" if signed else "z.3f"))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
