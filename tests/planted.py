"""A collection whose next chunk is always the second nearest to the last one: behind a decoy, and its own context.

Chunks of an article are a chain, each at a cosine of .62 to .74 to the one before and a little nearer to the one after;
beside each stands a decoy at cosine .8, a chunk of an article too short for a window. Nothing but vectors tells them
apart: nobody is near a decoy but its own chunk, while the next chunk has a decoy of its own and a chunk after it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tiny_articles import article_rows, vectors_of
from tiny_models import COPY_LAST, write_model

from index.hashing import HashingEncoder
from retrieval.models import Model, ModelConfig
from retrieval.search import Searcher
from store.database import ArticleRow
from store.generations import MANIFEST
from store.records import Split

DIM, CHUNKS = 48, 10
ENCODER = replace(HashingEncoder().fingerprint, dim=DIM)


def chain(rng: np.random.Generator) -> NDArray[np.float32]:
    """Ten chunks, then their ten decoys; the noise of one chunk is at right angles to that of any other."""
    axes = np.linalg.qr(rng.normal(size=(DIM, 2 * CHUNKS)))[0].T
    chunks = [axes[0]]
    for near, axis in zip(np.arange(0.62, 0.75, 0.015), axes[1:CHUNKS], strict=True):
        chunks.append(near * chunks[-1] + np.sqrt(1 - near**2) * axis)
    decoys = [0.8 * chunk + 0.6 * axis for chunk, axis in zip(chunks, axes[CHUNKS:], strict=True)]
    return np.array([*chunks, *decoys], dtype=np.float32)


def planted(folder: Path, train: int = 60, valid: int = 12) -> Searcher:
    """As much of an open collection as a training looks at."""
    rng = np.random.default_rng(0)
    rows: list[ArticleRow] = []
    for split, many in ((Split.TRAIN, train), (Split.VALID, valid)):
        rows += article_rows([CHUNKS, 5, 5] * many, split, first=2 * CHUNKS * train if split is Split.VALID else 0)
    vectors = vectors_of(folder / "planted" / "vectors", np.concatenate([chain(rng) for _ in range(train + valid)]))
    generation = folder / "planted" / "generation-1"
    generation.mkdir(exist_ok=True)
    (generation / MANIFEST).write_bytes(b"{}")
    told = SimpleNamespace(
        store=SimpleNamespace(articles=lambda split: [row for row in rows if row.split is split]),
        vectors=vectors,
        generation=SimpleNamespace(path=generation, manifest=SimpleNamespace(name="generation-1")),
    )
    return cast(Searcher, told)


def copy_last(folder: Path) -> Model:
    """A model that foretells the last chunk of the context."""
    write_model(folder, COPY_LAST, encoder=ENCODER)
    return Model(folder.name, folder, ModelConfig.read(folder), shipped=False)
