"""Encoders for requests, by their names: taken where they are open already, and else made ready beside the requests.

It does not know HTTP. A name is "bundled", "hashing", or a folder's among the encoders made here and those that came
with the program; students that failed are not among them. Nothing is fetched, and no path is followed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from index.conversion import convert_apart
from index.encoder import BUNDLED, HASHING, INT8, Encoder, Fingerprint, fingerprint_in, open_encoder, read_recipe
from index.hashing import HashingEncoder
from index.layout import ENCODER
from index.students import Status, encoder_names, encoders_folder, read_student, same_model, shipped_encoders
from index.twin import only_twin, read_twin
from retrieval.service.lanes import Lane
from retrieval.service.meters import Meters
from retrieval.service.preparing import Preparing
from retrieval.service.problems import Problem, one_line
from retrieval.service.settings import Settings
from retrieval.service.shelf import Shelf
from store.generations import Generation
from store.records import LookaheadError

OPENED = 4  # that no collection has open
_TOGETHER = 8  # requests whose texts are encoded at once; 64 texts each take seconds
_ROOMS = "lookahead-encoders-"
_SECONDS = 10.0  # until one is ready: torch is loaded for it, in a process of its own
_log = logging.getLogger("lookahead.service")

Floats = NDArray[np.float32]
Key = tuple[str, int]  # the name, and when its folder last changed


@dataclass(frozen=True, slots=True)
class _Wish:
    name: str
    texts: tuple[str, ...]
    as_query: bool


class Encoders:
    """All that embeds for requests in one service. `home` is where encoders made here are, in its folder encoders
    (None: where the served collections are).

    A model that a served collection was made with is that collection's encoder, at its precision; another is its twin
    in eight bits where nothing else is there, and else converted into a folder that is gone at the end.
    """

    def __init__(self, settings: Settings, meters: Meters | None, shelf: Shelf, home: Path | None = None) -> None:
        self._settings = settings
        self._shelf = shelf
        self._home = home
        self._preparing = Preparing()
        self._converted: dict[Key, Path] = {}
        self._room: tempfile.TemporaryDirectory[str] | None = None  # of which most services have no need
        self._opened: OrderedDict[Key, Encoder] = OrderedDict()  # in the lane's thread only
        self._lane: Lane[_Wish, Floats] = Lane("embed", self._answers, settings.waiting_slow, _TOGETHER, meters)

    async def __aenter__(self) -> Self:
        await self._lane.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lane.__aexit__(kind, error, trace)
        self._opened.clear()
        self._converted.clear()
        if self._room is not None:
            self._room.cleanup()

    def names(self) -> list[str]:
        """Those that may be asked for."""
        return [BUNDLED, HASHING, *self._folders()]

    def rows(self) -> list[dict[str, object]]:
        """For JSON: name, dim and fingerprint, which are null of one that is not open yet, and whether it is ready."""
        rows: list[dict[str, object]] = []
        folders: dict[str, Path | None] = {BUNDLED: None, HASHING: None, **self._folders()}
        for name, folder in folders.items():
            space = self._space(name, folder)
            rows.append(
                {
                    "name": name,
                    "dim": None if space is None else space.dim,
                    "fingerprint": None if space is None else str(space),
                    "ready": space is not None,
                }
            )
        return rows

    async def embed(self, name: str, texts: Sequence[str], as_query: bool = False) -> Floats:
        """Vectors (n, dim) of texts as documents, or as questions: what `encode` and `encode_queries` of that encoder
        give. A Problem for an unknown name, and for one that is not ready yet."""
        return await self._lane.ask(_Wish(name, tuple(texts), as_query), self._settings.deadline)

    # -- in the lane's thread ------------------------------------------------------------------------------

    def _answers(self, wishes: list[_Wish]) -> list[Floats | Exception]:
        """Texts for the same encoder are encoded together."""
        found: dict[int, Floats | Exception] = {}
        groups: dict[tuple[str, bool], list[int]] = {}
        for place, wish in enumerate(wishes):
            groups.setdefault((wish.name, wish.as_query), []).append(place)
        for (name, as_query), places in groups.items():
            texts = [text for place in places for text in wishes[place].texts]
            try:
                encoder = self._encoder(name)
                vectors = encoder.encode_queries(texts) if as_query else encoder.encode(texts)
            except (LookaheadError, Problem) as error:
                found.update(dict.fromkeys(places, error))
                continue
            start = 0
            for place in places:
                found[place] = vectors[start : start + len(wishes[place].texts)]
                start += len(wishes[place].texts)
        return [found[place] for place in range(len(wishes))]

    def _encoder(self, name: str) -> Encoder:
        if name == HASHING:
            return HashingEncoder()
        folder = self._folder(name)
        collection = self._served_with(_spec(name, folder))
        if collection is not None:
            with self._shelf.lease(collection) as lease:
                return lease.searcher.encoder  # which goes on working when its collection is closed
        key = (name, _stamp(folder))
        if key not in self._opened:
            place = self._place(name, folder)
            if place is None:
                raise self._preparing.ask(key, f"encoder {name}", _SECONDS, partial(self._convert, name, folder))
            try:
                if folder is not None and only_twin(str(folder)) is not None:
                    read_twin(place)  # compares checksums
                self._opened[key] = open_encoder(place)
            except LookaheadError as error:
                _log.warning("encoder %s cannot be opened: %s", name, one_line(str(error)))
                said = f"encoder {name} cannot be opened, the server's log says why; name another"
                raise Problem(503, said, retry_after=60) from error
            if len(self._opened) > OPENED:
                self._opened.popitem(last=False)
        self._opened.move_to_end(key)
        return self._opened[key]

    # -- in any thread -------------------------------------------------------------------------------------

    def _convert(self, name: str, folder: Path | None) -> None:
        if self._room is None:
            _remove_rooms_of_the_killed()
            self._room = tempfile.TemporaryDirectory(prefix=f"{_ROOMS}{os.getpid()}-", ignore_cleanup_errors=True)
        key = (name, _stamp(folder))
        place = Path(tempfile.mkdtemp(dir=self._room.name))
        convert_apart(_spec(name, folder), place, device="cpu", note=_log.info)
        self._converted[key] = place

    def _folders(self) -> dict[str, Path]:
        """Where each encoder made here or shipped is, but for students that failed or whose verdict cannot be read."""
        home = self._at_home()
        places = [*([encoders_folder(home)] if home is not None else []), shipped_encoders()]
        found: dict[str, Path] = {}
        for name in encoder_names(home) if home is not None else _folders_in(shipped_encoders()):
            folder = next((place / name for place in places if (place / name).is_dir()), None)
            if name in (BUNDLED, HASHING) or folder is None:
                continue
            try:
                student = read_student(folder)
            except LookaheadError:
                continue
            if student is None or student.status is not Status.FAILED:
                found[name] = folder
        return found

    def _folder(self, name: str) -> Path | None:
        """None for the bundled one; a Problem for a name of none."""
        if name == BUNDLED:
            return None
        folders = self._folders()
        if name not in folders:
            raise Problem(
                404, f'there is no encoder "{one_line(name)[:60]}" here; there are: {", ".join(self.names())}'
            )
        return folders[name]

    def _at_home(self) -> Path | None:
        if self._home is None:
            for name in self._shelf.names():
                try:
                    with self._shelf.lease(name) as lease:
                        collections = lease.published.path.parent.parent
                except Problem:
                    continue
                if collections.name == "collections":
                    self._home = collections.parent
                    break
        return self._home

    def _served_with(self, spec: str) -> str | None:
        """The name of a collection that was made with that model as it is now; full precision before eight bits, the
        default collection before others."""
        found: list[tuple[bool, str]] = []
        for name in dict.fromkeys([self._shelf.default, *self._shelf.names()]):
            try:
                with self._shelf.lease(name) as lease:
                    if _was_made_with(lease.published, spec):
                        found.append((lease.fingerprint.precision == INT8, name))
            except (Problem, LookaheadError, OSError):
                continue
        return min(found, key=lambda one: one[0])[1] if found else None

    def _place(self, name: str, folder: Path | None) -> Path | None:
        """An encoder folder that can be opened at once: the twin in eight bits where that is all there is, or what was
        converted."""
        if folder is not None and (twin := only_twin(str(folder))) is not None:
            return twin
        return self._converted.get((name, _stamp(folder)))

    def _space(self, name: str, folder: Path | None) -> Fingerprint | None:
        """Of an encoder that is ready."""
        if name == HASHING:
            return HashingEncoder().fingerprint
        collection = self._served_with(_spec(name, folder))
        try:
            if collection is not None:
                with self._shelf.lease(collection) as lease:
                    return lease.fingerprint
            place = self._place(name, folder)
            return None if place is None else fingerprint_in(place)
        except (Problem, LookaheadError):
            return None


def _remove_rooms_of_the_killed() -> None:
    """What services left that could not clean up; a number that another process has by now keeps its room."""
    for room in Path(tempfile.gettempdir()).glob(f"{_ROOMS}*-*"):
        number = room.name.removeprefix(_ROOMS).partition("-")[0]
        with contextlib.suppress(OSError, ValueError):
            if room.lstat().st_uid == os.getuid() and not room.is_symlink() and not _runs(int(number)):
                shutil.rmtree(room, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _spec(name: str, folder: Path | None) -> str:
    return name if folder is None else str(folder.resolve())


def _folders_in(folder: Path) -> list[str]:
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted(path.name for path in there if path.is_dir() and not path.name.startswith("."))


def _stamp(folder: Path | None) -> int:
    """Changes when a model is made anew; that of the bundled one never does."""
    try:
        return 0 if folder is None else folder.stat().st_mtime_ns
    except OSError:
        return -1


def _was_made_with(published: Generation, spec: str) -> bool:
    """Whether the generation's encoder is that model, and the model was not made anew since."""
    try:
        recipe = read_recipe(published.path / ENCODER)
    except LookaheadError:  # its folder has just lost its name (a roll back, gc); what is open goes on encoding
        recipe = published.manifest.facts["encoder"]
    if not same_model(str(recipe.get("spec", recipe.get("kind"))), spec):
        return False
    made = datetime.fromisoformat(published.manifest.created).timestamp()
    return spec == BUNDLED or Path(spec).stat().st_mtime <= made + 1
