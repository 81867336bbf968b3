"""From a trained reranker to an OpenVINO graph that orders the same lists alike without torch.

It does not know how the reranker was trained, nor who runs the graph (`runtime` does).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from index.graphs import ov
from retrieval.export import quietly
from retrieval.reranker import Reranker
from retrieval.rerankers import RERANKER
from retrieval.sequences import CONTEXT
from store.records import LookaheadError

_PORTS = ("context", "mask", "prediction", "candidates", "passages", "present")
_OFF = 0.01  # of a score, whose differences decide


def export_reranker(model: Reranker, folder: Path, dim: int, depth: int) -> None:
    """Writes reranker.xml and reranker.bin for any number of lists of `depth` candidates. A graph that scores otherwise
    than torch is refused, and nothing is written."""
    assert not model.training, "dropout would be traced as well; call eval() first"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as name:
        path = Path(name) / RERANKER
        # whole: it is small, and what features are standardised by has to be exact (half precision moves scores by .06)
        ov.save_model(_traced(model, dim, depth), str(path), compress_to_fp16=False)
        _refuse_another(model, path, dim, depth)
        for part in (path.with_suffix(".bin"), path):
            os.replace(part, folder / part.name)


def _traced(model: Reranker, dim: int, depth: int) -> ov.Model:
    with quietly(), torch.no_grad():
        traced = torch.jit.trace(model, _question(3, dim, depth), check_trace=False)  # type: ignore[no-untyped-call]
        graph = ov.convert_model(traced)
    shapes = [[-1, CONTEXT, dim], [-1, CONTEXT], [-1, dim], [-1, depth, dim], [-1, depth, dim], [-1, depth]]
    graph.reshape({place: ov.PartialShape(shape) for place, shape in enumerate(shapes)})
    for port, given in zip(graph.inputs, _PORTS, strict=True):
        port.get_tensor().set_names({given})
    graph.outputs[0].get_tensor().set_names({"scores"})
    return graph


def _refuse_another(model: Reranker, path: Path, dim: int, depth: int) -> None:
    compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in (1, 7):
        given = _question(size, dim, depth)
        feed = {port: one.numpy() for port, one in zip(_PORTS, given, strict=True)}
        with torch.no_grad():
            off = (torch.from_numpy(compiled(feed)["scores"]) - model(*given)).masked_fill(~given[-1], 0.0)
        if not float(off.abs().max()) <= _OFF:
            raise LookaheadError(
                f"the OpenVINO graph of {type(model).__name__} differs from the trained reranker by "
                f"{float(off.abs().max()):.3f}, expected at most {_OFF}; the weights are kept, the graph is not written"
            )


def _question(size: int, dim: int, depth: int) -> tuple[Tensor, ...]:
    """Random unit vectors that lie near one direction a list; contexts of 5, 4, … chunks and lists of many lengths."""
    chance = torch.Generator().manual_seed(size)

    def near(towards: Tensor, *shape: int) -> Tensor:
        return functional.normalize(towards + 0.06 * torch.randn(*shape, dim, generator=chance), dim=-1)

    middle = functional.normalize(torch.randn(size, dim, generator=chance), dim=-1)
    mask = torch.arange(CONTEXT) >= (torch.arange(size) % CONTEXT).unsqueeze(1)
    present = torch.arange(depth) < (depth - torch.arange(size) * (depth // 8)).unsqueeze(1)
    context = near(middle.unsqueeze(1), size, CONTEXT)
    candidates = near(middle.unsqueeze(1), size, depth)
    return context, mask, near(middle, size), candidates, near(candidates, size, depth), present
