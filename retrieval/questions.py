"""Question sets: SQuAD JSON, TREC topics with qrels, or lines of `question<TAB>page_id`, told apart by looking.

It does not know what a collection holds or how a question is answered; what is right is a set of unit ids.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import NoReturn, TypeVar

from store import tidy
from store.records import LookaheadError

LARGEST = 512 * 1024 * 1024  # bytes; SQuAD's training set has 42 million, a dump of Wikipedia many billions
_PAGE_ID = re.compile(r"0*([1-9][0-9]{0,18})")
_GRADE = re.compile(r"[+-]?[0-9]{1,9}")

_T = TypeVar("_T")


class Unit(StrEnum):
    """What a question's right answers are named by: a page id as text, or the key of one of the file's paragraphs."""

    ARTICLE = "article"
    PARAGRAPH = "paragraph"


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the units that answer it; `key` is unique in its set and has no spaces."""

    key: str
    text: str
    relevant: frozenset[str]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph that came with the questions; `key` is its article's title and its number there: `Normans/3`."""

    key: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions to be asked. `passages` are the file's own paragraphs (SQuAD only, without repetitions);
    `left_out` counts the questions that are not asked, by reason."""

    name: str
    unit: Unit
    questions: tuple[Question, ...]
    passages: tuple[Paragraph, ...]
    left_out: dict[str, int]


def read_questions(path: Path, qrels: Path | None = None) -> QuestionSet:
    """The questions of a file in any of the three layouts.

    Topics find their qrels beside them by name (`topics-X.tsv`, `qrels-X.tsv`) unless another file is given.
    A file that is none of these, or not what it seems, raises a LookaheadError that names the place.
    """
    text = _text_of(path)
    if text.lstrip()[:1] in ("{", "["):
        if qrels is not None:
            raise LookaheadError(f"{path} is JSON and says itself what is right; leave {qrels} out")
        found = _squad(path, text)
    elif judged := qrels or _qrels_beside(path):
        found = _trec(path, text, judged)
    else:
        found = _pairs(path, text)
    if not found.questions:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.left_out.items())
        raise LookaheadError(f"{path} holds no question to ask" + (f": {reasons}" if reasons else ""))
    return found


def within(question_set: QuestionSet, page_ids: AbstractSet[int]) -> QuestionSet:
    """The questions that the pages of a collection can answer; the others are counted in `left_out`.

    Relevant pages that the collection lacks are taken out of the questions that stay.
    """
    if question_set.unit is not Unit.ARTICLE:
        raise LookaheadError(
            f"{question_set.name} asks for its own paragraphs, not for pages; run again with: --add-paragraphs"
        )
    there = {str(page_id) for page_id in page_ids}
    kept = [replace(question, relevant=question.relevant & there) for question in question_set.questions]
    answerable = tuple(question for question in kept if question.relevant)
    left_out = {**question_set.left_out}
    if missing := len(kept) - len(answerable):
        left_out["not in the collection"] = left_out.get("not in the collection", 0) + missing
    return replace(question_set, questions=answerable, left_out=left_out)


def groups_of(question_set: QuestionSet) -> list[str] | None:
    """The article (or the same set of pages) each question is about; None where no two questions share one.

    Questions about one article are not independent of each other: an interval must draw them together.
    """
    if question_set.unit is Unit.ARTICLE:
        groups = [",".join(sorted(question.relevant)) for question in question_set.questions]
    else:
        groups = [min(question.relevant).rpartition("/")[0] for question in question_set.questions]
    return groups if len(set(groups)) < len(groups) else None


# -- SQuAD ---------------------------------------------------------------------------------------------------


def _squad(path: Path, text: str) -> QuestionSet:
    """Versions 1.1 and 2.0: paragraphs of articles, each with its questions; `is_impossible` only in the second."""
    questions: dict[str, Question] = {}
    paragraphs: dict[tuple[str, str], Paragraph] = {}
    sizes: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for place, title, raw in _squad_paragraphs(path, _json(path, text)):
        name = "_".join(title.split())
        context = tidy.paragraphs(tidy.normal(_field(raw, "context", str, place)).split("\n"))
        if context and (name, context) not in paragraphs:
            paragraphs[name, context] = Paragraph(f"{name}/{sizes[name]}", " ".join(title.split("_")), context)
            sizes[name] += 1
        for number, asked in enumerate(_field(raw, "qas", list, place)):
            here = f"{place}.qas[{number}]"
            key = _key(_field(asked, "id", str, here), here)
            if key in questions:
                _fail(here, f"a second question with the id {key}")
            words = tidy.one_line(_field(asked, "question", str, here))
            if "is_impossible" in asked and _field(asked, "is_impossible", bool, here):
                left_out["unanswerable"] += 1
            elif not words or not context:
                left_out["empty"] += 1
            else:
                questions[key] = Question(key, words, frozenset({paragraphs[name, context].key}))
    return QuestionSet(path.name, Unit.PARAGRAPH, tuple(questions.values()), tuple(paragraphs.values()), dict(left_out))


def _squad_paragraphs(path: Path, raw: object) -> Iterator[tuple[str, str, object]]:
    """Where each paragraph stands, its article's title, and the paragraph as it was written."""
    for i, article in enumerate(_field(raw, "data", list, str(path))):
        place = f"{path} data[{i}]"
        title = tidy.one_line(_field(article, "title", str, place))
        if not title:
            _fail(place, "expected a title, found an empty one")
        for j, paragraph in enumerate(_field(article, "paragraphs", list, place)):
            yield f"{place}.paragraphs[{j}]", title, paragraph


def _json(path: Path, text: str) -> object:
    try:
        raw: object = json.loads(text)
    except json.JSONDecodeError as error:
        _fail(f"{path} line {error.lineno}", f"expected SQuAD JSON, but: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        _fail(str(path), f"expected SQuAD JSON, but: {str(error).splitlines()[0]}")
    return raw


def _field(holder: object, name: str, kind: type[_T], place: str) -> _T:
    """The value of a key, of the type it must have."""
    if not isinstance(holder, dict):
        _fail(place, f"expected an object with {name!r}, found {_shown(holder)}")
    if name not in holder:
        _fail(place, f"expected {name!r}, found only {_shown(', '.join(map(str, holder)))}")
    value = holder[name]
    if not isinstance(value, kind):
        _fail(place, f"expected {name!r} to be a {kind.__name__}, found {_shown(value)}")
    return value


# -- lines with columns --------------------------------------------------------------------------------------


def _trec(path: Path, text: str, qrels: Path) -> QuestionSet:
    """`id<TAB>question` with qrels `id Q0 page#passage grade`, as MIRACL has them: relevance at article level."""
    relevant = _positives(qrels)
    asked: dict[str, Question] = {}
    left_out: Counter[str] = Counter()
    for number, identity, words in _rows(path, text, "question id<TAB>question"):
        key = _key(identity, f"{path} line {number}")
        if key in asked:
            _fail(f"{path} line {number}", f"a second question with the id {key}")
        asked[key] = Question(key, tidy.one_line(words), frozenset(relevant.get(key, ())))
    for question in asked.values():
        left_out["empty"] += not question.text
        left_out["without a relevant page"] += bool(question.text) and not question.relevant
    left_out["judged but not among the topics"] = len(relevant.keys() - asked.keys())
    kept = tuple(question for question in asked.values() if question.text and question.relevant)
    return QuestionSet(path.name, Unit.ARTICLE, kept, (), {reason: n for reason, n in left_out.items() if n})


def _positives(qrels: Path) -> dict[str, set[str]]:
    """The page ids judged relevant (a grade above 0) for each question id, none for one that was judged in vain."""
    pages: dict[str, set[str]] = {}
    for number, line in _lines(_text_of(qrels)):
        place = f"{qrels} line {number}"
        columns = line.split()
        if len(columns) != 4:
            _fail(place, f"expected question id, Q0, passage id, grade; found {len(columns)} columns")
        key, _, passage, grade = columns
        if not _GRADE.fullmatch(grade):
            _fail(place, f"expected a grade as a whole number in column 4, found {_shown(grade)}")
        page_id = _page_id(passage.partition("#")[0], place, column=3)
        pages.setdefault(_key(key, place), set()).update({page_id} if int(grade) > 0 else ())
    return pages


def _pairs(path: Path, text: str) -> QuestionSet:
    """`question<TAB>page_id`; several page ids are separated by commas. A question's key is its line number."""
    questions, empty = [], 0
    for number, words, ids in _rows(path, text, "question<TAB>page id"):
        relevant = (_page_id(given.strip(" "), f"{path} line {number}", column=2) for given in ids.split(","))
        question = Question(str(number), tidy.one_line(words), frozenset(relevant))
        if question.text:
            questions.append(question)
        empty += not question.text
    return QuestionSet(path.name, Unit.ARTICLE, tuple(questions), (), {"empty": empty} if empty else {})


def _rows(path: Path, text: str, layout: str) -> Iterator[tuple[int, str, str]]:
    """Each line's number and its two columns."""
    for number, line in _lines(text):
        columns = line.split("\t")
        if len(columns) != 2:
            _fail(f"{path} line {number}", f"expected {layout}, found {len(columns)} column(s)")
        yield number, columns[0], columns[1]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank. Only a newline ends one: a question may hold U+2028."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _page_id(given: str, place: str, column: int) -> str:
    match = _PAGE_ID.fullmatch(given)
    if match is None:
        hint = "; TREC topics need their qrels too: --qrels FILE" if column == 2 else " before '#'"
        _fail(place, f"expected a page id in column {column}, found {_shown(given)}{hint}")
    return match[1]


def _key(given: str, place: str) -> str:
    """An id as it was given; one that a run file could not hold is refused."""
    if not given or " " in given or not given.isprintable():
        _fail(place, f"expected a question id without spaces, found {_shown(given)}")
    return given


# -- files ---------------------------------------------------------------------------------------------------


def _qrels_beside(path: Path) -> Path | None:
    if not path.name.startswith("topics"):
        return None
    beside = path.with_name("qrels" + path.name.removeprefix("topics"))
    return beside if beside.is_file() else None


def _text_of(path: Path) -> str:
    """The whole file as text; its size and its first bytes are looked at before the rest is read."""
    try:
        with path.open("rb") as file:
            head = file.read(64 * 1024)
            size = path.stat().st_size
            if b"\0" in head or head[:3] in (b"BZh", b"\x1f\x8b\x08"):
                raise LookaheadError(f"{path} line 1: expected JSON or lines with tabs, found a binary file")
            if size > LARGEST:
                raise LookaheadError(f"{path} has {size:,} bytes; a question set has at most {LARGEST:,}")
            raw = head + file.read(LARGEST)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise LookaheadError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise LookaheadError(
            f"{path} line {line}: expected UTF-8 text, found the byte 0x{error.object[error.start]:02x}"
        ) from error
    if not text.strip():
        raise LookaheadError(f"{path} line 1: expected questions, found an empty file")
    return text


def _shown(value: object) -> str:
    """A value short enough for one line."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__} of {len(value)}"
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:57]}…"


def _fail(place: str, what: str) -> NoReturn:
    raise LookaheadError(f"{place}: {what}")
