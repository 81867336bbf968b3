"""Pages become articles in order, and one bad page never costs another."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.cleaning import _sections, articles, clean
from store.records import Article, LookaheadError, Section, digest
from store.sources import Layout, Page, Skipped
from store.sources.pages import CLEANING
from store.workers import Failure, Pool

ROOT = Path(__file__).resolve().parents[1]
TEN = "one two three four five six seven eight nine ten"


def wiki(number: int, body: str = TEN) -> Page:
    return Page(number, f"T{number}", body, Layout.WIKITEXT)


# What the workers of these tests do; they are found by name in the child.


def misbehave(what: str) -> str:
    if what == "sleep":
        time.sleep(60)
    if what == "hoard":
        return str(len(bytearray(2_000_000_000)))
    if what == "dive":
        return misbehave(what)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "break":
        raise ValueError("broken")
    return what.upper()


def test_a_page_of_each_layout_becomes_an_article():
    bodies = {
        Layout.WIKITEXT: f"'''{TEN}'''",
        Layout.EXTRACTED: f"T\n\n{TEN}",
        Layout.SECTIONS: json.dumps([{"heading": "", "text": TEN}]),
        Layout.PLAIN: TEN,
        Layout.MARKDOWN: f"# T\n*{TEN}*",
    }
    for layout, body in bodies.items():
        assert clean(Page(1, " T\n", body, layout)) == Article(1, "T", (Section("", TEN),))


@pytest.mark.parametrize(
    ("title", "body", "layout"),
    [
        ("Ada (disambiguation)", TEN, Layout.PLAIN),
        ("Ada", f"{TEN}\n{{{{Disambiguation}}}}", Layout.WIKITEXT),
        ("Ada", f"{TEN}\n{{{{disambig|geo|surname}}}}", Layout.WIKITEXT),
        ("Ada", f"{TEN}\n{{{{Airport disambiguation}}}}", Layout.WIKITEXT),
        ("Ada", f"{TEN}\n{{{{hndis|Ada}}}}", Layout.WIKITEXT),
        ("Ada", f"{TEN}\n{{{{Begriffsklärung}}}}", Layout.WIKITEXT),
        ("Ada", "'''Ada''' may refer to:\n* one thing or another\n* another thing, or the one after", Layout.WIKITEXT),
        ("Ada", "Ada\n\nAda can also refer to:\nPlaces.\nA town in Ohio, a county in Idaho", Layout.EXTRACTED),
    ],
)
def test_disambiguation_pages_are_passed_over(title, body, layout):
    assert clean(Page(1, title, body, layout)) == Skipped(1, title, "disambiguation", False)


@pytest.mark.parametrize(
    "body",
    [
        f"{{{{other uses|Ada (disambiguation)}}}} {TEN}",
        f"{{{{Redirect|A|other uses|B (disambiguation)}}}} {TEN} [[x]]{{{{disambiguation needed|date=May}}}}",
        f"{{{{redirect-disambig|A|B}}}} {TEN}",
        f"The term may refer to: {TEN}",
        "The minor scale may refer to:\n\n" + "word " * 60,
    ],
)
def test_articles_that_only_mention_disambiguation_stay(body):
    assert isinstance(clean(wiki(1, body)), Article)


def test_fewer_than_ten_words_are_empty_and_ten_are_a_stub():
    assert clean(wiki(1, "one two three four five six seven eight nine")) == Skipped(1, "T1", "empty", False, "9 words")
    assert clean(wiki(1, "")) == Skipped(1, "T1", "empty", False, "0 words")
    assert isinstance(clean(wiki(1, TEN)), Article)


def test_the_version_of_the_cleaner_is_raised_when_its_text_changes():
    # A collection reads its pages again only when CLEANING changes. Where this fails because the cleaner gives other
    # text than it did, raise CLEANING in store/sources/pages.py and put the new version and digest here.
    bodies = {
        Layout.WIKITEXT: "'''A''' ({{IPA|x}}) is {{convert|5|km}} {{x}}[[b|c]]<ref>d</ref>.\n"
        "{|\n|e\n|}\n==F==\n* g\n==Notes==\n* h",
        Layout.EXTRACTED: "T\n\nA () is, , b<br>c here now.\nHistory.\nIt was.\n |x\nUses.\n- one\nReferences.\n"
        "D, 1995.\n",
        Layout.SECTIONS: json.dumps([{"heading": " A\n", "text": "b\u0000\n\n c  d"}]),
        Layout.PLAIN: "A line that is wrapped by hand, being long enough\nfor it.\n\nb\n",
        Layout.MARKDOWN: "# T\n*a* [b](c)\n\nD\n-\n- e\n  f\n",
    }
    sections = [_sections(Page(1, "T", body, layout), "T") for layout, body in bodies.items()]
    assert (CLEANING, digest(repr(sections))) == ("1", "883ea8795d62ecd6225fbeda4ab2c784")


def test_pages_and_skipped_ones_come_out_in_the_order_they_went_in():
    items: list[Page | Skipped] = []
    for number in range(1, 61):
        # Long pages among short ones: their workers finish late.
        items.append(wiki(number, "[[a|b]] " * (4000 if number % 7 == 0 else 20)))
        if number % 5 == 0:
            items.append(Skipped(number, "R", "redirect", False))
        if number % 3 == 0:
            items.append(Page(number, "P", TEN, Layout.PLAIN))
    found = list(articles(items, workers=2))
    assert [item if isinstance(item, Skipped) else item[0] for item in found] == items
    assert all(isinstance(item, Skipped) or item[1].page_id == item[0].page_id for item in found)
    assert not multiprocessing.active_children()


def test_pages_are_read_only_a_little_ahead():
    read = 0

    def source() -> Iterator[Page]:
        nonlocal read
        for read in range(1, 1000):
            yield wiki(read, "[[a|b]] " * 10_000 if read == 1 else TEN)

    stream = articles(source(), workers=2)
    next(stream)
    assert 2 < read <= 18
    stream.close()


def test_no_process_is_started_before_wikitext_comes():
    stream = articles([Page(1, "P", TEN, Layout.PLAIN), wiki(2)], workers=2)
    next(stream)
    assert not multiprocessing.active_children()
    next(stream)
    assert multiprocessing.active_children()
    stream.close()
    assert not multiprocessing.active_children()


def test_a_worker_killed_from_outside_costs_one_page_at_most():
    pages = [wiki(number, "[[a|b]] " * 400) for number in range(1, 41)]
    stream = articles(pages, workers=2)
    found = [next(stream)]
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    found += list(stream)
    lost = [item for item in found if isinstance(item, Skipped)]
    assert len(found) == 40
    assert len(lost) <= 2
    assert all(item.failed and item.reason == "error" and "signal 9" in item.detail for item in lost)


def test_time_memory_depth_and_death_cost_only_the_item_they_befall():
    asked = ["a", "sleep", "hoard", "b", "dive", "die", "break", "c"]
    with Pool(misbehave, workers=2, seconds=1, megabytes=300) as pool:
        tickets = [pool.submit(what) for what in asked]
        results = [pool.wait(ticket) for ticket in tickets]
    reasons = [result.reason if isinstance(result, Failure) else result for result in results]
    assert reasons == ["A", "timeout", "memory", "B", "depth", "error", "error", "C"]
    assert results[5] == Failure("error", "the worker process was killed by signal 9")
    assert results[6] == Failure("error", "ValueError: broken")


def test_time_that_the_caller_takes_does_not_count_as_the_workers():
    with Pool(misbehave, workers=1, seconds=0.2, megabytes=300) as pool:
        ticket = pool.submit("a")
        time.sleep(0.5)
        assert pool.wait(ticket) == "A"


def test_a_function_that_no_worker_can_find_is_one_error_and_not_an_endless_restart(monkeypatch, capfd):
    monkeypatch.setattr(misbehave, "__qualname__", "misbehave")
    monkeypatch.setattr(sys.modules[__name__], "misbehave", misbehave)
    monkeypatch.setattr(misbehave, "__module__", "store.nowhere")
    monkeypatch.setitem(sys.modules, "store.nowhere", sys.modules[__name__])
    with (
        Pool(misbehave, workers=1, seconds=1, megabytes=300) as pool,
        pytest.raises(LookaheadError, match="could not start"),
    ):
        pool.submit("a")
    assert "No module named 'store.nowhere'" in capfd.readouterr().err


def test_a_worker_out_of_time_has_timed_out_even_where_nobody_was_looking():
    with Pool(misbehave, workers=1, seconds=0.1, megabytes=300) as pool:
        ticket = pool.submit("sleep")
        time.sleep(1.6)  # by now its own alarm has ended it
        assert pool.wait(ticket) == Failure("timeout", "more than 0.1 seconds")


READING = """
from store.cleaning import articles
from store.sources import Layout, Page

def work():
    pages = (Page(number, "T", "[[a|b]] " * 2000, Layout.WIKITEXT) for number in range(1, 10_000))
    yield from articles(pages, workers=2)
"""
STUCK = """
import time
from store.workers import Pool

def sleep(_):
    time.sleep(60)

def work():
    with Pool(sleep, workers=2, seconds=0.5, megabytes=100) as pool:
        tickets = [pool.submit(0), pool.submit(0)]
        yield
        time.sleep(60)
"""
MAIN = """
if __name__ == "__main__":
    import multiprocessing
    for _ in work():
        if len(multiprocessing.active_children()) == 2:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at the processes through /proc")
@pytest.mark.parametrize("program", [READING, STUCK], ids=["busy with pages", "stuck in one"])
def test_workers_die_with_a_parent_that_is_killed(tmp_path, program):
    script = tmp_path / "parent.py"
    script.write_text(program + MAIN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    with parent.stdout:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        assert all(map(_runs, children))
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while any(map(_runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, children))


def _runs(pid: int) -> bool:
    """Whether the process is there, and not only waiting to be buried."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
