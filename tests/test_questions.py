"""Question sets: the three layouts, what is left out, and files that are not question sets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.questions import Question, Unit, groups_of, read_questions, within
from store.records import LookaheadError

ROOT = Path(__file__).resolve().parents[1]


def _real(name: str) -> Path:
    folder = Path(os.environ.get("LOOKAHEAD_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / name).exists():
        pytest.skip(f"{folder / name} is absent; set LOOKAHEAD_DATA to the folder of real data")
    return folder / name


def _asked(identity: str, text: str = "Who?", **more: object) -> dict[str, object]:
    return {"id": identity, "question": text, "answers": [], **more}


def _squad(path: Path, *articles: tuple[str, list[tuple[str, list[dict[str, object]]]]]) -> Path:
    data = [
        {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs]}
        for title, paragraphs in articles
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": data}))
    return path


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_a_squad_question_is_answered_by_its_paragraph(tmp_path: Path) -> None:
    path = _squad(tmp_path / "s.json", ("Steam_engine", [("A piston.", [_asked("x1")]), ("A boiler.", [_asked("x2")])]))
    found = read_questions(path)
    assert (found.name, found.unit, found.left_out) == ("s.json", Unit.PARAGRAPH, {})
    assert found.questions == (
        Question("x1", "Who?", frozenset({"Steam_engine/0"})),
        Question("x2", "Who?", frozenset({"Steam_engine/1"})),
    )
    assert [(p.key, p.title, p.text) for p in found.passages] == [
        ("Steam_engine/0", "Steam engine", "A piston."),
        ("Steam_engine/1", "Steam engine", "A boiler."),
    ]


def test_unanswerable_questions_are_left_out_and_their_paragraph_stays(tmp_path: Path) -> None:
    asked = [_asked("x1", is_impossible=True), _asked("x2", is_impossible=True)]
    path = _squad(tmp_path / "s.json", ("A", [("One.", asked), ("Two.", [_asked("x3", is_impossible=False)])]))
    found = read_questions(path)
    assert [question.key for question in found.questions] == ["x3"]
    assert found.left_out == {"unanswerable": 2}
    assert len(found.passages) == 2


def test_identical_paragraphs_of_one_article_share_a_key(tmp_path: Path) -> None:
    path = _squad(
        tmp_path / "s.json",
        ("A", [("Same.", [_asked("1")]), ("Other.", [_asked("2")]), (" Same.\n", [_asked("3")]), ("New.", [])]),
        ("B", [("Same.", [_asked("4")])]),
    )
    found = read_questions(path)
    assert [passage.key for passage in found.passages] == ["A/0", "A/1", "A/2", "B/0"]
    assert [min(question.relevant) for question in found.questions] == ["A/0", "A/1", "A/0", "B/0"]


def test_an_article_in_two_parts_gets_each_key_once(tmp_path: Path) -> None:
    found = read_questions(_squad(tmp_path / "s.json", ("A B", [("One.", [_asked("1")])]), ("A_B", [("Two.", [])])))
    assert [passage.key for passage in found.passages] == ["A_B/0", "A_B/1"]


def test_questions_about_one_article_form_a_group(tmp_path: Path) -> None:
    path = _squad(
        tmp_path / "s.json", ("AC/DC", [("1.", [_asked("1")]), ("2.", [_asked("2")])]), ("B", [("3.", [_asked("3")])])
    )
    assert groups_of(read_questions(path)) == ["AC/DC", "AC/DC", "B"]
    assert groups_of(read_questions(_written(tmp_path / "q.tsv", "a\t5\nb\t7,6\nc\t6,7\n"))) == ["5", "6,7", "6,7"]
    assert groups_of(read_questions(_written(tmp_path / "q.tsv", "a\t5\nb\t6\n"))) is None


def test_empty_squad_questions_are_left_out(tmp_path: Path) -> None:
    asked = [_asked("1", " \n"), _asked("2", "\ud800"), _asked("3", " Who\nis\tit? ")]
    found = read_questions(_squad(tmp_path / "s.json", ("A", [("One.", asked), ("", [_asked("4")])])))
    assert [(question.key, question.text) for question in found.questions] == [("3", "Who is it?")]
    assert found.left_out == {"empty": 3}
    assert len(found.passages) == 1


def test_a_line_holds_a_question_and_its_pages(tmp_path: Path) -> None:
    found = read_questions(_written(tmp_path / "q.tsv", "\ufeffWho?\t12\r\n\r\nWhat?\t7, 007,9\n"))
    assert (found.unit, found.passages, found.left_out) == (Unit.ARTICLE, (), {})
    assert found.questions == (
        Question("1", "Who?", frozenset({"12"})),
        Question("3", "What?", frozenset({"7", "9"})),
    )


def test_a_byte_order_mark_belongs_to_no_layout(tmp_path: Path) -> None:
    squad = _squad(tmp_path / "s.json", ("A", [("One.", [_asked("1")])]))
    assert len(read_questions(_written(tmp_path / "b.json", "\ufeff" + squad.read_text())).questions) == 1
    judged = _written(tmp_path / "j.tsv", "\ufeff" + QRELS)
    assert [q.key for q in read_questions(_written(tmp_path / "t.tsv", "\ufeff" + TOPICS), judged).questions] == [
        "1",
        "3",
    ]


def test_a_unicode_line_separator_does_not_end_a_question(tmp_path: Path) -> None:
    found = read_questions(_written(tmp_path / "q.tsv", "Who\u2028is it?\t12\n"))
    assert [question.text for question in found.questions] == ["Who is it?"]


TOPICS = "1\tWho?\n2\tWhat?\n3\tWhere?\n4\t \n"
QRELS = "1\tQ0\t12#3\t1\n1\tQ0\t12#4\t2\n1\tQ0\t15#0\t0\n2\tQ0\t12#0\t0\n3 Q0 99 1\n4\tQ0\t12#1\t1\n7\tQ0\t12#1\t1\n"


def test_topics_find_their_qrels_beside_them(tmp_path: Path) -> None:
    _written(tmp_path / "qrels-dev.tsv", QRELS)
    found = read_questions(_written(tmp_path / "topics-dev.tsv", TOPICS))
    assert found.questions == (Question("1", "Who?", frozenset({"12"})), Question("3", "Where?", frozenset({"99"})))
    assert found.left_out == {"without a relevant page": 1, "empty": 1, "judged but not among the topics": 1}


def test_qrels_that_are_given_win(tmp_path: Path) -> None:
    _written(tmp_path / "qrels-dev.tsv", QRELS)
    other = _written(tmp_path / "mine.tsv", "2 Q0 5#0 1\n")
    found = read_questions(_written(tmp_path / "topics-dev.tsv", TOPICS), other)
    assert [question.key for question in found.questions] == ["2"]


def test_questions_about_pages_that_are_not_there_are_counted(tmp_path: Path) -> None:
    found = read_questions(_written(tmp_path / "q.tsv", "a\t1\nb\t2\nc\t1,3\n"))
    kept = within(found, {3, 2})
    assert [(question.key, question.relevant) for question in kept.questions] == [("2", {"2"}), ("3", {"3"})]
    assert kept.left_out == {"not in the collection": 1}
    assert within(kept, {3}).left_out == {"not in the collection": 2}
    assert found.left_out == {}
    assert within(found, set()).questions == ()


def test_paragraphs_are_not_looked_for_among_pages(tmp_path: Path) -> None:
    found = read_questions(_squad(tmp_path / "s.json", ("A", [("One.", [_asked("1")])])))
    with pytest.raises(LookaheadError, match="--add-paragraphs"):
        within(found, {1})


def _complaint(path: Path, qrels: Path | None = None) -> str:
    with pytest.raises(LookaheadError) as caught:
        read_questions(path, qrels)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1: expected questions, found an empty file"),
        (" \n\t\n", "found an empty file"),
        ("Who?\t1\nWhat?\n", "line 2: expected question<TAB>page id, found 1 column(s)"),
        ("Who?\t1\t2\n", "line 1: expected question<TAB>page id, found 3 column(s)"),
        ("1\tWho?\n", "line 1: expected a page id in column 2, found 'Who?'; TREC topics need their qrels too"),
        ("Who?\t0\n", "found '0'"),
        ("Who?\t-5\n", "found '-5'"),
        ("Who?\t1_0\n", "found '1_0'"),
        ("Who?\t٣\n", "found '٣'"),
        ("Who?\t1,\n", "found ''"),
        ("Who?\t" + "9" * 5000 + "\n", "found '999"),
        (" \t5\n", "holds no question to ask: 1 empty"),
        ('{"data": [\n{"title": }]}', "line 2: expected SQuAD JSON, but: Expecting value at column 11"),
        ('{"data": []}\n{"data": []}', "line 2: expected SQuAD JSON, but: Extra data"),
        ("[" * 100_000, "expected SQuAD JSON, but: "),
        ('{"data": ' + "9" * 5000 + "}", "expected SQuAD JSON, but: "),
        ("[]", "expected an object with 'data', found a list of 0"),
        ("{}", "expected 'data', found only ''"),
        ('{"data": 5}', "expected 'data' to be a list, found 5"),
        ('{"data": []}', "holds no question to ask"),
        ('{"data": [5]}', "data[0]: expected an object with 'title', found 5"),
        ('{"data": [{"title": "A"}]}', "data[0]: expected 'paragraphs', found only 'title'"),
        ('{"data": [{"title": " ", "paragraphs": []}]}', "data[0]: expected a title"),
        ('{"data": [{"title": "A", "paragraphs": [{"qas": []}]}]}', "data[0].paragraphs[0]: expected 'context'"),
    ],
)
def test_a_file_that_is_no_question_set_is_told_where(tmp_path: Path, text: str, complaint: str) -> None:
    path = _written(tmp_path / "q", text)
    message = _complaint(path)
    assert str(path) in message
    assert complaint in message


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"question": "Who?"}, "qas[1]: expected 'id', found only 'question'"),
        ({"id": "2"}, "qas[1]: expected 'question'"),
        ({"id": 2, "question": "Who?"}, "qas[1]: expected 'id' to be a str, found 2"),
        ({"id": "1", "question": "Who?"}, "qas[1]: a second question with the id 1"),
        ({"id": "a b", "question": "Who?"}, "qas[1]: expected a question id without spaces, found 'a b'"),
        ({"id": "2", "question": ["Who?"]}, "qas[1]: expected 'question' to be a str, found a list of 1"),
        ({"id": "2", "question": "Who?", "is_impossible": "no"}, "expected 'is_impossible' to be a bool, found 'no'"),
        (None, "qas[1]: expected an object with 'id', found None"),
    ],
)
def test_a_squad_question_without_its_fields_is_told_where(tmp_path: Path, asked: Any, complaint: str) -> None:
    path = _squad(tmp_path / "s.json", ("A", [("One.", [_asked("1"), asked])]))
    message = _complaint(path)
    assert message.startswith(f"{path} data[0].paragraphs[0].")
    assert complaint in message


@pytest.mark.parametrize(
    ("qrels", "complaint"),
    [
        ("1 Q0 12#1\n", "line 1: expected question id, Q0, passage id, grade; found 3 columns"),
        ("1 Q0 12#1 1\n1 Q0 12#1 yes\n", "line 2: expected a grade as a whole number in column 4, found 'yes'"),
        ("1 Q0 doc-7 1\n", "line 1: expected a page id in column 3, found 'doc-7' before '#'"),
        ("", "found an empty file"),
        ("1 Q0 12#1 -1\n", "topics.tsv holds no question to ask: 1 empty, 3 without a relevant page"),
    ],
)
def test_qrels_that_are_not_are_told_where(tmp_path: Path, qrels: str, complaint: str) -> None:
    judged = _written(tmp_path / "qrels.tsv", qrels)
    assert complaint in _complaint(_written(tmp_path / "topics.tsv", TOPICS), judged)


def test_topics_are_checked_line_by_line(tmp_path: Path) -> None:
    judged = _written(tmp_path / "j.tsv", QRELS)
    assert "line 2: a second question with the id 1" in _complaint(_written(tmp_path / "t", "1\ta\n1\tb\n"), judged)
    assert "line 1: expected question id<TAB>question, found 4" in _complaint(
        _written(tmp_path / "t", "1\t2\t3\t4"), judged
    )
    assert "expected a question id without spaces" in _complaint(_written(tmp_path / "t", "1 2\ta\n"), judged)


def test_squad_takes_no_qrels(tmp_path: Path) -> None:
    path = _squad(tmp_path / "s.json", ("A", [("One.", [_asked("1")])]))
    assert "says itself what is right" in _complaint(path, tmp_path / "qrels.tsv")


@pytest.mark.parametrize("raw", [b"\x89PNG\r\n\0\0", b"BZh91AY", b"\x1f\x8b\x08\0", b"Who?\t1\n\0"])
def test_a_binary_file_is_called_one(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "q").write_bytes(raw)
    assert "found a binary file" in _complaint(tmp_path / "q")


def test_another_encoding_is_told_by_line_and_byte(tmp_path: Path) -> None:
    (tmp_path / "q").write_bytes(b"\xef\xbb\xbfWho?\t1\nCaf\xe9?\t2\n")
    assert _complaint(tmp_path / "q").endswith("line 2: expected UTF-8 text, found the byte 0xe9")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert "No such file" in _complaint(tmp_path / "none.tsv")
    assert "directory" in _complaint(tmp_path)


def test_a_file_too_large_to_be_questions_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "dump.xml").open("wb") as file:
        file.write(b"<mediawiki " * 10_000)
        file.truncate(2**40)  # sparse: takes no room
    assert "a question set has at most" in _complaint(tmp_path / "dump.xml")


@settings(max_examples=60)
@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_questions_or_one_line_of_complaint(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(raw)
    try:
        said = "".join(question.text for question in read_questions(path).questions)
    except LookaheadError as error:
        said = str(error)
    assert said
    assert "\n" not in said


def test_the_bundled_questions_are_eighty() -> None:
    found = read_questions(ROOT / "data" / "sample" / "questions.tsv")
    assert len(found.questions) == 80
    assert within(found, set(range(1, 45))).left_out == {}


def test_squad_part_one_has_2910_answerable_questions() -> None:
    found = read_questions(_real("squad/squad-v2.0-dev-part1.json"))
    assert (len(found.questions), len(found.passages)) == (2910, 646)
    assert found.left_out == {"unanswerable": 3168}
    assert len(set(groups_of(found) or ())) == 16
    assert found.passages[0].key == "Normans/0"


def test_every_miracl_question_has_a_relevant_page() -> None:
    found = read_questions(_real("miracl-en/topics-train.tsv"))
    assert (len(found.questions), found.left_out) == (2863, {})
    some = within(found, set(range(12, 60_634)))  # the pages of a larger cut of the same dump
    assert (len(some.questions), some.left_out) == (862, {"not in the collection": 2001})
