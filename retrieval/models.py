"""A trained model on disk: what its folder holds, which vectors it is for, and where one is found.

It imports neither torch nor OpenVINO: it knows files, not how they are trained (`training`) or run (`runtime`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from index.encoder import Fingerprint
from store.generations import Collection, write_atomically
from store.records import LookaheadError

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
GRAPH = "predictor.xml"  # OpenVINO, with predictor.bin beside it
CARD = "card.md"
METRICS = "metrics.json"
LOG = "training.jsonl"
CURVES = "curves.png"
SHIPPED = Path(__file__).resolve().parent.parent / "data" / "models"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """All that is needed to load a predictor and to make it again.

    `kind`, `anchored` and `options` name the class (see `retrieval.predictors.build`); `encoder` is the space of its
    vectors; `chunking` the rules its articles were cut by; `trained` says on what and how (collection, windows, recipe,
    command, seed, best step and validation figures); `seals` are sha256 sums of the files beside it.
    """

    kind: str
    dim: int
    context: int
    anchored: bool
    options: dict[str, Any]
    encoder: Fingerprint
    chunking: dict[str, Any]
    parameters: int
    trained: dict[str, Any] = field(default_factory=dict)
    seals: dict[str, str] = field(default_factory=dict)
    format: int = 1

    @property
    def valid_mrr(self) -> float:
        """MRR@50 on the validation articles; 0 where it was not measured."""
        return float(self.trained.get("valid", {}).get("MRR", 0.0))

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "encoder": self.encoder.as_json()}

    def write(self, folder: Path) -> None:
        raw = json.dumps(self.as_json(), indent=1, sort_keys=True, ensure_ascii=False)
        write_atomically(folder / CONFIG, raw.encode())

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """The config of a model folder; a damaged or foreign one is refused."""
        path = folder / CONFIG
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["format"] != 1:
                raise LookaheadError(f"{path} is of format {raw['format']}, this program reads 1; update it")
            return cls(**{**raw, "encoder": Fingerprint.from_json(raw["encoder"])})
        except OSError as error:
            raise LookaheadError(f"there is no model in {folder}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise LookaheadError(f"{path} does not describe a model; train it again") from error


@dataclass(frozen=True, slots=True)
class Model:
    """A model found: its name, its folder, its config, and whether it came with the program."""

    name: str
    folder: Path
    config: ModelConfig
    shipped: bool


def models_folder(collection: Collection) -> Path:
    """Where a collection's own models are; generations come and go beside them."""
    return collection.path / "models"


def models_in(folder: Path, *, shipped: bool = False) -> list[Model]:
    """The finished models of a folder, best on its validation articles first."""
    if not folder.is_dir():
        return []
    found = [
        Model(path.name, path, ModelConfig.read(path), shipped)
        for path in sorted(folder.iterdir())
        if (path / CONFIG).is_file()
    ]
    return sorted(found, key=lambda model: -model.config.valid_mrr)


def find_model(collection: Collection, encoder: Fingerprint, name: str | None = None, shipped: Path = SHIPPED) -> Model:
    """The model of that name, or the best of the collection, or else the best that came with the program.

    One for another encoder is refused with both named.
    """
    own, ours = models_in(models_folder(collection)), models_in(shipped, shipped=True)
    for model in [*own, *ours]:
        if name is not None and model.name == name:
            refuse_other_encoder(model, encoder)
            return model
    fitting = [model for model in [*own, *ours] if model.config.encoder == encoder]
    if name is not None:
        there = ", ".join(dict.fromkeys(model.name for model in fitting)) or "none yet"
        raise LookaheadError(
            f'there is no model "{name}" for {collection.name} (there are: {there}); '
            f"run: lookahead train predictor {name} --collection {collection.name}"
        )
    if not fitting:
        raise LookaheadError(
            f"{collection.name} has no trained model, and none that came with the program is for its encoder "
            f"({encoder}); run: lookahead train predictor amn --collection {collection.name}"
        )
    return fitting[0]


def refuse_other_encoder(model: Model, encoder: Fingerprint) -> None:
    """Raises, naming both encoders, when a model was trained on other vectors."""
    if model.config.encoder != encoder:
        raise LookaheadError(
            f"model {model.name} is for {model.config.encoder}, the collection's vectors are from {encoder}; "
            "train one for this collection: lookahead train predictor"
        )
