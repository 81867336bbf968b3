"""What a collection of any size would need: arithmetic from the figures of `scale`, in proportion to the rows.

It measures nothing, and knows nothing that a run of `scale` did not see: a cluster's network, or a disk that is slower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from index.dense import Kind, bytes_a_row
from retrieval.benchmarks.scale import ScaleReport

DAY = 86_400.0
_GRAPHS = (Kind.HNSW, Kind.HNSW8)


@dataclass(frozen=True, slots=True)
class Machine:
    """One like any other: bytes of memory and disk; `share` of the memory is left to an index."""

    memory: float
    disk: float
    share: float = 0.7

    @property
    def room(self) -> float:
        return self.share * self.memory


@dataclass(frozen=True, slots=True)
class Rates:
    """For one chunk, from the largest collection measured: bytes on disk beside the dense index, seconds of an ingest
    but for encoding, and of encoding on the machine that measured."""

    rows: int
    dim: int
    disk: float
    ingest: float
    encoding: float

    @classmethod
    def of(cls, report: ScaleReport) -> Rates:
        largest = report.sizes[-1]
        beside = sum(size for part, size in largest.disk.items() if part != "dense")
        return cls(largest.rows, report.dim, beside / largest.rows, largest.spent / largest.rows, 1 / report.pace)


@dataclass(frozen=True, slots=True)
class Need:
    """Of one size with one kind of index: bytes in memory and on disk in all, machines that hold both, and hours."""

    rows: int
    kind: Kind
    memory: float
    disk: float
    machines: int
    encoding: float
    ingest: float


def need(rows: int, kind: Kind, rates: Rates, machine: Machine) -> Need:
    """Hours are those of one machine like the one that measured; k of them take a k-th of the encoding."""
    memory = rows * bytes_a_row(kind, rates.dim)
    disk = rows * rates.disk + memory
    machines = max(math.ceil(memory / machine.room), math.ceil(disk / machine.disk))
    return Need(rows, kind, memory, disk, machines, rows * rates.encoding / 3600, rows * rates.ingest / 3600)


def chosen(rows: int, rates: Rates, machine: Machine) -> Need:
    """The best kind that one machine holds, or else the graph over 8-bit codes on several."""
    needs = [need(rows, kind, rates, machine) for kind in (*_GRAPHS, Kind.IVF)]
    return next((one for one in needs if one.machines == 1), needs[1])


def leave_at(rates: Rates, machine: Machine) -> tuple[int, str]:
    """Chunks beyond which one process with files is no longer the way, and why."""
    limits = {
        "the graph over 8-bit codes no longer fits its memory": machine.room / bytes_a_row(Kind.HNSW8, rates.dim),
        "all of it no longer fits its disk": machine.disk / (rates.disk + bytes_a_row(Kind.HNSW8, rates.dim)),
        "an ingest from nothing takes a day beside the encoding": DAY / rates.ingest,
    }
    why = min(limits, key=lambda reason: limits[reason])
    return int(limits[why]), why


def in_words(sizes: Sequence[int], workers: int, rates: Rates, machine: Machine) -> str:
    """The figures it starts from, a row for each size and kind of index, and where the default ends."""
    lines = [
        f"From {rates.rows:,} chunks of {rates.dim} dimensions: {rates.disk:,.0f} bytes a chunk on disk beside the "
        f"dense index (texts, float16 vectors, words), {1e3 * rates.encoding:.2f} ms to encode it and "
        f"{1e3 * rates.ingest:.2f} ms for the rest of an ingest.",
        "Bytes a row of the dense index: "
        + ", ".join(f"{kind.value} {bytes_a_row(kind, rates.dim):,.0f}" for kind in (*_GRAPHS, Kind.IVF))
        + f". A machine has {machine.memory / 1e9:,.0f} GB of memory, {100 * machine.share:.0f} % of it for an index, "
        f"and {machine.disk / 1e12:g} TB of disk.",
        "",
        f"| chunks | index | in memory | on disk | machines | encoding here | on {workers} such | rest of the ingest |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for rows in sizes:
        best = chosen(rows, rates, machine)
        for kind in (*_GRAPHS, Kind.IVF):
            one = need(rows, kind, rates, machine)
            lines.append(
                f"| {one.rows:,} | {'**' + kind.value + '**' if kind is best.kind else kind.value} "
                f"| {_bytes(one.memory)} | {_bytes(one.disk)} | {one.machines} | {_hours(one.encoding)} "
                f"| {_hours(one.encoding / workers)} | {_hours(one.ingest)} |"
            )
    rows, why = leave_at(rates, machine)
    lines += ["", f"One machine with files is the way up to about {float(f'{rows:.1g}'):,.0f} chunks: beyond, {why}."]
    return "\n".join(lines)


def _bytes(count: float) -> str:
    return f"{count / 1e12:.1f} TB" if count >= 1e12 else f"{count / 1e9:.1f} GB"


def _hours(hours: float) -> str:
    return f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:.1f} h"
