"""A few child processes that each work on one thing at a time, within bounds of time, memory and depth.

It does not know what the work is: a function that can be pickled, its argument and its result.

Children cannot outlive their parent: they end when its end of the pipe closes, `kill -9` included, and while they
are busy an alarm of their own ends them soon after their time is up.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from store.records import LookaheadError

T = TypeVar("T")
R = TypeVar("R")

_START = 60.0  # seconds that a child may take to start
_STARTS = 3  # children in a row that may die before they are ready
_READY = b"ready"


@dataclass(frozen=True, slots=True)
class Failure:
    """Work that was not done. `reason` is timeout, memory, depth or error."""

    reason: str
    detail: str


@dataclass(slots=True)
class Ticket(Generic[R]):
    """A claim on a result: `result` is None until the work is done or has failed."""

    result: R | Failure | None = None


@dataclass(slots=True)
class _Worker(Generic[R]):
    process: SpawnProcess
    pipe: Connection
    until: float  # when to give up on the start, or on the work it is at
    ready: bool = False
    ticket: Ticket[R] | None = None


class Pool(Generic[T, R]):
    """Workers for one function, started as they are needed; use it with `with`."""

    def __init__(self, function: Callable[[T], R], *, workers: int, seconds: float, megabytes: int) -> None:
        assert workers > 0
        self._function = function
        self._limit, self._seconds, self._megabytes = workers, seconds, megabytes
        self._workers: list[_Worker[R]] = []
        self._died_early = 0

    def __enter__(self) -> Pool[T, R]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in list(self._workers):
            self._remove(worker)

    def submit(self, item: T) -> Ticket[R]:
        """Hands the item to a worker, waiting for one to be free; the result comes through `wait`."""
        ticket = Ticket[R]()
        while ticket.result is None:
            self._collect(0)
            idle = next((worker for worker in self._workers if worker.ready and worker.ticket is None), None)
            if idle is not None:
                try:
                    idle.pipe.send(item)
                except OSError:  # it died in its sleep; another takes the item
                    self._remove(idle)
                    continue
                idle.ticket, idle.until = ticket, time.monotonic() + self._seconds
                break
            if len(self._workers) < self._limit and not any(not worker.ready for worker in self._workers):
                self._workers.append(self._started())
            self._collect(None)
        return ticket

    def wait(self, ticket: Ticket[R]) -> R | Failure:
        """The ticket's result, when it is there."""
        while ticket.result is None:
            self._collect(None)
        return ticket.result

    def _started(self) -> _Worker[R]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        limits = (self._function, theirs, self._seconds, self._megabytes)
        process = context.Process(target=_serve, args=limits, daemon=True)
        try:
            process.start()
        finally:
            theirs.close()
        return _Worker(process, ours, time.monotonic() + _START)

    def _collect(self, patience: float | None) -> None:
        """Takes in what the workers have sent, waiting for something to happen unless `patience` is 0."""
        busy = [worker for worker in self._workers if not worker.ready or worker.ticket is not None]
        if not busy:
            return
        left = max(0.0, min(worker.until for worker in busy) - time.monotonic())
        heard = wait([worker.pipe for worker in busy], left if patience is None else patience)
        for worker in busy:
            if worker.pipe in heard:
                self._receive(worker)
            elif time.monotonic() >= worker.until:
                self._give_up(worker, self._too_slow())

    def _too_slow(self) -> Failure:
        return Failure("timeout", f"more than {self._seconds:g} seconds")

    def _receive(self, worker: _Worker[R]) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(1)
            code = worker.process.exitcode
            if code == -signal.SIGALRM:
                self._give_up(worker, self._too_slow())
            elif code is not None and code < 0:
                self._give_up(worker, Failure("error", f"the worker process was killed by signal {-code}"))
            else:
                self._give_up(worker, Failure("error", f"the worker process ended with code {code}"))
            return
        if not worker.ready:
            worker.ready = True
            self._died_early = 0
        elif worker.ticket is not None:
            worker.ticket.result, worker.ticket = message, None
            if isinstance(message, Failure):
                self._remove(worker)  # what used up the memory or the depth may have left something behind

    def _give_up(self, worker: _Worker[R], failure: Failure) -> None:
        self._remove(worker)
        if worker.ticket is not None:
            worker.ticket.result = failure
        elif not worker.ready:
            self._died_early += 1
            if self._died_early >= _STARTS:
                raise LookaheadError(f"a worker process could not start ({failure.detail}); its own message is above")

    def _remove(self, worker: _Worker[R]) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        worker.process.close()


def _serve(function: Callable[[T], R], pipe: Connection, seconds: float, megabytes: int) -> None:
    """The child's life: take an item, send what the function makes of it, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    _bound_memory(megabytes)
    pipe.send(_READY)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_REAL, seconds * 1.5 + 1)  # for when the parent is not there to end it
        result: R | Failure
        try:
            result = function(item)
        except MemoryError:
            result = Failure("memory", f"more than {megabytes} MB")
        except RecursionError as error:
            result = Failure("depth", str(error))
        except Exception as error:  # the bound of this process: whatever the work raises costs only this item
            result = Failure("error", f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            pipe.send(result)
        except OSError:
            return


def _bound_memory(megabytes: int) -> None:
    """Lets this process take so much memory on top of what it has.

    Where the system knows no such bound (macOS), the bound of time alone counts.
    """
    mapped = 0
    statm = Path("/proc/self/statm")
    if statm.exists():
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
    bound = mapped + megabytes * 1024 * 1024
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
