"""The collections that are served: open, lent out, and exchanged for newer generations without losing a request.

It knows neither HTTP nor what a searcher is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from index.encoder import Fingerprint
from retrieval.search import Searcher, collection_at
from retrieval.service.problems import AWAY, Problem, one_line
from store.generations import Collection, Generation
from store.records import LookaheadError, Unreachable

AGAIN = 30.0  # seconds until what could not be opened is tried again, should CURRENT not change before
_log = logging.getLogger("lookahead.service")

Mark = tuple[int, int, int] | None
Listener = Callable[[str, str], object]


class Lease:
    """A searcher for as long as it is needed; to be given back, from whichever thread."""

    def __init__(self, shelf: Shelf, opened: _Opened) -> None:
        self._shelf = shelf
        self._opened = opened
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    @property
    def name(self) -> str:
        """The collection's."""
        return self._opened.name

    @property
    def generation(self) -> str:
        """Its name. After a roll back another may come by the same: tell two apart by their searchers."""
        return self._opened.searcher.generation.manifest.name

    @property
    def published(self) -> Generation:
        """What is known without anything being loaded."""
        return self._opened.searcher.generation

    @property
    def fingerprint(self) -> Fingerprint:
        """The space of the collection's vectors."""
        return self._opened.searcher.fingerprint

    @property
    def searcher(self) -> Searcher:
        """Warm. Right after the start it is waited for, so this is not for the event loop."""
        return self._shelf._warmed(self._opened)

    def again(self) -> Lease:
        """A second lease on the same, for a thread that may outlive the first; a Problem when that is over."""
        return self._shelf._again(self, self._opened)

    def give_back(self) -> None:
        """More than once is once."""
        self._shelf._give_back(self, self._opened)


@dataclass(slots=True, eq=False)
class _Opened:
    """One generation. `users` are leases, and the shelf itself as long as it lends it; the last one closes it."""

    name: str
    searcher: Searcher
    owned: bool = True
    warm: bool = False
    users: int = 1
    warming: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True, eq=False)
class _Place:
    """A collection on the shelf: what is lent, how CURRENT looked when that was opened, what is wrong if anything."""

    name: str
    collection: Collection | None  # None for a searcher that was handed over
    opened: _Opened | None = None
    mark: Mark = None
    fault: str = ""
    failed: bool = True  # not opened, rather than served with a fault
    tried: float = -math.inf


class Shelf:
    """Open collections by name. Any thread may take a lease and give one back."""

    def __init__(self, places: Sequence[_Place], default: str, home: Path | None = None) -> None:
        self.default = default
        self._home = home
        self._places = {place.name: place for place in places}
        self._lock = threading.Lock()  # for every field of the above; held for no longer than it takes to set them
        self._thread = ThreadPoolExecutor(1, "shelf")  # opens, warms, and closes
        self._listeners: list[Listener] = []
        self._open = sum(place.opened is not None for place in places)
        self._closed = False

    @classmethod
    def open(cls, home: Path, names: Sequence[str], default: str) -> Self:
        """The collections of those names. One that cannot be opened does not keep the others from being served:
        `faults` says why, and it is tried again. Nothing is loaded yet."""
        if default not in names:
            raise LookaheadError(f'the default collection "{default}" is not among those served: {", ".join(names)}')
        places = [_Place(name, collection_at(home, name)) for name in dict.fromkeys(names)]
        shelf = cls(places, default, home)
        for place in places:
            shelf._refresh(place, warm=False)
        return shelf

    @classmethod
    def holding(cls, searcher: Searcher) -> Self:
        """One open searcher, under the name of its collection's folder. It is not watched, and stays its owner's to
        close."""
        name = searcher.generation.path.parent.name
        return cls([_Place(name, None, _Opened(name, searcher, owned=False))], name)

    def names(self) -> list[str]:
        """All that were asked for, those that cannot be opened too."""
        return list(self._places)

    def faults(self) -> dict[str, str]:
        """What is wrong, in a sentence, by the collection's name; one that is named here may be served all the same,
        from an older generation."""
        with self._lock:
            return {place.name: place.fault for place in self._places.values() if place.fault}

    def served(self) -> list[str]:
        """Names of those that answer at once."""
        with self._lock:
            return [place.name for place in self._places.values() if place.opened is not None and place.opened.warm]

    def ready(self) -> bool:
        """Whether the default collection answers at once, and all others do or cannot."""
        with self._lock:
            if self._closed:
                return False
            warm = {name: place.opened is not None and place.opened.warm for name, place in self._places.items()}
            return warm[self.default] and all(warm[name] or place.fault for name, place in self._places.items())

    def lease(self, name: str | None = None) -> Lease:
        """On the collection of that name, or on the default one. Quick: nothing is loaded here."""
        place = self._places.get(self.default if name is None else name)
        if place is None:
            asked = one_line(str(name))[:60]
            raise Problem(404, f'there is no collection "{asked}" here; there are: {", ".join(self._places)}')
        with self._lock:
            if self._closed:
                raise Problem(503, "the service is shutting down; ask again in a moment", retry_after=5)
            if place.opened is None:
                said = place.fault or f"{place.name} is being opened; ask again in a moment"
                raise Problem(503, said, retry_after=int(AGAIN) if place.fault else 1)
            place.opened.users += 1
            return Lease(self, place.opened)

    def open_generations(self) -> int:
        """Those that files and memory are held for."""
        with self._lock:
            return self._open

    def add_listener(self, listener: Listener) -> None:
        """It is told of (name, generation) that another has taken the place of, in the shelf's own thread. Until the
        leases it holds on that are given back, that stays open."""
        self._listeners.append(listener)

    @contextlib.asynccontextmanager
    async def kept_fresh(self, seconds: float) -> AsyncIterator[None]:
        """Warms what is there, beside the block, and every so many seconds looks whether CURRENT names another
        generation. At the end all is closed that nobody uses."""
        watching = asyncio.create_task(self._watch(seconds))
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Lends nothing any more; what is on lease is closed when it comes back."""
        with self._lock:
            self._closed = True
            last = [place.opened for place in self._places.values() if place.opened is not None]
            for place in self._places.values():
                place.opened = None
        for opened in last:
            self._drop(opened)
        self._thread.shutdown()

    def refresh(self) -> None:
        """Opens, warms and lends what was published since the last look. Blocks; one thread at a time."""
        for place in self._places.values():
            self._refresh(place)

    # -- below ---------------------------------------------------------------------------------------------

    async def _watch(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await loop.run_in_executor(self._thread, self.refresh)
            await asyncio.sleep(seconds)

    def _refresh(self, place: _Place, *, warm: bool = True) -> None:
        try:
            if place.collection is not None and self._is_due(place, place.collection):
                place.mark, place.tried = _mark(place.collection), time.monotonic()  # first: it may change meanwhile
                self._exchange(place, *place.collection.newest_sound(), warm=warm)
            opened = place.opened
            if warm and opened is not None:
                self._warmed(opened)
        except Exception as error:  # whatever is wrong with a generation: what is open goes on answering
            if not isinstance(error, (LookaheadError, OSError, Problem)):
                _log.exception("opening %s", place.name)
            self._note(place, str(error) or type(error).__name__, failed=True)

    def _is_due(self, place: _Place, collection: Collection) -> bool:
        return _mark(collection) != place.mark or (place.failed and time.monotonic() - place.tried > AGAIN)

    def _exchange(self, place: _Place, generation: Generation, fault: str, *, warm: bool) -> None:
        """Lends this generation from now on, and no more the one before."""
        before = place.opened
        if before is None or before.searcher.generation.manifest != generation.manifest:
            now = _Opened(place.name, Searcher(generation))
            with self._lock:
                self._open += 1
            try:
                if warm:
                    self._warmed(now)
                with self._lock:
                    if self._closed:
                        raise Problem(503, "the service is shutting down")
                    place.opened = now
            except Exception:
                self._drop(now)
                raise
            if before is not None:
                _log.info("%s: %s in place of %s", place.name, generation.manifest.name, _generation(before))
                try:
                    for listener in self._listeners:
                        listener(place.name, _generation(before))
                finally:
                    self._drop(before)
        self._note(place, fault)

    def _note(self, place: _Place, fault: str, *, failed: bool = False) -> None:
        """Keeps what is wrong, and logs it once. What has failed and was never of use is lent no more."""
        told = self._told(fault)
        with self._lock:
            new, place.fault, place.failed = told not in ("", place.fault), told, failed
            useless = place.opened if failed and place.opened is not None and not place.opened.warm else None
            if useless is not None:
                place.opened = None
        if useless is not None:
            self._drop(useless)
        if new and not self._closed:
            _log.warning("%s", told)

    def _told(self, fault: str) -> str:
        """Without where on this machine it is."""
        return one_line(fault if self._home is None else fault.replace(f"{self._home}/", ""))

    def _warmed(self, opened: _Opened) -> Searcher:
        if not opened.warm:
            with opened.warming:
                if not opened.warm:
                    try:
                        opened.searcher.warm()
                        _ = opened.searcher.alive
                    except Unreachable as error:
                        _log.warning("%s: %s", opened.name, one_line(str(error)))
                        raise Problem(503, AWAY, retry_after=5) from error
                    except (LookaheadError, OSError) as error:
                        raise Problem(503, self._told(str(error)), retry_after=int(AGAIN)) from error
                    opened.warm = True
        return opened.searcher

    def _again(self, lease: Lease, opened: _Opened) -> Lease:
        with self._lock:
            if lease._over:
                raise Problem(503, "whoever asked has gone")
            opened.users += 1
            return Lease(self, opened)

    def _give_back(self, lease: Lease, opened: _Opened) -> None:
        with self._lock:
            over, lease._over = lease._over, True
        if not over:
            self._drop(opened)

    def _drop(self, opened: _Opened) -> None:
        """One user less; the last one has it closed, in the shelf's thread as long as that is there."""
        with self._lock:
            opened.users -= 1
            last = not opened.users
            self._open -= last
        if last and opened.owned:
            try:
                self._thread.submit(opened.searcher.close)
            except RuntimeError:  # it was shut down
                opened.searcher.close()


def _mark(collection: Collection) -> Mark:
    """What changes whenever CURRENT is replaced."""
    try:
        stat = (collection.path / "CURRENT").stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _generation(opened: _Opened) -> str:
    return opened.searcher.generation.manifest.name
