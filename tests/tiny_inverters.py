"""Inverters that can be computed in the head: they know a few texts, and for some of them better ones. No torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from index.encoder import Fingerprint
from index.hashing import HashingEncoder
from retrieval.inversion import PROBE
from retrieval.inverters import WORDS, InverterConfig, seal
from retrieval.models import WEIGHTS

Floats = NDArray[np.float32]


class Tabled:
    """Proposes its `first` texts for any vector, and corrects a text into those that `better` has for it; `asked` are
    the texts it was to correct, call by call."""

    name = "tabled"
    longest = 32

    def __init__(
        self,
        first: Sequence[str],
        better: Mapping[str, Sequence[str]] | None = None,
        space: Fingerprint | None = None,
        probe: Floats | None = None,
    ) -> None:
        self.first = list(first)
        self.better = better or {}
        self.space = space or HashingEncoder().fingerprint
        self.asked: list[list[str]] = []
        self.targets: list[Floats] = []
        self._probe = HashingEncoder().encode([PROBE])[0] if probe is None else probe

    def probe(self) -> Floats:
        return self._probe

    def propose(self, targets: Floats, width: int) -> list[list[str]]:
        self.targets.append(targets)
        return [self.first[:width] for _ in targets]

    def correct(self, targets: Floats, texts: Sequence[str], vectors: Floats, width: int) -> list[list[str]]:
        assert len(targets) == len(texts) == len(vectors)
        self.asked.append(list(texts))
        return [list(self.better.get(text, []))[:width] for text in texts]


def config_of(**changes: Any) -> InverterConfig:
    """A sound config for the vectors of the hashing encoder."""
    encoder: Fingerprint = changes.pop("encoder", HashingEncoder().fingerprint)
    sound: dict[str, Any] = {
        "encoder": encoder,
        "longest": 32,
        "options": {"width": 384},
        "probe": [0.5] * encoder.dim,
        "parameters": 5,
        "trained": {"data": {"collection": "wiki"}},
    }
    return InverterConfig(**{**sound, **changes})


def write_inverter(folder: Path, **changes: Any) -> Path:
    """A whole folder, sealed; its weights are none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(b"weights")
    (folder / WORDS).write_bytes(b"words")
    config_of(**{"seals": seal(folder), **changes}).write(folder)
    return folder


def open_as(monkeypatch: pytest.MonkeyPatch, inverter: Tabled) -> None:
    """Whatever inverter of ours is found is opened as this one, and torch is not loaded for it."""
    own = SimpleNamespace(OwnInverter=SimpleNamespace(open=lambda found: inverter))
    monkeypatch.setitem(sys.modules, "retrieval.inverter", own)  # type: ignore[arg-type]
