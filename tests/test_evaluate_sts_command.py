"""`evaluate sts` at the command line: what is judged, what is written, every bad input in a line, mteb's tasks."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli import main
from index.build import Choices, ingest
from index.hashing import HashingEncoder
from index.students import Status, Student
from retrieval import evaluate_sts
from retrieval.sts_hub import MtebEncoder, find_tasks, load, mteb_says
from store.generations import Collection
from store.records import LookaheadError
from store.sources import open_source

WORDS = ["stone", "bridge", "river", "tea", "cup", "china", "coffee", "mug", "clay", "road", "hill", "boat"]


def pair_lines(count: int = 24) -> str:
    """Pair i shares 4 - i % 5 of four words: HashingEncoder's cosine goes with people's score."""
    lines = []
    for i in range(count):
        apart = i % 5
        first = [WORDS[(i + k) % 12] for k in range(4)]
        second = [*first[apart:], *(f"other{i}x{k}" for k in range(apart))]
        lines.append(f"{4 - apart}\t{' '.join(first)}\t{' '.join(second)}")
    return "\n".join(lines) + "\n"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_sts, "_LEAST_SECONDS", 0.0)
    monkeypatch.delenv("LOOKAHEAD_DATA", raising=False)


@pytest.fixture
def sts(tmp_path: Path) -> Path:
    folder = tmp_path / "real" / "sts"
    (folder / "sts17").mkdir(parents=True)
    for name in ("sts17-en-en-test", "sts17-de-en-test"):
        (folder / "sts17" / f"{name}.tsv").write_text(pair_lines())
    rows = [f"g\tf\t2012\t{i}\t{line}" for i, line in enumerate(pair_lines().splitlines())]
    for split in ("train", "test"):
        (folder / f"sts-{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model "flat" gives every text the same vector; others are themselves."""
    from index import students

    usual = students.opened

    class Flat(HashingEncoder):
        name = "flat"

        def encode(self, texts: Any) -> Any:
            return np.ones((len(texts), self.dim), dtype=np.float32)

    @contextlib.contextmanager
    def opened(spec: str, **options: Any) -> Iterator[Any]:
        if spec == "flat":
            yield Flat()
        else:
            with usual(spec, **options) as encoder:
                yield encoder

    monkeypatch.setattr(students, "opened", opened)


def evaluate(tmp_path: Path, *arguments: str | Path) -> Result:
    given = ["--home", str(tmp_path / "home"), "evaluate", "sts", *map(str, arguments)]
    return CliRunner(catch_exceptions=False).invoke(main, given)


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(result: Result, said: str) -> None:
    assert result.exit_code == 2, result.stdout
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert said in result.stderr


def test_models_are_judged_and_written(tmp_path: Path, sts: Path, flat: None) -> None:
    out = tmp_path / "out"
    result = evaluate(tmp_path, "--model", "flat", "--model", "hashing", "--data", sts, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("STS: 3 sets, 72 pairs")
    assert "broken: the same cosine for every pair" in result.stdout
    assert "sts17-de-en-test, de-en, 24 pairs" in result.stdout
    assert "an English model is low there by nature" in result.stdout
    raw = json.loads((out / "sts.json").read_text())
    assert raw["reference"] == "hashing"
    assert [table["key"] for table in raw["tables"]] == ["stsbenchmark-test", "sts17-en-en-test", "sts17-de-en-test"]
    (row,) = [row for row in raw["tables"][0]["rows"] if row["name"] == "hashing"]
    assert row["spearman"]["mean"] > 0.9
    assert (out / "sts.md").read_text().startswith("STS: 3 sets")
    assert (out / "sts.png").read_bytes().startswith(b"\x89PNG")
    assert "sts.json, sts.md, sts.png are in" in result.stderr


def test_without_a_defined_figure_there_is_no_picture(tmp_path: Path, sts: Path, flat: None) -> None:
    out = tmp_path / "out"
    result = evaluate(tmp_path, "--model", "flat", "--data", sts, "--set", "stsbenchmark", "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["sts.json", "sts.md"]
    assert "sts.json, sts.md are in" in result.stderr


def test_sets_are_chosen_and_a_single_file_does(tmp_path: Path, sts: Path) -> None:
    def keys(*arguments: str | Path) -> list[str]:
        found = document(evaluate(tmp_path, "--model", "hashing", "--json", *arguments))
        return [table["key"] for table in found["tables"]]

    assert keys("--data", sts, "--set", "sts17-en-en", "--set", "stsbenchmark-train") == [
        "stsbenchmark-train",
        "sts17-en-en-test",
    ]
    assert keys("--data", sts / "sts-test.csv") == ["stsbenchmark-test"]


def test_data_is_found_in_the_surroundings(tmp_path: Path, sts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKAHEAD_DATA", str(sts.parent))
    assert document(evaluate(tmp_path, "--model", "hashing", "--json"))["data"] == str(sts)


def test_the_seed_decides_the_draws_and_nothing_else(tmp_path: Path, sts: Path) -> None:
    def intervals(seed: int) -> list[Any]:
        found = document(evaluate(tmp_path, "--model", "hashing", "--data", sts, "--json", "--seed", str(seed)))
        return [row["spearman"] for table in found["tables"] for row in table["rows"] if not row["check"]]

    first, again, other = intervals(3), intervals(3), intervals(4)
    assert first == again != other
    assert [one["mean"] for one in first] == [one["mean"] for one in other]


def test_speed_is_measured_on_a_collections_texts(tmp_path: Path, sts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Green moss grows slowly on the old stone walls of our garden."
    (tmp_path / "a.jsonl").write_text(json.dumps({"page_id": 1, "title": "Moss", "text": text}))
    source = open_source(tmp_path / "a.jsonl", "jsonl")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
    ingest(Collection(tmp_path / "home" / "collections" / "wiki"), [source], choices)
    timed: list[str] = []
    monkeypatch.setattr(
        evaluate_sts, "speeds", lambda encoders, texts, quiet: timed.extend(texts) or dict.fromkeys(encoders, 1.0)
    )
    found = document(evaluate(tmp_path, "--model", "hashing", "--data", sts, "--json", "-c", "wiki"))
    assert found["texts"] == "texts of 80 words, of collection wiki"
    assert set(" ".join(timed).split()) == set(text.split())


def test_a_student_that_failed_is_judged_and_named(tmp_path: Path, sts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from index import students

    folder = tmp_path / "home" / "encoders" / "tiny"
    folder.mkdir(parents=True)
    Student(Status.FAILED, ("cosine .4",), {}, {}).write(folder)
    monkeypatch.setattr(students, "opened", lambda spec, **_: contextlib.nullcontext(HashingEncoder()))
    result = evaluate(tmp_path, "--model", "tiny", "--data", sts)
    assert "tiny is a student that failed: cosine .4" in result.stdout


def test_bad_input_is_refused_in_a_line(tmp_path: Path, sts: Path) -> None:
    refused(evaluate(tmp_path, "--model", "hashing"), "name a folder with STS files by --data")
    refused(evaluate(tmp_path, "--data", tmp_path / "none"), "is neither a file nor a folder")
    refused(evaluate(tmp_path, "--data", sts, "--set", "sts99"), "there is no set 'sts99'; there are stsbenchmark-test")
    refused(evaluate(tmp_path, "--data", sts, "--model", "x", "--model", "x"), "a --model is named twice")
    refused(evaluate(tmp_path, "--data", sts, "--model", "oracle"), "'oracle' is the name of a row")
    refused(evaluate(tmp_path, "--mteb", "STS22.v2", "--set", "sts17"), "--set chooses among the files of --data")
    refused(evaluate(tmp_path, "--data", sts, "-c", "none"), "nothing is ingested yet")
    (sts / "sts-test.csv").write_text("5\tonly\n")
    refused(evaluate(tmp_path, "--data", sts), "sts-test.csv, line 1: 2 columns")


def test_help_names_the_options(tmp_path: Path) -> None:
    result = evaluate(tmp_path, "--help")
    assert "held against the last one" in result.stdout
    assert "lookahead evaluate sts --model fast --model bundled" in result.stdout


# -- mteb, an extra --------------------------------------------------------------------------------------


def test_without_mteb_its_tasks_are_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    refused(evaluate(tmp_path, "--model", "hashing", "--mteb", "STS22.v2"), "run: pip install 'lookahead[mteb]'")


def fake_task(**held: Any) -> Any:
    """What `load` needs of a task of mteb's."""
    rows = {"sentence1": ["a b", "c", "d"], "sentence2": ["a b", "e", "d f"], "score": [4, 1, 2]}
    task = SimpleNamespace(
        metadata=SimpleNamespace(
            name="News", type="STS", eval_langs={"de-en": ["deu-Latn", "eng-Latn"], "en": ["eng-Latn"]}
        ),
        eval_splits=["test"],
        hf_subsets=["de-en", "en"],
        column_names=("sentence1", "sentence2"),
        dataset={"de-en": {"test": rows}, "en": {"test": rows}},
        load_data=lambda: None,
    )
    for name, value in held.items():
        setattr(task, name, value)
    return task


def test_a_task_becomes_a_set_for_each_subset() -> None:
    task = load(fake_task())
    assert [(one.key, one.languages, one.cross_lingual) for one in task.sets] == [
        ("News-de-en-test", ("deu", "eng"), True),
        ("News-en-test", ("eng",), False),
    ]
    assert task.sets[0].scores == (4.0, 1.0, 2.0)
    assert task.sets[0].second == ("a b", "e", "d f")
    assert task.official == {"News-de-en-test": ("test", "de-en"), "News-en-test": ("test", "en")}


def test_a_hub_that_does_not_answer_is_said_in_a_line() -> None:
    def fails() -> None:
        raise ConnectionError("no route to host\nand much more")

    with pytest.raises(LookaheadError, match="cannot load News of mteb: no route to host; it comes from") as caught:
        load(fake_task(load_data=fails))
    assert "\n" not in str(caught.value)


def test_mteb_is_given_vectors_of_all_batches_and_questions_as_questions() -> None:
    class Asked(HashingEncoder):
        def encode_queries(self, texts: Any) -> Any:
            return -self.encode(texts)

    ours = MtebEncoder(Asked(), None)
    batches = [{"text": ["a", "b"]}, {"text": ["c"]}]
    options = {"task_metadata": None, "hf_split": "test", "hf_subset": "en", "batch_size": 2}
    expected = HashingEncoder().encode(["a", "b", "c"])
    np.testing.assert_array_equal(ours.encode(batches, **options), expected)
    np.testing.assert_array_equal(ours.encode(batches, prompt_type="query", **options), -expected)
    np.testing.assert_array_equal(ours.encode(batches, prompt_type="document", **options), expected)


@pytest.mark.slow  # importing mteb takes some ten seconds
def test_mteb_itself_says_the_same_of_a_task_as_we_do(
    tmp_path: Path, sts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mteb = pytest.importorskip("mteb")
    datasets = pytest.importorskip("datasets")
    from mteb.abstasks import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    class Tiny(AbsTaskSTS):  # type: ignore[misc, unused-ignore]
        metadata = TaskMetadata(
            name="TinySTS",
            description="Two subsets of the same pairs.",
            type="STS",
            main_score="cosine_spearman",
            eval_langs={"en": ["eng-Latn"], "de-en": ["deu-Latn", "eng-Latn"]},
            eval_splits=["test"],
            dataset={"path": "none", "revision": "none"},
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            scores, first, second = zip(*(line.split("\t") for line in pair_lines().splitlines()), strict=True)
            rows = datasets.Dataset.from_dict(
                {"sentence1": first, "sentence2": second, "score": [float(one) for one in scores]}
            )
            self.dataset = {subset: datasets.DatasetDict({"test": rows}) for subset in ("en", "de-en")}
            self.data_loaded = True

    monkeypatch.setattr(mteb, "get_task", lambda name: {"TinySTS": Tiny}[name]())
    task = load(find_tasks(["TinySTS"])[0])
    assert [one.key for one in task.sets] == ["TinySTS-en-test", "TinySTS-de-en-test"]
    says = mteb_says(task, HashingEncoder())
    encoded = evaluate_sts.encode(HashingEncoder(), task.sets, quiet=True)
    for one in task.sets:
        ours = evaluate_sts.judge(one, {"hashing": encoded}, seed=0)["hashing"]
        assert says[one.key] == pytest.approx((ours.spearman.whole, ours.pearson.whole), abs=1e-6)

    found = document(
        evaluate(tmp_path, "--model", "hashing", "--data", sts, "--set", "sts17-en-en", "--mteb", "TinySTS", "--json")
    )
    assert found["data"] == f"{sts} and mteb"
    assert [(table["key"], table["section"]) for table in found["tables"]] == [
        ("sts17-en-en-test", "same language"),
        ("TinySTS-en-test", "same language"),
        ("TinySTS-de-en-test", "cross-lingual"),
    ]
    hubs = [row["hub"] for table in found["tables"] for row in table["rows"] if row["name"] == "hashing"]
    assert hubs == [None, pytest.approx(says["TinySTS-en-test"]), pytest.approx(says["TinySTS-de-en-test"])]
    monkeypatch.undo()
    refused(evaluate(tmp_path, "--model", "hashing", "--mteb", "STS22.v3"), "mteb has no such task")
    refused(evaluate(tmp_path, "--model", "hashing", "--mteb", "Banking77Classification"), "expected STS")
