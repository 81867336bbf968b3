"""Trains one next-vector predictor on a collection's training articles, watched on its validation articles.

It knows batches, losses and when a predictor has collapsed; the loop itself is in `training`, the test in
`evaluate_next`.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from index.encoder import Fingerprint
from index.fast import precisions
from retrieval.batches import Batches, Run
from retrieval.cards import write_card
from retrieval.export import export
from retrieval.losses import Cosine, InfoNCE, Judged, Loss, MeanSquared, Mixture
from retrieval.models import CURVES, LOG, WEIGHTS, ModelConfig, check_seals, seal
from retrieval.plots import plot_training
from retrieval.predictors import build
from retrieval.predictors.base import Predictor
from retrieval.recipes import Recipe
from retrieval.search import Searcher
from retrieval.sequences import CONTEXT, Sequences, needed
from retrieval.training import Outcome, Schedule, forget, train
from retrieval.weights import load_weights, write_weights
from store.database import ArticleRow
from store.records import LookaheadError, Split

WATCHED = 4000  # validation windows; enough for ± .01 in R@5
BANK = 40_000  # chunks they are looked for among, at most: a small bank flatters, and prefers other models
SAME_COSINE = 0.005  # to the mean vector's, with predictions that hardly differ: collapsed
# a spread is 1 − length of the mean; predictions are held against the targets' (MiniLM: about .5, others: .1)
HARDLY, LEAST_SPREAD = 0.4, 0.04
_AT_ONCE = 128


def loss_of(recipe: Recipe) -> Loss:
    """The weighted sum of losses a recipe asks for."""
    parts: dict[Loss, float] = {}
    if recipe.contrast:
        parts[InfoNCE(recipe.temperature, recipe.smoothing)] = recipe.contrast
    if recipe.cosine:
        parts[Cosine()] = recipe.cosine
    if recipe.mse:
        parts[MeanSquared()] = recipe.mse
    return Mixture(parts)


class PredictorTask:
    """A predictor, its batches, and the validation windows it is watched on."""

    def __init__(
        self, model: Predictor, batches: Batches, watched: Watched, recipe: Recipe, device: torch.device
    ) -> None:
        self.model = model
        self._batches = batches
        self._watched = watched
        self._loss = loss_of(recipe)
        self._device = device
        self._epoch: tuple[int, list[list[Run]]] = (-1, [])
        self.per_epoch = len(batches.epoch(0))

    def loss(self, step: int) -> Tensor:
        epoch, number = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._batches.epoch(epoch)
        plan = self._epoch[1]
        number %= len(plan)  # random first runs may make an epoch a batch shorter or longer than the first one
        batch = self._batches.read(plan[number], epoch, number)
        bank = torch.from_numpy(batch.bank).to(self._device)
        places = torch.from_numpy(batch.context).to(self._device)
        mask = torch.from_numpy(batch.mask).to(self._device)
        target = torch.from_numpy(batch.target).to(self._device)
        predicted = self.model(bank[places], mask)
        own = _own(places, mask, len(bank))
        with torch.autocast(self._device.type, enabled=False):  # near-ties among thousands of scores need all digits
            return self._loss(predicted.float(), Judged(bank, target, own))

    def validate(self, step: int) -> dict[str, float]:
        return self._watched.figures(self.model)

    def trouble(self, figures: dict[str, float], progress: float) -> str | None:
        return self._watched.collapse(figures) if progress >= 0.2 else None


class Watched:
    """About `windows` windows of whole validation articles, looked for among the chunks of that split (of `BANK` at
    most, as whole articles) with their own context masked: MRR, R@k and cosine."""

    def __init__(self, sequences: Sequences, device: torch.device, *, windows: int = WATCHED, seed: int = 0) -> None:
        order = np.random.default_rng(seed).permutation(len(sequences.articles))
        bank = sequences.only(np.sort(order[np.cumsum(sequences.count[order]) <= max(BANK, windows)]).tolist())
        kept, held = [], 0
        for place in np.random.default_rng(seed).permutation(len(bank.articles)).tolist():
            many = max(0, int(bank.count[place]) - CONTEXT)
            if many and held < windows:
                kept.append(place)
                held += many
        asked = bank.only(sorted(kept)).windows()
        ids = bank.ids()
        context, mask = bank.contexts(asked)
        self.windows = len(asked)
        self._bank = torch.from_numpy(bank.unit(ids)).to(device)
        self._context = torch.from_numpy(context).to(device)
        self._mask = torch.from_numpy(mask).to(device)
        target = np.searchsorted(ids, asked.target)
        self._target = torch.from_numpy(target).to(device)
        self._own = torch.from_numpy(target[:, None] + np.arange(-CONTEXT, 0)).to(device)
        self.copy_last = self._judge(self._context[:, -1])
        truths = self._bank[self._target]
        mean = torch.nn.functional.normalize(truths.mean(dim=0), dim=0)
        self.mean_cosine = float((truths @ mean).mean())
        self.spread = float(1 - truths.mean(dim=0).norm())

    def figures(self, model: Predictor) -> dict[str, float]:
        """Of the model in its present state."""
        with torch.no_grad():
            blocks = range(0, self.windows, _AT_ONCE)
            pairs = ((self._context[at : at + _AT_ONCE], self._mask[at : at + _AT_ONCE]) for at in blocks)
            return self._judge(torch.cat([model(context, mask) for context, mask in pairs]))

    def _judge(self, predicted: Tensor) -> dict[str, float]:
        blocks = range(0, self.windows, _AT_ONCE)
        ranks = torch.cat([self._ranks(predicted[at : at + _AT_ONCE], at) for at in blocks])
        return {
            "MRR": float(torch.where(ranks <= 50, 1.0 / ranks, 0.0).mean()),
            **{f"R@{k}": float((ranks <= k).float().mean()) for k in (1, 5, 20)},
            "cosine": float((predicted * self._bank[self._target]).sum(dim=1).mean()),
            "spread": float(1 - predicted.mean(dim=0).norm()),
        }

    def _ranks(self, predicted: Tensor, at: int) -> Tensor:
        """Ties count as ahead, or a constant prediction would look perfect; so does all where a score is no number."""
        scores = predicted @ self._bank.T
        target = self._target[at : at + len(predicted)]
        own = scores.gather(1, target[:, None])
        scores.scatter_(1, self._own[at : at + len(predicted)], -2.0)
        return (~(scores < own)).sum(dim=1)  # the target itself among them

    def collapse(self, figures: dict[str, float]) -> str | None:
        """Says so when predictions hardly depend on the context. The mean vector's cosine alone proves nothing: a
        model trained to rank passes through it on its way; so the predictions must hardly differ as well. A few
        targets that hardly differ themselves prove nothing either."""
        if self.spread < 1e-3:
            return None
        near = abs(figures["cosine"] - self.mean_cosine) <= SAME_COSINE and figures["spread"] < HARDLY * self.spread
        if not near and figures["spread"] >= LEAST_SPREAD * self.spread:
            return None
        return (
            f"the predictions have collapsed: their cosine to the truth is {figures['cosine']:.3f}, the mean vector's "
            f"is {self.mean_cosine:.3f}, and they differ from each other by {figures['spread']:.3f} only; "
            "start at the context (--anchored), lower --rate, or train with --contrast"
        )


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training and what it took."""

    config: ModelConfig
    outcome: Outcome
    copy_last: dict[str, float]
    seconds: float
    peak_bytes: int


def train_predictor(
    searcher: Searcher,
    folder: Path,
    kind: str,
    *,
    name: str,
    recipe: Recipe,
    anchored: bool,
    options: dict[str, Any] | None = None,
    limit: int | None = None,
    start: Path | None = None,
    device: str = "cpu",
    half: bool = False,
    command: str = "",
    quiet: bool = False,
    note: Callable[[str], object] = lambda _: None,
) -> Trained:
    """Trains, exports to OpenVINO and writes all of a model into `folder`, config.json last.

    `limit` is how many training windows are used, as whole articles drawn with the seed; `start` is a model folder
    whose weights are where training begins; `half` stores weights in half precision.
    """
    began = time.perf_counter()
    where = torch.device(device)
    collection = searcher.generation.path.parent.name
    sequences = Sequences(some_articles(searcher.store.articles(Split.TRAIN), limit, recipe.seed), searcher.vectors)
    needed(sequences, Split.TRAIN, collection)
    valid = Sequences(searcher.store.articles(Split.VALID), searcher.vectors)
    needed(valid, Split.VALID, collection)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build(kind, sequences.dim, anchored=anchored, options=options)
    if start is not None:
        _begin_with(start, model, kind, searcher.fingerprint)
    model.to(where)
    watched = Watched(valid, where)
    batches = Batches(sequences, windows=recipe.windows, run=recipe.run, short=recipe.short, seed=recipe.seed)
    task = PredictorTask(model, batches, watched, recipe, where)
    steps = max(1, round(recipe.epochs * task.per_epoch))
    schedule = Schedule(
        steps=steps,
        every=max(1, steps // recipe.checks),
        rate=recipe.rate,
        decay=recipe.decay,
        ema=recipe.ema,
        patience=recipe.patience,
        seed=recipe.seed,
        precision=recipe.precision,
        score=recipe.watch,
    )
    facts = searcher.generation.manifest.facts
    data = {
        "collection": collection,
        "train_articles": len(sequences.articles),
        "train_windows": batches.total,
        "valid_windows": watched.windows,
    }
    config = ModelConfig(
        kind=kind,
        dim=sequences.dim,
        context=CONTEXT,
        anchored=anchored,
        options=options or {},
        encoder=searcher.fingerprint,
        chunking=facts["chunking"],
        parameters=sum(value.numel() for value in model.parameters() if value.requires_grad),
        trained={"data": data, "recipe": asdict(recipe), "command": command},
    )
    note(
        f"{kind}{' anchored' if anchored else ''}: {config.parameters:,} parameters, {batches.total:,} windows of "
        f"{len(sequences.articles):,} articles, {steps:,} steps, watched on {watched.windows:,} windows"
    )
    identity = {key: value for key, value in config.as_json().items() if key in _IDENTITY}
    identity |= {"data": data, "recipe": asdict(recipe), "start": str(start)}
    identity |= {"generation": searcher.generation.manifest.name}
    outcome = train(task, schedule, folder, log=folder / LOG, identity=identity, quiet=quiet)
    collapsed = watched.collapse(outcome.best)
    if collapsed:
        raise LookaheadError(collapsed)
    model.to("cpu").eval()
    write_weights(folder / WEIGHTS, model, half=half)
    if half:  # what is stored is what is judged and exported
        load_weights(folder / WEIGHTS, model)
    export(model, folder, sequences.dim)
    seconds = time.perf_counter() - began
    took = {
        "valid": outcome.best,
        "copy_last": watched.copy_last,
        "best_step": outcome.best_step,
        "steps": outcome.steps,
        "ended": outcome.ended,
        "seconds": round(outcome.seconds, 1),
        "mean_vector_cosine": watched.mean_cosine,
    }
    config = replace(config, trained={**config.trained, **took}, seals=seal(folder))
    plot_training(outcome.history, watched.copy_last, folder / CURVES, f"{name} on {collection}")
    write_card(folder, name, config)
    config.write(folder)
    forget(folder)
    return Trained(config, outcome, watched.copy_last, seconds, peak_bytes())


def _begin_with(start: Path, model: Predictor, kind: str, encoder: Fingerprint) -> None:
    """Loads the weights of a model folder; those of another kind or for another encoder are refused with both named."""
    config = ModelConfig.read(start)
    if config.kind != kind:
        raise LookaheadError(f"{start} holds a predictor {config.kind}, not {kind}; take another --from")
    if config.encoder != encoder:
        raise LookaheadError(f"{start} is for {config.encoder}, the collection's vectors are from {encoder}")
    check_seals(start, config, (WEIGHTS,))
    load_weights(start / WEIGHTS, model)


_IDENTITY = ("kind", "dim", "context", "anchored", "options", "encoder", "chunking", "parameters")


def some_articles(articles: list[ArticleRow], windows: int | None, seed: int) -> list[ArticleRow]:
    """Whole articles, drawn with the seed until they hold so many windows, in the order of their chunks."""
    if windows is None:
        return articles
    kept, held = [], 0
    for place in np.random.default_rng(seed).permutation(len(articles)).tolist():
        if held >= windows:
            break
        kept.append(place)
        held += max(0, articles[place].chunk_count - 1)
    return [articles[place] for place in sorted(kept)]


def device_for(choice: str) -> str:
    """ "cpu" or "cuda"; "auto" takes a GPU where there is one, and asking for one that is not there is refused."""
    there = torch.cuda.is_available()
    if choice == "cuda" and not there:
        raise LookaheadError("there is no GPU here; leave out --device cuda")
    return "cuda" if there and choice != "cpu" else "cpu"


def precision_for(device: str) -> str:
    """ "bf16" where the machine computes it natively: two to ten times as fast here, and no worse on validation."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "f32"
    return "bf16" if "bf16" in precisions() else "f32"


def peak_bytes() -> int:
    """The most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _own(places: Tensor, mask: Tensor, rows: int) -> Tensor:
    """(B, M): true where a row of the bank is in the window's context."""
    own = torch.zeros(len(places), rows + 1, dtype=torch.bool, device=places.device)
    own.scatter_(1, places.masked_fill(~mask, rows), True)
    return own[:, :rows]
