"""The service's log as JSON lines, written beside the answers: a slow disk or a paused reader never holds one up.

Questions are private: it is given paths and never what follows their question mark.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO

import orjson

REQUESTS = logging.getLogger("lookahead.requests")  # off until `logging_to` names a place for them
ERRORS = logging.getLogger("lookahead.errors")
_EVENTS = logging.getLogger("lookahead")  # ERRORS, and what the service's parts tell of themselves
_FOREIGN = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]  # what the libraries complain of
_TOGETHER = 0.05  # seconds of lines are written at once
_MOST = 10_000  # lines kept for a reader that does not take them; more are dropped and counted
_SHOWN = 200  # characters of a path or a browser's name


def log_request(
    request_id: str, client: str, method: str, path: str, status: int, seconds: float, sent: int, agent: str
) -> None:
    """One answered request; `sent` is its body's bytes."""
    if REQUESTS.isEnabledFor(logging.INFO):
        line = {
            "time": _now(),
            "id": request_id,
            "client": client,
            "method": method[:_SHOWN],
            "path": path[:_SHOWN],
            "status": status,
            "ms": round(seconds * 1000, 2),
            "bytes": sent,
            "agent": agent[:_SHOWN],
        }
        REQUESTS.info("%s", orjson.dumps(line).decode())


def log_error(request_id: str, method: str, path: str, error: BaseException) -> None:
    """A mistake of ours, with its traceback, in one line."""
    line = {
        "time": _now(),
        "level": "error",
        "id": request_id,
        "method": method[:_SHOWN],
        "path": path[:_SHOWN],
        "error": _encodable(f"{type(error).__name__}: {error}"[:1000]),
        "traceback": _encodable("".join(traceback.format_exception(error))),
    }
    ERRORS.error("%s", orjson.dumps(line).decode())


@contextlib.contextmanager
def logging_to(requests: BinaryIO | None) -> Iterator[None]:
    """Has requests written there, and everything else that is told, by us and by the libraries, to stderr."""
    events = logging.StreamHandler(sys.stderr)
    events.setFormatter(_JsonLine())
    with contextlib.ExitStack() as stack:
        stack.enter_context(_heard(_EVENTS, events, logging.INFO))
        for logger in _FOREIGN:
            stack.enter_context(_heard(logger, events, logging.ERROR))
        if requests is not None:
            journal = stack.enter_context(contextlib.closing(_Journal(requests)))
            stack.enter_context(_heard(REQUESTS, journal, logging.INFO))
        else:
            stack.enter_context(_heard(REQUESTS, logging.NullHandler(), logging.ERROR))
        yield


@contextlib.contextmanager
def _heard(logger: logging.Logger, handler: logging.Handler, level: int) -> Iterator[None]:
    before, logger.propagate = (logger.level, logger.propagate), False
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
        logger.setLevel(logger.level)  # what was cached of it is forgotten


class _Journal(logging.Handler):
    """Writes lines in a thread of its own."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() < _MOST:
            self._lines.put(record.getMessage())
        else:
            self._dropped += 1

    def close(self) -> None:
        self._lines.put(None)
        self._thread.join(timeout=1)  # a reader that takes nothing is not waited for
        super().close()

    def _run(self) -> None:
        ended = False
        while not ended:
            lines = [self._lines.get()]
            if lines[0] is not None:
                time.sleep(_TOGETHER)
            while not self._lines.empty():
                lines.append(self._lines.get())
            ended = None in lines
            if self._dropped:
                lines.append(f'{{"time":"{_now()}","dropped_lines":{self._dropped}}}')
                self._dropped = 0
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed pipe: answers matter more
                self._stream.write("".join(f"{line}\n" for line in lines if line is not None).encode())
                self._stream.flush()


class _JsonLine(logging.Formatter):
    """Ours are JSON already; a library's record becomes such a line."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == ERRORS.name:
            return record.getMessage()
        level = record.levelname.lower()
        line = {"time": _now(), "level": level, "message": _encodable(record.getMessage())}
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = _encodable("".join(traceback.format_exception(record.exc_info[1])))
        return orjson.dumps(line).decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _encodable(text: str) -> str:
    """Without half characters, which JSON cannot hold."""
    return text.encode("utf-8", "replace").decode()
