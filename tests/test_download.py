"""Dumps are fetched whole, gone on with after a break, and never kept where their checksum is wrong."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from store.records import LookaheadError
from store.sources.download import fetch

NAME = "simplewiki-20250601-pages-articles.xml.bz2"
DATA = bytes(range(256)) * 4096
SUM = hashlib.sha1(DATA).hexdigest()
LISTING = f"""{"0" * 40}  simplewiki-20250601-abstract.xml.gz
{SUM}  {NAME}
{"1" * 40}  simplewiki-20250601-pages-articles-multistream.xml.bz2
"""


@dataclass
class Dumps:
    """A server of dumps on this machine, and how it behaves."""

    base: str = ""
    listing: str = LISTING
    ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)  # bytes sent before each broken connection, in turn
    statuses: list[int] = field(default_factory=list)  # errors to answer first
    asked: list[tuple[str, str]] = field(default_factory=list)  # path and range of every request


@pytest.fixture
def dumps() -> Iterator[Dumps]:
    state = Dumps()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            state.asked.append((self.path, asked))
            if state.statuses:
                self._answer(state.statuses.pop(0), b"")
            elif self.path == "/simplewiki/latest/simplewiki-latest-sha1sums.txt":
                self._answer(200, state.listing.encode())
            elif self.path == f"/simplewiki/20250601/{NAME}":
                start = int(asked[6:-1]) if asked and state.ranges else 0
                if start >= len(DATA):
                    self._answer(416, b"")
                else:
                    sent = state.breaks_after.pop(0) if state.breaks_after else None
                    extra = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}" if start else ""
                    self._answer(206 if start else 200, DATA[start:], extra, sent)
            else:
                self._answer(404, b"")

        def _answer(self, status: int, body: bytes, content_range: str = "", sent: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            self.wfile.write(body[:sent])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.base = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def ranges(dumps: Dumps) -> list[str]:
    return [asked for path, asked in dumps.asked if path.endswith(NAME)]


def test_a_dump_is_found_through_the_list_of_checksums_and_fetched_whole(dumps, tmp_path):
    heard: list[tuple[int, int]] = []
    path = fetch("simple", tmp_path / "new" / "folder", base=dumps.base, on_bytes=lambda *seen: heard.append(seen))
    assert path == tmp_path / "new" / "folder" / NAME
    assert path.read_bytes() == DATA
    assert [entry.name for entry in path.parent.iterdir()] == [NAME]
    assert heard == sorted(heard)
    assert heard[-1] == (len(DATA), len(DATA))


def test_what_is_there_already_is_not_fetched_again(dumps, tmp_path):
    (tmp_path / NAME).write_bytes(b"as it is")
    assert fetch("simplewiki", tmp_path, base=dumps.base).read_bytes() == b"as it is"
    assert ranges(dumps) == []


def test_a_part_is_gone_on_with_where_it_ends(dumps, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(DATA[:1000])
    heard: list[tuple[int, int]] = []
    assert fetch("simple", tmp_path, base=dumps.base, on_bytes=lambda *seen: heard.append(seen)).read_bytes() == DATA
    assert ranges(dumps) == ["bytes=1000-"]
    assert heard[0][0] > 1000
    assert heard[-1] == (len(DATA), len(DATA))


def test_connections_that_break_are_taken_up_again_and_again(dumps, tmp_path):
    dumps.breaks_after = [5000, 70_000, 1, 10, 100, 1000, 400_000]
    assert fetch("simple", tmp_path, base=dumps.base, pause=0.001).read_bytes() == DATA
    assert ranges(dumps)[:3] == ["", "bytes=5000-", "bytes=75000-"]
    assert len(ranges(dumps)) == 8


def test_a_server_without_ranges_sends_the_whole_again(dumps, tmp_path):
    dumps.ranges = False
    dumps.breaks_after = [5000]
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 1000)
    assert fetch("simple", tmp_path, base=dumps.base, pause=0.001).read_bytes() == DATA


def test_a_part_that_is_complete_only_needs_its_checksum(dumps, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(DATA)
    assert fetch("simple", tmp_path, base=dumps.base).read_bytes() == DATA


def test_a_wrong_checksum_is_said_and_nothing_is_kept(dumps, tmp_path):
    dumps.listing = LISTING.replace(SUM, "2" * 40)
    with pytest.raises(LookaheadError, match=r"sha1.*removed: try again"):
        fetch("simple", tmp_path, base=dumps.base)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_part_is_found_by_the_checksum_and_the_next_try_succeeds(dumps, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 1000)
    with pytest.raises(LookaheadError, match="sha1"):
        fetch("simple", tmp_path, base=dumps.base)
    assert fetch("simple", tmp_path, base=dumps.base).read_bytes() == DATA


def test_a_server_that_is_busy_is_asked_again(dumps, tmp_path):
    dumps.statuses = [503, 429, 500]
    assert fetch("simple", tmp_path, base=dumps.base, pause=0.001).read_bytes() == DATA


@pytest.mark.parametrize(("statuses", "tries"), [([503] * 9, 5), ([403], 1)])
def test_a_server_that_goes_on_refusing_is_given_up_in_one_line(dumps, tmp_path, statuses, tries):
    dumps.statuses = statuses
    with pytest.raises(LookaheadError, match=rf"^[^\n]*cannot be fetched: {statuses[0]} [^\n]*$"):
        fetch("simple", tmp_path, base=dumps.base, pause=0.001)
    assert len(dumps.asked) == tries


def test_a_server_that_is_not_there_is_given_up_in_one_line(tmp_path):
    with pytest.raises(LookaheadError, match=r"cannot be fetched: .*refused"):
        fetch("simple", tmp_path, base="http://127.0.0.1:9", pause=0.001)


@pytest.mark.parametrize("wiki", ["klingonese", "simple-x"])
def test_an_unknown_wiki_is_one_line(dumps, tmp_path, wiki):
    with pytest.raises(LookaheadError, match=f"no Wikipedia called {re.escape(repr(wiki))}"):
        fetch(wiki, tmp_path, base=dumps.base)


@pytest.mark.parametrize("wiki", ["", "../etc", "a b", "simple/latest", "en?x", "-en"])
def test_what_cannot_be_a_wiki_is_never_asked_for(dumps, tmp_path, wiki):
    with pytest.raises(LookaheadError, match="is no name of a Wikipedia"):
        fetch(wiki, tmp_path, base=dumps.base)
    assert dumps.asked == []


def test_only_web_addresses_are_fetched_from(tmp_path):
    with pytest.raises(LookaheadError, match="not from 'file:///tmp'"):
        fetch("simple", tmp_path, base="file:///tmp")


def test_a_dump_in_the_making_is_said_to_be_so(dumps, tmp_path):
    dumps.listing = "0" * 40 + "  simplewiki-20250601-abstract.xml.gz\n"
    with pytest.raises(LookaheadError, match="in the making"):
        fetch("simple", tmp_path, base=dumps.base)


def test_a_folder_that_cannot_be_made_is_one_line(dumps, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LookaheadError, match="file/folder cannot be made"):
        fetch("simple", Path(tmp_path, "file", "folder"), base=dumps.base)
