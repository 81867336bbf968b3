"""The published inverter: tiny models in vec2text's own classes say what the real ones would be asked, and how."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from tiny_vec2text import BASE, DIM, GTR, LONGEST, config_of, snapshot, write_cache, write_pair

from index.encoder import Encoder, Fingerprint
from index.hashing import HashingEncoder
from retrieval.decode import CONFIG, HUB, PARTS, SHARDS, WEIGHTS, Floats, PublishedInverter, _traceless
from retrieval.inversion import PROBE, Decoder
from store.records import LookaheadError

SPACE = Fingerprint(GTR, "0" * 16, DIM, "mean", False, False, "", "", 512)
TEXTS = [
    "the old mill on the river",
    "three hundred years later the king",
    "a new album sold",
    "iron bridge opened in the north of the town",
    "the team won",
]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(LookaheadError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def write_hollow(folder: Path, **changes: Any) -> Path:
    """A pair whose weights are no more than files: what is refused before they are read needs none."""
    for part in PARTS:
        (folder / part).mkdir(parents=True)
        (folder / part / CONFIG).write_text(json.dumps(config_of(**changes)))
        (folder / part / WEIGHTS).touch()
    return folder


def open_(spec: str | Path, *, space: Fingerprint = SPACE, download: bool = False) -> PublishedInverter:
    return PublishedInverter.open(spec, space, download=download)


# -- refused before anything heavy is loaded ---------------------------------------------------------------


@pytest.mark.parametrize("download", [False, True])
def test_a_pair_that_is_not_here_is_named_with_where_it_would_come_from(cache: Path, download: bool) -> None:
    said = refused(lambda: open_("gtr-base", download=download))
    assert "inverter gtr-base needs jxm/gtr__nq__32 of huggingface.co" in said
    assert str(cache) in said
    assert "hf download jxm/gtr__nq__32 " in said


def test_two_names_of_the_hub_are_a_pair(cache: Path) -> None:
    assert "needs some/first of huggingface.co" in refused(lambda: open_("some/first,some/second"))
    (snapshot(cache, "some/first") / CONFIG).write_text(json.dumps(config_of()))
    assert "needs some/second of huggingface.co" in refused(lambda: open_("some/first,some/second"))


@pytest.mark.parametrize(
    "spec", ["gtr", "some/first", "some/first,second", "a/b,c/d,e/f", "", "half", "nowhere/at/all"]
)
def test_what_names_no_pair_is_refused_with_what_would(cache: Path, tmp_path: Path, spec: str) -> None:
    (tmp_path / "half" / "inversion").mkdir(parents=True)
    said = refused(lambda: open_(tmp_path / "half" if spec == "half" else spec))
    assert "there is no published inverter" in said
    assert "inversion/ and corrector/, gtr-base, or" in said


@pytest.mark.parametrize(
    "other",
    [
        HashingEncoder().fingerprint,
        replace(SPACE, dim=384),
        replace(SPACE, pooling="cls"),
        replace(SPACE, dense=True),
        replace(SPACE, normalised=True),
    ],
)
@pytest.mark.parametrize("spec", ["gtr-base", "folder"])
def test_vectors_of_another_kind_are_refused_with_both_named(
    cache: Path, tmp_path: Path, spec: str, other: Fingerprint
) -> None:
    write_hollow(tmp_path / "folder")
    said = refused(lambda: open_(tmp_path / "folder" if spec == "folder" else spec, space=other))
    assert f"inverter {spec} is for vectors of gtr_base (768d mean), the collection's are from {other}" in said
    assert "--encoder gtr-t5-base" in said


def test_the_pair_for_the_finished_vectors_of_gtr_says_how_to_get_them(cache: Path, tmp_path: Path) -> None:
    write_hollow(tmp_path / "folder", embedder_model_name="gtr_base_st")
    said = refused(lambda: open_(tmp_path / "folder"))
    assert "(768d mean+dense+normalised)" in said
    assert f"--encoder {GTR} " in said


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (None, "no vec2text model"),
        (b"{", "damaged"),
        (b"\xff", "damaged"),
        (b"[1]", "no table"),
        (b"[" * 100_000, "damaged"),
        ({"num_repeat_tokens": "2"}, "num_repeat_tokens is '2'"),
        ({"embedder_model_api": "text-embedding-ada-002"}, "text-embedding-ada-002"),
        ({"use_lora": True}, "use_lora is True"),
        ({"embedder_model_name": "meta-llama/Llama-2-70b"}, "meta-llama/Llama-2-70b"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(
    cache: Path, tmp_path: Path, config: bytes | dict[str, Any] | None, fault: str
) -> None:
    path = write_hollow(tmp_path) / "inversion" / CONFIG
    path.unlink()
    if config is not None:
        path.write_bytes(config if isinstance(config, bytes) else json.dumps(config_of(**config)).encode())
    said = refused(lambda: open_(tmp_path))
    assert str(path.parent) in said
    assert fault in said


@pytest.mark.parametrize(
    ("part", "key"),
    [("inversion", "use_frozen_embeddings_as_input"), ("corrector", "corrector_ignore_hypothesis_embedding")],
)
def test_a_config_that_lacks_what_the_class_reads_is_refused(cache: Path, tmp_path: Path, part: str, key: str) -> None:
    path = write_hollow(tmp_path) / part / CONFIG
    path.write_text(json.dumps({name: value for name, value in config_of().items() if name != key}))
    assert f"{path} is not of vec2text's {part} model: it lacks {key}" in refused(lambda: open_(tmp_path))


def test_missing_weights_are_refused(cache: Path, tmp_path: Path) -> None:
    (write_hollow(tmp_path) / "corrector" / WEIGHTS).unlink()
    assert f"there are no weights in {tmp_path / 'corrector'}" in refused(lambda: open_(tmp_path))


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        ('{"weight_map": {"a": "model-1.safetensors"}}', "names 'model-1.safetensors', which is not beside it"),
        ('{"weight_map": {"a": "../inversion/model.safetensors"}}', "names '../inversion/model.safetensors'"),
        ('{"weight_map": [1]}', "damaged"),
        ("{}", "damaged"),
        ("{", "damaged"),
    ],
)
def test_a_list_of_shards_that_are_not_there_is_refused(cache: Path, tmp_path: Path, index: str, fault: str) -> None:
    folder = write_hollow(tmp_path) / "corrector"
    (folder / WEIGHTS).unlink()
    (folder / SHARDS).write_text(index)
    said = refused(lambda: open_(tmp_path))
    assert str(folder / SHARDS) in said
    assert fault in said


def test_pickles_are_refused_with_what_converts_them(cache: Path, tmp_path: Path) -> None:
    folder = write_hollow(tmp_path) / "corrector"
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    said = refused(lambda: open_(tmp_path))
    assert f"the weights of {folder} are pickles" in said
    assert re.search(rf'convert them once: python -c "[^"]+" {folder}$', said)


def test_a_pair_that_the_hub_has_as_pickles_is_refused_with_how_to_keep_it(cache: Path) -> None:
    for repository in HUB["gtr-base"]:  # as they are there since 2023
        folder = snapshot(cache, repository)
        (folder / CONFIG).write_text(json.dumps(config_of()))
        (folder / "pytorch_model.bin.index.json").touch()
    said = refused(lambda: open_("gtr-base"))
    assert "hf download jxm/gtr__nq__32 --local-dir gtr-base/inversion && " in said
    assert "hf download jxm/gtr__nq__32__correct --local-dir gtr-base/corrector && python -c " in said
    assert said.endswith("gtr-base/*, then --inverter ./gtr-base")


def test_a_network_that_a_config_names_must_be_here_too(cache: Path, tmp_path: Path) -> None:
    write_hollow(tmp_path / "pair")
    said = refused(lambda: open_(tmp_path / "pair", download=True))
    assert f"{tmp_path / 'pair' / 'inversion'} names a model and needs {BASE} of huggingface.co" in said
    (snapshot(cache, BASE) / WEIGHTS).touch()
    assert f"needs {GTR} of huggingface.co" in refused(lambda: open_(tmp_path / "pair"))
    (snapshot(cache, GTR) / "pytorch_model.bin").touch()
    assert "are pickles" in refused(lambda: open_(tmp_path / "pair"))


# -- tiny models ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pair, with all that it names in the hub's cache."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing torch and its friends
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        write_cache(folder / "hub")
        yield write_pair(folder / "pair")


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> Encoder:
    """What `ingest --encoder gtr-t5-base` would run."""
    from index import conversion

    model = conversion.load("gtr-t5-base", "cpu").float()  # kept in halves; a converted one is not run in them
    return conversion.TorchEncoder(model, conversion.fingerprint_of("gtr-t5-base", model))


@pytest.fixture(scope="module")
def inverter(tiny: Path, encoder: Encoder) -> PublishedInverter:
    return open_(tiny, space=encoder.fingerprint)


@pytest.fixture(scope="module")
def vectors(encoder: Encoder) -> Floats:
    return encoder.encode(TEXTS)


def copied(tiny: Path, to: Path) -> Path:
    return Path(shutil.copytree(tiny, to / "pair"))


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file({name: value.clone() for name, value in tensors.items()}, path)


def test_the_encoder_of_such_a_collection_is_the_one_the_pair_was_trained_with(
    inverter: PublishedInverter, encoder: Encoder
) -> None:
    assert (encoder.fingerprint.pooling, encoder.fingerprint.dense, encoder.fingerprint.normalised) == (
        "mean",
        False,
        False,
    )
    assert encoder.encode([PROBE])[0] == pytest.approx(inverter.probe(), rel=1e-4, abs=1e-3)
    assert inverter.name == "pair"
    assert inverter.space == encoder.fingerprint
    assert inverter.longest == LONGEST - 1


def test_the_decoder_refuses_an_encoder_of_the_same_kind_elsewhere(
    inverter: PublishedInverter, encoder: Encoder
) -> None:
    class Turned:
        name, dim, fingerprint = encoder.name, encoder.dim, encoder.fingerprint

        def encode(self, texts: list[str]) -> Floats:
            return encoder.encode(texts)[:, ::-1].copy()

        encode_queries = encode

    assert "places a probe text elsewhere" in refused(lambda: Decoder(inverter, Turned()))


def test_several_vectors_at_once_say_what_each_says_alone(
    inverter: PublishedInverter, vectors: Floats, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = TEXTS[::-1]
    away = encoder.encode(wrong)
    for width in (1, 3):
        together = inverter.propose(vectors, width)
        assert together == [inverter.propose(vectors[[row]], width)[0] for row in range(len(vectors))]
        better = inverter.correct(vectors, wrong, away, width)
        assert better == [
            inverter.correct(vectors[[row]], [wrong[row]], away[[row]], width)[0] for row in range(len(vectors))
        ]
        monkeypatch.setattr("retrieval.decode._AT_ONCE", 2)
        assert (inverter.propose(vectors, width), inverter.correct(vectors, wrong, away, width)) == (together, better)
        monkeypatch.undo()
    assert inverter.propose(vectors[:0], 2) == []
    assert inverter.correct(vectors[:0], [], away[:0], 2) == []


def test_a_beam_gives_as_many_texts_as_it_is_wide_and_none_twice(inverter: PublishedInverter, vectors: Floats) -> None:
    one, four = inverter.propose(vectors, 1), inverter.propose(vectors, 4)
    assert [len(some) for some in one] == [1] * len(vectors)
    assert all(1 < len(some) <= 4 and len({*some}) == len(some) for some in four)
    assert len({some[0] for some in one}) == len(vectors)  # what is said depends on the vector
    for text in (text for some in four for text in some):
        assert text == " ".join(text.split())
        assert "<" not in text


def test_texts_that_differ_in_blanks_alone_are_one(
    inverter: PublishedInverter, vectors: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ["  the  mill", "the mill", "a road\n", "the mill", "", "the mill"]
    monkeypatch.setattr(inverter._inversion.tokenizer, "batch_decode", lambda ids, skip_special_tokens: told)
    assert inverter.propose(vectors[:2], 3) == [["the mill", "a road"], ["the mill", ""]]


def test_a_correction_depends_on_all_it_is_given(inverter: PublishedInverter, vectors: Floats) -> None:
    def corrected(target: int, text: int, vector: int) -> list[list[str]]:
        return inverter.correct(vectors[[target]], [TEXTS[text]], vectors[[vector]], 2)

    plain = corrected(0, 1, 1)
    assert plain == corrected(0, 1, 1)
    assert plain != corrected(2, 1, 1)
    assert plain != corrected(0, 2, 1)
    assert plain != corrected(0, 1, 2)


def test_texts_are_those_of_vec2texts_own_corrector(
    inverter: PublishedInverter, vectors: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trainers cannot be made offline; their loop runs without their constructors."""
    import torch
    from vec2text.trainers import Corrector

    inversion = inverter._inversion
    # left unset by today's transformers, and the package counts with it
    monkeypatch.setattr(inverter._corrector.encoder_decoder.generation_config, "length_penalty", 1.0)
    own = Corrector.__new__(Corrector)
    own.__dict__ |= {
        "model": inverter._corrector,
        "inversion_trainer": SimpleNamespace(model=inversion, call_embedding_model=inversion.call_embedding_model),
        "tokenizer": inversion.tokenizer,
        "embedder_tokenizer": inversion.embedder_tokenizer,
        "args": SimpleNamespace(device="cpu"),
        "initial_hypothesis_str": None,
        "return_best_hypothesis": False,
    }
    how = {"early_stopping": False, "num_beams": 1, "do_sample": False, "no_repeat_ngram_size": 0}
    targets = inverter._sized(vectors)
    for steps in (1, 2):
        with torch.no_grad():
            ids = own.generate(
                inputs={"frozen_embeddings": torch.from_numpy(targets)},
                generation_kwargs={**how, "min_length": 1, "max_length": LONGEST},
                num_recursive_steps=steps,
                sequence_beam_width=1,
            )
        theirs = inversion.tokenizer.batch_decode(ids, skip_special_tokens=True)
        texts = [text for (text,) in inverter.propose(vectors, 1)]
        for _ in range(steps):
            texts = [text for (text,) in inverter.correct(vectors, texts, embedded(inverter, texts), 1)]
        assert texts == [" ".join(text.split()) for text in theirs]


def embedded(inverter: PublishedInverter, texts: list[str]) -> Floats:
    from retrieval.decode import _embedded

    return _embedded(inverter._inversion, texts, LONGEST)


def test_gists_come_nearer_with_every_step_or_stay(
    inverter: PublishedInverter, vectors: Floats, encoder: Encoder
) -> None:
    decoder = Decoder(inverter, encoder)
    gists = [decoder.decode(vectors, steps=steps, beam=3) for steps in (0, 1, 2)]
    assert {gist.step for gist in gists[0]} == {0}
    assert {gist.step for gist in gists[2]} >= {1, 2}  # a text is kept only for being nearer
    for row, target in enumerate(vectors):
        cosines = [some[row].cosine for some in gists]
        assert cosines == sorted(cosines)
        own = encoder.encode([gists[2][row].text])[0]
        assert own @ target / np.linalg.norm(own) / np.linalg.norm(target) == pytest.approx(cosines[2], abs=1e-5)
    assert decoder.decode(vectors, steps=2, beam=3) == gists[2]
    assert decoder.decode(vectors[:0], steps=1, beam=2) == []


def test_a_length_no_text_has_is_a_direction_and_any_other_is_kept(
    inverter: PublishedInverter, vectors: Floats
) -> None:
    low, high = inverter.lengths
    assert low < inverter.length < high
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for length in (low * 1.01, inverter.length, high * 0.99):
        assert inverter._sized(unit * np.float32(length)) == pytest.approx(unit * length, rel=1e-5)
    for length in (1e-3, 1.0, low * 0.99, high * 1.01, 1e5):
        sized = inverter._sized(unit * np.float32(length))
        assert sized.dtype == np.float32
        assert sized == pytest.approx(unit * inverter.length, rel=1e-4)
    assert inverter.propose(unit, 2) == inverter.propose(unit * np.float32(inverter.length), 2)
    assert inverter.propose(unit, 2) != inverter.propose(unit * np.float32(high * 0.99), 2)  # else nothing is proved


def test_lengths_are_those_of_the_embedders_own_vectors(inverter: PublishedInverter, encoder: Encoder) -> None:
    from retrieval.decode import _PLAIN, _SLACK

    lengths = np.linalg.norm(encoder.encode(_PLAIN), axis=1)
    assert inverter.length == pytest.approx(np.median(lengths), rel=1e-4)
    assert inverter.lengths == pytest.approx((lengths.min() / _SLACK, lengths.max() * _SLACK), rel=1e-4)


def test_a_hypothesis_longer_than_can_be_is_cut_and_a_shorter_one_is_ended(inverter: PublishedInverter) -> None:
    one = inverter._inversion.tokenizer.convert_tokens_to_ids
    ids, mask = inverter._hypotheses(["the river", "the " * 30, ""])
    assert ids.tolist() == [
        [0, one("▁the"), one("▁river"), 1] + [0] * (LONGEST - 4),
        [0] + [one("▁the")] * (LONGEST - 1),
        [0, 1] + [0] * (LONGEST - 2),
    ]
    assert mask.sum(axis=1).tolist() == [3, LONGEST - 1, 1]


# -- weights -------------------------------------------------------------------------------------------------


def test_a_local_pair_asks_no_network(tiny: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object, **__: object) -> None:
        asked.append(_)
        raise OSError("no way out")

    asked: list[object] = []
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, reached)
    monkeypatch.setattr(socket, "getaddrinfo", reached)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the whole suite is offline but for this line
    open_(tiny, space=encoder.fingerprint, download=True)
    assert asked == []
    assert constants.HF_HUB_OFFLINE is False
    refused(lambda: open_("some/first,some/second", download=True))
    assert asked  # a name of the hub's does ask: the trap works


def test_the_word_for_it_opens_what_the_hub_cache_holds(
    tiny: Path, encoder: Encoder, inverter: PublishedInverter, vectors: Floats
) -> None:
    for part, repository in zip(PARTS, HUB["gtr-base"], strict=True):
        shutil.copytree(tiny / part, snapshot(tiny.parent / "hub", repository), dirs_exist_ok=True)
    named = open_("gtr-base", space=encoder.fingerprint)
    assert named.name == "gtr-base"
    assert named.propose(vectors, 2) == inverter.propose(vectors, 2)


@pytest.mark.parametrize("part", PARTS)
def test_a_tensor_too_few_too_many_or_of_another_size_is_refused(
    tiny: Path, encoder: Encoder, tmp_path: Path, part: str
) -> None:
    name = "embedding_transform.0.weight" if part == "inversion" else "embedding_transform_2.0.weight"

    def shorten(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name][:5]

    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        f"{name} is not there": lambda tensors: tensors.pop(name),
        "another.bias belongs to nothing": lambda tensors: tensors.update({"another.bias": tensors[name][0]}),
        f"{name} is (5, 768), expected (768, 768)": shorten,
    }
    pair = copied(tiny, tmp_path)
    sound = (pair / part / WEIGHTS).read_bytes()
    for fault, change in changes.items():
        (pair / part / WEIGHTS).write_bytes(sound)
        rewrite(pair / part / WEIGHTS, change)
        said = refused(lambda: open_(pair, space=encoder.fingerprint))
        assert f"the weights in {pair / part} are not of the " in said
        assert said.endswith(fault)


@pytest.mark.parametrize("damage", [b"", b"{}", b'\x08\x00\x00\x00\x00\x00\x00\x00{"a": 1}', "half"])
def test_a_damaged_file_of_weights_is_refused(
    tiny: Path, encoder: Encoder, tmp_path: Path, damage: bytes | str
) -> None:
    path = copied(tiny, tmp_path) / "corrector" / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(damage if isinstance(damage, bytes) else whole[: len(whole) // 2])
    assert f"cannot read {path}: " in refused(lambda: open_(tmp_path / "pair", space=encoder.fingerprint))


def test_shards_and_shared_tensors_are_put_together(
    tiny: Path, encoder: Encoder, inverter: PublishedInverter, vectors: Floats, tmp_path: Path
) -> None:
    """As `save_pretrained` leaves them: a tensor that several names share is there once."""
    from safetensors.torch import load_file, save_file

    folder = copied(tiny, tmp_path) / "inversion"
    tensors = load_file(folder / WEIGHTS)
    for name in ("encoder_decoder.encoder.embed_tokens.weight", "encoder_decoder.lm_head.weight"):
        del tensors[name]
    shards = {f"model-{number + 1}.safetensors": sorted(tensors)[number::2] for number in range(2)}
    for file, names in shards.items():
        save_file({name: tensors[name].clone() for name in names}, folder / file)
    (folder / WEIGHTS).unlink()
    (folder / SHARDS).write_text(json.dumps({"weight_map": {name: file for file in shards for name in shards[file]}}))
    opened = open_(tmp_path / "pair", space=encoder.fingerprint)
    assert opened.propose(vectors, 2) == inverter.propose(vectors, 2)


def test_all_is_in_single_precision_whatever_the_files_are_in(
    tiny: Path, encoder: Encoder, inverter: PublishedInverter, vectors: Floats, tmp_path: Path
) -> None:
    """GTR is in halves, and a model of halves would round what is loaded into it."""
    import torch

    def halve(tensors: dict[str, Any]) -> None:
        tensors.update({name: value.half() for name, value in tensors.items()})

    def shift(tensors: dict[str, Any]) -> None:
        tensors["embedder.final_layer_norm.weight"] += 1e-6

    pair = copied(tiny, tmp_path)
    rewrite(pair / "corrector" / WEIGHTS, halve)
    rewrite(pair / "inversion" / WEIGHTS, shift)
    opened = open_(pair, space=encoder.fingerprint)
    for model in (opened._inversion, opened._corrector):
        assert {one.dtype for one in model.parameters()} == {torch.float32}
    assert not np.array_equal(opened.probe(), inverter.probe())
    assert len(opened.correct(vectors, TEXTS, vectors, 2)) == len(TEXTS)


def test_two_that_were_not_trained_together_are_refused(tiny: Path, encoder: Encoder, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    pair = copied(tiny, tmp_path)
    base = AutoModelForSeq2SeqLM.from_pretrained(snapshot_of(tiny, BASE))
    base.resize_token_embeddings(40)
    base.save_pretrained(tmp_path / "smaller")
    path = pair / "corrector" / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_name_or_path": str(tmp_path / "smaller")}))
    words = re.compile(r"shared|embed_tokens|lm_head")

    def shorten(tensors: dict[str, Any]) -> None:
        tensors.update({name: value[:40] for name, value in tensors.items() if words.search(name)})

    rewrite(pair / "corrector" / WEIGHTS, shorten)
    assert "give two folders that were trained together" in refused(lambda: open_(pair, space=encoder.fingerprint))


def snapshot_of(tiny: Path, name: str) -> Path:
    return next((tiny.parent / "hub" / ("models--" + name.replace("/", "--")) / "snapshots").iterdir())


def test_a_config_that_builds_nothing_is_refused_in_a_line(tiny: Path, encoder: Encoder, tmp_path: Path) -> None:
    path = copied(tiny, tmp_path) / "inversion" / CONFIG
    path.write_text(json.dumps(config_of(num_repeat_tokens=-1)))
    said = refused(lambda: open_(tmp_path / "pair", space=encoder.fingerprint))
    assert f"cannot build the InversionModel that {path} describes: " in said


def test_a_pair_for_finished_vectors_is_opened_by_the_names_older_libraries_gave_its_tensors(
    tiny: Path, tmp_path: Path
) -> None:
    from index import conversion

    def older(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith("embedder.0.model.")]:
            tensors[name.replace(".model.", ".auto_model.", 1)] = tensors.pop(name)

    pair = write_pair(tmp_path / "pair", embedder_model_name="gtr_base_st")
    rewrite(pair / "inversion" / WEIGHTS, older)
    model = conversion.load(GTR, "cpu").float()
    encoder = conversion.TorchEncoder(model, conversion.fingerprint_of(GTR, model))
    opened = open_(pair, space=encoder.fingerprint)
    assert opened.length == pytest.approx(1.0)
    Decoder(opened, encoder)


# -- what is left behind: nothing ------------------------------------------------------------------------------

STATE = """
import json, logging, os, sys, warnings
from pathlib import Path
def state():
    import datasets, torch._logging, transformers
    from huggingface_hub import constants
    loggers = {name: one for name, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)}
    kept = torch._logging._internal.log_state
    return {
        "root": (logging.root.level, [id(one) for one in logging.root.handlers], logging.root.manager.disable),
        "loggers": {
            name: (one.level, [id(handler) for handler in one.handlers], one.propagate, one.disabled)
            for name, one in loggers.items()
        },
        "compiler": (dict(kept.log_qname_to_level), sorted(kept.artifact_names)),
        "verbosity": (transformers.logging.get_verbosity(), datasets.logging.get_verbosity()),
        "bars": (transformers.logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()),
        "caching": datasets.is_caching_enabled(),
        "environment": dict(os.environ),
        "warnings": [repr(one) for one in warnings.filters],
        "offline": constants.HF_HUB_OFFLINE,
        "streams": (id(sys.stdout), id(sys.stderr)),
        "gradients": (torch.is_grad_enabled(), str(torch.get_default_dtype()), str(torch.get_default_device())),
    }
"""


def state() -> dict[str, Any]:
    scope: dict[str, Any] = {}
    exec(STATE, scope)
    return dict(scope["state"]())


def test_opening_leaves_the_process_as_it_was(tiny: Path, encoder: Encoder, capfd: pytest.CaptureFixture[str]) -> None:
    before = state()
    open_(tiny, space=encoder.fingerprint)
    assert state() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fails", [False, True])
def test_what_importing_vec2text_does_is_undone(tiny: Path, fails: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own statements, since only the first import in a process runs them."""
    import datasets
    import torch._logging
    import transformers

    before = state()
    assert (before["caching"], before["compiler"]) == (True, ({}, []))  # nor did the import for `tiny` leave a trace
    with pytest.raises(ZeroDivisionError) if fails else warnings.catch_warnings(), _traceless():
        transformers.logging.set_verbosity_error()
        torch._logging.set_logs(dynamo=logging.INFO)  # type: ignore[attr-defined]
        datasets.disable_caching()
        os.environ["TOKENIZERS_PARALLELISM"] = "False"
        os.environ["PATH"] = "elsewhere"
        del os.environ["HOME"]
        logging.basicConfig(force=True, level=logging.DEBUG)
        logging.getLogger("transformers").addHandler(logging.NullHandler())
        warnings.simplefilter("always")
        print("Disabled 3 dropout modules")
        if fails:
            1 / 0  # noqa: B018
    assert state() == before
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_importing_vec2text_for_the_first_time_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    """In a process of its own, where torch and the others were loaded before."""
    code = f"""{STATE}
from retrieval.decode import _traceless
before = state()
with _traceless():
    import vec2text
after = state()
after["loggers"] = {{name: one for name, one in after["loggers"].items() if name in before["loggers"]}}
print(json.dumps([name for name in before if before[name] != after[name]]))
"""
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == ["[]"]
    assert told.stderr == ""  # torch's compiler would speak at the end


@pytest.mark.slow
def test_what_the_refusal_of_pickles_says_to_type_does_convert_them(
    tiny: Path, encoder: Encoder, inverter: PublishedInverter, vectors: Floats, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    folder = copied(tiny, tmp_path) / "inversion"
    tensors = load_file(folder / WEIGHTS)
    for number in range(2):
        some = {name: tensors[name] for name in sorted(tensors)[number::2]}
        torch.save(some, folder / f"pytorch_model-0000{number + 1}-of-00002.bin")
    (folder / WEIGHTS).unlink()
    said = refused(lambda: open_(tmp_path / "pair", space=encoder.fingerprint))
    command = said.partition("convert them once: python ")[2]
    subprocess.run(f"{sys.executable} {command}", shell=True, check=True)
    opened = open_(tmp_path / "pair", space=encoder.fingerprint)
    assert opened.propose(vectors, 2) == inverter.propose(vectors, 2)
