"""GET /api/search: the command's answers over HTTP, many of them together, and refusals that say what is wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient
from tiny_service import PAGES, publish

from cli import main
from retrieval.search import Question, Searcher
from retrieval.service.answers import SearchAnswer
from retrieval.service.app import create_app
from retrieval.service.problems import Problem
from retrieval.service.search_routes import Answered, Asked, answer_all
from retrieval.service.shelf import Shelf
from store.database import Filter
from store.records import LookaheadError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service_search")
    publish(folder, "wiki", PAGES)
    publish(folder, "other", {7: ("Fjord", [("", "A deep fjord is cut into the coast by slow ice.")])})
    return folder


@pytest.fixture(scope="module")
def shelf(home: Path) -> Shelf:
    return Shelf.open(home, ["wiki", "other"], "wiki")


@pytest.fixture(scope="module")
def client(shelf: Shelf) -> Iterator[TestClient]:
    with TestClient(create_app(shelf)) as opened:
        yield opened


def found(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.get("/api/search", params=asked)
    assert answer.status_code == 200, answer.text
    SearchAnswer.model_validate_json(answer.content, strict=True)
    return dict(answer.json())


# -- answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 2, "mode": "dense"},
        {"mode": "lexical", "k": 100},
        {"fusion": "rrf"},
        {"title": ["bridge", "RIVER"], "section": "Building"},
        {"page_id": [1, 4], "split": ["train", "test"]},
        {"section": "no such heading"},
        {"split": "test"},
    ],
    ids=str,
)
def test_it_answers_as_the_command_does(home: Path, client: TestClient, options: dict[str, Any]) -> None:
    command = ["--home", str(home), "search", "a stone bridge over the river", "--collection", "wiki", "--json"]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            command += ["-k" if name == "k" else f"--{name.replace('_', '-')}", str(one)]
    said = CliRunner(catch_exceptions=False).invoke(main, command)
    told = [json.loads(line) for line in said.stdout.splitlines()]
    rows = found(client, q="a stone bridge over the river", **options)["results"]
    assert [{name: value for name, value in row.items() if name != "spans"} for row in rows] == told
    assert (rows == []) == (options == {"section": "no such heading"})


def test_an_answer_says_what_was_asked_of_what(client: TestClient) -> None:
    answer = found(client, q="  stone\n\x00bridges  ", k=2, mode="lexical")
    rest = {name: value for name, value in answer.items() if name not in ("results", "took_ms")}
    assert rest == {
        "collection": "wiki",
        "generation": "gen-000001",
        "query": "stone bridges",
        "mode": "lexical",
        "note": None,
    }
    assert 0 < answer["took_ms"] < 10_000


def test_spans_count_code_points_and_texts_come_as_they_are(client: TestClient) -> None:
    row = found(client, q="bridges of stone", k=1, page_id=5)["results"][0]
    text = PAGES[5][1][0][1]
    assert row["text"] == text == "The <b>bridge</b> of 🌉 stone is older than any bridge of iron."
    marked = [text[start:stop] for start, stop in row["spans"]]
    assert marked == ["bridge", "of", "stone", "bridge", "of"]


def test_another_collection_answers_when_it_is_named(client: TestClient) -> None:
    answer = found(client, q="bridge", collection="other")
    assert (answer["collection"], [row["title"] for row in answer["results"]]) == ("other", ["Fjord"])


@pytest.mark.parametrize(
    ("asked", "note"),
    [
        ({"k": 9}, None),
        ({"k": 10}, "the collection has 9 different passages: these are all"),
        ({"mode": "lexical", "k": 20}, "6 passages hold any of the words; mode hybrid also finds them by meaning"),
        ({"title": "Tea"}, "1 passages pass the filter"),
        ({"title": "Tea", "mode": "lexical"}, "no passages pass the filter and hold the words"),
    ],
)
def test_a_note_says_why_fewer_came_back(client: TestClient, asked: dict[str, Any], note: str | None) -> None:
    assert found(client, q="bridge", **asked)["note"] == note


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("", 422, "q: Field required"),
        ("q=", 422, "q: String should have at least 1 character"),
        ("q=" + "x" * 2_001, 422, "q: String should have at most 2000 characters"),
        ("q=%00%0A+%7F", 422, "q holds nothing to search for; type a question, or words"),
        ("q=tea&k=0", 422, "k: Input should be greater than or equal to 1"),
        ("q=tea&k=101", 422, "k: Input should be less than or equal to 100"),
        ("q=tea&k=" + "9" * 5_000, 422, "k: "),
        ("q=tea&mode=best", 422, "mode: Input should be 'dense', 'lexical' or 'hybrid'"),
        ("q=tea&fusion=sum", 422, "fusion: Input should be 'zsum' or 'rrf'"),
        ("q=tea&split=all", 422, "split.0: Input should be 'train', 'valid' or 'test'"),
        ("q=tea&page_id=tea", 422, "page_id.0: "),
        ("q=tea&title=", 422, "title.0: String should have at least 1 character"),
        ("q=tea&section=" + "x" * 501, 422, "section.0: String should have at most 500 characters"),
        ("q=tea" + "&title=Tea" * 101, 422, "title: Tuple should have at most 100 items"),
        ("q=tea&title=Te", 404, 'no article is titled "Te"; the nearest are "Tea"'),
        ("q=tea&title=%00", 404, 'no article is titled "'),
        ("q=tea&page_id=99", 404, "no article has the page id 99"),
        ("q=tea&page_id=99999999999999999999", 404, "no article has the page id 99999999999999999999"),
        ("q=tea&page_id=" + "9" * 4_000, 404, "no article has the page id 999"),
        ("q=tea&collection=wikis", 404, 'there is no collection "wikis" here; there are: wiki, other'),
        ("q=tea&collection=..%2Fwiki", 404, 'there is no collection "../wiki" here'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_refusal_says_what_is_wrong(client: TestClient, query: str, status: int, detail: str) -> None:
    answer = client.get(f"/api/search?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["detail"].startswith(detail)
    assert len(answer.json()["detail"]) < 400


def test_a_query_that_is_hard_to_read_is_searched_for_all_the_same(client: TestClient) -> None:
    for query in ("(tea", "a AND", '"', "title:tea", "*", "/x/", "\u202e\u0301", "🌉" * 2_000, "' OR 1=1 --", "\ufffd"):
        for mode in ("hybrid", "lexical"):
            found(client, q=query, mode=mode)


# -- together ------------------------------------------------------------------------------------------------


def test_questions_to_several_collections_are_answered_each_by_its_own(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    many = Searcher.search_many

    def counted(self: Searcher, questions: list[Question]) -> list[Any]:
        batches.append(len(questions))
        return list(many(self, questions))

    monkeypatch.setattr(Searcher, "search_many", counted)
    gone = shelf.lease("wiki")
    gone.give_back()
    with shelf.lease("wiki") as wiki, shelf.lease("other") as other:
        answers = answer_all(
            [
                Asked(wiki, Question("green tea", 1)),
                Asked(other, Question("green tea", 1)),
                Asked(wiki, Question("green tea", 1, wanted=Filter(titles=("Teas",)))),
                Asked(gone, Question("green tea", 1)),
                Asked(wiki, Question("green tea", 0)),
                Asked(wiki, Question("black coffee", 1)),
            ]
        )
    titles = [one.rows[0]["title"] if isinstance(one, Answered) else type(one) for one in answers]
    assert titles == ["Tea", "Fjord", Problem, Problem, LookaheadError, "Coffee"]
    assert sorted(batches) == [1, 4]


def test_answers_do_not_depend_on_who_asks_beside(client: TestClient) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    queries = ["green tea", "black coffee", "stone bridge", "a lake in the hills", "iron", "fjord"] * 3

    async def ask(query: str) -> Answered:
        with service.shelf.lease() as lease:
            answered: Answered = await service.searching.ask(Asked(lease, Question(query, 3)), 20)
            return answered

    async def all_at_once() -> list[Answered]:
        return list(await asyncio.gather(*map(ask, queries)))

    assert client.portal is not None
    together = client.portal.call(all_at_once)
    told = [json.loads(json.dumps(one.rows)) for one in together]  # spans are lists there
    assert told == [found(client, q=query, k=3)["results"] for query in queries]
