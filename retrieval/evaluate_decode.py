"""Judges decoded texts: of the vectors of true spans, where the text is known, and of predictions of the next chunk.

It does not know how a text is found for a vector (`inversion`), what predicted, nor how a report looks
(`decode_report`).

Texts are leading spans, as short as the inverter's texts; a true next chunk is longer, and stands there with its own
beginning. So a decode of a chunk's vector is a gist of that beginning at best. All texts are embedded again here, on
their own; whatever cosine a decoder tells of itself counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from index.encoder import Encoder, Fingerprint
from index.progress import bar
from index.vectors import Vectors
from retrieval.evaluate_next import Values, dots
from retrieval.inversion import Decoder
from retrieval.models import Model, find_model, fitting_models
from retrieval.search import Searcher
from retrieval.sequences import CONTEXT, Floats, Ints, Sequences, Windows
from retrieval.span_bank import Lead, SpanBank
from retrieval.spans import embedded
from retrieval.text_metrics import Counts, bleu_counts, exact_match, rouge_l, token_f1
from store.generations import Collection
from store.records import LookaheadError

# rows of the spans' table
NEAREST_SPAN, AGAINST_OTHER, CHANCE, ORACLE = (
    "nearest training span",
    "decode / another text",
    "another text",
    "the span itself",
)
# rows of the predictions' table
TRUE, PREDICTED, COPIED, MEAN, NEAREST_CHUNK = (
    "decode of the true vector",
    "decode of the prediction",
    "decode of copy-last",
    "decode of the mean vector",
    "nearest real chunk",
)
# cosines: of the text's vector and the one it was asked for; of the text's vector and that of the true next chunk; of
# the vector asked for and that of the true next chunk, before any word
ASKED, NEXT, BEFORE = "cosine", "to next", "vector"

_AT_ONCE = 32  # vectors decoded together
_BLOCK = 8_192
_SAME = 0.995  # cosine of a span's two vectors: its batch mates change the last bits of a half-precision encoder

Nearest = Callable[[Floats, Windows], Ints]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked about each of some windows. `chunk` is the text of the target, `span` its leading span, `before`
    the text of the chunk before it. Vectors (n, D) are as the encoder makes them, of any length: of the `target`, of
    the chunk before it (`last`), of what was `predicted`; `mean` (D,) is that of the training chunks."""

    windows: Windows
    titles: tuple[str, ...]
    places: Ints
    counts: Ints
    before: tuple[str, ...]
    chunk: tuple[str, ...]
    span: tuple[str, ...]
    target: Floats
    last: Floats
    predicted: Floats
    mean: Floats

    def __len__(self) -> int:
        return len(self.windows)


@dataclass(frozen=True, slots=True)
class Scored:
    """One row: a text for each window with its measures beside the text it should be. `counts` are BLEU's."""

    texts: tuple[str, ...]
    cosines: dict[str, Values]
    f1: Values
    rouge: Values
    exact: Values
    counts: Counts

    def measures(self) -> dict[str, Values]:
        """Every measure but BLEU, which no single text has."""
        return {**self.cosines, "F1": self.f1, "ROUGE-L": self.rouge, "exact": self.exact}


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that was judged. `decoded` names the row of `spans` with the steps asked for. `span_next` are the cosines of
    that row's texts to the true next chunks' vectors. `nearest` are the chunks that stand in `NEAREST_CHUNK`."""

    asked: Asked
    spans: dict[str, Scored]
    predictions: dict[str, Scored]
    decoded: str
    span_next: Values
    nearest: Ints
    bank: int
    among: int


def decode_row(steps: int) -> str:
    """The row of true spans decoded with so many corrections."""
    return f"decode, {steps} step" + ("" if steps == 1 else "s")


def drawn_windows(windows: Windows, count: int, seed: int) -> Windows:
    """Up to `count` windows, in order: one of every article before any article gives a second one."""
    order = np.random.default_rng(seed).permutation(len(windows))
    by_article = np.argsort(windows.article[order], kind="stable")
    article = windows.article[order][by_article]
    first = np.searchsorted(article, article)
    turn = np.empty(len(order), dtype=np.int64)
    turn[by_article] = np.arange(len(order)) - first
    return windows[np.sort(order[np.argsort(turn, kind="stable")[:count]])]


def enough(windows: Windows, where: str) -> None:
    """Raises unless the windows are of two articles at least."""
    if len(np.unique(windows.article)) < 2:
        raise LookaheadError(
            f"{where}: {len(windows):,} windows of one article; a decode is also held against a text of another "
            "article, so two are needed: take more --windows or another --split, or ingest more"
        )


def others_of(article: Ints, seed: int) -> Ints:
    """For each window one of another article, at random, (n,)."""
    rng = np.random.default_rng([seed, 1])
    return np.array([int(rng.choice(np.flatnonzero(article != one))) for one in article.tolist()], dtype=np.int64)


def decoding_model(collection: Collection, encoder: Fingerprint, name: str | None = None) -> Model:
    """The model of that name; or, of those that predict in the encoder's own space, the one with the best cosine on its
    validation articles: what a predicted vector is nearest to is what its decode can say. A ranking has other needs."""
    if name is None:
        there = [model for model in fitting_models(collection, encoder) if not model.config.tower]
        if there:
            return max(there, key=lambda model: _valid_cosine(model.config.trained))
    return find_model(collection, encoder, name)


def _valid_cosine(trained: Mapping[str, Any]) -> float:
    found = trained.get("valid", {}).get("cosine", 0.0)
    return float(found) if isinstance(found, int | float) else 0.0


def middle_of(vectors: Vectors, ids: Ints, directions: bool) -> tuple[Floats, float]:
    """(mean (D,), mean length) of the vectors of chunks; of their directions, which have length one, where asked."""
    total, length = np.zeros(vectors.dim), 0.0
    for start in range(0, len(ids), _BLOCK):
        rows = vectors.gather(ids[start : start + _BLOCK])
        rows = normalised(rows) if directions else rows
        total += rows.sum(axis=0, dtype=np.float64)
        length += float(np.linalg.norm(rows, axis=1).sum(dtype=np.float64))
    return (total / len(ids)).astype(np.float32), length / len(ids)


def ask(
    searcher: Searcher, sequences: Sequences, windows: Windows, predicted: Floats, lead: Lead, train: Ints
) -> Asked:
    """Gathers the texts and vectors of windows, whose predictions (n, D) have length one. Where the space is not one of
    normalised vectors, a prediction is given the mean length of its context's vectors, as `gists` gives it, and the
    mean that of the `train` chunks: an inverter has never seen vectors as short as they are."""
    own = searcher.fingerprint.normalised
    mean, length = middle_of(searcher.vectors, train, own)
    if not own:
        mean = normalised(mean[None])[0] * np.float32(length)
        predicted = predicted * _context_lengths(searcher.vectors, windows)[:, None]
    found = searcher.store.chunks(windows.target.tolist())
    before = searcher.store.chunks((windows.target - 1).tolist())
    chunk = tuple(one.chunk.text for one in found)
    articles = [sequences.articles[number] for number in windows.article.tolist()]
    return Asked(
        windows,
        tuple(one.title for one in found),
        windows.target - sequences.first[windows.article],
        np.array([row.chunk_count for row in articles], dtype=np.int64),
        tuple(one.chunk.text for one in before),
        chunk,
        tuple(lead(chunk)),
        searcher.vectors.gather(windows.target),
        searcher.vectors.gather(windows.target - 1),
        predicted,
        mean,
    )


def _context_lengths(vectors: Vectors, windows: Windows) -> Floats:
    """The mean length of the vectors of each window's context, (n,)."""
    pairs = zip(windows.target.tolist(), windows.length.tolist(), strict=True)
    means = [np.linalg.norm(vectors.between(target - length, target), axis=1).mean() for target, length in pairs]
    return np.array(means, dtype=np.float32)


def nearest_chunks(searcher: Searcher, vectors: Floats, windows: Windows) -> Ints:
    """For each vector the nearest live chunk, as far as the dense index finds it, that is not in the window's context
    nor of the same text as a chunk of it, (n,); the true next chunk may be it."""
    found = []
    for vector, target, length in zip(vectors, windows.target.tolist(), windows.length.tolist(), strict=True):
        context = searcher.store.chunks(list(range(target - length, target)))
        banned = set(searcher.store.ids_of_texts([one.text_key for one in context]).tolist())
        depth = 2 * CONTEXT
        while True:
            ids = [hit.chunk_id for hit in searcher.dense.search(vector, depth, searcher.alive)]
            allowed = [one for one in ids if one not in banned]
            if allowed or depth >= searcher.live:
                found.append(allowed[0] if allowed else ids[0])
                break
            depth *= 4
    return np.array(found, dtype=np.int64)


def judge(
    searcher: Searcher,
    asked: Asked,
    decoder: Decoder,
    encoder: Encoder,
    lead: Lead,
    bank: SpanBank,
    *,
    steps: int,
    beam: int,
    seed: int = 0,
    quiet: bool = True,
) -> Outcome:
    """Decodes everything and scores it. `encoder` embeds the texts again; an oracle that is not perfect raises."""
    many = len(asked)

    def text_of(ids: Ints) -> list[str]:
        return lead([found.chunk.text for found in searcher.store.chunks(ids.tolist())])

    span_vectors = embedded(encoder, asked.span)
    wanted = {"spans": span_vectors, TRUE: asked.target, PREDICTED: asked.predicted, COPIED: asked.last}
    with bar("decoding", many * (len(wanted) + bool(steps)) + 1, "vectors", quiet=quiet) as shown:

        def texts(vectors: Floats, corrections: int) -> list[str]:
            told: list[str] = []
            for start in range(0, len(vectors), _AT_ONCE):
                some = vectors[start : start + _AT_ONCE]
                # an inverter's tokens may be others than those a span is measured in
                told += lead([gist.text for gist in decoder.decode(some, steps=corrections, beam=beam)])
                shown.update(len(some))
            return told

        decoded = {name: texts(vectors, steps) for name, vectors in wanted.items()}
        first = texts(span_vectors, 0) if steps else None
        decoded[MEAN] = texts(asked.mean[None], steps) * many
    nearest = nearest_chunks(searcher, asked.predicted, asked.windows)
    unit = {name: normalised(vectors) for name, vectors in wanted.items()}
    unit[MEAN] = np.tile(normalised(asked.mean[None]), (many, 1))
    unit[NEAREST_CHUNK] = unit[PREDICTED]
    decoded[NEAREST_CHUNK] = text_of(nearest)

    def again(said: Sequence[str]) -> Floats:
        """Zero for no words: an encoder may place an empty text somewhere, which is no merit of it."""
        there = np.array([bool(text.strip()) for text in said])
        return np.where(there[:, None], normalised(embedded(encoder, said)), np.float32(0))

    spans, goal = {}, unit["spans"]
    row = decode_row(steps)
    told = {row: decoded["spans"]}
    if first is not None:
        told[decode_row(0)] = first
    told[NEAREST_SPAN] = text_of(bank.nearest(goal))
    for name, said in told.items():
        spans[name] = _scored(said, asked.span, {ASKED: dots(again(said), goal)})
    other = others_of(asked.windows.article, seed)
    elsewhere, others = goal[other], [asked.span[place] for place in other.tolist()]
    spans[AGAINST_OTHER] = _scored(told[row], others, {ASKED: dots(again(told[row]), elsewhere)})
    spans[CHANCE] = _scored(others, asked.span, {ASKED: dots(elsewhere, goal)})
    spans[ORACLE] = _scored(asked.span, asked.span, {ASKED: dots(again(asked.span), goal)})
    _refuse_imperfect(spans[ORACLE])

    predictions = {}
    for name in (TRUE, PREDICTED, COPIED, MEAN, NEAREST_CHUNK):
        vectors = again(decoded[name])
        cosines = {
            BEFORE: dots(unit[name], unit[TRUE]),
            NEXT: dots(vectors, unit[TRUE]),
            ASKED: dots(vectors, unit[name]),
        }
        predictions[name] = _scored(decoded[name], asked.span, cosines)
    span_next = dots(again(told[row]), unit[TRUE])
    return Outcome(asked, spans, predictions, row, span_next, nearest, len(bank.ids), bank.among)


def _scored(texts: Sequence[str], truths: Sequence[str], cosines: dict[str, Values]) -> Scored:
    pairs = list(zip(texts, truths, strict=True))
    return Scored(
        tuple(texts),
        cosines,
        _each(token_f1, pairs),
        _each(rouge_l, pairs),
        _each(exact_match, pairs),
        bleu_counts(texts, truths),
    )


def _each(measure: Callable[[str, str], float], pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    return np.array([measure(text, truth) for text, truth in pairs], dtype=np.float64)


def _refuse_imperfect(oracle: Scored) -> None:
    """Raises where the true span itself is not a perfect answer: then the test is wrong, not the decoder."""
    for measure, values in oracle.measures().items():
        least = _SAME if measure == ASKED else 1.0
        if not (values >= least).all():
            raise LookaheadError(
                f"the oracle has {measure} {values.min():.4f} for a span it was told, expected at least {least:g}; "
                "the test is wrong"
            )
