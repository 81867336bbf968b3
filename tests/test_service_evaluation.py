"""GET /api/evaluations: reports and plots by the names that the list gives, and nothing else of the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tiny_service import PAGES, publish

from retrieval.evaluations import evaluations_folder, keep
from retrieval.service.app import create_app
from retrieval.service.looking_answers import EvaluationsAnswer
from retrieval.service.shelf import Shelf


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("service_evaluation")
    collection = publish(home, "wiki", {1: PAGES[1]})

    def write(folder: Path) -> None:
        (folder / "report.json").write_text('{"told": 1}')
        (folder / "report.md").write_text("# told <script>")
        (folder / "recall.png").write_bytes(b"\x89PNG")
        (folder / "page.html").write_text("<script>alert(1)</script>")

    keep(collection, "search", "lookahead evaluate search -c wiki", write)
    (home / "secret.md").write_text("secret")
    (evaluations_folder(collection) / "search" / "link.md").symlink_to(home / "secret.md")
    with TestClient(create_app(Shelf.open(home, ["wiki"], "wiki"))) as opened:
        yield opened


def test_the_list_names_what_may_be_read(client: TestClient) -> None:
    answer = client.get("/api/evaluations")
    EvaluationsAnswer.model_validate_json(answer.content, strict=True)
    (one,) = answer.json()["evaluations"]
    assert answer.json()["collection"] == "wiki"
    assert (one["kind"], one["command"]) == ("search", "lookahead evaluate search -c wiki")
    assert one["files"] == ["recall.png", "report.json", "report.md"]
    assert client.get("/api/evaluations?collection=lost").status_code == 404


@pytest.mark.parametrize(
    ("name", "media_type", "content"),
    [
        ("report.json", "application/json", b'{"told": 1}'),
        ("report.md", "text/markdown; charset=utf-8", b"# told <script>"),
        ("recall.png", "image/png", b"\x89PNG"),
    ],
)
def test_a_file_comes_as_what_its_name_says(client: TestClient, name: str, media_type: str, content: bytes) -> None:
    answer = client.get(f"/api/evaluations/wiki/search/{name}")
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-type"] == media_type
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize(
    "path",
    [
        "wiki/search/page.html",
        "wiki/search/evaluation.json",
        "wiki/search/link.md",
        "wiki/search/..%2F..%2F..%2F..%2Fsecret.md",
        "wiki/..%2Fevaluations%2Fsearch/report.md",
        "wiki/%2e%2e/CURRENT",
        "wiki/models/config.json",
        "..%2Fwiki/search/report.md",
        "lost/search/report.md",
        "wiki/search/report.md%00.png",
        "wiki/search/" + "x" * 100,
    ],
)
def test_no_other_path_is_found(client: TestClient, path: str) -> None:
    answer = client.get(f"/api/evaluations/{path}")
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text.replace(path, "").replace("secret.md", "")
