"""The beginnings of chunks that an inverter is trained and judged on: whole words of at most so many tokens.

It does not know what is made of a span; which tokens count is the business of the tokenizer it is given.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from index.encoder import Encoder
from index.fast import TOKENIZER
from index.progress import bar
from store.chunking import Prefix, embedded_text
from store.database import ArticleRow, Store
from store.generations import write_atomically
from store.records import LookaheadError

LONGEST = 32  # tokens, as vec2text's inverters are trained
_PART = 8_192  # rows in a file
_PLAN = "spans.json"

Floats = NDArray[np.float32]
Half = NDArray[np.float16]
Number = TypeVar("Number", bound=np.generic)


def tokenizer_in(folder: Path) -> Tokenizer:
    """The tokenizer of an encoder's folder, cutting and filling nothing."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise LookaheadError(
            f"the encoder in {folder} has no {TOKENIZER}: an inverter needs one; ingest with --encoder bundled"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare exceptions
        raise LookaheadError(f"{path} is damaged: {str(error)[:80]}; run: lookahead verify") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def leading(tokenizer: Tokenizer, texts: Sequence[str], longest: int = LONGEST) -> list[str]:
    """The beginning of each text: as many whole words as `longest` tokens hold, or where the first word alone has more,
    that many of its tokens."""
    told = []
    for text, encoding in zip(texts, tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
        words, cut = encoding.word_ids, min(longest, len(encoding.ids))
        while 0 < cut < len(words) and words[cut] == words[cut - 1]:
            cut -= 1
        cut = cut or min(longest, len(words))
        told.append(text[: encoding.offsets[cut - 1][1]] if cut else "")
    return told


def spans_of(
    store: Store, articles: Sequence[ArticleRow], tokenizer: Tokenizer, longest: int, quiet: bool
) -> list[str]:
    """The leading span of every chunk of articles, in their order; the prefix that chunks are embedded with is none of
    it."""
    told: list[str] = []
    with bar("cutting spans", sum(row.chunk_count for row in articles), "spans", quiet=quiet) as shown:
        for first, stop in _runs(articles):
            told += leading(tokenizer, [text for _, _, text in store.texts(first, stop)], longest)
            shown.update(stop - first)
    return told


def embedded(encoder: Encoder, spans: Sequence[str]) -> Floats:
    """The vectors of spans on their own (n, D), as a collection without a prefix has them."""
    return encoder.encode([embedded_text("", "", span, Prefix.NONE) for span in spans])


@dataclass(frozen=True, slots=True)
class Spans:
    """Texts and their vectors (n, D), row by row."""

    texts: list[str]
    vectors: Half

    def __len__(self) -> int:
        return len(self.texts)


def kept_spans(folder: Path, facts: dict[str, Any], encoder: Encoder, texts: list[str], *, quiet: bool) -> Spans:
    """Texts with their vectors, kept in `folder` as `kept_rows` keeps them."""

    def some(rows: slice) -> Half:
        return embedded(encoder, texts[rows]).astype(np.float16)

    return Spans(texts, kept_rows(folder, facts, len(texts), some, what="embedding spans", quiet=quiet))


def kept_rows(
    folder: Path,
    facts: dict[str, Any],
    count: int,
    make: Callable[[slice], NDArray[Number]],
    *,
    what: str,
    quiet: bool,
) -> NDArray[Number]:
    """`make`'s rows, kept in `folder` in numbered parts as they are made: after a kill only the last part is made
    again, as long as the `facts` they are made from are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = json.dumps({**facts, "spans": count}, sort_keys=True).encode()
    if not (folder / _PLAN).is_file() or (folder / _PLAN).read_bytes() != plan:
        for litter in folder.glob("part-*.npy"):
            litter.unlink()
        write_atomically(folder / _PLAN, plan)
    parts = []
    with bar(what, count, "spans", quiet=quiet) as shown:
        for start in range(0, count, _PART):
            rows = slice(start, min(start + _PART, count))
            parts.append(_part(folder / f"part-{start // _PART:05d}.npy", rows, make))
            shown.update(rows.stop - start)
    return np.concatenate(parts)


def _part(path: Path, rows: slice, make: Callable[[slice], NDArray[Number]]) -> NDArray[Number]:
    try:
        # np.load would take a damaged beginning for an archive's, or for pickle's
        held: NDArray[Number] = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
        if held.shape[:1] == (rows.stop - rows.start,):
            return held
    except (OSError, ValueError):
        pass  # not made yet, or damaged: it is made
    made = make(rows)
    raw = io.BytesIO()
    np.save(raw, made)
    write_atomically(path, raw.getvalue(), sync=False)
    return made


def _runs(articles: Sequence[ArticleRow], most: int = 4_096) -> list[tuple[int, int]]:
    """Half-open runs of chunk ids, in order: neighbours are read together, one query for many articles."""
    runs: list[tuple[int, int]] = []
    for row in articles:
        first, stop = row.first_chunk, row.first_chunk + row.chunk_count
        if runs and runs[-1][1] == first and stop - runs[-1][0] <= most:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((first, stop))
    return runs
