"""The tokens an inverter writes with: the encoder's own, or the most frequent of them.

It does not know vectors or networks: texts in, ids out, and back.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Ids = NDArray[np.int64]

NONE = -1  # behind a text's end
_BATCH = 20_000
_TIDY = [
    (re.compile(r"\s+([.,;:!?)\]%’])"), r"\1"),
    (re.compile(r"([(\[])\s+"), r"\1"),
    (re.compile(r"(?<=\w)\s*([-–/])\s*(?=\w)"), r"\1"),
    (re.compile(r"(?<=\w)\s*(['’])\s*(?=(?:s|t|d|m|ll|re|ve)\b)"), r"\1"),
    (re.compile(r"(?<=\d)([.:])\s+(?=\d)"), r"\1"),
    (re.compile(r"(?<=\d)(,)\s+(?=\d{3}(?!\d))"), r"\1"),  # thousands; "3, 1947" is a date
]


class Words:
    """Ids 0 … size - 1 are tokens, `unknown` among them; `end` = size is behind the last one, and before the first."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()
        self.end = self.size
        unknown = json.loads(tokenizer.to_str())["model"].get("unk_token")
        self.unknown: int | None = tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None

    def ids(self, texts: Sequence[str], longest: int) -> Ids:
        """(n, longest + 1): a text's first `longest` tokens, its end, and NONE behind it."""
        told = np.full((len(texts), longest + 1), NONE, dtype=np.int64)
        for start in range(0, len(texts), _BATCH):
            some = self.tokenizer.encode_batch(list(texts[start : start + _BATCH]), add_special_tokens=False)
            for row, encoding in enumerate(some, start):
                ids = encoding.ids[:longest]
                told[row, : len(ids)] = ids
                told[row, len(ids)] = self.end
        return told

    def texts(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """Of rows of tokens, each up to its end; spaces are set as a person would set them."""
        rows = [list(row) for row in ids]
        cut = [row[: row.index(self.end)] if self.end in row else row for row in rows]
        return [tidy(text) for text in self.tokenizer.decode_batch(cut)]


def tidy(text: str) -> str:
    """Text as word pieces leave it, without the spaces before and behind punctuation; quotation marks stay as they are,
    since which of them opens is not known."""
    text = " ".join(text.split())
    for pattern, put in _TIDY:
        text = pattern.sub(put, text)
    return text


def frequent(tokenizer: Tokenizer, texts: Sequence[str], size: int) -> tuple[Tokenizer, list[int]]:
    """A tokenizer of at most `size` pieces, and the ids they had before: all single letters that occur (even where they
    alone are more), and the most frequent others in the texts. A rarer word falls apart into pieces that are there.

    Only WordPiece finds those pieces by itself; a tokenizer of another kind stays whole.
    """
    raw = json.loads(tokenizer.to_str())
    raw |= {"post_processor": None, "truncation": None, "padding": None, "added_tokens": []}
    if raw["model"]["type"] != "WordPiece":
        raw["added_tokens"] = json.loads(tokenizer.to_str())["added_tokens"]
        return Tokenizer.from_str(json.dumps(raw)), list(range(tokenizer.get_vocab_size()))
    counts: Counter[int] = Counter()
    for start in range(0, len(texts), _BATCH):
        some = tokenizer.encode_batch(list(texts[start : start + _BATCH]), add_special_tokens=False)
        counts.update(token for encoding in some for token in encoding.ids)
    vocabulary: dict[str, int] = raw["model"]["vocab"]
    letters = {piece.removeprefix("##") for piece in vocabulary}
    seen = {letter for piece, token in vocabulary.items() if counts[token] for letter in piece.removeprefix("##")}
    alone = {piece for letter in seen & letters for piece in (letter, "##" + letter)} & vocabulary.keys()
    first = alone | {raw["model"]["unk_token"]}
    rest = sorted(vocabulary.keys() - first, key=lambda piece: (-counts[vocabulary[piece]], vocabulary[piece]))
    many = max(0, size - len(first))
    kept = sorted([*first, *(piece for piece in rest[:many] if counts[vocabulary[piece]])], key=lambda p: vocabulary[p])
    raw["model"]["vocab"] = {piece: number for number, piece in enumerate(kept)}
    return Tokenizer.from_str(json.dumps(raw)), [vocabulary[piece] for piece in kept]
