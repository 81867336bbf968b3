"""Pages of a MediaWiki export: what is an article, what is passed over, and what a damaged file still gives."""

from __future__ import annotations

import bz2
import gzip
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from store.sources import Layout, Page, Skipped, Source, open_source, read_pages

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
  <siteinfo><namespaces><namespace key="0" /><namespace key="1">Talk</namespace></namespaces></siteinfo>
"""


def page(
    page_id: object, title: str, text: str, *, ns: str = "<ns>0</ns>", more: str = "", model: str = "wikitext"
) -> str:
    return f"""  <page><title>{title}</title>{ns}<id>{page_id}</id>{more}
    <revision><id>9{page_id}</id><contributor><id>7</id></contributor><model>{model}</model><text>{text}</text></revision>
  </page>\n"""


def read(tmp_path: Path, *pages: str, data: bytes | None = None) -> list[Page | Skipped]:
    path = tmp_path / "dump.xml"
    path.write_bytes((HEAD + "".join(pages) + "</mediawiki>\n").encode() if data is None else data)
    return list(read_pages(open_source(path, "mediawiki")))


def test_an_article_has_its_own_id_and_its_unescaped_text(tmp_path):
    assert read(tmp_path, page(5, "Q &amp; A", "It&apos;s &lt;b&gt;here&lt;/b&gt;")) == [
        Page(5, "Q & A", "It's <b>here</b>", Layout.WIKITEXT)
    ]


def test_other_namespaces_redirects_and_other_models_are_passed_over_with_their_reason(tmp_path):
    found = read(
        tmp_path,
        page(1, "Talk:A", "x", ns="<ns>1</ns>"),
        page(2, "Talk:B", "x", ns=""),
        page(3, "C", "x", more='<redirect title="D" />'),
        page(4, "D", " #REDIRECT [[E]]"),
        page(5, "E.js", "x", model="javascript"),
        page(6, "F: a play", "x", ns=""),
    )
    assert [(item.page_id, item.reason) if isinstance(item, Skipped) else item.title for item in found] == [
        (1, "namespace"),
        (2, "namespace"),
        (3, "redirect"),
        (4, "redirect"),
        (5, "not wikitext"),
        "F: a play",
    ]
    assert not any(item.failed for item in found if isinstance(item, Skipped))


def test_of_a_history_the_last_revision_counts(tmp_path):
    one = page(1, "A", "old")
    two = one.replace("</page>", "<revision><id>99</id><text>new</text></revision></page>")
    assert [item.body for item in read(tmp_path, two) if isinstance(item, Page)] == ["new"]


def test_a_page_without_an_id_or_title_fails_alone(tmp_path):
    bad, nameless, good = read(tmp_path, page("x", "A", "t"), page(2, "", "t"), page(3, "C", "t"))
    assert isinstance(bad, Skipped)
    assert (bad.reason, bad.failed, bad.title) == ("bad page", True, "A")
    assert isinstance(nameless, Skipped)
    assert nameless.failed
    assert isinstance(good, Page)


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress])
def test_packed_dumps_are_read_and_so_are_several_streams_in_one_file(tmp_path, pack):
    parts = (HEAD.encode(), page(1, "A", "a").encode(), (page(2, "B", "b") + "</mediawiki>").encode())
    found = read(tmp_path, data=b"".join(pack(part) for part in parts))
    assert [item.title for item in found] == ["A", "B"]


def test_a_file_that_breaks_off_gives_what_was_readable_and_then_says_so(tmp_path):
    pages = "".join(page(n, f"A{n}", os.urandom(30_000).hex()) for n in range(1, 60))
    data = bz2.compress((HEAD + pages).encode())
    *readable, last = read(tmp_path, data=data[: len(data) * 2 // 3])
    assert 20 < len(readable) < 59
    assert all(isinstance(item, Page) for item in readable)
    assert isinstance(last, Skipped)
    assert (last.reason, last.failed) == ("truncated", True)
    assert "end-of-stream" in last.detail


@pytest.mark.parametrize("ending", ["", "<page><title>B</ti", "<page></oops></mediawiki>", "\x00</mediawiki>"])
def test_broken_xml_ends_with_one_failure_and_no_traceback(tmp_path, ending):
    first, last = read(tmp_path, data=(HEAD + page(1, "A", "a") + ending).encode())
    assert isinstance(first, Page)
    assert isinstance(last, Skipped)
    assert (last.reason, last.failed) == ("truncated", True)


def test_entity_bombs_are_refused(tmp_path):
    bomb = '<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + HEAD.replace("Talk", "&b;")
    (refused,) = read(tmp_path, data=(bomb + "</mediawiki>").encode())
    assert isinstance(refused, Skipped)
    assert (refused.reason, refused.failed) == ("refused", True)


def test_other_xml_is_not_taken_for_an_export(tmp_path):
    (refused,) = read(tmp_path, data=b"<html><page><title>A</title></page></html>")
    assert isinstance(refused, Skipped)
    assert "<html>, not <mediawiki>" in refused.detail


def test_a_page_that_never_ends_is_not_held_in_memory(tmp_path):
    path = tmp_path / "endless.xml.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write((HEAD + "<page><title>A</title><revision><text>").encode())
        for _ in range(80):
            file.write(b"a" * 1_000_000)
    (last,) = read_pages(Source(path, "mediawiki"))
    assert isinstance(last, Skipped)
    assert "without the end of a revision" in last.detail


@pytest.mark.parametrize("shape", ["long pages", "many pages", "a long history"])
def test_memory_does_not_grow_with_the_dump(tmp_path, shape):
    path = tmp_path / "long.xml.gz"
    text, pages = "word " * 20_000, 300
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(HEAD)
        if shape == "long pages":
            file.write(page(2, "B", text) * pages)
        elif shape == "many pages":
            pages = 5000
            file.write(page(2, "B", "word") * pages)
        else:
            revisions = f"<revision><id>1</id><text>{text}</text></revision>" * pages
            file.write(page(2, "B", "word").replace("</page>", revisions + "</page>"))
            pages = 1
        file.write("</mediawiki>")
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_pages(open_source(path))) == pages
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000  # of 30 MB of text, or 5000 pages of 3 kB as elements


def test_every_page_of_the_real_dump_is_an_article_a_redirect_or_another_namespace():
    folder = Path(os.environ.get("LOOKAHEAD_DATA", Path(__file__).parents[2] / "shared" / "data"), "dump")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set LOOKAHEAD_DATA to the folder with the real data")
    found = Counter(item.reason if isinstance(item, Skipped) else "article" for item in read_pages(open_source(folder)))
    assert found == {"article": 106, "redirect": 99, "namespace": 1}
