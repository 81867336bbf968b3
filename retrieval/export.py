"""From a trained predictor to an OpenVINO graph that gives the same answers without torch.

It does not know how the predictor was trained, nor who runs the graph (`runtime` does).
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import openvino as ov
import torch
from torch import Tensor
from torch.nn import functional

from retrieval.models import GRAPH
from retrieval.predictors.base import Predictor
from retrieval.sequences import CONTEXT
from store.records import LookaheadError

SAME = 0.9999  # cosine between torch's answer and the graph's, whose weights are stored in half precision


def export(model: Predictor, folder: Path, example_dim: int) -> None:
    """Writes predictor.xml and predictor.bin: "context" (B, 5, D) float32 and "mask" (B, 5) boolean to "prediction"
    (B, D), for any B. A graph that answers otherwise than torch is refused, and nothing is written."""
    assert not model.training, "dropout would be traced as well; call eval() first"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as name:
        path = Path(name) / GRAPH
        ov.save_model(_traced(model, example_dim), str(path), compress_to_fp16=True)
        _refuse_another(model, path, example_dim)
        for part in (path.with_suffix(".bin"), path):  # the graph last: it is what a reader looks for
            os.replace(part, folder / part.name)


def _traced(model: Predictor, dim: int) -> ov.Model:
    with _quiet(), torch.no_grad():
        # unchecked: whether it fixed what should vary is asked of the graph that comes of it
        traced = torch.jit.trace(model, _question(3, dim), check_trace=False)  # type: ignore[no-untyped-call]
        graph = ov.convert_model(traced)
    graph.reshape({0: ov.PartialShape([-1, CONTEXT, dim]), 1: ov.PartialShape([-1, CONTEXT])})
    for port, given in zip(graph.inputs, ("context", "mask"), strict=True):
        port.get_tensor().set_names({given})
    graph.outputs[0].get_tensor().set_names({"prediction"})
    return graph


def _refuse_another(model: Predictor, path: Path, dim: int) -> None:
    """Compares with torch on batches of several sizes, with contexts of all lengths."""
    hint = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(str(path), "CPU", hint)
    for size in (1, 7):
        context, mask = _question(size, dim)
        answer = torch.from_numpy(compiled({"context": context.numpy(), "mask": mask.numpy()})["prediction"])
        with torch.no_grad():
            cosine = float(functional.cosine_similarity(answer, model(context, mask)).min())
        if not cosine >= SAME:
            raise LookaheadError(
                f"the OpenVINO graph of {type(model).__name__} differs from the trained model (cosine {cosine:.5f}, "
                f"expected {SAME}); the weights are kept, the graph is not written"
            )


def _question(size: int, dim: int) -> tuple[Tensor, Tensor]:
    """Random unit vectors, in contexts of 5, 4, 3, 2, 1, 5, … chunks."""
    chance = torch.Generator().manual_seed(size)
    context = functional.normalize(torch.randn(size, CONTEXT, dim, generator=chance), dim=-1)
    return context, torch.arange(CONTEXT) >= (torch.arange(size) % CONTEXT).unsqueeze(1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns of each shape it takes for fixed; whether one was matters, and is checked by asking the graph."""
    logger = logging.getLogger("openvino")
    level = logger.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logger.setLevel(logging.ERROR)
            yield
    finally:
        logger.setLevel(level)
