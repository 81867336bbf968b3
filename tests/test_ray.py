"""A Ray cluster on this machine: the bytes of the plain path, whatever is killed; nothing of it is left, or heard."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from index import ray_shards, shards
from index.encoder import HASHING, open_encoder, prepare
from index.ray_shards import Worker, cluster
from index.shards import Crew, Job, encode_all
from index.vectors import shard_name
from store.records import LookaheadError

ROOT = Path(__file__).parent.parent
TWO = Crew("local", 2)
ROWS, SHARD_ROWS = 430, 100

needs_ray = pytest.mark.usefixtures("ray")


@pytest.fixture(scope="session")
def ray() -> Any:
    return pytest.importorskip("ray", reason="needs lookahead[ray]")


@pytest.fixture(scope="module")
def running(ray: Any) -> Iterator[None]:
    """Two cores of a cluster that all the tests of this file share."""
    with cluster(TWO):
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    prepare(HASHING, folder)
    return folder


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SLICE", 16)


def texts_of(first: int, stop: int) -> list[str]:
    return [f"row {row} of many " + "words and words " * (row % 7) for row in range(first, stop)]


def job_in(folder: Path, encoder: Path, rows: int = ROWS) -> Job:
    opened = open_encoder(encoder)
    return Job(folder, rows, opened.dim, opened.fingerprint.key, shard_rows=SHARD_ROWS)


def held_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def plain(tmp_path: Path, encoder: Path) -> dict[str, bytes]:
    encode_all(job_in(tmp_path / "plain", encoder), texts_of, open_encoder(encoder))
    return held_in(tmp_path / "plain")


def processes(named: str, parent: str = "") -> list[int]:
    """Of all on this machine, those whose command begins so (and has that in it)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if command.startswith(named) and parent in command:
            found.append(int(path.parent.name))
    return found


def killing(patch: pytest.MonkeyPatch, after: Sequence[int]) -> list[int]:
    """Kills one of the workers when so many slices are back; the pids of those killed."""
    made, killed = 0, []
    usual = shards.Progress.made

    def counted(self: shards.Progress, rows: int) -> None:
        nonlocal made
        usual(self, rows)
        made += 1
        if made in after:
            killed.append(processes("ray::Slow")[0])
            os.kill(killed[-1], signal.SIGKILL)

    patch.setattr(shards.Progress, "made", counted)
    return killed


def slow_worker() -> type[Worker]:
    """Defined here, so that the cluster gets it by value."""

    class Slow(Worker):
        def encode(self, texts: list[str]) -> NDArray[np.float32]:
            import time

            time.sleep(0.1)
            return super().encode(texts)

    return Slow


def deadly_worker(word: str) -> type[Worker]:
    class Deadly(Worker):
        def encode(self, texts: list[str]) -> NDArray[np.float32]:
            import os

            if any(word in text for text in texts):
                os._exit(1)
            return super().encode(texts)

    return Deadly


def ran(code: str, *arguments: str | Path) -> tuple[str, str, int]:
    """stdout, stderr and exit code of a process that has the clusters of this one nowhere in its environment."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as place:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
            cwd=ROOT,
            env={**environment, "TMPDIR": place, "HOME": place},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        ended = time.monotonic() + 20
        while processes("", f"{place}/ray-") and time.monotonic() < ended:
            time.sleep(0.1)
        assert processes("", f"{place}/ray-") == [], "Ray is left running"
        left = [path.name for path in Path(place).rglob("*") if path.is_file() and "/ray-" not in str(path)]
        assert left == [], "files are left"
        if done.returncode >= 0:
            assert list(Path(place).glob("ray-*")) == []
    return done.stdout, done.stderr, done.returncode


# -- nobody there: before all others, whose cluster "auto" would find -----------------------------------------


@pytest.mark.slow
@needs_ray
def test_a_cluster_that_does_not_answer_is_said_at_once(tmp_path: Path, encoder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for asked in (address, f"ray://{address}", "127.0.0.1", "nonsense:port", "auto"):
            code = f"""
import sys
from pathlib import Path
from index import ray_shards
from index.shards import Crew, Job
try:
    ray_shards.encode_all(Job(Path(sys.argv[1]), 3, 128, "key"), lambda a, b: ["x"] * (b - a), Path(sys.argv[2]),
                          Crew({asked!r}, 2))
except ray_shards.Unreachable as error:
    print(error)
"""
            out, err, _ = ran(code, tmp_path / "ray", encoder)
            assert re.fullmatch(rf"no Ray cluster answers at {re.escape(asked)} \(.+\); start one .*\n", out), (
                out,
                err,
            )
            assert err == ""


# -- the same bytes ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_two_workers_make_the_bytes_of_the_plain_path_and_nothing_twice(
    tmp_path: Path, encoder: Path, plain: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pace: list[tuple[int, float]] = []
    job = job_in(tmp_path / "ray", encoder)
    assert ray_shards.encode_all(job, texts_of, encoder, TWO, pace=pace) == 5
    assert held_in(tmp_path / "ray") == plain
    assert sum(count for count, _ in pace) == ROWS
    monkeypatch.setattr(ray_shards, "cluster", lambda crew: pytest.fail("a cluster for nothing"))
    assert ray_shards.encode_all(job, texts_of, encoder, TWO) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_what_is_missing_is_made_and_what_is_damaged_made_again(
    tmp_path: Path, encoder: Path, plain: dict[str, bytes]
) -> None:
    job = job_in(tmp_path / "plain", encoder)
    (job.folder / shard_name(3)).unlink()
    (job.folder / shard_name(1)).write_bytes(plain[shard_name(1)][:-1] + b"x")
    assert ray_shards.encode_all(job, texts_of, encoder, TWO) == 2
    assert held_in(job.folder) == plain


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_no_more_than_two_slices_are_given_to_a_worker_at_once(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    usual = ray_shards._Team._taken

    def watched(self: Any) -> Any:
        nonlocal most
        most = max([most, *(len(hand.given) for hand in self._hands)])
        return usual(self)

    monkeypatch.setattr(ray_shards._Team, "_taken", watched)
    ray_shards.encode_all(job_in(tmp_path / "ray", encoder), texts_of, encoder, TWO)
    assert most == 2


@pytest.mark.slow
@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("after", [[1], [3, 9, 20]])
def test_workers_that_are_killed_change_nothing(
    tmp_path: Path, encoder: Path, plain: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, after: list[int]
) -> None:
    monkeypatch.setattr(ray_shards, "Worker", slow_worker())
    killed = killing(monkeypatch, after)
    assert ray_shards.encode_all(job_in(tmp_path / "ray", encoder), texts_of, encoder, TWO) == 5
    assert len(set(killed)) == len(after)
    assert held_in(tmp_path / "ray") == plain


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_the_real_encoder_gives_the_bytes_of_the_plain_path(tmp_path: Path) -> None:
    prepare("bundled", tmp_path / "encoder", device="cpu")
    job = job_in(tmp_path / "plain", tmp_path / "encoder", 250)
    encode_all(job, texts_of, open_encoder(tmp_path / "encoder", bulk=True, device="cpu"))
    ray_shards.encode_all(job_in(tmp_path / "ray", tmp_path / "encoder", 250), texts_of, tmp_path / "encoder", TWO)
    assert held_in(tmp_path / "ray") == held_in(tmp_path / "plain")


# -- what goes wrong -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_a_slice_that_kills_three_workers_is_named_and_the_rest_goes_on_without_it(
    tmp_path: Path, encoder: Path, plain: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path / "ray", encoder)
    with monkeypatch.context() as patch:
        patch.setattr(ray_shards, "Worker", deadly_worker("row 222 "))
        with pytest.raises(
            LookaheadError, match=r"shard 00002 \(rows 216 to 231\) killed 3 workers in turn \(.*\); give"
        ):
            ray_shards.encode_all(job, texts_of, encoder, TWO)
    kept = held_in(job.folder)
    assert {"00000.npy", "00001.npy"} <= {*kept} < {*plain}
    assert all(plain[name] == content for name, content in kept.items())
    ray_shards.encode_all(job, texts_of, encoder, TWO)
    assert held_in(job.folder) == plain


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_workers_that_cannot_begin_are_not_tried_for_ever(tmp_path: Path, encoder: Path) -> None:
    job = job_in(tmp_path / "ray", encoder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LookaheadError, match=r"no worker could load the encoder: .*encoder\.json.*on every node"):
        ray_shards.encode_all(job, texts_of, tmp_path / "empty", TWO)


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_an_error_of_our_own_is_the_error_it_would_be_here(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising() -> type[Worker]:
        class Raising(Worker):
            def encode(self, texts: list[str]) -> NDArray[np.float32]:
                from store.records import LookaheadError

                raise LookaheadError("the encoder is broken; make another")

        return Raising

    monkeypatch.setattr(ray_shards, "Worker", raising())
    with pytest.raises(LookaheadError) as caught:
        ray_shards.encode_all(job_in(tmp_path / "ray", encoder), texts_of, encoder, TWO)
    assert str(caught.value) == "the encoder is broken; make another"


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_more_workers_than_there_are_cores_are_not_waited_for(
    tmp_path: Path, encoder: Path, plain: dict[str, bytes]
) -> None:
    crew = Crew("local", 5)
    assert ray_shards.encode_all(job_in(tmp_path / "ray", encoder), texts_of, encoder, crew) == 5
    assert held_in(tmp_path / "ray") == plain


def test_without_ray_one_is_told_what_to_install(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LookaheadError, match=r"--ray needs Ray; run: pip install 'lookahead\[ray\]'"):
        ray_shards.encode_all(job_in(tmp_path / "ray", encoder), texts_of, encoder, TWO)


# -- the process that drives ---------------------------------------------------------------------------------

DRIVER = """
import os, signal, sys
from pathlib import Path
from index import ray_shards, shards
from index.shards import Crew, Job
from index.encoder import open_encoder
folder, encoder, event = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
shards.SLICE = 16
usual, made = shards.Progress.made, 0
def counted(self, rows):
    global made
    usual(self, rows)
    made += 1
    if made == 3 and event == "worker":
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            ours = os.environ["TMPDIR"].encode()
            if path.read_bytes().startswith(b"ray::Worker") and ours in path.with_name("environ").read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
    if made >= 10 and (folder / "00000.done").exists() and event.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, event))
shards.Progress.made = counted
opened = open_encoder(encoder)
job = Job(folder, 430, opened.dim, opened.fingerprint.key, shard_rows=100)
def texts_of(first, stop):
    return [f"row {row} of many " + "words and words " * (row % 7) for row in range(first, stop)]
try:
    print(ray_shards.encode_all(job, texts_of, encoder, Crew("local", 2), quiet=False))
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize("event", ["", "SIGINT", "SIGKILL", "SIGTERM", "worker"])
def test_a_driver_that_is_stopped_leaves_what_is_done_and_nothing_else(
    tmp_path: Path, encoder: Path, plain: dict[str, bytes], event: str
) -> None:
    out, err, code = ran(DRIVER, tmp_path / "ray", encoder, event)
    expected: dict[str, tuple[str, int]] = {
        "": ("5\n", 0),
        "SIGINT": ("stopped\n", 0),
        "SIGKILL": ("", -signal.SIGKILL),
        "SIGTERM": ("", 128 + signal.SIGTERM),
        "worker": ("5\n", 0),
    }
    assert (out, code) == expected[event], err
    assert re.sub(r"\rencoding: .*", "", err).strip() == "", "only our own bar is heard"
    kept = {name: content for name, content in held_in(tmp_path / "ray").items() if not name.endswith(".tmp")}
    assert {"00000.npy", "00000.done"} <= {*kept}
    assert all(plain[name] == content for name, content in kept.items())
    job = job_in(tmp_path / "ray", encoder)
    made = encode_all(job, texts_of, open_encoder(encoder))
    assert made == 5 - sum(name.endswith(".done") for name in kept)
    assert held_in(tmp_path / "ray") == plain
