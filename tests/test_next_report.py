"""What the report of next-chunk prediction says: exact means, honest intervals, verdicts, and its three shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retrieval.evaluate_next import ORACLE, RANDOM, Bank, Judged, Judgement, View
from retrieval.metrics import Resampled, bootstrap_interval
from retrieval.next_report import COMPARED, MEASURES, RERANKED_MEASURES, Against, Apart, NextReport, reranked
from retrieval.plots import plot_rank_histogram
from retrieval.reports import Estimate

ARTICLES = np.repeat(np.arange(40), 5)


def judged(ranks: list[float], cosine: float = 0.5) -> Judged:
    """The same ranks over and over, for 200 queries."""
    values = np.resize(np.array(ranks, dtype=np.float64), len(ARTICLES))
    return Judged(values, np.full(len(values), cosine), np.full(len(values), 0.6), np.full(len(values), -0.1))


def report(view: View = View.NEW, outside: tuple[NextReport, ...] = (), name: str = "wiki") -> NextReport:
    rows = {
        "amn": judged([1, 2, 4, 60], 0.55),
        "gru": judged([2, 7, 40, np.inf], 0.52),
        "copy-last": judged([2, 4, 30, 60], 0.52),
        "ridge": judged([6, 6, 6, 6], 0.54),
        RANDOM: Judged(np.full(len(ARTICLES), 10.0)),
        ORACLE: Judged(*(np.ones(len(ARTICLES)) for _ in range(3)), np.zeros(len(ARTICLES))),
    }
    return NextReport.of(
        [Judgement(Bank.HELDOUT, view, 1234.0, ARTICLES, rows)],
        ["amn", "gru"],
        collection=name,
        split="test",
        protocol="all",
        shortest=5,
        articles=40,
        queries=len(ARTICLES),
        notes=("a note of what was fitted",),
        command="lookahead evaluate next",
        seed=7,
        outside=outside,
    )


def test_means_are_exact() -> None:
    rows = {row.name: row.measures for row in report().tables[0].rows}
    found = {name: cell.mean for name, cell in rows["amn"].items()}
    assert found == pytest.approx(
        {
            "R@1": 0.25,
            "R@3": 0.5,
            "R@5": 0.75,
            "R@10": 0.75,
            "R@20": 0.75,
            "R@50": 0.75,
            "Contain@50": 0.75,
            "MRR@50": (1 + 1 / 2 + 1 / 4) / 4,
            "Eff@5": 1.0,
            "cosine": 0.55,
            "contrast": 0.6,
            "gap": -0.1,
        }
    )
    assert rows["gru"]["Eff@5"].mean == pytest.approx(0.25 / 0.75)
    assert rows["gru"]["MRR@50"].mean == pytest.approx((1 / 2 + 1 / 7 + 1 / 40) / 4)
    assert "cosine" not in rows[RANDOM]
    assert {cell.mean for name, cell in rows[ORACLE].items() if name != "gap"} == {1.0}


def test_every_model_is_held_against_the_baseline_that_is_best_by_that_measure() -> None:
    against = {(one.model, one.measure): one for one in report().tables[0].against}
    assert set(against) == {(model, measure) for model in ("amn", "gru") for measure in COMPARED}
    assert against["amn", "R@5"].baseline == "copy-last"
    assert against["amn", "R@5"].estimate.mean == pytest.approx(0.25)
    assert against["amn", "cosine"].baseline == "ridge"
    assert against["amn", "cosine"].estimate.mean == pytest.approx(0.01)
    assert against["amn", "R@5"].verdict == "above"
    assert against["gru", "R@5"].verdict == "below"
    assert against["gru", "cosine"].verdict == "below"
    assert against["gru", "MRR@50"].baseline == "copy-last"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.02, "above"),
        (-0.02, -0.01, "below"),
        (-0.01, 0.05, "no difference"),
        (-0.05, 0.01, "no difference"),
        (0.0, 0.0, "no difference"),
    ],
)
def test_a_verdict_needs_an_interval_clear_of_zero(low: float, high: float, verdict: str) -> None:
    assert Against("amn", "R@5", "ridge", Estimate((low + high) / 2, low, high)).verdict == verdict


def test_intervals_agree_with_the_bootstrap_of_the_metrics_module() -> None:
    rng = np.random.default_rng(0)
    articles = np.sort(rng.integers(0, 60, 900))
    values = (rng.random(900) < 0.2 + 0.5 * (articles % 2)).astype(np.float64)
    resampled = Resampled.of(articles, seed=3)
    mean, low, high = resampled.mean(values)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(bootstrap_interval(values, articles.tolist(), seed=4), abs=0.008)
    assert high - low > 1.5 * np.subtract(*bootstrap_interval(values, seed=4)[::-1])  # articles stand or fall together


def test_a_ratio_is_resampled_as_a_ratio() -> None:
    articles = np.repeat(np.arange(30), 10)
    below = (np.random.default_rng(1).random(300) < 0.5).astype(np.float64)
    assert Resampled.of(articles, seed=0).ratio(below / 2, below) == pytest.approx((0.5, 0.5, 0.5))
    assert Resampled.of(articles, seed=0).ratio(below, np.zeros(300)) == (0, 0, 0)


def test_values_that_are_not_one_a_question_are_refused() -> None:
    resampled = Resampled.of(ARTICLES, seed=0)
    with pytest.raises(ValueError, match="expected 200 finite values"):
        resampled.mean(np.ones(199))
    with pytest.raises(ValueError, match="expected 200 finite values"):
        resampled.mean(np.full(200, np.inf))


def test_the_same_seed_gives_the_same_report() -> None:
    assert report() == report()


def test_the_table_fits_a_terminal_and_says_how_to_repeat_it() -> None:
    text = report().table()
    assert max(map(len, text.splitlines())) <= 110
    lines = text.splitlines()
    assert lines[0] == "next chunk, wiki, test split, protocol all: 40 articles, 200 queries with 5 chunks of context"
    assert "bank heldout (1,234 chunks), new: the query's own context is left out" in lines
    head = next(line for line in lines if "R@1" in line)
    assert head.split() == ["R@1", "R@3", "R@5", "R@10", "R@20", "R@50", "MRR", "Eff@5", "cosine", "contr.", "gap"]
    amn = next(line for line in lines if line.startswith("amn "))
    assert amn.split()[:7] == ["amn", ".250", ".500", ".750", ".750", ".750", ".750"]
    assert amn.split()[7:] == [".438", "1.000", ".550", ".600", "-.100"]
    random = next(line for line in lines if line.startswith(RANDOM))
    assert random.split()[-3:] == ["–", "–", "–"]
    assert any(line.startswith("oracle (check)") for line in lines)
    assert any(line.startswith("amn: R@5 +.250 (") and line.endswith("above: copy-last") for line in lines)
    assert lines[-1] == "command: lookahead evaluate next"
    assert "seed 7" in text
    assert "a note of what was fitted" in text


def test_markdown_has_both_ends_of_every_interval() -> None:
    lines = report().markdown().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {len(MEASURES) + 2}
    assert any(line.startswith("| amn | .250 (.") for line in rows)
    assert any("oracle (check) | 1.000 | 1.000" in line for line in rows)


def test_json_holds_everything_in_plain_types() -> None:
    raw = json.loads(json.dumps(report(outside=(report(name="news"),)).as_json()))
    assert raw["tables"][0]["bank"] == "heldout"
    assert raw["tables"][0]["against"][0]["verdict"] == "above"
    assert raw["outside"][0]["collection"] == "news"
    assert raw["outside"][0]["tables"][0]["view"] == "new"
    assert (raw["command"], raw["seed"]) == ("lookahead evaluate next", 7)


def test_another_collection_is_printed_beside_with_copy_last() -> None:
    both = report(outside=(report(name="news"),))
    text = both.table()
    assert "out of domain: news, 40 articles, 200 queries, 1,234 chunks; bank heldout, new" in text
    beside = text[text.index("out of domain") :].splitlines()
    assert beside[1].split() == ["R@5", "in", "R@5", "out", "MRR", "in", "MRR", "out", "cosine", "in", "cosine", "out"]
    assert any(line.startswith("copy-last ") and ".500" in line for line in beside)
    assert not any(line.startswith("oracle") for line in beside)
    assert max(map(len, text.splitlines())) <= 110
    assert "out of domain: news" in both.markdown()


def test_a_histogram_of_ranks_is_a_picture(tmp_path: Path) -> None:
    plot_rank_histogram({"amn": [1, 2, 900, None], "none": [None], "f$x_$": [5]}, tmp_path / "ranks.png", "ranks")
    assert (tmp_path / "ranks.png").read_bytes()[:4] == b"\x89PNG"


def reranking(*apart: Apart) -> NextReport:
    """amn finds the target third or fourth, its reranker first or not at all, out of lists that have it or not."""
    third = np.resize([3.0, 4.0], len(ARTICLES))
    first, contained = np.resize([1.0, 70.0], len(ARTICLES)), np.resize([30.0, 60.0, 2.0, 60.0], len(ARTICLES))
    rows = {
        "copy-last": judged([2, 4, 30, 60]),
        "a rule": Judged(np.ones(len(ARTICLES))),
        "amn + reranker, with a name that is far longer": Judged(third, before=contained),
        reranked("amn"): Judged(first, before=contained),
        "amn": Judged(third, np.full(len(ARTICLES), 0.5)),
        ORACLE: Judged(*(np.ones(len(ARTICLES)) for _ in range(3)), np.zeros(len(ARTICLES))),
    }
    return NextReport.of(
        [Judgement(Bank.HELDOUT, View.NEW, 1234.0, ARTICLES, rows)],
        ["amn", reranked("amn"), "amn + reranker, with a name that is far longer", "not judged"],
        collection="wiki",
        split="test",
        protocol="all",
        shortest=5,
        articles=40,
        queries=len(ARTICLES),
        notes=(),
        command="lookahead evaluate next --ablate",
        seed=7,
        apart=apart,
    )


LONG = "amn + reranker, with a name that is far longer"
ABLATION = Apart("ablation of amn", (reranked("amn"), "amn", LONG))


def test_contain_is_of_the_list_and_eff_is_what_became_of_it() -> None:
    (table,) = reranking(Apart("rules", ("a rule",))).tables
    rows = {row.name: row.measures for row in table.rows}
    assert rows[reranked("amn")]["R@5"].mean == 0.5
    assert rows[reranked("amn")]["R@50"].mean == 0.5
    assert rows[reranked("amn")]["Contain@50"].mean == 0.5
    assert rows[reranked("amn")]["Eff@5"].mean == 1
    assert rows[LONG]["R@5"].mean == 1
    assert rows[LONG]["Contain@50"].mean == 0.5
    assert rows[LONG]["Eff@5"].mean == 2
    assert set(table.reranked) == {reranked("amn"), LONG}
    assert list(rows) == ["amn", reranked("amn"), LONG, "copy-last", ORACLE]  # models first, the rule apart
    assert {one.baseline for one in table.against} == {"copy-last"}


def test_a_table_that_reranks_has_contain_in_the_place_of_r20_and_long_names_a_line_of_their_own() -> None:
    report = reranking(ABLATION, Apart("a rule that sees positions", ("a rule",)))
    lines = report.table().splitlines()
    assert max(map(len, lines)) <= 100
    head = next(line for line in lines if "R@10" in line).split()
    assert head == ["R@1", "R@3", "R@5", "R@10", "R@50", "Cont.", "MRR", "Eff@5", "cosine", "contr.", "gap"]
    place = lines.index(LONG)
    assert lines[place + 1].split()[:6] == [".000", ".500", "1.000", "1.000", "1.000", ".500"]
    assert any("Contain@50 (Cont.) is R@50 before a reranker came" in line for line in lines)
    rows = [line for line in report.markdown().splitlines() if line.startswith("| ")]
    assert rows[0] == "| | " + " | ".join(RERANKED_MEASURES) + " |"
    assert {line.count("|") for line in rows[:6]} == {len(RERANKED_MEASURES) + 2}


def test_rows_apart_are_held_against_the_first_of_them() -> None:
    report = reranking(ABLATION, Apart("a rule that sees positions", ("a rule",)), Apart("none", ("amn", "unknown")))
    ablation, rule = report.asides
    found = {(one.model, one.measure): one for one in ablation.against}
    assert set(found) == {(name, measure) for name in ("amn", LONG) for measure in ("R@5", "Contain@50", "MRR@50")}
    assert {one.baseline for one in ablation.against} == {reranked("amn")}
    assert found["amn", "R@5"].estimate.mean == pytest.approx(0.5)
    assert found["amn", "R@5"].verdict == "above"
    assert found["amn", "MRR@50"].estimate.mean == pytest.approx((1 / 3 + 1 / 4) / 2 - 0.5)
    assert found["amn", "MRR@50"].verdict == "below"
    assert found[LONG, "Contain@50"].verdict == "no difference"
    assert [row.name for row in rule.rows] == ["a rule"]
    assert rule.against == ()

    text = report.table()
    lines = text[text.index("ablation of amn: bank heldout (1,234 chunks), new") :].splitlines()
    assert lines[1].split() == ["R@1", "R@5", "R@50", "Cont.", "MRR", "ΔR@5", "ΔCont.", "ΔMRR"]
    assert lines[2].split() == ["amn", "+", "reranker", ".500", ".500", ".500", ".500", ".500"]
    assert lines[4].split() == ["amn", ".000", "1.000", "1.000", "1.000", ".292", "+.500", "+.500", "-.208"]
    assert len(lines[5].split()) == 8
    assert "Δ: the row less the first row of its table" in text
    assert "Δ: " not in reranking(Apart("a rule that sees positions", ("a rule",))).table()
    assert "| +.500 (+." in report.markdown()
    raw = json.loads(json.dumps(report.as_json()))
    assert [(one["title"], one["bank"], one["view"]) for one in raw["asides"]] == [
        ("ablation of amn", "heldout", "new"),
        ("a rule that sees positions", "heldout", "new"),
    ]
    assert raw["asides"][0]["against"][0]["verdict"] == "above"
