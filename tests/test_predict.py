"""What would come next: the passages nearest to a prediction, the true chunk's rank, and what is masked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import COPY_LAST, SUM, write_model
from tiny_pipelines import AGAINST_PREDICTION, BY_LAST, halved, write_reranker, write_towers

from index.build import Choices, ingest
from index.dense import normalised
from index.hashing import HashingEncoder
from retrieval import candidates
from retrieval.candidates import decayed, marginal
from retrieval.models import GRAPH_WEIGHTS, models_folder
from retrieval.predict import LONGEST_TEXT, LookAhead, Prediction, Way
from retrieval.search import MOST, Searcher
from store.chunking import ChunkingRules, Prefix
from store.database import text_key
from store.generations import Collection
from store.records import LookaheadError
from store.sources import open_source

# a sentence of ten words is a chunk; neighbours share words, as they do in an article
WALK = [
    "The old road leaves the village beside the stone bridge.",
    "Beyond the stone bridge the old road climbs a hill.",
    "On the hill stands a mill with four long sails.",
    "The mill ground barley until its four sails were broken.",
    "Barley fields lie behind it and reach a dark forest.",
    "The dark forest hides a lake that nobody has measured.",
    "Nobody has crossed the lake since the ferry was sold.",
    "Its ferry now carries tourists over a much wider river.",
]
TEA = [
    "Green tea is poured slowly into a cup of china.",
    "This very sentence of ten words is told in places.",
    "Black tea is poured quickly into a mug of clay.",
]
ECHO = [
    "An echo repeats what was said before it was heard.",
    "This very sentence of ten words is TOLD in places.",
    "This very  sentence of ten words is told in places.",
    "After the echo there is nothing left to be said.",
]
PAGES = {
    1: ("Walk", WALK),
    2: ("Tea", TEA),
    3: ("Echo", ECHO),
    4: ("Note", ["A single chunk of ten words is all there is."]),
}
RULES = ChunkingRules(words=10)
Floats = NDArray[np.float32]


def made(folder: Path, pages: dict[int, tuple[str, list[str]]], prefix: Prefix | None = None) -> Collection:
    collection = Collection(folder / "collections" / "c")
    choices = Choices(encoder="hashing", words=10, prefix=prefix, workers=1, quiet=True)
    rows = ({"page_id": page, "title": title, "text": " ".join(texts)} for page, (title, texts) in pages.items())
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ingest(collection, [open_source(folder / "a.jsonl", "jsonl")], choices)
    return collection


def opened(searcher: Searcher, folder: Path, weights: Sequence[float]) -> LookAhead:
    write_model(folder / "tiny", weights)
    return LookAhead.open(searcher, shipped=folder)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    with Searcher.open(made(tmp_path_factory.mktemp("predict"), PAGES)) as one:
        assert one.live == 16
        yield one


@pytest.fixture(scope="module")
def copying(searcher: Searcher, tmp_path_factory: pytest.TempPathFactory) -> LookAhead:
    return opened(searcher, tmp_path_factory.mktemp("copying"), COPY_LAST)


@pytest.fixture(scope="module")
def summing(searcher: Searcher, tmp_path_factory: pytest.TempPathFactory) -> LookAhead:
    return opened(searcher, tmp_path_factory.mktemp("summing"), SUM)


def unit(texts: Sequence[str]) -> Floats:
    return HashingEncoder().encode(texts)


def after(look: LookAhead, title: str, position: int, k: int = 5, *, include_context: bool = False) -> Prediction:
    row = look.searcher.store.article_titled(title)
    return look.after(row, position, k, include_context=include_context)


def texts_of(prediction: Prediction) -> list[str]:
    return [passage.chunk.text for passage in prediction.passages]


def ranking(vector: Floats, masked: Sequence[str], pages: dict[int, tuple[str, list[str]]] = PAGES) -> list[str]:
    """Every text that may answer, once, nearest first."""
    keys = {text_key(text) for text in masked}
    texts = {text_key(text): text for _, page in pages.values() for text in page if text_key(text) not in keys}
    cosines = unit(list(texts.values())) @ vector
    return [list(texts.values())[place] for place in np.argsort(-cosines, kind="stable")]


def exact_rank(vector: Floats, true: str, masked: Sequence[str]) -> int:
    """One more than the chunks that may answer, are not of the true one's text, and lie nearer; each copy counts."""
    out = {*keys(masked), text_key(true)}
    others = [text for _, page in PAGES.values() for text in page if text_key(text) not in out]
    return 1 + int((unit(others) @ vector > unit([true])[0] @ vector).sum())


def keys(texts: Sequence[str]) -> list[str]:
    return [text_key(text) for text in texts]


# -- after a place in an article -----------------------------------------------------------------------------------


@pytest.mark.parametrize("position", range(1, 9))
def test_the_context_is_the_up_to_five_chunks_before_the_place(
    copying: LookAhead, summing: LookAhead, position: int
) -> None:
    before = WALK[max(0, position - 5) : position]
    for look, vector in ((copying, unit(before)[-1]), (summing, normalised(unit(before).sum(axis=0)[None])[0])):
        prediction = after(look, "walk", position)
        assert prediction.context.texts == tuple(before)
        assert (prediction.context.chunks, prediction.context.position) == (position, position)
        assert prediction.context.article is not None
        assert prediction.context.article.title == "Walk"
        assert prediction.vector == pytest.approx(vector, abs=2e-3)
        assert np.linalg.norm(prediction.vector) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("position", range(1, 9))
def test_the_nearest_chunks_answer_best_first_and_equal_texts_once(summing: LookAhead, position: int) -> None:
    prediction = after(summing, "Walk", position, 20)
    before = WALK[max(0, position - 5) : position]
    assert keys(texts_of(prediction)) == keys(ranking(prediction.vector, before))
    cosines = unit(texts_of(prediction)) @ prediction.vector
    assert [passage.score for passage in prediction.passages] == pytest.approx(cosines.tolist(), abs=1e-3)
    assert [passage.parts.dense for passage in prediction.passages] == [one.score for one in prediction.passages]
    assert after(summing, "Walk", position, 3).passages == prediction.passages[:3]


def test_what_was_left_behind_may_answer_and_the_context_only_when_it_is_let(summing: LookAhead) -> None:
    prediction = after(summing, "Walk", 7, 20)
    assert not set(WALK[2:7]) & set(texts_of(prediction))
    assert set(WALK[:2]) <= set(texts_of(prediction))
    everything = after(summing, "Walk", 7, 20, include_context=True)
    assert keys(texts_of(everything)) == keys(ranking(everything.vector, []))
    assert everything.truth is not None
    assert everything.truth.among == 16


def test_copying_with_the_context_let_in_answers_with_the_last_chunk(copying: LookAhead) -> None:
    first = after(copying, "Walk", 3, 1, include_context=True).passages[0]
    assert first.chunk.text == WALK[2]
    assert first.score == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("title", ["Walk", "Tea"])
@pytest.mark.parametrize("include_context", [False, True])
def test_the_true_chunk_comes_where_an_exact_comparison_puts_it(
    copying: LookAhead, summing: LookAhead, title: str, include_context: bool
) -> None:
    chunks = dict(PAGES.values())[title]
    for position in range(1, len(chunks)):
        masked = [] if include_context else chunks[max(0, position - 5) : position]
        prediction = after(summing, title, position, include_context=include_context)
        truth = prediction.truth
        assert truth is not None
        assert truth.passage.chunk.text == chunks[position]
        assert truth.cosine == pytest.approx(float(unit([chunks[position]])[0] @ prediction.vector), abs=1e-3)
        place = keys(ranking(prediction.vector, masked)).index(text_key(chunks[position])) + 1
        assert truth.place == (place if place <= 5 else None)
        assert truth.rank == exact_rank(prediction.vector, chunks[position], masked)
        assert truth.copied == exact_rank(unit([chunks[position - 1]])[0], chunks[position], masked)
        copied = after(copying, title, position, include_context=include_context).truth
        assert copied is not None
        assert copied.rank == copied.copied == truth.copied


def test_ranks_count_chunks_and_the_list_counts_texts(copying: LookAhead) -> None:
    """After the first chunk of Echo the two equal chunks are one passage, and neither stands before the other."""
    prediction = after(copying, "Echo", 1, 20)
    truth = prediction.truth
    assert truth is not None
    assert truth.among == 15
    assert sum(text_key(text) == text_key(ECHO[1]) for text in texts_of(prediction)) == 1
    before = ranking(prediction.vector, [ECHO[0]])
    assert truth.place == truth.rank == keys(before).index(text_key(ECHO[1])) + 1


def test_a_chunk_that_repeats_the_last_one_is_still_the_true_one(copying: LookAhead) -> None:
    prediction = after(copying, "Echo", 2)
    truth = prediction.truth
    assert truth is not None
    assert (truth.rank, truth.copied, truth.place, truth.among) == (1, 1, 1, 13)  # chunk 9, Tea's, is masked too
    assert prediction.passages[0].chunk == truth.passage.chunk


def test_after_the_end_nothing_is_true(copying: LookAhead) -> None:
    prediction = after(copying, "Walk", 8, 20)
    assert prediction.truth is None
    assert prediction.context.texts == tuple(WALK[3:])
    assert keys(texts_of(prediction)) == keys(ranking(prediction.vector, WALK[3:]))
    alone = after(copying, "Note", 1, 3)
    assert alone.truth is None
    assert len(alone.passages) == 3


@pytest.mark.parametrize(
    ("position", "said"),
    [
        (0, r'position 0 is the first chunk of "Tea": it has a context of zero chunks; positions are 1 to 3'),
        (4, r'"Tea" has 3 chunks, there is no position 4; positions are 1 to 3, and 3 is the place after its end'),
        (-1, r'"Tea" has 3 chunks, there is no position -1'),
        (10**30, r'"Tea" has 3 chunks, there is no position 10{30}'),
    ],
)
def test_a_position_that_does_not_exist_is_refused(copying: LookAhead, position: int, said: str) -> None:
    with pytest.raises(LookaheadError, match=said):
        after(copying, "Tea", position)


@pytest.mark.parametrize("k", [0, -1, MOST + 1])
def test_k_has_bounds(copying: LookAhead, k: int) -> None:
    with pytest.raises(LookaheadError, match=f"-k is between 1 and 10000, not {k}"):
        after(copying, "Tea", 1, k)
    with pytest.raises(LookaheadError, match=f"-k is between 1 and 10000, not {k}"):
        copying.text("A text.", k)


def test_dead_chunks_neither_answer_nor_count(tmp_path: Path) -> None:
    made(tmp_path, PAGES)
    changed = {**PAGES, 1: ("Walk", [text.replace("road", "path") for text in WALK])}
    with Searcher.open(made(tmp_path, changed)) as searcher:
        assert searcher.alive is not None
        look = opened(searcher, tmp_path / "shipped", SUM)
        for position in range(1, 8):
            prediction = after(look, "Walk", position, 20)
            before = changed[1][1][max(0, position - 5) : position]
            assert keys(texts_of(prediction)) == keys(ranking(prediction.vector, before, changed))
            assert prediction.truth is not None
            assert prediction.truth.among == 16 - len(before)
        assert not any("road" in text for text in texts_of(look.text("The old road leaves the village.", 20)))


# -- after a text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 9))
def test_a_text_is_cut_and_read_like_an_article(summing: LookAhead, count: int) -> None:
    prediction = summing.text("\n\n".join(WALK[:count]), 20)
    inside = after(summing, "Walk", count, 20)
    assert prediction.context.texts == inside.context.texts
    assert prediction.context.chunks == count
    assert (prediction.context.article, prediction.context.position, prediction.truth) == (None, None, None)
    assert prediction.vector == pytest.approx(inside.vector, abs=2e-3)  # float16 there, float32 here
    assert keys(texts_of(prediction)) == keys(ranking(prediction.vector, WALK[:count]))
    assert prediction.notes == ()


def test_a_chunk_that_stands_in_the_text_does_not_answer_however_the_text_is_cut(copying: LookAhead) -> None:
    text = f"One day. {WALK[3].upper()} And so on it went for ever."
    assert text_key(WALK[3]) not in keys([text])
    told = copying.text(text, 20)
    assert len(told.context.texts) == 2
    assert WALK[3] not in told.context.texts
    assert WALK[3] not in texts_of(told)
    assert len(told.passages) == 13  # 16 without it, and three equal texts once
    assert WALK[3] in texts_of(copying.text(text, 20, include_context=True))


def test_a_text_shorter_than_half_a_chunk_works_and_says_so(copying: LookAhead) -> None:
    prediction = copying.text("A stone bridge.")
    assert prediction.notes == (
        "the text has 3 words, less than half a chunk (10); the model was trained on whole ones",
    )
    assert prediction.vector == pytest.approx(unit(["A stone bridge."])[0], abs=2e-3)
    assert len(prediction.passages) == 5
    assert copying.text("A stone bridge over it.").notes == ()


@pytest.mark.parametrize("text", ["", "  ", "\n\n\t\n", "\x00\x01", "\ufeff", "\udcff"])
def test_a_text_of_nothing_is_refused(copying: LookAhead, text: str) -> None:
    with pytest.raises(LookaheadError, match="the text is empty; type for example: lookahead predict-next --text"):
        copying.text(text)


def test_an_endless_text_is_refused(copying: LookAhead) -> None:
    with pytest.raises(LookaheadError, match="has 1,000,001 characters, at most 1,000,000 are read"):
        copying.text("x" * (LONGEST_TEXT + 1))


def test_a_text_without_a_known_word_still_has_an_answer(copying: LookAhead) -> None:
    """Its vector is zero, and every cosine with it."""
    prediction = copying.text("!!! ??? …", 3)
    assert len(prediction.passages) == 3
    assert {passage.score for passage in prediction.passages} == {0.0}


def test_control_characters_and_spaces_make_no_difference(copying: LookAhead) -> None:
    plain = copying.text("Caf\u00e9 tables stand on the old stone bridge all day.")
    odd = copying.text("  Cafe\u0301 tables\tstand on\u00a0the old \x07stone bridge all day. \r\n")
    assert np.array_equal(odd.vector, plain.vector)
    assert odd.passages == plain.passages


def test_fewer_come_back_only_where_fewer_exist(copying: LookAhead) -> None:
    assert len(copying.text("A stone bridge carries the old road over the hill.", 100).passages) == 14
    assert len(after(copying, "Tea", 1, MOST).passages) == 13


def test_a_text_has_neither_title_nor_heading_before_it(tmp_path: Path) -> None:
    with Searcher.open(made(tmp_path, PAGES, Prefix.TITLE)) as searcher:
        look = opened(searcher, tmp_path / "shipped", COPY_LAST)
        assert look.text(TEA[0]).vector == pytest.approx(unit([TEA[0]])[0], abs=2e-3)
        assert after(look, "Tea", 1).vector == pytest.approx(unit([f"Tea. {TEA[0]}"])[0], abs=2e-3)


def test_equal_texts_of_different_vectors_answer_once_with_the_best(tmp_path: Path) -> None:
    """Titles before the texts set the two equal chunks of Echo and Tea apart."""
    with Searcher.open(made(tmp_path, PAGES, Prefix.TITLE)) as searcher:
        look = opened(searcher, tmp_path / "shipped", COPY_LAST)
        for title, position in (("Echo", 1), ("Tea", 1)):
            prediction = after(look, title, position, 20)
            scores = [passage.score for passage in prediction.passages]
            assert scores == sorted(scores, reverse=True)
            told = [one for one in prediction.passages if text_key(one.chunk.text) == text_key(TEA[1])]
            cosines = unit([f"{other}. {TEA[1]}" for other in ("Tea", "Echo")]) @ prediction.vector
            assert [passage.score for passage in told] == [pytest.approx(float(cosines.max()), abs=1e-3)]
            truth = prediction.truth
            assert truth is not None
            assert truth.cosine == pytest.approx(float(cosines[0 if title == "Tea" else 1]), abs=1e-3)
            others = [
                f"{name}. {text}"
                for name, page in PAGES.values()
                for text in page
                if text_key(text) != text_key(TEA[1])
            ]
            others.remove(f"{title}. {prediction.context.texts[0]}")
            assert truth.rank == 1 + (unit(others) @ prediction.vector > truth.cosine).sum()


def test_the_true_chunks_own_text_elsewhere_does_not_stand_before_it(tmp_path: Path) -> None:
    pages = {1: ("Tea", ["Echo, echo, echo, echo, echo, echo, echo, echo, echo, echo.", TEA[1]]), 2: ("Echo", [TEA[1]])}
    with Searcher.open(made(tmp_path, pages, Prefix.TITLE)) as searcher:
        prediction = after(opened(searcher, tmp_path / "shipped", COPY_LAST), "Tea", 1)
        truth = prediction.truth
        assert truth is not None
        assert [passage.title for passage in prediction.passages] == ["Echo"]
        assert prediction.passages[0].score > truth.cosine
        assert (truth.rank, truth.copied, truth.place, truth.among) == (1, 1, 1, 2)


def test_many_equal_texts_do_not_hide_another(tmp_path: Path) -> None:
    pages = {page: ("Stub", [TEA[0]]) for page in range(1, 41)} | {50: ("Echo", [ECHO[0]]), 51: ("Walk", [WALK[0]])}
    with Searcher.open(made(tmp_path, pages)) as searcher:
        look = opened(searcher, tmp_path / "shipped", COPY_LAST)
        assert len(look.text("Green tea is poured into a cup.", 3).passages) == 3
        assert len(look.text(TEA[0], 2).passages) == 2


# -- which model ---------------------------------------------------------------------------------------------------


def test_the_model_used_is_named(copying: LookAhead, searcher: Searcher, tmp_path: Path) -> None:
    assert (copying.model.name, copying.model.shipped) == ("tiny", True)
    write_model(tmp_path / "other", trained={})
    assert LookAhead.open(searcher, "other", shipped=tmp_path).model.name == "other"
    with pytest.raises(LookaheadError, match=r'no model "gru" for c \(there are: other\)'):
        LookAhead.open(searcher, "gru", shipped=tmp_path)


def test_a_model_of_the_collection_comes_first(tmp_path: Path) -> None:
    collection = made(tmp_path, {2: PAGES[2]})
    write_model(models_folder(collection) / "own", SUM)
    with Searcher.open(collection) as searcher:
        look = opened(searcher, tmp_path / "shipped", COPY_LAST)
        assert (look.model.name, look.model.shipped) == ("own", False)


def test_a_model_trained_on_other_chunks_says_so(searcher: Searcher, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny", chunking=ChunkingRules(words=80, prefix=Prefix.TITLE).as_json())
    prediction = after(LookAhead.open(searcher, shipped=tmp_path), "Tea", 1)
    assert prediction.notes == (
        "model tiny was trained on chunks cut by other rules: words 80 (here 10), prefix title (here none)",
    )
    write_model(tmp_path / "tiny", chunking={"words": 10})
    assert "overlap not told (here 0)" in after(LookAhead.open(searcher, shipped=tmp_path), "Tea", 1).notes[0]


def test_a_damaged_model_is_refused(searcher: Searcher, tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    (tmp_path / "tiny" / GRAPH_WEIGHTS).write_bytes(b"")
    with pytest.raises(LookaheadError, match=r"predictor\.bin is damaged"):
        LookAhead.open(searcher, shipped=tmp_path)


def test_a_place_in_an_article_needs_no_encoder(tmp_path: Path) -> None:
    write_model(tmp_path / "shipped" / "tiny")
    with Searcher.open(made(tmp_path, PAGES)) as searcher:
        look = LookAhead.open(searcher, texts=False, shipped=tmp_path / "shipped")
        assert after(look, "Tea", 1).truth is not None
        assert "encoder" not in searcher.__dict__
        assert look.text("Green tea.").passages  # loaded when it is needed after all


# -- through a P tower, candidates and a reranker ------------------------------------------------------------------

ALL = [text for _, page in PAGES.values() for text in page]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Searcher, Path]]:
    """A searcher of its own, whose collection may be written, and the folder of three shipped models: `towers`, `plain`
    and `turned`, each with a reranker of lists of six."""
    folder = tmp_path_factory.mktemp("parts")
    shipped = folder / "shipped"
    for model, kind, blend in (
        (write_towers(shipped / "towers"), AGAINST_PREDICTION, 0.5),
        (write_model(shipped / "plain", SUM), BY_LAST, 0.0),
        (write_towers(shipped / "turned"), BY_LAST, 0.0),
    ):
        write_reranker(shipped / "rerankers" / model.name, model, kind, blend=blend)
    with Searcher.open(made(folder, PAGES)) as one:
        yield one, shipped


def looking(parts: tuple[Searcher, Path], name: str, **options: Any) -> LookAhead:
    return LookAhead.open(parts[0], name, shipped=parts[1], **options)


def passages(texts: Sequence[str]) -> Floats:
    """Through the tower."""
    vectors = unit(texts)
    return normalised(vectors @ halved(vectors.shape[1]))


def first_scores(prediction: Prediction, texts: Sequence[str], *, tower: bool, blend: float) -> Floats:
    """What the first ranking is by, one chunk after another."""
    context = np.zeros((1, 5, 128), dtype=np.float32)
    context[0, 5 - len(prediction.context.texts) :] = unit(prediction.context.texts)
    mask = np.arange(5)[None] >= 5 - len(prediction.context.texts)
    rows = passages(texts) if tower else unit(texts)
    return np.asarray(rows @ prediction.vector + blend * unit(texts) @ decayed(context, mask)[0], dtype=np.float32)


def in_order(texts: Sequence[str], scores: Floats) -> list[str]:
    return [texts[place] for place in np.argsort(-scores, kind="stable")]


def others(texts: Sequence[str]) -> list[str]:
    """Every chunk that is none of these texts, in the order of their ids."""
    return [text for text in ALL if text_key(text) not in keys(texts)]


def test_a_model_with_a_p_tower_searches_its_own_space(parts: tuple[Searcher, Path]) -> None:
    look = looking(parts, "towers", rerank=False)
    assert (models_folder(Collection(parts[0].generation.path.parent)) / "spaces" / "towers").is_dir()
    assert look.way == Way("towers", tower=True, reranked=False, candidates=0, assist=0, variety=None)
    differs = False
    for position in range(1, 9):
        prediction = after(look, "Walk", position, 20)
        masked = WALK[max(0, position - 5) : position]
        texts = list({text_key(text): text for text in others(masked)}.values())
        wanted = in_order(texts, passages(texts) @ prediction.vector)
        assert keys(texts_of(prediction)) == keys(wanted)
        differs = differs or wanted != in_order(texts, unit(texts) @ prediction.vector)
        cosines = passages(texts_of(prediction)) @ prediction.vector
        assert [one.score for one in prediction.passages] == pytest.approx(cosines.tolist(), abs=2e-3)
        assert prediction.way == look.way
    assert differs  # in the encoder's own space the order is another


def test_the_true_chunks_rank_is_in_the_models_space_and_copying_stays_in_the_encoders(
    parts: tuple[Searcher, Path], copying: LookAhead
) -> None:
    look = looking(parts, "towers", rerank=False)
    ranks = []
    for position in range(1, 8):
        truth = after(look, "Walk", position).truth
        vector = after(look, "Walk", position).vector
        known = after(copying, "Walk", position).truth
        assert truth is not None
        assert known is not None
        rivals = others([*WALK[max(0, position - 5) : position], WALK[position]])
        cosine = float(passages([WALK[position]])[0] @ vector)
        assert truth.rank == 1 + int((passages(rivals) @ vector > cosine).sum())
        assert truth.cosine == pytest.approx(cosine, abs=2e-3)
        assert (truth.copied, truth.among) == (known.copied, known.among)
        ranks.append((truth.rank, truth.copied))
    assert any(rank != copied for rank, copied in ranks)


@pytest.mark.parametrize(("name", "tower", "blend"), [("towers", True, 0.5), ("plain", False, 0.0)])
@pytest.mark.parametrize(("title", "position"), [("Walk", 1), ("Walk", 3), ("Walk", 7), ("Walk", 8), ("Tea", 1)])
def test_the_best_six_are_reranked_and_the_others_follow_by_the_first_score(
    parts: tuple[Searcher, Path], name: str, tower: bool, blend: float, title: str, position: int
) -> None:
    page = dict(PAGES.values())[title]
    look = looking(parts, name)
    assert look.way == Way(name, tower=tower, reranked=True, candidates=6, assist=0, variety=None)
    prediction = after(look, title, position, 20)
    texts = others(page[max(0, position - 5) : position])
    ranked = in_order(texts, first_scores(prediction, texts, tower=tower, blend=blend))
    listed, behind = ranked[:6], ranked[6:]
    if name == "towers":
        scores = -10 * passages(listed) @ prediction.vector
    else:
        scores = 10 * unit(listed) @ unit([page[position - 1]])[0]
    wanted = in_order(listed, scores) + behind
    once = list(dict.fromkeys(keys(wanted)))
    assert keys(texts_of(prediction)) == once
    shares = {text_key(text): share for text, share in zip(listed, np.exp(scores) / np.exp(scores).sum(), strict=True)}
    for passage in prediction.passages:
        key = text_key(passage.chunk.text)
        assert passage.score == pytest.approx(shares.get(key, 0.0), abs=0.02)
        own = passages([passage.chunk.text]) if tower else unit([passage.chunk.text])
        assert passage.parts.dense == pytest.approx(float(own[0] @ prediction.vector), abs=2e-3)
        assert passage.parts.dense_rank == keys(ranked).index(key) + 1
    truth = prediction.truth
    assert (truth is None) == (position == 8)
    if truth is not None:
        assert title == "Walk" or page[position] not in listed  # one of Tea's is behind its list
        assert truth.rank == keys(wanted).index(text_key(page[position])) + 1
        assert truth.place == once.index(text_key(page[position])) + 1
        assert truth.passage.score == pytest.approx(shares.get(text_key(page[position]), 0.0), abs=0.02)


def test_a_text_is_reranked_as_an_articles_end_is_and_what_stands_in_it_is_no_candidate(
    parts: tuple[Searcher, Path],
) -> None:
    look = looking(parts, "towers")
    inside = after(look, "Walk", 8, 20)
    told = look.text("\n\n".join(WALK[3:]), 20)
    without = [text for text in texts_of(inside) if text not in WALK[3:]]
    assert texts_of(told) == without  # of chunks 3 to 7 the list holds none either way
    glued = f"One day. {WALK[3].upper()} And so on it went for ever."
    told = look.text(glued, 20)
    texts = [text for text in ALL if text != WALK[3]]
    ranked = in_order(texts, first_scores(told, texts, tower=True, blend=0.5))
    assert set(keys(texts_of(told)[:5])) <= set(keys(ranked[:6]))
    assert WALK[3] not in texts_of(told)


def test_assistance_brings_chunks_of_the_article_at_hand_into_the_list(
    parts: tuple[Searcher, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "HEAD", 2)
    look = looking(parts, "turned", assist=3)
    prediction = after(look, "Walk", 5, 20)
    assert prediction.way.assist == 3
    texts = others(WALK[:5])
    ranked = in_order(texts, first_scores(prediction, texts, tower=True, blend=0.0))
    own, far = WALK[5:], WALK[7]
    assert far not in ranked[:6]
    listed = [*own, *[text for text in ranked if text not in own][:3]]
    scores = 10 * unit(listed) @ unit([WALK[4]])[0]
    behind = [text for text in ranked if text not in listed]
    assert keys(texts_of(prediction)) == list(dict.fromkeys(keys(in_order(listed, scores) + behind)))
    helped = next(one for one in prediction.passages if one.chunk.text == far)
    assert helped.parts.dense_rank == ranked.index(far) + 1
    assert helped.score > 0
    assert not set(WALK[3:]) & set(texts_of(after(look, "Walk", 8, 20)))  # which are its context
    plain = after(looking(parts, "turned"), "Walk", 5, 20)
    assert next(one for one in plain.passages if one.chunk.text == far).score == 0
    assert sorted(texts_of(plain)) == sorted(texts_of(prediction))


def test_without_a_reranker_they_stand_behind_the_very_best(
    parts: tuple[Searcher, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "HEAD", 2)
    look = looking(parts, "plain", rerank=False, assist=3)
    prediction = after(look, "Walk", 5, 20)
    texts = others(WALK[:5])
    ranked = in_order(texts, unit(texts) @ prediction.vector)
    own = [text for text in ranked if text in WALK and text not in ranked[:2]]
    assert own
    assert ranked.index(own[-1]) > 3
    wanted = [*ranked[:2], *own, *[text for text in ranked[2:] if text not in own]]
    assert keys(texts_of(prediction)) == list(dict.fromkeys(keys(wanted)))
    assert prediction.truth is not None
    assert prediction.truth.rank == keys(wanted).index(text_key(WALK[5])) + 1


def test_variety_changes_the_order_but_not_what_may_answer(parts: tuple[Searcher, Path]) -> None:
    plain = after(looking(parts, "plain", rerank=False), "Walk", 4, 20)
    same = after(looking(parts, "plain", rerank=False, variety=1.0), "Walk", 4, 20)
    assert texts_of(same) == texts_of(plain)
    varied = after(looking(parts, "plain", rerank=False, variety=0.3), "Walk", 4, 20)
    assert varied.way.variety == 0.3
    assert texts_of(varied)[0] == texts_of(plain)[0]
    assert texts_of(varied) != texts_of(plain)
    assert sorted(texts_of(varied)) == sorted(texts_of(plain))
    texts = others(WALK[:4])
    scores = unit(texts) @ varied.vector
    taken = [texts[place] for place in marginal(scores, unit(texts), 0.3, len(texts))]
    assert keys(texts_of(varied)) == list(dict.fromkeys(keys(taken)))
    assert varied.truth is not None
    assert varied.truth.rank == keys(taken).index(text_key(WALK[4])) + 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"assist": -1}, "--assist is between 0 and 45, not -1"),
        ({"assist": 46}, "--assist is between 0 and 45, not 46"),
        ({"variety": 1.5}, r"--variety is between 0 .* and 1 .*, not 1\.5"),
        ({"variety": float("nan")}, "--variety is between 0 .* and 1 .*, not nan"),
        ({"rerank": True, "name": "amn"}, "there is no reranker over model amn; run: lookahead train reranker"),
    ],
)
def test_what_cannot_be_is_refused(parts: tuple[Searcher, Path], options: dict[str, Any], said: str) -> None:
    if "name" in options:
        write_model(parts[1] / "amn")
    with pytest.raises(LookaheadError, match=said):
        looking(parts, **{"name": "plain", **options})


@pytest.mark.parametrize("rerank", [True, False])
def test_dead_chunks_neither_answer_in_a_space_nor_count(tmp_path: Path, rerank: bool) -> None:
    made(tmp_path, PAGES)
    model = write_towers(tmp_path / "shipped" / "towers")
    write_reranker(tmp_path / "shipped" / "rerankers" / "towers", model, AGAINST_PREDICTION, blend=0.5)
    changed = {**PAGES, 1: ("Walk", [text.replace("road", "path") for text in WALK])}
    with Searcher.open(made(tmp_path, changed)) as searcher:
        assert searcher.alive is not None
        look = LookAhead.open(searcher, shipped=tmp_path / "shipped", rerank=rerank)
        for position in range(1, 9):
            prediction = after(look, "Walk", position, 20)
            before = keys(changed[1][1][max(0, position - 5) : position])
            alive = {text_key(text) for _, page in changed.values() for text in page}
            assert set(keys(texts_of(prediction))) == alive - set(before)
            if prediction.truth is not None:
                assert prediction.truth.among == 16 - len(before)
