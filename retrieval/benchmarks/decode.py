"""How long it takes to open an inverter, to turn one vector back into words, and how much sooner many are together.

It does not know whether the words are right; `evaluate decode` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from retrieval.benchmarks.measured import Figure, at_least, at_most, percentile, told
from retrieval.inversion import Decoder
from retrieval.open_inverter import open_decoder
from retrieval.search import Searcher
from retrieval.sequences import Floats, Sequences, needed
from store.records import Split

OPENING = 3.0  # seconds, torch and the encoder included
ONE = 1.0  # seconds for one vector and one step
MANY, TOGETHER = 64, 5.0  # vectors in a batch, and how many times the single rate they should have
_ALONE = 12


def bench_decode(
    searcher: Searcher, name: str | None, steps: int, beam: int, say: Callable[[str], object]
) -> list[Figure]:
    """Opens the inverter in this process, which has loaded neither torch nor the encoder yet, then decodes vectors of
    true test chunks one by one and together, after a warm-up of both."""
    began = time.perf_counter()
    decoder = open_decoder(searcher, name)
    opening = time.perf_counter() - began
    sequences = Sequences(searcher.store.articles(Split.TEST), searcher.vectors)
    every = needed(sequences, Split.TEST, searcher.generation.path.parent.name, 1)
    drawn = np.random.default_rng(0).choice(len(every), min(MANY, len(every)), replace=False)
    vectors = searcher.vectors.gather(np.sort(every.target[drawn]))
    say(f"inverter {decoder.inverter.name}: {len(vectors)} vectors of test chunks, {steps} step(s), beam {beam}")
    _seconds(decoder, vectors[:2], steps, beam)
    alone = [_seconds(decoder, vectors[[place]], steps, beam) for place in range(min(_ALONE, len(vectors)))]
    together = _seconds(decoder, vectors, steps, beam)
    one = percentile(alone, 0.5)
    return [
        at_most("opening inverter and encoder, torch not yet loaded", opening, OPENING, " s"),
        at_most(f"one vector, {steps} step(s), beam {beam}, p50", one, ONE, " s"),
        told(f"one vector, the slowest of {len(alone)}", max(alone), " s"),
        told(f"{len(vectors)} vectors together", together, " s"),
        at_least("how many times the single rate that is", len(vectors) * one / together, TOGETHER, " ×"),
    ]


def _seconds(decoder: Decoder, vectors: Floats, steps: int, beam: int) -> float:
    began = time.perf_counter()
    decoder.decode(vectors, steps=steps, beam=beam)
    return time.perf_counter() - began
