"""How long a predictor takes and what it needs, in torch and in OpenVINO, each in a process of its own.

It does not know whether a prediction is any good (`evaluate_next` does); questions are random unit vectors.

The child, `python -m retrieval.benchmarks.predictors JOB`, is given a job as JSON and answers in JSON: a process for
each model and runtime, so that its memory grows by one model, and the threads of no other runtime stand in its way.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from index.dense import normalised
from retrieval.benchmarks.measured import median, percentile
from retrieval.candidates import Choice
from retrieval.models import GRAPH, GRAPH_WEIGHTS, TOWER, TOWER_WEIGHTS, WEIGHTS, ModelConfig, check_seals
from retrieval.predictors import build
from retrieval.rerankers import RERANKER, RERANKER_WEIGHTS, RerankerConfig
from retrieval.sequences import CONTEXT, Bools, Floats
from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.pipeline import Pipeline
    from retrieval.runtime import CompiledPredictor

TORCH, OPENVINO = "torch", "openvino"
RUNTIMES = (TORCH, OPENVINO)
BATCHES = (1, 8, 32, 128)
PRECISIONS = ("f32", "bf16", "auto")  # of OpenVINO; auto leaves the choice to it

SINGLES, WARM_UP = 200, 20
_REPEATS, _FEWEST, _SECONDS = 20, 5, 3.0  # of a batch: so often, but no longer once it was done a few times
_ROOT = Path(__file__).resolve().parents[2]

# (n, 5, D) and (n, 5) in numpy → predictions (n, D), or a reranker's scores (n, depth), in numpy
Answers = Callable[[Floats, Bools], Floats]


@dataclass(frozen=True, slots=True)
class Job:
    """What a child process measures: a model's folder in one runtime. `precision` is one of PRECISIONS, or None for
    what `predict-next` uses; torch computes in f32 whatever it is. `reranker` is the folder of one, which runs in
    OpenVINO only: then an answer is a list of candidates in order."""

    folder: str
    runtime: str
    precision: str | None = None
    reranker: str | None = None
    singles: int = SINGLES
    warm_up: int = WARM_UP
    batches: tuple[int, ...] = BATCHES


@dataclass(frozen=True, slots=True)
class Speed:
    """Times are in ms, of numpy in to numpy out, with all chunks of the context there.

    `mean`, `p50`, `p95` and `p99` of single queries; `batches`: size of a batch → median time of it for each sample.
    `load` from opening the folder to the first answer, when the runtime's library is already loaded; `memory` in MB is
    how much the resident size grows by that and one batch of the largest size, `base` what it was before. `disk` in
    MB: the weights for torch, the graphs for OpenVINO. `precision` and `threads` are what the runtime says it uses for
    the predictor.

    A P tower is loaded, as `predict-next` does, and takes no time: candidates went through it beforehand. With a
    reranker the first score of its candidates and their order are part of the time; finding them in an index is not.
    """

    runtime: str
    precision: str
    threads: int
    mean: float
    p50: float
    p95: float
    p99: float
    batches: dict[int, float]
    load: float
    memory: float
    base: float
    disk: float

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Speed:
        return cls(**{**raw, "batches": {int(size): each for size, each in raw["batches"].items()}})


@dataclass(frozen=True, slots=True)
class Machine:
    """What a time depends on. `busy` is the load average of the last minute as measuring began."""

    cpu: str
    cores: int
    python: str
    torch: str
    openvino: str
    busy: float

    @classmethod
    def here(cls) -> Machine:
        return cls(
            _cpu(), os.cpu_count() or 1, platform.python_version(), version("torch"), version("openvino"),
            os.getloadavg()[0],
        )  # fmt: skip

    def __str__(self) -> str:
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return (
            f"{self.cpu}, {cores}, load average {self.busy:.1f}; Python {self.python}, torch {self.torch}, "
            f"OpenVINO {self.openvino.split('-')[0]}"
        )


def speed_of(job: Job) -> Speed:
    """Measures in a fresh process; a folder that cannot be loaded is refused in the words it was refused there."""
    folder = str(Path(job.folder).absolute())
    reranker = None if job.reranker is None else str(Path(job.reranker).absolute())
    told = json.dumps(asdict(replace(job, folder=folder, reranker=reranker)))
    command = [sys.executable, "-m", "retrieval.benchmarks.predictors", told]
    child = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    what = f"measuring {Path(folder).name}{'' if reranker is None else ' with its reranker'} in {job.runtime}"
    if child.returncode:
        last = next(iter(child.stderr.strip().splitlines()[::-1]), "is memory short?")
        raise LookaheadError(f"{what} ended with exit code {child.returncode}: {last}")
    try:
        raw = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise LookaheadError(f"{what} gave no figures but {child.stdout[-60:]!r}") from error
    if "error" in raw:
        raise LookaheadError(raw["error"])
    return Speed.from_json(raw["speed"])


def files_of(config: ModelConfig, runtime: str) -> tuple[str, ...]:
    """Those of a model's files that a runtime reads."""
    if runtime == TORCH:
        return (WEIGHTS,)
    return (GRAPH, GRAPH_WEIGHTS, TOWER, TOWER_WEIGHTS) if config.tower else (GRAPH, GRAPH_WEIGHTS)


def refuse_emulated(precision: str | None) -> None:
    """Raises for a precision that this processor would imitate, a hundred times slower than it computes f32."""
    from index.fast import precisions

    able = [*precisions(), "auto"]
    if precision is not None and precision not in able:
        raise LookaheadError(f"this processor does not compute in {precision}; take one of: {', '.join(able)}")


# -- in the child ----------------------------------------------------------------------------------------------------


def main(argument: str) -> str:
    """The answer to a job, both in JSON."""
    try:
        raw = json.loads(argument)
        speed = measure(Job(**{**raw, "batches": tuple(raw["batches"])}))
    except LookaheadError as error:
        return json.dumps({"error": str(error)})
    return json.dumps({"speed": asdict(speed)})


def measure(job: Job) -> Speed:
    """The figures of a model in this process."""
    folder = Path(job.folder)
    config = ModelConfig.read(folder)
    dim = config.dim
    singles = questions(job.warm_up + job.singles, dim)
    largest = questions(max(job.batches), dim, seed=1)
    _start(job.runtime)
    base = _resident()
    started = time.perf_counter()
    answer, precision, threads = _open(job)
    answer(singles[0][:1], singles[1][:1])
    load = time.perf_counter() - started
    answer(*largest)
    memory = _resident() - base
    times = list(_each(answer, *singles))[job.warm_up :]
    return Speed(
        runtime=job.runtime,
        precision=precision,
        threads=threads,
        **in_one(times),
        batches={size: 1e3 * _batch(answer, largest[0][:size], largest[1][:size]) / size for size in job.batches},
        load=1e3 * load,
        memory=max(memory, 0) / 1e6,
        base=base / 1e6,
        disk=sum(path.stat().st_size for path in _read_by(job, config)) / 1e6,
    )


def _read_by(job: Job, config: ModelConfig) -> list[Path]:
    paths = [Path(job.folder) / name for name in files_of(config, job.runtime)]
    if job.reranker is not None:
        paths += [Path(job.reranker) / name for name in (RERANKER, RERANKER_WEIGHTS)]
    return paths


def in_one(seconds: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles of times, in ms."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        "mean": 1e3 * sum(seconds) / len(seconds),
        **{name: 1e3 * percentile(seconds, share) for name, share in shares.items()},
    }


def _each(answer: Answers, context: Floats, mask: Bools) -> Iterator[float]:
    """Seconds of each question, asked alone."""
    for place in range(len(context)):
        started = time.perf_counter()
        answer(context[place : place + 1], mask[place : place + 1])
        yield time.perf_counter() - started


def _batch(answer: Answers, context: Floats, mask: Bools) -> float:
    """Median seconds of a batch, after three that do not count."""
    for _ in range(3):
        answer(context, mask)
    spent: list[float] = []
    while len(spent) < _FEWEST or (len(spent) < _REPEATS and sum(spent) < _SECONDS):
        started = time.perf_counter()
        answer(context, mask)
        spent.append(time.perf_counter() - started)
    return median(spent)


def questions(count: int, dim: int, seed: int = 0) -> tuple[Floats, Bools]:
    """Random contexts of five unit vectors."""
    return _directions(count * CONTEXT, dim, seed).reshape(count, CONTEXT, dim), np.ones((count, CONTEXT), dtype=bool)


def _directions(count: int, dim: int, seed: int) -> Floats:
    return normalised(np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32))


def _start(runtime: str) -> None:
    """Loads a runtime's library and lets it do something, so that neither counts for the model."""
    importlib.import_module({TORCH: "retrieval.towers", OPENVINO: "retrieval.pipeline"}[runtime])
    if runtime == TORCH:
        import torch

        with torch.inference_mode():
            torch.ones(256, 256) @ torch.ones(256, 256)
    else:
        from index.fast import precisions

        precisions()  # for which OpenVINO loads its plug-in for the processor


def _open(job: Job) -> tuple[Answers, str, int]:
    """(answers, the precision it computes in, how many threads it may use)."""
    folder = Path(job.folder)
    if job.runtime == TORCH:
        assert job.reranker is None, "rerankers run in OpenVINO only"
        return _open_torch(folder)
    pipeline = _open_pipeline(job)
    predictor = pipeline.predictor
    if pipeline.reranker is None:
        return pipeline.predict, predictor.precision, predictor.threads
    return _reranked(pipeline, predictor.dim), predictor.precision, predictor.threads


def _open_pipeline(job: Job) -> Pipeline:
    from retrieval.pipeline import Pipeline
    from retrieval.runtime import CompiledReranker, CompiledTower

    folder = Path(job.folder)
    predictor = open_compiled(folder, job.precision)
    tower = CompiledTower.open(folder) if ModelConfig.read(folder).tower else None
    if job.reranker is None:
        return Pipeline(predictor, tower, None, Choice())
    place = Path(job.reranker)
    config = RerankerConfig.read(place)
    return Pipeline(predictor, tower, CompiledReranker.open(place), Choice(config.depth, config.blend))


def _reranked(pipeline: Pipeline, dim: int) -> Answers:
    """Predictor, first score, order and reranker, over one list of random candidates for every context."""
    rows, passages = (_directions(pipeline.choice.depth, dim, seed) for seed in (2, 3))
    keys = pipeline.keys(rows, passages)

    def answer(context: Floats, mask: Bools) -> Floats:
        prediction = pipeline.predict(context, mask)
        first = pipeline.queries(context, mask, prediction) @ keys.T
        order = np.argsort(-first, axis=1, kind="stable")
        there = np.ones(order.shape, dtype=np.bool_)
        return pipeline.rerank(context, mask, prediction, rows[order], passages[order], there)

    return answer


def open_compiled(folder: Path, precision: str | None) -> CompiledPredictor:
    """The CompiledPredictor of a folder at one of PRECISIONS, or at what `predict-next` uses for None."""
    from retrieval.runtime import CompiledPredictor

    if precision is None:
        return CompiledPredictor.open(folder)
    return CompiledPredictor.open(folder, precision=None if precision == "auto" else precision)


def _open_torch(folder: Path) -> tuple[Answers, str, int]:
    import torch

    from retrieval.towers import kept_of
    from retrieval.weights import load_weights

    config = ModelConfig.read(folder)
    check_seals(folder, config, files_of(config, TORCH))
    model = build(config.kind, config.dim, anchored=config.anchored, options=config.options)
    load_weights(folder / WEIGHTS, kept_of(model, config.tower))
    model.eval()

    def answer(context: Floats, mask: Bools) -> Floats:
        with torch.inference_mode():
            told: Floats = model(torch.from_numpy(context), torch.from_numpy(mask)).numpy()
        return told

    return answer, "f32", torch.get_num_threads()


def _resident() -> int:
    """Bytes of this process in memory now; where the system does not say, the most there ever were."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _cpu() -> str:
    """The processor's name."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1]) + "\n")
