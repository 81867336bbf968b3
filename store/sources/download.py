"""Fetches the current dump of a wiki from dumps.wikimedia.org: resumed, checked, and complete once it has its name.

It does not know what is in a dump, nor shows its progress; the caller hears the bytes.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from store.records import LookaheadError

OnProgress = Callable[[int, int], None]  # bytes so far, bytes in all (0 where the server does not say)

_WIKI = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_LISTED = re.compile(r"^([0-9a-f]{40})\s+\*?((\w+)-(\d{8})-pages-articles\.xml\.bz2)\s*$", re.MULTILINE)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_BLOCK = 1 << 18
_TRIES = 5  # in a row without a byte of progress

# What a broken connection raises, URLError and timeouts (both OSError) included; HTTPError is looked at first.
_BROKEN = (OSError, http.client.HTTPException)


def fetch(
    wiki: str,
    folder: Path,
    *,
    base: str = "https://dumps.wikimedia.org",
    on_bytes: OnProgress | None = None,
    pause: float = 1.0,
) -> Path:
    """The path of the newest articles dump of `wiki` ("simple", "en", …) in `folder`, fetched unless it is there.

    What a broken run has left in `….part` is gone on with. `pause` is the first wait between tries, in seconds;
    it doubles each time.
    """
    name = wiki.lower().replace("-", "_")
    if not _WIKI.fullmatch(wiki.lower()):
        raise LookaheadError(f"{wiki!r} is no name of a Wikipedia; expected something like simple, en or zh-yue")
    if not base.startswith(("https://", "http://")):
        raise LookaheadError(f"dumps are fetched over https, not from {base!r}")
    name = name if name.endswith("wiki") else f"{name}wiki"
    listing = f"{base}/{name}/latest/{name}-latest-sha1sums.txt"
    digest, file, date = _newest(_listed(listing, wiki, pause), listing)
    target = Path(folder) / file
    if target.exists():
        return target
    part = target.with_name(f"{file}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LookaheadError(f"{target.parent.absolute()} cannot be made: {error.strerror}") from error
    _download(f"{base}/{name}/{date}/{file}", part, on_bytes, pause)
    if _sha1(part) != digest:
        part.unlink()
        raise LookaheadError(f"{file} does not have the sha1 that {base} lists; what was fetched is removed: try again")
    part.replace(target)
    return target


def _newest(listing: str, address: str) -> tuple[str, str, str]:
    """The sha1, name and date of the dump that a sha1sums file lists."""
    found = [(match[1], match[2], match[4]) for match in _LISTED.finditer(listing)]
    if not found:
        raise LookaheadError(f"{address} lists no pages-articles.xml.bz2: that dump may be in the making, try later")
    return max(found, key=lambda entry: entry[2])


def _listed(address: str, wiki: str, pause: float) -> str:
    for attempt in range(_TRIES):
        try:
            with urllib.request.urlopen(_request(address), timeout=60) as response:
                return str(response.read(4_000_000).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise LookaheadError(f"there is no Wikipedia called {wiki!r}: {address} does not exist") from error
            _wait(
                attempt,
                pause,
                address,
                f"{error.code} {error.reason}",
                again=error.code >= 500 or error.code == 429,
            )
        except _BROKEN as error:
            _wait(attempt, pause, address, str(error))
    raise AssertionError("the last attempt raises")


def _download(address: str, part: Path, on_bytes: OnProgress | None, pause: float) -> None:
    """Fills `part` up to the length that the server tells, going on from what is there."""
    attempt = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _filled(address, part, before, on_bytes):
                return
            problem = "the connection ended early"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # nothing is left to send: the checksum will tell
                return
            again = error.code >= 500 or error.code == 429
            _wait(attempt, pause, address, f"{error.code} {error.reason}", again=again)
            attempt += 1
            continue
        except _BROKEN as error:
            problem = str(error)
        grown = part.exists() and part.stat().st_size > before
        attempt = 0 if grown else attempt
        _wait(attempt, pause, address, problem)
        attempt += 1


def _filled(address: str, part: Path, start: int, on_bytes: OnProgress | None) -> bool:
    """Adds to `part` what the server sends from `start` on; whether that was all there is."""
    request = _request(address)
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=60) as response:
        ranged = _RANGE.match(response.headers.get("Content-Range", "")) if response.status == 206 else None
        if ranged is None or int(ranged[1]) != start:
            start = 0  # the server knows no ranges, and sends the whole
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else 0
        done = start
        try:
            file = part.open("ab" if start else "wb")
        except OSError as error:
            raise _unwritten(part, error) from error
        with file:
            while block := response.read(_BLOCK):
                try:
                    file.write(block)
                    file.flush()
                except OSError as error:
                    raise _unwritten(part, error) from error
                done += len(block)
                if on_bytes is not None:
                    on_bytes(done, total)
    return not total or done >= total


def _unwritten(part: Path, error: OSError) -> LookaheadError:
    return LookaheadError(f"{part.absolute()} cannot be written: {error.strerror}; what is there will be gone on with")


def _wait(attempt: int, pause: float, address: str, problem: str, *, again: bool = True) -> None:
    """Waits before the next try, longer each time; raises where another would not help, or enough have failed."""
    if not again or attempt + 1 >= _TRIES:
        raise LookaheadError(f"{address} cannot be fetched: {problem}; run the same command again to go on")
    time.sleep(pause * 2**attempt)


def _request(address: str) -> urllib.request.Request:
    # Wikimedia turns away clients that do not say who they are.
    return urllib.request.Request(address, headers={"User-Agent": "lookahead/0.1 (offline search; Python urllib)"})


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()
