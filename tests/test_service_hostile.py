"""The whole service over real sockets, asked by those who mean it no good, and by schemathesis, who tries all."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection
from tiny_service import PAGES, publish

from retrieval.search import Searcher
from retrieval.service.app import create_app
from retrieval.service.server import listening, server_of
from retrieval.service.settings import LARGEST_BODY, LONGEST_QUERY, MOST_TEXTS, Settings

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where a server answers for a collection whose titles and texts are an attack themselves."""
    home = tmp_path_factory.mktemp("hostile")
    nasty = {6: (f"Title {SCRIPT}", [(SCRIPT, f"A text that holds {SCRIPT} between its many harmless words of ten.")])}
    with Searcher.open(publish(home, "nasty", {**PAGES, **nasty})) as searcher:
        up = threading.Event()
        bound = listening("127.0.0.1", 0)
        told = Settings(hosts=("127.0.0.1", "localhost"), patience=2.0)
        server = server_of(create_app(searcher, told), told, up.set)
        thread = threading.Thread(target=server.run, args=[[bound]])
        thread.start()
        assert up.wait(20)
        yield bound.getsockname()[1]
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def description(port: int) -> Any:
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


def meant(description: Any, many: int) -> set[str]:
    """Has `many` requests made to each operation, after its description and against it; names the operations."""
    told = set()
    for operation in (one.ok() for one in description.get_all_operations()):

        @settings(max_examples=many, suppress_health_check=list(HealthCheck))
        @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)))
        def _asked(case: schemathesis.Case) -> None:
            # the bundled encoder would first be converted, with 503 for ten seconds; "exactly one of these fields" is
            # more than a description can say; and schemathesis does not know that 413 is a refusal
            if isinstance(case.body, dict) and case.body.get("model", "bundled") == "bundled":
                case.body["model"] = "hashing"
            answer = case.call()
            passed_over = [schemathesis.checks.positive_data_acceptance]
            if answer.status_code == 413:
                passed_over.append(negative_data_rejection)
            case.validate_response(answer, excluded_checks=passed_over)

        _asked()
        told.add(f"{operation.method.upper()} {operation.path}")
    return told


def test_no_request_of_schemathesis_gets_what_the_description_does_not_tell(description: Any) -> None:
    assert {"GET /api/search", "POST /api/predict-next", "POST /api/embed", "GET /readyz"} <= meant(description, 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_requests_of_schemathesis_get_what_the_description_tells(description: Any) -> None:
    assert len(meant(description, 200)) >= 12


def ask(
    port: int, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def problem_of(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    """What a refused request is told; that it is a problem in one sentence is checked."""
    raw = body if isinstance(body, bytes | None) else json.dumps(body)
    status, got, content = ask(port, method, path, raw, headers if headers is not None else JSON)
    assert got["content-type"] == "application/problem+json"
    told = json.loads(content)
    assert told["status"] == status
    assert told["detail"]
    assert "\n" not in told["detail"]
    assert "Traceback" not in content.decode()
    return told


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/search", 422),
        ("/api/search?q=", 422),
        ("/api/search?q=%20%00%0d", 422),
        ("/api/search?q=a&k=0", 422),
        ("/api/search?q=a&k=101", 422),
        ("/api/search?q=a&k=-1", 422),
        ("/api/search?q=a&k=1e9", 422),
        ("/api/search?q=a&k=99999999999999999999999", 422),
        ("/api/search?q=a&mode=psychic", 422),
        ("/api/search?q=a&split=secret", 422),
        ("/api/search?q=a&collection=../../etc/passwd", 404),
        ("/api/search?q=a&collection=%2Fetc%2Fpasswd", 404),
        ("/api/search?q=a&collection=nobody", 404),
        ("/api/search?q=a&title=Nothing%20of%20that%20name", 404),
        ("/api/search?q=a&page_id=99999999999999999999999999", 404),
        (f"/api/search?q={'x' * (LONGEST_QUERY + 1)}", 422),
        ("/api/articles/0x1", 422),
        ("/api/articles/77", 404),
        ("/api/articles/1?limit=501", 422),
        ("/api/chunks/-1", 404),
        ("/api/chunks/9223372036854775808", 404),
        ("/api/chunks/1?neighbours=21", 422),
        ("/api/evaluations/nasty/search/..%2f..%2fCURRENT", 404),
        ("/api/evaluations/nasty/..%2f..%2fnasty/CURRENT", 404),
        ("/page/..%2fapp.py", 404),
        ("/page/../app.py", 404),
        ("/page/%2e%2e/app.py", 404),
        ("/etc/passwd", 404),
        ("/page/app.js%00.png", 404),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(port: int, path: str, status: int) -> None:
    told = problem_of(port, "GET", path)
    assert told["status"] in ({status, 400} if status in (404, 422) else {status})
    assert len(told["detail"]) < 500


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/embed", {"model": "../../../etc/passwd", "input": "a"}, 404),
        ("/api/embed", {"model": "someone/a-model-of-the-hub", "input": "a"}, 404),
        ("/api/embed", {"model": "hashing", "input": []}, 422),
        ("/api/embed", {"model": "hashing", "input": ["a"] * (MOST_TEXTS + 1)}, 422),
        ("/api/embed", {"model": "hashing", "input": [1, None]}, 422),
        ("/api/embed", {"model": "hashing", "input": {"a": "b"}}, 422),
        ("/api/embed", {"model": "hashing"}, 422),
        ("/api/embed", ["a"], 422),
        ("/api/embed", b'{"model": "hashing", "input": ', 422),
        ("/api/embed", b"\xff\xfe\x00", 422),
        ("/api/embed", b"[" * 100_000, 422),
        ("/api/predict-next", {}, 422),
        ("/api/predict-next", {"text": "a", "page_id": 1}, 422),
        ("/api/predict-next", {"title": "Nobody"}, 404),
        ("/api/predict-next", {"page_id": 3, "position": 99}, 404),
        ("/api/predict-next", {"page_id": 3, "position": True}, 422),
        ("/api/predict-next", {"page_id": 3, "model": "../../towers"}, 404),
        ("/api/predict-next", {"page_id": 3, "decode": True, "inverter": "jxm/gtr__nq__32"}, 404),
    ],
)
def test_a_body_that_cannot_be_meant_is_refused_in_a_sentence(port: int, path: str, body: Any, status: int) -> None:
    told = problem_of(port, "POST", path, body)
    assert told["status"] in {status, 400, 422 if status == 404 else status}


def test_what_is_wrong_is_said_without_the_names_of_pythons_objects(port: int) -> None:
    for body in ({"model": "hashing", "input": []}, {"model": "hashing", "input": [1]}, b'{"model": '):
        told = problem_of(port, "POST", "/api/embed", body)["detail"]
        assert not {"function", "partial", "0x", "loc"} & set(told.replace("-", " ").replace("<", " ").split())
        assert "0x" not in told
    assert told.startswith("the body is no JSON: ")
    neither = problem_of(port, "POST", "/api/embed", {"model": "hashing", "input": {}})["detail"]
    assert neither.startswith("input: Input should be a valid string; input: ")


def test_a_body_over_the_limit_is_refused_before_it_is_read(port: int) -> None:
    assert problem_of(port, "POST", "/api/embed", b"x" * (LARGEST_BODY + 1))["status"] == 413


def test_another_content_type_is_refused_so_that_no_form_of_another_site_can_post(port: int) -> None:
    plain = {"Content-Type": "text/plain"}
    assert problem_of(port, "POST", "/api/embed", {"model": "hashing", "input": "a"}, plain)["status"] == 415


def test_another_host_is_refused_so_that_no_name_can_be_bound_to_this_machine_anew(port: int) -> None:
    assert problem_of(port, "GET", "/api/collections", None, {"Host": "evil.example"})["status"] == 421


@pytest.mark.parametrize(("method", "status"), [("PUT", 405), ("DELETE", 405), ("PATCH", 405), ("BREW", 400)])
def test_another_method_is_refused(port: int, method: str, status: int) -> None:
    assert problem_of(port, method, "/api/search?q=a")["status"] == status


def test_a_script_in_title_text_and_query_comes_back_as_json_that_no_browser_runs(port: int) -> None:
    status, headers, body = ask(port, "GET", f"/api/search?q={quote(SCRIPT)}&mode=lexical&k=1")
    found = json.loads(body)
    assert status == 200
    assert found["query"] == SCRIPT
    assert found["results"][0]["title"] == f"Title {SCRIPT}"
    assert headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"


def test_the_page_runs_nothing_but_its_own_files(port: int) -> None:
    status, headers, body = ask(port, "GET", "/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"<script>" not in body


def test_a_refused_query_is_quoted_without_its_line_ends(port: int) -> None:
    told = problem_of(port, "GET", "/api/search?q=a&title=" + quote("no\r\nSet-Cookie: a=b"))
    assert "Set-Cookie" not in json.dumps(ask(port, "GET", "/api/search?q=a&title=" + quote("no\r\nX-A: b"))[1])
    assert "\r" not in told["detail"]


def test_after_all_that_it_still_answers(port: int) -> None:
    assert ask(port, "GET", "/healthz")[0] == 200
    assert json.loads(ask(port, "GET", "/api/search?q=stone+bridge&k=1")[2])["results"][0]["page_id"] in (3, 5)
