"""What a sweep says: tables by every figure, the fronts of quality against cost, and findings that outlast a seed.

It does not train or measure, nor print: it is handed the trainings of a sweep (`sweep.Done`) and gives text and JSON.

The spread. Configurations trained with several seeds give one standard deviation of a figure from seed to seed, pooled
over all of them; it is taken to be the same for the others. Two configurations differ when their means are farther
apart than that spread explains: Student's t at 95 %, with the degrees of freedom that the pooled spread has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from retrieval.metrics import LEVEL, RESAMPLES, Floats
from retrieval.reports import Estimate, number
from retrieval.sweep import Blocks, Column, Done, Value, fronts_of

# Student's t, two-sided 95 %, for 1 … 10 degrees of freedom; beyond, 1.96 + 2.5 / df is right to a hundredth
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)

_COSTS = {"parameters": Column("parameters", "parameters", False), "seconds": Column("seconds", "time", False)}
_MARKS = {"parameters": "P", "seconds": "T"}


@dataclass(frozen=True, slots=True)
class Row:
    """A configuration, means over its seeds. `share`: it was given one in so many of the budget; `fronts` are those it
    is on, `failed` why it has no figures. `groups` are figures by group; `sampled` the test figure of each group and
    `gap` that of the highest group less that of the lowest, with intervals over the test data's blocks."""

    name: str
    values: dict[str, Value]
    share: int
    seeds: int
    steps: int
    parameters: int
    seconds: float
    figures: dict[str, float]
    groups: dict[str, dict[str, float]]
    sampled: dict[str, Estimate]
    gap: tuple[str, str, Estimate] | None
    fronts: tuple[str, ...]
    failed: str


@dataclass(frozen=True, slots=True)
class Spread:
    """From seed to seed: the pooled standard deviation, and its degrees of freedom, 0 where no configuration has two
    seeds."""

    deviation: float
    freedom: int

    def between(self, one: int, other: int) -> float:
        """How far apart two means over so many seeds may lie by chance; infinite where nothing is known."""
        return self.explains(1 / one + 1 / other)

    def explains(self, variance: float) -> float:
        """The same of any mean, by its variance in units of one seed's."""
        if not self.deviation:  # seeds that all agree to the last digit were asked too little to tell
            return math.inf
        return _student(self.freedom) * self.deviation * math.sqrt(variance)


@dataclass(frozen=True, slots=True)
class SweepReport:
    """All rows as they were asked, with what is needed to repeat them."""

    task: str
    data: dict[str, Any]
    columns: tuple[Column, ...]
    sampled: Column
    budget: str
    halving: int
    rows: tuple[Row, ...]
    spreads: dict[str, Spread]
    references: dict[str, dict[str, float]]
    command: str
    seed: int

    @classmethod
    def of(
        cls,
        asked: Mapping[str, Any],
        dones: Sequence[Done],
        columns: Sequence[Column],
        sampled: Column,
        references: Mapping[str, Mapping[str, float]],
        *,
        seed: int = 0,
    ) -> SweepReport:
        """`asked` is what `sweep.read_sweep` gives; `seed` is the bootstrap's."""
        fronts = fronts_of(dones, columns[0])
        rows = []
        for name, values in asked["configs"].items():
            share = min((done.share for done in dones if done.config == name), default=1)
            own = [done for done in dones if done.config == name and done.share == share]
            on = tuple(cost for cost, front in fronts.items() if name in front)
            rows.append(_row(name, values, share, own, [column.figure for column in columns], on, seed))
        return cls(
            task=asked["task"],
            data=dict(asked["data"]),
            columns=tuple(columns),
            sampled=sampled,
            budget=_budget(asked["budget"]),
            halving=asked["halving"],
            rows=tuple(rows),
            spreads={column.figure: spread_of(dones, column.figure) for column in columns},
            references={name: dict(figures) for name, figures in references.items()},
            command=asked["command"],
            seed=seed,
        )

    def ordered(self, figure: str) -> list[Row]:
        """Best first by a figure, "parameters" or "seconds"; those of a smaller share of the budget, and those that
        failed, come last."""
        column = next((one for one in (*self.columns, *_COSTS.values()) if one.figure == figure), self.columns[0])
        sign = -1 if column.higher else 1

        def key(row: Row) -> tuple[bool, int, float]:
            return bool(row.failed), row.share, 0.0 if row.failed else sign * _value(row, figure)

        return sorted(self.rows, key=key)

    def front(self, cost: str) -> list[Row]:
        """The rows on a front, cheapest first."""
        return sorted((row for row in self.rows if cost in row.fronts), key=lambda row: _value(row, cost))

    def apart(self, one: Row, other: Row, figure: str) -> float | None:
        """By how much the first has more of a figure; None where seeds explain it."""
        if one.share != other.share:
            return None
        difference = one.figures[figure] - other.figures[figure]
        return difference if abs(difference) > self.spreads[figure].between(one.seeds, other.seeds) else None

    def findings(self) -> str:
        """A paragraph of what holds beyond the spread from seed to seed."""
        good = [row for row in self.ordered(self.columns[0].figure) if not row.failed and row.share == 1]
        if not good:
            return "No configuration was trained to its end."
        sentences = [self._best(good), *self._along("parameters"), *self._along("seconds"), *self._keys(good)]
        sentences += [*self._against(good[0]), *self._gap(good[0])]
        spread = self.spreads[self.columns[0].figure]
        if not spread.deviation:
            why = "no configuration has two seeds" if not spread.freedom else "seeds agree to the last digit"
            sentences.append(f"No difference is stated: {why}, so the spread from seed to seed is unknown.")
        return " ".join(sentences)

    def as_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        orders = {name: [row.name for row in self.ordered(name)] for name in self._figures()}
        fronts = {cost: [row.name for row in self.front(cost)] for cost in _COSTS}
        return {**asdict(self), "orders": orders, "fronts": fronts, "findings": self.findings()}

    def table(self, by: str = "") -> str:
        """Aligned text, best first by that figure (the first column's, where none is named)."""
        head, lines = self._grid(by or self.columns[0].figure)
        widths = [max(len(line[place]) for line in [head, *lines]) for place in range(len(head))]
        shown = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in [head, *lines]
        ]
        return "\n".join([*self._head(), "", *shown, "", *self._gaps(), self.findings(), *self._foot()])

    def markdown(self) -> str:
        """A table for every figure, sorted by it, then groups, findings and how it was made."""
        parts = [f"# Sweep: {self.task}", "  \n".join(self._head()), self.findings()]
        for figure, heading in self._figures().items():
            head, lines = self._grid(figure)
            parts.append(f"## By {heading}\n\n" + _markdown(head, lines))
        if any(row.groups for row in self.rows):
            parts.append("## By group\n\n" + _markdown(*self._groups()))
        parts.append("  \n".join(self._foot()))
        return "\n\n".join(parts) + "\n"

    def points(self, cost: str) -> dict[str, tuple[float, float, float]]:
        """Name → (cost, quality, spread of its mean) of what was given the whole budget, for a plot."""
        figure = self.columns[0].figure
        spread = self.spreads[figure].deviation
        return {
            row.name: (_value(row, cost), row.figures[figure], spread / math.sqrt(row.seeds))
            for row in self.rows
            if not row.failed and row.share == 1
        }

    def _figures(self) -> dict[str, str]:
        return {column.figure: column.heading for column in (*self.columns, *_COSTS.values())}

    def _head(self) -> list[str]:
        failed = sum(bool(row.failed) for row in self.rows)
        return [
            f"{self.task}: {len(self.rows):,} configurations, {self.budget} each"
            + (f", halving by {self.halving}" if self.halving else "")
            + (f"; {failed} failed" if failed else ""),
            "data: " + ", ".join(f"{key} {_shown(value)}" for key, value in self.data.items()),
        ]

    def _grid(self, by: str) -> tuple[list[str], list[list[str]]]:
        head = ["", *(column.heading for column in self.columns), "parameters", "time", "steps", "seeds", "front"]
        lines = []
        for row in self.ordered(by):
            if row.failed:
                lines.append([row.name, *("failed" for _ in self.columns), "", "", "", "", ""])
                continue
            lines.append(
                [
                    row.name,
                    *(number(row.figures[column.figure]) for column in self.columns),
                    f"{row.parameters:,}",
                    f"{row.seconds:,.0f} s",
                    f"{row.steps:,}",
                    str(row.seeds),
                    " ".join(_MARKS[cost] for cost in row.fronts) if row.share == 1 else f"1/{row.share} of the budget",
                ]
            )
        for name, figures in self.references.items():
            cells = [number(figures[column.figure]) if column.figure in figures else "" for column in self.columns]
            lines.append([name, *cells, "", "", "", "", ""])
        return head, lines

    def _groups(self) -> tuple[list[str], list[list[str]]]:
        # a group that was not sampled is a line of the task's own beside a group
        names = list(dict.fromkeys(group for row in self.rows for group in row.groups if group in row.sampled))
        there = {figure for row in self.rows for figures in row.groups.values() for figure in figures}
        held = [column for column in self.columns if column.figure in there]
        head = ["", *(f"{name} {column.heading}" for name in names for column in held)]
        head += [f"{self.sampled.heading}, highest − lowest group"]
        lines = []
        for row in self.ordered(self.columns[0].figure):
            if row.failed:
                continue
            cells = [row.groups.get(name, {}).get(column.figure) for name in names for column in held]
            told = "" if row.gap is None else _gap_of(row.gap)
            lines.append([row.name, *("" if cell is None else number(cell) for cell in cells), told])
        return head, lines

    def _gaps(self) -> list[str]:
        """For a terminal: those of the rows on a front."""
        lines = [
            f"{self.sampled.heading} of {row.name}: {_gap_of(row.gap)}"
            for row in self.ordered(self.columns[0].figure)
            if row.gap is not None and row.fronts
        ]
        return [*lines, ""] if lines else []

    def _foot(self) -> list[str]:
        first = self.columns[0]
        spread = self.spreads[first.figure]
        lines = [
            f"P, T: on the front of {first.heading} against parameters, against training time (within 5 % the same): "
            "nothing is both better and cheaper"
        ]
        if spread.freedom:
            several = sum(row.seeds > 1 for row in self.rows)
            told = ", ".join(f"{column.heading} {self.spreads[column.figure].deviation:.4f}" for column in self.columns)
            lines.append(
                f"spread from seed to seed: {told} (standard deviation, pooled over {several} configurations of "
                f"several seeds, {spread.freedom} degrees of freedom, taken to be the same for all); a difference is "
                "stated when Student's t at 95 % does not explain it by that spread; there is no allowance for "
                "having looked at many"
            )
        if any(row.sampled for row in self.rows):
            lines.append(
                f"intervals: {100 * LEVEL:.0f} %, {RESAMPLES:,} bootstrap resamples of the test data's blocks, seed "
                f"{self.seed}; they tell of the text, not of the seed"
            )
        lines += [f"failed: {row.name}: {row.failed}" for row in self.rows if row.failed]
        return [*lines, f"command: {self.command}"]

    # -- sentences -----------------------------------------------------------------------------------------------

    def _best(self, good: Sequence[Row]) -> str:
        first, (best, *others) = self.columns[0], good
        below = [row for row in others if self.apart(best, row, first.figure) is not None]
        said = f"{best.name} has the best {first.heading}, {number(best.figures[first.figure])}"
        if self.sampled.figure in best.figures:
            said += f" ({self.sampled.heading} {number(best.figures[self.sampled.figure])})"
        if not others:
            return said + "."
        same = [row.name for row in others if row not in below]
        if not below:
            return said + ", but seeds may explain why the others lie behind it."
        if not same:
            return said + ", farther from every other than seeds explain."
        return said + f"; seeds may explain why {_listed(same)} {'lies' if len(same) == 1 else 'lie'} behind it."

    def _along(self, cost: str) -> list[str]:
        """What more of a cost buys, step by step along a front."""
        first = self.columns[0]
        steps: list[str] = []
        for cheap, dear in pairwise(self.front(cost)):
            gain = self.apart(dear, cheap, first.figure)
            if gain is not None:
                times = _value(dear, cost) / max(_value(cheap, cost), 1e-9)
                steps.append(f"{cheap.name} → {dear.name} {number(gain, signed=True)} for {times:.3g} × as much")
        what = "parameters" if cost == "parameters" else "training time"
        return [f"Along the front against {what}: {'; '.join(steps)}."] if steps else []

    def _keys(self, good: Sequence[Row]) -> list[str]:
        """What a key is worth, over the pairs of configurations that differ in nothing else."""
        first = self.columns[0]
        pairs: dict[tuple[str, str, str], list[tuple[Row, Row]]] = {}
        for one, other in combinations(good, 2):
            keys = [key for key in one.values if one.values[key] != other.values.get(key)]
            if len(keys) == 1:
                low, high = sorted((one, other), key=lambda row: _sortable(row.values[keys[0]]))
                pairs.setdefault((keys[0], str(low.values[keys[0]]), str(high.values[keys[0]])), []).append((low, high))
        told = []
        for (key, less, more), them in pairs.items():
            differences = [dear.figures[first.figure] - cheap.figures[first.figure] for cheap, dear in them]
            mean = math.fsum(differences) / len(them)
            # a configuration in two pairs counts twice: the weights of its mean are added before they are squared
            weights: dict[str, float] = {}
            for cheap, dear in them:
                weights[cheap.name] = weights.get(cheap.name, 0.0) - 1 / len(them)
                weights[dear.name] = weights.get(dear.name, 0.0) + 1 / len(them)
            seeds = {one.name: one.seeds for pair in them for one in pair}
            variance = math.fsum(weight**2 / seeds[name] for name, weight in weights.items())
            if abs(mean) > self.spreads[first.figure].explains(variance):
                alike = "1 pair" if len(them) == 1 else f"{len(them)} pairs"
                told.append(f"{key} {less} → {more} {number(mean, signed=True)} ({alike})")
        looked = f"; of {len(pairs)} differences looked at, one in twenty is told by chance" if len(pairs) > 1 else ""
        return [f"All else equal, {first.heading}: {'; '.join(told)}{looked}."] if told else []

    def _against(self, best: Row) -> list[str]:
        """The best beside what a model must beat."""
        figure = self.columns[0].figure
        told = []
        for name, figures in self.references.items():
            if figure in figures:
                difference = best.figures[figure] - figures[figure]
                if abs(difference) > self.spreads[figure].explains(1 / best.seeds):
                    told.append(f"{name} {number(difference, signed=True)}")
        return [f"{self.columns[0].heading} of {best.name} less that of {', '.join(told)}."] if told else []

    def _gap(self, best: Row) -> list[str]:
        if best.gap is None or best.gap[2].low <= 0 <= best.gap[2].high:
            return []
        return [f"{self.sampled.heading} of {best.name}: {_gap_of(best.gap)}."]


def spread_of(dones: Sequence[Done], figure: str) -> Spread:
    """Pooled over the configurations that have several seeds of one share of the budget, whatever the share."""
    values: dict[tuple[str, int], list[float]] = {}
    for done in dones:
        if done.result is not None:
            values.setdefault((done.config, done.share), []).append(done.result.figures[figure])
    several = [them for them in values.values() if len(them) > 1]
    freedom = sum(len(them) - 1 for them in several)
    if not freedom:
        return Spread(0.0, 0)
    squares = math.fsum((value - math.fsum(them) / len(them)) ** 2 for them in several for value in them)
    return Spread(math.sqrt(squares / freedom), freedom)


def gap_between(
    samples: Mapping[str, Blocks], seed: int
) -> tuple[dict[str, Estimate], tuple[str, str, Estimate] | None]:
    """Each group's figure, and (highest group, lowest group, difference), with bootstrap intervals: blocks are drawn
    group by group. No difference where there is one group only."""
    figures = {name: _ratio(sum(blocks.sums), sum(blocks.sizes)) for name, blocks in samples.items()}
    drawn = {name: _drawn(blocks, [seed, place]) for place, (name, blocks) in enumerate(samples.items())}
    estimates = {name: _estimate(figures[name], drawn[name]) for name in samples}
    if len(samples) < 2:
        return estimates, None
    high, low = max(figures, key=lambda name: figures[name]), min(figures, key=lambda name: figures[name])
    return estimates, (high, low, _estimate(figures[high] - figures[low], drawn[high] - drawn[low]))


def _row(
    name: str,
    values: dict[str, Value],
    share: int,
    dones: Sequence[Done],
    figures: Sequence[str],
    fronts: tuple[str, ...],
    seed: int,
) -> Row:
    results = [done.result for done in dones if done.result is not None]
    failed = next((done.failed for done in dones if done.result is None), "" if results else "it was not trained")
    if failed:
        return Row(name, values, share, 0, 0, 0, 0.0, {}, {}, {}, None, (), failed)
    groups: dict[str, dict[str, float]] = {}
    for group in results[0].groups:
        own = [result.groups[group] for result in results]
        groups[group] = {figure: _mean([one[figure] for one in own]) for figure in own[0]}
    samples = {}
    for group, blocks in results[0].samples.items():  # the same blocks for every seed
        sums = np.mean([result.samples[group].sums for result in results], axis=0)
        samples[group] = Blocks(sums.tolist(), blocks.sizes)
    sampled, gap = gap_between(samples, seed)
    return Row(
        name=name,
        values=values,
        share=share,
        seeds=len(results),
        steps=results[0].steps,
        parameters=results[0].parameters,
        seconds=_mean([result.seconds for result in results]),
        figures={figure: _mean([result.figures[figure] for result in results]) for figure in figures},
        groups=groups,
        sampled=sampled,
        gap=gap,
        fronts=fronts,
        failed="",
    )


def _drawn(blocks: Blocks, seed: Sequence[int]) -> Floats:
    """The figure of RESAMPLES draws of the blocks."""
    sums, sizes = np.array(blocks.sums), np.array(blocks.sizes)
    many = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES)
    below: Floats = many @ sizes
    drawn: Floats = np.divide(many @ sums, below, out=np.zeros(RESAMPLES), where=below > 0)
    free = len(sums) - 1
    if not free:  # one block tells nothing of another
        return np.random.default_rng(seed).permutation(np.tile([0.0, 1.0], RESAMPLES // 2))
    wider = _student(free) / 1.96 * math.sqrt(len(sums) / free)  # few blocks, drawn again, lie too close together
    figure = _ratio(float(sums.sum()), float(sizes.sum()))
    return np.asarray(np.clip(figure + wider * (drawn - figure), 0.0, 1.0))


def _estimate(mean: float, drawn: Floats) -> Estimate:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high))


def _student(freedom: int) -> float:
    return _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.96 + 2.5 / freedom


def _ratio(above: float, below: float) -> float:
    return above / below if below else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _value(row: Row, figure: str) -> float:
    if figure in _COSTS:
        return float(row.parameters if figure == "parameters" else row.seconds)
    return row.figures[figure]


def _sortable(value: Value) -> tuple[bool, float, str]:
    """Numbers in their order, words in theirs."""
    return (True, 0.0, value) if isinstance(value, str) else (False, float(value), "")


def _gap_of(gap: tuple[str, str, Estimate]) -> str:
    high, low, estimate = gap
    return (
        f"{high} − {low} {number(estimate.mean, signed=True)} "
        f"({number(estimate.low, signed=True)} to {number(estimate.high, signed=True)})"
    )


def _budget(raw: Mapping[str, Any]) -> str:
    return f"{raw['steps']:,} steps" if raw["steps"] is not None else f"{raw['seconds']:g} s"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_shown(one)}" for key, one in value.items()) + ")"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---", *("---:" for _ in head[1:])], *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
