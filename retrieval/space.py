"""A model's space: the chunks of a collection through its P tower, as shards and a dense index with the same ids.

It does not know what a tower is, nor who searches here. A space is of one generation and one tower, and lies beside the
models: generations never change. One that is out of date is extended or made again; until the new one is whole, the old
one stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index import dense
from index.dense import DenseFacts, DenseIndex, normalised
from index.layout import DENSE, VECTORS
from index.progress import bar, say
from index.vectors import Vectors, read_shard, shard_count, shard_name, write_shard
from retrieval.models import TOWER, TOWER_WEIGHTS, Model, fitting_models, spaces_folder
from retrieval.runtime import CompiledPredictor, CompiledTower
from retrieval.search import Searcher
from retrieval.sequences import Floats, Sequences
from store.generations import MANIFEST, Collection, DamageWarning, FileSeal, link_or_copy, seal_of, write_atomically
from store.records import LookaheadError
from store.staging import making

FORMAT = 1
FACTS = "space.json"
CHECKED = "checked.json"  # which files were found as sealed, by size, times and inode; lost, they are read again
MEMORY = 700_000_000  # bytes of the index, as an ingest allows its own
_BLOCK = 1_024  # rows through the tower at once: always as many, or the last bits of a row would depend on its shard's
_PROBES = 256


@dataclass(frozen=True, slots=True)
class Origin:
    """What a space was computed from. `tower` and `sources` are sha256 sums: of the P tower's files, and of the
    generation's own shards in their order."""

    tower: dict[str, str]
    generation: str
    manifest: str
    rows: int
    dim: int
    shard_rows: int
    sources: tuple[str, ...]

    def rows_in(self, number: int) -> int:
        """Of a shard; 0 of one that there is not."""
        return max(0, min(self.shard_rows, self.rows - number * self.shard_rows))


@dataclass(frozen=True, slots=True)
class SpaceFacts:
    """What space.json says: where it is from, its index, and what its own files are."""

    origin: Origin
    dense: DenseFacts
    seals: dict[str, FileSeal]
    format: int = FORMAT

    def dump(self) -> bytes:
        """JSON that carries its own checksum."""
        raw = json.loads(json.dumps(asdict(self)))
        return json.dumps({**raw, "self": _own_seal(raw)}, indent=1, sort_keys=True).encode()

    @classmethod
    def load(cls, raw: bytes) -> SpaceFacts:
        """Raises ValueError when it is none, was damaged, or is of another format."""
        try:
            held = json.loads(raw)
            seal = held.pop("self")
            if seal != _own_seal(held):
                raise ValueError("its own checksum does not match")
            if held["format"] != FORMAT:
                raise ValueError(f"it is of format {held['format']!r}, this program reads {FORMAT}")
            origin = Origin(**{**held["origin"], "sources": tuple(held["origin"]["sources"])})
            seals = {name: FileSeal(**one) for name, one in held["seals"].items()}
            return cls(origin, DenseFacts.from_json(held["dense"]), seals)
        except (KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError("it does not describe a space") from error


@dataclass(frozen=True, slots=True)
class Space:
    """A space, opened: row = chunk id, dead ones too. It goes on answering when another takes its place."""

    facts: SpaceFacts
    vectors: Vectors
    dense: DenseIndex


def open_space(
    searcher: Searcher, model: Model, tower: CompiledTower, *, quiet: bool = True, folder: Path | None = None
) -> Space:
    """The space of a model for the searcher's generation; made or extended first where there is none of both.

    `folder` is where the spaces are (None: among the collection's models). A damaged one is made again with a
    DamageWarning; where another process is at it, it is waited for.
    """
    collection = Collection(searcher.generation.path.parent)
    place = (spaces_folder(collection) if folder is None else folder) / model.name
    wanted = _origin(searcher, model)
    held = _held(place)
    if held.facts is not None and held.facts.origin == wanted:
        opened = _opened(place, held.facts)
        if opened is not None:
            return opened
    try:
        with _turn(place, quiet):
            return _made(place, wanted, searcher, model, tower, quiet)
    except OSError as error:
        why = error.strerror or f"{error}, is the disk full?"  # numpy's own errors have no number
        raise LookaheadError(
            f"cannot write {place}: {why}; the P-tower vectors of model {model.name} are kept there, "
            f"so make room or that folder writable, or type {_instead(collection, searcher)}"
        ) from error


def has_space(searcher: Searcher, model: Model) -> bool:
    """Whether the space of a model for the searcher's generation is there, so that `open_space` makes none."""
    facts = _held(spaces_folder(Collection(searcher.generation.path.parent)) / model.name).facts
    return facts is not None and facts.origin == _origin(searcher, model)


def _instead(collection: Collection, searcher: Searcher) -> str:
    plain = [model.name for model in fitting_models(collection, searcher.fingerprint) if not model.config.tower]
    return f"--model {plain[0]}, which needs none" if plain else "--model with one that has no P tower"


def _origin(searcher: Searcher, model: Model) -> Origin:
    """What the space of now would be made from."""
    vectors, manifest = searcher.vectors, searcher.generation.manifest
    names = [f"{VECTORS}/{shard_name(number)}" for number in range(shard_count(len(vectors), vectors.shard_rows))]
    return Origin(
        {name: model.config.seals[name] for name in (TOWER, TOWER_WEIGHTS)},
        manifest.name,
        seal_of(searcher.generation.path / MANIFEST).sha256,
        len(vectors),
        vectors.dim,
        vectors.shard_rows,
        tuple(manifest.files[name].sha256 for name in names),
    )


# -- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """A sound space that was found, or what is wrong with it; neither where there is none."""

    facts: SpaceFacts | None = None
    damage: str = ""


def _held(place: Path) -> _Held:
    """Sizes each time; checksums of files whose inode, times or size changed since they last passed."""
    try:
        facts = SpaceFacts.load((place / FACTS).read_bytes())
    except FileNotFoundError:
        return _Held(damage=f"{FACTS}: missing" if place.is_dir() else "")
    except (OSError, ValueError) as error:
        return _Held(damage=f"{FACTS}: {error}")
    passed = _passed(place)
    marks: dict[str, list[int | str]] = {}
    for name, seal in facts.seals.items():
        try:
            mark = _mark(place / name, seal)
            if passed.get(name) != mark and seal_of(place / name) != seal:
                return _Held(damage=f"{name}: not as it was made")
        except OSError as error:
            return _Held(damage=f"{name}: {error.strerror}")
        marks[name] = mark
    if marks != passed:
        with contextlib.suppress(OSError):  # in a folder that cannot be written they are read every time
            write_atomically(place / CHECKED, json.dumps(marks).encode(), sync=False)
    return _Held(facts)


def _opened(place: Path, facts: SpaceFacts) -> Space | None:
    """None where the files are no longer those of `facts`: another process has just put a new space in their place."""
    origin = facts.origin
    try:
        vectors = Vectors(place / VECTORS, origin.rows, origin.dim, origin.shard_rows)
        vectors.hold()
        space = Space(facts, vectors, DenseIndex.open(place / DENSE, facts.dense, vectors))
        return space if SpaceFacts.load((place / FACTS).read_bytes()) == facts else None
    except (LookaheadError, OSError, ValueError):
        return None


def _passed(place: Path) -> dict[str, Any]:
    try:
        raw = json.loads((place / CHECKED).read_bytes())
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _mark(path: Path, seal: FileSeal) -> list[int | str]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, seal.sha256]


def _own_seal(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


# -- making one ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _turn(place: Path, quiet: bool) -> Iterator[None]:
    """One process at a time; the second waits, and will find what the first has made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f".{place.name}.turn").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is making {place}; waiting for it", quiet=quiet)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made(place: Path, wanted: Origin, searcher: Searcher, model: Model, tower: CompiledTower, quiet: bool) -> Space:
    """The space in its place, made unless that was done while waiting for a turn."""
    held = _held(place)
    before = held.facts
    if before is not None and before.origin == wanted:
        opened = _opened(place, before)
        if opened is not None:
            return opened
        held = _Held(damage="its files are not what it says")
        before = None
    if held.damage:
        warnings.warn(f"the space {place} is damaged ({held.damage}) and is made again", DamageWarning, stacklevel=3)
    why = _why(before, wanted, held.damage)
    if before is not None and not _extends(before.origin, wanted):
        before = None
    act = "building" if before is None else "extending"
    collection = searcher.generation.path.parent.name
    say(f"{act} the space of model {model.name} for {collection}, {wanted.rows:,} chunks: {why}", quiet=quiet)
    with making(place.parent, place.name, restart=True) as fresh:
        grows = _write_vectors(fresh, place, wanted, before, searcher.vectors, tower, quiet)
        vectors = Vectors(fresh / VECTORS, wanted.rows, wanted.dim, wanted.shard_rows)
        grown_from = (place / DENSE, before.dense) if before is not None and grows else None
        probes = _probes(searcher, model, vectors)
        with bar("indexing passages", wanted.rows, "chunks", quiet=quiet) as shown:
            facts = dense.build(
                vectors, fresh / DENSE, probes, memory=MEMORY, grown_from=grown_from, progress=shown.update
            )
        _seal(fresh, wanted, facts)
    found = _held(place).facts
    opened = None if found is None else _opened(place, found)
    if opened is None:
        raise LookaheadError(f"{place} was damaged as it was written; check the disk, and type it again")
    return opened


def _why(before: SpaceFacts | None, wanted: Origin, damage: str) -> str:
    if damage:
        return "the one there is damaged"
    if before is None:
        return "there is none yet"
    if before.origin.tower != wanted.tower:
        return "the one there is of another P tower"
    if before.origin.generation == wanted.generation:
        return f"the one there is of another {wanted.generation}"
    return f"the one there is of {before.origin.generation}, and {wanted.generation} is current"


def _extends(before: Origin, wanted: Origin) -> bool:
    """Whether anything of an earlier space can be of use."""
    return (before.tower, before.dim, before.shard_rows) == (wanted.tower, wanted.dim, wanted.shard_rows)


def _write_vectors(
    fresh: Path,
    place: Path,
    wanted: Origin,
    before: SpaceFacts | None,
    source: Vectors,
    tower: CompiledTower,
    quiet: bool,
) -> bool:
    """Every shard: linked from `place` where its source is the same, and computed elsewhere. Whether the rows of the
    space `before` are the first rows of this one."""
    (fresh / VECTORS).mkdir()
    old = None if before is None else before.origin
    grows = old is not None and old.rows <= wanted.rows
    with bar("P tower", wanted.rows, "chunks", quiet=quiet) as shown:
        for number, seal in enumerate(wanted.sources):
            path, had = fresh / VECTORS / shard_name(number), place / VECTORS / shard_name(number)
            first, count = number * wanted.shard_rows, wanted.rows_in(number)
            held = 0 if old is None else old.rows_in(number)
            if old is not None and held == count and old.sources[number] == seal:
                link_or_copy(had, path)
                if not shown.disable:
                    shown.initial = getattr(shown, "initial", 0) + count  # what was there must not flatter the rate
            else:
                write_shard(path, _through(tower, source.between(first, first + count)))
                if held and grows:
                    now = read_shard(path, count, wanted.dim)[:held]
                    grows = np.array_equal(now, read_shard(had, held, wanted.dim))
            shown.update(count)
    return grows


def _through(tower: CompiledTower, rows: Floats) -> Floats:
    """The tower's passages (n, D) for chunks' vectors (n, D) of any length."""
    out = np.empty_like(rows)
    for start in range(0, len(rows), _BLOCK):
        some = normalised(rows[start : start + _BLOCK])
        block = np.zeros((_BLOCK, rows.shape[1]), dtype=np.float32)
        block[: len(some)] = some
        out[start : start + len(some)] = tower.passages(block)[: len(some)]
    return out


def _probes(searcher: Searcher, model: Model, passages: Vectors) -> Floats:
    """What will be asked: predictions for some contexts of the collection; some passages where it has no context."""
    rng = np.random.default_rng(0)
    sequences = Sequences(searcher.store.articles(), searcher.vectors)
    windows = sequences.windows(1)
    if not len(windows):
        return passages.gather(np.sort(rng.choice(len(passages), min(_PROBES, len(passages)), replace=False)))
    drawn = np.sort(rng.choice(len(windows), min(_PROBES, len(windows)), replace=False))
    return CompiledPredictor.open(model.folder).predict(*sequences.contexts(windows[drawn]))


def _seal(fresh: Path, origin: Origin, facts: DenseFacts) -> None:
    """Writes space.json, last of all, when everything it speaks of is on the disk."""
    shards = [f"{VECTORS}/{shard_name(number)}" for number in range(len(origin.sources))]
    seals = {name: seal_of(fresh / name) for name in [*shards, DENSE]}
    marks = {name: _mark(fresh / name, seal) for name, seal in seals.items()}
    for path in (fresh / DENSE, fresh / VECTORS):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    write_atomically(fresh / CHECKED, json.dumps(marks).encode(), sync=False)
    write_atomically(fresh / FACTS, SpaceFacts(origin, facts, seals).dump())
