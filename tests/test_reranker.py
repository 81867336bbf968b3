"""Rerankers: where they start, what makes no difference to them, and that all of them learns."""

from __future__ import annotations

import inspect
import math
from copy import deepcopy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rerank_features import SEEDS, drawn
from torch import Tensor
from torch.nn import functional

from retrieval.rerank_features import NAMES, Told, told_of
from retrieval.reranker import RERANKERS, ListReranker, MLPReranker, Reranker, _Block, build_reranker
from store.records import LookaheadError

KINDS = list(RERANKERS)


def untrained(kind: str) -> Reranker:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_reranker(kind).eval()


@cache
def opinionated(kind: str) -> Reranker:
    """One whose corrections are as large as the scores they correct."""
    model = untrained(kind)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.3)
    model.fit(told_of(*drawn(5, lists=20)))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_the_order_is_the_predictions(kind: str) -> None:
    question = drawn(2, lists=4)
    _, _, prediction, _, passages, present = question
    dots = torch.einsum("bnd,bd->bn", passages, prediction)
    with torch.no_grad():
        assert torch.allclose(untrained(kind)(*question)[present], 25 * dots[present], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(seed=SEEDS)
def test_candidates_in_another_order_have_their_scores_in_that_order(kind: str, seed: int) -> None:
    context, mask, prediction, candidates, passages, present = drawn(seed)
    order = torch.randperm(candidates.shape[1], generator=torch.Generator().manual_seed(seed))
    model = opinionated(kind)
    with torch.no_grad():
        scores = model(context, mask, prediction, candidates, passages, present)
        moved = model(context, mask, prediction, candidates[:, order], passages[:, order], present[:, order])
    assert torch.allclose(moved[present[:, order]], scores[:, order][present[:, order]], atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(seed=SEEDS, there=st.sampled_from([0.0, 1.0, math.nan]))
def test_the_absent_never_influence_the_present(kind: str, seed: int, there: float) -> None:
    context, mask, prediction, candidates, passages, present = drawn(seed)
    gone = ~present.unsqueeze(-1)
    model = opinionated(kind)
    with torch.no_grad():
        scores = model(context, mask, prediction, candidates, passages, present)
        candidates, passages = candidates.masked_fill(gone, there), passages.masked_fill(gone, there)
        other = model(context, mask, prediction, candidates, passages, present)
        here = present[0]  # the very candidates of one list without the absent ones
        first = (one[:1] for one in (context, mask, prediction, candidates[:, here], passages[:, here]))
        alone = model(*first, torch.ones(1, int(here.sum()), dtype=torch.bool))
    assert scores[present].isfinite().all()
    assert torch.equal(other[present], scores[present])
    assert torch.allclose(alone[0], scores[0][here], atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind: str) -> None:
    model = deepcopy(opinionated(kind)).train()
    question = drawn(4, lists=3)
    model(*question)[question[-1]].square().mean().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().max() > 0, name


@pytest.mark.parametrize(("kind", "count"), [("mlp", 6_145), ("list", 73_097)])
def test_a_reranker_has_so_many_parameters_whatever_the_dimension(kind: str, count: int) -> None:
    model = untrained(kind)
    assert sum(value.numel() for value in model.parameters()) == count
    for dim in (8, 768):
        with torch.no_grad():
            assert model(*drawn(0, dim=dim)).shape == (2, 13)


def test_only_the_list_kind_looks_at_the_other_candidates() -> None:
    told = told_of(*drawn(6, many=9))
    present = torch.ones(2, 9, dtype=torch.bool)
    numbers, among = told.features.clone(), told.among.clone()
    numbers[:, 3] += 0.5
    among[:, 4, 5] = among[:, 5, 4] = 0.9
    one = Told(told.features, told.among, present)
    rest = torch.arange(9) != 3
    for kind, looks in (("mlp", False), ("list", True)):
        model = opinionated(kind)
        with torch.no_grad():
            known = model.scores(one)
            assert torch.equal(known[:, rest], model.scores(Told(numbers, told.among, present))[:, rest]) is not looks
            assert torch.equal(known, model.scores(Told(told.features, among, present))) is not looks


def test_a_sharp_head_looks_at_the_nearest_candidates() -> None:
    """What is added for a candidate depends on what stands at the one near to it, not on one far from it."""
    chance = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = _Block(8, 1, 0.0).eval()
    torch.nn.init.constant_(block.nearness, 40.0)
    h = torch.randn(1, 3, 8, generator=chance)
    among = torch.tensor([[[-1.0, 0.9, 0.0], [0.9, -1.0, 0.0], [0.0, 0.0, -1.0]]])
    present = torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        known = block(h, among, present)
        for other, differs in ((1, True), (2, False)):
            changed = h.clone()
            changed[:, other] = torch.randn(8, generator=chance)
            assert torch.allclose(block(changed, among, present)[:, 0], known[:, 0], atol=1e-5) is not differs


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_standardised_by_what_it_was_shown(kind: str) -> None:
    model = untrained(kind)
    numbers = torch.zeros(1, 3, len(NAMES))
    numbers[0, :, 0] = torch.tensor([1.0, 5.0, 99.0])
    model.fit(Told(numbers, torch.zeros(1, 3, 3), torch.tensor([[True, True, False]])))
    assert model.centre[0] == 3
    assert model.scale[0] == 0.5
    assert model.scale[1].item() == pytest.approx(1000)  # one that never differed is not made infinite
    model.fit(Told(numbers, torch.zeros(1, 3, 3), torch.tensor([[True, False, False]])))
    assert model.scale.isfinite().all()


class Shown(MLPReranker):
    """Keeps what it was shown."""

    def judged(self, told: Told) -> Tensor:
        self.shown = told
        return told.features[..., 0]


def test_a_feature_far_from_what_was_shown_counts_as_six_deviations() -> None:
    model = Shown()
    present = torch.tensor([[True, False]])
    model.scores(Told(torch.full((1, 2, len(NAMES)), 100.0), torch.zeros(1, 2, 2), present))
    assert model.shown.features[0].unique(dim=1).tolist() == [[6.0], [0.0]]


def test_a_reranker_is_shown_vectors_and_nothing_else() -> None:
    shown = list(inspect.signature(Reranker.forward).parameters)
    assert shown == ["self", "context", "mask", "prediction", "candidates", "passages", "present"]


def test_options_are_the_networks_own_and_an_unknown_kind_is_refused_by_name() -> None:
    smaller = build_reranker("list", {"hidden": 8, "layers": 3, "heads": 2})
    assert isinstance(smaller, ListReranker)
    assert (len(smaller.blocks), smaller.inner.out_features) == (3, 8)
    with pytest.raises(LookaheadError, match="there is no reranker 'tree'; there are: mlp, list"):
        build_reranker("tree")


@pytest.mark.parametrize("kind", KINDS)
def test_a_reranker_learns_from_a_few_lists(kind: str) -> None:
    """The true one is the candidate farthest from the prediction."""
    told = told_of(*drawn(7, lists=16))
    gone = ~told.present
    wanted = told.features[..., NAMES.index("prediction · passage")].masked_fill(gone, 9).argmin(dim=1)
    model = untrained(kind)
    model.fit(told)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = functional.cross_entropy(model.scores(told).masked_fill(gone, -1e9), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        found = model.scores(told).masked_fill(gone, -1e9).argmax(dim=1)
    assert (found == wanted).float().mean() > 0.9
