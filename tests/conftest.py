"""What every test shares: Hypothesis without chance or a clock, no way out to the network, no wait for the disk."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from postgres_server import PostgresServer, missing, running_postgres

gc.set_threshold(50_000, 20, 100)  # at the usual 700 a third of the time of importing all this is spent on it

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub's client is first imported

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as index/graphs.py has it, whoever is first

settings.register_profile(
    "lookahead",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("lookahead")


@pytest.fixture(scope="session", autouse=True)
def _stay_at_home() -> Iterator[None]:
    """A connection to anything but this machine fails the test that made it; the disk is not waited for."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test reached for the network: {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setattr(os, "fsync", lambda handle: None)  # no test pulls the plug; those that kill a process need none
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for all who ask; each makes schemas of its own. Who stops it starts it again."""
    if why := missing():
        pytest.skip(why)
    with running_postgres() as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file with the longest test comes first, so that two processes end at about the same time."""
    items.sort(key=lambda item: item.path.stem != "test_readme")
