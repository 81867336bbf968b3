"""Shards: the same bytes whoever makes them and in whatever order, made once, made again when something differs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from cli import main
from index import build, shards, vectors
from index.build import Choices, ingest
from index.encoder import open_encoder
from index.hashing import HashingEncoder
from index.layout import ENCODER, VECTORS
from index.prepared import NOTE, encode_part
from index.shards import Job, encode_all, take_markers, unfinished
from index.vectors import Vectors, read_shard, shard_name
from store.generations import Collection, seal_of
from store.records import LookaheadError
from store.sources import Source, open_source

KEY = "0123456789ab"


class Neighbours:
    """The vector of a text is its number, how many it was given with, and its place among them."""

    name, dim = "neighbours", 3
    fingerprint = HashingEncoder().fingerprint

    def __init__(self, most: int = 1 << 30) -> None:
        self.read: list[str] = []
        self._most = most

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if len(self.read) + len(texts) > self._most:
            raise KeyboardInterrupt
        self.read += texts
        rows = [[float(text.split()[-1]), len(texts), place] for place, text in enumerate(texts)]
        return np.array(rows, dtype=np.float32)

    encode_queries = encode


def texts_of(first: int, stop: int) -> list[str]:
    return [f"text {row}" for row in range(first, stop)]


def job_in(folder: Path, rows: int = 22, parent: Path | None = None, parent_rows: int = 0, key: str = KEY) -> Job:
    return Job(folder, rows, 3, key, parent, parent_rows, shard_rows=10)


def held_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def _slices_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SLICE", 4)


# -- what a shard is -----------------------------------------------------------------------------------------


def test_an_encoder_is_given_slices_that_end_at_whole_multiples_and_with_the_shard(tmp_path: Path) -> None:
    encode_all(job_in(tmp_path), texts_of, Neighbours())
    assert [np.load(tmp_path / shard_name(number))[:, 1].tolist() for number in range(3)] == [
        [4, 4, 4, 4, 4, 4, 4, 4, 2, 2],
        [4, 4, 4, 4, 4, 4, 4, 4, 2, 2],
        [2, 2],
    ]
    assert np.load(tmp_path / shard_name(1))[:, 0].tolist() == list(range(10, 20))


@pytest.mark.parametrize(("have", "sizes"), [(3, [1, 4, 2]), (4, [4, 2]), (9, [1]), (0, [4, 4, 2])])
def test_after_the_rows_of_a_parent_slices_end_where_they_would_without_them(
    tmp_path: Path, have: int, sizes: list[int]
) -> None:
    encode_all(job_in(tmp_path / "parent", max(have, 1)), texts_of, Neighbours())
    (shard,) = unfinished(job_in(tmp_path / "child", 10, tmp_path / "parent", have), texts_of)
    assert [(start, len(texts)) for start, texts in shard.slices()] == [
        (have + sum(sizes[:place]), size) for place, size in enumerate(sizes)
    ]


def test_beside_a_shard_is_told_what_it_was_made_from(tmp_path: Path) -> None:
    encode_all(job_in(tmp_path), texts_of, Neighbours())
    assert sorted(held_in(tmp_path)) == [f"0000{number}.{end}" for number in range(3) for end in ("done", "npy")]
    assert json.loads((tmp_path / "00002.done").read_bytes()) == {
        "rows": 2,
        "sha256": hashlib.sha256((tmp_path / "00002.npy").read_bytes()).hexdigest(),
        "encoder": KEY,
        "texts": hashlib.sha256(b'["text 20", "text 21"]').hexdigest(),
    }


# -- the same bytes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 1, 2, 0, 2], [2, 1, 0]])
def test_shards_are_the_same_in_any_order_and_made_twice(tmp_path: Path, order: list[int]) -> None:
    encode_all(job_in(tmp_path / "plain"), texts_of, Neighbours())
    for number in order:
        (tmp_path / "other" / shard_name(number)).unlink(missing_ok=True)
        assert encode_all(job_in(tmp_path / "other"), texts_of, Neighbours(), numbers=[number]) == 1
    assert held_in(tmp_path / "other") == held_in(tmp_path / "plain")


@pytest.mark.parametrize("after", [0, 3, 4, 9, 10, 13, 20, 21])
def test_shards_are_the_same_when_the_encoding_is_stopped_and_goes_on(tmp_path: Path, after: int) -> None:
    encode_all(job_in(tmp_path / "plain"), texts_of, Neighbours())
    with pytest.raises(KeyboardInterrupt):
        encode_all(job_in(tmp_path / "other"), texts_of, Neighbours(after))
    rest = Neighbours()
    assert encode_all(job_in(tmp_path / "other"), texts_of, rest) == 3 - after // 10
    assert len(rest.read) == 22 - after // 10 * 10
    assert held_in(tmp_path / "other") == held_in(tmp_path / "plain")


def test_a_last_shard_that_was_shorter_when_it_was_stopped_is_the_same_in_the_end(tmp_path: Path) -> None:
    encode_all(job_in(tmp_path / "plain", 27), texts_of, Neighbours())
    for rows in (22, 25, 27):
        encode_all(job_in(tmp_path / "other", rows), texts_of, Neighbours())
    assert held_in(tmp_path / "other") == held_in(tmp_path / "plain")


def test_a_shard_is_the_same_stopped_between_itself_and_its_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_all(job_in(tmp_path), texts_of, Neighbours())
    plain = held_in(tmp_path)

    def stopped(path: Path, content: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_atomically", stopped)
        with pytest.raises(KeyboardInterrupt):
            encode_all(job_in(tmp_path, key="another"), texts_of, Neighbours())
    assert sorted({**plain, **held_in(tmp_path)}) == sorted(plain), "no scraps"
    assert not (tmp_path / "00000.done").exists(), "a marker never stands beside a shard that it does not mean"
    rest = Neighbours()
    encode_all(job_in(tmp_path), texts_of, rest)
    assert rest.read == [], "whole without a marker, or with one that fits"


# -- what is made again, and what is not ---------------------------------------------------------------------


def flipped(folder: Path) -> None:
    raw = bytearray((folder / "00001.npy").read_bytes())
    raw[-1] ^= 1
    (folder / "00001.npy").write_bytes(raw)


def cut(folder: Path) -> None:
    (folder / "00001.npy").write_bytes((folder / "00001.npy").read_bytes()[:-1])


def cut_and_unmarked(folder: Path) -> None:
    cut(folder)
    (folder / "00001.done").unlink()


def lost(folder: Path) -> None:
    (folder / "00001.npy").unlink()


def marker_of(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "00001.done").write_bytes(content)


def shorter_and_unmarked(folder: Path) -> None:
    (folder / "00001.done").unlink()
    vectors.write_shard(folder / "00001.npy", np.ones((7, 3), dtype=np.float32))


@pytest.mark.parametrize(
    "damage",
    [
        *(flipped, cut, cut_and_unmarked, lost, shorter_and_unmarked),
        *(marker_of(b""), marker_of(b"{"), marker_of(b"7"), marker_of(b"\xff")),
    ],
)
def test_a_shard_that_is_not_what_its_marker_says_is_made_again(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    encode_all(job_in(tmp_path), texts_of, Neighbours())
    plain = held_in(tmp_path)
    damage(tmp_path)
    encoder = Neighbours()
    assert encode_all(job_in(tmp_path), texts_of, encoder) == 1
    assert encoder.read == texts_of(10, 20)
    assert held_in(tmp_path) == plain


def test_shards_of_another_encoder_are_made_again(tmp_path: Path) -> None:
    encode_all(job_in(tmp_path), texts_of, Neighbours())
    assert encode_all(job_in(tmp_path, key="ba9876543210"), texts_of, Neighbours()) == 3


def test_a_shard_of_another_text_is_made_again(tmp_path: Path) -> None:
    encode_all(job_in(tmp_path), texts_of, Neighbours())

    def changed(first: int, stop: int) -> list[str]:
        return ["now 500" if text == "text 13" else text for text in texts_of(first, stop)]

    encoder = Neighbours()
    encode_all(job_in(tmp_path), changed, encoder)
    assert encoder.read == changed(10, 20)
    assert np.load(tmp_path / "00001.npy")[3].tolist() == [500, 4, 3]


def test_a_whole_shard_without_a_marker_is_left_alone_and_its_texts_are_not_read(tmp_path: Path) -> None:
    vectors.write_shard(tmp_path / shard_name(0), np.full((10, 3), 7, dtype=np.float32))
    assert encode_all(job_in(tmp_path, 10), lambda first, stop: pytest.fail("read"), Neighbours()) == 0


def test_the_rows_of_a_parent_are_taken_over_and_its_whole_shards_are_the_same_files(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    vectors.write_shard(old / shard_name(0), np.full((10, 3), 7, dtype=np.float32))
    vectors.write_shard(old / shard_name(1), np.full((3, 3), 8, dtype=np.float32))
    before, encoder, there = held_in(old), Neighbours(), 0

    def held(rows: int) -> None:
        nonlocal there
        there += rows

    job = job_in(new, 22, old, 13)
    assert sum(1 for _ in unfinished(job, texts_of, held)) == 2
    assert there == 13
    assert encode_all(job, texts_of, encoder) == 2
    assert encoder.read == texts_of(13, 22)
    assert (new / shard_name(0)).samefile(old / shard_name(0))
    assert np.load(new / shard_name(1))[:5].tolist() == [[8, 8, 8]] * 3 + [[13, 1, 0], [14, 4, 0]]
    assert held_in(old) == before
    flipped(new)
    assert encode_all(job, texts_of, encoder) == 1, "from the parent's rows again"
    assert np.load(new / shard_name(1))[:3].tolist() == [[8, 8, 8]] * 3


# -- published -----------------------------------------------------------------------------------------------


def test_markers_are_taken_and_what_they_say_is_what_sealing_would(tmp_path: Path) -> None:
    encode_all(job_in(tmp_path / VECTORS), texts_of, Neighbours())
    (tmp_path / VECTORS / "00002.done").unlink()
    marker_of(b"{")(tmp_path / VECTORS)
    assert take_markers(tmp_path) == {"vectors/00000.npy": seal_of(tmp_path / VECTORS / "00000.npy")}
    assert sorted(held_in(tmp_path / VECTORS)) == ["00000.npy", "00001.npy", "00002.npy"]
    assert take_markers(tmp_path) == {}


CHOICES = Choices(encoder="hashing", words=10, workers=1, quiet=True)


@pytest.fixture
def _ten_rows_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SHARD_ROWS", 10)
    monkeypatch.setattr(build, "Vectors", lambda folder, rows, dim: Vectors(folder, rows, dim, 10))


def source_of(folder: Path, pages: range) -> Source:
    """Three chunks of ten words each page."""
    path = folder / "pages.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for page in pages:
            text = " ".join(f"P{page}s{n} lies near the old stone bridge of our town." for n in range(3))
            file.write(json.dumps({"page_id": page, "title": f"Article {page}", "text": text}) + "\n")
    return open_source(path, "jsonl")


def shards_of(collection: Collection) -> dict[str, bytes]:
    return held_in(collection.current().path / VECTORS)


@pytest.mark.usefixtures("_ten_rows_a_shard")
def test_what_is_published_has_no_markers_and_every_seal_is_its_files(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "c")
    for last in (8, 12):
        ingest(collection, [source_of(tmp_path, range(1, last))], CHOICES)
        files = collection.current().manifest.files
        assert [name for name in files if "done" in name and VECTORS in name] == []
        assert collection.verify() == []
    assert sorted(shards_of(collection)) == ["00000.npy", "00001.npy", "00002.npy", "00003.npy"]


# -- in parts, by others -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_ten_rows_a_shard")
def test_a_prepared_ingest_is_encoded_in_parts_and_published_by_the_same_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parted = Collection(tmp_path / "whole"), Collection(tmp_path / "parted")
    for last, count in ((8, 3), (16, 5)):  # 21 rows, then 45, of which 21 are the parent's
        source = source_of(tmp_path, range(1, last))
        ingest(whole, [source], CHOICES)
        report = ingest(parted, [source], replace(CHOICES, prepare=True))
        assert (report.generation, report.prepared) == (None, 3)  # the parent has the others
        parts = [encode_part(parted, part, 2, quiet=True) for part in (1, 0)]
        assert [(part.own, part.shards) for part in parts] == [(count // 2, count), (count - count // 2, count)]
        assert sum(part.made for part in parts) == count - (2 if last == 16 else 0)
        assert encode_part(parted, 0, 1, quiet=True).made == 0
        with monkeypatch.context() as patch:
            patch.setattr(shards.Shard, "keep", lambda shard: pytest.fail(f"made shard {shard.number} again"))
            assert ingest(parted, [source], CHOICES).generation is not None
        assert shards_of(parted) == shards_of(whole)
        assert not (parted.current().path / NOTE).exists()
        assert parted.verify() == []


@pytest.mark.usefixtures("_ten_rows_a_shard")
def test_an_ingest_makes_what_is_missing_of_a_prepared_one(tmp_path: Path) -> None:
    whole, parted = Collection(tmp_path / "whole"), Collection(tmp_path / "parted")
    source = source_of(tmp_path, range(1, 8))
    ingest(whole, [source], CHOICES)
    ingest(parted, [source], replace(CHOICES, prepare=True))
    encode_part(parted, 1, 3, quiet=True)
    ingest(parted, [source], CHOICES)
    assert shards_of(parted) == shards_of(whole)


def test_nothing_is_encoded_where_nothing_is_prepared(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "c")
    with pytest.raises(LookaheadError, match=r"nothing is prepared in .*; run: lookahead ingest SOURCE -c c --prepare"):
        encode_part(collection, 0, 1)


@pytest.mark.usefixtures("_ten_rows_a_shard")
def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "home" / "collections" / "c")
    ingest(collection, [source_of(tmp_path, range(1, 8))], replace(CHOICES, prepare=True))
    command = ["--home", str(tmp_path / "home"), "encode-shards", "-c", "c", "--quiet"]
    for only, told in (
        ("1/2", "1 of 1 shards made, 0 were there; 3 in all\n"),
        ("0/1", "2 of 3 shards made, 1 were there; 3 in all\n"),
        ("5/6", "0 of 0 shards made, 0 were there; 3 in all\n"),
    ):
        done = CliRunner().invoke(main, [*command, "--only", only])
        assert (done.exit_code, done.output) == (0, told)


@pytest.mark.parametrize("only", ["3", "2/2", "-1/2", "1/0", "a/b", "1/2/3", ""])
def test_a_part_that_is_none_is_refused(tmp_path: Path, only: str) -> None:
    done = CliRunner().invoke(main, ["--home", str(tmp_path), "encode-shards", "-c", "c", f"--only={only}"])
    assert done.exit_code == 2
    assert done.output.startswith("error: --only is I/N with I from 0 to N - 1")


# -- with the encoder that comes with the program ------------------------------------------------------------


@pytest.mark.slow
def test_the_real_encoder_gives_the_same_bytes_with_one_thread_as_with_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SLICE", 128)
    folder = tmp_path / ENCODER
    build.prepare("bundled", folder, device="cpu")
    texts = [f"{row} bridges " + "carry the road over a river and " * (row % 9) + "end." for row in range(400)]
    for name, threads in (("all", None), ("one", 1), ("again", None)):
        encoder = open_encoder(folder, bulk=True, device="cpu", threads=threads)
        if threads is not None:  # another such process would be bound to the same core
            assert encoder._compiled.get_property("ENABLE_CPU_PINNING") is False  # type: ignore[attr-defined]
        job = Job(tmp_path / name, 400, encoder.dim, KEY, shard_rows=150)
        numbers = [2, 0, 1] if name == "again" else None
        encode_all(job, lambda first, stop: texts[first:stop], encoder, numbers=numbers)
    assert held_in(tmp_path / "one") == held_in(tmp_path / "all") == held_in(tmp_path / "again")
    assert read_shard(tmp_path / "one" / shard_name(0), 150, 384).any()
    shutil.rmtree(folder)
