"""Going back, going away, and who may be at a folder at once: what holds wherever a collection's parts are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from index import upkeep
from index.build import Choices, ingest
from store.generations import Collection, Fault, Generation
from store.records import LookaheadError, Unreachable
from store.remotes import remember
from store.sources import Source, open_source

CHOICES = Choices(encoder="hashing", words=10, workers=1, quiet=True)


def source_of(path: Path, pages: int) -> Source:
    text = "The old stone bridge carries a road over the river into our town."
    rows = ({"page_id": page, "title": f"Article {page}", "text": f"{text} {page}."} for page in range(1, pages + 1))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return open_source(path, "jsonl")


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Of two generations."""
    made = Collection(tmp_path / "home" / "collections" / "c")
    for pages in (1, 2):
        ingest(made, [source_of(tmp_path / "a.jsonl", pages)], CHOICES)
    return made


def run(collection: Collection, *typed: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["--home", str(collection.path.parent.parent), *typed])
    return result.exit_code, result.output


def test_nobody_goes_back_to_what_a_server_has_lost(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def faults(generation: Generation) -> list[Fault]:
        asked.append(generation.manifest.number)
        return [Fault(generation.manifest.name, "index", "is gone")]

    monkeypatch.setattr(upkeep, "remote_faults", faults)
    with pytest.raises(LookaheadError, match=r"c/gen-000001 cannot be served \(index: is gone\)"):
        upkeep.roll_back(collection)
    assert asked == [1]
    assert collection.current().manifest.number == 2  # nothing was removed


def test_helpers_and_a_writer_keep_each_other_out_and_helpers_do_not(collection: Collection) -> None:
    refused = pytest.raises(LookaheadError, match="is being written by")
    with collection.helping(), collection.helping(), refused, collection.writing():
        pass
    with collection.writing(), pytest.raises(LookaheadError, match="is being written by"), collection.helping():
        pass
    with collection.writing():
        pass


def test_a_store_other_than_the_collections_own_is_refused(collection: Collection, tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="needs lookahead[postgres]")
    elsewhere = Choices(store="postgresql://me@here/wiki", workers=1, quiet=True)
    with pytest.raises(LookaheadError, match=r"has its --store at duckdb, not .*lookahead compact -c c --store"):
        ingest(collection, [source_of(tmp_path / "a.jsonl", 3)], elsewhere)
    same = Choices(store="duckdb", index="faiss", workers=1, quiet=True)
    assert ingest(collection, [source_of(tmp_path / "a.jsonl", 3)], same).added == 1


def test_what_was_never_published_may_be_dropped_too(collection: Collection, tmp_path: Path) -> None:
    unfinished = Collection(collection.path.with_name("u"))
    ingest(
        unfinished,
        [source_of(tmp_path / "a.jsonl", 1)],
        Choices(encoder="hashing", workers=1, prepare=True, quiet=True),
    )
    assert run(unfinished, "drop", "-c", "u", "--yes") == (0, "removed u\n")
    assert not unfinished.path.exists()
    code, told = run(unfinished, "drop", "-c", "u", "--yes")
    assert (code, 'there is no collection "u"' in told) == (2, True)


def test_a_collection_goes_without_its_servers_only_when_that_is_said(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(spec: str) -> None:
        raise Unreachable(f"{spec} does not answer")

    remember(collection.path, index="milvus://there:19530")
    monkeypatch.setattr(upkeep, "open_engine", away)
    code, told = run(collection, "drop", "-c", "c", "--yes")
    assert (code, "milvus://there:19530 does not answer; or leave what is there" in told) == (2, True)
    assert collection.current().manifest.number == 2
    assert run(collection, "drop", "-c", "c", "--yes", "--leave-servers") == (0, "removed c\n")
