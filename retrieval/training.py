"""The training loop all our models share: AdamW, warm-up, cosine annealing, validation, early stopping, resume.

It does not know what is trained, on what, or what a good figure is: a `Task` brings its model, the loss of a step and
the figures of a validation. A run that was killed goes on from its checkpoint to the very same result.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save
from torch import Tensor, nn

from index.progress import bar
from retrieval.weights import read_tensors
from store.generations import write_atomically
from store.records import LookaheadError

CHECKPOINT = "checkpoint.safetensors"
HEARTBEAT = "heartbeat.json"  # how far a training is, for whoever looks at its folder
STEPS = "steps.jsonl"  # what a task tells of each step
BEAT = 10.0  # seconds between two heartbeats, at least


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast. `every` is the steps between validations; `patience` how many of them may pass without a
    better score (0: all); `ema` averages weights over about 1 / (1 − ema) steps (0: off)."""

    steps: int
    every: int
    rate: float = 1e-3
    lowest: float = 0.01  # of `rate`, at the end
    warm_up: float = 0.05  # of the steps
    decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0
    patience: int = 0
    seed: int = 0
    precision: str = "f32"
    score: str = "MRR"  # the figure that is made large: the best weights are kept, and patience counts by it
    per_epoch: int = 0  # steps; for the heartbeat only (0: not told)

    def rate_at(self, step: int) -> float:
        """The learning rate of step 0 … steps - 1."""
        rising = max(1, round(self.warm_up * self.steps))
        if step < rising:
            return self.rate * (step + 1) / rising
        along = (step - rising) / max(1, self.steps - rising)
        return self.rate * (self.lowest + (1 - self.lowest) * (1 + math.cos(math.pi * along)) / 2)


class Task(Protocol):
    """What is trained."""

    @property
    def model(self) -> nn.Module: ...

    def loss(self, step: int) -> Tensor:
        """The loss of the batch of that step, with gradients."""
        ...

    def validate(self, step: int) -> dict[str, float]:
        """Figures on data not trained on; the schedule's `score` is among them."""
        ...

    def trouble(self, figures: dict[str, float], progress: float) -> str | None:
        """Why it is no use to go on, in a sentence, or None. `progress` is the share of the steps done."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A task that has figures of each step beside its loss; they go to `STEPS`, their means to the log."""

    def told(self) -> dict[str, float]:
        """Of the last step; empty where there is nothing to tell."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A task whose steps depend on more than weights and the number of the step: it is kept in the checkpoint."""

    def memory(self) -> dict[str, Tensor]: ...

    def recall(self, memory: dict[str, Tensor]) -> None: ...


@dataclass(slots=True)
class Outcome:
    """A finished training: the best validation and all of them, and why it ended. The model holds the best weights."""

    best: dict[str, float]
    best_step: int
    history: list[dict[str, float]]
    seconds: float
    steps: int
    ended: str


@dataclass(slots=True)
class _State:
    step: int = 0
    best_step: int = -1
    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)  # since the last validation
    told: list[dict[str, float]] = field(default_factory=list)  # of each step, where the task tells


def train(
    task: Task,
    schedule: Schedule,
    folder: Path,
    *,
    log: Path,
    identity: dict[str, Any],
    quiet: bool = False,
    beat: float = BEAT,
) -> Outcome:
    """Trains `task.model` in place and leaves it at its best weights.

    `folder` holds the checkpoint meanwhile, and a heartbeat every `beat` seconds; `log` gets a JSON line a validation.
    A checkpoint is taken up only when its `identity` (data, recipe, model) is equal; another's is refused.
    """
    model = task.model
    optimizer = torch.optim.AdamW(_groups(model, schedule.decay), lr=schedule.rate)
    state = _State()
    average = {name: value.detach().clone() for name, value in model.state_dict().items()} if schedule.ema else {}
    best = {name: value.detach().clone() for name, value in model.state_dict().items()}
    identity = {**identity, "schedule": asdict(schedule)}
    path = folder / CHECKPOINT
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        state = _resume(path, identity, task, optimizer, average, best)
    started = time.perf_counter() - state.seconds
    beaten = -math.inf
    ended = "all steps done"
    on_gpu = next(model.parameters()).is_cuda
    with bar("training", schedule.steps, "steps", quiet=quiet) as shown, _own_randomness(on_gpu):
        shown.initial = state.step
        shown.update(0)
        shown.n = state.step
        while state.step < schedule.steps:
            # asked before a step, not after a validation: a run killed right after its last one must end there too
            late = sum(line["step"] > state.best_step for line in state.history)
            if schedule.patience and late >= schedule.patience:
                ended = f"no better {schedule.score} in {late} validations"
                break
            model.train()
            # dropout's randomness is of the step, not of the run, so that a resumed run draws the same
            torch.manual_seed(schedule.seed * 1_000_003 + state.step)
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate_at(state.step)
            with _precision(schedule.precision, on_gpu):
                loss = task.loss(state.step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
            optimizer.step()
            _follow(average, model, min(schedule.ema, (state.step + 1) / (state.step + 10)))
            state.losses.append(float(loss.detach()))
            state.step += 1
            shown.update(1)
            if not math.isfinite(state.losses[-1]):
                path.unlink(missing_ok=True)  # going on from it would end here again
                raise LookaheadError(f"the loss is {state.losses[-1]} at step {state.step}; try a lower --rate")
            if isinstance(task, Telling) and (told := task.told()):
                state.told.append({"step": state.step, "loss": state.losses[-1], **told})
            if time.perf_counter() - beaten >= beat:
                beaten = time.perf_counter()
                _beat(folder / HEARTBEAT, schedule, state, beaten - started)
            if state.step % schedule.every and state.step < schedule.steps:
                continue
            with _weights(model, average):
                model.eval()
                figures = task.validate(state.step)
                line = {"step": state.step, "loss": sum(state.losses) / len(state.losses), **figures}
                line |= _means(state)
                line["rate"] = schedule.rate_at(state.step - 1)
                state.losses.clear()
                state.history.append(line)
                if figures[schedule.score] > state.best.get(schedule.score, -math.inf):
                    state.best, state.best_step = figures, state.step
                    best = {name: value.detach().clone() for name, value in model.state_dict().items()}
            shown.set_postfix(_shown(line, schedule.score), refresh=False)
            state.seconds = time.perf_counter() - started
            _write_log(log, state.history)
            if state.told:
                _write_log(log.with_name(STEPS), state.told)
            trouble = task.trouble(figures, state.step / schedule.steps)
            if trouble:
                path.unlink(missing_ok=True)
                raise LookaheadError(f"stopped at step {state.step}: {trouble}")
            _save(path, identity, state, task, optimizer, average, best)
    model.load_state_dict(best)
    model.eval()
    return Outcome(state.best, state.best_step, state.history, state.seconds, state.step, ended)


def forget(folder: Path) -> None:
    """Removes what is of use only while a training goes on."""
    for name in (CHECKPOINT, HEARTBEAT):
        (folder / name).unlink(missing_ok=True)


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, gains and norms do not."""
    matrices = [value for value in model.parameters() if value.ndim >= 2]
    others = [value for value in model.parameters() if value.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _follow(average: dict[str, Tensor], model: nn.Module, keep: float) -> None:
    for name, value in model.state_dict().items() if average else ():
        if value.is_floating_point():
            average[name].lerp_(value.detach(), 1 - keep)
        else:
            average[name].copy_(value)


@contextlib.contextmanager
def _weights(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """The averaged weights for the time of a validation, where there are any."""
    if not average:
        yield
        return
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average)
    try:
        yield
    finally:
        model.load_state_dict(own)


@contextlib.contextmanager
def _own_randomness(on_gpu: bool) -> Iterator[None]:
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
        yield


@contextlib.contextmanager
def _precision(precision: str, on_gpu: bool) -> Iterator[None]:
    if precision == "f32":
        yield
        return
    with torch.autocast("cuda" if on_gpu else "cpu", dtype=torch.bfloat16):
        yield


def _shown(line: dict[str, float], score: str) -> dict[str, str]:
    names = ["loss", *(name for name in ("R@5", score) if name in line)]
    return {name: f"{line[name]:.3f}" for name in names}


def _means(state: _State) -> dict[str, float]:
    """Of what was told of the steps since the last validation."""
    since = state.history[-1]["step"] if state.history else 0
    fresh = [told for told in state.told if told["step"] > since]
    names = dict.fromkeys(name for told in fresh for name in told if name not in ("step", "loss"))
    values = {name: [told[name] for told in fresh if name in told] for name in names}
    return {name: sum(them) / len(them) for name, them in values.items()}


def _beat(path: Path, schedule: Schedule, state: _State, seconds: float) -> None:
    """Whole or not at all, but not worth waiting for the disk."""
    told = {
        "step": state.step,
        "steps": schedule.steps,
        "epoch": round(state.step / schedule.per_epoch, 4) if schedule.per_epoch else None,
        "loss": state.losses[-1] if math.isfinite(state.losses[-1]) else None,
        "rate": schedule.rate_at(state.step - 1),
        "valid": state.history[-1] if state.history else {},
        "told": state.told[-1] if state.told else {},
        "seconds": round(seconds, 1),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_atomically(path, json.dumps(told).encode(), sync=False)


def _write_log(log: Path, history: list[dict[str, float]]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(log, "".join(json.dumps(line) + "\n" for line in history).encode(), sync=False)


# -- checkpoints: one safetensors file, the state's numbers in its header ----------------------------------


def _save(
    path: Path,
    identity: dict[str, Any],
    state: _State,
    task: Task,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    best: dict[str, Tensor],
) -> None:
    tensors = {f"model.{name}": value for name, value in task.model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for number, parts in optimizer.state_dict()["state"].items():
        tensors |= {f"adamw.{number}.{name}": torch.as_tensor(value) for name, value in parts.items()}
    if isinstance(task, Remembering):
        tensors |= {f"memory.{name}": value for name, value in task.memory().items()}
    header = {"identity": json.dumps(identity, sort_keys=True), "state": json.dumps(asdict(state))}
    write_atomically(path, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, header))


def _resume(
    path: Path,
    identity: dict[str, Any],
    task: Task,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    best: dict[str, Tensor],
) -> _State:
    try:
        tensors, header = read_tensors(path)
    except LookaheadError as error:
        raise LookaheadError(f"{path} is damaged; add --restart to begin again") from error
    wanted = json.loads(json.dumps(identity, sort_keys=True))
    found = json.loads(header.get("identity", "{}"))
    if found != wanted:
        other = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        raise LookaheadError(
            f"{path} is of another training (different: {', '.join(other)}); "
            "train under another --name, or add --restart to begin again"
        )
    task.model.load_state_dict(_part(tensors, "model."))
    for own, prefix in ((average, "average."), (best, "best.")):
        for name, value in _part(tensors, prefix).items():
            own[name].copy_(value)
    raw = optimizer.state_dict()
    raw["state"] = {}
    for name, value in _part(tensors, "adamw.").items():
        number, what = name.split(".")
        raw["state"].setdefault(int(number), {})[what] = value
    optimizer.load_state_dict(raw)
    if isinstance(task, Remembering):
        task.recall(_part(tensors, "memory."))
    return _State(**json.loads(header["state"]))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
