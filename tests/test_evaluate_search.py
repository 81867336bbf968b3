"""Asking a set of questions: the ranks of a tiny collection, counted by hand, and a trial that leaves no trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from index.build import Choices, ingest
from retrieval import evaluate_search as asking
from retrieval.metrics import first_relevant_rank
from retrieval.questions import Question, QuestionSet, Unit, read_questions
from retrieval.search import Mode, Searcher
from store.database import Store
from store.generations import Collection
from store.records import LookaheadError
from store.sources import open_source

TEXTS = {
    1: ("Tea", "Green tea is poured slowly into a cup of thin china."),
    2: ("Coffee", "Black coffee is poured quickly into a mug of thick clay."),
    3: ("Bridge", "A stone bridge carries the old road over our small river."),
}
SQUAD: dict[str, Any] = {
    "data": [
        {
            "title": "Bridge",
            "paragraphs": [
                {
                    "context": "Zebras never crossed it, though many people did so on market days.",
                    "qas": [{"id": "q1", "question": "Which zebras crossed on market days?", "is_impossible": False}],
                },
                {
                    "context": "Lanterns hung from every post and were lit by hand each evening.",
                    "qas": [
                        {"id": "q2", "question": "When were the lanterns lit by hand?", "is_impossible": False},
                        {"id": "q3", "question": "Who blew them out?", "is_impossible": True},
                    ],
                },
            ],
        },
        {
            "title": "Somewhere_Else",
            "paragraphs": [
                {
                    "context": "Otters sleep on their backs and hold hands so as not to part.",
                    "qas": [{"id": "q4", "question": "How do otters sleep?", "is_impossible": False}],
                }
            ],
        },
    ]
}


@pytest.fixture(autouse=True)
def _not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the collection, where every report would be drawn: test_evaluations looks at that."""
    monkeypatch.setattr("retrieval.evaluations.keep", lambda *_: "")


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    lines = tmp_path / "a.jsonl"
    rows = ({"page_id": page, "title": title, "text": text} for page, (title, text) in TEXTS.items())
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    collection = Collection(tmp_path / "home" / "collections" / "c")
    ingest(collection, [open_source(lines, "jsonl")], Choices(encoder="hashing", words=10, workers=1, quiet=True))
    return collection


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "questions.tsv"
    path.write_text(
        "green tea poured slowly\t1\nblack coffee poured quickly\t1\nxylophone\t3\nold stone bridge\t3,99\nlost\t98\n"
    )
    return path


@pytest.fixture
def squad(tmp_path: Path) -> Path:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(SQUAD))
    return path


def evaluate(home: Path, *arguments: str | Path) -> Result:
    command = ["--home", str(home), "evaluate", "search", *map(str, arguments)]
    return CliRunner(catch_exceptions=False).invoke(main, command)


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".checked.json"
    }


def _questions(*asked: tuple[str, str]) -> QuestionSet:
    questions = tuple(Question(str(place), text, frozenset({page})) for place, (text, page) in enumerate(asked))
    return QuestionSet("made up", Unit.ARTICLE, questions, (), {})


# -- ask -------------------------------------------------------------------------------------------------------


def test_the_rank_of_the_right_article_in_every_mode(collection: Collection) -> None:
    asked = _questions(
        ("green tea poured slowly", "1"),  # holds all its words
        ("black coffee poured quickly", "1"),  # only "poured": the second of two
        ("coffee mug clay", "3"),  # holds no word of it
        ("old stone bridge", "3"),
    )
    with Searcher.open(collection) as searcher:
        ranks, runs = asking.ask(searcher, asked, asking.page_unit, quiet=True)
    assert ranks["lexical"] == [1, 2, None, 1]
    assert ranks["dense"][0] == ranks["dense"][3] == ranks["hybrid"][0] == ranks["hybrid"][3] == 1
    assert ranks["dense"][2] in (2, 3), "every article is somewhere in a dense list"
    assert set(runs) == {"dense", "lexical", "hybrid"}
    assert [unit for unit, _ in runs["lexical"]["1"]] == ["2", "1"]
    for mode in ("dense", "hybrid"):
        assert sorted(unit for unit, _ in runs[mode]["2"]) == ["1", "2", "3"]
    for mode, run in runs.items():
        for place, question in enumerate(asked.questions):
            found = [unit for unit, _ in run[question.key]]
            scores = [score for _, score in run[question.key]]
            assert scores == sorted(scores, reverse=True)
            assert ranks[mode][place] == first_relevant_rank(found, question.relevant)


def test_an_article_counts_once_at_its_best_chunk(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    several = " ".join(f"The old stone bridge number {n} stands over our small river." for n in ("one", "two", "three"))
    rows = [{"page_id": 1, "title": "A", "text": several}, {"page_id": 2, "title": "B", "text": TEXTS[1][1]}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    collection = Collection(tmp_path / "c")
    ingest(collection, [open_source(lines, "jsonl")], Choices(encoder="hashing", words=10, workers=1, quiet=True))
    with Searcher.open(collection) as searcher:
        assert searcher.live == 4
        ranks, runs = asking.ask(searcher, _questions(("stone bridge", "2")), asking.page_unit, quiet=True)
        best = searcher.search("stone bridge", 1, mode=Mode.DENSE)[0].score
    assert ranks["dense"] == [2], "after one article, not after its three chunks"
    assert [unit for unit, _ in runs["dense"]["0"]] == ["1", "2"]
    assert runs["dense"]["0"][0][1] == best


# -- with paragraphs -------------------------------------------------------------------------------------------


def test_the_trial_holds_both_without_twins_and_leaves_the_collection_as_it_was(
    collection: Collection, squad: Path
) -> None:
    before = bytes_below(collection.path)
    asked = read_questions(squad)
    with asking.with_paragraphs(collection, asked, quiet=True) as trial:
        folder = trial.path
        assert folder.parent == collection.path.parent
        assert folder.name.startswith(".")
        with Searcher.open(trial) as searcher:
            assert searcher.live == 5, "the collection's own Bridge would be a second right answer"
            unit_of = asking.paragraph_unit(asked)
            ranks, _ = asking.ask(searcher, asked, unit_of, quiet=True)
            assert [unit_of(row.page_id) for row in searcher.store.articles()] == [
                "1", "2", "Bridge/0", "Bridge/1", "Somewhere_Else/0"
            ]  # fmt: skip
        assert ranks == {mode.value: [1, 1, 1] for mode in Mode}
        assert bytes_below(collection.path) == before
    assert not folder.exists()
    assert bytes_below(collection.path) == before
    assert collection.verify() == []


@pytest.mark.parametrize("error", [RuntimeError("in the middle"), KeyboardInterrupt()])
def test_the_trial_goes_when_an_error_is_raised(collection: Collection, squad: Path, error: BaseException) -> None:
    before = bytes_below(collection.path)
    with pytest.raises(type(error)), asking.with_paragraphs(collection, read_questions(squad), quiet=True):
        raise error
    assert [path.name for path in collection.path.parent.iterdir()] == ["c"]
    assert bytes_below(collection.path) == before


def test_the_trial_goes_when_it_cannot_be_made(
    collection: Collection, squad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(asking, "ingest", full)
    with pytest.raises(OSError, match="No space"), asking.with_paragraphs(collection, read_questions(squad)):
        raise AssertionError("never reached")
    assert [path.name for path in collection.path.parent.iterdir()] == ["c"]


def test_a_set_without_paragraphs_makes_no_trial(collection: Collection, pairs: Path) -> None:
    asked = read_questions(pairs)
    message = "questions.tsv brings no paragraphs of its own; leave out --add-paragraphs"
    with pytest.raises(LookaheadError, match=message), asking.with_paragraphs(collection, asked):
        raise AssertionError("never reached")


def test_paragraph_ids_are_stable_large_and_different() -> None:
    ids = [asking._paragraph_id(f"Title/{number}") for number in range(2000)]
    assert len(set(ids)) == 2000
    assert all(1 << 40 <= one < 1 << 41 for one in ids)
    assert ids[:2] == [asking._paragraph_id("Title/0"), asking._paragraph_id("Title/1")]


# -- by title ----------------------------------------------------------------------------------------------------


def test_by_title_asks_for_the_article_and_counts_what_is_not_there(collection: Collection, squad: Path) -> None:
    with Store.open(collection.current().path / "chunks.duckdb") as store:
        asked = asking.by_title(read_questions(squad), store)
    assert asked.unit is Unit.ARTICLE
    assert [(one.key, one.relevant) for one in asked.questions] == [("q1", {"3"}), ("q2", {"3"})]
    assert asked.left_out == {"unanswerable": 1, "article not in the collection": 1}


def test_by_title_with_no_article_in_common_says_what_to_type(collection: Collection, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"data": SQUAD["data"][1:]}))
    with (
        Store.open(collection.current().path / "chunks.duckdb") as store,
        pytest.raises(LookaheadError, match=r"no article of other\.json is in the collection; .* --add-paragraphs"),
    ):
        asking.by_title(read_questions(path), store)


# -- the command -------------------------------------------------------------------------------------------------


def test_the_command_counts_what_it_asked_and_what_it_left_out(collection: Collection, pairs: Path) -> None:
    home = collection.path.parent.parent
    result = evaluate(home, "--questions", pairs, "-c", "c", "--quiet", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert "not in the collection" in json.dumps(report)
    limited = json.loads(evaluate(home, "--questions", pairs, "-c", "c", "--json", "--limit", "2").stdout)
    assert '"beyond --limit": 2' in json.dumps(limited)
    again = json.loads(evaluate(home, "--questions", pairs, "-c", "c", "--json", "--limit", "2").stdout)
    assert {**again, "command": ""} == {**limited, "command": ""}


def test_out_holds_a_report_three_runs_and_a_plot(collection: Collection, squad: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    home = collection.path.parent.parent
    result = evaluate(home, "--questions", squad, "--add-paragraphs", "--quiet", "--out", out)
    assert result.exit_code == 0, result.output
    names = {"report.json", "report.md", "dense.run", "lexical.run", "hybrid.run", "recall.png"}
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out / "report.json").read_text())
    assert (out / "recall.png").read_bytes().startswith(b"\x89PNG")
    for mode in Mode:
        lines = [line.split(" ") for line in (out / f"{mode}.run").read_text().splitlines()]
        assert {line[0] for line in lines} == {"q1", "q2", "q4"}
        assert all(len(line) == 6 and line[1] == "Q0" and line[5] == f"lookahead-{mode}" for line in lines)
        assert [line[2] for line in lines if line[3] == "1"] == ["Bridge/0", "Bridge/1", "Somewhere_Else/0"]
    assert [path.name for path in collection.path.parent.iterdir()] == ["c"]


def test_a_squad_set_without_its_paragraphs_is_asked_of_articles(collection: Collection, squad: Path) -> None:
    result = evaluate(collection.path.parent.parent, "--questions", squad, "--json")
    assert result.exit_code == 0
    assert "article not in the collection" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--questions", "{pairs}", "-c", "nowhere"], 'there is no collection "nowhere" in .*; there are: c'),
        (["--questions", "{pairs}", "--add-paragraphs"], "brings no paragraphs of its own"),
        (["--questions", "/no/such/file"], "cannot read /no/such/file"),
        (["--questions", "{foreign}"], "none of the pages that .*foreign.tsv asks for is in c"),
        (["--questions", "{pairs}", "--out", "{pairs}"], "(?s).*"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(
    collection: Collection, pairs: Path, arguments: list[str], said: str
) -> None:
    foreign = pairs.with_name("foreign.tsv")
    foreign.write_text("who\t77\n")
    filled = [argument.format(pairs=pairs, foreign=foreign) for argument in arguments]
    result = evaluate(collection.path.parent.parent, *filled)
    assert (result.exit_code, result.stdout) == (2, "")
    last = result.stderr.rstrip("\n").split("\n")[-1]
    assert last.lower().startswith("error: ")
    import re

    assert re.search(said, last)
    shutil.rmtree(collection.path)
