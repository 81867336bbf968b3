"""Trains every configuration of a sweep, a few at a time, and keeps each result as soon as it is there.

It does not know what is trained, on what, or what a good figure is: a `SweepTask` checks a configuration, trains it
and brings its figures. Nor does it know what a report says of them (`sweep_report`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from index.progress import bar
from retrieval.sweep_fronts import SAME, front
from retrieval.sweep_workers import Room, ended
from store.generations import write_atomically
from store.records import LookaheadError

SWEEP, RESULTS, REFERENCES = "sweep.json", "results.jsonl", "references.json"
FRONT_SEEDS = 2  # of a configuration on a front: one seed says nothing of how much another would differ

Value = int | float | str | bool


@dataclass(frozen=True, slots=True)
class Config:
    """A row of the table: what to call it, and those of the task's keys that differ from their defaults."""

    name: str
    values: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Budget:
    """What one configuration may use; one of the two is given."""

    seconds: float | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of the table: its key in `Result.figures`, how the table calls it, and which way is better."""

    figure: str
    heading: str
    higher: bool = True


@dataclass(frozen=True, slots=True)
class Blocks:
    """A figure of the test data, unit by unit (an article, a block of a file), so that units can be resampled: `sums`
    over what is in a unit (hits, say) and `sizes` of the units (characters, windows). The figure is sum / size."""

    sums: list[float]
    sizes: list[float]


@dataclass(frozen=True, slots=True)
class Result:
    """What training one configuration with one seed gave.

    `figures` has one for every column; `groups` the same by group (a language), as far as a group has them; `samples`
    group → the blocks of the task's `sampled` figure, "all" for the whole where there is one group only. `seconds` are
    of the training alone; `history` one line a validation.
    """

    figures: dict[str, float]
    groups: dict[str, dict[str, float]]
    parameters: int
    seconds: float
    steps: int
    history: list[dict[str, float]] = field(default_factory=list)
    samples: dict[str, Blocks] = field(default_factory=dict)


class SweepTask(Protocol):
    """What is swept over. It is sent to worker processes as it is: what is large is loaded by its first use there.

    `columns[0]` is measured on dev: halving and the fronts go by it. `sampled` is the test figure whose blocks are
    kept. `data` says what the data is, exactly enough for a sweep on other data to be told apart.
    """

    @property
    def name(self) -> str: ...

    @property
    def keys(self) -> Mapping[str, Value]:
        """Every key of a configuration with its default."""

    @property
    def columns(self) -> Sequence[Column]: ...

    @property
    def sampled(self) -> Column: ...

    @property
    def data(self) -> Mapping[str, Any]:
        """As JSON holds it."""

    def checked(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """All keys, defaults filled in; LookaheadError, one line, for an unknown key, a wrong type, a width that heads
        do not divide. It trains nothing."""

    def parameters(self, values: Mapping[str, Value]) -> int:
        """Of the model, without training it."""

    def memory(self, values: Mapping[str, Value]) -> int:
        """About how many bytes a process that trains it holds at most, all told."""

    def steps_for(self, values: Mapping[str, Value], seconds: float) -> int:
        """How many steps fit into so many seconds of training and validating, from timing a few warm ones."""

    def run(self, values: Mapping[str, Value], seed: int, steps: int, folder: Path, *, quiet: bool) -> Result:
        """Trains with that seed for exactly so many steps; killed, it goes on from what it left in `folder`."""


@runtime_checkable
class Comparing(Protocol):
    """A task that knows what a model must beat: rows without a configuration."""

    def references(self) -> dict[str, dict[str, float]]:
        """Name → figures, as far as it has them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A sweep: `seeds` of every configuration (those on a front get at least two). With `halving` η, all are trained
    for budget / η², the best η-th of them for budget / η, and the best η-th of those for the budget."""

    configs: tuple[Config, ...]
    budget: Budget
    seeds: int = 1
    halving: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """One training of a configuration that has ended: with its result, or why it has none. It was given one `share`-th
    of the budget. `lost` are those that may do better another time (a process that was killed)."""

    config: str
    seed: int
    share: int
    result: Result | None = None
    failed: str = ""
    lost: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Done:
        result = None
        if raw["result"] is not None:
            samples = {name: Blocks(**blocks) for name, blocks in raw["result"]["samples"].items()}
            result = Result(**{**raw["result"], "samples": samples})
        return cls(**{**raw, "result": result})


def planned(task: SweepTask, asked: Asked) -> dict[str, dict[str, Value]]:
    """The configurations by name with all their keys; what cannot be trained is refused, with its name."""
    if not asked.configs:
        raise LookaheadError("there is no configuration to train; give a grid or a preset")
    plans: dict[str, dict[str, Value]] = {}
    for config in asked.configs:
        try:
            values = task.checked(config.values)
        except LookaheadError as error:
            raise LookaheadError(f"configuration {config.name}: {error}") from error
        if config.name in plans:
            raise LookaheadError(f"two configurations are called {config.name}; give one another name")
        for other, theirs in plans.items():
            if theirs == values:
                raise LookaheadError(f"configurations {other} and {config.name} are the same; leave one out")
        plans[config.name] = values
    return plans


def identity_of(task: SweepTask, asked: Asked) -> dict[str, Any]:
    """What a folder's sweep must be of to be gone on with, as JSON holds it."""
    told = {
        "task": task.name,
        "data": dict(task.data),
        "configs": planned(task, asked),
        "budget": asdict(asked.budget),
        "seeds": asked.seeds,
        "halving": asked.halving,
    }
    identity: dict[str, Any] = json.loads(json.dumps(told))
    return identity


def folder_for(home: Path, identity: Mapping[str, Any]) -> Path:
    """Where a sweep is kept unless told otherwise: the same sweep is found again."""
    named = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    return home / "sweeps" / f"{identity['task']}-{named}"


def sweep(
    task: SweepTask,
    asked: Asked,
    folder: Path,
    *,
    workers: int | None = None,
    command: str = "",
    quiet: bool = False,
    told: Callable[[Done], object] = lambda _: None,
) -> list[Done]:
    """Trains all that was asked and has not been trained yet, and gives every training in the order of the
    configurations, then of share and seed. `told` hears of each as soon as it is kept."""
    plans = planned(task, asked)
    needs = {name: task.memory(values) for name, values in plans.items()}
    room = Room.here(list(needs.values()), workers)
    for name, need in needs.items():
        if need > room.memory:
            raise LookaheadError(
                f"configuration {name} needs about {need / 1e9:.1f} GB of memory and {room.memory / 1e9:.1f} GB can be "
                "had; make it smaller or leave it out"
            )
    with _held(folder), bar("sweeping", 0, "trainings", quiet=quiet) as shown:
        kept = _Kept.open(folder, identity_of(task, asked), command)

        def train(wanted: Sequence[tuple[str, int, int]]) -> None:
            jobs = [
                _Job(
                    task, name, plans[name], seed, share, asked.budget, _place(folder, plans, name), _loud(room, quiet)
                )
                for name, seed, share in wanted
                if (name, seed, share) not in kept.done
            ]
            shown.total += len(jobs)
            for job, died in ended(_work, jobs, [needs[job.name] for job in jobs], room):
                done = Done(job.name, job.seed, job.share, failed=died, lost=True) if died else job.left()
                kept.add(done)
                shown.update(1)
                if not died:  # else its checkpoint is of use when it is tried again
                    shutil.rmtree(job.folder)
                told(done)

        alive = list(plans)
        for share in shares(asked.halving):
            seeds = range(asked.seeds if share == 1 else 1)
            train([(name, seed, share) for seed in seeds for name in alive])
            if share > 1:
                ranked = standing(kept.all(), task.columns[0], share)
                alive = [name for name in alive if name in ranked[: max(1, len(alive) // asked.halving)]]
        while missing := _untold(kept, task.columns[0], max(FRONT_SEEDS, asked.seeds)):
            train(missing)
        if isinstance(task, Comparing) and not (folder / REFERENCES).exists():
            write_atomically(folder / REFERENCES, json.dumps(task.references(), indent=1).encode())
        return kept.all()


def shares(halving: int) -> tuple[int, ...]:
    """One in how many of the budget each round is given."""
    return (halving**2, halving, 1) if halving else (1,)


def standing(dones: Sequence[Done], column: Column, share: int) -> list[str]:
    """The configurations that have results of that share, the best first; as they were asked where they tie."""
    points = means(dones, column.figure, share)
    sign = -1 if column.higher else 1
    return sorted(points, key=lambda name: sign * points[name])


def means(dones: Sequence[Done], figure: str, share: int = 1) -> dict[str, float]:
    """Of a figure over the seeds of each configuration that has results of that share; "parameters" and "seconds" are
    figures too. A configuration of which a seed failed has none: the others would flatter it."""
    found: dict[str, list[float]] = {}
    failed = {done.config for done in dones if done.share == share and done.result is None}
    for done in dones:
        if done.share == share and done.result is not None and done.config not in failed:
            own = {"parameters": float(done.result.parameters), "seconds": done.result.seconds}
            found.setdefault(done.config, []).append({**done.result.figures, **own}[figure])
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


def fronts_of(dones: Sequence[Done], column: Column) -> dict[str, list[str]]:
    """ "parameters" and "seconds" → the configurations on the front of quality against that."""
    quality = means(dones, column.figure)
    sign = 1 if column.higher else -1
    fronts = {}
    for cost, same in (("parameters", 1.0), ("seconds", SAME)):
        costs = means(dones, cost)
        fronts[cost] = front({name: (costs[name], sign * quality[name]) for name in quality}, same=same)
    return fronts


# -- one training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """What a worker is handed. `place` is the configuration's folder; the training has one of its own in it."""

    task: SweepTask
    name: str
    values: dict[str, Value]
    seed: int
    share: int
    budget: Budget
    place: Path
    quiet: bool

    @property
    def folder(self) -> Path:
        return self.place / f"seed-{self.seed}-share-{self.share}"

    def left(self) -> Done:
        return Done.from_json(json.loads((self.folder / _DONE).read_bytes()))

    def steps(self) -> int:
        """Of its share of the budget. Seconds are turned into steps once, before anything is trained, so that a
        training that goes on has the very schedule it began with."""
        told = self.place / "steps.json"
        if self.budget.steps is not None:
            all_told = self.budget.steps
        elif told.exists():
            all_told = json.loads(told.read_bytes())
        else:
            assert self.budget.seconds is not None
            all_told = self.task.steps_for(self.values, self.budget.seconds)
            write_atomically(told, json.dumps(all_told).encode())
        return max(1, round(all_told / self.share))


_DONE = "done.json"


def _work(job: _Job) -> None:
    """Trains and leaves a `Done` in the job's folder, which may be there already."""
    job.folder.mkdir(parents=True, exist_ok=True)
    if (job.folder / _DONE).exists():
        return
    try:
        result = job.task.run(job.values, job.seed, job.steps(), job.folder, quiet=job.quiet)
        if not all(math.isfinite(value) for value in result.figures.values()):
            raise LookaheadError("a figure is not a finite number")
        done = Done(job.name, job.seed, job.share, result)
    except LookaheadError as error:
        done = Done(job.name, job.seed, job.share, failed=str(error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):  # torch has no MemoryError
            raise
        done = Done(job.name, job.seed, job.share, failed="there was not enough memory", lost=True)
    write_atomically(job.folder / _DONE, json.dumps(done.as_json()).encode(), sync=False)  # RESULTS is


def _loud(room: Room, quiet: bool) -> bool:
    """Whether a training is quiet: several at once would write over each other's bars."""
    return quiet or room.workers > 1


def _place(folder: Path, plans: Mapping[str, object], name: str) -> Path:
    return folder / "configs" / f"{list(plans).index(name):03d}"


# -- what is kept ------------------------------------------------------------------------------------------------------


class _Kept:
    """The trainings that have ended, in RESULTS; the whole file is there at any moment."""

    def __init__(self, folder: Path, names: Sequence[str], done: dict[tuple[str, int, int], Done]) -> None:
        self._folder = folder
        self.names = list(names)
        self.done = done

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any], command: str) -> _Kept:
        """Of a folder that is new, or of the same sweep. What was lost is forgotten, so that it is tried again."""
        told = folder / SWEEP
        if told.exists():
            before = read_sweep(folder)
            different = [key for key in identity if before.get(key) != identity[key]]
            if different:
                raise LookaheadError(
                    f"{folder} holds another sweep (different: {', '.join(different)}); give another --out"
                )
        else:
            write_atomically(told, json.dumps({**identity, "command": command}, indent=1).encode())
        done = {(one.config, one.seed, one.share): one for one in read_results(folder) if not one.lost}
        return cls(folder, list(identity["configs"]), done)

    def add(self, done: Done) -> None:
        self.done[done.config, done.seed, done.share] = done
        lines = (json.dumps(one.as_json()) + "\n" for one in self.all())
        write_atomically(self._folder / RESULTS, "".join(lines).encode())

    def all(self) -> list[Done]:
        places = {name: place for place, name in enumerate(self.names)}
        return sorted(self.done.values(), key=lambda one: (places[one.config], -one.share, one.seed))


def read_sweep(folder: Path) -> dict[str, Any]:
    """What was asked of the sweep in that folder, and the command."""
    try:
        told = json.loads((folder / SWEEP).read_bytes())
    except FileNotFoundError as error:
        raise LookaheadError(f"{folder} holds no sweep") from error
    except ValueError as error:
        raise LookaheadError(f"{folder / SWEEP} is damaged; remove the folder and sweep again") from error
    return dict(told)


def read_results(folder: Path) -> list[Done]:
    """The trainings that have ended, in the order of the configurations."""
    path = folder / RESULTS
    if not path.exists():
        return []
    try:
        return [Done.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        raise LookaheadError(f"{path} is damaged; remove it and sweep again") from error


def read_references(folder: Path) -> dict[str, dict[str, float]]:
    """What a model must beat, where the task knew."""
    path = folder / REFERENCES
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def _untold(kept: _Kept, column: Column, seeds: int) -> list[tuple[str, int, int]]:
    """The trainings that configurations on a front lack: with them a front may change, so this is asked again."""
    fronts = fronts_of(kept.all(), column)
    on = [name for name in kept.names if any(name in front for front in fronts.values())]
    return [(name, seed, 1) for name in on for seed in range(seeds) if (name, seed, 1) not in kept.done]


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LookaheadError(f"{folder} is being swept by another process; wait until it is done") from error
        yield
