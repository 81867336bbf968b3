"""`POST /api/predict-next`: what comes after a text or a place in an article, over HTTP."""

from __future__ import annotations

import time

from fastapi import APIRouter, Response

from retrieval.service.looking import Asked
from retrieval.service.looking_answers import PredictedAnswer, PredictNext, gist_dict, prediction_dict
from retrieval.service.problems import documented
from retrieval.service.search_routes import json_response
from retrieval.service.service import Service


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["look ahead"])

    @router.post(
        "/predict-next",
        operation_id="predict_next",
        summary="What comes next",
        response_model=PredictedAnswer,
        responses=documented(404, 415),
    )
    async def predict_next(wish: PredictNext) -> Response:
        """The real chunks that a model expects next, and inside an article where the true one came among them.

        A model that compares chunks through a P tower of its own needs their vectors once for each generation: while
        they are made, the answer is 503 with Retry-After, and other models go on answering.
        """
        began = time.monotonic()
        with service.shelf.lease(wish.collection) as lease:
            looked = await service.looking.ask(Asked(lease, wish, began + service.settings.deadline))
        answer = {
            "collection": looked.collection,
            "generation": looked.generation,
            "took_ms": round(1000 * (time.monotonic() - began), 3),
            **prediction_dict(looked.prediction),
            "gists": None if looked.words is None else [gist_dict(one) for one in looked.words],
            "gist_notes": looked.word_notes,
            "map": looked.drawn,
        }
        return json_response(answer)

    return router
