"""Wikitext → the sections a reader sees, as plain text.

It does not know titles, pages or files, nor how long it may take: see `store.cleaning` for both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, HTMLEntity, Node, Template, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

from store import templates, tidy
from store.headings import is_apparatus, reads_like_prose
from store.markup import reduced
from store.records import Section

_HEADING = re.compile(r"^(={1,6})(.+)\1[ \t]*$", re.MULTILINE)
_ITEM = re.compile(r"^[*#:;]+[ \t]*")
_RULE = re.compile(r"^-{4,}")
_LEFT_OVER = re.compile(r"\[\[|\]\]|\{\{|\}\}")  # of links and templates that the parser did not accept
_MAGIC = re.compile(r"__[A-Z]{3,}__")


def sections_of(wikitext: str) -> tuple[Section, ...]:
    """The sections that hold text, in order, the lead first with the heading ""; lists are lines like paragraphs.

    Sections that only list sources or links (References, See also, …) keep the sentences in them, if any.
    """
    text = reduced(tidy.normal(wikitext), templates.keeps)
    found = []
    for heading, body in _parts(text):
        lines = _lines(body)
        if is_apparatus(heading):
            lines = [line for line in lines if reads_like_prose(line)]
        if lines:
            found.append(Section(heading, "\n".join(lines)))
    return tuple(found)


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """The heading and wikitext of each section; the lead comes first, even where it is empty."""
    heading, start = "", 0
    for match in _HEADING.finditer(text):
        yield heading, text[start : match.start()]
        heading, start = tidy.mended(tidy.one_line(_plain(match[2]))), match.end()
    yield heading, text[start:]


def _lines(wikitext: str) -> list[str]:
    """The paragraphs and list items of a section, each on one line."""
    lines, paragraph = list[str](), list[str]()
    for line in _plain(wikitext).split("\n"):
        item = _ITEM.match(line)
        if item or not line.strip() or _RULE.match(line):
            lines.append(" ".join(paragraph))
            paragraph = []
        if item:
            lines.append(line[item.end() :])
        elif not _RULE.match(line):
            paragraph.append(line)
    lines.append(" ".join(paragraph))
    return [kept for line in lines if any(map(str.isalnum, kept := tidy.mended(_MAGIC.sub("", line))))]


def _plain(wikitext: str) -> str:
    """Reduced wikitext without its markup; its lines, and the marks at their start, stay."""
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    return tidy.normal("".join(_words(code.nodes)))


def _words(nodes: Iterable[Node]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Text):
            yield _LEFT_OVER.sub("", str(node.value))
        elif isinstance(node, HTMLEntity):
            yield node.normalize() or ""
        elif isinstance(node, Wikilink):
            yield _link(node)
        elif isinstance(node, ExternalLink):
            yield _of(node.title) if node.title is not None else "" if node.brackets else str(node.url)
        elif isinstance(node, Template):
            yield _template(node)
        else:
            # Nothing else is left by `reduced`; what the parser still sees (`;term` as a tag, say) is text.
            yield _LEFT_OVER.sub("", str(node))


def _of(code: Wikicode | None) -> str:
    return "" if code is None else "".join(_words(code.nodes))


def _link(link: Wikilink) -> str:
    """The words of a link: its text, or its target without a leading colon; `[[Foo (bar)|]]` says Foo."""
    target = _of(link.title).strip().lstrip(":")
    if link.text is None:
        return target
    # A link with several bars is a picture of a wiki whose name for pictures is not known here.
    text = _of(link.text)
    if "|" in text:
        text = text.rpartition("|")[2]
    return text or re.sub(r" ?\([^()]*\)$|,.*$", "", " ".join(target.split()))


def _template(template: Template) -> str:
    values, named = list[str](), dict[str, str]()
    for parameter in template.params:
        if parameter.showkey:
            named[_of(parameter.name).strip()] = _of(parameter.value)
        else:
            values.append(_of(parameter.value))
    return templates.said(_of(template.name).strip(), values, named)
