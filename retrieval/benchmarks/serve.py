"""What the service stands: searches a second with and without batches, a crowd, a publish under load, a cold start.

It speaks to a server of its own over loopback, as any client would; the clients' work is on the same cores.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlencode

from retrieval.benchmarks.load import Plan, Tally, tally_from
from retrieval.benchmarks.measured import Figure, at_least, at_most, median, percentile, told
from store.generations import Collection, link_or_copy

CLIENTS, CROWD = 32, 500
_ROOT = Path(__file__).resolve().parents[2]
_STARTS = 3
_WARM_UP = 5.0  # seconds
_MODES = ("hybrid", "hybrid", "hybrid", "hybrid", "dense", "lexical")  # how the mix is mixed
_FILTERED = 20  # one search in so many is held to one article


@dataclass(frozen=True, slots=True)
class Serving:
    """A running server: where it is, its process, and seconds from its start to its first answer."""

    port: int
    pid: int
    first_answer: float


def bench_serve(
    collection: Collection,
    home: Path,
    questions: Sequence[str],
    titles: Sequence[str],
    source: Path,
    seconds: float,
    say: Callable[[str], object],
) -> list[Figure]:
    """`titles` are articles of the collection, for searches that are held to one; `source` has a few articles to be
    ingested while the server answers (into a copy of the collection)."""
    paths = mixed(questions, titles, collection.name)
    say(f"{_STARTS} cold starts")
    starts = []
    for _ in range(_STARTS):
        with serving(home, collection.name, paths[0]) as server:
            starts.append(server.first_answer)
    say(f"{CLIENTS} clients, {seconds:g} s")
    with serving(home, collection.name, paths[0]) as server:
        _fire(server, paths, CLIENTS, _WARM_UP)
        before = _megabytes(server.pid)
        busy = _fire(server, paths, CLIENTS, seconds)
        after = _megabytes(server.pid)
        say(f"{CROWD} clients at once, {seconds / 3:g} s")
        crowd = _fire(server, paths, CROWD, seconds / 3)
        crowded = _megabytes(server.pid)
        again = _fire(server, paths, CROWD, seconds / 3)
        crowded_again = _megabytes(server.pid)
        time.sleep(1)
        calm = median([_timed_get(server.port, path) for path in paths[:20]])
    say(f"{CLIENTS} clients, one question at a time, {seconds / 2:g} s")
    with serving(home, collection.name, paths[0], "--batch", "1") as server:
        _fire(server, paths, CLIENTS, _WARM_UP)
        alone = _fire(server, paths, CLIENTS, seconds / 2)
    say("an ingest that publishes under load")
    published, generations = _publish_under_load(collection, paths, source, say)
    rate, single = busy.statuses["200"] / busy.seconds, alone.statuses["200"] / alone.seconds
    refused = crowd.statuses["429"] + again.statuses["429"]
    return [
        at_most("first answer after the start of the process, median", median(starts), 2, " s"),
        at_least(f"{CLIENTS} clients, {seconds:g} s: searches a second", rate, 200),
        at_most("their p50", percentile(busy.milliseconds, 0.5), 150, " ms"),
        told("their p95", percentile(busy.milliseconds, 0.95), " ms"),
        told("their p99", percentile(busy.milliseconds, 0.99), " ms"),
        at_most("their errors", _failed(busy) + busy.statuses["429"], 0),
        told("one question at a time: searches a second", single),
        at_least("batches, ratio to that", rate / single, 2, " ×"),
        at_most(f"{CROWD} clients at once: neither an answer nor 429", _failed(crowd) + _failed(again), 0),
        told("answers a second to them", (crowd.statuses["200"] + again.statuses["200"]) / (2 * crowd.seconds)),
        told("told to come back later (429)", refused),
        told("memory after warming up", before, " MB"),
        told("memory after the clients", after, " MB"),
        told("memory after the crowd", crowded, " MB"),
        at_most("memory after a second crowd, ratio to that", crowded_again / crowded, 1.05, " ×"),
        told("a search right after them, median", 1e3 * calm, " ms"),
        at_most("failed requests while an ingest published", _failed(published) + published.statuses["429"], 0),
        at_least("generations that answered meanwhile", generations, 2),
    ]


def mixed(questions: Sequence[str], titles: Sequence[str], collection: str) -> list[str]:
    """Paths of searches: four in six hybrid, one dense, one lexical; 5 or 10 passages; one in twenty in one article."""
    paths = []
    for number, question in enumerate(questions):
        asked = {"q": question, "k": str(5 + 5 * (number % 2)), "mode": _MODES[number % len(_MODES)]}
        if titles and number % _FILTERED == 0:
            asked["title"] = titles[number % len(titles)]
        paths.append("/api/search?" + urlencode({**asked, "collection": collection}))
    return paths


@contextlib.contextmanager
def serving(home: Path, name: str, path: str, *options: str) -> Iterator[Serving]:
    """A server as a process of its own, which has answered `path` once."""
    port = _free_port()
    command = [sys.executable, str(_ROOT / "cli.py"), "--home", str(home), "serve", "-c", name, "--port", str(port)]
    started = time.perf_counter()
    child = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if _status(port, path) == 200:
                    break
            if child.poll() is not None or time.perf_counter() - started > 60:
                raise RuntimeError(f"the server did not come up: {' '.join(command)}")
            time.sleep(0.01)
        yield Serving(port, child.pid, time.perf_counter() - started)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise


def _publish_under_load(
    collection: Collection, paths: Sequence[str], source: Path, say: Callable[[str], object]
) -> tuple[Tally, int]:
    """What the clients saw, and how many generations answered them."""
    home = collection.path.parents[1] / ".bench-serve"
    shutil.rmtree(home, ignore_errors=True)
    copy = home / "collections" / collection.name
    now = collection.current().path
    try:
        for file in now.rglob("*"):
            if file.is_file():
                link_or_copy(file, copy / now.name / file.relative_to(now))
        shutil.copyfile(collection.path / "CURRENT", copy / "CURRENT")
        with serving(home, collection.name, paths[0]) as server:
            load = _begin(server, paths, CLIENTS, 45)
            time.sleep(3)
            ingest = [sys.executable, str(_ROOT / "cli.py"), "--home", str(home), "ingest", str(source)]
            begun = time.perf_counter()
            subprocess.run([*ingest, "-c", collection.name], check=True, capture_output=True)
            say(f"published after {time.perf_counter() - begun:.0f} s")
            tally = _end(load)
        return tally, len(tally.generations)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _fire(server: Serving, paths: Sequence[str], clients: int, seconds: float) -> Tally:
    return _end(_begin(server, paths, clients, seconds))


def _begin(server: Serving, paths: Sequence[str], clients: int, seconds: float) -> subprocess.Popen[str]:
    plan = Plan(f"http://127.0.0.1:{server.port}", list(paths), clients, seconds)
    command = [sys.executable, "-m", "retrieval.benchmarks.load"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
    assert child.stdin is not None
    child.stdin.write(json.dumps(asdict(plan)))
    child.stdin.close()
    return child


def _end(child: subprocess.Popen[str]) -> Tally:
    assert child.stdout is not None
    tally = tally_from(json.load(child.stdout))
    child.wait()
    return tally


def _failed(tally: Tally) -> int:
    """Requests that got neither an answer nor a "come back later"."""
    return sum(count for status, count in tally.statuses.items() if status not in ("200", "429"))


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _timed_get(port: int, path: str) -> float:
    started = time.perf_counter()
    status = _status(port, path)
    if status != 200:
        raise RuntimeError(f"{path} was answered with {status} after the crowd had gone")
    return time.perf_counter() - started


def _megabytes(pid: int) -> float:
    """What a process holds of memory now; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
