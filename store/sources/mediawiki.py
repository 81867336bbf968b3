"""Pages of a MediaWiki export (the XML of dumps.wikimedia.org), streamed in constant memory.

It does not know wikitext, beyond telling a redirect by its first word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse

from store import tidy
from store.sources.pages import Layout, Page, Skipped
from store.sources.streams import DAMAGED, LONGEST, OnBytes, opened

_REDIRECT = re.compile(r"\s*#\s*redirect", re.IGNORECASE)


class _TooLong(Exception):
    """One element is longer than a page can be."""


class _Bounded:
    """A stream that refuses to go on for ever without the reader coming to the end of a revision."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._since = stream, 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._since += len(data)
        if self._since > LONGEST:
            raise _TooLong(f"{self._since:,} bytes without the end of a revision")
        return data

    def reached(self) -> None:
        self._since = 0


def read(path: Path, on_bytes: OnBytes | None = None) -> Iterator[Page | Skipped]:
    """The articles of one export; other namespaces and redirects as `Skipped`.

    A file that breaks off, or is not well-formed, gives what was readable and then one failed `Skipped`.
    """
    try:
        with opened(path, on_bytes) as stream:
            yield from _pages(_Bounded(stream))
    except DefusedXmlException as error:
        yield Skipped(None, path.name, "refused", True, f"declares entities or a document type: {error}")
    except (ParseError, _TooLong, *DAMAGED) as error:
        yield Skipped(None, path.name, "truncated", True, f"{path}: {error}")


def _pages(stream: _Bounded) -> Iterator[Page | Skipped]:
    root: Element | None = None
    prefixes: set[str] = set()
    latest: Element | None = None
    # "start" only for the root, whose children must be let go as they are done with.
    for event, element in iterparse(stream, events=("start", "end"), forbid_dtd=True):
        if event == "start":
            if root is None:
                root = element
                if _local(root) != "mediawiki":
                    raise ParseError(f"the document is <{_local(root)}>, not <mediawiki>")
            continue
        name = _local(element)
        if name == "namespace" and element.get("key") != "0":
            prefixes.add((element.text or "").strip())
        elif name == "revision":
            # A history holds every revision, the oldest first: only the last is kept, each is let go in turn.
            latest = _copy(element)
            element.clear()
            stream.reached()
        elif name == "page":
            yield _page(element, latest, prefixes)
            latest = None
            stream.reached()
            if root is not None:
                root.clear()


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _copy(element: Element) -> Element:
    kept = Element(element.tag)
    kept.extend(list(element))
    return kept


def _texts(element: Element | None) -> dict[str, str]:
    """The texts of an element's children by their names; the first of each name counts."""
    found: dict[str, str] = {}
    for child in element if element is not None else ():
        found.setdefault(_local(child), child.text or "")
    return found


def _page(page: Element, revision: Element | None, prefixes: set[str]) -> Page | Skipped:
    about, content = _texts(page), _texts(revision)
    title = tidy.one_line(about.get("title", ""))
    digits = about.get("id", "").strip()
    if not (digits.isascii() and digits.isdigit() and title):
        return Skipped(None, title or "a page without a title", "bad page", True, f"id {digits!r}, title {title!r}")
    page_id, body = int(digits), content.get("text", "")
    space = about.get("ns", "").strip()
    if space not in ("", "0") or (not space and title.partition(":")[0] in prefixes):
        return Skipped(page_id, title, "namespace", False, space)
    if "redirect" in about or _REDIRECT.match(body):
        return Skipped(page_id, title, "redirect", False)
    if content.get("model", "wikitext") != "wikitext":
        return Skipped(page_id, title, "not wikitext", False, content["model"])
    return Page(page_id, title, body, Layout.WIKITEXT)
