"""The inverter for a collection's vectors, ours or the published one, opened beside the collection's encoder.

It does not know how either makes texts; torch is loaded only once an inverter has been found.
"""

from __future__ import annotations

from pathlib import Path

from index.encoder import Fingerprint
from retrieval.decode import HUB, PARTS, PublishedInverter
from retrieval.inversion import Decoder, Inverter
from retrieval.inverters import FoundInverter, find_inverter
from retrieval.search import Searcher
from store.generations import Collection
from store.records import LookaheadError


def open_decoder(searcher: Searcher, name: str | None = None, *, shipped: Path | None = None) -> Decoder:
    """With the inverter of that name, or else the first that fits (`find_inverter`, which also explains `shipped`).

    `gtr-base`, a folder that holds inversion/ and corrector/, and two hub names joined by a comma are vec2text's. A hub
    is asked only for what was named so.
    """
    if name is not None and is_published(name):
        inverter: Inverter = PublishedInverter.open(name, searcher.fingerprint, download=True)
    else:
        inverter = _own(searcher, name, shipped)
    return Decoder(inverter, searcher.encoder)


def own_inverter(decoder: Decoder) -> FoundInverter | None:
    """What a decoder's inverter was opened from, where it is one of ours."""
    found = getattr(decoder.inverter, "found", None)  # not isinstance: that would load torch for vec2text's as well
    return found if isinstance(found, FoundInverter) else None


def is_published(name: str) -> bool:
    """Whether a name is of an inverter that vec2text runs: one of ours is a plain word."""
    return name in HUB or "/" in name or "," in name or all((Path(name) / part).is_dir() for part in PARTS)


def _own(searcher: Searcher, name: str | None, shipped: Path | None) -> Inverter:
    space = searcher.fingerprint
    try:
        found = find_inverter(Collection(searcher.generation.path.parent), space, name, shipped)
    except LookaheadError as error:
        if name is None and _is_pooled_gtr(space):
            raise LookaheadError(f"{error}, or fetch the published one: --inverter {next(iter(HUB))}") from error
        raise
    loading = searcher.beside.submit(lambda: searcher.encoder)  # torch takes as long
    from retrieval.inverter import OwnInverter

    inverter = OwnInverter.open(found)
    loading.result()
    return inverter


def _is_pooled_gtr(space: Fingerprint) -> bool:
    """Whether vectors are of the space that the published corrector was trained in."""
    named = space.model.rstrip("/").rpartition("/")[2] == "gtr-t5-base"
    return named and space.pooling == "mean" and not space.dense and not space.normalised
