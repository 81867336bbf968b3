"""kill -9 at any moment: what was published stays, nothing half-written is ever served, and every resume completes."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from index import lexical
from index.build import Choices, compact, ingest
from index.layout import DATABASE, DENSE, LEXICAL
from retrieval.search import Mode, Searcher
from store.database import Store
from store.generations import Collection
from store.records import LookaheadError
from store.sources import open_source

CHILD = Path(__file__).with_name("crash_child.py")
OPTIONS = ("--encoder", "hashing", "--chunk-words", "10", "--workers", "1", "--delete-missing")

Texts = dict[int, str]


def text_of(page: int, version: int) -> str:
    return " ".join(f"P{page}v{version}s{n} lies near the old stone bridge of our town." for n in range(1 + page % 4))


def write(path: Path, texts: Texts) -> Path:
    rows = ({"page_id": page, "title": f"Article {page}", "text": text} for page, text in texts.items())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@contextmanager
def child(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is ready to run and waits for a line; killed at the end, whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(CHILD), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """A command to its end: exit code, stdout, stderr."""
    with child("run", *arguments) as process:
        out, err = process.communicate("go\n", timeout=60)
        return process.returncode, out, err


def texts_in(collection: Collection) -> Texts:
    """What the current generation holds, after it was found to agree with itself in every part."""
    generation = collection.current()
    name = generation.manifest.name
    assert [fault for fault in collection.verify() if fault.generation in (name, "")] == []
    with Store.open(generation.path / DATABASE) as store:
        assert store.faults() == []
        counts, rows = store.counts(), store.articles()
        texts = {
            row.page_id: " ".join(
                text for _, _, text in store.texts(row.first_chunk, row.first_chunk + row.chunk_count)
            )
            for row in rows
        }
        chunks = store.chunks(range(counts.chunks))
        dead = set(store.dead_ids().tolist())
    assert [found.chunk.chunk_id for found in chunks] == list(range(counts.chunks))
    assert len(texts) == len(rows) == counts.articles
    assert generation.manifest.counts == {"articles": len(rows), "chunks": counts.chunks, "live": counts.live}
    alive = [found.chunk.text for found in chunks if found.chunk.chunk_id not in dead]
    assert len(alive) == len(set(alive)) == counts.live, "no chunk is there twice"
    with Searcher.open(collection) as searcher:
        assert (len(searcher.dense), len(searcher.vectors)) == (counts.chunks, counts.chunks)
        assert searcher.vectors.between(0, counts.chunks).shape == (counts.chunks, 128)
        assert len(lexical.LexicalIndex.open(generation.path / LEXICAL, "en")) == counts.live
        for mode in Mode:
            assert all(hit.chunk.chunk_id not in dead for hit in searcher.search("old stone bridge", 20, mode=mode))
    return texts


def phase_of(collection: Collection) -> str:
    """How far the killed build had come, by the files it left."""
    builds = sorted(collection.path.glob("build-*.tmp"))
    if not builds:
        newest = max((path.name for path in collection.path.glob("gen-*")), default="")
        named = (collection.path / "CURRENT").exists() and (collection.path / "CURRENT").read_text().split()[0]
        return "renamed, not yet named" if newest and newest != named else "before or after"
    there = {path.relative_to(builds[-1]).as_posix() for path in builds[-1].rglob("*")}
    for file, phase in (
        ("manifest.json", "sealed"),
        (DENSE, "checking"),
        ("dense.tmp", "writing the dense index"),
        (LEXICAL, "indexing"),
        ("vectors", "encoding"),
        (DATABASE, "reading"),
    ):
        if file in there:
            return phase
    return "preparing"


def _changed(texts: Texts, version: int, dice: random.Random) -> Texts:
    """Some pages change, some go, some come."""
    kept = {page: text for page, text in texts.items() if dice.random() > 0.03}
    for page in dice.sample(sorted(kept), 6):
        kept[page] = text_of(page, version)
    fresh = range(max(texts) + 1, max(texts) + 13)
    return {**kept, **{page: text_of(page, version) for page in fresh}}


def _kill_again_and_again(folder: Path, kills: int, seed: int) -> None:
    """Kills ingests and compactions of a source that keeps changing; each state must be the one before or the next."""
    dice = random.Random(seed)
    home = folder / "home"
    collection = Collection(home / "collections" / "c")
    source = folder / "source.jsonl"
    pending = {page: text_of(page, 0) for page in range(1, 161)}
    published: Texts | None = None
    command: list[str | Path] = ["--home", home, "ingest", source, "-c", "c", "--quiet", *OPTIONS]
    write(source, pending)
    phases: Counter[str] = Counter()
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True, delete_missing=True)
    lasts, left = 1.0, kills
    while left:
        compacting = published is not None and dice.random() < 0.15
        doing: list[str | Path] = ["--home", home, "compact", "-c", "c", "--quiet"] if compacting else command
        with child("run", *doing) as process:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            time.sleep(dice.uniform(0, lasts))
            process.kill()
            out, err = process.communicate()
        if process.returncode == -signal.SIGKILL:
            left -= 1
            phases[("compact: " if compacting else "") + phase_of(collection)] += 1
        else:
            assert process.returncode == 0, (out, err)
        if collection.exists():
            now = texts_in(collection)
            assert now in (pending, published), "neither what was there nor what was to come"
            if now == pending:
                published = now
        else:
            assert published is None, "something was published and is gone"
        if dice.random() < 0.5:
            started = time.monotonic()
            ingest(collection, [open_source(source)], choices)  # goes on where it was
            lasts = 0.7 * lasts + 0.3 * max(time.monotonic() - started, 0.2)
            assert texts_in(collection) == pending
            assert list(collection.path.glob("build-*")) == []
            published, pending = pending, _changed(pending, kills - left + 1, dice)
            write(source, pending)
    code, _, err = run(*command)
    assert (code, err) == (0, "")
    assert texts_in(collection) == pending
    assert collection.verify() == []
    print(f"\n{kills} kills: " + ", ".join(f"{count} {phase}" for phase, count in phases.most_common()))


def test_four_kills_lose_nothing(tmp_path: Path) -> None:
    _kill_again_and_again(tmp_path, 4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_kills_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        _kill_again_and_again(tmp_path, 200, seed=2)


# -- the moments that chance seldom meets --------------------------------------------------------------------------

OLD: Texts = {page: text_of(page, 0) for page in range(1, 9)}
NEW: Texts = {**{page: text_of(page, 0) for page in range(3, 12)}, 5: text_of(5, 1)}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Two generations of OLD and more, and a source that now says NEW."""
    collection = Collection(tmp_path / "home" / "collections" / "c")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True, delete_missing=True)
    for texts in ({1: OLD[1]}, OLD):
        ingest(collection, [open_source(write(tmp_path / "a.jsonl", texts), "jsonl")], choices)
    write(tmp_path / "a.jsonl", NEW)
    return collection


@pytest.mark.parametrize(
    ("point", "served"),
    [
        pytest.param("before-rename", OLD, marks=pytest.mark.slow),
        ("after-rename", OLD),
        ("before-current", OLD),
        pytest.param("after-current", NEW, marks=pytest.mark.slow),
        ("in-garbage", NEW),
    ],
)
def test_a_kill_at_each_step_of_publishing_leaves_one_whole_state(
    collection: Collection, tmp_path: Path, point: str, served: Texts
) -> None:
    command = ["--home", tmp_path / "home", "ingest", tmp_path / "a.jsonl", "-c", "c", "--quiet", "--delete-missing"]
    with child("at", point, *command) as process:
        out, err = process.communicate("go\n", timeout=60)
        assert process.returncode == -signal.SIGKILL, (out, err)
    assert texts_in(collection) == served
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert texts_in(collection) == NEW
    assert collection.current().manifest.number == 3, "what was whole already is not made again"
    assert collection.verify() == [], "nor is anything half removed left to be found"


@pytest.mark.parametrize("point", [pytest.param("before-rename", marks=pytest.mark.slow), "before-current"])
def test_a_kill_while_compacting_leaves_one_whole_state(collection: Collection, tmp_path: Path, point: str) -> None:
    command = ["--home", tmp_path / "home", "compact", "-c", "c", "--quiet"]
    with child("at", point, *command) as process:
        process.communicate("go\n", timeout=60)
        assert process.returncode == -signal.SIGKILL
    assert texts_in(collection) == OLD
    assert run(*command)[0] == 0
    assert texts_in(collection) == OLD


# -- several processes ---------------------------------------------------------------------------------------------


def test_a_second_ingest_is_refused_in_one_line_that_names_the_first(collection: Collection, tmp_path: Path) -> None:
    command = ["--home", tmp_path / "home", "ingest", tmp_path / "a.jsonl", "-c", "c", "--quiet"]
    with collection.writing():
        code, out, err = run(*command)
    holder = (collection.path / "LOCK").read_text()
    assert (code, out) == (2, "")
    assert err == f"error: {collection.path} is being written by {holder}; wait for it to end\n"
    assert run(*command)[0] == 0, "a lock whose holder is gone holds no one up"


def test_searches_never_fail_while_ingests_publish(collection: Collection, tmp_path: Path) -> None:
    choices = Choices(workers=1, quiet=True, delete_missing=True)
    with child("search", collection.path) as process:
        for last in (12, 15, 18):
            texts = {page: text_of(page, last) for page in range(1, last)}
            ingest(collection, [open_source(write(tmp_path / "a.jsonl", texts), "jsonl")], choices)
        compact(collection, quiet=True)
        process.terminate()
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        assert int(out) >= 10


# -- a full disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [pytest.param(10, marks=pytest.mark.slow), 2_000, 1_400_000])
def test_a_disk_that_takes_no_more_is_one_line_and_costs_nothing(
    collection: Collection, tmp_path: Path, most: int
) -> None:
    """No file may grow past `most` bytes: writing fails where a full disk would make it fail, whoever writes."""
    (collection.path / ".checked.json").unlink(missing_ok=True)
    command = ["--home", tmp_path / "home", "ingest", tmp_path / "a.jsonl", "-c", "c", "--quiet", "--delete-missing"]
    with child("run", *command) as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        out, err = process.communicate("go\n", timeout=60)
    if process.returncode == 0:  # everything fitted
        assert texts_in(collection) == NEW
        return
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert texts_in(collection) == OLD
    assert run(*command)[0] == 0
    assert texts_in(collection) == NEW


def test_a_folder_that_holds_no_collection_is_never_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match="there is no collection at"):
        Collection(tmp_path / "none").current()
    assert not (tmp_path / "none").exists()
