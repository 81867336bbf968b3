"""kill -9 at any moment: what was published stays, nothing half-written is ever served, and every resume completes."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from index import lexical
from index.build import Choices, compact, ingest
from index.layout import DENSE, LEXICAL
from retrieval.search import Mode, Searcher
from store.database import Store
from store.generations import Collection
from store.places import DATABASE
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


class Child:
    """A process that is ready to run and waits for a line."""

    def __init__(self, nursery: socket.socket, arguments: Sequence[str | Path]) -> None:
        streams = [os.pipe() for _ in range(3)]
        (its_input, ours), (out, its_output), (err, its_errors) = streams
        socket.send_fds(nursery, [json.dumps([*map(str, arguments)]).encode()], [its_input, its_output, its_errors])
        for handle in (its_input, its_output, its_errors):
            os.close(handle)
        self._nursery = nursery
        self._input, self._output, self._errors = os.fdopen(ours, "w"), os.fdopen(out), os.fdopen(err)
        self.pid = int.from_bytes(nursery.recv(4, socket.MSG_WAITALL))
        self.returncode: int | None = None
        self.ready = self._output.readline()

    def go(self) -> None:
        self._input.write("go\n")
        self._input.flush()

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ended(self) -> tuple[str, str]:
        """What it wrote to stdout and stderr (a few lines, which fit into a pipe), at its end."""
        with self._input, self._output, self._errors:
            told = self._output.read(), self._errors.read()
        status = int.from_bytes(self._nursery.recv(4, socket.MSG_WAITALL))
        self.returncode = os.waitstatus_to_exitcode(status)
        return told


@pytest.fixture(scope="module")
def nursery() -> Iterator[socket.socket]:
    """A process that has imported everything, where those to be killed come from."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-W", "ignore", str(CHILD), str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        yield ours
        ours.close()
        assert process.wait(30) == 0


@contextmanager
def child(nursery: socket.socket, *arguments: str | Path) -> Iterator[Child]:
    """Killed at the end, whatever happens."""
    process = Child(nursery, arguments)
    try:
        assert process.ready == "ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.send(signal.SIGKILL)
            process.ended()


def run(nursery: socket.socket, *arguments: str | Path) -> tuple[int | None, str, str]:
    """A command to its end: exit code, stdout, stderr."""
    with child(nursery, "run", *arguments) as process:
        process.go()
        out, err = process.ended()
        return process.returncode, out, err


def completed(*arguments: str | Path) -> None:
    """A command in this process, as whole and silent as `--quiet` promises."""
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert (done.exit_code, done.stderr) == (0, ""), done.output


def texts_in(collection: Collection) -> Texts:
    """What the current generation holds, after it was found to agree with itself in every part."""
    generation = collection.current()
    name = generation.manifest.name
    assert [fault for fault in collection.verify() if fault.generation in (name, "")] == []
    with Store.open(generation.path / DATABASE) as store:
        assert store.faults() == []
        counts, rows = store.counts(), store.articles()
        pieces = [text for _, _, text in store.texts(0, counts.chunks)]
        texts = {row.page_id: " ".join(pieces[row.first_chunk :][: row.chunk_count]) for row in rows}
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


def _kill_again_and_again(nursery: socket.socket, folder: Path, kills: int, pages: int, seed: int) -> None:
    """Kills ingests and compactions of a source that keeps changing; each state must be the one before or the next."""
    dice = random.Random(seed)
    home = folder / "home"
    collection = Collection(home / "collections" / "c")
    source = folder / "source.jsonl"
    pending = {page: text_of(page, 0) for page in range(1, pages + 1)}
    published: Texts | None = None
    command: list[str | Path] = ["--home", home, "ingest", source, "-c", "c", "--quiet", *OPTIONS]
    write(source, pending)
    phases: Counter[str] = Counter()
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True, delete_missing=True)
    lasts, left = 0.5, kills
    while left:
        compacting = published is not None and dice.random() < 0.15
        doing: list[str | Path] = ["--home", home, "compact", "-c", "c", "--quiet"] if compacting else command
        with child(nursery, "run", *doing) as process:
            process.go()
            time.sleep(dice.uniform(0, lasts))
            process.send(signal.SIGKILL)
            out, err = process.ended()
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
    completed(*command)
    assert texts_in(collection) == pending
    assert collection.verify() == []
    print(f"\n{kills} kills: " + ", ".join(f"{count} {phase}" for phase, count in phases.most_common()))


def test_four_kills_lose_nothing(nursery: socket.socket, tmp_path: Path) -> None:
    _kill_again_and_again(nursery, tmp_path, 4, pages=40, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_kills_lose_nothing(
    nursery: socket.socket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        _kill_again_and_again(nursery, tmp_path, 200, pages=160, seed=2)


# -- the moments that chance seldom meets --------------------------------------------------------------------------

OLD: Texts = {page: text_of(page, 0) for page in range(1, 9)}
NEW: Texts = {**{page: text_of(page, 0) for page in range(3, 12)}, 5: text_of(5, 1)}


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generations, of a part of OLD and of OLD, and a source that now says NEW; each test gets them as they are."""
    folder = tmp_path_factory.mktemp("crash") / "live"
    folder.mkdir()
    collection = Collection(folder / "home" / "collections" / "c")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True, delete_missing=True)
    for texts in ({1: OLD[1]}, OLD):
        ingest(collection, [open_source(write(folder / "a.jsonl", texts), "jsonl")], choices)
    write(folder / "a.jsonl", NEW)
    return Path(shutil.copytree(folder, folder.with_name("kept")))


@pytest.fixture
def folder(twice: Path) -> Path:
    """In the place where it was made: a collection knows its sources by their paths."""
    live = twice.with_name("live")
    shutil.rmtree(live)
    return Path(shutil.copytree(twice, live))


@pytest.fixture
def collection(folder: Path) -> Collection:
    return Collection(folder / "home" / "collections" / "c")


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
    nursery: socket.socket, collection: Collection, folder: Path, point: str, served: Texts
) -> None:
    command = ["--home", folder / "home", "ingest", folder / "a.jsonl", "-c", "c", "--quiet", "--delete-missing"]
    with child(nursery, "at", point, *command) as process:
        process.go()
        out, err = process.ended()
        assert process.returncode == -signal.SIGKILL, (out, err)
    assert texts_in(collection) == served
    completed(*command)
    assert texts_in(collection) == NEW
    assert collection.current().manifest.number == 3, "what was whole already is not made again"
    assert collection.verify() == [], "nor is anything half removed left to be found"


@pytest.mark.parametrize("point", [pytest.param("before-rename", marks=pytest.mark.slow), "before-current"])
def test_a_kill_while_compacting_leaves_one_whole_state(
    nursery: socket.socket, collection: Collection, folder: Path, point: str
) -> None:
    command = ["--home", folder / "home", "compact", "-c", "c", "--quiet"]
    with child(nursery, "at", point, *command) as process:
        process.go()
        process.ended()
        assert process.returncode == -signal.SIGKILL
    assert texts_in(collection) == OLD
    completed(*command)
    assert texts_in(collection) == OLD


# -- several processes ---------------------------------------------------------------------------------------------


def test_a_second_ingest_is_refused_in_one_line_that_names_the_first(
    nursery: socket.socket, collection: Collection, folder: Path
) -> None:
    command = ["--home", folder / "home", "ingest", folder / "a.jsonl", "-c", "c", "--quiet"]
    with collection.writing():
        code, out, err = run(nursery, *command)
    holder = (collection.path / "LOCK").read_text()
    assert (code, out) == (2, "")
    assert err == f"error: {collection.path} is being written by {holder}; wait for it to end\n"
    completed(*command)  # a lock whose holder is gone holds no one up


def test_searches_never_fail_while_ingests_publish(
    nursery: socket.socket, collection: Collection, folder: Path
) -> None:
    choices = Choices(workers=1, quiet=True, delete_missing=True)
    with child(nursery, "search", collection.path) as process:
        for last in (12, 15, 18):
            texts = {page: text_of(page, last) for page in range(1, last)}
            ingest(collection, [open_source(write(folder / "a.jsonl", texts), "jsonl")], choices)
        compact(collection, quiet=True)
        process.send(signal.SIGTERM)
        out, err = process.ended()
        assert (process.returncode, err) == (0, "")
        assert int(out) >= 10


# -- a full disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [pytest.param(10, marks=pytest.mark.slow), 2_000, 1_400_000])
def test_a_disk_that_takes_no_more_is_one_line_and_costs_nothing(
    nursery: socket.socket, collection: Collection, folder: Path, most: int
) -> None:
    """No file may grow past `most` bytes: writing fails where a full disk would make it fail, whoever writes."""
    (collection.path / ".checked.json").unlink(missing_ok=True)
    command = ["--home", folder / "home", "ingest", folder / "a.jsonl", "-c", "c", "--quiet", "--delete-missing"]
    with child(nursery, "run", *command) as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        process.go()
        out, err = process.ended()
    if process.returncode == 0:  # everything fitted
        assert texts_in(collection) == NEW
        return
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert texts_in(collection) == OLD
    completed(*command)
    assert texts_in(collection) == NEW


def test_a_folder_that_holds_no_collection_is_never_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match="there is no collection at"):
        Collection(tmp_path / "none").current()
    assert not (tmp_path / "none").exists()
