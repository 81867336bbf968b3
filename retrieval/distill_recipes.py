"""How a student is distilled unless told otherwise, and what earlier experiments did, as data. It imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from store.records import LookaheadError


@dataclass(frozen=True, slots=True)
class DistillRecipe:
    """`texts` in all (None: the usual mixture), read `epochs` times in batches of about `batch`; `steps` instead of
    epochs. `losses` are weights by name. `lengths` is a curriculum: the most tokens read in each equal part of the run
    (empty: the teacher's own). `watch` is the figure that is made large: "cosine" to the teacher, or "fit", which is
    1 − the alignment loss. `checks` validations, of which `patience` may pass without a better one (0: all)."""

    student: str = "layers:3"
    texts: int | None = None
    epochs: float = 1.5
    steps: int | None = None
    batch: int = 128
    rate: float = 4e-4
    decay: float = 0.01
    warm_up: float = 0.03
    losses: Mapping[str, float] = field(default_factory=lambda: {"distillation": 1.0})
    lengths: tuple[int, ...] = ()
    watch: str = "cosine"
    checks: int = 16
    patience: int = 0
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "losses": dict(self.losses), "lengths": list(self.lengths)}


# the settings of the "LEAF" experiments (../shared/design/prior-results.md, section 5), for a teacher such as
# EmbeddingGemma-300m; the first failed at STSBenchmark .223, the second was never trained
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "layers": {},
    "static": {"student": "static", "batch": 1024, "rate": 3e-3, "epochs": 4.0, "decay": 0.0},
    "leaf-v1": {
        "student": "narrow:6x0.5",
        "texts": 50_000,
        "epochs": 3.0,
        "losses": {"distillation": 0.5, "alignment": 1.0, "contrastive": 0.3},
        "lengths": (512,),
    },
    "leaf-v2": {
        "student": "narrow:12x0.75",
        "texts": 200_000,
        "epochs": 10.0,
        "losses": {"distillation": 0.5, "alignment": 2.5, "contrastive": 0.3, "triplet": 0.3},
        "lengths": (512, 1024, 2048),
        "watch": "fit",
        "patience": 4,
        "checks": 40,
    },
}


def distill_recipe(student: str | None, preset: str | None, changes: Mapping[str, Any]) -> DistillRecipe:
    """A preset's recipe with some fields changed; None leaves a field as it is. A student called like a preset brings
    the preset with it."""
    name = preset or (student if student is not None and student in PRESETS else "layers")
    if name not in PRESETS:
        raise LookaheadError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    recipe = replace(DistillRecipe(), **PRESETS[name])
    given = {key: value for key, value in changes.items() if value is not None}
    if student is not None and student != name:
        given["student"] = student
    return replace(recipe, **given)
