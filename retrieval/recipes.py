"""How each predictor is trained unless told otherwise: what the validation articles of `enwiki` preferred.

The figures behind it are in the README ("Choices that were measured"). It imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from store.records import LookaheadError


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a predictor is trained. `windows` in a batch, at most `run` of one article; `cosine` and `mse` are the
    weights of those losses beside InfoNCE's `contrast`; `short` is the share of windows with a context of random
    length; `checks` the validations of a whole run."""

    epochs: float = 2
    windows: int = 2048
    run: int = 64
    short: float = 0.15
    contrast: float = 1.0
    cosine: float = 0.0
    mse: float = 0.0
    temperature: float = 0.05
    smoothing: float = 0.0
    rate: float = 1e-3
    decay: float = 3.0
    ema: float = 0.98
    patience: int = 5
    checks: int = 12
    seed: int = 0
    precision: str = "f32"
    watch: str = "MRR"  # or "cosine", for vectors that are to be decoded rather than searched with


# what differs from the above; the large ones learn at a lower rate, and with 2,048 windows would take 4 to 11 GB
RECIPES: dict[str, dict[str, Any]] = {
    # bfloat16 is no faster for one so small, and its kernels for ever new shapes took .5 GB
    "amn": {"windows": 1024, "precision": "f32"},
    "residual": {"rate": 6e-3, "epochs": 4},
    "lstm": {"rate": 5e-4},
    "lstm-1024": {"rate": 3e-4, "epochs": 1, "windows": 1024},
    "gru": {"rate": 5e-4, "windows": 1024},
    "transformer": {"rate": 3e-4, "epochs": 1, "windows": 512},
    "transformer-encoder": {"rate": 3e-4, "epochs": 1, "windows": 512},
    "mamba": {"rate": 3e-4, "epochs": 1, "windows": 512},
}


def recipe_for(kind: str, changes: Mapping[str, Any], *, native: str = "f32") -> Recipe:
    """The recipe of a predictor with some of its fields changed; None leaves a field as it is.

    `native` is the machine's precision, taken unless the predictor has one of its own.
    """
    known = {field.name for field in fields(Recipe)}
    given = {name: value for name, value in changes.items() if value is not None}
    if given.keys() - known:
        raise ValueError(f"a recipe has no {', '.join(sorted(given.keys() - known))}")
    recipe = replace(Recipe(precision=native), **{**RECIPES.get(kind, {}), **given})
    if not (recipe.contrast or recipe.cosine or recipe.mse):
        raise LookaheadError("nothing to train for: give --contrast, --cosine or --mse a weight above 0")
    return recipe
