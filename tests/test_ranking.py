"""Where candidates come from: the index of the passages, and the collection's own where the context counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from index.dense import Hit
from retrieval.candidates import Choice
from retrieval.ranking import Asked, Ranker


class Index:
    """Finds the same chunks whatever it is asked, and keeps the question."""

    def __init__(self, *ids: int) -> None:
        self.ids = ids
        self.asked: list[list[float]] = []

    def search(self, query: Any, depth: int, within: object) -> list[Hit]:
        self.asked.append(query.tolist())
        return [Hit(one, 0.5) for one in self.ids[:depth]]


@pytest.mark.parametrize(("blend", "found"), [(0.0, [2, 9, 11]), (0.7, [2, 4, 7, 9, 11])])
def test_the_collections_own_index_is_asked_too_where_the_context_counts(blend: float, found: list[int]) -> None:
    passages, chunks = Index(9, 2, 11), Index(4, 9, 7)
    context = np.zeros((1, 5, 2), dtype=np.float32)
    context[0, -1] = 0, 1
    asked = Asked(context, np.arange(5)[None] == 4, np.array([[1, 0]], dtype=np.float32))
    with ThreadPoolExecutor(1) as beside:
        searcher: Any = SimpleNamespace(dense=chunks, alive=None, beside=beside)
        pipeline: Any = SimpleNamespace(choice=Choice(blend=blend))
        space: Any = SimpleNamespace(dense=passages)
        near = Ranker(searcher, pipeline, space).near(asked, 3)
    assert near.tolist() == found
    assert passages.asked == [[1, 0]]
    assert chunks.asked == ([[0, 1]] if blend else [])
