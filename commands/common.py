"""What several commands share: finding a collection by name, and printing tables and JSON lines."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from store.generations import Collection
from store.records import LookaheadError

DEFAULT_COLLECTION = "default"
SAMPLE_COLLECTION = "sample"

collection_option = click.option(
    "--collection", "-c", "name", help="Which collection; may be left out when there is only one."
)
SEED = click.IntRange(0, 2**32 - 1)  # what numpy and torch both take
json_option = click.option("--json", "as_json", is_flag=True, help="JSON lines for another program.")


def existing_collection(home: Path, name: str | None) -> Collection:
    """The collection asked for, or the only one, or "default"."""
    from retrieval.search import collection_at

    if name is not None:
        wanted = collection_at(home, name)
        if not wanted.exists():
            raise LookaheadError(f'there is no collection "{name}" in {home / "collections"}; {_those_there(home)}')
        return wanted
    names = collection_names(home)
    if DEFAULT_COLLECTION in names:
        return collection_at(home, DEFAULT_COLLECTION)
    if len(names) == 1:
        return collection_at(home, names[0])
    raise LookaheadError(("say which --collection; " if names else "") + _those_there(home))


def collection_names(home: Path) -> list[str]:
    """Names of the collections with something published."""
    folder = home / "collections"
    if not folder.is_dir():
        return []
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and Collection(path).exists()
    )


def typed() -> str:
    """The command as it was typed, so that a figure can be made again."""
    return shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])


def keep_report(
    collection: Collection | None, kind: str, write: Callable[[Path], Sequence[str]], out: Path | None
) -> Sequence[str]:
    """Has a report written to the folder `out`, where one was named, and beside the collection's models, in the place
    of the last one of that kind; where that cannot be done, it is said and nothing more. `write` gets a folder and
    names the files it made there; those in `out` come back."""
    from retrieval.evaluations import keep

    names: Sequence[str] = ()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        names = write(out)

    def fill(folder: Path) -> None:
        if out is None:
            write(folder)
            return
        for name in names:  # not made twice: plots take a second
            shutil.copyfile(out / name, folder / name)

    if collection is not None and (sentence := keep(collection, kind, typed(), fill)):
        click.echo(sentence, err=True)
    return names


def print_json(row: Any) -> None:
    click.echo(json.dumps(row, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns: numbers to the right, words to the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    numeric = [all(_is_number(row[place]) for row in cells) for place in range(len(head))]
    for line in [list(head), *cells]:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def human_bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def hush_at_exit() -> None:
    """Keeps nanobind's list of "leaked" types off the screen, which appears when torch and duckdb end one process.

    It is written after everything of ours, when nothing can be done about it any more.
    """
    import atexit

    def hush() -> None:
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    atexit.register(hush)


def _those_there(home: Path) -> str:
    names = collection_names(home)
    if not names:
        return "nothing is ingested yet; run: lookahead ingest SOURCE --collection NAME"
    return f"there are: {', '.join(names)}"


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").replace("%", "").replace("×", "").strip(" +-").isdigit()
