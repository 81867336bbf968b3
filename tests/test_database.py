"""The metadata store in DuckDB and in PostgreSQL alike: ids without gaps, answers in the order asked, filters that let
no dead row through."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from store.database import ArticleRow, Counts, Entry, Filter, Store, kept_url
from store.generations import Generation, Manifest
from store.places import Place, Schema
from store.records import Article, Chunk, LookaheadError, Piece, Split, digest
from store.splits import split_of

TRAINED, TESTED, VALIDATED = 2, 1, 17  # page ids by their split


def entry(page_id: int, title: str, *pieces: str | tuple[str, str], source: str = "dump") -> Entry:
    """An article of those texts; a text alone stands in the section "Lead"."""
    cut = [Piece("Lead", piece) if isinstance(piece, str) else Piece(*piece) for piece in pieces]
    return Entry(Article(page_id, title, ()), cut, source, digest(title, *(piece.text for piece in cut)))


@pytest.fixture(scope="module", params=["duckdb", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Place]:
    """Gives a place where nothing is yet."""
    numbers = itertools.count()
    if request.param == "duckdb":
        folder = tmp_path_factory.mktemp("places")
        return lambda: folder / f"{next(numbers)}.duckdb"
    url = kept_url(request.getfixturevalue("postgres").url())
    return lambda: Schema(url, f"tested_{next(numbers):08x}_000001_abcdef")


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    with Store.create_or_resume(place) as opened:
        yield opened


def run(code: str, place: Place) -> subprocess.CompletedProcess[str]:
    """Some code in a process of its own, with `place` in it."""
    begin = f"from pathlib import PosixPath\nfrom store.places import Schema\nplace = {place!r}\n"
    return subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, check=False)


@pytest.fixture
def bridges(store: Store) -> Store:
    """Seven chunks of three pages, of which one was replaced: 0 and 1 are dead."""
    store.add([entry(TRAINED, "Old Bridge", "stone", "iron")])
    store.add([
        entry(TESTED, "Suez Canal", ("", "dug by hand"), ("Tolls", "paid in gold"), ("History", "opened in 1869")),
        entry(VALIDATED, "Straße", ("History", "paved")),
    ])  # fmt: skip
    store.add([entry(TRAINED, "New Bridge", ("History", "steel"))])
    return store


def texts(store: Store, ids: Sequence[int]) -> list[str]:
    return [found.chunk.text for found in store.chunks(ids)]


def passing(store: Store, wanted: Filter) -> list[int]:
    return store.ids_where(wanted).tolist()


# -- ids -------------------------------------------------------------------------------------------------


def test_ids_count_up_from_zero_through_articles_and_calls(store: Store) -> None:
    store.add([entry(70, "B", "b0", "b1"), entry(5, "A", "a0")])
    store.add([entry(6, "C", "c0", "c1", "c2")])
    assert texts(store, range(6)) == ["b0", "b1", "a0", "c0", "c1", "c2"]
    assert [(row.page_id, row.first_chunk, row.chunk_count) for row in store.articles()] == [
        (70, 0, 2),
        (5, 2, 1),
        (6, 3, 3),
    ]


def test_a_chunk_comes_back_whole_with_its_title(store: Store) -> None:
    store.add([entry(5, "A", ("Lead", "zero"), ("Life", "one"))])
    (found,) = store.chunks([1])
    assert found.chunk == Chunk(1, 5, 1, "Life", "one")
    assert found.title == "A"


def test_an_article_comes_back_with_its_split_source_and_digest(store: Store) -> None:
    written = entry(TESTED, "A", "zero", source="enwiki")
    store.add([written])
    assert store.article(TESTED) == ArticleRow(TESTED, "A", Split.TEST, "enwiki", written.digest, 0, 1)
    assert store.article_keys() == {TESTED: ("enwiki", written.digest)}


def test_chunks_are_answered_in_the_order_asked_and_as_often(store: Store) -> None:
    store.add([entry(1, "A", *(f"text {number}" for number in range(600)))])
    asked = [500, 3, 77, 3, 599, 0]
    assert texts(store, asked) == [f"text {number}" for number in asked]
    assert texts(store, np.array(asked)) == [f"text {number}" for number in asked]
    assert store.chunks([]) == []


@pytest.mark.parametrize("ids", [[3], [-1], [0, 99, 1], [2**62]])
def test_an_id_that_does_not_exist_is_an_error(store: Store, ids: list[int]) -> None:
    store.add([entry(1, "A", "a", "b", "c")])
    with pytest.raises(LookaheadError, match="no chunk has the id"):
        store.chunks(ids)
    assert texts(store, [2, 0]) == ["c", "a"]


def test_texts_of_a_stretch_come_in_order_with_their_titles(bridges: Store) -> None:
    assert bridges.texts(1, 4) == [
        ("New Bridge", "Lead", "iron"),  # a dead row: the title is what its page is called now
        ("Suez Canal", "", "dug by hand"),
        ("Suez Canal", "Tolls", "paid in gold"),
    ]
    assert bridges.texts(5, 5) == []


def test_equal_texts_have_equal_keys_whatever_their_case_and_spacing(store: Store) -> None:
    store.add([entry(1, "A", "The  Bridge", "the bridge", "the bridges")])
    one, two, three = store.chunks([0, 1, 2])
    assert one.text_key == two.text_key != three.text_key


# -- replacing and removing ------------------------------------------------------------------------------


def test_pages_and_keys_of_all_rows_come_in_the_order_of_their_ids(bridges: Store) -> None:
    pages, keys = bridges.pages_and_keys()
    assert pages.tolist() == [TRAINED, TRAINED, TESTED, TESTED, TESTED, VALIDATED, TRAINED]  # the dead ones too
    assert [key.decode() for key in keys] == [found.text_key for found in bridges.chunks(range(7))]


def test_a_replaced_article_leaves_its_old_rows_dead_and_gets_new_ones(bridges: Store) -> None:
    assert bridges.dead_ids().tolist() == [0, 1]
    assert bridges.counts() == Counts(articles=3, chunks=7, live=5)
    assert (bridges.article(TRAINED).title, bridges.article(TRAINED).first_chunk) == ("New Bridge", 6)
    assert texts(bridges, [0, 6]) == ["stone", "steel"]
    assert bridges.faults() == []


def test_a_removed_article_is_gone_and_its_rows_are_dead(bridges: Store) -> None:
    assert bridges.remove([TESTED, 999]) == 1
    assert bridges.dead_ids().tolist() == [0, 1, 2, 3, 4]
    assert bridges.counts() == Counts(articles=2, chunks=7, live=2)
    with pytest.raises(LookaheadError, match=f"no article has the page id {TESTED}"):
        bridges.article(TESTED)
    assert bridges.chunks([2])[0].title == ""
    assert bridges.faults() == []


def test_removing_nothing_changes_nothing(bridges: Store) -> None:
    before = bridges.counts()
    assert bridges.remove([]) == 0
    assert bridges.remove(iter([998, 999])) == 0
    bridges.add([])
    assert bridges.counts() == before


def test_an_article_that_comes_back_gets_fresh_rows(bridges: Store) -> None:
    bridges.remove([TESTED])
    bridges.add([entry(TESTED, "Suez Canal", "dug again")])
    assert bridges.article(TESTED).first_chunk == 7
    assert texts(bridges, [2, 7]) == ["dug by hand", "dug again"]
    assert bridges.faults() == []


def test_of_two_entries_of_one_page_in_a_call_the_last_wins(store: Store) -> None:
    store.add([entry(1, "A", "first", "text"), entry(2, "B", "between"), entry(1, "A", "second")])
    assert store.counts() == Counts(articles=2, chunks=2, live=2)
    assert sorted(texts(store, [0, 1])) == ["between", "second"]


def test_an_article_without_chunks_is_kept(store: Store) -> None:
    store.add([entry(1, "Empty"), entry(2, "B", "b")])
    assert store.article(1).chunk_count == 0
    assert passing(store, Filter(page_ids=(1,))) == []
    assert store.faults() == []
    store.remove([1])
    assert store.faults() == []


def test_an_entry_can_be_read_back_and_written_elsewhere(bridges: Store, new_place: Callable[[], Place]) -> None:
    with Store.create_or_resume(new_place()) as other:
        other.add([bridges.entry(row) for row in bridges.articles()])
        assert other.counts() == Counts(articles=3, chunks=5, live=5)
        assert other.article_keys() == bridges.article_keys()
        assert texts(other, range(5)) == ["dug by hand", "paid in gold", "opened in 1869", "paved", "steel"]
        assert other.faults() == []


def test_a_text_that_cannot_be_written_leaves_the_store_as_it_was(bridges: Store) -> None:
    before = bridges.articles()
    with pytest.raises(
        Exception, match=r"surrogate"
    ):  # a lone surrogate; sources take them out, and DuckDB refuses them
        bridges.add([entry(50, "Fine", "fine"), entry(TESTED, "Broken", "\ud800")])
    assert bridges.articles() == before
    bridges.add([entry(50, "Fine", "fine")])
    assert texts(bridges, [7]) == ["fine"]
    assert bridges.faults() == []


# -- filters ---------------------------------------------------------------------------------------------


def test_no_filter_lets_every_live_chunk_through(bridges: Store) -> None:
    assert not Filter()
    assert passing(bridges, Filter()) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("title", ["Suez Canal", "suez canal", "SUEZ CANAL", "  Suez Canal "])
def test_a_title_is_found_whatever_its_case(bridges: Store, title: str) -> None:
    assert passing(bridges, Filter(titles=(title,))) == [2, 3, 4]
    assert bridges.article_titled(title).page_id == TESTED


def test_an_unknown_title_is_an_error_that_offers_the_nearest(bridges: Store) -> None:
    for ask in (lambda: passing(bridges, Filter(titles=("Suez Kanal",))), lambda: bridges.article_titled("Suez Kanal")):
        with pytest.raises(LookaheadError, match=r'no article is titled "Suez Kanal"; the nearest are "Suez Canal"'):
            ask()


def test_a_retired_title_is_unknown(bridges: Store) -> None:
    with pytest.raises(LookaheadError, match=r'the nearest are "New Bridge"'):
        bridges.ids_where(Filter(titles=("Old Bridge",)))


def test_an_unknown_title_in_an_empty_store_offers_nothing(store: Store) -> None:
    with pytest.raises(LookaheadError, match=r'no article is titled "A"$'):
        store.article_titled("A")


@pytest.mark.parametrize(
    "title", ["ΟΔΥΣΣΕΥΣ", "İstanbul", "ẞ", "ﬁn", "ǅ", "ΣΑΣ", "O'Neill", 'The "Quoted"', "100%", "a_b"]
)
def test_every_article_is_found_by_its_own_title(store: Store, title: str) -> None:
    store.add([entry(1, "Another", "x"), entry(2, title, "y")])
    assert store.article_titled(title).page_id == 2
    assert passing(store, Filter(titles=(title,))) == [1]


def test_of_titles_that_differ_only_in_case_the_one_spelled_so_is_meant(store: Store) -> None:
    store.add([entry(1, "AIDS", "a disease"), entry(2, "Aids", "helpers"), entry(3, "aids", "in lower case")])
    assert [store.article_titled(title).page_id for title in ("AIDS", "Aids", "aids")] == [1, 2, 3]
    assert passing(store, Filter(titles=("Aids",))) == [1]


def test_a_page_id_picks_its_page_and_an_unknown_one_is_an_error(bridges: Store) -> None:
    assert passing(bridges, Filter(page_ids=(VALIDATED, TRAINED))) == [5, 6]
    with pytest.raises(LookaheadError, match="no article has the page id 404"):
        bridges.ids_where(Filter(page_ids=(VALIDATED, 404)))


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Filter(sections=("History",)), [4, 5, 6]),
        (Filter(sections=("HISTORY", "tolls")), [3, 4, 5, 6]),
        (Filter(sections=("",)), [2]),
        (Filter(sections=("Nowhere",)), []),
        (Filter(splits=(Split.TEST,)), [2, 3, 4]),
        (Filter(splits=(Split.VALID, Split.TRAIN)), [5, 6]),
        (Filter(titles=("Straße", "new bridge")), [5, 6]),
    ],
)
def test_values_of_one_field_are_alternatives(bridges: Store, wanted: Filter, ids: list[int]) -> None:
    assert wanted
    assert passing(bridges, wanted) == ids


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Filter(titles=("Suez Canal",), sections=("History",)), [4]),
        (Filter(page_ids=(TESTED, TRAINED), sections=("History",), splits=(Split.TRAIN,)), [6]),
        (Filter(titles=("Suez Canal",), splits=(Split.TRAIN,)), []),
        (Filter(titles=("Suez Canal", "Straße"), page_ids=(VALIDATED, TRAINED)), [5]),
        (Filter(titles=("Suez Canal",), page_ids=(VALIDATED,)), []),
    ],
)
def test_different_fields_must_all_agree(bridges: Store, wanted: Filter, ids: list[int]) -> None:
    assert passing(bridges, wanted) == ids


def test_articles_can_be_listed_by_split(bridges: Store) -> None:
    assert [row.title for row in bridges.articles()] == ["Suez Canal", "Straße", "New Bridge"]
    assert [row.title for row in bridges.articles(Split.VALID)] == ["Straße"]


# -- against a model, with texts as nasty as they come ----------------------------------------------------

nasty = st.text(st.characters(exclude_categories=("Cs",)), max_size=30) | st.sampled_from(
    [
        "",
        "\x00",
        "a\x00b",
        "'; DROP TABLE chunks; --",
        "%_\\",
        "\u202e",
        "👩‍👩‍👧",
        "e\u0301",
        "\ufeff",
        "NULL",
        "\n\t",
        "ß" * 500,
    ]
)
some_entries = st.lists(
    st.builds(
        lambda page, title, pieces: entry(page, title, *pieces),
        st.integers(-3, 6) | st.sampled_from([2**62, -(2**62)]),
        nasty,
        st.lists(st.tuples(nasty, nasty), max_size=4),
    ),
    max_size=4,
)
steps = st.lists(some_entries | st.sets(st.integers(-3, 6)), max_size=5)


@settings(max_examples=30)
@given(steps)
def test_whatever_is_added_and_removed_the_store_holds_what_a_dictionary_would(
    new_place: Callable[[], Place], steps: list[list[Entry] | set[int]]
) -> None:
    place = new_place()
    held = (lambda text: text) if isinstance(place, Path) else (lambda text: text.replace("\0", "\ufffd"))
    kept: dict[int, Entry] = {}
    with Store.create_or_resume(place) as store:
        for step in steps:
            if isinstance(step, set):
                assert store.remove(step) == len(step & kept.keys())
                kept = {page: one for page, one in kept.items() if page not in step}
            else:
                store.add(step)
                kept |= {one.article.page_id: one for one in step}
    with Store.open(place) as store:
        assert store.faults() == []
        rows = store.articles()
        assert {row.page_id for row in rows} == kept.keys()
        for row in rows:
            one = kept[row.page_id]
            found = store.chunks(range(row.first_chunk, row.first_chunk + row.chunk_count))
            assert [(each.chunk.section, each.chunk.text) for each in found] == [
                (held(piece.section), held(piece.text)) for piece in one.pieces
            ]
            assert all(each.title == row.title == held(one.article.title) for each in found)
            if row.title == row.title.strip():
                assert row in store._articles_titled(one.article.title)
            assert row.split is split_of(row.page_id)
            assert (row.source, row.digest) == (one.source, one.digest)
        counts = store.counts()
        assert counts.live == sum(len(one.pieces) for one in kept.values())
        live = set(passing(store, Filter()))
        assert live | set(store.dead_ids().tolist()) == set(range(counts.chunks))
        assert len(live) == counts.live


# -- places ----------------------------------------------------------------------------------------------


def test_everything_committed_is_there_after_a_kill_without_a_checkpoint(place: Place) -> None:
    code = """
import os
from store.database import *
from store.records import *
store = Store.create_or_resume(place)
for page in range(5):
    store.add([Entry(Article(page, f"Page {page}", ()), [Piece("", f"text {page}")], "dump", "0")])
store.remove([3])
os._exit(9)
"""
    assert run(code, place).returncode == 9
    with Store.create_or_resume(place) as store:
        assert store.counts() == Counts(articles=4, chunks=5, live=4)
        assert store.dead_ids().tolist() == [3]
        store.add([entry(9, "After", "after")])
        assert texts(store, [0, 5]) == ["text 0", "after"]
        assert store.faults() == []


def test_a_new_place_begins_as_a_copy_of_the_one_it_grows_from(place: Place, new_place: Callable[[], Place]) -> None:
    with Store.create_or_resume(place) as old:
        old.add([entry(1, "A", "a", "b"), entry(2, "B", "c")])
        old.remove([2])
        old.checkpoint()
    grown = new_place()
    for text in ("once", "twice"):  # begun already: nothing is copied again
        with Store.create_or_resume(grown, grown_from=place) as store:
            store.add([entry(3, "C", text)])
            store.checkpoint()
    with Store.open(place) as old, Store.open(grown) as store:
        assert (texts(old, range(3)), old.counts()) == (["a", "b", "c"], Counts(articles=1, chunks=3, live=2))
        assert (texts(store, range(5)), store.counts()) == (["a", "b", "c", "once", "twice"], Counts(2, 5, 3))
        assert store.dead_ids().tolist() == [2, 3]
        assert store.article_keys() == {**old.article_keys(), 3: store.article_keys()[3]}
        assert store.article_titled("a").page_id == 1
        assert store.faults() == []


@pytest.mark.parametrize("there", [Path("old.duckdb"), Schema("postgresql://h/d", "old")])
def test_one_kind_of_place_does_not_grow_from_the_other(tmp_path: Path, there: Place) -> None:
    here = Schema("postgresql://h/d", "new") if isinstance(there, Path) else tmp_path / "new.duckdb"
    with pytest.raises(LookaheadError, match=r"new.* cannot grow from .*old.*compact --store"):
        Store.create_or_resume(here, grown_from=there)


def test_a_published_generation_says_where_its_rows_are(place: Place, tmp_path: Path) -> None:
    with Store.create_or_resume(place) as store:
        store.add([entry(1, "A", "a")])
        store.checkpoint()
    facts = {}
    if isinstance(place, Path):
        place.rename(tmp_path / "chunks.duckdb")
    else:
        facts = {"store": place.as_json()}
    with Store.at(Generation(tmp_path, Manifest(1, None, "", "", {}, facts))) as store:
        assert texts(store, [0]) == ["a"]


def test_after_a_checkpoint_the_file_alone_is_everything(tmp_path: Path) -> None:
    with Store.create_or_resume(tmp_path / "chunks.duckdb") as store:
        store.add([entry(1, "A", "a", "b")])
        store.checkpoint()
        alone = (tmp_path / "chunks.duckdb").read_bytes()
    (tmp_path / "copy.duckdb").write_bytes(alone)
    with Store.open(tmp_path / "copy.duckdb") as copy:
        assert texts(copy, [1, 0]) == ["b", "a"]


def test_a_closed_store_leaves_one_file(tmp_path: Path) -> None:
    with Store.create_or_resume(tmp_path / "chunks.duckdb") as store:
        store.add([entry(1, "A", "a")])
        store.checkpoint()
    assert [path.name for path in tmp_path.iterdir()] == ["chunks.duckdb"]


def test_two_readers_and_another_process_read_at_once(place: Place) -> None:
    with Store.create_or_resume(place) as store:
        store.add([entry(1, "A", "a", "b")])
    code = """
from store.database import Store
with Store.open(place) as store:
    print(store.chunks([1])[0].chunk.text)
"""
    with Store.open(place) as one, Store.open(place) as two:
        assert (texts(one, [0]), texts(two, [1, 0]), run(code, place).stdout) == (["a"], ["b", "a"], "b\n")


def test_many_threads_read_one_store_at_once(place: Place) -> None:
    with Store.create_or_resume(place) as store:
        store.add([entry(page, f"Page {page}", *(f"{page} {number}" for number in range(5))) for page in range(40)])

    def read(page: int) -> tuple[str, str, list[int], str]:
        row = opened.article_titled(f"page {page}")
        found = opened.chunks([row.first_chunk, row.first_chunk + 3])[1]
        passing = opened.ids_where(Filter(page_ids=(page,))) - row.first_chunk
        return found.title, found.chunk.text, passing.tolist(), opened.article(page).title

    with Store.open(place) as opened, ThreadPoolExecutor(20) as threads:
        for page, found in enumerate(threads.map(read, range(40))):
            assert found == (f"Page {page}", f"{page} 3", [0, 1, 2, 3, 4], f"Page {page}")


def test_a_thread_that_comes_late_reads_a_file_that_has_lost_its_name(tmp_path: Path) -> None:
    path = tmp_path / "chunks.duckdb"
    with Store.create_or_resume(path) as store:
        store.add([entry(1, "A", "a", "b")])
    with Store.open(path) as opened, opened._dialect.connection():  # the connection there is, is busy
        path.unlink()
        with ThreadPoolExecutor(1) as late:
            assert late.submit(texts, opened, [1, 0]).result() == ["b", "a"]


def test_a_question_that_fails_does_not_spoil_the_next(place: Place) -> None:
    with Store.create_or_resume(place) as store:
        store.add([entry(1, "A", "a")])
    with Store.open(place) as opened:
        # which ends the connection's transaction
        with pytest.raises(sa.exc.DBAPIError, match=r"Could not convert|invalid input syntax"):
            opened._rows(sa.text("SELECT text::INTEGER FROM chunks"))
        assert opened.article(1).title == "A"


def test_a_closed_reader_lets_go_of_the_place(place: Place) -> None:
    with Store.create_or_resume(place) as store:
        store.add([entry(1, "A", "a")])
    with Store.open(place) as opened, ThreadPoolExecutor(3) as threads:
        assert list(threads.map(lambda _: texts(opened, [0]), range(9))) == [["a"]] * 9
    with Store.create_or_resume(place) as store:  # DuckDB refuses while the file is open for reading
        store.add([entry(2, "B", "b")])
        assert texts(store, [1]) == ["b"]


def test_a_reader_cannot_write(place: Place) -> None:
    with Store.create_or_resume(place) as store:
        store.add([entry(1, "A", "a")])
    with Store.open(place) as store, pytest.raises(Exception, match="read-only"):
        store.add([entry(2, "B", "b")])


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 1000])
def test_a_file_that_is_no_store_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "chunks.duckdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LookaheadError, match=r"cannot open .*chunks\.duckdb") as caught:
        Store.open(path)
    assert "\n" not in str(caught.value)


# -- faults ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM chunks WHERE chunk_id = 3", "6 chunks, but ids from 0 to 6"),
        ("DELETE FROM chunks WHERE chunk_id = 0", "6 chunks, but ids from 1 to 6"),
        ("DELETE FROM chunks WHERE chunk_id = 6", "1 articles whose chunks"),
        ("UPDATE chunks SET chunk_id = 99 WHERE chunk_id = 4", "7 chunks, but ids from 0 to 99"),
        ("INSERT INTO chunks VALUES (7, 1, 3, '', 'stranger', '')", "5 chunks of articles and 2 tombstones, but 8"),
        ("DELETE FROM tombstones WHERE chunk_id = 1", "5 chunks of articles and 1 tombstones, but 7"),
        ("INSERT INTO tombstones VALUES (4)", "5 chunks of articles and 3 tombstones, but 7"),
        ("UPDATE tombstones SET chunk_id = 4 WHERE chunk_id = 1", "tombstone"),
        ("UPDATE tombstones SET chunk_id = 700 WHERE chunk_id = 1", "tombstone"),
        ("UPDATE tombstones SET chunk_id = -1 WHERE chunk_id = 1", "tombstone"),
        ("DELETE FROM articles WHERE page_id = 1", "2 chunks of articles and 2 tombstones, but 7"),
        ("UPDATE articles SET chunk_count = 2 WHERE page_id = 1", "4 chunks of articles and 2 tombstones, but 7"),
        ("UPDATE articles SET first_chunk = 3 WHERE page_id = 1", "1 articles whose chunks are not one contiguous run"),
        ("UPDATE articles SET first_chunk = 0 WHERE page_id = 2", "tombstone"),  # the run of its retired text
        ("UPDATE chunks SET page_id = 17 WHERE chunk_id = 3", "1 articles whose chunks are not one contiguous run"),
        ("UPDATE chunks SET position = 5 WHERE chunk_id = 3", "1 articles whose chunks are not one contiguous run"),
    ],
)
def test_every_contradiction_is_found_and_said_in_words(place: Place, damage: str, said: str) -> None:
    with Store.create_or_resume(place) as store:
        store.add([entry(TRAINED, "Old Bridge", "stone", "iron")])
        store.add([entry(TESTED, "Suez Canal", "a", "b", "c"), entry(VALIDATED, "Straße", "d")])
        store.add([entry(TRAINED, "New Bridge", "steel")])
        assert store.faults() == []
        with store._dialect.transaction():
            if isinstance(place, Schema):
                store._dialect.change(sa.text("ALTER TABLE chunks ALTER lowered_section SET DEFAULT ''"))
            store._dialect.change(sa.text(damage))
    with Store.open(place) as store:
        assert said in "; ".join(store.faults())


def test_an_empty_store_is_sound(store: Store) -> None:
    assert store.faults() == []
    assert store.counts() == Counts(0, 0, 0)
    assert store.articles() == []
    assert passing(store, Filter()) == []
