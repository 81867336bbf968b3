"""An inverter on disk: read whole or refused, found by encoder and name, its files checked, the right one opened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_inverters import Tabled, config_of, open_as, write_inverter
from tiny_models import write_model

from cli import main
from index.build import Choices, ingest
from index.encoder import Fingerprint
from index.hashing import HashingEncoder
from retrieval import models, open_inverter
from retrieval.inverters import (
    FOLDER,
    WORDS,
    FoundInverter,
    InverterConfig,
    check_seals,
    find_inverter,
    inverters_folder,
)
from retrieval.models import CONFIG, WEIGHTS, check_name, models_folder, models_in
from retrieval.open_inverter import is_published, open_decoder
from retrieval.search import Searcher
from store.generations import Collection, DamageWarning
from store.records import LookaheadError
from store.sources import open_source

ROOT = Path(open_inverter.__file__).resolve().parent.parent
OURS = HashingEncoder().fingerprint
THEIRS = replace(OURS, model="MiniLM", revision="7")


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(tmp_path / "home" / "collections" / "wiki")


@pytest.fixture
def own(collection: Collection) -> Path:
    return inverters_folder(collection)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    return tmp_path / "shipped"


# -- the config ----------------------------------------------------------------------------------------------------


def test_a_config_comes_back_as_it_was_written(tmp_path: Path) -> None:
    config = config_of(trained={"command": "train “it”"}, seals={WEIGHTS: "0" * 64})
    config.write(tmp_path)
    assert InverterConfig.read(tmp_path) == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, r"is of format 2, this program reads 1; update it"),
        ({"surplus": 1}, "missing or unknown: surplus"),
        ({"longest": "32"}, "mistyped: longest"),
        ({"longest": True}, "mistyped: longest"),
        ({"longest": 0}, "it makes texts of 0 tokens"),
        ({"longest": 10**9}, "it makes texts of 1000000000 tokens"),
        ({"options": []}, "mistyped: options"),
        ({"probe": {}, "trained": 3}, "mistyped: probe, trained"),
        ({"probe": [0.5]}, "its probe is no vector of the encoder"),
        ({"probe": [0.5] * 127 + ["x"]}, "its probe is no vector"),
        ({"probe": [0.5] * 127 + [float("nan")]}, "its probe is no vector"),
        ({"encoder": None}, "its encoder is no table"),
        ({"encoder": {"model": "x"}}, "its encoder lacks revision"),
        ({"encoder": {**OURS.as_json(), "dim": "128"}}, 'its encoder has dim "128", expected a whole number'),
        ({"encoder": {**OURS.as_json(), "more": 1}}, "its encoder has the unknown 'more'"),
        ({"seals": {"../card.md": "0" * 64}}, r"its seal of '\.\./card\.md' is none"),
        ({"seals": {WEIGHTS: "0"}}, "its seal of 'weights.safetensors' is none"),
        ({"seals": {WEIGHTS: 7}}, "its seal of 'weights.safetensors' is none"),
    ],
)
def test_a_config_that_describes_no_inverter_is_refused_with_what_is_wrong(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    config_of().write(tmp_path)
    raw = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**raw, **changes}))
    with pytest.raises(LookaheadError, match=said) as told:
        InverterConfig.read(tmp_path)
    assert str(tmp_path / CONFIG) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[]", b"null", b'"x"', b"[" * 100_000, b"{}"])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / CONFIG).write_bytes(raw)
    with pytest.raises(LookaheadError, match=r"train it again: lookahead train inverter"):
        InverterConfig.read(tmp_path)


def test_a_folder_without_a_config_holds_no_inverter(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match=r"there is no inverter in .*/nowhere: No such file"):
        InverterConfig.read(tmp_path / "nowhere")


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=80)
def test_a_config_with_a_byte_changed_is_another_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "flipped"
    folder.mkdir(exist_ok=True)
    config_of().write(folder)
    raw = bytearray((folder / CONFIG).read_bytes())
    raw[place % len(raw)] = byte
    (folder / CONFIG).write_bytes(raw)
    try:
        found = InverterConfig.read(folder)
    except LookaheadError:
        return
    assert found.encoder.dim == len(found.probe) == 128


# -- where one is found --------------------------------------------------------------------------------------------


def test_the_collections_own_comes_before_the_shipped_one(collection: Collection, own: Path, shipped: Path) -> None:
    write_inverter(shipped / FOLDER / "a")
    assert find_inverter(collection, OURS, shipped=shipped).shipped
    write_inverter(own / "z")
    found = find_inverter(collection, OURS, shipped=shipped)
    assert (found.name, found.folder, found.shipped) == ("z", own / "z", False)
    assert own == models_folder(collection) / "inverters"


def test_one_for_another_encoder_is_passed_over(collection: Collection, own: Path, shipped: Path) -> None:
    write_inverter(own / "a", encoder=THEIRS)
    write_inverter(shipped / FOLDER / "b")
    assert find_inverter(collection, OURS, shipped=shipped).name == "b"
    assert find_inverter(collection, THEIRS, shipped=shipped).name == "a"


def test_one_for_another_encoder_is_refused_by_name_with_both_encoders(
    collection: Collection, own: Path, shipped: Path
) -> None:
    write_inverter(own / "a", encoder=THEIRS)
    with pytest.raises(LookaheadError, match=r"inverter a is for MiniLM 128d .*, the collection's vectors .* hashing"):
        find_inverter(collection, OURS, "a", shipped)
    write_inverter(shipped / FOLDER / "a")
    assert find_inverter(collection, OURS, "a", shipped).shipped


def test_no_inverter_anywhere_says_what_to_type(collection: Collection, own: Path, shipped: Path) -> None:
    train = "run: lookahead train inverter --collection wiki"
    with pytest.raises(LookaheadError, match=rf"wiki has no inverter for its encoder .*, nor did one come .*; {train}"):
        find_inverter(collection, OURS, shipped=shipped)
    write_inverter(own / "theirs", encoder=THEIRS)
    with pytest.raises(LookaheadError, match=rf"\(there are: theirs for MiniLM .*\); {train}"):
        find_inverter(collection, OURS, shipped=shipped)
    with pytest.raises(LookaheadError, match=r'no inverter "mine" for hashing .* \(there are: none yet\)'):
        find_inverter(collection, OURS, "mine", shipped)
    write_inverter(shipped / FOLDER / "small")
    with pytest.raises(LookaheadError, match=rf'no inverter "mine" for hashing .* \(there are: small\); {train}'):
        find_inverter(collection, OURS, "mine", shipped)


def test_a_damaged_one_is_passed_over_with_a_warning_and_refused_by_name(
    collection: Collection, own: Path, shipped: Path
) -> None:
    write_inverter(own / "a")
    (own / "a" / CONFIG).write_text("{")
    write_inverter(shipped / FOLDER / "b")
    with pytest.warns(DamageWarning, match=r"inverter a is left out: .*a/config\.json is damaged"):
        assert find_inverter(collection, OURS, shipped=shipped).name == "b"
    with pytest.raises(LookaheadError, match=r"a/config\.json is damaged: it is not JSON"):
        find_inverter(collection, OURS, "a", shipped)
    assert find_inverter(collection, OURS, "b", shipped).name == "b"  # without a word about the other
    with pytest.raises(LookaheadError, match='no inverter "c"'):
        find_inverter(collection, OURS, "c", shipped)


def test_one_that_is_being_made_is_none_yet(collection: Collection, own: Path, shipped: Path) -> None:
    write_inverter(own / ".making-a")
    write_inverter(own / "b")
    (own / "b" / CONFIG).unlink()
    (own / "a file").write_text("")
    with pytest.raises(LookaheadError, match="wiki has no inverter"):
        find_inverter(collection, OURS, shipped=shipped)


@pytest.mark.parametrize("name", ["", "..", ".making-a", "../a", "a b", "x" * 101, "\udcff", "inverters"])
def test_a_name_is_never_a_path(collection: Collection, shipped: Path, name: str) -> None:
    with pytest.raises(LookaheadError, match=r"is not a name for a model|a model cannot be called inverters"):
        find_inverter(collection, OURS, name, shipped)


def test_the_shipped_ones_are_looked_up_when_asked_for(
    collection: Collection, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inverter(shipped / FOLDER / "small")
    monkeypatch.setattr(models, "SHIPPED", shipped)
    assert find_inverter(collection, OURS).folder == shipped / FOLDER / "small"


# -- its files -----------------------------------------------------------------------------------------------------


def found_in(folder: Path) -> FoundInverter:
    return FoundInverter("small", folder, InverterConfig.read(folder), shipped=False)


def test_sound_files_pass(tmp_path: Path) -> None:
    check_seals(found_in(write_inverter(tmp_path / "small")))


@pytest.mark.parametrize("name", [WEIGHTS, WORDS])
def test_a_damaged_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    found = found_in(write_inverter(tmp_path / "small"))
    raw = bytearray((tmp_path / "small" / name).read_bytes())
    raw[0] ^= 1
    (tmp_path / "small" / name).write_bytes(raw)
    with pytest.raises(LookaheadError, match=rf"small/{name} is damaged: its checksum is .*; train it again"):
        check_seals(found)
    (tmp_path / "small" / name).unlink()
    with pytest.raises(LookaheadError, match=rf"cannot read .*small/{name}: No such file"):
        check_seals(found)


def test_a_file_that_was_never_sealed_is_not_called_damaged(tmp_path: Path) -> None:
    found = found_in(write_inverter(tmp_path / "small", seals={}))
    with pytest.raises(LookaheadError, match=r"small/config\.json has no checksum of weights\.safetensors"):
        check_seals(found)


# -- beside the models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["inverters", "rerankers", "spaces"])
def test_no_model_may_be_called_as_a_folder_among_the_models(name: str) -> None:
    with pytest.raises(LookaheadError, match=f"a model cannot be called {name}"):
        check_name(name)


def test_inverters_are_no_models_and_survive_upkeep(made: Collection, shipped: Path) -> None:
    write_model(models_folder(made) / "amn")
    folder = write_inverter(inverters_folder(made) / "small")
    assert [model.name for model in models_in(models_folder(made))] == ["amn"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for command in (("gc", "--keep", "1"), ("verify",), ("compact", "--quiet")):
        told = CliRunner().invoke(main, ["--home", str(made.path.parent.parent), *command, "-c", "wiki"])
        assert told.exit_code == 0, told.output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert find_inverter(made, OURS, shipped=shipped).name == "small"


# -- the right one opened ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inverters")
    page = {"page_id": 1, "title": "Tea", "text": "Green tea is poured slowly into a cup of thin china."}
    (folder / "a.jsonl").write_text(json.dumps(page) + "\n")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
    ingest(Collection(folder / "wiki"), [open_source(folder / "a.jsonl", "jsonl")], choices)
    return folder / "wiki"


@pytest.fixture
def made(ingested: Path, collection: Collection) -> Collection:
    shutil.copytree(ingested, collection.path)
    return collection


class Published(Tabled):
    """What was asked of it is kept."""

    opened: list[tuple[str, Fingerprint, bool]]

    @classmethod
    def open(cls, spec: str, space: Fingerprint, *, download: bool) -> Published:
        cls.opened.append((spec, space, download))
        return cls(["tea"])


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> type[Published]:
    Published.opened = []
    monkeypatch.setattr(open_inverter, "PublishedInverter", Published)
    return Published


def test_ours_is_opened_with_the_encoder_of_the_collection(
    made: Collection, own: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inverter(own / "small")
    asked: list[FoundInverter] = []
    inverter = Tabled(["tea"])
    fake = SimpleNamespace(OwnInverter=SimpleNamespace(open=lambda found: asked.append(found) or inverter))
    monkeypatch.setitem(sys.modules, "retrieval.inverter", fake)
    with Searcher.open(made) as searcher:
        for name in (None, "small"):
            decoder = open_decoder(searcher, name, shipped=shipped)
            assert decoder.inverter is inverter
            assert decoder.encoder is searcher.encoder
        shutil.move(own / "small", shipped / FOLDER / "small")
        open_decoder(searcher, shipped=shipped)
    assert [found.folder for found in asked] == [own / "small", own / "small", shipped / FOLDER / "small"]


def test_an_inverter_that_does_not_fit_the_encoder_is_refused_when_opened(
    made: Collection, own: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inverter(own / "small")
    open_as(monkeypatch, Tabled([], probe=HashingEncoder().encode(["another probe"])[0]))
    with Searcher.open(made) as searcher, pytest.raises(LookaheadError, match="places a probe text elsewhere"):
        open_decoder(searcher, shipped=shipped)


def test_the_published_one_is_opened_only_when_it_is_named(
    made: Collection, shipped: Path, tmp_path: Path, published: type[Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("inversion", "corrector"):
        (tmp_path / "kept" / part).mkdir(parents=True)
    names = ["gtr-base", "kept", str(tmp_path / "kept"), "one/inversion,one/corrector", "./nowhere"]
    with Searcher.open(made) as searcher:
        for name in names:
            assert open_decoder(searcher, name, shipped=shipped).inverter.first == ["tea"]  # type: ignore[attr-defined]
        with pytest.raises(LookaheadError, match="wiki has no inverter"):
            open_decoder(searcher, shipped=shipped)
        with pytest.raises(LookaheadError, match='no inverter "small"'):
            open_decoder(searcher, "small", shipped=shipped)
    assert published.opened == [(name, OURS, True) for name in names]


def test_a_word_is_one_of_ours_and_all_else_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small" / "inversion").mkdir(parents=True)
    assert not any(map(is_published, ["small", "gtr-base-2", "", "a.b"]))
    assert all(map(is_published, ["gtr-base", "a/b", "../a", "a,b", "a/b,c/d"]))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, True),
        ({"model": "gtr-t5-base"}, True),
        ({"dense": True}, False),
        ({"normalised": True}, False),
        ({"pooling": "cls"}, False),
        ({"model": "sentence-transformers/gtr-t5-large"}, False),
    ],
)
def test_a_collection_in_the_published_ones_space_is_told_of_it(
    made: Collection, shipped: Path, changes: dict[str, Any], told: bool
) -> None:
    gtr = Fingerprint("sentence-transformers/gtr-t5-base", "1", 768, "mean", False, False, "", "", 512)
    with Searcher.open(made) as searcher:
        searcher._facts["encoder"]["fingerprint"] = replace(gtr, **changes).as_json()
        with pytest.raises(LookaheadError, match="wiki has no inverter") as refused:
            open_decoder(searcher, shipped=shipped)
        assert ("or fetch the published one: --inverter gtr-base" in str(refused.value)) is told
        with pytest.raises(LookaheadError) as refused, warnings.catch_warnings():
            open_decoder(searcher, "small", shipped=shipped)
        assert "gtr-base" not in str(refused.value).replace("gtr-t5-base", "")


def test_torch_is_not_loaded_until_an_inverter_is_found(made: Collection, shipped: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom retrieval.open_inverter import open_decoder\n"
        "import retrieval.gists, commands.decode\nfrom retrieval.search import Searcher\n"
        "from store.generations import Collection\nfrom store.records import LookaheadError\n"
        "try:\n    open_decoder(Searcher.open(Collection(Path(sys.argv[1]))), shipped=Path(sys.argv[2]))\n"
        "except LookaheadError as error:\n    print(error)\n"
        "print({'torch', 'vec2text', 'transformers'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code, str(made.path), str(shipped)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.startswith("wiki has no inverter")
    assert told.stdout.endswith("set()\n")
