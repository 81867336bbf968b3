"""What is decoded and what it is held against: by hand, with inverters whose texts are known and ones that cheat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_articles import article_rows, vectors_of
from tiny_decodes import (
    CHUNKS,
    LONGEST,
    TEST_PAGES,
    Always,
    Echo,
    Floats,
    asked_of,
    every_span,
    judged,
    lead,
    make_collection,
)
from tiny_inverters import write_inverter
from tiny_models import SUM, write_model
from tiny_pipelines import write_towers

from cli import main
from index.hashing import HashingEncoder
from retrieval import models
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
    decode_row,
    decoding_model,
    drawn_windows,
    enough,
    middle_of,
    nearest_chunks,
    others_of,
)
from retrieval.evaluations import kept_in
from retrieval.inversion import Decoder
from retrieval.inverters import FoundInverter, InverterConfig
from retrieval.search import Searcher
from retrieval.sequences import Sequences, Windows
from store.generations import Collection
from store.records import LookaheadError, Split

MANY = len(TEST_PAGES) * (CHUNKS - 1)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make_collection(tmp_path_factory.mktemp("decode"))


@pytest.fixture
def searcher(collection: Collection) -> Searcher:
    return Searcher.open(collection)


def windows_of(counts: Sequence[int]) -> Windows:
    return Sequences(article_rows(counts), None).windows(1)  # type: ignore[arg-type]  # no vector is read


# -- what is drawn ---------------------------------------------------------------------------------------------------


def test_one_window_of_every_article_is_drawn_before_a_second_of_any() -> None:
    there = windows_of([9, 2, 4, 1, 6])
    assert sorted(drawn_windows(there, 4, 0).article.tolist()) == [0, 1, 2, 4]
    counts = np.bincount(drawn_windows(there, 7, 1).article, minlength=5)
    assert counts.tolist() == [2, 1, 2, 0, 2]
    assert len(drawn_windows(there, 1_000, 0)) == len(there)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 3))
def test_a_draw_is_fair_ordered_and_repeatable(counts: list[int], many: int, seed: int) -> None:
    there = windows_of(counts)
    some = drawn_windows(there, many, seed)
    assert len(some) == min(many, len(there))
    assert (np.diff(some.target) > 0).all()
    assert set(some.target.tolist()) <= set(there.target.tolist())
    assert some.target.tolist() == drawn_windows(there, many, seed).target.tolist()
    room = np.bincount(there.article, minlength=len(counts))
    drawn = np.bincount(some.article, minlength=len(counts))
    for one in range(len(counts)):  # who has fewer than another has no more to give
        assert drawn[one] >= min(room[one], drawn.max() - 1)


def test_other_seeds_draw_other_windows_and_other_texts() -> None:
    there = windows_of([9] * 20)
    assert drawn_windows(there, 20, 0).target.tolist() != drawn_windows(there, 20, 1).target.tolist()
    assert others_of(there.article, 0).tolist() != others_of(there.article, 1).tolist()
    assert others_of(there.article, 5).tolist() == others_of(there.article, 5).tolist()


def test_another_text_is_never_of_the_same_article() -> None:
    article = np.repeat(np.arange(6), [1, 2, 3, 9, 1, 1])
    other = others_of(article, 0)
    assert (article[other] != article).all()
    assert len(set(others_of(np.repeat(np.arange(2), 50), 0).tolist())) > 30  # not always the same one


def test_windows_of_one_article_are_too_few() -> None:
    enough(windows_of([2, 2]), "wiki")
    with pytest.raises(LookaheadError, match=r"wiki, test split: 4 windows of one article; .* take more --windows or"):
        enough(windows_of([5, 1]), "wiki, test split")


def test_the_mean_is_of_directions_only_where_they_are_all_that_counts(tmp_path: Path) -> None:
    rows = np.array([[3, 0], [0, 1], [9, 9], [1, 0]], dtype=np.float32)
    vectors = vectors_of(tmp_path, rows)
    mean, length = middle_of(vectors, np.array([0, 1]), True)
    assert mean.tolist() == pytest.approx([0.5, 0.5])
    assert length == pytest.approx(1)
    mean, length = middle_of(vectors, np.array([0, 1, 3]), False)
    assert mean.tolist() == pytest.approx([4 / 3, 1 / 3])
    assert length == pytest.approx(5 / 3)


def test_the_model_is_the_one_whose_vectors_come_nearest_in_the_encoders_own_space(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "SHIPPED", tmp_path)
    encoder = HashingEncoder().fingerprint
    with pytest.raises(LookaheadError, match="has no trained model"):
        decoding_model(collection, encoder)
    write_towers(tmp_path / "towers", trained={"valid": {"MRR": 0.9, "cosine": 0.9}})
    assert decoding_model(collection, encoder).name == "towers"  # rather than nothing
    write_model(tmp_path / "ranks", trained={"valid": {"MRR": 0.5, "cosine": 0.2}})
    write_model(tmp_path / "near", trained={"valid": {"MRR": 0.1, "cosine": 0.6}})
    write_model(tmp_path / "untold", trained={"valid": {"MRR": 0.8}})
    assert decoding_model(collection, encoder).name == "near"
    assert decoding_model(collection, encoder, "towers").name == "towers"


# -- what is asked and found -----------------------------------------------------------------------------------------


def test_each_window_has_its_texts_and_vectors(searcher: Searcher) -> None:
    with searcher:
        asked = asked_of(searcher)
        texts = [text for _, _, text in searcher.store.texts(0, len(searcher.vectors))]
        target = asked.windows.target
        assert len(asked) == MANY
        assert list(asked.chunk) == [texts[one] for one in target]
        assert list(asked.before) == [texts[one - 1] for one in target]
        assert list(asked.span) == lead(asked.chunk)
        assert asked.places.tolist() == [1, 2, 3, 4] * len(TEST_PAGES)
        assert set(asked.counts.tolist()) == {CHUNKS}
        assert np.array_equal(asked.target, searcher.vectors.gather(target))
        assert np.array_equal(asked.last, searcher.vectors.gather(target - 1))


def test_the_nearest_chunk_is_never_of_the_context_and_may_be_the_true_one(searcher: Searcher) -> None:
    with searcher:
        asked = asked_of(searcher)
        copied = nearest_chunks(searcher, asked.last, asked.windows)  # whose own chunk is the nearest of all
        for found, target, length in zip(copied, asked.windows.target, asked.windows.length, strict=True):
            assert not target - length <= found < target
        assert nearest_chunks(searcher, asked.target, asked.windows).tolist() == asked.windows.target.tolist()


def test_a_perfect_inverter_is_perfect_and_each_control_is_what_it_should_be(searcher: Searcher) -> None:
    with searcher:
        outcome = judged(searcher, Echo(every_span(searcher)))
    spans = outcome.spans
    assert list(spans) == [decode_row(1), decode_row(0), NEAREST_SPAN, AGAINST_OTHER, CHANCE, ORACLE]
    assert outcome.decoded == "decode, 1 step"
    for name in (decode_row(1), ORACLE):
        assert all(np.allclose(values, 1) for values in spans[name].measures().values())
        assert spans[name].texts == outcome.asked.span
    # three of six words are right: F1 2·3/(3+6)
    assert spans[decode_row(0)].f1 == pytest.approx(np.full(MANY, 2 / 3))
    assert (spans[decode_row(0)].cosines[ASKED] < 0.95).all()
    # "The", "of" and "was" are in every span
    assert (spans[NEAREST_SPAN].f1 >= 0.5).all()
    assert (spans[NEAREST_SPAN].f1 < 0.9).all()
    assert (spans[NEAREST_SPAN].cosines[ASKED] < 0.95).all()
    assert spans[AGAINST_OTHER].f1 == pytest.approx(spans[CHANCE].f1)  # a perfect decode of another text is that text
    assert spans[AGAINST_OTHER].exact.max() == spans[CHANCE].exact.max() == 0
    assert (outcome.bank, outcome.among) == (30, 40)


def test_no_step_gives_no_second_row(searcher: Searcher) -> None:
    with searcher:
        outcome = judged(searcher, Echo(every_span(searcher)), steps=0)
    assert list(outcome.spans)[:2] == ["decode, 0 steps", NEAREST_SPAN]
    assert outcome.decoded == "decode, 0 steps"


def test_the_control_shows_an_inverter_that_does_not_read_its_vector(searcher: Searcher) -> None:
    with searcher:
        outcome = judged(searcher, Always(every_span(searcher)))
    decoded, other = outcome.spans[decode_row(1)], outcome.spans[AGAINST_OTHER]
    # at least the article it quotes apart, it is as right about any other text as about the one it was asked for
    assert abs(decoded.f1.mean() - other.f1.mean()) < 0.06
    assert abs(decoded.cosines[ASKED].mean() - other.cosines[ASKED].mean()) < 0.06


def test_predictions_are_judged_by_the_true_next_vector_and_by_the_one_asked_for(searcher: Searcher) -> None:
    with searcher:
        outcome = judged(searcher, Echo(every_span(searcher)))
        asked = outcome.asked
        unit = asked.target, asked.last
    rows = outcome.predictions
    assert list(rows) == [TRUE, PREDICTED, COPIED, MEAN, NEAREST_CHUNK]
    assert rows[TRUE].texts == asked.span
    assert rows[PREDICTED].texts == rows[COPIED].texts == tuple(lead(asked.before))  # the last chunk was foretold
    for measure in (ASKED, NEXT, BEFORE):
        assert rows[PREDICTED].cosines[measure] == pytest.approx(rows[COPIED].cosines[measure], abs=1e-6)
    assert np.allclose(rows[TRUE].cosines[BEFORE], 1, atol=1e-6)
    assert np.allclose(rows[TRUE].cosines[NEXT], rows[TRUE].cosines[ASKED], atol=1e-6)
    assert rows[COPIED].cosines[BEFORE] == pytest.approx((unit[0] * unit[1]).sum(axis=1), abs=2e-3)
    assert len(set(rows[MEAN].texts)) == 1
    assert rows[NEAREST_CHUNK].cosines[BEFORE] == pytest.approx(rows[PREDICTED].cosines[BEFORE])
    spans = HashingEncoder().encode(lead(asked.before))
    assert rows[PREDICTED].cosines[NEXT] == pytest.approx((spans * asked.target).sum(axis=1), abs=2e-3)
    assert rows[PREDICTED].cosines[ASKED] == pytest.approx((spans * asked.last).sum(axis=1), abs=2e-3)
    assert (rows[TRUE].cosines[NEXT] > rows[PREDICTED].cosines[NEXT] + 0.1).all()
    assert outcome.span_next == pytest.approx(rows[TRUE].cosines[NEXT], abs=1e-6)


def test_a_true_prediction_is_worth_what_the_truth_is(searcher: Searcher) -> None:
    with searcher:
        sequences = Sequences(searcher.store.articles(Split.TEST), searcher.vectors)
        told = sequences.unit(sequences.windows(1).target)
        outcome = judged(searcher, Echo(every_span(searcher)), asked_of(searcher, told))
    rows = outcome.predictions
    assert rows[PREDICTED].texts == rows[TRUE].texts == rows[NEAREST_CHUNK].texts
    assert outcome.nearest.tolist() == outcome.asked.windows.target.tolist()
    assert (rows[PREDICTED].cosines[NEXT] > rows[COPIED].cosines[NEXT]).all()


def test_texts_are_embedded_again_whatever_the_decoder_says(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Decoder.decode

    def boasting(self: Decoder, vectors: NDArray[np.float32], **options: object) -> list[object]:
        from dataclasses import replace

        return [replace(gist, cosine=1.0) for gist in whole(self, vectors, **options)]  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "decode", boasting)
    with searcher:
        outcome = judged(searcher, Always(every_span(searcher)))
    assert outcome.spans[decode_row(1)].cosines[ASKED].mean() < 0.8


class Silent(Echo):
    """Has no words."""

    name = "silent"

    def propose(self, targets: NDArray[np.float32], width: int) -> list[list[str]]:
        return [[] for _ in targets]


class Placing(HashingEncoder):
    """Has a vector for no words too, as real encoders have."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return super().encode([text or "the old bridge" for text in texts])


def test_no_words_are_worth_nothing(searcher: Searcher) -> None:
    with searcher:
        outcome = judged(searcher, Silent(every_span(searcher)), steps=0, encoder=Placing())
    for scored in (outcome.spans[decode_row(0)], outcome.predictions[PREDICTED]):
        assert set(scored.texts) == {""}
        for name in (ASKED, "F1", "ROUGE-L", "exact"):
            assert scored.measures()[name].max() == 0


class Restless(HashingEncoder):
    """Places a text elsewhere each time."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.seed = getattr(self, "seed", 0) + 1
        return super().encode([f"{text} {self.seed}" for text in texts])


class Endless(Echo):
    """Knows the texts, and goes on behind them."""

    def correct(self, targets: Floats, texts: Sequence[str], vectors: Floats, width: int) -> list[list[str]]:
        return [[text + " and so on"] for (text,) in super().correct(targets, texts, vectors, width)]


def test_texts_longer_than_a_span_are_cut_before_they_are_judged(searcher: Searcher) -> None:
    with searcher:
        told = judged(searcher, Endless(every_span(searcher)))
    row = told.spans[told.decoded]
    assert row.texts == told.asked.span
    assert row.exact.tolist() == [1.0] * MANY


def test_an_oracle_that_is_not_perfect_stops_everything(searcher: Searcher) -> None:
    with searcher, pytest.raises(LookaheadError, match=r"the oracle has cosine 0\.\d+ for a span it was told"):
        judged(searcher, Echo(every_span(searcher)), encoder=Restless())


def test_where_lengths_count_predictions_are_as_long_as_their_context(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    own = HashingEncoder().fingerprint
    monkeypatch.setattr(Searcher, "fingerprint", replace(own, normalised=False))
    with searcher:
        gather = searcher.vectors.gather
        monkeypatch.setattr(type(searcher.vectors), "gather", lambda self, ids: 3 * gather(ids))
        asked = asked_of(searcher)
    assert np.linalg.norm(asked.predicted, axis=1) == pytest.approx(np.full(MANY, 3), rel=2e-3)
    assert np.linalg.norm(asked.target, axis=1) == pytest.approx(np.full(MANY, 3), rel=2e-3)
    assert np.linalg.norm(asked.mean) == pytest.approx(3, rel=2e-3)


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The collection's home with a model shipped, an inverter that knows every span, and six words for a span."""
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "shipped")
    write_model(tmp_path / "shipped" / "tiny", SUM)
    with Searcher.open(collection) as searcher:
        echo = Echo(every_span(searcher))
    opened = lambda searcher, name: Decoder(echo, searcher.encoder)  # noqa: E731
    monkeypatch.setattr("retrieval.open_inverter.open_decoder", opened)
    monkeypatch.setattr("retrieval.spans.tokenizer_in", lambda folder: None)
    monkeypatch.setattr("retrieval.spans.leading", lambda tokenizer, texts, longest: lead(texts))
    monkeypatch.setattr("commands.evaluate_decode.hush_at_exit", lambda: None)
    return collection.path.parent.parent


def run(home: Path, *arguments: str | Path) -> Result:
    return CliRunner(catch_exceptions=False).invoke(
        main, ["--home", str(home), "evaluate", "decode", *map(str, arguments)]
    )


def test_the_command_prints_a_table_and_writes_a_page_and_json(home: Path, tmp_path: Path) -> None:
    result = run(home, "-c", "wiki", "--out", tmp_path / "out", "--examples", "3", "--quiet")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    head = " ".join(" ".join(lines[:2]).split())
    assert head.startswith("decode, wiki, test split: 16 windows of 4 articles; inverter echo, 1 step, beam 8;")
    assert "predictions of model tiny" in head
    assert "texts are spans of at most 6 tokens" in result.stdout
    assert "4 articles are few: below 20 the intervals are too narrow" in result.stdout
    assert "these are all the windows there are, 200 were asked for" in result.stdout
    assert lines[-1].startswith("command: ")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"decode.json", "decode.md", "decode.html"}
    (kept,) = kept_in(Collection(home / "collections" / "wiki"))
    assert (kept.kind, kept.files) == ("decode", ("decode.json", "decode.md"))
    report = json.loads((tmp_path / "out" / "decode.json").read_text(encoding="utf-8"))
    assert len(report["every"]) == 16
    assert all(len(one["told"]) == 6 for one in report["every"])
    assert all(one in report["every"] for one in report["examples"])
    assert len(report["examples"]) == 3
    page = (tmp_path / "out" / "decode.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 3
    assert "Page &lt;script&gt;" in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("arguments", "windows", "shipped", "written"),
    [
        ((), 2, False, True),
        (("--steps", "0"), 2, False, False),
        (("--bank", "9"), 2, False, False),
        ((), 200, False, False),  # there are but sixteen
        ((), 2, True, False),
    ],
)
def test_only_a_usual_evaluation_of_a_collections_own_inverter_goes_into_its_card(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    windows: int,
    shipped: bool,
    written: bool,
) -> None:
    folder = write_inverter(tmp_path / "mine")
    config = InverterConfig.read(folder)
    there = FoundInverter("mine", folder, config, shipped)
    monkeypatch.setattr("retrieval.open_inverter.own_inverter", lambda decoder: there)
    monkeypatch.setattr("commands.evaluate_decode._WINDOWS", windows)
    assert run(home, "-c", "wiki", "--quiet", *arguments).exit_code == 0
    assert (folder / "metrics.json").exists() is written
    if written:
        assert "| decode, 1 step | 1.000 (1.000 to 1.000)" in (folder / "card.md").read_text(encoding="utf-8")


def test_the_command_prints_one_json_document_that_its_seed_repeats(home: Path) -> None:
    first, again, other = (
        run(home, "-c", "wiki", "--json", "--windows", "6", "--bank", "9", "--seed", seed) for seed in "335"
    )
    assert first.exit_code == 0, first.stderr
    report = json.loads(first.stdout)
    assert first.stderr == ""
    assert report == {**json.loads(again.stdout), "command": report["command"]}
    assert (report["windows"], report["bank"], report["among"]) == (6, 9, 40)
    mine = [(one["title"], one["place"]) for one in report["examples"]]
    assert mine != [(one["title"], one["place"]) for one in json.loads(other.stdout)["examples"]]
    rows = {row["name"]: row["measures"] for row in report["spans"]["rows"]}
    assert rows["decode, 1 step"]["F1"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--windows", "2", "--split", "valid"), "2 windows of one article; a decode is also held against a text of"),
        (("--steps", "1000"), "--steps is between 0 and 50, not 1000"),
        (("--beam", "0"), "--beam is between 1 and 16, not 0"),
        (("--model", "nobody"), 'there is no model "nobody" for wiki'),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(home: Path, options: Sequence[str], said: str) -> None:
    result = run(home, "-c", "wiki", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_collection_whose_articles_have_one_chunk_is_refused(home: Path, tmp_path: Path) -> None:
    from index.build import Choices, ingest
    from store.sources import open_source

    (tmp_path / "a.jsonl").write_text(
        '{"page_id": 1, "title": "A", "text": "One chunk, which is enough to be kept, and is followed by nothing."}\n',
        encoding="utf-8",
    )
    choices = Choices(encoder="hashing", workers=1, quiet=True)
    ingest(
        Collection(tmp_path / "home" / "collections" / "short"), [open_source(tmp_path / "a.jsonl", "jsonl")], choices
    )
    result = run(tmp_path / "home", "-c", "short")
    assert result.exit_code == 2
    assert "short: none of the 1 articles in the test split has 2 chunks" in result.stderr


def test_the_seed_draws_the_training_spans_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval import span_bank

    whole, seeds = span_bank.open_bank, []

    def spied(searcher: Searcher, *parts: object, **options: object) -> span_bank.SpanBank:
        seeds.append((options["most"], options["seed"]))
        return whole(searcher, *parts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(span_bank, "open_bank", spied)
    assert run(home, "-c", "wiki", "--bank", "3", "--windows", "4", "--seed", "11", "--quiet").exit_code == 0
    assert seeds == [(3, 11)]


def test_the_number_of_tokens_comes_from_the_inverter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "retrieval.spans.leading", lambda tokenizer, texts, longest: (seen.append(longest), lead(texts))[1]
    )
    assert run(home, "-c", "wiki", "--bank", "3", "--windows", "4", "--quiet").exit_code == 0
    assert set(seen) == {LONGEST}
