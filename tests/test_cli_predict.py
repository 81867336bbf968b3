"""`predict-next` at the command line: what is printed, JSON lines, every bad input in one line, and nothing written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_inverters import Tabled, open_as, write_inverter
from tiny_models import SUM, write_model
from tiny_pipelines import write_reranker, write_towers

import cli
from cli import main
from index.build import Choices, ingest
from index.hashing import HashingEncoder
from retrieval import models
from retrieval.models import CONFIG, GRAPH_WEIGHTS, TOWER_WEIGHTS, models_folder
from retrieval.rerankers import RERANKER_WEIGHTS
from store.generations import Collection
from store.sources import open_source

ROOT = Path(cli.__file__).resolve().parent
WALK = [
    "The old road leaves the village beside the stone bridge.",
    "Beyond the stone bridge the old road climbs a hill.",
    "On the hill stands a mill with four long sails.",
]
TEA = ["Green tea is poured slowly into a cup of china."]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the collection `wiki`, without a model of its own."""
    folder = tmp_path_factory.mktemp("cli-predict")
    pages = {1: ("Long Walk", WALK), 2: ("Tea", TEA)}
    rows = ({"page_id": page, "title": title, "text": " ".join(texts)} for page, (title, texts) in pages.items())
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
    collection = Collection(folder / "home" / "collections" / "wiki")
    ingest(collection, [open_source(folder / "a.jsonl", "jsonl")], choices)
    collection.current()  # which notes what it checked
    return folder / "home"


@pytest.fixture
def home(made: Path, tmp_path: Path, shipped: Path) -> Path:
    """The same, to be changed, with the model `amn` shipped."""
    write_model(shipped / "amn")
    shutil.copytree(made, tmp_path / "home")
    run(tmp_path / "home", "info", "-c", "wiki")  # copied files are checked anew, and that is noted, once
    return tmp_path / "home"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


def run(home: Path, *arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    """In this process; an exception that escapes the command fails the test."""
    return CliRunner(catch_exceptions=False).invoke(main, ["--home", str(home), *map(str, arguments)], input=stdin)


def predict(home: Path, *arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    return run(home, "predict-next", *arguments, stdin=stdin)


def rows(result: Result) -> tuple[dict[str, object], list[dict[str, object]]]:
    """(the facts of the first line, the passages)."""
    assert result.exit_code == 0, result.stderr
    first, *passages = [json.loads(line) for line in result.stdout.splitlines()]
    assert list(first) == ["prediction"]
    return first["prediction"], passages


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of change."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


# -- what is said --------------------------------------------------------------------------------------------------


def test_inside_an_article_the_context_the_passages_and_the_true_chunk_are_shown(home: Path) -> None:
    result = predict(home, "--article", "long walk", "--position", "1", "-k", "2")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == 'after "Long Walk", chunk 0 of 3'
    assert lines[1] == f"   {WALK[0]}"
    assert re.fullmatch(r"1\. Long Walk  \(chunk 1, score 0\.\d{3}\)  ← the true next chunk", lines[2])
    assert lines[3] == f"   {WALK[1]}"
    assert re.fullmatch(r"2\. \w.*  \(chunk \d, score -?0\.\d{3}\)", lines[4])
    assert re.fullmatch(
        r"the true next chunk came at rank 1 of 3 \(copying the last chunk: rank 1\); "
        r"model amn \(came with the program\), cosine 0\.\d{3}",
        lines[-1],
    )
    assert result.stderr == ""


def test_without_a_position_the_place_is_the_articles_end(home: Path) -> None:
    result = predict(home, "--page-id", "1", "-k", "1")
    lines = result.stdout.splitlines()
    assert lines[0] == 'after "Long Walk", chunks 0 to 2 of 3 (its end)'
    assert lines[-1] == "model amn (came with the program)"
    assert predict(home, "--article", "Long Walk", "--position", "3", "-k", "1").stdout == result.stdout


def test_a_text_is_answered_whether_it_is_typed_piped_or_in_a_file(home: Path, tmp_path: Path) -> None:
    text = f"{WALK[0]}\n\n{WALK[1]}"
    (tmp_path / "text.txt").write_text(f"\ufeff{text}", encoding="utf-8")
    typed = predict(home, "--text", text, "-k", "1")
    assert typed.exit_code == 0
    assert typed.stdout.splitlines()[0] == "after the text's 2 chunks"
    assert typed.stdout.splitlines()[-1] == "model amn (came with the program)"
    assert predict(home, "--file", tmp_path / "text.txt", "-k", "1").stdout == typed.stdout
    assert predict(home, "-", "-k", "1", stdin=text).stdout == typed.stdout
    assert predict(home, "--file", "-", "-k", "1", stdin=text).stdout == typed.stdout


def test_of_a_long_text_the_last_five_chunks_are_read(home: Path) -> None:
    sentences = [f"Sentence number {number} has quite exactly ten words in it." for number in range(7)]
    result = predict(home, "--text", " ".join(sentences), "-k", "1")
    assert result.stdout.startswith("after the text's 7 chunks, read: the last 5\n")


def test_a_short_text_is_answered_with_a_note(home: Path) -> None:
    result = predict(home, "--text", "A stone bridge.", "-k", "1")
    assert result.exit_code == 0
    assert result.stderr == (
        "note: the text has 3 words, less than half a chunk (10); the model was trained on whole ones\n"
    )


def test_fewer_passages_than_asked_for_are_explained(home: Path) -> None:
    assert predict(home, "--article", "Tea").stderr == "3 different passages may answer: these are all\n"


def test_a_model_of_the_collection_is_used_and_named_so(home: Path) -> None:
    write_model(models_folder(Collection(home / "collections" / "wiki")) / "mine", SUM)
    assert "; model mine (trained on this collection), cosine" in predict(home, "--page-id", 1, "--position", 2).stdout
    assert "; model amn (came with the program)" in predict(home, "--page-id", 1, "--position", 2, "--model=amn").stdout


def test_json_is_the_facts_and_then_a_passage_a_line(home: Path) -> None:
    facts, passages = rows(predict(home, "--article", "Long Walk", "--position", "2", "--json"))
    assert list(facts) == ["context", "model", "way", "truth", "notes"]
    assert facts["context"] == {"title": "Long Walk", "page_id": 1, "position": 2, "chunks": 2, "texts": WALK[:2]}
    assert facts["notes"] == []
    truth = facts["truth"]
    assert isinstance(truth, dict)
    assert (truth["chunk_id"], truth["text"], truth["among"]) == (2, WALK[2], 2)
    assert truth["rank"] == truth["copy_last_rank"]
    assert [passage["rank"] for passage in passages] == [1, 2]
    assert {passage["chunk_id"] for passage in passages} == {2, 3}
    assert [passage["chunk_id"] for passage in passages if passage["true_next"]] == [2]
    assert passages[int(truth["rank"]) - 1]["score"] == truth["cosine"]
    assert {"title", "section", "text", "position", "page_id", "score", "dense"} <= passages[0].keys()


def test_json_after_a_text_has_no_truth(home: Path) -> None:
    facts, passages = rows(predict(home, "--text", "A bridge.", "--json", "--include-context"))
    assert facts["truth"] is None
    assert facts["context"] == {"title": None, "page_id": None, "position": None, "chunks": 1, "texts": ["A bridge."]}
    assert facts["model"] == {
        "name": "amn",
        "kind": "amn",
        "shipped": True,
        "folder": str(models.SHIPPED / "amn"),
    }
    assert len(facts["notes"]) == 1  # type: ignore[arg-type]
    assert [passage["true_next"] for passage in passages] == [False] * 4


def test_the_context_answers_when_it_is_let(home: Path) -> None:
    asked = ("--page-id", "1", "--position", "2", "--json")
    _, passages = rows(predict(home, *asked, "--include-context"))
    assert passages[0]["text"] == WALK[1]
    assert WALK[1] not in [passage["text"] for passage in rows(predict(home, *asked))[1]]
    text = ("--text", " ".join(WALK), "--json")
    assert [passage["text"] for passage in rows(predict(home, *text))[1]] == TEA
    assert len(rows(predict(home, *text, "--include-context"))[1]) == 4


# -- bad input -----------------------------------------------------------------------------------------------------

ONE_OF = "say after what: one of --article, --page-id, --text, --file or -"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], f"{ONE_OF}$"),
        (["--text", "x", "--article", "Tea"], f"{ONE_OF}, not 2 of them"),
        (["--text", "x", "-"], f"{ONE_OF}, not 2 of them"),
        (["--article", "Tea", "--page-id", "2", "--file", "x"], f"{ONE_OF}, not 3 of them"),
        (["--position", "3"], f"{ONE_OF}$"),
        (["Long Walk"], "'Long Walk' is no option; a text is given with --text, a title with --article"),
        (["--text", "x", "--position", "1"], "--position is a place in an article"),
        (["-", "--position", "1"], "--position is a place in an article"),
        (["--article", "Long Wlak"], 'no article is titled "Long Wlak"; the nearest are "Long Walk"'),
        (["--article", ""], 'no article is titled ""'),
        (["--article", "\udcff"], "no article is titled"),
        (["--page-id", "9"], "no article has the page id 9"),
        (["--page-id", "9" * 40], "no article has the page id 9{40}"),
        (["--article", "Long Walk", "--position", "4"], '"Long Walk" has 3 chunks, there is no position 4'),
        (["--article", "Long Walk", "--position", "-1"], "there is no position -1; positions are 1 to 3"),
        (["--article", "Long Walk", "--position", "9" * 40], "there is no position 9{40}"),
        (["--article", "Long Walk", "--position", "0"], "the first chunk of .* it has a context of zero chunks"),
        (["--text", ""], "the text is empty"),
        (["--text", " \n "], "the text is empty"),
        (["--text", "\udcff"], "the text is empty"),
        (["--text", "x" * 1_000_001], "the text has 1,000,001 characters"),
        (["--file", "/no/such/file"], r"cannot read /no/such/file: No such file"),
        (["--file", "/"], r"cannot read /: Is a directory"),
        (["--file", "/dev/zero"], r"/dev/zero has more than 4\.0 MB"),
        (["--file", ""], "cannot read .*: Is a directory"),
        (["--text", "x", "-k", "0"], "-k is between 1 and 10000, not 0"),
        (["--article", "Tea", "-k", "10001"], "-k is between 1 and 10000, not 10001"),
        (["--text", "x", "--model", "gru"], r'there is no model "gru" for wiki \(there are: amn\)'),
        (["--text", "x", "--model", "../amn"], "'../amn' is not a name for a model"),
        (["--text", "x", "-c", "nowhere"], 'there is no collection "nowhere"'),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(
    home: Path, arguments: list[str], said: str
) -> None:
    before = everything_in(home.parent)
    refused(predict(home, *arguments), said)
    assert everything_in(home.parent) == before


def refused(result: Result, said: str) -> None:
    assert result.exit_code == 2, result.stdout
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert re.search(said, result.stderr.rstrip("\n").removeprefix("error: ")), result.stderr


def test_input_that_is_no_text_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("Brücke".encode("latin-1"))
    refused(predict(home, "--file", tmp_path / "latin"), r"/latin is not UTF-8 text \(byte 2\)")
    refused(predict(home, "-", stdin=b"\xff"), r"the standard input is not UTF-8 text \(byte 0\)")
    refused(predict(home, "-", stdin=""), "the text is empty")


@pytest.mark.parametrize("asked", [["--text", "x"], ["--article", "Tea"]])
def test_without_a_model_or_with_one_for_another_encoder_it_says_so(
    home: Path, shipped: Path, asked: list[str]
) -> None:
    other = replace(HashingEncoder().fingerprint, model="MiniLM", revision="7")
    write_model(shipped / "amn", encoder=other)
    refused(predict(home, *asked, "--model", "amn"), r"model amn is for MiniLM 128d .* vectors are from hashing 128d ")
    refused(predict(home, *asked), r"wiki has no trained model for its encoder \(hashing .*there are: amn for MiniLM")
    shutil.rmtree(shipped)
    refused(predict(home, *asked), "wiki has no trained model .* run: lookahead train predictor amn --collection wiki")


def test_a_damaged_model_is_one_line(home: Path, shipped: Path) -> None:
    (shipped / "amn" / GRAPH_WEIGHTS).write_bytes(b"")
    refused(predict(home, "--text", "x"), r"predictor\.bin is damaged")
    (shipped / "amn" / CONFIG).write_text("{")
    refused(predict(home, "--text", "x", "--model", "amn"), r"config\.json is damaged")


# -- as a process --------------------------------------------------------------------------------------------------


def test_a_process_reads_its_standard_input_and_loads_no_torch(home: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom retrieval import models\n"
        "models.SHIPPED = Path(sys.argv.pop(1))\nimport cli\ntry:\n    cli.main()\nfinally:\n"
        "    print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, str(models.SHIPPED), "--home", str(home), "predict-next", "-", "-k", "1"]
    told = subprocess.run(
        command, input="\n".join(WALK), capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("after the text's 3 chunks\n")
    loaded = set(told.stderr.split())
    assert {"openvino", "numpy"} <= loaded
    assert not loaded & {"torch", "transformers", "matplotlib", "safetensors"}


# -- with a P tower and a reranker ---------------------------------------------------------------------------------


@pytest.fixture
def towered(home: Path, shipped: Path) -> Path:
    """The home with `towers` shipped as the best model, and a reranker of lists of six over it."""
    model = write_towers(shipped / "towers", trained={"valid": {"MRR": 0.4}})
    write_reranker(shipped / "rerankers" / "towers", model)
    return home


def test_the_first_question_makes_the_space_and_says_so_once(towered: Path) -> None:
    asked = ("--article", "Long Walk", "--position", "1", "-k", "2")
    first = predict(towered, *asked)
    assert first.exit_code == 0, first.stderr
    assert first.stderr == "building the space of model towers for wiki, 4 chunks: there is none yet\n"
    assert re.fullmatch(
        r"the true next chunk came at rank \d of 3 \(copying the last chunk: rank 1\); "
        r"model towers \(came with the program\) with P tower, its best 6 reranked, cosine 0\.\d{3}",
        first.stdout.splitlines()[-1],
    )
    again = predict(towered, *asked)
    assert (again.stdout, again.stderr) == (first.stdout, "")


def test_the_way_is_told_in_json_and_changed_by_options(towered: Path) -> None:
    asked = ("--article", "Long Walk", "--position", "1", "--json")
    facts, passages = rows(predict(towered, *asked))
    assert facts["way"] == {"tower": True, "reranked": True, "candidates": 6, "assist": 0, "variety": None}
    assert sum(float(str(one["score"])) for one in passages) == pytest.approx(1.0, abs=1e-3)
    facts, passages = rows(predict(towered, *asked, "--no-rerank"))
    assert facts["way"] == {"tower": True, "reranked": False, "candidates": 0, "assist": 0, "variety": None}
    assert [one["score"] for one in passages] == [one["dense"] for one in passages]
    facts, _ = rows(predict(towered, *asked, "--assist", "2", "--variety", ".7"))
    assert facts["way"] == {"tower": True, "reranked": True, "candidates": 6, "assist": 2, "variety": 0.7}
    line = predict(towered, *asked[:-1], "--assist", "2", "--variety", ".7").stdout.splitlines()[-1]
    assert "with P tower, its best 6 reranked, 2 of them from the article, variety 0.7, cosine" in line
    facts, _ = rows(predict(towered, *asked, "--model", "amn"))
    assert facts["way"] == {"tower": False, "reranked": False, "candidates": 0, "assist": 0, "variety": None}
    facts, _ = rows(predict(towered, "--text", WALK[0], "--json", "--rerank"))
    assert facts["way"]["reranked"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--text", "x", "--assist", "3"], "--assist takes chunks of the article at hand; say which with --article"),
        (["-", "--assist", "0"], "--assist takes chunks of the article at hand"),
        (["--article", "Tea", "--assist", "46"], "--assist is between 0 and 45, not 46"),
        (["--article", "Tea", "--variety", "2"], "--variety is between 0 .* and 1 .*, not 2"),
        (["--text", "x", "--model", "amn", "--rerank"], "no reranker over model amn; run: lookahead train reranker"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused_and_nothing_is_written(
    towered: Path, arguments: list[str], said: str
) -> None:
    before = everything_in(towered.parent)
    refused(predict(towered, *arguments), said)
    assert everything_in(towered.parent) == before


def test_a_damaged_part_is_told_in_one_line(towered: Path, shipped: Path) -> None:
    asked = ("--article", "Long Walk", "--position", "1", "-k", "1")
    sound = predict(towered, *asked).stdout
    space = models_folder(Collection(towered / "collections" / "wiki")) / "spaces" / "towers"
    (space / "vectors" / "00000.npy").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        mended = predict(towered, *asked)
    assert mended.stdout == sound
    assert re.search(
        r"WARNING: the space .*towers is damaged \(vectors/00000\.npy: .*\) and is made again", mended.stderr
    )
    (shipped / "rerankers" / "towers" / RERANKER_WEIGHTS).write_bytes(b"")
    refused(predict(towered, *asked), r"reranker\.bin is damaged")
    assert predict(towered, *asked, "--no-rerank").exit_code == 0
    (shipped / "towers" / TOWER_WEIGHTS).write_bytes(b"")
    refused(predict(towered, *asked, "--no-rerank"), r"tower\.bin is damaged")


def test_the_pipeline_is_timed_stage_by_stage(towered: Path, tmp_path: Path) -> None:
    """Twelve long articles, of which some are in the test split."""
    text = " ".join(f"Sentence number {number} has quite exactly ten words in it." for number in range(8))
    pages = ({"page_id": page, "title": f"Article {page}", "text": text} for page in range(100, 140))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pages), encoding="utf-8")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
    ingest(Collection(towered / "collections" / "wiki"), [open_source(tmp_path / "b.jsonl", "jsonl")], choices)
    told = run(towered, "bench", "pipeline", "--windows", "20", "--json", "-c", "wiki")
    assert told.exit_code == 0, told.stderr
    figures = {row["what"]: row["value"] for row in map(json.loads, told.stdout.splitlines())}
    assert figures["chunks searched"] == 324
    assert figures["candidates of a list"] == 6
    stages = ["predicting (Q tower)", "the indexes, side by side", "vectors and first score", "list and reranker"]
    assert all(figures[f"{stage}, p50"] > 0 for stage in stages)
    assert sum(figures[f"{stage}, p50"] for stage in stages) < 3 * figures["all of it, p95"]
    plain = run(towered, "bench", "pipeline", "--windows", "20", "-c", "wiki", "--model", "amn")
    assert "| predicting (Q tower), p50 | " in plain.stdout
    assert "reranker" not in plain.stdout


# -- in words ------------------------------------------------------------------------------------------------------


@pytest.fixture
def inverter(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Tabled:
    """What any inverter is opened as; one came with the program."""
    write_inverter(shipped / "inverters" / "tabled")
    tabled = Tabled(["a hill with a mill", "a stone bridge", "an old road"], {"an old road": WALK})
    open_as(monkeypatch, tabled)
    return tabled


def test_the_words_of_a_prediction_stand_beside_those_of_the_truth_and_of_the_last_chunk(
    home: Path, inverter: Tabled
) -> None:
    asked = ("--article", "Long Walk", "--position", "2", "-k", "1")
    plain = predict(home, *asked)
    result = predict(home, *asked, "--decode")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(plain.stdout + "\nIn words, by inverter tabled, at most 32 tokens each: a gist at ")
    assert "their names and numbers are invented" in " ".join(result.stdout.split())
    lines = result.stdout.removeprefix(plain.stdout).splitlines()
    first = lines.index("the predicted vector")
    near = float((HashingEncoder().encode([WALK[1]]) @ HashingEncoder().encode([WALK[2]]).T)[0, 0])
    took = "its vector has cosine 1.000 to the one asked for; found after 1 step"
    assert lines[first:] == [
        "the predicted vector",  # of a model that copies the last chunk
        f"   in words: {WALK[1]}",
        f"   {took}; cosine to the true next chunk {near:.3f}",
        "the true next chunk's vector",
        f"   in words: {WALK[2]}",
        f"   {took}",
        "the last chunk's vector (copying it)",
        f"   in words: {WALK[1]}",
        f"   {took}; cosine to the true next chunk {near:.3f}",
    ]
    assert result.stderr.startswith("the first texts took ")


def test_after_a_text_there_is_no_truth_to_hold_words_against(home: Path, inverter: Tabled) -> None:
    result = predict(home, "--text", " ".join(WALK[:2]), "-k", "1", "--decode", "--steps", "0")
    assert "true next chunk" not in result.stdout
    assert result.stdout.count("found as first proposed") == 2
    assert (inverter.asked, result.stderr) == ([], "")


def test_the_time_limit_is_the_inverters(home: Path, inverter: Tabled) -> None:
    result = predict(home, "--article", "Tea", "-k", "3", "--decode", "--steps", "9", "--time-limit", "1e-9")
    assert result.stderr.endswith("the time limit of 1e-09 s came after 0 of 9 steps for 2 of 2 vectors\n")


def test_in_json_the_words_are_a_field_of_the_prediction(home: Path, inverter: Tabled) -> None:
    asked = ("--article", "Long Walk", "--position", "2", "--json")
    plain, passages = rows(predict(home, *asked))
    facts, same = rows(predict(home, *asked, "--decode", "--inverter", "tabled", "--steps", "2"))
    assert same == passages
    words = facts.pop("decode")
    assert facts == plain
    assert isinstance(words, dict)
    texts = words.pop("texts")
    assert words == {"inverter": "tabled", "space": str(HashingEncoder().fingerprint), "longest": 32, "notes": []}
    assert [(one["of"], one["text"]) for one in texts] == [
        ("prediction", WALK[1]),
        ("truth", WALK[2]),
        ("copy-last", WALK[1]),
    ]
    assert list(texts[0]) == ["of", "text", "cosine", "step", "to_truth"]
    assert texts[1]["to_truth"] == pytest.approx(1.0, abs=1e-3)
    facts, _ = rows(predict(home, "--article", "Long Walk", "--json", "--decode"))
    assert [(one["of"], one["to_truth"]) for one in facts["decode"]["texts"]] == [  # type: ignore[index]
        ("prediction", None),
        ("copy-last", None),
    ]


def test_a_model_that_is_nearer_to_the_truth_is_named_for_words(home: Path, shipped: Path, inverter: Tabled) -> None:
    write_model(shipped / "amn", trained={"valid": {"MRR": 0.9, "cosine": 0.5}})
    write_model(shipped / "near", trained={"valid": {"MRR": 0.1, "cosine": 0.6}})
    asked = ("--article", "Long Walk", "--position", "2", "-k", "1", "--decode", "--steps", "0")
    assert predict(home, *asked).stderr == (
        "note: model amn orders chunks well, but on its validation articles its vectors have a cosine of 0.50 "
        "to the true ones, those of near 0.60: for words take --model near\n"
    )
    assert predict(home, *asked, "--model", "near").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "1"], "--inverter, --steps and --time-limit say how to decode; add --decode"),
        (["--inverter", "tabled"], "add --decode"),
        (["--time-limit", "3"], "add --decode"),
        (["--decode", "--steps", "1000"], "--steps is between 0 and 50, not 1000"),
        (["--decode", "--time-limit", "-1"], "--time-limit is a number of seconds above 0, not -1"),
        (["--decode", "--inverter", "other"], 'no inverter "other" .*there are: tabled'),
        (["--decode", "--inverter", "gtr-base"], "inverter gtr-base is for vectors of gtr_base"),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_cannot_be_put_into_words_is_refused_before_anything_is_said(
    home: Path, inverter: Tabled, arguments: list[str], said: str, form: list[str]
) -> None:
    before = everything_in(home.parent)
    refused(predict(home, "--article", "Long Walk", "--position", "2", *arguments, *form), said)
    assert everything_in(home.parent) == before


def test_without_an_inverter_a_prediction_is_as_it_was(home: Path) -> None:
    assert predict(home, "--article", "Tea").exit_code == 0
    refused(predict(home, "--article", "Tea", "--decode"), "wiki has no inverter .*; run: lookahead train inverter")
