"""Text to predict character by character: by language and split, from a collection's articles or from text files.

It does not know models. No text is on both sides: articles keep their own split, files are split by blocks, and of
files a line of dev or test that is also a line of train is left out.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.characters.vocabulary import PAD, UNK, Symbols, Vocabulary
from store.database import ArticleRow, Store
from store.generations import Collection
from store.records import LookaheadError, Split, digest
from store.splits import split_of

# characters of a language that are used, at most, and that it must have, at least
MOST = {Split.TRAIN: 10_000_000, Split.VALID: 40_000, Split.TEST: 100_000}
LEAST = {Split.TRAIN: 20_000, Split.VALID: 2_000, Split.TEST: 2_000}
STRETCH = 2_000  # of an article of dev or test: many short stretches tell more than a few long articles
BLOCK = 1_000  # of a file: what is hashed into a split, and drawn for intervals
_LINE = 20  # characters from which a line on both sides is no coincidence

Ints = NDArray[np.int64]
Texts = Mapping[Split, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Units:
    """Stretches of text that belong together (an article, a block of a file), one after the other: unit `i` is
    `symbols[starts[i] : starts[i + 1]]`. No window reaches over a unit's end."""

    symbols: Symbols
    starts: Ints

    @classmethod
    def of(cls, units: Iterable[Symbols]) -> Self:
        kept = [unit for unit in units if len(unit) > 1]  # a single symbol has nothing to be predicted from
        starts = np.cumsum([0, *map(len, kept)])
        return cls(np.concatenate([np.zeros(0, dtype=np.uint8), *kept]), starts.astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def drawn(self, random: np.random.Generator, rows: int, length: int) -> Symbols:
        """Windows (rows, length + 1) from anywhere, each within a unit; a shorter unit is padded behind."""
        places = random.integers(len(self.symbols), size=rows)
        unit = np.searchsorted(self.starts, places, side="right") - 1
        first, end = self.starts[unit], self.starts[unit + 1]
        return self._rows(np.maximum(first, np.minimum(places, end - length - 1)), end, length)

    def windows(self, length: int) -> tuple[Symbols, Ints]:
        """Windows (n, length + 1) in which each symbol but a unit's first is a target once, and their units (n,)."""
        many = np.maximum(1, -(-(np.diff(self.starts) - 1) // length))
        unit = np.repeat(np.arange(len(self)), many)
        place = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        return self._rows(self.starts[unit] + place * length, self.starts[unit + 1], length), unit

    def _rows(self, begin: Ints, end: Ints, length: int) -> Symbols:
        places = begin[:, None] + np.arange(length + 1)
        there = self.symbols[np.minimum(places, len(self.symbols) - 1)]
        return np.where(places < end[:, None], there, np.uint8(PAD))


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is trained and judged on: language → split → units, in the symbols of one vocabulary made from train."""

    vocabulary: Vocabulary
    languages: dict[str, dict[Split, Units]]
    sources: dict[str, str]  # language → where its text is from

    @classmethod
    def of(cls, texts: Mapping[str, Texts], sources: Mapping[str, str]) -> Self:
        """From tidy texts by language; one with too little text is refused."""
        for language, splits in texts.items():
            _check_enough(language, splits, sources[language])
        counts = [_counts(splits[Split.TRAIN]) for splits in texts.values()]
        vocabulary = Vocabulary.of(counts)
        languages = {
            language: {split: Units.of(map(vocabulary.encode, splits[split])) for split in Split}
            for language, splits in texts.items()
        }
        return cls(vocabulary, languages, dict(sources))

    @property
    def data(self) -> dict[str, Any]:
        """Sizes and a digest that tells one corpus from another, as JSON holds it."""
        told = {}
        for language, splits in self.languages.items():
            state = hashlib.sha256()
            for split in Split:
                state.update(splits[split].symbols.tobytes())
                state.update(splits[split].starts.tobytes())
            told[language] = {
                "source": self.sources[language],
                **{f"{split.value}_characters": len(splits[split].symbols) for split in Split},
                **{f"{split.value}_units": len(splits[split]) for split in Split},
                "unknown": round(float((splits[Split.TEST].symbols == UNK).mean()), 6),
                "digest": state.hexdigest()[:16],
            }
        return {"languages": told, "vocabulary": digest(self.vocabulary.characters)[:16]}


def corpus_of(
    collection: Collection | None, files: Mapping[str, Path], languages: Sequence[str] | None = None
) -> Corpus:
    """The text of a collection in its own language, and of a file or a folder of .txt files for each other language.

    Files given for the collection's language stand in for it. `languages` picks some of those there are, in that order.
    """
    there = {language: str(path.resolve()) for language, path in files.items()}
    own = language_of(collection) if collection is not None else None
    if own is not None and own not in there:
        assert collection is not None
        there = {own: f"collection {collection.name}", **there}
    wanted = list(dict.fromkeys(there if languages is None else languages))
    missing = [language for language in wanted if language not in there]
    if missing:
        raise LookaheadError(
            f"there is no text in {', '.join(missing)}, only in {', '.join(there) or 'no language'}; "
            f"add --text {missing[0]}=FILE"
        )
    if not wanted:
        raise LookaheadError("there is no text; give a --collection or --text LANGUAGE=FILE")
    texts: dict[str, Texts] = {}
    for language in wanted:
        if language in files:
            texts[language] = texts_of_files(files[language])
        else:
            assert collection is not None
            with Store.at(collection.current()) as store:
                texts[language] = texts_of_store(store)
    return Corpus.of(texts, {language: there[language] for language in wanted})


def language_of(collection: Collection) -> str:
    """The language a collection was ingested in."""
    chunking = collection.current().manifest.facts.get("chunking") or {}
    return str(chunking.get("language") or "en")


def texts_of_store(store: Store) -> Texts:
    """Articles of each split in an order drawn once and for all, as many as are used; of those of dev and test a
    stretch from a place that is drawn."""
    texts: dict[Split, Sequence[str]] = {}
    for split in Split:
        random = np.random.default_rng(0)
        rows = store.articles(split)
        articles = (tidy(_text_of(store, rows[place])) for place in random.permutation(len(rows)).tolist())
        if split is not Split.TRAIN:
            articles = (_stretch(text, random) for text in articles)
        texts[split] = _as_much_as_used(articles, split)
    return texts


def texts_of_files(path: Path) -> Texts:
    """The blocks of a file, or of the .txt files below a folder, each in the split that its own text hashes to."""
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise LookaheadError(f"there is no .txt file in {path.resolve()}")
    blocks: dict[Split, list[str]] = {split: [] for split in Split}
    for file in files:
        for block in blocks_of(tidy(_read(file))):
            blocks[split_of(int(digest(block)[:15], 16))].append(block)
    texts: dict[Split, Sequence[str]] = {}
    seen: set[str] = set()
    for split in Split:  # train first: it is dev and test that lose what both have
        order = np.random.default_rng(0).permutation(len(blocks[split])).tolist()
        texts[split] = _as_much_as_used((_without(blocks[split][place], seen) for place in order), split)
        seen.update(line for block in blocks[split] for line in block.split("\n") if len(line) >= _LINE)
    return texts


def blocks_of(text: str) -> Iterator[str]:
    """Whole lines of `BLOCK` characters or a little more together; a line longer than that is cut."""
    held: list[str] = []
    for line in text.split("\n"):
        for start in range(0, max(1, len(line)), BLOCK):
            held.append(line[start : start + BLOCK])
            if sum(map(len, held)) >= BLOCK:
                yield "\n".join(held)
                held = []
    if any(held):
        yield "\n".join(held)


def tidy(text: str) -> str:
    """Composed (NFC), one blank for any run of blanks, one newline for any run of blanks with a newline in it."""
    composed = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[^\S\n]*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", composed)).strip()


def _text_of(store: Store, row: ArticleRow) -> str:
    """An article's chunks again as running text, a line a section."""
    sections: list[tuple[str, list[str]]] = []
    for _, section, text in store.texts(row.first_chunk, row.first_chunk + row.chunk_count):
        if not sections or sections[-1][0] != section:
            sections.append((section, []))
        sections[-1][1].append(text)
    return "\n".join(" ".join(texts) for _, texts in sections)


def _stretch(text: str, random: np.random.Generator) -> str:
    start = int(random.integers(max(1, len(text) - STRETCH + 1)))
    return text[start : start + STRETCH]


def _without(block: str, seen: set[str]) -> str:
    return "\n".join(line for line in block.split("\n") if line not in seen)


def _as_much_as_used(texts: Iterable[str], split: Split) -> list[str]:
    kept, held = [], 0
    for text in texts:
        kept.append(text[: MOST[split] - held])
        held += len(kept[-1])
        if held >= MOST[split]:
            break
    return kept


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise LookaheadError(f"there is no file {file.resolve()}") from error
    except UnicodeDecodeError as error:
        raise LookaheadError(f"{file.resolve()} is not UTF-8 at byte {error.start}; convert it first") from error
    except OSError as error:
        raise LookaheadError(f"cannot read {file.resolve()}: {error.strerror}") from error


def _counts(texts: Sequence[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return counts


def _check_enough(language: str, texts: Texts, source: str) -> None:
    for split in Split:
        size = sum(map(len, texts[split]))
        if size < LEAST[split]:
            raise LookaheadError(
                f"too little text in {language} ({source}): {size:,} characters of {split.value}, "
                f"at least {LEAST[split]:,} are needed; give more, or leave {language} out of --languages"
            )
