"""Judges encoders by how far their cosines agree with people's scores of sentence pairs, and how fast they encode.

It does not know how a model is found or a report looks (`sts_report`).

Intervals draw pairs, and all rows of a set share the same draws, so that the difference of two models is paired.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.encoder import Encoder
from index.progress import bar
from retrieval.metrics import LEVEL
from retrieval.reports import Estimate
from retrieval.sts import Floats, StsSet, pearson, spearman

Vectors = NDArray[np.float32]

RESAMPLES = 1000
WORDS, ORACLE, RANDOM = "shared words", "oracle", "random vectors"
SPEED_WORDS = 80  # of a text that speed is measured on: a usual chunk
SPEED_TEXTS = 64

_AT_ONCE = 1_024  # texts handed to an encoder, which sorts them by length
_ROUNDS = 5
_LEAST_SECONDS = 0.2  # of one measurement
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Sampled:
    """A correlation of a whole set, and of each resample of it, (R,); NaN where it is not defined."""

    whole: float
    resamples: Floats

    def minus(self, other: Sampled) -> Sampled:
        """The paired difference, of two made by the same `Resamples`."""
        return Sampled(self.whole - other.whole, self.resamples - other.resamples)

    def estimate(self) -> Estimate:
        """With the percentile interval, in which a resample whose values are all alike counts as 0: they say nothing.
        Left out, the rare draws that hold a baseline's few shared words would speak for all."""
        if math.isnan(self.whole):
            return Estimate(math.nan, math.nan, math.nan)
        low, high = np.quantile(np.nan_to_num(self.resamples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(self.whole, float(low), float(high))


class Resamples:
    """The draws of one set's pairs, and people's ranks in each of them, which every row is held against.

    A resample is kept as how often each pair came up: ranks then come of cumulated counts over one sorting of the
    values instead of a sorting of each resample.
    """

    def __init__(self, scores: Sequence[float] | Floats, *, seed: int, resamples: int = RESAMPLES) -> None:
        self._scores = np.asarray(scores, dtype=np.float64)
        n = len(self._scores)
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
        self._drawn: Floats = drawn.astype(np.float64)
        self._ranks = resampled_ranks(self._drawn, self._scores)

    def spearman(self, values: Floats) -> Sampled:
        """Of one value a pair, (n,)."""
        whole = spearman(self._scores, values)
        if math.isnan(whole):
            return self._undefined()
        ours, theirs = resampled_ranks(self._drawn, values), self._ranks
        middle = (len(values) + 1) / 2
        ours -= middle
        theirs = theirs - middle
        both = _sums(self._drawn, ours, theirs)
        return Sampled(whole, _ratio(both, _sums(self._drawn, ours, ours), _sums(self._drawn, theirs, theirs)))

    def pearson(self, values: Floats) -> Sampled:
        """Of one value a pair, (n,)."""
        whole = pearson(self._scores, values)
        if math.isnan(whole):
            return self._undefined()
        x, y = ((side - side.mean()) / np.ptp(side) for side in (self._scores, np.asarray(values, dtype=np.float64)))
        sums = self._drawn @ np.column_stack([x, y, x * y, x * x, y * y]) / len(x)
        sx, sy, sxy, sxx, syy = sums.T
        return Sampled(whole, _ratio(sxy - sx * sy, sxx - sx * sx, syy - sy * sy))

    def _undefined(self) -> Sampled:
        return Sampled(math.nan, np.full(len(self._drawn), math.nan))


@dataclass(frozen=True, slots=True)
class Judged:
    """One row of one set: one value a pair (a cosine, a share of words), and its correlations with people's scores.
    `broken` counts the pairs for which the model gave numbers that are none."""

    spearman: Sampled
    pearson: Sampled
    broken: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors of every different sentence of some sets, (n, D), and how long they took."""

    place: dict[str, int]
    vectors: Vectors
    seconds: float

    def cosines(self, first: Sequence[str], second: Sequence[str]) -> Floats:
        """Of each pair, (n,); 0 where a vector is all zeros, NaN where it has a value that is not finite."""
        # in float32 cosines near 1 would be rounded together, and ranks know no distance
        a, b = (self.vectors[[self.place[text] for text in side]].astype(np.float64) for side in (first, second))
        with np.errstate(invalid="ignore"):
            lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
            found = (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)
        return np.asarray(np.clip(found, -1.0, 1.0), dtype=np.float64)


class Recalled:
    """An encoder that looks up what it has encoded once as a document, and encodes the rest."""

    def __init__(self, encoder: Encoder, encoded: Encoded) -> None:
        self._encoder = encoder
        self._encoded = encoded
        self.name, self.dim, self.fingerprint = encoder.name, encoder.dim, encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> Vectors:
        places = [self._encoded.place.get(text) for text in texts]
        if None in places:
            return self._encoder.encode(texts)
        return self._encoded.vectors[[place for place in places if place is not None]]

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encoder.encode_queries(texts)


def encode(encoder: Encoder, sets: Sequence[StsSet], *, quiet: bool) -> Encoded:
    """Each different sentence of all the sets once, as a document: sentences of a pair are equals."""
    place: dict[str, int] = {}
    for one in sets:
        for text in one.sentences:
            place.setdefault(text, len(place))
    texts = list(place)
    vectors = np.empty((len(texts), encoder.dim), dtype=np.float32)
    started = time.perf_counter()
    with bar(f"encode, {encoder.name}", len(texts), "sentence", quiet=quiet) as progress:
        for start in range(0, len(texts), _AT_ONCE):
            some = texts[start : start + _AT_ONCE]
            vectors[start : start + len(some)] = encoder.encode(some)
            progress.update(len(some))
    return Encoded(place, vectors, time.perf_counter() - started)


def judge(one: StsSet, encoded: Mapping[str, Encoded], *, seed: int, resamples: int = RESAMPLES) -> dict[str, Judged]:
    """A row for each model by name, the baseline `WORDS`, and two that test the test: `ORACLE` and `RANDOM`."""
    drawn = Resamples(one.scores, seed=seed, resamples=resamples)
    values = {name: model.cosines(one.first, one.second) for name, model in encoded.items()}
    values[WORDS] = shared_words(one.first, one.second)
    values[ORACLE] = np.array(one.scores)
    values[RANDOM] = random_vectors(one, seed).cosines(one.first, one.second)
    return {
        name: Judged(drawn.spearman(row), drawn.pearson(row), int((~np.isfinite(row)).sum()))
        for name, row in values.items()
    }


def shared_words(first: Sequence[str], second: Sequence[str]) -> Floats:
    """For each pair the words in both over the words in either (Jaccard), in lower case; 0 where neither has any."""
    shares = []
    for one, other in zip(first, second, strict=True):
        a, b = set(_WORD.findall(one.lower())), set(_WORD.findall(other.lower()))
        shares.append(len(a & b) / max(1, len(a | b)))
    return np.array(shares)


def random_vectors(one: StsSet, seed: int) -> Encoded:
    """A random direction for each different sentence: it knows which sentences are equal and nothing else."""
    place = {text: number for number, text in enumerate(one.sentences)}
    vectors = np.random.default_rng([seed, 1]).standard_normal((len(place), 64)).astype(np.float32)
    return Encoded(place, vectors, 0.0)


def speed_texts(texts: Sequence[str], count: int = SPEED_TEXTS, words: int = SPEED_WORDS) -> list[str]:
    """`count` texts of exactly so many words: `texts` strung together and cut, from the beginning again where they
    end, one word later each time."""
    there = [word for text in texts for word in text.split()]
    if not there:
        raise ValueError("no words to make texts of")
    firsts = [start + start // len(there) for start in range(0, count * words, words)]
    return [" ".join(there[(first + place) % len(there)] for place in range(words)) for first in firsts]


def speeds(encoders: Mapping[str, Encoder], texts: Sequence[str], *, quiet: bool) -> dict[str, float]:
    """Texts a second of each, by name: the median of rounds in which all take turns, after a warm-up, so that a load
    that comes and goes meets all of them."""
    rates: dict[str, list[float]] = {name: [] for name in encoders}
    with bar("speed", (_ROUNDS + 1) * len(encoders), "measurement", quiet=quiet) as progress:
        for turn in range(_ROUNDS + 1):
            for name, encoder in encoders.items():
                started, done = time.perf_counter(), 0
                while not done or (turn and time.perf_counter() - started < _LEAST_SECONDS):
                    encoder.encode(texts)
                    done += len(texts)
                if turn:
                    rates[name].append(done / (time.perf_counter() - started))
                progress.update(1)
    return {name: statistics.median(found) for name, found in rates.items()}


def resampled_ranks(drawn: Floats, values: Floats) -> Floats:
    """Average ranks of each value among those drawn, (R, n), from how often each was drawn, (R, n). What was not
    drawn has some rank too, which is to be given no weight."""
    _, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.flatnonzero(np.diff(inverse[order], prepend=-1))
    times = np.add.reduceat(drawn[:, order], starts, axis=1)  # how often each different value came up
    return np.asarray((np.cumsum(times, axis=1) - (times - 1) / 2)[:, inverse], dtype=np.float64)


def _sums(drawn: Floats, a: Floats, b: Floats) -> Floats:
    return np.asarray(np.einsum("ij,ij,ij->i", drawn, a, b), dtype=np.float64)


def _ratio(both: Floats, a: Floats, b: Floats) -> Floats:
    """Covariance over deviations; NaN where a resample's values are all alike, up to rounding."""
    found = np.full(len(both), math.nan)
    able = (a > 1e-12) & (b > 1e-12)
    found[able] = np.clip(both[able] / np.sqrt(a[able] * b[able]), -1.0, 1.0)
    return found
