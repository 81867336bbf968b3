"""How fast encoders are, as multiples of one of them under sentence-transformers, in one run on this machine.

It does not know whether their vectors are any good; `evaluate sts` and `evaluate search` do.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.conversion import TorchEncoder, reference_of
from index.dense import normalised
from index.encoder import AUTO, HASHING, INT8, STATIC, Encoder, open_encoder, prepare, read_recipe
from index.students import find_encoder, int8_of
from retrieval.benchmarks.measured import Figure, at_least, in_turn, median, percentile, told
from store.chunking import ChunkingRules, embedded_text, pieces_of
from store.cleaning import articles
from store.database import Store
from store.generations import Collection
from store.records import LookaheadError
from store.sources import Skipped, open_source, read_pages

ROUNDS = 5
LEAST = 128  # texts a round: sentence-transformers gains by sorting them by length
COMPARED = 128
QUESTION_WORDS = 10
_QUESTIONS = 200
_OPENINGS = 3
_PILOT = 64
_RUN = 500
_OPEN = """
import sys, time
started = time.perf_counter()
from pathlib import Path
from index.encoder import open_encoder
open_encoder(Path(sys.argv[1])).encode_queries([sys.argv[2]])
print(time.perf_counter() - started)
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """A model made ready: as it is run here, and under sentence-transformers where that can load it."""

    name: str
    folder: Path
    encoder: Encoder
    reference: TorchEncoder | None

    @property
    def precision(self) -> str:
        return str(getattr(self.encoder, "precision", None) or read_recipe(self.folder).get("precision", "f32"))


def bench_encode(
    specs: Sequence[str],
    home: Path,
    texts: Sequence[str],
    *,
    against: str,
    precision: str = AUTO,
    goal: float | None = None,
    say: Callable[[str], object],
) -> list[Figure]:
    """Every model of `specs` on the same texts against the model `against` as sentence-transformers runs it: torch,
    single precision, batches of 32. `goal` is that ratio's for all of them, if not each its own kind's."""
    say(f"loading {against} under sentence-transformers")
    baseline = reference_of(find_encoder(against, home))
    drawn = [texts[place] for place in np.random.default_rng(0).permutation(len(texts))]
    with tempfile.TemporaryDirectory(prefix="lookahead-bench-") as folder:
        ready = []
        for number, spec in enumerate(specs):
            say(f"converting {spec}")
            place = Path(folder) / str(number)
            ready.append(_contender(spec, home, place, baseline if spec == against else None, precision, say))
        say(f"{ROUNDS} rounds of all in turn")
        rates = rates_of([baseline, *(one.encoder for one in ready)], drawn)
        words = float(np.mean([len(text.split()) for text in drawn]))
        title = f"{baseline.name} under sentence-transformers"
        figures = [told("words of a text, mean", words), told(f"{title}, texts/s", median(rates[0]))]
        for one, own in zip(ready, rates[1:], strict=True):
            say(f"opening {one.name}, questions, cosines")
            ratio = median([ours / theirs for ours, theirs in zip(own, rates[0], strict=True)])
            figures += _figures_of(one, own, ratio, goal or goal_of(one, baseline), drawn)
    return figures


def rates_of(encoders: Sequence[Encoder], texts: Sequence[str]) -> list[list[float]]:
    """Texts/s of each encoder in each of the rounds, which they take in turn.

    Each is given about a second's work a round, and as far as the texts suffice no text twice: some remember words.
    """
    most = max(1, len(texts) // ROUNDS)
    counts = []
    for encoder in encoders:
        pilot = texts[-_PILOT:]
        encoder.encode(pilot[:1])
        started = time.perf_counter()
        encoder.encode(pilot)
        pace = len(pilot) / max(time.perf_counter() - started, 1e-6)
        counts.append(min(most, max(LEAST, int(pace))))

    def work(encoder: Encoder, count: int) -> Callable[[int], object]:
        return lambda number: encoder.encode(texts[number * count : (number + 1) * count])

    timed = in_turn([work(*pair) for pair in zip(encoders, counts, strict=True)], ROUNDS)
    return [[count / each for each in seconds] for count, (seconds, _) in zip(counts, timed, strict=True)]


def chunks_in(collection: Collection, most: int) -> list[str]:
    """What an encoder reads for chunks of a collection: all of them, or runs of neighbours from all over it."""
    generation = collection.current()
    prefix = ChunkingRules.from_json(generation.manifest.facts["chunking"]).prefix
    with Store.at(generation) as store:
        starts = np.arange(0, store.counts().chunks, _RUN)
        drawn = np.random.default_rng(0).permutation(starts)[: -(-most // _RUN)]
        return [embedded_text(*row, prefix) for start in drawn.tolist() for row in store.texts(start, start + _RUN)]


def chunks_of_file(path: Path) -> list[str]:
    """The chunks a file would have in a collection."""
    found = articles(read_pages(open_source(path)), workers=1)
    cut = [pieces_of(item[1], ChunkingRules()) for item in found if not isinstance(item, Skipped)]
    return [piece.text for pieces in cut for piece in pieces]


def goal_of(one: Contender, baseline: TorchEncoder) -> float | None:
    """What a model of its kind is to reach, or None where nothing was asked of it."""
    if read_recipe(one.folder)["kind"] == STATIC:
        return 150.0
    layers = one.reference.layers if one.reference is not None else 0
    if layers and layers < baseline.layers:
        return 15.0 if layers <= 2 else 8.0 if layers == 3 else None
    return 4.5 if layers and one.precision == INT8 else None


def _contender(
    spec: str, home: Path, folder: Path, reference: TorchEncoder | None, precision: str, say: Callable[[str], object]
) -> Contender:
    whole = find_encoder(spec, home)
    encoder = prepare(whole, folder, device="cpu", precision=precision, int8=int8_of(spec, home), note=say)
    if reference is None and spec != HASHING:
        try:
            reference = reference_of(whole)
        except LookaheadError:  # one that came with nothing but its eight bits
            say(f"{spec} is nothing sentence-transformers can load; it is compared with nothing")
    return Contender(Path(whole).name, folder, encoder, reference)


def _figures_of(
    one: Contender, rates: Sequence[float], ratio: float, goal: float | None, texts: Sequence[str]
) -> list[Figure]:
    title = f"{one.name} {one.precision}"
    what = f"{title}: ratio to it"
    figures = [
        told(f"{title}: texts/s", median(rates)),
        told(what, ratio, " ×") if goal is None else at_least(what, ratio, goal, " ×"),
    ]
    questions = [" ".join(text.split()[:QUESTION_WORDS]) for text in texts[:_QUESTIONS]]
    single = open_encoder(one.folder, device="cpu")
    waits = [_seconds(single, question) for question in questions]
    opening = median([_opening(one.folder, questions[0]) for _ in range(_OPENINGS)])
    size = sum(path.stat().st_size for path in one.folder.rglob("*") if path.is_file())
    figures += [
        told(f"{title}: one question, p50", 1e3 * percentile(waits, 0.5), " ms"),
        told(f"{title}: opening it and a first question, in a fresh process", opening, " s"),
        told(f"{title}: carried by a collection", size / 1e6, " MB"),
    ]
    if one.reference is not None:
        some = list(texts[:COMPARED])
        cosines = _cosines(one.encoder.encode(some), one.reference.encode(some))
        figures += [
            told(f"{title}: smallest cosine to itself under sentence-transformers", float(cosines.min())),
            told(f"{title}: mean cosine to it", float(cosines.mean())),
        ]
    return figures


def _cosines(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (normalised(ours) * normalised(theirs)).sum(axis=1)
    return found


def _seconds(encoder: Encoder, question: str) -> float:
    started = time.perf_counter()
    encoder.encode_queries([question])
    return time.perf_counter() - started


def _opening(folder: Path, question: str) -> float:
    """Seconds from the first import of ours to the vector of a question."""
    root = Path(__file__).resolve().parents[2]
    told_us = subprocess.run(
        [sys.executable, "-c", _OPEN, str(folder), question], cwd=root, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(told_us.stdout)
