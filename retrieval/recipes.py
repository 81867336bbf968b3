"""How predictors and towers are trained unless told otherwise: what the validation articles of `enwiki` preferred.

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


@dataclass(frozen=True, slots=True)
class TowersRecipe:
    """How two towers are trained: as a `Recipe` where names are the same.

    `learned`: the temperature begins there and is learned. `symmetric` is the weight of finding a chunk's window beside
    that of finding a window's chunk. `negatives` hard ones a window are drawn from its article and `near_misses` mined,
    both from the share `hard_from` of the steps on; without `neighbours` the chunk after the target is no negative.
    `memory` passages of earlier batches are further negatives. A window weighs as (windows of its article) to the power
    −`length_correction`.
    """

    epochs: float = 4
    windows: int = 2048
    run: int = 256
    short: float = 0.15
    temperature: float = 0.04
    learned: bool = False
    symmetric: float = 0.0
    negatives: int = 0
    near_misses: int = 0
    hard_from: float = 0.25
    neighbours: bool = True
    memory: int = 0
    length_correction: float = 0.0
    rate: float = 6e-3
    decay: float = 3.0
    ema: float = 0.98
    patience: int = 5
    checks: int = 8
    seed: int = 0
    precision: str = "f32"
    watch: str = "MRR"


def towers_recipe_for(backbone: str, changes: Mapping[str, Any], *, native: str = "f32") -> TowersRecipe:
    """The recipe of towers over that backbone with some of its fields changed; None leaves a field as it is.

    How long, how fast and in what batches a backbone learns is as for the predictor of that kind.
    """
    alone = recipe_for(backbone, {}, native=native)
    pace = {name: getattr(alone, name) for name in ("epochs", "windows", "rate", "precision")}
    given = {name: value for name, value in changes.items() if value is not None}
    unknown = given.keys() - {field.name for field in fields(TowersRecipe)}
    if unknown:
        raise ValueError(f"a recipe of towers has no {', '.join(sorted(unknown))}")
    return replace(TowersRecipe(), **{**pace, **given})
