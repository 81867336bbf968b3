"""What is kept: no more than is allowed, looked up once, by many threads at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from store.kept import Kept


def squares(asked: list[list[int]], keys: list[int]) -> dict[int, int]:
    """Of all keys but the negative ones; tells what it was asked for."""
    asked.append(keys)
    return {key: key * key for key in keys if key >= 0}


def test_only_what_is_not_kept_is_looked_up_and_each_once() -> None:
    kept, asked = Kept[int, int](10), list[list[int]]()
    assert kept.of([3, 1, 3], lambda keys: squares(asked, keys)) == {3: 9, 1: 1}
    assert kept.of([1, 2], lambda keys: squares(asked, keys)) == {1: 1, 2: 4}
    assert kept.of([2, 3], lambda keys: squares(asked, keys)) == {2: 4, 3: 9}
    assert asked == [[3, 1], [2]]


def test_the_last_asked_for_stay() -> None:
    kept, asked = Kept[int, int](2), list[list[int]]()
    for keys in ([1, 2], [1], [3], [1], [2]):
        kept.of(keys, lambda keys: squares(asked, keys))
    assert asked == [[1, 2], [3], [2]], "2 made room for 3"
    assert len(kept) == 2


def test_more_than_is_kept_is_answered_all_the_same() -> None:
    for most in (0, 3):
        kept = Kept[int, int](most)
        assert kept.of(range(10), lambda keys: squares([], keys)) == {key: key * key for key in range(10)}
        assert len(kept) == most


def test_what_is_not_found_is_absent_and_asked_for_again() -> None:
    kept, asked = Kept[int, int](5), list[list[int]]()
    for _ in range(2):
        assert kept.of([-1, 2], lambda keys: squares(asked, keys)) == {2: 4}
    assert asked == [[-1, 2], [-1]]


@pytest.fixture
def _restless() -> Iterator[None]:
    """Threads take turns after microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_restless")
def test_threads_share_it() -> None:
    kept = Kept[int, int](7)
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda start: kept.of(range(start, start + 9), lambda keys: squares([], keys)), range(400))
        assert list(found) == [{key: key * key for key in range(start, start + 9)} for start in range(400)]
    assert len(kept) == 7
