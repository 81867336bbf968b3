"""How measured speeds of predictors look: as rows aligned for a terminal, and as Markdown.

It does not know how they were measured (`benchmarks.predictors` does).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from retrieval.benchmarks.predictors import OPENVINO, SINGLES, TORCH, WARM_UP, Speed

Grid = Sequence[Sequence[str]]  # a head and rows of as many cells
Named = Sequence[tuple[str, Speed]]  # (model, speed)

_SAID = {TORCH: "torch", OPENVINO: "OpenVINO"}


def speed_grid(speeds: Named, efficiencies: Sequence[float] = ()) -> Grid:
    """Milliseconds: mean and percentiles of one query, ×n for each sample in a batch of n."""
    sizes = [f"×{size}" for size in speeds[0][1].batches]
    head = ["", "", "mean", "p50", "p95", "p99", *sizes, *(["efficiency"] if efficiencies else [])]
    rows = []
    for place, (name, speed) in enumerate(speeds):
        times = (speed.mean, speed.p50, speed.p95, speed.p99, *speed.batches.values())
        last = [f"{efficiencies[place]:,.0f}"] if efficiencies else []
        rows.append([name, runtime_of(speed), *map(milliseconds, times), *last])
    return [head, *rows]


def size_grid(speeds: Named, parameters: Sequence[int]) -> Grid:
    """What each model takes, on disk and in memory."""
    rows = []
    for (name, speed), count in zip(speeds, parameters, strict=True):
        sizes = (f"{count:,}", f"{speed.disk:.1f}", f"{speed.memory:.0f}", f"{speed.load:.0f}", str(speed.threads))
        rows.append([name, runtime_of(speed), *sizes])
    return [["", "", "parameters", "disk MB", "memory MB", "load ms", "threads"], *rows]


def speed_foot(speeds: Named) -> list[str]:
    """What the two tables' figures are of."""
    base = {_SAID[speed.runtime]: f"{speed.base:.0f} MB" for _, speed in speeds}
    largest = max(speeds[0][1].batches)
    return [
        f"times in ms: {SINGLES} single queries after {WARM_UP} that do not count; ×n: for each of a batch of n, the "
        "median of several. Contexts are five random chunks; from numpy to numpy; each model and runtime in a "
        "process of its own",
        f"memory: what that process grew by, loading the model and answering a batch of {largest}, after its library "
        f"took its own ({', '.join(f'{name} {taken}' for name, taken in base.items())}); load: from opening the folder "
        "to the first answer; disk: the weights for torch, the graph for OpenVINO",
    ]


def runtime_of(speed: Speed) -> str:
    return f"{_SAID[speed.runtime]} {speed.precision}"


def milliseconds(value: float) -> str:
    """Three digits that matter, one behind the point at least: .0196, .117, 1.20, 23.4."""
    digits = 4 if value < 0.1 else 3 if value < 1 else 2 if value < 10 else 1
    return f"{value:,.{digits}f}".removeprefix("0")


def aligned(grid: Grid, words: int) -> list[str]:
    """Lines of columns, the first `words` of them to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = []
    for row in grid:
        cells = [
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def wrapped(line: str) -> list[str]:
    """A line of the foot of a table, for a terminal of 100 columns."""
    return textwrap.wrap(line, 100, subsequent_indent="  ", break_long_words=False)


def in_markdown(grid: Grid, words: int) -> list[str]:
    """The same as a Markdown table."""
    head, *rows = grid
    rule = "|" + "---|" * words + "---:|" * (len(head) - words)
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]
