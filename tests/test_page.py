"""The page's files: served from memory with a strict policy, and written so that the policy is never in the way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from retrieval.service import page_routes
from retrieval.service.page_routes import PAGE
from retrieval.service.problems import handle_problems

FILES = sorted(PAGE.iterdir())
NAMES = [path.name for path in FILES]
SVG = "http://www.w3.org/2000/svg"  # a name, which nothing fetches


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    handle_problems(app)
    app.include_router(page_routes.routes())
    return TestClient(app)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_page_is_at_the_root_under_a_policy_that_reaches_nothing_else(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"
    assert "camera=()" in answer.headers["permissions-policy"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "index.html"])
def test_a_file_has_its_type_and_its_bytes(client: TestClient, name: str) -> None:
    answer = client.get(f"/page/{name}")
    kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[name.rsplit(".")[-1]]
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.content == (PAGE / name).read_bytes()
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("told", ["{tag}", "W/{tag}", '"other", {tag}', "*"])
def test_what_the_browser_holds_is_not_sent_again(client: TestClient, told: str) -> None:
    tag = client.get("/page/app.js").headers["etag"]
    again = client.get("/page/app.js", headers={"If-None-Match": told.format(tag=tag)})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get("/page/app.js", headers={"If-None-Match": '"old"'}).status_code == 200


def test_a_head_request_has_no_body(client: TestClient) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "name", ["index.html", "nothing.js", "..%2fpage_routes.py", "%2e%2e/page_routes.py", ".", "app.js/", "APP.JS", ""]
)
def test_no_other_name_is_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/page/{name}", follow_redirects=False)
    assert answer.status_code in (404, 307)
    assert b"def routes" not in answer.content


def test_the_page_is_no_part_of_the_described_interface(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_names_another_site(path: Path) -> None:
    assert not re.findall(r"https?://|//[a-z0-9-]+\.[a-z]", read(path).replace(SVG, ""))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_text_never_becomes_markup_or_code(path: Path) -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc|setHTML"
    assert not re.findall(ways + r"|\beval\b|new Function|javascript:|setTimeout\(\s*[\"'`]", read(path))


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix in (".html", ".svg")], ids=lambda path: path.name
)
def test_no_element_carries_a_handler_or_a_style(path: Path) -> None:
    assert not re.findall(r"\son\w+\s*=|\sstyle\s*=|<style|<script(?![^>]*\ssrc=)", read(path))


def test_all_that_is_asked_for_is_there_and_all_that_is_there_is_asked_for() -> None:
    asked = set(re.findall(r'/page/([\w.]+)"', read(PAGE / "index.html")))
    imported = {name for path in FILES for name in re.findall(r'from "\./([\w.]+)"', read(path))}
    assert imported <= asked  # or the browser would learn of a module only when it has read another
    assert asked | {"index.html"} == set(NAMES)


def test_every_id_that_a_script_looks_for_is_in_the_page() -> None:
    page = read(PAGE / "index.html")
    made = "".join(read(path) for path in FILES if path.suffix == ".js")
    for name in set(re.findall(r'getElementById\("([\w-]+)"\)', made)):
        assert f'id="{name}"' in page or f'id: "{name}"' in made or f'id = "{name}"' in made, name
