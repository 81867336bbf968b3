"""From trained networks to OpenVINO graphs that give the same answers without torch.

It does not know how they were trained, nor who runs the graphs (`runtime` does).
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from index.graphs import ov
from retrieval.models import GRAPH, TOWER
from retrieval.predictors.base import Predictor
from retrieval.sequences import CONTEXT
from retrieval.towers import PassageTower
from store.records import LookaheadError

SAME = 0.9999  # cosine between torch's answer and the graph's, whose weights are stored in half precision


def export(model: Predictor, folder: Path, example_dim: int) -> None:
    """Writes predictor.xml and predictor.bin: "context" (B, 5, D) float32 and "mask" (B, 5) boolean to "prediction"
    (B, D), for any B. A graph that answers otherwise than torch is refused, and nothing is written."""

    def asked(size: int) -> Inputs:
        context, mask = _question(size, example_dim)
        return {"context": context, "mask": mask}

    _write(model, folder / GRAPH, asked, "prediction")


def export_tower(tower: PassageTower, folder: Path) -> None:
    """Writes tower.xml and tower.bin: "vectors" (N, D) float32 to "passages" (N, D), for any N; refused as above."""

    def asked(size: int) -> Inputs:
        return {"vectors": _directions(torch.Generator().manual_seed(size), size, tower.dim)}

    _write(tower, folder / TOWER, asked, "passages")


Inputs = dict[str, Tensor]  # a network's arguments, in their order; the first dimension is the batch


def _write(model: nn.Module, path: Path, asked: Callable[[int], Inputs], output: str) -> None:
    """`asked` gives random questions, so many at once."""
    assert not model.training, "dropout would be traced as well; call eval() first"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as name:
        made = Path(name) / path.name
        ov.save_model(_traced(model, asked(3), output), str(made), compress_to_fp16=True)
        _refuse_another(model, made, asked, output)
        for part in (made.with_suffix(".bin"), made):  # the graph last: it is what a reader looks for
            os.replace(part, path.parent / part.name)


def _traced(model: nn.Module, example: Inputs, output: str) -> ov.Model:
    with quietly(), torch.no_grad():
        # unchecked: whether it fixed what should vary is asked of the graph that comes of it
        traced = torch.jit.trace(model, tuple(example.values()), check_trace=False)  # type: ignore[no-untyped-call]
        graph = ov.convert_model(traced)
    graph.reshape({at: ov.PartialShape([-1, *one.shape[1:]]) for at, one in enumerate(example.values())})
    for port, given in zip(graph.inputs, example, strict=True):
        port.get_tensor().set_names({given})
    graph.outputs[0].get_tensor().set_names({output})
    return graph


def _refuse_another(model: nn.Module, path: Path, asked: Callable[[int], Inputs], output: str) -> None:
    """Compares with torch on batches of several sizes, with contexts of all lengths."""
    hint = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(str(path), "CPU", hint)
    for size in (1, 7):
        inputs = asked(size)
        answer = torch.from_numpy(compiled({name: one.numpy() for name, one in inputs.items()})[output])
        with torch.no_grad():
            cosine = float(functional.cosine_similarity(answer, model(*inputs.values())).min())
        if not cosine >= SAME:
            raise LookaheadError(
                f"the OpenVINO graph of {type(model).__name__} differs from the trained model (cosine {cosine:.5f}, "
                f"expected {SAME}); the weights are kept, the graph is not written"
            )


def _question(size: int, dim: int) -> tuple[Tensor, Tensor]:
    """Random unit vectors, in contexts of 5, 4, 3, 2, 1, 5, … chunks."""
    chance = torch.Generator().manual_seed(size)
    mask = torch.arange(CONTEXT) >= (torch.arange(size) % CONTEXT).unsqueeze(1)
    return _directions(chance, size, CONTEXT, dim), mask


def _directions(chance: torch.Generator, *shape: int) -> Tensor:
    return functional.normalize(torch.randn(*shape, generator=chance), dim=-1)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
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
