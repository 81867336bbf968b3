"""Other encoders in a collection's job: exact answers over the same chunks, and shares that can be counted by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from cli import main
from index.build import Choices, ingest
from index.dense import exact_search
from index.encoder import Fingerprint
from index.hashing import HashingEncoder
from index.students import Status, Student
from retrieval import evaluate_encoders as comparing
from retrieval import evaluate_search as asking
from retrieval.encoders_report import EncodersReport, rows_of
from retrieval.evaluate_encoders import Answers, Trial, answers_of, chunks_of, own_answers, some_articles
from retrieval.questions import Question, QuestionSet, Unit
from retrieval.search import Searcher, tidy_query
from store.generations import Collection
from store.records import LookaheadError
from store.sources import open_source

TEXTS = {
    1: (
        "Tea",
        "Green tea is poured slowly into a cup of thin china. Ceylon tea is stronger and darker than any other.",
    ),
    2: ("Coffee", "Black coffee is poured quickly into a mug of thick clay. Beans from Java are roasted twice a year."),
    3: ("Bridge", "A stone bridge carries the old road over our small river. Its toll was paid until the war began."),
    4: ("Otter", "An otter sleeps on its back in the sea. Two of them hold hands so as not to be parted by night."),
}
ASKED = [("green tea poured slowly", 1), ("roasted beans from Java", 2), ("old stone bridge", 3), ("otter sleeps", 4)]


class Wordless:
    """Knows tea and coffee, and takes all else for coffee."""

    name, dim = "wordless", 2
    fingerprint = Fingerprint("wordless", "1", 2, "mean", False, True, "", "", 9)
    calls = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        Wordless.calls += 1
        return np.array([[1, 0] if "tea" in text.lower() else [0, 1] for text in texts], dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode(texts)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    tmp_path = tmp_path_factory.mktemp("collection")
    lines = tmp_path / "a.jsonl"
    rows = ({"page_id": page, "title": title, "text": text} for page, (title, text) in TEXTS.items())
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    collection = Collection(tmp_path / "home" / "collections" / "c")
    ingest(collection, [open_source(lines, "jsonl")], Choices(encoder="hashing", words=10, workers=1, quiet=True))
    return collection


@pytest.fixture
def searcher(collection: Collection) -> Iterator[Searcher]:
    with Searcher.open(collection) as searcher:
        yield searcher


@pytest.fixture
def wordless(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(spec: str, folder: Path, **_: Any) -> Wordless:
        folder.mkdir()
        recipe = {"kind": "hashing", "fingerprint": Wordless.fingerprint.as_json()}
        (folder / "encoder.json").write_text(json.dumps(recipe))
        return Wordless()

    monkeypatch.setattr(comparing, "prepare", prepared)


def questions(asked: Sequence[tuple[str, int]] = ASKED) -> QuestionSet:
    made = tuple(Question(str(place), text, frozenset({str(page)})) for place, (text, page) in enumerate(asked))
    return QuestionSet("made up", Unit.ARTICLE, made, (), {})


def trial_of(searcher: Searcher, pages: Sequence[int] = tuple(TEXTS)) -> Trial:
    rows = [row for row in searcher.store.articles() if row.page_id in pages]
    return Trial(searcher, questions(), asking.page_unit, chunks_of(rows), quiet=True)


def evaluate(home: Path, *arguments: str | Path) -> Result:
    command = ["--home", str(home), "evaluate", "search", *map(str, arguments)]
    return CliRunner(catch_exceptions=False).invoke(main, command)


# -- answers -------------------------------------------------------------------------------------------------


def test_the_collections_own_vectors_answer_as_a_search_of_it_does(searcher: Searcher) -> None:
    trial = trial_of(searcher)
    own = own_answers(trial)
    ranks, runs = asking.ask(searcher, trial.asked, asking.page_unit, quiet=True)
    assert own.ranks == ranks
    assert own.runs.keys() == runs.keys()
    for mode, run in runs.items():
        for key, found in run.items():
            assert [unit for unit, _ in own.runs[mode][key]] == [unit for unit, _ in found]
            scores = [score for _, score in found]
            assert [score for _, score in own.runs[mode][key]] == pytest.approx(scores, abs=2e-3)
    assert (own.chunks, own.seconds, own.student) == (8, None, None)


def test_the_collections_own_encoder_embeds_the_same_chunks_to_the_same_answers(
    searcher: Searcher, tmp_path: Path
) -> None:
    again = answers_of(trial_of(searcher), "hashing", tmp_path)
    assert again.ranks == own_answers(trial_of(searcher)).ranks
    assert again.fingerprint == searcher.fingerprint
    assert again.seconds is not None


@pytest.mark.usefixtures("wordless")
def test_another_encoder_answers_with_its_own_vectors_and_the_same_words(searcher: Searcher, tmp_path: Path) -> None:
    found = answers_of(trial_of(searcher), "wordless", tmp_path)
    # one article is about tea, and of the others, equally near, the first comes first: coffee, bridge, otter
    assert found.ranks["dense"] == [1, 1, 2, 3]
    assert found.ranks["lexical"] == own_answers(trial_of(searcher)).ranks["lexical"]
    assert found.fingerprint == Wordless.fingerprint


def test_only_the_chunks_asked_for_are_searched(searcher: Searcher, tmp_path: Path) -> None:
    trial = trial_of(searcher, [1, 3])
    for found in (own_answers(trial), answers_of(trial, "hashing", tmp_path)):
        assert {unit for run in found.runs.values() for hits in run.values() for unit, _ in hits} == {"1", "3"}
        assert found.ranks["dense"][1] is None
        assert found.ranks["dense"][2] == found.ranks["hybrid"][2] == found.ranks["lexical"][2] == 1
        assert found.chunks == 4


def test_dead_chunks_are_not_embedded(collection: Collection, tmp_path: Path) -> None:
    thinned = Collection(tmp_path / "collections" / "c")
    shutil.copytree(collection.path, thinned.path)
    ingest(thinned, [], Choices(remove=(2,), quiet=True, workers=1))
    with Searcher.open(thinned) as searcher:
        assert searcher.generation.manifest.counts["chunks"] == 8
        trial = trial_of(searcher)
        assert list(trial.texts()) == [
            text for row in searcher.store.articles() for _, _, text in
            searcher.store.texts(row.first_chunk, row.first_chunk + row.chunk_count)
        ]  # fmt: skip
        found = answers_of(trial, "hashing", tmp_path)
    assert (found.chunks, found.ranks["dense"][1]) == (6, None)


def test_answers_known_beforehand_are_those_of_exact_search(searcher: Searcher) -> None:
    queries = HashingEncoder().encode([tidy_query(text) for text, _ in ASKED])
    ids = np.arange(8)
    foreseen = comparing.Foreseen(searcher.vectors, ids, queries, quiet=True)
    for query, exact in zip(queries, exact_search(searcher.vectors, queries, 5), strict=True):
        assert [hit.chunk_id for hit in foreseen.search(query, 5)] == [hit.chunk_id for hit in exact]
        cosines = foreseen.cosines(query, np.array([hit.chunk_id for hit in exact]))
        assert cosines == pytest.approx([hit.score for hit in exact], abs=1e-6)


# -- vectors that are kept -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [None, 0, 1, 2])
def test_vectors_that_were_kept_are_not_made_again(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int | None
) -> None:
    monkeypatch.setattr(comparing, "SHARD_ROWS", 3)
    trial = trial_of(searcher)
    first, seconds = comparing.embedded(trial, Wordless(), tmp_path / "keep")
    expected = first.gather(range(8))
    assert expected.argmin(axis=1).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    if lost is not None:
        next((tmp_path / "keep").iterdir()).joinpath(f"0000{lost}.npy").unlink()
    Wordless.calls = 0
    again, spent = comparing.embedded(trial, Wordless(), tmp_path / "keep")
    assert Wordless.calls == (0 if lost is None else 1)
    assert again.gather(range(8)).tolist() == expected.tolist()
    assert spent >= seconds > 0
    comparing.embedded(trial_of(searcher, [1, 2]), Wordless(), tmp_path / "keep")
    comparing.embedded(trial, HashingEncoder(), tmp_path / "keep")
    assert len(list((tmp_path / "keep").iterdir())) == 3, "other texts, and another space"


def test_a_damaged_note_of_what_was_spent_is_one_line(searcher: Searcher, tmp_path: Path) -> None:
    trial = trial_of(searcher)
    comparing.embedded(trial, Wordless(), tmp_path)
    note = next(tmp_path.iterdir()) / "spent.json"
    for raw in ("{", "[]", '{"seconds": null}'):
        note.write_text(raw)
        with pytest.raises(LookaheadError, match=r"spent\.json is damaged; remove .* and ask again"):
            comparing.embedded(trial, Wordless(), tmp_path)


# -- which articles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 1, 2, 9])
def test_articles_that_answer_are_always_among_those_embedded(searcher: Searcher, others: int) -> None:
    every = searcher.store.articles()
    asked = questions([("tea", 1), ("bridge", 3)])
    some = some_articles(every, asked, asking.page_unit, others, seed=0)
    pages = [row.page_id for row in some]
    assert pages == sorted(pages)
    assert {1, 3} <= set(pages)
    assert len(pages) == min(4, 2 + others)
    assert some == some_articles(every, asked, asking.page_unit, others, seed=0)


def test_which_others_are_drawn_is_a_matter_of_the_seed(searcher: Searcher) -> None:
    every = searcher.store.articles()
    drawn = {
        row.page_id
        for seed in range(20)
        for row in some_articles(every, questions([("tea", 1)]), asking.page_unit, 1, seed)
    }
    assert drawn == {1, 2, 3, 4}


def test_a_sets_own_paragraphs_all_stay(searcher: Searcher) -> None:
    def unit_of(page: int) -> str:
        return f"A/{page}" if page in (2, 4) else str(page)

    asked = QuestionSet("s", Unit.PARAGRAPH, (Question("q", "who", frozenset({"A/2"})),), (), {})
    assert [row.page_id for row in some_articles(searcher.store.articles(), asked, unit_of, 0, 0)] == [2, 4]


# -- the report ----------------------------------------------------------------------------------------------

SPACE = Wordless.fingerprint


def answers(name: str, dense: list[int | None], hybrid: list[int | None], student: Student | None = None) -> Answers:
    ranks: dict[str, list[int | None]] = {"dense": dense, "lexical": [1] * len(dense), "hybrid": hybrid}
    seconds = None if name == comparing.OWN else 4.0
    return Answers(name, SPACE, "int8", 2000, ranks, {mode: {} for mode in ranks}, seconds, student)


def report(*others: Answers, left_out: int = 0) -> EncodersReport:
    own = answers(comparing.OWN, [1, 1, 1, 2], [1, 1, 1, 1])
    return EncodersReport.of(
        questions(), own, others, units=9, left_out=left_out, collection="c", counts={}, command="cli.py", seed=0
    )


def test_what_is_kept_is_a_share_of_the_collections_own() -> None:
    found = report(answers("small", [1, None, 7, 2], [1, 1, 2, 11]))
    kept = {(one.mode, one.measure): one for one in found.judged[0].kept}
    assert kept["dense", "R@1"].share.mean == pytest.approx(1 / 3)
    assert kept["dense", "R@5"].share.mean == pytest.approx(2 / 4)
    assert kept["dense", "R@10"].share.mean == pytest.approx(3 / 4)
    assert kept["dense", "MRR@10"].share.mean == pytest.approx((1 + 1 / 7 + 1 / 2) / 3.5)
    assert kept["hybrid", "R@1"].share.mean == pytest.approx(0.5)
    assert kept["hybrid", "R@1"].difference.mean == pytest.approx(-0.5)
    for one in kept.values():
        assert one.share.low <= one.share.mean <= one.share.high
        assert one.difference.low <= one.difference.mean <= one.difference.high
    assert kept["hybrid", "R@1"].share.low < 0.5 < kept["hybrid", "R@1"].share.high


def test_an_encoder_that_answers_alike_keeps_all_of_it_for_certain() -> None:
    found = report(answers("same", [1, 1, 1, 2], [1, 1, 1, 1]))
    for one in found.judged[0].kept:
        assert (one.share.low, one.share.mean, one.share.high) == (1, 1, 1)
        assert (one.difference.low, one.difference.high) == (0, 0)


def test_a_failed_student_is_judged_too_and_said_to_have_failed() -> None:
    student = Student(Status.FAILED, ("teacher cosine .71, at least .9",), {}, {})
    found = report(answers("poor", [1] * 4, [1] * 4, student), left_out=7)
    for shown in (found.table(), found.markdown()):
        assert "failed: teacher cosine .71, at least .9" in " ".join(shown.split())
        assert "7 articles were left out" in " ".join(shown.split())
        assert "2,000 chunks embedded in 4.0 s, 500 a second" in " ".join(shown.split())
    (told,) = json.loads(json.dumps(found.as_json()))["encoders"]
    assert (told["status"], told["reasons"]) == ("failed", ["teacher cosine .71, at least .9"])
    assert told["chunks_per_second"] == 500
    assert len(told["kept"]) == 8


def test_every_encoder_has_its_rows_and_the_words_are_told_once() -> None:
    others = [answers("one", [1] * 4, [2] * 4), answers("two", [3] * 4, [4] * 4)]
    assert list(rows_of(answers(comparing.OWN, [1] * 4, [1] * 4), others)) == [
        *("dense", "lexical", "hybrid", "one dense", "one hybrid", "two dense", "two hybrid")
    ]
    assert [row.name for row in report(*others).search.rows][-4:] == ["two dense", "two hybrid", "oracle", "random"]


# -- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "questions.tsv"
    path.write_text("".join(f"{text}\t{page}\n" for text, page in ASKED[:2]))
    return path


@pytest.mark.usefixtures("wordless")
def test_the_command_compares_and_leaves_nothing_behind(
    collection: Collection, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr("retrieval.plots.plot_recall_curves", lambda ranks, *_, **__: drawn.extend(ranks))
    home, out = collection.path.parent.parent, tmp_path / "out"
    given: list[str | Path] = [
        "--questions",
        pairs,
        "-c",
        "c",
        "--encoder",
        "wordless",
        "--encoder",
        "a/b",
        "--encoder",
        "wordless",
    ]
    result = evaluate(home, *given, "--articles", "1", "--json", "--out", out)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [one["name"] for one in told["encoders"]] == ["wordless", "a/b"]
    assert told["articles_left_out"] == 1
    assert told["units"] == told["counts"]["articles"] == 3
    first = told["encoders"][0]["kept"][0]
    assert (first["mode"], first["measure"], first["share"]["mean"]) == ("dense", "R@1", 1.0)
    runs = ["dense", "lexical", "hybrid", "wordless-dense", "wordless-hybrid", "a--b-dense", "a--b-hybrid"]
    assert {path.stem for path in out.glob("*.run")} == set(runs)
    assert [row.replace(" ", "-").replace("/", "--") for row in drawn] == list(runs)
    assert [path.name for path in collection.path.parent.iterdir()] == ["c"]
    assert collection.verify() == []


def test_a_sets_paragraphs_are_embedded_too(collection: Collection, tmp_path: Path) -> None:
    squad = tmp_path / "squad.json"
    context = "Zebras never crossed it, though many people did so on market days."
    asked = [{"id": "q1", "question": "Which zebras crossed on market days?", "is_impossible": False}]
    squad.write_text(json.dumps({"data": [{"title": "Bridge", "paragraphs": [{"context": context, "qas": asked}]}]}))
    home = collection.path.parent.parent
    result = evaluate(
        home, "--questions", squad, "--add-paragraphs", "--encoder", "hashing", "--articles", "0", "--json"
    )
    told = json.loads(result.stdout)
    assert told["units"] == 1
    assert told["encoders"][0]["chunks"] == 1
    assert {one["share"]["mean"] for one in told["encoders"][0]["kept"]} == {1.0}


@pytest.mark.parametrize("option", [("--articles", "3"), ("--keep", "/tmp/nowhere")])
def test_what_goes_with_an_encoder_is_refused_without_one(
    collection: Collection, pairs: Path, option: tuple[str, str]
) -> None:
    result = evaluate(collection.path.parent.parent, "--questions", pairs, *option)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "go with --encoder" in result.stderr
