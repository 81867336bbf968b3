"""POST /api/predict-next: the command's answers over HTTP, names that lead nowhere, words, maps, new generations."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient
from tiny_inverters import Tabled, open_as, write_inverter
from tiny_models import COPY_LAST, SUM, write_model
from tiny_pipelines import AGAINST_PREDICTION, halved, write_reranker, write_towers
from tiny_service import PAGES, publish

from cli import main
from index.dense import normalised
from index.hashing import HashingEncoder
from retrieval import models, open_inverter
from retrieval.chart import chart_of
from retrieval.inversion import Decoder
from retrieval.service import looking, preparing
from retrieval.service.app import create_app
from retrieval.service.looking_answers import PredictedAnswer, PredictNext
from retrieval.service.settings import Settings
from retrieval.service.shelf import Shelf

ROOT = Path(__file__).parent.parent
BRIDGE = [text for _, text in PAGES[3][1]]


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever level a library has set for everybody."""
    caplog.set_level(logging.WARNING, "lookahead.service")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`wiki` with models copy (the best), sum (whose reranker turns lists around) and towers; `bare` with none."""
    folder = tmp_path_factory.mktemp("service_looking")
    own = publish(folder, "wiki", PAGES).path / "models"
    write_model(own / "copy", COPY_LAST, trained={"valid": {"MRR": 0.5}})
    write_model(own / "sum", SUM)
    write_reranker(own / "rerankers" / "sum", own / "sum", AGAINST_PREDICTION, blend=9.0)
    write_towers(own / "towers", trained={})
    write_inverter(own / "inverters" / "tabled")
    publish(folder, "bare", {1: PAGES[1]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "SHIPPED", folder / "nothing")
        yield folder


@pytest.fixture(scope="module")
def shelf(home: Path) -> Shelf:
    return Shelf.open(home, ["wiki", "bare"], "wiki")


@pytest.fixture(scope="module")
def client(shelf: Shelf) -> Iterator[TestClient]:
    with TestClient(create_app(shelf)) as opened:
        yield opened


def asked(client: TestClient, **wish: Any) -> httpx.Response:
    return client.post("/api/predict-next", json=wish)


def told(client: TestClient, **wish: Any) -> dict[str, Any]:
    answer = asked(client, **wish)
    assert answer.status_code == 200, answer.text
    PredictedAnswer.model_validate_json(answer.content, strict=True)
    return dict(answer.json())


def refused(answer: httpx.Response, status: int, sentence: str) -> None:
    assert (answer.status_code, answer.json()["status"]) == (status, status), answer.text
    assert sentence in answer.json()["detail"]


# -- answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "options"),
    [
        ({"title": "bridge", "position": 2}, ["--article", "bridge", "--position", "2"]),
        ({"page_id": 3, "position": 1, "k": 3}, ["--page-id", "3", "--position", "1", "-k", "3"]),
        ({"text": "Green tea is poured.", "k": 3}, ["--text", "Green tea is poured.", "-k", "3"]),
        (
            {"title": "River", "position": 1, "include_context": True},
            ["--article", "River", "--position", "1", "--include-context"],
        ),
        (
            {"title": "Bridge", "position": 3, "model": "sum"},
            ["--article", "Bridge", "--position", "3", "--model", "sum"],
        ),
        (
            {"title": "Bridge", "position": 3, "model": "sum", "rerank": False, "k": 8},
            ["--article", "Bridge", "--position", "3", "--model", "sum", "--no-rerank", "-k", "8"],
        ),
        (
            {"title": "Bridge", "position": 3, "model": "towers"},
            ["--article", "Bridge", "--position", "3", "--model", "towers"],
        ),
    ],
)
def test_it_answers_what_the_command_answers(
    home: Path, client: TestClient, wish: dict[str, Any], options: list[str]
) -> None:
    said = CliRunner().invoke(main, ["--home", str(home), "predict-next", "-c", "wiki", "--json", *options])
    first, *rows = map(json.loads, said.stdout.splitlines())
    theirs = first["prediction"]
    answer = told(client, **wish)
    assert answer["results"] == rows
    assert {name: answer["context"][name] for name in theirs["context"]} == theirs["context"]
    assert answer["model"] == answer["way"]["model"] == theirs["model"]["name"]
    assert {name: answer["way"][name] for name in theirs["way"]} == theirs["way"]
    assert answer["notes"] == theirs["notes"]
    if theirs["truth"] is None:
        assert answer["truth"] is None
    else:
        theirs["truth"]["copied_rank"] = theirs["truth"].pop("copy_last_rank")
        assert {name: answer["truth"][name] for name in theirs["truth"]} == theirs["truth"]
    assert (answer["collection"], answer["generation"]) == ("wiki", "gen-000001")
    assert (answer["gists"], answer["gist_notes"], answer["map"]) == (None, [], None)


def test_the_true_next_chunk_is_told_and_marked(client: TestClient) -> None:
    answer = told(client, title="Bridge", position=1, k=8)
    truth, context = answer["truth"], answer["context"]
    assert (truth["text"], truth["page_id"], truth["position"], truth["section"]) == (BRIDGE[1], 3, 1, "Building")
    assert (truth["title"], truth["among"]) == ("Bridge", 8)  # all but the one chunk of the context
    marked = [row for row in answer["results"] if row["true_next"]]
    assert [(row["rank"], row["text"]) for row in marked] == [(truth["place"], BRIDGE[1])]
    assert context == {
        "texts": BRIDGE[:1],
        "chunks": 1,
        "page_id": 3,
        "title": "Bridge",
        "position": 1,
        "chunk_count": 4,
    }


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "status", "sentence"),
    [
        ({}, 400, "say after what: one of text, page_id and title"),
        ({"text": "Tea.", "title": "Tea"}, 400, "one of text, page_id and title, not 2 of them"),
        ({"text": "Tea.", "position": 1}, 400, "position is a place in an article"),
        ({"text": " \n"}, 400, "the text is empty"),
        ({"title": "Bridge", "position": 0}, 400, "a context of zero chunks; positions are 1 to 4"),
        ({"title": "Bridge", "position": 5}, 400, "there is no position 5; positions are 1 to 4"),
        ({"title": "Bridge", "position": -1}, 400, "there is no position -1"),
        ({"title": "Bridges"}, 404, 'no article is titled "Bridges"; the nearest are'),
        ({"page_id": 99}, 404, "no article has the page id 99"),
        ({"page_id": 1 << 70}, 404, "no article has the page id"),
        ({"title": "Tea", "collection": "lost"}, 404, 'there is no collection "lost" here'),
        ({"title": "Tea", "collection": "../wiki"}, 404, "there is no collection"),
        ({"title": "Tea", "collection": "bare"}, 404, "bare has no trained model for its encoder"),
        ({"title": "Tea", "model": "gru"}, 404, 'there is no model "gru" for wiki'),
        ({"title": "Tea", "model": "../models/copy"}, 404, "is not a name for a model"),
        ({"title": "Tea", "model": "/etc"}, 404, "is not a name for a model"),
        ({"title": "Tea", "model": "spaces"}, 404, "a model cannot be called spaces"),
        ({"title": "Tea", "rerank": True}, 404, "there is no reranker over model copy"),
        ({"title": "Tea", "decode": True, "inverter": "gtr-base"}, 404, "only such are used here"),
        ({"title": "Tea", "decode": True, "inverter": "a/b,c/d"}, 404, "is not a name for a model"),
        ({"title": "Tea", "decode": True, "inverter": "other"}, 404, 'there is no inverter "other"'),
        ({"title": "Tea", "k": 0}, 422, "k: "),
        ({"title": "Tea", "k": 101}, 422, "k: "),
        ({"title": "Tea", "k": "5"}, 422, "k: "),
        ({"title": "Tea", "k": True}, 422, "k: "),
        ({"title": "Tea", "steps": 6}, 422, "steps: "),
        ({"title": "Tea", "model": ""}, 422, "model: "),
        ({"title": "T" * 501}, 422, "title: "),
        ({"title": "Tea", "assist": 3}, 422, "assist: "),
        ({"title": "\ud800"}, 404, 'no article is titled "?"'),
        ({"title": "Tea", "model": "\ud800"}, 404, "'?' is not a name for a model"),
    ],
)
def test_what_cannot_be_meant_is_said(client: TestClient, wish: dict[str, Any], status: int, sentence: str) -> None:
    answer = client.post("/api/predict-next", content=json.dumps(wish), headers={"content-type": "application/json"})
    refused(answer, status, sentence)


def test_halves_of_letters_do_no_harm(client: TestClient) -> None:
    raw = json.dumps({"text": "Bees dance \ud800 in the hive.", "map": True})
    answer = client.post("/api/predict-next", content=raw, headers={"content-type": "application/json"})
    assert answer.json()["context"]["texts"] == ["Bees dance ? in the hive."]


def test_the_published_inverter_is_not_to_be_had(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("inversion", "corrector"):
        (tmp_path / "folder" / part).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(open_inverter, "PublishedInverter", None)  # whoever opens it gets a 500
    for name in ("gtr-base", "folder"):
        refused(asked(client, title="Tea", decode=True, inverter=name), 404, f"inverter {name} is not one that")


def test_a_damaged_model_is_for_the_log_and_not_for_a_client(
    home: Path, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    folder = home / "collections" / "wiki" / "models" / "damaged"
    write_model(folder)
    (folder / "predictor.bin").write_bytes(b"damaged")
    answer = asked(client, title="Tea", model="damaged")
    refused(answer, 503, "model damaged cannot be opened, the server's log says why")
    assert str(home) not in answer.text
    assert answer.headers["retry-after"] == "60"
    assert f"{folder / 'predictor.bin'} is damaged" in caplog.text
    write_model(folder)
    assert told(client, title="Tea", model="damaged")["model"] == "damaged"


def test_a_model_that_was_trained_again_is_another_one(home: Path, client: TestClient) -> None:
    own = home / "collections" / "wiki" / "models"
    write_model(own / "again", COPY_LAST)
    wish = {"title": "Bridge", "position": 3, "model": "again", "k": 1}
    before = told(client, **wish)["results"][0]["score"]
    write_model(own / ".making-again", SUM)
    (own / "again").rename(own / ".before-again")
    (own / ".making-again").rename(own / "again")  # as `making` does it
    assert (
        told(client, **wish)["results"][0]["score"]
        == told(client, **{**wish, "model": "sum", "rerank": False})["results"][0]["score"]
    )
    assert told(client, **wish)["results"][0]["score"] != before


# -- words ---------------------------------------------------------------------------------------------------


def test_words_are_told_with_what_they_are_worth(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    inverter = Tabled(["stone arch"], {"stone arch": [BRIDGE[1]]})
    open_as(monkeypatch, inverter)
    answer = told(client, title="Bridge", position=1, decode=True, steps=1)
    assert [(one["of"], one["text"], one["step"]) for one in answer["gists"]] == [
        ("prediction", "stone arch", 0),
        ("truth", BRIDGE[1], 1),
        ("copy-last", "stone arch", 0),
    ]
    assert [one["to_truth"] for one in answer["gists"]][1] == pytest.approx(1, abs=1e-3)
    assert answer["gist_notes"] == [
        "by inverter tabled, at most 32 tokens each: a gist at best; those of a predicted vector may tell its topic, "
        "and their names and numbers are invented"
    ]
    assert [len(targets) for targets in inverter.targets] == [3]
    assert told(client, text="Tea.", decode=True, steps=0, inverter="tabled")["gists"][0]["to_truth"] is None


def test_no_step_is_begun_that_would_end_after_the_deadline(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def decode(self: Decoder, vectors: Any, **how: Any) -> list[Any]:
        limits.append(how["time_limit"])
        how["tell"]("the first texts took 1.0 s; all will take up to about 9.0 s")
        how["tell"]("the time limit of 5 s came after 0 of 1 step")
        return real(self, vectors, **{**how, "steps": 0})

    real = Decoder.decode
    open_as(monkeypatch, Tabled(["stone arch"]))
    monkeypatch.setattr(Decoder, "decode", decode)
    with TestClient(create_app(Shelf.open(home, ["wiki"], "wiki"), Settings(deadline=20.0))) as client:
        answer = told(client, title="Bridge", position=1, decode=True)
    assert 10 < limits[0] < 19
    assert answer["gist_notes"][1:] == ["the time limit of 5 s came after 0 of 1 step"]


def test_who_wants_no_words_does_not_wait_for_them(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_: Any, **__: Any) -> list[Any]:
        begun.set()
        assert go_on.wait(20)
        return []

    open_as(monkeypatch, Tabled(["stone arch"]))
    monkeypatch.setattr(looking, "in_words", wait)
    worded: list[Any] = []
    asking = threading.Thread(target=lambda: worded.append(told(client, title="Bridge", decode=True)))
    asking.start()
    assert begun.wait(20)
    assert told(client, title="Bridge")["gists"] is None
    assert not worded
    go_on.set()
    asking.join()
    assert worded[0]["gists"] == []


# -- the map -------------------------------------------------------------------------------------------------


def test_the_map_has_the_context_the_prediction_the_truth_and_the_candidates(client: TestClient) -> None:
    answer = told(client, title="Bridge", position=2, k=8, map=True)
    points = answer["map"]["points"]
    others = [row for row in answer["results"] if not row["true_next"]]
    assert len(others) == len(answer["results"]) - 1
    assert [point["what"] for point in points] == ["context"] * 2 + ["prediction", "truth"] + ["candidate"] * len(
        others
    )
    texts = [*BRIDGE[:2], BRIDGE[1], BRIDGE[2], *(row["text"] for row in others)]  # it copies the last chunk
    chart = chart_of(HashingEncoder().encode(texts))
    assert [[point["x"], point["y"]] for point in points] == pytest.approx(chart.points, abs=5e-3)  # kept in float16
    assert answer["map"]["explained"] == pytest.approx(chart.explained, abs=5e-3)
    assert [(one["chunk_id"], one["page_id"], one["position"], one["rank"], one["label"]) for one in points[:4]] == [
        (2, 3, 0, None, "Bridge"),
        (3, 3, 1, None, "Bridge — Building"),
        (None, None, None, None, "what model copy expects"),
        (4, 3, 2, answer["truth"]["rank"], "Bridge — Building"),
    ]
    assert [(one["rank"], one["chunk_id"]) for one in points[4:]] == [(row["rank"], row["chunk_id"]) for row in others]


def test_after_a_text_the_map_has_its_chunks_and_no_truth(client: TestClient) -> None:
    answer = told(client, text=f"{BRIDGE[0]} {BRIDGE[3]}", k=2, map=True)
    points = answer["map"]["points"]
    assert [point["what"] for point in points] == ["context", "context", "prediction", "candidate", "candidate"]
    texts = [BRIDGE[0], BRIDGE[3], BRIDGE[3], *(row["text"] for row in answer["results"])]
    assert [[point["x"], point["y"]] for point in points] == pytest.approx(
        chart_of(HashingEncoder().encode(texts)).points, abs=5e-3
    )
    assert (points[0]["label"], points[0]["chunk_id"]) == (BRIDGE[0], None)


def test_with_a_p_tower_all_lie_as_that_has_them(client: TestClient) -> None:
    answer = told(client, title="Bridge", position=2, k=2, model="towers", map=True)
    points = answer["map"]["points"]
    rows = [*BRIDGE[:2], BRIDGE[1], BRIDGE[2]]
    rows += [row["text"] for row in answer["results"] if not row["true_next"]]
    own = HashingEncoder().encode(rows)
    moved = normalised(own @ halved(own.shape[1]))
    moved[2] = own[2]  # the prediction is the predictor's, not the tower's
    assert [[point["x"], point["y"]] for point in points] == pytest.approx(chart_of(moved).points, abs=5e-3)


# -- the space of a P tower ----------------------------------------------------------------------------------


def until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not found():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_large_space_is_made_beside_the_requests(
    home: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def here(doing: str, work: Callable[..., object], note: Callable[[str], object]) -> None:
        begun.set()
        assert go_on.wait(20)
        work(note=note)

    own = home / "collections" / "wiki" / "models"
    write_towers(own / "wide", trained={})
    monkeypatch.setattr(looking, "_AT_ONCE", 0)
    monkeypatch.setattr(looking, "apart", here)
    wish = {"title": "Bridge", "position": 2, "model": "wide"}
    answer = asked(client, **wish)
    refused(answer, 503, "what model wide knows of wiki gen-000001 (a vector of each of 9 chunks")
    assert "is being made ready; ask again in some 1 s" in answer.json()["detail"]
    assert answer.headers["retry-after"] == "1"
    assert begun.wait(20)
    begun.clear()
    refused(asked(client, **wish), 503, "is being made ready")
    assert told(client, **{**wish, "model": "copy"})["model"] == "copy"
    assert client.get("/api/search?q=tea").status_code == 200
    go_on.set()
    until(lambda: asked(client, **wish).status_code == 200)
    assert not begun.is_set()  # once
    assert told(client, **wish)["way"]["tower"] is True
    assert (own / "spaces" / "wide" / "space.json").exists()


def test_a_space_that_cannot_be_made_is_not_tried_again_at_once(
    home: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[str] = []

    def fails(doing: str, work: Callable[..., object], note: Callable[[str], object]) -> None:
        tried.append(doing)
        raise preparing.LookaheadError(f"cannot write {home}: Read-only file system")

    write_towers(home / "collections" / "wiki" / "models" / "never", trained={})
    monkeypatch.setattr(looking, "_AT_ONCE", 0)
    monkeypatch.setattr(looking, "apart", fails)
    wish = {"title": "Bridge", "position": 2, "model": "never"}
    refused(asked(client, **wish), 503, "what model never knows")
    until(lambda: "could not be made ready" in asked(client, **wish).json()["detail"])
    answer = asked(client, **wish)
    refused(answer, 503, "the server's log says why; it is tried again in a minute")
    assert 50 < int(answer.headers["retry-after"]) <= 60
    assert str(home) not in answer.text
    assert f"cannot write {home}: Read-only file system" in caplog.text
    assert tried == ["making the space of model never"]
    monkeypatch.setattr(preparing, "AGAIN", 0.0)
    asked(client, **wish)
    until(lambda: len(tried) > 1)


def test_what_was_made_and_is_gone_is_made_again() -> None:
    made: list[str] = []
    things = preparing.Preparing()
    for times in (1, 2):
        problem = things.ask("key", "it", 40, lambda: made.append("it"))
        assert (problem.status, problem.headers) == (503, {"Retry-After": "40"})
        until(lambda: len(made) == times and not things._makings)  # noqa: B023


@pytest.mark.slow
def test_a_process_of_its_own_makes_a_space(home: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    own = home / "collections" / "wiki" / "models"
    write_towers(own / "apart", trained={})
    monkeypatch.setattr(looking, "_AT_ONCE", 0)
    wish = {"title": "Bridge", "position": 2, "model": "apart"}
    refused(asked(client, **wish), 503, "what model apart knows")
    until(lambda: asked(client, **wish).status_code == 200)
    assert (own / "spaces" / "apart" / "space.json").exists()


# -- generations ---------------------------------------------------------------------------------------------


def generation_lent(shelf: Shelf) -> str:
    with shelf.lease() as lease:
        return lease.generation


def test_a_new_generation_answers_and_nothing_of_the_old_one_stays(tmp_path: Path) -> None:
    own = publish(tmp_path, "fresh", {3: PAGES[3]}).path
    write_model(own / "models" / "copy", COPY_LAST)
    shelf = Shelf.open(tmp_path, ["fresh"], "fresh")
    app = create_app(shelf, Settings(refresh=0.01))
    with TestClient(app) as client:
        assert told(client, title="Bridge", position=1)["generation"] == "gen-000001"
        looks = app.state.service.looking
        with shelf.lease() as lease:
            publish(tmp_path, "fresh", PAGES)
            until(lambda: generation_lent(shelf) == "gen-000002")
            until(lambda: not looks._looks._kept)  # it was told
            late = looking.Asked(lease, PredictNext(title="Bridge", position=1), time.monotonic() + 20)
            (answer,) = looks._answers([late])
            assert (answer.generation, answer.prediction.truth.among) == ("gen-000001", 3)
        answered = told(client, title="Bridge", position=1)
        assert (answered["generation"], answered["truth"]["among"]) == ("gen-000002", 8)
        kept = looks._looks._kept
        assert [key[0].generation.path.name for key in kept] == ["gen-000002"]
    assert not kept


def test_only_so_many_models_are_open_at_once(home: Path) -> None:
    few: looking._Few[str] = looking._Few(2)
    opened: list[str] = []

    def get(name: str) -> str:
        return few.get((home, name), lambda: opened.append(name) or name)  # type: ignore[func-returns-value]

    for name in ("a", "b", "a", "c", "a", "b"):
        assert get(name) == name
    assert opened == ["a", "b", "c", "b"]  # b was used less lately than a when c came


# -- what is loaded ------------------------------------------------------------------------------------------


def test_torch_is_not_loaded_before_somebody_asks_for_words(home: Path) -> None:
    code = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from retrieval import models
from retrieval.service.app import create_app
from retrieval.service.shelf import Shelf
models.SHIPPED = Path(sys.argv[1]) / "nothing"
with TestClient(create_app(Shelf.open(Path(sys.argv[1]), ["wiki"], "wiki"))) as client:
    for path, wish in (
        ("predict-next", {"title": "Bridge", "position": 2, "map": True, "model": "towers"}),
        ("predict-next", {"text": "Tea.", "model": "sum"}),
        ("embed", {"model": "hashing", "input": "tea"}),
    ):
        assert client.post(f"/api/{path}", json=wish).status_code == 200, path
    for path in ("search?q=tea", "models", "collections", "evaluations"):
        assert client.get(f"/api/{path}").status_code == 200, path
print(*{name.split(".")[0] for name in sys.modules})
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, home], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"numpy", "openvino", "fastapi"} <= loaded
    assert not loaded & {"torch", "transformers", "sentence_transformers", "vec2text", "matplotlib", "scipy"}


def test_what_is_being_opened_does_not_keep_the_shelf_waiting() -> None:
    few: looking._Few[str] = looking._Few(2)
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert may_end.wait(5)
        return "opened"

    with ThreadPoolExecutor(2) as askers:
        first = askers.submit(few.get, ("one", "model"), slow)
        assert begun.wait(5)
        second = askers.submit(few.get, ("one", "model"), lambda: "opened twice")
        dropping = threading.Thread(target=few.drop, args=[lambda _: False])
        dropping.start()
        dropping.join(1)
        assert not dropping.is_alive()
        may_end.set()
        assert (first.result(5), second.result(5)) == ("opened", "opened")
