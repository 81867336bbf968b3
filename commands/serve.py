"""`lookahead serve`: the collections over HTTP, with a page to search, read and look ahead in."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from commands.common import (
    DEFAULT_COLLECTION,
    SAMPLE_COLLECTION,
    collection_names,
    existing_collection,
    hush_at_exit,
)
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.service.shelf import Shelf

_LOOPBACK = "127.0.0.1"


@click.command()
@click.option(
    "--collection",
    "-c",
    "names",
    multiple=True,
    help="Which to serve (repeatable); the first one answers where a request names none.  [default: all]",
)
@click.option("--host", default=_LOOPBACK, show_default=True, help="Where to listen; elsewhere needs --api-key.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8765, show_default=True, help="0 takes a free one.")
@click.option(
    "--api-key",
    "key",
    envvar="LOOKAHEAD_API_KEY",
    help="What every request but those for the page has to bring. Others on this machine can see what you type here, "
    "so rather set LOOKAHEAD_API_KEY.",
)
@click.option("--open/--no-open", "browse", default=False, help="Show the page in the browser.  [default: no]")
@click.option(
    "--access-log",
    "log",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default="-",
    help="The file that a JSON line on every answer is added to; questions are not in it.  [default: -, stdout]",
)
@click.option("--no-access-log", "silent", is_flag=True, help="No such lines.")
@click.option(
    "--deadline",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    show_default=True,
    help="Seconds that a request may take.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 1024),
    default=32,
    show_default=True,
    help="How many searches are answered together at most; 1 answers one after the other.",
)
@click.option(
    "--waiting",
    type=click.IntRange(1, 100_000),
    default=256,
    show_default=True,
    help="How many searches may stand in line; more are told to come back later (429).",
)
@click.pass_obj
def serve(
    home: Path,
    names: tuple[str, ...],
    host: str,
    port: int,
    key: str | None,
    browse: bool,
    log: Path,
    silent: bool,
    deadline: float,
    batch: int,
    waiting: int,
) -> None:
    """Serve collections over HTTP, with a page to search, read and look ahead in.

    It listens on this machine only, unless told otherwise; nothing is sent anywhere. The interface is described at
    /docs. Ctrl-C ends it, after what was asked before is answered.

    \b
    Examples:
      lookahead serve
      lookahead serve --collection wiki --port 8080 --open
      LOOKAHEAD_API_KEY=… lookahead serve --host 0.0.0.0 --access-log access.jsonl
      curl 'localhost:8765/api/search?q=how+do+bridges+carry+load&k=5'
      curl localhost:8765/api/predict-next -H 'content-type: application/json' -d '{"title": "Tea", "position": 3}'
      curl -H "authorization: Bearer $LOOKAHEAD_API_KEY" 'http://server:8765/api/collections'
    """
    loopback = _is_loopback(host)
    _check_key(key, host, loopback)
    served = _served(home, names)
    from retrieval.service.server import listening

    hush_at_exit()
    with listening(host, port) as bound, _log_stream(None if silent else log) as stream:  # clients wait from here on
        from retrieval.service.access_log import logging_to
        from retrieval.service.app import create_app
        from retrieval.service.server import serve as serve_app
        from retrieval.service.settings import Settings
        from retrieval.service.shelf import Shelf

        hosts = () if key is not None or not loopback else _names_of(host)
        settings = Settings(key=key, hosts=hosts, deadline=deadline, batch=batch, waiting=waiting)
        address = f"http://{_bracketed(host)}:{bound.getsockname()[1]}"
        with logging_to(stream):
            shelf = Shelf.open(home, served, served[0])
            watch = _Watch(shelf, address, browse=browse)
            serve_app(create_app(shelf, settings), bound, settings, begun=watch.begun, each_tick=watch.tick)


class _Watch:
    """What is said on stderr while a service begins."""

    def __init__(self, shelf: Shelf, address: str, *, browse: bool) -> None:
        self._shelf = shelf
        self._address = address
        self._browse = browse
        self._ready = False

    def begun(self) -> None:
        click.echo(f"serving {_counted(self._shelf)} at {self._address} — Ctrl-C ends", err=True)
        if self._browse:
            _show(self._address)

    def tick(self) -> None:
        if not self._ready and self._shelf.ready():
            self._ready = True
            click.echo("ready", err=True)


def _served(home: Path, names: Sequence[str]) -> list[str]:
    """Names of collections, the default one first."""
    if names:
        return list(dict.fromkeys(existing_collection(home, name).name for name in names))
    there = collection_names(home)
    if not there:
        existing_collection(home, None)  # which says what to do
    return sorted(there, key=lambda name: (name != DEFAULT_COLLECTION, name == SAMPLE_COLLECTION, name))


def _check_key(key: str | None, host: str, loopback: bool) -> None:
    if key is None and not loopback:
        raise LookaheadError(
            f"--host {host} lets others in, which needs a key; type: "
            f"LOOKAHEAD_API_KEY=$(openssl rand -hex 16) lookahead serve --host {host}"
        )
    if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
        raise LookaheadError("the API key is empty, or has letters that a header cannot hold; use letters and digits")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name; any other than this may mean another machine's view of us
        return host == "localhost"


def _names_of(host: str) -> tuple[str, ...]:
    """What a browser on this machine may call us; anything else is a page elsewhere that had its name changed to
    point here (DNS rebinding)."""
    return tuple(dict.fromkeys(["localhost", _LOOPBACK, "[::1]", _bracketed(host)]))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _log_stream(path: Path | None) -> Iterator[BinaryIO | None]:
    if path is None:
        yield None
    elif str(path) == "-":
        yield sys.stdout.buffer
    else:
        file = path.open("ab")
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):  # lines that a full disk did not take
                file.close()


def _counted(shelf: Shelf) -> str:
    from retrieval.service.problems import Problem

    told = []
    for name in shelf.names():
        try:
            with shelf.lease(name) as lease:
                told.append(f"{name} ({lease.published.manifest.counts['live']:,} chunks)")
        except Problem as problem:
            told.append(f"{name} (not now: {problem.detail})")
    return ", ".join(told)


def _show(address: str) -> None:
    """In a thread: a browser for the terminal would hold everything up."""
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
