"""Model folders: configs that are strict, checksums, names, which model is found, and upkeep that leaves them alone."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import config_of, write_model

from index.build import Choices, compact, ingest
from index.hashing import HashingEncoder
from retrieval import models
from retrieval.models import (
    CONFIG,
    GRAPH_WEIGHTS,
    SEALED,
    WEIGHTS,
    ModelConfig,
    check_name,
    check_seals,
    find_model,
    fitting_models,
    models_folder,
    models_in,
    refuse_names,
    seal,
)
from store.generations import Collection, DamageWarning
from store.records import LookaheadError
from store.sources import open_source

OURS = HashingEncoder().fingerprint
THEIRS = replace(OURS, model="another", revision="2")


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """A folder is enough: which model is found does not depend on what is ingested."""
    return Collection(tmp_path / "collections" / "wiki")


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    return tmp_path / "shipped"


def valid(mrr: float) -> dict[str, Any]:
    return {"valid": {"MRR": mrr}}


def rewrite(folder: Path, **changes: Any) -> None:
    """Changes values of a config.json; None takes a key out."""
    raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    raw = {key: value for key, value in {**raw, **changes}.items() if value is not None}
    (folder / CONFIG).write_text(json.dumps(raw), encoding="utf-8")


# -- the config ----------------------------------------------------------------------------------------------------


def test_a_config_read_is_the_config_written(tmp_path: Path) -> None:
    config = config_of(options={"width": 3}, trained={"command": "lookahead train …", "valid": {"MRR": 0.5}})
    config.write(tmp_path)
    assert ModelConfig.read(tmp_path) == config
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dimension": 3}, "it has the unknown 'dimension'"),
        ({"kind": None}, "it lacks kind"),
        ({"dim": None, "seals": None}, "it lacks dim, seals"),
        ({"dim": "128"}, 'it has dim "128", expected a whole number'),
        ({"dim": 128.0}, "it has dim 128.0, expected a whole number"),
        ({"dim": True}, "it has dim true, expected a whole number"),
        ({"anchored": 1}, "it has anchored 1, expected true or false"),
        ({"kind": ["amn"]}, r'it has kind \["amn"\], expected text'),
        ({"options": []}, r"it has options \[\], expected a table"),
        ({"dim": 64}, "it has 64 dimensions, its encoder 128"),
        ({"context": 4}, "it looks at 4 chunks, this program at 5"),
        ({"encoder": {"model": "x"}}, "its encoder lacks revision"),
        ({"encoder": {**asdict(OURS), "size": 1}}, "its encoder has the unknown 'size'"),
        ({"encoder": {**asdict(OURS), "dense": 0}}, "its encoder has dense 0, expected true or false"),
        ({"encoder": "hashing"}, 'it has encoder "hashing", expected a table'),
        ({"trained": {"valid": 3}}, "its validation figures are no table"),
        ({"trained": {"valid": {"MRR": "good"}}}, "its validation MRR is no number"),
        ({"seals": {"../x": "0" * 64}}, "its seal of '../x' is none"),
        ({"seals": {WEIGHTS: "0" * 63}}, "its seal of 'weights.safetensors' is none"),
        ({"format": 2}, "is of format 2, this program reads 1; update it"),
    ],
)
def test_a_config_that_is_not_one_is_refused_with_what_is_wrong(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    config_of().write(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(LookaheadError, match=said) as told:
        ModelConfig.read(tmp_path)
    assert str(tmp_path / CONFIG) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"3"])
def test_a_file_that_is_no_table_is_no_config(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / CONFIG).write_bytes(raw)
    with pytest.raises(LookaheadError, match="train it again"):
        ModelConfig.read(tmp_path)


def test_no_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match=r"there is no model in .*No such file"):
        ModelConfig.read(tmp_path)


# -- checksums -----------------------------------------------------------------------------------------------------


def test_seals_are_sha256_of_the_weights_and_the_graph(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "amn")
    (folder / "card.md").write_text("words may be mended later")
    assert set(seal(folder)) == set(SEALED[:3])
    assert seal(folder)[WEIGHTS] == hashlib.sha256(b"weights").hexdigest()
    check_seals(folder, ModelConfig.read(folder))


@pytest.mark.parametrize("name", SEALED[:3])
def test_one_byte_that_changed_is_found(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "amn")
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(LookaheadError, match=re.escape(f"{folder / name} is damaged: its checksum is ")):
        check_seals(folder, ModelConfig.read(folder))


def test_damaged_towers_are_trained_again_as_towers(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "amn")
    config = replace(ModelConfig.read(folder), tower={"kind": "identity", "options": {}})
    with pytest.raises(LookaheadError, match=r"tower\.xml; train it again: lookahead train towers"):
        check_seals(folder, config)


def test_a_sealed_file_that_is_gone_and_a_file_without_a_seal_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "amn")
    config = ModelConfig.read(folder)
    (folder / GRAPH_WEIGHTS).unlink()
    with pytest.raises(LookaheadError, match=r"cannot read .*predictor\.bin: No such file"):
        check_seals(folder, config)
    check_seals(folder, config, (WEIGHTS,))
    with pytest.raises(LookaheadError, match=r"config\.json has no checksum of weights\.safetensors"):
        check_seals(folder, replace(config, seals={}), (WEIGHTS,))


# -- which is found ------------------------------------------------------------------------------------------------


def test_the_best_model_of_the_collection_comes_before_the_shipped_ones(collection: Collection, shipped: Path) -> None:
    write_model(models_folder(collection) / "gru", trained=valid(0.2))
    write_model(models_folder(collection) / "amn", trained=valid(0.3))
    write_model(models_folder(collection) / "mlp", trained={})
    write_model(shipped / "residual", trained=valid(0.9))
    assert [model.name for model in models_in(models_folder(collection))] == ["amn", "gru", "mlp"]
    found = find_model(collection, OURS, shipped=shipped)
    assert (found.name, found.shipped, found.folder) == ("amn", False, models_folder(collection) / "amn")
    assert find_model(collection, OURS, "gru", shipped).name == "gru"
    assert find_model(collection, OURS, "residual", shipped).shipped
    write_model(shipped / "gru")
    assert not find_model(collection, OURS, "gru", shipped).shipped


def test_a_collection_without_a_fitting_model_takes_the_best_shipped_one(collection: Collection, shipped: Path) -> None:
    write_model(models_folder(collection) / "amn", encoder=THEIRS)
    write_model(shipped / "amn", trained=valid(0.1))
    write_model(shipped / "residual", trained=valid(0.2))
    found = find_model(collection, OURS, shipped=shipped)
    assert (found.name, found.shipped) == ("residual", True)
    assert find_model(collection, OURS, "amn", shipped).shipped  # its own of that name is for another encoder


def test_all_models_that_fit_are_the_collections_own_before_the_shipped_ones(
    collection: Collection, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "SHIPPED", shipped)
    assert fitting_models(collection, OURS) == []
    write_model(models_folder(collection) / "gru", trained=valid(0.2))
    write_model(models_folder(collection) / "lstm", encoder=THEIRS)
    write_model(shipped / "gru", trained=valid(0.9))
    write_model(shipped / "residual", trained=valid(0.8))
    found = fitting_models(collection, OURS)
    assert [(model.name, model.shipped) for model in found] == [("gru", False), ("residual", True)]
    assert [model.name for model in fitting_models(collection, OURS, ["residual", "residual"])] == ["residual"]
    with pytest.raises(LookaheadError, match="model lstm is for another"):
        fitting_models(collection, OURS, ["lstm"])
    refuse_names(found, {"copy-last"})
    with pytest.raises(LookaheadError, match="a model has the name of a baseline: gru; rename its folder"):
        refuse_names(found, {"copy-last", "gru"})


def test_a_model_for_another_encoder_is_refused_with_both_named(collection: Collection, shipped: Path) -> None:
    write_model(shipped / "amn", encoder=THEIRS)
    with pytest.raises(LookaheadError) as told:
        find_model(collection, OURS, "amn", shipped)
    assert str(OURS) in str(told.value)
    assert str(THEIRS) in str(told.value)
    with pytest.raises(LookaheadError) as told:
        find_model(collection, OURS, shipped=shipped)
    assert str(OURS) in str(told.value)
    assert f"amn for {THEIRS}" in str(told.value)
    assert "run: lookahead train predictor amn --collection wiki" in str(told.value)


def test_no_model_anywhere_says_what_to_type(collection: Collection, shipped: Path) -> None:
    with pytest.raises(LookaheadError, match=r"wiki has no trained model .* run: lookahead train predictor amn"):
        find_model(collection, OURS, shipped=shipped)
    write_model(shipped / "residual")
    with pytest.raises(LookaheadError, match=r'no model "gru" for wiki \(there are: residual\); .* predictor gru'):
        find_model(collection, OURS, "gru", shipped)
    with pytest.raises(LookaheadError, match=r'no model "best" .* predictor amn'):
        find_model(collection, OURS, "best", shipped)


def test_a_folder_without_a_config_is_no_model_yet(collection: Collection, shipped: Path) -> None:
    folder = write_model(models_folder(collection) / "amn")
    (folder / CONFIG).unlink()
    write_model(shipped / "amn")
    assert models_in(models_folder(collection)) == []
    assert find_model(collection, OURS, "amn", shipped).shipped
    with pytest.raises(LookaheadError, match='"amn" for wiki; its training has not ended'):
        find_model(collection, OURS, "amn", shipped / "none")


def test_a_damaged_model_is_passed_over_with_a_warning_and_refused_by_name(
    collection: Collection, shipped: Path
) -> None:
    write_model(shipped / "amn", trained=valid(0.1))
    write_model(shipped / "residual", trained=valid(0.9))
    (shipped / "residual" / CONFIG).write_text("{")
    with pytest.warns(DamageWarning, match="model residual is left out: .* is damaged"):
        assert find_model(collection, OURS, shipped=shipped).name == "amn"
    assert find_model(collection, OURS, "amn", shipped).name == "amn"
    with pytest.raises(LookaheadError, match=r"residual/config\.json is damaged: it is not JSON"):
        find_model(collection, OURS, "residual", shipped)


def test_the_shipped_models_are_looked_up_when_asked_for(
    collection: Collection, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(shipped / "amn")
    monkeypatch.setattr(models, "SHIPPED", shipped)
    assert find_model(collection, OURS).folder == shipped / "amn"


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "../amn", "a/b", "a b", "a\0b", "x" * 101, "\udcff"])
def test_a_name_is_never_a_path(collection: Collection, shipped: Path, name: str) -> None:
    with pytest.raises(LookaheadError, match="is not a name for a model; use letters"):
        find_model(collection, OURS, name, shipped)


def test_names_have_letters_digits_dot_dash_and_underscore() -> None:
    for name in ("amn", "lstm-1024", "my_model.v2", "Größe"):
        assert check_name(name) == name


# -- upkeep --------------------------------------------------------------------------------------------------------


def test_models_survive_all_that_is_done_to_a_collection(tmp_path: Path, collection: Collection) -> None:
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)

    def ingested(version: int) -> None:
        page = {"page_id": 1, "title": "Tea", "text": f"Green tea is poured slowly into cup number {version} of china."}
        (tmp_path / "a.jsonl").write_text(json.dumps(page), encoding="utf-8")
        ingest(collection, [open_source(tmp_path / "a.jsonl", "jsonl")], choices)

    ingested(1)
    folder = write_model(models_folder(collection) / "amn")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ingested(2)
    compact(collection, quiet=True)
    with collection.writing():
        collection.roll_back()
    ingested(3)
    with collection.writing():
        assert collection.collect_garbage(1)
        collection.drop_damaged()
    assert collection.verify() == []
    assert collection.current().manifest.counts["live"] == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert find_model(collection, OURS, shipped=tmp_path / "none").name == "amn"
