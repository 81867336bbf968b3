"""What is asked of the C library, and that nobody is overruled."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from retrieval.allocation import keep_freed_memory


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A glibc that does what it is told."""
    told: list[tuple[int, int]] = []

    def mallopt(what: int, value: int) -> int:
        told.append((what, value))
        return 1

    def library(_: Any) -> Any:
        return SimpleNamespace(mallopt=mallopt)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", library)
    for name in ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"):
        monkeypatch.delenv(name, raising=False)
    return told


def test_large_blocks_come_from_the_heap_which_is_not_given_back(asked: list[tuple[int, int]]) -> None:
    assert keep_freed_memory()
    assert dict(asked) == {-4: 0, -1: -1, -2: 256 * 2**20}  # numbers of M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD


def test_what_the_user_has_set_stays(asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert not keep_freed_memory()
    assert not asked


def test_other_systems_and_other_libraries_are_left_alone(
    asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    assert not asked
