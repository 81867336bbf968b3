"""The published architectures and ours with fresh weights: whether their sizes are the published ones, and their speed.

It does not know data or training; a fresh network computes as long as a trained one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.encoder import Fingerprint
from retrieval.benchmarks.predictors import (
    OPENVINO,
    TORCH,
    Job,
    Machine,
    Speed,
    open_compiled,
    questions,
    refuse_emulated,
    speed_of,
)
from retrieval.benchmarks.speed_tables import (
    aligned,
    milliseconds,
    runtime_of,
    size_grid,
    speed_foot,
    speed_grid,
    wrapped,
)
from retrieval.models import WEIGHTS, ModelConfig, seal
from retrieval.predictors import KINDS, build
from retrieval.sequences import CONTEXT

PUBLISHED_DIM = 768
# parameters at 768 dimensions; those of mamba and residual are our own, as the published mamba lacks a matrix
PARAMETERS = {
    "amn": 1_510_912,
    "gru": 7_095_552,
    "lstm": 5_120_768,
    "lstm-1024": 17_581_824,
    "mlp": 4_720_384,
    "transformer": 17_867_520,
    "transformer-encoder": 13_659_904,
    "mamba": 35_483_136,
    "residual": 1_246_470,  # anchored: a network of 1,246,464, five weights and a gain
}
OURS = ("mamba", "residual")
LIMITS = {"amn": (0.15, 0.02), "lstm": (0.8, 0.12), "gru": (1.2, 0.2), "transformer": (1.1, 0.3)}
BATCH = 128  # of the second limit, which is for each sample
_COMPARED = 200  # predictions, with contexts of 1 to 5 chunks


@dataclass(frozen=True, slots=True)
class Limit:
    """A time in ms, and the most it may be at 768 dimensions."""

    kind: str
    precision: str
    what: str
    value: float
    most: float

    @property
    def met(self) -> bool:
        return self.value <= self.most

    def __str__(self) -> str:
        verdict = "✓" if self.met else "missed"
        told = f"{milliseconds(self.value)} ms, at most {self.most:g}"
        return f"{self.kind}, {self.precision}, {self.what}: {told} {verdict}"


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network as measured. `cosines`: precision → smallest cosine of its predictions to those in f32."""

    kind: str
    parameters: int
    speeds: tuple[Speed, ...]
    cosines: dict[str, float]

    def limits(self) -> list[Limit]:
        """Those of this kind, at each precision of OpenVINO."""
        if self.kind not in LIMITS:
            return []
        one, many = LIMITS[self.kind]
        found = []
        for speed in self.speeds:
            if speed.runtime == OPENVINO:
                found.append(Limit(self.kind, speed.precision, "one query (p50)", speed.p50, one))
                batch = f"each of a batch of {BATCH}"
                found.append(Limit(self.kind, speed.precision, batch, speed.batches[BATCH], many))
        return found


@dataclass(frozen=True, slots=True)
class Architectures:
    """All of them. Sizes and limits are those of 768 dimensions, and are compared at no other."""

    dim: int
    machine: Machine
    command: str
    rows: tuple[Architecture, ...]

    def as_json(self) -> dict[str, Any]:
        raw = asdict(self)
        for told, row in zip(raw["rows"], self.rows, strict=True):
            told["expected"] = PARAMETERS[row.kind] if self.dim == PUBLISHED_DIM else None
            told["limits"] = [{**asdict(one), "met": one.met} for one in self._limits(row)]
        return raw

    def table(self) -> str:
        named = [(row.kind, speed) for row in self.rows for speed in row.speeds]
        parameters = [row.parameters for row in self.rows for _ in row.speeds]
        lines = [f"predictors with fresh weights, {self.dim} dimensions", ""]
        lines += [*aligned(speed_grid(named), 2), "", *aligned(size_grid(named, parameters), 2), ""]
        lines += [*self._sizes(), *(str(one) for row in self.rows for one in self._limits(row))]
        for row in self.rows:
            lines += [f"{row.kind}, {name}: cosine to f32 at least {low:.5f}" for name, low in row.cosines.items()]
        foot = [*speed_foot(named), f"machine: {self.machine}", f"command: {self.command}"]
        return "\n".join([*lines, "", *(part for line in foot for part in wrapped(line))])

    def _limits(self, row: Architecture) -> list[Limit]:
        return row.limits() if self.dim == PUBLISHED_DIM else []

    def _sizes(self) -> list[str]:
        """A line for each count of parameters that there is something to compare with."""
        if self.dim != PUBLISHED_DIM:
            return []
        lines = []
        for row in self.rows:
            expected = PARAMETERS[row.kind]
            verdict = "✓" if row.parameters == expected else f"missed: expected {expected:,}"
            whose = "ours" if row.kind in OURS else "as published"
            lines.append(f"{row.kind}: {row.parameters:,} parameters, {whose} {verdict}")
        return lines


def bench_architectures(
    kinds: Sequence[str],
    dim: int,
    runtimes: Sequence[str],
    precisions: Sequence[str],
    command: str,
    say: Callable[[str], object],
) -> Architectures:
    """Makes each network in a temporary folder, exports it, and measures it in each runtime and precision."""
    for precision in precisions:
        refuse_emulated(precision)
    machine, rows = Machine.here(), []
    with tempfile.TemporaryDirectory(prefix="lookahead-predictors-") as name:
        for kind in kinds or KINDS:
            say(f"{kind}: making it")
            folder = Path(name) / kind
            parameters = write_fresh(folder, kind, dim)
            jobs = [Job(str(folder), TORCH)] if TORCH in runtimes else []
            cosines = {}
            if OPENVINO in runtimes:
                jobs += [Job(str(folder), OPENVINO, precision) for precision in precisions]
                cosines = {one: smallest_cosine(folder, dim, one) for one in precisions if one != "f32"}
            speeds = []
            for job in jobs:
                speeds.append(speed_of(job))
                say(f"{kind}, {runtime_of(speeds[-1])}: {milliseconds(speeds[-1].p50)} ms")
            rows.append(Architecture(kind, parameters, tuple(speeds), cosines))
    return Architectures(dim, machine, command, tuple(rows))


def write_fresh(folder: Path, kind: str, dim: int) -> int:
    """A model folder with untrained weights (ours anchored, as it is meant); how many parameters it has."""
    import torch

    from retrieval.export import export
    from retrieval.predictors.base import Anchored
    from retrieval.weights import write_weights

    anchored = kind == "residual"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(kind, dim, anchored=anchored).eval()
    if isinstance(model, Anchored):
        torch.nn.init.ones_(model.gain)  # at 0, as training starts, nothing of the network would show in an answer
    parameters = sum(value.numel() for value in model.parameters())
    export(model, folder, dim)
    write_weights(folder / WEIGHTS, model, half=True)
    encoder = Fingerprint("random vectors", "none", dim, "none", False, True, "", "", 0)
    ModelConfig(kind, dim, CONTEXT, anchored, {}, encoder, {}, parameters, {}, seal(folder)).write(folder)
    return parameters


def smallest_cosine(folder: Path, dim: int, precision: str) -> float:
    """Between the predictions in f32 and at a precision, over random contexts of 1 to 5 chunks."""
    context, _ = questions(_COMPARED, dim)
    mask = np.arange(CONTEXT, 0, -1) <= np.arange(_COMPARED)[:, None] % CONTEXT + 1
    ours, theirs = (open_compiled(folder, one).predict(context, mask) for one in (precision, "f32"))
    return float((ours * theirs).sum(axis=1).min())
