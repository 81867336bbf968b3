"""Losses of a distillation: 0 for the teacher itself, 1 where nothing is known, a finite gradient whatever comes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from retrieval.distill_losses import LOSSES, Alignment, Contrastive, Distillation, DistillLoss, Triplet, Weighted

APART = torch.eye(4)  # four texts at right angles to each other
SAME = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(4, 1)


def unit(batch: int, seed: int, dim: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(batch, dim, generator=generator), dim=-1)


@pytest.mark.parametrize("name", LOSSES)
def test_a_student_that_is_its_teacher_has_no_loss(name: str) -> None:
    assert float(LOSSES[name]()(APART, APART)) == pytest.approx(0.0, abs=1e-6)


def test_a_right_angle_to_the_teacher_is_one_for_distillation_and_its_opposite_two() -> None:
    loss = Distillation()
    assert float(loss(APART[[1, 0, 3, 2]], APART)) == pytest.approx(1.0)
    assert float(loss(-APART, APART)) == pytest.approx(2.0)
    half = functional.normalize(torch.tensor([[3.0, 4.0]]))  # at cosine .6 to the first axis
    assert float(loss(half, torch.tensor([[1.0, 0.0]]))) == pytest.approx(0.4)


def test_alignment_is_one_where_every_pair_has_the_mean_cosine() -> None:
    # the teacher's cosines: 1 for one pair of three, 0 for the others; a mean of 1/3, a variance of 2/9
    teacher = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    third = math.sqrt((1 - 1 / 3) / 1)
    alike = torch.cat([torch.eye(3) * third, torch.full((3, 1), math.sqrt(1 / 3))], dim=1)
    assert (alike @ alike.T)[0, 1] == pytest.approx(1 / 3)
    assert float(Alignment()(alike, teacher)) == pytest.approx(1.0)
    assert float(Alignment()(torch.eye(3), teacher)) == pytest.approx((1 / 3) / (2 / 9))  # one of three is off by 1


def test_alignment_does_not_ask_where_the_texts_lie_but_how() -> None:
    teacher, turn = unit(8, 0), torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    assert float(Alignment()(teacher @ turn, teacher)) == pytest.approx(0.0, abs=1e-5)
    assert float(Distillation()(teacher @ turn, teacher)) > 0.3


def test_a_guess_is_one_for_contrastive() -> None:
    assert float(Contrastive()(SAME, APART)) > 1  # sure, and wrong three times of four
    between = torch.full((4, 4), 0.5)  # equally near to each
    assert float(Contrastive()(between, APART)) == pytest.approx(1.0)
    two = Contrastive(temperature=1.0)(torch.eye(2), torch.eye(2))
    assert float(two) == pytest.approx(math.log(1 + math.exp(-1)) / math.log(2))


def test_equally_near_to_its_own_and_to_another_is_one_for_triplet() -> None:
    assert float(Triplet()(torch.full((4, 4), 0.5), APART)) == pytest.approx(1.0)
    assert float(Triplet(margin=0.5)(APART[[1, 0, 3, 2]], APART)) == pytest.approx(3.0)  # (.5 + 1 - 0) / .5
    near = functional.normalize(torch.tensor([[1.0, 0.9], [0.0, 1.0]]))  # .743 to its own, .669 to the other
    own, other = near[0].tolist()
    assert float(Triplet()(near, torch.eye(2))) == pytest.approx((0.2 + other - own) / 0.2 / 2)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (unit(2, 1), unit(2, 2)),
        (unit(1, 1), unit(1, 2)),
        (SAME, SAME),
        (unit(4, 1, dim=4), SAME),
        (SAME, APART),
        (unit(3, 1).repeat(2, 1), unit(3, 2).repeat(2, 1)),
        (-APART, APART),
    ],
    ids=["two", "one", "one text four times", "seen as one", "collapsed", "duplicates", "opposite"],
)
def test_loss_and_gradient_are_finite(name: str, student: Tensor, teacher: Tensor) -> None:
    raw = student.clone().requires_grad_()
    value = LOSSES[name]()(functional.normalize(raw, dim=-1), teacher)
    value.backward()
    assert value.ndim == 0
    assert math.isfinite(float(value.detach()))
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


@settings(max_examples=25)
@given(name=st.sampled_from(sorted(LOSSES)), batch=st.integers(3, 12), seed=st.integers(0, 50))
def test_no_loss_is_below_nothing_and_a_step_down_its_gradient_lowers_it(name: str, batch: int, seed: int) -> None:
    loss: DistillLoss = LOSSES[name]()
    raw, teacher = unit(batch, seed).requires_grad_(), unit(batch, seed + 1_000)
    value = loss(functional.normalize(raw, dim=-1), teacher)
    value.backward()
    assert float(value.detach()) >= 0
    assert raw.grad is not None
    if float(value.detach()) > 1e-3:
        step = 1e-3 * raw.grad / raw.grad.norm()
        assert float(loss(functional.normalize((raw - step).detach(), dim=-1), teacher)) < float(value.detach())


def test_a_weighted_sum_tells_its_parts_by_names_no_validation_has() -> None:
    loss = Weighted({"distillation": 0.5, "alignment": 2.0})
    student, teacher = unit(5, 1), unit(5, 2)
    parts = float(Distillation()(student, teacher)), float(Alignment()(student, teacher))
    assert float(loss(student, teacher)) == pytest.approx(0.5 * parts[0] + 2.0 * parts[1])
    assert loss.told == pytest.approx({"distillation loss": parts[0], "alignment loss": parts[1]})
