"""The words of a collection in their order, each with how many chunks hold it; a word's number is its place.

It does not know how a text becomes words. The files are memory-mapped: opening costs the same for any number of words.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from store.records import LookaheadError

_TERMS, _ENDS, _HOLDING = "terms.npy", "ends.npy", "holding.npy"


class Vocabulary:
    """`holding` (n, 2) says of each word how many texts, and how many titles, it is in. Threads may share one."""

    def __init__(self, terms: NDArray[np.uint8], ends: NDArray[np.int64], holding: NDArray[np.int64]) -> None:
        self._terms = terms.data  # sliced in a fifth of the time that an array takes
        self._ends = ends.data
        self.holding = holding

    @classmethod
    def open(cls, folder: Path) -> Self:
        try:
            terms, ends, holding = (np.load(folder / name, mmap_mode="r") for name in (_TERMS, _ENDS, _HOLDING))
        except (OSError, ValueError, EOFError) as error:
            raise LookaheadError(f"cannot read {folder}: {error}; run: lookahead verify") from error
        if ends.shape != (len(holding),) or (len(ends) and ends[-1] != len(terms)):
            raise LookaheadError(f"{folder} is not of one piece; run: lookahead verify")
        return cls(terms, ends, holding)

    def __len__(self) -> int:
        return len(self._ends)

    def find(self, word: str) -> int | None:
        """The word's number, or None where no chunk holds it."""
        wanted = word.encode()
        number = bisect_left(range(len(self)), wanted, key=self._term)
        return number if number < len(self) and self._term(number) == wanted else None

    def _term(self, number: int) -> bytes:
        return bytes(self._terms[self._ends[number - 1] if number else 0 : self._ends[number]])


def write(folder: Path, words: Sequence[str], holding: NDArray[np.int64]) -> None:
    """`words` ascending, each once."""
    folder.mkdir(exist_ok=True)
    terms = [word.encode() for word in words]
    ends = np.cumsum([len(term) for term in terms], dtype=np.int64)
    np.save(folder / _TERMS, np.frombuffer(b"".join(terms), dtype=np.uint8))
    np.save(folder / _ENDS, ends)
    np.save(folder / _HOLDING, holding)
