"""A milvus-lite server of the tests' own: a process on a free port of this machine, over a folder that outlives it."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self


def missing() -> str:
    """Why there can be no Milvus here, or nothing."""
    for package in ("pymilvus", "milvus_lite"):
        if importlib.util.find_spec(package) is None:
            return f"needs {package}: pip install 'lookahead[milvus]'"
    return ""


class MilvusServer:
    """Runs from `start` to `stop` or `kill`, as often as wanted; what was written is still there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "server.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.spec = f"milvus://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def started(cls, folder: Path) -> Iterator[Self]:
        server = cls(folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()

    def start(self) -> None:
        command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(self._folder)]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with (self._folder.parent / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(600):
            assert self._process.poll() is None, (self._folder.parent / "server.log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise AssertionError("milvus-lite did not start within half a minute")

    def stop(self) -> None:
        """Not with Ctrl-C, which a program that was started in the background passes by."""
        self._end(15)

    def kill(self) -> None:
        self._end(9)

    def _end(self, how: int) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None
