"""How ingest and search grow with a collection: the same at several sizes in throw-away homes, and the exponents.

It does not extrapolate; `plan` does. Encoding is not repeated at each size, for it is linear: the vectors are known and
given to a real ingest, and its pace is measured apart.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.encoder import open_encoder
from index.engines import open_engine
from index.layout import DENSE, ENCODER, LEXICAL, VECTORS
from retrieval.benchmarks.measured import Figure, at_least, at_most, forget, markdown, median, run, shown, told
from retrieval.benchmarks.scale_material import NOISE, Material, write_material
from retrieval.search import Searcher
from store.chunking import ChunkingRules, embedded_text
from store.generations import Collection
from store.places import DATABASE

_ROOT = Path(__file__).resolve().parents[2]
_PROCESSES = 5
_SEARCHES = 200  # before memory is looked at
_ENCODED = 3072
_AT_ONCE = 1024
_LITE = 100_000  # milvus-lite compares with every row, in Python
_PHASES = ("read", "lexical", "dense", "check", "publish")
_PARTS = {"chunks": DATABASE, "vectors": VECTORS, "dense": DENSE, "lexical": LEXICAL}


@dataclass(frozen=True, slots=True)
class Measured:
    """A collection of `rows` chunks. `seconds` are the phases of its ingest ("encode" being the writing of vectors that
    are known), `disk` the bytes of its parts, `p50` and `p95` seconds, `cold` None where it cannot be measured."""

    rows: int
    index: dict[str, Any]
    seconds: dict[str, float]
    peak: int
    disk: dict[str, int]
    p50: dict[str, float]
    p95: dict[str, float]
    recall: float
    resident: int
    of_files: int
    opened: float
    opened_cold: float | None
    started: float
    started_cold: float | None

    @property
    def spent(self) -> float:
        """Seconds of the ingest but for the encoding."""
        return sum(seconds for phase, seconds in self.seconds.items() if phase != "encoder")


@dataclass(frozen=True, slots=True)
class Beside:
    """The vectors of a collection of `rows` chunks in another engine: seconds to index them with their words, bytes it
    grew by, which share of the questions had the same 10 hits as in the files (within ties), and which share of the
    hits. `recalls`, `p50` and `p95` (seconds) are of the files' index and of this one."""

    rows: int
    index: str
    breadth: int
    seconds: float
    disk: int
    same: float
    overlap: float
    recalls: tuple[float, float]
    p50: tuple[float, float]
    p95: tuple[float, float]

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Beside:
        return cls(**{**raw, **{name: tuple(raw[name]) for name in ("recalls", "p50", "p95")}})


@dataclass(frozen=True, slots=True)
class Fit:
    """value ~ factor · rows^exponent, by least squares on the logarithms; no value is farther from it than `off`, as a
    share of what the line says."""

    exponent: float
    factor: float
    off: float


@dataclass(frozen=True, slots=True)
class Line:
    """One quantity at every size; None where it was not measured."""

    what: str
    unit: str
    values: tuple[float | None, ...]

    def fit(self, rows: Sequence[int]) -> Fit | None:
        there = [(size, value) for size, value in zip(rows, self.values, strict=True) if value]
        return fitted([size for size, _ in there], [value for _, value in there]) if len(there) > 1 else None


@dataclass(frozen=True, slots=True)
class ScaleReport:
    """`pace` is chunks encoded a second; rows beyond `real` are real ones with noise."""

    sizes: tuple[Measured, ...]
    real: int
    left_out: int
    dim: int
    pace: float
    command: str
    others: tuple[Beside, ...] = ()

    @property
    def rows(self) -> list[int]:
        return [one.rows for one in self.sizes]

    def lines(self) -> list[Line]:
        """All that was measured, for a table and a plot."""

        def line(what: str, unit: str, value: Callable[[Measured], float | None]) -> Line:
            return Line(what, unit, tuple(value(one) for one in self.sizes))

        def seconds(phase: str) -> Callable[[Measured], float | None]:
            return lambda one: one.seconds.get(phase)

        def part(name: str) -> Callable[[Measured], float | None]:
            return lambda one: one.disk[name] / 1e6

        return [
            line("ingest without encoding", "s", lambda one: one.spent),
            *(line(f"of it: {phase}", "s", seconds(phase)) for phase in _PHASES),
            line("of it: writing vectors", "s", seconds("encode")),
            line("rows a second without encoding", "", lambda one: one.rows / one.spent),
            line("rows a second with encoding", "", self.rate),
            line("peak memory of the ingest", "MB", lambda one: one.peak / 1e6),
            line("disk", "MB", lambda one: sum(one.disk.values()) / 1e6),
            *(line(f"of it: {name}", "MB", part(name)) for name in _PARTS),
            line("dense index, 10 nearest, p50", "ms", lambda one: 1e3 * one.p50["dense"]),
            line("dense index, 10 nearest, p95", "ms", lambda one: 1e3 * one.p95["dense"]),
            line("dense index, 60 nearest, p50", "ms", lambda one: 1e3 * one.p50["deep"]),
            line("lexical index, 60 best, p50", "ms", lambda one: 1e3 * one.p50["words"]),
            line("hybrid search, p50", "ms", lambda one: 1e3 * one.p50["hybrid"]),
            line("hybrid search, p95", "ms", lambda one: 1e3 * one.p95["hybrid"]),
            line("resident, searching", "MB", lambda one: one.resident / 1e6),
            line("of it pages of files", "MB", lambda one: one.of_files / 1e6),
            line("opening the dense index", "ms", lambda one: 1e3 * one.opened),
            line("the same from the disk", "ms", lambda one: one.opened_cold and 1e3 * one.opened_cold),
            line("`cli.py search` as a process", "s", lambda one: one.started),
            line("the same from the disk", "s", lambda one: one.started_cold),
        ]

    def rate(self, one: Measured) -> float:
        """Rows a second of an ingest that encodes them at the pace measured."""
        return one.rows / (one.spent + one.rows / self.pace)

    def figures(self) -> list[Figure]:
        """The issue's goals, for the largest size."""
        large = self.sizes[-1]
        found = [told("encoding alone, chunks/s", self.pace)]
        if len(self.sizes) > 1:
            before = self.sizes[-2]
            what = f"ingest with encoding, rows a second at {large.rows:,} against {before.rows:,}"
            found.append(at_least(what, self.rate(large) / self.rate(before), 0.9, " ×"))
        return [
            *found,
            at_most(
                f"{large.index['kind']} index, 10 nearest of {large.rows:,}, p50", 1e3 * large.p50["dense"], 1.5, " ms"
            ),
            at_least("its recall@10 against exact search, on real questions", large.recall, 0.99),
            at_most("resident, searching", large.resident / 1e9, 2.5, " GB"),
            at_most("opening it", large.opened, 1, " s"),
            *(at_least(f"{one.index}, {one.rows:,} chunks: same 10 hits", one.same, 0.99) for one in self.others),
        ]

    def as_json(self) -> dict[str, Any]:
        raw = asdict(self)
        raw["fits"] = {f"{line.what}, {line.unit}": fit and asdict(fit) for line, fit in self._fits()}
        return raw

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> ScaleReport:
        sizes = tuple(Measured(**one) for one in raw["sizes"])
        others = tuple(map(Beside.from_json, raw["others"]))
        return cls(sizes, raw["real"], raw["left_out"], raw["dim"], raw["pace"], raw["command"], others)

    def in_words(self) -> str:
        """Tables in Markdown: what grows, other engines beside it, and the goals."""
        head = ["what", *(f"{rows:,}" for rows in self.rows), "~ rows^", "off the line"]
        table = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
        kinds = [f"{one.index['kind']}, {one.index['breadth']}" for one in self.sizes]
        table.append(f"| index, breadth | {' | '.join(kinds)} | | |")
        recalls = [f"{one.recall:.4f}" for one in self.sizes]
        table.append(f"| recall@10 on real questions | {' | '.join(recalls)} | | |")
        for line, fit in self._fits():
            cells = ["–" if value is None else f"{_three(value)} {line.unit}".strip() for value in line.values]
            off = f"≤ {100 * fit.off:.0f} %" if fit and len(self.sizes) > 2 else ""  # a line meets any two points
            ending = [f"{fit.exponent:.1f}" if fit else "", off]
            table.append(f"| {' | '.join([line.what, *cells, *ending])} |")
        return "\n".join([self.origin(), "", *table, "", *self._beside(), markdown(self.figures())])

    def origin(self) -> str:
        noisy = max(0, self.rows[-1] - self.real)
        beyond = (
            f"the other {noisy:,} are real ones with noise (length {NOISE} on vectors of length 1; words shuffled)"
            if noisy
            else "all of them"
        )
        return (
            f"The first {self.real:,} chunks are real, {beyond}. Vectors were known and not encoded again; "
            f"encoding was measured apart. {self.left_out:,} chunks too short or long to be cut alike were left out."
        )

    def _beside(self) -> list[str]:
        if not self.others:
            return []
        lines = [
            "| index | chunks | rows a second | disk | same 10 hits as files | hits in common "
            "| recall@10, files' | p50, files' |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for one in self.others:
            lines.append(
                f"| {one.index} | {one.rows:,} | {_three(one.rows / one.seconds)} | {_three(one.disk / 1e6)} MB "
                f"| {100 * one.same:.1f} % | {100 * one.overlap:.2f} % | {one.recalls[1]:.4f}, {one.recalls[0]:.4f} "
                f"| {_three(1e3 * one.p50[1])} ms, {_three(1e3 * one.p50[0])} ms |"
            )
        return [*lines, ""]

    def _fits(self) -> list[tuple[Line, Fit | None]]:
        return [(line, line.fit(self.rows)) for line in self.lines()]


def fitted(rows: Sequence[int], values: Sequence[float]) -> Fit:
    """Of two points or more, all above zero, at two sizes or more."""
    across, up = np.log(np.array(rows, dtype=float)), np.log(np.array(values, dtype=float))
    slope = float(((across - across.mean()) * (up - up.mean())).sum() / ((across - across.mean()) ** 2).sum())
    level = float(up.mean() - slope * across.mean())
    off = np.abs(np.expm1(up - (level + slope * across))).max()
    return Fit(slope, math.exp(level), float(off))


def bench_scale(
    collection: Collection,
    home: Path,
    sizes: Sequence[int],
    questions: Sequence[str],
    index_memory: int,
    command: str,
    say: Callable[[str], object],
    indexes: Sequence[str] = (),
) -> ScaleReport:
    """Ingests and searches a collection of every size, smallest first; nothing of them is left. `indexes` are engines
    that get the same vectors, those that are a file up to 100,000 of them."""
    indexes = [open_engine(spec).spec for spec in indexes]  # a relative path means this process's folder
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=home) as folder, Searcher.open(collection) as searcher:
        say(f"writing pages and vectors of {max(sizes):,} chunks")
        material = write_material(searcher, sizes, Path(folder))
        rules = ChunkingRules.from_json(searcher.generation.manifest.facts["chunking"])
        encoder = searcher.generation.path / ENCODER
        say(f"encoding {min(_ENCODED, searcher.live):,} chunks")
        pace = _pace(searcher, encoder, rules)
        measured, others = [], list[Beside]()
        for size in sorted(sizes):
            engines = tuple(spec for spec in indexes if size <= _LITE or spec.startswith("milvus://"))
            work = _Work(Path(folder), size, material, encoder, rules, tuple(questions), index_memory, engines)
            one, beside = work.measured(say)
            measured.append(one)
            others += beside
        dim, real, left_out = searcher.vectors.dim, material.real, material.left_out
        return ScaleReport(tuple(measured), real, left_out, dim, pace, command, tuple(others))


def write_report(report: ScaleReport, folder: Path) -> list[str]:
    """`scale.md`, `scale.json` and `scale.png`; their names."""
    from retrieval.plots import plot_growth

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scale.md").write_text(f"{report.in_words()}\n\n`{report.command}`\n", encoding="utf-8")
    (folder / "scale.json").write_text(json.dumps(report.as_json(), indent=1), encoding="utf-8")
    panels: dict[str, dict[str, tuple[list[float], float, float]]] = {}
    for line in report.lines():
        fit, axis = line.fit(report.rows), _AXES.get((line.what, line.unit))
        if axis is not None and fit is not None and all(line.values):
            values = [value for value in line.values if value]
            panels.setdefault(axis, {})[line.what] = (values, fit.exponent, fit.factor)
    plot_growth(report.rows, panels, folder / "scale.png", "Growth with the number of chunks")
    return ["scale.md", "scale.json", "scale.png"]


# what of the table is drawn, and on which axis
_AXES = {
    ("ingest without encoding", "s"): "seconds",
    ("of it: read", "s"): "seconds",
    ("of it: lexical", "s"): "seconds",
    ("of it: dense", "s"): "seconds",
    ("of it: publish", "s"): "seconds",
    ("peak memory of the ingest", "MB"): "MB",
    ("disk", "MB"): "MB",
    ("of it: dense", "MB"): "MB",
    ("resident, searching", "MB"): "MB",
    ("dense index, 10 nearest, p50", "ms"): "milliseconds",
    ("lexical index, 60 best, p50", "ms"): "milliseconds",
    ("hybrid search, p50", "ms"): "milliseconds",
    ("opening the dense index", "ms"): "milliseconds",
}


@dataclass(frozen=True, slots=True)
class _Work:
    """One size, to be measured."""

    folder: Path
    rows: int
    material: Material
    encoder: Path
    rules: ChunkingRules
    questions: tuple[str, ...]
    index_memory: int
    engines: tuple[str, ...]

    def measured(self, say: Callable[[str], object]) -> tuple[Measured, list[Beside]]:
        with tempfile.TemporaryDirectory(prefix="home-", dir=self.folder) as home:
            path = Path(home) / "collections" / "bench"
            path.parent.mkdir(parents=True)
            say(f"ingesting {self.rows:,} chunks as a process of its own")
            job: dict[str, Any] = {"collection": str(path)}
            ingested = _apart(
                {
                    **job,
                    "job": "ingest",
                    "known": str(self.folder),
                    "encoder": str(self.encoder),
                    "pages": str(self.material.pages[self.rows]),
                    "chunking": self.rules.as_json(),
                    "index_memory": self.index_memory,
                }
            )
            generation = Collection(path).current()
            disk = {name: _bytes(generation.path / part) for name, part in _PARTS.items()}
            say("searching it, as processes of their own")
            cold = _apart({**job, "job": "opening"})["seconds"]
            asked = _apart({**job, "job": "searching", "questions": self.questions, "first": _SEARCHES})
            walls = [self._search(home, number) for number in range(_PROCESSES + 1)][1:]
            started_cold = self._search(home, 0) if forget(generation.path) else None
            others = []
            for spec in self.engines:
                say(f"the same in {spec}")
                told = {**job, "job": "beside", "index": spec, "questions": self.questions}
                others.append(Beside.from_json(_apart({**told, "index_memory": self.index_memory})))
        measured = Measured(
            rows=ingested["rows"],
            index=asked["index"],
            seconds=ingested["seconds"],
            peak=ingested["peak"],
            disk=disk,
            p50=asked["p50"],
            p95=asked["p95"],
            recall=asked["recall"],
            resident=asked["resident"],
            of_files=asked["of_files"],
            opened=asked["open"],
            opened_cold=cold,
            started=median(walls),
            started_cold=started_cold,
        )
        return measured, others

    def _search(self, home: str, number: int) -> float:
        question = self.questions[number % len(self.questions)]
        return run(["--home", home, "search", question, "-c", "bench", "-k", "5"]).seconds


def _apart(job: dict[str, Any]) -> dict[str, Any]:
    """A job of `scale_process`, done."""
    command = [sys.executable, "-m", "retrieval.benchmarks.scale_process"]
    done = subprocess.run(command, cwd=_ROOT, input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _pace(searcher: Searcher, folder: Path, rules: ChunkingRules) -> float:
    """Chunks a second of the real encoder."""
    stop = min(_ENCODED, len(searcher.vectors))
    texts = [embedded_text(*row, rules.prefix) for row in searcher.store.texts(0, stop)]
    encoder = open_encoder(folder, bulk=True)
    encoder.encode(texts[:64])
    started = time.perf_counter()
    for start in range(0, len(texts), _AT_ONCE):
        encoder.encode(texts[start : start + _AT_ONCE])
    return len(texts) / (time.perf_counter() - started)


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _three(value: float) -> str:
    """Three digits that matter: no timing has more."""
    return shown(float(f"{value:.3g}"))
