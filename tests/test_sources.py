"""Which format an input has, which files it is made of, and how far it has been read."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pytest

from store.records import LookaheadError
from store.sources import Layout, Page, Skipped, Source, open_source, read_pages
from store.sources.pages import files_under, id_of

XML = b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">\n</mediawiki>\n'
DOC = b'<doc id="12" url="http://x?curid=12" title="Anarchism">\nAnarchism\n\nText.\n</doc>\n'
EXTRACTED_JSON = b'{"id": "12", "revid": "1", "url": "u", "title": "Anarchism", "text": "Text."}\n'
LINE = b'{"page_id": 3, "title": "T", "text": "Text."}\n'


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (XML, "mediawiki"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- a dump -->\n' + XML, "mediawiki"),
        (DOC, "wikiextractor"),
        (EXTRACTED_JSON, "wikiextractor"),
        (LINE, "jsonl"),
        (b'{"title": "T", "text": "Text."}\n', "jsonl"),
        (b'{"page_id": 3, "id": "x", "url": "u", "title": "T", "text": "Text."}\n', "jsonl"),
        (b'{"title": "T", "sections": [], "text": "' + b"long " * 40_000 + b'"}\n', "jsonl"),
    ],
)
@pytest.mark.parametrize("packed", [bytes, bz2.compress, gzip.compress])
def test_the_content_tells_the_format_whatever_the_name(tmp_path, content, format, packed):
    path = tmp_path / "name-without-meaning.dat"
    path.write_bytes(packed(content))
    assert open_source(path) == Source(path.resolve(), format)


def test_a_text_file_and_a_folder_of_text_files_are_text(tmp_path):
    (tmp_path / "a.md").write_text("# Moss\n\nMoss grows.")
    (tmp_path / "b.txt").write_text("Ferns grow too.")
    assert open_source(tmp_path).format == "text"
    assert open_source(tmp_path / "b.txt").format == "text"


def test_a_folder_has_the_format_of_its_files(tmp_path):
    (tmp_path / "AA").mkdir()
    (tmp_path / "AA" / "wiki_00").write_bytes(DOC)
    (tmp_path / "AA" / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert open_source(tmp_path).format == "wikiextractor"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"[1, 2]", "begins with '[1, 2]'"),
        (b'{\n  "title": "T"\n}', "no known format; pass --format"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it first"),
        (b"PK\x03\x04rest", "is a zip archive"),
        (bz2.compress(XML)[:20], "cannot be read"),
        (gzip.compress(b"", mtime=0), "it is empty"),
    ],
)
def test_what_is_not_recognised_is_named_in_one_line(tmp_path, content, says):
    path = tmp_path / "input.bin"
    path.write_bytes(content)
    with pytest.raises(LookaheadError, match=r"^[^\n]+$") as error:
        open_source(path)
    assert says in str(error.value)


def test_a_file_of_comments_is_looked_at_once(tmp_path):
    path = tmp_path / "comments.xml"
    path.write_bytes(b"<!-- a -->" * 6000)
    with pytest.raises(LookaheadError, match="no known format"):
        open_source(path)


def test_a_missing_input_an_unknown_format_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(LookaheadError, match="does not exist"):
        open_source(tmp_path / "nothing")
    with pytest.raises(LookaheadError, match=r"no format 'xml'.*mediawiki"):
        open_source(tmp_path, "xml")
    with pytest.raises(LookaheadError, match="no file with content"):
        open_source(tmp_path, "text")


def test_a_folder_of_two_formats_asks_for_one(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "b.jsonl").write_bytes(LINE)
    with pytest.raises(LookaheadError, match="holds 1 jsonl and 1 text; pass --format"):
        open_source(tmp_path)
    assert open_source(tmp_path, "jsonl").format == "jsonl"


def test_a_source_is_named_by_its_format_and_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(LINE)
    monkeypatch.chdir(tmp_path)
    assert open_source(Path("a.jsonl")).name == f"jsonl:{tmp_path.resolve()}/a.jsonl"


def test_files_come_sorted_without_hidden_ones_and_without_links_that_lead_outside(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    files = ("z.txt", "y/c.txt", "b/d.txt", "b/a/e.txt", ".hidden.txt", ".git/config.txt", "../outside/secret.txt")
    for file in files:
        (inside / file).parent.mkdir(parents=True, exist_ok=True)
        (inside / file).write_text("words")
    (inside / "leak.txt").symlink_to(outside / "secret.txt")
    (inside / "leaks").symlink_to(outside, target_is_directory=True)
    (inside / "loop").symlink_to(inside, target_is_directory=True)
    (inside / "again.txt").symlink_to(inside / "z.txt")
    (inside / "broken.txt").symlink_to(inside / "nowhere")
    names = [path.relative_to(inside).as_posix() for path in files_under(inside)]
    assert names == ["again.txt", "z.txt", "b/d.txt", "b/a/e.txt", "y/c.txt"]


@pytest.mark.parametrize("suffix", ["", ".bz2", ".gz"])
def test_bytes_on_disk_are_counted_up_to_the_total_over_all_files(tmp_path, suffix):
    pack = {"": bytes, ".bz2": bz2.compress, ".gz": gzip.compress}[suffix]
    for number in range(3):
        lines = "".join(json.dumps({"page_id": n + 1, "title": f"T{n}", "text": "x" * n}) + "\n" for n in range(99))
        (tmp_path / f"{number}.jsonl{suffix}").write_bytes(pack(lines.encode()))
    source, heard = open_source(tmp_path), list[int]()
    assert sum(1 for _ in read_pages(source, heard.append)) == 297
    assert heard == sorted(heard)
    assert heard[-1] == source.total_bytes() == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_reading_twice_gives_the_same_pages_in_the_same_order(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(f"words of {name}")
    source = open_source(tmp_path)
    first = list(read_pages(source))
    assert [page.title for page in first] == ["a", "b", "c"]
    assert list(read_pages(source)) == first


def test_a_digest_changes_with_the_body_the_title_and_the_layout():
    pages = [
        Page(1, "T", "body", Layout.PLAIN),
        Page(1, "T", "bodies", Layout.PLAIN),
        Page(1, "Tb", "ody", Layout.PLAIN),
        Page(1, "T", "body", Layout.MARKDOWN),
    ]
    assert len({page.digest for page in pages}) == 4
    assert pages[0].digest == Page(2, "T", "body", Layout.PLAIN).digest


def test_a_digest_changes_when_the_cleaner_does(monkeypatch):
    page = Page(1, "T", "body", Layout.PLAIN)
    before = page.digest
    monkeypatch.setattr("store.sources.pages.CLEANING", "another")
    assert page.digest != before


def test_ids_made_from_names_are_stable_and_have_53_bits():
    assert id_of("notes/moss.md") == 1549411922139491
    assert all(0 < id_of(str(number)) < 2**53 for number in range(1000))
    assert max(id_of(str(number)) for number in range(1000)) > 2**52


def test_pages_of_text_files_have_the_title_of_their_first_heading_or_their_name(tmp_path):
    (tmp_path / "a.md").write_text("intro\n\n## No title\n\n#  Moss and *lichen* #\n")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf# not a title here\n")
    (tmp_path / "c.md.gz").write_bytes(gzip.compress(b"no heading"))
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "ignored.png").write_bytes(b"\x89PNG")
    a, b, c, d = read_pages(open_source(tmp_path, "text"))
    assert isinstance(a, Page)
    assert (a.title, a.layout, a.page_id) == ("Moss and *lichen*", Layout.MARKDOWN, id_of("a.md"))
    assert isinstance(b, Page)
    assert (b.title, b.body, b.layout) == ("b", "# not a title here\n", Layout.PLAIN)
    assert isinstance(c, Page)
    assert (c.title, c.layout) == ("c", Layout.MARKDOWN)
    assert isinstance(d, Skipped)
    assert (d.page_id, d.reason, d.failed) == (id_of("d.txt"), "not utf-8", True)
