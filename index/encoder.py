"""Texts to vectors: the protocol, the fingerprint of a space, and the choice of an implementation.

It knows names of models and folders on disk, and not what a chunk or a collection is. Nothing heavy is imported here:
each implementation lives in its own file and is loaded when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from store.records import LookaheadError

BUNDLED = "bundled"
HASHING = "hashing"
STATIC = "static"
POOLED = "pooled:"
INT8 = "int8"  # the precision, and the folder of a twin in eight bits inside the model's own
AUTO, FULL = "auto", "full"
PRECISIONS = (AUTO, FULL, INT8)
RECIPE = "encoder.json"
# what a recipe of each kind says beside kind and fingerprint
_NEEDED = {"openvino": ("spec", "inputs", "precision"), "torch": ("spec",), STATIC: ("spec",)}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Which space a vector is in. Vectors may be compared when all of this is equal, and only then.

    `precision` is "full" for float32 and for anything whose cosine to it is ≥ .999 (bfloat16 here, float32 there:
    the same space), and "int8" otherwise. `revision` is a checksum of the weights.
    """

    model: str
    revision: str
    dim: int
    pooling: str
    dense: bool
    normalised: bool
    document_prefix: str
    query_prefix: str
    max_tokens: int
    precision: str = "full"

    @property
    def key(self) -> str:
        """12 hex digits of all fields."""
        raw = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(raw.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        layers = [self.pooling, *(["dense"] if self.dense else []), *(["normalised"] if self.normalised else [])]
        return f"{self.model} {self.dim}d {'+'.join(layers)} {self.precision} [{self.key}]"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Fingerprint:
        return cls(**raw)


class Encoder(Protocol):
    """Anything that places texts in a space."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> Fingerprint: ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Documents to (n, dim), in their order."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Questions to (n, dim): the same as `encode` unless the model puts other words before a question."""
        ...


def prepare(
    spec: str,
    folder: Path,
    *,
    device: str = "auto",
    precision: str = AUTO,
    int8: Path | None = None,
    note: Callable[[str], object] = lambda _: None,
) -> Encoder:
    """Makes `folder` hold all that queries will need of the model `spec` names, and opens it for bulk encoding.

    `spec` is "bundled", "hashing", a sentence-transformers model by name or folder, or "pooled:" and one of those for
    its mean-pooled vectors alone ("gtr-t5-base" is short for that of the model vec2text inverts). `int8` is where a
    twin in eight bits would be, if not within the model's own folder; `precision` "auto" takes a twin where it is
    faster here and as good, "int8" in any case. `note` hears in a sentence what was chosen and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if spec == HASHING:
        from index.hashing import HashingEncoder

        if precision == INT8:
            raise LookaheadError("the hashing encoder has no weights to keep in eight bits; leave out --precision int8")
        hashing = HashingEncoder()
        write_recipe(folder, {"kind": HASHING, "fingerprint": hashing.fingerprint.as_json()})
        return hashing
    from index.twin import only_twin, place_twin, read_twin, twin_of

    alone = only_twin(spec)
    if alone is not None:
        if precision == FULL:
            raise LookaheadError(f"{spec} holds nothing but its twin in eight bits; leave out --precision full")
        twin = read_twin(alone)
        place_twin(twin, spec, folder)
        encoder = open_encoder(folder, bulk=True, device=device)
        encoder.encode(["a text"])  # that it runs is seen before anything is built on it
        note(f"encoder {encoder.fingerprint}: OpenVINO int8, all there is of it")
        return encoder
    there = twin_of(spec, int8)
    if precision == INT8 and there is None:
        raise LookaheadError(f"{spec} has no twin in eight bits yet; run: lookahead quantize {spec} --int8")
    if precision == FULL or (precision == AUTO and (device not in (AUTO, "cpu") or (device == AUTO and _gpu()))):
        there = None  # a GPU runs the model itself
    from index.conversion import convert_apart

    convert_apart(spec, folder, device=device, precision=precision, int8=there, note=note)
    return open_encoder(folder, bulk=True, device=device)


def open_encoder(folder: Path, *, bulk: bool = False, device: str = "auto", threads: int | None = None) -> Encoder:
    """The encoder a generation carries. `bulk` is for throughput; otherwise for the shortest wait of one query.

    `device` "auto" takes a GPU for bulk work where there is one, and never for a query. `threads` are of a model that
    OpenVINO runs, if not as many as there are cores; the vectors are the same.
    """
    recipe = read_recipe(folder)
    if recipe.get("precision") == INT8:  # elsewhere the model itself would run, whose vectors are others
        device = "cpu"
    if device == "auto":
        device = "cuda" if bulk and recipe["kind"] not in (HASHING, STATIC) and _gpu() else "cpu"
    match recipe["kind"]:
        case "hashing":
            from index.hashing import HashingEncoder

            return HashingEncoder()
        case "static":
            from index.static import StaticEncoder

            return StaticEncoder.open(folder)
        case "openvino" if device == "cpu":
            from index.fast import FastEncoder

            return FastEncoder.open(folder, bulk=bulk, threads=threads)
        case "openvino" | "torch":
            from index.conversion import TorchEncoder

            return TorchEncoder.open(folder, device=device)
        case other:
            raise LookaheadError(f"{folder / RECIPE} asks for an encoder of the unknown kind {other!r}")


def fingerprint_in(folder: Path) -> Fingerprint:
    """The fingerprint of the encoder kept in a folder, without loading it."""
    return Fingerprint.from_json(read_recipe(folder)["fingerprint"])


def refuse_other_space(wanted: Fingerprint, found: Fingerprint, *, what: str) -> None:
    """Raises, naming both, when vectors of the two cannot be compared."""
    if wanted != found:
        raise LookaheadError(f"{what} is for {wanted}, but this is {found}; vectors of the two cannot be compared")


def lasting(spec: str) -> str:
    """The spec with a relative folder written out: it would mean another place tomorrow."""
    name = spec.removeprefix(POOLED)
    folder = folder_of(name) if name not in (BUNDLED, HASHING) else None
    return spec if folder is None else spec.removesuffix(name) + str(folder)


def folder_of(name: str) -> Path | None:
    """The folder a name means, whole, or None where it means none."""
    try:
        path = Path(name).expanduser().resolve()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # too long for a name; a home that nobody has
        return None


def _gpu() -> bool:
    if not Path("/dev/nvidiactl").exists():  # torch, which would know, takes seconds to import
        return False
    from index.conversion import gpu_at_hand

    return gpu_at_hand()


def read_recipe(folder: Path) -> dict[str, Any]:
    try:
        recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LookaheadError(f"cannot read {folder / RECIPE}: {error}; run: lookahead verify") from error
    kind = recipe.get("kind") if isinstance(recipe, dict) else None
    try:
        if not isinstance(kind, str) or any(key not in recipe for key in _NEEDED.get(kind, ())):
            raise TypeError
        Fingerprint.from_json(recipe["fingerprint"])
    except (KeyError, TypeError) as error:
        raise LookaheadError(f"{folder / RECIPE} does not describe an encoder; run: lookahead verify") from error
    return dict(recipe)


def write_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    (folder / RECIPE).write_text(json.dumps(recipe, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
