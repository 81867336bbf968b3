"""Documents of WikiExtractor's output: `<doc …>` blocks, or its `--json` lines.

It does not know which lines of a document are headings; the cleaner tells them from sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from store import tidy
from store.sources import jsonlines
from store.sources.pages import Layout, Page, Skipped
from store.sources.streams import DAMAGED, LONGEST, OnBytes, lines, opened

_ID = re.compile(r'\bid="(\d{1,18})"')
_TITLE = re.compile(r'\btitle="(.*)"\s*>\s*$')  # greedy: older versions do not escape quotes inside a title


def read(path: Path, on_bytes: OnBytes | None = None) -> Iterator[Page | Skipped]:
    """The documents of one file; one that breaks off gives a failed `Skipped` in its place."""
    try:
        with opened(path, on_bytes) as stream:
            yield from _documents(path, lines(stream))
    except DAMAGED as error:
        yield Skipped(None, path.name, "truncated", True, f"{path}: {error}")


def _documents(path: Path, found: Iterator[bytes | None]) -> Iterator[Page | Skipped]:
    opening, body, size = "", list[bytes](), 0
    stray = False
    for number, raw in enumerate(found, 1):
        place = f"{path.name} line {number}"
        if raw is None:
            yield Skipped(None, place, "too long", True, f"a line of more than {LONGEST:,} bytes")
            opening, body, size = "", [], 0
        elif raw.startswith(b"<doc "):
            if opening:
                yield Skipped(None, f"{path.name}: {opening}", "truncated", True, "a <doc> begins before </doc>")
            opening, body, size = raw.decode("utf-8", "replace"), [], 0
        elif opening and raw.strip() == b"</doc>":
            yield _document(path, opening, body)
            opening, body, size = "", [], 0
        elif opening:
            size += len(raw) + 1
            if size > LONGEST:
                yield Skipped(None, f"{path.name}: {opening}", "too long", True, f"more than {LONGEST:,} bytes")
                opening, body, size = "", [], 0
            body.append(raw)
        elif raw.startswith(b"{"):
            yield jsonlines.page_of(raw, place, identity="id", layout=Layout.EXTRACTED)
        elif raw.strip(b" \t\xef\xbb\xbf") and not stray:
            stray = True
            yield Skipped(None, place, "stray text", True, "text outside <doc> … </doc>")
    if opening:
        yield Skipped(None, f"{path.name}: {opening}", "truncated", True, "the file ends before </doc>")


def _document(path: Path, opening: str, body: list[bytes]) -> Page | Skipped:
    number, title = _ID.search(opening), _TITLE.search(opening)
    if number is None or title is None or not title[1].strip():
        return Skipped(None, f"{path.name}: {opening}", "bad doc line", True, "expected <doc id=… url=… title=…>")
    page_id, name = int(number[1]), tidy.one_line(tidy.unescape(title[1]))
    try:
        text = b"\n".join(body).decode("utf-8")
    except UnicodeDecodeError as error:
        return Skipped(page_id, name, "not utf-8", True, str(error))
    return Page(page_id, name, text, Layout.EXTRACTED)
