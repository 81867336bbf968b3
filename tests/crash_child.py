"""Processes to be killed: this one imports what a command needs, once, and forks itself for each that is asked for.

crash_child.py SOCKET takes requests, each with the three streams of the new process, and answers with its number and,
when it has ended, with how. That process says "ready", waits for a line, and does what was asked:

run ARGUMENTS …         the command line of lookahead
at POINT ARGUMENTS …    the same, killing itself at a step of publishing
search COLLECTION       searches in every mode until it is terminated; prints how often
"""

from __future__ import annotations

import json
import os
import signal
import socket
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


def act(doing: str, *arguments: str) -> None:
    print("ready", flush=True)
    if doing == "search":
        search_until_told(Path(arguments[0]))
        return
    sys.stdin.readline()
    if doing == "at":
        prepare_to_die(arguments[0])
        arguments = arguments[1:]
    main(arguments, prog_name="lookahead")


def serve(link: socket.socket) -> None:
    """One process at a time. A fork, as long as nothing here has started a thread."""
    while True:
        request, streams, _, _ = socket.recv_fds(link, 1 << 16, 3)
        if not request:
            return
        number = os.fork()
        if not number:
            link.close()
            for place, stream in enumerate(streams):
                os.dup2(stream, place)
                os.close(stream)
            act(*json.loads(request))
            return
        for stream in streams:
            os.close(stream)
        link.sendall(number.to_bytes(4))
        _, status = os.waitpid(number, 0)
        link.sendall(status.to_bytes(4))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as link:
        serve(link)
