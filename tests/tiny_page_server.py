"""A service with three small articles for the page's tests: what the HTTP contract promises, computed in the head.

The prediction is always "the chunk that comes next, in second place"; no encoder, no collection, no model.
"""

from __future__ import annotations

import asyncio
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval.service import page_routes
from retrieval.service.problems import Problem, handle_problems, problem_response

Json = dict[str, Any]

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
ARTICLES: dict[int, tuple[str, list[tuple[str, str]]]] = {
    1: (
        "Stone bridge",
        [
            ("", "🌉 A bridge carries a road over a river. Every bridge bears its own weight and that of its traffic."),
            ("Arches", "An arch leads the weight of the bridge sideways into its piers, and so down to the ground."),
            ("Arches", "Roman builders set piers of stone upon timber piles, and many of their arches still stand."),
            ("Decay", "Water that freezes in the joints moves the stones apart; roots of trees do so more slowly."),
            ("Decay", "A bridge is repaired by raking out the joints and filling them with mortar of lime."),
            ("Tolls", "Those who crossed paid a toll, of which the keeper of the bridge had the tenth part."),
        ],
    ),
    2: (
        f"Names {HOSTILE}",
        [
            (f"Section {HOSTILE}", f"A text may hold {HOSTILE} and is still nothing but a text about a river."),
            ("", "The second chunk of it says javascript:alert(1) and means no harm."),
        ],
    ),
    3: (
        "Long river",
        [
            (f"Reach {mile // 25 + 1}", f"Mile {mile} of the river has a mill, a weir and {mile} houses.")
            for mile in range(250)
        ],
    ),
}
FIRST = {1: 0, 2: 6, 3: 8}  # an article's first chunk id
HEAD = {"collection": "tiny", "generation": "gen-000001"}
REPORT = f"""next chunk, tiny, test split: 3 articles

| | R@1 | MRR |
|---|---|---|
| **copy** | .210 (.190–.230) | .350 |
| {HOSTILE} | .001 | .002 |

- copy: R@1 +.010 (-.004 to +.024) no difference: `copy-last`

intervals: 95 %, 2,000 resamples\x20\x20
command: cli.py evaluate next -c tiny
"""


@dataclass(slots=True)
class Faults:
    """What the next requests of /api get instead of an answer, and the key that all of them must bring."""

    planned: list[Response] = field(default_factory=list)
    key: str | None = None
    asked: list[str] = field(default_factory=list)  # paths, in order


@dataclass(frozen=True, slots=True)
class Faulty:
    """Stands before an app and spoils what `faults` says."""

    app: ASGIApp
    faults: Faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            self.faults.asked.append(scope["path"])
            told = dict(scope["headers"]).get(b"authorization", b"").decode()
            if self.faults.planned:
                app = self.faults.planned.pop(0)
            elif self.faults.key is not None and told != f"Bearer {self.faults.key}":
                app = problem_response(401, "this server needs its key; send it as Authorization: Bearer KEY")
        await app(scope, receive, send)


def passage(page_id: int, position: int) -> Json:
    title, chunks = ARTICLES[page_id]
    section, text = chunks[position]
    chunk_id = FIRST[page_id] + position
    place = {"chunk_id": chunk_id, "page_id": page_id, "position": position}
    return {**place, "title": title, "section": section, "text": text}


def parts(rank: int, dense: float | None, lexical: float | None = None, closeness: float | None = None) -> Json:
    return {
        "rank": rank,
        "score": 1 / rank,
        "dense": dense,
        "dense_rank": None if dense is None else rank,
        "lexical": lexical,
        "lexical_rank": None if lexical is None else rank,
        "closeness": closeness,
    }


def found(query: str, k: int, mode: str, title: str | None) -> list[Json]:
    """Chunks by how often a word of the query stands in them; spans count code points."""
    words = "|".join(re.escape(word) for word in query.lower().split())
    rows = []
    for page_id, (name, chunks) in ARTICLES.items():
        for position, (_, text) in enumerate(chunks):
            spans = [[one.start(), one.end()] for one in re.finditer(words, text.lower())]
            if spans and title in (None, name):
                rows.append((-len(spans), page_id, position, spans))
    return [
        {
            **parts(place, None if mode == "lexical" else 0.8 / place, None if mode == "dense" else -4.0 * less, 0.5),
            **passage(page_id, position),
            "spans": spans,
        }
        for place, (less, page_id, position, spans) in enumerate(sorted(rows)[:k], 1)
    ]


def prediction(asked: Json) -> Json:
    page_id, position = asked.get("page_id"), asked.get("position")
    title, truth, count = None, None, None
    if page_id is None:
        texts = [one for one in asked["text"].split("\n\n") if one]
        near = [(1, 1), (1, 2), (3, 4)]
    else:
        title, chunks = ARTICLES[page_id]
        count = len(chunks)
        texts = [text for _, text in chunks[:position]]
        near = [(3, 200), (page_id, position), (3, 201)] if position < count else [(3, 200), (3, 201)]
        if position < count:
            judged = {"cosine": 0.61, "rank": 2, "copied_rank": 7, "among": 258, "place": 2}
            truth = {**passage(page_id, position), **judged}
    results = [
        {**parts(rank, 0.7 / rank), **passage(*at), "true_next": truth is not None and at == (page_id, position)}
        for rank, at in enumerate(near, 1)
    ]
    context = {"texts": texts[-5:], "chunks": len(texts), "page_id": page_id, "title": title}
    said = {"cosine": 0.83, "step": 1, "to_truth": 0.55}
    gists = [
        {"of": "prediction", "text": f"The bridge of 1742 near Ashford. {HOSTILE}", **said},
        {"of": "truth", "text": "Stones of a bridge.", **said},
    ]
    way = {"model": "copy", "tower": False, "reranked": False, "candidates": 0, "assist": 0, "variety": None}
    return {
        **HEAD,
        "took_ms": 1.0,
        "model": "copy",
        "way": way,
        "context": {**context, "position": position, "chunk_count": count},
        "truth": truth,
        "results": results,
        "notes": [] if len(texts) > 1 else ["only one chunk of context: the prediction is less sure"],
        "gists": gists if asked.get("decode") else None,
        "gist_notes": [],
        "map": plane(texts[-5:], truth, results) if asked.get("map") else None,
    }


def plane(texts: list[str], truth: Json | None, results: list[Json]) -> Json:
    """A map: the context on a curve, the prediction beside it, what is real on a falling line."""
    nowhere = {"chunk_id": None, "page_id": None, "position": None, "rank": None}
    points: list[Json] = [
        {"what": "context", "x": 0.1 * at, "y": 0.05 * at * at, **nowhere, "label": text[:60]}
        for at, text in enumerate(texts)
    ]
    points.append({"what": "prediction", "x": 0.6, "y": 0.45, **nowhere, "label": "the prediction"})
    for what, one in [("truth", truth), *(("candidate", one) for one in results if not one["true_next"])]:
        if one is not None:
            spot = {key: one[key] for key in ("chunk_id", "page_id", "position")}
            turn = one["chunk_id"] % 7
            points.append(
                {
                    "what": what,
                    "x": 0.4 + 0.1 * turn,
                    "y": 0.4 - 0.07 * turn,
                    "rank": one["rank"],
                    **spot,
                    "label": one["text"][:60],
                }
            )
    return {"explained": [0.41, 0.22], "points": points}


def picture() -> bytes:
    """A grey PNG of 60 by 40."""

    def block(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 60, 40, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + b"\x90" * 60 for _ in range(40)))
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", rows) + block(b"IEND", b"")


def tiny_app(faults: Faults) -> ASGIApp:
    app = FastAPI()
    handle_problems(app)

    @app.get("/api/search")
    async def search(q: str, k: int = 5, mode: str = "hybrid", title: str | None = None) -> JSONResponse:
        rows = found(q, k, mode, title)
        if q.startswith("slow"):
            await asyncio.sleep(0.6)
        note = "the collection has no more that hold these words" if len(rows) < k else None
        return JSONResponse({**HEAD, "query": q, "mode": mode, "took_ms": 1.0, "results": rows, "note": note})

    @app.get("/api/articles")
    async def articles(title: str) -> JSONResponse:
        rows = [
            {"page_id": page_id, "title": name, "chunk_count": len(chunks), "split": "test"}
            for page_id, (name, chunks) in ARTICLES.items()
            if title.lower() in name.lower()
        ]
        return JSONResponse({**HEAD, "articles": rows})

    @app.get("/api/articles/{page_id}")
    async def article(page_id: int, start: int = 0, limit: int = 100) -> JSONResponse:
        if page_id not in ARTICLES:
            raise Problem(404, f"there is no page {page_id} in tiny")
        title, chunks = ARTICLES[page_id]
        rows = [passage(page_id, at) for at in range(start, min(start + limit, len(chunks)))]
        told = [{key: row[key] for key in ("chunk_id", "position", "section", "text")} for row in rows]
        about = {"page_id": page_id, "title": title, "split": "test", "source": "tiny.jsonl"}
        counts = {"first_chunk": FIRST[page_id], "chunk_count": len(chunks), "start": start}
        return JSONResponse({**HEAD, **about, **counts, "chunks": told})

    @app.post("/api/predict-next")
    async def predict_next(request: Request) -> JSONResponse:
        asked = await request.json()
        if asked.get("decode"):
            await asyncio.sleep(0.4)
        return JSONResponse(prediction(asked))

    @app.get("/api/collections")
    async def collections() -> JSONResponse:
        about = {"created": "2026-11-21T10:00:00Z", "dim": 8, "encoder": "none", "language": "en", "default": True}
        one = {"name": "tiny", "generation": "gen-000001", "articles": 3, "chunks": 258, "live": 258, **about}
        return JSONResponse({"collections": [one, {**one, "name": "other", "default": False}]})

    @app.get("/api/models")
    async def models() -> JSONResponse:
        one = {"collection": "tiny", "kind": "residual", "parameters": 3, "valid_mrr": 0.3, "tower": False}
        copy = {**one, "name": "copy", "reranker": False, "default": True}
        predictors = [copy, {**copy, "name": "sum", "default": False}]
        return JSONResponse({"encoders": [], "predictors": predictors, "inverters": []})

    @app.get("/api/evaluations")
    async def evaluations() -> JSONResponse:
        command = f"cli.py evaluate next -c tiny {HOSTILE}"
        one = {"kind": "next", "made": "2026-11-21T10:00:00Z", "command": command}
        files = {"files": ["report.md", "report.json", "recall.png"]}
        last = [{**one, **files}, {**one, "kind": "search", "files": ["report.json"]}]
        return JSONResponse({"collection": "tiny", "evaluations": last})

    @app.get("/api/evaluations/tiny/{kind}/{name}")
    async def file(kind: str, name: str) -> Response:
        if name == "recall.png":
            return Response(picture(), media_type="image/png")
        return Response(REPORT, media_type="text/markdown") if name == "report.md" else JSONResponse({"queries": 3})

    app.include_router(page_routes.routes())
    return Faulty(app, faults)


@contextmanager
def serving(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """The address of an app served by a thread, on a free port unless one is given, until the block ends."""
    config = uvicorn.Config(app, port=port, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 10
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
