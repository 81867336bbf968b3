"""Encoding on a Ray cluster of this machine against encoding in this process: the ratio of speeds, the same bytes.

It does not know what a cluster of several machines would do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from index import ray_shards, shards
from index.encoder import open_encoder
from index.layout import ENCODER
from index.shards import Crew, Job
from index.vectors import shard_name
from retrieval.benchmarks.encode import chunks_in
from retrieval.benchmarks.measured import Figure, at_least, in_turn, median, told
from store.generations import Collection

GOAL = 0.9
_ROUNDS = 3
_SHARD_ROWS = 2048  # small ones, so that both workers have some to the end


def bench_ray(collection: Collection, chunks: int, workers: int, say: Callable[[str], object]) -> list[Figure]:
    """So many chunks of a collection, encoded by the plain path with all cores and by actors with one each, in turn."""
    texts = chunks_in(collection, chunks)[:chunks]
    folder = collection.current().path / ENCODER
    encoder = open_encoder(folder, bulk=True, device="cpu")
    encoder.encode(texts[:64])
    crew = Crew(ray_shards.LOCAL, workers, "cpu")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lookahead-bench-") as place, ray_shards.cluster(crew):
        starting = time.perf_counter() - started

        def job(name: str) -> Job:
            return Job(Path(place) / name, len(texts), encoder.dim, encoder.fingerprint.key, shard_rows=_SHARD_ROWS)

        def plainly(number: int) -> None:
            pace: list[tuple[int, float]] = []
            shards.encode_all(job(f"plain-{number}"), lambda a, b: texts[a:b], encoder, pace=pace)
            plain.append(sum(seconds for _, seconds in pace))

        def on_ray(number: int) -> None:
            pace: list[tuple[int, float]] = []
            ray_shards.encode_all(job(f"ray-{number}"), lambda a, b: texts[a:b], folder, crew, pace=pace)
            spread.append(sum(seconds for _, seconds in pace))

        say(f"{len(texts):,} chunks, {_ROUNDS} rounds of both in turn")
        plain: list[float] = []
        spread: list[float] = []
        _, (whole, _) = in_turn([plainly, on_ray], _ROUNDS)
        waits = [wall - own for wall, own in zip(whole, spread, strict=True)]
        same = [
            (Path(place) / "plain-0" / shard_name(number)).read_bytes() == path.read_bytes()
            for turn in range(_ROUNDS)
            for number in range(len(job("")))
            for path in [Path(place) / f"ray-{turn}" / shard_name(number)]
        ]
    return [
        told("plain, chunks/s", len(texts) / median(plain)),
        told(f"Ray with {workers} workers, chunks/s", len(texts) / median(spread)),
        at_least("ratio", median([one / other for one, other in zip(plain, spread, strict=True)]), GOAL, " ×"),
        at_least("shards byte for byte the same", sum(same) / len(same), 1.0),
        told("Ray, starting, once an ingest", starting, " s"),
        told("Ray, actors loading the encoder, once an ingest", median(waits), " s"),
    ]
