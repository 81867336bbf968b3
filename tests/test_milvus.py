"""Milvus as an index: words score as in tantivy, vectors as by exact search, and a build goes on where it was.

One generation of the sample's articles in a milvus-lite file, and one on a server process that is killed and started.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from milvus_server import MilvusServer, missing

from index import lexical
from index.dense import Hit, IdSet, Kind, exact_search
from index.engines import Draft, open_engine
from index.hashing import HashingEncoder
from index.lexical import LexicalIndex
from index.vectors import Vectors, shard_name, write_shard
from index.vocabulary import Vocabulary, write
from store.database import Entry, Filter, Store
from store.records import Article, LookaheadError, Piece, Split, Unreachable

if missing():
    pytest.skip(missing(), allow_module_level=True)

from index import milvus, milvus_server, milvus_words
from index.milvus import Milvus, MilvusVectors
from index.milvus_server import close_all, server_of, whole_spec
from index.milvus_words import MilvusWords, as_kept, section_key

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"
DIM, SHARD = 16, 40
OWNER = "0badcafe"


@dataclass(frozen=True, slots=True)
class World:
    """A draft, what Milvus made of it, and the same rows where there can be no doubt."""

    draft: Draft
    engine: Any
    facts: dict[str, Any]
    words: MilvusWords
    vectors: MilvusVectors
    tantivy: LexicalIndex
    live: Any

    def where(self, wanted: Filter) -> IdSet:
        return IdSet(self.draft.store.ids_where(wanted), len(self.draft.vectors), wanted)


def drafted(folder: Path, entries: Sequence[Entry], gone: Sequence[int] = (), number: int = 1) -> Draft:
    """A build with its rows and vectors, without an index."""
    folder.mkdir(parents=True)
    with Store.create_or_resume(folder / "chunks.duckdb") as writing:
        writing.add(entries)
        writing.remove(gone)
        writing.checkpoint()
    store = Store.open(folder / "chunks.duckdb")
    rows, encoder = store.counts().chunks, HashingEncoder(DIM)
    texts = [text for _, _, text in store.texts(0, rows)]
    (folder / "vectors").mkdir()
    for shard in range(-(-rows // SHARD)):
        write_shard(folder / "vectors" / shard_name(shard), encoder.encode(texts[shard * SHARD : (shard + 1) * SHARD]))
    vectors = Vectors(folder / "vectors", rows, DIM, SHARD)
    name = f"wiki_{OWNER}_{number:06d}_{number:06x}"
    probes, dead = encoder.encode(texts[::20]), store.dead_ids()
    return Draft(folder, name, "wiki", OWNER, store, vectors, probes, dead, "en", 10**8, None, True)


def indexed(draft: Draft, engine: Any) -> dict[str, Any]:
    """The facts of the manifest."""
    words = engine.index_words(draft)
    return {"lexical": words, "dense": engine.index_vectors(draft).as_json(), "index": engine.place(draft)}


def sample_entries(count: int) -> list[Entry]:
    """The sample's articles, some paragraphs whole and so long that their length is rounded, some in halves."""
    entries = []
    with (SAMPLE / "articles.jsonl").open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            raw = json.loads(line)
            texts = [text for one in raw["sections"] for text in one["text"].split("\n")]
            pieces = []
            for place, text in enumerate(texts):
                middle = text.find(" ", len(text) // 2) if place % 2 else len(text)
                section = ("", "History", "HISTORY", "Ὀδυσσεύς")[place % 4]
                pieces += [Piece(section, part) for part in (text[:middle], text[middle:]) if part.strip()]
            entries.append(Entry(Article(number + 1, raw["title"], ()), pieces, "s", str(number)))
    signs = Entry(Article(900, "—", ()), [Piece("", "… — !"), Piece("", "? ? ?")], "s", "signs")
    return [signs, *entries[:count]]


def opened(draft: Draft, engine: Any, facts: dict[str, Any], beside: Path) -> World:
    live = np.setdiff1d(np.arange(len(draft.vectors)), draft.gone)
    texts = draft.store.texts(0, len(draft.vectors))
    lexical.build(beside, "en", ((one, texts[one][0], texts[one][2]) for one in live.tolist()))
    return World(
        draft,
        engine,
        facts,
        engine.open_words(draft.folder, facts),
        engine.open_vectors(draft.folder, facts, draft.vectors),
        LexicalIndex.open(beside, "en"),
        live,
    )


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("lite")
    draft = drafted(folder / "build", sample_entries(20), gone=(3, 14))
    engine = open_engine(f"milvus:{folder}/wiki.db")
    world = opened(draft, engine, indexed(draft, engine), folder / "tantivy")
    yield world
    draft.store.close()
    close_all()


@pytest.fixture(scope="module")
def questions() -> list[str]:
    lines = (SAMPLE / "questions.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[0] for line in lines if line][::5]


def ids(hits: Sequence[Hit]) -> list[int]:
    return [hit.chunk_id for hit in hits]


def fresh(folder: Path, count: int = 6, **others: Any) -> Draft:
    return replace(drafted(folder / "build", sample_entries(count)), **others)


# -- words -----------------------------------------------------------------------------------------------------


def test_words_score_as_in_tantivy(lite: World, questions: list[str]) -> None:
    assert len(questions) > 10
    texts = lite.draft.store.texts(0, len(lite.draft.vectors))
    first = min(word for _, _, text in texts for word in lite.words.stems(text))  # its dimension is 0
    for question in [*questions, first]:
        theirs, ours = lite.tantivy.search(question, 10_000), lite.words.search(question, 10_000)
        scores = {hit.chunk_id: hit.score for hit in theirs}
        assert {hit.chunk_id: hit.score for hit in ours} == pytest.approx(scores, abs=1e-3, rel=0)
        assert ours == sorted(ours, key=lambda hit: (-hit.score, hit.chunk_id))
        some = lite.live[::3]
        assert lite.words.scores(question, some) == pytest.approx(lite.tantivy.scores(question, some), abs=1e-3, rel=0)
        words = lite.words.words(question)
        assert words == lite.tantivy.words(question)
        assert lite.words.rarity([*words, "zyzzyva"]) == lite.tantivy.rarity([*words, "zyzzyva"])


def test_lengths_are_kept_as_tantivy_keeps_them(tmp_path: Path) -> None:
    assert as_kept(np.array([0, 1, 39, 40, 41, 42, 55, 56, 59, 60, 87, 88, 95, 96])).tolist() == [
        *(0, 1, 39, 40, 40, 42, 54, 56, 56, 60, 84, 88, 88, 96)
    ]
    rows = [(number, "", "word " + "other " * number) for number in range(0, 700, 7)]
    lexical.build(tmp_path / "lexical", "en", rows)
    average = np.mean([number + 1 for number, _, _ in rows])
    kept = as_kept(np.array([number + 1 for number, _, _ in rows]))
    scores = LexicalIndex.open(tmp_path / "lexical", "en").scores("word", np.array([row[0] for row in rows]))
    expected = lexical.rareness(100, 100) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * kept / average))
    assert list(scores.values()) == pytest.approx(sorted(expected, reverse=True), abs=1e-6)


@pytest.mark.parametrize("query", ["", "…", "zyzzyva", "+=(", "x" * 9_000])
def test_a_question_without_a_known_word_finds_nothing(lite: World, query: str) -> None:
    assert lite.words.search(query, 5) == []
    assert lite.words.scores(query, lite.live) == {}


def test_words_of_only_some_chunks(lite: World, monkeypatch: pytest.MonkeyPatch) -> None:
    question = "the water of the river under the bridge"
    for wanted in (Filter(), Filter(splits=(Split.TRAIN,)), Filter(sections=("history",)), Filter(page_ids=(1, 2))):
        within = lite.where(wanted)
        theirs = {hit.chunk_id: hit.score for hit in lite.tantivy.search(question, 10_000, within)}
        assert theirs
        by_fields = lite.words.search(question, 10_000, within)
        assert {hit.chunk_id: hit.score for hit in by_fields} == pytest.approx(theirs, abs=1e-3)
        assert lite.words.search(question, 10_000, IdSet(within.ids, within.size)) == by_fields
        assert lite.words.search(question, 3, within) == by_fields[:3]
    assert lite.words.search(question, 5, IdSet(np.zeros(0, dtype=np.int64), 10)) == []
    everything = lite.words.search(question, 10_000)
    monkeypatch.setattr(milvus_words, "MOST", 64)  # more than a server gives at once
    monkeypatch.setattr(milvus_words, "_NAMED", 50)
    monkeypatch.setattr(milvus_words, "_FETCHED", 50)
    assert lite.words.search(question, 10_000) == everything
    within = lite.where(Filter(splits=(Split.TRAIN,)))
    assert lite.words.search(question, 10_000, within) == [hit for hit in everything if hit.chunk_id in within.ids]
    assert lite.words.scores(question, lite.live) == pytest.approx(dict(everything), abs=1e-5)


def test_a_section_is_known_in_any_case_as_the_database_knows_it() -> None:
    letters = [chr(code) for code in range(1, 0x20000) if not 0xD800 <= code < 0xE000]
    changing = [letter for letter in letters if letter.lower() != letter]
    lowered = duckdb.execute("SELECT list_transform(?, lambda letter: lower(letter))", [changing]).fetchall()[0][0]
    assert [section_key(letter) for letter in changing] == [section_key(letter) for letter in lowered]
    assert section_key("ὈΔΥΣΣΕΎΣ") != section_key("Ὀδυσσεύς")  # its last letter is another, and is one to DuckDB
    assert section_key("History") != section_key("Histories")


# -- the vocabulary --------------------------------------------------------------------------------------------


def test_every_word_has_its_place_and_others_have_none(tmp_path: Path) -> None:
    words = sorted(["a", "ab", "b", "été", "zebra", "水", "𝕏"])
    write(tmp_path / "words", words, np.arange(14).reshape(7, 2))
    opened = Vocabulary.open(tmp_path / "words")
    assert [opened.find(word) for word in words] == list(range(len(opened))) == list(range(7))
    assert [opened.find(word) for word in ("", "aa", "abc", "ete", "zz", "𝕐")] == [None] * 6
    assert opened.holding[3].tolist() == [6, 7]


def test_a_vocabulary_may_be_empty_and_must_be_whole(tmp_path: Path) -> None:
    write(tmp_path / "none", [], np.zeros((0, 2), dtype=np.int64))
    assert Vocabulary.open(tmp_path / "none").find("a") is None
    write(tmp_path / "one", ["a"], np.ones((1, 2), dtype=np.int64))
    np.save(tmp_path / "one" / "holding.npy", np.ones((2, 2), dtype=np.int64))
    with pytest.raises(LookaheadError, match="not of one piece"):
        Vocabulary.open(tmp_path / "one")
    (tmp_path / "one" / "terms.npy").write_bytes(b"")
    with pytest.raises(LookaheadError, match="cannot read"):
        Vocabulary.open(tmp_path / "one")


# -- vectors ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, lite: World) -> World:
    """The same with a graph in place of exact search."""
    draft = replace(lite.draft, folder=tmp_path_factory.mktemp("graph"), name=f"wiki_{OWNER}_000002_000002")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milvus, "FLAT_UP_TO", 100)
        facts = indexed(draft, lite.engine)
    return opened(draft, lite.engine, facts, draft.folder / "tantivy")


def same(found: list[list[Hit]], exact: list[list[Hit]]) -> None:
    for hits, best in zip(found, exact, strict=True):
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in best], abs=1e-5)
        assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))
        surely = {hit.chunk_id for hit in best if hit.score > best[-1].score + 1e-5}
        assert surely <= set(ids(hits))


@pytest.mark.parametrize("k", [1, 10, 200, 100_000])
def test_vectors_are_found_as_by_exact_search(lite: World, graph: World, k: int) -> None:
    assert [world.facts["dense"]["kind"] for world in (lite, graph)] == [Kind.FLAT, Kind.HNSW]
    assert graph.facts["dense"]["recall"] >= 0.995
    exact = exact_search(lite.draft.vectors, lite.draft.probes, k, among=lite.live)
    same(lite.vectors.search_many(lite.draft.probes, k), exact)
    if k != 10:  # what a graph misses is not more than it was tuned to
        same(graph.vectors.search_many(lite.draft.probes[:3], k), exact[:3])
    assert lite.vectors.search(lite.draft.probes[0], 0) == []


@pytest.mark.parametrize("alone", [0, 100_000])
def test_vectors_of_only_some_chunks(lite: World, graph: World, alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus, "_ALONE_UP_TO", alone)
    probes = lite.draft.probes
    for wanted in (Filter(), Filter(splits=(Split.TRAIN,)), Filter(sections=("hIstory",)), Filter(page_ids=(1, 2))):
        within = lite.where(wanted)
        assert len(within)
        exact = exact_search(lite.draft.vectors, probes, 10, among=within.ids)
        for world in (lite, graph):
            same(world.vectors.search_many(probes, 10, within), exact)
        same(lite.vectors.search_many(probes, 10, IdSet(within.ids, within.size)), exact)
    assert lite.vectors.search(probes[0], 5, IdSet(np.zeros(0, dtype=np.int64), 10)) == []


def test_what_a_server_leaves_out_is_found_here_and_scores_are_our_own(
    lite: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = milvus_server.Server.search

    def careless(self: Any, name: str, *asked: Any) -> list[list[Hit]]:
        found = [[Hit(hit.chunk_id, 0.5) for hit in reversed(hits)] for hits in search(self, name, *asked)]
        return [*found[:-1], found[-1][:3]]

    monkeypatch.setattr(milvus_server.Server, "search", careless)
    near_the_dead = lite.draft.vectors.gather(lite.draft.gone[:4])
    exact = exact_search(lite.draft.vectors, near_the_dead, 10, among=lite.live)
    same(lite.vectors.search_many(near_the_dead, 10), exact)
    within = lite.where(Filter(splits=(Split.TRAIN,)))
    monkeypatch.setattr(milvus, "_ALONE_UP_TO", 0)
    exact = exact_search(lite.draft.vectors, near_the_dead, 10, among=within.ids)
    same(lite.vectors.search_many(near_the_dead, 10, within), exact)


def test_what_passes_is_asked_for_by_fields_where_they_are_few() -> None:
    def told(**fields: Any) -> str | None:
        return milvus.condition(IdSet(np.arange(3), 5, Filter(**fields)))

    assert told() == ""
    assert told(page_ids=(7, 8), splits=(Split.TEST,)) == 'page_id in [7, 8] and split in ["test"]'
    assert told(sections=("A",)) == told(sections=("a",)) == f"section_key in [{section_key('a')}]"
    assert told(page_ids=tuple(range(1001))) is None
    assert told(titles=("Bridge",)) is None
    assert milvus.condition(IdSet(np.arange(3), 5)) is None


def test_cosines_are_exact_and_odd_questions_are_refused(lite: World) -> None:
    some = lite.live[[3, 5, 8]]
    rows = lite.draft.vectors.gather(some)
    expected = rows @ rows[0] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[0])
    assert lite.vectors.cosines(rows[0], some) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(LookaheadError, match="16 dimensions"):
        lite.vectors.search(np.ones(3, dtype=np.float32), 5)
    with pytest.raises(LookaheadError, match="not numbers"):
        lite.vectors.search(np.full(DIM, np.nan, dtype=np.float32), 5)
    assert len(lite.vectors.search(np.zeros(DIM, dtype=np.float32), 5)) == 5


def test_dead_rows_are_not_there(lite: World) -> None:
    dead = lite.draft.gone
    assert len(dead) > 10
    assert lite.vectors.ids().tolist() == lite.live.tolist()
    assert (
        len(lite.vectors)
        == len(lite.words)
        == len(lite.live)
        == lite.engine.holds(len(lite.draft.vectors), len(lite.live))
    )
    nearest = lite.vectors.search_many(lite.draft.vectors.gather(dead), 3)
    assert not {hit.chunk_id for hits in nearest for hit in hits} & set(dead.tolist())


# -- building --------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Milvus]:
    made = Milvus.of(f"milvus:{tmp_path}/some.db")
    yield made
    server_of(made.spec).close()


def sending(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None, lose: int | None = None) -> list[int]:
    """The first ids of what is sent; the build is killed at one of them, or its first row lost."""
    put, sent = milvus_server.Server.put, []

    def watched(self: Any, name: str, rows: Sequence[Any]) -> None:
        if len(sent) == stop_at:
            raise KeyboardInterrupt
        sent.append(rows[0]["chunk_id"])
        put(self, name, rows[1:] if len(sent) - 1 == lose else rows)

    monkeypatch.setattr(milvus_server.Server, "put", watched)
    return sent


def test_a_killed_build_goes_on_with_the_shards_that_are_missing(
    tmp_path: Path, engine: Milvus, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = fresh(tmp_path)
    assert len(draft.vectors) > 2 * SHARD
    with monkeypatch.context() as patch:
        sending(patch, stop_at=2)
        with pytest.raises(KeyboardInterrupt):
            indexed(draft, engine)
    with monkeypatch.context() as patch:
        sent = sending(patch)
        facts = indexed(draft, engine)
    assert sent == list(range(2 * SHARD, len(draft.vectors), SHARD))
    assert engine.open_vectors(draft.folder, facts, draft.vectors).ids().tolist() == list(range(len(draft.vectors)))
    with monkeypatch.context() as patch:  # other rows: their words weigh otherwise
        sent = sending(patch)
        indexed(replace(draft, gone=np.array([0, 5])), engine)
    assert sent[0] == 1
    assert len(sent) == -(-len(draft.vectors) // SHARD)
    draft.store.close()


def test_what_a_server_lost_is_sent_again(tmp_path: Path, engine: Milvus, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = fresh(tmp_path)
    with monkeypatch.context() as patch:
        sent = sending(patch, lose=1)
        facts = indexed(draft, engine)
    assert sent[-1] == SHARD
    assert sent.count(SHARD) == 2
    assert len(engine.open_vectors(draft.folder, facts, draft.vectors).ids()) == len(draft.vectors)
    draft.store.close()


def test_an_index_may_be_empty(tmp_path: Path, engine: Milvus) -> None:
    draft = fresh(tmp_path, 1)
    facts = indexed(replace(draft, gone=np.arange(len(draft.vectors))), engine)
    assert len(engine.open_vectors(draft.folder, facts, draft.vectors)) == 0
    assert engine.open_vectors(draft.folder, facts, draft.vectors).search(draft.probes[0], 5) == []
    assert engine.open_words(draft.folder, facts).search("bridge", 5) == []
    draft.store.close()


# -- publishing ------------------------------------------------------------------------------------------------


def test_the_name_of_the_collection_stands_for_what_was_published_last(tmp_path: Path, engine: Milvus) -> None:
    draft = fresh(tmp_path, 1, title="my wiki-2")
    server = server_of(engine.spec)
    facts = indexed(draft, engine)
    assert server.meant_by("my_wiki_2") is None
    engine.publish(facts, OWNER)
    engine.publish(facts, OWNER)
    assert server.meant_by("my_wiki_2") == draft.name
    after = replace(draft, name=f"wiki_{OWNER}_000002_00000b")
    following = indexed(after, engine)
    assert server.meant_by("my_wiki_2") == draft.name
    engine.publish(following, OWNER)
    assert server.meant_by("my_wiki_2") == after.name
    with pytest.raises(LookaheadError, match=r"my_wiki_2 on milvus:.* belongs to another collection folder"):
        engine.refuse_strangers("my wiki-2", "feedbeef")
    draft.store.close()


def test_only_what_is_the_owners_and_not_kept_is_dropped(tmp_path: Path, engine: Milvus) -> None:
    server, names = server_of(engine.spec), [f"wiki_{OWNER}_{number:06d}_0000aa" for number in range(3)]
    others = ["wiki_feedbeef_000001_0000aa", f"notes_{OWNER}_mine", OWNER.replace("0", "o")]
    for name in [*names, *others]:
        server.create(name, "", 4)
    server.point("wiki", names[0])
    assert engine.sweep(OWNER, [names[2]]) == names[:2]
    assert sorted(server.collections()) == sorted([names[2], *others])
    assert server.meant_by("wiki") is None
    assert engine.sweep(OWNER, ()) == [names[2]]
    assert engine.sweep(OWNER, ()) == []


# -- servers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    with MilvusServer.started(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_a_server_may_be_killed_and_started_again(tmp_path: Path, server: MilvusServer) -> None:
    import pymilvus

    draft, engine = fresh(tmp_path), Milvus.of(server.spec)
    facts = indexed(draft, engine)
    engine.publish(facts, OWNER)
    vectors, words = engine.open_vectors(draft.folder, facts, draft.vectors), engine.open_words(draft.folder, facts)
    question, probe = "the water of a bridge", draft.probes[0]
    before = vectors.search(probe, 5), words.search(question, 5)
    other = pymilvus.MilvusClient(f"http://127.0.0.1:{server.port}", dedicated=True)  # a second client, by the alias
    (told,) = other.query("wiki", output_fields=["count(*)"])
    assert told["count(*)"] == len(draft.vectors)
    other.close()
    server.kill()
    away = f"{server.spec} does not answer; start it and type the same command again"
    for asked in (
        lambda: vectors.search(probe, 5),
        lambda: words.search(question, 5),
        lambda: engine.publish(facts, OWNER),
    ):
        with pytest.raises(Unreachable) as told:
            asked()
        assert str(told.value) == away
    server.start()
    assert (vectors.search(probe, 5), words.search(question, 5)) == before
    assert len(vectors.ids()) == len(draft.vectors)
    engine.sweep(OWNER, ())
    with pytest.raises(LookaheadError, match=r"has not what the manifest says .*; run: lookahead compact"):
        vectors.search(probe, 5)
    draft.store.close()


@pytest.mark.slow
def test_a_build_goes_on_when_its_server_is_back(
    tmp_path: Path, server: MilvusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, engine = fresh(tmp_path), Milvus.of(server.spec)
    put, sent = milvus_server.Server.put, []

    def dying(self: Any, name: str, rows: Sequence[Any]) -> None:
        if len(sent) == 1:
            server.kill()
        sent.append(rows[0]["chunk_id"])
        put(self, name, rows)

    monkeypatch.setattr(milvus_server.Server, "put", dying)
    with pytest.raises(Unreachable):
        indexed(draft, engine)
    server.start()
    facts = indexed(draft, engine)
    assert sent[:3] == [0, SHARD, SHARD]
    assert engine.open_vectors(draft.folder, facts, draft.vectors).ids().tolist() == list(range(len(draft.vectors)))
    engine.sweep(OWNER, ())
    draft.store.close()


def test_a_server_that_was_never_there_is_named() -> None:
    with pytest.raises(Unreachable, match=r"^milvus://127\.0\.0\.1:1 does not answer; start it"):
        Milvus.of("milvus://127.0.0.1:1").sweep(OWNER, ())


def test_a_file_that_is_open_elsewhere_is_refused_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holding = importlib.import_module("milvus_lite").MilvusLite(str(tmp_path / "wiki.db"))
    engine = Milvus.of(f"milvus:{tmp_path}/wiki.db")
    with pytest.raises(LookaheadError) as told:
        engine.sweep(OWNER, ())
    assert str(told.value) == (
        f"{tmp_path}/wiki.db is open in another process, and milvus-lite lets one in at a time; close that, or run "
        f"milvus-lite server --host 127.0.0.1 --data-dir {tmp_path}/wiki.db and use milvus://127.0.0.1:19530"
    )
    assert not caplog.records
    holding.close()
    assert engine.sweep(OWNER, ()) == []
    server_of(engine.spec).close()
    (tmp_path / "file.db").touch()
    with pytest.raises(LookaheadError, match=r"cannot open .*file.db: "):
        Milvus.of(f"milvus:{tmp_path}/file.db").sweep(OWNER, ())
    with pytest.raises(LookaheadError, match=r"there is no folder .*/nowhere for wiki.db"):
        Milvus.of(f"milvus:{tmp_path}/nowhere/wiki.db").sweep(OWNER, ())


def test_a_missing_package_is_named_with_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("milvus_lite", "pymilvus"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(LookaheadError, match=rf"needs {package}; run: pip install 'lookahead\[milvus\]'$"):
            Milvus.of(f"milvus:{tmp_path}/none.db").sweep(OWNER, ())


@pytest.mark.parametrize(
    ("spec", "whole"),
    [
        ("milvus://host", "milvus://host:19530"),
        ("milvus://10.0.0.7:1234/wiki", "milvus://10.0.0.7:1234/wiki"),
        ("milvus://[::1]/", "milvus://[::1]:19530"),
        ("milvus:./some.db", f"milvus:{Path.cwd()}/some.db"),
        ("milvus:/tmp/some.db", "milvus:/tmp/some.db"),
    ],
)
def test_a_spec_is_made_whole(spec: str, whole: str) -> None:
    assert whole_spec(spec) == open_engine(spec).spec == whole


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("milvus://user:secret@host", "a password goes into LOOKAHEAD_MILVUS_TOKEN"),
        ("milvus://", "milvus://HOST:PORT/DATABASE is how"),
        ("milvus:wiki.sqlite", "ends in .db, not in wiki.sqlite"),
        ("milvus:", "ends in .db"),
    ],
)
def test_a_spec_that_is_none_is_refused(spec: str, said: str) -> None:
    with pytest.raises(LookaheadError, match=said) as told:
        whole_spec(spec)
    assert "secret" not in str(told.value)


_LISTENING = """
import logging, sys
from index.milvus_server import server_of

class Listener(logging.Handler):
    closed = False
    def close(self):
        self.closed = True
        super().close()

listener = Listener()
server_of("milvus:" + sys.argv[1]).collections()
print(listener.closed)
"""


def test_the_logs_of_others_stay_open_when_pymilvus_is_loaded(tmp_path: Path) -> None:
    asked = [sys.executable, "-c", _LISTENING, str(tmp_path / "wiki.db")]
    told = subprocess.run(asked, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
    assert told.stderr == ""
