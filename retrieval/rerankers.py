"""A trained reranker on disk: what its folder holds, over which model it was trained, and where one is found.

It imports neither torch nor OpenVINO; `reranker` holds the network, `train_reranker` trains it, `runtime` runs it.
A reranker is kept in `rerankers/<name of its model>` beside the models, and is of use to that very model only.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retrieval import models
from retrieval.models import CARD, CONFIG, WEIGHTS, Model, models_folder
from store.generations import Collection, DamageWarning, seal_of, write_atomically
from store.records import LookaheadError

FORMAT = 1
FOLDER = "rerankers"  # among the models: no model may be called so
RERANKER, RERANKER_WEIGHTS = "reranker.xml", "reranker.bin"
SEALED = (WEIGHTS, RERANKER, RERANKER_WEIGHTS)


@dataclass(frozen=True, slots=True)
class RerankerConfig:
    """`over` is the model whose lists it learned from and the sha256 of that model's weights; `depth` the longest list;
    `blend` the weight of the decayed mean in the score that chooses candidates; `options` the network's own."""

    over: str
    over_seal: str
    dim: int
    depth: int
    blend: float
    options: dict[str, Any]
    parameters: int
    trained: dict[str, Any] = field(default_factory=dict)
    seals: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        write_atomically(folder / CONFIG, json.dumps(asdict(self), indent=1, sort_keys=True).encode())

    @classmethod
    def read(cls, folder: Path) -> RerankerConfig:
        """A damaged or foreign one is refused."""
        path = folder / CONFIG
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise LookaheadError(f"there is no reranker in {folder}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise LookaheadError(f"{path} is damaged: it is not JSON; {_again(folder)}") from error
        if not isinstance(raw, dict) or raw.keys() != set(cls.__dataclass_fields__):
            raise LookaheadError(f"{path} does not describe a reranker; {_again(folder)}")
        if raw["format"] != FORMAT:
            raise LookaheadError(f"{path} is of format {raw['format']!r}, this program reads {FORMAT}; update it")
        typed = {"over": str, "over_seal": str, "dim": int, "depth": int, "options": dict, "parameters": int}
        typed |= {"trained": dict, "seals": dict}
        wrong = [name for name, kind in typed.items() if type(raw[name]) is not kind]
        if wrong or type(raw["blend"]) not in (int, float) or raw["dim"] < 1 or raw["depth"] < 1:
            raise LookaheadError(
                f"{path} does not describe a reranker ({', '.join(wrong) or 'numbers'}); {_again(folder)}"
            )
        return cls(**raw)


def _again(folder: Path) -> str:
    return f"train it again: lookahead train reranker --over {folder.name}, or go without: --no-rerank"


@dataclass(frozen=True, slots=True)
class FoundReranker:
    """A reranker that fits a model."""

    folder: Path
    config: RerankerConfig


def rerankers_for(collection: Collection, shipped: Path | None = None) -> list[Path]:
    """Where rerankers are looked for: the collection's own, then those that came with the program."""
    return [models_folder(collection) / FOLDER, (models.SHIPPED if shipped is None else shipped) / FOLDER]


def find_reranker(model: Model, folders: Sequence[Path], *, needed: bool = False) -> FoundReranker | None:
    """The reranker trained over exactly this model, or None; where one is `needed`, its absence is refused. None with a
    DamageWarning where there is one over other weights of that name: the model was trained again since."""
    other = ""
    for folder in folders:
        place = folder / model.name
        if not (place / CONFIG).is_file():
            continue
        config = RerankerConfig.read(place)
        if config.over_seal == model.config.seals.get(WEIGHTS) and config.dim == model.config.dim:
            return FoundReranker(place, config)
        other = f"; the one in {place} is over other weights of {model.name}"
    if needed:
        raise LookaheadError(
            f"there is no reranker over model {model.name}{other}; run: lookahead train reranker --over {model.name}"
        )
    if other:
        warnings.warn(
            f"model {model.name} goes without a reranker{other}; run: lookahead train reranker --over {model.name}",
            DamageWarning,
            stacklevel=2,
        )
    return None


def seal(folder: Path) -> dict[str, str]:
    """sha256 of the files that a damaged byte would make answer wrongly."""
    return {name: seal_of(folder / name).sha256 for name in SEALED}


def check_seals(folder: Path, config: RerankerConfig, names: Sequence[str] = SEALED) -> None:
    """Raises when one of the files is missing, or not what it was."""
    for name in names:
        try:
            found = seal_of(folder / name).sha256
        except OSError as error:
            raise LookaheadError(f"cannot read {folder / name}: {error.strerror}; {_again(folder)}") from error
        if found != config.seals.get(name):
            raise LookaheadError(f"{folder / name} is damaged: its checksum is {found[:12]}…; {_again(folder)}")


def write_reranker_card(folder: Path, config: RerankerConfig) -> None:
    """card.md in Markdown, from the config alone; figures on test articles are in the card of its model."""
    trained = config.trained
    data, recipe, valid, first = (trained.get(name, {}) for name in ("data", "recipe", "valid", "first"))
    names = [name for name in valid if name in first]
    rows = {"reranked": valid, "prediction alone": first}
    lines = [
        f"# Reranker over {config.over}",
        "",
        f"Orders the {config.depth} best candidates of model `{config.over}` anew, from vectors alone: no text, title, "
        f"place or article is told to it. `{config.options.get('kind', '?')}`, {config.parameters:,} parameters.",
        "",
        "| | |",
        "|---|---|",
        f"| over | `{config.over}`, weights {config.over_seal[:12]} |",
        f"| candidates | {config.depth} by prediction · passage + {config.blend:g} × decayed mean · chunk |",
        f"| data | collection `{data.get('collection', '?')}`, training articles only: "
        f"{data.get('train_articles', 0):,} articles, {trained.get('lists', 0):,} lists, of which "
        f"{100 * trained.get('in_list', 0):.1f} % hold the true next chunk |",
        f"| command | `{trained.get('command', '?')}` |",
        f"| recipe | {', '.join(f'{name} {value}' for name, value in recipe.items())} |",
        f"| training | {trained.get('steps', '?')} steps, best at step {trained.get('best_step', '?')}, "
        f"{trained.get('seconds', '?')} s with the making of the lists; {trained.get('ended', '?')} |",
        "| licence | Apache-2.0, as the program |",
        "",
        f"On the lists of {trained.get('valid_windows', 0):,} windows of validation articles (these chose the best "
        "step, so they flatter); `seen`: the query's own context was left among the chunks:",
        "",
        "| | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
        *(f"| {row} | " + " | ".join(f"{figures[name]:.3f}" for name in names) + " |" for row, figures in rows.items()),
        "",
    ]
    write_atomically(folder / CARD, "\n".join(lines).encode())
