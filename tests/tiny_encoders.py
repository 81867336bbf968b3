"""Encoder folders for the fast path, written without torch: a token table, two layers with a residual, the mean, length
one. And models of which nothing but the twin in eight bits is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny_wordpiece import wordpiece

from index.encoder import INT8, Fingerprint, write_recipe
from index.fast import MODEL, TOKENIZER
from index.graphs import ov
from index.twin import Measured, write_twin

DIM = 32
SPACE = Fingerprint("tiny", "0123456789abcdef", DIM, "mean", False, True, "", "", 32)
MEASURED = Measured("static", 40, 10, 0.997, 0.99, 1000, 250, {"f32": 50.0, "bf16": 90.0, "int8": 130.0}, "bf16",
                    0.82, 0.819, 9.0)  # fmt: skip


def write_encoder(folder: Path, *, seed: int = 0, spec: str = "tiny", fingerprint: Fingerprint = SPACE) -> Path:
    """An encoder folder in full precision, its weights kept in half as conversion does."""
    from openvino import opset13 as op

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = wordpiece()
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> Any:
        return op.constant((rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32))

    ids = op.parameter([-1, -1], np.int64, name="input_ids")
    mask = op.parameter([-1, -1], np.int64, name="attention_mask")
    table = op.constant(rng.standard_normal((tokenizer.get_vocab_size(), DIM)).astype(np.float32), name="table")
    rows = op.gather(table, ids, op.constant(np.int64(0)))
    hidden = op.gelu(op.matmul(rows, weights(2 * DIM, DIM), False, True), "erf")
    rows = op.add(rows, op.matmul(hidden, weights(DIM, 2 * DIM), False, True))
    kept = op.unsqueeze(op.convert(mask, np.float32), op.constant(np.int64(2)))
    middle = op.divide(op.reduce_sum(op.multiply(rows, kept), 1), op.reduce_sum(kept, 1))
    out = op.divide(middle, op.sqrt(op.reduce_sum(op.multiply(middle, middle), 1, keep_dims=True)))
    for node, name in ((ids, "input_ids"), (mask, "attention_mask")):
        node.output(0).get_tensor().set_names({name})
    ov.save_model(ov.Model([out], [ids, mask], "tiny"), str(folder / MODEL), compress_to_fp16=True)
    tokenizer.save(str(folder / TOKENIZER))
    recipe = {"kind": "openvino", "spec": spec, "inputs": ["input_ids", "attention_mask"], "precision": "f32"}
    write_recipe(folder, {**recipe, "fingerprint": fingerprint.as_json()})
    return folder


def write_tiny_twin(folder: Path, measured: Measured = MEASURED, *, revision: str = SPACE.revision) -> Path:
    """What passes for a twin: the same graph with eight bits written beside it."""
    write_encoder(folder)
    recipe = json.loads((folder / "encoder.json").read_text())
    recipe |= {"precision": INT8, "fingerprint": {**recipe["fingerprint"], "precision": INT8, "revision": revision}}
    write_twin(folder, recipe, measured)
    return folder
