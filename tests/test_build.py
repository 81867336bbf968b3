"""The pipeline: what it adds, replaces and removes, what it keeps from before, and how it goes on after a fall."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index import build, dense, lexical, shards, vectors
from index.build import Choices, compact, ingest
from index.hashing import HashingEncoder
from index.layout import DENSE, LEXICAL, VECTORS
from index.local import Files
from retrieval.search import Mode, Searcher
from store.chunking import Prefix
from store.database import Store
from store.generations import Collection, DamageWarning, Generation
from store.places import DATABASE
from store.records import LookaheadError
from store.sources import Source, open_source

Pages = Mapping[int, str]

CHOICES = Choices(encoder="hashing", words=10, workers=1, quiet=True)
COMPLETE = Choices(encoder="hashing", words=10, workers=1, quiet=True, delete_missing=True)
KEPT = Choices(workers=1, quiet=True)


def text_of(page: int, version: int = 0, sentences: int = 3) -> str:
    """Sentences of ten words, each of them a chunk, each with a word of its own: `p7v0s2`."""
    return " ".join(f"P{page}v{version}s{n} lies near the old stone bridge of our town." for n in range(sentences))


def pages_of(*numbers: int, version: int = 0) -> dict[int, str]:
    return {page: text_of(page, version) for page in numbers}


def source_of(path: Path, pages: Pages) -> Source:
    rows = ({"page_id": page, "title": f"Article {page}", "text": text} for page, text in pages.items())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return open_source(path, "jsonl")


def numbers(collection: Collection) -> list[str]:
    return sorted(path.name for path in collection.path.glob("gen-*"))


def live_texts(generation: Generation) -> dict[int, str]:
    """page id → its chunks, joined."""
    with Store.open(generation.path / DATABASE) as store:
        texts = [text for _, _, text in store.texts(0, store.counts().chunks)]
        return {row.page_id: " ".join(texts[row.first_chunk :][: row.chunk_count]) for row in store.articles()}


def found(collection: Collection, query: str, mode: Mode, k: int = 5) -> list[str]:
    with Searcher.open(collection) as searcher:
        return [passage.chunk.text for passage in searcher.search(query, k, mode=mode)]


def everything(collection: Collection) -> dict[str, Any]:
    """All that two builds of the same articles must have in common."""
    generation = collection.current()
    with Searcher.open(collection) as searcher:
        store = searcher.store
        assert store.faults() == []
        rows = [(row.page_id, row.title, row.first_chunk, row.chunk_count) for row in store.articles()]
        texts = store.texts(0, store.counts().chunks)
        dead = store.dead_ids().tolist()
        answers = [
            [(one.chunk.chunk_id, round(one.score, 5)) for one in searcher.search(query, 4, mode=mode)]
            for query in ("P3v0s1", "old stone bridge P7v0s0", "nothing of this")
            for mode in Mode
        ]
    shards = {path.name: path.read_bytes() for path in sorted((generation.path / VECTORS).iterdir())}
    counts = generation.manifest.counts
    return {"rows": rows, "texts": texts, "dead": dead, "answers": answers, "shards": shards, "counts": counts}


class CountingEncoder(HashingEncoder):
    """Remembers which documents it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def encode(self, texts: Any) -> Any:
        self.read.extend(texts)
        return super().encode(texts)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the encoder read while vectors were made; the sample read again by the check is left out."""
    read: list[str] = []
    make = build.encode_shards

    def watched(one: Any, store: Any, encoder: Any, *more: Any) -> None:
        counter = CountingEncoder()
        make(one, store, counter, *more)
        read.extend(counter.read)

    monkeypatch.setattr(build, "encode_shards", watched)
    return read


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows a shard, so that a few articles make many."""
    monkeypatch.setattr(build, "SHARD_ROWS", 4)
    monkeypatch.setattr(build, "Vectors", functools.partial(vectors.Vectors, shard_rows=4))


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(tmp_path / "home" / "collections" / "c")


# -- what an ingest does -------------------------------------------------------------------------------------


def test_a_first_ingest_publishes_every_article_in_the_order_of_the_source(
    collection: Collection, tmp_path: Path
) -> None:
    pages = pages_of(5, 2, 9)
    report = ingest(collection, [source_of(tmp_path / "a.jsonl", pages)], CHOICES)
    assert (report.added, report.replaced, report.removed, report.unchanged, report.failed) == (3, 0, 0, 0, 0)
    generation = collection.current()
    assert generation == report.generation
    assert generation.manifest.counts == {"articles": 3, "chunks": 9, "live": 9}
    assert live_texts(generation) == pages
    with Store.open(generation.path / DATABASE) as store:
        assert [(row.page_id, row.first_chunk) for row in store.articles()] == [(5, 0), (2, 3), (9, 6)]


def test_the_vector_of_a_row_is_that_of_its_text(collection: Collection, tmp_path: Path) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2))], CHOICES)
    with Searcher.open(collection) as searcher:
        texts = [text for _, _, text in searcher.store.texts(0, 6)]
        expected = HashingEncoder().encode(texts).astype(np.float16)
        assert searcher.vectors.between(0, 6).astype(np.float16).tobytes() == expected.tobytes()


def test_a_quiet_ingest_says_nothing_and_a_loud_one_publishes_the_same(
    collection: Collection, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3))
    ingest(collection, [source], CHOICES)
    assert capfd.readouterr() == ("", "")
    loud = Collection(collection.path.with_name("loud"))
    ingest(loud, [source], Choices(encoder="hashing", words=10, workers=1))
    assert capfd.readouterr().out == ""
    assert everything(loud) == everything(collection)


def test_a_second_ingest_of_the_same_source_adds_nothing_and_publishes_nothing(
    collection: Collection, tmp_path: Path
) -> None:
    source = source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3))
    ingest(collection, [source], CHOICES)
    before = sorted((path, path.stat().st_mtime_ns) for path in collection.current().path.rglob("*"))
    report = ingest(collection, [source], KEPT)
    assert report.generation is None
    assert (report.added, report.replaced, report.removed, report.unchanged) == (0, 0, 0, 3)
    assert sorted((path, path.stat().st_mtime_ns) for path in collection.current().path.rglob("*")) == before
    assert sorted(path.name for path in collection.path.iterdir()) == [".checked.json", "CURRENT", "LOCK", "gen-000001"]


def test_a_page_already_there_is_not_cleaned_again(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3))], CHOICES)
    cleaned: list[int] = []
    cleaning = build.articles

    def watched(pages: Any, *, workers: int) -> Iterator[Any]:
        for item in cleaning(pages, workers=workers):
            cleaned.append(item[0].page_id)
            yield item

    monkeypatch.setattr(build, "articles", watched)
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3, 4))], KEPT)
    assert cleaned == [4]


def test_a_changed_article_replaces_its_old_chunks_in_every_mode(collection: Collection, tmp_path: Path) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3))], CHOICES)
    for mode in Mode:
        assert found(collection, "P2v0s1", mode)[0].startswith("P2v0s1")
    changed = {1: text_of(1), 2: text_of(2, 1), 3: text_of(3)}
    report = ingest(collection, [source_of(tmp_path / "a.jsonl", changed)], KEPT)
    assert (report.added, report.replaced, report.removed, report.unchanged) == (0, 1, 0, 2)
    assert collection.current().manifest.counts == {"articles": 3, "chunks": 12, "live": 9}
    assert live_texts(collection.current()) == changed
    for mode in Mode:
        everywhere = found(collection, "P2v0s1 old stone bridge", mode, 50)
        assert len(everywhere) == 9
        assert not any("P2v0" in text for text in everywhere)
        assert found(collection, "P2v1s1", mode)[0].startswith("P2v1s1")


def test_what_is_gone_from_a_source_stays_unless_asked_to_go(collection: Collection, tmp_path: Path) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3))], CHOICES)
    shorter = source_of(tmp_path / "a.jsonl", pages_of(1, 3))
    assert ingest(collection, [shorter], KEPT).generation is None
    report = ingest(collection, [shorter], COMPLETE)
    assert (report.added, report.replaced, report.removed, report.unchanged) == (0, 0, 1, 2)
    assert live_texts(collection.current()) == pages_of(1, 3)
    assert not any("P2v0" in text for mode in Mode for text in found(collection, "P2v0s1 bridge", mode, 50))


@pytest.mark.parametrize(
    ("line", "reason"),
    [(b"{not json}\n", "bad json"), (b'{"page_id": "x", "title": "T", "text": "t"}\n', "bad page_id")],
)
def test_nothing_is_deleted_when_a_page_of_unknown_id_could_not_be_read(
    collection: Collection, tmp_path: Path, line: bytes, reason: str
) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3))], CHOICES)
    source = source_of(tmp_path / "a.jsonl", pages_of(1, 4))
    source.path.write_bytes(source.path.read_bytes() + line)
    report = ingest(collection, [source], COMPLETE)
    assert (report.added, report.removed, report.failed) == (1, 0, 1)
    assert report.skipped == {reason: 1}
    assert live_texts(collection.current()) == pages_of(1, 2, 3, 4)


def test_nothing_is_deleted_when_a_source_ends_too_soon(collection: Collection, tmp_path: Path) -> None:
    import gzip

    source_of(tmp_path / "a.jsonl", pages_of(*range(1, 40)))
    whole = gzip.compress((tmp_path / "a.jsonl").read_bytes(), mtime=0)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(whole)
    ingest(collection, [open_source(packed, "jsonl")], CHOICES)
    packed.write_bytes(whole[: len(whole) - 30])
    report = ingest(collection, [open_source(packed, "jsonl")], COMPLETE)
    assert report.generation is None
    assert (report.removed, report.unchanged, report.failed) == (0, 39, 1)


def test_a_page_that_fails_is_not_taken_for_one_that_is_gone(collection: Collection, tmp_path: Path) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2))], CHOICES)
    source = source_of(tmp_path / "a.jsonl", pages_of(1))
    with source.path.open("a") as file:
        file.write('{"page_id": 2, "title": "Article 2", "text": 5}\n')
    report = ingest(collection, [source], COMPLETE)
    assert (report.generation, report.unchanged, report.failed) == (None, 2, 1)


@pytest.mark.parametrize("text", ["Too short.", "It may refer to:\nA hill\nA river\nA town of some size near the sea"])
def test_a_page_that_is_no_article_any_more_goes_with_those_that_are_gone(
    collection: Collection, tmp_path: Path, text: str
) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2))], CHOICES)
    report = ingest(collection, [source_of(tmp_path / "a.jsonl", {1: text_of(1), 2: text})], COMPLETE)
    assert (report.removed, report.unchanged) == (1, 1)
    assert live_texts(collection.current()) == pages_of(1)


def test_a_page_that_moves_from_one_source_to_the_next_is_not_lost(collection: Collection, tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    ingest(collection, [source_of(a, pages_of(1, 2)), source_of(b, pages_of(3))], CHOICES)
    ingest(collection, [source_of(a, pages_of(1)), source_of(b, pages_of(2, 3))], COMPLETE)
    assert live_texts(collection.current()) == pages_of(1, 2, 3)


def test_two_sources_are_one_collection_and_deleting_looks_at_one_alone(collection: Collection, tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    report = ingest(collection, [source_of(a, pages_of(1, 2)), source_of(b, pages_of(3, 4))], CHOICES)
    assert report.added == 4
    facts = collection.current().manifest.facts
    assert facts["sources"] == [f"jsonl:{a}", f"jsonl:{b}"]
    ingest(collection, [source_of(b, pages_of(4))], COMPLETE)
    assert live_texts(collection.current()) == pages_of(1, 2, 4)
    assert collection.current().manifest.facts["sources"] == [f"jsonl:{a}", f"jsonl:{b}"]


def test_the_same_page_twice_in_a_source_counts_once_and_is_counted(collection: Collection, tmp_path: Path) -> None:
    source = source_of(tmp_path / "a.jsonl", pages_of(1, 2))
    with source.path.open("a") as file:
        file.write(json.dumps({"page_id": 1, "title": "Another", "text": text_of(1, 9)}) + "\n")
    report = ingest(collection, [source], CHOICES)
    assert (report.added, report.skipped, report.failed) == (2, {"duplicate page id": 1}, 0)
    assert live_texts(collection.current()) == pages_of(1, 2)
    assert ingest(collection, [source], KEPT).generation is None


def test_two_sources_that_disagree_about_a_page_settle_it_the_same_way_each_time(
    collection: Collection, tmp_path: Path
) -> None:
    sources = [source_of(tmp_path / "a.jsonl", pages_of(1)), source_of(tmp_path / "b.jsonl", pages_of(1, version=1))]
    ingest(collection, sources, CHOICES)
    assert live_texts(collection.current()) == pages_of(1, version=1)
    assert ingest(collection, sources, KEPT).generation is None


# -- options and refusals ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Collection, Source]:
    """A collection that nothing is added to, and its source."""
    folder = tmp_path_factory.mktemp("one-page")
    collection, source = Collection(folder / "c"), source_of(folder / "a.jsonl", pages_of(1))
    ingest(collection, [source], CHOICES)
    return collection, source


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (Choices(encoder="bundled"), "made with --encoder hashing, not bundled"),
        (Choices(words=80), "made with --chunk-words 10, not 80"),
        (Choices(overlap=5), "made with --overlap 0, not 5"),
        (Choices(prefix=Prefix.TITLE), "made with --prefix none, not title"),
        (Choices(language="de"), "made with --language en, not de"),
    ],
)
def test_an_option_that_contradicts_the_collection_is_refused_in_one_line(
    one_page: tuple[Collection, Source], choices: Choices, said: str
) -> None:
    collection, source = one_page
    with pytest.raises(LookaheadError, match=said) as caught:
        ingest(collection, [source], choices)
    assert "\n" not in str(caught.value)
    assert numbers(collection) == ["gen-000001"]


def test_the_options_of_a_collection_are_kept_when_they_are_not_repeated(
    collection: Collection, tmp_path: Path
) -> None:
    made = Choices(encoder="hashing", words=20, overlap=10, prefix=Prefix.BOTH, language="de", workers=1, quiet=True)
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1))], made)
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2))], KEPT)
    facts = collection.current().manifest.facts
    assert facts["chunking"] == {"words": 20, "overlap": 10, "prefix": "title-section", "language": "de"}
    assert (facts["encoder"]["spec"], facts["lexical"]) == ("hashing", {"language": "de"})


def test_a_source_without_one_article_is_an_error_and_publishes_nothing(collection: Collection, tmp_path: Path) -> None:
    source = source_of(tmp_path / "a.jsonl", {1: "Too short.", 2: "Likewise.", 3: "So is this."})
    with pytest.raises(LookaheadError, match="nothing to ingest: 3 empty"):
        ingest(collection, [source], CHOICES)
    assert not collection.exists()
    assert list(collection.path.glob("build-*")) == []


def test_when_every_article_is_gone_a_search_finds_nothing_and_the_collection_can_grow_again(
    collection: Collection, tmp_path: Path
) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2))], CHOICES)
    ingest(collection, [source_of(tmp_path / "a.jsonl", {7: "Too short."})], COMPLETE)
    assert collection.current().manifest.counts == {"articles": 0, "chunks": 6, "live": 0}
    assert [found(collection, "stone bridge", mode) for mode in Mode] == [[], [], []]
    assert compact(collection, quiet=True).manifest.counts == {"articles": 0, "chunks": 0, "live": 0}
    assert [found(collection, "stone bridge", mode) for mode in Mode] == [[], [], []]
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(3))], KEPT)
    assert live_texts(collection.current()) == pages_of(3)


def test_pages_that_fail_are_in_the_quarantine_with_their_reasons(collection: Collection, tmp_path: Path) -> None:
    source = source_of(tmp_path / "a.jsonl", pages_of(1))
    with source.path.open("a") as file:
        file.write('{"page_id": 2, "title": "Two", "text": 5}\n{"page_id": 3, "title": "Three"\n')
        file.write('{"page_id": 4, "title": "Four", "text": "Too short."}\n')
    report = ingest(collection, [source], CHOICES)
    assert (report.failed, report.skipped) == (2, {"bad text": 1, "bad json": 1, "empty": 1})
    assert report.quarantine == collection.path / "quarantine.jsonl"
    rows = [json.loads(line) for line in report.quarantine.read_text().splitlines()]
    assert [(row["page_id"], row["title"], row["reason"]) for row in rows] == [
        (2, "Two", "bad text"),
        (None, "a.jsonl line 3", "bad json"),
    ]
    assert all(row["detail"] for row in rows)
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1))], KEPT)
    assert not report.quarantine.exists(), "nothing fails any more, so nothing is in quarantine"


def test_a_second_writer_is_refused_and_told_who_is_at_work(collection: Collection, tmp_path: Path) -> None:
    source = source_of(tmp_path / "a.jsonl", pages_of(1))
    with collection.writing(), pytest.raises(LookaheadError, match=f"is being written by pid {os.getpid()} on "):
        ingest(collection, [source], CHOICES)
    assert ingest(collection, [source], CHOICES).added == 1


def test_a_generation_that_contradicts_itself_is_not_published(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1))], CHOICES)
    make = build.encode_shards

    def wrong(one: Any, store: Any, encoder: Any, *more: Any) -> None:
        make(one, store, _Shuffled(), *more)

    monkeypatch.setattr(build, "encode_shards", wrong)
    with pytest.raises(LookaheadError, match=r"not published: the vector of chunk \d+ is not its text's"):
        ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3))], KEPT)
    assert numbers(collection) == ["gen-000001"]
    assert live_texts(collection.current()) == pages_of(1)


class _Shuffled(HashingEncoder):
    def encode(self, texts: Any) -> Any:
        return super().encode([f"other{place}" for place, _ in enumerate(texts)])


# -- what is kept from the generation before ---------------------------------------------------------------------


def test_old_rows_are_not_encoded_again(collection: Collection, tmp_path: Path, counting: list[str]) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2))], CHOICES)
    assert len(counting) == 6
    counting.clear()
    ingest(collection, [source_of(tmp_path / "a.jsonl", {**pages_of(1, 2), 3: text_of(3, sentences=2)})], KEPT)
    assert [text.split()[0] for text in counting] == ["P3v0s0", "P3v0s1"]


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_is_full_is_the_same_file_in_the_next_generation(
    collection: Collection, tmp_path: Path, counting: list[str]
) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3))], CHOICES)  # 9 rows: 4 + 4 + 1
    old = collection.current().path
    assert sorted(path.name for path in (old / VECTORS).iterdir()) == ["00000.npy", "00001.npy", "00002.npy"]
    before = {path.name: path.read_bytes() for path in (old / VECTORS).iterdir()}
    counting.clear()
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3, 4))], KEPT)  # 12 rows: 4 + 4 + 4
    new = collection.current().path
    assert len(counting) == 3
    assert [
        (old / VECTORS / name).samefile(new / VECTORS / name) for name in ("00000.npy", "00001.npy", "00002.npy")
    ] == [True, True, False]
    assert {path.name: path.read_bytes() for path in (old / VECTORS).iterdir()} == before
    assert np.array_equal(np.load(new / VECTORS / "00002.npy")[:1], np.load(old / VECTORS / "00002.npy"))
    assert (old / "encoder" / "encoder.json").samefile(new / "encoder" / "encoder.json")
    assert collection.verify() == []


@pytest.mark.usefixtures("small_shards")
def test_many_small_shards_answer_like_one_large(collection: Collection, tmp_path: Path) -> None:
    source = source_of(tmp_path / "a.jsonl", pages_of(*range(1, 12)))
    ingest(collection, [source], CHOICES)
    small = everything(collection)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SHARD_ROWS", vectors.SHARD_ROWS)
        patch.setattr(build, "Vectors", vectors.Vectors)
        large = Collection(collection.path.with_name("large"))
        ingest(large, [source], CHOICES)
    one = everything(large)
    assert (len(small.pop("shards")), len(one.pop("shards"))) == (9, 1)
    assert small == one


def test_only_two_generations_are_kept_and_no_build_is_left(collection: Collection, tmp_path: Path) -> None:
    for last in range(1, 5):
        ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(*range(1, last + 1)))], CHOICES)
    assert numbers(collection) == ["gen-000003", "gen-000004"]
    assert list(collection.path.glob("*.tmp")) == []
    files = {path.name for path in collection.current().path.iterdir()}
    assert files >= {"chunks.duckdb", "dense.faiss", "encoder", "lexical", "manifest.json", "vectors"}
    assert list(collection.current().path.rglob("*.tmp")) == []


# -- resume ------------------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """Like Ctrl-C: nothing in between may catch it."""


def _stop(patch: pytest.MonkeyPatch, owner: object, name: str, call: int, error: BaseException, *, after: bool) -> None:
    """The `call`-th call of a function fails, before or after it has done its work."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise error

    patch.setattr(owner, name, failing)


STEPS: list[tuple[str, object, str, int, bool]] = [
    ("before the plan is noted", build, "write_atomically", 1, False),
    ("while the database is copied", build.shutil, "copyfile", 1, True),
    ("after one transaction of reading", Store, "add", 2, False),
    ("after two transactions of reading", Store, "add", 2, True),
    ("before the comparison", build, "_compare", 1, False),
    ("after the encoder", build, "_encoder_for", 1, True),
    ("before the second new shard", shards.Shard, "keep", 2, False),
    ("after the second new shard", shards.Shard, "keep", 2, True),
    ("while a shard is renamed", vectors.os, "replace", 3, False),
    ("while a marker is renamed", vectors.os, "replace", 4, False),
    ("after the markers are taken", build, "take_markers", 1, True),
    ("before the words are indexed", Files, "index_words", 1, False),
    ("after the words are indexed", lexical, "build", 1, True),
    ("after the vectors are indexed", dense, "build", 1, True),
    ("after the check", build, "_check", 1, True),
    ("after the sweep", build, "_sweep", 1, True),
    ("before the folder is renamed", os, "rename", 1, False),
    ("between the rename and CURRENT", Collection, "_point_to", 1, False),
    ("after CURRENT", Collection, "_point_to", 1, True),
    ("before the garbage is collected", Collection, "collect_garbage", 1, False),
]


@pytest.fixture(scope="module")
def before_and_after(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A collection, the source it is about to be brought up to date with, and what it is then."""
    folder = tmp_path_factory.mktemp("resume")
    old = {page: text_of(page) for page in range(1, 9)}
    new = {**{page: text_of(page) for page in range(3, 15)}, 5: text_of(5, 1), 6: text_of(6, 1, sentences=5)}
    with pytest.MonkeyPatch.context() as patch:
        _make_small(patch)
        collection = Collection(folder / "base")
        ingest(collection, [source_of(folder / "a.jsonl", old)], CHOICES)
        grown = Collection(folder / "grown")
        shutil.copytree(collection.path, grown.path)
        ingest(grown, [source_of(folder / "a.jsonl", new)], COMPLETE)
        expected = everything(grown)
    assert expected["counts"] == {"articles": 12, "chunks": 24 + 2 * 3 + 6 * 3 + 2, "live": 10 * 3 + 3 + 5}
    return collection.path, folder / "a.jsonl", expected


def _make_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(build, "SHARD_ROWS", 8)
    patch.setattr(build, "Vectors", functools.partial(vectors.Vectors, shard_rows=8))
    patch.setattr(build, "_WRITTEN_AT_ONCE", 9)


# the others are as good, and each costs most of a second
_QUICK = {"after two transactions of reading", "after the second new shard", "after the words are indexed"}
_QUICK |= {"between the rename and CURRENT"}


@pytest.mark.parametrize(
    ("owner", "name", "call", "after"),
    [pytest.param(*step[1:], id=step[0], marks=[] if step[0] in _QUICK else pytest.mark.slow) for step in STEPS],
)
def test_an_ingest_that_stops_somewhere_ends_like_one_that_never_did(
    before_and_after: tuple[Path, Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    call: int,
    after: bool,
) -> None:
    base, source, expected = before_and_after
    shutil.copytree(base, tmp_path / "c")
    collection = Collection(tmp_path / "c")
    old = live_texts(collection.current())
    _make_small(monkeypatch)
    with monkeypatch.context() as patch:
        _stop(patch, owner, name, call, Stopped(), after=after)
        with pytest.raises(Stopped):
            ingest(collection, [open_source(source, "jsonl")], COMPLETE)
    published = live_texts(collection.current())
    assert published == old or name in ("_point_to", "collect_garbage")
    ingest(collection, [open_source(source, "jsonl")], COMPLETE)
    assert everything(collection) == expected
    assert list(collection.path.glob("build-*")) == []
    assert collection.verify() == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, dict[str, Any]]:
    """A source of eight pages, and what a collection of them is."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    source, whole = source_of(folder / "a.jsonl", pages_of(*range(1, 9))), Collection(folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        _make_small(patch)
        ingest(whole, [source], CHOICES)
        return source, everything(whole)


@pytest.mark.parametrize(
    ("owner", "name", "call", "after"),
    [
        (Store, "add", 2, True),
        (build, "prepare", 1, True),
        (shards.Shard, "keep", 2, True),
        (Files, "index_vectors", 1, True),
        (Collection, "_point_to", 1, False),
    ],
    ids=["reading", "encoder", "encoding", "indexing", "publishing"],
)
def test_a_first_ingest_that_stops_publishes_nothing_and_goes_on(
    uninterrupted: tuple[Source, dict[str, Any]],
    collection: Collection,
    monkeypatch: pytest.MonkeyPatch,
    counting: list[str],
    owner: object,
    name: str,
    call: int,
    after: bool,
) -> None:
    _make_small(monkeypatch)
    source, expected = uninterrupted
    with monkeypatch.context() as patch:
        _stop(patch, owner, name, call, KeyboardInterrupt(), after=after)
        with pytest.raises(KeyboardInterrupt):
            ingest(collection, [source], CHOICES)
    if name != "_point_to":
        assert not collection.exists()
    counting.clear()
    ingest(collection, [source], CHOICES)
    assert live_texts(collection.current()) == pages_of(*range(1, 9))
    if name == "keep":
        assert len(counting) == 24 - 16, "two shards of eight rows were there already"
    assert everything(collection) == expected


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [(build, "_check", True), (build, "_sweep", True), (os, "rename", False)],
    ids=["checked", "swept", "sealed"],
)
def test_what_was_encoded_is_kept_up_to_the_last_step(
    collection: Collection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counting: list[str],
    owner: object,
    name: str,
    after: bool,
) -> None:
    source = source_of(tmp_path / "a.jsonl", pages_of(1, 2))
    with monkeypatch.context() as patch:
        _stop(patch, owner, name, 1, Stopped(), after=after)
        with pytest.raises(Stopped):
            ingest(collection, [source], CHOICES)
    assert len(counting) == 6
    counting.clear()
    ingest(collection, [source], CHOICES)
    assert counting == [], "hours of encoding must not be lost to a kill while checksums are computed"


def test_an_unfinished_build_of_another_plan_is_not_taken_over(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _stop(patch, build, "_encoder_for", 1, Stopped(), after=False)
        with pytest.raises(Stopped):
            ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2))], CHOICES)
    ingest(collection, [source_of(tmp_path / "b.jsonl", pages_of(3))], CHOICES)
    assert live_texts(collection.current()) == pages_of(3)


def test_a_source_that_changes_while_a_build_is_unfinished_is_read_as_it_is_now(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _stop(patch, Files, "index_words", 1, Stopped(), after=False)
        with pytest.raises(Stopped):
            ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3))], CHOICES)
    now = {1: text_of(1), 2: text_of(2, 1), 4: text_of(4)}
    ingest(collection, [source_of(tmp_path / "a.jsonl", now)], COMPLETE)
    assert live_texts(collection.current()) == now
    assert not any("P2v0" in text for mode in Mode for text in found(collection, "P2v0s0 bridge", mode, 50))


def test_a_full_disk_loses_nothing_and_the_next_run_goes_on(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1))], CHOICES)
    more = source_of(tmp_path / "a.jsonl", pages_of(1, 2))
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "00000.tmp")
        _stop(patch, shards, "write_shard", 1, full, after=False)
        with pytest.raises(OSError, match="No space left"):
            ingest(collection, [more], KEPT)
    assert live_texts(collection.current()) == pages_of(1)
    ingest(collection, [more], KEPT)
    assert live_texts(collection.current()) == pages_of(1, 2)


# -- compact -----------------------------------------------------------------------------------------------------


def _with_dead_rows(collection: Collection, tmp_path: Path) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1, 2, 3, 4))], CHOICES)
    ingest(collection, [source_of(tmp_path / "a.jsonl", {**pages_of(1, 4), 2: text_of(2, 1)})], COMPLETE)


@pytest.fixture(scope="module")
def dead_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dead-rows")
    _with_dead_rows(Collection(folder / "c"), folder)
    return folder / "c"


@pytest.mark.usefixtures("small_shards")
def test_compact_drops_the_dead_and_renumbers_the_living_in_their_order(
    collection: Collection, tmp_path: Path, counting: list[str]
) -> None:
    _with_dead_rows(collection, tmp_path)
    before, texts = everything(collection), live_texts(collection.current())
    assert (before["counts"], len(before["dead"])) == ({"articles": 3, "chunks": 15, "live": 9}, 6)
    with Searcher.open(collection) as searcher:
        old = {one.chunk.text: one for one in searcher.search("stone bridge P2v1s1", 9)}
    counting.clear()
    generation = compact(collection, quiet=True)
    after = everything(collection)
    assert counting == [], "vectors are moved, not computed"
    assert generation == collection.current()
    assert generation.manifest.counts == {"articles": 3, "chunks": 9, "live": 9}
    assert [row[0] for row in after["rows"]] == [row[0] for row in before["rows"]] == [1, 4, 2]
    assert [row[2] for row in after["rows"]] == [0, 3, 6]
    assert (after["dead"], live_texts(generation)) == ([], texts)
    with Searcher.open(collection) as searcher:
        new = {one.chunk.text: one for one in searcher.search("stone bridge P2v1s1", 9)}
        rows = searcher.vectors.between(0, 9)
        assert np.allclose(rows, HashingEncoder().encode([t for _, _, t in searcher.store.texts(0, 9)]), atol=1e-3)
    assert set(new) == set(old)
    assert max(old, key=lambda text: old[text].score) == max(new, key=lambda text: new[text].score)
    for text, one in new.items():
        assert one.parts.dense == pytest.approx(old[text].parts.dense, abs=1e-5)
    assert ingest(collection, [source_of(tmp_path / "a.jsonl", texts)], KEPT).generation is None


@pytest.fixture(scope="module")
def two_pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A collection of pages 1 and 2, and all that is in it."""
    folder = tmp_path_factory.mktemp("two-pages")
    ingest(Collection(folder / "c"), [source_of(folder / "a.jsonl", pages_of(1, 2))], CHOICES)
    return folder / "c", everything(Collection(folder / "c"))


@pytest.mark.parametrize("file", [DENSE, f"{LEXICAL}/meta.json"])
def test_compact_makes_a_damaged_index_anew(two_pages: tuple[Path, dict[str, Any]], tmp_path: Path, file: str) -> None:
    made, expected = two_pages
    collection = Collection(shutil.copytree(made, tmp_path / "c"))
    path = collection.current().path / file
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(LookaheadError, match=f"is damaged .{file}: its checksum changed"):
        collection.current()
    compact(collection, quiet=True)
    assert everything(collection) == expected
    assert collection.current().manifest.number == 2


def test_compact_refuses_when_the_chunks_themselves_are_damaged(
    two_pages: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    collection = Collection(shutil.copytree(two_pages[0], tmp_path / "c"))
    path = collection.current().path / DATABASE
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(LookaheadError, match=r"chunks\.duckdb: its checksum changed"):
        compact(collection, quiet=True)
    assert numbers(collection) == ["gen-000001"]


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [(build, "_renumber", True), (Files, "index_words", True), (Collection, "_point_to", False)],
)
def test_a_compact_that_stops_is_done_again_from_the_start(
    dead_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, after: bool
) -> None:
    collection = Collection(shutil.copytree(dead_rows, tmp_path / "c"))
    texts = live_texts(collection.current())
    with monkeypatch.context() as patch:
        _stop(patch, owner, name, 1, Stopped(), after=after)
        with pytest.raises(Stopped):
            compact(collection, quiet=True)
    assert live_texts(collection.current()) == texts
    compact(collection, quiet=True)
    assert live_texts(collection.current()) == texts
    assert collection.current().manifest.counts == {"articles": 3, "chunks": 9, "live": 9}


def test_an_older_generation_is_grown_from_when_the_newest_is_damaged(collection: Collection, tmp_path: Path) -> None:
    ingest(collection, [source_of(tmp_path / "a.jsonl", pages_of(1))], CHOICES)
    newer = source_of(tmp_path / "a.jsonl", pages_of(1, 2))
    ingest(collection, [newer], KEPT)
    (collection.path / "gen-000002" / DENSE).unlink()
    with pytest.warns(DamageWarning, match=r"gen-000002.*dense.faiss: missing"):
        report = ingest(collection, [newer], KEPT)
    assert (report.added, report.unchanged) == (1, 1)
    assert live_texts(collection.current()) == pages_of(1, 2)
    assert collection.current().manifest.number == 3
