"""A small collection and inverters that know every text of it, for the tests of what a decode is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.build import Choices, ingest
from index.encoder import Encoder
from index.hashing import HashingEncoder
from retrieval.evaluate_decode import Asked, Outcome, ask, judge
from retrieval.inversion import PROBE, Decoder, Inverter
from retrieval.search import Searcher
from retrieval.sequences import Sequences
from retrieval.span_bank import open_bank
from store.generations import Collection
from store.records import Split
from store.sources import open_source

Floats = NDArray[np.float32]

TEST_PAGES = (1, 22, 24, 42)  # by the hash of their ids
VALID_PAGES = (17,)
TRAIN_PAGES = (2, 3, 4, 5, 6, 7, 8, 9)
CHUNKS = 5  # of every article
LONGEST = 6


def lead(texts: Sequence[str]) -> list[str]:
    """The first six words: what the hashing encoder, which has no tokenizer, has for a leading span."""
    return [" ".join(text.split()[:LONGEST]) for text in texts]


def sentence(page: int, place: int) -> str:
    """Ten words, most of them nowhere else."""
    return f"The p{page} of c{place} was q{page}x{place} and r{page}x{place} beside s{page}x{place} again."


def make_collection(folder: Path, pages: Sequence[int] = (*TEST_PAGES, *VALID_PAGES, *TRAIN_PAGES)) -> Collection:
    """Articles of five chunks of a sentence each, with the hashing encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for page in pages:
        text = " ".join(sentence(page, place) for place in range(CHUNKS))
        rows.append(json.dumps({"page_id": page, "title": f"Page <script>{page}</script>", "text": text}))
    (folder / "pages.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    collection = Collection(folder / "home" / "collections" / "wiki")
    choices = Choices(encoder="hashing", workers=1, quiet=True, words=10)
    ingest(collection, [open_source(folder / "pages.jsonl", "jsonl")], choices)
    return collection


class Echo:
    """Proposes the first half of the known text nearest to a vector, and corrects any text to the whole of it."""

    name = "echo"
    longest = LONGEST

    def __init__(self, known: Sequence[str]) -> None:
        self.known = list(known)
        self.encoder = HashingEncoder()
        self.space = self.encoder.fingerprint
        self.vectors = self.encoder.encode(self.known)

    def probe(self) -> Floats:
        return self.encoder.encode([PROBE])[0]

    def propose(self, targets: Floats, width: int) -> list[list[str]]:
        return [[" ".join(text.split()[: LONGEST // 2])] for (text,) in self.correct(targets, [], targets, width)]

    def correct(self, targets: Floats, texts: Sequence[str], vectors: Floats, width: int) -> list[list[str]]:
        return [[self.known[place]] for place in (targets @ self.vectors.T).argmax(axis=1).tolist()]


class Always(Echo):
    """Says the same whatever the vector."""

    name = "always"

    def correct(self, targets: Floats, texts: Sequence[str], vectors: Floats, width: int) -> list[list[str]]:
        return [[self.known[0]] for _ in targets]


def every_span(searcher: Searcher) -> list[str]:
    rows = searcher.generation.manifest.counts["chunks"]
    return lead([text for _, _, text in searcher.store.texts(0, rows)])


def asked_of(searcher: Searcher, predicted: Floats | None = None, split: Split = Split.TEST) -> Asked:
    """All windows of a split, the last chunk foretold where nothing else is."""
    sequences = Sequences(searcher.store.articles(split), searcher.vectors)
    windows = sequences.windows(1)
    train = Sequences(searcher.store.articles(Split.TRAIN), searcher.vectors).ids()
    told = sequences.unit(windows.target - 1) if predicted is None else predicted
    return ask(searcher, sequences, windows, told, lead, train)


def judged(
    searcher: Searcher,
    inverter: Inverter,
    asked: Asked | None = None,
    *,
    steps: int = 1,
    encoder: Encoder | None = None,
    seed: int = 0,
) -> Outcome:
    encoder = encoder or searcher.encoder
    bank = open_bank(searcher, searcher.encoder, lead, LONGEST, most=30)
    decoder = Decoder(inverter, searcher.encoder)
    return judge(searcher, asked or asked_of(searcher), decoder, encoder, lead, bank, steps=steps, beam=1, seed=seed)
