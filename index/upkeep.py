"""What of a collection is on servers, kept in step with its folder.

What nothing names any more goes, and what is named can be looked over.

It does not know how an engine or a database does it.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from index.engines import FILES, engine_of, open_engine, spec_of
from index.layout import NAME, VECTORS
from index.progress import say
from index.vectors import Vectors
from store.database import Store, drop, schemas_of
from store.generations import Collection, Fault, Generation
from store.places import STORE, Schema
from store.records import Gone, LookaheadError, Unreachable
from store.remotes import owner_of, remotes_of, strike_out


def roll_back(collection: Collection) -> Generation:
    """As `Collection.roll_back`, on servers too. One whose parts there are not whole any more is not gone back to."""

    def refuse(before: Generation) -> None:
        for fault in remote_faults(before):
            raise LookaheadError(f"{collection.name}/{fault.generation} cannot be served ({fault.file}: {fault.what})")

    generation = collection.roll_back(refuse)
    engine_of(generation.manifest.facts).publish(generation.manifest.facts, owner_of(collection.path))
    sweep(collection)
    return generation


def sweep(collection: Collection, *, quiet: bool = False) -> list[str]:
    """Drops the parts on servers that no generation and no unfinished build of the collection names; names what went.

    A server that does not answer, or is still being read from, is left for the next time.
    """
    remotes = remotes_of(collection.path)
    if remotes is None:
        return []
    try:
        kept = [generation.manifest.facts for generation in collection.generations()]
    except LookaheadError:  # what a damaged manifest names is not known
        return []
    building = [path.read_text() for folder in collection.unfinished() if (path := folder / NAME).exists()]
    indexes = {facts["index"]["collection"] for facts in kept if "index" in facts}.union(building)
    schemas = {facts[STORE]["name"] for facts in kept if STORE in facts}.union(building)
    gone: list[str] = []
    empty: list[str] = []
    for spec in remotes.indexes:
        try:
            engine = open_engine(spec)
            gone += engine.sweep(remotes.owner, indexes)
            empty += [] if engine.parts(remotes.owner) else [spec]
        except LookaheadError as error:
            say(f"left for later: {error}", quiet=quiet)
    for url in remotes.stores:
        try:
            there = schemas_of(url, remotes.owner)
            for name in there:
                if name not in schemas:
                    drop(Schema(url, name))
                    gone.append(name)
            empty += [] if schemas.intersection(there) else [url]
        except LookaheadError as error:
            say(f"left for later: {error}", quiet=quiet)
    strike_out(collection.path, empty)
    return gone


def forget(collection: Collection) -> list[str]:
    """Drops all its parts on servers, or none: one that does not answer raises before anything is dropped."""
    remotes = remotes_of(collection.path)
    if remotes is None:
        return []
    engines = [(engine, engine.parts(remotes.owner)) for engine in map(open_engine, remotes.indexes)]
    schemas = [Schema(url, name) for url in remotes.stores for name in schemas_of(url, remotes.owner)]
    for engine, parts in engines:
        if parts:
            engine.sweep(remotes.owner, ())
    for schema in schemas:
        drop(schema)
    return [name for _, parts in engines for name in parts] + [schema.name for schema in schemas]


def remote_faults(generation: Generation) -> list[Fault]:
    """What of a generation on servers is not as its manifest says; where all is files, there is nothing to find. A
    server that does not answer raises: that is no fault of the generation's."""
    manifest = generation.manifest
    facts, counts, found = manifest.facts, manifest.counts, []
    if STORE not in facts and spec_of(facts) == FILES:
        return []
    try:
        with Store.at(generation) as store:
            now, dead = store.counts(), store.dead_ids()
            if STORE in facts:
                if asdict(now) != counts:
                    found.append(f"{asdict(now)}, but {counts} were published")
                found += store.faults()
    except LookaheadError as error:
        return [_fault(manifest.name, STORE, error)]
    faults = [Fault(manifest.name, STORE, what) for what in found]
    if spec_of(facts) == FILES:
        return faults
    told = facts["vectors"]
    vectors = Vectors(generation.path / VECTORS, counts["chunks"], told["dim"], told["shard_rows"])
    live = np.setdiff1d(np.arange(counts["chunks"]), dead, assume_unique=True)
    try:
        index = engine_of(facts).open_vectors(generation.path, facts, vectors)
        held = index.ids()
        if not np.array_equal(held, live):
            what = f"holds {len(held)} chunks, {len(np.setdiff1d(live, held))} of the {len(live)} live ones are missing"
            faults.append(Fault(manifest.name, "index", what))
        else:
            sample = np.sort(np.random.default_rng(0).choice(live, min(64, len(live)), replace=False))
            astray = sum(not hits or hits[0].score < 0.98 for hits in index.search_many(vectors.gather(sample), 1))
            if astray > len(sample) // 10:
                faults.append(Fault(manifest.name, "index", f"{astray} of {len(sample)} chunks do not find themselves"))
    except LookaheadError as error:
        faults.append(_fault(manifest.name, "index", error))
    return faults


def _fault(generation: str, part: str, error: LookaheadError) -> Fault:
    if isinstance(error, Unreachable) and not isinstance(error, Gone):
        raise error
    return Fault(generation, part, str(error))
