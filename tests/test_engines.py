"""One suite for every combination of engine and store: each must answer as files do, and fall and get up as they do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conformance import CHUNKS, Pages, agrees, call_before, exact, pages_of, questions_of, same_hits, write
from milvus_server import MilvusServer
from milvus_server import missing as no_milvus
from postgres_server import PostgresServer, running_postgres
from postgres_server import missing as no_postgres
from starlette.testclient import TestClient

from cli import main
from index.build import Choices, IngestReport, compact, ingest
from index.dense import Hit, IdSet
from index.hashing import HashingEncoder
from index.milvus_server import server_of
from index.upkeep import forget, remote_faults
from retrieval.search import MOST, Mode, Parts, Passage, Question, Searcher
from store.database import Filter
from store.generations import Collection
from store.records import LookaheadError, Split, Unreachable
from store.remotes import remotes_of
from store.sources import open_source

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"
CHILD = Path(__file__).with_name("conformance.py")
OPTIONS = ("--encoder", "hashing", "--chunk-words", "10", "--workers", "1", "--delete-missing", "--quiet")
CHOICES = Choices(encoder="hashing", words=10, workers=1, quiet=True, delete_missing=True)
QUESTIONS = questions_of(range(3, 15))
EVERYTHING = Filter()
REFERENCE = "faiss+duckdb"


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a collection is kept, as the command line has it, and the servers that it needs."""

    name: str
    index: str
    store: str | None
    servers: tuple[MilvusServer | PostgresServer, ...]

    def choices(self) -> Choices:
        return replace(CHOICES, index=self.index, store=self.store)

    @property
    def elsewhere(self) -> bool:
        """Whether any of it is not in the collection's folder."""
        return self.index != "faiss" or self.store is not None

    def options(self) -> tuple[str, ...]:
        return ("--index", self.index, "--store", self.store or "duckdb")


@dataclass(frozen=True, slots=True)
class Holding:
    """A collection that no test changes, and a searcher of it."""

    collection: Collection
    searcher: Searcher

    def live(self) -> Any:
        searcher = self.searcher
        rows = searcher.generation.manifest.counts["chunks"]
        return np.arange(rows) if searcher.alive is None else searcher.alive.ids

    def vectors_of(self, questions: Sequence[str]) -> Any:
        return self.searcher.encoder.encode_queries(list(questions))


# -- where things are kept -----------------------------------------------------------------------------------

_ENGINES, _STORES = ("faiss", "milvus-file", "milvus-server"), ("duckdb", "postgresql")
_EVERY = [f"{engine}+{store}" for engine in _ENGINES for store in _STORES]
_SELDOM = {"faiss+postgresql", "milvus-file+postgresql", "milvus-server+duckdb"}  # their parts are in the others


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    with MilvusServer.started(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


def _kept(request: pytest.FixtureRequest, name: str, folder: Path) -> Kept:
    engine, store = name.split("+")
    away = (no_milvus() if engine != "faiss" else "") or (no_postgres() if store == "postgresql" else "")
    if away:
        pytest.skip(away)
    index, url = "faiss", None
    servers: list[MilvusServer | PostgresServer] = []
    if engine == "milvus-file":
        index = f"milvus:{folder / 'lite.db'}"
    elif engine == "milvus-server":
        milvus = request.getfixturevalue("milvus")
        servers.append(milvus)
        index = milvus.spec
    if store == "postgresql":
        postgres = request.getfixturevalue("postgres")
        servers.append(postgres)
        url = postgres.url()
    return Kept(name, index, url, tuple(servers))


@pytest.fixture(
    scope="module", params=[pytest.param(one, marks=pytest.mark.slow if one in _SELDOM else ()) for one in _EVERY]
)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return _kept(request, request.param, tmp_path_factory.mktemp("lite"))


def published(collection: Collection, kept: Kept, pages: Pages) -> IngestReport:
    """Brings it to exactly these pages."""
    return ingest(collection, [open_source(lines_of(collection, pages), "jsonl")], kept.choices())


def lines_of(collection: Collection, pages: Pages) -> Path:
    """Where a collection's pages are read from."""
    collection.path.parent.mkdir(parents=True, exist_ok=True)
    return write(collection.path.parent / f"{collection.name}.jsonl", pages)


# -- worlds that no test changes -----------------------------------------------------------------------------

BEFORE = pages_of(range(1, 17))
GONE, REPLACED, CAME = (5, 6), (1, 2, 3, 16), (17, 18)
AFTER = {
    **{number: page for number, page in BEFORE.items() if number not in GONE},
    **pages_of(REPLACED, version=1),
    **pages_of(CAME),
}
LARGE = pages_of(range(1, 1001))


@pytest.fixture(scope="module")
def small(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holding]:
    """Two generations of some 160 chunks: of the second, rows of the first are dead."""
    yield from _held(tmp_path_factory.mktemp("small"), "small-world", kept, BEFORE, AFTER)


@pytest.fixture(scope="module")
def large(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holding]:
    """10,000 chunks."""
    yield from _held(tmp_path_factory.mktemp("large"), "large", kept, LARGE)


@pytest.fixture(scope="module")
def files_small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holding]:
    """What every combination is held against: the same in files, without a dead row."""
    yield from _held(tmp_path_factory.mktemp("files"), "small-world", FILES, AFTER)


@pytest.fixture(scope="module")
def files_large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holding]:
    yield from _held(tmp_path_factory.mktemp("files"), "large", FILES, LARGE)


FILES = Kept(REFERENCE, "faiss", None, ())


def _held(home: Path, name: str, kept: Kept, *versions: Pages) -> Iterator[Holding]:
    collection = Collection(home / "collections" / name)
    for pages in versions:
        published(collection, kept, pages)
    with Searcher.open(collection) as searcher:
        yield Holding(collection, searcher)
    forget(collection)  # the next combination has the same server, and the same names


def passing(searcher: Searcher, wanted: Filter) -> Any:
    """Ids of the live chunks that a filter lets pass, by looking at every one of them."""
    store = searcher.store
    rows = store.articles()
    chunks = {found.chunk.chunk_id: found for found in store.chunks(range(store.counts().chunks))}
    ids = []
    for row in rows:
        if (
            (not wanted.titles or row.title in wanted.titles)
            and (not wanted.page_ids or row.page_id in wanted.page_ids)
            and (not wanted.splits or row.split in wanted.splits)
        ):
            own = range(row.first_chunk, row.first_chunk + row.chunk_count)
            named = [name.lower() for name in wanted.sections]
            ids += [one for one in own if not named or chunks[one].chunk.section.lower() in named]
    return np.array(sorted(ids), dtype=np.int64)


def nearest(holding: Holding, within: IdSet | None, ids: Any, k: int, questions: Sequence[str] = QUESTIONS) -> None:
    """All of them at once, and one alone."""
    searcher = holding.searcher
    queries = holding.vectors_of(questions)
    truth = exact(searcher.vectors, queries, ids)
    for hits, right in zip(searcher.dense.search_many(queries, k, within), truth, strict=True):
        agrees(hits, right, k)
    agrees(searcher.dense.search(queries[0], k, within), truth[0], k)


Answers = dict[tuple[str, str], list[tuple[str, float, Parts]]]


def answers(searcher: Searcher, k: int = 10, wanted: Filter = EVERYTHING) -> Answers:
    """(question, mode) → texts with their scores, of every question in every mode. Texts, for ids change."""
    return {
        (question, mode.value): [
            (passage.chunk.text, passage.score, passage.parts)
            for passage in searcher.search(question, k, mode=mode, wanted=wanted)
        ]
        for question in QUESTIONS
        for mode in Mode
    }


def same_answers(one: Answers, other: Answers) -> None:
    """Texts in the same order, but for those of equal scores; scores and their parts to the third decimal."""
    assert one.keys() == other.keys()
    for asked, found in one.items():
        right = other[asked]
        assert [score for _, score, _ in found] == pytest.approx([score for _, score, _ in right], abs=1e-3), asked
        last = found[-1][1] + 2e-3 if found else 0.0
        ours, theirs = ({text: parts for text, score, parts in some if score > last} for some in (found, right))
        assert ours.keys() == theirs.keys(), asked
        for text, parts in ours.items():
            assert _numbers(parts) == pytest.approx(_numbers(theirs[text]), abs=1e-3), (asked, text)


def _numbers(parts: Parts) -> list[float]:
    """What --explain tells, but for ranks, which ties exchange."""
    return [-1.0 if part is None else float(part) for part in (parts.dense, parts.lexical, parts.closeness)]


def texts_of(pages: Pages) -> set[str]:
    """Of all their chunks."""
    sections = (text for page in pages.values() for _, text in page.sections)
    return {sentence for text in sections for sentence in re.findall(r"[^. ][^.]*\.", text)}


# -- answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 10, 60])
def test_the_nearest_are_those_of_exact_search(small: Holding, k: int) -> None:
    nearest(small, small.searcher.alive, small.live(), k)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 10, 60])
def test_the_nearest_of_ten_thousand_are_those_of_exact_search(large: Holding, k: int) -> None:
    assert len(large.searcher.vectors) == len(large.live()) == 10_000
    nearest(large, None, large.live(), k)


FILTERS = {
    "half the pages": (Filter(page_ids=tuple(range(1, 501))), 0.5, 0.5),
    "half by heading": (Filter(sections=("half",)), 0.5, 0.5),
    "a tenth by heading": (Filter(sections=("TENTH",)), 0.1, 0.1),
    "two headings": (Filter(sections=("Tenth", "Rare")), 0.109, 0.111),
    "a hundredth": (Filter(sections=("Rare",)), 0.01, 0.01),
    "a split": (Filter(splits=(Split.TEST,)), 0.07, 0.13),
    "two splits and a heading": (Filter(sections=("Half",), splits=(Split.TEST, Split.VALID)), 0.07, 0.13),
    "a page": (Filter(page_ids=(7,)), 0.001, 0.001),
    "a title": (Filter(titles=(LARGE[8].title,)), 0.001, 0.001),
    "nothing": (Filter(sections=("no such heading",)), 0, 0),
    "nothing of both": (Filter(page_ids=(11,), sections=("Rare",)), 0, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILTERS)
def test_among_ten_thousand_a_filter_leaves_the_nearest_of_what_passes(
    large: Holding, files_large: Holding, name: str
) -> None:
    wanted, least, most = FILTERS[name]
    searcher, other = large.searcher, files_large.searcher
    ids, within = passing(searcher, wanted), searcher.within(wanted)
    assert within is not None
    assert within.ids.tolist() == ids.tolist()
    assert 10_000 * least <= len(ids) <= 10_000 * most
    for k in (1, 60):
        nearest(large, within, ids, k, QUESTIONS[:3])
    for question in QUESTIONS[:3]:
        worded = searcher.lexical.search(question, 60, within)
        same_hits(worded, other.lexical.search(question, 60, IdSet(ids, 10_000)))
        modes = list(Mode)
        for mode, found in zip(
            modes, searcher.search_many([Question(question, 20, one, wanted) for one in modes]), strict=True
        ):
            assert not isinstance(found, LookaheadError)
            assert {passage.chunk.chunk_id for passage in found} <= set(ids.tolist())
            assert len(found) == (min(20, len(worded)) if mode is Mode.LEXICAL else min(20, len(ids)))


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(sections=("half",)),
        Filter(sections=("Tenth",), splits=(Split.TRAIN,)),
        Filter(page_ids=(*REPLACED, *CAME, 10)),
        Filter(titles=(AFTER[1].title,)),
        Filter(page_ids=(11,), sections=("Rare",)),
    ],
    ids=["half", "a heading of a split", "pages", "a title", "nothing"],
)
def test_a_filter_leaves_the_nearest_of_what_passes_and_lives(
    small: Holding, wanted: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.milvus._ALONE_UP_TO", 0)  # so few would be compared here otherwise, and not there
    searcher = small.searcher
    ids, within = passing(searcher, wanted), searcher.within(wanted)
    assert within is not None
    assert within.ids.tolist() == ids.tolist()
    nearest(small, within, ids, 20, QUESTIONS[:3])
    nearest(small, IdSet(ids, len(searcher.vectors)), ids, 20, QUESTIONS[:3])  # as ids that no filter explains
    worded = dict(searcher.lexical.search(QUESTIONS[0], 500, searcher.alive))
    among = {one: score for one, score in worded.items() if one in set(ids.tolist())}
    agrees(searcher.lexical.search(QUESTIONS[0], 10, within), among, 10)
    for mode in Mode:
        found = searcher.search(QUESTIONS[0], 10, mode=mode, wanted=wanted)
        assert {passage.chunk.chunk_id for passage in found} <= set(ids.tolist())
        assert len(found) == min(10, len(among if mode is Mode.LEXICAL else ids))


def test_what_went_never_comes_back_and_what_came_is_found(small: Holding) -> None:
    searcher, manifest = small.searcher, small.searcher.generation.manifest
    live = texts_of(AFTER)
    assert manifest.counts == {
        "articles": len(AFTER),
        "chunks": CHUNKS * (len(BEFORE) + len(REPLACED) + len(CAME)),
        "live": len(live),
    }
    counts = searcher.store.counts()
    assert {"articles": counts.articles, "chunks": counts.chunks, "live": counts.live} == manifest.counts
    assert len(searcher.lexical) == len(live)
    assert np.isin(small.live(), searcher.dense.ids()).all()
    assert len(searcher.dense) == len(searcher.dense.ids()) in (len(live), counts.chunks)
    for mode in Mode:
        for page, place in [(GONE[0], 2), (GONE[1], 9), (REPLACED[0], 0), (REPLACED[3], 5)]:
            text = BEFORE[page].sections[-1][1] if place > 4 else BEFORE[page].sections[0][1]
            found = searcher.search(text[:200], 400, mode=mode)
            assert {passage.chunk.text for passage in found} <= live
        for page in (*REPLACED, *CAME):
            text = AFTER[page].sections[1][1]
            assert searcher.search(text, 1, mode=mode)[0].chunk.text == text
    everything = searcher.search(QUESTIONS[0], MOST, mode=Mode.DENSE)
    assert {passage.chunk.text for passage in everything} == live


def test_k_reaches_from_one_to_everything_and_no_farther(small: Holding) -> None:
    searcher, live = small.searcher, len(texts_of(AFTER))
    for k, many in ((1, 1), (live - 1, live - 1), (live, live), (live + 5, live)):
        for mode in (Mode.DENSE, Mode.HYBRID):
            assert len(searcher.search(QUESTIONS[1], k, mode=mode)) == many
    assert len(searcher.search(QUESTIONS[1], 1, mode=Mode.LEXICAL)) == 1
    for k in (-1, 0, MOST + 1):
        with pytest.raises(LookaheadError, match=f"^-k is between 1 and {MOST}, not {k}$"):
            searcher.search(QUESTIONS[1], k)
    assert searcher.dense.search(small.vectors_of(QUESTIONS)[0], 0, searcher.alive) == []


@pytest.mark.slow
def test_ten_thousand_can_be_asked_for(large: Holding, files_large: Holding) -> None:
    found = large.searcher.search(QUESTIONS[2], MOST, mode=Mode.DENSE)
    assert {passage.chunk.text for passage in found} == texts_of(LARGE)
    for mode in (Mode.LEXICAL, Mode.HYBRID):
        mine, theirs = (one.searcher.search(QUESTIONS[2], MOST, mode=mode) for one in (large, files_large))
        same_hits([hit_of(one) for one in mine], [hit_of(one) for one in theirs])


def hit_of(passage: Passage) -> Hit:
    return Hit(passage.chunk.chunk_id, passage.score)


@pytest.mark.slow
def test_answers_and_what_explains_them_are_those_of_the_files(large: Holding, files_large: Holding) -> None:
    same_answers(answers(large.searcher), answers(files_large.searcher))
    wanted = Filter(sections=("Tenth",))
    same_answers(answers(large.searcher, 7, wanted), answers(files_large.searcher, 7, wanted))


@pytest.mark.slow
def test_bm25_is_what_tantivy_makes_of_it(large: Holding, files_large: Holding) -> None:
    words, theirs = large.searcher.lexical, files_large.searcher.lexical
    assert len(words) == len(theirs)
    rng = np.random.default_rng(3)
    titles = [LARGE[5].title, LARGE[70].title.upper()]
    for question in [*QUESTIONS, *titles, "P12v0s4 p13v0s4", "nothing that is anywhere", "", "?!"]:
        assert words.words(question) == theirs.words(question)
        assert words.rarity(words.words(question)) == pytest.approx(theirs.rarity(theirs.words(question)), abs=1e-6)
        same_hits(words.search(question, 30), theirs.search(question, 30))
        ids = np.sort(rng.choice(10_000, 300, replace=False))
        assert words.scores(question, ids) == pytest.approx(theirs.scores(question, ids), abs=1e-3)
        assert words.spans(LARGE[5].sections[0][1], question) == theirs.spans(LARGE[5].sections[0][1], question)


def test_scores_and_cosines_of_chosen_chunks_are_those_of_the_lists(small: Holding) -> None:
    searcher, ids = small.searcher, small.live()[::7]
    query = small.vectors_of(QUESTIONS)[0]
    near = dict(searcher.dense.search(query, len(ids), IdSet(ids, len(searcher.vectors))))
    assert searcher.dense.cosines(query, ids).tolist() == pytest.approx([near[one] for one in ids.tolist()], abs=1e-4)
    worded = dict(searcher.lexical.search(QUESTIONS[0], 500, IdSet(ids, len(searcher.vectors))))
    assert searcher.lexical.scores(QUESTIONS[0], ids) == pytest.approx(worded, abs=1e-4)


# -- generations ---------------------------------------------------------------------------------------------

FEW, OTHERS = pages_of(range(1, 7)), {**pages_of((1, 2), version=1), **pages_of((3, 4, 5, 7))}
Seen = tuple[int, str, str, list[str]]


def on_servers(kept: Kept, owner: str) -> dict[str, set[str]]:
    """What is there of that owner's."""
    found: dict[str, set[str]] = {"collections": set(), "schemas": set()}
    if kept.index != "faiss":
        found["collections"] = {name for name in server_of(kept.index).collections() if f"_{owner}_" in name}
    if kept.store is not None:
        found["schemas"] = {name for name in schemas_on(kept) if f"_{owner}_" in name}
    return found


def schemas_on(kept: Kept) -> set[str]:
    return {name for (name,) in asked_of_postgres(kept, "SELECT nspname FROM pg_namespace")}


def asked_of_postgres(kept: Kept, statement: str) -> list[Any]:
    """Past everything of ours."""
    import psycopg

    assert kept.store is not None
    with psycopg.connect(kept.store, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def named_by(collection: Collection) -> dict[str, set[str]]:
    """What its manifests say is there."""
    facts = [generation.manifest.facts for generation in collection.generations()]
    return {
        "collections": {one["index"]["collection"] for one in facts if "index" in one},
        "schemas": {one["store"]["name"] for one in facts if "store" in one},
    }


def owner_of(collection: Collection) -> str:
    remotes = remotes_of(collection.path)
    return "nobody" if remotes is None else remotes.owner


def nothing_else_is_there(collection: Collection, kept: Kept) -> None:
    assert on_servers(kept, owner_of(collection)) == named_by(collection)
    manifest = collection.current().manifest
    if "index" in manifest.facts:
        told = manifest.facts["index"]
        assert server_of(kept.index).meant_by(told["alias"]) == told["collection"]


def everything_in(collection: Collection) -> dict[str, Any]:
    """All that two ways to the same collection must have in common."""
    generation = collection.current()
    with Searcher.open(collection) as searcher:
        store = searcher.store
        assert store.faults() == []
        assert remote_faults(generation) == []
        rows = [(row.page_id, row.title, row.first_chunk, row.chunk_count) for row in store.articles()]
        texts, dead = store.texts(0, store.counts().chunks), store.dead_ids().tolist()
        found = [
            [
                (one.chunk.chunk_id, pytest.approx(one.score, abs=1e-4))
                for one in searcher.search(question, 10, mode=mode)
            ]
            for question in QUESTIONS[:4]
            for mode in Mode
        ]
    shards = {path.name: path.read_bytes() for path in sorted((generation.path / "vectors").iterdir())}
    return {"rows": rows, "texts": texts, "dead": dead, "found": found, "shards": shards}


def test_readers_see_one_generation_or_the_next_while_it_is_published(kept: Kept, tmp_path: Path) -> None:
    collection = Collection(tmp_path / "read-on")
    published(collection, kept, FEW)
    asked, stop = [(question, mode) for question in QUESTIONS[:3] for mode in Mode], threading.Event()
    seen: list[Seen] = []
    failed: list[BaseException] = []

    def look(searcher: Searcher) -> None:
        for question, mode in asked:
            texts = [passage.chunk.text for passage in searcher.search(question, 5, mode=mode)]
            seen.append((searcher.generation.manifest.number, question, mode.value, texts))

    def look_with(opened: Callable[[], contextlib.AbstractContextManager[Searcher]]) -> None:
        try:
            while not stop.is_set():
                with opened() as searcher:
                    look(searcher)
                time.sleep(0.02)  # the writer is in this process too, and wants its turn
        except BaseException as error:
            failed.append(error)

    with Searcher.open(collection) as old:
        readers = [
            threading.Thread(target=look_with, args=(opened,))
            for opened in (lambda: contextlib.nullcontext(old), lambda: Searcher.open(collection))
        ]
        for reader in readers:
            reader.start()
        published(collection, kept, OTHERS)
        owner, both = owner_of(collection), named_by(collection)
        assert on_servers(kept, owner) == both, "what the generation before is made of stays as long as its folder"
        with Searcher.open(collection) as new:
            look(new)
        patience = time.monotonic() + 30
        while {number for number, *_ in seen[-40:]} != {1, 2} and not failed and time.monotonic() < patience:
            time.sleep(0.005)
        stop.set()
        for reader in readers:
            reader.join()
        assert failed == []
        look(old)
    answered = {(number, question, mode): texts for number, question, mode, texts in seen}
    assert len(answered) == 2 * len(asked)
    for number, question, mode, texts in seen:
        assert texts == answered[number, question, mode]
        assert set(texts) <= texts_of((FEW, OTHERS)[number - 1])
        assert len(texts) == 5
    nothing_else_is_there(collection, kept)
    published(collection, kept, FEW)
    assert [generation.manifest.number for generation in collection.generations()] == [2, 3]
    nothing_else_is_there(collection, kept)
    forget(collection)
    assert on_servers(kept, owner) == {"collections": set(), "schemas": set()}


@pytest.mark.slow
def test_compacting_renumbers_what_lives_and_answers_the_same(small: Holding, kept: Kept, tmp_path: Path) -> None:
    collection = Collection(tmp_path / "compacted")
    published(collection, kept, BEFORE)
    published(collection, kept, AFTER)
    compact(collection, quiet=True)
    with Searcher.open(collection) as searcher:
        live = len(texts_of(AFTER))
        assert searcher.generation.manifest.counts == {"articles": len(AFTER), "chunks": live, "live": live}
        assert searcher.dense.ids().tolist() == list(range(live))
        assert len(searcher.lexical) == live
        nearest(Holding(collection, searcher), None, np.arange(live), 20)
        for question in QUESTIONS:
            mine, theirs = (
                [
                    (one.chunk.text, pytest.approx(one.score, abs=1e-4))
                    for one in some.search(question, 5, mode=Mode.DENSE)
                ]
                for some in (searcher, small.searcher)
            )
            assert mine == theirs
    nothing_else_is_there(collection, kept)
    forget(collection)


@pytest.mark.slow
def test_after_rollback_gc_and_drop_the_servers_hold_what_manifests_name(kept: Kept, tmp_path: Path) -> None:
    home = tmp_path / "home"
    collection, other = Collection(home / "collections" / "mine"), Collection(home / "collections" / "mine-2")
    published(other, kept, FEW)
    theirs = on_servers(kept, owner_of(other))
    published(collection, kept, FEW)
    first = everything_in(collection)
    owner = owner_of(collection)
    published(collection, kept, OTHERS)
    both = named_by(collection)
    run(home, "rollback", "-c", "mine")
    assert collection.current().manifest.number == 1
    nothing_else_is_there(collection, kept)
    assert everything_in(collection) == first
    published(collection, kept, OTHERS)
    names = {name for one in (both, named_by(collection)) for some in one.values() for name in some}
    assert len(names) == (3 if kept.elsewhere else 0), "a name was used again"
    run(home, "gc", "-c", "mine", "--keep", "1")
    assert [generation.manifest.number for generation in collection.generations()] == [2]
    nothing_else_is_there(collection, kept)
    run(home, "drop", "-c", "mine", "--yes")
    assert on_servers(kept, owner) == {"collections": set(), "schemas": set()}
    assert on_servers(kept, owner_of(other)) == theirs == named_by(other)
    assert run(home, "verify", "mine-2").endswith("every byte is as it was published\n")
    forget(other)


@pytest.mark.slow
def test_verify_finds_what_was_taken_away_behind_our_back(kept: Kept, tmp_path: Path) -> None:
    if kept.name == REFERENCE:
        pytest.skip("files have their own tests: test_generations.py")
    home = tmp_path / "home"
    collection = Collection(home / "collections" / "looked-over")
    published(collection, kept, FEW)
    manifest = collection.current().manifest
    facts, name = manifest.facts, manifest.name
    assert run(home, "verify", "looked-over").endswith("every byte is as it was published\n")
    assert remote_faults(collection.current()) == []
    if kept.store is not None:
        schema = facts["store"]["name"]
        asked_of_postgres(kept, f"DELETE FROM {schema}.chunks WHERE chunk_id = 7")
        assert {(fault.generation, fault.file) for fault in remote_faults(collection.current())} >= {(name, "store")}
        asked_of_postgres(kept, f"DROP SCHEMA {schema} CASCADE")
        assert [(fault.generation, fault.file) for fault in remote_faults(collection.current())] == [(name, "store")]
    else:
        called = facts["index"]["collection"]
        raw(kept.index).delete(called, filter="chunk_id == 7")
        (fault,) = remote_faults(collection.current())
        assert (fault.generation, fault.file) == (name, "index")
        assert "1 of the 60 live ones are missing" in fault.what
        server_of(kept.index).drop(called)
        (fault,) = remote_faults(collection.current())
        assert (fault.generation, fault.file) == (name, "index")
        assert "\n" not in fault.what
    assert run(home, "verify", "looked-over", code=1)
    if kept.store is None:  # indexes are derived, and so can be made again
        assert "run: lookahead compact" in run(home, "search", "anything", "-c", "looked-over", code=2)
        run(home, "compact", "-c", "looked-over", "--quiet")
        assert remote_faults(collection.current()) == []
        run(home, "gc", "-c", "looked-over", "--keep", "1")
        assert run(home, "verify", "looked-over").endswith("every byte is as it was published\n")
    forget(collection)


@pytest.mark.slow
def test_a_collection_moves_to_servers_and_back_and_nothing_is_encoded_again(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kept.name == REFERENCE:
        pytest.skip("that is where it comes from")
    home = tmp_path / "home"
    collection = Collection(home / "collections" / "moving")
    published(collection, FILES, FEW)
    before = everything_in(collection)
    read: list[str] = []
    encode = HashingEncoder.encode

    def counted(self: HashingEncoder, texts: Sequence[str]) -> Any:
        read.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(HashingEncoder, "encode", counted)
    run(home, "compact", "-c", "moving", *kept.options(), "--quiet")
    assert everything_in(collection) == before
    facts = json.loads(run(home, "info", "-c", "moving", "--json"))
    assert ("index" in facts, "store" in facts) == (kept.index != "faiss", kept.store is not None)
    nothing_else_is_there(collection, kept)
    elsewhere = ("--index", "faiss") if kept.index != "faiss" else ("--store", "postgresql://me@nowhere/wiki")
    told = run(home, "ingest", lines_of(collection, OTHERS), "-c", "moving", *elsewhere, code=2)
    assert "to move it type: lookahead compact -c moving" in told
    run(home, "compact", "-c", "moving", "--index", "faiss", "--store", "duckdb", "--quiet")
    assert everything_in(collection) == before
    assert len([text for text in read if text in texts_of(FEW)]) <= 2 * 32, "more than the samples that are checked"
    run(home, "gc", "-c", "moving", "--keep", "1")
    assert on_servers(kept, owner_of(collection)) == {"collections": set(), "schemas": set()}
    assert named_by(collection) == {"collections": set(), "schemas": set()}


# -- two at once, and servers that go away ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_writer_is_refused_in_one_line(kept: Kept, tmp_path: Path) -> None:
    home = tmp_path / "home"
    collection = Collection(home / "collections" / "twice")
    published(collection, kept, FEW)
    source = lines_of(collection, FEW)
    with collection.writing():
        with pytest.raises(LookaheadError, match=rf"is being written by pid {os.getpid()} .*; wait for it to end$"):
            published(collection, kept, OTHERS)
        let_go(kept)
        done = child(home, "ingest", source, "-c", "twice", *OPTIONS, *kept.options())
        assert done.returncode == 2
        assert re.fullmatch(r"error: .* is being written by pid .*; wait for it to end\n", done.stderr)
    if kept.index != "faiss":
        elsewhere = Collection(tmp_path / "another home" / "collections" / "twice")
        with pytest.raises(LookaheadError, match=r"^[^\n]*another collection[^\n]*$"):
            published(elsewhere, kept, FEW)
        assert not elsewhere.exists()
        forget(elsewhere)
    nothing_else_is_there(collection, kept)
    forget(collection)


@pytest.mark.slow
def test_answers_outlive_a_restart_of_everything(small: Holding, kept: Kept) -> None:
    before = answers(small.searcher)
    for server in kept.servers:
        server.stop()
        server.start()
    let_go(kept)
    with Searcher.open(small.collection) as again:
        assert answers(again) == before
    assert answers(small.searcher) == before, "a searcher that was open goes on"


@pytest.mark.slow
def test_what_is_asked_of_a_server_that_is_away_says_so_and_is_answered_when_it_is_back(
    small: Holding, kept: Kept, tmp_path: Path
) -> None:
    if not kept.servers:
        pytest.skip("nothing of it is on a server")
    home = small.collection.path.parent.parent
    before = answers(small.searcher)
    for server in kept.servers:
        kill(server)
        try:
            with Searcher.open(small.collection) as fresh, pytest.raises(Unreachable) as told:
                answers(fresh, 3)
            one_line(told.value)
            with pytest.raises(Unreachable) as told:
                answers(small.searcher, 3, Filter(sections=("half",)))  # without a filter it has the texts at hand
            one_line(told.value)
            with pytest.raises(Unreachable) as told:
                published(small.collection, kept, BEFORE)
            one_line(told.value)
            assert [fault.what.count("\n") for fault in remote_faults(small.collection.current())] == [0]
            with serving(home, small.collection.name) as client:
                assert client.get("/api/search", params={"q": "anything at all", "k": 3}).status_code == 503
        finally:
            server.start()
        assert answers(small.searcher) == before
        with Searcher.open(small.collection) as fresh:
            assert answers(fresh) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "times"),
    [
        ("store.postgres:Postgres.insert", 4),  # in the middle of the second transaction of three
        ("index.milvus_server:Server.put", 2),  # in the first shard
        ("index.milvus_server:Server.put", 5),  # in the second
    ],
)
def test_an_ingest_whose_server_is_killed_goes_on_when_it_is_back(
    large: Holding, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, times: int
) -> None:
    server = server_written_to(kept, what)
    collection = Collection(tmp_path / "interrupted")
    call_before(what, times, lambda: kill(server), monkeypatch.setattr)
    try:
        with pytest.raises(Unreachable) as told:
            published(collection, kept, LARGE)
        one_line(told.value)
        monkeypatch.undo()
        assert not collection.exists()
        shards = written_shards(collection)
        with pytest.raises(Unreachable) as told:
            published(collection, kept, LARGE)
        one_line(told.value)
    finally:
        server.start()
    published(collection, kept, LARGE)
    assert shards.items() <= written_shards(collection).items(), "a shard was encoded again"
    assert len(shards) == (0 if what.startswith("store") else 2)
    assert everything_in(collection) == everything_in(large.collection)
    nothing_else_is_there(collection, kept)
    forget(collection)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "times"),
    [
        ("store.postgres:Postgres.insert", 2),
        ("index.milvus_server:Server.flush", 1),  # all was sent, nothing is indexed
        ("store.generations:Collection.publish", 1),
        ("index.milvus:Milvus.publish", 2),  # CURRENT has moved, the alias has not
    ],
)
def test_an_ingest_that_is_killed_is_completed_by_the_same_command(
    small: Holding, kept: Kept, tmp_path: Path, what: str, times: int
) -> None:
    if not _is_asked(kept, what):
        pytest.skip(f"{kept.name} never calls {what}")
    home = tmp_path / "home"
    collection = Collection(home / "collections" / "killed")
    published(collection, kept, BEFORE)
    source = lines_of(collection, AFTER)
    let_go(kept)
    done = child(home, "die", what, times, "ingest", source, "-c", "killed", *OPTIONS, *kept.options())
    assert done.returncode == -signal.SIGKILL, done.stderr
    shards = written_shards(collection)
    told = run(home, "ingest", source, "-c", "killed", *OPTIONS, *kept.options())
    assert ("nothing new" in told) == (what == "index.milvus:Milvus.publish")
    assert shards.items() <= written_shards(collection).items(), "a shard was encoded again"
    assert [generation.manifest.number for generation in collection.generations()] == [1, 2]
    assert everything_in(collection) == everything_in(small.collection)
    nothing_else_is_there(collection, kept)
    forget(collection)


# -- measures and commands -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the bundled sample, many times: the second to ask for the bundled encoder has that of the first."""
    return tmp_path_factory.mktemp("home")


def sample(home: Path, kept: Kept, encoder: str) -> str:
    """The name of the collection of the sample that is kept there."""
    name = f"{kept.name.replace('+', '-')}-{encoder}"
    if not Collection(home / "collections" / name).exists():
        run(home, "ingest", SAMPLE / "articles.jsonl", "-c", name, "--encoder", encoder, "--quiet", *kept.options())
    return name


@pytest.mark.slow
@pytest.mark.timeout(400)  # the encoder is converted once
@pytest.mark.parametrize("encoder", ["hashing", "bundled"])
def test_the_measures_are_those_of_the_files(kept: Kept, home: Path, encoder: str) -> None:
    both = [sample(home, one, encoder) for one in (kept, FILES)]
    commands: list[list[str | Path]] = [["search", "--questions", SAMPLE / "questions.tsv"]]
    if encoder == "bundled":  # the one that there are models for
        commands.append(["next", "--bank", "full", "--context", "3", "--model", "amn"])
    for command in commands:
        mine, theirs = (measured(home, one, tuple(map(str, command))) for one in both)
        assert len(mine) > 50
        assert mine == pytest.approx(theirs, abs=5e-4)
    mine_open, theirs_open = (Searcher.open(Collection(home / "collections" / one)) for one in both)
    with mine_open, theirs_open:
        same_answers(answers(mine_open), answers(theirs_open))


@cache
def measured(home: Path, name: str, command: tuple[str, ...]) -> dict[str, float]:
    """Once of what is in files."""
    return measures(json.loads(run(home, "evaluate", *command, "-c", name, "--json")))


def measures(report: Any, path: str = "") -> dict[str, float]:
    """Every number of a report by where it stands, but for what it cost."""
    if isinstance(report, dict):
        parts = [(key, value) for key, value in report.items() if not re.search("second|command|created|time", key)]
    elif isinstance(report, list):
        parts = list(enumerate(report))
    else:
        return {path: float(report)} if isinstance(report, int | float) else {}
    return {name: value for key, part in parts for name, value in measures(part, f"{path}/{key}").items()}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_commands_say_what_they_say_of_files(kept: Kept, home: Path) -> None:
    name, files = (sample(home, one, "bundled") for one in (kept, FILES))
    asked = "Why can thunderbolts appear above an erupting mountain?"
    text = "Tea was carried over the mountains by caravans. The road took them a year. Then the railway came."
    for command in (
        ["search", asked, "--json"],
        ["search", asked, "--mode", "dense", "-k", "9", "--split", "train", "--json"],
        ["search", asked, "--mode", "lexical", "--title", "Volcanic lightning", "--json"],
        ["search", asked, "--explain"],
        ["predict-next", "--article", "Volcanic lightning", "--position", "6", "--json"],
        ["predict-next", "--text", text, "--json", "-k", "8"],
        ["predict-next", "--text", text, "--model", "amn"],
    ):
        mine, theirs = (run(home, *command, "-c", one) for one in (name, files))
        assert without_numbers(mine) == without_numbers(theirs), command
        assert numbers(mine) == pytest.approx(numbers(theirs), abs=2e-3), command
    assert run(home, "verify", name).endswith("every byte is as it was published\n")
    told = run(home, "info", "-c", name)
    assert ("(alias " in told, ", schema " in told) == (kept.index != "faiss", kept.store is not None)
    again = run(home, "ingest", SAMPLE / "articles.jsonl", "-c", name, "--quiet", *kept.options())
    assert again.startswith("nothing new")
    with serving(home, name) as client, serving(home, files) as other:
        for path, query in (
            ("/api/search", {"q": asked, "k": 7}),
            ("/api/search", {"q": asked, "mode": "lexical", "section": "Early reports"}),
        ):
            passages = [one.get(path, params=query).json()["results"] for one in (client, other)]
            assert passages[0]
            mine, theirs = (json.dumps(some) for some in passages)
            assert without_numbers(mine) == without_numbers(theirs)
            assert numbers(mine) == pytest.approx(numbers(theirs), abs=2e-3)


def without_numbers(text: str) -> str:
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", text)


def numbers(text: str) -> list[float]:
    return [float(one[0]) for one in re.finditer(r"-?\d+(\.\d+)?(e-?\d+)?", text)]


# -- how it is done --------------------------------------------------------------------------------------------


def run(home: Path, *arguments: str | Path | int, code: int = 0) -> str:
    """A command in this process, and what it says."""
    done = CliRunner(catch_exceptions=False).invoke(main, ["--home", str(home), *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output if code else done.stdout


def child(home: Path, *arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; after "die" it kills itself where it is told to."""
    words = [*map(str, arguments)]
    place = 3 if words[0] == "die" else 0
    words[place:place] = ["--home", str(home)]
    command = [sys.executable, str(CHILD), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def let_go(kept: Kept) -> None:
    """Milvus-lite's file, so that another process may have it; whoever asks next here has it again."""
    if kept.index.endswith(".db"):
        server_of(kept.index).close()


def raw(spec: str) -> Any:
    """pymilvus's own client."""
    return server_of(spec)._connected()


def kill(server: MilvusServer | PostgresServer) -> None:
    """kill -9, all that belongs to it."""
    if isinstance(server, MilvusServer):
        server.kill()
    else:
        server.stop()


def server_written_to(kept: Kept, what: str) -> MilvusServer | PostgresServer:
    wanted = MilvusServer if what.startswith("index.milvus") else PostgresServer
    for server in kept.servers:
        if isinstance(server, wanted):
            return server
    pytest.skip(f"{kept.name} has no such server")


def _is_asked(kept: Kept, what: str) -> bool:
    if what.startswith("store.postgres"):
        return kept.store is not None
    return kept.index != "faiss" or not what.startswith("index.milvus")


def written_shards(collection: Collection) -> dict[str, tuple[int, int]]:
    """Name → inode and time, of the newest build or generation."""
    folders = sorted(path for pattern in ("gen-*", "build-*.tmp") for path in collection.path.glob(pattern))
    newest = max(folders, key=lambda path: int(re.sub(r"\D", "", path.name)))
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted((newest / "vectors").glob("*.npy"))
    }


def one_line(error: LookaheadError) -> None:
    told = str(error)
    assert "\n" not in told
    assert "Traceback" not in told
    assert "start it and type the same command again" in told


@contextlib.contextmanager
def serving(home: Path, name: str) -> Iterator[TestClient]:
    from retrieval.service.app import create_app
    from retrieval.service.shelf import Shelf

    with TestClient(create_app(Shelf.open(home, [name], name))) as client:
        yield client
