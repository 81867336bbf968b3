"""P towers and rerankers that can be computed in the head, as OpenVINO graphs of a few nodes, in whole folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openvino import opset13 as ops
from tiny_models import COPY_LAST, config_of, write_model

from index.graphs import ov
from retrieval import rerankers
from retrieval.models import TOWER, WEIGHTS, ModelConfig, seal
from retrieval.rerankers import RERANKER, RerankerConfig

Floats = NDArray[np.float32]

TINY = {"kind": "tiny", "options": {}}
BY_LAST, AGAINST_PREDICTION = "by last", "against prediction"


def halved(dim: int) -> Floats:
    """A matrix that leaves the second half of a vector a tenth as long: another space, with other neighbours."""
    return np.diag(np.where(np.arange(dim) < dim // 2, 1.0, 0.1)).astype(np.float32)


def write_tower_graph(path: Path, matrix: Floats) -> None:
    """L2(x M)."""
    vectors = ops.parameter([-1, len(matrix)], np.float32, name="vectors")
    vectors.output(0).get_tensor().set_names({"vectors"})
    moved = ops.matmul(vectors, ops.constant(matrix), False, False)
    out = ops.normalize_l2(moved, ops.constant(np.array([1], dtype=np.int64)), 1e-12, "add")
    ov.save_model(ov.Model([out], [vectors], "tiny tower"), path, compress_to_fp16=False)


def write_towers(
    folder: Path, matrix: Floats | None = None, weights: Sequence[float] = COPY_LAST, **changes: Any
) -> Path:
    """A whole folder of a model with a P tower, `halved` where no matrix is told, sealed."""
    changes = {"tower": TINY, "kind": "residual", **changes}
    write_model(folder, weights, **changes)
    dim = config_of(**changes).dim
    write_tower_graph(folder / TOWER, halved(dim) if matrix is None else matrix)
    config_of(**{**changes, "seals": seal(folder)}).write(folder)
    return folder


def write_reranker_graph(path: Path, dim: int, depth: int, kind: str = BY_LAST) -> None:
    """BY_LAST: 10 × the candidate's product with the last chunk of the context. AGAINST_PREDICTION: -10 × the
    passage's product with the prediction, which turns a list around."""
    shapes: dict[str, list[int]] = {"context": [-1, 5, dim], "mask": [-1, 5], "prediction": [-1, dim]}
    shapes |= {"candidates": [-1, depth, dim], "passages": [-1, depth, dim], "present": [-1, depth]}
    ports = {}
    for name, shape in shapes.items():
        ports[name] = ops.parameter(shape, np.bool_ if name in ("mask", "present") else np.float32, name=name)
        ports[name].output(0).get_tensor().set_names({name})
    if kind == BY_LAST:
        rows, factor = ports["candidates"], 10.0
        column = ops.gather(ports["context"], ops.constant(np.int64(4)), ops.constant(np.int64(1)))
    else:
        rows, factor = ports["passages"], -10.0
        column = ports["prediction"]
    # a matrix of more than a few numbers, so that there is a reranker.bin to damage
    turned = ops.matmul(column, ops.constant(np.float32(factor) * np.eye(dim, dtype=np.float32)), False, False)
    product = ops.matmul(rows, ops.unsqueeze(turned, ops.constant(np.int64(2))), False, False)
    out = ops.squeeze(product, ops.constant(np.int64(2)))
    ov.save_model(ov.Model([out], list(ports.values()), "tiny reranker"), path, compress_to_fp16=False)


def write_reranker(
    folder: Path, model: Path, kind: str = BY_LAST, depth: int = 6, blend: float = 0.0, **changes: Any
) -> Path:
    """A whole reranker's folder over a model's, sealed."""
    folder.mkdir(parents=True, exist_ok=True)
    config = ModelConfig.read(model)
    write_reranker_graph(folder / RERANKER, config.dim, depth, kind)
    (folder / WEIGHTS).write_bytes(b"weights of a reranker")
    sound: dict[str, Any] = {
        "over": model.name,
        "over_seal": config.seals[WEIGHTS],
        "dim": config.dim,
        "depth": depth,
        "blend": blend,
        "options": {},
        "parameters": 1,
        "seals": rerankers.seal(folder),
    }
    RerankerConfig(**{**sound, **changes}).write(folder)
    return folder
