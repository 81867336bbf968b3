"""Bodies that are text already → sections: WikiExtractor's, Markdown, plain text, and JSON sections.

It does not know wikitext, nor where a body came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from store import tidy
from store.headings import is_apparatus, is_heading, reads_like_prose
from store.records import Section

_HASHES = re.compile(r"^ {0,3}#{1,6}[ \t]+(\S.*)$")
_CLOSING_HASHES = re.compile(r"(?<=[ \t])#+$")
_BULLET = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])[ \t]+")

# What WikiExtractor left of markup it could not read: tags, links, and lines out of the middle of templates.
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_LINE_TAG = re.compile(r"<(?:br|p|li|poem|/poem)\b[^<>]*>", re.IGNORECASE)
_TEMPLATE_LINE = re.compile(r"^ *(?:\||!|#if|#switch|&rft|\[\[(?:Category|File|Image):)|\{\{|\}\}")
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]|\[\[|\]\]")

_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
_UNDERLINE = re.compile(r"^ {0,3}(?:=+|-+)[ \t]*$")
_RULE = re.compile(r"^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$")
_FRONT = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_HTML_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TARGET = r"(?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\])"
_PICTURE = re.compile(rf"!\[[^\[\]]*\]{_TARGET}")
_ANCHOR = re.compile(rf"\[([^\[\]]+)\]{_TARGET}")
# Bounded in length, or a line of many lone asterisks would be looked through from each of them.
_EMPHASIS = re.compile(r"(\*\*|__|\*|(?<!\w)_|~~)(?=\S)(.{1,300}?)(?<=\S)\1(?!\w)")
_CODE = re.compile(r"(`{1,3})(.{1,300}?)\1")

# A line this long that ends without a stop goes on in the next one: text that was wrapped by hand.
_WRAPPED = 40


def extracted(title: str, body: str) -> tuple[Section, ...]:
    """The sections of a WikiExtractor document; its first line is left out where it repeats the title."""
    lines = [line.strip() for line in _cleaned(tidy.normal(tidy.unescape(body)))]
    lines = [line for line in lines if line]
    if lines and lines[0].casefold() == title.casefold():
        del lines[0]
    return _sections(_headed(lines))


def _cleaned(body: str) -> Iterator[str]:
    for line in body.split("\n"):
        if "<" in line:
            line = _TAG.sub("", _LINE_TAG.sub("\n", line))
        for part in line.split("\n"):
            if not _TEMPLATE_LINE.search(part):
                kept = tidy.mended(_LINK.sub(r"\1", part))
                if any(map(str.isalnum, kept)):
                    yield kept


def _headed(lines: list[str]) -> Iterator[tuple[str | None, str]]:
    last = len(lines) - 1
    hashed = any(map(_HASHES.match, lines))  # newer versions mark their headings; what ends in "." is then a sentence
    for number, line in enumerate(lines):
        hashes = _HASHES.match(line)
        if hashes:
            yield _heading(hashes).rstrip("."), ""
        elif number < last and not hashed and is_heading(line):
            yield line[:-1], ""
        else:
            yield None, _BULLET.sub("", line) if line.startswith("- ") else line


def sections(body: str) -> tuple[Section, ...]:
    """The sections that a JSON list of {"heading", "text"} tells of; each line of a text is a paragraph."""
    found: list[tuple[str | None, str]] = []
    for section in json.loads(body):
        found.append((tidy.one_line(section["heading"]), ""))
        found.extend((None, line) for line in tidy.normal(section["text"]).split("\n"))
    return _sections(found, whole=True)


def plain(body: str) -> tuple[Section, ...]:
    """The text as one section without a heading; lines wrapped by hand are joined into paragraphs."""
    paragraphs: list[list[str]] = []
    before = ""
    for line in tidy.normal(body).split("\n"):
        line = line.strip()
        if line and len(before) >= _WRAPPED and before[-1] not in ".!?:;\"'”’)" and paragraphs:
            paragraphs[-1].append(line)
        else:
            paragraphs.append([line])
        before = line
    return _sections((None, " ".join(paragraph)) for paragraph in paragraphs)


def markdown(title: str, body: str) -> tuple[Section, ...]:
    """The sections of a Markdown text; the heading that gave the page its title opens the lead."""
    text = _HTML_COMMENT.sub("", _FRONT.sub("", tidy.normal(body)))
    found = list(_marked(text.split("\n")))
    for number, (heading, _) in enumerate(found):
        if heading is not None:
            if heading == title:
                found[number] = ("", "")
            break
    return _sections(found, whole=True)


def _marked(lines: list[str]) -> Iterator[tuple[str | None, str]]:
    """Headings and paragraphs of Markdown, in order."""
    paragraph, fence = list[str](), ""
    for line in [*lines, ""]:
        mark = _FENCE.match(line)
        if mark and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else mark[1]
        hashes = None if fence else _HASHES.match(line)
        under = not fence and paragraph and _UNDERLINE.match(line)
        starts = fence or mark or hashes or not line.strip() or _BULLET.match(line) or _RULE.match(line)
        if under:
            yield _inline(" ".join(paragraph)), ""
            paragraph = []
            continue
        if starts and paragraph:
            yield None, _inline(" ".join(paragraph))
            paragraph = []
        if hashes:
            yield _inline(_heading(hashes)), ""
        elif fence and not mark:
            yield None, line
        elif not mark and not _RULE.match(line) and line.strip():
            paragraph.append(_BULLET.sub("", line.lstrip("> ")).strip())


def _heading(hashes: re.Match[str]) -> str:
    return _CLOSING_HASHES.sub("", hashes[1].rstrip()).rstrip()


def _inline(text: str) -> str:
    """Markdown's text without the marks inside a line."""
    text = _ANCHOR.sub(r"\1", _PICTURE.sub("", text))
    text = _CODE.sub(r"\2", text)
    for _ in range(2):  # bold inside italics
        text = _EMPHASIS.sub(r"\2", text)
    return tidy.one_line(tidy.unescape(_TAG.sub("", text)))


def _sections(found: Iterable[tuple[str | None, str]], *, whole: bool = False) -> tuple[Section, ...]:
    """Headings (with an empty text) and paragraphs (with None for a heading) as sections; those without text go.

    A section that only lists sources keeps its sentences, unless the text is wanted `whole`.
    """
    kept: list[Section] = []
    heading, lines = "", list[str]()
    for new, text in [*found, ("", "")]:
        if new is None:
            lines.append(text)
            continue
        if not whole and is_apparatus(heading):
            lines = [line for line in lines if reads_like_prose(line)]
        if joined := tidy.paragraphs(lines):
            kept.append(Section(heading, joined))
        heading, lines = new, []
    return tuple(kept)
