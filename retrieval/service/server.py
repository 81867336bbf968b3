"""uvicorn, made to keep standing: slow, endless, malformed and too many connections, a port in use, a graceful end.

It serves any ASGI app and does not know ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import math
import resource
import signal
import socket
from collections.abc import Callable, Collection
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from retrieval.service.problems import problem_response
from retrieval.service.settings import LARGEST_BODY, PORT, Settings
from store.records import LookaheadError

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _Fast
else:
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _Fast
    except ImportError:  # httptools is a compiled extra
        _Fast = None

CONNECTIONS = 1_000  # at once; more are answered 429 and closed
LARGEST_HEAD = 1 << 16  # bytes of a request's line and headers, and of what may follow a chunked body
KEEP_ALIVE = 5  # seconds a connection may be idle between two requests
_PIPELINED = 64  # requests sent ahead of their answers
_LARGEST_REQUEST = 32 * LARGEST_BODY  # bytes, framing included: the smallest chunks take six times their content
_REFUSED = 1.0  # seconds a connection too many has to send what it is refused for
_BACKLOG = 2_048
# objects more, before Python looks for cycles among the young: a batch of searches makes thousands that go by
# themselves, and looking after every 700 of them cost a sixth of the searches a second
_CYCLES_AFTER = 50_000
_FILES = 512  # descriptors left for everything that is not a connection
_TOO_LARGE = f"the headers are larger than {LARGEST_HEAD:,} bytes; send less of them"


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on, which wait until it is served. Port 0 is any free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise LookaheadError(f"--host {host} is no address of this machine; try --host 127.0.0.1") from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for old connections
    try:
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise LookaheadError(_why_not(host, port, error)) from error
    bound.setblocking(False)
    return bound


def serve(
    app: ASGIApp,
    bound: socket.socket,
    settings: Settings,
    *,
    begun: Callable[[], object] = lambda: None,
    each_tick: Callable[[], object] = lambda: None,
) -> None:
    """Serves until SIGINT or SIGTERM, then ends what is begun. `begun` is called when the first request can be
    answered, `each_tick` ten times a second from then on. Python looks for cycles less often from here on."""
    gc.set_threshold(_CYCLES_AFTER, 20, 50)
    server_of(app, settings, begun, each_tick).run(sockets=[bound])


def server_of(
    app: ASGIApp,
    settings: Settings,
    begun: Callable[[], object] = lambda: None,
    each_tick: Callable[[], object] = lambda: None,
    *,
    fast: bool = True,
    connections: int = CONNECTIONS,
) -> Server:
    """`fast` takes httptools where it is installed; h11 does the same, slower."""
    config = uvicorn.Config(
        app,
        http=_protocol(settings, fast, _room_for(connections)),
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,  # the guard writes one
        proxy_headers=False,  # who asks is who connects, not who they say they are
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(settings.deadline) + 1,
        h11_max_incomplete_event_size=LARGEST_HEAD,
    )
    return Server(config, begun, each_tick)


class Server(uvicorn.Server):
    """Ends with exit code 0 when it is told to end; a second Ctrl-C ends it at once."""

    def __init__(self, config: uvicorn.Config, begun: Callable[[], object], each_tick: Callable[[], object]) -> None:
        super().__init__(config)
        self._begun = begun
        self._each_tick = each_tick

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True  # uvicorn's own way raises the signal once more after it has ended

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._begun()

    async def on_tick(self, counter: int) -> bool:
        self._each_tick()
        return await super().on_tick(counter)


class Bounded(asyncio.Protocol):
    """What both of uvicorn's protocols lack: limits for a client's head, its hurry to read, and their number."""

    patience: float
    deadline: float
    most: int

    # uvicorn's
    config: uvicorn.Config
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    connections: set[Any]
    cycle: Any

    _received = 0  # bytes of a head, or of the request that is being answered
    _timer: asyncio.TimerHandle | None = None  # for the head
    _stalled: asyncio.TimerHandle | None = None  # for a client that does not read
    _refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._refused = len(self.connections) > self.most
        if len(self.connections) > 2 * self.most:
            self.transport.abort()
            return
        self._timer = self.loop.call_later(_REFUSED if self._refused else self.patience, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._timer)
        _cancel(self._stalled)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._refused:  # only now: an answer to a client that still sends is lost with the connection
            self._end_with(429, f"{self.most:,} connections are open already; try again in a while")
            return
        was_busy = self._is_busy()
        self._received += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._is_busy():
            if self._received > LARGEST_HEAD:
                self._end_with(431, _TOO_LARGE)
            elif self._timer is None:
                self._timer = self.loop.call_later(self.patience, self._too_slow)
            return
        _cancel(self._timer)
        self._timer = None
        if not was_busy and self._received > LARGEST_HEAD and _size_of_head(self.cycle.scope) > LARGEST_HEAD:
            self._end_with(431, _TOO_LARGE)
        elif self._received > _LARGEST_REQUEST or len(self._ahead()) > _PIPELINED:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP."""
        self._end_with(400, "this is no HTTP request that can be read")

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        self._received = 0
        if self.transport.is_closing():  # it waits for the client to read the answer
            self._stalled = self._stalled or self.loop.call_later(self.deadline, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(self.deadline, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._stalled)
        self._stalled = None

    def _is_busy(self) -> bool:
        """Whether a request has begun and is not answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _ahead(self) -> Collection[object]:
        """Requests that wait for the answer to one before them; h11 does not read them yet."""
        waiting: Collection[object] = getattr(self, "pipeline", ())
        return waiting

    def _too_slow(self) -> None:
        if not self.transport.is_closing() and not self._is_busy():
            if self._received:
                self._end_with(408, f"the headers did not come within {self.patience:g} seconds; send them faster")
            else:
                self.transport.close()  # nothing was asked

    def _end_with(self, status: int, detail: str) -> None:
        """Says so and closes; only closes when another answer is half way out."""
        if self._is_busy():
            if self.cycle.response_started or self._ahead():
                self.transport.abort()
                return
            self.cycle.disconnected = True  # its route may go on, and is heard by nobody
            self.cycle.message_event.set()
        response = problem_response(status, detail, headers={"Connection": "close"})
        if status == 429:
            response.headers["Retry-After"] = "1"
        head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        self.transport.write(line + head + b"\r\n" + bytes(response.body))
        self.transport.close()
        self._stalled = self._stalled or self.loop.call_later(self.deadline, self.transport.abort)


def _protocol(settings: Settings, fast: bool, connections: int) -> type[asyncio.Protocol]:
    """uvicorn makes one for each connection and hands it nothing of ours: limits are the class's."""
    base: type[asyncio.Protocol] = _Fast if fast and _Fast is not None else H11Protocol
    limits = {"patience": settings.patience, "deadline": settings.deadline, "most": connections}
    return type("BoundedProtocol", (Bounded, base), limits)


def _room_for(connections: int) -> int:
    """As many of them as there can be descriptors; the process's limit is raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = 2 * connections + _FILES  # those that are refused take one for a moment too
    if soft != resource.RLIM_INFINITY and soft < need:
        with contextlib.suppress(ValueError, OSError):  # macOS has a limit of its own beside the hard one
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (need if hard == resource.RLIM_INFINITY else min(need, hard), hard)
            )
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if soft == resource.RLIM_INFINITY else max(16, min(connections, (soft - _FILES) // 2))


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use by another program; try --port {_free_beside(host, port)}"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this program has; try --port {PORT}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine; try --host 127.0.0.1"
    return f"cannot listen at {host} port {port}: {error.strerror}; try another --host or --port"


def _free_beside(host: str, port: int) -> int:
    """The next port that nobody listens at; 0, which takes any, when there is none near."""
    for other in range(port + 1, min(port + 50, 65_536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                tried.bind((host, other))
                return other
    return 0


def _size_of_head(scope: dict[str, Any]) -> int:
    fields = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return fields + len(scope["raw_path"]) + len(scope["query_string"])


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
