"""Text that is text already, in sections: WikiExtractor's, Markdown, plain, JSON."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import tidy
from store.layouts import extracted, markdown, plain, sections
from store.records import Section


def test_an_extracted_document_loses_its_title_line_and_has_sections():
    body = "Moss\n\nMosses are plants.\nThey are old.\nHistory.\nOrigins.\nNone is known.\nUses.\nAs bedding.\n"
    assert extracted("Moss", body) == (
        Section("", "Mosses are plants.\nThey are old."),
        Section("Origins", "None is known."),
        Section("Uses", "As bedding."),
    )


def test_a_last_line_is_text_even_where_it_looks_like_a_heading():
    assert extracted("T", "Short lead here\nNo heading.") == (Section("", "Short lead here\nNo heading."),)


def test_a_document_without_its_title_on_top_loses_nothing():
    assert extracted("Moss", "Mosses are plants, all of them\n") == (Section("", "Mosses are plants, all of them"),)


def test_newer_headings_with_hashes_and_list_items_with_dashes_are_read():
    assert extracted("T", "T\nLead one.\nLead two\n## Uses\n- first\n- second use of it\n### Other.\nx y z\n") == (
        Section("", "Lead one.\nLead two"),
        Section("Uses", "first\nsecond use of it"),
        Section("Other", "x y z"),
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("Alabama () is a state, and , so far", "Alabama is a state, and, so far"),
        ('Adobe (, , ] is the "Spanish" word', 'Adobe is the "Spanish" word'),
        ("one<br>two <ref name=a>x</ref> <span id=b />y", "one\ntwo x y"),
        (" |Editorlink2=\nkept\n | {{#if:||}}{{\n}}{{\n[[Category:Moss]]", "kept"),
        ("a [[stereographic projection|stereonet]] and [[CNN]]", "a stereonet and CNN"),
        ("AT&amp;T &lt;b&gt; R&D ?a=1&copy=2", "AT&T R&D ?a=1&copy=2"),
        ("f(x) calls print() here", "f(x) calls print() here"),
    ],
)
def test_what_wikiextractor_left_of_markup_goes(line, text):
    assert "\n".join(section.text for section in extracted("T", f"T\n{line}\n")) == text


def test_plain_text_wrapped_by_hand_is_joined_and_verses_are_not():
    body = (
        "This line is long enough to have been wrapped by\r\nhand, and ends here.\n\nRoses are red\nViolets are blue\n"
    )
    assert plain(body) == (
        Section(
            "", "This line is long enough to have been wrapped by hand, and ends here.\nRoses are red\nViolets are blue"
        ),
    )


def test_json_sections_keep_their_headings_and_lines():
    body = json.dumps(
        [
            {"heading": " A \n b", "text": "x\n\n y\u0000 z\n"},
            {"heading": "Notes", "text": "kept"},
            {"heading": "E", "text": " "},
        ]
    )
    assert sections(body) == (Section("A b", "x\ny z"), Section("Notes", "kept"))


def test_markdown_has_sections_and_loses_its_marks():
    body = """---
title: front matter
---
# Moss

Some *very* **bold _text_** with [a link](http://x (y)) and `code`,
wrapped. ![picture](x.png)

Habitat
-------
- one
- two
  goes on

> quoted
***
## Uses ##
```sh
# no heading
```
<!-- hidden -->snake_case_name and 2 * 3 * 4 &amp; on
"""
    assert markdown("Moss", body) == (
        Section("", "Some very bold text with a link and code, wrapped."),
        Section("Habitat", "one\ntwo goes on\nquoted"),
        Section("Uses", "# no heading\nsnake_case_name and 2 * 3 * 4 & on"),
    )


def test_only_the_heading_that_gave_the_title_is_taken_out_of_markdown():
    assert markdown("other", "# Moss\nGrows.\n# other\nText.") == (Section("Moss", "Grows."), Section("other", "Text."))


@pytest.mark.parametrize(
    "bomb",
    [
        "# x" + " " * 100_000 + "y",
        "( x" + ", " * 100_000 + "y",
        "," * 100_000 + "x",
        "*a " * 30_000,
        "<!--" * 50_000,
        "`a ``b ```c " * 20_000,
        "[a](b " * 50_000,
        "<a " * 50_000,
        "[[a|" * 50_000,
        ("word " * 12 + "\n") * 20_000,
    ],
)
def test_no_text_takes_long(bomb):
    start = time.process_time()
    plain(bomb)
    markdown("T", bomb)
    extracted("T", f"T\n{bomb}\nend")
    assert time.process_time() - start < 5


@given(st.text())
def test_normal_text_is_normal_already_when_it_is_made_normal_again(text):
    once = tidy.normal(text)
    assert tidy.normal(once) == once
    once.encode("utf-8")
    assert not any(ord(char) < 32 and char != "\n" for char in once)


@pytest.mark.parametrize("layout", [plain, lambda body: markdown("T", body), lambda body: extracted("T", body)])
@given(body=st.text(st.sampled_from("ab.#-*_[]()<>|`~\n\t \u00a0\u2028=:{}\x00é")))
def test_every_text_becomes_paragraphs_with_single_spaces_and_newlines(layout, body):
    for section in layout(body):
        assert section.text
        assert all(line and line == " ".join(line.split()) for line in section.text.split("\n"))
