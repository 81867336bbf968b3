"""Plain text made fit to keep: one kind of newline and space, no control characters, Unicode NFC.

It does not know what markup is; it is handed text that has lost its own.
"""

from __future__ import annotations

import html
import re
import unicodedata

_NEWLINES = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# Control characters, lone surrogates (which no file can hold), soft hyphens, direction marks, byte-order marks and
# non-characters. The two joiners U+200C and U+200D stay: Persian and the Indic scripts spell with them.
_UNWANTED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff]"
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")

# What a dropped template leaves behind: "Alabama () is", "Adobe (, ) is", "shown by , who".
_EMPTY_BRACKETS = re.compile(r"\s?(?:(?<=\s)|(?<=^))[(\[](?:[\s,;:/]|\bor\b|\band\b)*[)\]]")
_AFTER_OPENING = re.compile(r"([(\[])\s*(?:[,;:]\s*)*(?=\S)")
_BEFORE_CLOSING = re.compile(r"(?<![\s,;])\s*(?:[,;]\s*)*(?=[)\]])")
_LOOSE_STOP = re.compile(r"\s+(?=[,;.!?](?:\s|$))")
_LEADING = re.compile(r"^(?:[,;:.](?:\s+|$))+")
_DOUBLED = re.compile(r"(?<![,;])([,;])(?:\s*[,;])+(?=\s|$)")
# Looked for first, being many times as fast as the patterns.
_BRACKET_HOLES = ("()", "[]", "( ", "(,", "(;", "(:", "[ ", "[,", " )", ",)", ";)", " ]")
_STOP_HOLES = (" ,", " ;", " .", " !", " ?", ",,", ";;", ",;", ";,")


def normal(text: str) -> str:
    """The text with plain newlines and spaces, nothing invisible, in NFC; lines stay lines."""
    if not text.isascii() or not text.isprintable():
        text = _NEWLINES.sub("\n", text)
        text = _SPACES.sub(" ", text)
        text = _UNWANTED.sub("", text)
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def one_line(text: str) -> str:
    """The text on one line, words separated by single spaces: what a title or a heading must be."""
    return " ".join(normal(text).split())


def unescape(text: str) -> str:
    """The text with `&amp;` and its like resolved once; only those that end in a semicolon (`R&D`, `?a=1&copy=2`)."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def mended(line: str) -> str:
    """The line without the holes that dropped templates leave: empty brackets, loose or doubled commas."""
    line = " ".join(line.split())  # first: the patterns below take a run of spaces apart from each of its places
    if any(hole in line for hole in _BRACKET_HOLES):
        line = _EMPTY_BRACKETS.sub("", line)
        line = _BEFORE_CLOSING.sub("", _AFTER_OPENING.sub(r"\1", line))
    if any(hole in line for hole in _STOP_HOLES):
        line = " ".join(_DOUBLED.sub(r"\1", _LOOSE_STOP.sub("", line)).split())
    return _LEADING.sub("", line)


def paragraphs(lines: list[str]) -> str:
    """The lines as a section's text: each on one line, no empty ones, one newline between them."""
    return "\n".join(kept for line in lines if (kept := " ".join(line.split())))
