"""The fast path: a converted model run by OpenVINO, with tokenizers and nothing else. No torch is imported.

It does not know how the model was converted (`index/conversion.py` does); it reads a folder with `encoder.json`,
`model.xml`, `model.bin` and `tokenizer.json`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from index.encoder import INT8, Encoder, Fingerprint, read_recipe
from index.graphs import ov
from store.records import LookaheadError

MODEL, TOKENIZER = "model.xml", "tokenizer.json"
BATCH = 16  # with texts sorted by length, larger batches only leave the caches
QUERY_BATCH = 8  # questions are short and of all lengths: the smaller a batch, the less of it is padding
ALONE_BELOW = 100_000_000  # bytes of a model that one thread runs as soon as two, whose every step waits for the other
_STEP = 4  # tokens by which queries grow longer: each shape is prepared once and kept, and so there are fewer
SAME_SPACE = 0.999  # cosine to float32 above which a lower precision is the same space
# mean cosine to float32 from which eight bits will do: the smallest is that of the oddest text, and what a mean hides
# is watched over by the STS scores that are asked for beside it
KEEPS = 0.99


class FastEncoder:
    """An OpenVINO model whose output is the finished vector: pooling and normalising are inside its graph."""

    def __init__(
        self,
        compiled: Any,
        tokenizer: Tokenizer,
        fingerprint: Fingerprint,
        inputs: Sequence[str],
        streams: int,
        *,
        bulk: bool = True,
    ) -> None:
        self._compiled = compiled
        self._tokenizer = tokenizer
        self._inputs = inputs
        self._streams = streams
        self._bulk = bulk
        self._requests: list[Any] = []  # idle ones; making one takes as long as a tenth of a question
        self.fingerprint = fingerprint

    @classmethod
    def open(cls, folder: Path, *, bulk: bool, threads: int | None = None) -> FastEncoder:
        """For bulk work one stream a core; for a few queries one stream, on one core or, for a large model, on all."""
        recipe = read_recipe(folder)
        precision = recipe["precision"] if recipe["precision"] in (INT8, *precisions()) else "f32"
        return cls.compile(folder, precision, bulk=bulk, threads=threads)

    @classmethod
    def compile(cls, folder: Path, precision: str, *, bulk: bool, threads: int | None = None) -> FastEncoder:
        """As `open`, at a precision of the caller's choice ("f32", "bf16", "f16"), or "int8" for a model of eight bits,
        whose remaining layers run in bfloat16 where the machine has it."""
        recipe = read_recipe(folder)
        fingerprint = Fingerprint.from_json(recipe["fingerprint"])
        rest = precision if precision != INT8 else "bf16" if "bf16" in precisions() else "f32"
        hint: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT" if bulk else "LATENCY",
            "INFERENCE_PRECISION_HINT": rest,
        }
        if threads is not None:  # not bound to cores: each process that takes one would take the first
            hint |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        elif not bulk and _size(folder) < ALONE_BELOW:
            hint["INFERENCE_NUM_THREADS"] = 1
        if "group" in recipe:  # values of an activation that share a scale, where scales are found while it runs
            hint["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = recipe["group"]
        try:
            compiled = ov.Core().compile_model(str(folder / MODEL), "CPU", hint)
        except Exception as error:  # openvino raises bare exceptions of its own
            raise LookaheadError(f"cannot load the encoder in {folder}: {_first_line(error)}") from error
        tokenizer = read_tokenizer(folder, fingerprint.max_tokens)
        streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        return cls(compiled, tokenizer, fingerprint, recipe["inputs"], streams, bulk=bulk)

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
        size = BATCH if self._bulk else QUERY_BATCH
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if len(batches) == 1:
            request = self._request()
            out[batches[0]] = request.infer(self._fed(tokens, batches[0]))[0]
            self._requests.append(request)
            return out
        # requests are waited for in turn and by this thread: an AsyncInferQueue with a callback now and then never
        # ends (its destructor and the callback's thread wait for each other over Python's lock)
        idle = [self._request() for _ in range(min(self._streams + 1, len(batches)))]
        busy: deque[tuple[Any, list[int]]] = deque()
        for places in batches:
            request = idle.pop() if idle else _collect(busy.popleft(), out)
            request.start_async(self._fed(tokens, places))
            busy.append((request, places))
        self._requests.extend(_collect(pair, out) for pair in busy)
        return out

    def _request(self) -> Any:
        """One that is this call's own until it is given back, so that several threads may encode at once."""
        try:
            return self._requests.pop()
        except IndexError:
            return self._compiled.create_infer_request()

    def _fed(self, tokens: list[list[int]], places: list[int]) -> dict[str, NDArray[np.int64]]:
        longest = max(len(tokens[place]) for place in places)
        room = longest if self._bulk else min(-(-longest // _STEP) * _STEP, max(longest, self.fingerprint.max_tokens))
        return feed([tokens[place] for place in places], self._inputs, room)


def read_tokenizer(folder: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer of an encoder folder, which cuts long texts and fills up none."""
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # tokenizers raises bare exceptions
        raise LookaheadError(f"cannot load the encoder in {folder}: {_first_line(error)}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def feed(rows: Sequence[Sequence[int]], inputs: Sequence[str], room: int = 1) -> dict[str, NDArray[np.int64]]:
    """Token ids of texts as the arrays (texts, longest) that a graph takes, with room for so many tokens or more."""
    ids = np.zeros((len(rows), max(1, room, *(len(row) for row in rows))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: known[name] for name in inputs}


def _size(folder: Path) -> int:
    """Bytes of a model's weights; none where they are missing, which loading it will say."""
    weights = (folder / MODEL).with_suffix(".bin")
    return weights.stat().st_size if weights.exists() else 0


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


def probe(
    folder: Path, texts: Sequence[str], seconds: float = 1.0, *, int8: Path | None = None
) -> tuple[str, dict[str, tuple[float, float]]]:
    """The fastest precision that may be taken here, and (texts/s, cosine to float32) of each tried: the smallest cosine
    for those that are to be the same space, the mean for the twin in eight bits."""
    encoders = {name: FastEncoder.compile(folder, name, bulk=True) for name in precisions()}
    if int8 is not None:
        encoders[INT8] = FastEncoder.compile(int8, INT8, bulk=True)
    vectors = {name: encoder.encode(texts) for name, encoder in encoders.items()}
    rates = paces(encoders, texts, seconds)
    tried = {}
    for name, found in vectors.items():
        cosines = cosines_of(found, vectors["f32"])
        tried[name] = (rates[name], float(cosines.mean() if name == INT8 else cosines.min()))
    return fastest(tried), tried


def fastest(tried: Mapping[str, tuple[float, float]]) -> str:
    """The name with the highest rate among those that keep near enough to float32."""
    least = {"f32": -1.0, INT8: KEEPS}  # float32 is always there to fall back on
    able = {name: rate for name, (rate, cosine) in tried.items() if cosine >= least.get(name, SAME_SPACE)}
    return max(able, key=lambda name: able[name])


def paces(encoders: Mapping[str, Encoder], texts: Sequence[str], seconds: float) -> dict[str, float]:
    """Texts a second of each, the best of three rounds or more in which all take turns: a load that comes and goes
    then meets them all. Each is to have run once before."""
    best = dict.fromkeys(encoders, float("inf"))
    started, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - started < seconds:
        for name, encoder in encoders.items():
            before = time.perf_counter()
            encoder.encode(texts)
            best[name] = min(best[name], time.perf_counter() - before)
        rounds += 1
    return {name: len(texts) / spent for name, spent in best.items()}


def cosines_of(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row by row; 0 for a vector of zeros."""
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    found: NDArray[np.float32] = (ours * theirs).sum(axis=1) / np.maximum(lengths, 1e-12)
    return found


def _smallest_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(cosines_of(ours, theirs).min())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
