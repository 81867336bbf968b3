"""What a service allows itself and its callers: limits, deadlines, the key. It reads neither files nor environment."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_QUERY = 2_000  # characters
MOST_RESULTS = 100
LONGEST_TITLE = 500  # characters, of a title or heading that is asked for
MOST_FILTERS = 100  # values of one filter
MOST_TEXTS = 64  # of one embed call
LONGEST_TEXT = 100_000  # characters of each; an encoder reads a few hundred words
LARGEST_BODY = 1 << 20  # bytes
PORT = 8765


@dataclass(frozen=True, slots=True)
class Settings:
    """How a service runs. Seconds, unless said otherwise.

    `deadline` is for a whole request, `patience` for a client to send its headers, and its body after them. `waiting`
    questions at most stand in line for the search lane, of which up to `batch` are answered together by each of its
    `threads`; the slower lanes have `waiting_slow`. `hosts` are the names a request may call us by; empty for any, as
    behind a key.
    """

    key: str | None = None
    hosts: tuple[str, ...] = ()
    deadline: float = 30.0
    patience: float = 10.0
    waiting: int = 256
    batch: int = 32
    threads: int = 2
    waiting_slow: int = 16
    refresh: float = 1.0  # between two looks whether a newer generation was published
