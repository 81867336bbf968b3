"""The twin of a model in eight bits: a folder that the fast path runs as it is, with what was measured of it.

It does not know how one is made (`index/quantize.py` does), nor how fast it is on this machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from index.encoder import (
    BUNDLED,
    HASHING,
    INT8,
    POOLED,
    RECIPE,
    Fingerprint,
    folder_of,
    lasting,
    read_recipe,
    write_recipe,
)
from store.generations import write_atomically
from store.records import LookaheadError

QUANTIZED = "quantized.json"
FORMAT = 1
STS_DROP = 0.01  # by so much may the Spearman correlation with people's scores fall
FILES = ("model.xml", "model.bin", "tokenizer.json")
_SEALED = (*FILES, RECIPE)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured when a twin was made. Rates are texts a second, on the machine that made it."""

    mode: str  # "static": scales of activations from calibration; "dynamic": found while it runs
    texts: int  # calibrated on
    held_out: int  # other texts, which cosines to float32 and rates are of
    cosine_mean: float
    cosine_least: float
    bytes_before: int  # of the weights in single precision
    bytes_after: int  # of model.xml and model.bin
    rates: dict[str, float]
    full: str  # the fastest full precision there
    sts_before: float | None  # of that precision; None where nobody judged
    sts_after: float | None
    seconds: float

    @property
    def sts_drop(self) -> float | None:
        if self.sts_before is None or self.sts_after is None:
            return None
        return self.sts_before - self.sts_after

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Twin:
    """A twin whose files are as they were written."""

    folder: Path
    fingerprint: Fingerprint
    measured: Measured

    def unlike(self, model: Fingerprint) -> str | None:
        """What is wrong with it as the twin of a model of that fingerprint, or None."""
        if replace(model, precision=INT8) == self.fingerprint:
            return None
        return f"is of other weights ({self.fingerprint}) than the model's ({model})"

    def unproven(self) -> str | None:
        """Why nobody should get it unasked, or None."""
        drop = self.measured.sts_drop
        if drop is None:
            return "was not judged on STS; run: lookahead quantize MODEL --int8 --sts FOLDER"
        return None if drop <= STS_DROP else f"is worse on STS by {drop:.3f}"


def twin_of(spec: str, int8: Path | None = None) -> Path | None:
    """Where a model's twin is: `int8`, or in the model's own folder; None where there is none."""
    own = folder_of(spec) if spec not in (BUNDLED, HASHING) else None
    places = [*([int8] if int8 is not None else []), *([own / INT8] if own is not None else [])]
    return next((place for place in places if place.is_dir()), None)


def only_twin(spec: str) -> Path | None:
    """The twin of a folder that holds nothing else to run, or the folder itself where it is one; None of any other."""
    own = folder_of(spec) if spec not in (BUNDLED, HASHING) and not spec.startswith(POOLED) else None
    if own is None or not own.is_dir() or any((own / name).exists() for name in ("modules.json", "config.json")):
        return None
    there = (own / INT8 / QUANTIZED, own / INT8 / RECIPE, own / QUANTIZED)  # one of the two may be lost
    return next((path.parent for path in there if path.exists()), None)


def read_twin(folder: Path) -> Twin:
    """The twin in a folder; raises where it is damaged."""
    try:
        raw = json.loads((folder / QUANTIZED).read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT:
            raise ValueError("it is of another version of this program")
        seals = {str(name): str(seal) for name, seal in raw.pop("seals").items()}
        measured = Measured(**raw)
        recipe = read_recipe(folder)
        if recipe["kind"] != "openvino" or recipe["precision"] != INT8 or set(seals) != set(_SEALED):
            raise ValueError(f"{QUANTIZED} does not describe a model of eight bits")
        if changed := [name for name in _SEALED if _seal(folder / name) != seals[name]]:
            raise ValueError(f"{' and '.join(changed)} changed since it was made")
        for value in (measured.sts_before, measured.sts_after):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{QUANTIZED} has scores that are no numbers")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, LookaheadError) as error:
        reason = str(error).splitlines()[0].removesuffix("; run: lookahead verify")
        raise LookaheadError(
            f"the twin in eight bits in {folder} is damaged: {reason}; run: lookahead quantize MODEL --int8"
        ) from error
    return Twin(folder, Fingerprint.from_json(recipe["fingerprint"]), measured)


def write_twin(folder: Path, recipe: dict[str, Any], measured: Measured) -> None:
    """Writes what stands beside the files of a twin."""
    write_recipe(folder, recipe)
    seals = {name: _seal(folder / name) for name in _SEALED}
    raw = {"format": FORMAT, **measured.as_json(), "seals": seals}
    write_atomically(folder / QUANTIZED, (json.dumps(raw, indent=1, allow_nan=False) + "\n").encode())


def place_twin(twin: Twin, spec: str, folder: Path) -> None:
    """Makes `folder` an encoder folder of its own: copies, so that it stays when the model goes."""
    for name in FILES:
        shutil.copyfile(twin.folder / name, folder / name)
    write_recipe(folder, {**read_recipe(twin.folder), "spec": lasting(spec)})


def _seal(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
