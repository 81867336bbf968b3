"""The command line: help, exit codes, one-line errors, JSON lines, and what goes to which stream."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import cli
from cli import COMMANDS, main
from index.build import Choices, ingest
from retrieval import models
from retrieval.search import Searcher
from store.generations import Collection
from store.sources import open_source

ROOT = Path(cli.__file__).resolve().parent
TEXTS = {
    1: ("Tea", "Green tea is poured slowly into a cup of thin china."),
    2: ("Coffee", "Black coffee is poured quickly into a mug of thick clay."),
    3: ("Stone bridge", "A stone bridge carries the old road over our small river."),
}


def write(path: Path, texts: dict[int, tuple[str, str]]) -> Path:
    rows = ({"page_id": page, "title": title, "text": text} for page, (title, text) in texts.items())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the collection `wiki`: generation 1 without page 3, generation 2 with all."""
    folder = tmp_path_factory.mktemp("cli")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
    collection = Collection(folder / "home" / "collections" / "wiki")
    for last in (2, 3):
        source = write(folder / "a.jsonl", {page: TEXTS[page] for page in range(1, last + 1)})
        ingest(collection, [open_source(source, "jsonl")], choices)
    return folder / "home"


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


def run(home: Path, *arguments: str | Path) -> Result:
    """In this process; an exception that escapes the command fails the test."""
    return CliRunner(catch_exceptions=False).invoke(main, ["--home", str(home), *map(str, arguments)])


def process(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cli.py"), "--home", str(home), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def one_line(text: str) -> str:
    assert text.startswith("error: "), text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)


# -- help --------------------------------------------------------------------------------------------------------


def _commands() -> list[list[str]]:
    under = [
        *(["bench", name] for name in ("ingest", "search", "wikitext")),
        *(["evaluate", name] for name in ("search", "next", "data")),
        ["train", "predictor"],
    ]
    return [[name] for name in COMMANDS if name not in ("bench", "evaluate", "train")] + under


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(tmp_path: Path, command: list[str]) -> None:
    result = run(tmp_path, *command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"lookahead {' '.join(command)}" in result.stdout
    assert run(tmp_path, *command, "-h").stdout == result.stdout


def test_the_help_names_every_command(tmp_path: Path) -> None:
    result = run(tmp_path, "--help")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)


def test_an_unknown_command_names_those_there_are(tmp_path: Path) -> None:
    result = run(tmp_path, "serach", "tea")
    assert result.exit_code == 2
    assert "No such command 'serach'. Commands: ingest, search, " in result.stderr


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "tea", "-c", "nowhere"], 'there is no collection "nowhere" in .*; there are: wiki'),
        (["search", "tea", "-c", "../x"], "'../x' is not a name for a collection"),
        (["search", "tea", "-c", "x" * 300], "is not a name for a collection"),
        (["search", "tea", "-k", "0"], "-k is between 1 and 10000, not 0"),
        (["search", "tea", "-k", "-3"], "-k is between 1 and 10000, not -3"),
        (["search", "tea", "-k", "10001"], "-k is between 1 and 10000, not 10001"),
        (["search", ""], "the query is empty"),
        (["search", "x" * 100_000], "the query has 100,000 characters"),
        (
            ["search", "tea", "--title", "Stone brigde"],
            'no article is titled "Stone brigde"; the nearest are "Stone bridge"',
        ),
        (["search", "tea", "--title", "\udcff"], "no article is titled"),
        (["search", "tea", "--page-id", "9"], "no article has the page id 9"),
        (["search", "tea", "--page-id", "9" * 40], "no article has the page id 9{40}"),
        (["ingest", "/no/such/file", "-c", "wiki"], "/no/such/file does not exist"),
        (["ingest", "/no/such/file", "-c", "a/b"], "'a/b' is not a name for a collection"),
        (["ingest", "{source}", "--format", "pdf", "-c", "wiki"], "there is no format 'pdf'"),
        (["ingest", "{source}", "-c", "wiki", "--encoder", "bundled"], "made with --encoder hashing, not bundled"),
        (
            ["ingest", "{source}", "-c", "new", "--encoder", "hashing", "--chunk-words", "5"],
            "a chunk has 10 to 400 words",
        ),
        (["ingest", "{empty}", "-c", "new", "--encoder", "hashing"], "holds no text"),
        (["info", "-c", "nowhere"], "there is no collection"),
        (["verify", "nowhere"], "there is no collection"),
        (["compact", "-c", "nowhere"], "there is no collection"),
        (["gc", "-c", "nowhere"], "there is no collection"),
        (["rollback", "-c", "nowhere"], "there is no collection"),
        (["export", "--out", "/no/such/folder/x"], "the folder /no/such/folder does not exist"),
        (["export", "--out", "/proc/x.jsonl"], "(No such file|Permission|not permitted)"),
    ],
)
def test_an_error_is_one_line_that_says_what_is_wrong(
    made: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    import re

    source = write(tmp_path / "a.jsonl", TEXTS)
    (tmp_path / "empty.jsonl").touch()
    filled = [argument.format(source=source, empty=tmp_path / "empty.jsonl") for argument in arguments]
    result = run(made, *filled)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.search(said, one_line(result.stderr))


@pytest.mark.parametrize(
    "arguments", [["search", "tea", "-k", "many"], ["search", "tea", "--mode", "psychic"], ["search"]]
)
def test_a_wrong_option_is_explained_without_a_trace(made: Path, arguments: list[str]) -> None:
    result = run(made, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_an_empty_home_says_what_to_type(tmp_path: Path) -> None:
    result = run(tmp_path, "search", "tea")
    assert "nothing is ingested yet; run: lookahead ingest SOURCE" in one_line(result.stderr)
    listed = run(tmp_path, "info")
    assert (listed.exit_code, listed.stdout) == (0, "")
    assert "nothing is ingested yet" in listed.stderr
    assert list(tmp_path.iterdir()) == []


def test_several_collections_and_none_named_is_an_error_that_names_them(home: Path) -> None:
    shutil.copytree(home / "collections" / "wiki", home / "collections" / "other")
    result = run(home, "search", "tea")
    assert one_line(result.stderr) == "error: say which --collection; there are: other, wiki\n"
    shutil.copytree(home / "collections" / "wiki", home / "collections" / "default")
    assert run(home, "search", "tea").exit_code == 0, "one of that name needs no naming"


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, not a folder")
    result = process(tmp_path / "home", "ingest", write(tmp_path / "a.jsonl", TEXTS), "-c", "x", "--encoder", "hashing")
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


# -- search ----------------------------------------------------------------------------------------------------------


def test_a_search_prints_titles_and_texts(made: Path) -> None:
    result = run(made, "search", "green tea poured slowly", "-k", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = result.stdout.splitlines()
    assert first.startswith("1. Tea  (chunk 0, score ")
    assert second == f"   {TEXTS[1][1]}"


def test_explain_shows_both_scores_and_ranks(made: Path) -> None:
    shown = run(made, "search", "green tea poured slowly", "-k", "3", "--explain").stdout
    assert "meaning: cosine 0." in shown
    assert "rank 1 · words: BM25" in shown
    assert "100% of the words within a sentence's length" in shown
    assert "words: BM25 0.000, below its list" in shown, "the bridge holds none of the words"


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_json_is_a_line_a_passage(made: Path, mode: str) -> None:
    result = run(made, "search", "poured", "-k", "2", "--mode", mode, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["rank"] for row in rows] == [1, 2]
    assert {row["title"] for row in rows} == {"Tea", "Coffee"}
    for row in rows:
        assert row["text"] == TEXTS[row["page_id"]][1]
        assert (row["dense"] is None, row["lexical"] is None) == (mode == "lexical", mode == "dense")
    assert result.stderr == ""


def test_fewer_than_asked_for_is_explained_on_stderr(made: Path) -> None:
    every = run(made, "search", "tea", "-k", "9")
    assert every.stderr == "the collection has 3 different passages: these are all\n"
    worded = run(made, "search", "xylophone", "--mode", "lexical")
    assert (worded.exit_code, worded.stdout) == (0, "")
    assert worded.stderr.startswith("no passages hold any of the words; ")
    section = run(made, "search", "tea", "--section", "Nowhere")
    assert (section.exit_code, section.stdout, section.stderr) == (0, "", "no passages pass the filter\n")
    assert run(made, "search", "tea", "-k", "9", "--json").stderr == ""


def test_filters_reach_the_search(made: Path) -> None:
    for arguments in (["--title", "stone BRIDGE"], ["--page-id", "3"]):
        rows = run(made, "search", "green tea", "--json", *arguments).stdout.splitlines()
        assert [json.loads(row)["page_id"] for row in rows] == [3]


def test_words_are_coloured_in_a_terminal_only(made: Path) -> None:
    arguments = ["--home", str(made), "search", "green tea", "-k", "1"]
    assert "\x1b[33m\x1b[1mGreen\x1b[0m" in CliRunner().invoke(main, arguments, color=True).stdout
    assert "\x1b" not in CliRunner().invoke(main, arguments).stdout


# -- ingest ----------------------------------------------------------------------------------------------------------


def test_an_ingest_says_what_it_did_and_the_next_that_nothing_is_new(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", TEXTS)
    arguments = ["ingest", source, "-c", "wiki", "--workers", "1"]
    first = run(tmp_path / "home", *arguments, "--encoder", "hashing", "--quiet")
    assert first.exit_code == 0
    assert first.stdout.startswith("wiki gen-000001: 3 articles (3 added), 3 chunks; flat index, recall@10 1.000\n")
    assert first.stderr == ""
    second = run(tmp_path / "home", *arguments)
    folder = tmp_path / "home" / "collections" / "wiki"
    assert second.stdout == f"nothing new: 3 articles are in {folder} as they are\n"
    report = json.loads(run(tmp_path / "home", *arguments, "--json", "--quiet").stdout)
    assert (report["generation"], report["added"], report["unchanged"]) == (None, 0, 3)


def test_what_failed_is_counted_and_its_file_named(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", TEXTS)
    with source.open("a") as file:
        file.write("{}\n")
    result = run(tmp_path / "home", "ingest", source, "-c", "wiki", "--encoder", "hashing", "--quiet")
    assert result.exit_code == 0
    quarantine = tmp_path / "home" / "collections" / "wiki" / "quarantine.jsonl"
    assert f"1 could not be read; each with its reason in {quarantine}" in result.stdout
    assert "skipped: 1 bad title" in result.stdout


def test_progress_goes_to_stderr_and_the_report_to_stdout(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", TEXTS)
    arguments = ("ingest", source, "-c", "wiki", "--encoder", "hashing", "--workers", "1")
    result = process(tmp_path / "home", *arguments, "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["added"] == 3
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps({"page_id": 9, "title": "Nine", "text": "too short"}) + "\n")
    stopped = tmp_path / "home" / "collections" / "stopped"
    choices = Choices(encoder="hashing", workers=1, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("index.local.Files.index_words", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            ingest(Collection(stopped), [open_source(source, "jsonl")], choices)
    again = run(tmp_path / "home", *arguments[:2], "-c", "stopped", "--encoder", "hashing", "--workers", "1")
    assert (again.exit_code, "resuming the unfinished build-000001.tmp" in again.stderr) == (0, True)
    assert again.stdout.startswith("stopped gen-000001: 3 articles")
    assert "resuming" not in again.stdout


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_says_that_nothing_is_lost(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.local.Files.index_words", _interrupted)
    changed = write(home / "a.jsonl", {**TEXTS, 4: ("Four", TEXTS[1][1])})
    result = run(home, "ingest", changed, "-c", "wiki", "--quiet")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.startswith("stopped; what was published is as it was")


# -- upkeep ----------------------------------------------------------------------------------------------------------


def test_info_lists_collections_and_shows_one_in_full(made: Path) -> None:
    head, row = run(made, "info").stdout.splitlines()
    assert head.split() == ["collection", "generation", "articles", "chunks", "encoder", "index", "size"]
    assert row.split()[:6] == ["wiki", "gen-000002", "3", "3", "hashing", "flat"]
    full = run(made, "info", "-c", "wiki").stdout
    assert "chunks      3 live, 0 dead\n" in full
    assert "about 10 words, overlap 0, prefix none, en" in full
    raw = json.loads(run(made, "info", "-c", "wiki", "--json").stdout)
    assert (raw["collection"], raw["generation"], raw["counts"]["live"]) == ("wiki", "gen-000002", 3)
    assert json.loads(run(made, "info", "--json").stdout) == raw


def test_verify_is_content_with_what_is_whole(made: Path) -> None:
    for arguments in (["verify"], ["verify", "wiki"], ["verify", "-c", "wiki"]):
        result = run(made, *arguments)
        assert (result.exit_code, result.stdout) == (
            0,
            f"{made / 'collections' / 'wiki'}: every byte is as it was published\n",
        )
    assert run(made, "verify", "--json").stdout == ""


@pytest.mark.parametrize("file", ["chunks.duckdb", "dense.faiss", "vectors/00000.npy", "encoder/encoder.json"])
def test_verify_names_the_damaged_file_and_exits_with_one(home: Path, file: str) -> None:
    damage(home / "collections" / "wiki" / "gen-000002" / file)
    result = run(home, "verify")
    assert result.exit_code == 1
    assert f"gen-000002/{file}: its checksum changed\n" in result.stdout
    assert "lookahead compact" in result.stderr or "lookahead rollback" in result.stderr
    rows = [json.loads(line) for line in run(home, "verify", "--json").stdout.splitlines()]
    assert {"generation": "gen-000002", "file": file, "fault": "its checksum changed"} in rows


def test_the_older_generation_is_served_with_a_warning_that_cannot_be_missed(home: Path) -> None:
    damage(home / "collections" / "wiki" / "gen-000002" / "dense.faiss")
    result = process(home, "search", "stone bridge", "--json", "-k", "9")
    assert result.returncode == 0
    assert {json.loads(line)["page_id"] for line in result.stdout.splitlines()} == {1, 2}
    assert result.stderr.startswith("WARNING: wiki/gen-000002 is damaged (dense.faiss: its checksum changed)")
    assert "run: lookahead verify wiki" in result.stderr


def test_a_collection_damaged_in_every_generation_is_one_line(home: Path) -> None:
    for number in (1, 2):
        damage(home / "collections" / "wiki" / f"gen-00000{number}" / "dense.faiss")
    for arguments in (["search", "tea"], ["info", "-c", "wiki"], ["info"], ["export", "--out", home / "x.jsonl"]):
        result = run(home, *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "is damaged (dense.faiss: its checksum changed)" in one_line(result.stderr)


def test_the_advice_of_verify_for_a_damaged_index_works(home: Path) -> None:
    damage(home / "collections" / "wiki" / "gen-000002" / "dense.faiss")
    advice = run(home, "verify").stderr.strip()
    assert advice.endswith("lookahead compact --collection wiki")
    result = process(home, "compact", "--collection", "wiki", "--quiet")
    assert (result.returncode, result.stdout) == (0, "wiki gen-000003: 3 chunks, none dead\n")
    after = run(home, "search", "stone bridge", "-k", "1")
    assert (after.stdout.startswith("1. Stone bridge"), after.stderr) == (True, "")
    assert run(home, "verify").exit_code == 0, "what was mended is no longer reported"


def test_the_advice_of_verify_for_damaged_chunks_works(home: Path) -> None:
    damage(home / "collections" / "wiki" / "gen-000002" / "chunks.duckdb")
    assert run(home, "verify").stderr.strip().endswith("lookahead rollback --collection wiki")
    result = process(home, "rollback", "--collection", "wiki")
    assert (result.returncode, result.stdout) == (0, "wiki is at gen-000001: 2 chunks\n")
    assert run(home, "verify").exit_code == 0
    assert run(home, "search", "tea", "-k", "1").stderr == ""


def test_rollback_goes_back_once_and_says_when_there_is_nothing_before(home: Path) -> None:
    result = run(home, "rollback")
    assert (result.exit_code, result.stdout) == (0, "wiki is at gen-000001: 2 chunks\n")
    again = run(home, "rollback")
    assert again.exit_code == 2
    assert "before gen-000001" in one_line(again.stderr)
    source = write(home / "a.jsonl", TEXTS)
    assert run(home, "ingest", source, "-c", "wiki", "--quiet").exit_code == 0
    assert run(home, "search", "stone bridge", "-k", "1").stdout.startswith("1. Stone bridge")


def test_gc_removes_all_but_the_newest(home: Path) -> None:
    folder = home / "collections" / "wiki"
    assert run(home, "gc").stdout == "nothing to remove\n"
    (folder / "build-000003.tmp").mkdir()
    assert run(home, "gc", "--keep", "1").stdout.startswith("removed gen-000001, build-000003.tmp (")
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["gen-000002"]
    assert run(home, "gc", "--keep", "0").exit_code == 2
    assert run(home, "verify").exit_code == 0


def test_gc_removes_the_spaces_of_models_that_are_gone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "shipped")
    own = home / "collections" / "wiki" / "models"
    (tmp_path / "shipped" / "came-with-it").mkdir(parents=True)
    for name in ("here", ".making-in-training", ".before-half-replaced"):
        (own / name).mkdir(parents=True)
    kept = ["came-with-it", "half-replaced", "here", "in-training", ".trash"]
    gone = [".making-gone", "gone", ".before-old"]
    for name in kept + gone:
        (own / "spaces" / name / "vectors").mkdir(parents=True)
        (own / "spaces" / name / "vectors" / "00000.npy").write_bytes(bytes(1000))
    (own / "spaces" / ".gone.turn").touch()  # who waits there must find it
    (own / "rerankers" / "gone").mkdir(parents=True)
    result = run(home, "gc")
    assert (result.exit_code, result.stdout) == (
        0,
        "removed the space of model old, the space of model gone (up to 3.0 KB; shared files stay)\n",
    )
    assert sorted(path.name for path in (own / "spaces").iterdir()) == sorted([*kept, ".gone.turn"])
    assert sorted(path.name for path in own.iterdir()) == [
        *(".before-half-replaced", ".making-in-training", "here", "rerankers", "spaces")
    ]
    assert run(home, "gc").stdout == "nothing to remove\n"


def test_an_export_is_every_live_chunk_with_its_vector(home: Path, tmp_path: Path) -> None:
    changed = {1: TEXTS[1], 2: ("Coffee", "White coffee is poured quickly into a mug of thick clay."), 3: TEXTS[3]}
    assert run(home, "ingest", write(home / "a.jsonl", changed), "-c", "wiki", "--quiet").exit_code == 0
    out, vectors = tmp_path / "out.jsonl", tmp_path / "out.npy"
    result = run(home, "export", "--out", out, "--vectors", vectors, "--quiet")
    assert result.stdout == f"3 chunks of 3 articles in {out}\n"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    kept = np.load(vectors)
    assert {row["page_id"]: (row["title"], row["text"]) for row in rows} == changed
    assert (kept.shape, kept.dtype) == ((3, 128), np.float16)
    with Searcher.open(Collection(home / "collections" / "wiki")) as searcher:
        expected = searcher.vectors.gather([row["chunk_id"] for row in rows])
        assert np.array_equal(kept, expected.astype(np.float16))
        assert len(rows) == searcher.live
    assert list(tmp_path.glob("*.tmp")) == []
    for split in ("train", "valid", "test"):
        run(home, "export", "--out", out, "--vectors", vectors, "--split", split, "--quiet")
        lines = out.read_text().splitlines()
        assert all(json.loads(line)["split"] == split for line in lines)
        assert np.load(vectors).shape == (len(lines), 128)


# -- real processes ------------------------------------------------------------------------------------------


def test_a_reader_that_has_seen_enough_is_no_error(made: Path) -> None:
    command = [sys.executable, str(ROOT / "cli.py"), "--home", str(made), "search", "poured tea", "--json", "-k", "3"]
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_search_process_imports_neither_torch_nor_the_pipeline(made: Path) -> None:
    look = (
        "import sys; from cli import main\n"
        f"main(['--home', {str(made)!r}, 'search', 'tea', '-k', '1'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'index.build', 'matplotlib'}\n"
        "sys.exit(' '.join(heavy & sys.modules.keys()) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_home_can_come_from_the_environment(made: Path) -> None:
    environment = {**os.environ, "LOOKAHEAD_HOME": str(made)}
    command = [sys.executable, str(ROOT / "cli.py"), "info", "--json"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(result.stdout)["path"] == str(made / "collections" / "wiki")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_bundled_encoder_finds_by_meaning_from_end_to_end(tmp_path: Path) -> None:
    result = process(tmp_path, "ingest", write(tmp_path / "a.jsonl", TEXTS), "-c", "wiki", "--workers", "1")
    assert result.returncode == 0, result.stderr
    found = process(tmp_path, "search", "hot beverage made from roasted beans", "-k", "1", "--mode", "dense", "--json")
    assert json.loads(found.stdout)["title"] == "Coffee"
    assert process(tmp_path, "ingest", tmp_path / "a.jsonl", "-c", "wiki").stdout.startswith("nothing new")
    assert process(tmp_path, "verify").returncode == 0
    assert process(tmp_path, "compact").returncode == 0
