"""Checks of the data that predictors learn from and are judged on: those that would have caught earlier failures.

They know nothing of models. A check is a measured value and the limit it must keep; the limits were set between what
Wikipedia measures and what each failure does to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.progress import bar
from retrieval.evaluate_next import drawn
from retrieval.metrics import bootstrap_interval
from retrieval.reports import Estimate, number
from retrieval.sequences import CONTEXT, Bools, Ints, Sequences
from store.records import Split

ARTICLES = 1_000  # drawn for what is measured article by article
PROBES = 2_000  # test chunks compared with all of train
NEAR = 0.995  # cosine of texts that are the same but for a word
ALIKE = 0.98  # cosine of neighbours that tell the same
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WORDS = 6  # of a sentence that two chunks do not share by chance
_BLOCK = 8_192

Texts = Callable[[int, int], list[str]]  # texts of the chunks first … stop - 1


@dataclass(frozen=True, slots=True)
class Check:
    """A measured value that must keep a limit; where it has an interval, all of the interval must."""

    name: str
    measured: Estimate
    limit: float
    at_most: bool
    catches: str

    @property
    def passed(self) -> bool:
        return self.measured.high <= self.limit if self.at_most else self.measured.low >= self.limit


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """How much of a collection a split holds; windows are those with full contexts."""

    split: Split
    articles: int
    chunks: int
    windows: int


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was measured. `lags` are the mean cosines of chunks 1 to 5 apart, None where no article is long enough."""

    collection: str
    splits: tuple[SplitCounts, ...]
    lags: tuple[Estimate, ...] | None
    checks: tuple[Check, ...]
    seed: int

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def as_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        raw = asdict(self)
        for split in raw["splits"]:
            split["split"] = str(split["split"])
        for check, told in zip(raw["checks"], self.checks, strict=True):
            check["passed"] = told.passed
        return raw

    def table(self) -> str:
        """Aligned text for a terminal of 100 columns."""
        lines = [f"data of {self.collection}", f"{'':8}{'articles':>10}{'chunks':>10}{'windows':>10}"]
        lines += [f"{one.split:8}{one.articles:10,}{one.chunks:10,}{one.windows:10,}" for one in self.splits]
        if self.lags is not None:
            lines += ["", "cosine by lag 1 to 5: " + "  ".join(_told(lag) for lag in self.lags)]
        width = max(len(check.name) for check in self.checks) + 2
        lines += ["", f"{'check':{width}}{'measured':22}{'limit':10}"]
        for check in self.checks:
            bound = f"{'≤' if check.at_most else '≥'} {_plain(check.limit)}"
            told = "passed" if check.passed else f"FAILED: {check.catches}"
            lines.append(f"{check.name:{width}}{_told(check.measured):22}{bound:10}{told}")
        return "\n".join([*lines, "", f"intervals: 95 %, bootstrap over articles; draws with seed {self.seed}"])


def check_data(
    collection: str,
    splits: Mapping[Split, Sequences],
    pages: Ints,
    keys: NDArray[np.bytes_],
    texts: Texts,
    *,
    seed: int = 0,
    quiet: bool = True,
) -> DataReport:
    """All checks. `pages` and `keys` are the page id and the text key of every chunk, by chunk id; `texts` reads."""
    counts = [
        SplitCounts(split, len(one.articles), int(one.count.sum()), len(one.windows())) for split, one in splits.items()
    ]
    checks = [
        _check("fewest windows of a split", _exact(min(one.windows for one in counts)), 1, False, "a split is empty"),
        *_between_splits(splits, pages, keys, seed, quiet=quiet),
        _check(
            "windows across articles",
            _exact(_astray(splits, pages)),
            0,
            True,
            "windows slide across article boundaries",
        ),
    ]
    lags, within = _within_articles(splits, texts, seed, quiet=quiet)
    return DataReport(collection, tuple(counts), lags, (*checks, *within), seed)


def _between_splits(
    splits: Mapping[Split, Sequences], pages: Ints, keys: NDArray[np.bytes_], seed: int, *, quiet: bool
) -> Iterator[Check]:
    """What is on both sides of a split: articles, chunks, texts, near texts."""
    ids = {split: one.ids() for split, one in splits.items()}
    owners = [np.unique(pages[some]) for some in ids.values()]
    random = "the split is not by article"
    yield _check("articles in two splits", _exact(_repeated(owners)), 0, True, random)
    yield _check("chunks in two splits", _exact(_repeated([np.unique(some) for some in ids.values()])), 0, True, random)
    test = ids[Split.TEST]
    elsewhere = np.concatenate([keys[some] for split, some in ids.items() if split is not Split.TEST])
    shared = np.isin(keys[test], elsewhere)
    yield _check("test chunks whose text is in another split", _exact(_mean(shared)), 0.01, True, "splits share texts")
    probes = test[drawn(len(test), PROBES, seed)]
    near = _near_any(splits[Split.TEST], probes, splits[Split.TRAIN], quiet=quiet)
    yield _check(
        f"test chunks with cosine ≥ {number(NEAR)} to train", _exact(_mean(near)), 0.01, True, "splits share texts"
    )


def _within_articles(
    splits: Mapping[Split, Sequences], texts: Texts, seed: int, *, quiet: bool
) -> tuple[tuple[Estimate, ...] | None, list[Check]]:
    """The cosines by lag, and the checks of order, borders and overlap, on a draw of articles of all splits."""
    places = [(one, number) for one in splits.values() for number in np.flatnonzero(one.count > CONTEXT).tolist()]
    if not places:
        return None, []
    by_lag, everywhere, border, alike, sharing = [], [], [], [], []
    follower = _followers(splits)
    with bar("reading articles", min(len(places), ARTICLES), "articles", quiet=quiet) as shown:
        for one, article in (places[place] for place in drawn(len(places), ARTICLES, seed)):
            first, stop = int(one.first[article]), int(one.first[article] + one.count[article])
            run = one.between(first, stop)
            steps = [np.einsum("nd,nd->n", run[:-lag], run[lag:]) for lag in range(1, CONTEXT + 1)]
            by_lag.append([float(step.mean()) for step in steps])
            total, many = run.sum(axis=0, dtype=np.float64), len(run)
            everywhere.append(float((total @ total - many) / (many * (many - 1))))
            if stop in follower:
                border.append(by_lag[-1][0] - float(run[-1] @ one.between(stop, stop + 1)[0]))
            alike.append(float((steps[0] >= ALIKE).mean()))
            told = [_sentences(text) for text in texts(first, stop)]
            sharing.append(float(np.mean([bool(before & after) for before, after in pairwise(told)])))
            shown.update(1)
    cosines = np.array(by_lag)
    order, lag = "the order of chunks is scrambled", "an article's chunks do not follow each other"
    overlap = "neighbouring chunks overlap; ingest with --overlap 0"
    checks = [
        _check("lag 1 above lag 5", _mean_of(cosines[:, 0] - cosines[:, -1], seed), 0.01, False, lag),
        _check(
            "least fall from a lag to the next",
            _exact(float(-np.diff(cosines.mean(axis=0)).max())),
            -0.005,  # some dozen articles fall no steadier
            False,
            lag,
        ),
        _check("lag 1 above random order", _mean_of(cosines[:, 0] - np.array(everywhere), seed), 0.01, False, order),
    ]
    if border:
        across = "windows slide across article boundaries"
        checks.append(_check("lag 1 above the next article", _mean_of(np.array(border), seed), 0.1, False, across))
    checks += [
        _check(f"neighbours with cosine ≥ {number(ALIKE)}", _mean_of(np.array(alike), seed), 0.02, True, overlap),
        _check("neighbours that share a sentence", _mean_of(np.array(sharing), seed), 0.02, True, overlap),
    ]
    return tuple(_mean_of(column, seed) for column in cosines.T), checks


def _followers(splits: Mapping[Split, Sequences]) -> set[int]:
    """First chunks of articles: where one ends at such a number, the next begins right there."""
    return {int(first) for one in splits.values() for first in one.first}


def _astray(splits: Mapping[Split, Sequences], pages: Ints) -> int:
    """How many windows hold a chunk of another page than their target's."""
    found = 0
    for one in splits.values():
        windows = one.windows(1)
        steps = np.arange(1, CONTEXT + 1)
        back = np.where(steps <= windows.length[:, None], windows.target[:, None] - steps, windows.target[:, None])
        owner = np.array([row.page_id for row in one.articles], dtype=np.int64)[windows.article]
        strange = (pages[back] != owner[:, None]).any(axis=1) | (pages[windows.target] != owner)
        found += int(strange.sum())
    return found


def _near_any(sequences: Sequences, probes: Ints, others: Sequences, *, quiet: bool) -> Bools:
    """Which probes have a chunk of `others` at a cosine of NEAR or more."""
    rows, ids = sequences.unit(probes), others.ids()
    near = np.zeros(len(probes), dtype=bool)
    with bar("comparing test with train", len(ids), "chunks", quiet=quiet) as shown:
        for start in range(0, len(ids), _BLOCK):
            some = ids[start : start + _BLOCK]
            near |= (rows @ others.unit(some).T >= NEAR).any(axis=1)
            shown.update(len(some))
    return near


def _sentences(text: str) -> set[str]:
    """The sentences of a text that are long enough to mean something, in lower case."""
    said = (" ".join(sentence.lower().split()) for sentence in _SENTENCE.split(text))
    return {sentence for sentence in said if len(sentence.split()) >= _WORDS}


def _repeated(sets: list[Ints]) -> int:
    """How many values are in more than one of the sets."""
    _, times = np.unique(np.concatenate(sets), return_counts=True)
    return int((times > 1).sum())


def _check(name: str, measured: Estimate, limit: float, at_most: bool, catches: str) -> Check:
    return Check(name, measured, limit, at_most, catches)


def _exact(value: float) -> Estimate:
    return Estimate(float(value), float(value), float(value))


def _mean(values: Bools) -> float:
    return float(values.mean()) if len(values) else 0.0


def _mean_of(values: NDArray[np.float64], seed: int) -> Estimate:
    low, high = bootstrap_interval(values, seed=seed)
    return Estimate(float(values.mean()), low, high)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else number(value)


def _told(cell: Estimate) -> str:
    if cell.low == cell.high == cell.mean:
        return _plain(cell.mean)
    return f"{number(cell.mean)} ({number(cell.low)}–{number(cell.high)})"
