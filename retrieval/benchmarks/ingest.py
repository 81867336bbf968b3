"""How fast and how small an ingest is, as ratios measured in one run on this machine.

It does not judge speed in seconds: another machine has others.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from index.conversion import TorchEncoder
from index.dense import normalised
from index.encoder import Encoder, open_encoder
from index.layout import ENCODER
from retrieval.benchmarks.measured import Figure, at_least, at_most, in_turn, median, run, told
from store.chunking import ChunkingRules, embedded_text
from store.database import Store
from store.generations import Collection

_SAMPLE = 512
_ROUNDS = 3


def bench_ingest(source: Path, home: Path, say: Callable[[str], object]) -> list[Figure]:
    """Ingests `source` into a throw-away home as a user would, then encodes the same chunks and nothing else."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=home) as folder:
        say(f"ingesting {source} as a process of its own")
        whole = run(["--home", folder, "ingest", str(source), "--collection", "bench", "--json", "--quiet"])
        report = json.loads(whole.output)
        generation = Collection(Path(folder) / "collections" / "bench").current()
        rules = ChunkingRules.from_json(generation.manifest.facts["chunking"])
        with Store.at(generation) as store:
            rows = store.counts().chunks
            texts = [embedded_text(*row, rules.prefix) for row in store.texts(0, rows)]
        say(f"encoding the same {rows:,} chunks and nothing else")
        encoder = open_encoder(generation.path / ENCODER, bulk=True)
        alone = _encoding_alone(encoder, texts)
        say(f"against sentence-transformers' default on {_SAMPLE} of them, {_ROUNDS} rounds in turn")
        ratio, cosine = against_reference(generation.path / ENCODER, encoder, texts)
    spent = report["seconds"]
    work = sum(seconds for phase, seconds in spent.items() if phase != "encoder")
    first, last = _tenths(report["pace"])
    return [
        told("chunks ingested", rows),
        told("encoding alone, chunks/s", rows / alone),
        at_least("encoding, ratio to sentence-transformers (torch fp32, batch 32)", ratio, 3.5, " ×"),
        at_least("smallest cosine to it", cosine, 0.999),
        at_most("whole ingest / encoding alone (model conversion, once a collection, not counted)", work / alone, 1.15),
        told("model conversion, once a collection", spent.get("encoder", 0.0), " s"),
        *(told(f"of it: {phase}", seconds, " s") for phase, seconds in spent.items() if phase != "encoder"),
        at_least("last tenth / first tenth of the encoding, speed", last / first, 0.9),
        at_most("peak memory", whole.peak_megabytes / 1000, 1.5, " GB"),
    ]


def against_reference(folder: Path, encoder: Encoder, texts: list[str]) -> tuple[float, float]:
    """(speed as a multiple of sentence-transformers' default, smallest cosine to it) over a sample, medians of rounds
    in turn so that a drifting machine slows both."""
    drawn = np.random.default_rng(0).choice(len(texts), min(_SAMPLE, len(texts)), replace=False)
    sample = [texts[place] for place in drawn]
    reference = TorchEncoder.open(folder, device="cpu")
    reference.encode(sample[:32])
    (spent, ours), (taken, theirs) = in_turn(
        [lambda _: encoder.encode(sample), lambda _: reference.encode(sample)], _ROUNDS
    )
    ratio = median([other / own for own, other in zip(spent, taken, strict=True)])
    return ratio, float((normalised(ours) * normalised(theirs)).sum(axis=1).min())


def _encoding_alone(encoder: Encoder, texts: list[str]) -> float:
    started = time.perf_counter()
    for start in range(0, len(texts), 1024):
        encoder.encode(texts[start : start + 1024])
    return time.perf_counter() - started


def _tenths(pace: list[tuple[int, float]]) -> tuple[float, float]:
    """Chunks/s over the first and the last tenth of the slices."""
    tenth = max(1, len(pace) // 10)
    rates = []
    for part in (pace[:tenth], pace[-tenth:]):
        rates.append(sum(count for count, _ in part) / sum(seconds for _, seconds in part))
    return rates[0], rates[1]
