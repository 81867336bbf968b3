"""The engine whose indexes are files of the generation: FAISS and tantivy.

It does not know what either does inside; it knows where their files lie and what an earlier generation is good for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from index import dense, lexical
from index.dense import DenseFacts, DenseIndex
from index.engines import FILES, Draft, Ints, spec_of
from index.layout import DENSE, LEXICAL
from index.lexical import LexicalIndex
from index.progress import bar
from index.vectors import SHARD_ROWS, Vectors
from store.database import Store
from store.generations import Generation, link_or_copy


class Files:
    """See `index.engines.Engine`."""

    spec = FILES

    def index_words(self, draft: Draft) -> dict[str, Any]:
        """The parent's index, grown by the new chunks."""
        folder, rows = draft.folder / LEXICAL, len(draft.vectors)
        shutil.rmtree(folder, ignore_errors=True)
        start = 0
        parent = _grown_from(draft)
        if parent is not None:
            link_folder(parent.path / LEXICAL, folder)
            start = parent.manifest.counts["chunks"]
        with bar("indexing words", rows - start, "chunks", quiet=draft.quiet) as shown:
            rows_of = documents(draft.store, start, rows, draft.gone, shown.update)
            lexical.build(folder, draft.language, rows_of, gone=draft.gone)
        return {"language": draft.language}

    def index_vectors(self, draft: Draft) -> DenseFacts:
        parent, grown_from = _grown_from(draft), None
        if parent is not None:
            grown_from = (parent.path / DENSE, DenseFacts.from_json(parent.manifest.facts["dense"]))
        with bar("indexing vectors", len(draft.vectors), "chunks", quiet=draft.quiet) as shown:
            return dense.build(
                draft.vectors,
                draft.folder / DENSE,
                draft.probes,
                memory=draft.memory,
                grown_from=grown_from,
                progress=shown.update,
            )

    def place(self, draft: Draft) -> None:
        return None

    def open_vectors(self, folder: Path, facts: Mapping[str, Any], vectors: Vectors) -> DenseIndex:
        return DenseIndex.open(folder / DENSE, DenseFacts.from_json(facts["dense"]), vectors)

    def open_words(self, folder: Path, facts: Mapping[str, Any]) -> LexicalIndex:
        return LexicalIndex.open(folder / LEXICAL, facts["lexical"]["language"])

    def holds(self, rows: int, live: int) -> int:
        return rows

    def refuse_strangers(self, title: str, owner: str) -> None:
        """A folder is nobody else's."""

    def publish(self, facts: Mapping[str, Any], owner: str) -> None:
        """CURRENT has said it all."""

    def parts(self, owner: str) -> list[str]:
        return []

    def sweep(self, owner: str, keep: Collection[str]) -> list[str]:
        return []


def documents(
    store: Store, start: int, rows: int, gone: Ints, progress: Callable[[int], object]
) -> Iterator[tuple[int, str, str]]:
    """(chunk id, title, text) of the live rows from `start` on."""
    dead = set(gone.tolist())
    for first in range(start, rows, SHARD_ROWS):
        batch = store.texts(first, min(first + SHARD_ROWS, rows))
        for offset, (title, _, text) in enumerate(batch):
            if first + offset not in dead:
                yield first + offset, title, text
        progress(len(batch))


def link_folder(source: Path, target: Path) -> None:
    """Every file of a folder of immutable ones, under a second name."""
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith(".lock"):
            link_or_copy(path, target / path.name)


def _grown_from(draft: Draft) -> Generation | None:
    """The parent, where its indexes are files too."""
    return draft.parent if draft.parent is not None and spec_of(draft.parent.manifest.facts) == FILES else None
