"""The last report of each kind of evaluation, kept beside a collection's models: written whole, read by name.

It does not know what is in a report, nor how one is shown.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from store.generations import Collection
from store.records import LookaheadError
from store.staging import making

FOLDER = "evaluations"
FACTS = "evaluation.json"
TYPES = {".json": "application/json", ".md": "text/markdown; charset=utf-8", ".png": "image/png"}
_MOST_BYTES = 64_000_000  # of one file: no report has a tenth of it


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One that was kept: `made` is when, in ISO 8601, `command` what was typed; `files` can be read by these names."""

    kind: str
    made: str
    command: str
    files: tuple[str, ...]


def evaluations_folder(collection: Collection) -> Path:
    return collection.path / FOLDER


def keep(collection: Collection, kind: str, command: str, write: Callable[[Path], object]) -> str:
    """Has `write` fill a folder, which takes the place of the last report of that kind; all of it or nothing.

    An evaluation took minutes and was told already: where its report cannot be kept, that is said in the sentence that
    comes back, which is empty otherwise.
    """
    try:
        with making(evaluations_folder(collection), kind, restart=True) as folder:
            write(folder)
            made = datetime.now(UTC).isoformat(timespec="seconds")
            raw = json.dumps({"made": made, "command": command}, indent=1, ensure_ascii=False)
            (folder / FACTS).write_text(raw, encoding="utf-8", errors="replace")
    except (OSError, LookaheadError) as error:
        return f"the report is not kept in {evaluations_folder(collection) / kind}: {error}"
    return ""


def kept_in(collection: Collection) -> list[Evaluation]:
    """What was kept, newest first. Where there are links in place of folders and files, they are not followed."""
    folder = evaluations_folder(collection)
    found = []
    for path in sorted(folder.iterdir()) if _is_folder(folder) else []:
        if path.name.startswith(".") or not _is_folder(path):
            continue
        try:
            facts = json.loads((path / FACTS).read_bytes())
            if not isinstance(facts, Mapping):
                continue
            files = sorted(one.name for one in path.iterdir() if one.name != FACTS and _may_be_read(one))
        except (OSError, ValueError, RecursionError):  # replaced just now, or not ours
            continue
        found.append(Evaluation(path.name, str(facts.get("made", "")), str(facts.get("command", "")), tuple(files)))
    return sorted(found, key=lambda one: one.made, reverse=True)


def read_kept(collection: Collection, kind: str, name: str) -> tuple[bytes, str]:
    """The content of a file that `kept_in` names, and its media type."""
    there = next((one for one in kept_in(collection) if one.kind == kind), None)
    if there is None or name not in there.files:
        raise LookaheadError(f"{collection.name} has no such file of an evaluation; ask which ones there are")
    path = evaluations_folder(collection) / kind / name
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(handle, "rb") as file:
            return file.read(_MOST_BYTES), TYPES[path.suffix]
    except OSError as error:  # a newer report has none of that name
        raise LookaheadError(f"{collection.name} has no such file of an evaluation any more; ask again") from error


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _may_be_read(path: Path) -> bool:
    found = path.lstat()
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_size <= _MOST_BYTES
        and path.suffix in TYPES
        and not path.name.startswith(".")
    )
