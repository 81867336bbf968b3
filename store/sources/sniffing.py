"""Which format an input has, told by its content.

It does not know how any of them is read further than the first 64 KB.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

from store.records import LookaheadError
from store.sources import folder
from store.sources.pages import Source, files_under
from store.sources.streams import DAMAGED, foreign, head

FORMATS = ("mediawiki", "wikiextractor", "jsonl", "text")
_LOOKED_AT = 200  # files of a folder that are opened to tell its format

_XML = re.compile(rb"\s*(?:<\?xml[^>]*\?>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<mediawiki\b", re.DOTALL)
_OBJECT = re.compile(rb'\s*\{\s*"')
_BOM = b"\xef\xbb\xbf"


def open_source(path: Path, format: str | None = None) -> Source:
    """The input with its format, looked up in its content unless given."""
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise LookaheadError(f"there is no format {format!r}; pass --format with one of {', '.join(FORMATS)}")
    if not path.exists():
        raise LookaheadError(
            f"{path.absolute()} does not exist; give a dump, WikiExtractor output, JSON lines or a folder"
        )
    path = path.resolve()
    first = next(files_under(path), None)
    if first is None or not any(file.stat().st_size for file in files_under(path)):
        raise LookaheadError(
            f"{path} holds no text: {'it is empty' if path.is_file() else 'no file with content in it'}"
        )
    return Source(path, format or (_format_of_file(path) if path.is_file() else _format_of_folder(path)))


def _format_of_file(path: Path) -> str:
    try:
        start = head(path)
    except DAMAGED as error:
        raise LookaheadError(f"{path} cannot be read: {error}; if it is worth trying, pass --format") from error
    if packed := foreign(start):
        raise LookaheadError(f"{path} is {packed}: unpack it first (plain, .bz2 and .gz files are read as they are)")
    if not start.strip():
        raise LookaheadError(f"{path} holds no text: it is empty")
    found = recognised(start, folder.suffix_of(path))
    if not found:
        raise LookaheadError(f"{path} begins with {_shown(start)}: no known format; pass --format {'|'.join(FORMATS)}")
    return found


def _format_of_folder(path: Path) -> str:
    counts: Counter[str] = Counter()
    for file in islice(files_under(path), _LOOKED_AT):
        try:
            counts[recognised(head(file, 4096), folder.suffix_of(file))] += 1
        except DAMAGED:
            continue
    counts.pop("", None)
    if len(counts) == 1:
        return next(iter(counts))
    found = " and ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no known format"
    raise LookaheadError(f"{path} holds {found}; pass --format {'|'.join(FORMATS)}")


def recognised(start: bytes, suffix: str) -> str:
    """The format of a file that begins with these bytes, or the empty string. Content decides before the suffix."""
    start = start.removeprefix(_BOM)
    if _XML.match(start):
        return "mediawiki"
    if start.lstrip().startswith(b"<doc "):
        return "wikiextractor"
    if _OBJECT.match(start) and (keys := _keys(start)) is not None:
        return "wikiextractor" if {"id", "url", "title", "text"} <= keys and "page_id" not in keys else "jsonl"
    if suffix in folder.SUFFIXES and b"\x00" not in start:
        return "text"
    return ""


def _keys(start: bytes) -> set[str] | None:
    """The keys of the first line's object; None where the line is not one (JSON over several lines)."""
    line, newline, _ = start.lstrip().partition(b"\n")
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        if newline:
            return None
        # The line goes on past what was read: trust the keys that can be seen.
        return {key.decode("utf-8", "replace") for key in re.findall(rb'"(\w+)"\s*:', line[:4096])} | {"text"}
    return set(record) if isinstance(record, dict) else None


def _shown(start: bytes) -> str:
    return repr(start[:40].decode("utf-8", "replace"))
