"""Splits: the same for ever, in the shares promised, whatever else is in the collection."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.records import Split
from store.splits import split_of

PINNED = {
    -1: Split.TRAIN,
    0: Split.TRAIN,
    1: Split.TEST,
    2: Split.TRAIN,
    17: Split.VALID,
    42: Split.TEST,
    736: Split.TRAIN,
    2**40: Split.TRAIN,
}


def test_the_split_of_a_page_never_changes() -> None:
    assert {page_id: split_of(page_id) for page_id in PINNED} == PINNED


def test_the_split_does_not_depend_on_the_process() -> None:
    code = f"from store.splits import split_of; print(*(split_of(page) for page in {list(PINNED)}))"
    asked = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert asked.stdout.split() == [split.value for split in PINNED.values()]


@pytest.mark.parametrize("step", [1, 2, 10, 997])
def test_the_shares_are_eighty_ten_ten_however_page_ids_are_spaced(step: int) -> None:
    counted = Counter(split_of(page_id) for page_id in range(0, 100_000 * step, step))
    # one standard deviation is 127 of 80,000 and 95 of 10,000
    assert abs(counted[Split.TRAIN] - 80_000) < 600
    assert abs(counted[Split.VALID] - 10_000) < 450
    assert abs(counted[Split.TEST] - 10_000) < 450


def test_neighbouring_pages_are_spread_like_any_others() -> None:
    after_a_test_page = Counter(split_of(page + 1) for page in range(100_000) if split_of(page) is Split.TEST)
    assert abs(after_a_test_page[Split.TRAIN] / after_a_test_page.total() - 0.8) < 0.02


@given(st.integers())
def test_every_number_has_a_split(page_id: int) -> None:
    assert split_of(page_id) in set(Split)
    assert split_of(page_id) is split_of(page_id)
