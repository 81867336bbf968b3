"""`GET /api/evaluations`: the last evaluations of a collection, and their reports and plots."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import anyio
from fastapi import APIRouter, Path
from starlette.responses import Response

from retrieval.evaluations import TYPES, kept_in, read_kept
from retrieval.service.looking_answers import EvaluationsAnswer
from retrieval.service.problems import Problem, documented
from retrieval.service.search_routes import CollectionName, json_response
from store.generations import Collection
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.service.service import Service

_Name = Annotated[str, Path(min_length=1, max_length=100)]
# a report is shown, never run: nothing in it may load or do anything
_HEADERS = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Cache-Control": "no-cache"}


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["evaluations"])

    @router.get(
        "/evaluations",
        operation_id="list_evaluations",
        summary="What was evaluated last",
        response_model=EvaluationsAnswer,
        responses=documented(404),
    )
    async def evaluations(collection: CollectionName = None) -> Response:
        """The last report of each `lookahead evaluate` on the collection, newest first."""
        with service.shelf.lease(collection) as lease:
            found = await anyio.to_thread.run_sync(kept_in, Collection(lease.published.path.parent))
            rows = [
                {"kind": one.kind, "made": one.made, "command": one.command, "files": list(one.files)} for one in found
            ]
            return json_response({"collection": lease.name, "evaluations": rows})

    @router.get(
        "/evaluations/{collection}/{kind}/{file}",
        operation_id="read_evaluation",
        summary="A report or a plot",
        response_class=Response,
        responses={
            200: {"description": "Successful Response", "content": {kind: {} for kind in sorted(set(TYPES.values()))}},
            **documented(404),
        },
    )
    async def file(collection: _Name, kind: _Name, file: _Name) -> Response:
        """One of the files that the list names."""
        with service.shelf.lease(collection) as lease:
            read = partial(read_kept, Collection(lease.published.path.parent), kind, file)
            try:
                content, media_type = await anyio.to_thread.run_sync(read)
            except LookaheadError as error:
                raise Problem(404, str(error)) from error
        return Response(content, media_type=media_type, headers=_HEADERS)

    return router
