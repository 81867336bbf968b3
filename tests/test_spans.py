"""The beginnings of chunks: whole words within a number of tokens, one a chunk, and their vectors kept part by part."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_articles import article_rows
from tiny_wordpiece import LETTERS, MARKS, pieces, wordpiece

from index.build import Choices, ingest
from index.conversion import bundled_folder
from index.hashing import HashingEncoder
from retrieval import spans
from retrieval.search import Searcher
from retrieval.spans import Spans, _runs, embedded, kept_rows, kept_spans, leading, spans_of, tokenizer_in
from store.chunking import Prefix
from store.generations import Collection
from store.records import LookaheadError, Split
from store.sources import open_source

Rows = NDArray[np.float32]

TOKENIZER = wordpiece()

# -- where a span ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "longest", "span"),
    [
        ("The old stone bridge", 3, "The old stone"),
        ("The old stone bridge", 4, "The old stone bridge"),
        ("The old stone bridge", 32, "The old stone bridge"),
        ("the zyx bridge", 3, "the"),  # z ##y ##x are three
        ("the zyx bridge", 4, "the zyx"),
        ("the bridges over", 2, "the"),  # bridge ##s
        ("the bridges over", 3, "the bridges"),
        ("river, old mill.", 2, "river,"),  # a mark is a word of its own
        ("river, old mill.", 1, "river"),
        ("zyxzyx the", 3, "zyx"),  # the first word alone has more
        ("zyxzyx the", 1, "z"),
        ("", 3, ""),
        (" \n ", 3, ""),
        ("  the   old\n\nmill", 2, "  the   old"),
        ("ОЛД река", 3, "ОЛД"),
        ("The ÓLD mill", 2, "The ÓLD"),
        ("木橋the", 2, "木橋"),  # no spaces are written between these
        ("the ♞♞♞ old", 2, "the ♞♞♞"),  # what is unknown is one token
        ("the " + 120 * "z" + " old", 2, "the " + 120 * "z"),  # and so is a word without end
    ],
)
def test_a_span_is_as_many_whole_words_as_fit(text: str, longest: int, span: str) -> None:
    assert leading(TOKENIZER, [text], longest) == [span]


def test_spans_come_in_the_order_of_their_texts() -> None:
    texts = ["the old mill", "", "zyxzyx", "stone bridge over"]
    assert leading(TOKENIZER, texts, 2) == ["the old", "", "zy", "stone bridge"]
    assert leading(TOKENIZER, [], 2) == []


BUNDLED = tokenizer_in(bundled_folder())
WRITTEN = st.one_of(
    st.lists(st.sampled_from(["the", "Bridges", "éclairs", "zyx", "1,861", "(old)", "木橋", "♞", "река", "  "])).map(
        " ".join
    ),
    st.text(alphabet=LETTERS + MARKS + "ÉÜß   \n", max_size=60),
    st.text(max_size=40),
)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BUNDLED], ids=["tiny", "bundled"])
@given(text=WRITTEN, longest=st.integers(1, 9))
def test_a_span_is_a_beginning_of_at_most_so_many_tokens_and_the_next_word_would_not_fit(
    tokenizer: spans.Tokenizer, text: str, longest: int
) -> None:
    (span,) = leading(tokenizer, [text], longest)
    assert text.startswith(span)
    whole, ours = tokenizer.encode(text, add_special_tokens=False), pieces(tokenizer, span)
    assert ours == whole.tokens[: len(ours)]
    assert len(ours) <= longest
    if len(ours) == len(whole.tokens):
        return
    if whole.word_ids[len(ours)] == whole.word_ids[0]:  # the first word, cut
        assert len(ours) == longest
        return
    assert whole.word_ids[len(ours)] != whole.word_ids[len(ours) - 1]
    assert len(ours) + whole.word_ids.count(whole.word_ids[len(ours)]) > longest
    assert leading(tokenizer, [span], longest) == [span]


def test_a_folders_tokenizer_neither_cuts_nor_fills(tmp_path: Path) -> None:
    cutting = wordpiece()
    cutting.enable_truncation(2)
    cutting.enable_padding(length=9)
    cutting.save(str(tmp_path / "tokenizer.json"))
    assert pieces(tokenizer_in(tmp_path), "the old stone bridge") == ["the", "old", "stone", "bridge"]


def test_a_folder_without_a_tokenizer_and_a_damaged_one_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match=r"has no tokenizer\.json: an inverter needs one; ingest with --encoder"):
        tokenizer_in(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    with pytest.raises(LookaheadError, match=r"tokenizer\.json is damaged: .*; run: lookahead verify"):
        tokenizer_in(tmp_path)


# -- of a collection -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    folder = tmp_path_factory.mktemp("spans")
    pages = (
        {"page_id": page, "title": f"Title{page}", "text": " ".join(f"Stone mill over river {n} of page{page} "
         "in the old river." for n in range(page))}
        for page in range(1, 7)
    )  # fmt: skip
    (folder / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages), encoding="utf-8")
    collection = Collection(folder / "tales")
    choices = Choices(encoder="hashing", words=10, prefix=Prefix.TITLE, workers=1, quiet=True)
    ingest(collection, [open_source(folder / "pages.jsonl", "jsonl")], choices)
    with Searcher.open(collection) as one:
        yield one


def test_every_chunk_of_the_articles_has_one_span_in_their_order(searcher: Searcher) -> None:
    rows = sorted((row for split in Split for row in searcher.store.articles(split)), key=lambda row: row.first_chunk)
    whole = [text for _, _, text in searcher.store.texts(0, rows[-1].first_chunk + rows[-1].chunk_count)]
    assert len(whole) == 21
    told = spans_of(searcher.store, rows, TOKENIZER, 4, quiet=True)
    assert told == [" ".join(text.split()[:4]) for text in whole]  # and no title before them
    some = [rows[4], rows[1], rows[2]]
    ids = [chunk for row in some for chunk in range(row.first_chunk, row.first_chunk + row.chunk_count)]
    assert spans_of(searcher.store, some, TOKENIZER, 32, quiet=True) == leading(
        TOKENIZER, [whole[chunk] for chunk in ids], 32
    )
    assert spans_of(searcher.store, [], TOKENIZER, 4, quiet=True) == []


def test_neighbours_are_read_together_up_to_a_number() -> None:
    rows = article_rows([3, 2, 4])
    assert _runs(rows) == [(0, 9)]
    assert _runs(rows, most=5) == [(0, 5), (5, 9)]
    assert _runs(rows, most=1) == [(0, 3), (3, 5), (5, 9)]  # an article is never parted
    assert _runs([rows[0], rows[2]]) == [(0, 3), (5, 9)]
    assert _runs([rows[1], rows[0]]) == [(3, 5), (0, 3)]
    assert _runs([]) == []


@given(st.lists(st.integers(1, 9)), st.integers(1, 20), st.randoms(use_true_random=False), st.booleans())
def test_runs_hold_every_chunk_once_and_in_order(counts: list[int], most: int, chance: object, mixed: bool) -> None:
    rows = article_rows(counts)
    if mixed:
        chance.shuffle(rows)  # type: ignore[attr-defined]
    runs = _runs(rows, most)
    wanted = [chunk for row in rows for chunk in range(row.first_chunk, row.first_chunk + row.chunk_count)]
    assert [chunk for first, stop in runs for chunk in range(first, stop)] == wanted
    assert all(stop - first <= max(most, *counts) for first, stop in runs)
    if not mixed:
        assert all(after - first > most for (first, _), (_, after) in pairwise(runs))


# -- rows that are kept ------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_PART", 4)


ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)


class Maker:
    """Gives ROWS, remembers for which it was asked, and is killed before it makes the part that begins at `killed`."""

    def __init__(self, killed: int | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.killed = killed

    def __call__(self, rows: slice) -> Rows:
        if rows.start == self.killed:
            raise KeyboardInterrupt
        self.asked.append((rows.start, rows.stop))
        return ROWS[rows]


def kept(folder: Path, make: Callable[[slice], Rows], *, count: int = 10, what: str = "wiki") -> Rows:
    return kept_rows(folder, {"of": what, "limit": None}, count, make, what="making", quiet=True)


@pytest.mark.usefixtures("small")
def test_rows_are_made_in_parts_and_once(tmp_path: Path) -> None:
    first, second = Maker(), Maker()
    assert np.array_equal(kept(tmp_path / "new", first), ROWS)
    assert first.asked == [(0, 4), (4, 8), (8, 10)]
    assert np.array_equal(kept(tmp_path / "new", second), ROWS)
    assert second.asked == []


@pytest.mark.usefixtures("small")
def test_after_a_kill_only_what_is_missing_is_made(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, Maker(killed=8))
    again = Maker()
    assert np.array_equal(kept(tmp_path, again), ROWS)
    assert again.asked == [(8, 10)]


@pytest.mark.usefixtures("small")
def test_a_part_that_is_damaged_is_made_again_wherever_it_was_cut(tmp_path: Path) -> None:
    kept(tmp_path, Maker())
    part = tmp_path / "part-00001.npy"
    whole = part.read_bytes()
    for raw in (*(whole[:size] for size in range(len(whole))), bytes(len(whole)), b"PK\x03\x04" + whole, b"[" + whole):
        part.write_bytes(raw)
        again = Maker()
        assert np.array_equal(kept(tmp_path, again), ROWS)
        assert again.asked == [(4, 8)], raw
        assert part.read_bytes() == whole
    np.save(part, ROWS[:3])  # sound, and too short
    again = Maker()
    assert np.array_equal(kept(tmp_path, again), ROWS)
    assert again.asked == [(4, 8)]


@pytest.mark.usefixtures("small")
def test_of_other_facts_nothing_is_taken_up(tmp_path: Path) -> None:
    kept(tmp_path, Maker())
    (tmp_path / "mine.txt").touch()
    other = Maker()
    kept(tmp_path, other, what="news")
    assert other.asked == [(0, 4), (4, 8), (8, 10)]
    fewer = Maker()
    assert np.array_equal(kept(tmp_path, fewer, count=5, what="news"), ROWS[:5])
    assert fewer.asked == [(0, 4), (4, 5)]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("spans.json", "part-00000.npy", "part-00001.npy", "mine.txt")
    }


@pytest.mark.usefixtures("small")
def test_a_kill_while_other_facts_are_begun_leaves_nothing_of_the_old_ones(tmp_path: Path) -> None:
    kept(tmp_path, lambda rows: -ROWS[rows])
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, Maker(killed=4), what="news")
    assert np.array_equal(kept(tmp_path, Maker(), what="news"), ROWS)


@pytest.mark.usefixtures("small")
@settings(max_examples=25)
@given(st.integers(1, 10), st.lists(st.integers(0, 9), max_size=4))
def test_however_often_it_is_killed_the_rows_are_those_of_one_go(
    tmp_path_factory: pytest.TempPathFactory, count: int, kills: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("kills")
    for kill in kills:
        with contextlib.suppress(KeyboardInterrupt):
            kept(folder, Maker(killed=kill // 4 * 4), count=count)
    assert np.array_equal(kept(folder, Maker(), count=count), ROWS[:count])


@pytest.mark.usefixtures("small")
def test_spans_have_the_vectors_of_their_texts_alone_in_half_precision(tmp_path: Path) -> None:
    texts = ["old mill", "stone bridge", "", "river", "old mill", "the river of stone"]
    told = kept_spans(tmp_path, {}, HashingEncoder(), texts, quiet=True)
    assert isinstance(told, Spans)
    assert told.texts == texts
    assert len(told) == 6
    assert told.vectors.dtype == np.float16
    assert np.array_equal(told.vectors, HashingEncoder().encode(texts).astype(np.float16))
    assert np.array_equal(embedded(HashingEncoder(), texts), HashingEncoder().encode(texts))
