"""The benchmark of encoders: ratios from a clock that only encoding moves, goals by the kind of model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from cli import main
from index.build import Choices, ingest
from index.encoder import Fingerprint
from retrieval.benchmarks import encode as subject
from retrieval.benchmarks import measured
from retrieval.benchmarks.measured import Figure
from store.generations import Collection
from store.records import LookaheadError
from store.sources import open_source


class Clock:
    now = 0.0


class Timed:
    """Takes so many seconds a text, and says in one dimension how long a text is and in the other a constant."""

    def __init__(self, name: str, each: float, *, layers: int = 6, constant: float = 1.0, kind: str = "openvino",
                 precision: str = "f32") -> None:  # fmt: skip
        self.name, self.dim, self.each, self.layers, self.constant = name, 2, each, layers, constant
        self.kind, self.recipe = kind, precision
        self.fingerprint = Fingerprint(name, "1", 2, "mean", False, False, "", "", 9)
        self.read: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        Clock.now += self.each * len(texts)
        self.read.append(list(texts))
        return np.array([[len(text), self.constant] for text in texts], dtype=np.float32)

    encode_queries = encode


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Timed, Timed | None]]:
    """spec → (on the fast path, under sentence-transformers)."""
    Clock.now = 0.0
    made: dict[str, tuple[Timed, Timed | None]] = {"bundled": (Timed("teacher", 0.005), Timed("teacher", 0.02))}

    def prepare(spec: str, folder: Path, **_: Any) -> Timed:
        folder.mkdir()
        one = made[Path(spec).name][0]
        recipe = {"kind": one.kind, "spec": spec, "inputs": [], "precision": one.recipe}
        (folder / "encoder.json").write_text(json.dumps({**recipe, "fingerprint": one.fingerprint.as_json()}))
        (folder / "weights").write_bytes(bytes(2_000_000))
        return one

    def reference_of(spec: str) -> Timed:
        found = made[Path(spec).name][1]
        if found is None:
            raise LookaheadError("cannot load")
        return found

    monkeypatch.setattr(subject, "prepare", prepare)
    monkeypatch.setattr(subject, "reference_of", reference_of)
    monkeypatch.setattr(subject, "open_encoder", lambda folder, device: Timed("single", 0.001))
    monkeypatch.setattr(subject, "_opening", lambda folder, question: 0.25)
    monkeypatch.setattr("time.perf_counter", lambda: Clock.now)
    return made


def texts(count: int) -> list[str]:
    return [f"{number} one two" for number in range(count)]


def figures_by(figures: Sequence[Figure]) -> dict[str, Figure]:
    return {figure.what: figure for figure in figures}


def bench(specs: Sequence[str], home: Path, count: int = 2000, **options: Any) -> dict[str, Figure]:
    settings = {"against": "bundled", "say": lambda _: None, **options}
    return figures_by(subject.bench_encode(specs, home, texts(count), **settings))


def test_an_encoder_is_so_many_times_as_fast_as_the_other_under_sentence_transformers(
    fakes: dict[str, tuple[Timed, Timed | None]], tmp_path: Path
) -> None:
    fakes["small"] = (Timed("small", 0.001, layers=3), Timed("small", 0.01, layers=3, constant=0.0))
    found = bench(["small", "bundled"], tmp_path)
    assert found["teacher under sentence-transformers, texts/s"].value == pytest.approx(50)
    assert found["words of a text, mean"].value == 3
    assert found["small f32: texts/s"].value == pytest.approx(1000)
    ratio = found["small f32: ratio to it"]
    assert ratio.value == pytest.approx(20)
    assert (ratio.goal, ratio.reached) == ("≥ 8 ×", True)
    assert found["bundled f32: ratio to it"].value == pytest.approx(4)
    assert found["bundled f32: ratio to it"].reached is None
    assert found["small f32: one question, p50"].value == pytest.approx(1)
    assert found["small f32: opening it and a first question, in a fresh process"].value == 0.25
    assert found["small f32: carried by a collection"].value == pytest.approx(2, abs=0.01)
    lengths = np.array([len(text) for text in texts(2000)])
    cosines = lengths / np.sqrt(lengths**2 + 1)
    smallest = found["small f32: smallest cosine to itself under sentence-transformers"].value
    assert cosines.min() - 1e-6 <= smallest <= cosines.max()
    assert smallest <= found["small f32: mean cosine to it"].value < 1
    assert found["bundled f32: mean cosine to it"].value == pytest.approx(1)


def test_no_text_comes_twice_in_the_rounds_where_there_are_enough(
    fakes: dict[str, tuple[Timed, Timed | None]], tmp_path: Path
) -> None:
    fast, slow = Timed("fast", 1e-5), Timed("slow", 0.1)
    rates = subject.rates_of([slow, fast], texts(1500))
    assert rates == [pytest.approx([10] * subject.ROUNDS), pytest.approx([1e5] * subject.ROUNDS)]
    for encoder, each in ((slow, subject.LEAST), (fast, 1500 // subject.ROUNDS)):
        rounds = encoder.read[-subject.ROUNDS :]
        assert [len(one) for one in rounds] == [each] * subject.ROUNDS
        seen = [text for one in rounds for text in one]
        assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("one", "goal"),
    [
        (Timed("s", 1e-4, layers=0, kind="static"), "≥ 150 ×"),
        (Timed("s", 1e-3, layers=1), "≥ 15 ×"),
        (Timed("s", 1e-3, layers=2), "≥ 15 ×"),
        (Timed("s", 1e-3, layers=3), "≥ 8 ×"),
        (Timed("s", 1e-3, layers=4), ""),
        (Timed("s", 1e-3, layers=6), ""),
        (Timed("s", 1e-3, layers=6, precision="int8"), "≥ 4.5 ×"),
    ],
)
def test_the_goal_is_that_of_the_kind_of_model(
    fakes: dict[str, tuple[Timed, Timed | None]], tmp_path: Path, one: Timed, goal: str
) -> None:
    fakes["s"] = (one, one)
    assert bench(["s"], tmp_path, 100)[f"s {one.recipe}: ratio to it"].goal == goal
    assert bench(["s"], tmp_path, 100, goal=3)[f"s {one.recipe}: ratio to it"].goal == "≥ 3 ×"


def test_a_model_that_sentence_transformers_cannot_load_is_compared_with_nothing(
    fakes: dict[str, tuple[Timed, Timed | None]], tmp_path: Path
) -> None:
    fakes["twin"] = (Timed("twin", 0.001, precision="int8"), None)
    said: list[str] = []
    found = bench(["twin"], tmp_path, 100, say=said.append)
    assert found["twin int8: ratio to it"].value == pytest.approx(20)
    assert not [what for what in found if "cosine" in what]
    assert any("nothing sentence-transformers can load" in sentence for sentence in said)


def test_calls_are_made_in_turn_and_their_last_results_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock.now, order = 0.0, []
    monkeypatch.setattr("time.perf_counter", lambda: Clock.now)

    def call(name: str, seconds: float) -> Any:
        def made(number: int) -> str:
            order.append(f"{name}{number}")
            Clock.now += seconds * (number + 1)
            return f"{name}{number}"

        return made

    timed = measured.in_turn([call("a", 1), call("b", 2)], 3)
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert timed == [([1, 2, 3], "a2"), ([2, 4, 6], "b2")]


def test_the_chunks_are_those_of_the_file_or_of_the_collection(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    text = "The old stone bridge stands over the river. The toll was paid until the war began. Boats pass below it."
    lines.write_text(
        "".join(json.dumps({"page_id": n, "title": f"T{n}", "text": f"{n} {text}"}) + "\n" for n in (1, 2))
    )
    assert subject.chunks_of_file(lines) == [f"1 {text}", f"2 {text}"]
    collection = Collection(tmp_path / "c")
    ingest(collection, [open_source(lines, "jsonl")], Choices(encoder="hashing", words=10, workers=1, quiet=True))
    chunks = subject.chunks_in(collection, 100)
    assert len(chunks) == 4
    assert " ".join(chunks) == f"1 {text} 2 {text}"


def test_a_real_encoder_is_opened_in_a_process_of_its_own(tmp_path: Path) -> None:
    from index.encoder import HASHING, prepare

    prepare(HASHING, tmp_path / "e")
    assert 0 < subject._opening(tmp_path / "e", "who") < 60


def test_the_command_prints_a_table_or_lines_of_json(
    fakes: dict[str, tuple[Timed, Timed | None]], tmp_path: Path
) -> None:
    arguments = ["--home", str(tmp_path), "bench", "encode", "--model", "bundled", "--model", "bundled"]
    shown = CliRunner(catch_exceptions=False).invoke(main, [*arguments, "--chunks", "40", "--goal", "5"])
    assert shown.exit_code == 0, shown.output
    assert "| bundled f32: ratio to it | 4 × **missed** | ≥ 5 × |" in shown.stdout
    assert shown.stdout.count("ratio to it") == 1
    told = CliRunner(catch_exceptions=False).invoke(main, [*arguments, "--chunks", "40", "--json"])
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    assert {row["what"]: row["value"] for row in rows}["bundled f32: texts/s"] == pytest.approx(200)
