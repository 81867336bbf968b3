"""The models of a collection side by side: how often they are right, how fast they are, and what they need.

It does not measure: it is handed an evaluation (`next_report`) and speeds (`benchmarks.predictors`), nor does it print.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retrieval.baselines import COPY_LAST
from retrieval.benchmarks.predictors import Machine, Speed
from retrieval.benchmarks.speed_tables import (
    Grid,
    Named,
    aligned,
    in_markdown,
    size_grid,
    speed_foot,
    speed_grid,
    wrapped,
)
from retrieval.evaluate_next import Bank, View
from retrieval.models import Model
from retrieval.next_report import MRR, Against, NextReport, NextTable, reranked
from retrieval.reports import Estimate, number
from retrieval.rerankers import RerankerConfig

MEASURES = ("R@5", MRR, "cosine")
OUTSIDE = ("R@5", MRR)

_RERANKED = (
    "a reranker gives an order and no vector, hence no cosine, and runs in OpenVINO only, in f32; its row's time is "
    "that of the prediction, the first score of a list of random candidates, and their reranking. No row's time holds "
    "the search for candidates (bench pipeline's does)"
)

Shown = Callable[[Estimate, bool], str]  # (estimate, with a sign) → a cell


@dataclass(frozen=True, slots=True)
class Standing:
    """A row: a model, a model with its reranker, or the baseline, which has no size and no speed. `kind` is that of the
    predictor, `tower` that of the P tower or "". A reranked row gives an order and no vector: it has no cosine.
    `outside` are its measures on another collection; `against` compares its R@5 with the better of copy-last and
    chance."""

    name: str
    kind: str
    tower: str
    reranked: bool
    parameters: int
    shipped: bool
    measures: dict[str, Estimate]
    outside: dict[str, Estimate]
    against: Against | None
    speeds: tuple[Speed, ...]

    def efficiency(self, speed: Speed) -> float:
        """R@5 for each second of a single query's median time."""
        return 1000 * self.measures["R@5"].mean / speed.p50


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All rows, best R@5 first, with what is needed to repeat the figures."""

    collection: str
    split: str
    articles: int
    queries: int
    chunks: int
    outside: str
    machine: Machine
    command: str
    seed: int
    resamples: int
    level: float
    notes: tuple[str, ...]
    standings: tuple[Standing, ...]

    @classmethod
    def of(
        cls,
        report: NextReport,
        models: Sequence[Model],
        rerankers: Mapping[str, RerankerConfig],
        speeds: Mapping[str, Sequence[Speed]],
        machine: Machine,
    ) -> Leaderboard:
        """From an evaluation with the bank `heldout` and the row copy-last, the rerankers by the names of their models,
        and each row's speeds by the name of the row."""
        here = _table(report)
        other = next(iter(report.outside), None)
        there = {row.name: row.measures for row in _table(other).rows} if other is not None else {}
        measures = {row.name: row.measures for row in here.rows}
        against = {one.model: one for one in here.against if one.measure == "R@5"}
        copied = (measures[COPY_LAST], there.get(COPY_LAST, {}))
        standings = [Standing(COPY_LAST, "", "", False, 0, False, *copied, None, ())]
        for model in models:
            sizes = {model.name: model.config.parameters}
            if model.name in rerankers:
                sizes[reranked(model.name)] = model.config.parameters + rerankers[model.name].parameters
            standings += [
                Standing(
                    name,
                    model.config.kind,
                    str(model.config.tower.get("kind", "")),
                    name != model.name,
                    parameters,
                    model.shipped,
                    measures[name],
                    there.get(name, {}),
                    against[name],
                    tuple(speeds[name]),
                )
                for name, parameters in sizes.items()
            ]
        outside = ""
        if other is not None:
            outside = f"{other.collection}: {other.articles:,} articles, {other.queries:,} queries"
        return cls(
            report.collection,
            report.split,
            report.articles,
            here.queries,
            round(here.chunks),
            outside,
            machine,
            report.command,
            report.seed,
            report.resamples,
            report.level,
            (*report.notes, *(other.notes if other is not None else ())),
            tuple(sorted(standings, key=lambda one: -one.measures["R@5"].mean)),
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has; each comparison with its verdict, each speed with its efficiency."""
        raw = asdict(self)
        for row, standing in zip(raw["standings"], self.standings, strict=True):
            if standing.against is not None:
                row["against"]["verdict"] = standing.against.verdict
            for told, speed in zip(row["speeds"], standing.speeds, strict=True):
                told["efficiency"] = standing.efficiency(speed)
        return raw

    def table(self) -> str:
        """Aligned tables for a terminal of 100 columns: each mean with half its interval; speeds; sizes."""
        lines = [self._head(), "", *aligned(self._accuracy(_half), 1)]
        for grid in self._speeds():
            lines += ["", *aligned(grid, 2)]
        foot = [part for line in self._foot() for part in wrapped(line)]
        return "\n".join([*lines, "", *foot, f"command: {self.command}"])

    def markdown(self) -> str:
        """The same as Markdown tables, with both ends of every interval."""
        lines = [self._head(), "", *in_markdown(self._accuracy(_ends), 1)]
        for grid in self._speeds():
            lines += ["", *in_markdown(grid, 2)]
        return "\n".join([*lines, "", "  \n".join([*self._foot(), f"command: {self.command}"])])

    def points(self, runtime: str) -> dict[str, tuple[float, float]]:
        """name → (p50 of a single query in ms, R@5), for each model in a runtime."""
        return {
            one.name: (speed.p50, one.measures["R@5"].mean)
            for one in self.standings
            for speed in one.speeds
            if speed.runtime == runtime
        }

    def _head(self) -> str:
        return (
            f"leaderboard of {self.collection}: {self.split} split, {self.articles:,} articles, {self.queries:,} "
            f"queries; bank heldout ({self.chunks:,} chunks), new"
        )

    def _accuracy(self, shown: Shown) -> Grid:
        head = ["", *map(_short, MEASURES), "R@5 over baseline"]
        grid = [[*head, *(f"{_short(name)} outside" for name in OUTSIDE)] if self.outside else head]
        for one in self.standings:
            over = "" if one.against is None else f"{shown(one.against.estimate, True)} {one.against.verdict}"
            cells = [one.name, *(_told(one.measures.get(name), shown) for name in MEASURES), over]
            if self.outside:
                cells += [shown(one.outside[name], False) for name in OUTSIDE]
            grid.append(cells)
        return grid

    def _speeds(self) -> list[Grid]:
        """How fast, and how large."""
        if not self._named():
            return []
        efficiencies = [one.efficiency(speed) for one in self.standings for speed in one.speeds]
        parameters = [one.parameters for one in self.standings for _ in one.speeds]
        return [speed_grid(self._named(), efficiencies), size_grid(self._named(), parameters)]

    def _named(self) -> Named:
        return [(one.name, speed) for one in self.standings for speed in one.speeds]

    def _foot(self) -> list[str]:
        compared = dict.fromkeys(one.against.baseline for one in self.standings if one.against is not None)
        lines = [
            f"intervals: {100 * self.level:.0f} %, {self.resamples:,} bootstrap resamples of whole articles, seed "
            f"{self.seed}; the baseline is {' or '.join(compared)}, on the same queries",
        ]
        if self.outside:
            lines.append(f"out: out of domain, {self.outside}")
        if self._named():
            lines += [*speed_foot(self._named()), "efficiency: 1000 × R@5 / p50 in ms"]
        if any(one.tower for one in self.standings):
            lines.append(
                "a P tower counts in parameters, disk and load, and in no time: candidates went through it beforehand; "
                "cosine is to the chunk as the encoder made it"
            )
        if any(one.reranked for one in self.standings):
            lines.append(_RERANKED)
        return [*lines, *self.notes, f"machine: {self.machine}"]


def _table(report: NextReport) -> NextTable:
    return next(table for table in report.tables if table.bank is Bank.HELDOUT and table.view is View.NEW)


def _told(cell: Estimate | None, shown: Shown) -> str:
    return "–" if cell is None else shown(cell, False)


def _short(measure: str) -> str:
    return "MRR" if measure == MRR else measure


def _half(cell: Estimate, signed: bool) -> str:
    return f"{number(cell.mean, signed=signed)} ±{number((cell.high - cell.low) / 2)}"


def _ends(cell: Estimate, signed: bool) -> str:
    low, high = number(cell.low, signed=signed), number(cell.high, signed=signed)
    return f"{number(cell.mean, signed=signed)} ({low} to {high})"
