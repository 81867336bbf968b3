"""What takes longer than a request may: made once and beside the requests, which are told to come back.

It does not know what is made, nor how one sees that it is there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from retrieval.service.problems import Problem, one_line
from store.records import LookaheadError

AGAIN = 60.0  # seconds until what could not be made is tried again
_log = logging.getLogger("lookahead.service")


@dataclass(slots=True)
class _Making:
    """`failed` is when it did, by the monotonic clock; None while it is being made."""

    began: float
    failed: float | None = None


class Preparing:
    """Makes one thing at a time, in threads that keep nobody from ending the program: what is made must be whole or not
    there at all, whenever that is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for the dictionary
        self._turn = threading.Lock()  # for the making
        self._makings: dict[Hashable, _Making] = {}

    def ask(self, key: Hashable, what: str, seconds: float, make: Callable[[], object]) -> Problem:
        """The 503 for whoever needs what is not there: `what` are words such as "the encoder fast", `seconds` how long
        it is likely to take. The first who asks has it made; when that failed, so has the first a minute later."""
        now = time.monotonic()
        with self._lock:
            making = self._makings.get(key)
            if making is None or (making.failed is not None and now - making.failed > AGAIN):
                making = self._makings[key] = _Making(now)
                threading.Thread(target=self._make, args=(key, what, make), name=what, daemon=True).start()
            began, failed = making.began, making.failed
        if failed is not None:
            said = f"{what} could not be made ready, the server's log says why; it is tried again in a minute"
            return Problem(503, said, retry_after=max(1, round(failed + AGAIN - now)))
        wait = max(1, round(min(AGAIN, max(began + seconds - now, seconds / 4))))
        return Problem(503, f"{what} is being made ready; ask again in some {wait} s", retry_after=wait)

    def _make(self, key: Hashable, what: str, make: Callable[[], object]) -> None:
        try:
            with self._turn:
                make()
        except Exception as error:  # whatever it is, it must not be tried again at once
            if isinstance(error, LookaheadError):
                _log.warning("%s could not be made ready: %s", what, one_line(str(error)))
            else:
                _log.exception("%s could not be made ready", what)
            with self._lock:
                self._makings[key].failed = time.monotonic()
        else:
            with self._lock:
                del self._makings[key]
