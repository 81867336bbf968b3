"""Encoding as numbered shards: what one is made of, when it is made already, and how it is kept, whoever encodes it.

It does not know where texts come from, nor what encodes them: this process, a cluster, or many processes on one folder.
The bytes of a shard depend on its texts, the encoder, and the rows its parent has, and on nothing else: not on their
order, not on a kill, and not on how many cores or machines were at it (if these compute alike).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.encoder import Encoder
from index.layout import VECTORS
from index.progress import bar
from index.vectors import SHARD_ROWS, read_shard, shard_count, shard_name, write_shard
from store.generations import FileSeal, link_or_copy, seal_of, write_atomically
from store.records import LookaheadError

# Texts that an encoder is given at once, and by whose neighbours a vector is rounded: they are sorted by length and
# padded to that of the longest in a batch. Cut at whole multiples from the shard's first row, wherever work begins.
SLICE = 1024
DONE = ".done"

Texts = Callable[[int, int], list[str]]  # what the encoder reads for the rows `first … stop - 1`


@dataclass(frozen=True, slots=True)
class Crew:
    """A cluster to encode on: "local" (started here), "auto", "HOST:PORT" or "ray://HOST:PORT", and how many there."""

    address: str
    workers: int
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Job:
    """The shards of a build. `key` is the encoder's fingerprint's; `parent` is the folder of the first `parent_rows`
    vectors, which are taken over as they are: ids never change their text."""

    folder: Path
    rows: int
    dim: int
    key: str
    parent: Path | None = None
    parent_rows: int = 0
    shard_rows: int = SHARD_ROWS

    def __len__(self) -> int:
        return shard_count(self.rows, self.shard_rows)


@dataclass(frozen=True, slots=True)
class Shard:
    """One that is to be made: `vectors` (rows, dim) has those of its parent, `texts` are of the rows after them."""

    job: Job
    number: int
    texts: list[str]
    digest: str
    vectors: NDArray[np.float32]

    @property
    def first(self) -> int:
        """Row of the collection with which it begins."""
        return self.number * self.job.shard_rows

    def slices(self) -> list[tuple[int, list[str]]]:
        """(row of the shard, texts from there on) as the encoder is to be given them."""
        rows = len(self.vectors)
        start = rows - len(self.texts)
        bounds = [start, *range((start // SLICE + 1) * SLICE, rows, SLICE), rows]
        return [(a, self.texts[a - start : b - start]) for a, b in itertools.pairwise(bounds)]

    def keep(self) -> None:
        """Writes it, and then its marker."""
        path = self.job.folder / shard_name(self.number)
        marker = path.with_suffix(DONE)
        marker.unlink(missing_ok=True)
        write_shard(path, self.vectors)
        write_atomically(marker, json.dumps(_mark(self.job, path, len(self.vectors), self.digest)).encode())


class Progress:
    """A bar of the rows, which also notes how fast slices came."""

    def __init__(self, shown: Any, pace: list[tuple[int, float]]) -> None:
        self._shown, self._pace = shown, pace
        self._before = time.perf_counter()

    def held(self, rows: int) -> None:
        """So many were there already, which must not flatter the rate."""
        self._shown.update(rows)
        if not self._shown.disable:
            self._shown.initial = getattr(self._shown, "initial", 0) + rows

    def begins(self) -> None:
        """What came before, such as the start of a cluster, does not count as time taken."""
        self._before = time.perf_counter()
        self._shown.unpause()

    def made(self, rows: int) -> None:
        now = time.perf_counter()
        self._pace.append((rows, now - self._before))
        self._before = now
        self._shown.update(rows)


@contextlib.contextmanager
def progress(rows: int, pace: list[tuple[int, float]] | None, quiet: bool) -> Iterator[Progress]:
    with bar("encoding", rows, "chunks", quiet=quiet) as shown:
        yield Progress(shown, [] if pace is None else pace)


def encode_all(
    job: Job,
    texts_of: Texts,
    encoder: Encoder,
    *,
    numbers: Sequence[int] | None = None,
    pace: list[tuple[int, float]] | None = None,
    quiet: bool = True,
) -> int:
    """Makes every shard that is not there yet, or those of `numbers`, in this process; says how many that were."""
    made = 0
    with progress(job.rows if numbers is None else rows_of(job, numbers), pace, quiet) as shown:
        for shard in unfinished(job, texts_of, shown.held, numbers):
            for start, texts in shard.slices():
                shard.vectors[start : start + len(texts)] = encoder.encode(texts)
                shown.made(len(texts))
            shard.keep()
            made += 1
    return made


def unfinished(
    job: Job, texts_of: Texts, held: Callable[[int], object] = lambda _: None, numbers: Sequence[int] | None = None
) -> Iterator[Shard]:
    """The shards that are still to be made, each read when it is asked for; `held` hears of the rows that are there.

    One that is there with a marker that fits (rows, bytes, encoder, texts) is made already, and so is a whole one
    without a marker: the parent's, or a compaction's.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(job)) if numbers is None else numbers:
        first = number * job.shard_rows
        rows = rows_of(job, [number])
        path = job.folder / shard_name(number)
        before = None if job.parent is None else job.parent / path.name
        kept = 0 if before is None else min(max(job.parent_rows - first, 0), rows)
        if before is not None and kept == rows and not path.exists():
            link_or_copy(before, path)
        told = _told(path)
        whole = _is_whole(path, rows, job.dim)
        if whole and told is None:
            held(rows)
            continue
        texts = texts_of(first + kept, first + rows)
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
        if whole and told == _mark(job, path, rows, digest):
            held(rows)
            continue
        vectors = np.empty((rows, job.dim), dtype=np.float32)
        if before is not None and kept:
            vectors[:kept] = read_shard(before, kept, job.dim)
        held(kept)
        yield Shard(job, number, texts, digest, vectors)


def rows_of(job: Job, numbers: Sequence[int]) -> int:
    return sum(min(job.shard_rows, job.rows - number * job.shard_rows) for number in numbers)


def take_markers(build: Path) -> dict[str, FileSeal]:
    """Removes the markers below a build's folder; what they knew of the shards, by their names there, comes back."""
    seals = {}
    for marker in sorted((build / VECTORS).glob(f"*{DONE}")):
        path, told = marker.with_suffix(".npy"), _told(marker)
        if told and path.exists():
            seals[f"{VECTORS}/{path.name}"] = FileSeal(path.stat().st_size, str(told["sha256"]))
        marker.unlink()
    return seals


def _mark(job: Job, path: Path, rows: int, digest: str) -> dict[str, object]:
    return {"rows": rows, "sha256": seal_of(path).sha256, "encoder": job.key, "texts": digest}


def _told(path: Path) -> dict[str, Any] | None:
    """What the marker of a shard says; nothing sound is a marker that fits nothing."""
    try:
        told = json.loads(path.with_suffix(DONE).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _is_whole(path: Path, rows: int, dim: int) -> bool:
    try:
        read_shard(path, rows, dim)
    except LookaheadError:
        return False
    return True
