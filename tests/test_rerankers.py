"""A reranker's folder: configs that are strict, which model it is over, where it is found, and its checksums."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_model
from tiny_pipelines import write_reranker

from retrieval import models
from retrieval.models import CONFIG, WEIGHTS, Model, ModelConfig, models_folder
from retrieval.rerankers import (
    RERANKER_WEIGHTS,
    RerankerConfig,
    check_seals,
    find_reranker,
    rerankers_for,
    seal,
)
from store.generations import Collection, DamageWarning
from store.records import LookaheadError


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return model_in(write_model(tmp_path / "models" / "amn"))


@pytest.fixture
def folder(model: Model) -> Path:
    return write_reranker(model.folder.parent / "rerankers" / "amn", model.folder)


def model_in(folder: Path) -> Model:
    return Model(folder.name, folder, ModelConfig.read(folder), shipped=False)


def test_a_config_comes_back_as_it_was_written(folder: Path, model: Model) -> None:
    config = RerankerConfig.read(folder)
    assert (config.over, config.over_seal, config.depth, config.dim) == ("amn", model.config.seals[WEIGHTS], 6, 128)
    config.write(folder)
    assert RerankerConfig.read(folder) == config
    assert config.seals == seal(folder)
    check_seals(folder, config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "is of format 2, this program reads 1; update it"),
        ({"depth": 0}, "does not describe a reranker"),
        ({"depth": True}, r"does not describe a reranker \(depth\)"),
        ({"dim": 0}, "does not describe a reranker"),
        ({"dim": "128"}, r"does not describe a reranker \(dim\)"),
        ({"blend": "0"}, "does not describe a reranker"),
        ({"blend": True}, "does not describe a reranker"),
        ({"over": None}, r"does not describe a reranker \(over\)"),
        ({"seals": []}, r"does not describe a reranker \(seals\)"),
        ({"surplus": 1}, "does not describe a reranker"),
        ({"blend": None, "depth": None}, r"does not describe a reranker \(depth\)"),
    ],
)
def test_a_config_of_another_shape_is_refused(folder: Path, changes: dict[str, Any], said: str) -> None:
    raw = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**raw, **changes}))
    with pytest.raises(LookaheadError, match=said):
        RerankerConfig.read(folder)


@pytest.mark.parametrize("missing", ["over", "over_seal", "dim", "depth", "blend", "options", "seals", "format"])
def test_every_field_is_needed(folder: Path, missing: str) -> None:
    raw = json.loads((folder / CONFIG).read_text())
    del raw[missing]
    (folder / CONFIG).write_text(json.dumps(raw))
    with pytest.raises(LookaheadError, match="does not describe a reranker; train it again"):
        RerankerConfig.read(folder)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused_and_so_is_nothing(folder: Path, raw: bytes) -> None:
    (folder / CONFIG).write_bytes(raw)
    with pytest.raises(LookaheadError, match=r"config\.json is damaged: it is not JSON; train it again"):
        RerankerConfig.read(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(LookaheadError, match=r"there is no reranker in .*No such file"):
        RerankerConfig.read(folder)


def test_it_is_found_for_the_very_model_it_was_trained_over(folder: Path, model: Model) -> None:
    found = find_reranker(model, [folder.parent.parent / "nowhere", folder.parent])
    assert found is not None
    assert (found.folder, found.config) == (folder, RerankerConfig.read(folder))
    other = model_in(write_model(model.folder.parent / "gru"))
    assert find_reranker(other, [folder.parent]) is None
    with pytest.raises(LookaheadError, match="over model gru; run: lookahead train reranker --over gru"):
        find_reranker(other, [folder.parent], needed=True)


def test_one_over_other_weights_of_a_model_of_that_name_is_none(folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "amn")
    (tmp_path / "models" / "amn" / WEIGHTS).write_bytes(b"other weights")
    place = tmp_path / "models" / "amn"
    replace(ModelConfig.read(place), seals=models.seal(place)).write(place)
    changed = model_in(place)
    with pytest.warns(DamageWarning, match="amn goes without a reranker; .* is over other weights of amn; run"):
        assert find_reranker(changed, [folder.parent]) is None
    with pytest.raises(
        LookaheadError, match=r"over model amn; the one in .*rerankers/amn is over other weights of amn"
    ):
        find_reranker(changed, [folder.parent], needed=True)


def test_the_collections_own_comes_before_the_one_that_came_with_the_program(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection(tmp_path / "home" / "collections" / "wiki")
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "shipped")
    places = rerankers_for(collection)
    assert places == [models_folder(collection) / "rerankers", tmp_path / "shipped" / "rerankers"]
    assert rerankers_for(collection, tmp_path)[1] == tmp_path / "rerankers"
    theirs = write_reranker(places[1] / "amn", model.folder)
    found = find_reranker(model, places)
    assert found is not None
    assert found.folder == theirs
    ours = write_reranker(places[0] / "amn", model.folder)
    found = find_reranker(model, places)
    assert found is not None
    assert found.folder == ours


def test_a_damaged_or_missing_file_is_told(folder: Path) -> None:
    config = RerankerConfig.read(folder)
    raw = bytearray((folder / RERANKER_WEIGHTS).read_bytes())
    raw[50] ^= 1
    (folder / RERANKER_WEIGHTS).write_bytes(raw)
    with pytest.raises(
        LookaheadError,
        match=r"reranker\.bin is damaged: its checksum is .*train reranker --over amn, or go without: --no-rerank",
    ):
        check_seals(folder, config)
    check_seals(folder, config, (WEIGHTS,))
    (folder / RERANKER_WEIGHTS).unlink()
    with pytest.raises(LookaheadError, match=r"cannot read .*reranker\.bin: No such file"):
        check_seals(folder, config)
