"""What every request passes: key, host, paths, bodies, deadline, headers, meters, log. Spoken to without a socket."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.types import Message, Receive, Scope, Send

from retrieval.service.access_log import REQUESTS, logging_to
from retrieval.service.guard import Guard
from retrieval.service.lanes import Lane
from retrieval.service.meters import Meters
from retrieval.service.problems import Problem, handle_problems
from retrieval.service.settings import LARGEST_BODY, Settings

App = Callable[[Scope, Receive, Send], Awaitable[None]]
JSON = {"content-type": "application/json"}


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        told: dict[str, Any] = json.loads(self.body)
        assert told["status"] == self.status
        return told


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body it was sent, and counts how often it was reached."""
    message = await receive()
    assert message["more_body"] is False
    echo.reached += 1  # type: ignore[attr-defined]
    body = message["body"] or b"hello"
    headers = [(b"content-length", b"%d" % len(body)), *scope.get("adds", ())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(autouse=True)
def _count() -> None:
    echo.reached = 0  # type: ignore[attr-defined]


async def asked(
    app: App,
    path: str = "/api/search",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    parts: Iterable[bytes | float | None] = (),
    adds: Iterable[tuple[bytes, bytes]] = (),
) -> Answer:
    """One request; of `parts`, bytes are a piece of the body, a number is a pause, and None is a client that goes."""
    answer = Answer()
    ended = asyncio.Event()
    coming = iter(parts)

    async def receive() -> Message:
        for part in coming:
            if part is None:
                return {"type": "http.disconnect"}
            if isinstance(part, bytes):
                return {"type": "http.request", "body": part, "more_body": part != b""}
            await asyncio.sleep(part)
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert answer.status == 0, "two answers to one request"
            answer.status = message["status"]
            pairs = [(name.decode(), value.decode()) for name, value in message["headers"]]
            answer.headers = dict(pairs)
            assert len(pairs) == len(answer.headers), "a header twice"
        else:
            answer.body += message.get("body", b"")
            if not message.get("more_body"):
                ended.set()

    raw, _, query = path.partition("?")
    given = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {
        "type": "http",
        "method": method,
        "path": raw.replace("%2e", "."),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": given,
        "client": ("127.0.0.1", 50_000),
        "adds": list(adds),
    }
    await app(scope, receive, send)
    return answer


def ask(app: App, path: str = "/api/search", method: str = "GET", **more: Any) -> Answer:
    return asyncio.run(asked(app, path, method, **more))


def guarded(app: App = echo, **settings: Any) -> Guard:
    return Guard(app, settings=Settings(**settings), meters=Meters())


def reached() -> int:
    return int(echo.reached)  # type: ignore[attr-defined]


# -- the key -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer s3cret"}, {"Authorization": "bearer  s3cret "}, {"X-API-Key": "s3cret"}],
    ids=["bearer", "in its own way", "x-api-key"],
)
def test_who_brings_the_key_is_let_in(headers: dict[str, str]) -> None:
    assert ask(guarded(key="s3cret"), headers=headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer s3cre"},
        {"Authorization": "Bearer s3crets"},
        {"Authorization": "Bearer "},
        {"Authorization": "s3cret"},
        {"Authorization": "Basic s3cret"},
        {"X-API-Key": ""},
        {"X-API-Key": "S3CRET"},
        {"X-API-Key": "s3crèt"},
    ],
    ids=str,
)
def test_who_does_not_is_told_how_to(headers: dict[str, str]) -> None:
    answer = ask(guarded(key="s3cret"), headers=headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "X-API-Key: KEY" in answer.problem["detail"]
    assert b"s3cr" not in answer.body
    assert reached() == 0


@pytest.mark.parametrize("path", ["/", "/healthz", "/page/app.js", "/docs", "/docs/start.js", "/openapi.json"])
def test_the_page_the_description_and_the_health_of_the_service_need_no_key(path: str) -> None:
    assert ask(guarded(key="s3cret"), path).status == 200


@pytest.mark.parametrize("path", ["/metrics", "/page", "/healthz/", "/api/page/app.js"])
def test_everything_else_does(path: str) -> None:
    assert ask(guarded(key="s3cret"), path).status == 401


# -- host and path ---------------------------------------------------------------------------------------------------

OURS = ("localhost", "127.0.0.1", "[::1]")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8765", "127.0.0.1:8765", "[::1]:8765", "[::1]"])
def test_a_request_that_calls_us_by_name_is_let_in(host: str) -> None:
    assert ask(guarded(hosts=OURS), headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "localhost.evil.example", "", "127.0.0.1.", None]
)
def test_a_page_elsewhere_that_had_its_name_pointed_here_is_refused(host: str | None) -> None:
    answer = ask(guarded(hosts=OURS), headers={} if host is None else {"Host": host})
    assert answer.status == 421
    assert "127.0.0.1 or [::1] or localhost" in answer.problem["detail"]
    assert reached() == 0


@pytest.mark.parametrize(
    "path",
    [
        "/api/articles/1%2f2",
        "/api/articles/..%2F..%2Fetc%2Fpasswd",
        "/page/../../settings.py",
        "/page/%2e%2e/settings.py",
        "/page/.%2E",
        "/page/..\\settings.py",
        "/page/%5c",
        "/api/articles/%00",
        "/api/articles/a%0d%0aSet-Cookie:x",
        "/" + 2_000 * "a",
    ],
    ids=lambda path: path[:30],
)
def test_a_path_with_a_trick_in_it_leads_nowhere(path: str) -> None:
    answer = ask(guarded(), path)
    assert answer.status == 404
    assert answer.problem["detail"] == "there is nothing at this address; /docs lists what there is"
    assert reached() == 0


@pytest.mark.parametrize("path", ["/api/articles/a..b", "/a%20b", "/...", "/api/search?q=..%2F..%00", "/%C3%A9"])
def test_a_path_that_only_looks_like_it_does(path: str) -> None:
    assert ask(guarded(), path).status == 200


# -- bodies --------------------------------------------------------------------------------------------------------

MIB = LARGEST_BODY


def test_a_body_of_just_the_limit_arrives_whole_in_whatever_pieces() -> None:
    half = MIB // 2 * b"x"
    answer = ask(guarded(), method="POST", headers={**JSON, "Content-Length": str(MIB)}, parts=[half, half, b""])
    assert (answer.status, len(answer.body)) == (200, MIB)


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read() -> None:
    headers = {**JSON, "Content-Length": str(MIB + 1), "Expect": "100-continue"}
    answer = ask(guarded(), method="POST", headers=headers)
    assert answer.status == 413
    assert "1,048,576 bytes" in answer.problem["detail"]
    assert answer.headers["connection"] == "close"  # what may follow is no request
    assert reached() == 0


def test_a_body_that_does_not_say_so_is_refused_while_it_is_read() -> None:
    parts = iter([*(9 * [MIB // 8 * b"x"]), b"", 5.0])
    answer = ask(guarded(), method="POST", headers={**JSON, "Transfer-Encoding": "chunked"}, parts=parts)
    assert answer.status == 413
    assert next(parts) == 5.0  # it was read to its end all the same, so that the refusal is read too
    assert "connection" not in answer.headers
    assert reached() == 0


def test_a_refused_body_that_does_not_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.service.guard._LINGER", 0.05)
    begun = time.monotonic()
    parts = (part for _ in iter(int, 1) for part in (b"x", 0.001))
    answer = ask(guarded(key="k"), method="POST", headers={**JSON, "Transfer-Encoding": "chunked"}, parts=parts)
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    assert time.monotonic() - begun < 1


def test_a_body_that_comes_too_slowly_is_not_waited_for() -> None:
    headers = {**JSON, "Content-Length": "9"}
    answer = ask(guarded(patience=0.05), method="POST", headers=headers, parts=[b"{", 9.0, 9.0])
    assert answer.status == 408
    assert answer.problem["detail"] == "the body did not come within 0.05 seconds; send it faster"
    assert answer.headers["connection"] == "close"
    assert reached() == 0


def test_a_client_that_goes_before_its_body_ended_reaches_nothing() -> None:
    ask(guarded(), method="POST", headers={**JSON, "Content-Length": "9"}, parts=[b"{", None])
    assert reached() == 0


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_a_post_of_json_is_let_in(kind: str) -> None:
    headers = {"Content-Type": kind, "Content-Length": "2"}
    answer = ask(guarded(), method="POST", headers=headers, parts=[b"{}", b""])
    assert (answer.status, answer.body) == (200, b"{}")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", None])
def test_a_post_of_anything_else_is_not(kind: str | None) -> None:
    """A page elsewhere may have a browser send those without asking us first."""
    headers = {} if kind is None else {"Content-Type": kind}
    answer = ask(guarded(), method="POST", headers=headers)
    assert answer.status == 415
    assert "Content-Type: application/json" in answer.problem["detail"]
    assert reached() == 0


# -- time ------------------------------------------------------------------------------------------------------------


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/begun":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.sleep(60)


def test_a_request_that_takes_too_long_is_answered_504() -> None:
    answer = ask(guarded(endless, deadline=0.05))
    assert answer.status == 504
    assert answer.problem["detail"] == "no answer within 0.05 seconds; try again, or ask for less"


def test_an_answer_that_has_begun_gets_no_second_one() -> None:
    answer = ask(guarded(endless, deadline=0.05), "/begun")
    assert (answer.status, answer.body) == (200, b"")


def test_a_timeout_of_something_else_is_our_mistake_and_not_the_deadline() -> None:
    async def times_out(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError

    assert ask(guarded(times_out)).status == 500


def test_who_does_not_wait_for_an_answer_is_not_worked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.service.guard._WATCHED_AFTER", 0.02)
    worked = []

    def work(items: list[int]) -> list[int | Exception]:
        worked.extend(items)
        time.sleep(0.1)
        return list(items)

    meters = Meters()

    async def go() -> Answer:
        async with Lane("slow", work, waiting=9, batch=1) as lane:

            async def asks(scope: Scope, receive: Receive, send: Send) -> None:
                assert (await receive())["body"] == b""
                await lane.ask(2, 9)

            busy = asyncio.create_task(lane.ask(1, 9))
            await asyncio.sleep(0)
            answer = await asked(Guard(asks, settings=Settings(), meters=meters), parts=[b"", 0.02, None])
            await busy
            return answer

    assert asyncio.run(go()).status == 0
    assert worked == [1]
    assert b'status="499"' in meters.text()
    assert b"lookahead_requests_in_flight 0.0" in meters.text()


def test_an_answer_that_was_sent_is_not_taken_for_a_client_that_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.service.guard._WATCHED_AFTER", 0.0)
    after = []

    async def tidies_up(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.02)
        await echo(scope, receive, send)
        await asyncio.sleep(0.02)  # the server says "disconnect" by now
        after.append(True)

    assert ask(guarded(tidies_up)).status == 200
    assert after == [True]


# -- headers -----------------------------------------------------------------------------------------------------------


def test_every_answer_carries_what_keeps_a_browser_from_guessing_and_a_page_from_framing() -> None:
    for answer in (ask(guarded()), ask(guarded(key="k")), ask(guarded(), "/..")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_route_s_own_headers_are_left_to_it() -> None:
    adds = [(b"content-security-policy", b"default-src 'self'"), (b"cache-control", b"max-age=9")]
    answer = ask(guarded(), adds=[*adds, (b"x-content-type-options", b"nosniff")])
    assert answer.headers["content-security-policy"] == "default-src 'self'"
    assert answer.headers["cache-control"] == "max-age=9"


def test_answers_of_the_interface_are_not_kept_and_files_of_the_page_may_be() -> None:
    assert ask(guarded(), "/api/search").headers["cache-control"] == "no-store"
    assert "cache-control" not in ask(guarded(), "/page/app.js").headers


def test_a_request_gets_an_id_of_ours_never_its_own() -> None:
    guard = guarded()
    first, second = (ask(guard, headers={"X-Request-Id": "mine"}).headers["x-request-id"] for _ in range(2))
    assert first != second != ask(guarded()).headers["x-request-id"]
    assert "mine" not in (first, second)


def test_head_is_get_without_the_body() -> None:
    answer = ask(guarded(), method="HEAD")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "5", b"")
    refused = ask(guarded(key="k"), method="HEAD")
    assert (refused.status, refused.body) == (401, b"")


def test_a_websocket_is_closed_and_other_things_pass() -> None:
    sent: list[Message] = []
    passed: list[str] = []

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guarded(inside)({"type": "websocket"}, receive, send))
    asyncio.run(guarded(inside)({"type": "lifespan"}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert passed == ["lifespan"]


# -- mistakes, meters, log ---------------------------------------------------------------------------------------------


async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("inside /home/someone\nand more")


def test_a_mistake_of_ours_is_a_500_that_tells_nothing_and_a_line_that_tells_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = ask(guarded(breaks), "/api/search?q=private")
    assert answer.status == 500
    assert answer.problem["detail"] == "this went wrong on our side; the server's log has the details"
    assert b"someone" not in answer.body
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert "private" not in record.getMessage()
    line = json.loads(record.getMessage())
    assert line["id"] == answer.headers["x-request-id"]
    assert line["error"] == "ValueError: inside /home/someone\nand more"
    assert 'raise ValueError("inside' in line["traceback"]


def test_a_refusal_of_a_route_is_passed_on_as_it_is() -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        raise Problem(429, "later", retry_after=7)

    answer = ask(guarded(refuses))
    assert (answer.status, answer.headers["retry-after"], answer.problem["detail"]) == (429, "7", "later")


def test_every_answer_is_one_line_without_what_was_asked() -> None:
    stream = BytesIO()
    with logging_to(stream):
        app = guarded()
        answer = ask(app, "/api/search?q=private", headers={"User-Agent": "curl/8\n" + 999 * "x"})
        ask(app, "/..")
    assert b"private" not in stream.getvalue()
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first.pop("ms") < 1_000
    assert first == {
        "id": answer.headers["x-request-id"],
        "client": "127.0.0.1",
        "method": "GET",
        "path": "/api/search",
        "status": 200,
        "bytes": 5,
        "agent": "curl/8\n" + 193 * "x",
    }
    assert (second["path"], second["status"]) == ("/..", 404)


def test_without_a_place_for_them_no_lines_are_made() -> None:
    assert not REQUESTS.isEnabledFor(logging.INFO)
    with logging_to(BytesIO()):
        assert REQUESTS.isEnabledFor(logging.INFO)
    assert not REQUESTS.isEnabledFor(logging.INFO)
    with logging_to(None):
        assert not REQUESTS.isEnabledFor(logging.INFO)


class Paused(BytesIO):
    """A reader that takes nothing until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    def write(self, data: Any) -> int:
        while not self.go.is_set():
            time.sleep(0.001)
        return super().write(data)


def test_a_log_that_nobody_reads_holds_nothing_up_and_says_what_it_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.service.access_log._MOST", 3)
    monkeypatch.setattr("retrieval.service.access_log._TOGETHER", 0.01)
    stream, app = Paused(), guarded()
    begun = time.monotonic()
    with logging_to(stream):
        ask(app)
        time.sleep(0.03)  # the first line is being written
        for _ in range(5):
            assert ask(app).status == 200
        assert time.monotonic() - begun < 1
        stream.go.set()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("dropped_lines", line.get("status")) for line in lines] == [200, 200, 200, 200, 2]


def test_what_a_library_complains_of_becomes_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(None):
        try:
            raise OSError("disk \udcff full")
        except OSError:
            logging.getLogger("uvicorn.error").exception("could not")
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
        logging.getLogger("lookahead.service").info("wiki: gen-000002 in place of gen-000001")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["message"]) == ("error", "could not")
    assert "OSError: disk ? full" in first["traceback"]
    assert second["message"] == "wiki: gen-000002 in place of gen-000001"


# -- around an app of routes -------------------------------------------------------------------------------------------


class Texts(BaseModel):
    input: str


@pytest.fixture
def routed() -> tuple[FastAPI, Meters]:
    router = APIRouter()

    @router.post("/api/embed")
    async def embed(texts: Texts) -> str:
        return texts.input

    @router.get("/api/chunks/{chunk_id}")
    async def chunk(chunk_id: int) -> int:
        return chunk_id

    app, meters = FastAPI(), Meters()
    handle_problems(app)
    app.include_router(router)
    app.add_middleware(Guard, settings=Settings(), meters=meters)
    return app, meters


def test_a_post_to_where_none_is_taken_hears_that_first(routed: tuple[FastAPI, Meters]) -> None:
    app, _ = routed
    plain = {"content-type": "text/plain"}
    assert ask(app, "/api/embed", "POST", headers=plain).status == 415
    assert ask(app, "/api/chunks/1", "POST", headers=plain).status == 405
    assert ask(app, "/nowhere", "POST", headers=plain).status == 404
    answer = ask(app, "/api/embed", "OPTIONS")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_figures_are_kept_by_route_and_not_by_path(routed: tuple[FastAPI, Meters]) -> None:
    app, meters = routed
    for chunk in (1, 2):
        assert ask(app, f"/api/chunks/{chunk}").body == b"%d" % chunk
    assert ask(app, "/api/chunks/3", "HEAD").status == 200
    ask(app, "/nowhere")
    ask(app, "/nowhere", "PROPFIND")
    text = meters.text().decode()
    assert 'lookahead_requests_total{method="GET",route="/api/chunks/{chunk_id}",status="200"} 2.0' in text
    assert 'lookahead_requests_total{method="HEAD",route="/api/chunks/{chunk_id}",status="200"} 1.0' in text
    assert 'lookahead_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'lookahead_requests_total{method="other",route="none",status="404"} 1.0' in text
    assert 'lookahead_request_seconds_count{route="/api/chunks/{chunk_id}"} 3.0' in text
    assert "lookahead_requests_in_flight 0.0" in text


def test_meters_of_two_services_do_not_meet() -> None:
    one, other = Meters(), Meters()
    one.generations_open(2)
    assert b"lookahead_generations_open 2.0" in one.text()
    assert b"lookahead_generations_open 0.0" in other.text()
