"""A model's space: the tower's own vectors, tied to generation and tower, extended or made again, never half made."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import write_model
from tiny_pipelines import halved, write_tower_graph, write_towers

from index import build, dense, vectors
from index.build import Choices, compact, ingest
from index.dense import normalised
from index.layout import DENSE, VECTORS
from retrieval import space
from retrieval.models import TOWER, Model, ModelConfig, models_folder, seal
from retrieval.runtime import CompiledTower
from retrieval.search import Searcher
from retrieval.space import CHECKED, FACTS, Space, SpaceFacts, open_space
from store.generations import Collection, DamageWarning
from store.records import LookaheadError
from store.sources import open_source

Floats = NDArray[np.float32]
CHOICES = Choices(encoder="hashing", words=10, workers=1, quiet=True)


@pytest.fixture(scope="module", autouse=True)
def _small_shards() -> Iterator[None]:
    """Eight rows a shard, so that a few articles make many; and a graph however few rows there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SHARD_ROWS", 8)
        patch.setattr(build, "Vectors", functools.partial(vectors.Vectors, shard_rows=8))
        patch.setattr(dense, "FLAT_UP_TO", 0)
        yield


@pytest.fixture(scope="module")
def made(_small_shards: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """(a collection of twelve articles of three chunks: four shards and a half; a model with a P tower)."""
    folder = tmp_path_factory.mktemp("space")
    publish(Collection(folder / "home" / "c"), {page: text_of(page) for page in range(1, 13)})
    return folder / "home" / "c", model_in(write_towers(folder / "towers"))


@pytest.fixture
def collection(made: tuple[Path, Model], tmp_path: Path) -> Collection:
    return Collection(shutil.copytree(made[0], tmp_path / "home" / "collections" / "c"))


@pytest.fixture(scope="module")
def spaced(made: tuple[Path, Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That collection with its space made."""
    path = Path(shutil.copytree(made[0], tmp_path_factory.mktemp("spaced") / "home" / "collections" / "c"))
    opened(Collection(path), made[1])
    return path


@pytest.fixture
def with_space(spaced: Path, tmp_path: Path) -> Collection:
    return Collection(shutil.copytree(spaced, tmp_path / "home" / "collections" / "c"))


@pytest.fixture(scope="module")
def outgrown(spaced: Path, made: tuple[Path, Model], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(that collection when it has grown beyond its space; what is to become of the space)"""
    folder = tmp_path_factory.mktemp("outgrown")
    collection = Collection(shutil.copytree(spaced, folder / "home" / "collections" / "c"))
    more(collection)
    opened(collection, made[1], folder / "elsewhere")
    return collection.path, folder / "elsewhere" / "towers"


@pytest.fixture
def model(made: tuple[Path, Model]) -> Model:
    return made[1]


def text_of(page: int, version: int = 0) -> str:
    """Three sentences of ten words, each of them a chunk."""
    return " ".join(f"P{page}v{version}s{n} lies near the {n} old stone bridge {page}." for n in range(3))


def publish(collection: Collection, pages: Mapping[int, str]) -> None:
    collection.path.parent.mkdir(parents=True, exist_ok=True)
    path = collection.path.parent / "pages.jsonl"
    rows = ({"page_id": page, "title": f"Article {page}", "text": text} for page, text in pages.items())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ingest(collection, [open_source(path, "jsonl")], CHOICES)


def model_in(folder: Path) -> Model:
    return Model(folder.name, folder, ModelConfig.read(folder), shipped=True)


def opened(collection: Collection, model: Model, folder: Path | None = None) -> Space:
    with Searcher.open(collection) as searcher:
        return open_space(searcher, model, CompiledTower.open(model.folder), quiet=False, folder=folder)


def place_of(collection: Collection) -> Path:
    return models_folder(collection) / "spaces" / "towers"


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / VECTORS).iterdir())}


def expected(collection: Collection) -> Floats:
    """What the tower makes of each chunk, one after another."""
    with Searcher.open(collection) as searcher:
        rows = normalised(searcher.vectors.between(0, len(searcher.vectors)))
    return normalised(rows @ halved(rows.shape[1]))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were put through the tower each time."""
    counts: list[int] = []
    through = space._through

    def watched(tower: CompiledTower, rows: Floats) -> Floats:
        counts.append(len(rows))
        return through(tower, rows)

    monkeypatch.setattr(space, "_through", watched)
    return counts


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each index made of a space was grown from an earlier one."""
    told: list[bool] = []
    make = dense.build

    def watched(*arguments: object, **options: object) -> object:
        if ".making-" in str(arguments[1]):
            told.append(options["grown_from"] is not None)
        return make(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(dense, "build", watched)
    return told


# -- what it holds ---------------------------------------------------------------------------------------------------


def test_a_row_is_what_the_tower_makes_of_the_chunk_of_that_id(
    collection: Collection, model: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    made = opened(collection, model)
    rows = expected(collection)
    assert (len(made.vectors), made.vectors.dim, made.vectors.shard_rows) == (36, 128, 8)
    assert made.vectors.between(0, 36) == pytest.approx(rows, abs=1e-3)
    assert not np.allclose(rows, np.roll(rows, 1, axis=0), atol=0.1)  # another order would not have passed
    for hits, chunk_id in zip(made.dense.search_many(rows, 1), range(36), strict=True):
        assert [hit.chunk_id for hit in hits] == [chunk_id]
        assert hits[0].score == pytest.approx(1.0, abs=2e-3)
    assert made.facts.dense.probes == 24  # every place in an article that has a context
    assert sorted(path.name for path in place_of(collection).parent.iterdir() if path.is_dir()) == ["towers"]
    assert "building the space of model towers for c, 36 chunks: there is none yet\n" in capfd.readouterr().err


def test_a_space_that_fits_is_opened_and_nothing_is_computed(
    collection: Collection, model: Model, computed: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    first = opened(collection, model)
    before = {path: path.stat().st_mtime_ns for path in place_of(collection).rglob("*") if path.is_file()}
    capfd.readouterr()
    computed.clear()
    again = opened(collection, model)
    assert computed == []
    assert again.facts == first.facts
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert capfd.readouterr().err == ""


def test_the_tower_is_given_vectors_of_length_one_and_always_as_many_at_once() -> None:
    """A row's last bits must not depend on how many rows its shard has."""
    given: list[Floats] = []

    class Tower:
        def passages(self, vectors: Floats) -> Floats:
            given.append(vectors)
            return -vectors

    rows = np.zeros((1_500, 4), dtype=np.float32)
    rows[:, 1] = 3
    told = space._through(Tower(), rows)  # type: ignore[arg-type]
    assert [one.shape for one in given] == [(1_024, 4), (1_024, 4)]
    assert told.tolist() == [[0, -1, 0, 0]] * 1_500
    assert not given[1][476:].any()


def test_a_space_may_be_kept_elsewhere(collection: Collection, model: Model, tmp_path: Path) -> None:
    opened(collection, model, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "towers" / FACTS).is_file()
    assert not place_of(collection).exists()


def test_a_collection_of_single_chunks_has_a_space_too(tmp_path: Path, model: Model) -> None:
    collection = Collection(tmp_path / "home" / "collections" / "c")
    publish(collection, {page: f"Page number {page} has these ten words and not one more." for page in range(1, 10)})
    made = opened(collection, model)
    assert made.facts.dense.probes == 9
    assert made.facts.dense.recall == 1.0


# -- extended or made again ------------------------------------------------------------------------------------------


def more(collection: Collection) -> None:
    """Two articles new, one changed: the dead rows stay, and the rows of before are the first of the new ones."""
    publish(collection, {13: text_of(13), 14: text_of(14), 3: text_of(3, 1)})


def test_an_extension_is_bit_for_bit_what_a_rebuild_would_be(
    collection: Collection,
    model: Model,
    tmp_path: Path,
    computed: list[int],
    grown: list[bool],
    capfd: pytest.CaptureFixture[str],
) -> None:
    opened(collection, model)
    before = place_of(collection)
    old = {path.name: path.stat().st_ino for path in (before / VECTORS).iterdir()}
    more(collection)
    capfd.readouterr()
    computed.clear()
    extended = opened(collection, model)
    assert computed == [8, 5]  # the half-filled shard, which now is full, and a new one
    assert grown == [False, True]
    assert "extending the space of model towers for c, 45 chunks: the one there is of gen-000001, and gen-000002" in (
        capfd.readouterr().err
    )
    now = {path.name: path.stat().st_ino for path in (before / VECTORS).iterdir()}
    assert sorted(name for name in old if now[name] == old[name]) == [f"0000{number}.npy" for number in range(4)]
    rebuilt = opened(collection, model, tmp_path / "elsewhere")
    assert grown == [False, True, False]
    assert shards(before) == shards(tmp_path / "elsewhere" / "towers")
    assert extended.facts.origin == rebuilt.facts.origin
    rows = expected(collection)
    assert [hits[0].chunk_id for hits in extended.dense.search_many(rows, 1)] == list(range(45))


def test_the_old_space_goes_on_answering_when_another_takes_its_place(collection: Collection, model: Model) -> None:
    old = opened(collection, model)
    before = expected(collection)
    more(collection)
    opened(collection, model)
    assert old.vectors.between(0, 36) == pytest.approx(before, abs=1e-3)
    assert [hits[0].chunk_id for hits in old.dense.search_many(before, 1)] == list(range(36))


def test_after_a_compaction_the_rows_are_others_and_the_index_does_not_grow_from_them(
    collection: Collection, model: Model, grown: list[bool]
) -> None:
    publish(collection, {1: text_of(1, 1)})  # rows 0 to 2 die, and 36 to 38 are new
    opened(collection, model)
    compact(collection, quiet=True)
    made = opened(collection, model)
    assert grown == [False, False]
    assert made.vectors.between(0, 36) == pytest.approx(expected(collection), abs=1e-3)
    assert [hits[0].chunk_id for hits in made.dense.search_many(expected(collection), 1)] == list(range(36))


def test_a_last_shard_of_other_rows_is_noticed_by_the_rows_themselves(
    collection: Collection, model: Model, grown: list[bool], tmp_path: Path
) -> None:
    """Full shards alike, the last one changed and longer: a collection made anew, say."""
    opened(collection, model)
    shutil.rmtree(collection.path / "gen-000001")
    (collection.path / "CURRENT").unlink()
    pages = {page: text_of(page) for page in range(1, 12)} | {12: text_of(12, 7), 13: text_of(13), 14: text_of(14)}
    publish(collection, pages)
    made = opened(collection, model)
    assert grown == [False, False]
    assert made.vectors.between(0, 42) == pytest.approx(expected(collection), abs=1e-3)


def test_another_tower_makes_another_space(
    collection: Collection, tmp_path: Path, computed: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    model = model_in(write_towers(tmp_path / "towers"))
    opened(collection, model)
    capfd.readouterr()
    computed.clear()
    write_tower_graph(model.folder / TOWER, np.eye(128, dtype=np.float32))
    replace(ModelConfig.read(model.folder), seals=seal(model.folder)).write(model.folder)
    made = opened(collection, model_in(model.folder))
    assert computed == [8, 8, 8, 8, 4]
    assert "building the space of model towers for c, 36 chunks: the one there is of another P tower" in (
        capfd.readouterr().err
    )
    with Searcher.open(collection) as searcher:
        assert made.vectors.between(0, 36) == pytest.approx(normalised(searcher.vectors.between(0, 36)), abs=1e-3)


def test_after_a_roll_back_the_space_is_that_of_the_older_generation(collection: Collection, model: Model) -> None:
    first = opened(collection, model).facts.origin
    more(collection)
    assert opened(collection, model).facts.origin != first
    collection.roll_back()
    assert opened(collection, model).facts.origin == first


# -- damage and falls ------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", [f"{VECTORS}/00002.npy", DENSE, FACTS])
def test_a_damaged_file_is_found_and_the_space_made_again(
    with_space: Collection, model: Model, name: str, harm: Callable[[Path], None], computed: list[int]
) -> None:
    collection = with_space
    sound = opened(collection, model)
    before = shards(place_of(collection))
    computed.clear()
    harm(place_of(collection) / name)
    with pytest.warns(DamageWarning, match=rf"space .*towers is damaged \({re.escape(name)}: .* is made again"):
        again = opened(collection, model)
    assert computed == [8, 8, 8, 8, 4]  # nothing of a damaged space is taken over
    assert again.facts == sound.facts
    assert shards(place_of(collection)) == before
    assert opened(collection, model).facts == sound.facts


def test_facts_with_a_number_changed_are_not_believed(collection: Collection, model: Model) -> None:
    opened(collection, model)
    path = place_of(collection) / FACTS
    raw = json.loads(path.read_bytes())
    raw["dense"]["breadth"] += 100
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="its own checksum does not match"):
        SpaceFacts.load(path.read_bytes())
    with pytest.warns(DamageWarning, match="own checksum"):
        opened(collection, model)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"self": 1}', b"\xff", b"[" * 100_000])
def test_what_is_no_json_of_a_space_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        SpaceFacts.load(raw)


def test_a_lost_note_of_what_was_checked_costs_a_reading_and_no_more(
    collection: Collection, model: Model, computed: list[int]
) -> None:
    opened(collection, model)
    computed.clear()
    (place_of(collection) / CHECKED).write_text("[1")
    opened(collection, model)
    assert computed == []
    assert set(json.loads((place_of(collection) / CHECKED).read_bytes())) == set(
        [f"{VECTORS}/0000{number}.npy" for number in range(5)] + [DENSE]
    )


class Fallen(BaseException):
    """A kill, as far as a program can tell."""


@pytest.mark.parametrize("step", ["first shard", "last shard", "index", "seal", "between the renames"])
def test_a_build_that_stops_anywhere_leaves_the_old_space_and_the_next_one_is_whole(
    outgrown: tuple[Path, Path], model: Model, monkeypatch: pytest.MonkeyPatch, step: str, tmp_path: Path
) -> None:
    made, expected = outgrown
    collection = Collection(shutil.copytree(made, tmp_path / "home" / "collections" / "c"))
    old = SpaceFacts.load((place_of(collection) / FACTS).read_bytes())
    before = shards(place_of(collection))

    def falling(call: Callable[..., object], at: int) -> Callable[..., object]:
        calls = 0

        def fall(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Fallen
            return call(*arguments, **options)

        return fall

    with monkeypatch.context() as patch:
        if step in ("first shard", "last shard"):
            patch.setattr(space, "write_shard", falling(vectors.write_shard, 1 if step == "first shard" else 2))
        elif step == "index":
            patch.setattr(dense, "build", falling(dense.build, 1))
        elif step == "seal":
            patch.setattr(space, "_seal", falling(space._seal, 1))
        else:
            rename = os.rename

            def half(source: Path, target: Path) -> None:
                if Path(source).name.startswith(".making"):
                    raise Fallen
                rename(source, target)

            patch.setattr(os, "rename", half)
        with pytest.raises(Fallen):
            opened(collection, model)
    place = place_of(collection)
    if step == "between the renames":  # it is put back when the next one is made
        place = place.with_name(".before-towers")
    assert SpaceFacts.load((place / FACTS).read_bytes()) == old
    assert shards(place) == before
    whole = opened(collection, model)
    assert whole.facts.origin.generation == "gen-000002"
    assert shards(place_of(collection)) == shards(expected)
    assert sorted(path.name for path in place_of(collection).parent.iterdir() if path.is_dir()) == ["towers"]


def test_of_two_at_once_the_second_waits_and_finds_what_the_first_has_made(
    collection: Collection, model: Model, computed: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    second: list[Space] = []
    thread = Thread(target=lambda: second.append(opened(collection, model)))
    with space._turn(place_of(collection), quiet=True):
        thread.start()
        thread.join(1.0)
        assert thread.is_alive()
        assert "another process is making" in capfd.readouterr().err
        with Searcher.open(collection) as searcher:
            origin = space._origin(searcher, model)
            tower = CompiledTower.open(model.folder)
            space._made(place_of(collection), origin, searcher, model, tower, True)
        computed.clear()
    thread.join(30)
    assert [one.facts.origin for one in second] == [origin]
    assert computed == []


def test_where_nothing_can_be_written_one_line_says_what_to_type(collection: Collection, model: Model) -> None:
    models_folder(collection).mkdir()
    (models_folder(collection) / "spaces").write_text("in the way")
    with pytest.raises(LookaheadError, match=r"cannot write .*spaces/towers: .*or type --model ") as told:
        opened(collection, model)
    assert "\n" not in str(told.value)
    write_model(models_folder(collection) / "plain")
    with pytest.raises(LookaheadError, match=r"or type --model plain, which needs none"):
        opened(collection, model)
