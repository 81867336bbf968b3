"""Chunking: nothing lost, nothing doubled, no sentence cut, no section crossed, lengths about equal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.chunking import ChunkingRules, Prefix, embedded_text, length_of, pieces_of
from store.records import Article, LookaheadError, Piece, Section


def article(*sections: tuple[str, str]) -> Article:
    return Article(1, "Title", tuple(Section(heading, text) for heading, text in sections))


def sentence(word: str, words: int) -> str:
    """`words` words of which the first begins with a capital and the last ends the sentence."""
    return " ".join([word.capitalize(), *[word] * (words - 1)]) + "."


def texts(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces]


# -- exact small cases -----------------------------------------------------------------------------------


def test_sentences_are_packed_up_to_the_length_aimed_at() -> None:
    four = [sentence(word, 5) for word in ("ant", "bee", "cat", "dog")]
    assert texts(pieces_of(article(("", " ".join(four))), ChunkingRules(words=10))) == [
        "Ant ant ant ant ant. Bee bee bee bee bee.",
        "Cat cat cat cat cat. Dog dog dog dog dog.",
    ]


def test_the_words_left_over_are_shared_out_evenly() -> None:
    # 6 sentences of 5 words at 20 words a chunk: 30 words are two chunks of 15, not 20 and 10
    six = [sentence(word, 5) for word in ("ant", "bee", "cat", "dog", "eel", "fox")]
    pieces = pieces_of(article(("", " ".join(six))), ChunkingRules(words=20))
    assert [length_of(text) for text in texts(pieces)] == [15, 15]


def test_a_chunk_ends_with_the_sentence_that_ends_nearest_to_its_share() -> None:
    three = [sentence("ant", 6), sentence("bee", 7), sentence("cat", 7)]  # 20 words: the first half ends at 6 or at 13
    pieces = pieces_of(article(("", " ".join(three))), ChunkingRules(words=10))
    assert [length_of(text) for text in texts(pieces)] == [13, 7]


def test_paragraphs_of_one_section_share_a_chunk_on_one_line() -> None:
    pieces = pieces_of(article(("Life", "She was born in Lima.\nHe was born in Rome.")), ChunkingRules(words=10))
    assert pieces == [Piece("Life", "She was born in Lima. He was born in Rome.")]


def test_a_chunk_carries_the_heading_of_its_section() -> None:
    pieces = pieces_of(article(("", sentence("lead", 10)), ("Life", sentence("life", 10))), ChunkingRules(words=10))
    assert [piece.section for piece in pieces] == ["", "Life"]


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Hall paid Mr. Smith a toll of 2.5 pence at 3 p.m. in Boston.",
        "The ratio is 3.14 to one.",
        "The U.S. Senate and the U.K. Parliament agreed.",
        "It was made of wood, e.g. oak, i.e. a hard wood, by J. R. R. Tolkien.",
    ],
)
def test_abbreviations_and_decimals_do_not_end_a_sentence(text: str) -> None:
    # the sentence before and the one after fill a chunk each, so any further sentence would show as a further chunk
    around = [sentence("ant", 30), text, sentence("dog", 30)]
    pieces = pieces_of(article(("", " ".join(around))), ChunkingRules(words=10))
    assert texts(pieces).count(text) == 1


def test_a_question_an_exclamation_and_a_full_stop_each_end_a_sentence() -> None:
    text = "Who built the first stone bridge over this wide river? Nobody knows who it was or when it was done! "
    text += "The oldest books of the town hall say nothing of it."
    pieces = pieces_of(article(("", text)), ChunkingRules(words=10))
    assert [length_of(each) for each in texts(pieces)] == [10, 10, 11]


def test_a_short_section_is_read_with_the_next_one() -> None:
    cut = pieces_of(
        article(("", sentence("lead", 20)), ("Notes", "See below."), ("Life", sentence("life", 18))),
        ChunkingRules(words=20),
    )
    assert cut == [
        Piece("", sentence("lead", 20)),
        Piece("Life", "See below. " + sentence("life", 18)),
    ]


def test_a_short_last_section_is_read_with_the_one_before() -> None:
    cut = pieces_of(article(("Life", sentence("life", 20)), ("See also", "Other lives.")), ChunkingRules(words=20))
    assert cut == [Piece("Life", sentence("life", 20) + " Other lives.")]


def test_short_sections_alone_make_one_chunk_under_the_last_heading() -> None:
    cut = pieces_of(article(("", "A stub."), ("Links", "None yet.")), ChunkingRules(words=80))
    assert cut == [Piece("Links", "A stub. None yet.")]


def test_a_section_of_a_quarter_of_the_length_stands_alone() -> None:
    cut = pieces_of(
        article(("A", sentence("ant", 5)), ("B", sentence("bee", 4)), ("C", sentence("cat", 5))),
        ChunkingRules(words=20),
    )
    assert [piece.section for piece in cut] == ["A", "C"]
    assert cut[0].text == sentence("ant", 5)


def test_an_article_without_text_has_no_chunks() -> None:
    assert pieces_of(Article(1, "Nothing", ()), ChunkingRules()) == []
    assert pieces_of(article(("", ""), ("Empty", " \n \n")), ChunkingRules()) == []


@pytest.mark.parametrize(
    ("words", "sizes"),
    [(161, [80, 81]), (240, [80, 80, 80]), (330, [82, 83, 82, 83]), (1000, [83] * 8 + [84] * 4)],
)
def test_an_endless_sentence_is_cut_into_equal_parts_near_the_length_aimed_at(words: int, sizes: list[int]) -> None:
    pieces = pieces_of(article(("", "word " * words)), ChunkingRules(words=80))
    assert sorted(length_of(text) for text in texts(pieces)) == sorted(sizes)


def test_a_sentence_of_twice_the_length_is_left_whole() -> None:
    whole = sentence("word", 160)
    assert texts(pieces_of(article(("", whole)), ChunkingRules(words=80))) == [whole]


def test_a_script_without_spaces_is_measured_in_characters_and_cut_between_them() -> None:
    endless = "橋" * 800  # as long as 400 words
    pieces = pieces_of(article(("", endless)), ChunkingRules(words=80))
    assert "".join(texts(pieces)) == endless
    assert [len(text) for text in texts(pieces)] == [160] * 5


def test_chinese_sentences_end_at_their_own_full_stop() -> None:
    one = "木" * 19 + "。"
    pieces = pieces_of(article(("", one * 8)), ChunkingRules(words=20, language="zh"))
    assert [text.replace(" ", "") for text in texts(pieces)] == [one * 2] * 4


def test_length_is_words_or_half_the_characters_where_nothing_is_spaced() -> None:
    assert length_of("") == 0
    assert length_of("one two three") == 3
    assert length_of("木の橋は洪水で流された。" * 10) == 60
    assert length_of("a" * 19) == 1


def test_overlap_repeats_whole_sentences_of_the_chunk_before() -> None:
    four = [sentence(word, 5) for word in ("ant", "bee", "cat", "dog")]
    ant, bee, cat, dog = four
    pieces = pieces_of(article(("", " ".join(four))), ChunkingRules(words=10, overlap=5))
    assert texts(pieces) == [f"{ant} {bee}", f"{bee} {cat} {dog}"]


def test_a_sentence_longer_than_the_overlap_is_not_repeated() -> None:
    four = [sentence(word, 5) for word in ("ant", "bee", "cat", "dog")]
    pieces = pieces_of(article(("", " ".join(four))), ChunkingRules(words=10, overlap=4))
    assert texts(pieces) == [f"{four[0]} {four[1]}", f"{four[2]} {four[3]}"]


def test_overlap_does_not_reach_over_a_section() -> None:
    cut = pieces_of(
        article(("A", sentence("ant", 10)), ("B", sentence("bee", 10))), ChunkingRules(words=20, overlap=10)
    )
    assert texts(cut) == [sentence("ant", 10), sentence("bee", 10)]


@pytest.mark.parametrize(
    ("words", "overlap", "said"),
    [(9, 0, "10 to 400"), (401, 0, "10 to 400"), (-1, 0, "10 to 400"), (80, -1, "0 to 40"), (80, 41, "0 to 40")],
)
def test_rules_that_make_no_sense_are_refused_in_one_line(words: int, overlap: int, said: str) -> None:
    with pytest.raises(LookaheadError, match=said) as caught:
        ChunkingRules(words=words, overlap=overlap)
    assert "\n" not in str(caught.value)


def test_rules_survive_being_written_as_json() -> None:
    rules = ChunkingRules(words=120, overlap=20, prefix=Prefix.BOTH, language="de")
    assert ChunkingRules.from_json(json.loads(json.dumps(rules.as_json()))) == rules


def test_the_prefix_is_put_before_the_text_and_empty_parts_leave_no_trace() -> None:
    told = {prefix: embedded_text("Bridge", "History", "It fell.", prefix) for prefix in Prefix}
    assert told == {
        Prefix.NONE: "It fell.",
        Prefix.TITLE: "Bridge. It fell.",
        Prefix.SECTION: "History. It fell.",
        Prefix.BOTH: "Bridge. History. It fell.",
    }
    assert embedded_text("Bridge", "", "It fell.", Prefix.BOTH) == "Bridge. It fell."
    assert embedded_text("", "", "It fell.", Prefix.BOTH) == "It fell."


# -- properties ------------------------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=400)
any_rules = st.integers(10, 60).flatmap(
    lambda words: st.builds(
        ChunkingRules,
        words=st.just(words),
        overlap=st.integers(0, words // 2),
        language=st.sampled_from(["en", "de", "zh", "ja", "th", "ar", "xx", ""]),
    )
)
prose = st.lists(st.lists(st.integers(1, 30), max_size=12), max_size=6)  # sections of sentences of so many words


def written(lengths: list[list[int]]) -> Article:
    """Every word of it is different and tells its section: s2w17 is the seventeenth word of the third."""
    sections = []
    for number, sentences in enumerate(lengths):
        names = iter(range(10_000))
        told = [" ".join(f"S{number}w{next(names)}" for _ in range(length)) + "." for length in sentences]
        sections.append((f"heading {number}", "\n".join(told)))
    return article(*sections)


@given(st.lists(st.tuples(any_text, any_text), max_size=4), any_rules)
def test_not_one_letter_is_lost_or_doubled_in_any_text(sections: list[tuple[str, str]], rules: ChunkingRules) -> None:
    rules = ChunkingRules(words=rules.words, overlap=0, language=rules.language)
    before = "".join("".join(text.split()) for _, text in sections)
    after = "".join("".join(text.split()) for text in texts(pieces_of(article(*sections), rules)))
    assert after == before


@given(st.lists(st.tuples(any_text, any_text), max_size=4), any_rules)
def test_a_chunk_is_one_line_without_space_around_it_and_never_empty(
    sections: list[tuple[str, str]], rules: ChunkingRules
) -> None:
    for text in texts(pieces_of(article(*sections), rules)):
        assert text
        assert text == " ".join(text.split())


@given(prose, st.integers(10, 60))
def test_words_keep_their_order_across_all_chunks(lengths: list[list[int]], words: int) -> None:
    source = written(lengths)
    before = [word for section in source.sections for word in section.text.split()]
    assert " ".join(texts(pieces_of(source, ChunkingRules(words=words)))).split() == before


@given(prose, st.integers(15, 60))
def test_a_chunk_ends_where_a_sentence_ends(lengths: list[list[int]], words: int) -> None:
    assert all(text.endswith(".") for text in texts(pieces_of(written(lengths), ChunkingRules(words=words))))


@given(prose, st.integers(15, 60))
def test_a_chunk_holds_at_most_one_section_that_is_not_short(lengths: list[list[int]], words: int) -> None:
    for text in texts(pieces_of(written(lengths), ChunkingRules(words=words))):
        sections = {int(word[1 : word.index("w")]) for word in text.split()}
        assert sum(sum(lengths[section]) >= words // 4 for section in sections) <= 1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_chunks_of_a_section_differ_from_an_equal_share_by_less_than_a_sentence(lengths: list[int]) -> None:
    rules = ChunkingRules(words=80)
    sizes = [length_of(text) for text in texts(pieces_of(written([lengths]), rules))]
    share = sum(lengths) / max(1, round(sum(lengths) / 80))
    assert all(abs(size - share) <= max(lengths) for size in sizes)
    if sum(lengths) >= 120:
        assert all(40 <= size <= 120 for size in sizes)


@given(prose, any_rules)
def test_a_repeated_stretch_is_what_the_chunk_before_ended_with(lengths: list[list[int]], rules: ChunkingRules) -> None:
    source = written(lengths)
    read: list[str] = []
    for text in texts(pieces_of(source, rules)):
        told = text.split()
        again = read.index(told[0]) if told[0] in read else len(read)
        repeated = read[again:]
        assert told[: len(repeated)] == repeated
        assert len(repeated) <= rules.overlap
        assert not repeated or read[again - 1].endswith(".")
        read += told[len(repeated) :]
    assert read == [word for section in source.sections for word in section.text.split()]
