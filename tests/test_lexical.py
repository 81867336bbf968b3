"""Words: endings, accents and titles count as they should, odd queries do no harm, filters lose no hit."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index import lexical
from index.dense import Hit, IdSet
from index.lexical import LexicalIndex, stemmed_languages
from store.generations import link_or_copy
from store.records import LookaheadError

ROWS = [
    (0, "Bridge", "A bridge carries loads across a river"),
    (1, "Toll", "Tolls were paid at every crossing of the canal"),
    (2, "Café", "The naïve résumé of a fiancé lists his clichés"),
    (3, "Programming", 'Some wrote C++ AND (others "quoted" Pascal\\Delphi) OR 100% Fortran 77'),
    (4, "River", "Water runs downhill"),
]


def written(
    folder: Path, *rows: tuple[int, str, str], language: str = "en", gone: list[int] | None = None
) -> LexicalIndex:
    lexical.build(folder, language, rows, gone=None if gone is None else np.array(gone, dtype=np.int64))
    return LexicalIndex.open(folder, language)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> LexicalIndex:
    return written(tmp_path_factory.mktemp("five") / "lexical", *ROWS)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> LexicalIndex:
    """12,000 chunks: each says "common", each tenth "tenth", and "rare" stands once, in chunk 777."""
    rows = (
        (number, "", "common" + " tenth" * (number % 10 == 0) + " rare" * (number == 777) + " filler" * (number % 7))
        for number in range(12_000)
    )
    return written(tmp_path_factory.mktemp("many") / "lexical", *rows)


def ids(hits: list[Hit]) -> list[int]:
    return [hit.chunk_id for hit in hits]


# -- words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["bridge", "Bridges", "BRIDGING", "carry", "carried", "loading"])
def test_a_word_is_found_whatever_its_ending_and_case(five: LexicalIndex, query: str) -> None:
    assert ids(five.search(query, 5)) == [0]


@pytest.mark.parametrize(
    "query", ["cafe", "café", "CAFÉ", "naive", "naïve", "resume", "résumé", "fiance", "cliches", "cliché"]
)
def test_a_word_is_found_with_and_without_its_accents(five: LexicalIndex, query: str) -> None:
    assert ids(five.search(query, 5)) == [2]


def test_a_word_of_the_title_finds_every_chunk_under_it_but_counts_less_than_one_of_the_text(
    five: LexicalIndex,
) -> None:
    hits = five.search("river", 5)
    assert ids(hits) == [0, 4]
    assert hits[0].score > hits[1].score > 0


def test_more_and_rarer_words_score_higher(five: LexicalIndex) -> None:
    assert ids(five.search("a canal crossing", 5))[0] == 1
    assert five.search("river bridge", 1)[0].score > five.search("river", 1)[0].score


def test_the_different_words_of_a_text_are_told_in_order_and_as_the_index_spells_them(five: LexicalIndex) -> None:
    assert five.words("Rivers, a RIVER; running (Bridges)!") == ["river", "a", "run", "bridg"]
    assert five.words("") == []


def test_spans_show_where_the_words_of_a_query_stand(five: LexicalIndex) -> None:
    text = "The bridges of Königsberg: a bridge, seven Bridging problems. Résumé"
    found = [text[start:stop] for start, stop in five.spans(text, "konigsberg BRIDGE resume missing")]
    assert found == ["bridges", "Königsberg", "bridge", "Bridging", "Résumé"]
    assert five.spans("", "bridge") == five.spans(text, "") == []


def test_a_rare_word_is_rarer_than_a_common_one_and_no_rarity_is_below_zero(tmp_path: Path, many: LexicalIndex) -> None:
    rarity = many.rarity(["common", "tenth", "rare", "never"])
    assert 0 <= rarity["common"] < rarity["tenth"] < rarity["rare"] < rarity["never"]
    thinned = written(tmp_path / "l", *((number, "", "same words") for number in range(40)))
    assert thinned.rarity(["same"])["same"] >= 0
    thinned = written(tmp_path / "l", gone=list(range(38)))
    assert thinned.rarity(["same"])["same"] >= 0


# -- queries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "C++ AND (",
        '"quoted',
        "Pascal\\",
        "100%",
        "OR",
        "fortran^2",
        "title:pascal",
        "+wrote -wrote",
        "[wrote TO pascal]",
        "pascal~",
        "pasc*l delphi",
        "wrote && others || ()",
    ],
)
def test_signs_of_query_languages_are_only_signs(five: LexicalIndex, query: str) -> None:
    assert ids(five.search(query, 5))[:1] == [3]


@pytest.mark.parametrize("query", ["", " ", "?!", '"', "\\", "(((", "\x00", "\u202e", "🌉", "zzz", "の", "a" * 100_000])
def test_a_query_without_a_known_word_has_an_empty_answer(many: LexicalIndex, query: str) -> None:
    assert many.search(query, 5) == []
    assert many.scores(query, np.arange(5)) == {}
    assert many.spans("common tenth", query) == []


@given(st.text(max_size=200))
def test_no_text_breaks_a_search(five: LexicalIndex, query: str) -> None:
    hits = five.search(query.encode("utf-8", "replace").decode(), 3)
    assert len(hits) <= 3
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_of_a_very_long_query_the_first_different_words_are_looked_up(five: LexicalIndex) -> None:
    strangers = " ".join(f"stranger{number}" for number in range(lexical.LONGEST_QUERY - 1))
    assert ids(five.search(f"{strangers} {strangers} canal", 5)) == [1]
    assert five.search(f"one {strangers} more canal", 5) == []


@pytest.mark.parametrize(("k", "count"), [(-1, 0), (0, 0), (1, 1), (2, 2), (3, 2), (10**9, 2)])
def test_k_hits_come_back_and_fewer_only_where_fewer_exist(five: LexicalIndex, k: int, count: int) -> None:
    assert len(five.search("river", k)) == count


def test_equal_scores_are_ordered_by_id(tmp_path: Path) -> None:
    same = written(tmp_path / "l", *((number, "", "same words") for number in (5, 3, 9, 1, 7)))
    hits = same.search("words", 5)
    assert ids(hits) == [1, 3, 5, 7, 9]
    assert len({hit.score for hit in hits}) == 1


def test_an_index_of_nothing_finds_nothing(tmp_path: Path) -> None:
    empty = written(tmp_path / "l")
    assert len(empty) == 0
    assert empty.search("bridge", 5) == []
    assert empty.search("bridge", 5, IdSet(np.array([], dtype=np.int64), 1)) == []
    assert empty.rarity(["bridge"])["bridge"] >= 0


def test_empty_texts_and_titles_are_no_trouble(tmp_path: Path) -> None:
    index = written(tmp_path / "l", (0, "", ""), (1, "", "bridge"), (2, "bridge", ""))
    assert len(index) == 3
    assert sorted(ids(index.search("bridge", 5))) == [1, 2]


# -- filters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 30, 4_999, 5_000, 5_001, 11_000])
@pytest.mark.parametrize("query", ["common", "common rare tenth"])
def test_k_hits_come_back_from_a_filter_of_any_size_and_none_from_outside(
    many: LexicalIndex, count: int, query: str
) -> None:
    chosen = np.sort(np.random.default_rng(count).choice(12_000, count, replace=False))
    hits = many.search(query, 20, IdSet(chosen, 12_000))
    assert len(hits) == min(20, count)
    assert set(ids(hits)) <= set(chosen.tolist())
    unfiltered = {hit.chunk_id: hit.score for hit in many.search(query, 12_000)}
    best = sorted((unfiltered[one] for one in chosen.tolist()), reverse=True)[:20]
    assert [hit.score for hit in hits] == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("query", ["rare", "tenth", "common"])
def test_the_hits_that_rank_last_of_all_are_found_when_only_they_may_answer(many: LexicalIndex, query: str) -> None:
    whole = ids(many.search(query, 12_000))
    for count in (3, 6_000):
        worst = np.sort(np.array(whole[-count:]))
        hits = many.search(query, 3, IdSet(worst, 12_000))
        assert len(hits) == min(3, len(worst))
        assert set(ids(hits)) <= set(worst.tolist())


def test_a_filter_that_no_holder_of_the_word_passes_leaves_nothing(many: LexicalIndex) -> None:
    without = np.array([number for number in range(12_000) if number != 777])
    for chosen in (without, without[:40], without[:0]):
        assert many.search("rare", 5, IdSet(chosen, 12_000)) == []


def test_scores_of_given_chunks_are_those_of_the_search_and_the_wordless_are_absent(many: LexicalIndex) -> None:
    found = {hit.chunk_id: hit.score for hit in many.search("tenth rare", 12_000)}
    scores = many.scores("tenth rare", np.array([777, 5, 10, 20]))
    assert scores.keys() == {777, 10, 20}
    assert scores == pytest.approx({one: found[one] for one in scores}, rel=1e-5)
    assert many.scores("tenth", np.array([], dtype=np.int64)) == {}
    assert many.scores("tenth", np.array([-1, 12_000, 10**12])) == {}


@pytest.mark.parametrize("count", [3, 300, 3_000])
def test_scores_are_the_same_however_many_are_asked_for(many: LexicalIndex, count: int) -> None:
    """Few are looked up, more are named, and many are a set."""
    found = {hit.chunk_id: hit.score for hit in many.search("tenth rare common filler", 12_000)}
    asked = np.arange(777, 777 + count)
    expected = {int(one): found[int(one)] for one in asked}
    assert many.scores("tenth rare common filler", asked) == pytest.approx(expected, rel=1e-5)


# -- growing ---------------------------------------------------------------------------------------------


def test_what_is_gone_is_not_found_and_what_came_is(tmp_path: Path) -> None:
    written(tmp_path / "l", *ROWS)
    index = written(tmp_path / "l", (5, "Bridge", "A new bridge"), (6, "Ferry", "No bridge"), gone=[0, 3])
    assert len(index) == 5
    assert sorted(ids(index.search("bridge", 9))) == [5, 6]
    assert index.search("fortran", 9) == []
    assert index.scores("bridge", np.array([0, 5])).keys() == {5}


def test_what_is_gone_already_may_be_taken_out_again(tmp_path: Path) -> None:
    written(tmp_path / "l", *ROWS)
    written(tmp_path / "l", gone=[0])
    assert len(written(tmp_path / "l", (5, "", "five"), gone=[0, 1])) == 4


def test_a_grown_index_answers_like_one_built_in_one_go(tmp_path: Path) -> None:
    written(tmp_path / "grown", *ROWS[:2])
    written(tmp_path / "grown", *ROWS[2:4])
    grown, whole = written(tmp_path / "grown", *ROWS[4:]), written(tmp_path / "whole", *ROWS)
    for query in ("river", "bridge of a canal", "water OR cafe"):
        assert ids(grown.search(query, 5)) == ids(whole.search(query, 5))
        assert [hit.score for hit in grown.search(query, 5)] == pytest.approx(
            [hit.score for hit in whole.search(query, 5)]
        )


def test_growing_a_hard_linked_copy_leaves_every_byte_of_the_parent(tmp_path: Path) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    before = written(parent, *ROWS)
    sealed = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parent.iterdir()}
    for path in parent.iterdir():
        if not path.name.endswith(".lock"):
            link_or_copy(path, child / path.name)
    for round_number in range(6):  # enough segments for a merge
        written(child, (10 + round_number, "", "bridge over the river"), gone=[0] if round_number else [1])
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parent.iterdir()} == sealed
    assert ids(before.search("canal", 5)) == [1]
    again = LexicalIndex.open(parent, "en")
    assert (len(again), ids(again.search("canal", 5))) == (5, [1])
    assert len(LexicalIndex.open(child, "en")) == 9


def test_no_lock_is_left_by_a_build(tmp_path: Path) -> None:
    lexical.build(tmp_path / "l", "en", ROWS)
    assert list((tmp_path / "l").glob("*.lock")) == []


def test_an_open_index_answers_although_its_folder_went(tmp_path: Path) -> None:
    index = written(tmp_path / "l", *ROWS)
    for path in (tmp_path / "l").iterdir():
        path.unlink()
    assert ids(index.search("canal", 5)) == [1]


def test_an_index_in_a_folder_that_cannot_be_written_can_be_read() -> None:
    code = """
import os, sys
from pathlib import Path
from index.lexical import LexicalIndex
if os.geteuid() == 0:  # to whom nothing is forbidden
    os.setgid(65534)
    os.setuid(65534)
print([hit.chunk_id for hit in LexicalIndex.open(Path(sys.argv[1]), "en").search("canal", 5)])
"""
    with tempfile.TemporaryDirectory() as home:  # pytest's own folders cannot be entered by another user
        folder = Path(home, "lexical")
        lexical.build(folder, "en", ROWS)
        for path in folder.iterdir():
            path.chmod(0o444)
        for path in (folder, Path(home)):
            path.chmod(0o555)
        asked = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
        Path(home).chmod(0o755)
        folder.chmod(0o755)
    assert (asked.stdout, asked.stderr) == ("[1]\n", "")


# -- other languages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "text", "query"),
    [
        ("de", "Die Brücken führten über die Flüsse", "Brücke Fluss"),
        ("de", "Die Brücken führten über die Flüsse", "brucken"),
        ("fr", "Les cathédrales gothiques", "cathédrale gothique"),
        ("fr", "Les cathédrales gothiques", "cathedrales"),
        ("pl", "Łódź i Kraków", "lodz"),
        ("es", "Las canciones de los niños", "canción niño"),
        ("ru", "Мосты через реки", "мост река"),
        ("el", "Οι γέφυρες", "γέφυρα"),
        ("tr", "Köprüler", "köprü"),
        ("pl", "Most na rzece", "most"),
        ("xx", "bridge", "BRIDGE"),
        ("ja", "東京 と 大阪", "大阪"),
    ],
)
def test_other_languages_are_stemmed_where_that_is_known_and_lower_cased_always(
    tmp_path: Path, language: str, text: str, query: str
) -> None:
    assert ids(written(tmp_path / "l", (0, "", text), (1, "", "else"), language=language).search(query, 5)) == [0]


def test_every_stemmer_promised_exists(tmp_path: Path) -> None:
    assert len(stemmed_languages()) == 18
    for language in stemmed_languages():
        assert len(written(tmp_path / language, (0, "word", "word"), language=language).search("word", 1)) == 1


# -- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["missing", "empty", "no meta", "half a meta"])
def test_a_folder_that_is_no_index_is_one_line(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "l"
    if how != "missing":
        lexical.build(folder, "en", ROWS)
    if how == "empty":
        for path in folder.iterdir():
            path.unlink()
    elif how == "no meta":
        (folder / "meta.json").unlink()
    elif how == "half a meta":
        (folder / "meta.json").write_bytes((folder / "meta.json").read_bytes()[:100])
    with pytest.raises(LookaheadError, match=r"cannot open .*; run: lookahead verify") as caught:
        LexicalIndex.open(folder, "en")
    assert "\n" not in str(caught.value)
