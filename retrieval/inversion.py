"""From a vector back to words: texts are proposed, embedded, corrected, and the nearest to the vector is kept.

It does not know how an inverter proposes or corrects (`inverter` is ours, `decode` the published one), nor what a
vector stands for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from index.dense import normalised
from index.encoder import Encoder, Fingerprint, refuse_other_space
from index.progress import bar
from store.records import LookaheadError

STEPS, BEAM = 1, 8
MOST_STEPS, MOST_BEAM = 50, 16
PROBE = "The bridge over the river was opened in 1861, and a toll of two pence was taken from every cart until 1890."
_SAME = 0.99  # cosine of the probe's two vectors, below which they are of two spaces: int8 is off by .007 here
_NOTHING, _ENDLESS = 1e-6, 1e9  # lengths below which a vector has no direction, and above which no encoder made it
_AT_ONCE = 64  # vectors; what is kept of their texts is forgotten before the next ones

Floats = NDArray[np.float32]


class Inverter(Protocol):
    """Proposes texts for vectors of one space, and corrects texts by how far off their vectors are."""

    @property
    def name(self) -> str: ...

    @property
    def space(self) -> Fingerprint:
        """Whose vectors it turns back."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest text it makes; a vector of more than that comes back as a gist of its beginning."""
        ...

    def probe(self) -> Floats:
        """The vector (D,) of `PROBE`, as it should be."""
        ...

    def propose(self, targets: Floats, width: int) -> list[list[str]]:
        """For vectors (n, D) up to `width` texts each, likeliest first."""
        ...

    def correct(self, targets: Floats, texts: Sequence[str], vectors: Floats, width: int) -> list[list[str]]:
        """For vectors (n, D) and a hypothesis for each, with the hypotheses' own vectors (n, D): up to `width` better
        texts each."""
        ...


@dataclass(frozen=True, slots=True)
class Gist:
    """The text found for a vector, the cosine of its own vector to that one, and after how many corrections it was
    found (0: as first proposed). Empty, with cosine 0, where the inverter had no words."""

    text: str
    cosine: float
    step: int


class Decoder:
    """An inverter and the encoder of its space."""

    def __init__(self, inverter: Inverter, encoder: Encoder) -> None:
        """Refuses an encoder of another space, whatever it is called: a probe text must come out where it should."""
        refuse_other_space(inverter.space, encoder.fingerprint, what=f"inverter {inverter.name}")
        cosine = float((normalised(encoder.encode([PROBE])) @ normalised(inverter.probe()[None])[0])[0])
        if not cosine >= _SAME:
            raise LookaheadError(
                f"inverter {inverter.name} is for {inverter.space}, but this encoder, which calls itself "
                f"{encoder.fingerprint}, places a probe text elsewhere (cosine {cosine:.3f}); ingest anew"
            )
        self.inverter = inverter
        self.encoder = encoder

    def decode(
        self,
        vectors: Floats,
        *,
        steps: int = STEPS,
        beam: int = BEAM,
        time_limit: float | None = None,
        tell: Callable[[str], object] = lambda _: None,
        quiet: bool = True,
    ) -> list[Gist]:
        """A gist for each vector (n, D), in their order; only the vectors' directions count where the space is one of
        normalised vectors.

        Each of `steps` corrections starts from the `beam` nearest texts so far, and nothing nearer is ever given up for
        something farther. Of many vectors some are decoded after the others, each with its share of `time_limit`: no
        step is begun that would not end in it, by how long earlier ones took; the first proposals are always waited
        for. `tell` hears what the steps will take, and where there was no time for all; `quiet` hides the progress.
        """
        check_vectors(vectors, self.inverter.space.dim)
        check_effort(steps, beam, time_limit)
        targets = normalised(vectors) if self.inverter.space.normalised else np.array(vectors, dtype=np.float32)
        blocks = range(0, len(targets), _AT_ONCE)
        gists: list[Gist] = []
        short: list[int] = []  # the steps made of each vector that there was no time for
        pace = _Pace()
        began = now = time.perf_counter()
        beams = self._proposed(targets[:_AT_ONCE], beam, pace)
        if (steps and len(blocks)) or len(blocks) > 1:
            taken, longest = pace.of(1), pace.of((1 + steps * beam) * len(targets))
            tell(f"the first texts took {taken:.1f} s; all will take up to about {longest:.1f} s")
        with bar("decoding", len(targets) * (1 + steps), "steps", quiet=quiet) as shown:
            for place, start in enumerate(blocks):
                some = targets[start : start + _AT_ONCE]
                until = None if time_limit is None else now + (began + time_limit - now) / (len(blocks) - place)
                if place:
                    beams = self._proposed(some, beam, pace)
                shown.update(len(some))
                done = self._corrected(some, beams, steps, until, pace, shown)
                if done < steps and any(one.waiting for one in beams):
                    short += [done] * len(some)
                gists += [one.gist() for one in beams]
                now = time.perf_counter()
        if short:
            tell(
                f"the time limit of {time_limit:g} s came after {min(short)} of {_steps(steps)}"
                + (f" for {len(short):,} of {len(targets):,} vectors" if len(targets) > 1 else "")
            )
        return gists

    def _proposed(self, targets: Floats, width: int, pace: _Pace) -> list[_Beam]:
        beams = [_Beam(width) for _ in targets]
        if beams:
            began = time.perf_counter()
            self._take(targets, beams, range(len(beams)), self.inverter.propose(targets, width), step=0)
            pace.saw(time.perf_counter() - began, len(beams))
        return beams

    def _corrected(
        self, targets: Floats, beams: Sequence[_Beam], steps: int, until: float | None, pace: _Pace, shown: Any
    ) -> int:
        """How many of the steps were made: all, or those for which there was time, or something to correct."""
        step = 0
        while step < steps:
            waiting = [(row, one) for row, beam in enumerate(beams) for one in beam.waiting]
            began = time.perf_counter()
            if not waiting or (until is not None and began + pace.of(len(waiting)) > until):
                break
            step += 1
            rows = [row for row, _ in waiting]
            better = self.inverter.correct(
                targets[rows],
                [one.text for _, one in waiting],
                np.stack([one.vector for _, one in waiting]),
                beams[0].width,
            )
            for _, one in waiting:
                one.corrected = True
            self._take(targets, beams, rows, better, step=step)
            pace.saw(time.perf_counter() - began, len(waiting))
            shown.update(len(beams))
        shown.update((steps - step) * len(beams))
        return step

    def _take(
        self, targets: Floats, beams: Sequence[_Beam], rows: Sequence[int], proposals: list[list[str]], step: int
    ) -> None:
        """Embeds the texts proposed for rows of the targets, and each row's beam keeps the nearest."""
        asked = {(row, text.strip()) for row, some in zip(rows, proposals, strict=True) for text in some}
        fresh = sorted((row, text) for row, text in asked if text and not beams[row].holds(text))
        if not fresh:
            return
        texts = sorted({text for _, text in fresh})
        place = {text: number for number, text in enumerate(texts)}
        vectors = self.encoder.encode(texts)
        units = normalised(vectors)[[place[text] for _, text in fresh]]
        cosines = np.einsum("nd,nd->n", units, normalised(targets)[[row for row, _ in fresh]]).tolist()
        for (row, text), cosine in zip(fresh, cosines, strict=True):
            beams[row].kept.append(_Hypothesis(text, vectors[place[text]], cosine, step))
        for row in {row for row, _ in fresh}:
            beams[row].cut()


@dataclass(slots=True)
class _Hypothesis:
    """A text proposed for a vector, its own vector (D,), and whether it has been corrected: that is done once."""

    text: str
    vector: Floats
    cosine: float
    step: int
    corrected: bool = False


@dataclass(slots=True)
class _Beam:
    """The `width` nearest texts for one vector, nearest first. A text that fell out never comes back: the last of the
    beam only gets nearer."""

    width: int
    kept: list[_Hypothesis] = field(default_factory=list)

    @property
    def waiting(self) -> list[_Hypothesis]:
        return [one for one in self.kept if not one.corrected]

    def holds(self, text: str) -> bool:
        return any(one.text == text for one in self.kept)

    def cut(self) -> None:
        self.kept = sorted(self.kept, key=lambda one: (-one.cosine, one.step, one.text))[: self.width]

    def gist(self) -> Gist:
        if not self.kept:
            return Gist("", 0.0, 0)
        best = self.kept[0]
        return Gist(best.text, best.cosine, best.step)


class _Pace:
    """How long a step of so many texts takes, by those that were made: never less than one of fewer texts did, and in
    proportion where there are more than ever."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def saw(self, seconds: float, texts: int) -> None:
        self._seen.append((seconds, texts))

    def of(self, texts: int) -> float:
        return max(seconds * max(1.0, texts / seen) for seconds, seen in self._seen)


def check_vectors(vectors: Floats, dim: int) -> None:
    """Raises unless these are vectors (n, dim) that point somewhere."""
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        found = " × ".join(map(str, vectors.shape)) or "a single number"
        raise LookaheadError(f"a vector to decode has {dim} numbers, so these must be n × {dim}, not {found}")
    if not np.isfinite(vectors).all():
        raise LookaheadError(f"vector {int(np.argmin(np.isfinite(vectors).all(axis=1)))} holds NaN or infinity")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if (lengths < _NOTHING).any():
        raise LookaheadError(f"vector {int(np.argmin(lengths))} has length zero: it points nowhere")
    if (lengths > _ENDLESS).any():
        row = int(np.argmax(lengths))
        raise LookaheadError(f"vector {row} has length {lengths[row]:.0e}: no encoder makes such vectors")


def check_effort(steps: int, beam: int, time_limit: float | None) -> None:
    if not 0 <= steps <= MOST_STEPS:
        raise LookaheadError(f"--steps is between 0 and {MOST_STEPS}, not {steps}; published figures end there")
    if not 1 <= beam <= MOST_BEAM:
        raise LookaheadError(f"--beam is between 1 and {MOST_BEAM}, not {beam}")
    if time_limit is not None and not time_limit > 0:
        raise LookaheadError(f"--time-limit is a number of seconds above 0, not {time_limit:g}")


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
