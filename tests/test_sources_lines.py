"""JSON lines and WikiExtractor's two kinds of output: what is a page, and what is wrong with a line that is none."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.sources import Layout, Page, Skipped, Source, read_pages
from store.sources.jsonlines import page_of
from store.sources.pages import id_of
from store.sources.streams import lines


def read(tmp_path: Path, format: str, content: bytes) -> list[Page | Skipped]:
    path = tmp_path / "input"
    path.write_bytes(content)
    return list(read_pages(Source(path, format)))


def test_a_line_is_a_page_with_text_or_sections(tmp_path):
    content = (
        b'{"page_id": 1, "title": "A", "text": "alpha"}\r\n\n'
        b'{"page_id": "22", "title": " B\\u0000  b ",'
        b' "sections": [{"heading": "H", "text": "t", "more": 1}, {"text": ""}]}'
    )
    assert read(tmp_path, "jsonl", b"\xef\xbb\xbf" + content) == [
        Page(1, "A", "alpha", Layout.PLAIN),
        Page(22, "B b", '[{"heading": "H", "text": "t"}, {"heading": "", "text": ""}]', Layout.SECTIONS),
    ]


def test_a_page_without_an_id_has_one_that_its_title_decides(tmp_path):
    (first,) = read(tmp_path, "jsonl", b'{"title": "Moss", "text": "a"}')
    (second,) = read(tmp_path, "jsonl", b'{"text": "another", "title": "Moss"}')
    assert first.page_id == second.page_id == id_of("Moss")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"page_id": 1, "title": "A", "text"', "bad json"),
        (b"[" * 100_000, "bad json"),
        (b'["a list"]', "bad json"),
        (b"1" * 5000, "bad json"),
        (b'{"page_id": 1, "text": "x"}', "bad title"),
        (b'{"page_id": 1, "title": "\\u0007 ", "text": "x"}', "bad title"),
        (b'{"page_id": 0, "title": "A", "text": "x"}', "bad page_id"),
        (b'{"page_id": -3, "title": "A", "text": "x"}', "bad page_id"),
        (b'{"page_id": 1.5, "title": "A", "text": "x"}', "bad page_id"),
        (b'{"page_id": true, "title": "A", "text": "x"}', "bad page_id"),
        (b'{"page_id": "\xc2\xb2", "title": "A", "text": "x"}', "bad page_id"),
        (b'{"page_id": 99999999999999999999, "title": "A", "text": "x"}', "bad page_id"),
        (b'{"page_id": 1, "title": "A"}', "bad text"),
        (b'{"page_id": 1, "title": "A", "text": ["x"]}', "bad text"),
        (b'{"page_id": 1, "title": "A", "sections": "x"}', "bad sections"),
        (b'{"page_id": 1, "title": "A", "sections": [{"heading": "H"}]}', "bad sections"),
        (b'{"page_id": 1, "title": "A", "sections": [{"heading": 3, "text": "x"}]}', "bad sections"),
        (b'{"page_id": 1, "title": "\xff", "text": "x"}', "not utf-8"),
    ],
)
def test_a_line_that_is_no_page_fails_alone_and_says_why(tmp_path, line, reason):
    failed, good = read(tmp_path, "jsonl", line + b'\n{"page_id": 2, "title": "B", "text": "b"}\n')
    assert isinstance(failed, Skipped)
    assert (failed.reason, failed.failed) == (reason, True)
    assert "\n" not in failed.detail
    assert isinstance(good, Page)


@given(
    st.integers(1, 2**63 - 1), st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"))
)
def test_what_was_written_as_a_line_is_read_back(page_id, title, text):
    found = page_of(json.dumps({"page_id": page_id, "title": f"a{title}", "text": text}).encode(), "here")
    assert isinstance(found, Page)
    assert (found.page_id, found.body) == (page_id, text)


def test_a_line_without_end_is_refused_and_the_next_one_read(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"a" * 1000 + b"\n" + b"b" * 9 + b"\r\n" + b"c" * 5_000_000)
    with path.open("rb") as stream:
        assert list(lines(stream, longest=10)) == [None, b"b" * 9, None]


@pytest.mark.parametrize("format", ["jsonl", "wikiextractor"])
def test_a_packed_file_that_breaks_off_says_so_at_the_end(tmp_path, format):
    line = b'{"id": "1", "page_id": 1, "url": "u", "title": "A", "text": "b"}\n'
    *pages, last = read(tmp_path, format, gzip.compress(line * 20_000)[:-8])
    assert isinstance(pages[0], Page)
    assert isinstance(last, Skipped)
    assert (last.reason, last.failed) == ("truncated", True)


def test_documents_of_wikiextractor_keep_their_lines_and_lose_the_escapes_of_their_title(tmp_path):
    doc = '<doc id="7" url="http://x?curid=7" title="A &amp; &quot;B&quot;">\nA & "B"\n\nText.\n\n</doc>\n'
    assert read(tmp_path, "wikiextractor", bz2.compress(doc.encode())) == [
        Page(7, 'A & "B"', 'A & "B"\n\nText.\n', Layout.EXTRACTED)
    ]


def test_newer_and_older_spellings_of_a_document_are_read(tmp_path):
    content = (
        b'<doc id="1" revid="55" url="u" title="She said "no"">\nx\n</doc>\n\n'
        b'{"id": "2", "revid": "5", "url": "u", "title": "B &amp; C", "text": "t"}\n'
    )
    first, second = read(tmp_path, "wikiextractor", content)
    assert first == Page(1, 'She said "no"', "x", Layout.EXTRACTED)
    assert second == Page(2, "B & C", "t", Layout.EXTRACTED)


def test_documents_that_are_broken_fail_alone(tmp_path):
    content = (
        b"stray\nstray again\n"
        b'<doc id="1" url="u" title="A">\nnever closed\n'
        b'<doc id="x" url="u" title="B">\nx\n</doc>\n'
        b'<doc id="3" url="u" title="C">\n\xff\n</doc>\n'
        b'<doc id="4" url="u" title="D">\nfine\n</doc>\n'
        b'<doc id="5" url="u" title="E">\nthe file ends'
    )
    found = read(tmp_path, "wikiextractor", content)
    assert [item.reason if isinstance(item, Skipped) else item.title for item in found] == [
        "stray text",
        "truncated",
        "bad doc line",
        "not utf-8",
        "D",
        "truncated",
    ]
    assert all(item.failed for item in found if isinstance(item, Skipped))
