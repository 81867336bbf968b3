"""What the conformance suite asks of every combination of engine and store: articles whose chunks lie in clusters, the
exact answers, and where to keep what is made of them.

As a program it is one command of lookahead, which may be told where to kill itself:

    conformance.py [die WHAT TIMES] ARGUMENTS …   at the TIMES-th call of WHAT, "module:Class.method"
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from index.dense import Hit, exact_search
from index.vectors import Vectors

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

TIE = 1e-3  # of the exact k-th score: half precision orders such hits as it likes
CHUNKS = 10  # of a page
_TOPICS, _OWN_WORDS, _ALL_WORDS = 40, 60, 120


@dataclass(frozen=True, slots=True)
class Page:
    """An article as JSON lines have it; every section is one sentence or more, every sentence one chunk."""

    page_id: int
    title: str
    sections: tuple[tuple[str, str], ...]

    def row(self) -> dict[str, Any]:
        sections = [{"heading": heading, "text": text} for heading, text in self.sections]
        return {"page_id": self.page_id, "title": self.title, "sections": sections}


Pages = Mapping[int, Page]


def pages_of(numbers: Sequence[int], version: int = 0) -> dict[int, Page]:
    """Articles of ten chunks, each about one of forty topics. Half of their chunks stand under "Half", a tenth under
    "Tenth", and of every tenth article one under "Rare"."""
    return {number: _page(number, version) for number in numbers}


def questions_of(topics: Iterable[int]) -> list[str]:
    """For each, words of that topic with a few that all have; of the pages, number n is about topic n % 40."""
    rng = np.random.default_rng(5)
    everyones = _words(0, _ALL_WORDS // 4)
    return [
        " ".join([*rng.choice(_topic(topic)[:20], 4, replace=False), *rng.choice(everyones, 2, replace=False)])
        for topic in topics
    ]


def write(path: Path, pages: Pages) -> Path:
    path.write_text("".join(json.dumps(page.row()) + "\n" for page in pages.values()), encoding="utf-8")
    return path


# -- what is right -------------------------------------------------------------------------------------------


def exact(vectors: Vectors, queries: Floats, among: Ints) -> list[dict[int, float]]:
    """For each query the cosine of all chunks of those ids, best first."""
    allowed = set(among.tolist())
    return [
        {hit.chunk_id: hit.score for hit in hits if hit.chunk_id in allowed}
        for hits in exact_search(vectors, queries, len(vectors))
    ]


def agrees(hits: Sequence[Hit], truth: Mapping[int, float], k: int, exactly: float = 1e-4) -> None:
    """Whether these are the best `k` of `truth` (chunk id → score, best first), but for ties with the k-th."""
    ranked = list(truth.values())[:k]
    assert len(hits) == len(ranked), f"{len(hits)} hits of {len(ranked)}"
    found = {hit.chunk_id: hit.score for hit in hits}
    assert len(found) == len(hits), "a chunk came twice"
    assert found.keys() <= truth.keys(), f"{sorted(found.keys() - truth.keys())} must not answer"
    for place, (hit, best) in enumerate(zip(hits, ranked, strict=True)):
        assert abs(hit.score - truth[hit.chunk_id]) <= exactly, f"{hit} has {truth[hit.chunk_id]}"
        assert abs(hit.score - best) <= TIE, f"{hit} at place {place}, where {best} belongs"
    if ranked:
        surely = {chunk_id for chunk_id, score in truth.items() if score > ranked[-1] + TIE}
        assert surely <= found.keys(), f"{sorted(surely - found.keys())} are missing"
    assert list(hits) == sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id)), "not in their order"


def same_hits(one: Sequence[Hit], other: Sequence[Hit], exactly: float = 1e-3) -> None:
    """Whether two lists have the same chunks with the same scores; those of equal scores in any order, and at the end
    any of them."""
    assert [hit.score for hit in one] == _about([hit.score for hit in other], exactly)
    last = one[-1].score + 2 * exactly if one else 0.0
    assert {hit.chunk_id for hit in one if hit.score > last} == {hit.chunk_id for hit in other if hit.score > last}


def _about(values: list[float], exactly: float) -> Any:
    import pytest

    return pytest.approx(values, abs=exactly, rel=0)


# -- words ---------------------------------------------------------------------------------------------------


def _page(number: int, version: int) -> Page:
    rng = np.random.default_rng([number, version])
    topic = number % _TOPICS
    own, everyones = _topic(topic), _words(0, _ALL_WORDS)
    sentences = []
    for place in range(CHUNKS):
        drawn = [*_often(rng, own, 8), *_often(rng, everyones, 5)]
        rng.shuffle(drawn)
        sentences.append(f"P{number}v{version}s{place} {' '.join(drawn)}.")
    headings = ["", "Tenth", "Rare" if number % 10 == 0 else "", "", "", *["Half"] * 5]
    sections: list[tuple[str, str]] = []
    for heading, sentence in zip(headings, sentences, strict=True):
        if sections and sections[-1][0] == heading:
            sections[-1] = (heading, f"{sections[-1][1]} {sentence}")
        else:
            sections.append((heading, sentence))
    return Page(number, f"{own[0].capitalize()} {own[1]} {number}", tuple(sections))


def _often(rng: np.random.Generator, words: Sequence[str], count: int) -> list[str]:
    """As language has it: a few words come again and again."""
    share = 1 / np.arange(1, len(words) + 1)
    return [str(word) for word in rng.choice(words, count, p=share / share.sum())]


def _topic(number: int) -> tuple[str, ...]:
    return _words(_ALL_WORDS + number * _OWN_WORDS, _OWN_WORDS)


@cache
def _words(first: int, count: int) -> tuple[str, ...]:
    """Words that no language has, always the same; every seventh has an accent."""
    made = []
    for number in range(first, first + count):
        rng = np.random.default_rng(1_000_003 * number + 17)
        syllables = [rng.choice(list("bdfgklmnprstvz")) + rng.choice(list("aeiou")) for _ in range(3)]
        ending = "" if number % 7 else "é"
        made.append("".join(syllables) + str(rng.choice(["", "n", "ng", "s"])) + ending)
    return tuple(made)


# -- a process that kills itself -----------------------------------------------------------------------------


def call_before(what: str, times: int, action: Callable[[], object], put: Callable[[Any, str, Any], object]) -> None:
    """Replaces a function, "module:Class.method", by one that does something else first when it is called for the
    `times`-th time. `put` is `setattr`, or one that takes it back."""
    module, _, path = what.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    original: Callable[..., Any] = getattr(owner, name)
    left = times

    def watched(*args: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            action()
        return original(*args, **named)

    put(owner, name, watched)


if __name__ == "__main__":
    from cli import main

    arguments = sys.argv[1:]
    if arguments[0] == "die":
        call_before(arguments[1], int(arguments[2]), lambda: os.kill(os.getpid(), signal.SIGKILL), setattr)
        arguments = arguments[3:]
    main(arguments, prog_name="lookahead")
