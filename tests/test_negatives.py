"""Hard negatives: the ids asked for, never the positive nor the window's own context, and never a silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_articles import article_rows, vectors_of

from retrieval.negatives import NONE, Asked, NearMisses, Participation, SameArticle, Turn, passed
from retrieval.sequences import Floats, Ints, Sequences
from store.records import LookaheadError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("negatives")


def articles(folder: Path, counts: list[int], first: int = 0) -> Sequences:
    """Articles of so many chunks whose vectors nobody asks for."""
    return Sequences(article_rows(counts, first=first), vectors_of(folder, np.ones((1, 2), dtype=np.float32)))


def ints(*values: int) -> Ints:
    return np.array(values, dtype=np.int64)


# -- of the same article -------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(2, 14), min_size=1, max_size=6),
    st.integers(1, 6),
    st.booleans(),
    st.randoms(use_true_random=False),
    st.integers(0, 3),
)
def test_whatever_the_order_of_a_batch_negatives_are_of_the_article_and_never_the_positive(
    folder: Path, counts: list[int], many: int, neighbours: bool, chance: object, epoch: int
) -> None:
    sequences = articles(folder, counts, first=7)
    windows = sequences.windows(1)
    order = list(range(len(windows)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    windows = windows[np.array(order)]
    same = SameArticle(sequences, many=many, neighbours=neighbours, seed=1)
    drawn = same.draw(Asked(windows.target, windows.length), epoch, 0)
    assert drawn.shape == (len(windows), many)
    for target, length, article, ids in zip(
        windows.target.tolist(), windows.length.tolist(), windows.article.tolist(), drawn.tolist(), strict=True
    ):
        first = int(sequences.first[article])
        allowed = set(range(first, first + counts[article])) - set(range(target - length, target + 1))
        if not neighbours:
            allowed -= {target + 1}
        found = [chunk for chunk in ids if chunk != NONE]
        assert set(found) <= allowed
        assert len(found) == len(set(found)) == min(many, len(allowed))  # as many as asked for, where there are
        assert ids[: len(found)] == found


def test_every_chunk_that_is_allowed_is_drawn(folder: Path) -> None:
    same = SameArticle(articles(folder, [3, 9]), many=1, neighbours=True, seed=0)
    asked = Asked(np.full(400, 7), np.full(400, 2))  # of the chunks 3 … 11
    ids, times = np.unique(same.draw(asked, 0, 0), return_counts=True)
    assert ids.tolist() == [3, 4, 8, 9, 10, 11]
    assert times.min() > 40  # of 67 each


def test_the_same_step_draws_the_same_and_another_others(folder: Path) -> None:
    sequences = articles(folder, [60])
    windows = sequences.windows()
    asked = Asked(windows.target, windows.length)
    one, same, other = (SameArticle(sequences, many=3, neighbours=True, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.draw(asked, 2, 5), same.draw(asked, 2, 5))
    for ids in (one.draw(asked, 2, 6), one.draw(asked, 3, 5), other.draw(asked, 2, 5)):
        assert (ids != one.draw(asked, 2, 5)).any()


def test_the_chunk_after_a_target_is_of_its_article_or_none(folder: Path) -> None:
    same = SameArticle(articles(folder, [3, 2]), many=0, neighbours=True, seed=0)
    assert same.after(ints(1, 2, 3, 4)).tolist() == [2, NONE, 4, NONE]


# -- near misses ---------------------------------------------------------------------------------------------


@given(st.permutations(range(6)))
def test_a_mined_table_answers_in_any_order(order: list[int]) -> None:
    target = ints(3, 5, 8, 13, 21, 34)
    table = NearMisses(target, np.stack([10 * target, 10 * target + 1], axis=1), step=4)
    asked = target[order]
    assert table.of(asked).tolist() == [[10 * one, 10 * one + 1] for one in asked.tolist()]
    assert table.of(ints(4, 99)).tolist() == [[NONE, NONE]] * 2
    assert NearMisses.none(2).of(ints(3)).tolist() == [[NONE, NONE]]


def unit_by_id(ids: Ints) -> Floats:
    """Chunks at so many hundredths of a turn: up to 3 apart say the same (cosine .982), others less."""
    angles = 2 * np.pi * ids / 100
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def near(candidates: list[int], scores: list[float], *, many: int = 2, neighbours: bool = True) -> list[int]:
    """Of the window whose target is chunk 50, behind 48 and 49, and scores .8; .76 is 95 % of that."""
    asked = Asked(ints(50), ints(2))
    return passed(
        asked,
        np.array([0.8], dtype=np.float32),
        ints(*candidates)[None],
        np.array([scores], dtype=np.float32),
        unit_by_id,
        many=many,
        neighbours=neighbours,
    )[0].tolist()


def test_the_best_that_are_wrong_are_taken() -> None:
    assert near([10, 20, 30], [0.7, 0.6, 0.5]) == [10, 20]
    assert near([10, 20, 30], [0.7, 0.6, 0.5], many=1) == [10]
    assert near([10], [0.7]) == [10, NONE]


def test_positive_and_own_context_are_never_negatives() -> None:
    assert near([50, 49, 48, 10], [0.7, 0.7, 0.7, 0.5]) == [10, NONE]
    assert near([46, 10], [0.7, 0.5]) == [46, 10]  # before the context


def test_what_scores_above_95_percent_of_the_positive_may_be_right() -> None:
    assert near([10, 20, 30], [0.9, 0.77, 0.75]) == [30, NONE]


def test_what_says_the_same_as_the_positive_is_right() -> None:
    # 52 is .992 from it, 54 is .969
    assert near([52, 54], [0.7, 0.6]) == [54, NONE]


def test_neighbours_are_left_out_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.negatives.DUPLICATE", 2.0)  # 51 says nearly the same as well
    assert near([51, 10], [0.7, 0.6]) == [51, 10]
    assert near([51, 10], [0.7, 0.6], neighbours=False) == [10, NONE]


def test_an_empty_place_is_no_candidate() -> None:
    assert near([NONE, 10, NONE], [-np.inf, 0.5, -np.inf]) == [10, NONE]


@given(st.lists(st.integers(0, 99), min_size=1, max_size=40, unique=True), st.integers(1, 5), st.data())
def test_near_misses_are_candidates_in_their_order(ids: list[int], many: int, data: st.DataObject) -> None:
    scores = sorted(data.draw(st.lists(st.floats(0, 1), min_size=len(ids), max_size=len(ids))), reverse=True)
    found = [one for one in near(ids, scores, many=many) if one != NONE]
    assert 50 not in found
    places = [ids.index(one) for one in found]
    assert places == sorted(places)
    assert all(np.float32(scores[place]) <= np.float32(0.95) * np.float32(0.8) for place in places)


# -- when, and who took part ---------------------------------------------------------------------------------


def test_hard_negatives_have_their_turn_after_a_share_of_the_steps() -> None:
    turn = Turn(steps=100, start=0.25, refresh=30)
    assert [turn.has_come(step) for step in (0, 24, 25, 99)] == [False, False, True, True]
    assert [turn.mined_at(step) for step in (25, 54, 55, 84, 85, 99)] == [25, 25, 55, 55, 85, 85]
    assert Turn(2, 0.9, 1).has_come(1)  # at least in the last step


def test_participation_counts_who_took_part_and_how_near_they_came() -> None:
    scores = np.array([[0.5, np.nan], [0.25, 0.75], [np.nan, np.nan], [0.5, np.nan]], dtype=np.float32)
    took = Participation.of(scores, fresh=2)
    assert (took.negatives, took.score, took.fresh) == (1.0, 0.5, 0.5)


def test_a_step_in_which_no_hard_negative_took_part_is_an_error() -> None:
    with pytest.raises(LookaheadError, match="none of the 3 hard negatives a window took part"):
        Participation.of(np.full((4, 3), np.nan, dtype=np.float32), fresh=0)
