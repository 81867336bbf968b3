"""Asks every question of a set in every mode, and says at which rank a right unit came.

It does not know metrics or intervals (`metrics`, `reports`) or how a file of questions looks (`questions`).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from index.build import Choices, ingest
from index.progress import bar
from index.upkeep import forget
from retrieval.metrics import each_once, first_relevant_rank
from retrieval.questions import QuestionSet, Unit
from retrieval.search import Fusion, Mode, Searcher, tidy_query
from store.database import Store
from store.generations import Collection, link_or_copy
from store.records import LookaheadError, digest
from store.sources import open_source

DEPTH = 200  # chunks a search fetches: enough for 50 different units where an article has a few chunks among them

Run = dict[str, list[tuple[str, float]]]
UnitOf = Callable[[int], str]


def ask(
    searcher: Searcher,
    question_set: QuestionSet,
    unit_of: UnitOf,
    *,
    fusion: Fusion = Fusion.ZSUM,
    quiet: bool = False,
) -> tuple[dict[str, list[int | None]], dict[str, Run]]:
    """(ranks, runs) by mode. A unit counts at its best chunk; `unit_of` names a chunk's unit from its page id."""
    ranks: dict[str, list[int | None]] = {mode.value: [] for mode in Mode}
    runs: dict[str, Run] = {mode.value: {} for mode in Mode}
    pages = _page_of(searcher.store)
    with bar("asking", len(question_set.questions), "questions", quiet=quiet) as shown:
        for question in question_set.questions:
            query = tidy_query(question.text)
            for mode in Mode:
                ranked = searcher.rank(query, DEPTH, mode=mode, within=searcher.alive, fusion=fusion)
                best: dict[str, float] = {}
                for one in ranked:
                    best.setdefault(unit_of(pages[one.chunk_id]), one.score)
                runs[mode.value][question.key] = list(best.items())
                ranks[mode.value].append(first_relevant_rank(each_once(best), question.relevant))
            shown.update(1)
    return ranks, runs


def page_unit(page_id: int) -> str:
    """The unit of questions that are answered by articles."""
    return str(page_id)


def paragraph_unit(question_set: QuestionSet) -> UnitOf:
    """The unit of questions that are answered by the set's own paragraphs, once those are in the collection."""
    keys = {_paragraph_id(paragraph.key): paragraph.key for paragraph in question_set.passages}
    return lambda page_id: keys.get(page_id, str(page_id))


@contextlib.contextmanager
def with_paragraphs(collection: Collection, question_set: QuestionSet, *, quiet: bool = False) -> Iterator[Collection]:
    """A throw-away collection: `collection` with the question set's paragraphs added as articles of their own, and
    without its own articles of the same titles, which hold the same answers under other ids.

    It stands beside the original, shares its files by hard links, and is removed at the end.
    """
    if question_set.unit is not Unit.PARAGRAPH:
        raise LookaheadError(f"{question_set.name} brings no paragraphs of its own; leave out --add-paragraphs")
    current = collection.current()
    folder = Path(tempfile.mkdtemp(prefix=".trial-", dir=collection.path.parent))
    try:
        trial = Collection(folder)
        for path in current.path.rglob("*"):
            if path.is_file():
                link_or_copy(path, folder / current.path.name / path.relative_to(current.path))
        shutil.copyfile(collection.path / "CURRENT", folder / "CURRENT")
        lines = folder / "paragraphs.jsonl"
        with lines.open("w", encoding="utf-8") as file:
            for paragraph in question_set.passages:
                row = {"page_id": _paragraph_id(paragraph.key), "title": paragraph.title, "text": paragraph.text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        titles = {paragraph.title.lower() for paragraph in question_set.passages}
        with Store.at(current) as store:
            twins = tuple(row.page_id for row in store.articles() if row.title.lower() in titles)
        ingest(trial, [open_source(lines)], Choices(remove=twins, quiet=quiet))
        yield trial
    finally:
        with contextlib.suppress(LookaheadError):  # a server that has gone away meanwhile is what the error tells of
            forget(trial)
        shutil.rmtree(folder, ignore_errors=True)


def by_title(question_set: QuestionSet, store: Store) -> QuestionSet:
    """A SQuAD set asked of articles instead of paragraphs: the article of the collection with the same title."""
    pages: dict[str, int] = {row.title.lower(): row.page_id for row in store.articles()}
    titles = {paragraph.key: paragraph.title.lower() for paragraph in question_set.passages}
    questions, missing = [], 0
    for question in question_set.questions:
        found = {str(pages[titles[key]]) for key in question.relevant if titles[key] in pages}
        if found:
            questions.append(type(question)(question.key, question.text, frozenset(found)))
        else:
            missing += 1
    left_out: Mapping[str, int] = question_set.left_out | (
        {"article not in the collection": missing} if missing else {}
    )
    if not questions:
        raise LookaheadError(
            f"no article of {question_set.name} is in the collection; add its own paragraphs: --add-paragraphs"
        )
    return QuestionSet(question_set.name, Unit.ARTICLE, tuple(questions), (), dict(left_out))


def _paragraph_id(key: str) -> int:
    """A page id no Wikipedia has: above 2^40."""
    return (1 << 40) + int(digest("paragraph", key)[:9], 16)


def _page_of(store: Store) -> list[int]:
    """Chunk id → page id; a dead chunk belongs to page -1."""
    pages = [-1] * store.counts().chunks
    for row in store.articles():
        pages[row.first_chunk : row.first_chunk + row.chunk_count] = [row.page_id] * row.chunk_count
    return pages
