"""The leading spans of a collection's training chunks, embedded on their own: what a decode has to be nearer than.

The whole bank is made once for a generation and kept beside the collection's inverters; when that of another
generation is whole, it goes. It does not know what is compared with it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from index.encoder import Encoder
from index.progress import bar
from retrieval.inverters import inverters_folder
from retrieval.search import Searcher
from retrieval.sequences import Floats, Ints, Sequences
from retrieval.spans import embedded, kept_rows
from store.database import Store
from store.generations import MANIFEST, Collection, DamageWarning, seal_of, write_atomically
from store.records import LookaheadError, Split

Half = NDArray[np.float16]
Lead = Callable[[Sequence[str]], list[str]]  # the leading spans of texts, see `spans.leading`

_SUM = "sum.json"  # what the whole bank's bytes are, written last
_BLOCK = 8_192


@dataclass(frozen=True, slots=True)
class SpanBank:
    """Vectors (n, D) of the leading spans of chunks `ids` (n,), which are all or some of `among` chunks."""

    ids: Ints
    vectors: Half
    among: int

    def nearest(self, unit: Floats) -> Ints:
        """For unit vectors (q, D) the chunk whose span has the highest cosine, the lowest id among equals, (q,)."""
        best, who = np.full(len(unit), -np.inf, dtype=np.float32), np.zeros(len(unit), dtype=np.int64)
        for start in range(0, len(self.ids), _BLOCK):
            scores = unit @ normalised(self.vectors[start : start + _BLOCK].astype(np.float32)).T
            place = scores.argmax(axis=1)
            found = scores[np.arange(len(unit)), place]
            better = found > best
            best[better], who[better] = found[better], self.ids[start + place[better]]
        return who


def open_bank(
    searcher: Searcher,
    encoder: Encoder,
    lead: Lead,
    longest: int,
    *,
    most: int | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> SpanBank:
    """The bank of the searcher's generation. All of it is made and kept, or found; `most` spans, drawn with `seed`, are
    taken out of the one that is kept, and where there is none they are embedded for this once.

    A kept one whose bytes have changed is made again, with a DamageWarning.
    """
    collection = Collection(searcher.generation.path.parent)
    ids = Sequences(searcher.store.articles(Split.TRAIN), searcher.vectors).ids()
    if not len(ids):
        raise LookaheadError(
            f"{collection.name} has no article in the train split, so no decode can be held against the nearest "
            "training span; ingest more articles"
        )
    facts: dict[str, Any] = {
        "what": "leading spans of the train split",
        "generation": searcher.generation.manifest.name,
        "manifest": seal_of(searcher.generation.path / MANIFEST).sha256,
        "encoder": encoder.fingerprint.key,
        "longest": longest,
    }
    # a folder of its own for each generation: an older one may still be written to by another process
    folder = inverters_folder(collection) / f".spans-{longest}-{facts['manifest'][:12]}"

    def made(rows: slice) -> Half:
        return _vectors(searcher.store, ids[rows], encoder, lead)

    some = None
    if most is not None and most < len(ids):
        some = np.sort(np.random.default_rng([seed, 2]).choice(len(ids), most, replace=False))
        if _sum_of(folder, facts) is None:
            parts = []
            with bar("embedding training spans", most, "spans", quiet=quiet) as shown:
                for start in range(0, most, _BLOCK):
                    parts.append(_vectors(searcher.store, ids[some[start : start + _BLOCK]], encoder, lead))
                    shown.update(len(parts[-1]))
            return SpanBank(ids[some], np.concatenate(parts), len(ids))
    whole = _kept(folder, facts, len(ids), made, quiet)
    return SpanBank(ids, whole, len(ids)) if some is None else SpanBank(ids[some], whole[some], len(ids))


def _vectors(store: Store, ids: Ints, encoder: Encoder, lead: Lead) -> Half:
    texts = lead([found.chunk.text for found in store.chunks(ids.tolist())])
    return embedded(encoder, texts).astype(np.float16)


def _kept(folder: Path, facts: dict[str, Any], count: int, make: Callable[[slice], Half], quiet: bool) -> Half:
    """All vectors, found as they were made or made."""
    wanted = _sum_of(folder, facts)
    try:
        rows = kept_rows(folder, facts, count, make, what="embedding training spans", quiet=quiet)
        found = _sum(rows)
    except (ValueError, TypeError):  # parts of different shapes, or of no numbers
        found = "no vectors"
    if (wanted is not None and found != wanted) or found == "no vectors":
        warnings.warn(f"the spans in {folder} are damaged and are embedded again", DamageWarning, stacklevel=3)
        shutil.rmtree(folder)
        rows = kept_rows(folder, facts, count, make, what="embedding training spans", quiet=quiet)
        found, wanted = _sum(rows), None
    if wanted is None:
        write_atomically(folder / _SUM, json.dumps({"facts": facts, "sha256": found}, sort_keys=True).encode())
        for other in folder.parent.glob(f".spans-{facts['longest']}-*"):
            if other != folder and (other / _SUM).is_file():  # one without is still being made
                shutil.rmtree(other, ignore_errors=True)
    return rows


def _sum_of(folder: Path, facts: dict[str, Any]) -> str | None:
    """The checksum of the whole bank that was made from those facts, None where there is none."""
    try:
        raw = json.loads((folder / _SUM).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(raw, dict) or raw.get("facts") != facts:
        return None
    return str(raw.get("sha256"))


def _sum(rows: Half) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
