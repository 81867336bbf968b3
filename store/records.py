"""What the rest of the house talks about: articles, chunks, splits, and errors meant for a person.

It does not know where an article came from, where a chunk is kept, or what a vector is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum


class LookaheadError(Exception):
    """An error meant for a person: one line that says what was expected, what was found, what to type next."""


class Unreachable(LookaheadError):
    """A server that part of a collection is kept on does not answer; when it does again, all is as before."""


class Gone(Unreachable):
    """What a manifest names is not on its server (any more): swept for a newer generation, or lost."""


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of an article under one heading; the lead's heading is the empty string.

    Paragraphs of `text` are separated by one newline; there are no others.
    """

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Article:
    """A page as a reader sees it: plain text, no markup, in reading order."""

    page_id: int
    title: str
    sections: tuple[Section, ...]

    @property
    def words(self) -> int:
        return sum(len(section.text.split()) for section in self.sections)


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk that has no id yet."""

    section: str
    text: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A sentence-bounded piece of an article.

    `chunk_id` is the row number everywhere: in the database, the vector shards and both indexes.
    `position` counts an article's chunks from 0.
    """

    chunk_id: int
    page_id: int
    position: int
    section: str
    text: str


class Split(StrEnum):
    """The part of a collection an article belongs to; chosen by `store.splits.split_of` alone."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


def digest(*parts: str) -> str:
    """32 hex digits that change when any part changes, or when text moves from one part to the next."""
    state = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return state.hexdigest()[:32]
