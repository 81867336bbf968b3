"""The 78 symbols that next-character models read and write: two of their own and the most frequent characters.

It does not know languages or files; text is taken in Unicode's composed form (NFC).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from store.generations import write_atomically
from store.records import LookaheadError

SIZE = 78  # that of the published models; their parameter counts hang on it
PAD, UNK = 0, 1
_OWN = ["<PAD>", "<UNK>"]
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"

Symbols = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Characters by symbol: `characters[0]` is symbol 2. A text with few characters leaves symbols unused."""

    characters: str

    @classmethod
    def of(cls, counts: Sequence[Mapping[str, int]]) -> Self:
        """The most frequent characters, ties by code point. Each language (one `counts` each) weighs the same, however
        much text it has: by size, a large one would leave a small one's accents unknown."""
        shares: dict[str, float] = {}
        for language in counts:
            total = sum(language.values())
            for character, count in language.items():
                shares[character] = shares.get(character, 0.0) + count / total
        ranked = sorted(shares, key=lambda character: (-shares[character], character))
        return cls("".join(ranked[: SIZE - len(_OWN)]))

    def encode(self, text: str) -> Symbols:
        """One symbol a character of the composed text."""
        raw = unicodedata.normalize("NFC", text).encode("utf-32-le", "surrogatepass")
        points = np.frombuffer(raw, dtype="<u4")
        known = np.array([ord(character) for character in self.characters], dtype=np.uint32)
        order = np.argsort(known)
        places = np.searchsorted(known[order], points).clip(max=len(known) - 1)
        found = order[places]
        return np.where(known[found] == points, found + len(_OWN), UNK).astype(np.uint8)

    def decode(self, symbols: Symbols) -> str:
        """The text again, with "\N{REPLACEMENT CHARACTER}" for what is not known and nothing for padding."""
        letters = ["", _UNKNOWN, *self.characters]
        return "".join(letters[symbol] for symbol in symbols.tolist())

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps({"symbols": [*_OWN, *self.characters]}, indent=1).encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            symbols = json.loads(path.read_bytes())["symbols"]
            own, characters = symbols[: len(_OWN)], symbols[len(_OWN) :]
            sound = own == _OWN and all(len(one) == 1 for one in characters) and len(set(characters)) == len(characters)
            if not (sound and 0 < len(characters) <= SIZE - len(_OWN)):
                raise ValueError(f"expected {', '.join(_OWN)} and up to {SIZE - len(_OWN)} characters, each once")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LookaheadError(f"{path} is no vocabulary: {error}") from error
        return cls("".join(characters))
