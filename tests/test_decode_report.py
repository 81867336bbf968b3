"""What the report of decoding says: exact means, intervals by article, verdicts, one truth in text, JSON and page."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU as Sacrebleu

from index.hashing import HashingEncoder
from retrieval.decode_page import page, shortened
from retrieval.decode_report import (
    MEANS,
    NEXT_MEASURES,
    SPAN_MEASURES,
    DecodeReport,
    bleu_estimate,
    ends,
    verdict,
)
from retrieval.evaluate_decode import (
    AGAINST_OTHER,
    ASKED,
    BEFORE,
    CHANCE,
    COPIED,
    MEAN,
    NEAREST_CHUNK,
    NEAREST_SPAN,
    NEXT,
    ORACLE,
    PREDICTED,
    TRUE,
    Asked,
    Outcome,
    Scored,
)
from retrieval.metrics import Resampled
from retrieval.reports import number
from retrieval.sequences import Windows
from retrieval.text_metrics import bleu_counts

Values = NDArray[np.float64]

ARTICLES = np.repeat(np.arange(30), 2)
MANY = len(ARTICLES)
SPAN = "the old bridge over the river"
OTHER = "a small house in the north"
WORSE = "the old house over the river"
EVIL = '<script>alert("x")</script> & <b>'


def same(value: float, spread: float = 0.0) -> Values:
    """A value for each window, a little more or less by its article."""
    return value + spread * np.where(ARTICLES % 2, 1.0, -1.0)


def scored(text: str, f1: float, spread: float = 0.0, **cosines: float) -> Scored:
    told = {"asked": ASKED, "next": NEXT, "before": BEFORE}
    return Scored(
        (text,) * MANY,
        {told[name]: same(value, spread) for name, value in cosines.items()},
        same(f1, spread),
        same(f1),
        same(float(text == SPAN)),
        bleu_counts([text] * MANY, [SPAN] * MANY),
    )


def outcome(predicted: float = 0.5, spread: float = 0.01) -> Outcome:
    vectors = np.ones((MANY, 2), dtype=np.float32)
    asked = Asked(
        Windows(np.arange(MANY) + 1, np.ones(MANY, np.int64), ARTICLES),
        tuple(f"Title {EVIL} {one}" for one in range(MANY)),
        np.ones(MANY, np.int64),
        np.full(MANY, 3),
        (f"before {EVIL}",) * MANY,
        (f"{SPAN} was opened {EVIL}",) * MANY,
        (SPAN,) * MANY,
        vectors,
        vectors,
        vectors,
        vectors[0],
    )
    spans = {
        "decode, 1 step": scored(WORSE, 0.7, spread, asked=0.8),
        "decode, 0 steps": scored(WORSE, 0.3, spread, asked=0.6),
        NEAREST_SPAN: scored(OTHER, 0.3, asked=0.6),
        AGAINST_OTHER: scored(OTHER, 0.1, asked=0.05),
        CHANCE: scored(OTHER, 0.1, asked=0.05),
        ORACLE: scored(SPAN, 1.0, asked=1.0),
    }
    predictions = {
        TRUE: scored(WORSE, 0.6, asked=0.8, next=0.8, before=1.0),
        PREDICTED: scored(f"gist {EVIL}", 0.2, spread, asked=0.75, next=predicted, before=0.6),
        COPIED: scored(OTHER, 0.2, asked=0.8, next=0.45, before=0.55),
        MEAN: scored(OTHER, 0.1, asked=0.9, next=0.2, before=0.3),
        NEAREST_CHUNK: scored(OTHER, 0.25, asked=0.7, next=0.5, before=0.6),
    }
    nearest = np.where(np.arange(MANY) < 6, np.arange(MANY) + 1, 0)
    return Outcome(asked, spans, predictions, "decode, 1 step", same(0.75), nearest, 900, 1_000)


@cache
def plain(seed: int = 7) -> DecodeReport:
    return report(outcome(), seed=seed)


def report(told: Outcome, examples: int = 4, seed: int = 7) -> DecodeReport:
    return DecodeReport.of(
        told,
        [f"Nearest {EVIL}"] * MANY,
        collection="wiki",
        split="test",
        encoder=HashingEncoder().fingerprint,
        inverter="ours",
        longest=32,
        steps=1,
        beam=4,
        model="residual-cosine",
        examples=examples,
        notes=("a note of its own",),
        command="lookahead evaluate decode",
        seed=seed,
        resamples=200,  # of BLEU in every row: 2,000 take a quarter of a second
    )


# -- figures ---------------------------------------------------------------------------------------------------------


def test_means_are_exact_and_intervals_hold_them() -> None:
    told = plain()
    rows = {row.name: row.measures for row in (*told.spans.rows, *told.predictions.rows)}
    assert rows["decode, 1 step"][ASKED].mean == pytest.approx(0.8)
    assert rows["decode, 1 step"]["F1"].mean == pytest.approx(0.7)
    assert rows[PREDICTED][NEXT].mean == pytest.approx(0.5)
    assert rows[PREDICTED][BEFORE].mean == pytest.approx(0.6)
    assert {cell.mean for cell in rows[ORACLE].values()} == {1.0}
    cell = rows["decode, 1 step"]["F1"]
    assert 0.69 <= cell.low < cell.mean < cell.high <= 0.71
    assert all(set(row) == set(SPAN_MEASURES) for row in (rows[name] for name in outcome().spans))
    assert all(set(row) == set(NEXT_MEASURES) for row in (rows[name] for name in outcome().predictions))


def test_bleu_is_of_the_corpus_and_its_interval_draws_articles_as_wholes() -> None:
    texts = [SPAN if article % 3 else OTHER for article in ARTICLES]
    counts = bleu_counts(texts, [SPAN] * MANY)
    cell = bleu_estimate(counts, Resampled.of(ARTICLES, seed=0))
    assert cell.mean == pytest.approx(Sacrebleu(lowercase=True).corpus_score(texts, [[SPAN] * MANY]).score / 100)
    assert cell.low < cell.mean < cell.high
    alone = bleu_estimate(counts, Resampled.of(np.arange(MANY), seed=0))
    assert cell.high - cell.low > 1.2 * (alone.high - alone.low)
    # one article has nothing to be drawn against
    only = bleu_estimate(counts, Resampled.of(np.zeros(MANY, np.int64), seed=0))
    assert only.low == only.mean == only.high


def test_each_difference_has_its_verdict() -> None:
    told = plain()
    spans = {(one.model, one.baseline, one.measure): one for one in told.spans.against}
    assert spans["decode, 1 step", NEAREST_SPAN, ASKED].estimate.mean == pytest.approx(0.2)
    assert spans["decode, 1 step", NEAREST_SPAN, "F1"].verdict == "above"
    assert spans["decode, 0 steps", NEAREST_SPAN, "F1"].verdict == "no difference"
    assert spans["decode, 1 step", AGAINST_OTHER, "F1"].verdict == "above"
    assert {measure for one, other, measure in spans if (one, other) == (AGAINST_OTHER, CHANCE)} == {ASKED, "F1"}
    assert len(spans) == 8
    first, *others = told.predictions.against
    assert (first.model, first.baseline, first.measure, first.verdict) == (PREDICTED, COPIED, NEXT, "above")
    assert {(one.baseline, one.measure): one.verdict for one in others} == {
        (COPIED, "F1"): "no difference",
        (MEAN, NEXT): "above",
        (MEAN, "F1"): "above",
        (NEAREST_CHUNK, NEXT): "no difference",
        (NEAREST_CHUNK, "F1"): "below",
    }


@pytest.mark.parametrize(
    ("predicted", "said", "answer"), [(0.6, "above", "Yes"), (0.45, "no", "It cannot"), (0.3, "below", "No")]
)
def test_the_figure_of_predictions_is_told_as_it_is(predicted: float, said: str, answer: str) -> None:
    told = report(outcome(predicted))
    assert told.predictions.against[0].verdict.startswith(said)
    assert f"than the decode of simply copying the last chunk? {answer}" in page(told)


def test_the_page_does_not_hide_that_a_real_chunk_says_as_much() -> None:
    text = " ".join(Read(page(plain())).text.split())
    assert "which needs no inverter? It cannot be told: " in text
    assert "In 6 of 60 windows that chunk is the true next one itself." in text


def test_the_check_of_earlier_work_is_one_line() -> None:
    line = plain().end_to_end()
    assert line.startswith("end to end: prediction cosine .600 (")
    assert ", decode cosine .750 (" in line
    assert line in plain().table()


def test_found_counts_the_windows_whose_nearest_chunk_is_the_true_one() -> None:
    assert plain().found == 6
    assert "in 6 of 60 windows it is the true next chunk itself" in " ".join(plain().table().split())


def test_few_articles_are_told_of() -> None:
    told = outcome()
    windows = told.asked.windows
    few = replace(told, asked=replace(told.asked, windows=Windows(windows.target, windows.length, ARTICLES // 2)))
    assert "15 articles are few" in report(few).table()
    assert "are few" not in plain().table()


# -- text and JSON ---------------------------------------------------------------------------------------------------


def test_the_table_fits_a_terminal_and_says_what_nobody_should_miss() -> None:
    lines = plain().table().splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    for said in (*plain().caveats(), "a note of its own", "sacrebleu nrefs:1|case:lc"):
        assert said in text
    assert "at most 32 tokens" in text
    assert "900 drawn of the 1,000 leading spans" in text
    assert lines[-1] == "command: lookahead evaluate decode"


def test_the_table_and_json_agree() -> None:
    told = plain()
    raw = json.loads(json.dumps(told.as_json()))
    lines = told.table().splitlines()
    for name, measures in (("spans", SPAN_MEASURES), ("predictions", NEXT_MEASURES)):
        for row in raw[name]["rows"]:
            shown = row["name"] + (" (check)" if row["check"] else "")
            (line,) = [one for one in lines if one.startswith(shown + "  ")]
            assert line.split()[-len(measures) :] == [number(row["measures"][one]["mean"]) for one in measures]
        for one in raw[name]["against"]:
            start = (
                f"{one['model']} − {one['baseline']}: {one['measure']} {number(one['estimate']['mean'], signed=True)}"
            )
            assert any(line.startswith(start) for line in lines)
            assert one["verdict"] in ("above", "below", "no difference")
    assert raw["end_to_end"] == told.end_to_end()
    assert raw["caveats"] == list(told.caveats())
    assert raw["encoder"]["model"] == "hashing"
    assert raw["predictions"]["against"][0]["estimate"]["low"] > 0


def test_examples_are_drawn_by_the_seed_and_whole() -> None:
    first, again, other = plain(), report(outcome()), plain(8)
    assert first == again
    assert [one.title for one in first.examples] != [one.title for one in other.examples]
    assert len(first.examples) == 4
    assert len(report(outcome(), examples=1_000).examples) == MANY
    one = first.examples[0]
    assert [told.row for told in one.told] == ["decode of the true span", TRUE, PREDICTED, COPIED, MEAN, NEAREST_CHUNK]
    assert one.chunk.startswith(one.span)
    predicted = one.told[2]
    assert (predicted.asked, predicted.next) == pytest.approx((0.75, 0.5), abs=0.02)
    assert one.told[0].next == pytest.approx(0.75)


# -- the page --------------------------------------------------------------------------------------------------------


class Read(HTMLParser):
    """Tags that are open, all that were met, their attributes, and the text that a reader sees."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.met: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.met.append(tag)
        self.links += [f"{name}={value}" for name, value in attrs if name in ("src", "href") or name.startswith("on")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_the_page_is_whole_and_nothing_in_it_runs_or_is_fetched() -> None:
    document = page(plain())
    read = Read(document)
    assert read.open == []
    assert not {"script", "link", "img", "iframe", "b"} & set(read.met)
    assert read.links == []
    assert "url(" not in document
    assert "@import" not in document
    assert "default-src 'none'" in document
    assert "prefers-color-scheme: dark" in document


def test_texts_and_titles_are_shown_as_they_are() -> None:
    told = plain()
    text = " ".join(Read(page(told)).text.split())
    for one in told.examples:
        for said in (one.title, one.before, one.chunk, one.nearest_title, *(told.text for told in one.told)):
            assert said in text
    assert text.count(EVIL) >= 5 * len(told.examples)


def test_the_page_has_every_figure_with_its_interval_and_explains_every_column() -> None:
    told = plain()
    text = " ".join(Read(page(told)).text.split())
    for table, measures in ((told.spans, SPAN_MEASURES), (told.predictions, NEXT_MEASURES)):
        for row in table.rows:
            for name in measures:
                cell = row.measures[name]
                shown = f"{number(cell.mean)}" + ("" if row.check else f"{number(cell.low)} to {number(cell.high)}")
                assert shown in text
        for one in table.against:
            assert ends(one.estimate, signed=True) in text
    for words in MEANS.values():
        assert words[1:] in text
    for said in told.caveats():
        assert said[1:] in text
    assert "Drawn at random with seed 7 from the 60 windows, not chosen" in text
    assert "lookahead evaluate decode" in text


def test_the_leading_span_is_marked_inside_the_true_chunk() -> None:
    assert f"<mark>{SPAN}</mark> was opened &lt;script&gt;" in page(plain())
    told = outcome()
    elsewhere = replace(told, asked=replace(told.asked, chunk=("Another text",) * MANY))
    assert f"<mark>{SPAN}</mark> Another text" in page(report(elsewhere))


def test_an_inverter_without_words_is_said_to_have_none() -> None:
    told = outcome()
    nothing = replace(told.predictions[PREDICTED], texts=("",) * MANY)
    document = page(report(replace(told, predictions={**told.predictions, PREDICTED: nothing})))
    assert document.count("<em>nothing</em>") == 4


def test_a_page_without_examples_and_one_without_steps_are_pages_too() -> None:
    assert "0 examples" in Read(page(report(outcome(), examples=0))).text
    told = outcome()
    spans = {name: scored for name, scored in told.spans.items() if name != "decode, 1 step"}
    without = replace(told, spans=spans, decoded="decode, 0 steps")
    assert verdict(report(without).spans.against[0]).startswith("decode, 0 steps − nearest training")
    assert Read(page(report(without))).open == []


def test_the_middle_of_a_long_text_is_left_out() -> None:
    words = [str(place) for place in range(20)]
    assert shortened(" ".join(words), 20) == " ".join(words)
    assert shortened(" ".join(words), 9) == "0 1 2 3 4 5 … 17 18 19"
