"""POST /api/embed: the encoders' own vectors over HTTP, names only, and models that are made ready meanwhile."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient
from tiny_encoders import SPACE, write_encoder, write_tiny_twin
from tiny_service import CHOICES, PAGES, publish

from index.build import ingest
from index.encoder import INT8, open_encoder
from index.hashing import HashingEncoder
from index.students import Status, Student
from retrieval.service import encoders
from retrieval.service.app import create_app
from retrieval.service.encoders import Encoders, _Wish
from retrieval.service.looking_answers import EmbeddedAnswer
from retrieval.service.problems import Problem
from retrieval.service.settings import Settings
from retrieval.service.shelf import Shelf
from store.generations import Collection
from store.records import LookaheadError
from store.sources import open_source

TEXTS = ["a stone bridge", "", "tea in a cup"]
ASKING = replace(SPACE, model="asking", query_prefix="what: ")


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever level a library has set for everybody."""
    caplog.set_level(logging.WARNING, "lookahead.service")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`wiki` made with the hashing encoder, `tiny` with the twin that is all there is of model served; other models:
    twin (of which there is no more either), asking (to be converted), failed and unsaid."""
    folder = tmp_path_factory.mktemp("service_embedding")
    publish(folder, "wiki", PAGES)
    own = folder / "encoders"
    for name in ("served", "twin"):
        write_tiny_twin(own / name / INT8)
    for name in ("asking", "failed", "unsaid"):
        (own / name).mkdir()
        (own / name / "modules.json").write_text("[]")
    Student(Status.FAILED, ("too far from its teacher",), {}, {}).write(own / "failed")
    (own / "unsaid" / "student.json").write_text("{")
    choices = replace(CHOICES, encoder=str(own / "served"))
    ingest(Collection(folder / "collections" / "tiny"), [open_source(folder / "wiki.jsonl", "jsonl")], choices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "shipped_encoders", lambda: folder / "nothing")
        patch.setattr("index.students.shipped_encoders", lambda: folder / "nothing")
        yield folder


@pytest.fixture(scope="module")
def shelf(home: Path) -> Shelf:
    return Shelf.open(home, ["wiki", "tiny"], "wiki")


@pytest.fixture(scope="module")
def client(shelf: Shelf) -> Iterator[TestClient]:
    with TestClient(create_app(shelf)) as opened:
        yield opened


def asked(client: TestClient, **wish: Any) -> httpx.Response:
    raw = json.dumps(wish)  # as it may come, halves of letters and all
    return client.post("/api/embed", content=raw, headers={"content-type": "application/json"})


def embedded(client: TestClient, **wish: Any) -> Any:
    answer = asked(client, **wish)
    assert answer.status_code == 200, answer.text
    EmbeddedAnswer.model_validate_json(answer.content, strict=True)
    told = answer.json()
    vectors = np.array(told["embeddings"], dtype=np.float32)
    assert (told["dim"], told["model"]) == (vectors.shape[1], wish["model"])
    return vectors


def until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not found():
        assert time.monotonic() < end
        time.sleep(0.005)


# -- answers -------------------------------------------------------------------------------------------------


def test_vectors_are_to_the_last_bit_those_of_the_encoder(client: TestClient) -> None:
    assert np.array_equal(embedded(client, model="hashing", input=TEXTS), HashingEncoder().encode(TEXTS))
    one = embedded(client, model="hashing", input=TEXTS[0])
    assert np.array_equal(one, HashingEncoder().encode(TEXTS[:1]))


def test_a_twin_that_is_all_there_is_of_a_model_embeds_at_once(home: Path, client: TestClient) -> None:
    own = open_encoder(home / "encoders" / "twin" / INT8)
    assert embedded(client, model="twin", input=TEXTS) == pytest.approx(own.encode(TEXTS), abs=1e-6)


def test_a_model_that_a_collection_was_made_with_is_opened_once_only(
    home: Path, client: TestClient, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "open_encoder", None)
    with shelf.lease("tiny") as lease:
        theirs = lease.searcher.encoder.encode(TEXTS)
    assert embedded(client, model="served", input=TEXTS) == pytest.approx(theirs, abs=1e-6)
    monkeypatch.undo()
    folder = home / "encoders" / "served"
    later = time.time() + 60
    os.utime(folder, (later, later))  # made anew since: the collection's encoder is another one
    own = Encoders(Settings(), None, shelf)
    assert own._served_with(str(folder.resolve())) is None
    os.utime(folder, (1, 1))
    assert own._served_with(str(folder.resolve())) == "tiny"


def test_questions_are_embedded_as_such_and_a_model_is_made_ready_meanwhile(
    home: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, Path, str]] = []

    def convert(spec: str, folder: Path, *, device: str, note: Callable[[str], object]) -> None:
        write_encoder(folder, fingerprint=ASKING, seed=3)
        made.append((spec, folder, device))

    monkeypatch.setattr(encoders, "convert_apart", convert)
    answer = asked(client, model="asking", input="tea")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "encoder asking is being made ready; ask again in some 10 s"
    assert answer.headers["retry-after"] == "10"
    until(lambda: asked(client, model="asking", input="tea").status_code == 200)
    own = open_encoder(made[0][1])
    assert made == [(str((home / "encoders" / "asking").resolve()), made[0][1], "cpu")]
    for role, theirs in (("document", own.encode(TEXTS)), ("query", own.encode_queries(TEXTS))):
        found = embedded(client, model="asking", input=TEXTS, **{"as": role})
        assert found == pytest.approx(theirs, abs=1e-6)
    assert np.abs(own.encode(TEXTS) - own.encode_queries(TEXTS)).max() > 0.01


def test_what_was_made_ready_is_gone_at_the_end_and_the_bundled_one_is_the_package_s(
    shelf: Shelf, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, Path]] = []

    def convert(spec: str, folder: Path, *, device: str, note: Callable[[str], object]) -> None:
        made.append((spec, write_encoder(folder)))

    monkeypatch.setattr(encoders, "convert_apart", convert)
    with TestClient(create_app(Shelf.open(home, ["wiki"], "wiki"))) as client:
        until(lambda: asked(client, model="bundled", input="tea").status_code == 200)
        assert made[0][0] == "bundled"
        assert (made[0][1] / "model.xml").exists()
    assert not made[0][1].parent.exists()


def test_what_cannot_be_made_ready_is_said_and_not_tried_at_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[str] = []

    def convert(spec: str, folder: Path, *, device: str, note: Callable[[str], object]) -> None:
        tried.append(spec)
        raise LookaheadError("cannot load the encoder '/secret'")

    monkeypatch.setattr(encoders, "convert_apart", convert)
    until(lambda: "could not be made" in asked(client, model="bundled", input="tea").json()["detail"])
    answer = asked(client, model="bundled", input="tea")
    assert answer.status_code == 503
    assert "secret" not in answer.text
    assert "cannot load the encoder '/secret'" in caplog.text
    assert tried == ["bundled"]


def test_a_damaged_twin_is_for_the_log(home: Path, client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    folder = home / "encoders" / "damaged"
    write_tiny_twin(folder / INT8)
    (folder / INT8 / "model.bin").write_bytes(b"damaged")
    answer = asked(client, model="damaged", input="tea")
    assert (answer.status_code, str(home) in answer.text) == (503, False)
    assert "model.bin changed since it was made" in caplog.text
    shutil.rmtree(folder)


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["unknown", "failed", "unsaid", "../encoders/twin", "twin/int8", ".", "/etc", "pooled:bundled", "gtr-t5-base",
     "sentence-transformers/all-MiniLM-L6-v2", "\ud800", "a\nb"],
)  # fmt: skip
def test_a_name_of_no_encoder_is_not_found(client: TestClient, name: str) -> None:
    answer = asked(client, model=name, input="tea")
    assert answer.status_code == 404, answer.text
    assert "here; there are: bundled, hashing, asking, served, twin" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("wish", "place"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["tea"] * 65}, "input"),
        ({"input": "t" * 100_001}, "input"),
        ({"input": ["t" * 100_001]}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["tea", None]}, "input"),
        ({"input": "tea", "as": "question"}, "as"),
        ({"input": "tea", "as_": "query"}, "as_"),
        ({"input": "tea", "model": ["bundled"]}, "model"),
        ({"input": "tea", "device": "cuda"}, "device"),
    ],
)
def test_what_cannot_be_meant_is_said(client: TestClient, wish: dict[str, Any], place: str) -> None:
    answer = asked(client, **wish)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].startswith(place)
    assert len(answer.text) < 1_000


def test_halves_of_letters_do_no_harm(client: TestClient) -> None:
    own = embedded(client, model="twin", input="tea \ud800")
    assert np.array_equal(own, embedded(client, model="twin", input="tea ?"))


# -- together ------------------------------------------------------------------------------------------------


def test_texts_that_wait_for_one_encoder_are_encoded_together(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, list[str]]] = []

    class Counting(HashingEncoder):
        def encode(self, texts: Any) -> Any:
            seen.append((role, list(texts)))
            return super().encode(texts)

        def encode_queries(self, texts: Any) -> Any:
            nonlocal role
            role = "query"
            return self.encode(texts)

    def encoder(self: Encoders, name: str) -> Counting:
        nonlocal role
        role = "document"
        if name == "none":
            raise Problem(404, "none")
        return Counting()

    role = ""
    monkeypatch.setattr(Encoders, "_encoder", encoder)
    wishes = [("a", ["x", "y"], False), ("a", ["z"], True), ("none", ["x"], False), ("a", ["tea"], False)]
    found = Encoders(Settings(), None, shelf)._answers(
        [_Wish(name, tuple(some), as_query) for name, some, as_query in wishes]
    )
    assert seen == [("document", ["x", "y", "tea"]), ("query", ["z"])]
    for answer, (name, texts, _) in zip(found, wishes, strict=True):
        if name == "none":
            assert isinstance(answer, Problem)
        else:
            assert np.array_equal(answer, HashingEncoder().encode(texts))  # type: ignore[arg-type]


# -- what there is -------------------------------------------------------------------------------------------


def test_rows_say_what_is_ready(shelf: Shelf, client: TestClient) -> None:
    rows = {str(row["name"]): row for row in Encoders(Settings(), None, shelf).rows()}
    assert list(rows) == ["bundled", "hashing", "asking", "served", "twin"]
    assert [rows[name]["ready"] for name in rows] == [False, True, False, True, True]
    assert [rows[name]["dim"] for name in rows] == [None, 128, None, 32, 32]
    assert rows["hashing"]["fingerprint"] == str(HashingEncoder().fingerprint)
    assert rows["twin"]["fingerprint"] == str(replace(SPACE, precision=INT8))
    assert client.get("/api/models").json()["encoders"][1] == rows["hashing"]


def test_without_a_home_there_are_those_that_came_with_the_program(tmp_path: Path) -> None:
    collection = publish(tmp_path, "wiki", {1: PAGES[1]}).path
    elsewhere = tmp_path / "elsewhere" / "wiki"
    elsewhere.parent.mkdir()
    collection.rename(elsewhere)
    (tmp_path / "encoders" / "mine").mkdir(parents=True)
    from retrieval.search import Searcher

    with Searcher.open(Collection(elsewhere)) as searcher:
        shelf = Shelf.holding(searcher)
        assert "mine" not in Encoders(Settings(), None, shelf).names()
        assert "mine" in Encoders(Settings(), None, shelf, tmp_path).names()


@pytest.mark.slow
def test_the_bundled_model_is_converted_in_a_process_of_its_own(home: Path) -> None:
    shelf = Shelf.open(home, ["wiki"], "wiki")
    with TestClient(create_app(shelf)) as client:
        assert asked(client, model="bundled", input="tea").status_code == 503
        end = time.monotonic() + 100
        while (
            answer := asked(client, model="bundled", input=["tea in a cup", "a cup of tea", "war"])
        ).status_code == 503:
            assert time.monotonic() < end
            time.sleep(0.5)
        near = np.array(answer.json()["embeddings"])
        assert near[0] @ near[1] > 0.8 > 0.4 > near[0] @ near[2]
