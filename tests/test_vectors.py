"""Vector shards: what was written comes back, in the order asked; a wrong file is refused, never misread."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

import index.vectors
from index.vectors import SHARD_ROWS, Vectors, read_shard, shard_count, shard_name, write_shard
from store.records import LookaheadError

halves = st.floats(width=16, allow_nan=False, allow_infinity=False)


def kept(folder: Path, rows: int, dim: int = 3, shard_rows: int = 4) -> Vectors:
    """Row r is [r, -r, r / 2, …]."""
    table = np.outer(np.arange(rows), [1, -1, 0.5]).astype(np.float32)[:, :dim]
    folder.mkdir(exist_ok=True)
    for number in range(shard_count(rows, shard_rows)):
        write_shard(folder / shard_name(number), table[number * shard_rows : (number + 1) * shard_rows])
    return Vectors(folder, rows, dim, shard_rows)


def refused(path: Path, rows: int = 2, dim: int = 3) -> str:
    with pytest.raises(LookaheadError) as caught:
        read_shard(path, rows, dim)
    said = str(caught.value)
    assert str(path) in said
    assert "lookahead verify" in said
    assert "\n" not in said
    return said


# -- reading ---------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    table=arrays.arrays(np.float16, st.tuples(st.integers(1, 20), st.integers(1, 5)), elements=halves), data=st.data()
)
def test_any_rows_come_back_as_written_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, table: NDArray[np.float16], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    rows, dim = table.shape
    shard_rows = data.draw(st.integers(1, 25))
    for number in range(shard_count(rows, shard_rows)):
        part = table[number * shard_rows : (number + 1) * shard_rows]
        write_shard(folder / shard_name(number), part.astype(np.float32))
    ids = data.draw(st.lists(st.integers(0, rows - 1), max_size=30))
    vectors = Vectors(folder, rows, dim, shard_rows)
    gathered = vectors.gather(ids)
    assert gathered.dtype == np.float32
    assert np.array_equal(gathered, table.astype(np.float32)[np.array(ids, dtype=int)])
    assert np.array_equal(np.concatenate([block for _, block in vectors.blocks()]), table.astype(np.float32))


def test_rows_are_answered_in_the_order_asked_and_as_often_as_asked(tmp_path: Path) -> None:
    assert kept(tmp_path, 10).gather([9, 0, 9, 4])[:, 0].tolist() == [9, 0, 9, 4]


def test_asking_for_no_rows_answers_none(tmp_path: Path) -> None:
    assert kept(tmp_path, 10).gather([]).shape == (0, 3)


@pytest.mark.parametrize("ids", [[10], [-1], [0, 3, 10], [2**40]])
def test_a_row_that_does_not_exist_is_an_error_and_not_another_row(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(IndexError, match="rows 0 to 9 exist"):
        kept(tmp_path, 10).gather(ids)


def test_a_run_of_rows_is_read_across_shards(tmp_path: Path) -> None:
    vectors = kept(tmp_path, 10)
    assert vectors.between(2, 9)[:, 0].tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert vectors.between(5, 5).shape == (0, 3)


def test_blocks_say_where_they_begin_and_the_last_one_is_shorter(tmp_path: Path) -> None:
    assert [(first, rows.shape) for first, rows in kept(tmp_path, 10).blocks()] == [
        (0, (4, 3)),
        (4, (4, 3)),
        (8, (2, 3)),
    ]


def test_a_collection_without_rows_has_no_blocks(tmp_path: Path) -> None:
    empty = kept(tmp_path, 0)
    assert (len(empty), list(empty.blocks())) == (0, [])


def test_more_shards_may_be_read_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index.vectors, "_OPEN_SHARDS", 3)
    many = kept(tmp_path, 20, shard_rows=2)
    backwards = list(range(19, -1, -1))
    assert many.gather(backwards)[:, 0].tolist() == backwards
    assert many.gather([0, 19, 10])[:, 0].tolist() == [0, 19, 10]
    assert len(many._open) == 3


@pytest.mark.parametrize(("rows", "shards"), [(0, 0), (1, 1), (SHARD_ROWS, 1), (SHARD_ROWS + 1, 2)])
def test_rows_fill_whole_shards_first(rows: int, shards: int) -> None:
    assert shard_count(rows) == shards


def test_shards_are_numbered_so_that_names_sort(tmp_path: Path) -> None:
    assert [shard_name(number) for number in (0, 7, 12345)] == ["00000.npy", "00007.npy", "12345.npy"]


# -- what is refused -------------------------------------------------------------------------------------


def test_a_shard_of_another_shape_is_refused_with_both_shapes_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.npy", np.zeros((2, 4), dtype=np.float32))
    said = refused(tmp_path / "a.npy")
    assert "(2, 4)" in said
    assert "(2, 3)" in said


def test_a_shard_with_a_row_too_few_or_too_many_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.npy", np.zeros((2, 3), dtype=np.float32))
    assert read_shard(tmp_path / "a.npy", 2, 3).shape == (2, 3)
    refused(tmp_path / "a.npy", rows=1)
    refused(tmp_path / "a.npy", rows=3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, ">f2", "U4"])
def test_a_shard_of_another_type_is_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), dtype=dtype))
    assert "float16" in refused(tmp_path / "a.npy")


def test_a_shard_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    np.save(tmp_path / "a.npy", np.array([[Bomb()] * 3] * 2, dtype=object), allow_pickle=True)
    refused(tmp_path / "a.npy")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"hello world", b"\x00" * 200, b"PK\x03\x04" + b"\x00" * 60])
def test_a_file_that_is_no_shard_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    refused(tmp_path / "a.npy")


def test_an_archive_of_arrays_is_no_shard(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", rows=np.zeros((2, 3), dtype=np.float16))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    refused(tmp_path / "a.npy")


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "a.npy")


def test_a_shard_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.npy", np.ones((2, 3), dtype=np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "a.npy").write_bytes(whole[:length])
        refused(tmp_path / "a.npy")


def test_a_flipped_bit_in_the_header_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.npy", np.ones((2, 3), dtype=np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    for place in range(len(whole) - 12):  # the last 12 bytes are the numbers; those only a checksum can guard
        for bit in (place % 8, (place + 3) % 8):
            broken = bytearray(whole)
            broken[place] ^= 1 << bit
            (tmp_path / "a.npy").write_bytes(broken)
            try:
                assert read_shard(tmp_path / "a.npy", 2, 3).shape == (2, 3)
            except LookaheadError as error:
                assert "\n" not in str(error)  # noqa: PT017


# -- writing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 70_000.0, -1e30])
def test_a_vector_that_half_precision_cannot_hold_is_refused_and_its_row_named(tmp_path: Path, value: float) -> None:
    rows = np.ones((4, 3), dtype=np.float32)
    rows[2, 1] = value
    with pytest.raises(LookaheadError, match=r"row 2 of a\.npy is not finite"):
        write_shard(tmp_path / "a.npy", rows)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_number_half_precision_has_is_kept(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.npy", np.full((1, 3), 65504.0, dtype=np.float32))
    assert read_shard(tmp_path / "a.npy", 1, 3).tolist() == [[65504.0] * 3]


def test_a_shard_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npy"
    write_shard(path, np.ones((2, 3), dtype=np.float32))

    def out_of_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", out_of_space)
        with pytest.raises(OSError, match="No space"):
            write_shard(path, np.zeros((2, 3), dtype=np.float32))
    assert read_shard(path, 2, 3).tolist() == [[1, 1, 1], [1, 1, 1]]
    write_shard(path, np.zeros((2, 3), dtype=np.float32))
    assert read_shard(path, 2, 3).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_reader_keeps_the_shard_it_opened_when_another_takes_its_place(tmp_path: Path) -> None:
    vectors = kept(tmp_path, 4)
    assert vectors.gather([3])[0, 0] == 3
    write_shard(tmp_path / shard_name(0), np.zeros((4, 3), dtype=np.float32))
    assert vectors.gather([3])[0, 0] == 3
    assert Vectors(tmp_path, 4, 3, 4).gather([3])[0, 0] == 0
