"""A PostgreSQL of the tests' own, from the pgserver wheel: on a socket in a temporary folder, no port, no password.

pgserver's own way to start one is passed by: as root it makes a system user, and opens folders of the machine to all.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

USER, KEEPER = "postgres", "keeper"  # the second is asked for a password, where a test makes it
_FAST = "-c fsync=off -c full_page_writes=off -c shared_buffers=32MB -c max_connections=60"


def missing() -> str:
    """Why there can be no PostgreSQL here, or nothing."""
    for package in ("psycopg", "pgserver"):
        if importlib.util.find_spec(package) is None:
            return f"needs {package}: pip install 'lookahead[postgres]' pgserver"
    return ""


class PostgresServer:
    """Runs from `start` to `stop`, as often as wanted; what was committed is still there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = False
        spec = importlib.util.find_spec("pgserver")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        package = Path(spec.submodule_search_locations[0])
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            if not self._can_run(package):  # it lies in a folder that is root's alone
                for name in ("pgserver/pginstall", "pgserver.libs"):
                    shutil.copytree(package.parent / name, folder / name, symlinks=True)
                package = folder / "pgserver"
        self._bin = package / "pginstall" / "bin"
        self._run("initdb", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        # stops and removes all when its input ends: at `close`, and also when the tests are killed
        after = f"cat; '{self._bin}/pg_ctl' -D '{folder}/data' -m immediate stop; rm -rf '{folder}'"
        self._guard = subprocess.Popen(
            ["sh", "-c", after],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **self._as,
        )
        doors = folder / "data" / "pg_hba.conf"
        doors.write_text(f"local all {KEEPER} scram-sha-256\n{doors.read_text()}")

    def start(self) -> None:
        """Nothing where it runs."""
        if self._runs:
            return
        options = f"-k {self._folder} -c listen_addresses= {_FAST}"
        self._run("pg_ctl", "start", "-w", "-l", str(self._folder / "log"), "-o", options)
        self._runs = True

    def stop(self) -> None:
        """At once: whoever is connected loses the connection. Nothing where it does not run."""
        if not self._runs:
            return
        self._runs = False
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def close(self) -> None:
        self._guard.communicate()

    def url(self, database: str = "postgres", user: str = USER) -> str:
        return f"postgresql://{user}@/{database}?host={self._folder}"

    def _can_run(self, package: Path) -> bool:
        with contextlib.suppress(OSError):
            asked = [str(package / "pginstall" / "bin" / "postgres"), "--version"]
            return subprocess.run(asked, capture_output=True, check=False, cwd="/", **self._as).returncode == 0
        return False

    def _run(self, program: str, *arguments: str) -> None:
        # into a file: a pipe would stay open for as long as the server that pg_ctl leaves behind
        with tempfile.TemporaryFile("w+") as said:
            command = [str(self._bin / program), "-D", str(self._folder / "data"), *arguments]
            done = subprocess.run(command, stdout=said, stderr=said, cwd=self._folder, check=False, **self._as)
            said.seek(0)
            assert done.returncode == 0, f"{program}: {said.read()}"


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Started, and at the end stopped and removed."""
    # a socket's path has at most 107 letters: no folder of pytest's
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.close()
