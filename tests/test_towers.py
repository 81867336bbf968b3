"""P towers and pairs of towers: where they start, how large they are, and what of them is kept."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from retrieval.predictors import build
from retrieval.towers import COLDEST, TOWERS, IdentityTower, ReferenceTower, Towers, build_tower
from retrieval.weights import load_weights, write_weights
from store.records import LookaheadError

UNIT = torch.tensor([[1.0, 0.0], [0.6, 0.8]])


def pair(passage: str | None = "identity", **changes: float | bool) -> Towers:
    tower = None if passage is None else build_tower(passage, 8)
    return Towers(build("residual", 8, anchored=True, options={"rank": 2}), tower, **changes)  # type: ignore[arg-type]


def test_the_identity_tower_starts_at_the_identity() -> None:
    tower = IdentityTower(2, rank=3)
    assert torch.equal(tower(UNIT), UNIT)
    assert torch.equal(tower.train()(UNIT), UNIT)  # whatever dropout does


def test_the_identity_tower_adds_what_goes_down_and_up() -> None:
    tower = IdentityTower(2, rank=1).eval()
    with torch.no_grad():
        tower.down.weight.copy_(torch.tensor([[1.0, 0.0]]))
        tower.down.bias.zero_()
        tower.up.weight.copy_(torch.tensor([[0.0], [1.0]]))
        tower.gain.fill_(2.0)
    bent = 1 + 0.5 * (1 + math.erf(1 / math.sqrt(2)))  # h + GELU(h) of h = 1
    length = math.hypot(1, 2 * bent)
    assert tower(UNIT[:1])[0].tolist() == pytest.approx([1 / length, 2 * bent / length])


@pytest.mark.parametrize("kind", TOWERS)
def test_passages_have_length_one(kind: str) -> None:
    passages = build_tower(kind, 2)(UNIT)
    torch.testing.assert_close(passages.norm(dim=1), torch.ones(2))


def test_the_reference_tower_has_the_published_number_of_parameters() -> None:
    assert sum(value.numel() for value in ReferenceTower(768).parameters()) == 1_182_720


def test_a_tower_nobody_knows_is_refused_with_those_there_are() -> None:
    with pytest.raises(LookaheadError, match="no P tower 'eiffel'; there are: identity, reference"):
        build_tower("eiffel", 2)


def test_options_are_the_towers_own() -> None:
    tower = build_tower("identity", 2, {"rank": 5, "dropout": 0.5})
    assert isinstance(tower, IdentityTower)
    assert (tower.down.out_features, tower.dropout.p) == (5, 0.5)


def test_a_learned_temperature_starts_where_told_and_stays_above_the_coldest() -> None:
    towers = pair(temperature=0.07, learned=True)
    assert towers.log_temperature is not None
    assert float(torch.as_tensor(towers.temperature()).detach()) == pytest.approx(0.07)
    with torch.no_grad():
        towers.log_temperature.fill_(-50.0)
    assert float(torch.as_tensor(towers.temperature()).detach()) == pytest.approx(COLDEST)
    assert pair(temperature=0.005).temperature() == 0.005  # a fixed one is what it is


def test_a_temperature_that_cannot_be_is_refused() -> None:
    with pytest.raises(LookaheadError, match=r"temperature of 0 is too low; give one above 0"):
        pair(temperature=0.0)
    with pytest.raises(LookaheadError, match=r"temperature of 0.01 is too low; give one above 0.01"):
        pair(temperature=0.01, learned=True)


def test_what_is_kept_is_both_towers_without_the_temperature(tmp_path: Path) -> None:
    towers = pair(learned=True)
    names = set(towers.kept().state_dict())
    assert {name.split(".")[0] for name in names} == {"query", "passage"}
    assert towers.parameters_kept() == sum(value.numel() for value in towers.parameters()) - 1
    write_weights(tmp_path / "weights", towers.kept(), half=False)
    other = pair()
    load_weights(tmp_path / "weights", other.kept())
    assert torch.equal(other.query.state_dict()["net.up.weight"], towers.query.state_dict()["net.up.weight"])


def test_without_a_p_tower_candidates_stay_and_a_plain_predictor_is_kept() -> None:
    towers = pair(None)
    assert towers.passages(UNIT) is UNIT
    assert towers.kept() is towers.query
