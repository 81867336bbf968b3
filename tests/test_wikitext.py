"""Wikitext as a reader sees it, and that no wikitext takes the cleaner long."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.benchmarks.wikitext import as_text, compare_with_extractor
from store.records import LookaheadError, Section
from store.templates import keeps
from store.wikitext import sections_of


def text_of(wikitext: str) -> str:
    return "\n".join(section.text for section in sections_of(wikitext))


def test_sections_have_their_headings_and_paragraphs_one_newline_between_them():
    wikitext = (
        "The lead\ngoes on.\n\nSecond paragraph.\n== ''History'' of [[Rome|it]] ==\nThen.\n===Empty===\n==Last==\nEnd."
    )
    assert sections_of(wikitext) == (
        Section("", "The lead goes on.\nSecond paragraph."),
        Section("History of it", "Then."),
        Section("Last", "End."),
    )


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' and ''italic'' and '''''both''''' and ''''quoted''''", "Bold and italic and both and 'quoted'"),
        (
            "a [[Town]], a [[Town|city]], [[Town]]s, [[:Category:Towns]], [[Town (UK)|]]",
            "a Town, a city, Towns, Category:Towns, Town",
        ),
        ("[[Fil:x.jpg|miniatyr|A caption]] x [[a\nb]] y", "A caption x a b y"),
        ("* {{cite book|title=T}}, also as a play\n* {{cite}}.", "also as a play"),
        ("[[Link to|one [[inside]] another]] x", "one inside another x"),
        ("see [http://a.b the site], [http://a.b] and [[#Top|above]]", "see the site, and above"),
        ("a&nbsp;b &amp; c &lt;d&gt; &#8211; e", "a b & c <d> – e"),
        ("one<br />two<br>three", "one\ntwo\nthree"),
        ('<small>small</small> H<sub>2</sub>O <span style="x">span</span>', "small H2O span"),
        ("10<sup>&minus;7</sup> m<sup>2</sup> and 1<sup>st</sup> <sup>14</sup>C", "10^−7 m2 and 1st 14C"),
        ("before <!-- hidden\n\n== no heading == --> after", "before after"),
        ("fact<ref name=a>Note [[x]] {{cite|y}}</ref>, other<ref name=a/>.", "fact, other."),
        ("a ref<ref>never closed. Next.", "a refnever closed. Next."),
        ("x <math>\\frac{a}{b}</math> y <math>n + 1</math> z", "x y n + 1 z"),
        ("a <gallery>\nFile:x.jpg|caption\n</gallery> b <code>c</code>", "a b c"),
        ("[[File:x.jpg|thumb|A [[caption]] with {{convert|1|m}}<ref>r</ref>]]Text.", "Text."),
        ("[[Image:x.png|left]] [[Category:Y]] [[de:Z]] [[Datei:x.jpg|mini|Bild]] rest", "rest"),
        ("<nowiki>[[not]] a ''link'' {{x}}</nowiki> ok", "[[not]] a ''link'' {{x}} ok"),
        ("__NOTOC__\ntext\n----\nmore", "text\nmore"),
        (
            "* one\n* two\n** deeper\n# first\n;term: meaning\n:indented",
            "one\ntwo\ndeeper\nfirst\nterm: meaning\nindented",
        ),
        ("{| class=x\n! head\n|-\n| cell || {{a|b}}\n{|\n| inner\n|}\n|}\nafter", "after"),
        ("{| class=x\n| never closed\n|-\nafter", "after"),
        ("<table><tr><td>cell</td></tr></table>after", "after"),
        ("{{Infobox|a={{b|c}}\n|d=[[e]]\n}}'''It''' is.", "It is."),
        ("{{unknown|never closed\nIt is.", "unknown|never closed It is."),
        ("It}} is [[not closed, or ]] is it", "It is not closed, or is it"),
        ("'''A''' ({{IPA|x}}; {{lang-el|Ἀθήνα}}) is", "A (Ἀθήνα) is"),
        ("'''A''' ({{IPA|x}}, {{respell|y}}) is {{which}}, so.", "A is, so."),
        ("nul\x00l\x07 te\u200bxt\u00a0e\u0301", "null text é"),
    ],
)
def test_markup_gives_way_to_its_words(wikitext, text):
    assert text_of(wikitext) == text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{convert|5|km|mi}}", "5 km"),
        ("{{Convert|52419|sqmi|km2|abbr=out|sp=us}}", "52419 sq mi"),
        ("{{convert|6|to|10|e6acre|km2}}", "6 to 10 million acre"),
        ("{{convert|6|ft|2|in|m}}", "6 ft 2 in"),
        ("{{cvt|20|-|30|C}}", "20 – 30 °C"),
        ("{{lang|fr|mot}}", "mot"),
        ("{{lang-de|Wort|links=no}}", "Wort"),
        ("{{transl|ar|ISO|kitāb}}", "kitāb"),
        ("{{nowrap|a [[b|c]] {{small|d}}}}", "a c d"),
        ("{{nihongo|'''Aikido'''|合気道|Aikidō|lead=yes}}", "Aikido (合気道, Aikidō)"),
        ("{{as of|2014|3|lc=y}}", "as of March 2014"),
        ("{{As of|2014}}", "As of 2014"),
        ("{{frac|3|2}} {{frac|1|1|2}} {{frac|3}}", "3/2 1 1/2 1/3"),
        ("{{val|6.241|e=18|u=C}}", "6.241×10^18 C"),
        ("{{chem|H|2|O}}", "H2O"),
        ("{{formatnum:3003}}", "3003"),
        ("1{{snd}}2{{ndash}}3{{'}}s{{nbsp}}x", "1 – 2–3's x"),
        ("{{HMS|Ajax|22|6}} and {{USS|Enterprise|CVN-65}}", "HMS Ajax and USS Enterprise"),
        ("{{circa|1500}}", "c. 1500"),
        ("{{US$|5}} {{abbr|BC|Before Christ}}", "US$5 BC"),
        ("He said: {{quote|1=Words of {{lang|la|his}}.|author=X}} So.", "He said:\nWords of his.\nSo."),
        ("a{{citation needed|date=x}} {{cite book|title=T}}b", "a b"),
    ],
)
def test_templates_that_carry_words_say_them(template, words):
    assert text_of(template) == words


def test_template_names_are_told_whatever_their_capitals_and_underscores():
    assert keeps("As_of")
    assert keeps(" hms ")
    assert keeps("Lang-grc")
    assert not keeps("Infobox")
    assert not keeps("")


def test_sections_that_only_list_sources_go_unless_sentences_stand_in_them():
    prose = "His letters were published in two volumes, which remain the best source for his years in Rome."
    listed = "== See also ==\n* [[A]]\n==References==\n{{reflist}}\n==Further reading==\n* Smith, J. ''T''. 1999.\n"
    assert sections_of(f"Lead.\n{listed}{prose}") == (Section("", "Lead."), Section("Further reading", prose))
    assert [section.heading for section in sections_of("==Cultural references==\n* A song.\n==Works==\n* T")] == [
        "Cultural references",
        "Works",
    ]


BOMBS = {
    "unclosed tags": "<a " * 20_000,
    "unclosed quotes in cells": "{|\n|-\n| ''a\n| '''b\n|}\n" * 4000,
    "tags in links": ("[[a|<font><b><i><u>" * 20 + "x\n") * 200,
    "unclosed templates": "{{nowrap|[[a|[http://a " * 4000,
    "nested templates": "{{nowrap|" * 3000 + "x" + "}}" * 3000,
    "nested links": "[[a|" * 5000 + "x" + "]]" * 5000,
    "nested files": "[[File:a|" * 5000 + "]]" * 5000,
    "unclosed nowiki": "<nowiki>" * 10_000,
    "unclosed comments": "<!--" * 20_000,
    "unclosed addresses": "[http://a " * 8000,
    "spaces": " " * 80_000,
    "spaces in a heading": "== " + " " * 80_000 + "x",
    "spaces in a formula": "<math>" + " " * 80_000,
    "brackets": "( " * 40_000,
    "list marks": ";:" * 100_000,
    "equals signs": "= = " * 20_000,
    "quote marks": "'" * 80_000,
    "braces": "{" * 80_000,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_no_markup_takes_long(bomb):
    start = time.process_time()
    sections_of(bomb)
    # Ten times what the slowest takes; to the parser alone, or to a careless pattern, many of these are endless.
    assert time.process_time() - start < 5


PIECES = [
    "[[",
    "]]",
    "{{",
    "}}",
    "{|",
    "|}",
    "|",
    "\n",
    "'''",
    "''",
    "==",
    "<ref>",
    "</ref>",
    "<b>",
    "<!--",
    "-->",
    "*",
    ":",
    "[http://a ",
    "]",
]
PIECES += [
    "word",
    " ",
    "File:",
    "convert",
    "lang",
    "=",
    "<nowiki>",
    "</nowiki>",
    "&amp;",
    "é",
    "-",
    "----",
    "#",
    ";",
    "<",
    ">",
    "(",
    ")",
    ",",
]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_any_heap_of_markup_becomes_lines_of_text_without_links_templates_or_tables(wikitext):
    quiet = wikitext.replace("<nowiki>", "")
    for section in sections_of(quiet):
        for text in (section.heading, *section.text.split("\n")):
            assert text == " ".join(text.split())
            assert not any(mark in text for mark in ("[[", "]]", "{{", "}}", "<ref", "<b>"))
        assert section.text


def test_the_comparison_with_wikiextractor_counts_words_by_page(tmp_path):
    pages = "".join(
        f"<page><title>{title}</title><ns>0</ns><id>{n}</id><revision><text>{text}</text></revision></page>"
        for n, title, text in (
            (1, "Same", "one two three four five six seven eight nine ten"),
            (2, "Half", "one two three four five six seven eight nine more words than there"),
            (3, "Only here", "one two three four five six seven eight nine ten"),
            (4, "R", "#REDIRECT [[Same]]"),
        )
    )
    (tmp_path / "dump.xml").write_text(f"<mediawiki>{pages}</mediawiki>")
    docs = (
        '<doc id="1" url="u" title="Same">\nSame\n\nOne two three four five six seven eight nine ten\n</doc>\n'
        '<doc id="2" url="u" title="Half">\nHalf\n\nOne two three four five six alone\n</doc>\n'
    )
    (tmp_path / "wiki_00").write_text(docs)
    report = compare_with_extractor(tmp_path / "dump.xml", tmp_path / "wiki_00", workers=1)
    assert (report.read, report.failed, report.compared, report.skipped) == (3, 0, 2, {"redirect": 1})
    half, same = report.scores
    assert (same.f1, same.precision, same.recall) == (1, 1, 1)
    assert (half.precision, half.recall) == (7 / 14, 7 / 8)
    assert half.f1 == pytest.approx(2 * 7 / (14 + 8))
    assert report.median_f1 == (half.f1 + same.f1) / 2
    assert "3 articles read, 0 failed; left out: 1 redirect" in as_text(report)
    (tmp_path / "wiki_00").write_text(docs.replace('id="', 'id="9'))
    with pytest.raises(LookaheadError, match="no page id in common"):
        compare_with_extractor(tmp_path / "dump.xml", tmp_path / "wiki_00", workers=1)


def test_the_real_dump_reads_as_wikiextractor_reads_it():
    data = Path(os.environ.get("LOOKAHEAD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (data / "dump").is_dir():
        pytest.skip(f"{data} is not there: set LOOKAHEAD_DATA to the folder with the real data")
    # One file of the reference holds enough of the same pages; all 200 take a quarter of a minute to read.
    report = compare_with_extractor(data / "dump", data / "enwiki" / "AA" / "wiki_00.bz2")
    assert report.failed == 0
    assert report.read == 98
    assert report.skipped == {"redirect": 99, "namespace": 1, "disambiguation": 8}
    assert report.compared >= 10
    assert report.median_f1 >= 0.90
    assert min(score.recall for score in report.scores) > 0.8
