"""Wikitext cut down to what a parser can safely be given: no comments, tables, files, references or stray braces.

It does not know what a template or a link says; the parser does (`store.wikitext`). One pass, linear in the length.

Why this comes first: mwparserfromhell tries every unclosed `<tag>`, `[link` or quote mark again from the next one on.
Measured with 0.7.2: 24 KB of `<a ` or 66 KB of table cells with unclosed `''` take more than ten seconds, and
`[[a|<font><b>…` two hundred times over takes nine. None of that is left when the parser comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_NOWIKI = re.compile(r"<(/?)nowiki\s*(/?)>", re.IGNORECASE)
_SPECIAL = re.compile(r"[\[\]{}|<>'=*#:;&!-]")

# Elements that go with all they hold: notes, pictures, code, formulas, tables written in HTML.
_DROPPED = (
    "ref|references|gallery|timeline|imagemap|math|chem|ce|pre|source|syntaxhighlight|score|hiero|graph|mapframe"
    "|maplink|templatedata|templatestyles|inputbox|includeonly|table|style|script|indicator|categorytree"
)
_DROPPED_TAG = re.compile(rf"<(/?)({_DROPPED})\b([^<>]*?)(/?)>", re.IGNORECASE)
# A formula short and plain enough to be read as it stands: x, n+1, 2k.
_PLAIN_FORMULA = re.compile(r"<math[^<>]*>([\w+\-*/=<>.,()\s]{1,24})</math>", re.IGNORECASE)
# 10<sup>7</sup> is not 107; km<sup>2</sup>, 1<sup>st</sup> and <sup>14</sup>C read well without a sign.
_POWER = re.compile(r"(?<=\d)<sup>\s*((?:[−–-]|&minus;|&ndash;)?\d+)\s*</sup>", re.IGNORECASE)
_BREAK = re.compile(r"</?(?:br|hr|p|div|blockquote|center|li|dd|dt|poem|h[1-6])\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_DEEP_LIST = re.compile(r"^([*#:;]{6})[*#:;]+", re.MULTILINE)
_QUOTES = re.compile(r"'{2,}")

# Opening and closing marks. A table's only count at the start of a line; `|}}` there ends a template instead.
_MARK = re.compile(
    r"\{\{+|\}\}+|^[ \t:*#]*\{\|(?!\})|^[ \t]*\|\}(?!\})|\[\[|\]\]|\[(?=(?:https?:|ftp:|mailto:|//))|\]",
    re.MULTILINE,
)
_TABLE_ROW = re.compile(r"^[ \t]*(?:\{\||\|[-+}|]?|!).*\n?", re.MULTILINE)
_NAME = re.compile(r"\s*([^|{}\[\]\n]*)")

_TEMPLATE, _TABLE, _LINK, _ADDRESS = "{{", "{|", "[[", "["

# Links that are no words of the text: pictures and sounds, categories. English names, which every wiki understands,
# and those of the larger wikis.
_NO_TEXT = re.compile(
    r"\s*(?:file|image|media|category|datei|bild|kategorie|fichier|image|catégorie|archivo|imagen|categoría|immagine"
    r"|categoria|ficheiro|imagem|bestand|afbeelding|categorie|plik|grafika|kategoria|файл|изображение|категория"
    r"|ファイル|画像|文件|分类)\s*:",
    re.IGNORECASE,
)
_OTHER_LANGUAGE = re.compile(r"\s*[a-z]{2,3}(?:-[a-z]+)*\s*:[^|]*$")


@dataclass(slots=True)
class _Span:
    """A construct that has been opened: its mark, and the pieces of text inside so far."""

    mark: str
    pieces: list[str] = field(default_factory=list)


def reduced(wikitext: str, keeps: Callable[[str], bool]) -> str:
    """The wikitext without what is never text; templates stay, whole, where `keeps(name)`, links where they are words.

    All brackets left are paired, no tags and no quote marks for bold and italics are left, and blank lines part what
    tags part.
    """
    text = _COMMENT.sub("", wikitext)
    text = _escaped(text)
    text = _PLAIN_FORMULA.sub(r"\1", text)
    text = _without_elements(text)
    text = _TAG.sub("", _BREAK.sub("\n\n", _POWER.sub(r"^\1", text)))
    text = _paired(text, keeps)
    text = _TABLE_ROW.sub("", text)
    text = _DEEP_LIST.sub(r"\1", text)
    text = text.replace("<", "&lt;").replace("{|", "")
    return _QUOTES.sub(_apostrophes, text)


def _escaped(text: str) -> str:
    """The text with what stands between nowiki tags written so that nothing in it is markup any more."""
    pieces, position, inside = list[str](), 0, False
    for tag in _NOWIKI.finditer(text):
        piece = text[position : tag.start()]
        closes = bool(tag[1]) and inside
        pieces.append(_SPECIAL.sub(lambda char: f"&#{ord(char[0])};", piece) if closes else piece)
        inside = (inside and not tag[1]) or not (tag[1] or tag[2])
        position = tag.end()
    return "".join([*pieces, text[position:]])


def _apostrophes(quotes: re.Match[str]) -> str:
    """What is left of a run of apostrophes: two are italics, three bold, five both; the rest are apostrophes."""
    count = len(quotes[0])
    return "'" * (1 if count == 4 else max(0, count - 5))


def _without_elements(text: str) -> str:
    """The text without the elements of `_DROPPED`; one that is never closed loses only its tag."""
    opened: dict[str, list[int]] = {}
    cuts: list[tuple[int, int]] = []
    for tag in _DROPPED_TAG.finditer(text):
        name = tag[2].lower()
        if tag[4]:
            continue
        if not tag[1]:
            opened.setdefault(name, []).append(tag.start())
        elif opened.get(name):
            cuts.append((opened[name].pop(), tag.end()))
    kept, position = list[str](), 0
    for start, end in sorted(cuts):
        if start >= position:
            kept.append(text[position:start])
        position = max(position, end)
    kept.append(text[position:])
    return "".join(kept)


def _paired(text: str, keeps: Callable[[str], bool]) -> str:
    """The text without tables, files, categories, unwanted templates, and marks that have no partner."""
    stack = [_Span("")]
    counts = dict.fromkeys(("", _TEMPLATE, _TABLE, _LINK, _ADDRESS), 0)
    position = 0
    for mark in _MARK.finditer(text):
        stack[-1].pieces.append(text[position : mark.start()])
        position = mark.end()
        found = mark[0]
        if found.startswith("{{"):
            # Three braces are a parameter, which articles hardly have: taken as a template and one brace too many.
            for _ in range(len(found) // 2):
                stack.append(_Span(_TEMPLATE))
                counts[_TEMPLATE] += 1
        elif found.startswith("}}"):
            for _ in range(len(found) // 2):
                _close(stack, counts, _TEMPLATE, keeps)
        elif found == "]]":
            # `[[File:a.jpg|by [http://b c]]]` closes an address first.
            _close(stack, counts, _LINK, keeps)
        elif found == "]":
            if stack[-1].mark == _ADDRESS:
                _close(stack, counts, _ADDRESS, keeps)
            else:
                stack[-1].pieces.append("]")
        elif found.endswith("|}"):
            _close(stack, counts, _TABLE, keeps)
        else:
            opening = _TABLE if found.endswith("{|") else found
            stack.append(_Span(opening))
            counts[opening] += 1
    stack[-1].pieces.append(text[position:])
    return _taken(stack, counts, 0)


def _close(stack: list[_Span], counts: dict[str, int], mark: str, keeps: Callable[[str], bool]) -> None:
    """Ends the nearest construct of this kind; those opened inside it and never ended lose their marks."""
    if not counts[mark]:
        return
    start = len(stack) - 1
    while stack[start].mark != mark:
        start -= 1
    inside = _taken(stack, counts, start)
    stack[-1].pieces.append(_kept(mark, inside, keeps))


def _taken(stack: list[_Span], counts: dict[str, int], start: int) -> str:
    """Takes the constructs from `start` on off the stack and gives the text in them.

    A table that was never ended keeps its mark, by which its first row is known and dropped.
    """
    spans = stack[start:]
    del stack[start:]
    pieces = list[str]()
    for span in spans:
        counts[span.mark] -= 1
        pieces += [_TABLE, *span.pieces] if span.mark == _TABLE else span.pieces
    return "".join(pieces)


def _kept(mark: str, inside: str, keeps: Callable[[str], bool]) -> str:
    if mark == _TEMPLATE:
        name = _NAME.match(inside)
        return f"{{{{{inside}}}}}" if name and keeps(name[1].strip()) else ""
    if mark == _LINK:
        unwanted = _NO_TEXT.match(inside) or _OTHER_LANGUAGE.match(inside)
        return "" if unwanted else f"[[{inside}]]"
    if mark == _ADDRESS:
        return inside if "\n" in inside else f"[{inside}]"
    return ""
