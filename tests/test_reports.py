"""Reports, run files and plots: what they say for ranks that can be counted in the head."""

from __future__ import annotations

import json
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR

from retrieval.metrics import Ranks
from retrieval.plots import plot_recall_curves
from retrieval.questions import Question, QuestionSet, Unit
from retrieval.reports import MEASURES, SearchReport
from retrieval.runs import read_run, write_run
from store.records import LookaheadError

ROWS: dict[str, Ranks] = {
    "dense": [1, 3, None, 60],
    "lexical": [None, 1, 1, 2],
    "hybrid": [1, 1, 1, 7],
}


def _set(count: int, unit: Unit = Unit.ARTICLE) -> QuestionSet:
    units = [f"{'AB'[i % 2]}/{i}" if unit is Unit.PARAGRAPH else str(i) for i in range(count)]
    questions = tuple(Question(f"q{i}", "Who?", frozenset({answer})) for i, answer in enumerate(units))
    return QuestionSet("some.tsv", unit, questions, (), {"empty": 1})


def _report(rows: dict[str, Ranks] = ROWS, unit: Unit = Unit.ARTICLE, units: int = 200) -> SearchReport:
    return SearchReport.of(
        _set(4, unit),
        rows,
        units=units,
        collection="wiki",
        counts={"articles": 200, "chunks": 4000},
        command="lookahead evaluate search --questions some.tsv",
        seed=3,
    )


def _many(seed: int) -> SearchReport:
    rows: dict[str, Ranks] = {"dense": [1 + i % 7 for i in range(90)], "hybrid": [1 + i % 5 for i in range(90)]}
    return SearchReport.of(_set(90), rows, units=200, collection="c", counts={}, command="", seed=seed)


def _means(report: SearchReport, name: str) -> dict[str, float]:
    row = next(row for row in report.rows if row.name == name)
    return {measure: estimate.mean for measure, estimate in row.measures.items()}


def test_a_row_has_the_measures_of_its_ranks() -> None:
    assert _means(_report(), "dense") == pytest.approx(
        {"R@1": 0.25, "R@5": 0.5, "R@10": 0.5, "R@50": 0.5, "MRR@10": (1 + 1 / 3) / 4, "Contain@100": 0.75}
    )


def test_intervals_hold_the_mean_and_checks_have_none() -> None:
    for row in _report().rows:
        assert list(row.measures) == list(MEASURES)
        assert row.check is (row.name in ("oracle", "random"))
        for estimate in row.measures.values():
            assert estimate.low <= estimate.mean <= estimate.high
            assert not row.check or estimate.low == estimate.high


def test_every_report_checks_itself_with_an_oracle_and_chance() -> None:
    report = _report()
    assert [row.name for row in report.rows] == ["dense", "lexical", "hybrid", "oracle", "random"]
    assert set(_means(report, "oracle").values()) == {1.0}
    chance = _means(report, "random")
    assert (chance["R@1"], chance["R@50"], chance["Contain@100"]) == pytest.approx((1 / 200, 1 / 4, 1 / 2))


def test_an_oracle_that_misses_stops_the_report() -> None:
    with pytest.raises(LookaheadError, match="the oracle missed"):
        _report({**ROWS, "oracle": [1, 1, 1, 2]})
    unanswerable = QuestionSet("s", Unit.ARTICLE, (Question("q", "Who?", frozenset()),), (), {})
    with pytest.raises(LookaheadError, match="the oracle missed"):
        SearchReport.of(unanswerable, {}, units=9, collection="c", counts={}, command="", seed=1)


def test_the_hybrid_is_compared_with_the_better_part_of_each_measure() -> None:
    first, second = _report().differences
    assert (first.measure, first.part, second.measure, second.part) == ("R@1", "lexical", "MRR@10", "lexical")
    assert first.estimate.mean == pytest.approx(0.75 - 0.5)
    assert second.estimate.mean == pytest.approx((3 + 1 / 7) / 4 - 2.5 / 4)
    dense_is_better: dict[str, Ranks] = {**ROWS, "dense": [1, 1, 1, None]}
    assert _report(dense_is_better).differences[0].part == "dense"
    assert _report(dense_is_better).differences[0].estimate.mean == 0


def test_without_a_hybrid_or_without_parts_nothing_is_compared() -> None:
    assert _report({"dense": ROWS["dense"]}).differences == ()
    assert _report({"hybrid": ROWS["hybrid"]}).differences == ()
    assert _report({"hybrid": ROWS["hybrid"], "dense": ROWS["dense"]}).differences[0].part == "dense"


def test_paragraphs_of_one_article_are_drawn_together() -> None:
    report = _report(unit=Unit.PARAGRAPH)
    assert (report.clusters, _report().clusters) == (2, None)
    assert "questions about one article drawn together (2 groups)" in report.table()


def test_the_same_seed_gives_the_same_report() -> None:
    assert _many(seed=3) == _many(seed=3)
    assert _many(seed=3).rows != _many(seed=4).rows
    assert _many(seed=3).differences != _many(seed=4).differences


def test_ranks_for_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="dense: 3 ranks for 4 questions"):
        _report({"dense": [1, 2, 3]})


def test_a_set_without_questions_has_no_report() -> None:
    with pytest.raises(LookaheadError, match=r"no question is left to ask \(1 empty\)"):
        SearchReport.of(_set(0), {}, units=9, collection="c", counts={}, command="", seed=1)


def test_the_table_is_aligned_and_says_how_it_was_made() -> None:
    lines = _report().table().split("\n")
    assert lines[0] == "some.tsv: 4 questions, answered by article; left out: 1 empty"
    assert lines[1] == "collection wiki (200 articles, 4,000 chunks): 200 units to choose from"
    header = next(line for line in lines if "R@50" in line)
    dense = next(line for line in lines if line.startswith("dense"))
    lexical = next(line for line in lines if line.startswith("lexical"))
    for measure, shown in (("R@1", ".250"), ("MRR@10", ".333"), ("Contain@100", ".750")):
        assert dense[header.index(measure) :].startswith(shown)
    assert lexical[header.index("R@5") :].startswith(".750")
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("hybrid − lexical, R@1: +.250 (") for line in lines)
    assert lines[-1] == "command: lookahead evaluate search --questions some.tsv"


def test_the_markdown_table_has_a_cell_for_each_measure() -> None:
    rows = [line for line in _report().markdown().split("\n") if line.startswith("|")]
    assert {row.count("|") for row in rows} == {len(MEASURES) + 2}
    assert rows[1] == "|---|---|---|---|---|---|---|"
    assert rows[5] == "| oracle | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 |"


def test_a_report_goes_through_json_whole() -> None:
    raw = _report().as_json()
    assert json.loads(json.dumps(raw)) == json.loads(json.dumps(raw, default=str))
    again = json.loads(json.dumps(raw))
    assert again["command"] == "lookahead evaluate search --questions some.tsv"
    assert (again["seed"], again["unit"], again["left_out"], again["counts"]["chunks"]) == (
        3,
        "article",
        {"empty": 1},
        4000,
    )
    assert again["rows"][0]["measures"]["R@1"]["mean"] == 0.25
    assert again["differences"][0]["estimate"]["mean"] == 0.25


# -- run files -----------------------------------------------------------------------------------------------


def test_a_run_is_written_in_trec_columns(tmp_path: Path) -> None:
    write_run(tmp_path / "r.trec", {"q1": [("Normans/3", 2.5), ("7", 1.0)], "q2": []}, "hybrid")
    assert (tmp_path / "r.trec").read_text() == "q1 Q0 Normans/3 1 2.5 hybrid\nq1 Q0 7 2 1.0 hybrid\n"
    assert [path.name for path in tmp_path.iterdir()] == ["r.trec"]
    assert read_run(tmp_path / "r.trec") == {"q1": [("Normans/3", 2.5), ("7", 1.0)]}


@given(scores=st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0]), max_size=20))
def test_a_run_comes_back_in_the_order_in_which_it_was_given(
    scores: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "run"
    given_order = [(f"d{i}", score) for i, score in enumerate(scores)]
    write_run(path, {"q": given_order}, "t")
    back = read_run(path).get("q", [])
    assert [unit for unit, _ in back] == [unit for unit, _ in given_order]
    assert all(a > b for (_, a), (_, b) in pairwise(back))


def test_other_scorers_see_ties_in_our_order(tmp_path: Path) -> None:
    write_run(tmp_path / "r", {"q": [("a", 1.0), ("z", 1.0), ("m", 1.0)]}, "t")
    run = list(ir_measures.read_trec_run(str(tmp_path / "r")))
    for place, unit in enumerate("azm", 1):
        assert ir_measures.calc_aggregate([RR], [ir_measures.Qrel("q", unit, 1)], run)[RR] == pytest.approx(1 / place)


@pytest.mark.parametrize("found", [("a b", 1.0), ("", 1.0), ("a", float("nan"))])
def test_what_a_run_file_cannot_hold_is_not_written(tmp_path: Path, found: tuple[str, float]) -> None:
    with pytest.raises(ValueError, match="a run file holds neither"):
        write_run(tmp_path / "r", {"q": [found]}, "t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("q Q0 d 1 0.5 t\nq Q0 d 2\n", "line 2: expected question, Q0, unit, rank, score, tag"),
        ("q Q0 d 1 high t\n", "line 1: expected question"),
        ("q Q0 d 1 nan t\n", "line 1: expected question"),
        ("q Q0 d 1 2 t\nq Q0 d 2 1 t\n", "line 2: d a second time for question q"),
    ],
)
def test_a_file_that_is_no_run_is_told_where(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "r").write_text(text)
    with pytest.raises(LookaheadError, match=complaint):
        read_run(tmp_path / "r")


def test_a_run_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match="No such file"):
        read_run(tmp_path / "none")
    (tmp_path / "r").write_bytes(b"\xff\xfe")
    with pytest.raises(LookaheadError, match="not UTF-8"):
        read_run(tmp_path / "r")


# -- plots ---------------------------------------------------------------------------------------------------


def _pixels(path: Path) -> tuple[int, int, bytes]:
    """Width, height and the raw lines of an RGBA picture."""
    raw, at, body = path.read_bytes(), 8, b""
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    while at < len(raw):
        size, kind = struct.unpack(">I4s", raw[at : at + 8])
        body += raw[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    width, height = struct.unpack(">II", raw[16:24])
    return width, height, zlib.decompress(body)


def test_a_plot_is_a_whole_picture_and_nothing_else_is_left(tmp_path: Path) -> None:
    plot_recall_curves(ROWS, tmp_path / "recall.png", "some.tsv", ["A", "A", "B", "B"])
    width, height, lines = _pixels(tmp_path / "recall.png")
    assert (width, height) == (1080, 675)
    assert len(lines) == height * (1 + 4 * width)
    assert [path.name for path in tmp_path.iterdir()] == ["recall.png"]


def test_a_plot_shows_its_ranks_and_is_the_same_every_time(tmp_path: Path) -> None:
    one: dict[str, Ranks] = {"dense": [1 + i * i % 61 for i in range(90)]}
    two: dict[str, Ranks] = {"dense": [None, *one["dense"][1:]]}
    for name, rows in (("a", one), ("b", one), ("c", two)):
        plot_recall_curves(rows, tmp_path / name, "some.tsv")
    same, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert same == again
    assert same != other


@pytest.mark.parametrize("title", ["$x_{$", "質問 وسؤال", "long " * 60, ""])
def test_any_title_can_be_drawn(tmp_path: Path, title: str) -> None:
    plot_recall_curves({"_dense $^$": [1, None]}, tmp_path / "p.png", title)
    assert _pixels(tmp_path / "p.png")[0] == 1080
