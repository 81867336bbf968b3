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
RECIPE = "encoder.json"
_NEEDED = {"openvino": ("spec", "inputs", "precision"), "torch": ("spec",)}  # beside kind and fingerprint


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
    spec: str, folder: Path, *, device: str = "auto", note: Callable[[str], object] = lambda _: None
) -> Encoder:
    """Makes `folder` hold all that queries will need of the model `spec` names, and opens it for bulk encoding.

    `spec` is "bundled", "hashing", a sentence-transformers model by name or folder, or "pooled:" and one of those for
    its mean-pooled vectors alone ("gtr-t5-base" is short for that of the model vec2text inverts). `note` hears in a
    sentence what was chosen and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if spec == HASHING:
        from index.hashing import HashingEncoder

        hashing = HashingEncoder()
        write_recipe(folder, {"kind": HASHING, "fingerprint": hashing.fingerprint.as_json()})
        return hashing
    from index.conversion import convert_apart

    convert_apart(spec, folder, device=device, note=note)
    return open_encoder(folder, bulk=True, device=device)


def open_encoder(folder: Path, *, bulk: bool = False, device: str = "auto") -> Encoder:
    """The encoder a generation carries. `bulk` is for throughput; otherwise for the shortest wait of one query.

    `device` "auto" takes a GPU for bulk work where there is one, and never for a query.
    """
    recipe = read_recipe(folder)
    if device == "auto":
        device = "cuda" if bulk and recipe["kind"] != HASHING and _gpu() else "cpu"
    match recipe["kind"]:
        case "hashing":
            from index.hashing import HashingEncoder

            return HashingEncoder()
        case "openvino" if device == "cpu":
            from index.fast import FastEncoder

            return FastEncoder.open(folder, bulk=bulk)
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
