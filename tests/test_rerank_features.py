"""What a reranker is told of each candidate: exact numbers of a list made by hand, and what makes no difference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from retrieval.rerank_features import NAMES, Told, told_of

AXES = torch.eye(8)
SEEDS = st.integers(0, 2**32 - 1)
Question = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def features(*question: Tensor) -> Tensor:
    """(B, N, F), in the order `told_of` takes them."""
    return told_of(*question).features


def drawn(seed: int, lists: int = 2, many: int = 13, dim: int = 12) -> Question:
    """Random lists near one direction each, with contexts of many lengths, some candidates absent."""
    chance = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> Tensor:
        return functional.normalize(torch.randn(*shape, dim, generator=chance), dim=-1)

    middle = unit(lists, 1)
    context = functional.normalize(middle + 0.7 * unit(lists, 5), dim=-1)
    candidates = functional.normalize(middle + 0.7 * unit(lists, many), dim=-1)
    candidates[:, 0] = context[:, -1]
    passages = functional.normalize(candidates + 0.3 * unit(lists, many), dim=-1)
    mask = torch.arange(5) >= torch.randint(0, 5, (lists, 1), generator=chance)
    present = torch.rand(lists, many, generator=chance) < 0.8
    present[:, :2] = True
    return context, mask, unit(lists), candidates, passages, present


def told_by_hand() -> dict[str, list[float]]:
    """Of A = x5, B = .6 x5 + .8 q and C, which is at right angles to all; their passages are x5, q and .6 q + .8 C."""
    a, b, c = AXES[4], 0.6 * AXES[4] + 0.8 * AXES[5], AXES[6]
    nothing = torch.full((8,), math.nan)  # an absent one
    candidates = torch.stack([a, b, c, nothing]).unsqueeze(0)
    passages = torch.stack([a, AXES[5], 0.6 * AXES[5] + 0.8 * AXES[6], nothing]).unsqueeze(0)
    present = torch.tensor([[True, True, True, False]])
    whole = torch.ones(1, 5, dtype=torch.bool)
    told = features(AXES[:5].unsqueeze(0), whole, AXES[5].unsqueeze(0), candidates, passages, present)
    assert told.shape == (1, 4, len(NAMES))
    assert told[0, 3].tolist() == [0.0] * len(NAMES)
    return {name: told[0, :3, place].tolist() for place, name in enumerate(NAMES)}


def expected() -> dict[str, list[float]]:
    mean, decayed = 1 / math.sqrt(5), 0.4 / math.sqrt(0.1**2 + 0.12**2 + 0.16**2 + 0.22**2 + 0.4**2)
    spread = math.sqrt((0.28444444 + 0.21777778 + 0.00444444) / 3)  # around 1.6 / 3
    before = range(1, 5)
    return {
        **{f"cosine to x{place}": [0, 0, 0] for place in before},
        "cosine to x5": [1, 0.6, 0],
        "cosine to the context's mean": [mean, 0.6 * mean, 0],
        "cosine to its decayed mean": [decayed, 0.6 * decayed, 0],
        "nearest context chunk": [1, 0.6, 0],
        "prediction · passage": [0, 1, 0.6],
        "prediction · candidate": [0, 0.8, 0],
        **{f"x{place}, less the list's best": [0, 0, 0] for place in before},
        "x5, less the list's best": [0, -0.4, -1],
        **{f"x{place}, less the five nearest candidates": [-0.12, -0.12, 0] for place in before},
        "x5, less the five nearest candidates": [0.88, 0.48, 0],
        "nearest candidate": [0.6, 0.6, 0],
        "five nearest candidates": [0.12, 0.12, 0],
        "ten nearest candidates": [0.06, 0.06, 0],
        "all candidates": [0.2, 0.2, 0],
        "cosine to the list's centre": [0.6, 1, math.exp(-8)],
        "rank by the prediction": [math.log(3), 0, math.log(2)],
        "prediction, less the list's best": [-1, 0, -0.4],
        "prediction, standardised in the list": [-0.53333 / spread, 0.46667 / spread, 0.06667 / spread],
        "in the context": [1, 0, 0],
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_feature_is_what_its_name_says(name: str) -> None:
    assert told_by_hand()[name] == pytest.approx(expected()[name], abs=1e-4)


def test_every_feature_has_one_name_and_is_expected_here() -> None:
    assert len(set(NAMES)) == len(NAMES) == 29
    assert set(expected()) == set(NAMES)


def test_with_a_short_context_the_first_chunk_stands_for_those_before_it() -> None:
    context = torch.stack([torch.full((8,), math.nan)] * 3 + [AXES[3], AXES[4]]).unsqueeze(0)
    mask = torch.tensor([[False, False, False, True, True]])
    one = AXES[3].reshape(1, 1, 8)
    told = features(context, mask, AXES[5].unsqueeze(0), one, one, torch.ones(1, 1, dtype=torch.bool))
    row = dict(zip(NAMES, told[0, 0].tolist(), strict=True))
    assert [row[f"cosine to x{place}"] for place in range(1, 6)] == [1, 1, 1, 1, 0]
    assert row["cosine to the context's mean"] == pytest.approx(1 / math.sqrt(2))  # each chunk once
    assert row["cosine to its decayed mean"] == pytest.approx(0.22 / math.hypot(0.22, 0.4))


@given(SEEDS)
def test_candidates_in_another_order_have_their_rows_in_that_order(seed: int) -> None:
    context, mask, prediction, candidates, passages, present = drawn(seed)
    order = torch.randperm(candidates.shape[1], generator=torch.Generator().manual_seed(seed))
    told = features(context, mask, prediction, candidates, passages, present)
    moved = features(context, mask, prediction, candidates[:, order], passages[:, order], present[:, order])
    assert torch.allclose(moved, told[:, order], atol=1e-5)


@given(SEEDS, st.sampled_from([0.0, 1.0, 1e30, math.nan, math.inf]))
def test_what_stands_where_a_candidate_is_absent_makes_no_difference(seed: int, there: float) -> None:
    context, mask, prediction, candidates, passages, present = drawn(seed)
    told = features(context, mask, prediction, candidates, passages, present)
    gone = ~present.unsqueeze(-1)
    other = features(
        context, mask, prediction, candidates.masked_fill(gone, there), passages.masked_fill(gone, there), present
    )
    assert torch.equal(other, told)
    assert not told[~present].any()


@given(SEEDS, st.integers(1, 30))
def test_absent_candidates_behind_a_list_make_no_difference(seed: int, more: int) -> None:
    context, mask, prediction, candidates, passages, present = drawn(seed, many=6)
    told = features(context, mask, prediction, candidates, passages, present)
    room = (0, 0, 0, more)
    longer = features(
        context,
        mask,
        prediction,
        functional.pad(candidates, room),
        functional.pad(passages, room),
        functional.pad(present, (0, more)),
    )
    assert torch.allclose(longer[:, :6], told, atol=1e-5)


@given(SEEDS, st.sampled_from([0.0, 1.0, math.nan, -math.inf]))
def test_what_stands_where_the_mask_is_false_makes_no_difference(seed: int, there: float) -> None:
    context, mask, *rest = drawn(seed, lists=5)
    other = context.masked_fill(~mask.unsqueeze(-1), there)
    assert torch.equal(features(other, mask, *rest), features(context, mask, *rest))


@given(SEEDS)
def test_only_a_chunk_of_the_context_is_in_the_context(seed: int) -> None:
    context, mask, prediction, candidates, passages, present = drawn(seed, many=9)
    present[:] = True
    mask[:] = True
    candidates[:, 2:7] = context
    place = NAMES.index("in the context")
    told = features(context, mask, prediction, candidates, passages, present)[..., place]
    assert told.tolist() == [[1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]] * 2


@pytest.mark.parametrize("many", [1, 2, 11])
@pytest.mark.parametrize("rows", ["zero", "equal", "drawn"])
@pytest.mark.parametrize("here", ["all", "one", "none"])
def test_every_feature_is_a_number(many: int, rows: str, here: str) -> None:
    context, mask, prediction, candidates, passages, present = drawn(1, many=11)
    candidates, passages = candidates[:, :many], passages[:, :many]
    present = torch.zeros(2, many, dtype=torch.bool)
    present[:, : {"all": many, "one": 1, "none": 0}[here]] = True
    if rows == "zero":
        context, prediction = torch.zeros_like(context), torch.zeros_like(prediction)
        candidates, passages = torch.zeros_like(candidates), torch.zeros_like(passages)
    if rows == "equal":
        candidates = passages = candidates[:, :1].expand_as(candidates)
    told = features(context, mask, prediction, candidates, passages, present)
    assert told.isfinite().all()
    assert told.shape == (2, many, len(NAMES))


@given(SEEDS)
def test_candidates_are_told_how_near_they_are_to_each_other(seed: int) -> None:
    question = drawn(seed)
    candidates, present = question[3], question[5]
    among = told_of(*question).among
    both = present.unsqueeze(1) & present.unsqueeze(2) & ~torch.eye(13, dtype=torch.bool)
    cosines = torch.einsum("bnd,bmd->bnm", candidates, candidates)
    assert torch.allclose(among[both], cosines[both], atol=1e-6)
    assert (among[~both] == -1).all()
    nothing = candidates.masked_fill(~present.unsqueeze(-1), math.nan)
    assert torch.equal(told_of(*question[:3], nothing, *question[4:]).among, among)


def test_a_list_knows_nothing_of_the_one_beside_it() -> None:
    both = drawn(3)
    alone = features(*(one[:1] for one in both))
    assert torch.allclose(features(*both)[:1], alone, atol=1e-6)


def test_some_lists_of_many_are_told_of_in_whole_precision() -> None:
    told = told_of(*drawn(3, lists=4))
    some = Told(told.features, told.among.half(), told.present)[1:3]
    assert torch.equal(some.features, told.features[1:3])
    assert some.among.dtype == torch.float32
    assert torch.allclose(some.among, told.among[1:3], atol=1e-3)
    assert torch.equal(some.present, told.present[1:3])
