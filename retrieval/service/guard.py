"""What every request passes before and after its route: key, host, size, patience, deadline, headers, meters, log.

It does not know what the routes answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import re
import secrets
import time
from collections.abc import Iterable

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.service.access_log import log_error, log_request
from retrieval.service.lanes import too_late
from retrieval.service.meters import Meters
from retrieval.service.problems import Problem, problem_response
from retrieval.service.settings import LARGEST_BODY, Settings

LONGEST_PATH = 2_000  # bytes, as sent
# and the files of the page and of /docs, which hold nothing of a collection; everything else asks for the key
OPEN_TO_ALL = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")
GONE = 499  # in log and meters only: the client did not wait for its answer
_NOT_KEPT = (b"cache-control", b"no-store")
_ALWAYS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# an encoded slash or backslash, or a control character, or a segment that climbs, however it is written
_TRICKS = re.compile(rb"(?i)%2f|%5c|\\|%[01][0-9a-f]|%7f|[\x00-\x20\x7f]|(?:^|/)(?:\.|%2e){2}(?:/|$)")
_PORT = re.compile(r":\d*$")  # after a name, or the bracket of an IPv6 address
_WATCHED_AFTER = 0.25  # seconds; only what takes longer is worth asking whether its client still waits
_LINGER = 1.0  # seconds a refused body is read on for
_PAUSE = 0.1  # seconds between two parts of it
_LINGERED = 16 * LARGEST_BODY  # bytes of it that are read, so that the client comes to read the refusal


class Guard:
    """ASGI middleware, the outermost of an app."""

    def __init__(self, app: ASGIApp, *, settings: Settings, meters: Meters) -> None:
        self._app = app
        self._settings = settings
        self._meters = meters
        self._hosts = frozenset(host.lower() for host in settings.hosts)
        self._key = None if settings.key is None else settings.key.encode()
        # numbers, not chance, for each request: asking the system for random bytes lets go of Python's lock
        self._names = map(f"{secrets.token_hex(4)}-{{:x}}".format, itertools.count(1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope  # the same, without the body
        answer = _Answer(scope, send, next(self._names))
        self._meters.begun()
        try:
            await self._pass(inner, receive, answer)
        finally:
            seconds = time.perf_counter() - begun
            method, path, client = scope["method"], scope["path"], scope.get("client")
            self._meters.ended(method, _template(inner), answer.status, seconds)
            agent = (_header(scope, b"user-agent") or b"").decode("latin-1")
            address = client[0] if client else ""
            log_request(answer.request_id, address, method, path, answer.status, seconds, answer.sent, agent)

    async def _pass(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        """Answers, whatever happens; raises only when the server itself takes the request away."""
        body = _Body(scope, receive)
        watcher = _Watcher(receive, answer)
        limit = asyncio.timeout(self._settings.deadline)
        problem = None
        try:
            async with limit:
                self._check(scope)
                await body.read(self._settings.patience)
                watcher.start()
                await self._app(scope, body.replayed, answer.send)
        except Problem as error:
            problem = error
        except asyncio.CancelledError:
            if not watcher.cancelled_it():
                raise
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                problem = too_late(self._settings.deadline)
            else:
                log_error(answer.request_id, scope["method"], scope["path"], error)
                problem = Problem(500, "this went wrong on our side; the server's log has the details")
        finally:
            watcher.stop()
        if problem is not None and not answer.begun:
            await body.linger()
            await answer.refuse(problem, close=not body.ended)

    def _check(self, scope: Scope) -> None:
        """What can be said from the headers alone; raises Problem."""
        if self._hosts and _host(scope) not in self._hosts:
            names = " or ".join(sorted(self._hosts))
            raise Problem(421, f"this service answers to {names} only, not to the Host that was asked for")
        raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
        if len(raw) > LONGEST_PATH or _TRICKS.search(raw):
            raise Problem(404, "there is nothing at this address; /docs lists what there is")
        if self._key is not None and not _is_open(scope["path"]) and not _holds_key(scope, self._key):
            raise Problem(401, "this needs the key: send it as Authorization: Bearer KEY, or as X-API-Key: KEY")
        if scope["method"] == "POST" and not _is_json(scope) and _takes_posts(scope):
            raise Problem(415, "send JSON, with the header Content-Type: application/json")


class _Body:
    """A request's body, read whole before its route begins, so that limits hold for every route alike."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        length = _header(scope, b"content-length")
        self._announced = int(length[:19]) if length is not None and length.isdigit() else 0
        # nothing need be read where nothing was announced; only chunks come without a length
        self.ended = not self._announced and _header(scope, b"transfer-encoding") is None
        self._waits = _header(scope, b"expect") is not None  # for our leave to send it
        self._parts: list[bytes] = []
        self._given = False

    async def read(self, patience: float) -> None:
        """Raises Problem when it is too large or comes too slowly."""
        if self._announced > LARGEST_BODY:
            raise _too_large()
        if self.ended:
            return
        size = 0
        try:
            async with asyncio.timeout(patience):
                while not self.ended:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "the request ended before its body did")  # which nobody reads any more
                    self._parts.append(message.get("body", b""))
                    self.ended = not message.get("more_body", False)
                    size += len(self._parts[-1])
                    if size > LARGEST_BODY:
                        raise _too_large()
        except TimeoutError:
            raise Problem(408, f"the body did not come within {patience:g} seconds; send it faster") from None

    async def replayed(self) -> Message:
        """What the app receives."""
        if self._given:
            return await self._receive()
        self._given = True
        body, self._parts = b"".join(self._parts), []
        return {"type": "http.request", "body": body, "more_body": False}

    async def linger(self) -> None:
        """Reads on for a moment while a refused body keeps coming: closing earlier would reset the connection, and
        with it the answer on its way."""
        self._parts = []
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while not (self.ended or self._waits) and size < _LINGERED:
                    async with asyncio.timeout(_PAUSE):
                        message = await self._receive()
                    size += len(message.get("body", b""))
                    self.ended = message["type"] == "http.disconnect" or not message.get("more_body", False)


class _Answer:
    """A response on its way out: gets its headers and is counted."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.request_id = request_id
        self.status = GONE  # until there is another
        self.sent = 0
        self.begun = False
        self.ended = False
        self._scope = scope
        self._send = send
        self._bodiless = scope["method"] == "HEAD"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = message["status"]
            message = {**message, "headers": self._headers(message.get("headers", ()))}
        elif message["type"] == "http.response.body":
            if self._bodiless:
                message = {**message, "body": b""}
            self.sent += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, problem: Problem, *, close: bool) -> None:
        response = problem_response(problem.status, problem.detail, self._scope["path"], problem.headers)
        if problem.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if close:  # the rest of a body would be taken for the next request
            response.headers["Connection"] = "close"
        await response(self._scope, _nothing, self.send)

    def _headers(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """A route's own are left as they are."""
        headers = [*given]
        names = {name for name, _ in headers}
        headers += [header for header in _ALWAYS if header[0] not in names]
        if self._scope["path"].startswith("/api/") and b"cache-control" not in names:
            headers.append(_NOT_KEPT)
        headers.append((b"x-request-id", self.request_id.encode()))
        return headers


class _Watcher:
    """Cancels a long request when its client has gone, so that nobody works for it any more."""

    def __init__(self, receive: Receive, answer: _Answer) -> None:
        self._receive = receive
        self._answer = answer
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._gone = False

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_WATCHED_AFTER, self._begin)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def cancelled_it(self) -> bool:
        """Whether a cancellation was this watcher's, and is over with that."""
        if self._gone and self._task is not None:
            self._task.uncancel()
        return self._gone

    def _begin(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._answer.ended and self._task is not None:  # servers say the same once all is sent
            self._gone = True
            self._task.cancel()


def _too_large() -> Problem:
    return Problem(413, f"the body is larger than {LARGEST_BODY:,} bytes; send less at a time")


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _header(scope: Scope, name: bytes) -> bytes | None:
    """The first of that name; names are lower case."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


def _host(scope: Scope) -> str | None:
    """The name a request calls us by, without the port; None when it gives none, or several."""
    given = {value for name, value in scope["headers"] if name == b"host"}
    if len(given) != 1:
        return None
    return _PORT.sub("", given.pop().decode("latin-1").strip().lower())


def _is_open(path: str) -> bool:
    return path in OPEN_TO_ALL or path.startswith(("/page/", "/docs/"))


def _holds_key(scope: Scope, key: bytes) -> bool:
    """In constant time for keys of one length, whatever they share."""
    scheme, _, token = (_header(scope, b"authorization") or b"").partition(b" ")
    bearer = token.strip() if scheme.lower() == b"bearer" else b""
    named = _header(scope, b"x-api-key") or b""
    return hmac.compare_digest(bearer, key) | hmac.compare_digest(named, key)


def _is_json(scope: Scope) -> bool:
    kind = _header(scope, b"content-type") or b""
    return kind.partition(b";")[0].strip().lower() == b"application/json"


def _takes_posts(scope: Scope) -> bool:
    """Whether a POST has a route at all; where it has none, 404 and 405 say more than 415."""
    app = scope.get("app")
    routes: list[BaseRoute] = [] if app is None else app.routes
    return app is None or any(route.matches(scope)[0] is Match.FULL for route in routes)


def _template(scope: Scope) -> str:
    """The route a request took; "none" where it came to none."""
    return str(getattr(scope.get("route"), "path", "none"))
