"""GET /api/search: many questions that come at once are answered together.

It does not know how a passage is found; it checks what is asked and shapes what is answered.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import orjson
from fastapi import APIRouter, Query
from pydantic import StringConstraints
from starlette.responses import Response

from retrieval.search import Fusion, Mode, Passage, Question, Searcher, tidy_query
from retrieval.search_rows import as_dict, why_fewer
from retrieval.service.answers import SearchAnswer
from retrieval.service.problems import Problem, documented
from retrieval.service.settings import LONGEST_QUERY, LONGEST_TITLE, MOST_FILTERS, MOST_RESULTS
from store.database import Filter
from store.records import LookaheadError, Split, Unreachable

if TYPE_CHECKING:
    from retrieval.service.service import Service
    from retrieval.service.shelf import Lease

CollectionName = Annotated[str | None, Query(max_length=100, description="Which collection; else the default one.")]
_Heading = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TITLE)]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and the lease of the collection it is for."""

    lease: Lease
    question: Question


@dataclass(frozen=True, slots=True)
class Answered:
    """Rows of JSON, and why they are fewer than asked for, where they are."""

    rows: list[dict[str, object]]
    note: str | None


def routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["search"])

    @router.get(
        "/api/search",
        operation_id="search",
        summary="Find passages",
        response_model=SearchAnswer,
        responses=documented(404),
    )
    async def search(
        q: Annotated[
            str,
            Query(
                min_length=1,
                max_length=LONGEST_QUERY,
                description="A question, or words.",
                examples=["how do bridges carry load"],
            ),
        ],
        k: Annotated[int, Query(ge=1, le=MOST_RESULTS, description="How many passages.")] = 5,
        mode: Annotated[Mode, Query(description="By meaning and words, by meaning, by words.")] = Mode.HYBRID,
        fusion: Annotated[Fusion, Query(description="How hybrid joins the two lists.")] = Fusion.ZSUM,
        collection: CollectionName = None,
        title: Annotated[
            tuple[_Heading, ...], Query(max_length=MOST_FILTERS, description="Only in the article of that title.")
        ] = (),
        page_id: Annotated[tuple[int, ...], Query(max_length=MOST_FILTERS, description="Only in that page.")] = (),
        section: Annotated[
            tuple[_Heading, ...], Query(max_length=MOST_FILTERS, description="Only under that heading.")
        ] = (),
        split: Annotated[tuple[Split, ...], Query(max_length=MOST_FILTERS, description="Only in that part.")] = (),
    ) -> Response:
        """The passages that answer best. The filters may be given several times: values of one are alternatives,
        different ones all have to hold."""
        began = time.perf_counter()
        query = _tidy(q)
        question = Question(query, k, mode, Filter(title, page_id, section, split), fusion)
        with service.shelf.lease(collection) as lease:
            answered = await service.searching.ask(Asked(lease, question), service.settings.deadline)
            return json_response(
                {
                    "collection": lease.name,
                    "generation": lease.generation,
                    "query": query,
                    "mode": mode.value,
                    "took_ms": round(1000 * (time.perf_counter() - began), 2),
                    "results": answered.rows,
                    "note": answered.note,
                }
            )

    return router


def json_response(answer: dict[str, object]) -> Response:
    return Response(orjson.dumps(answer), media_type="application/json")


def answer_all(asked: Sequence[Asked]) -> list[Answered | Exception]:
    """An answer or what went wrong for each, those to one searcher together. Runs in the lane's thread, where the
    highlights are looked for too; it takes leases of its own, for an asker may go at any time."""
    answers: list[Answered | Exception] = [Problem(503, "the question was not reached; ask again")] * len(asked)
    with ExitStack() as held:
        groups: dict[Searcher, list[int]] = {}
        for place, one in enumerate(asked):
            try:
                groups.setdefault(held.enter_context(one.lease.again()).searcher, []).append(place)
            except Problem as error:
                answers[place] = error
        for searcher, places in groups.items():
            questions = [asked[place].question for place in places]
            for place, found in zip(places, searcher.search_many(questions), strict=True):
                answers[place] = _answer(searcher, asked[place].question, found)
    return answers


def _answer(searcher: Searcher, question: Question, found: list[Passage] | LookaheadError) -> Answered | Exception:
    wanted = question.wanted
    if isinstance(found, Unreachable):
        return found
    if isinstance(found, LookaheadError):
        # nothing else of a question that was checked can be wrong; a page id may have thousands of digits
        return Problem(404, str(found)[:300]) if wanted.titles or wanted.page_ids else found
    rows = [
        {**as_dict(rank, passage), "spans": searcher.lexical.spans(passage.chunk.text, question.query)}
        for rank, passage in enumerate(found, 1)
    ]
    few = len(found) < question.k
    return Answered(rows, why_fewer(len(found), question.mode.value, bool(wanted)) if few else None)


def _tidy(q: str) -> str:
    try:
        return tidy_query(q)
    except LookaheadError as error:  # it has no letter that can be seen; its sentence is for the command line
        raise Problem(422, "q holds nothing to search for; type a question, or words") from error
