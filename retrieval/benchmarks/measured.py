"""A measured figure beside the one to be reached, and how a table of them looks."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """`reached` is None for a figure that is only told."""

    what: str
    value: float
    unit: str
    goal: str = ""
    reached: bool | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def at_least(what: str, value: float, goal: float, unit: str = "") -> Figure:
    return Figure(what, value, unit, f"≥ {goal:g}{unit}", value >= goal)


def at_most(what: str, value: float, goal: float, unit: str = "") -> Figure:
    return Figure(what, value, unit, f"≤ {goal:g}{unit}", value <= goal)


def told(what: str, value: float, unit: str = "") -> Figure:
    return Figure(what, value, unit)


def markdown(figures: Sequence[Figure]) -> str:
    """A table for the README."""
    lines = ["| what | measured | to reach |", "|---|---|---|"]
    for figure in figures:
        verdict = {True: "", False: " **missed**", None: ""}[figure.reached]
        lines.append(f"| {figure.what} | {shown(figure.value)}{figure.unit}{verdict} | {figure.goal} |")
    return "\n".join(lines)


def shown(value: float) -> str:
    """Four digits that matter, without an exponent."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.5f}" if 0.99 <= value < 1 else f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Run:
    """One finished child process."""

    seconds: float
    peak_megabytes: float
    output: str


def run(arguments: Sequence[str]) -> Run:
    """A command of this program as a whole process: wall time, and the most memory it or a child of its held."""
    command = [sys.executable, str(Path(__file__).resolve().parents[2] / "cli.py"), *arguments]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    scale = 1 if sys.platform == "darwin" else 1024  # kilobytes everywhere else
    return Run(seconds, usage.ru_maxrss * scale / 1e6, output)


def forget(path: Path) -> bool:
    """Has the machine drop a file, or a folder's, from its memory, so that it is read from the disk again; says whether
    that can be asked for here. What another process has mapped stays."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return True


def in_turn(calls: Sequence[Callable[[int], T]], rounds: int) -> list[tuple[list[float], T]]:
    """(seconds in each round, what came of the last) of each call, made in turn so that a machine that is now and then
    busy slows them all; a call is told the round it is made in."""
    spent: list[list[float]] = [[] for _ in calls]
    last: list[T] = []
    for number in range(rounds):
        last = []
        for call, seconds in zip(calls, spent, strict=True):
            started = time.perf_counter()
            last.append(call(number))
            seconds.append(time.perf_counter() - started)
    return list(zip(spent, last, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """By the nearest rank, so that it is a value that was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


median = statistics.median
