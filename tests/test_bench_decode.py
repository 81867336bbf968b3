"""The benchmark of an inverter times what it says, and judges it by the goals it prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_decodes import Echo, make_collection

from retrieval.benchmarks import decode as subject
from retrieval.inversion import Decoder
from retrieval.search import Searcher


class Clocked(Echo):
    """Its clock moves by a tenth of a second a call, whatever the number of vectors, and by two while it opens."""

    now = 0.0

    def propose(self, targets: np.ndarray, width: int) -> list[list[str]]:  # type: ignore[type-arg]
        Clocked.now += 0.1
        return super().propose(targets, width)


def test_one_vector_many_and_the_opening_are_timed_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(searcher: Searcher, name: str | None) -> Decoder:
        Clocked.now += 2.0
        inverter = Clocked(["one two three four"])
        return Decoder(inverter, inverter.encoder)

    monkeypatch.setattr(subject, "open_decoder", opened)
    monkeypatch.setattr(subject.time, "perf_counter", lambda: Clocked.now)
    with Searcher.open(make_collection(tmp_path)) as searcher:
        figures = subject.bench_decode(searcher, None, 0, 1, lambda _: None)
    opening, one, slowest, together, ratio = figures
    assert (opening.value, opening.reached) == (2.0, True)
    assert one.value == pytest.approx(0.1)
    assert one.reached
    assert slowest.value == pytest.approx(0.1)
    vectors = int(together.what.split()[0])
    assert vectors > 5
    assert together.value == pytest.approx(0.1)
    assert ratio.value == pytest.approx(vectors)
    assert ratio.reached
