"""What a reader hands over: pages as they were found, and what was passed over and why.

It does not know how a page is read or how its body becomes plain text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from store.records import digest

# Part of every page's digest: raise it when cleaned text changes, and the next ingest reads the pages again.
CLEANING = "1"


class Layout(StrEnum):
    """How a page's body is written."""

    WIKITEXT = "wikitext"
    EXTRACTED = "extracted"  # WikiExtractor's text: perhaps the title first, headings are short lines ending in "."
    SECTIONS = "sections"  # a JSON list of {"heading": …, "text": …}
    PLAIN = "plain"
    MARKDOWN = "markdown"


@dataclass(frozen=True, slots=True)
class Page:
    """A page as its source holds it."""

    page_id: int
    title: str
    body: str
    layout: Layout

    @property
    def digest(self) -> str:
        """Changes when the page's words may have changed: its title, its body, or how bodies are cleaned."""
        return digest(CLEANING, self.layout.value, self.title, self.body)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A page that was passed over: on purpose (a redirect), or, where `failed`, because it could not be read.

    `page_id` is None where the trouble came before an id was known; `title` then names the file and place.
    """

    page_id: int | None
    title: str
    reason: str
    failed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """An input with its format decided; `path` is absolute."""

    path: Path
    format: str

    @property
    def name(self) -> str:
        """Stable name of the source: what `--delete-missing` compares."""
        return f"{self.format}:{self.path.as_posix()}"

    def files(self) -> Iterator[Path]:
        return files_under(self.path)

    def total_bytes(self) -> int:
        """Bytes on disk, before any decompression: the total that `on_bytes` counts towards."""
        return sum(path.stat().st_size for path in self.files())


def files_under(root: Path) -> Iterator[Path]:
    """The regular files of a folder in the order of their relative paths, or the file itself.

    Hidden names are left out. Linked folders are not entered (they would bring files twice, or never end) and
    a linked file counts only where it leads to a place inside `root`.
    """
    if root.is_file():
        yield root
        return
    inside = root.resolve()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or not path.is_file():
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                continue
            yield path


def id_of(name: str) -> int:
    """A stable id for what has none: 53 bits of the name's hash, never 0 (53 so that JSON readers keep it exact)."""
    return int(digest(name)[:14], 16) >> 3 or 1
