"""From a context to an order of candidates: predictor, P tower, first score, reranker, each where there is one.

It does not know where candidates come from (an index in `predict`, a bank in `evaluate_pipeline`), only how they are
scored. No torch is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from index.dense import normalised
from retrieval.candidates import Choice, decayed
from retrieval.models import Model
from retrieval.rerankers import find_reranker
from retrieval.runtime import CompiledPredictor, CompiledReranker, CompiledTower
from retrieval.sequences import Bools, Floats


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A model's parts. The score of a chunk for a context is `queries(…) · keys(…)`; a reranker, where there is one,
    then orders the best `choice.depth` of them anew."""

    predictor: CompiledPredictor
    tower: CompiledTower | None
    reranker: CompiledReranker | None
    choice: Choice

    @classmethod
    def open(cls, model: Model, rerankers: Sequence[Path], *, rerank: bool | None = None) -> Pipeline:
        """The parts of a model. `rerankers` are the folders where one for it may be, the first one first; `rerank` None
        takes it where there is one, True refuses to go without, False leaves it out."""
        tower = CompiledTower.open(model.folder) if model.config.tower else None
        found = find_reranker(model, rerankers, needed=rerank is True) if rerank is not False else None
        predictor = CompiledPredictor.open(model.folder)
        if found is None:
            return cls(predictor, tower, None, Choice())
        return cls(
            predictor, tower, CompiledReranker.open(found.folder), Choice(found.config.depth, found.config.blend)
        )

    def choosing(self, choice: Choice) -> Pipeline:
        """The same with candidates chosen otherwise."""
        return replace(self, choice=choice)

    def without_reranker(self) -> Pipeline:
        return replace(self, reranker=None, choice=replace(self.choice, blend=0.0))

    def predict(self, context: Floats, mask: Bools) -> Floats:
        """Predicted next vectors (n, D) of length one, in the space of `passages`."""
        return self.predictor.predict(context, mask)

    def passages(self, rows: Floats) -> Floats:
        """Chunks' unit vectors (m, D) as candidates: through the P tower, or as they are."""
        return self.tower.passages(rows) if self.tower is not None else rows

    def queries(self, context: Floats, mask: Bools, prediction: Floats) -> Floats:
        """What the keys are multiplied with: (n, D), or (n, 2 D) where the context's decayed mean counts as well."""
        if not self.choice.blend:
            return prediction
        return np.concatenate([prediction, np.float32(self.choice.blend) * decayed(context, mask)], axis=1)

    def keys(self, rows: Floats, passages: Floats) -> Floats:
        """Of chunks (m, D) and their passages (m, D): (m, D) or (m, 2 D), as `queries`."""
        return np.concatenate([passages, rows], axis=1) if self.choice.blend else passages

    def rerank(
        self, context: Floats, mask: Bools, prediction: Floats, rows: Floats, passages: Floats, present: Bools
    ) -> Floats:
        """Scores (n, m) of candidates (n, m, D), m ≤ depth and best first; -inf where `present` (n, m) is false."""
        if self.reranker is None:
            scores: Floats = np.einsum("nmd,nd->nm", passages, normalised(prediction))
            return np.where(present, scores, -np.inf).astype(np.float32)
        return self.reranker.scores(context, mask, prediction, rows, passages, present)
