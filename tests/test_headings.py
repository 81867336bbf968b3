"""Headings told from sentences, by lines out of a real WikiExtractor file."""

from __future__ import annotations

import pytest

from store.headings import is_apparatus, is_heading, reads_like_prose

HEADINGS = """
Etymology.
Part 1: Alex's world.
Ban by the U.S. government.
History of illicit export to U.S..
1942–43: Trench warfare.
2007.
World War I and last years.
Athenian religious dedication and observance.
Classical PKU and Hyperphenylalaninemia.
"The Man Who Stepped into Yesterday" and "Junta": 1987–1989.
"I Am Legend" and its sequels.
Works based on the novel.
Words borrowed from other languages.
Free will.
Political and social thought.
Medical uses.
After the Second World War.
Pact with the Soviet Union and the outbreak of World War II.
Derek McInnes (October 2011 – January 2013).
Kurosawa-gumi (the men who were always there).
What is art?.
iPhone.
p–n junction diode.
Étymologie.
歴史.
""".strip().split("\n")

SENTENCES = """
Burgess later stated that he wrote the book in three weeks.
Roskill estimates that secondary production globally in 2010 was 39,540 tonnes.
Blish was born at East Orange, New Jersey.
POV shots were used extensively by Alfred Hitchock for various narrative effects.
The Science Fiction and Fantasy Hall of Fame inducted him in 2002.
He died in Rome.
In 1984, most high-performance CPUs required four to five years to develop.
Prices will rise.
Rome fell. Carthage too.
In 1361, Kolberg under siege.
Cuba joined the League of Nations in 1920.
By 2009 the Christian population of Bethlehem decreased to 15%.
This trend will start reversing at the end.
territory.
is continuous.
where formula_5 is the S-matrix.
And so on...
He came. He saw.
After gaining fame, Warhol "wrote" several books that were commercially published:
Alp Arslan
See also: .
—Lars Ulrich on the album's role.
.
""".strip().split("\n")


@pytest.mark.parametrize("line", HEADINGS)
def test_a_heading_is_one(line):
    assert is_heading(line)


@pytest.mark.parametrize("line", SENTENCES)
def test_a_sentence_is_none(line):
    assert not is_heading(line)


def test_a_line_is_no_heading_beyond_twelve_words_or_ninety_letters():
    assert is_heading("A " + "very " * 10 + "long.")
    assert not is_heading("A " + "very " * 11 + "long.")
    assert not is_heading("A " + "enormously " * 8 + "long.")


@pytest.mark.parametrize(
    "heading",
    ["See also", "References", "EXTERNAL LINKS.", "Notes and references", "Selected bibliography", "Secondary sources"],
)
def test_sections_that_list_sources_are_known_by_their_heading(heading):
    assert is_apparatus(heading)


@pytest.mark.parametrize(
    "heading", ["", "History", "Cultural references", "Energy sources", "Works", "Popular culture"]
)
def test_other_sections_are_not(heading):
    assert not is_apparatus(heading)


def test_prose_is_told_from_an_entry_in_a_list_of_sources():
    assert reads_like_prose("The letters were published after his death and are the best source for his years in Rome.")
    assert not reads_like_prose(
        "Smith, John (1999). A Long Title About Many Things and Few Others. Oxford University Press."
    )
    assert not reads_like_prose("It was short.")
