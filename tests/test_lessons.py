"""What a student learns from: texts of the right articles only, each with its teacher's vector, made once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_teacher import ingested, page

from index.dense import normalised
from index.encoder import Fingerprint
from index.hashing import HashingEncoder
from retrieval.lessons import WATCHED, Kind, Lessons, Mix, lessons, taught
from retrieval.questions import Paragraph, Question, QuestionSet, Unit
from retrieval.search import Searcher
from store.chunking import Prefix, length_of, sentences_of
from store.records import LookaheadError, Split
from store.splits import split_of

MANY = Mix(chunks=1_000, passages=1_000, sentences=1_000, queries=1_000)
PAGES = range(1, 26)
ALL = [page(number) for number in PAGES]

Floats = NDArray[np.float32]


class Other:
    """A teacher other than the collection's encoder, who hears a question with another ear."""

    def __init__(self, name: str = "other") -> None:
        self.fingerprint = Fingerprint(name, "1", 3, "mean", False, True, "text: ", "question: ", 64)
        self.name, self.dim = name, 3
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Floats:
        """Its length, its spaces, 1."""
        self.asked += texts
        return np.array([(len(text), text.count(" "), 1) for text in texts], np.float32).reshape(-1, 3)

    def encode_queries(self, texts: Sequence[str]) -> Floats:
        return -self.encode(texts)


class Own(HashingEncoder):
    """The collection's encoder as a teacher who remembers what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Floats:
        self.asked += texts
        return super().encode(texts)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    with Searcher.open(ingested(tmp_path_factory.mktemp("lessons"), "tales", ALL, "hashing")) as one:
        yield one


def drawn(
    searcher: Searcher, teacher: Any, folder: Path, mix: Mix = MANY, *, seed: int = 0, without: Any = ()
) -> Lessons:
    return lessons(searcher, taught(searcher, Split.TRAIN, without), teacher, mix, folder, seed=seed, quiet=True)


def pages_in(texts: Sequence[str]) -> set[int]:
    """Every sentence of `tiny_teacher.page` ends with its page's number, and so does its title."""
    return {int(number) for text in texts for number in re.findall(r"\d+", text)}


def of_kind(found: Lessons, kind: Kind) -> list[str]:
    return [text for text, one in zip(found.texts, found.kinds, strict=True) if one is kind]


def asking(unit: Unit, *, pages: Sequence[int] = (), titles: Sequence[str] = ()) -> QuestionSet:
    questions = tuple(Question(str(number), "who?", frozenset({str(number)})) for number in pages)
    passages = tuple(Paragraph(f"{title}/0", title, "text") for title in titles)
    return QuestionSet("asked", unit, questions, passages, {})


# -- from which articles ---------------------------------------------------------------------------------------------


def test_only_articles_of_the_split_are_learned_from(searcher: Searcher, tmp_path: Path) -> None:
    found = drawn(searcher, Own(), tmp_path)
    train = {number for number in PAGES if split_of(number) is Split.TRAIN}
    assert 0 < len(train) < len(PAGES)
    for kind in Kind:
        assert pages_in(of_kind(found, kind)) <= train, kind
    assert pages_in(found.texts) == train
    for split in (Split.VALID, Split.TEST):
        assert {row.page_id for row in taught(searcher, split, ())} == {n for n in PAGES if split_of(n) is split}


def test_articles_that_questions_are_about_are_never_learned_from(searcher: Searcher, tmp_path: Path) -> None:
    train = [number for number in PAGES if split_of(number) is Split.TRAIN]
    by_page, by_title = train[:3], train[5:7]
    sets = [
        asking(Unit.ARTICLE, pages=[*by_page, 999]),
        asking(Unit.PARAGRAPH, titles=[f"PAGE {number}" for number in by_title]),
    ]
    found = drawn(searcher, Own(), tmp_path, without=sets)
    assert pages_in(found.texts) == {*train} - {*by_page, *by_title}
    valid = next(number for number in PAGES if split_of(number) is Split.VALID)
    asked = [asking(Unit.ARTICLE, pages=[valid])]
    assert valid not in {row.page_id for row in taught(searcher, Split.VALID, asked)}


def test_a_paragraphs_key_is_no_page(searcher: Searcher) -> None:
    named = QuestionSet("x", Unit.PARAGRAPH, (Question("1", "who?", frozenset({"Page/3"})),), (), {})
    assert len(taught(searcher, Split.TRAIN, [named])) == len(taught(searcher, Split.TRAIN, ()))


def test_no_article_at_all_is_refused(searcher: Searcher, tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match="there is no article to learn from or to judge by; ingest more"):
        lessons(searcher, [], Own(), MANY, tmp_path, seed=0, quiet=True)


# -- which texts -----------------------------------------------------------------------------------------------------


def test_passages_are_neighbours_in_one_article(searcher: Searcher, tmp_path: Path) -> None:
    told = of_kind(drawn(searcher, Own(), tmp_path), Kind.PASSAGE)
    rows = [row for row in taught(searcher, Split.TRAIN, ()) if row.chunk_count >= 2]
    assert len(told) == len(rows)  # one an article, of those with two chunks at least
    runs = set()
    for row in rows:
        texts = [text for _, _, text in searcher.store.texts(row.first_chunk, row.first_chunk + row.chunk_count)]
        for count in (2, 3, 4):
            runs |= {" ".join(texts[at : at + count]) for at in range(len(texts) - count + 1)}
    assert set(told) <= runs
    assert len({len(text) for text in told}) > 2


def test_a_sentence_is_one_of_a_chunk_and_has_four_words_at_least(tmp_path: Path) -> None:
    number = next(number for number in PAGES if split_of(number) is Split.TRAIN)
    short = {**page(number), "text": "No. Not so. It was. One two three four. Ha! " * 12}
    with Searcher.open(ingested(tmp_path, "tales", [short], "hashing")) as one:
        found = of_kind(drawn(one, Own(), tmp_path / "kept"), Kind.SENTENCE)
    assert set(found) == {"One two three four."}
    assert sentences_of(" Tea came.  It was cold!\n\nno stop \n", "en") == ["Tea came.", "It was cold!", "no stop"]


def test_every_sentence_can_be_drawn(searcher: Searcher, tmp_path: Path) -> None:
    mix = Mix(chunks=1_000, passages=0, sentences=1_000, queries=0)
    found = [drawn(searcher, Own(), tmp_path, mix, seed=seed) for seed in range(5)]
    told = {text for one in found for text in of_kind(one, Kind.SENTENCE)}
    whole = of_kind(found[0], Kind.CHUNK)
    there = {one for text in whole for one in sentences_of(text, "en") if length_of(one) >= 4}
    assert told <= there
    assert len(told) > 0.9 * len(there)


def test_queries_are_titles_and_titles_with_a_heading_none_twice(searcher: Searcher, tmp_path: Path) -> None:
    told = of_kind(drawn(searcher, Own(), tmp_path), Kind.QUERY)
    titles = {f"Page {number}" for number in PAGES if split_of(number) is Split.TRAIN}
    assert set(told) == titles | {f"{title} History" for title in titles}
    assert len(set(told)) == len(told)
    few = of_kind(drawn(searcher, Own(), tmp_path, Mix(1, 1, 1, 6)), Kind.QUERY)
    assert len([text for text in few if text.endswith("History")]) == len([text for text in few if text in titles]) == 3


def test_a_mixture_is_kept_to_where_there_is_enough(searcher: Searcher, tmp_path: Path) -> None:
    found = drawn(searcher, Own(), tmp_path, Mix(chunks=9, passages=5, sentences=7, queries=4))
    assert found.counts() == {"chunk": 9, "passage": 5, "sentence": 7, "query": 4}
    assert len(found) == 25 == len(found.vectors)
    assert list(found.kinds) == [kind for kind in Kind for _ in range(found.counts()[kind.value])]


def test_the_seed_draws_the_texts(searcher: Searcher, tmp_path: Path) -> None:
    mix = Mix(9, 5, 7, 4)
    first, again, other = (drawn(searcher, Own(), tmp_path, mix, seed=seed) for seed in (1, 1, 2))
    assert first.texts == again.texts
    assert np.array_equal(first.vectors, again.vectors)
    for kind in Kind:
        assert of_kind(first, kind) != of_kind(other, kind)


@settings(max_examples=30)
@given(texts=st.integers(1, 500_000))
def test_a_scaled_mixture_has_about_so_many_texts_in_the_same_shares(texts: int) -> None:
    scaled, whole = Mix().scaled(texts), Mix()
    counts = [scaled.chunks, scaled.passages, scaled.sentences, scaled.queries]
    assert abs(sum(counts) - texts) <= 4
    assert min(counts) >= 1
    share = texts / (whole.chunks + whole.passages + whole.sentences + whole.queries)
    assert abs(scaled.sentences - share * whole.sentences) <= 1
    assert Mix(5, 0, 5, 0).scaled(4) == Mix(2, 0, 2, 0)


def test_what_is_watched_is_of_every_kind() -> None:
    assert min(WATCHED.chunks, WATCHED.passages, WATCHED.sentences, WATCHED.queries) >= 50


# -- the teacher's vectors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [Prefix.NONE, Prefix.BOTH])
def test_the_collections_own_vectors_are_taken_where_the_teacher_made_them(tmp_path: Path, prefix: Prefix) -> None:
    with Searcher.open(ingested(tmp_path, "tales", ALL[:12], "hashing", prefix=prefix)) as searcher:
        teacher = Own()
        found = drawn(searcher, teacher, tmp_path / "kept")
    whole = of_kind(found, Kind.CHUNK)
    assert teacher.asked == [text for kind in Kind if kind is not Kind.CHUNK for text in of_kind(found, kind)]
    assert all(text.startswith("Page ") for text in whole) is (prefix is Prefix.BOTH)
    goal = normalised(HashingEncoder().encode(found.texts))
    assert found.vectors.dtype == np.float16
    assert found.vectors.astype(np.float32) == pytest.approx(goal, abs=1e-3)


def test_another_teacher_reads_the_chunks_too_and_the_queries_as_questions(searcher: Searcher, tmp_path: Path) -> None:
    teacher = Other()
    found = drawn(searcher, teacher, tmp_path)
    assert teacher.asked == found.texts
    goal = np.array([(len(text), text.count(" "), 1) for text in found.texts], np.float32)
    goal *= np.array([-1 if kind is Kind.QUERY else 1 for kind in found.kinds])[:, None]
    assert found.vectors.astype(np.float32) == pytest.approx(normalised(goal), abs=1e-3)
    assert set(found.kinds) == set(Kind)


def test_a_student_reads_the_words_that_the_teacher_puts_before_a_text() -> None:
    found = Lessons(["a", "b", "c"], [Kind.CHUNK, Kind.SENTENCE, Kind.QUERY], np.zeros((3, 3), np.float16))
    assert found.as_read(Other().fingerprint) == ["text: a", "text: b", "question: c"]


def test_vectors_are_made_once(searcher: Searcher, tmp_path: Path) -> None:
    mix = Mix(chunks=30, passages=2, sentences=30, queries=4)
    first = drawn(searcher, Other(), tmp_path, mix)
    (kept,) = tmp_path.iterdir()
    teacher = Other()
    again = drawn(searcher, teacher, tmp_path, mix)
    assert teacher.asked == []
    assert again.texts == first.texts
    assert np.array_equal(again.vectors, first.vectors)
    (kept / "part-00000.npy").write_bytes(b"junk")
    mended = drawn(searcher, teacher, tmp_path, mix)
    assert teacher.asked == first.texts
    assert np.array_equal(mended.vectors, first.vectors)


def test_a_killed_making_goes_on_behind_the_parts_it_has(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.spans._PART", 50)
    mix = Mix(chunks=90, passages=0, sentences=90, queries=2)
    whole = drawn(searcher, Other(), tmp_path / "whole", mix)
    assert len(whole) > 150

    class Tired(Other):
        def encode(self, texts: Sequence[str]) -> Floats:
            if texts and len(self.asked) >= 100:
                raise KeyboardInterrupt
            return super().encode(texts)

    with pytest.raises(KeyboardInterrupt):
        drawn(searcher, Tired(), tmp_path / "kept", mix)
    fresh = Other()
    found = drawn(searcher, fresh, tmp_path / "kept", mix)
    assert fresh.asked == whole.texts[100:]
    assert np.array_equal(found.vectors, whole.vectors)


def test_another_teacher_and_other_texts_have_a_place_of_their_own(searcher: Searcher, tmp_path: Path) -> None:
    for teacher, seed in ((Other(), 0), (Other(), 1), (Other("third"), 0), (Own(), 0)):
        drawn(searcher, teacher, tmp_path, Mix(5, 5, 5, 5), seed=seed)
    assert len(list(tmp_path.iterdir())) == 4
    idle = Other()
    drawn(searcher, idle, tmp_path, Mix(5, 5, 5, 5), seed=1)
    assert idle.asked == []


def test_chunks_alone_will_do(searcher: Searcher, tmp_path: Path) -> None:
    teacher = Own()
    found = drawn(searcher, teacher, tmp_path, Mix(5, 0, 0, 0))
    assert found.counts() == {"chunk": 5, "passage": 0, "sentence": 0, "query": 0}
    assert (found.vectors.shape, teacher.asked) == ((5, 128), [])
