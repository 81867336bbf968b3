"""A trained model on disk: what its folder holds, which vectors it is for, and where one is found.

It imports neither torch nor OpenVINO: it knows files, not how they are trained (`training`) or run (`runtime`).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection as Group
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from index.encoder import Fingerprint
from retrieval.predictors import KINDS
from retrieval.sequences import CONTEXT
from store.generations import Collection, DamageWarning, seal_of, write_atomically
from store.records import LookaheadError

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
GRAPH, GRAPH_WEIGHTS = "predictor.xml", "predictor.bin"  # OpenVINO's two files
TOWER, TOWER_WEIGHTS = "tower.xml", "tower.bin"  # of a model whose candidates go through a P tower
SEALED = (WEIGHTS, GRAPH, GRAPH_WEIGHTS, TOWER, TOWER_WEIGHTS)
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
    command, seed, best step and validation figures); `seals` are sha256 sums of the files beside it. `tower` names the
    P tower that candidates go through, {"kind", "options"} (see `retrieval.towers`); empty where they are compared as
    the encoder made them.
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
    tower: dict[str, Any] = field(default_factory=dict)

    @property
    def valid_mrr(self) -> float:
        """MRR@50 on the validation articles; 0 where it was not measured."""
        return float(self.trained.get("valid", {}).get("MRR", 0.0))

    @property
    def files(self) -> tuple[str, ...]:
        """Those of its files that are sealed."""
        return SEALED if self.tower else SEALED[:3]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "encoder": self.encoder.as_json()}

    def write(self, folder: Path) -> None:
        raw = json.dumps(self.as_json(), indent=1, sort_keys=True, ensure_ascii=False)
        write_atomically(folder / CONFIG, raw.encode())

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """The config of a model folder; a damaged or foreign one is refused, with what is wrong."""
        path = folder / CONFIG
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise LookaheadError(f"there is no model in {folder}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise LookaheadError(f"{path} is damaged: it is not JSON; {_AGAIN}") from error
        if isinstance(raw, dict) and raw.get("format", FORMAT) != FORMAT:
            raise LookaheadError(f"{path} is of format {raw['format']!r}, this program reads {FORMAT}; update it")
        fault = _fault_in(raw)
        if fault:
            raise LookaheadError(f"{path} does not describe a model: {fault}; {_AGAIN}")
        return cls(**{**raw, "encoder": Fingerprint.from_json(raw["encoder"])})


_AGAIN = "train it again: lookahead train predictor"
_TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool}  # annotations are strings here; the others are dicts
_SEAL = re.compile(r"[0-9a-f]{64}")


def _fault_in(raw: object) -> str:
    """What makes parsed JSON no model config, or nothing."""
    names = [one.name for one in fields(ModelConfig)]
    fault = _fields_fault(raw, ModelConfig, "it", [name for name in names if name != "tower"], may=("tower",))
    if fault:
        return fault
    assert isinstance(raw, dict)
    encoder = raw["encoder"]
    fault = _fields_fault(encoder, Fingerprint, "its encoder", [one.name for one in fields(Fingerprint)])
    if fault:
        return fault
    if raw["context"] != CONTEXT:
        return f"it looks at {raw['context']} chunks, this program at {CONTEXT}"
    if raw["dim"] < 1 or raw["dim"] != encoder["dim"]:
        return f"it has {raw['dim']} dimensions, its encoder {encoder['dim']}"
    figures = raw["trained"].get("valid", {})
    if not isinstance(figures, dict):
        return "its validation figures are no table"
    if not isinstance(figures.get("MRR", 0.0), int | float):
        return "its validation MRR is no number"
    for name, seal in raw["seals"].items():
        if name not in SEALED or not isinstance(seal, str) or not _SEAL.fullmatch(seal):
            return f"its seal of {name!r} is none"
    return ""


def _fields_fault(raw: object, of: type, what: str, needed: Sequence[str], may: Sequence[str] = ()) -> str:
    """Missing, unknown and mistyped keys of a JSON object that is to become a dataclass; those of `may` may miss."""
    if not isinstance(raw, dict):
        return f"{what} is no table"
    missing = [name for name in needed if name not in raw]
    if missing:
        return f"{what} lacks {', '.join(missing)}"
    unknown = [name for name in raw if name not in needed and name not in may]
    if unknown:
        return f"{what} has the unknown {', '.join(map(repr, unknown))}"
    for one in fields(of):
        if one.name not in raw:
            continue
        wanted = _TYPES.get(str(one.type), dict)
        if type(raw[one.name]) is not wanted:  # not isinstance: true is no number here
            return f"{what} has {one.name} {json.dumps(raw[one.name])[:40]}, expected {_SAID[wanted]}"
    return ""


_SAID = {str: "text", int: "a whole number", bool: "true or false", dict: "a table"}


def seal(folder: Path) -> dict[str, str]:
    """sha256 of those files of a model folder that a damaged byte would make answer wrongly."""
    return {name: seal_of(folder / name).sha256 for name in SEALED if (folder / name).is_file()}


def check_seals(folder: Path, config: ModelConfig, names: Sequence[str] | None = None) -> None:
    """Raises when one of the files (None: all) is missing, unsealed, or not what it was when the model was trained."""
    again = _AGAIN.replace("predictor", "towers") if config.tower else _AGAIN
    for name in config.files if names is None else names:
        if name not in config.seals:
            raise LookaheadError(f"{folder / CONFIG} has no checksum of {name}; {again}")
        try:
            found = seal_of(folder / name).sha256
        except OSError as error:
            raise LookaheadError(f"cannot read {folder / name}: {error.strerror}; {again}") from error
        if found != config.seals[name]:
            raise LookaheadError(
                f"{folder / name} is damaged: its checksum is {found[:12]}…, "
                f"expected {config.seals[name][:12]}…; {again}"
            )


@dataclass(frozen=True, slots=True)
class Model:
    """A model found: its name, its folder, its config, and whether it came with the program."""

    name: str
    folder: Path
    config: ModelConfig
    shipped: bool


def trained_on(model: Model) -> str:
    """The name of the collection a model was trained on, or "?"."""
    return str(model.config.trained.get("data", {}).get("collection", "?"))


def models_folder(collection: Collection) -> Path:
    """Where a collection's own models are; generations come and go beside them."""
    return collection.path / "models"


def spaces_folder(collection: Collection) -> Path:
    """Where the vectors of a collection are kept as P towers have them, in a folder for each model (see `space`)."""
    return models_folder(collection) / _SPACES


def check_name(name: str) -> str:
    """The name of a model: letters, digits, dot, dash and underscore, never a path."""
    if (
        not 1 <= len(name.encode("utf-8", "replace")) <= 100
        or name.startswith(".")
        or not all(letter.isalnum() or letter in "._-" for letter in name)
    ):
        raise LookaheadError(f"{name[:60]!r} is not a name for a model; use letters, digits, dot, dash and underscore")
    if name in _RESERVED:
        raise LookaheadError(f"a model cannot be called {name}: a folder among the models is; take another name")
    return name


_SPACES = "spaces"
_RESERVED = ("rerankers", "inverters", _SPACES)  # see `rerankers`, `inverters` and `spaces_folder`


def models_in(folder: Path, *, shipped: bool = False) -> list[Model]:
    """The finished models of a folder, best on its validation articles first. A damaged one is left out with a
    DamageWarning; one whose training has not ended is none yet."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or not (path / CONFIG).is_file():
            continue
        try:
            found.append(Model(path.name, path, ModelConfig.read(path), shipped))
        except LookaheadError as error:
            warnings.warn(f"model {path.name} is left out: {error}", DamageWarning, stacklevel=2)
    return sorted(found, key=lambda model: -model.config.valid_mrr)


def find_model(
    collection: Collection, encoder: Fingerprint, name: str | None = None, shipped: Path | None = None
) -> Model:
    """The model of that name, or the best of the collection, or else the best that came with the program (those in
    `shipped`, or SHIPPED).

    One for another encoder, and a damaged one, are refused when asked by name and passed over otherwise.
    """
    own = models_folder(collection)
    shipped = SHIPPED if shipped is None else shipped
    if name is not None:
        return _named(check_name(name), collection, encoder, own, shipped)
    there = [*models_in(own), *models_in(shipped, shipped=True)]
    for model in there:
        if model.config.encoder == encoder:
            return model
    others = ", ".join(f"{model.name} for {model.config.encoder}" for model in there[:3])
    raise LookaheadError(
        f"{collection.name} has no trained model for its encoder ({encoder}), nor did one come with the program"
        + (f" (there are: {others})" if others else "")
        + f"; run: lookahead train predictor amn --collection {collection.name}"
    )


def fitting_models(collection: Collection, encoder: Fingerprint, names: Sequence[str] = ()) -> list[Model]:
    """The models of those names, or all for the encoder: the collection's own before those that came with the program,
    of which one of the same name is left out. There may be none."""
    if names:
        return [find_model(collection, encoder, name) for name in dict.fromkeys(names)]
    found: dict[str, Model] = {}
    for model in [*models_in(models_folder(collection)), *models_in(SHIPPED, shipped=True)]:
        if model.config.encoder == encoder:
            found.setdefault(model.name, model)
    return list(found.values())


def refuse_names(models: Sequence[Model], taken: Group[str]) -> None:
    """Raises where a model is called as another row of a table is."""
    twice = [model.name for model in models if model.name in taken]
    if twice:
        raise LookaheadError(f"a model has the name of a baseline: {', '.join(twice)}; rename its folder")


def _named(name: str, collection: Collection, encoder: Fingerprint, own: Path, shipped: Path) -> Model:
    """The collection's model of that name before the shipped one."""
    found = [
        Model(name, folder / name, ModelConfig.read(folder / name), folder is shipped)
        for folder in (own, shipped)
        if (folder / name / CONFIG).is_file()
    ]
    for model in found:
        if model.config.encoder == encoder:
            return model
    for model in found:
        refuse_other_encoder(model, encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamageWarning)  # the answer is about another name
        fitting = [model for model in [*models_in(own), *models_in(shipped)] if model.config.encoder == encoder]
    there = ", ".join(dict.fromkeys(model.name for model in fitting)) or "none yet"
    unfinished = "; its training has not ended" if (own / name).is_dir() else ""
    raise LookaheadError(
        f'there is no model "{name}" for {collection.name}{unfinished} (there are: {there}); '
        f"run: lookahead train predictor {name if name in KINDS else 'amn'} --collection {collection.name}"
    )


def refuse_other_encoder(model: Model, encoder: Fingerprint) -> None:
    """Raises, naming both encoders, when a model was trained on other vectors."""
    if model.config.encoder != encoder:
        raise LookaheadError(
            f"model {model.name} is for {model.config.encoder}, the collection's vectors are from {encoder}; "
            "train one for this collection: lookahead train predictor"
        )
