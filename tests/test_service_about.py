"""What a service says of itself: collections, models, health, figures, and a description that is whole."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tiny_inverters import write_inverter
from tiny_models import COPY_LAST, write_model
from tiny_service import PAGES, publish

from retrieval import models
from retrieval.search import Searcher
from retrieval.service.answers import CollectionsAnswer, HealthAnswer, ModelsAnswer, ReadyAnswer
from retrieval.service.app import create_app
from retrieval.service.settings import Settings
from retrieval.service.shelf import Shelf
from store.generations import Collection


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`wiki` with two predictors and an inverter; `other` without; `lost` is not there."""
    folder = tmp_path_factory.mktemp("service_about")
    own = publish(folder, "wiki", PAGES).path
    shutil.copytree(own, folder / "collections" / "other")
    write_model(own / "models" / "good", COPY_LAST, trained={"valid": {"MRR": 0.5}}, parameters=7)
    write_model(own / "models" / "fair", COPY_LAST, trained={})
    write_inverter(own / "models" / "inverters" / "words")
    return folder


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "SHIPPED", home / "nothing")
        shelf = Shelf.open(home, ["wiki", "other", "lost"], "wiki")
        with TestClient(create_app(shelf)) as opened:
            while opened.get("/readyz").status_code == 503:
                pass
            yield opened


def got(client: TestClient, path: str) -> dict[str, Any]:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


# -- collections and models ----------------------------------------------------------------------------------


def test_collections_are_those_that_are_served(home: Path, client: TestClient) -> None:
    answer = got(client, "/api/collections")
    CollectionsAnswer.model_validate(answer, strict=True)
    manifest = Collection(home / "collections" / "wiki").current().manifest
    wiki = {
        "name": "wiki",
        "generation": "gen-000001",
        "created": manifest.created,
        "articles": 5,
        "chunks": 9,
        "live": 9,
        "dim": 128,
        "encoder": "hashing",
        "language": "en",
        "default": True,
    }
    assert answer["collections"] == [wiki, {**wiki, "name": "other", "default": False}]


def test_models_are_those_that_fit_a_collection(client: TestClient) -> None:
    answer = got(client, "/api/models")
    ModelsAnswer.model_validate(answer, strict=True)
    good = {
        "collection": "wiki",
        "name": "good",
        "kind": "amn",
        "parameters": 7,
        "valid_mrr": 0.5,
        "tower": False,
        "reranker": False,
        "default": True,
    }
    fair = {**good, "name": "fair", "parameters": 5, "valid_mrr": 0.0, "default": False}
    assert answer["predictors"] == [good, fair]
    assert answer["inverters"] == [{"collection": "wiki", "name": "words", "default": True}]
    assert {"hashing", "bundled"} <= {row["name"] for row in answer["encoders"]}


# -- health --------------------------------------------------------------------------------------------------


def test_it_is_healthy_and_ready_and_says_what_is_not_served(client: TestClient) -> None:
    assert HealthAnswer.model_validate(got(client, "/healthz")).status == "ok"
    ready = got(client, "/readyz")
    ReadyAnswer.model_validate(ready)
    said = "there is no collection at collections/lost; run: lookahead ingest SOURCE --collection NAME"
    assert ready == {
        "status": "ready",
        "collections": ["wiki", "other"],
        "faults": [{"collection": "lost", "detail": said}],
    }
    answer = client.get("/api/search?q=tea&collection=lost")
    assert (answer.status_code, answer.json()["detail"], answer.headers["retry-after"]) == (503, said, "30")


def test_without_its_default_collection_it_is_not_ready_and_says_why(home: Path) -> None:
    with TestClient(create_app(Shelf.open(home, ["lost"], "lost"))) as client:
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["detail"].startswith("not ready: lost: there is no collection at collections/lost; run:")
        assert got(client, "/healthz") == {"status": "ok"}
        assert got(client, "/api/collections") == {"collections": []}
        assert got(client, "/api/models")["predictors"] == []


def test_it_counts_what_is_open(client: TestClient) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nlookahead_generations_open 2.0\n" in answer.text


# -- the description -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def description(client: TestClient) -> dict[str, Any]:
    return got(client, "/openapi.json")


def operations(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "$ref")
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_reference_leads_somewhere(description: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}
    found = set(references(description))
    assert "#/components/schemas/ProblemDetails" in found
    assert found <= known


def test_every_operation_is_named_and_told_with_its_problems(description: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(description)]
    assert len(names) == len(set(names))
    for address, operation in operations(description):
        assert re.fullmatch(r"[a-z_]+", operation["operationId"]), address
        assert operation["summary"], address
        assert {"200", "400", "401", "422", "429", "500", "503", "504"} <= operation["responses"].keys(), address
        for status, response in operation["responses"].items():
            if status != "200":
                assert list(response["content"]) == ["application/problem+json"], (address, status)
    assert "HTTPValidationError" not in description["components"]["schemas"]


def test_what_is_described_is_what_there_is(description: dict[str, Any]) -> None:
    assert {address for address, _ in operations(description)} >= {
        "GET /api/search",
        "GET /api/articles",
        "GET /api/articles/{page_id}",
        "GET /api/chunks/{chunk_id}",
        "GET /api/collections",
        "GET /api/models",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
    }
    told = {one["name"]: one for one in description["paths"]["/api/search"]["get"]["parameters"]}
    assert list(told) == ["q", "k", "mode", "fusion", "collection", "title", "page_id", "section", "split"]
    assert (told["q"]["schema"]["maxLength"], told["k"]["schema"]["maximum"]) == (2000, 100)
    assert told["q"]["schema"]["examples"] == ["how do bridges carry load"]
    assert all(one["description"] for one in told.values())


@pytest.mark.parametrize("key", [None, "secret"])
def test_the_key_is_described_and_asked_for_where_there_is_one(home: Path, key: str | None) -> None:
    with Searcher.open(Collection(home / "collections" / "wiki")) as searcher:
        description = create_app(searcher, Settings(key=key)).openapi()
    schemes = description["components"]["securitySchemes"]
    assert (schemes["bearer"]["scheme"], schemes["header"]["name"]) == ("bearer", "X-API-Key")
    assert description.get("security") == (None if key is None else [{"bearer": []}, {"header": []}])
    assert description["paths"]["/healthz"]["get"]["security"] == []


def test_the_page_of_the_description_reaches_for_nothing_elsewhere(client: TestClient) -> None:
    pytest.importorskip("swagger_ui_bundle")
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    wanted = ["docs/swagger-ui.css", "openapi.json", "docs/swagger-ui-bundle.js", "docs/start.js"]
    assert addresses == ["data:,", *wanted]
    assert "<script>" not in page.text
    kinds = [client.get(f"/{address}").headers["content-type"].split(";")[0] for address in wanted]
    assert kinds == ["text/css", "application/json", "text/javascript", "text/javascript"]


@pytest.mark.parametrize("name", ["index.html", "swagger-ui.js", "about_routes.py", "%2e%2e"])
def test_no_other_file_is_given_out(client: TestClient, name: str) -> None:
    assert client.get(f"/docs/{name}").status_code == 404
