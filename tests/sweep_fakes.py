"""A sweep's task that trains nothing: its figures are sums of its keys, and its steps are counted in a file."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval.sweep import Blocks, Column, Result, Value
from store.records import LookaheadError

KEYS: dict[str, Value] = {"width": 1, "depth": 1, "ends": "well"}
COLUMNS = (Column("dev", "dev"), Column("test", "test"), Column("loss", "loss", higher=False))


@dataclass
class Adding:
    """dev = (width + 10 depth + seed) / 1000 for every step up to 100; parameters = 100 width, seconds = depth.

    `killed_at` is the step, of all it has done, at which Ctrl-C comes. It knows of everything it was asked.
    """

    killed_at: int = -1
    source: str = "here"
    noise: float = 1.0
    done: int = 0
    ran: list[tuple[str, int, int, int]] = field(default_factory=list)  # values, seed, steps, first step
    measured: list[float] = field(default_factory=list)

    name = "adding"
    keys: Mapping[str, Value] = field(default_factory=lambda: KEYS)
    columns = COLUMNS
    sampled = COLUMNS[1]

    @property
    def data(self) -> dict[str, Any]:
        return {"source": self.source}

    def checked(self, values: Mapping[str, Value]) -> dict[str, Value]:
        if values.keys() - KEYS.keys():
            raise LookaheadError(f"there is no {', '.join(sorted(values.keys() - KEYS.keys()))}")
        return {**KEYS, **values}

    def parameters(self, values: Mapping[str, Value]) -> int:
        return 100 * int(values["width"])

    def memory(self, values: Mapping[str, Value]) -> int:
        return 1000 * int(values["width"])

    def steps_for(self, values: Mapping[str, Value], seconds: float) -> int:
        self.measured.append(seconds)
        return round(seconds * 9 / int(values["width"]))

    def run(self, values: Mapping[str, Value], seed: int, steps: int, folder: Path, *, quiet: bool) -> Result:
        kept = folder / "checkpoint"
        first = int(kept.read_text()) if kept.exists() else 0
        self.ran.append((f"{values['width']}x{values['depth']}", seed, steps, first))
        if values["ends"] == "badly":
            raise LookaheadError("the loss is nan at step 3")
        for step in range(first, steps):
            if self.done == self.killed_at:
                kept.write_text(str(step))
                raise KeyboardInterrupt
            if values["ends"] == "killed" and step == 4:
                kept.write_text(str(step))
                os.kill(os.getpid(), signal.SIGKILL)
            self.done += 1
        dev = (int(values["width"]) + 10 * int(values["depth"]) + self.noise * seed) / 1000 * min(steps, 100) / 100
        blocks = {"en": Blocks([1.0, 3.0], [4.0, 4.0]), "es": Blocks([0.0, 1.0], [4.0, 4.0])}
        groups = {"en": {"test": 0.5}, "es": {"test": 0.125}}
        figures = {"dev": dev, "test": dev / 2, "loss": 1 - dev}
        return Result(figures, groups, self.parameters(values), float(str(values["depth"])), steps, [], blocks)
