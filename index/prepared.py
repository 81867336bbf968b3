"""A build whose rows and encoder are in: what it notes for those who make its shards, each a part, wherever they are.

It does not know how the rows came in, nor what becomes of the vectors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from index.encoder import open_encoder
from index.layout import ENCODER, VECTORS
from index.shards import Job, encode_all
from store.chunking import Prefix, embedded_text
from store.database import Store
from store.generations import Collection, write_atomically
from store.places import STORE, Place, Schema, place_of
from store.records import LookaheadError

NOTE = "prepared.json"


@dataclass(frozen=True, slots=True)
class Part:
    """What was done of how much: shards made by this call, those that were its to make, and all there are."""

    made: int
    own: int
    shards: int


def note_down(build: Path, job: Job, prefix: Prefix, place: Place) -> None:
    told = {
        "rows": job.rows,
        "dim": job.dim,
        "key": job.key,
        "parent": None if job.parent is None else job.parent.parent.name,
        "parent_rows": job.parent_rows,
        "shard_rows": job.shard_rows,
        "prefix": prefix.value,
        "facts": {STORE: place.as_json()} if isinstance(place, Schema) else {},
    }
    write_atomically(build / NOTE, json.dumps(told).encode())


def encode_part(
    collection: Collection,
    part: int,
    parts: int,
    *,
    device: str = "auto",
    threads: int | None = None,
    quiet: bool = False,
) -> Part:
    """Makes the shards `part`, `part + parts`, … of the collection's prepared build that are not there yet.

    Any number of processes may be at it, on one machine or on several that share the folder. Nothing is locked: a shard
    made twice is the same twice. The same ingest then finds them all and finishes.
    """
    build = next((folder for folder in collection.unfinished() if (folder / NOTE).exists()), None)
    if build is None:
        raise LookaheadError(
            f"nothing is prepared in {collection.path}; run: lookahead ingest SOURCE -c {collection.name} --prepare"
        )
    told = json.loads((build / NOTE).read_bytes())
    job = Job(
        build / VECTORS,
        told["rows"],
        told["dim"],
        told["key"],
        None if told["parent"] is None else collection.path / told["parent"] / VECTORS,
        told["parent_rows"],
        told["shard_rows"],
    )
    prefix, numbers = Prefix(told["prefix"]), range(part, len(job), parts)
    with collection.helping(), Store.open(place_of(build, told["facts"])) as store:
        made = encode_all(
            job,
            lambda first, stop: [embedded_text(*row, prefix) for row in store.texts(first, stop)],
            open_encoder(build / ENCODER, bulk=True, device=device, threads=threads),
            numbers=numbers,
            quiet=quiet,
        )
    return Part(made, len(numbers), len(job))
