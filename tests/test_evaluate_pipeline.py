"""Ranks of whole pipelines: against the evaluator of predictors, a slow reference, and one who knows the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_articles import article_rows, sequences_of, vectors_of, wandering

from retrieval import candidates, evaluate_next, evaluate_pipeline
from retrieval.baselines import Predicts, copy_last
from retrieval.candidates import Choice, decayed, marginal
from retrieval.evaluate_next import DUPLICATE, TIE, Asked, Bank, Judged, Outcome, View, Whole, drawn, judge, predictions
from retrieval.evaluate_pipeline import (
    InOrder,
    PipelineRanker,
    ablation_of,
    models_apart,
    ranker_of,
    varied,
)
from retrieval.next_report import Apart
from retrieval.pipeline import Pipeline
from retrieval.sequences import Bools, Floats, Ints, Sequences, Windows

EVERY = tuple(Bank)
Scores = Callable[[Floats, Floats, Floats, Floats], Floats]  # (last chunk, prediction, rows, passages) of lists


class Guess:
    def __init__(self, predict: Predicts) -> None:
        self.predict = predict


class Squeeze:
    """A P tower that halves every second coordinate."""

    def passages(self, rows: Floats) -> Floats:
        squeezed = rows * np.where(np.arange(rows.shape[1]) % 2, np.float32(0.5), np.float32(1))
        return np.asarray(squeezed / np.linalg.norm(squeezed, axis=1, keepdims=True), dtype=np.float32)


class Fake:
    """A reranker of one rule, which checks what it is handed."""

    def __init__(self, rule: Scores) -> None:
        self.rule = rule
        self.widest = 0

    def scores(
        self, context: Floats, mask: Bools, prediction: Floats, rows: Floats, passages: Floats, present: Bools
    ) -> Floats:
        assert len(context) == len(mask) == len(prediction) == len(rows) == len(passages) == len(present)
        assert (np.diff(present.astype(int), axis=1) <= 0).all()  # what is missing is behind
        assert not rows[~present].any()
        assert not passages[~present].any()
        np.testing.assert_allclose(np.linalg.norm(rows[present], axis=1), 1, atol=1e-5)
        self.widest = max(self.widest, present.shape[1])
        told: Floats = np.where(present, self.rule(context[:, -1], prediction, rows, passages), -np.inf)
        return told.astype(np.float32)


def first_scores(last: Floats, prediction: Floats, rows: Floats, passages: Floats) -> Floats:
    return np.asarray(np.einsum("nmd,nd->nm", passages, prediction), dtype=np.float32)


def by_an_axis(last: Floats, prediction: Floats, rows: Floats, passages: Floats) -> Floats:
    """An order that has nothing to do with the first one, of scores beyond 1."""
    return np.asarray(30 * rows[..., 0] - 7 * passages[..., 1] + 5 * np.einsum("nmd,nd->nm", rows, last))


def knowing(sequences: Sequences, windows: Windows) -> Scores:
    """The order of one who knows the target, told apart by the last chunk of the context."""
    answers = {sequences.unit(np.array([one - 1]))[0].tobytes(): one for one in windows.target.tolist()}

    def rule(last: Floats, prediction: Floats, rows: Floats, passages: Floats) -> Floats:
        targets = sequences.unit(np.array([answers[one.tobytes()] for one in last]))
        return np.asarray(np.einsum("nmd,nd->nm", rows, targets), dtype=np.float32)

    return rule


def pipeline(
    predict: Predicts = copy_last, *, tower: bool = False, rule: Scores | None = None, choice: Choice | None = None
) -> Pipeline:
    parts: list[Any] = [Guess(predict), Squeeze() if tower else None, Fake(rule) if rule is not None else None]
    return Pipeline(parts[0], parts[1], parts[2], choice or Choice())


def mixed_up(context: Floats, mask: Bools) -> Floats:
    """A little of everything that can come: good, constant, zero and broken predictions, by what the context is."""
    guess = context[:, -1] + 0.3 * context[:, -2]
    kind = (np.abs(context[:, -1]).sum(axis=1) * 1000).astype(int) % 6
    guess[kind == 1] = context[kind == 1, -1]
    guess[kind == 2] = 0
    guess[kind == 3] = np.nan
    guess[kind == 4] = 1
    return guess


def told(outcome: Outcome, name: str, bank: Bank = Bank.HELDOUT, view: View = View.NEW) -> Judged:
    return next(one for one in outcome.judgements if (one.bank, one.view) == (bank, view)).rows[name]


def library(folder: Path, seed: int = 3) -> tuple[Sequences, Whole]:
    """Articles with texts that come again, in the middle of other chunks of which some are dead."""
    articles = wandering([9, 3, 14, 6, 1, 11], dim=8, seed=seed)
    articles[2][4], articles[2][9], articles[5][7] = articles[0][6], articles[2][8], articles[0][6]
    rows = np.concatenate([wandering([20], dim=8, seed=9)[0], *articles, wandering([13], dim=8, seed=8)[0]])
    rows[70] = rows[20 + 6]
    vectors = vectors_of(folder, rows)
    dead = {0, 5, 17, 66, 76}
    whole = Whole(vectors, np.array([place for place in range(len(rows)) if place not in dead]))
    return Sequences(article_rows([len(one) for one in articles], first=20), vectors), whole


# -- beside the evaluator of predictors --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), shortest=st.integers(1, 5), depth=st.integers(1, 12))
def test_a_pipeline_that_is_a_predictor_has_its_ranks_in_every_bank_and_view(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shortest: int, depth: int
) -> None:
    sequences, whole = library(tmp_path_factory.mktemp("s"), seed)
    windows = sequences.windows(shortest)
    rows = {
        "bare": pipeline(mixed_up),
        "reranked by the first score": pipeline(mixed_up, rule=first_scores, choice=Choice(depth)),
    }
    outcome = judge(
        sequences, windows, {"mixed": mixed_up}, [PipelineRanker("p", rows)], banks=EVERY, whole=whole, full_queries=20
    )
    for judgement in outcome.judgements:
        expected = judgement.rows["mixed"]
        for name in rows:
            assert judgement.rows[name].ranks.tolist() == expected.ranks.tolist(), (judgement.bank, judgement.view)
        bare, reordered = (judgement.rows[name] for name in rows)
        assert bare.cosine is not None
        assert expected.cosine is not None
        assert bare.cosine.tolist() == expected.cosine.tolist()
        assert bare.contrast is bare.gap is bare.before is None
        assert reordered.cosine is reordered.contrast is reordered.gap is None
        assert reordered.before is not None
        assert reordered.before.tolist() == expected.ranks.tolist()


@pytest.mark.parametrize("tower", [False, True])
def test_the_first_scores_again_change_no_rank_and_random_order_does(tmp_path: Path, tower: bool) -> None:
    sequences, whole = library(tmp_path)
    rng = np.random.default_rng(0)
    rows = {
        "as it is": pipeline(tower=tower),
        "again": pipeline(tower=tower, rule=first_scores, choice=Choice(6)),
        "random": pipeline(
            tower=tower,
            rule=lambda last, told, rows, passages: rng.random(rows.shape[:2], dtype=np.float32),
            choice=Choice(6),
        ),
    }
    outcome = judge(sequences, sequences.windows(), {}, [PipelineRanker("p", rows)], banks=EVERY, whole=whole)
    for judgement in outcome.judgements:
        found = {name: judgement.rows[name] for name in rows}
        assert found["again"].ranks.tolist() == found["as it is"].ranks.tolist()
        inside = found["as it is"].ranks <= 6
        assert (found["random"].ranks[inside] <= 6).all()
        assert found["random"].ranks[~inside].tolist() == found["as it is"].ranks[~inside].tolist()
        assert found["random"].ranks[inside].tolist() != found["as it is"].ranks[inside].tolist()


@pytest.mark.parametrize(
    "choice", [Choice(5), Choice(9, blend=0.4), Choice(11, assist=2), Choice(7, blend=0.7, variety=0.6)]
)
def test_who_knows_the_target_finds_it_first_wherever_the_list_contains_it(tmp_path: Path, choice: Choice) -> None:
    articles = wandering([13, 24, 17], dim=8, seed=5)
    sequences = sequences_of(tmp_path, articles)
    windows = sequences.windows(2)
    one = pipeline(tower=True, rule=knowing(sequences, windows), choice=choice)
    outcome = judge(sequences, windows, {}, [PipelineRanker("p", {"knowing": one})])
    for view in View:
        found = told(outcome, "knowing", view=view)
        assert found.before is not None
        assert ((found.ranks == 1) == (found.before <= choice.depth)).all()
        assert 0.1 < (found.ranks == 1).mean() < 1
        assert (found.ranks[found.ranks > 1] > choice.depth).all()


# -- against a slow reference ------------------------------------------------------------------------------------------


def slow_list(scores: Floats, rows: Floats, own: list[int], choice: Choice) -> list[int]:
    """Columns in the order of the list; scores of -inf may not be in it."""
    order = [int(one) for one in np.lexsort((np.arange(len(scores)), -scores)) if np.isfinite(scores[one])]
    if choice.variety is not None:
        pool = order[: 2 * choice.depth]
        order = [pool[place] for place in marginal(scores[pool], rows[pool], choice.variety, choice.depth)]
    if choice.assist:
        head = order[: candidates.HEAD]
        there = [one for one in own if np.isfinite(scores[one]) and one not in head]
        there = sorted(there, key=lambda one: -scores[one])[: choice.assist]
        order = list(dict.fromkeys([*head, *there, *order[candidates.HEAD :]]))
    return order[: choice.depth]


def slow_ranks(
    one: Pipeline, context: Floats, mask: Bools, told: Floats, rows: Floats, target: int, out: list[int], own: list[int]
) -> tuple[float, float]:
    """(rank before a reranker, rank after)"""
    if not np.linalg.norm(told) > 0.5:
        return np.inf, np.inf
    passages = one.passages(rows)
    scores = passages @ told
    if one.choice.blend:
        scores = scores + np.float32(one.choice.blend) * (rows @ decayed(context[None], mask[None])[0])
    goal = scores[target]
    scores[out] = -np.inf
    twin = rows.astype(np.float64) @ rows[target].astype(np.float64) >= DUPLICATE
    same = {c for c in range(len(rows)) if c == target or (twin[c] and abs(scores[c] - goal) <= TIE)}
    ahead = {c for c in range(len(rows)) if scores[c] >= goal - TIE} - same
    listed = slow_list(scores, rows, own, one.choice)
    arranged = bool(one.choice.assist) or one.choice.variety is not None

    beyond, mine = ahead - set(listed), [place for place, c in enumerate(listed) if c in same]
    before: float = 1 + len(ahead)
    if arranged:
        before = 1 + len(set(listed) - same) + len(beyond)
        if mine:
            tied = [place < mine[0] or abs(scores[c] - goal) <= TIE for place, c in enumerate(listed) if c not in same]
            before = 1 + sum(tied)
    if one.reranker is None:
        return before, before
    if not mine:
        return before, 1 + len(set(listed) - same) + len(beyond)
    again: Floats = cast(Fake, one.reranker).rule(
        context[None, -1], told[None], rows[None, listed], passages[None, listed]
    )[0]
    top = float(max(again[place] for place in mine))
    better = sum(again[place] >= top - TIE * max(1, abs(top)) for place, c in enumerate(listed) if c not in same)
    return before, 1 + better + (0 if arranged else len(beyond))


CHOICES = {
    "plain": Choice(7),
    "deep": Choice(200),
    "blend": Choice(7, blend=0.8),
    "assist": Choice(20, assist=3),
    "assist, blend": Choice(14, blend=0.5, assist=40),
    "variety": Choice(6, variety=0.6),
    "varied, blend, assist": Choice(15, blend=0.5, assist=5, variety=0.8),
}


@pytest.mark.parametrize(("queries", "columns", "lists", "shortest"), [(1024, 4096, 128, 5), (5, 7, 3, 1)])
@pytest.mark.parametrize("tower", [False, True])
def test_all_lists_in_all_banks_agree_with_a_slow_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queries: int, columns: int, lists: int, shortest: int, tower: bool
) -> None:
    # of two equal texts either may be the fifth, and in this library two are; the eighth is one alone
    monkeypatch.setattr(candidates, "HEAD", 8)
    monkeypatch.setattr(evaluate_next, "_QUERIES", queries)
    monkeypatch.setattr(evaluate_next, "_COLUMNS", columns)
    monkeypatch.setattr(evaluate_pipeline, "_LISTS", lists)
    monkeypatch.setattr(evaluate_pipeline, "_QUERIES", lists)
    sequences, whole = library(tmp_path)
    windows = sequences.windows(shortest)
    rows = {name: pipeline(mixed_up, tower=tower, rule=by_an_axis, choice=one) for name, one in CHOICES.items()}
    rows |= {f"{name}, not reranked": replace(one, reranker=None) for name, one in rows.items()}
    many = len(windows) - 2
    outcome = judge(
        sequences, windows, {}, [PipelineRanker("p", rows)], banks=EVERY, whole=whole, full_queries=many, seed=4
    )
    guesses = predictions(mixed_up, sequences, windows)
    contexts, masks = sequences.contexts(windows)
    asked = {bank: list(range(len(windows))) for bank in EVERY} | {Bank.FULL: drawn(len(windows), many, 4).tolist()}
    for judgement in outcome.judgements:
        expected: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for query in asked[judgement.bank]:
            article, goal, length = (int(part[query]) for part in (windows.article, windows.target, windows.length))
            own = np.arange(sequences.first[article], sequences.first[article] + sequences.count[article])
            ids: Ints = {Bank.HELDOUT: sequences.ids(), Bank.FULL: whole.live, Bank.ARTICLE: own}[judgement.bank]
            left_out = np.arange(goal - length, goal if judgement.view is View.NEW else goal - length)
            places = [np.searchsorted(ids, some).tolist() for some in (left_out, own)]
            bank, target = sequences.unit(ids), int(np.searchsorted(ids, goal))
            for name, one in rows.items():
                found = slow_ranks(one, contexts[query], masks[query], guesses[query], bank, target, *places)
                expected[name].append(found)
        for name, one in rows.items():
            row = judgement.rows[name]
            before = row.ranks if row.before is None else row.before
            assert (row.before is None) == (one.reranker is None)
            pairs = list(zip(before.tolist(), row.ranks.tolist(), strict=True))
            assert pairs == expected[name], (judgement.bank, judgement.view, name)


# -- ties, twins, broken scores ----------------------------------------------------------------------------------------


def axes(*numbers: int, dim: int = 12) -> Floats:
    return np.eye(dim, dtype=np.float32)[list(numbers)]


def ranks_of(folder: Path, articles: list[Floats], one: Pipeline) -> dict[View, list[float]]:
    sequences = sequences_of(folder, articles)
    outcome = judge(sequences, sequences.windows(), {}, [PipelineRanker("p", {"row": one})])
    return {view: told(outcome, "row", view=view).ranks.tolist() for view in View}


def far(context: Floats, mask: Bools) -> Floats:
    return np.tile(axes(11)[0], (len(context), 1))


def constant(last: Floats, prediction: Floats, rows: Floats, passages: Floats) -> Floats:
    return np.ones(rows.shape[:2], dtype=np.float32)


def nearly_constant(last: Floats, prediction: Floats, rows: Floats, passages: Floats) -> Floats:
    """The target is a little higher, by less than single precision tells at such a height."""
    return np.asarray(20 + 4e-6 * rows[..., 5], dtype=np.float32)


def test_constant_scores_earn_nothing_from_ties(tmp_path: Path) -> None:
    articles = [axes(0, 1, 2, 3, 4, 5), axes(6, 7, 8)]
    found = ranks_of(tmp_path / "a", articles, pipeline(far, rule=constant, choice=Choice(4)))
    assert found == {View.SEEN: [9], View.NEW: [4]}  # all nine tie, though the list holds but four
    found = ranks_of(tmp_path / "b", articles, pipeline(far, rule=constant, choice=Choice(2)))
    assert found == {View.SEEN: [9], View.NEW: [4]}  # in `new` the target is in the list, by its column alone
    for place, rule in enumerate((constant, nearly_constant)):
        sure = pipeline(lambda context, mask: np.tile(axes(5)[0], (len(context), 1)), rule=rule, choice=Choice(4))
        assert ranks_of(tmp_path / str(place), articles, sure) == {View.SEEN: [4], View.NEW: [4]}


def test_an_arranged_list_earns_nothing_from_ties_either(tmp_path: Path) -> None:
    articles = [axes(0, 1, 2, 3, 4, 5), axes(6, 7, 8)]
    for place, choice in enumerate((Choice(20, assist=5), Choice(9, variety=0.7))):
        found = ranks_of(tmp_path / str(place), articles, pipeline(far, choice=choice))
        assert found == {View.SEEN: [9], View.NEW: [4]}


def test_a_duplicate_in_the_list_stands_for_the_target_and_is_not_ahead_of_it(tmp_path: Path) -> None:
    articles = [axes(0, 1, 2, 3, 4, 5), axes(5, 6, 5)]
    sure = pipeline(lambda context, mask: np.tile(axes(5)[0], (len(context), 1)), rule=first_scores, choice=Choice(1))
    assert ranks_of(tmp_path, articles, sure) == {View.SEEN: [1], View.NEW: [1]}


def test_a_list_with_a_score_that_is_no_number_has_found_nothing(tmp_path: Path) -> None:
    def broken(last: Floats, prediction: Floats, rows: Floats, passages: Floats) -> Floats:
        scores = first_scores(last, prediction, rows, passages)
        scores[:, -1] = np.nan
        return scores

    articles = [axes(0, 1, 2, 3, 4, 5), axes(6, 7, 8)]
    assert ranks_of(tmp_path, articles, pipeline(rule=broken, choice=Choice(3))) == {
        View.SEEN: [np.inf],
        View.NEW: [np.inf],
    }


def test_a_list_is_no_longer_than_its_depth_and_its_bank(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, wandering([8, 30]))
    one = pipeline(rule=first_scores, choice=Choice(10))
    deep = pipeline(rule=first_scores, choice=Choice(100))
    judge(sequences, sequences.windows(), {}, [PipelineRanker("p", {"one": one, "deep": deep})], banks=EVERY[::2])
    assert cast(Fake, one.reranker).widest == 10
    assert cast(Fake, deep.reranker).widest == 38


# -- lists -------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), weight=st.floats(0.01, 1), many=st.integers(1, 12), gone=st.integers(0, 6))
def test_many_lists_are_varied_as_one_is(seed: int, weight: float, many: int, gone: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3, 9, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    scores = rng.normal(size=(3, 9)).astype(np.float32)
    scores[1, 9 - gone :] = -np.inf
    for found, own, vectors in zip(varied(scores, rows, weight, many), scores, rows, strict=True):
        one = marginal(own, vectors, weight, many).tolist()
        assert found.tolist() == one + [-1] * (many - len(one))


@given(seed=st.integers(0, 1000), keep=st.integers(1, 12), width=st.integers(1, 30))
def test_the_best_of_a_block_and_those_before_are_the_best_of_all(seed: int, keep: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(7 * 4 * width).reshape(7, 4 * width).astype(np.float32)
    best = np.full((7, keep), -np.inf, dtype=np.float32)
    who = np.full((7, keep), -1, dtype=np.int64)
    for first in range(0, 4 * width, width):
        best, who = evaluate_pipeline._better(best, who, scores[:, first : first + width].copy(), first)
    take = min(keep, 4 * width)
    assert who[:, :take].tolist() == np.argsort(-scores, axis=1)[:, :take].tolist()
    assert best[:, :take].tolist() == (-np.sort(-scores, axis=1)[:, :take]).tolist()
    assert (who[:, take:] == -1).all()


# -- rows --------------------------------------------------------------------------------------------------------------


def test_the_rows_of_a_model_are_its_parts() -> None:
    whole = pipeline(tower=True, rule=first_scores, choice=Choice(100, 0.4))
    plain = whole.without_reranker()
    assert ranker_of("towers", whole).pipelines == {"towers": plain, "towers + reranker": whole}
    assert ranker_of("towers", plain, assist=20).pipelines == {
        "towers": plain,
        "towers, assist 20": plain.choosing(Choice(assist=20)),
    }
    assert ranker_of("amn", pipeline()).pipelines == {}
    with_both = ranker_of("amn", pipeline(rule=first_scores), assist=7, variety=0.5).pipelines
    assert list(with_both) == ["amn + reranker", "amn + reranker, assist 7", "amn + reranker, variety 0.5"]


def test_an_ablation_takes_out_or_puts_in_one_part_at_a_time() -> None:
    whole = pipeline(tower=True, rule=first_scores, choice=Choice(100, 0.4))
    ranker = ranker_of("towers", whole, ablate=True)
    assert {name: (one.reranker is not None, one.choice) for name, one in ranker.apart.items()} == {
        "towers + reranker, blend 0": (True, Choice()),
        "towers + reranker, assist 45": (True, Choice(100, 0.4, assist=45)),
        "towers + reranker, variety 0.7": (True, Choice(100, 0.4, variety=0.7)),
        "towers, assist 45": (False, Choice(assist=45)),
        "towers, variety 0.7": (False, Choice(variety=0.7)),
    }
    assert ablation_of("towers", ranker).rows[:2] == ("towers + reranker", "towers")
    assert set(ablation_of("towers", ranker).rows) == {*ranker.pipelines, *ranker.apart}
    assert ranker_of("towers", whole.without_reranker(), ablate=True).apart == {}
    assert "towers + reranker, assist 45" not in ranker_of("towers", whole, assist=45, ablate=True).apart


def test_rows_apart_are_asked_of_the_held_out_chunks_alone(tmp_path: Path) -> None:
    sequences, whole = library(tmp_path)
    one = PipelineRanker("p", {"row": pipeline()}, {"aside": pipeline(rule=first_scores)})
    outcome = judge(sequences, sequences.windows(), {}, [one], banks=EVERY, whole=whole)
    assert [("aside" in judgement.rows, "row" in judgement.rows) for judgement in outcome.judgements] == [
        (judgement.bank is Bank.HELDOUT, True) for judgement in outcome.judgements
    ]


def test_models_are_held_against_the_first_named() -> None:
    assert models_apart(["a"], ["a"]) == []
    assert models_apart(["a", "b", "c"], ["a", "c"]) == [
        Apart("models, each other less a", ("a", "b", "c")),
        Apart("models with their rerankers, each other less a + reranker", ("a + reranker", "c + reranker")),
    ]
    assert [one.rows for one in models_apart(["a", "b"], ["b"])] == [("a", "b")]


def test_the_rule_of_positions_is_always_right(tmp_path: Path) -> None:
    sequences, whole = library(tmp_path)
    outcome = judge(sequences, sequences.windows(1), {}, [InOrder()], banks=EVERY, whole=whole)
    for judgement in outcome.judgements:
        assert (judgement.rows[InOrder().name].ranks == 1).all()


def test_two_rows_cannot_have_one_name(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, wandering([8]))
    with pytest.raises(ValueError, match="a name for two rows"):
        judge(sequences, sequences.windows(), {"row": copy_last}, [PipelineRanker("p", {"row": pipeline()})])


def test_a_duplicate_at_the_very_edge_of_a_tie_is_the_target_in_a_list_as_it_is_in_the_bank() -> None:
    own = np.array([0.5], dtype=np.float32)
    edge = own + np.float32(TIE)  # 1.01e-6 more: floats are 6e-8 apart there
    asked = Asked(np.zeros((1, 2), np.float32), *(np.array([value]) for value in (0, 0, 0, 1)))
    columns, scores = np.array([[1, 0]]), np.array([[edge[0], own[0]]])
    members = evaluate_pipeline._Members.of(columns, scores, own, asked, np.array([1.0]))
    assert members.by_score(np.array([[0, 1]], dtype=np.float32), closed=False).tolist() == [1]
