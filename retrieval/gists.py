"""A prediction in words, beside the words of the true next vector and of the last chunk's, so that neither deceives.

It does not know how words are made of a vector (`inversion`), nor how they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from retrieval.inversion import BEAM, STEPS, Decoder, Gist
from retrieval.models import Model, fitting_models
from retrieval.predict import LookAhead, Prediction
from store.chunking import embedded_text
from store.generations import Collection

PREDICTION, TRUTH, COPY_LAST = "prediction", "truth", "copy-last"
_CLEARLY = 0.02  # a mean cosine more than that above another is worth a word

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Worded:
    """What a vector became: `of` says whose it was, `to_truth` is the cosine of the text's own vector to that of the
    true next chunk, or None after a text and an article's end."""

    of: str
    gist: Gist
    to_truth: float | None


def in_words(
    look: LookAhead,
    prediction: Prediction,
    decoder: Decoder,
    *,
    steps: int = STEPS,
    beam: int = BEAM,
    time_limit: float | None = None,
    tell: Callable[[str], object] = lambda _: None,
    quiet: bool = True,
) -> list[Worded]:
    """The prediction, the true next vector where it is known, and the last chunk's, decoded in one batch."""
    vectors = vectors_of(look, prediction)
    gists = decoder.decode(
        np.stack(list(vectors.values())), steps=steps, beam=beam, time_limit=time_limit, tell=tell, quiet=quiet
    )
    near: Sequence[float | None] = [None] * len(gists)
    if TRUTH in vectors:
        told = normalised(decoder.encoder.encode([gist.text for gist in gists]))
        near = [
            cosine if gist.text else 0.0
            for gist, cosine in zip(gists, (told @ normalised(vectors[TRUTH][None])[0]).tolist(), strict=True)
        ]
    return [Worded(of, gist, cosine) for of, gist, cosine in zip(vectors, gists, near, strict=True)]


def vectors_of(look: LookAhead, prediction: Prediction) -> dict[str, Floats]:
    """The vectors (D,) to be decoded, by whose they are, as the encoder made them.

    A prediction has length one. Where the space's vectors have lengths of their own, an inverter has never seen one so
    short: the prediction is made as long as the vectors it came from are on average.
    """
    searcher, context, truth = look.searcher, prediction.context, prediction.truth
    if context.article is None:
        read = [embedded_text("", "", text, look.rules.prefix) for text in context.texts]
        before = searcher.encoder.encode(read)
    else:
        assert context.position is not None
        stop = context.article.first_chunk + context.position
        before = searcher.vectors.between(stop - len(context.texts), stop)
    found = {PREDICTION: prediction.vector}
    if not searcher.fingerprint.normalised:
        found[PREDICTION] = prediction.vector * np.float32(np.linalg.norm(before, axis=1).mean())
    if truth is not None:
        found[TRUTH] = searcher.vectors.gather([truth.passage.chunk.chunk_id])[0]
    return {**found, COPY_LAST: before[-1]}


def better_for_words(look: LookAhead) -> str:
    """A sentence where another model predicts vectors clearly nearer to the true ones than the one at hand: what ranks
    best need not lie nearest, above all where candidates go through a P tower of their own. Else nothing."""
    space = look.searcher.fingerprint
    there = fitting_models(Collection(look.searcher.generation.path.parent), space)
    cosines = {model.name: _cosine(model) for model in there if not model.config.tower}
    mine = _cosine(look.model)
    best = max(cosines, key=lambda name: cosines[name], default=look.model.name)
    if not mine or cosines.get(best, 0.0) < mine + _CLEARLY:
        if not look.model.config.tower:
            return ""
        return f"model {look.model.name} predicts for its own P tower, whose space is not quite the one decoded here"
    return (
        f"model {look.model.name} orders chunks well, but on its validation articles its vectors have a cosine of "
        f"{mine:.2f} to the true ones, those of {best} {cosines[best]:.2f}: for words take --model {best}"
    )


def _cosine(model: Model) -> float:
    """The mean cosine to the true vectors on validation articles; 0 where it was not measured."""
    told = model.config.trained.get("valid", {}).get("cosine", 0.0)
    return float(told) if isinstance(told, int | float) else 0.0
