"""The fast path: a converted model run by OpenVINO, with tokenizers and nothing else. No torch is imported.

It does not know how the model was converted (`index/conversion.py` does); it reads a folder with `encoder.json`,
`model.xml`, `model.bin` and `tokenizer.json`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from index.encoder import Fingerprint, read_recipe
from index.graphs import ov
from store.records import LookaheadError

MODEL, TOKENIZER = "model.xml", "tokenizer.json"
BATCH = 16  # with texts sorted by length, larger batches only leave the caches
SAME_SPACE = 0.999  # cosine to float32 above which a lower precision is the same space


class FastEncoder:
    """An OpenVINO model whose output is the finished vector: pooling and normalising are inside its graph."""

    def __init__(
        self, compiled: Any, tokenizer: Tokenizer, fingerprint: Fingerprint, inputs: Sequence[str], streams: int
    ) -> None:
        self._compiled = compiled
        self._tokenizer = tokenizer
        self._inputs = inputs
        self._streams = streams
        self.fingerprint = fingerprint

    @classmethod
    def open(cls, folder: Path, *, bulk: bool) -> FastEncoder:
        """For bulk work one stream a core; for a single query all cores on one."""
        recipe = read_recipe(folder)
        precision = recipe["precision"] if recipe["precision"] in precisions() else "f32"
        return cls.compile(folder, precision, bulk=bulk)

    @classmethod
    def compile(cls, folder: Path, precision: str, *, bulk: bool) -> FastEncoder:
        """As `open`, at a precision of the caller's choice ("f32", "bf16", "f16")."""
        recipe = read_recipe(folder)
        fingerprint = Fingerprint.from_json(recipe["fingerprint"])
        hint = {"PERFORMANCE_HINT": "THROUGHPUT" if bulk else "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        try:
            compiled = ov.Core().compile_model(str(folder / MODEL), "CPU", hint)
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # openvino and tokenizers raise bare exceptions of their own
            raise LookaheadError(f"cannot load the encoder in {folder}: {_first_line(error)}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(fingerprint.max_tokens)
        streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        return cls(compiled, tokenizer, fingerprint, recipe["inputs"], streams)

    @property
    def name(self) -> str:
        return self.fingerprint.model

    @property
    def dim(self) -> int:
        return self.fingerprint.dim

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode([self.fingerprint.document_prefix + text for text in texts])

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode([self.fingerprint.query_prefix + text for text in texts])

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Longest first, in batches of equal length within a few tokens, so that hardly any padding is computed."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(tokens)), key=lambda place: -len(tokens[place]))
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        if len(batches) == 1:  # one question: no queue, and safe from several threads at once
            out[batches[0]] = self._compiled.create_infer_request().infer(self._feed(tokens, batches[0]))[0]
            return out
        # requests are waited for in turn and by this thread: an AsyncInferQueue with a callback now and then never
        # ends (its destructor and the callback's thread wait for each other over Python's lock)
        idle = [self._compiled.create_infer_request() for _ in range(min(self._streams + 1, len(batches)))]
        busy: deque[tuple[Any, list[int]]] = deque()
        for places in batches:
            request = idle.pop() if idle else _collect(busy.popleft(), out)
            request.start_async(self._feed(tokens, places))
            busy.append((request, places))
        for pair in busy:
            _collect(pair, out)
        return out

    def _feed(self, tokens: list[list[int]], places: list[int]) -> dict[str, NDArray[np.int64]]:
        longest = max(1, *(len(tokens[place]) for place in places))
        ids = np.zeros((len(places), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, place in enumerate(places):
            ids[row, : len(tokens[place])] = tokens[place]
            mask[row, : len(tokens[place])] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return {name: feed[name] for name in self._inputs}


def _collect(pair: tuple[Any, list[int]], out: NDArray[np.float32]) -> Any:
    """Waits for a request, keeps its vectors, and gives it back."""
    request, places = pair
    request.wait()
    out[places] = request.get_output_tensor().data
    return request


def precisions() -> list[str]:
    """What this machine computes natively, float32 first. Emulated bfloat16 is a hundred times slower than either."""
    able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["f32", *(name for name, flag in (("bf16", "BF16"), ("f16", "FP16")) if flag in able)]


def probe(folder: Path, texts: Sequence[str], seconds: float = 1.0) -> tuple[str, dict[str, tuple[float, float]]]:
    """The fastest precision of the same space here, and (texts/s, smallest cosine to float32) of each tried.

    Each is given an equal part of `seconds`, after one warm-up batch.
    """
    tried: dict[str, tuple[float, float]] = {}
    reference = None
    names = precisions()
    for name in names:
        encoder = FastEncoder.compile(folder, name, bulk=True)
        vectors = encoder.encode(texts)
        reference = vectors if reference is None else reference
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds / len(names):
            encoder.encode(texts)
            done += len(texts)
        tried[name] = (done / (time.perf_counter() - started), _smallest_cosine(vectors, reference))
    able = {name: rate for name, (rate, cosine) in tried.items() if cosine >= SAME_SPACE}
    return max(able, key=lambda name: able[name]), tried


def _smallest_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / np.maximum(lengths, 1e-12)).min())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
