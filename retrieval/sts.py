"""Pairs of sentences that people scored by how alike they mean, read from files, and how far other scores agree.

It knows two layouts, of STS Benchmark and of STS 2017, and no encoder: a score is a number, whoever gave it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from store.records import LookaheadError

Floats = NDArray[np.float64]

BENCHMARK = "stsbenchmark"
TRAIN = "train"
SPLITS = (TRAIN, "dev", "test")
HIGHEST = 5.0  # "completely equivalent"; 0 is "on different topics"

_SUFFIXES = (".csv", ".tsv")  # both are separated by tabs
_COLUMNS = {3: (0, 1, 2), 7: (4, 5, 6)}  # columns of a line → where score and sentences stand
_LANGUAGES = re.compile(r"-([a-z]{2})(?:-([a-z]{2}))?(?=-|$)")


@dataclass(frozen=True, slots=True)
class StsSet:
    """Pairs (`first[i]`, `second[i]`) with people's `scores[i]`, 0 to 5. `languages` are those of the set's name, not
    always in the order of the columns (half of STS 2017's turn them round); none where the name says none."""

    name: str
    split: str
    languages: tuple[str, ...]
    scores: tuple[float, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def key(self) -> str:
        """Name and split: stsbenchmark-test."""
        return f"{self.name}-{self.split}" if self.split else self.name

    @property
    def cross_lingual(self) -> bool:
        return len(set(self.languages)) > 1

    @property
    def sentences(self) -> list[str]:
        """Each different sentence once, in the order in which they come."""
        return list(dict.fromkeys([*self.first, *self.second]))


def read_sts(path: Path) -> list[StsSet]:
    """The sets of a folder, of all .csv and .tsv files in it at any depth by path; or that of a single file."""
    if path.is_file():
        return [read_file(path)]
    if not path.is_dir():
        raise LookaheadError(f"{path.absolute()} is neither a file nor a folder; name one with STS files by --data")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not files:
        raise LookaheadError(f"there is no .csv or .tsv file in {path.absolute()}; expected stsbenchmark/sts-test.csv")
    return [read_file(file) for file in files]


def chosen_sets(sets: Sequence[StsSet], wanted: Sequence[str]) -> list[StsSet]:
    """Those wanted, by key (stsbenchmark-test), name or family (sts17), in the order they have; without a wish all but
    training splits, which only their key asks for: models are tuned on them."""

    def fits(one: StsSet, wish: str) -> bool:
        return one.key == wish or (one.split != TRAIN and f"{one.name}-".startswith(f"{wish}-"))

    there = ", ".join(dict.fromkeys(one.key for one in sets))
    for wish in wanted:
        if not any(fits(one, wish) for one in sets):
            raise LookaheadError(f"there is no set {wish!r}; there are {there}")
    found = [one for one in sets if (any(fits(one, wish) for wish in wanted) if wanted else one.split != TRAIN)]
    if not found:
        raise LookaheadError(f"only training splits are there; ask for one by --set: {there}")
    return found


def stsbenchmark(folder: Path, split: str) -> StsSet:
    """A split (train, dev or test) of STS Benchmark, from `folder` or the folder stsbenchmark in it."""
    if split not in SPLITS:
        raise LookaheadError(f"STS Benchmark has no split {split!r}; it has {', '.join(SPLITS)}")
    wanted = f"sts-{split}.csv"
    for file in (folder / BENCHMARK / wanted, folder / wanted):
        if file.is_file():
            return read_file(file)
    raise LookaheadError(f"{(folder / BENCHMARK / wanted).absolute()} is missing: STS Benchmark's {split} split")


def read_file(file: Path) -> StsSet:
    """The set in a file, in whichever of the two layouts its first line has.

    Quotation marks are part of the sentences (a reader of quoted CSV merges rows without a word), and so are
    characters such as U+2028, which end a line for str.splitlines.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _damaged(file, line, "it is not UTF-8") from error
    except OSError as error:
        raise LookaheadError(f"cannot read {file.absolute()}: {error.strerror}") from error
    lines = text.rstrip("\n").split("\n")  # read_text has made \n of \r\n
    width = lines[0].count("\t") + 1
    if width not in _COLUMNS:
        raise _damaged(
            file,
            1,
            f"{width} columns, expected 3 (score, two sentences) or 7 (genre, file, year, id, score, two sentences), "
            "separated by tabs",
        )
    rows = [_row(file, number, line, width) for number, line in enumerate(lines, 1)]
    scores, first, second = zip(*rows, strict=True)
    if len(set(scores)) < 2:
        raise LookaheadError(f"{file.absolute()}: all of its {len(rows):,} scores are {scores[0]:g}; nothing to rank")
    name, split, languages = _named(file.stem, benchmark=width == 7)
    return StsSet(name, split, languages, scores, first, second)


def pearson(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float:
    """The correlation of two lists, -1 to 1; NaN where one of them is constant or has a value that is not finite."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"{x.shape} and {y.shape} are not two lists of pairs")
    if not len(x) or not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()  # squares of very small numbers would be 0
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def spearman(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float:
    """`pearson` of the ranks: whether the two put the pairs in the same order."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan
    return pearson(average_ranks(x), average_ranks(y))


def average_ranks(values: Sequence[float] | Floats) -> Floats:
    """Places from 1, (n,); equal values share the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], dtype=np.float64)


def _row(file: Path, number: int, line: str, width: int) -> tuple[float, str, str]:
    cells = line.split("\t")
    if len(cells) != width:
        raise _damaged(file, number, f"{len(cells)} columns, the first line has {width}")
    raw, first, second = (cells[place].strip() for place in _COLUMNS[width])
    try:
        score = float(raw)
    except ValueError as error:
        raise _damaged(file, number, f"{raw[:40]!r} is no score") from error
    if not 0 <= score <= HIGHEST:  # neither is NaN
        raise _damaged(file, number, f"a score of {raw}, expected 0 to {HIGHEST:g}")
    if not first or not second:
        raise _damaged(file, number, f"the {'second' if first else 'first'} sentence is empty")
    return score, first, second


def _named(stem: str, *, benchmark: bool) -> tuple[str, str, tuple[str, ...]]:
    """(name, split, languages) out of a file's name: sts17-es-en-test is the pair es, en."""
    head, _, tail = stem.lower().rpartition("-")
    name, split = (head, tail) if head and tail in SPLITS else (stem.lower(), "")
    if benchmark and name in ("sts", "stsbenchmark"):
        return BENCHMARK, split, ("en", "en")
    found = _LANGUAGES.search(name)
    return name, split, (found[1], found[2] or found[1]) if found else ()


def _damaged(file: Path, line: int, what: str) -> LookaheadError:
    return LookaheadError(f"{file.absolute()}, line {line:,}: {what}; the file is damaged or of another layout")
