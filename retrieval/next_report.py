"""What an evaluation of next-chunk prediction says: measures with intervals, and every model against a baseline.

It does not know how a rank was found (`evaluate_next`), nor does it print: it gives text, Markdown and JSON.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retrieval.evaluate_next import DEEPEST, ORACLE, Bank, Judged, Judgement, Values, View
from retrieval.metrics import LEVEL, RESAMPLES, Resampled
from retrieval.reports import Estimate, Row, number
from retrieval.sequences import CONTEXT

CONTAIN, MRR, EFF = f"Contain@{DEEPEST}", f"MRR@{DEEPEST}", "Eff@5"
MEASURES = ("R@1", "R@3", "R@5", "R@10", "R@20", "R@50", MRR, EFF, "cosine", "contrast", "gap")
RERANKED_MEASURES = (*MEASURES[:6], CONTAIN, *MEASURES[6:])
COMPARED = ("R@5", MRR, "cosine")
APART = ("R@1", "R@5", "R@50", CONTAIN, MRR)  # of a table apart
COMPARED_APART = ("R@5", CONTAIN, MRR)
_WIDTH = 100
_CELL = 7
_HEADS = {MRR: "MRR", CONTAIN: "Cont.", "contrast": "contr."}
_VIEWS = {View.SEEN: "the query's own context may be found", View.NEW: "the query's own context is left out"}


@dataclass(frozen=True, slots=True)
class Against:
    """How much higher a model scores than the baseline that is best by the same measure, on the same queries."""

    model: str
    measure: str
    baseline: str
    estimate: Estimate

    @property
    def verdict(self) -> str:
        """ "above" or "below" where the interval is clear of zero, else "no difference"."""
        return "above" if self.estimate.low > 0 else "below" if self.estimate.high < 0 else "no difference"


def reranked(model: str) -> str:
    """The row of a model with its reranker."""
    return f"{model} + reranker"


@dataclass(frozen=True, slots=True)
class Apart:
    """Rows for a table of their own, each to be held against the first of them. Those of which nothing else is said,
    that is, which are no models, are in no other table."""

    title: str
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Aside:
    """A table apart, of one bank in one view: its rows, and how much higher each but the first scores than the first
    on the same queries."""

    title: str
    bank: Bank
    view: View
    rows: tuple[Row, ...]
    against: tuple[Against, ...]


@dataclass(frozen=True, slots=True)
class NextTable:
    """One bank in one view. Rows lack the measures that they have no vector for; `reranked` are those whose order is a
    reranker's."""

    bank: Bank
    view: View
    chunks: float
    queries: int
    articles: int
    rows: tuple[Row, ...]
    against: tuple[Against, ...]
    reranked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NextReport:
    """An evaluation with all that is needed to repeat it. `queries` are the windows there are; a bank may have been
    asked fewer. `outside` are reports of the same rows on other collections."""

    collection: str
    split: str
    protocol: str
    shortest: int
    articles: int
    queries: int
    models: tuple[str, ...]
    notes: tuple[str, ...]
    command: str
    seed: int
    resamples: int
    level: float
    tables: tuple[NextTable, ...]
    outside: tuple[NextReport, ...] = ()
    asides: tuple[Aside, ...] = ()

    @classmethod
    def of(
        cls,
        judgements: Sequence[Judgement],
        models: Sequence[str],
        *,
        collection: str,
        split: str,
        protocol: str,
        shortest: int,
        articles: int,
        queries: int,
        notes: Sequence[str],
        command: str,
        seed: int,
        outside: Sequence[NextReport] = (),
        apart: Sequence[Apart] = (),
    ) -> NextReport:
        """A report of what was judged; every row that is neither in `models`, which come first and in that order, nor
        the oracle nor in a table apart counts as a baseline."""
        tables, asides = [], []
        elsewhere = {name for one in apart for name in one.rows}
        for judgement in judgements:
            resampled = Resampled.of(judgement.article, seed=seed)
            first = [name for name in models if name in judgement.rows]
            others = [name for name in judgement.rows if name not in models and name not in elsewhere]
            rows = {name: judgement.rows[name] for name in (*first, *others)}
            measured = {name: judged.measures() for name, judged in rows.items()}
            tables.append(
                NextTable(
                    judgement.bank,
                    judgement.view,
                    judgement.chunks,
                    len(judgement.article),
                    len(resampled.sizes),
                    tuple(_row(name, judged, resampled) for name, judged in rows.items()),
                    tuple(_against(measured, first, resampled)),
                    tuple(name for name, judged in rows.items() if judged.before is not None),
                )
            )
            whole = [one for one in apart if set(one.rows) <= set(judgement.rows)]
            asides += [_aside(one, judgement, resampled) for one in whole]
        return cls(
            collection,
            split,
            protocol,
            shortest,
            articles,
            queries,
            tuple(models),
            tuple(notes),
            command,
            seed,
            RESAMPLES,
            LEVEL,
            tuple(tables),
            tuple(outside),
            tuple(asides),
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has; each comparison with its verdict."""
        raw = asdict(self)
        for table, told in zip(raw["tables"], self.tables, strict=True):
            table |= {"bank": str(told.bank), "view": str(told.view)}
            table["against"] = [{**asdict(one), "verdict": one.verdict} for one in told.against]
        for table, aside in zip(raw["asides"], self.asides, strict=True):
            table |= {"bank": str(aside.bank), "view": str(aside.view)}
            table["against"] = [{**asdict(one), "verdict": one.verdict} for one in aside.against]
        raw["outside"] = [report.as_json() for report in self.outside]
        return raw

    def table(self) -> str:
        """Aligned text for a terminal of 100 columns: each mean with half its interval below."""
        lines = [self._head()]
        measures = self._measures()
        if len(measures) > len(MEASURES):  # one column too many for the width
            measures = tuple(name for name in measures if name != "R@20")
        width = _room([row for table in self.tables for row in table.rows], len(measures))
        for table in self.tables:
            lines += ["", self._said(table), _line("", [_HEADS.get(name, name) for name in measures], width)]
            for row in table.rows:
                cells = [row.measures.get(name) for name in measures]
                lines += _lines(_shown(row), [_mean(cell) for cell in cells], width)
                if not row.check:
                    lines.append(_line("", [_half(cell) for cell in cells], width))
            lines += _verdicts(table)
        for aside in self.asides:
            lines += ["", *textwrap.wrap(self._called(aside), _WIDTH, subsequent_indent="  "), *_aligned(aside)]
        foot = [part for line in self._foot()[:-1] for part in textwrap.wrap(line, _WIDTH, subsequent_indent="  ")]
        return "\n".join([*lines, *self._beside(width), "", *foot, self._foot()[-1]])

    def markdown(self) -> str:
        """The same as Markdown tables, with both ends of every interval."""
        lines = [self._head()]
        measures = self._measures()
        for table in self.tables:
            lines += ["", self._said(table), "", *_ruled(measures)]
            for row in table.rows:
                cells = [_ends(row.measures.get(name), row.check) for name in measures]
                lines.append(f"| {_shown(row)} | " + " | ".join(cells) + " |")
            lines += ["", *(f"- {verdict}" for verdict in _verdicts(table))]
        for aside in self.asides:
            lines += ["", self._called(aside), "", *_ruled([*APART, *(f"Δ {name}" for name in COMPARED_APART)])]
            for row in aside.rows:
                cells = [_ends(row.measures.get(name), False) for name in APART]
                cells += [_ends(cell, False, signed=True) for cell in _differences(aside, row)]
                lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
        beside = self._beside(0)
        if beside:
            lines += ["", "```", *self._beside(24)[1:], "```"]
        return "\n".join([*lines, "", "  \n".join(self._foot())])

    def _measures(self) -> tuple[str, ...]:
        return RERANKED_MEASURES if any(table.reranked for table in self.tables) else MEASURES

    def _called(self, aside: Aside) -> str:
        size = next(table.chunks for table in self.tables if (table.bank, table.view) == (aside.bank, aside.view))
        return f"{aside.title}: bank {aside.bank} ({size:,.0f} chunks), {aside.view}"

    def _head(self) -> str:
        least = "" if self.shortest == CONTEXT else f" {self.shortest} to"
        return (
            f"next chunk, {self.collection}, {self.split} split, protocol {self.protocol}: {self.articles:,} articles, "
            f"{self.queries:,} queries with{least} {CONTEXT} chunks of context"
        )

    def _said(self, table: NextTable) -> str:
        size = f"{table.chunks:,.0f} chunks" + (" on average" if table.bank is Bank.ARTICLE else "")
        asked = "" if table.queries == self.queries else f"; {table.queries:,} queries drawn"
        return f"bank {table.bank} ({size}), {table.view}: {_VIEWS[table.view]}{asked}"

    def _foot(self) -> list[str]:
        return [
            f"±: half the {100 * self.level:.0f} % interval; {self.resamples:,} bootstrap resamples of whole articles, "
            f"seed {self.seed}",
            f"{MRR} is 0 beyond {DEEPEST}; {CONTAIN} (Cont.) is R@{DEEPEST} before a reranker came, and the same where "
            f"none did; Eff@5 = R@5 / {CONTAIN}",
            "contr.: share of the 5 held-out chunks nearest to the target that lie farther from the prediction; "
            "gap: how much nearer to a held-out chunk the target lies than the prediction does",
            "a row marked (check) tests the test: it was told the answers",
            *(["Δ: the row less the first row of its table, on the same queries"] if self._compares() else []),
            *self.notes,
            f"command: {self.command}",
        ]

    def _compares(self) -> bool:
        return any(aside.against for aside in self.asides)

    def _beside(self, width: int) -> list[str]:
        """The first bank of this collection and of the others, one line a row."""
        lines: list[str] = []
        for report in self.outside:
            here, there = (next((t for t in one.tables if t.view is View.NEW), None) for one in (self, report))
            if here is None or there is None:
                continue
            other = {row.name: row for row in there.rows}
            heads = [f"{_HEADS.get(name, name)} {where}" for name in COMPARED for where in ("in", "out")]
            lines += [
                "",
                f"out of domain: {report.collection}, {report.articles:,} articles, {there.queries:,} queries, "
                f"{there.chunks:,.0f} chunks; bank {here.bank}, {here.view}; baselines fitted on {self.collection}",
                _line("", heads, width, 12),
            ]
            for row in here.rows:
                pairs = [(row.measures.get(name), other[row.name].measures.get(name)) for name in COMPARED]
                cells = [f"{_mean(cell)} {_half(cell)}".strip() for pair in pairs for cell in pair]
                if not row.check:
                    lines += _lines(row.name, cells, width, 12)
            lines += [*_verdicts(there), *report.notes]
        return lines


def _row(name: str, judged: Judged, resampled: Resampled) -> Row:
    values = judged.measures()
    measures = {measure: Estimate(*resampled.mean(found)) for measure, found in values.items()}
    measures[EFF] = Estimate(*resampled.ratio(values["R@5"], values[CONTAIN]))
    return Row(name, name == ORACLE, measures)


def _against(measured: dict[str, dict[str, Values]], models: Sequence[str], resampled: Resampled) -> Iterator[Against]:
    baselines = [name for name in measured if name not in models and name != ORACLE]
    for model in models:
        for measure in COMPARED:
            able = [name for name in baselines if measure in measured[name]]
            if able and measure in measured[model]:
                best = max(able, key=lambda name: float(measured[name][measure].mean()))
                higher = resampled.mean(measured[model][measure] - measured[best][measure])
                yield Against(model, measure, best, Estimate(*higher))


def _aside(apart: Apart, judgement: Judgement, resampled: Resampled) -> Aside:
    rows = {name: judgement.rows[name] for name in apart.rows}
    measured = {name: judged.measures() for name, judged in rows.items()}
    first, *others = rows
    against = [
        Against(name, measure, first, Estimate(*resampled.mean(measured[name][measure] - measured[first][measure])))
        for name in others
        for measure in COMPARED_APART
    ]
    told = tuple(_row(name, judged, resampled) for name, judged in rows.items())
    return Aside(apart.title, judgement.bank, judgement.view, told, tuple(against))


def _differences(aside: Aside, row: Row) -> list[Estimate | None]:
    found = {(one.model, one.measure): one.estimate for one in aside.against}
    return [found.get((row.name, measure)) for measure in COMPARED_APART]


def _aligned(aside: Aside) -> list[str]:
    heads = [_HEADS.get(name, name) for name in APART]
    heads += [f"Δ{_HEADS.get(name, name)}" for name in COMPARED_APART if aside.against]
    width = _room(aside.rows, len(heads))
    lines = [_line("", heads, width)]
    for row in aside.rows:
        means = [row.measures.get(name) for name in APART]
        higher = _differences(aside, row)
        signed = ["" if cell is None else number(cell.mean, signed=True) for cell in higher]
        lines += _lines(row.name, [*map(_mean, means), *signed], width)
        lines.append(_line("", [_half(cell) for cell in (*means, *higher)], width))
    return lines


def _verdicts(table: NextTable) -> list[str]:
    """A line for each model: its differences to the best baselines."""
    said: dict[str, list[str]] = {}
    for one in table.against:
        cell, name = one.estimate, _HEADS.get(one.measure, one.measure)
        ends = f"{number(cell.low, signed=True)} to {number(cell.high, signed=True)}"
        told = f"{name} {number(cell.mean, signed=True)} ({ends}) {one.verdict}: {one.baseline}"
        said.setdefault(one.model, []).append(told)
    return [f"{model}: {line}" for model, lines in said.items() for line in lines]


def _shown(row: Row) -> str:
    return row.name + (" (check)" if row.check else "")


def _room(rows: Sequence[Row], columns: int) -> int:
    """The width of names: that of the longest, if the cells fit beside it."""
    return min(2 + max(len(_shown(row)) for row in rows), _WIDTH - columns * _CELL)


def _ruled(heads: Sequence[str]) -> list[str]:
    """The head of a Markdown table whose first column has no name."""
    return ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]


def _lines(name: str, cells: Sequence[str], width: int, room: int = _CELL) -> list[str]:
    """One line, or two where the name is longer than its place."""
    if len(name) > width - 2 and width:
        return [name, _line("", cells, width, room)]
    return [_line(name, cells, width, room)]


def _line(name: str, cells: Sequence[str], width: int, room: int = _CELL) -> str:
    return (name.ljust(width) + "".join(cell.rjust(room) for cell in cells)).rstrip()


def _mean(cell: Estimate | None) -> str:
    return "–" if cell is None else number(cell.mean)


def _half(cell: Estimate | None) -> str:
    return "" if cell is None else f"±{number((cell.high - cell.low) / 2)}"


def _ends(cell: Estimate | None, check: bool, *, signed: bool = False) -> str:
    if cell is None or check:
        return _mean(cell)
    if signed:  # a dash between would be taken for a sign
        return f"{number(cell.mean, signed=True)} ({number(cell.low, signed=True)} to {number(cell.high, signed=True)})"
    return f"{number(cell.mean)} ({number(cell.low)}–{number(cell.high)})"
