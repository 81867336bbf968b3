"""Search: what each mode answers, how two lists become one, filters before the top-k, and readers that live on."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from index.build import Choices, compact, ingest
from index.dense import Hit
from index.hashing import HashingEncoder
from retrieval import search as searching
from retrieval.closeness import closeness
from retrieval.search import MOST, Fusion, Mode, Question, Searcher, collection_at, fuse, tidy_query
from store.database import Filter, Found, Store
from store.generations import Collection
from store.records import LookaheadError, Split
from store.sources import open_source
from store.splits import split_of

CHOICES = Choices(encoder="hashing", words=10, workers=1, quiet=True)
COMPLETE = Choices(workers=1, quiet=True, delete_missing=True)

Sections = list[tuple[str, str]]

# one sentence of ten words or more, one chunk
PAGES: dict[int, tuple[str, Sections]] = {
    1: ("Tea", [("", "Green tea is poured slowly into a cup of thin china.")]),
    2: ("Coffee", [("", "Black coffee is poured quickly into a cup of thick clay.")]),
    3: ("Bridge", [("", "A stone bridge carries the old road over our small river."),
                   ("Building", "The masons built every arch of it upon a wooden frame.")]),
    4: ("River", [("", "The small river rises in the hills and feeds a lake."),
                  ("Building", "No bridge was built over it until the railway had come.")]),
    5: ("Echo", [("", "This very sentence of ten words is told in two places.")]),
    6: ("Second Echo", [("", "This very  sentence of ten words is TOLD in two places.")]),
    8: ("Fjord", [("", "Die kleine Brücke führt über den Fluss und weiter zum See.")]),
}  # fmt: skip


def write(path: Path, pages: dict[int, tuple[str, Sections]]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for page, (title, sections) in pages.items():
            row = {"page_id": page, "title": title, "sections": [{"heading": h, "text": t} for h, t in sections]}
            file.write(json.dumps(row) + "\n")
    return path


def made(folder: Path, pages: dict[int, tuple[str, Sections]], choices: Choices = CHOICES) -> Collection:
    collection = Collection(folder / "collections" / "c")
    ingest(collection, [open_source(write(folder / "a.jsonl", pages), "jsonl")], choices)
    return collection


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    with Searcher.open(made(tmp_path_factory.mktemp("search"), PAGES)) as opened:
        yield opened


def many(count: int, version: int = 0) -> dict[int, tuple[str, Sections]]:
    return {
        page: (f"T{page}", [("", f"Sentence p{page}v{version} is about a stone bridge over the river.")])
        for page in range(1, count + 1)
    }


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    """300 chunks that all speak of the same thing."""
    with Searcher.open(made(tmp_path_factory.mktemp("crowd"), many(300))) as opened:
        yield opened


# -- modes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(Mode))
def test_the_words_of_a_chunk_find_it_in_every_mode(searcher: Searcher, mode: Mode) -> None:
    best = searcher.search("green tea poured slowly", 1, mode=mode)[0]
    assert (best.title, best.chunk.page_id, best.chunk.position) == ("Tea", 1, 0)


def test_dense_answers_with_cosines_and_their_ranks(searcher: Searcher) -> None:
    passages = searcher.search("stone bridge over a river", 4, mode=Mode.DENSE)
    encoder = HashingEncoder()
    query = encoder.encode_queries(["stone bridge over a river"])[0]
    for rank, passage in enumerate(passages, 1):
        cosine = float(encoder.encode([passage.chunk.text])[0] @ query)
        assert passage.parts == searching.Parts(dense=passage.score, dense_rank=rank)
        assert passage.score == pytest.approx(cosine, abs=2e-3)
    assert [one.score for one in passages] == sorted((one.score for one in passages), reverse=True)


def test_lexical_answers_with_nothing_when_no_word_is_known(searcher: Searcher) -> None:
    assert searcher.search("xylophone quartz", 5, mode=Mode.LEXICAL) == []
    assert len(searcher.search("xylophone quartz", 5, mode=Mode.DENSE)) == 5
    hybrid = searcher.search("xylophone quartz", 5)
    assert len(hybrid) == 5
    assert all(one.parts.lexical == 0.0 and one.parts.lexical_rank is None for one in hybrid)


def test_lexical_answers_only_with_what_holds_a_word_whatever_its_ending(searcher: Searcher) -> None:
    found = searcher.search("bridges", 10, mode=Mode.LEXICAL)
    assert {passage.chunk.chunk_id for passage in found} == {2, 3, 5}  # the title "Bridge" counts as a word too
    assert [one.parts.lexical_rank for one in found] == [1, 2, 3]
    assert all(one.score == one.parts.lexical and one.parts.dense is None for one in found)


def _expected_hybrid(searcher: Searcher, query: str) -> list[tuple[int, float]]:
    """The fused and read list, made again from the two lists and the texts by the formula in words."""
    rows = searcher.generation.manifest.counts["chunks"]
    unit = searcher.encoder.encode_queries([query])[0]
    near = {hit.chunk_id: hit.score for hit in searcher.dense.search(unit, rows)}
    worded = {hit.chunk_id: hit.score for hit in searcher.lexical.search(query, rows)}
    ids = sorted(near)
    cosine = np.array([near[one] for one in ids])
    bm25 = np.array([worded.get(one, 0.0) for one in ids])
    share = searching.DENSE_WEIGHT
    z = share * (cosine - cosine.mean()) / cosine.std() + (1 - share) * (bm25 - bm25.mean()) / (bm25.std() or 1.0)
    rarity = searcher.lexical.rarity(searcher.lexical.words(query))
    texts = [found.chunk.text for found in searcher.store.chunks(ids)]
    near_each_other = [closeness(rarity, searcher.lexical.stems(text)) for text in texts]
    scores = [
        (one, float(z[place]) + searching.CLOSENESS_WEIGHT * near_each_other[place]) for place, one in enumerate(ids)
    ]
    return sorted(scores, key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("query", ["stone bridge over a river", "poured into a cup", "told", "xylophone"])
def test_hybrid_is_the_weighted_sum_of_both_lists_and_closeness(searcher: Searcher, query: str) -> None:
    expected = _expected_hybrid(searcher, query)
    ranked = searcher.rank(query)
    assert [one.chunk_id for one in ranked] == [one for one, _ in expected]
    assert [one.score for one in ranked] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_the_parts_of_a_hybrid_score_are_those_of_the_two_lists(searcher: Searcher) -> None:
    query = "stone bridge over a river"
    dense = {one.chunk_id: one for one in searcher.rank(query, mode=Mode.DENSE)}
    worded = {one.chunk_id: one for one in searcher.rank(query, mode=Mode.LEXICAL)}
    ranked = searcher.rank(query)
    assert {one.chunk_id for one in ranked} == set(dense)
    for one in ranked:
        assert one.parts.dense == pytest.approx(dense[one.chunk_id].score, abs=1e-3)
        assert one.parts.dense_rank == dense[one.chunk_id].parts.dense_rank
        if one.chunk_id in worded:
            assert one.parts.lexical == worded[one.chunk_id].score
            assert one.parts.lexical_rank == worded[one.chunk_id].parts.lexical_rank
        else:
            assert (one.parts.lexical, one.parts.lexical_rank) == (0.0, None)
        assert one.parts.closeness is not None
        assert 0.0 <= one.parts.closeness <= 1.0


def test_a_candidate_outside_the_lexical_top_has_its_bm25_all_the_same(crowd: Searcher) -> None:
    ranked = crowd.rank("stone bridge p7v0", 10)
    everywhere = crowd.lexical.scores("stone bridge p7v0", np.arange(300))
    outside = [one for one in ranked if one.parts.lexical_rank is None]
    assert outside
    for one in ranked:
        assert one.parts.lexical == pytest.approx(everywhere[one.chunk_id], rel=1e-5)


def test_reciprocal_ranks_are_an_option(searcher: Searcher) -> None:
    query = "stone bridge over a river"
    for one in searcher.search(query, 8, fusion=Fusion.RRF):
        ranks = [rank for rank in (one.parts.dense_rank, one.parts.lexical_rank) if rank is not None]
        assert one.score == pytest.approx(sum(1 / (60 + rank) for rank in ranks))
        assert one.parts.closeness is None


@pytest.mark.parametrize("mode", list(Mode))
def test_the_same_search_has_the_same_answer(crowd: Searcher, mode: Mode) -> None:
    first = crowd.search("stone bridge", 50, mode=mode)
    assert crowd.search("stone bridge", 50, mode=mode) == first
    with Searcher(crowd.generation) as another:
        assert another.search("stone bridge", 50, mode=mode) == first


# -- fusion alone --------------------------------------------------------------------------------------------


def _fused(cosines: list[float], bm25: list[float], fusion: Fusion = Fusion.ZSUM, weight: float = 0.5) -> list[float]:
    ids = np.arange(len(cosines), dtype=np.int64)
    near = [Hit(int(place), cosines[place]) for place in np.argsort(-np.array(cosines), kind="stable")]
    worded = [Hit(int(place), bm25[place]) for place in np.argsort(-np.array(bm25), kind="stable") if bm25[place] > 0]
    first, second = np.array(cosines, dtype=np.float32), np.array(bm25, dtype=np.float32)
    ranked = fuse(ids, first, second, near, worded, fusion, weight)
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    return [score for _, score in sorted((one.chunk_id, one.score) for one in ranked)]


def test_two_opposite_lists_of_equal_weight_cancel() -> None:
    assert _fused([1.0, 0.0], [0.0, 5.0]) == [0.0, 0.0]


def test_scores_are_counted_in_standard_deviations() -> None:
    assert _fused([1.0, 0.0], [7.0, 3.0]) == [1.0, -1.0]
    assert _fused([1.0, 0.0], [3.0, 7.0], weight=0.75) == [0.5, -0.5]


def test_a_list_without_spread_does_not_count() -> None:
    assert _fused([0.5, 0.5], [4.0, 2.0]) == [0.5, -0.5]
    assert _fused([0.5, 0.5, 0.5], [0.0, 0.0, 0.0]) == [0.0, 0.0, 0.0]


def test_reciprocal_rank_fusion_adds_one_over_sixty_plus_rank() -> None:
    assert _fused([0.9, 0.8, 0.7], [0.0, 2.0, 1.0], Fusion.RRF) == pytest.approx(
        [1 / 61, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62]
    )


def test_ties_are_broken_by_the_chunk_id() -> None:
    ids = np.array([2, 5, 9], dtype=np.int64)
    same = np.full(3, 0.25, dtype=np.float32)
    assert [one.chunk_id for one in fuse(ids, same, same, [], [], Fusion.ZSUM)] == [2, 5, 9]
    assert [one.chunk_id for one in fuse(ids, same, same, [], [], Fusion.RRF)] == [2, 5, 9]


def test_nothing_fused_is_nothing() -> None:
    nothing = np.zeros(0, dtype=np.float32)
    for fusion in Fusion:
        assert fuse(np.zeros(0, dtype=np.int64), nothing, nothing, [], [], fusion) == []


scores = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 50)), min_size=2, max_size=12)


@given(scores, st.integers(1, 5), st.integers(-5, 5))
def test_the_scale_of_a_list_does_not_matter(pairs: list[tuple[int, int]], factor: int, shift: int) -> None:
    cosines = [first / 64 for first, _ in pairs]
    bm25 = [float(second) for _, second in pairs]
    stretched = _fused(cosines, [factor * value + shift + 100 for value in bm25])
    assert stretched == pytest.approx(_fused(cosines, bm25), abs=1e-4)


@given(scores)
def test_better_in_both_lists_is_better(pairs: list[tuple[int, int]]) -> None:
    fused = _fused([first / 64 for first, _ in pairs], [float(second) for _, second in pairs])
    assert all(math.isfinite(value) for value in fused)
    for one, (a, b) in zip(fused, pairs, strict=True):
        for other, (c, d) in zip(fused, pairs, strict=True):
            if a >= c and b >= d:
                assert one >= other - 1e-6


# -- filters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.DENSE, Mode.HYBRID])
@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Filter(titles=("bridge",)), {2, 3}),
        (Filter(titles=("Bridge", "TEA ")), {0, 2, 3}),
        (Filter(page_ids=(4,)), {4, 5}),
        (Filter(page_ids=(3, 4), sections=("building",)), {3, 5}),
        (Filter(sections=("building",)), {3, 5}),
        (Filter(titles=("River",), sections=("Building",)), {5}),
        (Filter(sections=("No such heading",)), set()),
        (Filter(splits=(Split.TRAIN, Split.VALID, Split.TEST)), {0, 1, 2, 3, 4, 5, 6, 8}),
    ],
)
def test_everything_that_passes_a_filter_comes_back_and_nothing_else(
    searcher: Searcher, mode: Mode, wanted: Filter, ids: set[int]
) -> None:
    """Chunk 7 has the text of chunk 6 and may stand for it."""
    found = {one.chunk.chunk_id for one in searcher.search("green tea", 20, mode=mode, wanted=wanted)}
    assert found - {7} == ids - {7}


@pytest.mark.parametrize("mode", list(Mode))
def test_a_filter_leaves_only_its_split(crowd: Searcher, mode: Mode) -> None:
    for split in Split:
        expected = {page for page in range(1, 301) if split_of(page) is split}
        found = crowd.search("stone bridge", 300, mode=mode, wanted=Filter(splits=(split,)))
        assert {one.chunk.page_id for one in found} == expected


@pytest.mark.parametrize("mode", list(Mode))
def test_k_results_come_back_whenever_k_pass_however_far_down_they_stand(crowd: Searcher, mode: Mode) -> None:
    last = [one.chunk.page_id for one in crowd.search("stone bridge river", 300, mode=mode)][-3:]
    found = crowd.search("stone bridge river", 3, mode=mode, wanted=Filter(page_ids=tuple(last)))
    assert {one.chunk.page_id for one in found} == set(last)


def test_an_unknown_title_offers_the_nearest(searcher: Searcher) -> None:
    with pytest.raises(LookaheadError, match=r'no article is titled "Brigde"; the nearest are "Bridge", '):
        searcher.search("tea", wanted=Filter(titles=("Brigde",)))


@pytest.mark.parametrize("page", [99, 0, -1, 10**30])
def test_an_unknown_page_id_is_an_error_in_one_line(searcher: Searcher, page: int) -> None:
    with pytest.raises(LookaheadError, match=f"no article has the page id {page}$"):
        searcher.search("tea", wanted=Filter(page_ids=(page,)))


def test_filters_may_hold_what_no_text_can(searcher: Searcher) -> None:
    with pytest.raises(LookaheadError, match="no article is titled"):
        searcher.search("tea", wanted=Filter(titles=("\udcff' OR 1=1 --\0",)))
    assert searcher.search("tea", wanted=Filter(sections=("\udcff\0",))) == []


# -- equal texts, dead chunks, k -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(Mode))
def test_texts_that_differ_in_case_and_spacing_alone_are_shown_once(searcher: Searcher, mode: Mode) -> None:
    found = searcher.search("this very sentence is told in two places", 9, mode=mode)
    told = [one for one in found if "sentence" in one.chunk.text]
    assert len(told) == 1
    if mode is not Mode.LEXICAL:
        assert len(found) == 8, "nine chunks, eight texts"


def test_copies_do_not_take_the_place_of_others(tmp_path: Path) -> None:
    same = "The very same sentence about a bridge stands in every page."
    pages = {page: (f"T{page}", [("", same)]) for page in range(1, 251)}
    pages |= {
        page: (f"T{page}", [("", f"Here p{page} has a bridge that is quite unlike the others.")])
        for page in range(251, 257)
    }
    with Searcher.open(made(tmp_path, pages)) as searcher:
        for mode in Mode:
            texts = [one.chunk.text for one in searcher.search("very same sentence about a bridge", 5, mode=mode)]
            assert len(set(texts)) == len(texts) == 5


@pytest.mark.parametrize("k", [0, -1, MOST + 1, 10**20])
def test_a_k_that_makes_no_sense_is_refused(searcher: Searcher, k: int) -> None:
    with pytest.raises(LookaheadError, match=rf"-k is between 1 and 10000, not {k}$"):
        searcher.search("tea", k)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("k", [1, 99, 100, 101, 200, 299, 300, 301, MOST])
def test_k_results_come_back_or_all_there_are(crowd: Searcher, mode: Mode, k: int) -> None:
    found = crowd.search("stone bridge", k, mode=mode)
    assert len({one.chunk.chunk_id for one in found}) == len(found) == min(k, 300)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_dead_chunks_never_come_back(tmp_path: Path) -> None:
    collection = made(tmp_path, many(40))
    source = write(tmp_path / "a.jsonl", {page: many(40, 1 if page % 2 else 0)[page] for page in range(1, 31)})
    ingest(collection, [open_source(source, "jsonl")], COMPLETE)
    alive = {f"p{page}v{page % 2}" for page in range(1, 31)}
    with Searcher.open(collection) as searcher:
        assert (searcher.live, len(searcher.vectors)) == (30, 55)
        for mode in Mode:
            for query in ("stone bridge", "p40v0 p1v0 sentence"):
                found = searcher.search(query, 100, mode=mode)
                assert {one.chunk.text.split()[1] for one in found} == alive
                assert len(found) == 30
        assert not any("p1v0" in one.chunk.text for mode in Mode for one in searcher.search("p1v0", 9, mode=mode))


# -- many at once ----------------------------------------------------------------------------------------------

MIXED = [
    Question("stone bridge over a river"),
    Question("green tea", 2, Mode.DENSE),
    Question("bridges", 9, Mode.LEXICAL),
    Question("xylophone quartz", 3, Mode.LEXICAL),
    Question("poured into a cup", 4, fusion=Fusion.RRF),
    Question("poured into a cup", 4, wanted=Filter(titles=("Tea", "bridge"))),
    Question("an arch", 20, Mode.DENSE, Filter(titles=("Tea", "bridge"))),
    Question("this very sentence is told in two places", 9),
    Question("tea", 5, wanted=Filter(sections=("No such heading",))),
    Question("stone bridge over a river"),
]


def alone(searcher: Searcher, question: Question) -> list[searching.Passage]:
    return searcher.search(
        question.query, question.k, mode=question.mode, wanted=question.wanted, fusion=question.fusion
    )


def test_questions_asked_together_are_answered_as_each_alone(searcher: Searcher) -> None:
    assert searcher.search_many(MIXED) == [alone(searcher, question) for question in MIXED]
    assert searcher.search_many([]) == []


def test_a_question_that_cannot_be_answered_has_its_error_and_spoils_no_other(searcher: Searcher) -> None:
    wrong = [Question(" "), Question("tea", 0), Question("tea", wanted=Filter(titles=("Brigde",)))]
    first, *errors, last = searcher.search_many([MIXED[0], *wrong, MIXED[1]])
    assert (first, last) == (alone(searcher, MIXED[0]), alone(searcher, MIXED[1]))
    assert all(isinstance(one, LookaheadError) for one in errors)
    assert [str(one)[:22] for one in errors] == [
        "the query is empty; ty",
        "-k is between 1 and 10",
        'no article is titled "',
    ]


def test_together_there_is_one_call_of_each_kind(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    looked_up: list[int] = []
    really_encode, really_look_up = searcher.encoder.encode_queries, searcher.store.chunks

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        encoded.append(len(texts))
        return really_encode(texts)

    def look_up(ids: Sequence[int]) -> list[Found]:
        looked_up.append(len(ids))
        return really_look_up(ids)

    monkeypatch.setattr(searcher.encoder, "encode_queries", encode)
    monkeypatch.setattr(searcher.store, "chunks", look_up)
    searcher.search_many([Question(query) for query in ("green tea", "stone bridge", "small river", "green tea")])
    assert encoded == [4]
    assert looked_up == [9], "every chunk there is, once"


def test_only_those_that_come_up_short_are_searched_deeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = "The very same sentence about a bridge stands in every page."
    pages = {page: (f"T{page}", [("", same)]) for page in range(1, 101)}
    pages |= {
        page: (f"T{page}", [("", f"Here p{page} has a bridge that is quite unlike the others.")])
        for page in range(101, 200)
    }
    with Searcher.open(made(tmp_path, pages)) as searcher:
        depths: list[list[int]] = []
        really = searcher._find_near

        def noted(asked: Sequence[searching._Asked]) -> None:
            depths.append([one.depth for one in asked])
            really(asked)

        monkeypatch.setattr(searcher, "_find_near", noted)
        asked = [Question("the very same sentence", 3), Question("unlike p150", 3)]
        together = searcher.search_many(asked)
        assert depths == [[60, 60], [240]]
        assert together == [alone(searcher, question) for question in asked]
        assert all(isinstance(found, list) and len({one.chunk.text for one in found}) == 3 for found in together)


# -- threads ---------------------------------------------------------------------------------------------------


def test_threads_that_come_at_once_open_each_part_once_and_get_the_same(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [alone(searcher, question) for question in MIXED]
    opened: list[Path] = []
    really = Store.open

    def slowly(path: Path) -> Store:
        opened.append(path)
        threading.Event().wait(0.05)
        return really(path)

    monkeypatch.setattr(Store, "open", slowly)
    with Searcher(searcher.generation) as fresh, ThreadPoolExecutor(6) as threads:
        together = threads.submit(fresh.search_many, MIXED)
        asked = list(range(len(MIXED))) * 6
        for place, found in zip(asked, threads.map(lambda at: alone(fresh, MIXED[at]), asked), strict=True):
            assert found == expected[place]
        assert together.result() == expected
    assert len(opened) == 1


def test_a_part_that_cannot_be_opened_can_be_tried_again(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    with Searcher(searcher.generation) as fresh:
        with monkeypatch.context() as broken:
            broken.setattr(Store, "open", lambda path: (_ for _ in ()).throw(LookaheadError("not now")))
            with pytest.raises(LookaheadError, match="not now"):
                fresh.search("green tea")
        assert fresh.search("green tea", 1)[0].title == "Tea"


# -- queries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", " ", "\n\t", "\x00\x07\x1b", "\ud800", "\x7f \x85"])
def test_a_query_without_anything_in_it_is_refused(searcher: Searcher, query: str) -> None:
    with pytest.raises(LookaheadError, match="the query is empty; type for example"):
        searcher.search(query)


def test_an_endless_query_is_refused_and_a_long_one_is_answered(searcher: Searcher) -> None:
    with pytest.raises(LookaheadError, match="the query has 100,000 characters, at most 10,000 are read; shorten it"):
        searcher.search("x" * 100_000)
    for mode in Mode:
        assert searcher.search("green tea " * 1000, 1, mode=mode)[0].title == "Tea"
    assert len(searcher.search(" ".join(f"word{n}" for n in range(1200)), 2)) == 2


@pytest.mark.parametrize("mode", list(Mode))
def test_control_characters_are_as_spaces(searcher: Searcher, mode: Mode) -> None:
    plain = searcher.search("green tea", 3, mode=mode)
    assert searcher.search("\x1b green\x00tea\n\ud800", 3, mode=mode) == plain


@pytest.mark.parametrize(
    "query",
    [
        "石の橋",
        "каменный мост",
        "جسر",
        "🫖",
        "?!…",
        "\u200b",
        "AND OR NOT",
        'text:"tea" +cup -x^2 ~*()[]{}',
        "' OR 1=1; --",
    ],
)
def test_any_language_and_any_sign_has_an_honest_answer(searcher: Searcher, query: str) -> None:
    assert len(searcher.search(query, 3)) == 3
    assert len(searcher.search(query, 3, mode=Mode.DENSE)) == 3
    for passage in searcher.search(query, 3, mode=Mode.LEXICAL):
        assert set(searcher.lexical.words(query)) & set(
            searcher.lexical.words(passage.title + " " + passage.chunk.text)
        )


def test_case_and_composition_make_no_difference(searcher: Searcher) -> None:
    for query in ("Brücke", "Bru\u0308cke", "BRÜCKE"):
        assert searcher.search(query, 1, mode=Mode.LEXICAL)[0].title == "Fjord"


@given(st.text(max_size=60))
def test_a_tidy_query_is_one_line_that_stays_as_it_is(query: str) -> None:
    try:
        tidy = tidy_query(query)
    except LookaheadError:
        return
    assert tidy == tidy_query(tidy) == " ".join(tidy.split())
    assert tidy.isascii() is False or tidy.isprintable()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", ".hidden", "a b", "a\\b", "x" * 300, "\udcff", "a\0"])
def test_a_name_that_is_a_path_or_no_name_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(LookaheadError, match="is not a name for a collection") as caught:
        collection_at(tmp_path, name)
    assert len(str(caught.value)) < 300
    str(caught.value).encode()


# -- readers and writers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", ["warmed", "used"])
def test_an_open_reader_answers_as_before_while_generations_come_and_go(tmp_path: Path, opened: str) -> None:
    collection = made(tmp_path, many(10))
    with Searcher.open(collection) as searcher, Searcher.open(collection) as reference:
        expected = {mode: reference.search("stone bridge p3v0", 4, mode=mode) for mode in Mode}
        if opened == "used":
            searcher.search("anything", 1)
        else:
            searcher.warm()
        for last in (11, 12, 13):
            source = open_source(write(tmp_path / "a.jsonl", many(last, last)), "jsonl")
            ingest(collection, [source], COMPLETE)
        compact(collection, quiet=True)
        collection.collect_garbage(1)
        assert not searcher.generation.path.exists()
        with ThreadPoolExecutor(3) as threads:  # which have not been here before
            for mode in Mode:
                here = searcher.search("stone bridge p3v0", 4, mode=mode)
                there = threads.map(lambda asked: searcher.search("stone bridge p3v0", 4, mode=asked), [mode] * 3)
                assert [here, *there] == [expected[mode]] * 4
    with Searcher.open(collection) as fresh:
        assert "p3v13" in fresh.search("p3v13", 1)[0].chunk.text


def test_a_lexical_search_opens_neither_vectors_nor_encoder(tmp_path: Path) -> None:
    collection = made(tmp_path, PAGES)
    with Searcher.open(collection) as searcher:
        assert searcher.search("green tea", 1, mode=Mode.LEXICAL)[0].title == "Tea"
        assert not {"encoder", "dense", "vectors"} & searcher.__dict__.keys()


def test_what_a_searcher_says_of_itself(searcher: Searcher) -> None:
    assert searcher.fingerprint == HashingEncoder().fingerprint
    assert searcher.live == 9
    assert searcher.alive is None
