"""The bank of training spans: exact neighbours, made once and kept, noticed when damaged, gone with its generation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_decodes import CHUNKS, LONGEST, TRAIN_PAGES, lead, make_collection

from index.dense import normalised
from index.hashing import HashingEncoder
from retrieval.inverters import _inverters_in, inverters_folder
from retrieval.search import Searcher
from retrieval.span_bank import SpanBank, open_bank
from store.generations import Collection, DamageWarning
from store.records import LookaheadError, Split

MANY = len(TRAIN_PAGES) * CHUNKS


class Counting(HashingEncoder):
    """The hashing encoder; it counts the texts it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.texts = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += len(texts)
        return super().encode(texts)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make_collection(tmp_path_factory.mktemp("bank"))


@pytest.fixture
def collection(made: Collection, tmp_path: Path) -> Collection:
    shutil.copytree(made.path, tmp_path / "wiki")
    return Collection(tmp_path / "wiki")


def opened(
    collection: Collection, most: int | None = None, seed: int = 0, longest: int = LONGEST
) -> tuple[SpanBank, int]:
    """(the bank, how many texts were embedded for it)."""
    encoder = Counting()
    with Searcher.open(collection) as searcher:
        bank = open_bank(searcher, encoder, lead, longest, most=most, seed=seed)
    return bank, encoder.texts


def folder_of(collection: Collection) -> Path:
    (folder,) = inverters_folder(collection).glob(f".spans-{LONGEST}-*")
    return folder


def test_the_nearest_span_is_the_one_with_the_highest_cosine_the_first_among_equals() -> None:
    rows = np.array([[1, 0, 0], [0, 2, 0], [1, 1, 0], [0, 5, 0]], dtype=np.float16)
    bank = SpanBank(np.array([10, 20, 30, 40]), rows, 4)
    asked = normalised(np.array([[1, 0.1, 0], [0, 1, 0], [1, 1, 0.2]], dtype=np.float32))
    assert bank.nearest(asked).tolist() == [10, 20, 30]


def test_blocks_of_a_large_bank_are_compared_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.span_bank._BLOCK", 7)
    rng = np.random.default_rng(0)
    rows, asked = rng.normal(size=(50, 8)).astype(np.float16), normalised(rng.normal(size=(9, 8)).astype(np.float32))
    rows[[9, 33]] = rows[2]  # equals in other blocks
    asked[0] = normalised(rows[2:3].astype(np.float32))[0]
    best = (asked @ normalised(rows.astype(np.float32)).T).argmax(axis=1)
    found = SpanBank(np.arange(50) * 3, rows, 50).nearest(asked).tolist()
    assert found == (best * 3).tolist()
    assert found[0] == 6


def test_it_holds_the_leading_spans_of_the_training_articles_and_of_no_other(collection: Collection) -> None:
    bank, _ = opened(collection)
    with Searcher.open(collection) as searcher:
        found = searcher.store.chunks(bank.ids.tolist())
        train = {row.page_id for row in searcher.store.articles(Split.TRAIN)}
    assert {one.chunk.page_id for one in found} == train == set(TRAIN_PAGES)
    assert (len(bank.ids), bank.among) == (MANY, MANY)
    wanted = HashingEncoder().encode(lead([one.chunk.text for one in found]))
    assert np.abs(bank.vectors - wanted).max() < 1e-3


def test_it_is_made_once_and_kept(collection: Collection) -> None:
    first, embedded = opened(collection)
    second, again = opened(collection)
    assert (embedded, again) == (MANY, 0)
    assert np.array_equal(first.vectors, second.vectors)
    assert opened(collection, longest=7)[1] == MANY  # other spans
    assert opened(collection)[1] == 0  # and these are still there
    assert collection.verify() == []
    assert collection.collect_garbage(1) == []
    assert _inverters_in(inverters_folder(collection), shipped=False) == []


def test_a_whole_bank_takes_the_place_of_other_whole_ones(collection: Collection) -> None:
    home = inverters_folder(collection)
    whole, unfinished, longer = (home / f".spans-{name}" for name in (f"{LONGEST}-old", f"{LONGEST}-new", "99-old"))
    for folder in (whole, unfinished, longer):
        folder.mkdir(parents=True)
        (folder / "part-00000.npy").write_bytes(b"")
    for folder in (whole, longer):
        (folder / "sum.json").write_text("{}", encoding="utf-8")
    opened(collection)
    assert not whole.exists()
    assert unfinished.exists()  # another process may be at it
    assert longer.exists()


def test_fewer_are_drawn_with_the_seed_and_taken_from_the_kept_one(collection: Collection) -> None:
    alone, embedded = opened(collection, most=11, seed=3)
    assert (len(alone.ids), alone.among, embedded) == (11, MANY, 11)
    assert not list(inverters_folder(collection).glob(".spans-*"))  # a few are not worth keeping
    assert np.array_equal(opened(collection, most=11, seed=3)[0].ids, alone.ids)
    assert not np.array_equal(opened(collection, most=11, seed=4)[0].ids, alone.ids)
    opened(collection)
    taken, embedded = opened(collection, most=11, seed=3)
    assert embedded == 0
    assert np.array_equal(taken.ids, alone.ids)
    assert np.array_equal(taken.vectors, alone.vectors)
    assert opened(collection, most=10_000)[0].ids.size == MANY


@pytest.mark.parametrize("harm", ["a bit", "a shape", "a type", "cut short"])
def test_damage_is_told_and_mended(collection: Collection, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.spans._PART", 16)
    sound, _ = opened(collection)
    part, *others = sorted(folder_of(collection).glob("part-*.npy"))
    assert len(others) == 2
    raw = bytearray(part.read_bytes())
    if harm == "a bit":
        raw[-20] ^= 64
        part.write_bytes(raw)
    elif harm == "a shape":
        np.save(part, np.zeros((16, 3, 2), np.float16))
    elif harm == "a type":
        np.save(part, sound.vectors[:16].astype(np.float64))
    else:
        part.write_bytes(raw[:200])
    if harm == "cut short":  # which is found as it is read, and made again as after a kill
        mended, embedded = opened(collection)
    else:
        with pytest.warns(DamageWarning, match="embedded again"):
            mended, embedded = opened(collection)
    assert embedded == (16 if harm == "cut short" else MANY)
    assert mended.vectors.dtype == np.float16
    assert np.array_equal(mended.vectors, sound.vectors)
    assert opened(collection)[1] == 0


def test_another_generation_has_a_bank_of_its_own_in_the_same_place(collection: Collection) -> None:
    opened(collection)
    plan = json.loads((folder_of(collection) / "sum.json").read_bytes())
    other = {"facts": {**plan["facts"], "manifest": "x"}, "sha256": "of other spans"}
    (folder_of(collection) / "sum.json").write_text(json.dumps(other))
    (folder_of(collection) / "spans.json").write_text("{}")
    assert opened(collection)[1] == MANY
    assert opened(collection)[1] == 0
    assert len(list(inverters_folder(collection).iterdir())) == 1


def test_a_collection_without_training_articles_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match=r"wiki has no article in the train split.*ingest more articles"):
        opened(make_collection(tmp_path, pages=(1, 22)))
