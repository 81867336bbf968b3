"""Losses: exact values on vectors that can be computed in the head."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from retrieval.losses import Cosine, InfoNCE, Judged, MeanSquared, Mixture, TokenLoss

AXES = torch.eye(4)


def judged(bank: Tensor, target: list[int], masked: list[list[int]] | None = None) -> Judged:
    hidden = torch.zeros(len(target), len(bank), dtype=torch.bool)
    for row, columns in enumerate(masked or []):
        hidden[row, columns] = True
    return Judged(bank, torch.tensor(target), hidden)


def test_cosine_is_0_for_a_hit_and_1_for_a_right_angle() -> None:
    assert Cosine()(AXES[[0]], judged(AXES, [0])) == 0
    assert Cosine()(AXES[[0]], judged(AXES, [1])) == 1
    assert Cosine()(AXES[[0, 0]], judged(AXES, [0, 1])) == 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_on_unit_vectors_the_squared_distance_is_on_the_scale_of_cosine(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank = functional.normalize(torch.randn(6, 8, generator=generator), dim=1)
    predicted = functional.normalize(torch.randn(3, 8, generator=generator), dim=1)
    these = judged(bank, [0, 3, 5])
    torch.testing.assert_close(MeanSquared()(predicted, these), Cosine()(predicted, these))


def test_the_squared_distance_sees_lengths() -> None:
    assert MeanSquared()(3 * AXES[[0]], judged(AXES, [0])) == 2  # (3 - 1)² / 2


def test_infonce_of_a_prediction_as_far_from_all_is_the_logarithm_of_their_number() -> None:
    nowhere = torch.full((1, 4), 0.5)
    assert InfoNCE(1.0)(nowhere, judged(AXES, [2])).item() == pytest.approx(math.log(4))


def test_masked_rows_are_no_negatives() -> None:
    nowhere = torch.full((1, 4), 0.5)
    assert InfoNCE(1.0)(nowhere, judged(AXES, [2], [[0, 1]])).item() == pytest.approx(math.log(2))


def test_a_twin_of_the_target_is_no_negative() -> None:
    bank = torch.cat([AXES, AXES[[2]]])
    nowhere = torch.full((1, 4), 0.5)
    assert InfoNCE(1.0)(nowhere, judged(bank, [2])).item() == pytest.approx(math.log(4))


def test_a_lower_temperature_is_more_certain() -> None:
    near = functional.normalize(torch.tensor([[1.0, 0.5, 0.0, 0.0]]), dim=1)
    assert InfoNCE(0.05)(near, judged(AXES, [0])) < InfoNCE(0.5)(near, judged(AXES, [0]))


def test_smoothing_gives_twins_their_share_of_the_target() -> None:
    bank = torch.cat([AXES, AXES[[2]]])
    towards = AXES[[2]]
    # logits 0 0 1 0 1: target and twin have the same logit, so sharing changes nothing but who is in the sum
    assert InfoNCE(1.0, 0.3)(towards, judged(bank, [2])).item() == pytest.approx(math.log(2 * math.e + 3) - 1)


def test_smoothing_says_how_much_of_the_target_a_twin_gets() -> None:
    near = torch.tensor([[0.0, 0.0, 0.99, math.sqrt(1 - 0.99**2)]])  # to the third axis
    bank = torch.cat([AXES[:3], near])
    total = math.log(2 + math.e + math.exp(0.99))  # of the logits 0 0 1 .99
    loss = InfoNCE(1.0, 0.3)(AXES[[2]], judged(bank, [2]))
    assert loss.item() == pytest.approx(0.7 * (total - 1) + 0.3 * (total - 0.99), abs=1e-6)


def test_smoothing_without_twins_is_plain_infonce() -> None:
    towards = functional.normalize(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), dim=1)
    torch.testing.assert_close(InfoNCE(0.1, 0.3)(towards, judged(AXES, [1])), InfoNCE(0.1)(towards, judged(AXES, [1])))


def test_a_masked_twin_gets_no_share() -> None:
    bank = torch.cat([AXES, AXES[[2]]])
    nowhere = torch.full((1, 4), 0.5)
    loss = InfoNCE(1.0, 0.3)(nowhere, judged(bank, [2], [[4]]))
    assert loss.item() == pytest.approx(math.log(4))


def test_a_mixture_adds_what_its_weights_say() -> None:
    these = judged(AXES, [1])
    mixed = Mixture({Cosine(): 0.25, InfoNCE(1.0): 2.0})(torch.full((1, 4), 0.5), these)
    assert mixed.item() == pytest.approx(0.25 * 0.5 + 2 * math.log(4))


@pytest.mark.parametrize(("temperature", "smoothing"), [(0.0, 0.0), (-1.0, 0.0), (0.1, 1.0), (0.1, -0.1)])
def test_impossible_settings_are_refused(temperature: float, smoothing: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        InfoNCE(temperature, smoothing)


# -- of tokens -------------------------------------------------------------------------------------------------------


def tokens(rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States (N, 8), a table of eleven tokens with its bias, and the tokens wanted."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((rows, 8), (11, 8), (11,))]
    return drawn[0], drawn[1], drawn[2], torch.randint(11, (rows,), generator=generator)


def both(rows: int) -> list[tuple[Tensor, list[Tensor]]]:
    """(loss, gradients of states, table and bias) of ours and of torch's own."""
    told = []
    for ours in (True, False):
        states, table, bias, wanted = tokens(rows)
        logits = functional.linear(states, table, bias)
        loss = (
            TokenLoss.apply(states, table, bias, wanted) if ours else functional.cross_entropy(logits.float(), wanted)
        )
        (3 * loss).backward()  # it is a part of what is made small
        told.append((loss.detach(), [value.grad for value in (states, table, bias) if value.grad is not None]))
    return told


@pytest.mark.parametrize("rows", [1, 7, 255, 256, 257, 600])
def test_the_loss_of_tokens_is_torchs_cross_entropy_with_its_gradients(rows: int) -> None:
    (ours, our_gradients), (theirs, their_gradients) = both(rows)
    torch.testing.assert_close(ours, theirs)
    assert len(our_gradients) == 3
    for one, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_in_half_precision_it_is_near_and_its_gradients_are_whole() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (ours, our_gradients), (theirs, their_gradients) = both(300)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)
    (exact, exact_gradients), _ = both(300)
    assert not torch.equal(ours, exact)  # it did compute in half precision
    torch.testing.assert_close(ours, exact, rtol=0.01, atol=0.01)
    for one, other, truth in zip(our_gradients, their_gradients, exact_gradients, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert functional.cosine_similarity(one.flatten(), truth.flatten(), dim=0) > 0.999
        assert one.norm() == pytest.approx(truth.norm().item(), rel=0.01)


def test_a_logit_that_would_overflow_is_no_trouble() -> None:
    states, table, bias, wanted = tokens(5)
    loss = TokenLoss.apply(1e4 * states, table, bias, wanted)
    loss.backward()
    torch.testing.assert_close(loss, functional.cross_entropy(functional.linear(1e4 * states, table, bias), wanted))
    assert states.grad is not None
    assert states.grad.isfinite().all()


def test_no_tokens_cost_nothing() -> None:
    states, table, bias, wanted = tokens(0)
    loss = TokenLoss.apply(states, table, bias, wanted)
    loss.backward()
    assert loss.item() == 0
    assert table.grad is not None
    assert bias.grad is not None
    assert not table.grad.any()
    assert not bias.grad.any()
    assert states.grad is not None
    assert states.grad.shape == (0, 8)
