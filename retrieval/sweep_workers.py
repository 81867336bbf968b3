"""A process for each piece of work, as many at a time as cores and memory allow.

It does not know what the work is, nor its result: work leaves that in a file. A process ends with its parent, and one
that dies costs its own piece of work only.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_KEPT_FREE = 0.2  # of the memory that is free: an estimate is one


@dataclass(frozen=True, slots=True)
class Room:
    """What a sweep may take of the machine: bytes all told, and how many processes of how many threads."""

    memory: int
    workers: int
    threads: int

    @classmethod
    def here(cls, needs: Sequence[int], workers: int | None) -> Room:
        """For work that needs so many bytes each; without `workers` as many as there are cores, work and room."""
        cores, memory = os.cpu_count() or 1, int((1 - _KEPT_FREE) * free_memory())
        if workers is None:
            largest = sorted(needs, reverse=True)
            fitting = sum(sum(largest[: many + 1]) <= memory for many in range(len(largest)))
            workers = max(1, min(cores, fitting))
        return cls(memory, workers, max(1, cores // workers))


def ended(work: Callable[[T], object], items: Sequence[T], needs: Sequence[int], room: Room) -> Iterator[tuple[T, str]]:
    """Each item when the process that worked on it has ended, with how it died, "" when it did not.

    They start in the order given, one that must wait for memory after others that need not. One alone is started
    whatever it needs. `work` is called as it is where there is one worker.
    """
    if room.workers == 1:
        for item in items:
            work(item)
            yield item, ""
        return
    waiting = list(range(len(items)))
    running: dict[int, SpawnProcess] = {}
    try:
        while waiting or running:
            for number in list(waiting):
                left = room.memory - sum(needs[other] for other in running)
                if len(running) < room.workers and (not running or needs[number] <= left):
                    running[number] = _started(work, items[number], room.threads)
                    waiting.remove(number)
            wait([process.sentinel for process in running.values()])
            for number in [number for number, process in running.items() if not process.is_alive()]:
                process = running.pop(number)
                process.join()
                code = process.exitcode
                process.close()
                if code in _DISK:
                    raise OSError(code, os.strerror(code))
                died = f"was killed by signal {-code}" if code and code < 0 else f"ended with code {code}"
                yield items[number], f"its process {died}" if code else ""
    finally:
        for process in running.values():
            process.kill()
            process.join()


def free_memory() -> int:
    """Bytes that can be had without swapping; half of what there is where the system does not say (macOS)."""
    told = Path("/proc/meminfo")
    if not told.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    lines = dict(line.split(":", 1) for line in told.read_text().splitlines())
    free = 1024 * int(lines["MemAvailable"].split()[0])
    most, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or "max": no bound of its own
        free = min(free, int(most.read_text()) - int(used.read_text()))
    return max(0, free)


def _started(work: Callable[[T], object], item: T, threads: int) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=_alone, args=(work, item), daemon=True)
    with _environment("OMP_NUM_THREADS", str(threads)):  # read when torch is loaded, which may be before `_alone` runs
        process.start()
    return process


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _alone(work: Callable[[T], object], item: T) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(item)
    except OSError as error:  # a full disk is the sweep's trouble, not one training's
        if error.errno not in _DISK:
            raise
        sys.exit(error.errno)
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # torch and duckdb in one process tell of "leaked" types at its end


def _end_with_parent() -> None:
    """An orphan would write into the folder of the sweep that goes on in its place."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
