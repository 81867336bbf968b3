"""A model that learned nothing: each word is a fixed random vector, a text the sum of its words.

The baseline every encoder must beat, and the stand-in that lets tests run without one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.encoder import HASHING, Fingerprint

_WORD = re.compile(r"\w+")


class HashingEncoder:
    """Random indexing (Kanerva et al., 2000) with a word's vector drawn from the hash of its letters."""

    name = HASHING

    def __init__(self, dim: int = 128) -> None:
        self.dim = dim
        self._words: dict[str, NDArray[np.float32]] = {}

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(HASHING, "1", self.dim, "sum", False, True, "", "", 1 << 30)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in _WORD.findall(text.lower()):
                out[row] += self._vector(word)
        lengths = np.linalg.norm(out, axis=1, keepdims=True)
        return np.asarray(out / np.maximum(lengths, 1e-12), dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode(texts)

    def _vector(self, word: str) -> NDArray[np.float32]:
        vector = self._words.get(word)
        if vector is None:
            seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
            vector = np.random.default_rng(seed).standard_normal(self.dim).astype(np.float32)
            self._words[word] = vector
        return vector
