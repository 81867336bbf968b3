"""Trained networks run by OpenVINO: a predictor, a P tower, a reranker. No torch is imported.

It does not know how a graph was made (`export` does), nor where candidates come from (`predict`, `evaluate_pipeline`).
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from index.graphs import ov
from retrieval import rerankers
from retrieval.models import GRAPH, GRAPH_WEIGHTS, TOWER, TOWER_WEIGHTS, ModelConfig, check_seals
from retrieval.rerankers import RERANKER, RERANKER_WEIGHTS, RerankerConfig
from retrieval.sequences import CONTEXT
from store.records import LookaheadError

BATCH = 128  # windows at once: with 512 the graph of mamba takes 7 GB, and none is faster

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


class CompiledPredictor:
    """(context, mask) → predicted next vectors, as `retrieval.predictors.base.Predictor` has it, in numpy."""

    def __init__(self, compiled: Any, dim: int) -> None:
        self.dim = dim
        self.precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())  # what it computes in
        self.threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        self._request = compiled.create_infer_request()
        self._one_at_a_time = Lock()  # a request of its own for each call would double the wait of a small model

    @classmethod
    def open(cls, folder: Path, *, precision: str | None = None) -> CompiledPredictor:
        """The graph of a model folder, whole and of the dimension its config says.

        `precision` is OpenVINO's hint; None leaves the choice to it: bfloat16 where the processor has it, which takes
        half the time at a cosine to float32 of at least .9998, whatever the predictor.
        """
        config = ModelConfig.read(folder)
        check_seals(folder, config, (GRAPH, GRAPH_WEIGHTS))
        compiled = _compiled(folder / GRAPH, precision)
        dim = config.dim
        _check_ports(compiled, folder / GRAPH, {"context": [-1, CONTEXT, dim], "mask": [-1, CONTEXT]}, [-1, dim])
        return cls(compiled, dim)

    def predict(self, context: Floats, mask: Bools) -> Floats:
        """(n, D) of length one from (n, T, D) with the nearest chunk last and (n, T), true where there is a chunk.

        T is 1 to 5; fewer than 5 are padded in front. What stands where the mask is false makes no difference.
        """
        context, mask = self._checked(context, mask)
        out = np.empty((len(context), self.dim), dtype=np.float32)
        with self._one_at_a_time:
            for start in range(0, len(context), BATCH):
                stop = start + BATCH
                feed = {"context": context[start:stop], "mask": mask[start:stop]}
                out[start:stop] = self._request.infer(feed)[0]
        return normalised(out)

    def _checked(self, context: Floats, mask: Bools) -> tuple[Floats, Bools]:
        if context.ndim != 3 or context.shape[-1] != self.dim:
            raise LookaheadError(
                f"the predictor takes (n, up to {CONTEXT}, {self.dim}), the context is {context.shape}"
            )
        count, length = context.shape[:2]
        if not 1 <= length <= CONTEXT:
            raise LookaheadError(f"the predictor takes 1 to {CONTEXT} chunks, the context has {length}")
        if mask.shape != (count, length):
            raise LookaheadError(f"the mask of a context of {context.shape} is {(count, length)}, not {mask.shape}")
        if not (mask[:, -1].all() and (mask[:, 1:] >= mask[:, :-1]).all()):
            raise LookaheadError(
                "chunks may be missing in front of a context only, and never its last; the mask says so"
            )
        room = CONTEXT - length
        if not mask.all():  # what is not a number would spread from where nobody looks
            context = np.where(mask[..., None], context, np.float32(0))
        if room:
            context = np.pad(context, ((0, 0), (room, 0), (0, 0)))
            mask = np.pad(mask, ((0, 0), (room, 0)))
        return np.ascontiguousarray(context, dtype=np.float32), mask


class CompiledTower:
    """Chunks' vectors → the same chunks as candidates, as `retrieval.towers.PassageTower` has it, in numpy."""

    def __init__(self, compiled: Any, dim: int) -> None:
        self.dim = dim
        self._request = compiled.create_infer_request()
        self._one_at_a_time = Lock()

    @classmethod
    def open(cls, folder: Path) -> CompiledTower:
        """The P tower of a model folder that has one, in float32: what it gives is kept in an index."""
        config = ModelConfig.read(folder)
        check_seals(folder, config, (TOWER, TOWER_WEIGHTS))
        compiled = _compiled(folder / TOWER, "f32")
        _check_ports(compiled, folder / TOWER, {"vectors": [-1, config.dim]}, [-1, config.dim])
        return cls(compiled, config.dim)

    def passages(self, vectors: Floats) -> Floats:
        """(n, D) of length one from chunks' unit vectors (n, D)."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise LookaheadError(f"the P tower takes (n, {self.dim}), the vectors are {vectors.shape}")
        out = np.empty((len(vectors), self.dim), dtype=np.float32)
        with self._one_at_a_time:
            for start in range(0, len(vectors), _ROWS):
                some = np.ascontiguousarray(vectors[start : start + _ROWS], dtype=np.float32)
                out[start : start + _ROWS] = self._request.infer({"vectors": some})[0]
        return normalised(out)


class CompiledReranker:
    """Candidates → their scores, as `retrieval.reranker.Reranker` has it, in numpy."""

    def __init__(self, compiled: Any, dim: int, depth: int) -> None:
        self.dim = dim
        self.depth = depth
        self._request = compiled.create_infer_request()
        self._one_at_a_time = Lock()

    @classmethod
    def open(cls, folder: Path) -> CompiledReranker:
        """The graph of a reranker's folder, whole, in float32: it decides between near-ties."""
        config = RerankerConfig.read(folder)
        rerankers.check_seals(folder, config, (RERANKER, RERANKER_WEIGHTS))
        compiled = _compiled(folder / RERANKER, "f32")
        dim, depth = config.dim, config.depth
        ports = {"context": [-1, CONTEXT, dim], "mask": [-1, CONTEXT], "prediction": [-1, dim]}
        ports |= {"candidates": [-1, depth, dim], "passages": [-1, depth, dim], "present": [-1, depth]}
        _check_ports(compiled, folder / RERANKER, ports, [-1, depth])
        return cls(compiled, dim, depth)

    def scores(
        self, context: Floats, mask: Bools, prediction: Floats, candidates: Floats, passages: Floats, present: Bools
    ) -> Floats:
        """(n, m) of candidates (n, m, D), m ≤ depth and best first; higher is likelier next, -inf where not `present`.

        `candidates` are chunks' unit vectors, `passages` the same through the P tower, `prediction` (n, D) theirs to be
        compared with; `context` (n, 5, D) and `mask` (n, 5) as for a predictor.
        """
        count, width = present.shape
        if width > self.depth or candidates.shape != (count, width, self.dim) or passages.shape != candidates.shape:
            raise LookaheadError(
                f"the reranker takes (n, up to {self.depth}, {self.dim}), the candidates are {candidates.shape}"
            )
        room = ((0, 0), (0, self.depth - width))
        there = np.pad(present, room)
        candidates, passages = (np.pad(rows, (*room, (0, 0))) for rows in (candidates, passages))
        out = np.empty((count, self.depth), dtype=np.float32)
        with self._one_at_a_time:
            for start in range(0, count, _LISTS):
                some = slice(start, start + _LISTS)
                feed = {
                    "context": context[some],
                    "mask": mask[some],
                    "prediction": prediction[some],
                    "candidates": candidates[some],
                    "passages": passages[some],
                    "present": there[some],
                }
                out[some] = self._request.infer({name: np.ascontiguousarray(one) for name, one in feed.items()})[0]
        told: Floats = np.where(present, out[:, :width], -np.inf).astype(np.float32)
        return told


_ROWS = 8_192  # vectors through a P tower at once
_LISTS = 64  # lists of candidates at once: some 20 MB


def _compiled(path: Path, precision: str | None) -> Any:
    hints = {"PERFORMANCE_HINT": "LATENCY"} | ({"INFERENCE_PRECISION_HINT": precision} if precision else {})
    try:
        return ov.Core().compile_model(str(path), "CPU", hints)
    except Exception as error:  # openvino raises bare exceptions of its own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise LookaheadError(f"cannot load {path}: {reason}; train the model again") from error


def _check_ports(compiled: Any, path: Path, wanted: dict[str, list[int]], given: list[int]) -> None:
    """Raises when a graph's inputs and output are of other names or shapes."""
    ports = {port.get_any_name(): port.get_partial_shape() for port in compiled.inputs}
    out = [port.get_partial_shape() for port in compiled.outputs]
    shapes = {name: ov.PartialShape(shape) for name, shape in wanted.items()}
    if ports != shapes or len(out) != 1 or not out[0].compatible(ov.PartialShape(given)):
        found = ", ".join(f"{name} {shape}" for name, shape in ports.items())
        expected = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise LookaheadError(
            f"{path} takes {found} and gives {', '.join(map(str, out))}; expected {expected} to give "
            f"{ov.PartialShape(given)}; train the model again"
        )
