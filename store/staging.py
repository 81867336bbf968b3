"""Where a model is made before it takes its place: hidden beside the others, one maker at a time.

It does not know what is in a model's folder; what was there before stays whole until the new one is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from store.records import LookaheadError


@contextlib.contextmanager
def making(models: Path, name: str, *, restart: bool = False) -> Iterator[Path]:
    """The folder to make model `name` in: what an earlier, interrupted making left is still there unless `restart`.

    It takes the model's place when the block ends without an error, and is kept for another try when it does not.
    """
    folder = models / f".making-{name}"
    models.mkdir(parents=True, exist_ok=True)
    with (models / f".{name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LookaheadError(f"{models / name} is being made by another process; wait until it is done") from error
        _put_back(models / name)
        if restart:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        for litter in [*folder.glob("*.tmp"), *folder.glob(".*")]:  # what a killed maker was in the middle of writing
            shutil.rmtree(litter) if litter.is_dir() else litter.unlink()
        try:
            yield folder
        except LookaheadError:
            if not any(folder.iterdir()):
                folder.rmdir()
            raise
        _take_place(folder, models / name)


def _put_back(place: Path) -> None:
    """A maker that was killed between the two renames of `_take_place` has left no model at all."""
    before = _before(place)
    if before.exists() and not place.exists():
        os.rename(before, place)


def _before(place: Path) -> Path:
    return place.with_name(f".before-{place.name}")


def _take_place(made: Path, place: Path) -> None:
    before = _before(place)
    shutil.rmtree(before, ignore_errors=True)
    if place.exists():
        os.rename(place, before)
    os.rename(made, place)
    shutil.rmtree(before, ignore_errors=True)
