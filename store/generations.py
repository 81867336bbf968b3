"""Immutable generations of a collection: one writer, atomic publishing, checksums, fallback, roll back.

It knows files, sizes and checksums, and not what is in them. A generation is a folder that never changes once
CURRENT has named it; CURRENT is the commit.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from store.records import LookaheadError

FORMAT = 1
MANIFEST = "manifest.json"
_GENERATION = re.compile(r"gen-(\d{6,})")
_CURRENT = re.compile(rb"gen-(\d{6,}) ([0-9a-f]{64})\n")  # to the last byte: a flipped line end is damage too


class DamageWarning(UserWarning):
    """A published file is not what was published; an older generation is being served."""


@dataclass(frozen=True, slots=True)
class FileSeal:
    """What a file was when it was published."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation is made of. `files` are relative to its folder; `facts` is each maker's own record
    (encoder, chunking, dense index and its measured recall, …), opaque here."""

    number: int
    parent: int | None
    code_version: str
    created: str
    counts: dict[str, int]
    facts: dict[str, Any]
    files: dict[str, FileSeal] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def name(self) -> str:
        return generation_name(self.number)

    def dump(self) -> bytes:
        """JSON that carries its own checksum, so that a damaged manifest is found without CURRENT's help."""
        raw = asdict(self)
        sealed = {**raw, "self": _own_seal(raw)}
        return json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")

    @classmethod
    def load(cls, raw: bytes) -> Manifest:
        """Raises ValueError when it is not a manifest, was damaged, or is of a later format."""
        try:
            fields = json.loads(raw)
            seal = fields.pop("self")
            written_as = fields["format"]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError("not a manifest") from error
        if seal != _own_seal(fields):
            raise ValueError("its own checksum does not match")
        if written_as > FORMAT:
            raise ValueError(f"format {written_as} is newer than this program's {FORMAT}")
        try:
            manifest = cls(**{**fields, "files": {name: FileSeal(**held) for name, held in fields["files"].items()}})
        except (KeyError, TypeError) as error:
            raise ValueError("not a manifest of this format") from error
        if manifest.dump() != raw:  # white space counts too: a manifest has one spelling
            raise ValueError("not as it was written")
        return manifest


@dataclass(frozen=True, slots=True)
class Generation:
    """A published, checked folder."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Fault:
    """One damaged, missing or surplus file."""

    generation: str
    file: str
    what: str


class Collection:
    """A collection's folder: which generation is current, and who may write the next."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    # -- reading ------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether anything was ever published here."""
        return (self.path / "CURRENT").exists() or bool(self._numbers())

    def current(self, ignoring: Callable[[str], bool] = lambda _: False) -> Generation:
        """The newest sound generation. Falls back to the one before, with a DamageWarning, when files were damaged.

        Damage to files for which `ignoring` is true does not count.
        """
        generation, problem = self.newest_sound(ignoring)
        if problem:
            warnings.warn(problem, DamageWarning, stacklevel=2)
        return generation

    def newest_sound(self, ignoring: Callable[[str], bool] = lambda _: False) -> tuple[Generation, str]:
        """As `current`, but with the sentence of its warning (empty when all is well) and without the warning."""
        if not self.exists():
            raise LookaheadError(
                f"there is no collection at {self.path}; run: lookahead ingest SOURCE --collection NAME"
            )
        pointed, problem = self._pointed()
        if problem:  # what CURRENT says cannot be trusted; a generation's own manifest can
            pointed = None
        candidates = [
            number for number in sorted(self._numbers(), reverse=True) if pointed is None or number <= pointed
        ]
        for number in candidates:
            faults = [fault for fault in self._quick_faults(number) if not ignoring(fault.file)]
            if not faults:
                return self._load(number), f"{problem}; serving {generation_name(number)}" if problem else ""
            shown = f"{faults[0].file}: {faults[0].what}" + (f" and {len(faults) - 1} more" if faults[1:] else "")
            problem = problem or (
                f"{self.name}/{generation_name(number)} is damaged ({shown}); run: lookahead verify {self.name}"
            )
        raise LookaheadError(problem or f"{self.path} holds no generation; ingest again into another collection")

    def generations(self) -> list[Generation]:
        """All that are kept, oldest first, sound or not. One whose manifest cannot be read raises."""
        return [self._load(number) for number in self._numbers()]

    def unfinished(self) -> list[Path]:
        """Folders of builds that may go on."""
        return sorted(self.path.glob("build-*.tmp"))

    def verify(self, progress: Callable[[int], object] = lambda _: None) -> list[Fault]:
        """Reads every byte of every generation kept; `progress` hears of the bytes read."""
        pointed, problem = self._pointed()
        faults = [Fault("", "CURRENT", problem)] if problem else []
        for number in self._numbers():
            faults.extend(self._faults(number, pointed, progress))
        return faults

    def bytes_kept(self) -> int:
        """Bytes `verify` will read."""
        return sum(
            path.stat().st_size
            for number in self._numbers()
            for path in self._folder(number).rglob("*")
            if path.is_file()
        )

    # -- writing ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds LOCK; a second writer is told who has it. Completes a publish that was killed before its last step,
        so that inside the block CURRENT is the newest."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "LOCK").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                raise LookaheadError(f"{self.path} is being written by {holder}; wait for it to end") from error
            lock.seek(0)
            lock.truncate()
            lock.write(f"pid {os.getpid()} on {socket.gethostname()} since {_now()}")
            lock.flush()
            self._finish_publishing()
            yield

    @contextlib.contextmanager
    def helping(self) -> Iterator[None]:
        """Keeps writers out, and lets other helpers in."""
        with (self.path / "LOCK").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                raise LookaheadError(f"{self.path} is being written by another process; wait for it to end") from error
            yield

    def build_folder(self) -> Path:
        """Where the next generation is prepared: an unfinished build is found again, older ones are removed."""
        number = max(self._numbers(), default=0) + 1
        wanted = self.path / f"build-{number:06d}.tmp"
        for other in self.path.glob("build-*.tmp"):
            if other != wanted:
                shutil.rmtree(other)
        wanted.mkdir(exist_ok=True)
        return wanted

    def publish(
        self,
        build: Path,
        *,
        parent: int | None,
        code_version: str,
        counts: dict[str, int],
        facts: dict[str, Any],
        seals: Mapping[str, FileSeal] | None = None,
    ) -> Generation:
        """Seals the build's files, renames it into place and moves CURRENT; all or nothing at any moment. `seals` are
        those of files that were read once already."""
        number = max(self._numbers(), default=0) + 1
        before = self._load(parent).manifest.files if parent is not None else {}
        files: dict[str, FileSeal] = {}
        for name in _files_below(build):
            kept = before.get(name)
            if kept is not None and parent is not None and _same_inode(build / name, self._folder(parent) / name):
                files[name] = kept  # a hard link: sealed and synced when it was first published
            else:
                files[name] = (seals or {}).get(name) or seal_of(build / name)
                _sync(build / name)
        manifest = Manifest(number, parent, code_version, _now(), counts, facts, files)
        (build / MANIFEST).write_bytes(manifest.dump())
        _sync(build / MANIFEST)
        for folder in {build, *(path for path in build.rglob("*") if path.is_dir())}:
            _sync(folder)
        os.rename(build, self._folder(number))
        _sync(self.path)
        self._point_to(number)
        return self._load(number)

    def roll_back(self, refuse: Callable[[Generation], object] = lambda _: None) -> Generation:
        """Makes the generation before the one CURRENT names current again; the newer one is removed. `refuse` raises
        where that one is not to be gone back to."""
        pointed, _ = self._pointed()
        now = max(self._numbers(), default=0) if pointed is None else pointed
        older = [number for number in self._numbers() if number < now]
        if not older:
            raise LookaheadError(f"{self.path} keeps no generation before {generation_name(now)}")
        for fault in self._quick_faults(older[-1]):
            raise LookaheadError(
                f"{self.name}/{fault.generation} is damaged ({fault.file}: {fault.what}) and cannot be served"
            )
        refuse(self._load(older[-1]))
        gone = []
        for number in self._numbers():
            if number > older[-1]:  # away before CURRENT moves, or the next writer would take it for an unnamed publish
                gone.append(self._set_aside(self._folder(number)))
        self._point_to(older[-1])
        for folder in gone:
            shutil.rmtree(folder)
        return self._load(older[-1])

    def collect_garbage(self, keep: int = 2) -> list[str]:
        """Removes all but the newest `keep` sound generations and every unfinished build; names what went.

        What is newer than the newest sound one stays: it may be mended.
        """
        pointed, _ = self._pointed()
        published = [number for number in self._numbers() if pointed is None or number <= pointed]
        sound = [number for number in reversed(published) if not self._quick_faults(number)][: max(keep, 1)]
        gone = [self._folder(number) for number in published if sound and number < sound[0] and number not in sound]
        gone += sorted(self.path.glob("build-*.tmp"))
        for folder in gone:
            self._remove(folder)
        return [folder.name for folder in gone]

    def drop_damaged(self) -> list[str]:
        """Removes the damaged generations that a sound, newer one has replaced; names what went."""
        newest = self.current().manifest.number
        gone = [number for number in self._numbers() if number < newest and self._quick_faults(number)]
        for number in gone:
            self._remove(self._folder(number))
        return [generation_name(number) for number in gone]

    # -- below ---------------------------------------------------------------------------------------------

    def _remove(self, folder: Path) -> None:
        """Under another name first: a kill must not leave half a generation that looks like one."""
        shutil.rmtree(self._set_aside(folder))

    def _set_aside(self, folder: Path) -> Path:
        """The folder under a name that no build takes up again and every later one removes."""
        going = folder.with_name(f"build-{folder.name.removesuffix('.tmp')}.tmp")
        shutil.rmtree(going, ignore_errors=True)
        os.rename(folder, going)
        return going

    def _folder(self, number: int) -> Path:
        return self.path / generation_name(number)

    def _numbers(self) -> list[int]:
        """Numbers of the generation folders, ascending."""
        if not self.path.is_dir():
            return []
        matches = (_GENERATION.fullmatch(path.name) for path in self.path.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def _pointed(self) -> tuple[int | None, str]:
        """The number CURRENT names (None when it cannot be read) and what is wrong with it, if anything."""
        try:
            match = _CURRENT.fullmatch((self.path / "CURRENT").read_bytes())
        except OSError:
            match = None
        if match is None:
            return None, f"{self.path / 'CURRENT'} is unreadable"
        number = int(match[1])
        try:
            held = hashlib.sha256((self._folder(number) / MANIFEST).read_bytes()).hexdigest()
        except OSError:
            return number, f"{self.name}/{generation_name(number)} is missing"
        if held != match[2].decode():
            return number, f"{self.name}/{generation_name(number)}/{MANIFEST} is not the one CURRENT names"
        return number, ""

    def _point_to(self, number: int) -> None:
        held = hashlib.sha256((self._folder(number) / MANIFEST).read_bytes()).hexdigest()
        write_atomically(self.path / "CURRENT", f"{generation_name(number)} {held}\n".encode())

    def _finish_publishing(self) -> None:
        """A folder newer than CURRENT was renamed but not yet named: it is whole (all was synced before the rename).

        Where CURRENT was lost, a damaged folder may have been published: it is left alone.
        """
        pointed, _ = self._pointed()
        for number in self._numbers():
            if pointed is not None and number <= pointed:
                continue
            if not self._faults(number, None, lambda _: None):
                self._point_to(number)
            elif pointed is not None:
                self._remove(self._folder(number))

    def _load(self, number: int) -> Generation:
        folder = self._folder(number)
        try:
            return Generation(folder, Manifest.load((folder / MANIFEST).read_bytes()))
        except (OSError, ValueError) as error:
            raise LookaheadError(f"{folder / MANIFEST}: {error}; run: lookahead verify {self.name}") from error

    def _faults(self, number: int, pointed: int | None, progress: Callable[[int], object]) -> list[Fault]:
        name = generation_name(number)
        folder = self._folder(number)
        try:
            raw = (folder / MANIFEST).read_bytes()
            manifest = Manifest.load(raw)
        except (OSError, ValueError) as error:
            return [Fault(name, MANIFEST, str(error))]
        faults = []
        if pointed == number and self._pointed()[1]:
            faults.append(Fault(name, MANIFEST, "not the one CURRENT names"))
        for file, seal in manifest.files.items():
            what = _difference(folder / file, seal, progress)
            if what:
                faults.append(Fault(name, file, what))
        return faults + _surplus(folder, manifest)

    def _quick_faults(self, number: int) -> list[Fault]:
        """Sizes at every open; checksums only of files whose inode, times or size changed since they last passed."""
        name, folder = generation_name(number), self._folder(number)
        try:
            manifest = Manifest.load((folder / MANIFEST).read_bytes())
        except (OSError, ValueError) as error:
            return [Fault(name, MANIFEST, str(error))]
        passed = self._passed()
        known = passed[name] if isinstance(passed.get(name), dict) else {}
        marks: dict[str, list[int]] = {}
        faults = []
        for file, seal in manifest.files.items():
            mark = _mark(folder / file)
            if mark is not None and known.get(file) == [*mark, seal.sha256]:
                marks[file] = known[file]
                continue
            what = _difference(folder / file, seal, lambda _: None)
            if what:
                faults.append(Fault(name, file, what))
            elif mark is not None:
                marks[file] = [*mark, seal.sha256]  # type: ignore[list-item]
        if marks != known:
            kept = {other: passed[other] for other in passed if (self.path / other).is_dir()}
            with contextlib.suppress(OSError):  # a read-only folder is checked anew every time
                write_atomically(self.path / ".checked.json", json.dumps({**kept, name: marks}).encode(), sync=False)
        return faults + _surplus(folder, manifest)

    def _passed(self) -> dict[str, Any]:
        try:
            raw = json.loads((self.path / ".checked.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return raw if isinstance(raw, dict) else {}


def generation_name(number: int) -> str:
    return f"gen-{number:06d}"


def seal_of(path: Path, progress: Callable[[int], object] = lambda _: None) -> FileSeal:
    """Size and sha256 of a file."""
    state, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
            size += len(block)
            progress(len(block))
    return FileSeal(size, state.hexdigest())


def link_or_copy(source: Path, target: Path) -> None:
    """The same immutable file under a second name; a copy where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Either the old content or the new one is there, whatever happens."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        if sync:
            _sync(temporary)
        os.replace(temporary, path)
    except OSError:  # a full disk is not made fuller by half a file
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        _sync(path.parent)


def _own_seal(fields: dict[str, Any]) -> str:
    raw = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()  # a file's name need not be UTF-8


def _files_below(folder: Path) -> list[str]:
    """All but the manifest and the locks that readers leave."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST and not name.endswith(".lock"))


def _surplus(folder: Path, manifest: Manifest) -> list[Fault]:
    """Files that were not published: a log beside a database, say, would be read into it."""
    return [
        Fault(manifest.name, file, "was not published") for file in _files_below(folder) if file not in manifest.files
    ]


def _difference(path: Path, seal: FileSeal, progress: Callable[[int], object]) -> str:
    try:
        size = path.stat().st_size
        if size != seal.size:
            return f"{size} bytes, but {seal.size} were published"
        return "" if seal_of(path, progress) == seal else "its checksum changed"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return str(error)


def _mark(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _same_inode(one: Path, other: Path) -> bool:
    return other.exists() and os.path.samefile(one, other)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
