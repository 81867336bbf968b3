"""The vectors of a collection: float16 shards of a fixed number of rows, memory-mapped; row number = chunk id.

It does not know what a row means, nor what cosine is.
"""

from __future__ import annotations

import io
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

from store.records import LookaheadError

SHARD_ROWS = 8192
_OPEN_SHARDS = 256  # each holds a file descriptor


class Vectors:
    """Rows `0 … len-1` of dimension `dim`, as the encoder gave them (not normalised)."""

    def __init__(self, folder: Path, rows: int, dim: int, shard_rows: int = SHARD_ROWS) -> None:
        self._folder = folder
        self._rows = rows
        self.dim = dim
        self.shard_rows = shard_rows
        self._open: OrderedDict[int, NDArray[np.float16]] = OrderedDict()
        self._opening = threading.Lock()

    def __len__(self) -> int:
        return self._rows

    def between(self, first: int, stop: int) -> NDArray[np.float32]:
        """Rows `first … stop - 1`, (stop - first, dim): a run of rows, such as an article, costs one read."""
        return self.gather(np.arange(first, stop))

    def gather(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows asked for, in the order asked, (n, dim)."""
        wanted = np.asarray(ids, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self._rows):
            raise IndexError(f"rows 0 to {self._rows - 1} exist, asked for {wanted.min()} to {wanted.max()}")
        out = np.empty((len(wanted), self.dim), dtype=np.float32)
        numbers = wanted // self.shard_rows
        shards = np.unique(numbers)
        if 4 * len(shards) > len(wanted):  # hardly any two of a shard: one by one is faster
            for place, (number, row) in enumerate(zip(numbers.tolist(), wanted.tolist(), strict=True)):
                out[place] = self._shard(number)[row - number * self.shard_rows]
            return out
        for number in shards.tolist():
            places = np.flatnonzero(numbers == number)
            out[places] = self._shard(number)[wanted[places] - number * self.shard_rows]
        return out

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, rows) shard by shard."""
        for number in range(shard_count(self._rows, self.shard_rows)):
            yield number * self.shard_rows, self._shard(number).astype(np.float32)

    def hold(self) -> None:
        """Opens every shard now, so that reading goes on when the files' names are removed (the newest 256 of them)."""
        for number in range(shard_count(self._rows, self.shard_rows)):
            self._shard(number)

    def _shard(self, number: int) -> NDArray[np.float16]:
        with self._opening:
            shard = self._open.get(number)
            if shard is None:
                expected = min(self.shard_rows, self._rows - number * self.shard_rows)
                shard = read_shard(self._folder / shard_name(number), expected, self.dim)
                self._open[number] = shard
                if len(self._open) > _OPEN_SHARDS:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(number)
            return shard


def shard_name(number: int) -> str:
    return f"{number:05d}.npy"


def shard_count(rows: int, shard_rows: int = SHARD_ROWS) -> int:
    return -(-rows // shard_rows)


def read_shard(path: Path, rows: int, dim: int) -> NDArray[np.float16]:
    """A memory-mapped shard of exactly that shape.

    A header as numpy writes it is compared and not read: numpy reads it with `ast`, which in Python 3.11 fails now and
    then when another thread is at it too (python/cpython#106905).
    """
    header = _header(rows, dim)
    try:
        with path.open("rb") as file:
            usual = file.read(len(header)) == header and path.stat().st_size == len(header) + rows * dim * 2
        if usual and rows:
            # a plain array over the map: each row taken from numpy's own class of them would be one again, slowly
            return np.asarray(np.memmap(path, dtype=np.float16, mode="r", offset=len(header), shape=(rows, dim)))
        shard: NDArray[np.float16] = np.lib.format.open_memmap(path, mode="r")  # np.load also opens archives
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:  # the last two from a damaged header
        raise LookaheadError(f"cannot read {path}: {error}; run: lookahead verify") from error
    if shard.dtype != np.float16 or shard.shape != (rows, dim):
        raise LookaheadError(
            f"{path} holds {shard.dtype} {shard.shape}, expected float16 {(rows, dim)}; run: lookahead verify"
        )
    return shard


def _header(rows: int, dim: int) -> bytes:
    written = io.BytesIO()
    told = {"descr": "<f2", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(written, told)
    return written.getvalue()


def write_shard(path: Path, vectors: NDArray[np.float32]) -> None:
    """The shard is there whole or not at all. Vectors that float16 cannot hold are refused."""
    with np.errstate(over="ignore"):  # refused below, with the row's number
        halved = vectors.astype(np.float16)
    if not np.isfinite(halved).all():
        bad = int(np.flatnonzero(~np.isfinite(halved).all(axis=1))[0])
        raise LookaheadError(f"row {bad} of {path.name} is not finite in float16; the encoder is broken for that text")
    temporary = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.tmp")  # another process may be making the same
    with temporary.open("wb") as file:
        np.save(file, halved)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
