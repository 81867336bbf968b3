"""`lookahead serve`: what it refuses in one line, what it says, and a whole life from the first answer to Ctrl-C."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_service import PAGES, publish

import cli
from retrieval.service import server
from retrieval.service.settings import Settings

ROOT = Path(cli.__file__).resolve().parent


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections, `sample` of 5 articles and `wiki` of 2."""
    folder = tmp_path_factory.mktemp("serve")
    publish(folder, "sample", PAGES)
    publish(folder, "wiki", {page: PAGES[page] for page in (1, 2)})
    return folder


def serve(home: Path, *arguments: str, env: dict[str, str] | None = None) -> Result:
    runner = CliRunner(catch_exceptions=False, env={"LOOKAHEAD_API_KEY": "", **(env or {})})
    return runner.invoke(cli.main, ["--home", str(home), "serve", *arguments])


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What a service would have run with; it begins, is ready or not, and ends at once."""
    seen: list[Settings] = []

    def at_once(app: Any, _: socket.socket, settings: Settings, *, begun: Callable[[], object], **ticks: Any) -> None:
        seen.append(settings)
        begun()
        ticks["each_tick"]()
        app.state.service.shelf.refresh()
        ticks["each_tick"]()
        ticks["each_tick"]()
        app.state.service.shelf.close()

    monkeypatch.setattr(server, "serve", at_once)
    return seen


def refusal(result: Result) -> str:
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_to_let_others_in_takes_a_key(home: Path, host: str) -> None:
    said = refusal(serve(home, "--host", host))
    assert f"--host {host} lets others in, which needs a key" in said
    assert f"LOOKAHEAD_API_KEY=$(openssl rand -hex 16) lookahead serve --host {host}" in said


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "line\nend"])
def test_a_key_that_no_header_can_hold_is_refused(home: Path, key: str) -> None:
    assert "use letters and digits" in refusal(serve(home, "--api-key", key))


def test_a_port_in_use_is_named_with_one_that_is_free(home: Path) -> None:
    with server.listening("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert re.search(rf"port {port} .* try --port \d+\n", refusal(serve(home, "--port", str(port))))


def test_an_unknown_collection_is_refused_with_those_there_are(home: Path) -> None:
    assert "there are: sample, wiki" in refusal(serve(home, "-c", "wiki", "-c", "nowhere"))


def test_where_nothing_is_ingested_it_says_what_to_type(tmp_path: Path) -> None:
    assert "run: lookahead ingest SOURCE" in refusal(serve(tmp_path))


# -- said --------------------------------------------------------------------------------------------------------------


def test_all_collections_are_served_and_the_sample_is_not_the_default_one(home: Path, settings: list[Settings]) -> None:
    result = serve(home, "--port", "0")
    assert result.exit_code == 0
    first, ready = result.stderr.splitlines()
    assert re.fullmatch(
        r"serving wiki \(2 chunks\), sample \(9 chunks\) at http://127\.0\.0\.1:\d+ — Ctrl-C ends", first
    )
    assert ready == "ready"


def test_the_one_named_first_is_the_default_one(home: Path, settings: list[Settings]) -> None:
    result = serve(home, "-c", "sample", "-c", "wiki", "-c", "sample", "--port", "0")
    assert result.stderr.startswith("serving sample (9 chunks), wiki (2 chunks) at ")


def test_on_loopback_only_names_of_this_machine_are_ours(home: Path, settings: list[Settings]) -> None:
    serve(home, "--port", "0", "--deadline", "5", "--batch", "1", "--waiting", "7")
    (seen,) = settings
    assert seen.hosts == ("localhost", "127.0.0.1", "[::1]")
    assert (seen.key, seen.deadline, seen.batch, seen.waiting) == (None, 5, 1, 7)


def test_behind_a_key_any_name_is(home: Path, settings: list[Settings]) -> None:
    serve(home, "--port", "0", "--host", "0.0.0.0", "--api-key", "s3cret")
    serve(home, "--port", "0", env={"LOOKAHEAD_API_KEY": "fr0m-outside"})
    assert [(seen.key, seen.hosts) for seen in settings] == [("s3cret", ()), ("fr0m-outside", ())]


def test_a_browser_is_shown_the_page_only_when_asked(
    home: Path, settings: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    with_none = serve(home, "--port", "0", "--no-open")
    assert (with_none.exit_code, shown) == (0, [])
    result = serve(home, "--port", "0", "--open")
    assert len(shown) == 1
    assert f" at {shown[0]} — " in result.stderr


# -- a whole life ------------------------------------------------------------------------------------------------------


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("told", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_it_serves_until_it_is_told_to_end(home: Path, tmp_path: Path, told: signal.Signals) -> None:
    log = tmp_path / "access.jsonl"
    command = [sys.executable, str(ROOT / "cli.py"), "--home", str(home), "serve", "-c", "sample", "--port", "0"]
    with subprocess.Popen([*command, "--access-log", str(log)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline()
            port = int(re.search(r":(\d+) — Ctrl-C ends", first)[1])  # type: ignore[index]
            status, body = get(port, "/api/search?q=stone+bridge&k=1")
            assert status == 200
            assert "bridge" in json.loads(body)["results"][0]["text"]
            assert get(port, "/")[0] == 200
            assert get(port, "/api/search?q=tea", Host="evil.example")[0] == 421
            process.send_signal(told)
            assert process.wait(10) == 0
            assert process.stderr.read() in ("ready\n", "")
        finally:
            process.kill()
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [(line["path"], line["status"]) for line in lines] == [
        ("/api/search", 200),
        ("/", 200),
        ("/api/search", 421),
    ]
