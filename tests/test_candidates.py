"""How candidates are chosen: the decayed mean, chunks of the article at hand, and maximal marginal relevance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from index.dense import normalised
from retrieval.candidates import assisted, decayed, marginal

Floats = NDArray[np.float32]

FEW = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0]), min_size=1, max_size=12)


def floats(*rows: list[float]) -> Floats:
    return np.array(rows, dtype=np.float32)


# -- the decayed mean ------------------------------------------------------------------------------------------------


def test_the_decayed_mean_weighs_the_nearest_chunk_most_and_has_length_one() -> None:
    context = np.eye(5, dtype=np.float32)[None]  # each chunk has an axis of its own
    told = decayed(context, np.ones((1, 5), dtype=bool))
    assert told[0] * np.linalg.norm([0.1, 0.12, 0.16, 0.22, 0.4]) == pytest.approx([0.1, 0.12, 0.16, 0.22, 0.4])
    assert np.linalg.norm(told) == pytest.approx(1.0)


def test_what_is_missing_does_not_count_in_the_decayed_mean() -> None:
    context = np.full((2, 5, 3), 7, dtype=np.float32)
    context[:, 3:] = floats([1, 0, 0], [0, 1, 0])
    mask = np.array([[False, False, False, True, True], [False, False, False, False, True]])
    told = decayed(context, mask)
    assert told[0] == pytest.approx(np.array([0.22, 0.4, 0]) / np.hypot(0.22, 0.4))
    assert told[1].tolist() == [0, 1, 0]
    assert decayed(np.zeros((1, 5, 3), dtype=np.float32), mask[:1]).tolist() == [[0, 0, 0]]


# -- chunks of the article at hand -------------------------------------------------------------------------------------


def ints(*ids: int) -> NDArray[np.int64]:
    return np.array(ids, dtype=np.int64)


def test_the_best_five_stay_and_the_articles_own_come_behind_them() -> None:
    best_ones = np.arange(100, 120)
    told = assisted(best_ones, ints(103, 7, 115, 8, 9), 3, 14)
    assert told.tolist() == [*range(100, 105), 7, 115, 8, *range(105, 111)]  # 103 is among the five, 9 is the fourth
    assert assisted(best_ones, ints(7), 0, 14).tolist() == list(range(100, 114))
    assert assisted(best_ones[:2], ints(7, 101), 5, 14).tolist() == [100, 101, 7]
    assert assisted(ints(), ints(7), 1, 14).tolist() == [7]


@given(
    st.lists(st.integers(0, 40), unique=True), st.lists(st.integers(0, 40), unique=True), st.integers(0, 9),
    st.integers(19, 30),
)  # fmt: skip
def test_what_the_article_brings_in_is_in_the_list_and_nothing_is_twice(
    best_ones: list[int], own: list[int], assist: int, depth: int
) -> None:
    told = assisted(ints(*best_ones), ints(*own), assist, depth).tolist()
    brought = [one for one in own if one not in best_ones[:5]][:assist]
    assert len(set(told)) == len(told) == min(depth, len({*best_ones, *brought}))
    assert set(brought) <= set(told)
    assert told[:5][: len(best_ones)] == best_ones[:5]


# -- variety -----------------------------------------------------------------------------------------------------------

TWINS = floats([1, 0], [1, 0], [0, 1])  # the second says what the first does


def test_variety_puts_another_thing_before_the_same_once_more() -> None:
    scores = floats([0.9, 0.8, 0.5])[0]
    assert marginal(scores, TWINS, 1.0, 3).tolist() == [0, 1, 2]
    assert marginal(scores, TWINS, 0.5, 3).tolist() == [0, 2, 1]  # .5 × .5 - 0 against .5 × .8 - .5 × 1
    assert marginal(scores, TWINS, 0.8, 3).tolist() == [0, 1, 2]  # .8 × .8 - .2 = .44 against .8 × .5 = .40
    assert marginal(scores, TWINS, 0.7, 3).tolist() == [0, 2, 1]  # .7 × .8 - .3 = .26 against .7 × .5 = .35


def test_what_has_no_score_is_not_taken_and_no_more_than_there_are() -> None:
    scores = floats([-np.inf, 0.2, 0.1])[0]
    assert marginal(scores, TWINS, 0.7, 5).tolist() == [1, 2]
    assert marginal(scores, TWINS, 0.7, 1).tolist() == [1]
    assert marginal(scores, TWINS, 0.7, 0).tolist() == []
    assert marginal(scores[:0], TWINS[:0], 0.7, 3).tolist() == []


def test_a_score_that_counts_for_nothing_leaves_out_what_has_none() -> None:
    scores = floats([-np.inf, 0.2, 0.1, 0.3])[0]
    rows = floats([1, 0], [1, 0], [0, 1], [1, 0])
    assert marginal(scores, rows, 0.0, 4).tolist() == [1, 2, 3]  # the second is unlike the first, whatever they score


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 14), st.sampled_from([0.0, 0.1, 0.55, 0.7, 1.0]))
def test_no_chunk_is_taken_twice_the_best_comes_first_and_a_shorter_list_is_the_start_of_a_longer(
    seed: int, count: int, many: int, weight: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = normalised(rng.standard_normal((count, 4)).astype(np.float32))
    scores = rng.standard_normal(count).astype(np.float32)
    taken = marginal(scores, rows, weight, many).tolist()
    assert len(set(taken)) == len(taken) == min(many, count)
    assert marginal(scores, rows, weight, count).tolist()[:many] == taken
    if taken and weight > 0:
        assert scores[taken[0]] == scores.max()
    if weight == 1:
        assert [scores[place] for place in taken] == sorted(scores.tolist(), reverse=True)[:many]
