"""What an STS evaluation says: correlations with intervals by set and language, and a verdict in words for each model.

It does not know how a value came about (`evaluate_sts`), nor does it print: it gives text, Markdown and JSON.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from retrieval.evaluate_sts import ORACLE, RANDOM, WORDS, Judged
from retrieval.metrics import LEVEL
from retrieval.reports import Estimate, number
from retrieval.sts import BENCHMARK, StsSet
from store.records import LookaheadError

ALIKE = 0.01  # a Spearman that differs by less is as good: what INT8 is allowed to cost
WEAK = 0.2  # below it, an interval that holds 0 is no relation; above it, there are too few pairs to tell
SECTIONS = ("same language", "cross-lingual", "language not known")
BY_NATURE = "cross-lingual: an English model is low there by nature, which says nothing against it"
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class StsRow:
    """One way of scoring pairs. `against` is how much higher its Spearman is than the reference's on the same pairs, of
    models other than the reference; `above_words` than that of shared words, of models. `hub` is mteb's own
    (Spearman, Pearson) where mteb was asked."""

    name: str
    check: bool
    spearman: Estimate
    pearson: Estimate
    against: Estimate | None = None
    above_words: Estimate | None = None
    hub: tuple[float, float] | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class StsTable:
    """The rows of one set: the models in the order asked for, then the baseline and the checks."""

    key: str
    name: str
    split: str
    languages: tuple[str, ...]
    section: str
    pairs: int
    rows: tuple[StsRow, ...]

    def row(self, name: str) -> StsRow:
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a model encodes: texts of 80 words a second, how many times the reference's that is, and sentences of
    the sets a second, which are shorter."""

    model: str
    texts: float
    ratio: float
    sentences: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A model in a line: mean Spearman by section, and what share of the reference's it keeps on `key`."""

    model: str
    key: str
    spearman: float
    kept: float | None
    means: dict[str, tuple[float, int]]  # section → (mean, sets)


@dataclass(frozen=True, slots=True)
class StsReport:
    """An evaluation with all that is needed to repeat it. `texts` says what speed was measured on."""

    models: tuple[str, ...]
    data: str
    notes: tuple[str, ...]
    command: str
    seed: int
    resamples: int
    level: float
    texts: str
    tables: tuple[StsTable, ...]
    paces: tuple[Pace, ...]

    @classmethod
    def of(
        cls,
        judged: Sequence[tuple[StsSet, Mapping[str, Judged]]],
        models: Sequence[str],
        *,
        rates: Mapping[str, float],
        sentence_rates: Mapping[str, float],
        texts: str,
        data: str,
        notes: Sequence[str],
        command: str,
        seed: int,
        hub: Mapping[tuple[str, str], tuple[float, float]] | None = None,
    ) -> StsReport:
        """A report of what was judged; every model is held against the last of `models`. `hub` are mteb's own figures
        by (model, key of the set)."""
        if not judged:
            raise ValueError("nothing was judged")
        reference = models[-1]
        tables = tuple(_table(one, rows, models, hub or {}) for one, rows in judged)
        return cls(
            tuple(models),
            data,
            tuple(notes),
            command,
            seed,
            len(judged[0][1][reference].spearman.resamples),
            LEVEL,
            texts,
            tuple(sorted(tables, key=lambda table: (SECTIONS.index(table.section), table.name != BENCHMARK))),
            tuple(
                Pace(name, rates[name], rates[name] / rates[reference], sentence_rates[name])
                for name in models
                if name in rates
            ),
        )

    @property
    def reference(self) -> str:
        return self.models[-1]

    def chosen(self) -> StsTable:
        """The set that stands for all where one figure is asked for: STS Benchmark's test split, or the first."""
        return next((table for table in self.tables if table.key == f"{BENCHMARK}-test"), self.tables[0])

    def summaries(self) -> list[Summary]:
        chosen, found = self.chosen(), []
        for name in self.models:
            means = {}
            for section in SECTIONS:
                values = [table.row(name).spearman.mean for table in self.tables if table.section == section]
                if values:
                    means[section] = (sum(values) / len(values), len(values))
            ours, theirs = (chosen.row(model).spearman.mean for model in (name, self.reference))
            kept = ours / theirs if name != self.reference and theirs > 0 else None
            found.append(Summary(name, chosen.key, ours, kept, means))
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has: what is not defined is null."""
        summaries = [asdict(one) for one in self.summaries()]
        raw: dict[str, Any] = _without_nan({**asdict(self), "reference": self.reference, "summaries": summaries})
        return raw

    def points(self) -> dict[str, tuple[float, Estimate]]:
        """For a picture: model → (texts a second, Spearman on `chosen`); those without a figure are not in it."""
        chosen = self.chosen()
        found = {pace.model: (pace.texts, chosen.row(pace.model).spearman) for pace in self.paces}
        return {name: point for name, point in found.items() if not math.isnan(point[1].mean)}

    def table(self) -> str:
        """Aligned text for a terminal of 100 columns."""
        lines = _wrapped([self.head()])
        wide = 2 + max(map(len, (*self.models, WORDS, *SECTIONS)))
        for section, tables in self._sections():
            lines += ["", f"{section.ljust(wide + 2)}{'Spearman'.ljust(24)}Pearson"]
            for table in tables:
                lines.append(f"{', '.join(_named(table))} pairs")
                for row in _told(table):
                    figures = (
                        f"  {row.name.ljust(wide)}{ends(row.spearman).ljust(24)}{_shown(row.pearson.mean).ljust(9)}"
                    )
                    lines += _beside(figures, row.verdict)
        if self.paces:
            lines += ["", f"speed, {self.texts}", *_aligned(self._speed_grid())]
        said = [*self._summed(), *self.foot()]
        return "\n".join([*lines, "", *_wrapped(said), f"command: {self.command}"])

    def markdown(self) -> str:
        """The same as Markdown tables."""
        lines = [self.head()]
        for section, tables in self._sections():
            head = ["set", "languages", "pairs", "model", "Spearman", "Pearson", "verdict"]
            grid = [
                (*_named(table), row.name, ends(row.spearman), ends(row.pearson), row.verdict)
                for table in tables
                for row in _told(table)
            ]
            lines += ["", f"**{section}**", "", *_marked([head, *grid])]
        if self.paces:
            lines += ["", f"**speed**, {self.texts}", "", *_marked(self._speed_grid())]
        said = [*self._summed(), *self.foot(), f"command: `{self.command}`"]
        return "\n".join([*lines, "", *(f"- {one}" for one in said)])

    def head(self) -> str:
        pairs = sum(table.pairs for table in self.tables)
        sets = f"{len(self.tables)} sets" if len(self.tables) > 1 else self.tables[0].key
        versus = f"; every model against {self.reference}" if len(self.models) > 1 else ""
        return f"STS: {sets}, {pairs:,} pairs of sentences scored by people, from {self.data}{versus}"

    def _summed(self) -> list[str]:
        """The summary in words."""
        lines = []
        for one in self.summaries():
            kept = "" if one.kept is None else f", {100 * one.kept:.1f} % of {self.reference}'s"
            means = [
                f"{section} {_shown(mean)} on average of {sets}"
                for section, (mean, sets) in one.means.items()
                if sets > 1
            ]
            lines.append("; ".join([f"{one.model}: Spearman {_shown(one.spearman)} on {one.key}{kept}", *means]))
        return lines

    def foot(self) -> list[str]:
        """What the rows are, and how the figures were made."""
        oracle = [table.row(ORACLE).spearman.mean for table in self.tables]
        random = [table.row(RANDOM).spearman.mean for table in self.tables]
        official = [
            max(abs(row.hub[0] - row.spearman.mean), abs(row.hub[1] - row.pearson.mean))
            for table in self.tables
            for row in table.rows
            if row.hub is not None
        ]
        asked = [f"mteb's own figures differ from these by {max(official):.1g} at most"] if official else []
        crossed = [BY_NATURE] if any(table.section == SECTIONS[1] for table in self.tables) else []
        return [
            *crossed,
            f"intervals: {100 * self.level:.0f} %, {self.resamples:,} bootstrap resamples of pairs, seed {self.seed}; "
            f'differences are paired; "as good as": within {number(ALIKE)} at both ends of the interval',
            f"{WORDS}: the share of words in both sentences (Jaccard), an answer that needs no model",
            f"checks of the test itself: people's own scores {_range(oracle)}, random vectors {_range(random)}",
            *asked,
            *self.notes,
        ]

    def _sections(self) -> list[tuple[str, list[StsTable]]]:
        by_section = [(name, [table for table in self.tables if table.section == name]) for name in SECTIONS]
        return [(name, tables) for name, tables in by_section if tables]

    def _speed_grid(self) -> list[Sequence[str]]:
        versus = f"× {self.reference}"
        rows = [[one.model, _rate(one.texts), f"{one.ratio:.2f}", _rate(one.sentences)] for one in self.paces]
        return [["model", "texts/s", versus, "sentences/s"], *rows]


def verdict(row: StsRow, broken: int, reference: str, section: str) -> str:
    """What a model's figures on a set mean, in words."""
    if broken:
        return f"broken: {broken:,} pairs with numbers that are none"
    if math.isnan(row.spearman.mean):
        return "broken: the same cosine for every pair"
    said = [] if row.against is None else [_compared(row.against, reference)]
    if row.spearman.high < 0:
        said.append("the wrong way round: alike is called different")
    elif row.spearman.low <= 0:
        said.append(
            "not related to meaning at all" if row.spearman.high < WEAK else "no relation shown by so few pairs"
        )
    elif section == SECTIONS[0] and row.above_words is not None and row.above_words.low <= 0:
        said.append(f"{'not clearly' if row.above_words.mean > 0 else 'no'} better than {WORDS}")
    return "; ".join(said)


def _compared(difference: Estimate, reference: str) -> str:
    if math.isnan(difference.mean):
        return f"no comparison: {reference} is broken"
    apart = number(abs(difference.mean))
    if max(abs(difference.low), abs(difference.high)) <= ALIKE:
        return f"as good as {reference}"
    if difference.low > 0:
        return f"above {reference} by {apart}, clear"
    if difference.high < 0:
        return f"below {reference} by {apart}, clear"
    return f"{'above' if difference.mean > 0 else 'below'} {reference} by {apart}, not clear"


def _table(
    one: StsSet, rows: Mapping[str, Judged], models: Sequence[str], hub: Mapping[tuple[str, str], tuple[float, float]]
) -> StsTable:
    if rows[ORACLE].spearman.whole < 1 - 1e-9 or rows[ORACLE].pearson.whole < 1 - 1e-9:
        raise LookaheadError(f"{one.key}: people's scores do not agree with themselves; the test is wrong")
    section = SECTIONS[2] if not one.languages else SECTIONS[1] if one.cross_lingual else SECTIONS[0]
    reference, found = models[-1], []
    for name in (*models, WORDS, ORACLE, RANDOM):
        judged = rows[name]
        spearman, pearson = judged.spearman.estimate(), judged.pearson.estimate()
        if name not in models:
            found.append(StsRow(name, name != WORDS, spearman, pearson))
            continue
        bare = StsRow(
            name,
            False,
            spearman,
            pearson,
            None if name == reference else judged.spearman.minus(rows[reference].spearman).estimate(),
            judged.spearman.minus(rows[WORDS].spearman).estimate(),
            hub.get((name, one.key)),
        )
        found.append(replace(bare, verdict=verdict(bare, judged.broken, reference, section)))
    return StsTable(one.key, one.name, one.split, one.languages, section, len(one), tuple(found))


def _told(table: StsTable) -> list[StsRow]:
    """The rows that a person reads: the checks are summed up below all sets."""
    return [row for row in table.rows if not row.check]


def ends(cell: Estimate) -> str:
    """A correlation with both ends of its interval."""
    return "undefined" if math.isnan(cell.mean) else f"{number(cell.mean)} ({number(cell.low)} to {number(cell.high)})"


def _named(table: StsTable) -> tuple[str, str, str]:
    """A set, its languages, how many pairs."""
    return table.key, "-".join(dict.fromkeys(table.languages)) or "?", f"{table.pairs:,}"


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else number(value)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _range(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "–"
    low, high = number(min(known)), number(max(known))
    return low if low == high else f"{low} to {high}"


def _without_nan(raw: Any) -> Any:
    if isinstance(raw, dict):
        return {key: _without_nan(value) for key, value in raw.items()}
    if isinstance(raw, list | tuple):
        return [_without_nan(value) for value in raw]
    return None if isinstance(raw, float) and not math.isfinite(raw) else raw


def _aligned(grid: Sequence[Sequence[str]]) -> list[str]:
    """Columns two spaces apart: the first to the left, the others, which are numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in grid]


def _beside(figures: str, words: str) -> list[str]:
    """The words to the right of the figures, in as many lines as they take."""
    first, *more = textwrap.wrap(words, max(30, _WIDTH - len(figures))) or [""]
    return [(figures + first).rstrip(), *(" " * len(figures) + line for line in more)]


def _marked(grid: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(grid[0]) + " |",
        "|---" * len(grid[0]) + "|",
        *("| " + " | ".join(line) + " |" for line in grid[1:]),
    ]


def _wrapped(lines: Sequence[str]) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, _WIDTH, subsequent_indent="  ")]
