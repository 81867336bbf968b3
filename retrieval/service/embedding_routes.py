"""`POST /api/embed`: texts to vectors, over HTTP."""

from __future__ import annotations

import numpy as np
import orjson
from fastapi import APIRouter, Response

from retrieval.service.looking_answers import Embed, EmbeddedAnswer
from retrieval.service.problems import documented
from retrieval.service.service import Service


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["embed"])

    @router.post(
        "/embed",
        operation_id="embed",
        summary="Texts to vectors",
        response_model=EmbeddedAnswer,
        responses=documented(404, 415),
    )
    async def embed(wish: Embed) -> Response:
        """Vectors of texts as documents, or as questions where the encoder puts other words before those.

        An encoder that no served collection was made with is made ready at its first use: meanwhile the answer is 503
        with Retry-After.
        """
        vectors = await service.encoders.embed(wish.model, wish.texts, wish.as_ == "query")
        answer = {"embeddings": np.ascontiguousarray(vectors), "dim": vectors.shape[1], "model": wish.model}
        return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

    return router
