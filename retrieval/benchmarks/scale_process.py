"""What `bench scale` runs as processes of their own: ingests whose vectors are known, openings, searches.

Run as `python -m retrieval.benchmarks.scale_process` with a JSON object as its input; prints another. That vectors are
known is no option of the product: it is put in the place of `prepare` here, in this process.
"""

from __future__ import annotations

import json
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from index import build
from index.dense import Hit, exact_search, recall
from index.encoder import Encoder, open_encoder
from index.engines import Draft, VectorIndex, open_engine
from index.layout import DENSE
from retrieval.benchmarks.measured import forget, percentile
from retrieval.benchmarks.scale_material import Floats, Known
from retrieval.search import DEPTH, Searcher
from store.chunking import Prefix
from store.generations import Collection, link_or_copy
from store.remotes import remote_name
from store.sources import open_source

T = TypeVar("T")
_TIE = 1e-3  # half precision scores of equal texts differ in the fourth digit


class Replayed:
    """The encoder of a folder for questions; for chunks it has been asked before and remembers."""

    def __init__(self, encoder: Encoder, known: Known) -> None:
        self._encoder, self._known = encoder, known
        self.name, self.dim, self.fingerprint = encoder.name, encoder.dim, encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> Floats:
        return self._known.of(texts)

    def encode_queries(self, texts: Sequence[str]) -> Floats:
        return self._encoder.encode_queries(texts)


def ingest(job: dict[str, Any]) -> dict[str, Any]:
    """`lookahead ingest`, but for the encoding."""
    source = Path(job["encoder"])

    def replayed(
        spec: str,
        folder: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        int8: Path | None = None,
        note: Callable[[str], object] = lambda _: None,
    ) -> Encoder:
        folder.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            link_or_copy(path, folder / path.name)
        return Replayed(open_encoder(folder, bulk=True), Known(Path(job["known"])))

    vars(build)["prepare"] = replayed
    rules = job["chunking"]
    choices = build.Choices(
        encoder="replayed",
        words=rules["words"],
        overlap=0,
        prefix=Prefix(rules["prefix"]),
        language=rules["language"],
        index_memory=job["index_memory"],
        quiet=True,
    )
    report = build.ingest(Collection(Path(job["collection"])), [open_source(Path(job["pages"]), "jsonl")], choices)
    assert report.generation is not None
    return {"rows": report.generation.manifest.counts["chunks"], "seconds": report.seconds, **memory()}


def opening(job: dict[str, Any]) -> dict[str, Any]:
    """The dense index alone, when its file is not in the machine's memory."""
    with Searcher.open(Collection(Path(job["collection"]))) as searcher:
        forgotten = forget(searcher.generation.path / DENSE)
        return {"seconds": _opened(searcher) if forgotten else None}


def searching(job: dict[str, Any]) -> dict[str, Any]:
    """A process that has answered some questions, and how fast it answers them all."""
    questions: list[str] = job["questions"]
    with Searcher.open(Collection(Path(job["collection"]))) as searcher:
        opened = _opened(searcher)
        for question in questions[: job["first"]]:
            searcher.search(question, 10)
        held = memory()
        hybrid = _timed(lambda question: searcher.search(question, 10), questions)
        vectors = searcher.encoder.encode_queries(questions)
        near = _timed(lambda vector: searcher.dense.search(vector, 10), list(vectors))
        deep = _timed(lambda vector: searcher.dense.search(vector, DEPTH), list(vectors))
        words = _timed(lambda question: searcher.lexical.search(question, DEPTH), questions)
        found = [searcher.dense.search(vector, 10) for vector in vectors]
        agreement = recall(found, exact_search(searcher.vectors, vectors, 10))
        facts = searcher.dense.facts
    times = {"hybrid": hybrid, "dense": near, "deep": deep, "words": words}
    return {
        "index": facts.as_json(),
        "open": opened,
        "recall": agreement,
        "p50": {name: percentile(spent, 0.5) for name, spent in times.items()},
        "p95": {name: percentile(spent, 0.95) for name, spent in times.items()},
        **held,
    }


def beside(job: dict[str, Any]) -> dict[str, Any]:
    """The same vectors in another engine, which forgets them afterwards, asked the same questions."""
    engine, owner = open_engine(job["index"]), secrets.token_hex(4)
    with (
        Searcher.open(Collection(Path(job["collection"]))) as searcher,
        tempfile.TemporaryDirectory(dir=searcher.generation.path.parent) as folder,
    ):
        vectors = searcher.encoder.encode_queries(job["questions"])
        titles = [row.title for row in searcher.store.articles()]
        draft = Draft(
            folder=Path(folder),
            name=remote_name("bench", owner, 1, secrets.token_hex(3)),
            title=f"bench_{owner}",
            owner=owner,
            store=searcher.store,
            vectors=searcher.vectors,
            probes=searcher.encoder.encode_queries(titles[:: max(1, len(titles) // 256)]),
            gone=searcher.store.dead_ids(),
            language=searcher.generation.manifest.facts["lexical"]["language"],
            memory=job["index_memory"],
            parent=None,
            quiet=True,
        )
        before = _kept(engine.spec)
        try:
            started = time.perf_counter()
            words = engine.index_words(draft)
            dense = engine.index_vectors(draft)
            spent = time.perf_counter() - started
            kept = _kept(engine.spec)
            placed = {"index": engine.place(draft), "dense": dense.as_json(), "lexical": words}
            other = engine.open_vectors(draft.folder, placed, searcher.vectors)
            both: tuple[VectorIndex, VectorIndex] = (searcher.dense, other)
            times = [_timed(partial(_ten, index), list(vectors)) for index in both]
            found = [[_ten(index, vector) for vector in vectors] for index in both]
            other.close()
        finally:
            engine.sweep(owner, [])
        exact = exact_search(searcher.vectors, vectors, 10)
    alike = [overlap(ours, theirs) for ours, theirs in zip(*found, strict=True)]
    return {
        "rows": len(draft.vectors),
        "index": engine.spec,
        "breadth": dense.breadth,
        "seconds": spent,
        "disk": kept - before,
        "same": sum(one == 1 for one in alike) / len(alike),
        "overlap": sum(alike) / len(alike),
        "recalls": [recall(hits, exact) for hits in found],
        "p50": [percentile(taken, 0.5) for taken in times],
        "p95": [percentile(taken, 0.95) for taken in times],
    }


def _ten(index: VectorIndex, vector: Floats) -> list[Hit]:
    return index.search(vector, 10)


def overlap(ours: Sequence[Hit], theirs: Sequence[Hit]) -> float:
    """Share of two answers that is the same; a hit that ties with our last one counts as that."""
    if not ours:
        return float(not theirs)
    ids, last = {hit.chunk_id for hit in ours}, ours[-1].score
    same = sum(hit.chunk_id in ids or abs(hit.score - last) <= _TIE for hit in theirs)
    return same / max(len(ours), len(theirs))


def _kept(spec: str) -> int:
    """Bytes of an engine that is a file here; of a server nothing is known."""
    path = Path(spec.removeprefix("milvus:"))
    if "://" in spec or not path.exists():
        return 0
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def memory() -> dict[str, int]:
    """Bytes this process holds, how many of them are pages of files, and the most it ever held."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        told = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM", "RssFile"))}
        held, files, peak = (1024 * int(told[name]) for name in ("VmRSS", "RssFile", "VmHWM"))
    except OSError:  # not Linux
        scale = 1 if sys.platform == "darwin" else 1024
        held = peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
        files = 0
    return {"resident": held, "of_files": files, "peak": peak}


def _opened(searcher: Searcher) -> float:
    _ = searcher.vectors
    started = time.perf_counter()
    _ = searcher.dense
    return time.perf_counter() - started


def _timed(call: Callable[[T], object], arguments: Sequence[T]) -> list[float]:
    for argument in arguments[:20]:
        call(argument)
    spent = []
    for argument in arguments:
        started = time.perf_counter()
        call(argument)
        spent.append(time.perf_counter() - started)
    return spent


JOBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "ingest": ingest,
    "opening": opening,
    "searching": searching,
    "beside": beside,
}

if __name__ == "__main__":
    asked = json.load(sys.stdin)
    sys.stdout.write(json.dumps(JOBS[asked["job"]](asked)))
