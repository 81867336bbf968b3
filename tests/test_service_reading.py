"""Reading over HTTP: titles, articles, chunks with their neighbours, and what is no longer there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient
from tiny_service import PAGES, publish

from retrieval.search import Searcher
from retrieval.service.answers import ArticleAnswer, ArticlesAnswer, ChunkAnswer
from retrieval.service.app import create_app
from store.database import Store

BRIDGE = [text for _, text in PAGES[3][1]]  # chunks 2 to 5


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Page 1 was changed since: chunk 0 is of its old text, chunk 9 of its new one. Page 2 is gone, its chunk was 1."""
    home = tmp_path_factory.mktemp("service_reading")
    collection = publish(home, "wiki", PAGES)
    changed = {page: said for page, said in PAGES.items() if page != 2}
    changed[1] = ("Tea", [("", "White tea is poured slowly into a bowl of thin glass.")])
    changed[6] = ("Ms", [("", "A manuscript was written by hand on skin before paper came.")])
    publish(home, "wiki", changed, delete_missing=True)
    with Searcher.open(collection) as searcher, TestClient(create_app(searcher)) as opened:
        yield opened


def got(client: TestClient, path: str, **asked: Any) -> dict[str, Any]:
    answer = client.get(path, params=asked)
    assert answer.status_code == 200, answer.text
    rest = dict(answer.json())
    assert (rest.pop("collection"), rest.pop("generation")) == ("wiki", "gen-000002")
    kind = ChunkAnswer if path.startswith("/api/chunks") else ArticleAnswer if path.count("/") > 2 else ArticlesAnswer
    kind.model_validate_json(answer.content)
    return rest


# -- titles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "found"),
    [
        ("bridge", ["Bridge", "Stone bridges"]),
        ("BRIDGES", ["Stone bridges"]),
        (" s", ["Stone bridges", "Ms"]),
        ("e", ["Tea", "River", "Bridge", "Stone bridges"]),
        ("%", []),
        ("_", []),
        ("' OR '' = '", []),
        ("\x00", []),
    ],
)
def test_titles_that_begin_so_come_before_those_that_have_it_elsewhere(
    client: TestClient, title: str, found: list[str]
) -> None:
    rows = got(client, "/api/articles", title=title)["articles"]
    assert [row["title"] for row in rows] == found


def test_a_title_comes_with_what_is_needed_to_open_it(client: TestClient) -> None:
    rows = got(client, "/api/articles", title="BRIDGE", limit=1)["articles"]
    assert rows == [{"page_id": 3, "title": "Bridge", "chunk_count": 4, "split": "train"}]


# -- articles ------------------------------------------------------------------------------------------------


def test_an_article_is_read_in_order(client: TestClient) -> None:
    article = got(client, "/api/articles/3")
    chunks = article.pop("chunks")
    assert article == {
        "page_id": 3,
        "title": "Bridge",
        "split": "train",
        "source": "jsonl:wiki.jsonl",  # and not where that was
        "first_chunk": 2,
        "chunk_count": 4,
        "start": 0,
    }
    assert [chunk["text"] for chunk in chunks] == BRIDGE
    assert [chunk["chunk_id"] for chunk in chunks] == [2, 3, 4, 5]
    assert chunks[1] == {"chunk_id": 3, "position": 1, "section": "Building", "text": BRIDGE[1]}


@pytest.mark.parametrize(
    ("start", "limit", "positions"),
    [(1, 2, [1, 2]), (3, 500, [3]), (4, 1, []), (2**63 - 1, 500, []), (0, 1, [0])],
)
def test_a_part_of_an_article_is_read_from_a_position_on(
    client: TestClient, start: int, limit: int, positions: list[int]
) -> None:
    article = got(client, "/api/articles/3", start=start, limit=limit)
    assert [chunk["position"] for chunk in article["chunks"]] == positions
    assert article["start"] == start


# -- chunks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunk", "neighbours", "before", "after"),
    [
        (3, None, [2], [4, 5]),
        (3, 0, [], []),
        (4, 1, [3], [5]),
        (2, 20, [], [3, 4, 5]),
        (5, 20, [2, 3, 4], []),
        (8, 20, [], []),
    ],
)
def test_a_chunk_comes_with_its_neighbours_in_the_article(
    client: TestClient, chunk: int, neighbours: int | None, before: list[int], after: list[int]
) -> None:
    asked = {} if neighbours is None else {"neighbours": neighbours}
    answer = got(client, f"/api/chunks/{chunk}", **asked)
    assert answer["chunk"]["chunk_id"] == chunk
    assert [one["chunk_id"] for one in answer["before"]] == before
    assert [one["chunk_id"] for one in answer["after"]] == after


def test_a_chunk_says_where_it_stands(client: TestClient) -> None:
    answer = got(client, "/api/chunks/3", neighbours=1)
    assert answer == {
        "title": "Bridge",
        "chunk_count": 4,
        "chunk": {
            "chunk_id": 3,
            "page_id": 3,
            "position": 1,
            "section": "Building",
            "text": BRIDGE[1],
            "live": True,
        },
        "before": [{"chunk_id": 2, "position": 0, "section": "", "text": BRIDGE[0]}],
        "after": [{"chunk_id": 4, "position": 2, "section": "Building", "text": BRIDGE[2]}],
    }


@pytest.mark.parametrize(("chunk", "title", "begins"), [(0, "Tea", "Green tea"), (1, "", "Black coffee")])
def test_a_chunk_of_a_retired_text_is_read_alone(client: TestClient, chunk: int, title: str, begins: str) -> None:
    answer = got(client, f"/api/chunks/{chunk}", neighbours=20)
    assert (answer["title"], answer["chunk"]["live"], answer["chunk_count"]) == (title, False, 0)
    assert answer["chunk"]["text"].startswith(begins)
    assert (answer["before"], answer["after"]) == ([], [])


def test_the_short_address_of_a_chunk_leads_to_the_long_one(client: TestClient) -> None:
    answer = client.get("/chunks/3?neighbours=0", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/api/chunks/3?neighbours=0")


# -- refusals ------------------------------------------------------------------------------------------------

HUGE = str(2**63)


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/api/articles", 422, "title: Field required"),
        ("/api/articles?title=", 422, "title: String should have at least 1 character"),
        ("/api/articles?title=" + "x" * 501, 422, "title: String should have at most 500 characters"),
        ("/api/articles?title=tea&limit=0", 422, "limit: "),
        ("/api/articles?title=tea&limit=101", 422, "limit: "),
        ("/api/articles?title=tea&collection=other", 404, 'there is no collection "other" here'),
        ("/api/articles/2", 404, "no article has the page id 2"),
        ("/api/articles/-1", 404, "no article has the page id -1"),
        (f"/api/articles/{HUGE}", 404, f"no article has the page id {HUGE}"),
        (f"/api/articles/-{HUGE}", 404, f"no article has the page id -{HUGE}"),
        ("/api/articles/" + "9" * 1_900, 404, "no article has the page id 999"),
        ("/api/articles/tea", 422, "page_id: "),
        ("/api/articles/1.5", 422, "page_id: "),
        ("/api/articles/3?start=-1", 422, "start: "),
        (f"/api/articles/3?start={HUGE}", 422, "start: "),
        ("/api/articles/3?limit=501", 422, "limit: "),
        ("/api/chunks/11", 404, "no chunk has the id 11; wiki has the ids 0 to 10"),
        ("/api/chunks/-1", 404, "no chunk has the id -1; wiki has the ids 0 to 10"),
        (f"/api/chunks/{HUGE}", 404, f"no chunk has the id {HUGE}; "),
        ("/api/chunks/" + "9" * 1_900, 404, "no chunk has the id 999"),
        ("/api/chunks/x", 422, "chunk_id: "),
        ("/api/chunks/3?neighbours=21", 422, "neighbours: "),
        ("/api/chunks/3?neighbours=-1", 422, "neighbours: "),
        ("/chunks/x", 422, "chunk_id: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_refusal_says_what_is_wrong(client: TestClient, path: str, status: int, detail: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["detail"].startswith(detail)
    assert len(answer.json()["detail"]) < 300


# -- threads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/articles?title=tea", "/api/articles/3", "/api/chunks/3", "/api/search?q=tea"])
def test_nobody_waits_for_another_ones_reading(client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a look-up does not come to its end, the event loop answers others."""
    reading, go = threading.Event(), threading.Event()
    threads = set()

    def held(self: object, *_: object, **__: object) -> Any:
        threads.add(threading.current_thread().name)
        reading.set()
        assert go.wait(20)
        raise OSError("enough")

    for owner, name in ((Store, "titles"), (Store, "article"), (Store, "chunks"), (Searcher, "search_many")):
        monkeypatch.setattr(owner, name, held)
    with ThreadPoolExecutor(1) as beside:
        waiting = beside.submit(client.get, path)
        assert reading.wait(20)
        began = time.perf_counter()
        assert client.get("/healthz").json() == {"status": "ok"}
        assert time.perf_counter() - began < 5
        assert not waiting.done()
        go.set()
        assert waiting.result().status_code == 500
    assert client.portal is not None
    assert client.portal.call(lambda: threading.current_thread().name) not in threads
