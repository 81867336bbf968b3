"""Bytes and lines of a file, decompressed as they come, in constant memory.

It does not know what the bytes mean. Compression is told by the first bytes, never by the name.
"""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

LONGEST = 64 * 1024 * 1024

OnBytes = Callable[[int], None]

# What a damaged compressed file raises; a plain file raises OSError alone.
DAMAGED = (EOFError, OSError, zlib.error)

# Packings that Python's standard library has, but that no reader here unpacks, by their first bytes.
_FOREIGN = {
    b"7z\xbc\xaf": "a 7z archive",
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
}


class _Counted(io.RawIOBase):
    """A raw file that reports how far it has been read."""

    def __init__(self, raw: io.RawIOBase, on_bytes: OnBytes) -> None:
        self._raw, self._on_bytes, self._total = raw, on_bytes, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int | None:  # type: ignore[override]
        count = self._raw.readinto(buffer)
        self._total += count or 0
        self._on_bytes(self._total)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


@contextmanager
def opened(path: Path, on_bytes: OnBytes | None = None) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked; `on_bytes` hears how many bytes of the file itself have been consumed."""
    with path.open("rb", buffering=0) as bare:
        raw: io.RawIOBase = _Counted(bare, on_bytes) if on_bytes else bare
        with io.BufferedReader(raw, 256 * 1024) as buffered:
            magic = buffered.peek(4)[:4]
            if magic[:3] == b"BZh":
                with bz2.BZ2File(buffered) as unpacked:
                    yield cast(BinaryIO, unpacked)
            elif magic[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=buffered) as unzipped:
                    yield cast(BinaryIO, unzipped)
            else:
                yield buffered


def head(path: Path, size: int = 64 * 1024) -> bytes:
    """The first bytes of the file, unpacked: up to `size` of them."""
    with opened(path) as stream:
        return stream.read(size)


def foreign(start: bytes) -> str:
    """What a file is that begins so, if it is packed in a way that must be undone first; else the empty string."""
    return next((name for magic, name in _FOREIGN.items() if start.startswith(magic)), "")


def lines(stream: BinaryIO, longest: int = LONGEST) -> Iterator[bytes | None]:
    """The lines without their newlines; None stands for a line longer than `longest`, which is never held."""
    while line := stream.readline(longest + 1):
        if len(line) <= longest or line.endswith(b"\n"):
            yield line.rstrip(b"\r\n")
            continue
        yield None
        while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
            pass
