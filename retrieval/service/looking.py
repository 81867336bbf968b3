"""What comes next, for requests: models and inverters opened once and kept, predictions in one line, words in another.

It does not know HTTP, nor how a model predicts. Names from a request are names of what lies in the collection's folder
or came with the program: nothing is fetched, and no path is followed.
"""

from __future__ import annotations

import contextlib
import logging
import textwrap
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np

from index.conversion import apart
from index.dense import normalised
from retrieval import models
from retrieval.candidates import Choice
from retrieval.chart import chart_of
from retrieval.gists import Worded, better_for_words, in_words
from retrieval.inversion import Decoder
from retrieval.inverters import find_inverter, inverters_folder
from retrieval.models import Model, check_name, find_model, models_folder
from retrieval.open_inverter import is_published, open_decoder
from retrieval.predict import LookAhead, Prediction
from retrieval.ranking import Ranker
from retrieval.rerankers import find_reranker, rerankers_for
from retrieval.runtime import CompiledTower
from retrieval.search import Searcher
from retrieval.service.lanes import Lane
from retrieval.service.looking_answers import PredictNext
from retrieval.service.meters import Meters
from retrieval.service.preparing import Preparing
from retrieval.service.problems import Problem, one_line
from retrieval.service.settings import Settings
from retrieval.service.shelf import Lease, Shelf
from retrieval.space import has_space, open_space
from store.chunking import embedded_text
from store.database import ArticleRow
from store.generations import Collection
from store.records import Chunk, LookaheadError, Unreachable

MODELS = 4  # opened at once, of all collections and generations together
INVERTERS = 2
_AT_ONCE = 5_000  # chunks whose space is made while the request waits: a second at most
_CHUNKS_A_SECOND = 5_000  # through a P tower and into an index, on two cores that do other things too
_SHORTEST = 0.1  # seconds left to decode in; the first words are waited for in any case
_log = logging.getLogger("lookahead.service")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the lease that its asker holds, and until when an answer is of use, by the monotonic clock."""

    lease: Lease
    wish: PredictNext
    until: float


@dataclass(frozen=True, slots=True)
class Looked:
    """An answer: `words` where they were asked for, with what there is to say of them, and so `drawn`, a map for
    JSON."""

    collection: str
    generation: str
    prediction: Prediction
    words: list[Worded] | None
    word_notes: list[str]
    drawn: dict[str, Any] | None


class Looking:
    """All that looks ahead in one service. What was opened for a generation is dropped when another takes its place;
    what is at work on it then holds a lease of its own."""

    def __init__(self, shelf: Shelf, settings: Settings, meters: Meters | None = None) -> None:
        self._shelf = shelf
        self._preparing = Preparing()
        self._looks: _Few[LookAhead] = _Few(MODELS)
        self._decoders: _Few[Decoder] = _Few(INVERTERS)
        waiting = settings.waiting_slow
        self._predictions: Lane[Asked, Looked] = Lane("predictions", self._answers, waiting, 1, meters)
        self._words: Lane[Asked, Looked] = Lane("words", self._answers, waiting, 1, meters)
        shelf.add_listener(self._drop)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            for lane in (self._predictions, self._words):
                await stack.enter_async_context(lane)
            self._lanes = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lanes.__aexit__(kind, error, trace)
        self._looks.drop(lambda _: True)
        self._decoders.drop(lambda _: True)

    async def ask(self, asked: Asked) -> Looked:
        """In the line of the words where words are wanted: those who want none do not wait for them."""
        lane = self._words if asked.wish.decode else self._predictions
        return await lane.ask(asked, asked.until - time.monotonic())

    # -- in the lanes' threads -----------------------------------------------------------------------------

    def _answers(self, some: list[Asked]) -> list[Looked | Exception]:
        found: list[Looked | Exception] = []
        for asked in some:
            try:
                with asked.lease.again() as lease:  # its asker may give up meanwhile
                    found.append(self._answer(lease, asked))
                    self._forget_replaced(lease)
            except (LookaheadError, Problem) as error:
                found.append(error)
        return found

    def _answer(self, lease: Lease, asked: Asked) -> Looked:
        wish, searcher = asked.wish, lease.searcher
        _check_way(wish)
        look = _as_wished(self._look(searcher, wish.model), wish.rerank)
        decoder = self._decoder(searcher, wish.inverter) if wish.decode else None
        if wish.text is not None:
            prediction = look.text(wish.text, wish.k, include_context=wish.include_context)
        else:
            row = _article(searcher, wish)
            place = row.chunk_count if wish.position is None else wish.position
            prediction = look.after(row, place, wish.k, include_context=wish.include_context)
        drawn = map_of(look, prediction) if wish.map else None
        words: list[Worded] | None = None
        notes: list[str] = []
        if decoder is not None:
            words, notes = _worded(look, prediction, decoder, wish.steps, asked.until)
        return Looked(lease.name, lease.generation, prediction, words, notes, drawn)

    def _look(self, searcher: Searcher, name: str | None) -> LookAhead:
        """With the reranker, where there is one."""
        collection = Collection(searcher.generation.path.parent)
        folders = [models_folder(collection), models.SHIPPED, *rerankers_for(collection)]
        # a model that is trained meanwhile, or again, takes its place under another stamp
        return self._looks.get(
            (searcher, name, *map(_stamp, folders)), partial(self._opened, searcher, collection, name)
        )

    def _opened(self, searcher: Searcher, collection: Collection, name: str | None) -> LookAhead:
        with _not_found():
            model = find_model(collection, searcher.fingerprint, name)
        with _opening(f"model {model.name}"):
            rows = int(searcher.generation.manifest.counts["chunks"])
            if model.config.tower and rows > _AT_ONCE and not has_space(searcher, model):
                raise self._preparing.ask(
                    (searcher, model.name),
                    f"what model {model.name} knows of {collection.name} {searcher.generation.manifest.name} (a vector "
                    f"of each of {rows:,} chunks, once for each generation)",
                    rows / _CHUNKS_A_SECOND,
                    partial(_make_space_apart, collection.path, model.name),
                )
            return LookAhead.open(searcher, model.name)

    def _decoder(self, searcher: Searcher, name: str | None) -> Decoder:
        collection = Collection(searcher.generation.path.parent)
        with _not_found():
            if name is not None and is_published(check_name(name)):
                raise LookaheadError(
                    f"inverter {name} is not one that lookahead train inverter made; only such are used here"
                )
            found = find_inverter(collection, searcher.fingerprint, name)
        folders = [inverters_folder(collection), found.folder.parent]
        with _opening(f"inverter {found.name}"):
            return self._decoders.get(
                (searcher, found.name, *map(_stamp, folders)), partial(open_decoder, searcher, found.name)
            )

    def _drop(self, collection: str, generation: str) -> None:
        """What was opened for a generation; the shelf says when."""

        def of_it(searcher: Searcher) -> bool:
            folder = searcher.generation.path
            return (folder.parent.name, folder.name) == (collection, generation)

        self._looks.drop(of_it)
        self._decoders.drop(of_it)

    def _forget_replaced(self, lease: Lease) -> None:
        """What was opened for a generation just after the shelf had said so."""
        with contextlib.suppress(Problem), self._shelf.lease(lease.name) as now:
            if now.published is not lease.published:
                self._drop(lease.name, lease.generation)


class _Few(Generic[T]):
    """The few things that were used last, each opened once; every key begins with the searcher it was opened for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[Hashable, ...], T] = OrderedDict()
        self._lock = threading.Lock()  # never while something is opened: the shelf, which drops, would wait as long
        self._opening: dict[tuple[Hashable, ...], threading.Lock] = {}  # whoever wants the same waits for it

    def get(self, key: tuple[Hashable, ...], opened: Callable[[], T]) -> T:
        with self._lock:
            turn = self._opening.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            try:
                fresh = opened()
                with self._lock:
                    self._kept[key] = fresh
                    if len(self._kept) > self._most:
                        self._kept.popitem(last=False)
                return fresh
            finally:
                with self._lock:
                    self._opening.pop(key, None)

    def drop(self, of_it: Callable[[Any], bool]) -> None:
        """What was opened for those searchers. Whoever is at work with it has it to the end."""
        with self._lock:
            for key in [key for key in self._kept if of_it(key[0])]:
                del self._kept[key]


def _check_way(wish: PredictNext) -> None:
    given = [name for name in ("text", "page_id", "title") if getattr(wish, name) is not None]
    if len(given) != 1:
        raise LookaheadError(
            "say after what: one of text, page_id and title" + (f", not {len(given)} of them" if given else "")
        )
    if wish.text is not None and wish.position is not None:
        raise LookaheadError("position is a place in an article; say which with page_id or title")


def _as_wished(look: LookAhead, rerank: bool | None) -> LookAhead:
    """The same with or without a reranker, as `LookAhead.open` would have it; all else is shared."""
    ranker = look.ranker
    if rerank is True and ranker.pipeline.reranker is None:
        collection = Collection(look.searcher.generation.path.parent)
        with _not_found():
            find_reranker(look.model, rerankers_for(collection), needed=True)
    if rerank is False and ranker.pipeline.reranker is not None:
        plain = replace(ranker.pipeline, reranker=None, choice=Choice())
        return LookAhead(look.searcher, look.model, Ranker(look.searcher, plain, ranker.space))
    return look


def _article(searcher: Searcher, wish: PredictNext) -> ArticleRow:
    with _not_found():
        if wish.page_id is not None:
            return searcher.store.article(wish.page_id)
        return searcher.store.article_titled(wish.title or "")


def _worded(
    look: LookAhead, prediction: Prediction, decoder: Decoder, steps: int, until: float
) -> tuple[list[Worded], list[str]]:
    """As many of the steps as there is time for; with what there is to say of the words."""
    said: list[str] = []
    left = max(_SHORTEST, until - time.monotonic() - 1)  # a second for the answer itself
    words = in_words(look, prediction, decoder, steps=steps, time_limit=left, tell=said.append)
    inverter = decoder.inverter
    worth = (
        f"by inverter {inverter.name}, at most {inverter.longest} tokens each: a gist at best; those of a predicted "
        "vector may tell its topic, and their names and numbers are invented"
    )
    late = said[1:]  # the first sentence is an estimate, which nobody hears before it is over
    return words, [worth, *late, *(note for note in [better_for_words(look)] if note)]


def _make_space_apart(collection: Path, model: str) -> None:
    """In a process of its own: it takes both cores and some hundred megabytes, and dies with this one."""
    apart(f"making the space of model {model}", partial(_make_space, collection, model), _log.info)


def _make_space(path: Path, name: str, *, note: Callable[[str], object]) -> None:
    """For the generation that is current by then."""
    collection = Collection(path)
    with Searcher.open(collection) as searcher:
        model: Model = find_model(collection, searcher.fingerprint, name)
        open_space(searcher, model, CompiledTower.open(model.folder))
        note(f"made the space of model {name} for {collection.name} {searcher.generation.manifest.name}")


def _stamp(folder: Path) -> int:
    """Changes when something in the folder takes another's place, or is new there."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


@contextlib.contextmanager
def _not_found() -> Iterator[None]:
    """What is said of a name that leads nowhere is an answer."""
    try:
        yield
    except Unreachable:
        raise
    except LookaheadError as error:
        raise Problem(404, str(error)) from error


@contextlib.contextmanager
def _opening(what: str) -> Iterator[None]:
    """That a file of ours is damaged, or a folder not writable, is for the log: no client can help it."""
    try:
        yield
    except LookaheadError as error:
        _log.warning("%s cannot be opened: %s", what, one_line(str(error)))
        raise Problem(
            503, f"{what} cannot be opened, the server's log says why; name another", retry_after=60
        ) from error


def map_of(look: LookAhead, prediction: Prediction) -> dict[str, Any]:
    """The chunks of the context, the prediction, the true next chunk and the passages in a plane, for JSON. Where the
    model has a P tower, all lie as that has them: the prediction is of its space."""
    searcher, context, truth = look.searcher, prediction.context, prediction.truth
    if context.article is None:
        read = [embedded_text("", "", text, look.rules.prefix) for text in context.texts]
        before = searcher.encoder.encode(read)
        points = [_point("context", textwrap.shorten(text, 60, placeholder=" …")) for text in context.texts]
    else:
        row, stop = context.article, context.article.first_chunk + (context.position or 0)
        before = searcher.vectors.between(stop - len(context.texts), stop)
        chunks = [found.chunk for found in searcher.store.chunks(range(stop - len(context.texts), stop))]
        points = [_point("context", _where(row.title, chunk), chunk) for chunk in chunks]
    points.append(_point("prediction", f"what model {look.model.name} expects"))
    shown = [("truth", truth.rank, truth.passage)] if truth is not None else []
    for rank, passage in enumerate(prediction.passages, 1):
        if truth is None or rank != truth.place:
            shown.append(("candidate", rank, passage))
    points += [_point(what, _where(one.title, one.chunk), one.chunk, rank) for what, rank, one in shown]
    after = searcher.vectors.gather([one.chunk.chunk_id for _, _, one in shown])
    rows = look.ranker.pipeline.passages(normalised(np.concatenate([before, after])))
    chart = chart_of(np.concatenate([rows[: len(before)], prediction.vector[None], rows[len(before) :]]))
    places = [{"x": round(x, 6), "y": round(y, 6)} for x, y in chart.points.tolist()]
    return {
        "explained": [round(share, 6) for share in chart.explained],
        "points": [{**point, **place} for point, place in zip(points, places, strict=True)],
    }


def _point(what: str, label: str, chunk: Chunk | None = None, rank: int | None = None) -> dict[str, Any]:
    return {
        "what": what,
        "rank": rank,
        "chunk_id": None if chunk is None else chunk.chunk_id,
        "page_id": None if chunk is None else chunk.page_id,
        "position": None if chunk is None else chunk.position,
        "label": label,
    }


def _where(title: str, chunk: Chunk) -> str:
    return f"{title} — {chunk.section}" if chunk.section else title
