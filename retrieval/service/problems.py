"""Errors as a client gets them: RFC 9457 problem details, one clear sentence each, and no insides of ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from store.records import LookaheadError, Unreachable

PROBLEM_TYPE = "application/problem+json"
AWAY = "a server that this collection is kept on does not answer; ask again in a moment"
_log = logging.getLogger("lookahead.service")


class Problem(Exception):
    """A refusal with its status. `retry_after` is in seconds, for those that pass."""

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


class ProblemDetails(BaseModel):
    """The body of every error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str | None = None


def problem_response(
    status: int, detail: str, instance: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """`instance` is the path that was asked for."""
    body = ProblemDetails(title=HTTPStatus(status).phrase, status=status, detail=one_line(detail), instance=instance)
    return Response(orjson.dumps(body.model_dump()), status, dict(headers or {}), PROBLEM_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route tells OpenAPI of the problems it may answer with; those every route may have are among them."""
    every = {400, 401, 408, 413, 421, 422, 429, 500, 503, 504, *statuses}
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {PROBLEM_TYPE: {"schema": schema}}}
        for status in sorted(every)
    }


def handle_problems(app: FastAPI) -> None:
    """Has every error of an app answered as a problem."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        return problem_response(error.status, error.detail, request.url.path, error.headers)

    @app.exception_handler(Unreachable)
    async def _away(request: Request, error: Unreachable) -> Response:
        _log.warning("%s", one_line(str(error)))  # which server it is concerns nobody outside
        return problem_response(503, AWAY, request.url.path, {"Retry-After": "5"})

    @app.exception_handler(LookaheadError)
    async def _meant_for_a_person(request: Request, error: LookaheadError) -> Response:
        return problem_response(400, str(error), request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _not_valid(request: Request, error: RequestValidationError) -> Response:
        return problem_response(422, _what_is_wrong(error), request.url.path)

    @app.exception_handler(HTTPException)
    async def _of_the_router(request: Request, error: HTTPException) -> Response:
        detail = {404: "there is nothing at this address; /docs lists what there is"}.get(error.status_code)
        if error.status_code == 405:
            detail = f"{request.method} is not for this address; /docs tells what is"
        return problem_response(error.status_code, detail or str(error.detail), request.url.path, error.headers)

    @app.exception_handler(Exception)
    async def _ours(request: Request, error: Exception) -> Response:  # the guard has written the traceback to the log
        return problem_response(500, "this went wrong on our side; the server's log has the details", request.url.path)


def one_line(text: str) -> str:
    """Without line ends and control characters: texts of requests are quoted in it."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _what_is_wrong(error: RequestValidationError) -> str:
    """The first three faults, each with where it is; never the value itself, which may be endless."""
    said = []
    for fault in error.errors()[:3]:
        if fault["type"] == "json_invalid":
            said.append(f"the body is no JSON: {fault['ctx']['error']} at character {fault['loc'][-1]}")
            continue
        # the arms of a union are named after Python's objects, which are nobody's business
        parts = [str(part) for part in fault["loc"] if part not in ("query", "body", "path")]
        place = ".".join(part for part in parts if part.replace("_", "").isalnum())
        said.append(f"{place[:80]}: {fault['msg']}" if place else str(fault["msg"]))
    more = len(error.errors()) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")
