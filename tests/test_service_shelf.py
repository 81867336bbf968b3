"""The shelf: what is lent stays open as long as it is lent, and newer generations take its place meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_service import PAGES, publish

from index.build import compact
from retrieval.search import Searcher
from retrieval.service import shelf as shelves
from retrieval.service.problems import Problem
from retrieval.service.shelf import Lease, Shelf
from store.generations import Collection
from store.records import LookaheadError

OTHER = {9: ("Fjord", [("", "A deep fjord is cut into the coast by slow ice.")])}
CHANGED = {1: ("Tea", [("", "White tea is poured slowly into a bowl of thin glass.")])}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generations of `wiki`: PAGES, and then another text of page 1."""
    home = tmp_path_factory.mktemp("shelf")
    publish(home, "wiki", PAGES)
    publish(home, "wiki", CHANGED)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """As before the second was published."""
    shutil.copytree(made, tmp_path / "home", copy_function=os.link)
    turn(tmp_path / "home", 1)
    return tmp_path / "home"


def turn(home: Path, number: int) -> None:
    """What publishing ends with, and rolling back."""
    wiki(home)._point_to(number)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[Searcher]:
    """The searchers that were closed, in that order."""
    gone: list[Searcher] = []
    close = Searcher.close
    monkeypatch.setattr(Searcher, "close", lambda self: (gone.append(self), close(self)))
    return gone


@pytest.fixture
def shelf(home: Path) -> Iterator[Shelf]:
    opened = Shelf.open(home, ["wiki"], "wiki")
    opened.refresh()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def still(made: Path) -> Iterator[Shelf]:
    """Over two generations of which the second is current; nothing is changed there."""
    opened = Shelf.open(made, ["wiki"], "wiki")
    opened.refresh()
    yield opened
    opened.close()


def wiki(home: Path) -> Collection:
    return Collection(home / "collections" / "wiki")


def best(lease: Lease, query: str = "tea poured slowly") -> str:
    return lease.searcher.search(query, 1)[0].chunk.text


# -- leases --------------------------------------------------------------------------------------------------


def test_a_lease_names_what_it_is_of(still: Shelf) -> None:
    with still.lease() as lease, still.lease("wiki") as same:
        assert (lease.name, lease.generation) == ("wiki", "gen-000002")
        assert lease.searcher is same.searcher
        assert lease.published.manifest.counts["articles"] == 5
        assert best(lease).startswith("White tea")


@pytest.mark.parametrize("name", ["wikis", "", "../wiki", "/etc", "wiki/gen-000001", "a\nb", "x" * 5_000])
def test_an_unknown_name_is_a_problem_in_one_short_line(still: Shelf, name: str) -> None:
    with pytest.raises(Problem, match=r"there are: wiki$") as told:
        still.lease(name)
    assert told.value.status == 404
    assert len(told.value.detail) < 150
    assert told.value.detail.isprintable()


@pytest.mark.parametrize("name", ["../wiki", ".hidden", "a/b", ""])
def test_a_path_is_no_name_to_open(tmp_path: Path, name: str) -> None:
    with pytest.raises(LookaheadError, match="is not a name for a collection"):
        Shelf.open(tmp_path, [name], name)


def test_the_default_is_one_of_those_served(home: Path) -> None:
    with pytest.raises(LookaheadError, match='"other" is not among those served: wiki'):
        Shelf.open(home, ["wiki"], "other")


def test_a_second_lease_needs_the_first_not_to_be_over(still: Shelf) -> None:
    lease = still.lease()
    second = lease.again()
    lease.give_back()
    lease.give_back()
    with pytest.raises(Problem, match="has gone"):
        lease.again()
    assert best(second).startswith("White tea")
    second.give_back()
    assert still.open_generations() == 1


# -- newer generations ---------------------------------------------------------------------------------------


def test_a_published_generation_is_lent_and_the_old_one_closed_after_its_last_lease(
    home: Path, shelf: Shelf, closed: list[Searcher]
) -> None:
    old = shelf.lease()
    also_old = old.again()
    before = old.searcher
    turn(home, 2)
    with shelf.lease() as lease:
        assert lease.generation == "gen-000001", "nobody has looked yet"
    shelf.refresh()
    with shelf.lease() as new:
        assert (new.generation, best(new)) == ("gen-000002", CHANGED[1][1][0][1])
    assert best(old).startswith("Green tea")
    assert shelf.open_generations() == 2
    old.give_back()
    assert closed == []
    also_old.give_back()
    shelf.close()
    assert closed[0] is before
    assert shelf.open_generations() == 0


def test_listeners_hear_of_what_was_replaced_while_it_is_open(home: Path, shelf: Shelf, closed: list[Searcher]) -> None:
    told: list[tuple[str, str, int]] = []
    shelf.add_listener(lambda name, generation: told.append((name, generation, len(closed))))
    turn(home, 2)
    shelf.refresh()
    assert told == [("wiki", "gen-000001", 0)]


def test_a_generation_of_the_same_name_is_told_apart(home: Path, shelf: Shelf) -> None:
    turn(home, 2)
    shelf.refresh()
    wiki(home).roll_back()
    publish(home, "wiki", OTHER)
    shelf.refresh()
    with shelf.lease() as lease:
        assert (lease.generation, best(lease, "a deep fjord")) == ("gen-000002", OTHER[9][1][0][1])


def test_a_look_at_what_has_not_changed_opens_nothing(still: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Collection, "newest_sound", None)
    still.refresh()
    assert still.faults() == {}


@contextlib.contextmanager
def asking(shelf: Shelf) -> Iterator[set[str]]:
    """Two threads that ask all the while, and what they heard."""
    heard: set[str] = set()
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                with shelf.lease() as lease:
                    heard.add(best(lease))
            except Exception as error:
                heard.add(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield heard
    ended.set()
    for thread in threads:
        thread.join()


def test_no_request_is_lost_while_generations_take_turns(home: Path, shelf: Shelf) -> None:
    with asking(shelf) as heard:
        for number in (2, 1, 2, 1):
            turn(home, number)
            shelf.refresh()
    assert heard == {PAGES[1][1][0][1], CHANGED[1][1][0][1]}


@pytest.mark.slow
def test_no_request_is_lost_while_a_collection_is_worked_on(home: Path, shelf: Shelf) -> None:
    steps = [
        lambda: publish(home, "wiki", OTHER),
        lambda: wiki(home).collect_garbage(1),
        lambda: compact(wiki(home), quiet=True),
        lambda: wiki(home).roll_back(),
        lambda: publish(home, "wiki", CHANGED),
        lambda: wiki(home).collect_garbage(1),
    ]
    with asking(shelf) as heard:
        for step in steps:
            step()
            shelf.refresh()
    assert heard == {PAGES[1][1][0][1], CHANGED[1][1][0][1]}
    assert shelf.faults() == {}
    assert shelf.lease().generation == wiki(home).current().manifest.name


# -- what goes wrong -----------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.chmod(0o644)
    path.unlink()  # it may be a hard link
    path.write_bytes(raw)


def test_a_damaged_generation_leaves_the_old_one_in_place_and_is_told_of_once(
    home: Path, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    turn(home, 2)
    flip(home / "collections" / "wiki" / "gen-000002" / "chunks.duckdb")
    with caplog.at_level(logging.WARNING, "lookahead.service"):
        shelf.refresh()
        (home / "collections" / "wiki" / "CURRENT").touch()
        shelf.refresh()
    assert len(caplog.records) == 1
    assert "chunks.duckdb: its checksum changed" in shelf.faults()["wiki"]
    assert shelf.faults()["wiki"].endswith("serving gen-000001")
    with shelf.lease() as lease:
        assert best(lease).startswith("Green tea")
    assert shelf.ready()
    turn(home, 1)
    shelf.refresh()
    assert shelf.faults() == {}


def test_what_cannot_be_opened_leaves_the_old_one_in_place_and_is_tried_again(
    home: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, closed: list[Searcher]
) -> None:
    turn(home, 2)
    warm = Searcher.warm

    def broken(self: Searcher) -> None:
        raise OSError(f"too many open files, {home}/collections among them")

    monkeypatch.setattr(Searcher, "warm", broken)
    shelf.refresh()
    monkeypatch.setattr(Searcher, "warm", warm)
    assert shelf.faults() == {"wiki": "too many open files, collections among them"}
    shelf.refresh()
    assert shelf.lease().generation == "gen-000001", "not every second"
    monkeypatch.setattr(shelves, "AGAIN", -1.0)
    shelf.refresh()
    assert shelf.lease().generation == "gen-000002"
    assert shelf.faults() == {}
    assert shelf.open_generations() == 2, "the one that failed is not kept"


def test_one_that_is_not_there_does_not_keep_the_others_from_being_served(home: Path) -> None:
    shelf = Shelf.open(home, ["wiki", "later"], "wiki")
    assert not shelf.ready()
    shelf.refresh()
    assert shelf.ready()
    assert (shelf.names(), shelf.served()) == (["wiki", "later"], ["wiki"])
    said = shelf.faults()["later"]
    assert said == "there is no collection at collections/later; run: lookahead ingest SOURCE --collection NAME"
    with pytest.raises(Problem, match="there is no collection at collections/later") as told:
        shelf.lease("later")
    assert (told.value.status, told.value.headers) == (503, {"Retry-After": "30"})
    shutil.copytree(home / "collections" / "wiki", home / "collections" / "later")
    shelf.refresh()
    assert shelf.faults() == {}
    with shelf.lease("later") as lease:
        assert best(lease).startswith("Green tea")
    shelf.close()


def test_one_that_cannot_be_loaded_at_the_start_is_not_lent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf.open(home, ["wiki"], "wiki")
    (home / "collections" / "wiki" / "gen-000001" / "dense.faiss").unlink()
    with shelf.lease() as lease, pytest.raises(Problem) as told:
        _ = lease.searcher
    assert (told.value.status, str(home) in told.value.detail) == (503, False)
    shelf.refresh()
    with pytest.raises(Problem, match=r"dense\.faiss"):
        shelf.lease()
    assert not shelf.ready()
    assert shelf.open_generations() == 0


# -- its life ------------------------------------------------------------------------------------------------


def test_a_searcher_that_was_handed_over_stays_its_owners(home: Path, closed: list[Searcher]) -> None:
    with Searcher.open(wiki(home)) as searcher:
        shelf = Shelf.holding(searcher)
        turn(home, 2)
        shelf.refresh()
        with shelf.lease("wiki") as lease:
            assert lease.searcher is searcher
        assert (shelf.names(), shelf.default, shelf.ready()) == (["wiki"], "wiki", True)
        shelf.close()
        assert closed == []


def test_what_is_closed_lends_nothing_and_closes_what_comes_back(home: Path, closed: list[Searcher]) -> None:
    shelf = Shelf.open(home, ["wiki"], "wiki")
    lease = shelf.lease()
    assert best(lease).startswith("Green tea")
    shelf.close()
    with pytest.raises(Problem, match="shutting down") as told:
        shelf.lease()
    assert told.value.status == 503
    assert best(lease).startswith("Green tea")
    assert closed == []
    lease.give_back()
    assert len(closed) == 1


def test_it_is_warmed_and_kept_fresh_beside_the_event_loop(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, warm = threading.Event(), Searcher.warm

    def slow(self: Searcher) -> None:
        assert go.wait(10)
        warm(self)

    monkeypatch.setattr(Searcher, "warm", slow)

    async def live() -> list[tuple[bool, str]]:
        seen = []
        shelf = Shelf.open(home, ["wiki"], "wiki")
        async with asyncio.timeout(20), shelf.kept_fresh(0.01):
            seen.append((shelf.ready(), shelf.lease().generation))
            go.set()
            while not shelf.ready():
                await asyncio.sleep(0.005)
            go.clear()
            turn(home, 2)
            await asyncio.sleep(0.05)
            seen.append((shelf.ready(), shelf.lease().generation))
            go.set()
            while shelf.lease().generation == "gen-000001":
                await asyncio.sleep(0.005)
            seen.append((shelf.ready(), shelf.lease().generation))
        seen.append((shelf.ready(), str(shelf.open_generations())))
        return seen

    assert asyncio.run(live())[:3] == [(False, "gen-000001"), (True, "gen-000001"), (True, "gen-000002")]
