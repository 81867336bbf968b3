"""Losses: exact values on vectors that can be computed in the head."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from retrieval.losses import Cosine, InfoNCE, Judged, MeanSquared, Mixture

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
