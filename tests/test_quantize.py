"""Eight bits: what is made and measured, when it is taken, and that a collection needs nothing but its own copy."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoders import MEASURED, SPACE, write_encoder, write_tiny_twin
from tiny_teacher import write_teacher

import commands.quantize as command
from cli import main
from index import build, conversion, encoder, fast, quantize
from index.build import Choices, ingest
from index.encoder import INT8, Encoder, Fingerprint, fingerprint_in, open_encoder, prepare, read_recipe, write_recipe
from index.fast import MODEL, FastEncoder, fastest, paces, probe
from index.graphs import ov
from index.quantize import of_many_lengths
from index.students import Status, Student, find_encoder, int8_of
from index.twin import QUANTIZED, STS_DROP, Measured, only_twin, read_twin, twin_of
from store.chunking import Prefix
from store.generations import Collection
from store.records import LookaheadError
from store.sources import open_source
from store.staging import making

WORDS = ["the", "old", "stone", "bridge", "over", "the", "river", "mill", "of", "in", "zebra"]
MILL = "A mill of old stone stands in the river beside it."
TEXTS = [" ".join(WORDS[number % 11 :] + WORDS[: number % 7]) + f" {number}" for number in range(100)]


def visible(folder: Path) -> list[str]:
    """What stands in a folder beside the lock of a making."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def refused(ask: Callable[[], object]) -> str:
    with pytest.raises(LookaheadError) as caught:
        ask()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- making one ------------------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion and quantising happen in this process, of a tiny model that needs no torch."""

    def converted(spec: str, folder: Path, *, device: str, precision: str, note: Callable[[str], object]) -> None:
        assert (device, precision) == ("cpu", "full")
        write_encoder(folder, spec=spec)

    monkeypatch.setattr(quantize, "convert_apart", converted)
    monkeypatch.setattr(quantize, "apart", lambda doing, work, note: work(note=note))


def made(folder: Path, **choices: Any) -> Measured:
    return quantize.quantize("tiny", folder, TEXTS, seconds=0.0, quiet=True, **choices)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_twin_has_all_weights_in_eight_bits_the_token_table_too_and_stays_near(
    here: None, tmp_path: Path, mode: str
) -> None:
    measured = made(tmp_path / "tiny" / INT8, mode=mode)
    twin = read_twin(tmp_path / "tiny" / INT8)
    assert twin.measured == measured
    assert twin.fingerprint == replace(SPACE, precision=INT8)
    graph = ov.Core().read_model(str(twin.folder / MODEL))
    kinds = {
        tuple(node.get_output_shape(0)): node.get_element_type().to_string()
        for node in graph.get_ops()
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 2
    }
    table = (int(measured.bytes_before / 4 - 2 * 32 * 64) // 32, 32)
    assert {kinds[table], kinds[64, 32], kinds[32, 64]} == {"i8"}
    quantised = sum(node.get_type_name() == "FakeQuantize" for node in graph.get_ops())
    assert (quantised > 0) is (mode == "static")
    assert (measured.mode, measured.texts, measured.held_out) == (mode, 80 if mode == "static" else 0, 20)
    assert 0.99 < measured.cosine_least <= measured.cosine_mean < 1
    files = [twin.folder / MODEL, twin.folder / "model.bin"]
    assert measured.bytes_after == sum(path.stat().st_size for path in files)
    assert (twin.folder / "model.bin").stat().st_size < 0.3 * measured.bytes_before
    assert {"f32", INT8, measured.full} == measured.rates.keys()
    full = write_encoder(tmp_path / "full")
    ours, theirs = (open_encoder(folder, device="cpu").encode(TEXTS) for folder in (twin.folder, full))
    assert (ours * theirs).sum(axis=1).min() > 0.99
    assert not np.array_equal(ours, theirs)
    assert visible(tmp_path / "tiny") == [INT8]


def test_texts_that_are_measured_on_are_not_calibrated_on() -> None:
    calibrating, held_out = quantize._parted([*TEXTS, TEXTS[4]])
    assert len(held_out) == 20
    assert not set(calibrating) & set(held_out)
    assert len(calibrating) == 80
    assert len(quantize._parted([str(number) for number in range(2000)])[1]) == 128


def test_the_dynamic_way_runs_with_its_own_group_and_the_static_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quantize._int8_fields("tiny", read_recipe(write_encoder(tmp_path)), "dynamic")["group"] == quantize.GROUP
    assert "group" not in quantize._int8_fields("tiny", read_recipe(tmp_path), "static")
    write_recipe(tmp_path, {**read_recipe(tmp_path), "precision": INT8, "group": 64})
    opened = FastEncoder.open(tmp_path, bulk=False)
    assert opened._compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 64
    write_recipe(tmp_path, {**read_recipe(tmp_path), "group": "many"})
    assert str(tmp_path) in refused(lambda: FastEncoder.open(tmp_path, bulk=False))


@pytest.mark.parametrize("able", [["f32"], ["f32", "bf16"], ["f32", "f16"]])
def test_a_twin_runs_on_a_machine_without_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: list[str]
) -> None:
    if "bf16" in able and "bf16" not in fast.precisions():
        pytest.skip("no bfloat16 here")
    monkeypatch.setattr(fast, "precisions", lambda: able)
    opened = open_encoder(write_tiny_twin(tmp_path), device="cpu")
    assert isinstance(opened, FastEncoder)
    kind = opened._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    assert kind == ("bf16" if "bf16" in able else "f32")
    assert opened.encode(TEXTS).shape == (100, 32)


def graphs(monkeypatch: pytest.MonkeyPatch, *, failing: str = "") -> list[str]:
    """Every way copies the whole model; `failing` fails. The ways taken come back."""
    taken: list[str] = []

    def write(whole: Path, made: Path, texts: Any, way: str, *, quiet: bool, note: Any) -> None:
        taken.append(way)
        if way == failing:
            raise LookaheadError(f"the {way} way of eight bits failed: no")
        for name in ("model.xml", "model.bin", "tokenizer.json"):
            shutil.copy(whole / name, made / name)

    monkeypatch.setattr(quantize, "write_graph", write)
    return taken


@pytest.mark.parametrize(
    ("scores", "ways"),
    [
        ([0.82, 0.81], ["static"]),
        ([0.82, 0.80, 0.815], ["static", "dynamic"]),
        ([0.82, 0.80, 0.79], ["static", "dynamic"]),  # neither keeps: the last is written and says so
    ],
)
def test_auto_takes_the_dynamic_way_where_calibration_loses_too_much(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: list[float], ways: list[str]
) -> None:
    taken, given = graphs(monkeypatch), iter(scores)
    measured = made(tmp_path / INT8, judge=lambda encoder: next(given))
    assert taken == ways
    assert (measured.mode, measured.sts_before, measured.sts_after) == (ways[-1], scores[0], scores[-1])
    assert read_recipe(tmp_path / INT8).get("group") == (quantize.GROUP if ways[-1] == "dynamic" else None)


def test_auto_takes_the_dynamic_way_where_calibration_fails_and_no_other_way_does(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = graphs(monkeypatch, failing="static")
    assert made(tmp_path / INT8).mode == "dynamic"
    assert taken == ["static", "dynamic"]
    assert "static way of eight bits failed" in refused(lambda: made(tmp_path / "other", mode="static"))
    assert visible(tmp_path) == [INT8]


def test_a_failed_try_leaves_the_twin_of_before_and_a_new_one_takes_its_place(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs(monkeypatch, failing="dynamic")
    write_tiny_twin(tmp_path / INT8)
    (tmp_path / ".making-int8" / "whole").mkdir(parents=True)  # what a killed one left
    refused(lambda: made(tmp_path / INT8, mode="dynamic"))
    assert read_twin(tmp_path / INT8).measured == MEASURED
    measured = made(tmp_path / INT8, mode="static")
    assert read_twin(tmp_path / INT8).measured == measured != MEASURED
    assert visible(tmp_path) == [INT8]


def test_a_twin_killed_between_two_renames_is_there_again(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs(monkeypatch, failing="dynamic")
    write_tiny_twin(tmp_path / INT8).rename(tmp_path / ".before-int8")
    refused(lambda: made(tmp_path / INT8, mode="dynamic"))
    assert read_twin(tmp_path / INT8).measured == MEASURED


def test_a_second_one_at_once_is_refused(here: None, tmp_path: Path) -> None:
    with making(tmp_path, INT8) as place:
        (place / "half").touch()
        assert "is being made by another process" in refused(lambda: made(tmp_path / INT8))
        assert (place / "half").exists()
        write_tiny_twin(place)
    assert read_twin(tmp_path / INT8).measured == MEASURED


def test_what_cannot_be_quantised_is_one_line(here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "model" / INT8
    assert "no weights" in refused(lambda: quantize.quantize("hashing", place, TEXTS))
    assert "19 texts are too few" in refused(lambda: quantize.quantize("tiny", place, TEXTS[:19]))
    for kind, said in (("static", "static model"), ("torch", "cannot be converted")):
        recipe = {"kind": kind, "spec": "tiny", "fingerprint": SPACE.as_json()}
        monkeypatch.setattr(
            quantize, "convert_apart", lambda spec, folder, recipe=recipe, **_: write_recipe(folder, recipe)
        )
        assert said in refused(lambda: made(place))
    assert not list(tmp_path.iterdir())


def test_a_graph_that_nncf_trips_over_is_one_line(tmp_path: Path) -> None:
    write_encoder(tmp_path / "whole")
    (tmp_path / "whole" / MODEL).write_text("<no graph>")
    for way in ("static", "dynamic"):
        said = refused(
            lambda way=way: quantize.write_graph(
                tmp_path / "whole", tmp_path / "made", TEXTS, way, quiet=True, note=print
            )
        )
        assert said.startswith(f"the {way} way of eight bits failed: ")


@given(st.lists(st.text(st.sampled_from("ab \n"), max_size=40), max_size=8), st.integers(0, 9))
def test_every_other_text_stays_and_the_others_begin_as_they_did(texts: list[str], seed: int) -> None:
    cut = of_many_lengths(texts, seed)
    assert len(cut) == len(texts)
    assert cut[::2] == texts[::2]
    for before, after in zip(texts, cut, strict=True):
        words = after.split()
        assert words == before.split()[: len(words)]
        assert len(words) >= min(2, len(before.split()))


@pytest.mark.slow
def test_a_model_is_quantised_and_taken_by_an_ingest_that_asks_for_it(tmp_path: Path) -> None:
    model, notes = write_teacher(tmp_path / "teacher"), []  # type: tuple[Path, list[str]]
    measured = quantize.quantize(str(model), model / INT8, TEXTS, judge=lambda encoder: 0.5, seconds=0.1, quiet=True)
    assert (measured.mode, measured.sts_drop) == ("static", 0.0)
    assert measured.cosine_mean > 0.99
    encoder = prepare(str(model), tmp_path / "encoder", device="cpu", precision=INT8, note=notes.append)
    assert encoder.fingerprint == read_twin(model / INT8).fingerprint
    full = prepare(str(model), tmp_path / "full", device="cpu", precision="full", note=notes.append)
    assert replace(full.fingerprint, precision=INT8) == encoder.fingerprint
    assert (full.encode(TEXTS) * encoder.encode(TEXTS)).sum(axis=1).mean() > 0.99
    either = prepare(str(model), tmp_path / "auto", device="cpu", note=notes.append)
    assert either.fingerprint in (full.fingerprint, encoder.fingerprint)
    assert "int8" in notes[-1]
    write_teacher(model, seed=1)  # trained anew, and the twin is as it was
    assert "of other weights" in refused(
        lambda: prepare(str(model), tmp_path / "encoder", device="cpu", precision=INT8, note=notes.append)
    )


# -- choosing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tried", "chosen"),
    [
        ({"f32": (10, 1.0), "bf16": (20, 0.9999), INT8: (30, 0.99)}, INT8),
        ({"f32": (10, 1.0), "bf16": (20, 0.9999), INT8: (30, 0.9899)}, "bf16"),  # too far off
        ({"f32": (10, 1.0), "bf16": (20, 0.9999), INT8: (20, 1.0)}, "bf16"),  # not faster
        ({"f32": (10, 1.0), "bf16": (20, 0.9989), INT8: (15, 0.995)}, INT8),  # faster than what may be taken
        ({"f32": (10, 1.0), "bf16": (5, 1.0), INT8: (9, 1.0)}, "f32"),
        ({"f32": (10, 1.0), INT8: (90, math.nan)}, "f32"),
    ],
)
def test_eight_bits_are_taken_where_they_are_faster_and_keep_the_cosine(
    tried: dict[str, tuple[float, float]], chosen: str
) -> None:
    assert fastest(tried) == chosen


def test_a_probe_tries_every_precision_and_the_twin(tmp_path: Path) -> None:
    full, twin = write_encoder(tmp_path / "full"), write_tiny_twin(tmp_path / INT8)
    chosen, tried = probe(full, TEXTS[:8], 0.0, int8=twin)
    assert list(tried) == [*fast.precisions(), INT8]
    assert chosen in tried
    assert tried["f32"][1] == pytest.approx(1, abs=1e-6)
    assert all(0.99 < cosine < 1.00001 and rate > 0 for rate, cosine in tried.values())
    assert INT8 not in probe(full, TEXTS[:8], 0.0)[1]


def test_the_same_space_is_held_to_its_smallest_cosine_and_eight_bits_to_their_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, twin = write_encoder(tmp_path / "full"), write_tiny_twin(tmp_path / INT8)
    monkeypatch.setattr(fast, "cosines_of", lambda ours, theirs: np.array([1.0, 0.5]))
    cosines = {name: cosine for name, (_, cosine) in probe(full, TEXTS[:2], 0.0, int8=twin)[1].items()}
    assert cosines == {**dict.fromkeys(fast.precisions(), 0.5), INT8: 0.75}


def test_the_paces_of_encoders_are_of_rounds_in_which_all_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, turns = [0.0], []

    class Fake:
        def __init__(self, name: str, spent: list[float]) -> None:
            self.name, self.spent = name, iter(spent)

        def encode(self, texts: list[str]) -> None:
            turns.append(self.name)
            now[0] += next(self.spent)

    monkeypatch.setattr(fast.time, "perf_counter", lambda: now[0])
    encoders: Any = {"a": Fake("a", [4.0, 2.0, 3.0]), "b": Fake("b", [8.0, 9.0, 7.0])}
    assert paces(encoders, ["x"] * 6, 1.0) == {"a": 3.0, "b": pytest.approx(6 / 7)}
    assert turns == ["a", "b"] * 3


def test_a_twin_is_unproven_without_sts_or_with_a_large_drop_and_unlike_other_weights(tmp_path: Path) -> None:
    twin = read_twin(write_tiny_twin(tmp_path))
    assert twin.unproven() is None
    for before, after, said in (
        (None, None, "not judged"),
        (0.82, None, "not judged"),
        (0.82, 0.80, "worse on STS by 0.020"),
    ):
        other = replace(twin, measured=replace(MEASURED, sts_before=before, sts_after=after))
        assert said in str(other.unproven())
    assert replace(twin, measured=replace(MEASURED, sts_before=0.5, sts_after=0.5 - STS_DROP + 1e-9)).unproven() is None
    assert twin.unlike(SPACE) is None
    assert "other weights" in str(twin.unlike(replace(SPACE, revision="f")))
    assert "other weights" in str(twin.unlike(replace(SPACE, normalised=False)))


def test_the_twin_of_a_hubs_model_does_not_take_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").mkdir()  # any folder of that name is not the model
    for spec in ("gtr-t5-base", "owner/name", "bundled"):
        place = int8_of(spec, tmp_path)
        assert place.is_relative_to(tmp_path / "encoders")
        place.mkdir(parents=True)
        assert find_encoder(spec, tmp_path) == spec
        assert int8_of(spec, tmp_path) == place


def test_where_a_twin_is(tmp_path: Path) -> None:
    own = tmp_path / "model"
    own.mkdir()
    assert twin_of(str(own)) is twin_of("bundled") is twin_of("owner/name") is None
    assert twin_of("bundled", tmp_path / "none") is None
    assert only_twin(str(own)) is only_twin(str(tmp_path / "none")) is only_twin("bundled") is None
    write_tiny_twin(own / INT8)
    assert twin_of(str(own)) == own / INT8
    assert twin_of("bundled", own / INT8) == own / INT8
    assert only_twin(str(own)) == only_twin(str(own / INT8)) == own / INT8
    (own / "modules.json").write_text("[]")
    assert only_twin(str(own)) is None
    assert twin_of(str(own)) == own / INT8


# -- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "tokenizer.json", "encoder.json", QUANTIZED])
@pytest.mark.parametrize("how", ["missing", "garbage", "one byte"])
def test_a_damaged_twin_is_one_line(tmp_path: Path, name: str, how: str) -> None:
    path = write_tiny_twin(tmp_path / "model" / INT8) / name
    raw = bytearray(path.read_bytes())
    path.unlink()
    if how == "garbage":
        path.write_bytes(b"[7]")
    elif how == "one byte":
        raw[0] ^= 1
        path.write_bytes(raw)
    said = refused(lambda: read_twin(tmp_path / "model" / INT8))
    assert said.startswith(f"the twin in eight bits in {tmp_path / 'model' / INT8} is damaged: ")
    assert said.endswith("; run: lookahead quantize MODEL --int8")
    assert said == refused(lambda: prepare(str(tmp_path / "model"), tmp_path / "encoder"))


def test_another_width_or_prefix_in_its_description_is_damage_too(tmp_path: Path) -> None:
    path = write_tiny_twin(tmp_path) / "encoder.json"
    recipe = json.loads(path.read_text())
    recipe["fingerprint"]["query_prefix"] = "query: "
    path.write_text(json.dumps(recipe))
    assert "encoder.json changed since it was made" in refused(lambda: read_twin(tmp_path))


@pytest.mark.parametrize(
    "changed",
    [
        {"format": 2},
        {"seals": {}},
        {"seals": {"../../secret": "0"}},
        {"sts_after": math.nan},
        {"surprise": 1},
        {"sts_before": "high"},
    ],
)
def test_a_twin_that_says_something_else_is_one_line(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = write_tiny_twin(tmp_path) / QUANTIZED
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    assert "is damaged" in refused(lambda: read_twin(tmp_path))


# -- preparing an encoder ------------------------------------------------------------------------------------


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def converted(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be converted")

    monkeypatch.setattr(conversion, "convert_apart", converted)


def test_a_model_of_which_only_the_twin_is_left_is_opened_without_conversion(
    no_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, notes = tmp_path / "model", []  # type: tuple[Path, list[str]]
    write_tiny_twin(model / INT8)
    for precision in ("auto", INT8):
        encoder = prepare("model", tmp_path / precision, precision=precision, note=notes.append)
        assert encoder.fingerprint == replace(SPACE, precision=INT8)
        assert read_recipe(tmp_path / precision)["spec"] == str(model)
    assert "holds nothing but its twin" in refused(lambda: prepare(str(model), tmp_path / "full", precision="full"))
    assert len(notes) == 2
    shutil.rmtree(model)
    again = open_encoder(tmp_path / "auto", device="cuda")  # there is nothing that a GPU could run
    assert np.array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_eight_bits_are_refused_where_there_are_none(no_torch: None, tmp_path: Path) -> None:
    for spec in ("bundled", str(tmp_path), "owner/name"):
        said = refused(lambda spec=spec: prepare(spec, tmp_path / "encoder", precision=INT8, int8=tmp_path / "none"))
        assert said == f"{spec} has no twin in eight bits yet; run: lookahead quantize {spec} --int8"
    assert "hashing" in refused(lambda: prepare("hashing", tmp_path / "encoder", precision=INT8))


@pytest.mark.parametrize(
    ("precision", "device", "gpu", "offered"),
    [
        ("auto", "cpu", True, True),
        ("auto", "auto", False, True),
        ("auto", "auto", True, False),
        ("auto", "cuda", False, False),
        ("full", "cpu", False, False),
        (INT8, "auto", True, True),
    ],
)
def test_the_twin_is_offered_to_the_probe_but_not_where_a_gpu_encodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, device: str, gpu: bool, offered: bool
) -> None:
    heard: list[Any] = []

    def converted(spec: str, folder: Path, **named: Any) -> None:
        heard.append((named["int8"], named["precision"]))

    monkeypatch.setattr(conversion, "convert_apart", converted)
    monkeypatch.setattr(encoder, "_gpu", lambda: gpu)
    monkeypatch.setattr(encoder, "open_encoder", lambda folder, **_: None)
    twin = write_tiny_twin(tmp_path / INT8)
    prepare("bundled", tmp_path / "encoder", device=device, precision=precision, int8=twin)
    assert heard == [(twin if offered else None, precision)]


class Same:
    """In the place of torch: what the converted model says."""

    def __init__(self, model: Path, fingerprint: Fingerprint) -> None:
        self._encoder = FastEncoder.compile(model, "f32", bulk=True)

    def encode(self, texts: list[str]) -> Any:
        return self._encoder.encode(texts)


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, list[str]]]:
    """`conversion.convert` of a tiny model; the probe of a twin says that eight bits are the fastest."""

    def export(model: Path, folder: Path) -> list[str]:
        for name in ("model.xml", "model.bin", "tokenizer.json"):
            shutil.copy(model / name, folder / name)
        return ["input_ids", "attention_mask"]

    def probed(folder: Path, texts: Any, *, int8: Path | None = None) -> tuple[str, dict[str, tuple[float, float]]]:
        tried = {"f32": (10.0, 1.0)} if int8 is None else {"f32": (10.0, 1.0), INT8: (30.0, 0.9975)}
        return list(tried)[-1], tried

    model = write_encoder(tmp_path / "torch")
    for name, fake in (
        ("load", lambda spec, device: model),
        ("fingerprint_of", lambda spec, model: SPACE),
        ("_is_static", lambda model: False),
        ("TorchEncoder", Same),
        ("_export", export),
        ("probe", probed),
    ):
        monkeypatch.setattr(conversion, name, fake)

    def run(**named: Any) -> tuple[Path, list[str]]:
        notes: list[str] = []
        folder = tmp_path / "encoder"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        conversion.convert("tiny", folder, device="cpu", note=notes.append, **named)
        return folder, notes

    return run


def test_the_probes_choice_is_what_the_encoder_folder_holds(convert: Any, tmp_path: Path) -> None:
    twin = write_tiny_twin(tmp_path / INT8)
    folder, notes = convert(int8=twin)
    assert fingerprint_in(folder) == replace(SPACE, precision=INT8)
    assert read_recipe(folder)["precision"] == INT8
    assert sorted(path.name for path in folder.iterdir()) == [
        "encoder.json",
        "model.bin",
        "model.xml",
        "tokenizer.json",
    ]
    assert "int8 chosen of f32 10/s (cosine 1.00000), int8 30/s (cosine 0.99750)" in notes[-1]
    folder, notes = convert()
    assert (fingerprint_in(folder), read_recipe(folder)["precision"]) == (SPACE, "f32")
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("measured", "revision", "said"),
    [
        (replace(MEASURED, sts_before=None, sts_after=None), SPACE.revision, "not judged on STS"),
        (replace(MEASURED, sts_after=0.80), SPACE.revision, "worse on STS by 0.020"),
        (MEASURED, "ffff", "of other weights"),
    ],
)
def test_an_unproven_twin_is_left_alone_and_one_of_other_weights_even_when_asked_for(
    convert: Any, tmp_path: Path, measured: Measured, revision: str, said: str
) -> None:
    twin = write_tiny_twin(tmp_path / INT8, measured, revision=revision)
    folder, notes = convert(int8=twin)
    assert fingerprint_in(folder) == SPACE
    assert said in notes[0]
    assert str(twin) in notes[0]
    if revision == SPACE.revision:
        folder, notes = convert(int8=twin, precision=INT8)
        assert fingerprint_in(folder).precision == INT8
        assert "as asked" in notes[0]
    else:
        assert said in refused(lambda: convert(int8=twin, precision=INT8))


# -- collections -------------------------------------------------------------------------------------------


def articles(folder: Path, count: int = 3) -> Any:
    pages = [
        {"page_id": n, "title": f"Bridge {n}", "text": f"The old stone bridge {n} over the river. {MILL}"}
        for n in range(1, count + 1)
    ]
    path = folder / "pages.jsonl"
    path.write_text("".join(json.dumps(page) + "\n" for page in pages), encoding="utf-8")
    return open_source(path, "jsonl")


def chosen(**named: Any) -> Choices:
    return Choices(words=10, workers=1, quiet=True, device="cpu", **named)


def test_a_collection_keeps_its_encoder_of_eight_bits_whatever_becomes_of_the_model(
    no_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "models" / "tiny"
    write_tiny_twin(model / INT8)
    monkeypatch.chdir(model.parent)
    collection = Collection(tmp_path / "wiki")
    first = ingest(collection, [articles(tmp_path)], chosen(encoder="./tiny")).generation
    assert first is not None
    facts = first.manifest.facts["encoder"]
    assert (facts["spec"], facts["fingerprint"]["precision"]) == (str(model), INT8)
    monkeypatch.chdir(tmp_path)
    for spec in ("models/tiny", str(model)):  # the same folder, from elsewhere
        assert ingest(collection, [articles(tmp_path)], chosen(encoder=spec)).generation is None
    assert ingest(collection, [articles(tmp_path)], chosen(precision=INT8)).generation is None
    said = refused(lambda: ingest(collection, [articles(tmp_path)], chosen(precision="full")))
    assert "was made with --precision int8, not full" in said
    shutil.rmtree(model)
    assert ingest(collection, [articles(tmp_path, 4)], chosen()).added == 1


def test_another_collections_bundled_encoder_is_taken_over_in_full_precision_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path | None]] = []

    def prepared(spec: str, folder: Path, *, precision: str, int8: Path | None, **_: object) -> Encoder:
        asked.append((precision, int8))
        fingerprint = replace(SPACE, precision="full" if precision == "full" else INT8)
        write_encoder(folder, spec=spec, fingerprint=fingerprint)
        return open_encoder(folder, device="cpu")

    monkeypatch.setattr(build, "prepare", prepared)
    twin = write_tiny_twin(tmp_path / "twin")

    def run(name: str, **named: Any) -> str:
        report = ingest(Collection(tmp_path / "all" / name), [articles(tmp_path)], chosen(encoder="bundled", **named))
        assert report.generation is not None
        return str(report.generation.manifest.facts["encoder"]["fingerprint"]["precision"])

    assert run("eight", precision=INT8, int8=twin) == INT8
    assert run("full", precision="full", int8=twin) == "full"  # not that of "eight"
    assert len(asked) == 2
    assert run("plain", int8=tmp_path / "none") == "full"  # that of "full"
    assert run("asked", precision="full", int8=twin) == "full"
    assert len(asked) == 2
    assert run("chosen", int8=twin) == INT8  # chosen anew
    assert run("again", precision=INT8, int8=twin) == INT8
    assert asked[2:] == [("auto", twin), (INT8, twin)]


# -- commands ----------------------------------------------------------------------------------------------


def called(home: Path, *arguments: str) -> Any:
    return CliRunner().invoke(main, ["--home", str(home), *arguments])


def test_an_encoder_is_ingested_with_by_its_name_and_a_failed_one_only_by_force(no_torch: None, tmp_path: Path) -> None:
    source = str(articles(tmp_path).path)
    model = tmp_path / "encoders" / "small"
    write_tiny_twin(model / INT8)
    Student(Status.FAILED, ("teacher cosine .80 is below .90",), {}, {}).write(model)
    command = ["ingest", source, "-c", "wiki", "--encoder", "small", "--workers", "1", "--quiet"]
    done = called(tmp_path, *command)
    assert (done.exit_code, "teacher cosine .80" in done.output) == (2, True)
    assert not (tmp_path / "collections" / "wiki").exists()
    done = called(tmp_path, *command, "--force-encoder")
    assert done.exit_code == 0, done.output
    Student(Status.USABLE, (), {}, {}).write(model)
    done = called(tmp_path, *command)  # the same again goes on
    assert "nothing new: 3 articles" in done.output
    found = called(tmp_path, "search", "-c", "wiki", "old stone bridge 2", "--mode", "dense", "-k", "1")
    assert "Bridge 2" in found.output


def test_quantize_says_what_became_of_size_speed_and_quality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []

    def run(spec: str, folder: Path, texts: list[str], **named: Any) -> Measured:
        heard.append((spec, folder, texts, named))
        return MEASURED

    monkeypatch.setattr(quantize, "quantize", run)
    sts = tmp_path / "sts" / "stsbenchmark"
    sts.mkdir(parents=True)
    rows = [
        ("5.0", "the bridge", "the bridge"),
        ("0.0", "the mill", "old stone"),
        ("2.5", "the river", "the river mill"),
    ]
    (sts / "sts-test.csv").write_text("".join("a\tb\tc\t1\t" + "\t".join(row) + "\n" for row in rows))
    done = called(tmp_path, "quantize", "bundled", "--int8", "--texts", "40", "--sts", str(sts.parent), "--quiet")
    assert done.exit_code == 0, done.output
    spec, folder, texts, named = heard[0]
    assert (spec, folder) == ("bundled", tmp_path / "encoders" / "bundled" / INT8)
    assert (len(texts), len(set(texts)), named["mode"]) == (50, 50, "auto")
    table = [line.split("  ") for line in done.output.splitlines()[:6]]
    shown = [[cell.strip() for cell in line if cell.strip()] for line in table]
    assert shown == [
        ["f32", "bf16", INT8],
        ["bytes", "1.0 KB", "500 B", "250 B"],
        ["of f32", "100.0%", "50.0%", "25.0%"],
        ["texts/s", "50", "90", "130"],
        ["against f32", "1.00 ×", "1.80 ×", "2.60 ×"],
        ["STS Benchmark test", "–", "0.8200", "0.8190"],
    ]
    assert "an ingest on a machine like this one will take it by itself" in done.output
    assert named["judge"](FastEncoder.compile(write_encoder(tmp_path / "tiny"), "f32", bulk=True)) == 1.0
    row = json.loads(called(tmp_path, "quantize", "bundled", "--json").output)
    assert (row["model"], row["sts_after"], row["rates"][INT8]) == ("bundled", 0.819, 130.0)
    assert heard[1][3]["judge"] is None


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (replace(MEASURED, sts_after=None), "not judged on STS"),
        (replace(MEASURED, sts_after=0.8), "it loses too much"),
        (replace(MEASURED, cosine_mean=0.98), "it loses too much"),
        (replace(MEASURED, rates={"f32": 5.0, "bf16": 9.0, INT8: 9.0}), "it is not faster here"),
    ],
)
def test_quantize_says_why_a_twin_will_not_be_taken(measured: Measured, said: str) -> None:
    assert said in command.in_words(measured, Path("/there"))[-1]


def test_texts_come_from_all_over_a_collection_without_what_was_removed(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "collections" / "wiki")
    source = articles(tmp_path, 30)
    ingest(collection, [source], Choices(encoder="hashing", words=10, workers=1, quiet=True))
    ingest(collection, [source], Choices(workers=1, quiet=True, remove=(7,)))
    found = command.calibration_texts(tmp_path, "wiki", 1000)
    bridges = [f"The old stone bridge {n} over the river." for n in range(1, 31) if n != 7]
    assert sorted(text for text in found if text != MILL) == sorted(bridges)
    assert command.calibration_texts(tmp_path, "wiki", 10) == command.calibration_texts(tmp_path, "wiki", 10)
    assert len(command.calibration_texts(tmp_path, "wiki", 10)) == 10
    titled = Choices(encoder="hashing", words=10, workers=1, quiet=True, prefix=Prefix.TITLE)
    ingest(Collection(tmp_path / "collections" / "titled"), [source], titled)
    assert all(text.startswith("Bridge ") for text in command.calibration_texts(tmp_path, "titled", 100))
