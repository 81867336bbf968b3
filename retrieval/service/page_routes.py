"""The page and its files, read once into memory and served with a policy that lets them reach nothing but this server.

It does not know what the page shows or asks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from retrieval.service.problems import Problem

PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_DIRECTIVES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
POLICY = "; ".join(f"{name} {value}" for name, value in _DIRECTIVES.items())
_HEADERS = {
    "Cache-Control": "no-cache",  # kept by the browser, and asked about each time: a 304 costs next to nothing
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file of the page as it is sent."""

    body: bytes
    media_type: str
    tag: str


def routes(folder: Path = PAGE) -> APIRouter:
    """`/` and `/page/{name}`: neither needs a key, and neither is part of the described interface."""
    kept = {path.name: _read(path) for path in folder.iterdir() if path.suffix in _TYPES}
    index = kept.pop("index.html")
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return _answer(index, request)

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def file(name: str, request: Request) -> Response:
        if name not in kept:
            raise Problem(404, "the page has no file of that name; the page itself is at /")
        return _answer(kept[name], request)

    return router


def _read(path: Path) -> _Kept:
    body = path.read_bytes()
    return _Kept(body, _TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:20]}"')


def _answer(kept: _Kept, request: Request) -> Response:
    headers = {**_HEADERS, "ETag": kept.tag}
    if _held(request.headers.get("if-none-match", ""), kept.tag):
        return Response(status_code=304, headers=headers)
    return Response(kept.body, media_type=kept.media_type, headers=headers)


def _held(told: str, tag: str) -> bool:
    """Whether a client's If-None-Match names the tag, weakly or not."""
    return any(one.strip().removeprefix("W/") in (tag, "*") for one in told.split(","))
