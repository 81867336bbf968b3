"""What was looked up lately, kept for the next who asks: a bounded memory that threads share.

It does not know what it keeps; that it never goes stale is its owner's to see to.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """The `most` values that were asked for last; none where `most` is 0."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, keys: Sequence[K], look_up: Callable[[list[K]], Mapping[K, V]]) -> dict[K, V]:
        """The values of the keys; those not kept are looked up, all in one call and each key once.

        What `look_up` does not find is absent. Two threads may look the same key up at once, and both are right.
        """
        with self._lock:
            found = {key: self._kept[key] for key in keys if key in self._kept}
            for key in found:
                self._kept.move_to_end(key)
        lacking = [key for key in dict.fromkeys(keys) if key not in found]
        if lacking:
            fresh = look_up(lacking)
            found.update(fresh)
            with self._lock:
                self._kept.update(fresh)
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return found
