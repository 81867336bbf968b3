"""What is served and how it fares: collections, models, health, figures, and the description of every route.

It reads what others keep; nothing is loaded for it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import APIRouter, FastAPI
from starlette.responses import FileResponse, Response

from retrieval.inverters import fitting_inverters
from retrieval.models import Model, fitting_models
from retrieval.rerankers import find_reranker, rerankers_for
from retrieval.service.answers import CollectionsAnswer, HealthAnswer, ModelsAnswer, ReadyAnswer
from retrieval.service.meters import CONTENT_TYPE
from retrieval.service.problems import Problem, ProblemDetails, documented
from retrieval.service.search_routes import json_response
from retrieval.service.settings import Settings
from store.generations import Collection
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.service.service import Service
    from retrieval.service.shelf import Lease, Shelf

DOCS = Path(__file__).parent / "docs"
_DOCS_HEADERS = {
    "Cache-Control": "no-cache",
    # Swagger UI sets style attributes, and draws with pictures inside its style sheet
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
_OPEN: dict[str, Any] = {"security": []}  # needs no key
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The service's key, where it has one."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}


def routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["about"])
    shelf = service.shelf

    @router.get(
        "/api/collections",
        operation_id="list_collections",
        summary="Collections that are served",
        response_model=CollectionsAnswer,
        responses=documented(),
    )
    async def collections() -> Response:
        """What may be named as `collection`; where none is named, the default one answers."""
        rows = []
        for name in shelf.names():
            try:
                with shelf.lease(name) as lease:
                    rows.append(_collection(lease, shelf))
            except Problem:  # it cannot be opened: /readyz says why
                continue
        return json_response({"collections": rows})

    @router.get(
        "/api/models",
        operation_id="list_models",
        summary="Encoders, predictors and inverters",
        response_model=ModelsAnswer,
        responses=documented(),
    )
    async def models() -> Response:
        """What may be named as `model` of embed and of predict-next, and as `inverter`; the best predictor first."""
        return json_response(await anyio.to_thread.run_sync(_models, service))

    @router.get(
        "/healthz",
        operation_id="healthz",
        summary="Whether the process answers",
        response_model=HealthAnswer,
        responses=documented(),
        openapi_extra=_OPEN,
    )
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @router.get(
        "/readyz",
        operation_id="readyz",
        summary="Whether questions are answered at once",
        response_model=ReadyAnswer,
        responses=documented(),
        openapi_extra=_OPEN,
    )
    async def readyz() -> Response:
        """503 until the default collection is loaded, and all others are or cannot be."""
        faults = shelf.faults()
        if not shelf.ready():
            said = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
            raise Problem(503, f"not ready: {said or 'the collections are being loaded'}", retry_after=1)
        told = [{"collection": name, "detail": fault} for name, fault in faults.items()]
        return json_response({"status": "ready", "collections": shelf.served(), "faults": told})

    @router.get(
        "/metrics",
        operation_id="metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"description": "Successful Response", "content": {CONTENT_TYPE: {}}}, **documented()},
    )
    async def metrics() -> Response:
        service.meters.generations_open(shelf.open_generations())
        return Response(service.meters.text(), headers={"Content-Type": CONTENT_TYPE})

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(DOCS / "index.html", headers=_DOCS_HEADERS)

    @router.get("/docs/{name}", include_in_schema=False)
    async def docs_file(name: str) -> Response:
        if name == "start.js":
            return FileResponse(DOCS / name, media_type="text/javascript", headers=_DOCS_HEADERS)
        if name in ("swagger-ui.css", "swagger-ui-bundle.js"):
            kind = "text/css" if name.endswith("css") else "text/javascript"
            return FileResponse(_swagger_file(name), media_type=kind, headers=_DOCS_HEADERS)
        raise Problem(404, "the description has no file of that name; it is at /docs")

    return router


def describe(app: FastAPI, settings: Settings) -> None:
    """Completes what FastAPI tells of an app: the body of every error, and the two ways to send the key."""
    written = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = written()
            parts = schema.setdefault("components", {})
            parts.setdefault("schemas", {})["ProblemDetails"] = ProblemDetails.model_json_schema()
            parts["securitySchemes"] = _KEYS
            if settings.key is not None:
                schema["security"] = [{name: []} for name in _KEYS]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI has it done


def _collection(lease: Lease, shelf: Shelf) -> dict[str, object]:
    manifest = lease.published.manifest
    encoder = manifest.facts["encoder"]["fingerprint"]
    return {
        "name": lease.name,
        "generation": lease.generation,
        "created": manifest.created,
        "articles": manifest.counts["articles"],
        "chunks": manifest.counts["chunks"],
        "live": manifest.counts["live"],
        "dim": encoder["dim"],
        "encoder": encoder["model"],
        "language": manifest.facts["lexical"]["language"] or None,
        "default": lease.name == shelf.default,
    }


def _models(service: Service) -> dict[str, object]:
    predictors: list[dict[str, object]] = []
    inverters: list[dict[str, object]] = []
    for name in service.shelf.names():
        try:
            lease = service.shelf.lease(name)
        except Problem:
            continue
        with lease:
            collection = Collection(lease.published.path.parent)
            encoder = lease.fingerprint
            for place, model in enumerate(fitting_models(collection, encoder)):
                predictors.append(_predictor(collection, model, default=place == 0))
            for place, inverter in enumerate(fitting_inverters(collection, encoder)):
                inverters.append({"collection": name, "name": inverter.name, "default": place == 0})
    return {"encoders": service.encoders.rows(), "predictors": predictors, "inverters": inverters}


def _predictor(collection: Collection, model: Model, *, default: bool) -> dict[str, object]:
    try:
        reranked = find_reranker(model, rerankers_for(collection)) is not None
    except LookaheadError:  # it is damaged; predicting with this model says how
        reranked = False
    return {
        "collection": collection.name,
        "name": model.name,
        "kind": model.config.kind,
        "parameters": model.config.parameters,
        "valid_mrr": round(model.config.valid_mrr, 4),
        "tower": bool(model.config.tower),
        "reranker": reranked,
        "default": default,
    }


def _swagger_file(name: str) -> Path:
    """The one of that name in whatever version the package brings."""
    return next(Path(str(files("swagger_ui_bundle"))).glob(f"vendor/*/{name}"))
