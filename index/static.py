"""Static encoders: a text is the mean of its tokens' rows in a table, and nothing more. No torch is imported.

It does not know how the table was learned, nor what a sentence-transformers folder is (`index/conversion.py` does).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from index.encoder import Fingerprint, read_recipe
from store.records import LookaheadError

ROWS, SCALES, TOKENIZER = "rows.npy", "scales.npy", "tokenizer.json"
UNLIMITED = 1 << 30  # tokens of a text, where a model reads all of it

Ids = NDArray[np.int32]
Tokens = Callable[[Sequence[str]], Iterable[Ids]]

_MOST_WORDS = 1 << 18  # kept with their tokens, some 50 MB; then the memory starts anew
_LONGEST = 32  # characters of a word that is kept: what is longer hardly comes again
_PARTS = re.compile(r"[0-9A-Za-z]+|[^0-9A-Za-z]")


class StaticEncoder:
    """A table of a row a token, in eight bits with a scale for each row, or in single precision with scales of one."""

    def __init__(
        self, rows: NDArray[np.int8] | NDArray[np.float32], scales: NDArray[np.float32], tokens: Tokens,
        fingerprint: Fingerprint,
    ) -> None:  # fmt: skip
        self._rows = rows
        self._scales = scales
        self._tokens = tokens
        self.fingerprint = fingerprint

    @classmethod
    def open(cls, folder: Path) -> StaticEncoder:
        """Memory-mapped: one question costs the rows of its own words."""
        fingerprint = Fingerprint.from_json(read_recipe(folder)["fingerprint"])
        try:
            rows = np.lib.format.open_memmap(folder / ROWS, mode="r")  # np.load also opens archives
            scales = np.array(np.lib.format.open_memmap(folder / SCALES, mode="r"))
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # tokenizers raises bare exceptions, numpy half a dozen kinds for a damaged header
            raise _unreadable(folder, str(error) or type(error).__name__) from error
        if rows.dtype not in (np.int8, np.float32) or scales.dtype != np.float32 or scales.shape != rows.shape[:1]:
            raise _unreadable(folder, f"{rows.dtype} {rows.shape} rows with {scales.dtype} {scales.shape} scales")
        words = tokenizer.get_vocab_size()
        if rows.ndim != 2 or rows.shape[1] != fingerprint.dim or len(rows) < words:
            raise _unreadable(folder, f"rows of shape {rows.shape} for {words} tokens of {fingerprint.dim} dimensions")
        return cls(np.asarray(rows), scales, tokens_by(tokenizer, fingerprint.max_tokens), fingerprint)

    @property
    def name(self) -> str:
        return self.fingerprint.model

    @property
    def dim(self) -> int:
        return self.fingerprint.dim

    @property
    def precision(self) -> str:
        return "int8" if self._rows.dtype == np.int8 else "f32"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode(texts, self.fingerprint.document_prefix)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode(texts, self.fingerprint.query_prefix)

    def _encode(self, texts: Sequence[str], prefix: str) -> NDArray[np.float32]:
        """A text without a single token is the zero vector, as torch's EmbeddingBag has it."""
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        prefixed = [prefix + text for text in texts] if prefix else texts
        for place, ids in enumerate(self._tokens(prefixed)):
            if len(ids):
                # the table stays in eight bits: what a text reads of it fits the caches, and this is as fast as in 32
                out[place] = self._scales[ids] @ self._rows[ids].astype(np.float32, copy=False) / len(ids)
        if self.fingerprint.normalised:
            out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        return out


class TextTokens:
    """The reference: every text to the tokenizer, whole."""

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        self._tokenizer = tokenizer
        self._most = most

    def __call__(self, texts: Sequence[str]) -> Iterable[Ids]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids[: self._most], dtype=np.int32) for encoding in encodings]


class WordTokens:
    """The same from a memory of words, for tokenizers that read each word by itself (`reads_words_alone`)."""

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        self._tokens_of = _Words(tokenizer).__getitem__
        self._most = most

    def __call__(self, texts: Sequence[str]) -> Iterable[Ids]:
        # only at plain spaces: other white space is the tokenizer's to judge, as some of it is removed and joins words
        for text in texts:
            yield np.frombuffer(b"".join(map(self._tokens_of, text.split(" "))), dtype=np.int32)[: self._most]


class _Words(dict[str, bytes]):
    """What stands between spaces → the ids of its tokens, as the bytes of int32s, which join faster than lists."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._lower = bool(tokenizer.normalizer.lowercase)
        self._longest = tokenizer.model.max_input_chars_per_word
        named = [re.escape(token.content) for token in tokenizer.get_added_tokens_decoder().values()]
        self._added = re.compile("|".join(named) or "(?!)", re.IGNORECASE)

    def __missing__(self, word: str) -> bytes:
        ids = self._ids(word)
        if len(word) <= _LONGEST:
            if len(self) >= _MOST_WORDS:
                self.clear()
            self[word] = ids
        return ids

    def _ids(self, word: str) -> bytes:
        """A printable ASCII word is cut here as BERT does, at every sign: most new words are known ones with a comma.

        A word with one of the added tokens in it ("[SEP]") is the tokenizer's, as those are cut out before anything.
        """
        if word.isascii() and word.isprintable() and not self._added.search(word):
            parts = _PARTS.findall(word.lower() if self._lower else word)
            if parts and parts != [word]:
                return b"".join([self[part] for part in parts])
            known = self._tokenizer.token_to_id(word) if len(word) <= self._longest else None
            if known is not None:  # WordPiece takes the longest piece it knows, and that is all of it
                return known.to_bytes(4, sys.byteorder)
        return np.array(self._tokenizer.encode(word, add_special_tokens=False).ids, dtype=np.int32).tobytes()


def tokens_by(tokenizer: Tokenizer, most: int) -> Tokens:
    """Texts to the ids of their first `most` tokens, without those that a model puts around a text."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return WordTokens(tokenizer, most) if reads_words_alone(tokenizer) else TextTokens(tokenizer, most)


def reads_words_alone(tokenizer: Tokenizer) -> bool:
    """Whether a text's tokens are those of the words between its spaces, one after the other: BERT's tokenizers.

    BERT cleans, lower-cases, takes accents off, puts spaces around Chinese and cuts at signs letter by letter, and
    WordPiece then sees no more than one word. An added token could be found across a space if it held one, or what
    normalising makes one.
    """
    return (
        isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(tokenizer.model, models.WordPiece)
        and not any(token.normalized or " " in token.content for token in tokenizer.get_added_tokens_decoder().values())
    )


def longest_read(tokenizer: Tokenizer) -> int:
    """How many tokens of a text a tokenizer gives by itself; a static model has no limit of its own."""
    return UNLIMITED if tokenizer.truncation is None else int(tokenizer.truncation["max_length"])


def keeps_the_end(tokenizer: Tokenizer) -> bool:
    """Whether what it cuts from a long text is the beginning."""
    return tokenizer.truncation is not None and tokenizer.truncation["direction"] != "right"


def write_static(folder: Path, table: NDArray[np.float32], tokenizer: Tokenizer, *, eight_bits: bool = True) -> None:
    """Keeps a table (tokens, dim) and its tokenizer; `encoder.json` is the caller's to write."""
    rows, scales = in_eight_bits(table) if eight_bits else (table, np.ones(len(table), dtype=np.float32))
    np.save(folder / ROWS, rows, allow_pickle=False)
    np.save(folder / SCALES, scales, allow_pickle=False)
    tokenizer.save(str(folder / TOKENIZER))


def in_eight_bits(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(rows, scales): a row's largest value becomes 127 or -127."""
    largest = np.abs(table).max(axis=1)
    scales = np.maximum(largest / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(table / scales[:, None]).astype(np.int8), scales


def remove_static(folder: Path) -> None:
    """Takes away what `write_static` wrote."""
    for name in (ROWS, SCALES, TOKENIZER):
        (folder / name).unlink(missing_ok=True)


def _unreadable(folder: Path, reason: str) -> LookaheadError:
    return LookaheadError(f"cannot load the encoder in {folder}: {reason.splitlines()[0]}; run: lookahead verify")
