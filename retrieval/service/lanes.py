"""A bounded line in front of a worker thread or two: whoever waits while they are busy is answered in their next batch.

It does not know what is asked or how it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from retrieval.service.meters import Meters
from retrieval.service.problems import Problem

In = TypeVar("In")
Out = TypeVar("Out")
_NEW = 0.2  # how much the latest batch counts in the seconds an item takes


@dataclass(slots=True, eq=False)
class _Place(Generic[In, Out]):
    """One asker in the line. `told` is set on the event loop only, and is done as soon as the asker has gone."""

    item: In
    until: float  # time.monotonic()
    told: asyncio.Future[Out | Exception]


class Lane(Generic[In, Out]):
    """`work` gets 1 … `batch` items in one of the lane's own threads and returns a result or an exception for each, in
    order. If it raises instead, its items are worked on one by one, so that only the one at fault hears of it.

    With two `threads` one may hold Python's lock while the other computes without it; `work` is then called by both.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[In]], list[Out | Exception]],
        waiting: int,
        batch: int,
        meters: Meters | None = None,
        threads: int = 1,
    ) -> None:
        self.name = name
        self._work = work
        self._waiting = waiting
        self._batch = batch
        self._meters = meters
        self._threads = threads
        self._line: deque[_Place[In, Out]] = deque()
        self._turn = threading.Condition()  # guards the line and `_open`
        self._open = False
        self._seconds = 0.0  # an item's, lately
        if meters is not None:
            meters.watch_lane(name, lambda: len(self._line))

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._open = True
        # a daemon, so that a second Ctrl-C ends the program even while something endless is worked on
        self._workers = [
            threading.Thread(target=self._run, name=f"lane {self.name}", daemon=True) for _ in range(self._threads)
        ]
        for worker in self._workers:
            worker.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets what is begun end; those who still wait are refused."""
        with self._turn:
            self._open = False
            left = list(self._line)
            self._line.clear()
            self._turn.notify_all()
        for place in left:
            _tell(place, _closing())
        for worker in self._workers:
            await self._loop.run_in_executor(None, worker.join)

    async def ask(self, item: In, deadline: float) -> Out:
        """The result for one item, or its exception raised; Problem 429 when the line is full, 504 after `deadline`
        seconds, 503 while the lane is closed. Only on the event loop that opened the lane."""
        place: _Place[In, Out] = _Place(item, time.monotonic() + deadline, asyncio.get_running_loop().create_future())
        with self._turn:
            if not self._open:
                raise _closing()
            length = len(self._line)
            if length < self._waiting:
                self._line.append(place)
                self._turn.notify()
        if length >= self._waiting:
            if self._meters is not None:
                self._meters.lane_refused(self.name)
            raise Problem(
                429, f"{length} others are waiting already; try again in a while", retry_after=self.retry_after(length)
            )
        try:
            async with asyncio.timeout(deadline):
                outcome = await place.told
        except TimeoutError:
            raise too_late(deadline) from None
        finally:
            if place.told.cancelled():
                self._leave(place)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def retry_after(self, length: int) -> int:
        """Seconds until `length` items will have been worked on, at the pace of late; at least 1."""
        return max(1, math.ceil(length * self._seconds))

    def _leave(self, place: _Place[In, Out]) -> None:
        with self._turn, contextlib.suppress(ValueError):  # it may be worked on just now
            self._line.remove(place)

    # -- in the lane's threads -----------------------------------------------------------------------------

    def _run(self) -> None:
        while places := self._next():
            begun = time.perf_counter()
            outcomes = self._answered([place.item for place in places])
            each = (time.perf_counter() - begun) / len(places)
            self._seconds = each if not self._seconds else _NEW * each + (1 - _NEW) * self._seconds
            with contextlib.suppress(RuntimeError):  # the loop was closed under us: nobody waits any more
                self._loop.call_soon_threadsafe(_tell_all, places, outcomes)

    def _next(self) -> list[_Place[In, Out]]:
        """Waits for askers, and takes as many as a batch may have; none when the lane is closed."""
        while True:
            with self._turn:
                while self._open and not self._line:
                    self._turn.wait()
                if not self._open:
                    return []
                taken = [self._line.popleft() for _ in range(min(self._batch, len(self._line)))]
            now = time.monotonic()
            wanted = [place for place in taken if place.until > now and not place.told.done()]
            if wanted:
                if self._meters is not None:
                    self._meters.lane_batch(self.name, len(wanted))
                return wanted

    def _answered(self, items: list[In]) -> list[Out | Exception]:
        try:
            outcomes = self._work(items)
            assert len(outcomes) == len(items), f"{len(outcomes)} answers to {len(items)} questions"
        except Exception as error:
            return [error] if len(items) == 1 else [self._answered([item])[0] for item in items]
        return outcomes


def too_late(deadline: float) -> Problem:
    return Problem(504, f"no answer within {deadline:g} seconds; try again, or ask for less")


def _tell_all(places: list[_Place[In, Out]], outcomes: list[Out | Exception]) -> None:
    for place, outcome in zip(places, outcomes, strict=True):
        _tell(place, outcome)


def _tell(place: _Place[In, Out], outcome: Out | Exception) -> None:
    if not place.told.done():
        place.told.set_result(outcome)


def _closing() -> Problem:
    return Problem(503, "the service is not open, or about to end; try again in a while", retry_after=1)
