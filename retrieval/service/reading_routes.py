"""GET /api/articles and /api/chunks: what the collections hold, to be read.

It knows nothing of searching. Every look-up runs in a thread, with a lease that lives as long as the look-up does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import anyio
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import RedirectResponse, Response

from retrieval.service.answers import ArticleAnswer, ArticlesAnswer, ChunkAnswer
from retrieval.service.problems import Problem, documented
from retrieval.service.search_routes import CollectionName, json_response
from retrieval.service.settings import LONGEST_TITLE
from store.database import ArticleRow, Store
from store.records import LookaheadError, Unreachable

if TYPE_CHECKING:
    from retrieval.service.service import Service
    from retrieval.service.shelf import Lease

_AT_ONCE = 4  # look-ups; more would only wait for each other
_FAR = (1 << 63) - 1

PageId = Annotated[int, Path(description="The page's id, as a result or a title look-up gives it.", examples=[1])]
ChunkId = Annotated[int, Path(description="The chunk's id, as a result gives it.", examples=[0])]


def routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["reading"])
    room = anyio.CapacityLimiter(_AT_ONCE)

    async def answered(collection: str | None, read: Callable[[Lease], dict[str, object]]) -> Response:
        def work() -> Response:
            with service.shelf.lease(collection) as lease:
                return json_response({"collection": lease.name, "generation": lease.generation, **read(lease)})

        return await anyio.to_thread.run_sync(work, limiter=room)

    @router.get(
        "/api/articles",
        operation_id="find_articles",
        summary="Find articles by their title",
        response_model=ArticlesAnswer,
        responses=documented(404),
    )
    async def find_articles(
        title: Annotated[
            str,
            Query(min_length=1, max_length=LONGEST_TITLE, description="A title, or some of it.", examples=["bridge"]),
        ],
        limit: Annotated[int, Query(ge=1, le=100, description="How many articles.")] = 10,
        collection: CollectionName = None,
    ) -> Response:
        """Articles whose title begins so, in any case, then those whose title has it elsewhere."""
        return await answered(collection, lambda lease: _titles(lease.searcher.store, title, limit))

    @router.get(
        "/api/articles/{page_id}",
        operation_id="read_article",
        summary="Read an article",
        response_model=ArticleAnswer,
        responses=documented(404),
    )
    async def read_article(
        page_id: PageId,
        start: Annotated[int, Query(ge=0, le=_FAR, description="The first chunk's position.")] = 0,
        limit: Annotated[int, Query(ge=1, le=500, description="How many chunks.")] = 100,
        collection: CollectionName = None,
    ) -> Response:
        """An article's chunks in order, from a position on."""
        return await answered(collection, lambda lease: _article(lease.searcher.store, page_id, start, limit))

    @router.get(
        "/api/chunks/{chunk_id}",
        operation_id="read_chunk",
        summary="Read a chunk and those around it",
        response_model=ChunkAnswer,
        responses=documented(404),
    )
    async def read_chunk(
        chunk_id: ChunkId,
        neighbours: Annotated[int, Query(ge=0, le=20, description="How many before it, and after it.")] = 2,
        collection: CollectionName = None,
    ) -> Response:
        """A chunk with its neighbours in the article. Of a text that was changed or removed since, a chunk can still
        be read; it has no neighbours."""
        return await answered(collection, lambda lease: _chunk(lease, chunk_id, neighbours))

    @router.get("/chunks/{chunk_id}", include_in_schema=False)
    async def moved(request: Request, chunk_id: int) -> Response:
        asked = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{request.scope.get('root_path', '')}/api/chunks/{chunk_id}{asked}", 307)

    return router


def _titles(store: Store, title: str, limit: int) -> dict[str, object]:
    return {
        "articles": [
            {"page_id": row.page_id, "title": row.title, "chunk_count": row.chunk_count, "split": row.split.value}
            for row in store.titles(title, limit)
        ]
    }


def _article(store: Store, page_id: int, start: int, limit: int) -> dict[str, object]:
    row = _row(store, page_id)
    return {
        "page_id": row.page_id,
        "title": row.title,
        "split": row.split.value,
        "source": _source(row),
        "first_chunk": row.first_chunk,
        "chunk_count": row.chunk_count,
        "start": start,
        "chunks": _run(store, row, start, start + limit),
    }


def _chunk(lease: Lease, chunk_id: int, neighbours: int) -> dict[str, object]:
    count = lease.published.manifest.counts["chunks"]
    if not 0 <= chunk_id < count:
        raise Problem(404, f"no chunk has the id {str(chunk_id)[:100]}; {lease.name} has the ids 0 to {count - 1}")
    store = lease.searcher.store
    found = store.chunks([chunk_id])[0]
    row = _present(store, found.chunk.page_id)
    live = row is not None and row.first_chunk <= chunk_id < row.first_chunk + row.chunk_count
    before: list[dict[str, object]] = []
    after: list[dict[str, object]] = []
    place = found.chunk.position
    if live and row is not None:
        around = _run(store, row, place - neighbours, place + neighbours + 1)
        before, after = around[: min(neighbours, place)], around[min(neighbours, place) + 1 :]
    return {
        "title": found.title,
        "chunk_count": row.chunk_count if live and row is not None else 0,
        "chunk": {
            "chunk_id": chunk_id,
            "page_id": found.chunk.page_id,
            "position": place,
            "section": found.chunk.section,
            "text": found.chunk.text,
            "live": live,
        },
        "before": before,
        "after": after,
    }


def _run(store: Store, row: ArticleRow, start: int, stop: int) -> list[dict[str, object]]:
    """The chunks of an article from one position to before another, as far as there are any."""
    start, stop = max(0, min(start, row.chunk_count)), min(stop, row.chunk_count)
    texts = store.texts(row.first_chunk + start, row.first_chunk + stop) if start < stop else []
    return [
        {"chunk_id": row.first_chunk + place, "position": place, "section": section, "text": text}
        for place, (_, section, text) in enumerate(texts, start)
    ]


def _source(row: ArticleRow) -> str:
    """What kind of source it came from, and that one's name; where on this machine it was is nobody's business."""
    kind, _, where = row.source.partition(":")
    return f"{kind}:{PurePath(where).name}"


def _row(store: Store, page_id: int) -> ArticleRow:
    try:
        return store.article(page_id)
    except Unreachable:
        raise
    except LookaheadError as error:
        raise Problem(404, str(error)[:200]) from error  # an id may have thousands of digits


def _present(store: Store, page_id: int) -> ArticleRow | None:
    """The article a page has now, if any."""
    try:
        return store.article(page_id)
    except Unreachable:
        raise
    except LookaheadError:
        return None
