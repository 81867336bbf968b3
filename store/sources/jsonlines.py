"""Pages from JSON lines: one object a line with `page_id`, `title`, and `text` or `sections`.

It does not know whether two lines tell of the same page; the store decides which one counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from store import tidy
from store.sources.pages import Layout, Page, Skipped, id_of
from store.sources.streams import DAMAGED, LONGEST, OnBytes, lines, opened

LARGEST_ID = 2**63 - 1  # what a BIGINT column holds


def read(path: Path, on_bytes: OnBytes | None = None) -> Iterator[Page | Skipped]:
    """The pages of one file, a failed `Skipped` for each line that is not one; blank lines are passed over."""
    try:
        with opened(path, on_bytes) as stream:
            for number, raw in enumerate(lines(stream), 1):
                place = f"{path.name} line {number}"
                if raw is None:
                    yield Skipped(None, place, "too long", True, f"more than {LONGEST:,} bytes")
                elif raw.strip(b" \t\xef\xbb\xbf"):
                    yield page_of(raw, place)
    except DAMAGED as error:
        yield Skipped(None, path.name, "truncated", True, f"{path}: {error}")


def page_of(raw: bytes, place: str, *, identity: str = "page_id", layout: Layout = Layout.PLAIN) -> Page | Skipped:
    """The page that one line holds; `identity` names the key of its id and `layout` says how `text` is written.

    Without an id the page gets one from its title, the same every time.
    """
    try:
        record = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Skipped(None, place, "not utf-8", True, str(error))
    except (ValueError, RecursionError) as error:
        return Skipped(None, place, "bad json", True, str(error))
    if not isinstance(record, dict):
        return Skipped(None, place, "bad json", True, f"expected an object, found {type(record).__name__}")
    title = record.get("title")
    if isinstance(title, str) and layout is Layout.EXTRACTED:
        title = tidy.unescape(title)
    if not isinstance(title, str) or not (name := tidy.one_line(title)):
        return Skipped(None, place, "bad title", True, f"expected a text, found {_shown(title)}")
    given = record.get(identity)
    page_id = id_of(name) if given is None else _number(given)
    if page_id is None:
        return Skipped(
            None, name, f"bad {identity}", True, f"{place}: expected a positive number, found {_shown(given)}"
        )
    if "sections" in record:
        body = _sections(record["sections"])
        if body is None:
            found = _shown(record["sections"])
            return Skipped(
                page_id,
                name,
                "bad sections",
                True,
                f"{place}: expected [{{heading, text}}, …], found {found}",
            )
        return Page(page_id, name, body, Layout.SECTIONS)
    text = record.get("text")
    if not isinstance(text, str):
        return Skipped(page_id, name, "bad text", True, f"{place}: expected a text or sections, found {_shown(text)}")
    return Page(page_id, name, text, layout)


def _number(given: object) -> int | None:
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 20:
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given <= LARGEST_ID:
        return None
    return given


def _sections(given: object) -> str | None:
    """The sections as a body in one spelling, or None where they are not sections."""
    if not isinstance(given, list):
        return None
    for section in given:
        if not isinstance(section, dict) or not isinstance(section.get("text"), str):
            return None
        if not isinstance(section.get("heading", ""), str):
            return None
    kept = [{"heading": section.get("heading", ""), "text": section["text"]} for section in given]
    return json.dumps(kept, ensure_ascii=False)


def _shown(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
