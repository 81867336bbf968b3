"""A process to be killed: imports what a command needs, says "ready", waits for a line, and runs the command line.

crash_child.py run ARGUMENTS …         the command line of lookahead
crash_child.py at POINT ARGUMENTS …    the same, killing itself at a step of publishing
crash_child.py search COLLECTION       searches in every mode until its input ends; prints how often
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import index.build
import index.hashing
import index.progress
import retrieval.search
from cli import main
from store.generations import Collection


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(original: Callable[..., Any], when: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
    def dying(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            die()
        return original(*args, **kwargs)

    return dying


def after(original: Callable[..., Any], when: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
    def dying(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if when(*args):
            die()
        return result

    return dying


def prepare_to_die(point: str) -> None:
    """Replaces one step, in this process only."""

    def to_current(_: object, target: object) -> bool:
        return Path(str(target)).name == "CURRENT"

    match point:
        case "before-rename":
            os.rename = before(os.rename)
        case "after-rename":
            os.rename = after(os.rename)
        case "before-current":
            os.replace = before(os.replace, to_current)
        case "after-current":
            os.replace = after(os.replace, to_current)
        case "in-garbage":
            remove = index.build.shutil.rmtree

            def half(folder: Path, *others: Any, **named: Any) -> None:
                files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
                if not any(path.name == "manifest.json" for path in files):  # an unfinished build, or a part of one
                    remove(folder, *others, **named)
                    return
                for path in files[: len(files) // 2]:
                    path.unlink()
                die()

            index.build.shutil.rmtree = half  # type: ignore[assignment]
        case _:
            raise SystemExit(f"no such point: {point}")


def search_until_told(path: Path) -> None:
    """Any error or warning ends the process with its trace."""
    warnings.simplefilter("error")
    stop = False

    def told(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, told)
    count = 0
    while not stop:
        for mode in retrieval.search.Mode:
            with retrieval.search.Searcher.open(Collection(path)) as searcher:
                passages = searcher.search("old stone bridge", 3, mode=mode)
            assert len(passages) == 3, passages
            count += 1
    print(count, flush=True)


if __name__ == "__main__":
    print("ready", flush=True)
    if sys.argv[1] == "search":
        search_until_told(Path(sys.argv[2]))
    else:
        sys.stdin.readline()
        arguments = sys.argv[2:]
        if sys.argv[1] == "at":
            prepare_to_die(arguments[0])
            arguments = arguments[1:]
        main(arguments, prog_name="lookahead")
