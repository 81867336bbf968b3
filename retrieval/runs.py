"""TREC run files: what was found for each question, in the layout that trec_eval and ir-measures read.

It does not know what is relevant, nor how a score came about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from store.generations import write_atomically
from store.records import LookaheadError

Run = Mapping[str, Sequence[tuple[str, float]]]


def write_run(path: Path, run: Run, tag: str) -> None:
    """Writes `question Q0 unit rank score tag` lines, best first; ranks count from 1.

    Scorers sort by score and break ties by name. A score that does not fall is lowered by the least that single
    precision can hold (trec_eval's own), so that every reader sees the order in which the units were given.
    """
    lines = []
    for question, found in run.items():
        scores = _falling([score for _, score in found])
        for rank, ((unit, _), score) in enumerate(zip(found, scores, strict=True), 1):
            columns = [question, "Q0", unit, str(rank), score, tag]
            if any(len(column.split()) != 1 for column in columns) or score == "nan":
                raise ValueError(f"a run file holds neither spaces in names nor scores that are no numbers: {columns}")
            lines.append(" ".join(columns) + "\n")
    write_atomically(path, "".join(lines).encode("utf-8"))


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """The units and scores for each question, by falling score whatever the order of the lines."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise LookaheadError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LookaheadError(f"{path}: expected a TREC run, found a file that is not UTF-8 text") from error
    run: dict[str, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        columns = line.split()
        score = _number(columns[4]) if len(columns) == 6 else math.nan
        if math.isnan(score):
            raise LookaheadError(f"{path} line {number}: expected question, Q0, unit, rank, score, tag")
        found = run.setdefault(columns[0], {})
        if columns[2] in found:
            raise LookaheadError(f"{path} line {number}: {columns[2]} a second time for question {columns[0]}")
        found[columns[2]] = score
    return {question: sorted(found.items(), key=lambda pair: -pair[1]) for question, found in run.items()}


def _falling(scores: Sequence[float]) -> list[str]:
    """The scores in single precision, each below the one before it."""
    written: list[str] = []
    limit = np.float32(np.inf)
    for score in scores:
        limit = np.minimum(np.float32(score), np.nextafter(limit, np.float32(-np.inf)))  # keeps what is no number
        written.append(str(limit))
    return written


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
