"""Encoders judged on pairs: cosines, baselines and checks by hand, draws against a slow loop, and verdicts in words."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from index.encoder import Fingerprint
from index.hashing import HashingEncoder
from retrieval import evaluate_sts
from retrieval.evaluate_sts import (
    ORACLE,
    RANDOM,
    WORDS,
    Encoded,
    Judged,
    Recalled,
    Resamples,
    Sampled,
    encode,
    judge,
    resampled_ranks,
    shared_words,
    speed_texts,
    speeds,
)
from retrieval.plots import plot_quality_speed
from retrieval.reports import Estimate
from retrieval.sts import StsSet
from retrieval.sts_report import SECTIONS, StsReport, StsRow, verdict
from store.records import LookaheadError

NAN = math.nan


@dataclass
class Angles:
    """Each text is an angle in degrees, written out; the cosine of two is the cosine of their difference. It adds
    noise of as many degrees, drawn from the text itself."""

    noise: float = 0.0
    constant: bool = False
    asked: list[list[str]] = field(default_factory=list)
    name: str = "angles"
    dim: int = 2

    @property
    def fingerprint(self) -> Fingerprint:
        return HashingEncoder().fingerprint

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        if self.constant:
            return np.full((len(texts), 2), 0.3, dtype=np.float32)
        shaken = [float(text) + self.noise * math.sin(997 * float(text)) for text in texts]
        angles = np.radians(shaken)
        return np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return -self.encode(texts)


def angles_set(pairs: int = 60, **changes: object) -> StsSet:
    """Pair i is (i, 2.5 i) degrees, 1.5 i apart, and people score it the lower the farther apart its two are."""
    first = tuple(str(float(i)) for i in range(pairs))
    second = tuple(str(2.5 * i) for i in range(pairs))
    scores = tuple(5 - 5 * i / pairs for i in range(pairs))
    return replace(StsSet("angles", "test", ("en", "en"), scores, first, second), **changes)  # type: ignore[arg-type]


def encoded(vectors: dict[str, list[float]]) -> Encoded:
    return Encoded({text: i for i, text in enumerate(vectors)}, np.array(list(vectors.values()), np.float32), 1.0)


# -- vectors and values ----------------------------------------------------------------------------------


def test_each_sentence_is_encoded_once_for_all_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_sts, "_AT_ONCE", 2)
    encoder = Angles()
    one = StsSet("a", "", (), (1.0, 2.0), ("1", "2"), ("2", "3"))
    found = encode(encoder, [one, replace(one, name="b", second=("4", "1"))], quiet=True)
    assert encoder.asked == [["1", "2"], ["3", "4"]]
    assert found.cosines(("1", "4"), ("3", "4")) == pytest.approx([math.cos(math.radians(2)), 1.0])


def test_cosines_do_not_depend_on_length_and_what_is_no_vector_has_none() -> None:
    found = encoded({"x": [2, 0], "y": [0, 3], "xy": [5, 5], "no": [0, 0], "nan": [NAN, 1], "inf": [math.inf, 1]})
    given_, cosines = ["x", "y", "xy", "no", "nan", "inf"], [1, 0, math.sqrt(0.5), 0, NAN, NAN]
    np.testing.assert_allclose(found.cosines(["x"] * 6, given_), cosines, atol=1e-12)


def test_an_encoder_that_gives_every_text_one_vector_is_undefined_not_noise() -> None:
    one = angles_set()
    row = judge(one, {"flat": encode(Angles(constant=True), [one], quiet=True)}, seed=0)["flat"]
    assert math.isnan(row.spearman.whole)
    assert math.isnan(row.spearman.estimate().low)


def test_recalled_vectors_are_not_encoded_again_and_questions_are() -> None:
    encoder = Angles()
    kept = Recalled(encoder, encode(encoder, [StsSet("a", "", (), (1.0, 2.0), ("1", "2"), ("2", "3"))], quiet=True))
    encoder.asked.clear()
    np.testing.assert_array_equal(kept.encode(["3", "1", "3"]), Angles().encode(["3", "1", "3"]))
    assert encoder.asked == []
    np.testing.assert_array_equal(kept.encode(["3", "7"]), Angles().encode(["3", "7"]))
    np.testing.assert_array_equal(kept.encode_queries(["3"]), -Angles().encode(["3"]))
    assert encoder.asked == [["3", "7"], ["3"]]


def test_shared_words_are_words_in_both_over_words_in_either() -> None:
    assert shared_words(["A dog runs", "one", "...", "Ö"], ["a DOG sleeps here", "two", "!", "ö ö"]).tolist() == [
        2 / 5,
        0.0,
        0.0,
        1.0,
    ]


# -- rows ------------------------------------------------------------------------------------------------


def test_a_model_that_ranks_as_people_do_is_at_one_and_so_is_the_oracle_and_random_vectors_are_at_none() -> None:
    one = angles_set(100)
    rows = judge(one, {"angles": encode(Angles(), [one], quiet=True)}, seed=0)
    assert list(rows) == ["angles", WORDS, ORACLE, RANDOM]
    assert rows["angles"].spearman.whole == pytest.approx(1.0)
    assert rows[ORACLE].spearman.whole == pytest.approx(1.0)
    assert rows[ORACLE].pearson.whole == pytest.approx(1.0)
    assert rows[ORACLE].spearman.estimate().low == pytest.approx(1.0)
    low, high = rows[RANDOM].spearman.estimate().low, rows[RANDOM].spearman.estimate().high
    assert low < 0 < high
    assert abs(rows[RANDOM].spearman.whole) < 0.3


def test_random_vectors_are_of_sentences_so_that_equal_sentences_have_a_cosine_of_one() -> None:
    one = StsSet("a", "", (), (5.0, 0.0, 1.0), ("x", "x", "y"), ("x", "y", "z"))
    assert evaluate_sts.random_vectors(one, 0).cosines(one.first, one.second)[0] == pytest.approx(1.0)
    assert judge(one, {}, seed=0)[RANDOM].spearman.whole > 0


def test_vectors_that_are_no_numbers_are_counted() -> None:
    one = StsSet("a", "", (), (5.0, 0.0, 1.0), ("x", "x", "y"), ("x", "y", "z"))
    row = judge(one, {"m": encoded({"x": [1, 0], "y": [NAN, 0], "z": [0, 1]})}, seed=0)["m"]
    assert row.broken == 2
    assert math.isnan(row.spearman.whole)
    assert math.isnan(row.pearson.whole)


# -- draws -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=4, max_size=12), st.integers(0, 99))
def test_every_draw_is_what_scipy_says_of_the_pairs_drawn(pairs: list[tuple[int, int]], seed: int) -> None:
    scores, values = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    if len(set(scores)) < 2 or len(set(values)) < 2:
        return
    found = Resamples(scores, seed=seed, resamples=20)
    spearmans, pearsons = found.spearman(values), found.pearson(values)
    times = np.random.default_rng(seed).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=20)
    for place, counts in enumerate(times):
        chosen = np.repeat(np.arange(len(pairs)), counts)
        if len(set(scores[chosen])) < 2 or len(set(values[chosen])) < 2:
            assert math.isnan(spearmans.resamples[place])
            assert math.isnan(pearsons.resamples[place])
            continue
        expected = scipy.stats.spearmanr(scores[chosen], values[chosen])[0]
        assert spearmans.resamples[place] == pytest.approx(expected, abs=1e-9)
        expected = scipy.stats.pearsonr(scores[chosen], values[chosen])[0]
        assert pearsons.resamples[place] == pytest.approx(expected, abs=1e-9)


def test_ranks_in_a_draw_by_hand() -> None:
    """Drawn: 10 twice, 20 never, 30 once, and 30 of another pair once."""
    ranks = resampled_ranks(np.array([[2.0, 0.0, 1.0, 1.0]]), np.array([10.0, 20.0, 30.0, 30.0]))
    assert ranks[0, [0, 2, 3]].tolist() == [1.5, 3.5, 3.5]


def test_two_models_on_the_same_draws_differ_as_pairs_do() -> None:
    one = angles_set(200)
    rows = judge(
        one,
        {name: encode(Angles(noise), [one], quiet=True) for name, noise in (("a", 0.0), ("same", 0.0), ("b", 60.0))},
        seed=0,
    )
    assert rows["a"].spearman.minus(rows["same"].spearman).estimate() == Estimate(0, 0, 0)
    apart = rows["b"].spearman.minus(rows["a"].spearman).estimate()
    assert apart.high < 0
    assert apart.mean == rows["b"].spearman.whole - rows["a"].spearman.whole
    alone = [rows[name].spearman.estimate() for name in ("a", "b")]
    assert apart.high - apart.low <= sum(end.high - end.low for end in alone)


def test_a_draw_without_an_order_counts_as_none() -> None:
    """One pair in four shares a word: a third of all draws lack it, and say nothing."""
    found = Resamples([5.0, 0.0, 0.0, 1.0], seed=0).spearman(np.array([1.0, 0.0, 0.0, 0.0]))
    assert found.whole > 0.7
    assert np.isnan(found.resamples).mean() > 0.2
    assert found.estimate().low == 0


def test_the_interval_of_a_correlation_holds_what_theory_says() -> None:
    """By Fisher's z a correlation of .8 in 1,000 pairs is .775 to .822."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1000)
    y = 0.8 * x + 0.6 * rng.standard_normal(1000)
    found = Resamples(x, seed=1).pearson(y).estimate()
    z = math.atanh(found.mean)
    assert found.low == pytest.approx(math.tanh(z - 1.96 / math.sqrt(997)), abs=0.01)
    assert found.high == pytest.approx(math.tanh(z + 1.96 / math.sqrt(997)), abs=0.01)


def test_a_thousand_draws_of_sts_benchmark_take_less_than_two_seconds() -> None:
    values = np.random.default_rng(0).standard_normal(1379)
    started = time.process_time()
    Resamples(np.round(values, 1), seed=0).spearman(values)
    assert time.process_time() - started < 2


# -- speed -----------------------------------------------------------------------------------------------


def test_texts_for_speed_have_eighty_words_and_are_not_alike() -> None:
    assert speed_texts(["a b", "", "c"], 3, 2) == ["a b", "c a", "c a"]  # the third begins at the second word, b
    texts = speed_texts([f"w{i}" for i in range(4000)])
    assert {len(text.split()) for text in texts} == {80}
    assert len(set(texts)) == len(texts) == 64
    with pytest.raises(ValueError, match="no words"):
        speed_texts(["", " "])


def test_speed_is_the_median_of_rounds_in_turn_and_the_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, turns = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Slow(Angles):
        def __init__(self, name: str, seconds: list[float]) -> None:
            super().__init__(name=name)
            self.seconds = seconds

        def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
            turns.append(self.name)
            clock[0] += self.seconds.pop(0)
            return np.zeros((len(texts), 2), np.float32)

    slow, fast = Slow("slow", [99, 1, 1, 2, 9, 8]), Slow("fast", [99, 0.5, 0.5, 0.5, 0.5, 0.5])
    rates = speeds({"slow": slow, "fast": fast}, ["1", "2", "3", "4"], quiet=True)
    assert rates == {"slow": 2.0, "fast": pytest.approx(8.0)}
    assert turns == ["slow", "fast"] * 6


# -- the report ------------------------------------------------------------------------------------------


def judged(rows: dict[str, float], width: float = 0.05) -> dict[str, Judged]:
    """Rows whose resamples are evenly spread over ± `width` about the value."""
    spread = np.linspace(-width, width, 101)

    def one(value: float) -> Judged:
        return Judged(Sampled(value, value + spread), Sampled(value, value + spread))

    return {name: one(value) for name, value in {**rows, WORDS: 0.3, RANDOM: 0.0}.items()} | {
        ORACLE: Judged(Sampled(1.0, np.ones(101)), Sampled(1.0, np.ones(101)))
    }


def report(tables: Sequence[tuple[StsSet, dict[str, Judged]]], models: Sequence[str], **changes: object) -> StsReport:
    given_: dict[str, object] = {
        "rates": {name: 100.0 * (place + 1) for place, name in enumerate(models)},
        "sentence_rates": dict.fromkeys(models, 5.0),
        "texts": "texts of 80 words",
        "data": "sts",
        "notes": ["a note"],
        "command": "cli.py evaluate sts",
        "seed": 7,
        **changes,
    }
    return StsReport.of(tables, models, **given_)  # type: ignore[arg-type]


def row(spearman: Estimate, **changes: Estimate) -> StsRow:
    return StsRow("m", False, spearman, spearman, **changes)


GOOD = Estimate(0.8, 0.75, 0.85)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (row(GOOD), ""),
        (row(GOOD, against=Estimate(-0.021, -0.03, -0.012)), "below bundled by .021, clear"),
        (row(GOOD, against=Estimate(0.03, 0.01, 0.05)), "above bundled by .030, clear"),
        (row(GOOD, against=Estimate(-0.03, -0.07, 0.01)), "below bundled by .030, not clear"),
        (row(GOOD, against=Estimate(0.0, -0.009, 0.01)), "as good as bundled"),
        (row(GOOD, against=Estimate(-0.002, -0.003, -0.001)), "as good as bundled"),
        (row(GOOD, against=Estimate(NAN, NAN, NAN)), "no comparison: bundled is broken"),
        (row(GOOD, above_words=Estimate(0.1, 0.01, 0.2)), ""),
        (row(GOOD, above_words=Estimate(0.1, -0.01, 0.2)), "not clearly better than shared words"),
        (row(GOOD, above_words=Estimate(-0.1, -0.2, 0.01)), "no better than shared words"),
        (row(Estimate(0.05, -0.02, 0.11)), "not related to meaning at all"),
        (row(Estimate(0.3, -0.2, 0.7)), "no relation shown by so few pairs"),
        (row(Estimate(-0.3, -0.4, -0.2)), "the wrong way round: alike is called different"),
        (row(Estimate(NAN, NAN, NAN)), "broken: the same cosine for every pair"),
    ],
)
def test_verdicts_in_words(found: StsRow, said: str) -> None:
    assert verdict(found, 0, "bundled", SECTIONS[0]) == said


def test_what_is_broken_is_said_before_all_else() -> None:
    found = verdict(row(Estimate(NAN, NAN, NAN)), 12, "bundled", SECTIONS[0])
    assert found == "broken: 12 pairs with numbers that are none"


def test_shared_words_are_no_rival_across_languages() -> None:
    below = row(GOOD, above_words=Estimate(-0.1, -0.2, 0.0))
    assert verdict(below, 0, "bundled", SECTIONS[1]) == ""


def test_a_report_has_sections_by_language_and_says_that_english_models_are_low_across_them() -> None:
    sets = [
        angles_set(name="sts17-de-en", languages=("de", "en")),
        angles_set(name="ours", languages=()),
        angles_set(name="sts17-en-en"),
        angles_set(name="stsbenchmark"),
    ]
    found = report([(one, judged({"small": 0.7, "big": 0.8})) for one in sets], ["small", "big"])
    assert [(table.key, table.section) for table in found.tables] == [
        ("stsbenchmark-test", "same language"),
        ("sts17-en-en-test", "same language"),
        ("sts17-de-en-test", "cross-lingual"),
        ("ours-test", "language not known"),
    ]
    for text in (found.table(), found.markdown()):
        assert "an English model is low there by nature" in text
        assert "a note" in text
        assert "below big by .100, clear" in text
        assert text.index("same language") < text.index("cross-lingual") < text.index("language not known")
    assert max(map(len, found.table().splitlines())) <= 100
    assert "by nature" not in report([(sets[2], judged({"m": 0.8}))], ["m"]).table()


def test_the_last_model_is_the_one_that_others_are_held_against() -> None:
    found = report([(angles_set(name="stsbenchmark"), judged({"small": 0.6, "big": 0.8}))], ["small", "big"])
    small, big = found.tables[0].row("small"), found.tables[0].row("big")
    assert small.against == Estimate(pytest.approx(-0.2), pytest.approx(-0.2), pytest.approx(-0.2))
    assert small.above_words is not None
    assert small.above_words.mean == pytest.approx(0.3)
    assert (big.against, big.verdict) == (None, "")
    first, second = found.summaries()
    assert first.kept == pytest.approx(0.75)
    assert second.kept is None
    assert "small: Spearman .600 on stsbenchmark-test, 75.0 % of big's" in found.table()
    assert [(pace.model, pace.texts, pace.ratio) for pace in found.paces] == [("small", 100, 0.5), ("big", 200, 1.0)]


def test_a_summary_averages_by_section() -> None:
    sets = [angles_set(name="a"), angles_set(name="b"), angles_set(name="c", languages=("de", "en"))]
    found = report([(one, judged({"m": 0.2 * place})) for place, one in enumerate(sets, 1)], ["m"])
    assert found.summaries()[0].means == {
        "same language": (pytest.approx(0.3), 2),
        "cross-lingual": (0.6000000000000001, 1),
    }
    assert found.summaries()[0].key == "a-test"


def test_json_has_null_for_what_is_not_defined() -> None:
    found = report([(angles_set(), judged({"flat": NAN, "m": 0.8}))], ["flat", "m"])
    raw = json.loads(json.dumps(found.as_json(), allow_nan=False))
    rows = {one["name"]: one for one in raw["tables"][0]["rows"]}
    assert rows["flat"]["spearman"] == {"mean": None, "low": None, "high": None}
    assert rows["flat"]["verdict"] == "broken: the same cosine for every pair"
    assert rows["m"]["spearman"]["mean"] == 0.8
    assert [name for name, one in rows.items() if one["check"]] == [ORACLE, RANDOM]
    assert list(found.points()) == ["m"]
    assert "undefined" in found.table()


def test_a_broken_reference_is_said_of_all_that_is_held_against_it() -> None:
    found = report([(angles_set(), judged({"m": 0.8, "flat": NAN}))], ["m", "flat"])
    assert found.tables[0].row("m").verdict == "no comparison: flat is broken"
    assert found.summaries()[0].kept is None


def test_an_oracle_below_one_means_that_the_test_is_wrong() -> None:
    rows = judged({"m": 0.8})
    rows[ORACLE] = rows["m"]
    with pytest.raises(LookaheadError, match="the test is wrong"):
        report([(angles_set(), rows)], ["m"])


def test_mtebs_own_figures_are_held_against_ours() -> None:
    found = report([(angles_set(), judged({"m": 0.8}))], ["m"], hub={("m", "angles-test"): (0.8, 0.79)})
    assert found.tables[0].row("m").hub == (0.8, 0.79)
    assert "mteb's own figures differ from these by 0.01 at most" in found.table()


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    points = {"a $x": (100.0, Estimate(0.8, 0.7, 0.9)), "b": (20_000.0, Estimate(0.5, NAN, NAN))}
    plot_quality_speed(points, tmp_path / "a.png", "quality against speed", speed="texts/s", quality="Spearman")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
