"""Sources of articles: a dump, WikiExtractor output, JSON lines, a folder of text → pages, one at a time.

It does not know how a page's body becomes plain text (`store.cleaning`), nor where articles are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from store.sources import folder, jsonlines, mediawiki, wikiextractor
from store.sources.pages import Layout, Page, Skipped, Source
from store.sources.sniffing import FORMATS, open_source
from store.sources.streams import OnBytes

__all__ = ["FORMATS", "Layout", "OnBytes", "Page", "Skipped", "Source", "open_source", "read_pages"]

_READERS = {"mediawiki": mediawiki.read, "wikiextractor": wikiextractor.read, "jsonl": jsonlines.read}


def read_pages(source: Source, on_bytes: OnBytes | None = None) -> Iterator[Page | Skipped]:
    """The pages of a source in a fixed order, and what was passed over, in constant memory.

    `on_bytes` hears the bytes consumed so far, on disk and over all files, against `source.total_bytes()`.
    """
    before = 0
    for path in source.files():
        heard = None if on_bytes is None else _after(before, on_bytes)
        name = path.name if path == source.path else path.relative_to(source.path).as_posix()
        if source.format == "text":
            if path == source.path or folder.suffix_of(path) in folder.SUFFIXES:
                yield folder.read(path, name, heard)
        else:
            yield from _READERS[source.format](path, heard)
        before += path.stat().st_size
        if on_bytes is not None:
            on_bytes(before)


def _after(before: int, on_bytes: OnBytes) -> OnBytes:
    return lambda count: on_bytes(before + count)
