"""How near a question's words stand: values counted by hand, and the window against trying every window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.closeness import closeness

RARITY = {"tea": 3.0, "cup": 1.0}


@pytest.mark.parametrize(
    ("words", "span", "expected"),
    [
        ("tea cup", 20, 1.0),
        ("cup of tea", 3, 1.0),
        ("cup of tea", 2, 0.75),  # never both in two words: the rarer one counts
        ("cup cup cup", 3, 0.25),  # a word counts once
        ("tea", 1, 0.75),
        ("milk and sugar", 20, 0.0),
        ("", 20, 0.0),
        ("tea x x x cup", 5, 1.0),
        ("tea x x x cup", 4, 0.75),
        ("cup tea x x x x tea cup", 2, 1.0),
    ],
)
def test_the_share_of_the_words_in_one_window(words: str, span: int, expected: float) -> None:
    assert closeness(RARITY, words.split(), span) == expected


def test_a_span_is_twenty_words_unless_another_is_asked_for() -> None:
    assert closeness(RARITY, ["tea", *["x"] * 18, "cup"]) == 1.0
    assert closeness(RARITY, ["tea", *["x"] * 19, "cup"]) == 0.75


@pytest.mark.parametrize("rarity", [{}, {"tea": 0.0}])
def test_a_question_without_weight_is_close_to_nothing(rarity: dict[str, float]) -> None:
    assert closeness(rarity, ["tea", "cup"]) == 0.0


words = st.lists(st.sampled_from("abcdefg"), max_size=25)
rarities = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 8).map(float), max_size=5)


def _by_trying(rarity: dict[str, float], passage: list[str], span: int) -> float:
    total = sum(rarity.values())
    windows = [set(passage[start : start + span]) for start in range(len(passage))]
    return max((sum(rarity.get(word, 0.0) for word in window) for window in windows), default=0.0) / (total or 1.0)


@given(rarities, words, st.integers(1, 12))
def test_it_is_the_best_of_all_windows(rarity: dict[str, float], passage: list[str], span: int) -> None:
    assert closeness(rarity, passage, span) == pytest.approx(_by_trying(rarity, passage, span))


@given(rarities, words, st.integers(1, 12))
def test_it_lies_between_nought_and_one_and_a_wider_span_never_lessens_it(
    rarity: dict[str, float], passage: list[str], span: int
) -> None:
    near, nearer = closeness(rarity, passage, span), closeness(rarity, passage, span + 1)
    assert 0.0 <= near <= nearer <= 1.0


@given(
    st.dictionaries(st.sampled_from("abcde"), st.floats(1e-3, 20.0), min_size=1),
    st.lists(st.sampled_from("abcde"), max_size=200),
    st.integers(1, 12),
)
def test_rounding_never_carries_it_out_of_its_bounds(rarity: dict[str, float], passage: list[str], span: int) -> None:
    assert -1e-9 <= closeness(rarity, passage, span) <= 1.0 + 1e-9
