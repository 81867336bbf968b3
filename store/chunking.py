"""Cuts an article into sentence-bounded chunks of about equal length.

It does not know ids, vectors or files: an article and the rules in, pieces in reading order out.
Sentences are found by sentencex (Wikimedia's splitter: abbreviations, decimals, some 240 languages).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import sentencex

from store.records import Article, LookaheadError, Piece, Section


class Prefix(StrEnum):
    """What is put before a chunk's text when it is embedded; the stored text never carries it."""

    NONE = "none"
    TITLE = "title"
    SECTION = "section"
    BOTH = "title-section"


@dataclass(frozen=True, slots=True)
class ChunkingRules:
    """How a collection is cut; recorded in its manifest, fixed for its life.

    `words` is the length aimed at; a chunk is rarely under half or over one and a half of it.
    `overlap` is how many words of whole sentences a chunk repeats from the one before it.
    `language` is an ISO 639 code and chooses the sentence splitter and the stemmer.
    """

    words: int = 80
    overlap: int = 0
    prefix: Prefix = Prefix.NONE
    language: str = "en"

    def __post_init__(self) -> None:
        if not 10 <= self.words <= 400:
            raise LookaheadError(f"a chunk has 10 to 400 words, not {self.words}; pass --chunk-words 80")
        if not 0 <= self.overlap <= self.words // 2:
            raise LookaheadError(
                f"the overlap of {self.words}-word chunks is 0 to {self.words // 2} words, not {self.overlap}"
            )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> ChunkingRules:
        return cls(raw["words"], raw["overlap"], Prefix(raw["prefix"]), raw["language"])


def pieces_of(article: Article, rules: ChunkingRules) -> list[Piece]:
    """The article's chunks in reading order.

    Sentences are never cut (save one of more than twice the length aimed at), and a chunk never crosses a
    section's end, unless that section has less than a quarter of the length aimed at: it is then read with the
    next one, or, at the article's end, with the one before.
    """
    pieces: list[Piece] = []
    waiting: list[str] = []
    for section in article.sections:
        sentences = waiting + list(_sentences(section, rules))
        waiting = []
        if sum(map(length_of, sentences)) < rules.words // 4:
            waiting = sentences
            continue
        pieces.extend(Piece(section.heading, text) for text in _pack(sentences, rules))
    if waiting and pieces:
        last = pieces[-1]
        pieces[-1] = Piece(last.section, " ".join([last.text, *waiting]))
    elif waiting:
        pieces.append(Piece(article.sections[-1].heading, " ".join(waiting)))
    return pieces


def embedded_text(title: str, section: str, text: str, prefix: Prefix) -> str:
    """What the encoder reads for a chunk."""
    before = {
        Prefix.NONE: (),
        Prefix.TITLE: (title,),
        Prefix.SECTION: (section,),
        Prefix.BOTH: (title, section),
    }[prefix]
    return ". ".join([*(part for part in before if part), text])


def sentences_of(text: str, language: str) -> list[str]:
    """The sentences of a text, white space around them removed."""
    found = (sentence.strip() for line in text.split("\n") for sentence in sentencex.segment(language, line))
    return [sentence for sentence in found if sentence]


def length_of(text: str) -> int:
    """Words, or half the characters where a script writes no spaces (Chinese, Japanese, Thai)."""
    words = len(text.split())
    return words if len(text) < 20 * words else max(words, len(text) // 2)


def _sentences(section: Section, rules: ChunkingRules) -> Iterator[str]:
    longest = 2 * rules.words
    for paragraph in section.text.split("\n"):
        for sentence in sentencex.segment(rules.language, paragraph):
            tidy = " ".join(sentence.split())
            if not tidy:
                continue
            if length_of(tidy) <= longest:
                yield tidy
            else:
                yield from _cut(tidy, rules.words)


def _cut(sentence: str, words: int) -> Iterator[str]:
    """Equal parts of an endless sentence (a list without full stops), as many as `_pack` will ask for."""
    tokens = sentence.split()
    joint = " "
    if length_of(sentence) > len(tokens):  # no spaces to cut at: cut between characters
        tokens, joint, words = list(sentence), "", 2 * words
    parts = round(len(tokens) / words)
    bounds = [len(tokens) * part // parts for part in range(parts + 1)]
    for start, stop in itertools.pairwise(bounds):
        yield joint.join(tokens[start:stop])


def _pack(sentences: list[str], rules: ChunkingRules) -> Iterator[str]:
    """Consecutive sentences in as many chunks as the length asks for, cut where the shares come out most even."""
    lengths = [length_of(sentence) for sentence in sentences]
    total = sum(lengths)
    count = min(len(sentences), max(1, round(total / rules.words)))
    start = read = 0
    for part in range(1, count + 1):
        stop, goal = start, total * part / count
        while stop < len(sentences) and (
            part == count or stop == start or abs(read + lengths[stop] - goal) <= abs(read - goal)
        ):
            read += lengths[stop]
            stop += 1
        if stop > start:
            yield " ".join(sentences[_overlap_start(lengths, start, rules.overlap) : stop])
        start = stop


def _overlap_start(lengths: list[int], start: int, overlap: int) -> int:
    while start > 0 and lengths[start - 1] <= overlap:
        start -= 1
        overlap -= lengths[start]
    return start
