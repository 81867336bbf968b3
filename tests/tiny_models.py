"""Predictors that can be computed in the head: a weighted sum of the context, as an OpenVINO graph of four nodes.

No torch: what a real model's folder holds, without training one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openvino import opset13 as ops

from index.encoder import Fingerprint
from index.graphs import ov
from index.hashing import HashingEncoder
from retrieval.models import GRAPH, WEIGHTS, ModelConfig, seal
from store.chunking import ChunkingRules

COPY_LAST = (0.0, 0.0, 0.0, 0.0, 1.0)
SUM = (1.0, 1.0, 1.0, 1.0, 1.0)


def write_graph(path: Path, dim: int, weights: Sequence[float] = COPY_LAST, *, mask_type: Any = np.bool_) -> None:
    """L2(Σ wᵢ mᵢ xᵢ); a sum of nothing is zero."""
    context = ops.parameter([-1, len(weights), dim], np.float32, name="context")
    mask = ops.parameter([-1, len(weights)], mask_type, name="mask")
    for node, name in ((context, "context"), (mask, "mask")):
        node.output(0).get_tensor().set_names({name})
    # a matrix of more than a few numbers, so that there is a predictor.bin to damage
    identity = ops.constant(np.eye(dim, dtype=np.float32))
    there = ops.unsqueeze(ops.convert(mask, "f32"), ops.constant(np.int64(2)))
    parts = ops.multiply(
        ops.multiply(context, there), ops.constant(np.array(weights, dtype=np.float32).reshape(1, -1, 1))
    )
    total = ops.matmul(ops.reduce_sum(parts, ops.constant(np.int64(1))), identity, False, False)
    out = ops.normalize_l2(total, ops.constant(np.array([1], dtype=np.int64)), 1e-12, "add")
    ov.save_model(ov.Model([out], [context, mask], "tiny"), path, compress_to_fp16=False)


def config_of(**changes: Any) -> ModelConfig:
    """A sound config; a tiny model is of no kind there is, so it says "amn"."""
    encoder: Fingerprint = changes.pop("encoder", HashingEncoder().fingerprint)
    sound: dict[str, Any] = {
        "kind": "amn",
        "dim": encoder.dim,
        "context": 5,
        "anchored": False,
        "options": {},
        "encoder": encoder,
        "chunking": ChunkingRules(words=10).as_json(),
        "parameters": 5,
        "trained": {"valid": {"MRR": 0.25}},
    }
    return ModelConfig(**{**sound, **changes})


def write_model(folder: Path, weights: Sequence[float] = COPY_LAST, **changes: Any) -> Path:
    """A whole model folder, sealed."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(**changes)
    write_graph(folder / GRAPH, config.dim, weights)
    (folder / WEIGHTS).write_bytes(b"weights")
    config_of(**{"seals": seal(folder), **changes}).write(folder)
    return folder
