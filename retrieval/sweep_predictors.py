"""A sweep's task: next-chunk predictors of any shape, judged by the place of the true next chunk in its own article.

It does not know which shapes are compared, nor what a report says of them; the loop is `retrieval.training`, the test
is `evaluate_next`, bank `article`, `new`.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrieval.baselines import CONTEXT_MEAN, COPY_LAST, DECAY, DECAYED_MEAN, Mixture, Predicts, copy_last
from retrieval.evaluate_next import Bank, Judged, View, at_most, judge
from retrieval.predictors import KINDS, build
from retrieval.predictors.base import Anchored, Predictor
from retrieval.recipes import Recipe, recipe_for
from retrieval.search import Searcher, collection_at
from retrieval.sequences import CONTEXT, Bools, Floats, Sequences, needed
from retrieval.sweep import Blocks, Column, Result, Value
from retrieval.sweep_models import Encoder, Gated, Layers, Near, Recurrent
from retrieval.train_predictor import PredictorTask, material, schedule_of
from retrieval.training import Schedule, train
from store.generations import MANIFEST, seal_of
from store.records import LookaheadError, Split

LOSSES = {"contrast": (1.0, 0.0), "cosine": (0.0, 1.0), "both": (1.0, 1.0)}  # weights of InfoNCE and of 1 − cosine
# kind → depth, width and heads as published; 0 where there is nothing to choose
SHAPES = {
    "mlp": (1, 1024, 0),
    "lstm": (2, 512, 0),
    "gru": (4, 512, 0),
    "transformer-encoder": (4, 512, 8),
    "residual": (0, 256, 0),
}
KEYS: dict[str, Value] = {
    "kind": "mlp",
    "depth": 0,  # 0: as published; so for all numbers below but temperature, decay and dropout
    "width": 0,
    "heads": 0,
    "context": CONTEXT,
    "anchored": True,
    "norm": "post",
    "loss": "contrast",
    "temperature": 0.05,
    "rate": 0.0,
    "decay": 3.0,
    "batch": 0,
    "run": 64,
    "warm_up": 0.05,
    "checks": 4,
}
COLUMNS = (
    Column("dev_r1", "R@1 (dev)"),
    Column("dev_r3", "R@3 (dev)"),
    Column("dev_loss", "1 − cosine (dev)", higher=False),  # losses of different kinds cannot be compared; this can
    Column("test_r1", "R@1 (test)"),
    Column("test_r3", "R@3 (test)"),
)
LOG = "log.jsonl"
QUERIES = 4_000  # of dev and of test, as whole articles: ± .015 in R@1

_BOUNDS: dict[str, tuple[float, float]] = {
    "depth": (0, 64),
    "width": (0, 8192),
    "heads": (0, 256),
    "context": (1, CONTEXT),
    "temperature": (1e-3, 10),
    "rate": (0, 1),
    "decay": (0, 100),
    "batch": (0, 65_536),
    "run": (1, 65_536),
    "warm_up": (0, 0.9),
    "checks": (1, 1000),
}
_NORMS = ("post", "pre")
_PROCESS = 900 << 20  # bytes of a process that has torch, OpenVINO's parts and the validation articles
_WARM, _TIMED = 2, 6  # steps


@dataclass(frozen=True, slots=True)
class PredictorsTask:
    """Next-chunk prediction over a collection's windows. `limit` is how many training windows are used, as whole
    articles; `data` and `dim` are the collection's, read once."""

    home: Path
    collection: str
    limit: int | None
    queries: int
    dim: int
    data: dict[str, Any]

    @classmethod
    def of(cls, home: Path, collection: str, *, limit: int | None = None, queries: int = QUERIES) -> PredictorsTask:
        """Of a collection; one without windows in a split is refused."""
        with Searcher.open(collection_at(home, collection)) as searcher:
            for split in Split:
                needed(Sequences(searcher.store.articles(split), searcher.vectors), split, collection)
            data = {
                "collection": collection,
                "generation": seal_of(searcher.generation.path / MANIFEST).sha256[:16],
                "encoder": str(searcher.fingerprint),
                "windows": limit if limit is not None else "all",
                "queries": queries,
            }
            return cls(home, collection, limit, queries, searcher.vectors.dim, data)

    @property
    def name(self) -> str:
        return "predictors"

    @property
    def keys(self) -> Mapping[str, Value]:
        return KEYS

    @property
    def columns(self) -> tuple[Column, ...]:
        return COLUMNS

    @property
    def sampled(self) -> Column:
        return COLUMNS[3]

    def checked(self, values: Mapping[str, Value]) -> dict[str, Value]:
        unknown = sorted(values.keys() - KEYS.keys())
        if unknown:
            raise LookaheadError(f"predictors have no {', '.join(unknown)}; there are: {', '.join(KEYS)}")
        given = {key: _of_its_kind(key, values.get(key, default), default) for key, default in KEYS.items()}
        kind = str(given["kind"])
        for key, allowed in (("kind", KINDS), ("loss", LOSSES), ("norm", _NORMS)):
            if given[key] not in allowed:
                raise LookaheadError(f"{key} = {given[key]!r}: expected one of {', '.join(allowed)}")
        for key, (least, most) in _BOUNDS.items():
            if not least <= float(given[key]) <= most:
                raise LookaheadError(f"{key} = {given[key]}: expected {least:g} to {most:g}")
        for key, own in zip(("depth", "width", "heads"), SHAPES.get(kind, (0, 0, 0)), strict=True):
            if given[key] and not own:
                raise LookaheadError(f"{key} = {given[key]}: there is no {key} to choose for {kind}")
            given[key] = given[key] or own
        if given["norm"] != "post" and kind != "transformer-encoder":
            raise LookaheadError(f"norm = {given['norm']!r}: there is no norm to choose for {kind}")
        if given["heads"] and int(given["width"]) % int(given["heads"]):
            raise LookaheadError(f"width = {given['width']} is not a multiple of heads = {given['heads']}")
        if kind == "transformer-encoder" and int(given["width"]) % 2:
            raise LookaheadError(f"width = {given['width']}: sinusoidal positions need an even width")
        recipe = recipe_for(kind, {})
        given["rate"] = given["rate"] or recipe.rate
        given["batch"] = given["batch"] or recipe.windows
        if int(given["batch"]) < 2:
            raise LookaheadError("batch = 1: there is nothing to tell a window's target from")
        return given

    def parameters(self, values: Mapping[str, Value]) -> int:
        with torch.device("meta"):
            return sum(value.numel() for value in built(self.checked(values), self.dim).parameters())

    def memory(self, values: Mapping[str, Value]) -> int:
        given = self.checked(values)
        batch, width = int(given["batch"]), int(given["width"]) or 1024
        layers = (int(given["depth"]) or 4) * CONTEXT * 24 * width + 4 * CONTEXT * self.dim
        scores = 6 * 1.5 * batch  # of each window with every chunk of the batch, and what the way back needs of it
        return _PROCESS + int(4 * (batch * (layers + scores) + 10 * self.parameters(given)))

    def steps_for(self, values: Mapping[str, Value], seconds: float) -> int:
        """Timed in the very loop that trains: the median of some warm steps, and one validation with its checkpoint
        for each that there will be."""
        given = self.checked(values)
        with (
            Searcher.open(collection_at(self.home, self.collection)) as searcher,
            tempfile.TemporaryDirectory() as kept,
        ):
            timed = _Timed(self._training(searcher, given, seed=0))
            folder, many = Path(kept), _WARM + _TIMED
            schedule = replace(self._schedule(given, 0, many, timed.task.per_epoch), every=many)
            train(timed, schedule, folder, log=folder / LOG, identity={}, quiet=True)
            validating = time.perf_counter() - timed.began[-1]  # with the last step, which is as good as nothing
        step = median(np.diff(timed.began)[_WARM:].tolist())
        return max(1, int((seconds - int(given["checks"]) * validating) / step))

    def run(self, values: Mapping[str, Value], seed: int, steps: int, folder: Path, *, quiet: bool) -> Result:
        given = self.checked(values)
        with Searcher.open(collection_at(self.home, self.collection)) as searcher:
            training = self._training(searcher, given, seed)
            schedule = self._schedule(given, seed, steps, training.per_epoch)
            identity = {"task": self.name, "values": given, "data": self.data}
            outcome = train(training, schedule, folder, log=folder / LOG, identity=identity, quiet=quiet)
            judged = self._judged(searcher, {"model": _predicts(training.model)})
        figures, samples = _figures(*judged, "model")
        parameters = sum(value.numel() for value in training.model.parameters() if value.requires_grad)
        return Result(figures, {}, parameters, outcome.seconds, outcome.steps, outcome.history, {"all": samples})

    def references(self) -> dict[str, dict[str, float]]:
        """What five fixed weights reach: a trained model earns its place above these lines only."""
        rows: dict[str, Predicts] = {
            COPY_LAST: copy_last,
            CONTEXT_MEAN: Mixture((1.0,) * CONTEXT),
            DECAYED_MEAN: Mixture(DECAY),
        }
        with Searcher.open(collection_at(self.home, self.collection)) as searcher:
            judged = self._judged(searcher, rows)
        return {name: _figures(*judged, name)[0] for name in rows}

    def _training(self, searcher: Searcher, given: Mapping[str, Value], seed: int) -> PredictorTask:
        recipe = _recipe(given, seed)
        found = material(searcher, recipe, self.limit, torch.device("cpu"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = built(given, self.dim)
        return PredictorTask(model, found.batches, found.watched, recipe, torch.device("cpu"))

    def _schedule(self, given: Mapping[str, Value], seed: int, steps: int, per_epoch: int) -> Schedule:
        every = max(1, -(-steps // int(given["checks"])))
        usual = schedule_of(_recipe(given, seed), per_epoch)
        return replace(usual, steps=steps, every=every, warm_up=float(given["warm_up"]), patience=0)

    def _judged(self, searcher: Searcher, rows: Mapping[str, Predicts]) -> tuple[_Table, _Table]:
        """(dev, test): every row in the bank article, new."""
        found = []
        for split in (Split.VALID, Split.TEST):
            held = Sequences(searcher.store.articles(split), searcher.vectors)
            some, windows = at_most(held, self.queries)
            outcome = judge(some, windows, rows, banks=(Bank.ARTICLE,))
            judgement = next(one for one in outcome.judgements if one.view is View.NEW)
            found.append(_Table(judgement.article, judgement.rows))
        return found[0], found[1]


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows of one split; `article` numbers each query's article."""

    article: np.ndarray[Any, np.dtype[np.int64]]
    rows: dict[str, Judged]


class _Timed:
    """A training that notes when each step began."""

    def __init__(self, task: PredictorTask) -> None:
        self.task = task
        self.model = task.model
        self.began: list[float] = []

    def loss(self, step: int) -> Tensor:
        self.began.append(time.perf_counter())
        return self.task.loss(step)

    def validate(self, step: int) -> dict[str, float]:
        return self.task.validate(step)

    def trouble(self, figures: dict[str, float], progress: float) -> str | None:
        return None


def built(given: Mapping[str, Value], dim: int) -> Predictor:
    """The model of a checked configuration, with fresh weights (seed torch first)."""
    kind, context = str(given["kind"]), int(given["context"])
    depth, width, heads = (int(given[key]) for key in ("depth", "width", "heads"))
    net: Predictor
    if kind == "mlp":
        net = Layers(dim, depth=depth, width=width, context=context)
    elif kind == "lstm":
        net = Recurrent(dim, depth=depth, width=width)
    elif kind == "gru":
        net = Gated(dim, depth=depth, width=width)
    elif kind == "transformer-encoder":
        net = Encoder(dim, depth=depth, width=width, heads=heads, norm_first=given["norm"] == "pre")
    else:
        net = build(kind, dim, anchored=False, options={"rank": width} if kind == "residual" else None)
    whole = Anchored(net) if given["anchored"] else net
    return Near(whole, context) if context < CONTEXT else whole


def _recipe(given: Mapping[str, Value], seed: int) -> Recipe:
    contrast, cosine = LOSSES[str(given["loss"])]
    return replace(
        Recipe(),
        windows=int(given["batch"]),
        run=int(given["run"]),
        contrast=contrast,
        cosine=cosine,
        temperature=float(given["temperature"]),
        rate=float(given["rate"]),
        decay=float(given["decay"]),
        seed=seed,
        watch="MRR" if contrast else "cosine",
    )


def _predicts(model: torch.nn.Module) -> Predicts:
    def predict(context: Floats, mask: Bools) -> Floats:
        with torch.no_grad():
            told: Floats = model(torch.from_numpy(context), torch.from_numpy(mask)).numpy()
        return told

    return predict


def _figures(dev: _Table, test: _Table, name: str) -> tuple[dict[str, float], Blocks]:
    """The columns of a row, and its R@1 on test, article by article."""
    figures: dict[str, float] = {}
    for part, table in (("dev", dev), ("test", test)):
        ranks, cosine = table.rows[name].ranks, table.rows[name].cosine
        assert cosine is not None
        figures |= {f"{part}_r{k}": float((ranks <= k).mean()) for k in (1, 3)}
        figures[f"{part}_loss"] = 1 - float(cosine.mean())
    _, number = np.unique(test.article, return_inverse=True)
    hits = np.bincount(number, weights=test.rows[name].ranks <= 1)
    return figures, Blocks(hits.tolist(), np.bincount(number).astype(float).tolist())


def _of_its_kind(key: str, value: Value, default: Value) -> Value:
    """The value, a whole number as a fraction where fractions are meant; True is no number."""
    if type(value) is not type(default) and not (type(default) is float and type(value) is int):
        kinds = {int: "a whole number", float: "a number", str: "a word in quotes", bool: "true or false"}
        raise LookaheadError(f"{key} = {value!r}: expected {kinds[type(default)]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise LookaheadError(f"{key} = {value}: expected a finite number")
    return float(value) if type(default) is float else value
