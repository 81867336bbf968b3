"""The server itself, over real sockets: slow, endless, malformed and too many clients, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from retrieval.service.guard import Guard
from retrieval.service.meters import Meters
from retrieval.service.server import LARGEST_HEAD, Server, listening, server_of
from retrieval.service.settings import LARGEST_BODY, Settings
from store.records import LookaheadError

GET = b"GET /api/search HTTP/1.1\r\nHost: localhost\r\n"
PATIENCE = 0.12
DEADLINE = 0.3
LARGE = 8 << 20  # bytes; more than the two ends of a connection hold


class Running:
    """A server in a thread of its own, around a small app: /slow takes .2 s, /large sends 8 MiB, POST sends back."""

    def __init__(self, *, fast: bool = True, connections: int = 20) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        up = threading.Event()
        settings = Settings(patience=PATIENCE, deadline=DEADLINE)
        app = Guard(self._app, settings=settings, meters=Meters())
        bound = listening("127.0.0.1", 0)
        self.port: int = bound.getsockname()[1]
        self.server: Server = server_of(app, settings, up.set, fast=fast, connections=connections)
        self.thread = threading.Thread(target=self.server.run, args=[[bound]])
        self.thread.start()
        assert up.wait(10)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                self.ended.append(kind)
                await send({"type": f"lifespan.{kind}.complete"})
            return
        self.begun.append(scope["path"])
        body = (await receive())["body"]
        if scope["path"] == "/slow":
            await asyncio.sleep(PATIENCE + 0.08)
        if scope["path"] == "/large":
            body = LARGE * b"x"
        start: Message = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
        self.ended.append(scope["path"])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module", autouse=True)
def _linger_less() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.service.guard._LINGER", 0.1)
        yield


@pytest.fixture(scope="module")
def fast() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def plain() -> Iterator[Running]:
    """The same without httptools."""
    running = Running(fast=False)
    yield running
    running.stop()


@pytest.fixture(params=["fast", pytest.param("plain", marks=pytest.mark.slow)])
def running(request: pytest.FixtureRequest) -> Running:
    found: Running = request.getfixturevalue(request.param)
    return found


def read_all(client: socket.socket) -> bytes:
    """Until the server closes; a reset counts as that."""
    got = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 20):
            got.append(part)
    return b"".join(got)


def read_one(client: socket.socket) -> bytes:
    """One answer on a connection that stays open."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += client.recv(4096)
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += client.recv(4096)
    return head + b"\r\n\r\n" + body


def send_slowly(client: socket.socket, piece: bytes, seconds: float) -> float:
    """Sends a piece at a time until the server has had enough, or the seconds are over; how long it took."""
    begun = time.monotonic()
    client.settimeout(0.02)
    while time.monotonic() - begun < seconds:
        try:
            client.sendall(piece)
            if client.recv(1, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
        except OSError:
            break
    client.settimeout(5)
    return time.monotonic() - begun


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def problem_of(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    told: dict[str, object] = json.loads(body)
    assert told["status"] == status_of(answer)
    return told


def is_well(running: Running) -> bool:
    with running.connect() as client:
        client.sendall(GET + b"\r\n")
        return status_of(read_one(client)) == 200


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_connection_answers_again_and_again(running: Running) -> None:
    with running.connect() as client:
        for _ in range(3):
            client.sendall(GET + b"\r\n")
            answer = read_one(client)
            assert status_of(answer) == 200
            assert b"x-request-id: " in answer
            assert b"server: " not in answer.lower()


def test_without_httptools_it_answers_and_bounds_as_well(plain: Running) -> None:
    with plain.connect() as client:
        client.sendall(GET + b"\r\n")
        assert status_of(read_one(client)) == 200
        client.sendall(b"GET /")
        assert status_of(read_all(client)) == 408


def test_requests_sent_ahead_are_answered_in_order(running: Running) -> None:
    with running.connect() as client:
        bodies = [b"one", b"two"]
        posts = [
            b"POST /api/embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n" + body
            for body in bodies
        ]
        client.sendall(b"".join(posts))
        got = b""
        while b"two" not in got:
            got += client.recv(4096)
        assert got.index(b"one") < got.index(b"two")


def test_far_too_many_requests_sent_ahead_end_the_connection(fast: Running) -> None:
    with fast.connect() as client:
        client.sendall(500 * (GET + b"\r\n"))
        assert read_all(client).count(b"HTTP/1.1 200") < 500
    assert is_well(fast)


# -- slow --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", GET + b"\r\n"], ids=["at once", "after a request"])
def test_headers_that_come_a_letter_at_a_time_are_not_waited_for(running: Running, before: bytes) -> None:
    with running.connect() as client:
        if before:
            client.sendall(before)
            assert status_of(read_one(client)) == 200
        client.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        assert PATIENCE * 0.9 <= send_slowly(client, b"a", 3) < 1.5
        answer = read_all(client)
        assert status_of(answer) == 408
        assert problem_of(answer)["detail"] == "the headers did not come within 0.12 seconds; send them faster"


def test_a_connection_that_says_nothing_is_closed(running: Running) -> None:
    with running.connect() as client:
        begun = time.monotonic()
        assert read_all(client) == b""
        assert PATIENCE * 0.9 <= time.monotonic() - begun < 1.5


def test_a_body_that_comes_a_letter_at_a_time_is_not_waited_for(running: Running) -> None:
    with running.connect() as client:
        head = b"POST /api/embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
        client.sendall(head)
        assert PATIENCE * 0.9 <= send_slowly(client, b"a", 3) < 2.5
        answer = read_all(client)
        assert (status_of(answer), problem_of(answer)["title"]) == (408, "Request Timeout")
        assert b"connection: close" in answer.lower()


def test_a_slow_answer_is_not_taken_for_a_slow_client(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert status_of(read_all(client)) == 200


def test_a_client_that_does_not_read_its_answer_is_given_up(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(DEADLINE + 0.15)
        assert len(read_all(client)) < LARGE
    assert is_well(running)


# -- too large ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nX-Long: ", b"GET /"], ids=["a header", "an address"])
def test_endless_headers_are_cut_off(running: Running, head: bytes) -> None:
    with running.connect() as client:
        client.sendall(head)
        with contextlib.suppress(OSError):
            for _ in range(20):
                client.sendall((1 << 14) * b"a")
        answer = read_all(client)
        assert not answer or status_of(answer) in (400, 431)
    assert is_well(running)


def test_many_headers_in_one_piece_are_too_large_as_well(fast: Running) -> None:
    reached = len(fast.ended)
    with fast.connect() as client:
        client.sendall(GET + b"".join(b"X-%d: %s\r\n" % (place, 99 * b"a") for place in range(700)) + b"\r\n")
        answer = read_all(client)
    assert not answer or status_of(answer) == 431
    assert LARGEST_HEAD < 700 * 99
    assert is_well(fast)
    assert len(fast.ended) <= reached + 2


def test_a_body_beyond_the_limit_is_refused_and_the_refusal_is_read(running: Running) -> None:
    with running.connect() as client:
        length = LARGEST_BODY + 1
        client.sendall(b"POST /api/embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
        client.sendall(b"Content-Length: %d\r\n\r\n" % length + length * b"a")
        answer = read_one(client)
        assert status_of(answer) == 413
        assert "1,048,576" in str(problem_of(answer)["detail"])


def test_chunks_without_end_are_cut_off(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"POST /api/embed HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
        client.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n" % (1 << 16) + (1 << 16) * b"a" + b"\r\n"
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(2_000):
                client.sendall(chunk)
                sent += len(chunk)
        answer = read_all(client)
        assert not answer or status_of(answer) == 413
        assert sent < 64 << 20
    assert is_well(running)


# -- malformed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HELLO\r\n\r\n",
        b"GET / HTTP/one.one\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
    ids=["tls", "not http", "version", "no address", "header", "length", "two lengths", "chunk"],
)
def test_what_is_no_http_is_answered_400_and_the_connection_closed(running: Running, raw: bytes) -> None:
    with running.connect() as client:
        client.sendall(raw)
        answer = read_all(client)
        assert status_of(answer) in (400, 415)  # a body that is none may be found out after its headers were refused
        assert problem_of(answer)["detail"]
        assert b"connection: close" in answer.lower()
    assert is_well(running)


def test_an_offer_to_speak_something_else_is_overheard(running: Running) -> None:
    with running.connect() as client:
        client.sendall(GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert status_of(read_one(client)) == 200


# -- too many ----------------------------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_are_told_to_come_back_and_those_within_go_on() -> None:
    running = Running(connections=16)
    try:
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(running.connect()) for _ in range(16)]
            for client in held:
                client.sendall(GET + b"\r\n")
                assert status_of(read_one(client)) == 200
            for _ in range(3):
                with running.connect() as client:
                    client.sendall(GET + b"\r\n")
                    answer = read_all(client)
                    assert status_of(answer) == 429
                    assert b"retry-after: 1" in answer.lower()
            held[0].sendall(GET + b"\r\n")
            assert status_of(read_one(held[0])) == 200
        time.sleep(0.05)
        assert is_well(running)
    finally:
        running.stop()


# -- the end -----------------------------------------------------------------------------------------------------------


def test_what_is_begun_ends_before_the_server_does() -> None:
    running = Running()
    with running.connect() as client, running.connect() as idle:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        while "/slow" not in running.begun:
            time.sleep(0.002)
        running.stop()
        answer = read_all(client)
        assert status_of(answer) == 200
        assert b"connection: close" in answer.lower()
        assert read_all(idle) == b""
    assert running.ended == ["startup", "/slow", "shutdown"]
    with pytest.raises(ConnectionRefusedError):
        running.connect()


# -- the port ----------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_named_with_one_that_is_free() -> None:
    with listening("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(LookaheadError, match=f"port {port} of 127.0.0.1 is in use .*; try --port ") as said:
            listening("127.0.0.1", port)
    other = int(str(said.value).rpartition(" ")[2])
    with listening("127.0.0.1", other) as bound:
        assert bound.getsockname()[1] == other != port


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a" * 80, "::ffff:192.0.2.1"])
def test_an_address_that_is_not_ours_is_named(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if host == "no.such.host.invalid":  # whose name nobody is asked for in a test

        def nobody(*_: object, **__: object) -> None:
            raise socket.gaierror("unknown")

        monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(LookaheadError, match=r"--host .* is no address of this machine; try --host 127\.0\.0\.1"):
        listening(host, 0)


def test_a_connection_is_taken_before_anything_serves_it() -> None:
    with listening("127.0.0.1", 0) as bound, socket.create_connection(bound.getsockname(), timeout=1):
        pass
