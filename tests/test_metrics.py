"""Measures and intervals: exact values, agreement with ir-measures, and coverage on simulated questions."""

from __future__ import annotations

import copy
import random

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, Success

from retrieval.metrics import (
    bootstrap_interval,
    chance_recall,
    chance_reciprocal_rank,
    contain_at,
    each_once,
    first_relevant_rank,
    paired_difference,
    ranks_of,
    recall_at,
    reciprocal_rank,
)

some_ranks = st.lists(st.none() | st.integers(1, 120), min_size=1, max_size=40)


def test_the_first_relevant_unit_is_counted_from_one() -> None:
    assert first_relevant_rank(["a", "b", "c"], {"a"}) == 1
    assert first_relevant_rank(["a", "b", "c"], {"c", "b"}) == 2
    assert first_relevant_rank(["a", "b", "c"], {"d"}) is None
    assert first_relevant_rank([], {"d"}) is None


def test_an_article_counts_by_its_best_chunk() -> None:
    assert each_once(["7", "3", "7", "3", "5"]) == ["7", "3", "5"]


def test_a_question_without_an_answer_scores_zero_and_still_counts() -> None:
    ranks = ranks_of({"q1": {"a"}, "q2": {"b"}}, {"q1": ["a"], "unasked": ["b"]})
    assert ranks == [1, None]
    assert recall_at(ranks, 10).mean() == 0.5
    assert reciprocal_rank(ranks).mean() == 0.5


def test_each_measure_cuts_where_it_says() -> None:
    ranks = [1, 2, 5, 11, None]
    assert recall_at(ranks, 1).tolist() == [1, 0, 0, 0, 0]
    assert recall_at(ranks, 5).tolist() == [1, 1, 1, 0, 0]
    assert contain_at(ranks, 11).tolist() == [1, 1, 1, 1, 0]
    assert reciprocal_rank(ranks, 10).tolist() == [1, 0.5, 0.2, 0, 0]
    assert reciprocal_rank(ranks, 11)[3] == 1 / 11


@pytest.mark.parametrize("measure", [recall_at, contain_at, reciprocal_rank])
def test_places_below_the_first_are_refused(measure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="a cut of 0"):
        measure([1], 0)
    with pytest.raises(ValueError, match="a rank of 0"):
        measure([1, 0], 5)


@pytest.mark.parametrize("seed", range(5))
def test_recall_and_reciprocal_rank_agree_with_ir_measures(seed: int) -> None:
    rng = random.Random(seed)
    units = [f"d{i}" for i in range(80)]
    relevant = {f"q{i}": set(rng.sample(units, rng.randint(1, 4))) for i in range(60)}
    found = {question: rng.sample(units, rng.randint(0, 70)) for question in relevant if rng.random() < 0.8}
    qrels = [ir_measures.Qrel(question, unit, 1) for question, right in relevant.items() for unit in right]
    run = [
        ir_measures.ScoredDoc(question, unit, 1.0 - rank / 100)
        for question, ranked in found.items()
        for rank, unit in enumerate(ranked)
    ]
    theirs = ir_measures.calc_aggregate([Success @ 1, Success @ 5, Success @ 10, Success @ 50, RR @ 10], qrels, run)
    ranks = ranks_of(relevant, found)
    assert len(found) < len(ranks)
    for k in (1, 5, 10, 50):
        assert recall_at(ranks, k).mean() == pytest.approx(theirs[Success @ k], abs=1e-12)
    assert reciprocal_rank(ranks, 10).mean() == pytest.approx(theirs[RR @ 10], abs=1e-12)


@given(some_ranks, st.integers(1, 100))
def test_recall_bounds_reciprocal_rank_and_grows_with_k(ranks: list[int | None], k: int) -> None:
    near, far, reciprocal = recall_at(ranks, k), recall_at(ranks, k + 1), reciprocal_rank(ranks, k)
    assert ((near >= 0) & (near <= far) & (far <= 1)).all()
    assert ((recall_at(ranks, 1) <= reciprocal) & (reciprocal <= near)).all()


@given(some_ranks, st.randoms(use_true_random=False))
def test_the_order_of_questions_changes_no_mean(ranks: list[int | None], rng: random.Random) -> None:
    shuffled = rng.sample(ranks, len(ranks))
    assert recall_at(shuffled, 5).sum() == recall_at(ranks, 5).sum()
    assert reciprocal_rank(shuffled).sum() == pytest.approx(reciprocal_rank(ranks).sum())


@given(st.permutations("abcdefgh"), st.sets(st.sampled_from("abcdefgh"), min_size=1))
def test_moving_a_relevant_unit_to_the_front_is_never_worse(ranked: list[str], relevant: set[str]) -> None:
    unit = max(relevant)
    moved = [unit, *(other for other in ranked if other != unit)]
    before = first_relevant_rank(ranked, relevant)
    assert before is not None
    assert first_relevant_rank(moved, relevant) == 1 <= before


def test_nothing_edits_its_input() -> None:
    ranks, values, groups = [1, None, 3], [0.0, 1.0, 0.5], ["a", "a", "b"]
    relevant, found = {"q": {"a"}}, {"q": ["b", "a"]}
    before = copy.deepcopy((ranks, values, groups, relevant, found))
    recall_at(ranks, 2), reciprocal_rank(ranks), ranks_of(relevant, found)
    bootstrap_interval(values, groups, seed=1)
    paired_difference(values, values, groups, seed=1)
    assert (ranks, values, groups, relevant, found) == before


def test_chance_is_what_counting_on_fingers_gives() -> None:
    assert chance_recall(4, 1, 1) == 0.25
    assert chance_recall(4, 1, 4) == chance_recall(4, 1, 100) == 1
    assert chance_recall(4, 2, 2) == pytest.approx(5 / 6)  # of the 6 pairs of places one holds none of the two
    assert chance_reciprocal_rank(4, 1) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert chance_reciprocal_rank(4, 1, cut=2) == pytest.approx((1 + 1 / 2) / 4)
    with pytest.raises(ValueError, match="5 relevant of 4 units"):
        chance_recall(4, 5, 1)


def test_chance_is_what_shuffling_gives() -> None:
    rng = np.random.default_rng(3)
    ranks = [int(rng.permutation(30)[:3].min()) + 1 for _ in range(20_000)]
    assert chance_recall(30, 3, 5) == pytest.approx(recall_at(ranks, 5).mean(), abs=0.01)
    assert chance_reciprocal_rank(30, 3) == pytest.approx(reciprocal_rank(ranks).mean(), abs=0.01)


def test_values_that_are_all_alike_leave_no_doubt() -> None:
    assert bootstrap_interval([1.0] * 9, seed=1) == (1.0, 1.0)
    assert bootstrap_interval([0.25], ["only"], seed=1) == (0.25, 0.25)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(1).random(50)
    assert bootstrap_interval(values, seed=7) == bootstrap_interval(values, seed=7)
    assert bootstrap_interval(values, seed=7) != bootstrap_interval(values, seed=8)


def test_an_interval_is_the_one_of_drawing_the_questions_one_by_one() -> None:
    rng = np.random.default_rng(5)
    values = rng.choice([0.0, 0.5, 1.0], 120)
    slow = [rng.choice(values, len(values)).mean() for _ in range(20_000)]
    fast = bootstrap_interval(values, seed=1, resamples=20_000)
    assert fast == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.006)


def test_a_clustered_interval_is_the_one_of_drawing_whole_groups() -> None:
    rng = np.random.default_rng(6)
    members = [rng.random(int(rng.integers(1, 9))) ** 2 + 0.05 * i for i in range(12)]
    values = np.concatenate(members)
    groups = [f"g{i}" for i, group in enumerate(members) for _ in group]
    slow = [np.concatenate([members[i] for i in rng.integers(0, 12, 12)]).mean() for _ in range(10_000)]
    fast = bootstrap_interval(values, groups, seed=1, resamples=10_000)
    assert fast == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.01)


def test_questions_that_stand_or_fall_together_widen_the_interval() -> None:
    values = [1.0] * 50 + [0.0] * 50
    alone = bootstrap_interval(values, seed=1)
    together = bootstrap_interval(values, [i // 10 for i in range(100)], seed=1)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_groups_of_one_are_no_groups() -> None:
    values = [0.0, 1.0, 1.0, 0.5]
    assert bootstrap_interval(values, range(4), seed=1) == bootstrap_interval(values, seed=1)


def test_the_interval_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for seed in range(600):
        low, high = bootstrap_interval(rng.random(200) < 0.6, seed=seed, resamples=1000)
        covered += low <= 0.6 <= high
    assert 0.92 <= covered / 600 <= 0.975


def test_the_clustered_interval_covers_the_truth_where_the_plain_one_does_not() -> None:
    rng = np.random.default_rng(12)
    covered = {"plain": 0, "clustered": 0}
    groups = np.repeat(np.arange(40), 10).tolist()
    for seed in range(400):
        values = (rng.random(400) < np.repeat(rng.beta(3, 2, 40), 10)).astype(float)  # articles differ; the mean is .6
        for name, known in (("plain", None), ("clustered", groups)):
            low, high = bootstrap_interval(values, known, seed=seed, resamples=500)
            covered[name] += low <= 0.6 <= high
    assert 0.91 <= covered["clustered"] / 400 <= 0.975
    assert covered["plain"] / 400 < 0.85


def test_a_difference_is_taken_question_by_question() -> None:
    a, b = [1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]
    mean, low, high = paired_difference(a, b, seed=1)
    assert mean == 0.25
    assert low < mean < high
    assert paired_difference([0.5, 0.75], [0.25, 0.5], seed=1) == (0.25, 0.25, 0.25)


def test_a_constant_gain_is_certain_however_much_the_questions_differ() -> None:
    worse = np.linspace(0, 0.5, 64)
    mean, low, high = paired_difference(worse + 0.25, worse, seed=1)
    assert (mean, low, high) == pytest.approx((0.25, 0.25, 0.25))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 2**32))
def test_an_interval_lies_within_the_values(values: list[float], seed: int) -> None:
    low, high = bootstrap_interval(values, seed=seed, resamples=50)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [[1.0], [2.0]]])
def test_what_is_not_a_list_of_numbers_has_no_interval(values: list[float]) -> None:
    with pytest.raises(ValueError, match="one or more finite values"):
        bootstrap_interval(values, seed=1)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="1 groups for 2 values"):
        bootstrap_interval([1.0, 2.0], ["a"], seed=1)
    with pytest.raises(ValueError, match="not pairs"):
        paired_difference([1.0, 2.0], [1.0], seed=1)
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([1.0], seed=1, level=1.0)
