"""A trained predictor run by OpenVINO: contexts in, predicted next vectors out. No torch is imported.

It does not know how the graph was made (`export` does), nor which chunks lie near a prediction (`predict`).
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from index.dense import normalised
from retrieval.models import GRAPH, GRAPH_WEIGHTS, ModelConfig, check_seals
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
        hints = {"PERFORMANCE_HINT": "LATENCY"} | ({"INFERENCE_PRECISION_HINT": precision} if precision else {})
        try:
            compiled = ov.Core().compile_model(str(folder / GRAPH), "CPU", hints)
        except Exception as error:  # openvino raises bare exceptions of its own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise LookaheadError(f"cannot load {folder / GRAPH}: {reason}; train the model again") from error
        _check_ports(compiled, folder / GRAPH, config.dim)
        return cls(compiled, config.dim)

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


def _check_ports(compiled: Any, path: Path, dim: int) -> None:
    """Raises when a graph's inputs and output are not a predictor's of that dimension."""
    ports = {port.get_any_name(): port.get_partial_shape() for port in compiled.inputs}
    out = [port.get_partial_shape() for port in compiled.outputs]
    wanted = {"context": ov.PartialShape([-1, CONTEXT, dim]), "mask": ov.PartialShape([-1, CONTEXT])}
    if ports != wanted or len(out) != 1 or not out[0].compatible(ov.PartialShape([-1, dim])):
        found = ", ".join(f"{name} {shape}" for name, shape in ports.items())
        raise LookaheadError(
            f"{path} takes {found} and gives {', '.join(map(str, out))}; expected context [?,{CONTEXT},{dim}] and "
            f"mask [?,{CONTEXT}] to give [?,{dim}]; train the model again"
        )
