"""The pipeline that makes the next generation: read, cut, encode, index, check, publish. Killed anywhere, it goes on.

It does not know how a page is parsed, a vector computed or a file sealed; it knows the order, and what can be kept
from the generation before and from an unfinished build.

    build-000003.tmp/plan.json   what this build is; another plan starts over
                     encoder/    linked from the parent, or converted once
                     chunks.duckdb   grows by transactions; a page already in it is not read again
                     vectors/    one file a shard, and a marker; a shard that is there is not encoded again
                     dense.faiss lexical/   derived: made anew from the two above
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import dense, shards
from index.encoder import AUTO, BUNDLED, FULL, HASHING, Encoder, fingerprint_in, lasting, open_encoder, prepare
from index.engines import FILES, INDEX, Draft, Engine, engine_of, open_engine, spec_of
from index.layout import ENCODER, NAME, VECTORS, is_derived
from index.local import link_folder
from index.prepared import NOTE, note_down
from index.progress import bar, say
from index.shards import Crew, Job, Texts, take_markers
from index.students import same_model
from index.twin import only_twin, twin_of
from index.upkeep import sweep
from index.vectors import SHARD_ROWS, Vectors, shard_name, write_shard
from store.chunking import ChunkingRules, Prefix, embedded_text, pieces_of
from store.cleaning import articles
from store.database import Entry, Store, kept_url
from store.generations import Collection, DamageWarning, Generation, write_atomically
from store.places import DATABASE, STORE, Place, Schema, place_of
from store.records import LookaheadError
from store.remotes import owner_of, remember, remote_name
from store.sources import Page, Skipped, Source, read_pages

INDEX_MEMORY = 700_000_000  # bytes: 710,000 chunks in float16 or 1.1 million as codes, of 384 dimensions
_WRITTEN_AT_ONCE = 4000  # chunks a transaction
_PROBES = 256
DUPLICATE = "duplicate page id"


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user may decide when a collection is made; None keeps what the collection has, or the default."""

    encoder: str | None = None
    words: int | None = None
    overlap: int | None = None
    prefix: Prefix | None = None
    language: str | None = None
    precision: str = AUTO  # "full", "int8", or what is best here of a new collection
    int8: Path | None = None  # where a twin of the encoder in eight bits would be, if not in its own folder
    device: str = "auto"
    workers: int = max(1, os.cpu_count() or 1)
    index_memory: int = INDEX_MEMORY
    index: str | None = None  # where the indexes are: `index.engines.open_engine`
    store: str | None = None  # where the rows are, if not in a file of their own: a database's URL
    ray: str | None = None  # a cluster to encode on, with `workers` actors: `index.shards.Crew`
    prepare: bool = False  # stop before the encoding, which others are to do: `index.prepared`
    delete_missing: bool = False
    remove: tuple[int, ...] = ()  # page ids to take out
    quiet: bool = False


@dataclass(slots=True)
class IngestReport:
    """What an ingest did. `generation` is None when there was nothing new to publish."""

    generation: Generation | None = None
    added: int = 0
    replaced: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    quarantine: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    prepared: int | None = None  # shards that are others' to make, where it was to stop there
    pace: list[tuple[int, float]] = field(default_factory=list)  # (chunks encoded, seconds they took), in order


@dataclass(frozen=True, slots=True)
class _Build:
    """An unfinished generation, what it grows from, and where its rows and indexes go. `name` and `owner` are by what
    its parts on servers are known."""

    folder: Path
    parent: Generation | None
    rules: ChunkingRules
    quiet: bool
    place: Place
    engine: Engine
    name: str
    owner: str


def ingest(collection: Collection, sources: Sequence[Source], choices: Choices) -> IngestReport:
    """Brings a collection up to date with its sources and publishes the result, or nothing when nothing changed."""
    report = IngestReport()
    with collection.writing():
        parent = collection.current() if collection.exists() else None
        settled = _settled(parent, choices)
        if parent is not None:  # a killed publish ends here; a server that is away is met now
            settled.engine.publish(parent.manifest.facts, owner_of(collection.path))
        plan = {
            "task": "ingest",
            "parent": parent.manifest.name if parent else None,
            "encoder": settled.spec,
            "precision": choices.precision,
            "chunking": settled.rules.as_json(),
            "sources": [source.name for source in sources],
            "index": settled.engine.spec,
            "store": settled.store,
        }
        build = _begun(collection, plan, parent, settled, choices.quiet)
        (build.folder / NOTE).unlink(missing_ok=True)  # the rows may change now
        with _timed(report, "read"), _store_for(build) as store:
            _read(build, store, sources, choices, report, collection.path / "quarantine.jsonl")
            changed = _compare(parent, store, report)
            if changed:
                store.checkpoint()
        if not changed:
            shutil.rmtree(build.folder)
            sweep(collection, quiet=choices.quiet)
            if parent is None:
                reasons = ", ".join(f"{count} {reason}" for reason, count in report.skipped.most_common())
                raise LookaheadError(f"nothing to ingest: {reasons or 'the source holds no articles'}")
            return report
        with _timed(report, "encoder"):
            encoder = _encoder_for(build, settled.spec, choices, collection)
        if choices.prepare:
            with Store.open(build.place) as store:
                job = _job(build, encoder, store.counts().chunks)
                note_down(build.folder, job, build.rules.prefix, build.place)
                report.prepared = sum(1 for _ in shards.unfinished(job, _texts_of(build, store)))
            return report
        counted = _sources_read(parent, sources)
        crew = None if choices.ray is None else Crew(choices.ray, choices.workers, choices.device)
        report.generation = _finish(
            collection, build, encoder, settled.spec, choices.index_memory, counted, report, crew=crew
        )
        collection.collect_garbage()
        sweep(collection, quiet=choices.quiet)
    return report


def compact(
    collection: Collection,
    *,
    index_memory: int = INDEX_MEMORY,
    index: str | None = None,
    store: str | None = None,
    quiet: bool = False,
) -> Generation:
    """Publishes the same chunks without the dead rows, renumbered, with fresh indexes; with `index` or `store`, there.

    Starts from the newest generation whose chunks, vectors and encoder are sound, whatever became of its indexes: this
    is also how a damaged index is mended.
    """
    report = IngestReport()
    with collection.writing():
        parent = collection.current(ignoring=is_derived)
        facts = parent.manifest.facts
        rules = ChunkingRules.from_json(facts["chunking"])
        held = facts.get(STORE)
        settled = _Settled(
            rules,
            facts["encoder"]["spec"],
            engine_of(facts) if index is None else open_engine(index),
            (None if held is None else held["url"]) if store is None else _kept_url(store),
        )
        plan = {"task": "compact", "parent": parent.manifest.name}
        shutil.rmtree(collection.build_folder())  # cheap to do again, and ids must be minted in one go
        build = _begun(collection, plan, None, settled, quiet)
        folder = build.folder
        link_folder(parent.path / ENCODER, folder / ENCODER)
        encoder = open_encoder(folder / ENCODER, bulk=True)
        with Store.at(parent) as old, Store.create_or_resume(build.place) as new:
            rows = old.counts().chunks
            vectors = Vectors(parent.path / VECTORS, rows, encoder.dim)
            _renumber(old, new, vectors, folder, quiet)
            new.checkpoint()
        generation = _finish(
            collection,
            build,
            encoder,
            facts["encoder"]["spec"],
            index_memory,
            facts["sources"],
            report,
            parent=parent.manifest.number,
        )
        collection.drop_damaged()
        sweep(collection, quiet=quiet)
        return generation


def code_version() -> str:
    try:
        return version("lookahead")
    except PackageNotFoundError:
        return "unknown"


# -- the steps, in order -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Settled:
    """What a build is made with. `store` is None where the rows are in a file of their own."""

    rules: ChunkingRules
    spec: str
    engine: Engine
    store: str | None


def _settled(parent: Generation | None, choices: Choices) -> _Settled:
    """A collection keeps what it was made with."""
    engine = open_engine(choices.index or (FILES if parent is None else spec_of(parent.manifest.facts)))
    store = _kept_url(choices.store)
    if parent is None:
        default = ChunkingRules()
        chosen = ChunkingRules(
            default.words if choices.words is None else choices.words,
            default.overlap if choices.overlap is None else choices.overlap,
            default.prefix if choices.prefix is None else choices.prefix,
            choices.language or default.language,
        )
        return _Settled(chosen, lasting(choices.encoder or BUNDLED), engine, store)
    facts = parent.manifest.facts
    rules = ChunkingRules.from_json(facts["chunking"])
    held_spec = str(facts["encoder"]["spec"])
    wanted_spec = choices.encoder
    if wanted_spec is not None and same_model(wanted_spec, held_spec):
        wanted_spec = held_spec
    asked = {
        "--encoder": (wanted_spec, held_spec),
        "--precision": (
            None if choices.precision == AUTO else choices.precision,
            facts["encoder"]["fingerprint"]["precision"],
        ),
        "--chunk-words": (choices.words, rules.words),
        "--overlap": (choices.overlap, rules.overlap),
        "--prefix": (choices.prefix, rules.prefix),
        "--language": (choices.language, rules.language),
    }
    for option, (wanted, held) in asked.items():
        if wanted is not None and wanted != held:
            raise LookaheadError(
                f"the collection {parent.path.parent.name} was made with {option} {held}, not {wanted}; "
                "leave the option out or ingest into another --collection"
            )
    held_store = None if facts.get(STORE) is None else str(facts[STORE]["url"])
    moved = {
        "--index": (choices.index and engine.spec, spec_of(facts)),
        "--store": (choices.store and (store or "duckdb"), held_store or "duckdb"),
    }
    for option, (there, here) in moved.items():
        if there and there != here:
            raise LookaheadError(
                f"the collection {parent.path.parent.name} has its {option} at {here}, not {there}; "
                f"to move it type: lookahead compact -c {parent.path.parent.name} {option} {there}"
            )
    return _Settled(rules, held_spec, engine, held_store)


def _kept_url(store: str | None) -> str | None:
    """None for the file of its own."""
    return None if store is None or store == "duckdb" else kept_url(store)


def _planned_folder(collection: Collection, plan: dict[str, Any], quiet: bool) -> Path:
    """The build folder; one left behind by another plan is emptied, one of the same plan is resumed."""
    folder = collection.build_folder()
    note = folder / "plan.json"
    wanted = json.dumps(plan, sort_keys=True).encode()
    if note.exists() and note.read_bytes() == wanted:
        say(f"resuming the unfinished {folder.name}", quiet=quiet)
        return folder
    shutil.rmtree(folder)
    folder.mkdir()
    write_atomically(note, wanted)
    return folder


def _begun(
    collection: Collection, plan: dict[str, Any], parent: Generation | None, settled: _Settled, quiet: bool
) -> _Build:
    """The build of that plan, begun or resumed. Servers are noted before anything is made on them."""
    folder = _planned_folder(collection, plan, quiet)
    engine, store = settled.engine, settled.store
    owner = name = ""
    if engine.spec != FILES or store is not None:
        index = engine.spec if engine.spec != FILES else None
        owner = remember(collection.path, index=index, store=store).owner
        engine.refuse_strangers(collection.name, owner)
        note = folder / NAME
        if not note.exists() or f"_{owner}_" not in note.read_text():  # the second in a copy
            number = int(folder.stem.removeprefix("build-"))
            name = remote_name(collection.name, owner, number, secrets.token_hex(3))
            write_atomically(note, name.encode())
        name = note.read_text()
    place = folder / DATABASE if store is None else Schema(store, name)
    return _Build(folder, parent, settled.rules, quiet, place, engine, name, owner)


def _encoder_for(build: _Build, spec: str, choices: Choices, collection: Collection) -> Encoder:
    folder = build.folder / ENCODER
    made = build.parent.path / ENCODER if build.parent is not None else _made_before(collection, spec, choices)
    if made is not None:
        link_folder(made, folder)
    elif not (build.folder / "encoder.done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        if spec != HASHING and only_twin(spec) is None:
            say("preparing the encoder: converted once a collection, some 15 seconds", quiet=build.quiet)
        encoder = prepare(
            spec,
            folder,
            device=choices.device,
            precision=choices.precision,
            int8=choices.int8,
            note=lambda sentence: say(sentence, quiet=build.quiet),
        )
        (build.folder / "encoder.done").touch()
        return encoder
    return open_encoder(folder, bulk=True, device=choices.device)


def _made_before(collection: Collection, spec: str, choices: Choices) -> Path | None:
    """Another collection's encoder folder of the bundled model in full precision, which is the same for all; where
    there is a twin in eight bits to choose, it is chosen anew."""
    if spec != BUNDLED or not (
        choices.precision == FULL or (choices.precision == AUTO and twin_of(spec, choices.int8) is None)
    ):
        return None
    for path in sorted(collection.path.parent.iterdir()):
        other = Collection(path)
        if path.is_dir() and not path.name.startswith(".") and path != collection.path and other.exists():
            with contextlib.suppress(LookaheadError, DamageWarning):
                generation = other.current()
                held = generation.manifest.facts["encoder"]
                if held["spec"] == spec and held["fingerprint"]["precision"] == FULL:
                    return generation.path / ENCODER
    return None


def _store_for(build: _Build) -> Store:
    parent = None if build.parent is None else place_of(build.parent.path, build.parent.manifest.facts)
    return Store.create_or_resume(build.place, grown_from=parent)


def _read(
    build: _Build, store: Store, sources: Sequence[Source], choices: Choices, report: IngestReport, quarantine: Path
) -> None:
    """Pages to rows. A page whose digest is known is not cleaned again."""
    known = store.article_keys()
    readers = choices.workers if choices.ray is None else min(choices.workers, os.cpu_count() or 1)
    quarantine.unlink(missing_ok=True)
    for source in sources:
        seen: set[int] = set()
        lost = False  # whether something could not be read whose page id is unknown
        total = source.total_bytes()
        with bar(f"reading {source.path.name}", total, "B", quiet=build.quiet, scale=True) as shown:
            pages = _fresh(read_pages(source, on_bytes=lambda read: shown.update(read - shown.n)), known, seen)
            for batch in _batches(_cut(articles(pages, workers=readers), build.rules, source.name)):
                entries = []
                for item in batch:
                    if isinstance(item, Skipped):
                        lost = lost or (item.failed and item.page_id is None)
                        if item.page_id is not None and item.failed:
                            seen.add(item.page_id)
                        elif item.page_id is not None and item.reason != DUPLICATE:
                            seen.discard(item.page_id)  # a redirect, say: no article any more
                        _record(item, report, quarantine)
                    else:
                        entries.append(item)
                if entries:
                    store.add(entries)
                    known.update({entry.article.page_id: (entry.source, entry.digest) for entry in entries})
        if choices.delete_missing and not lost:
            gone = [page for page, (name, _) in known.items() if name == source.name and page not in seen]
            store.remove(gone)
            for page in gone:  # the next source may have it
                del known[page]
        elif choices.delete_missing:
            say(f"nothing was deleted: {source.path} could not be read to its end", quiet=build.quiet)
    if choices.remove:
        store.remove(choices.remove)


def _fresh(
    pages: Iterable[Page | Skipped], known: dict[int, tuple[str, str]], seen: set[int]
) -> Iterator[Page | Skipped]:
    """Without the pages that are in the store as they are; a second page of the same id is skipped."""
    for page in pages:
        if isinstance(page, Skipped):
            yield page
        elif page.page_id in seen:
            yield Skipped(page.page_id, page.title, DUPLICATE, failed=False)
        else:
            seen.add(page.page_id)
            if known.get(page.page_id, ("", ""))[1] != page.digest:
                yield page


def _cut(
    items: Iterable[tuple[Page, Any] | Skipped], rules: ChunkingRules, source: str
) -> Iterator[tuple[Entry, int] | tuple[Skipped, int]]:
    for item in items:
        if isinstance(item, Skipped):
            yield item, 1
            continue
        page, article = item
        pieces = pieces_of(article, rules)
        if pieces:
            yield Entry(article, pieces, source, page.digest), len(pieces)
        else:
            yield Skipped(page.page_id, page.title, "empty", failed=False), 1


def _batches(items: Iterable[tuple[Entry, int] | tuple[Skipped, int]]) -> Iterator[list[Entry | Skipped]]:
    batch: list[Entry | Skipped] = []
    size = 0
    for item, weight in items:
        batch.append(item)
        size += weight
        if size >= _WRITTEN_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _record(item: Skipped, report: IngestReport, quarantine: Path) -> None:
    report.skipped[item.reason] += 1
    if not item.failed:
        return
    report.failed += 1
    report.quarantine = quarantine
    line = {"page_id": item.page_id, "title": item.title, "reason": item.reason, "detail": item.detail}
    with quarantine.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _compare(parent: Generation | None, store: Store, report: IngestReport) -> bool:
    """Fills in what changed against the parent, however often the build was killed; says whether anything did."""
    now = store.article_keys()
    before: dict[int, tuple[str, str]] = {}
    if parent is not None:
        with Store.at(parent) as old:
            before = old.article_keys()
    report.added = sum(page not in before for page in now)
    report.removed = sum(page not in now for page in before)
    report.replaced = sum(page in before and before[page][1] != key for page, (_, key) in now.items())
    report.unchanged = len(now) - report.added - report.replaced
    return bool(report.added or report.removed or report.replaced)


def _sources_read(parent: Generation | None, sources: Sequence[Source]) -> list[str]:
    before = list(parent.manifest.facts["sources"]) if parent is not None else []
    return list(dict.fromkeys([*before, *(source.name for source in sources)]))


def _finish(
    collection: Collection,
    build: _Build,
    encoder: Encoder,
    spec: str,
    index_memory: int,
    sources: Sequence[str],
    report: IngestReport,
    *,
    parent: int | None = None,
    crew: Crew | None = None,
) -> Generation:
    """From a complete database to a published generation."""
    with Store.open(build.place) as store:
        counts = store.counts()
        vectors = Vectors(build.folder / VECTORS, counts.chunks, encoder.dim)
        with _timed(report, "encode"):
            encode_shards(build, store, encoder, counts.chunks, report.pace, crew)
        facts: dict[str, Any] = {
            "encoder": {"spec": spec, "fingerprint": encoder.fingerprint.as_json()},
            "chunking": build.rules.as_json(),
            "vectors": {"dim": encoder.dim, "dtype": "float16", "shard_rows": SHARD_ROWS},
            "sources": list(sources),
        }
        if isinstance(build.place, Schema):
            facts[STORE] = build.place.as_json()
        draft = _draft(collection, build, store, encoder, vectors, index_memory)
        with _timed(report, "lexical"):
            facts["lexical"] = build.engine.index_words(draft)
        with _timed(report, "dense"):
            facts["dense"] = build.engine.index_vectors(draft).as_json()
            place = build.engine.place(draft)
            if place is not None:
                facts[INDEX] = place
        with _timed(report, "check"):
            _check(build, store, encoder, vectors, facts)
    seals = take_markers(build.folder)
    _sweep(build.folder)
    with _timed(report, "publish"):
        build.engine.refuse_strangers(collection.name, build.owner)  # again: hours have gone by
        generation = collection.publish(
            build.folder,
            parent=build.parent.manifest.number if build.parent else parent,
            code_version=code_version(),
            counts={"articles": counts.articles, "chunks": counts.chunks, "live": counts.live},
            facts=facts,
            seals=seals,
        )
        build.engine.publish(facts, build.owner)
        return generation


def encode_shards(
    build: _Build,
    store: Store,
    encoder: Encoder,
    rows: int,
    pace: list[tuple[int, float]],
    crew: Crew | None = None,
) -> None:
    """Makes every shard that is not there yet, here or, with a crew, on a cluster."""
    job = _job(build, encoder, rows)

    texts_of = _texts_of(build, store)
    if crew is None:
        shards.encode_all(job, texts_of, encoder, pace=pace, quiet=build.quiet)
    else:
        from index import ray_shards

        ray_shards.encode_all(job, texts_of, build.folder / ENCODER, crew, pace=pace, quiet=build.quiet)


def _texts_of(build: _Build, store: Store) -> Texts:
    return lambda first, stop: [embedded_text(*row, build.rules.prefix) for row in store.texts(first, stop)]


def _job(build: _Build, encoder: Encoder, rows: int) -> Job:
    key, parent = encoder.fingerprint.key, build.parent
    if parent is None:
        return Job(build.folder / VECTORS, rows, encoder.dim, key, shard_rows=SHARD_ROWS)
    before = parent.manifest.counts["chunks"]
    return Job(build.folder / VECTORS, rows, encoder.dim, key, parent.path / VECTORS, before, SHARD_ROWS)


def _draft(
    collection: Collection, build: _Build, store: Store, encoder: Encoder, vectors: Vectors, memory: int
) -> Draft:
    """Titles and headings of some chunks stand for the questions to come."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(vectors), min(_PROBES, len(vectors)), replace=False))
    found = store.chunks(rows.tolist())
    probes = encoder.encode_queries([f"{hit.title} {hit.chunk.section}".strip() or hit.chunk.text for hit in found])
    return Draft(
        build.folder,
        build.name,
        collection.name,
        build.owner,
        store,
        vectors,
        probes,
        store.dead_ids(),
        build.rules.language,
        memory,
        build.parent,
        build.quiet,
    )


def _check(build: _Build, store: Store, encoder: Encoder, vectors: Vectors, facts: dict[str, Any]) -> None:
    """Nothing is published that contradicts itself: counts, ids, and a sample that must find itself."""
    counts = store.counts()
    faults = store.faults()
    words = build.engine.open_words(build.folder, facts)
    index = build.engine.open_vectors(build.folder, facts, vectors)
    expected = build.engine.holds(counts.chunks, counts.live)
    if len(words) != counts.live:
        faults.append(f"the lexical index has {len(words)} chunks, the database {counts.live}")
    if len(index) != expected:
        faults.append(f"the dense index has {len(index)} chunks, {expected} of the database belong there")
    if fingerprint_in(build.folder / ENCODER) != encoder.fingerprint:
        faults.append("the encoder kept is not the encoder used")
    sample = np.random.default_rng(1).choice(counts.chunks, min(32, counts.chunks), replace=False)
    rows = vectors.gather(sample)
    again = encoder.encode(
        [
            embedded_text(hit.title, hit.chunk.section, hit.chunk.text, build.rules.prefix)
            for hit in store.chunks(sample.tolist())
        ]
    )
    agreement = (dense.normalised(rows) * dense.normalised(again)).sum(axis=1)
    retitled = build.rules.prefix in (Prefix.TITLE, Prefix.BOTH)  # a dead row may since have lost its title
    for row, chunk_id in enumerate(sample.tolist()):
        if agreement[row] < 0.99 and not retitled and np.linalg.norm(again[row]) > 0:
            faults.append(f"the vector of chunk {chunk_id} is not its text's (cosine {agreement[row]:.3f})")
    findable = rows if expected == counts.chunks else rows[~np.isin(sample, store.dead_ids())]
    missed = sum(hits[0].score < 0.98 for hits in index.search_many(findable, 1) if hits)
    words.close()
    index.close()
    if missed > len(sample) // 10:
        faults.append(f"{missed} of {len(sample)} sampled chunks do not find themselves")
    if faults:
        raise LookaheadError(
            f"the new generation was not published: {'; '.join(faults[:3])}; remove {build.folder} and ingest again"
        )


def _renumber(old: Store, new: Store, vectors: Vectors, folder: Path, quiet: bool) -> None:
    """Live articles in their order, with fresh ids and their vectors beside them."""
    (folder / VECTORS).mkdir(exist_ok=True)
    waiting: list[NDArray[np.int64]] = []
    number = 0

    def flush(last: bool) -> None:
        nonlocal number, waiting
        ids = np.concatenate(waiting) if waiting else np.zeros(0, dtype=np.int64)
        while len(ids) >= SHARD_ROWS or (last and len(ids)):
            write_shard(folder / VECTORS / shard_name(number), vectors.gather(ids[:SHARD_ROWS]))
            ids, number = ids[SHARD_ROWS:], number + 1
        waiting = [ids]

    kept = old.articles()
    with bar("compacting", len(kept), "articles", quiet=quiet) as shown:
        for start in range(0, len(kept), 200):
            batch = kept[start : start + 200]
            new.add([old.entry(row) for row in batch])
            waiting += [np.arange(row.first_chunk, row.first_chunk + row.chunk_count) for row in batch]
            flush(last=False)
            shown.update(len(batch))
    flush(last=True)


def _sweep(folder: Path) -> None:
    """Takes out what only the build needed, and what a killed write left."""
    scraps = [path for pattern in ("*.tmp", "*.copy", "*.lock") for path in folder.rglob(pattern)]
    for path in scraps:  # plan.json stays, and is sealed with the rest: a kill before the rename resumes from here
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class _timed:
    """Adds the seconds of a block to a report."""

    def __init__(self, report: IngestReport, phase: str) -> None:
        self._report, self._phase = report, phase

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = time.perf_counter() - self._started
        self._report.seconds[self._phase] = self._report.seconds.get(self._phase, 0.0) + spent
