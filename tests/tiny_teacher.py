"""A teacher of a few thousand random weights, the pages it reads, and pairs of sentences with scores.

Its tokenizer is that of `tiny_wordpiece`; its weights are large, so that texts lie far apart. Collections are ingested
with it, and students of it run, as torch makes them: tracing them for OpenVINO would take seconds each.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_wordpiece import wordpiece

from index import conversion
from index.build import Choices, ingest
from index.encoder import Encoder, lasting, write_recipe
from store.generations import Collection
from store.records import Split
from store.sources import open_source
from store.splits import split_of

DIM, LAYERS, READS = 32, 4, 64
SLOTS = [
    ["old", "new", "grey", "small"],
    ["bridge", "mill", "tower", "barn"],
    ["stands", "leans", "burned", "sank"],
    ["river", "road", "hill", "sea"],
    ["spring", "summer", "autumn", "winter"],
]
KNOWN = [word for slot in SLOTS for word in slot] + ["the", "near", "in", "page", "history"]


def sentence(chance: random.Random) -> str:
    """Eleven words, of which five were chosen."""
    what, thing, did, where, when = (chance.choice(slot) for slot in SLOTS)
    return f"The {what} {thing} {did} near the {where} in the {when}."


def write_teacher(
    folder: Path, *, layers: int = LAYERS, width: int = DIM, dense: int = 0, seed: int = 0, **settings: Any
) -> Path:
    """A sentence-transformers folder: BERT, its mean, with `dense` a Dense to so many dimensions, and length one."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    body = folder.with_name(f"{folder.name}-body")
    tokenizer = wordpiece(KNOWN)
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    shape = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=READS, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), conversion._quiet():
        torch.manual_seed(seed)
        BertModel(shape).save_pretrained(body)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=READS, **named).save_pretrained(body)
        parts = [modules.Transformer(str(body)), modules.Pooling(width, "mean")]
        if dense:
            parts.append(modules.Dense(width, dense, bias=False, activation_function=torch.nn.Identity()))
        SentenceTransformer(modules=[*parts, modules.Normalize()], device="cpu", **settings).save(str(folder))
    return folder


def as_torch(
    spec: str, folder: Path, *, device: str, precision: str = "auto", int8: Path | None = None,
    note: Callable[[str], object],
) -> None:  # fmt: skip
    """In the place of `conversion.convert_apart`."""
    recipe = {"kind": "torch", "spec": lasting(spec)}
    found = conversion.fingerprint_of(spec, conversion.load(spec, "cpu"))
    write_recipe(folder, {**recipe, "fingerprint": found.as_json()})
    note(f"{spec} is run by torch")


@contextlib.contextmanager
def opened_by_torch(spec: str, **_: Any) -> Iterator[Encoder]:
    """In the place of `index.students.opened`, in half the time."""
    yield conversion.reference_of(spec)


def page(number: int, *, sentences: int = 8) -> dict[str, Any]:
    """A page with two sections, of sentences nobody else has: each ends with the page's number."""
    chance = random.Random(number)
    told = [f"{sentence(chance)[:-1]} {number}." for _ in range(sentences)]
    half = len(told) // 2
    text = f"{' '.join(told[:half])}\n\nHistory.\n\n{' '.join(told[half:])}"  # as WikiExtractor leaves a heading
    return {"id": str(number), "url": "", "title": f"Page {number}", "text": text}


def pages_of(split: Split, many: int) -> list[int]:
    """The first page ids of a split."""
    found = [number for number in range(1, 40 * many) if split_of(number) is split]
    return found[:many]


def ingested(home: Path, name: str, pages: Sequence[dict[str, Any]], encoder: str, **choices: Any) -> Collection:
    """A collection made with an encoder as torch runs it."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pages), encoding="utf-8")
    collection = Collection(home / "collections" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "convert_apart", as_torch)
        wanted = Choices(encoder=encoder, words=20, workers=1, quiet=True, **choices)
        ingest(collection, [open_source(home / "pages.jsonl", "wikiextractor")], wanted)
    return collection


def write_sts(folder: Path, pairs: int = 24) -> Path:
    """Pairs of sentences, scored by how many of their five choices are the same; no two splits alike."""
    place = folder / "stsbenchmark"
    place.mkdir(parents=True)
    for seed, split in enumerate(("dev", "test")):
        chance = random.Random(seed)
        rows = []
        for number in range(pairs):
            first = [chance.choice(slot) for slot in SLOTS]
            same = number % 6
            second = [word if at < same else chance.choice(SLOTS[at]) for at, word in enumerate(first)]
            score = sum(one == other for one, other in zip(first, second, strict=True))
            rows.append(f"main\tmade\t2026\t{number:04d}\t{score}\t{' '.join(first)}\t{' '.join(second)}\n")
        (place / f"sts-{split}.csv").write_text("".join(rows), encoding="utf-8")
    return folder
