"""An inverter on disk: what its folder holds, which vectors it is for, and where one is found.

It imports neither torch nor vec2text: it knows files, not how they are trained (`train_inverter`) or run (`inverter`).
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from index.encoder import Fingerprint
from retrieval import models
from retrieval.models import CARD, CONFIG, METRICS, WEIGHTS, _fields_fault, models_folder
from store.generations import Collection, DamageWarning, seal_of, write_atomically
from store.records import LookaheadError

FORMAT = 1
FOLDER = "inverters"
WORDS = "tokenizer.json"
SEALED = (WEIGHTS, WORDS)
AGAIN = "train it again: lookahead train inverter"
_SEAL = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class InverterConfig:
    """All that is needed to load an inverter and to make it again.

    `options` are the network's (see `inverter.Shape`); `longest` the tokens of the longest text it was trained on;
    `probe` the vector of `inversion.PROBE` in its space; `trained` says on what and how; `seals` are sha256 sums of the
    files beside it.
    """

    encoder: Fingerprint
    longest: int
    options: dict[str, Any]
    probe: list[float]
    parameters: int
    trained: dict[str, Any] = field(default_factory=dict)
    seals: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        raw = {**asdict(self), "encoder": self.encoder.as_json()}
        write_atomically(folder / CONFIG, json.dumps(raw, indent=1, sort_keys=True, ensure_ascii=False).encode())

    @classmethod
    def read(cls, folder: Path) -> InverterConfig:
        """The config of an inverter's folder; a damaged or foreign one is refused, with what is wrong."""
        path = folder / CONFIG
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise LookaheadError(f"there is no inverter in {folder}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise LookaheadError(f"{path} is damaged: it is not JSON; {AGAIN}") from error
        if isinstance(raw, dict) and raw.get("format", FORMAT) != FORMAT:
            raise LookaheadError(f"{path} is of format {raw['format']!r}, this program reads {FORMAT}; update it")
        fault = _fault_in(raw)
        if fault:
            raise LookaheadError(f"{path} does not describe an inverter: {fault}; {AGAIN}")
        return cls(**{**raw, "encoder": Fingerprint.from_json(raw["encoder"])})


def _fault_in(raw: object) -> str:
    """What makes parsed JSON no inverter's config, or nothing."""
    if not isinstance(raw, dict):
        return "it is no table"
    names = {one.name for one in fields(InverterConfig)}
    if raw.keys() != names:
        return "missing or unknown: " + ", ".join(map(str, sorted(raw.keys() ^ names)))
    types = {"options": dict, "probe": list, "trained": dict, "seals": dict, "longest": int, "parameters": int}
    wrong = [name for name, of in types.items() if type(raw[name]) is not of]
    if wrong:
        return f"mistyped: {', '.join(wrong)}"
    fault = _fields_fault(raw["encoder"], Fingerprint, "its encoder", [one.name for one in fields(Fingerprint)])
    if fault:
        return fault
    encoder = Fingerprint.from_json(raw["encoder"])
    if len(raw["probe"]) != encoder.dim or not all(type(one) is float and math.isfinite(one) for one in raw["probe"]):
        return "its probe is no vector of the encoder"
    if not 1 <= raw["longest"] <= 512:
        return f"it makes texts of {raw['longest']} tokens"
    for name, seal in raw["seals"].items():
        if name not in SEALED or not isinstance(seal, str) or not _SEAL.fullmatch(seal):
            return f"its seal of {name!r} is none"
    return ""


@dataclass(frozen=True, slots=True)
class FoundInverter:
    """An inverter of ours on disk, and whether it came with the program."""

    name: str
    folder: Path
    config: InverterConfig
    shipped: bool


def inverters_folder(collection: Collection) -> Path:
    """Where a collection's own inverters are."""
    return models_folder(collection) / FOLDER


def find_inverter(
    collection: Collection, encoder: Fingerprint, name: str | None = None, shipped: Path | None = None
) -> FoundInverter:
    """The inverter of that name, or the first that fits: the collection's own, then those that came with the program
    (in `shipped`, or SHIPPED). One for another encoder, and a damaged one, are refused when asked by name and passed
    over otherwise."""
    places = (inverters_folder(collection), (models.SHIPPED if shipped is None else shipped) / FOLDER)
    train = f"lookahead train inverter --collection {collection.name}"
    if name is not None:
        return _named(models.check_name(name), encoder, places, train)
    there = [one for folder in places for one in _inverters_in(folder, shipped=folder is places[1])]
    for one in there:
        if one.config.encoder == encoder:
            return one
    others = ", ".join(f"{one.name} for {one.config.encoder}" for one in there[:3])
    raise LookaheadError(
        f"{collection.name} has no inverter for its encoder ({encoder}), nor did one come with the program"
        + (f" (there are: {others})" if others else "")
        + f"; run: {train}"
    )


def fitting_inverters(collection: Collection, encoder: Fingerprint) -> list[FoundInverter]:
    """All for the encoder, the one that is taken where none is named first: the collection's own before those that came
    with the program, of which one of the same name is left out."""
    there = [
        *_inverters_in(inverters_folder(collection), shipped=False),
        *_inverters_in(models.SHIPPED / FOLDER, shipped=True),
    ]
    found: dict[str, FoundInverter] = {}
    for one in there:
        if one.config.encoder == encoder:
            found.setdefault(one.name, one)
    return list(found.values())


def _named(name: str, encoder: Fingerprint, places: tuple[Path, Path], train: str) -> FoundInverter:
    """The one of that name in the first of the places where it fits."""
    found = [
        FoundInverter(name, folder / name, InverterConfig.read(folder / name), folder is places[1])
        for folder in places
        if (folder / name / CONFIG).is_file()
    ]
    for one in found:
        if one.config.encoder == encoder:
            return one
    if found:
        raise LookaheadError(
            f"inverter {name} is for {found[0].config.encoder}, the collection's vectors are from {encoder}; "
            f"train one for this collection: {train}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamageWarning)  # the answer is about another name
        there = [one for folder in places for one in _inverters_in(folder, shipped=folder is places[1])]
    fitting = ", ".join(dict.fromkeys(one.name for one in there if one.config.encoder == encoder)) or "none yet"
    raise LookaheadError(f'there is no inverter "{name}" for {encoder} (there are: {fitting}); run: {train}')


def _inverters_in(folder: Path, *, shipped: bool) -> list[FoundInverter]:
    """Those of a folder by name; a damaged one is left out with a DamageWarning."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or not (path / CONFIG).is_file():
            continue
        try:
            found.append(FoundInverter(path.name, path, InverterConfig.read(path), shipped))
        except LookaheadError as error:
            warnings.warn(f"inverter {path.name} is left out: {error}", DamageWarning, stacklevel=2)
    return found


def seal(folder: Path) -> dict[str, str]:
    """sha256 of the files that a damaged byte would make answer wrongly."""
    return {name: seal_of(folder / name).sha256 for name in SEALED}


def check_seals(found: FoundInverter) -> None:
    """Raises when a file is missing, or not what it was when the inverter was trained."""
    for name in SEALED:
        path = found.folder / name
        if name not in found.config.seals:
            raise LookaheadError(f"{found.folder / CONFIG} has no checksum of {name}; {AGAIN}")
        try:
            sum_now = seal_of(path).sha256
        except OSError as error:
            raise LookaheadError(f"cannot read {path}: {error.strerror}; {AGAIN}") from error
        if sum_now != found.config.seals[name]:
            raise LookaheadError(f"{path} is damaged: its checksum is {sum_now[:12]}…; {AGAIN}")


def write_inverter_metrics(folder: Path, name: str, config: InverterConfig, lines: Sequence[str], command: str) -> None:
    """metrics.json and the card anew, with what an evaluation on test articles says in Markdown."""
    raw = {"command": command, "lines": list(lines)}
    write_atomically(folder / METRICS, json.dumps(raw, indent=1, ensure_ascii=False).encode())
    write_inverter_card(folder, name, config)


def write_inverter_card(folder: Path, name: str, config: InverterConfig) -> None:
    """card.md in Markdown, from the config and, where they are there, the test figures in metrics.json."""
    trained = config.trained
    data, recipe, valid = (dict(trained.get(key, {})) for key in ("data", "recipe", "valid"))
    recipe.pop("hours" if recipe.get("steps") else "steps", None)  # the one that did not count
    stages = [trained.get(key, {}) for key in ("first", "second")]
    options = config.options
    lines = [
        f"# {name}",
        "",
        f"Turns a vector of `{config.encoder.model}` back into a text of at most {config.longest} of its tokens: "
        f"{options.get('pseudo', '?')} pseudo-tokens, {options.get('read', '?')} layers that read, "
        f"{options.get('write', '?')} that write, {config.parameters:,} parameters in eight bits. A second pass reads "
        "the first text and how far its vector is off, and writes a better one.",
        "",
        "| | |",
        "|---|---|",
        f"| vectors | {config.encoder} |",
        f"| data | collection `{data.get('collection', '?')}`, training articles only: the leading spans of "
        f"{data.get('train_spans', 0):,} chunks of {data.get('train_articles', 0):,} articles, embedded on their own |",
        f"| command | `{trained.get('command', '?')}` |",
        f"| recipe | {', '.join(f'{key} {value}' for key, value in recipe.items())} |",
        f"| start | {trained.get('layers_taken', 0)} layers and the token table are the encoder's |",
        f"| training | {' + '.join(str(stage.get('steps', '?')) for stage in stages)} steps on "
        f"{trained.get('device', '?')}, {trained.get('seconds', 0):,.0f} s |",
        "| licence | Apache-2.0, as the program and the bundled encoder |",
        "",
        f"On {trained.get('written_spans', 0):,} spans of validation articles, the likeliest text alone, the weights "
        "rounded (these articles chose the best step, so they flatter):",
        "",
        "| | token F1 | cosine of its vector |",
        "|---|---|---|",
        *(
            f"| {label} | {valid[key + 'F1']:.3f} | {valid[key + 'cosine']:.3f} |"
            for label, key in (("first text", ""), ("after one step", "corrected "))
            if key + "F1" in valid
        ),
    ]
    metrics = folder / METRICS
    if metrics.is_file():
        test = json.loads(metrics.read_text(encoding="utf-8"))
        lines += ["", *test["lines"], "", f"Made by `{test['command']}`."]
    lines += [
        "",
        "## Use",
        "",
        "For vectors of that encoder alone. A longer passage comes back as a gist of its beginning at best, a "
        "predicted vector as a guess at its topic: names, numbers and dates in it are invented. It may write false "
        "things about real people. It was trained on English Wikipedia and writes in lower case.",
        "",
    ]
    write_atomically(folder / CARD, "\n".join(lines).encode())
