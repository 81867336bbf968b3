"""The tokens an inverter writes with: texts to ids and back, a smaller vocabulary, spaces as a person sets them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_wordpiece import LETTERS, pieces, wordpiece
from tokenizers import Tokenizer, models, pre_tokenizers

from index.conversion import bundled_folder
from retrieval.spans import tokenizer_in
from retrieval.words import NONE, Words, frequent, tidy

TOKENIZER = wordpiece()
BUNDLED = tokenizer_in(bundled_folder())
REAL = Words(BUNDLED)
TEXTS = ["The old stone bridges of the river", "the bridge over the mill (1861)", "ЗАМОК in the river"]


def plain(text: str) -> str:
    """Without case and spaces."""
    return "".join(text.lower().split())


def apart(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_a_text_is_its_tokens_its_end_and_nothing() -> None:
    words = Words(TOKENIZER)
    the, old, bridge, plural = (TOKENIZER.token_to_id(piece) for piece in ("the", "old", "bridge", "##s"))
    told = words.ids(["the old bridges", "", "the", "the the the the the"], 4)
    assert words.end == words.size == TOKENIZER.get_vocab_size()
    assert told.tolist() == [
        [the, old, bridge, plural, words.end],
        [words.end, NONE, NONE, NONE, NONE],
        [the, words.end, NONE, NONE, NONE],
        [the, the, the, the, words.end],  # cut
    ]
    assert words.ids([], 4).shape == (0, 5)


def test_many_texts_are_told_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.words._BATCH", 2)
    words, texts = Words(TOKENIZER), ["the", "old mill", "zyx", "", "river of stone"]
    assert np.array_equal(words.ids(texts, 6), np.concatenate([words.ids([text], 6) for text in texts]))


def test_a_row_is_read_up_to_its_end() -> None:
    words = Words(TOKENIZER)
    the, old, mill, plural = (TOKENIZER.token_to_id(piece) for piece in ("the", "old", "mill", "##s"))
    rows = [[the, mill, plural, words.end, old, words.end], [words.end, the], [old, mill], []]
    assert words.texts(rows) == ["the mills", "", "old mill", ""]
    assert words.texts([]) == []


# -- fewer tokens ------------------------------------------------------------------------------------------------------


def test_all_letters_that_occur_and_the_most_frequent_others_stay() -> None:
    counted = ["the the the old old bridges mill a", "ba"]
    small, before = frequent(TOKENIZER, counted, 16 + 3)
    kept = set(small.get_vocab())
    letters = set("theoldbridgesmilla")
    assert {*letters, *(f"##{letter}" for letter in letters), "[UNK]"} <= kept
    assert not {"q", "##q", "з", "1", "(", "[CLS]", "[SEP]", "[PAD]"} & kept  # none of them is in the texts
    assert len(kept) == len(before) == small.get_vocab_size()


def test_the_rest_are_taken_by_how_often_they_occur_and_the_bound_is_kept() -> None:
    texts = ["the the the mill mill old"]
    alone = 1 + 2 * len(set("themillold"))  # [UNK], and each letter alone and within a word
    for more, words in enumerate([set(), {"the"}, {"the", "mill"}, {"the", "mill", "old"}, {"the", "mill", "old"}]):
        small, _ = frequent(TOKENIZER, texts, alone + more)
        assert {piece for piece in small.get_vocab() if len(piece.removeprefix("##")) > 1} - {"[UNK]"} == words
        assert small.get_vocab_size() == alone + len(words) <= alone + more
    assert frequent(TOKENIZER, texts, 3)[0].get_vocab_size() == alone  # letters always stay


def test_each_id_points_at_the_same_piece_in_the_old_tokenizer() -> None:
    for tokenizer in (TOKENIZER, BUNDLED):
        small, before = frequent(tokenizer, TEXTS, 60)
        assert before == sorted(set(before))
        assert [small.id_to_token(number) for number in range(len(before))] == [
            tokenizer.id_to_token(number) for number in before
        ]
        assert sorted(small.get_vocab().values()) == list(range(len(before)))


def test_what_is_frequent_keeps_its_tokens_and_what_is_rare_falls_apart() -> None:
    small, _ = frequent(TOKENIZER, ["the the the old old mill bridge river bridges over"], 1 + 2 * 14 + 2)
    assert pieces(small, "The old mill") == ["the", "old", "m", "##i", "##l", "##l"]
    assert pieces(TOKENIZER, "The old mill") == ["the", "old", "mill"]
    assert pieces(small, "the qi mill ♞") == ["the", "[UNK]", "m", "##i", "##l", "##l", "[UNK]"]  # no q was seen


def test_it_puts_nothing_around_a_text_and_cuts_and_fills_nothing() -> None:
    cutting = wordpiece()
    cutting.enable_truncation(2)
    cutting.enable_padding(length=9)
    for size in (40, 1000):
        small, _ = frequent(cutting, TEXTS, size)
        assert small.encode("the river").tokens == pieces(small, "the river")
        assert small.truncation is None
        assert small.padding is None
    assert pieces(small, "[CLS] the") == ["[", "[UNK]", "]", "the"]  # no mark of BERT's any more


@pytest.mark.parametrize("size", [1, 90, 10_000])
@settings(max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["the", "Old", "bridges", "milling", "ЗАМОК", "(1861)", "stone,", "rivers."]),
            st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=7),
        ),
        max_size=8,
    ).map(" ".join)
)
def test_every_text_of_the_letters_that_were_seen_comes_back_but_for_case_and_spaces(size: int, text: str) -> None:
    small, _ = frequent(TOKENIZER, ["the old bridges (1861) замок, .", "abcdefghijklmnopqrstuvwxyz 8"], size)
    words = Words(small)
    (back,) = words.texts([[one for one in words.ids([text], 80)[0].tolist() if one != NONE]])
    assert plain(back) == plain(text)
    assert np.array_equal(words.ids([back], 80), words.ids([text], 80))


def test_a_tokenizer_of_another_kind_stays_whole() -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("t", -3.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.enable_truncation(1)
    same, before = frequent(tokenizer, ["the"], 2)
    assert same.get_vocab() == tokenizer.get_vocab()
    assert before == [0, 1, 2, 3, 4]
    assert pieces(same, "the the<pad>") == ["▁the", "▁the", "<pad>"]


# -- spaces ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("newton ' s laws ( 1687 ) .", "newton's laws (1687)."),
        ("they didn ’ t , but we ' ll", "they didn’t, but we'll"),
        ("a well - known twenty - first", "a well-known twenty-first"),
        ("1914 – 1918 and / or", "1914–1918 and/or"),
        ("1 , 000 , 000 and 2 . 5 % at 5 : 30", "1,000,000 and 2.5% at 5:30"),
        ("1, 000", "1,000"),
        ("march 3 , 1947 , in 1990 , 12 of", "march 3, 1947, in 1990, 12 of"),  # no thousands
        ("1 , 0000", "1, 0000"),
        ("in 1990 . he", "in 1990. he"),
        ("see [ 3 ] ; what ? yes !", "see [3]; what? yes!"),
        ('he said : " no "', 'he said: " no "'),
        ("the bells ' ring", "the bells ' ring"),
        ("dog ' story", "dog ' story"),  # no word begins so
        ("$ 5 & 6", "$ 5 & 6"),
        ("  the \n old   mill ", "the old mill"),
        ("( ( a ) )", "((a))"),
        ("", ""),
    ],
)
def test_spaces_are_set_as_a_person_would_set_them(written: str, read: str) -> None:
    assert tidy(written) == read


ALPHABET = st.sampled_from(
    ["the", "mill", "s", "t", "ll", "o", "1", "000", "1861", "12", "река", "é", "木", *".,;:!?()[]%'’-–/\"$&_♞"]
)


@given(st.lists(ALPHABET, max_size=12))
@example(["1", ",", "000", ",", "000"])
@example(["(", "1", "-", "2", ")", "'", "s"])
def test_tidied_or_not_a_text_has_the_same_tokens(tokens: list[str]) -> None:
    """Else the vector that a gist is judged by would not be that of the text that was written."""
    written = " ".join(tokens)
    for tokenizer in (TOKENIZER, BUNDLED):
        assert apart(tokenizer, tidy(written)) == apart(tokenizer, written)
    assert tidy(tidy(written)) == tidy(written)
    assert re.sub(r"\s", "", tidy(written)) == re.sub(r"\s", "", written)


@given(st.lists(st.one_of(ALPHABET, st.text(alphabet=LETTERS, min_size=1, max_size=9)), max_size=9).map(" ".join))
def test_the_real_tokens_of_a_text_come_back_as_they_were(text: str) -> None:
    words = REAL
    ids = words.ids([text], 100)
    (back,) = words.texts([[one for one in ids[0].tolist() if one != NONE]])
    if BUNDLED.token_to_id("[UNK]") not in ids:
        assert np.array_equal(words.ids([back], 100), ids)
