"""The whole service as one ASGI application: routes, guard, lanes and their beginning and end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from retrieval.search import Searcher
from retrieval.service import (
    about_routes,
    embedding_routes,
    evaluation_routes,
    looking_routes,
    page_routes,
    reading_routes,
    search_routes,
)
from retrieval.service.encoders import Encoders
from retrieval.service.guard import Guard
from retrieval.service.lanes import Lane
from retrieval.service.looking import Looking
from retrieval.service.meters import Meters
from retrieval.service.problems import handle_problems
from retrieval.service.service import Service
from retrieval.service.settings import Settings
from retrieval.service.shelf import Shelf

_ROUTES = (
    search_routes,
    reading_routes,
    looking_routes,
    embedding_routes,
    about_routes,
    evaluation_routes,
)


def create_app(served: Searcher | Shelf, settings: Settings | None = None, encoders: Encoders | None = None) -> FastAPI:
    """An app over a shelf of collections, or over one searcher as it is (which stays the caller's to close)."""
    settings = Settings() if settings is None else settings
    shelf = Shelf.holding(served) if isinstance(served, Searcher) else served
    meters = Meters()
    service = Service(
        settings=settings,
        shelf=shelf,
        meters=meters,
        searching=Lane(
            "search",
            search_routes.answer_all,
            settings.waiting,
            settings.batch,
            meters,
            threads=settings.threads if settings.batch > 1 else 1,  # one at a time is meant to be just that
        ),
        looking=Looking(shelf, settings, meters),
        encoders=Encoders(settings, meters, shelf) if encoders is None else encoders,
    )

    @contextlib.asynccontextmanager
    async def alive(_: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(shelf.kept_fresh(settings.refresh))
            for resource in (service.searching, service.looking, service.encoders):
                await stack.enter_async_context(resource)
            yield

    app = FastAPI(
        title="lookahead",
        summary="Search Wikipedia by meaning, and predict what comes next.",
        lifespan=alive,
        docs_url=None,  # FastAPI's own page loads its script from elsewhere; ours is in about_routes
        redoc_url=None,
        openapi_url="/openapi.json",
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it asks the environment at every request
        redirect_slashes=False,  # it would redirect to whatever Host the request names
    )
    app.state.service = service
    handle_problems(app)
    for module in _ROUTES:
        app.include_router(module.routes(service))
    app.include_router(page_routes.routes())
    about_routes.describe(app, settings)
    app.add_middleware(Guard, settings=settings, meters=meters)
    return app
