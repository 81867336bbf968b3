"""Pages from text files: one .txt or .md file, one page.

It does not know which files a folder holds, nor what Markdown means beyond the title.
"""

from __future__ import annotations

import re
from pathlib import Path

from store import tidy
from store.sources.pages import Layout, Page, Skipped, id_of
from store.sources.streams import DAMAGED, LONGEST, OnBytes, opened

MARKDOWN = frozenset({".md", ".markdown"})
SUFFIXES = MARKDOWN | {".txt", ".text"}
_TITLE = re.compile(r"^#[ \t]+(\S.*)$", re.MULTILINE)


def read(path: Path, name: str, on_bytes: OnBytes | None = None) -> Page | Skipped:
    """The page of one file. `name` is its path inside the source, from which its id comes.

    The title is the first `# ` heading of Markdown, else the file's name without its suffix.
    """
    page_id = id_of(name)
    try:
        with opened(path, on_bytes) as stream:
            raw = stream.read(LONGEST + 1)
    except DAMAGED as error:
        return Skipped(page_id, name, "unreadable", True, str(error))
    if len(raw) > LONGEST:
        return Skipped(page_id, name, "too long", True, f"more than {LONGEST:,} bytes")
    try:
        body = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Skipped(page_id, name, "not utf-8", True, str(error))
    markdown = suffix_of(path) in MARKDOWN
    first = _TITLE.search(body) if markdown else None
    title = tidy.one_line(first[1].rstrip("# \t\r")) if first else ""
    return Page(page_id, title or _stem(path), body, Layout.MARKDOWN if markdown else Layout.PLAIN)


def suffix_of(path: Path) -> str:
    """The suffix that tells the kind of text: the one before .gz or .bz2 where the file is packed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".bz2"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _stem(path: Path) -> str:
    packed = path.suffix.lower() in (".gz", ".bz2")
    return tidy.one_line((path.with_suffix("") if packed else path).stem) or path.name
