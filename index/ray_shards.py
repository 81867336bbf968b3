"""Encoding on a Ray cluster: actors that keep the encoder loaded, and a driver that reads, counts and writes.

It does not know what a shard is made of (`index/shards.py` does), nor where texts come from. Actors of Ray's core and
not Ray Data: who has what is known at every moment, so that a lost actor's slices go to others, and one that kills
whoever takes it is found; Ray Data would try it for ever, and needs Arrow and its own plan of operators besides.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.encoder import open_encoder
from index.progress import say
from index.shards import Crew, Job, Progress, Shard, Texts, progress, unfinished
from store.records import LookaheadError, Unreachable

LOCAL = "local"
_AHEAD = 2  # slices an actor has at once: one that it encodes, one that waits
_TRIES = 3  # actors that a slice may kill
_PATIENCE = 30.0  # seconds without an actor after which one is told why nothing happens
_ANSWERS = 5.0  # seconds in which a cluster is to take a connection
_ROOT = Path(__file__).resolve().parent.parent
_ROOMS = ("index", "store")  # what an actor imports of ours


class Worker:
    """What an actor is: the encoder, on one core. Its files come by the object store: no disk need be shared."""

    def __init__(self, files: dict[str, NDArray[np.uint8]], device: str) -> None:
        with tempfile.TemporaryDirectory(prefix="lookahead-encoder-") as folder:  # gone before anyone is killed
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content.tobytes())
            self._encoder = open_encoder(Path(folder), bulk=True, device=device, threads=1)

    def key(self) -> str:
        """The fingerprint's, once the encoder is loaded."""
        return self._encoder.fingerprint.key

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        return self._encoder.encode(texts)


@dataclass(frozen=True, slots=True)
class _Slice:
    """Part of a shard, from that row of it on."""

    shard: Shard
    start: int
    texts: list[str]

    def __str__(self) -> str:
        first = self.shard.first + self.start
        return f"shard {self.shard.number:05d} (rows {first} to {first + len(self.texts) - 1})"


@dataclass(slots=True)
class _Hand:
    """An actor, and the slices it was given, oldest first. `hello` is there until it has loaded the encoder."""

    actor: Any
    hello: Any
    given: dict[Any, _Slice] = field(default_factory=dict)


def encode_all(
    job: Job,
    texts_of: Texts,
    encoder: Path,
    crew: Crew,
    *,
    pace: list[tuple[int, float]] | None = None,
    quiet: bool = True,
) -> int:
    """As `index.shards.encode_all`, on a cluster; `encoder` is the folder of one. Nothing is started for nothing.

    Slices are given out two an actor, in order, and a shard is written by this process when its last one is back.
    """
    with progress(job.rows, pace, quiet) as shown:
        shards = unfinished(job, texts_of, shown.held)
        first = next(shards, None)
        if first is None:
            return 0
        with cluster(crew), _Team(crew, encoder, job.key, quiet) as team:
            return team.encode(itertools.chain([first], shards), shown)


@contextlib.contextmanager
def cluster(crew: Crew) -> Iterator[None]:
    """Joined, or started here with a core for each worker and stopped at the end; as it is where one was joined
    already. All that a cluster of ours writes is below a temporary folder."""
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.ExitStack() as stack:
            own = _own(crew, stack) if crew.address == LOCAL else {}
            _join(ray, crew.address, own)
            stack.callback(ray.shutdown)
            if main:
                signal.signal(signal.SIGTERM, _leave)  # Ray's own prints where it was
            yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _own(crew: Crew, stack: contextlib.ExitStack) -> dict[str, Any]:
    """What `ray.init` is to hear for a cluster of this machine. It listens to the network, and asks all for a token."""
    # a path of over 107 bytes is none for a socket, and Ray's own part of it has 60
    place = tempfile.gettempdir() if len(tempfile.gettempdir()) < 24 else "/tmp"
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir=place, ignore_cleanup_errors=True))
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray would leave one of its own in the home folder
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    return {"num_cpus": crew.workers, "include_dashboard": False, "_temp_dir": folder}


def _join(ray: Any, address: str, own: dict[str, Any]) -> None:
    try:
        if address not in (LOCAL, "auto"):  # Ray itself would wait for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), _ANSWERS).close()
        # workers import ours as it is here
        ours = {"py_modules": [str(_ROOT / room) for room in _ROOMS]}
        ray.init(address=address, configure_logging=False, log_to_driver=False, runtime_env=ours, **own)
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        raise Unreachable(
            f"no Ray cluster answers at {address} ({_line(error)}); start one (ray start --head; RAY_AUTH_TOKEN is for "
            "its token, where it has one) and type the same command again, or take --ray local"
        ) from error


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


class _Team:
    """The actors. What one had when it was lost is given to others, and another takes its place."""

    def __init__(self, crew: Crew, encoder: Path, key: str, quiet: bool) -> None:
        self._ray = _ray()
        self._key, self._quiet = key, quiet
        gpu = _wants_gpu(crew)
        options = {"num_cpus": 1, "num_gpus": 1 if gpu else 0, "max_restarts": 0, "max_task_retries": 0}
        self._class = self._ray.remote(**options)(Worker)
        files = {path.name: np.fromfile(path, dtype=np.uint8) for path in encoder.iterdir() if path.is_file()}
        self._files, self._device = self._ray.put(files), crew.device if gpu else "cpu"
        self._hands: list[_Hand] = []
        self._again: deque[_Slice] = deque()
        self._killed: Counter[tuple[int, int]] = Counter()  # (shard, row of it) → actors that died of it
        self._stillborn = 0
        for _ in range(crew.workers):
            self._hire()

    def __enter__(self) -> _Team:
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self._hands:
            self._ray.kill(hand.actor)

    def encode(self, shards: Iterable[Shard], shown: Progress) -> int:
        """All of them; says how many that were."""
        fresh = (_Slice(shard, start, texts) for shard in shards for start, texts in shard.slices())
        missing: dict[int, int] = {}  # rows of the shards begun
        made = 0
        idle = True
        while self._give(fresh):
            if idle and any(hand.given for hand in self._hands):
                shown.begins()
                idle = False
            for piece, vectors in self._taken():
                shard, rows = piece.shard, len(vectors)
                shard.vectors[piece.start : piece.start + rows] = vectors
                shown.made(rows)
                missing[shard.number] = missing.get(shard.number, len(shard.texts)) - rows
                if not missing[shard.number]:
                    shard.keep()
                    made += 1
        return made

    def _give(self, fresh: Iterator[_Slice]) -> bool:
        """A slice to each that has none, then a second; says whether there is anything to wait for."""
        ready = [hand for hand in self._hands if hand.hello is None]
        for most in range(_AHEAD):
            for hand in ready:
                if len(hand.given) <= most:
                    piece = self._again.popleft() if self._again else next(fresh, None)
                    if piece is None:
                        return any(one.given for one in ready)
                    hand.given[hand.actor.encode.remote(piece.texts)] = piece
        return True

    def _taken(self) -> Iterator[tuple[_Slice, NDArray[np.float32]]]:
        """Waits for an actor to answer; the slices that are done by then."""
        hellos = {hand.hello: hand for hand in self._hands if hand.hello is not None}
        work = {reference: hand for hand in self._hands for reference in hand.given}
        done, _ = self._ray.wait([*hellos, *work], timeout=None if work else _PATIENCE)
        if not done:
            say("no core of the cluster is free; waiting for one", quiet=self._quiet)
        for reference in done:
            hand = hellos.get(reference) or work[reference]
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:  # raised by our own code, as it would be here
                raise error.cause from None
            except self._ray.exceptions.RayError as error:
                yield from self._replaced(hand, error)
                continue
            if reference in hellos:
                hand.hello, self._stillborn = None, 0
                if answer != self._key:
                    raise LookaheadError(f"a worker has the encoder [{answer}], this collection [{self._key}]")
            else:
                yield hand.given.pop(reference), answer

    def _replaced(self, hand: _Hand, error: Exception) -> Iterator[tuple[_Slice, NDArray[np.float32]]]:
        """Another actor in its place; what it had done, if anything, comes back, the rest is given out again."""
        self._hands.remove(hand)
        self._ray.kill(hand.actor)
        if hand.hello is not None:
            self._stillborn += 1
            if self._stillborn == _TRIES:
                raise LookaheadError(
                    f"no worker could load the encoder: {_line(error, -1)}; install lookahead[ray] on every node"
                )
        undone = []
        for reference, piece in hand.given.items():
            try:
                yield piece, self._ray.get(reference, timeout=0)
            except self._ray.exceptions.RayError:
                undone.append(piece)
        if undone:
            suspect = undone[0]  # they are encoded in the order given
            self._killed[suspect.shard.number, suspect.start] += 1
            if self._killed[suspect.shard.number, suspect.start] == _TRIES:
                raise LookaheadError(
                    f"{suspect} killed {_TRIES} workers in turn ({_line(error)}); give them more memory, with fewer "
                    "--workers, or look at its texts; the shards that are done stay done"
                )
        self._again.extend(undone)
        self._hire()

    def _hire(self) -> None:
        actor = self._class.remote(self._files, self._device)
        self._hands.append(_Hand(actor, actor.key.remote()))


def _wants_gpu(crew: Crew) -> bool:
    return crew.device.startswith("cuda")


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise LookaheadError("--ray needs Ray; run: pip install 'lookahead[ray]'") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    driver: Any = ray._private.worker
    driver.print_to_stdstream = _unheard  # of workers that died; we say what there is to say, and stdout is not Ray's
    return ray


def _unheard(*_: object, **__: object) -> None:
    pass


def _line(error: BaseException, which: int = 0) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[which].strip()[:200]
