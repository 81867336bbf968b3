"""The bundled sample is what its README says."""

from __future__ import annotations

import json
from pathlib import Path

from retrieval.questions import read_questions

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"


def articles() -> list[dict[str, object]]:
    return [json.loads(line) for line in (SAMPLE / "articles.jsonl").read_text(encoding="utf-8").splitlines()]


def words_in(article: dict[str, object]) -> int:
    sections = article["sections"]
    assert isinstance(sections, list)
    return sum(len(section["text"].split()) for section in sections)


def test_there_are_44_articles_of_600_to_900_words_in_eight_sections_or_more() -> None:
    found = articles()
    assert [article["page_id"] for article in found] == list(range(1, 45))
    assert len({article["title"] for article in found}) == 44
    assert all(600 <= words_in(article) <= 900 for article in found)
    assert all(isinstance(one["sections"], list) and len(one["sections"]) >= 8 for one in found)


def test_eighty_different_questions_each_have_an_article_that_is_there() -> None:
    questions = read_questions(SAMPLE / "questions.tsv").questions
    assert len({question.text for question in questions}) == 80
    pages = {str(page_id) for page_id in range(1, 45)}
    assert all(question.relevant <= pages and len(question.relevant) == 1 for question in questions)
    assert set().union(*(question.relevant for question in questions)) == pages
