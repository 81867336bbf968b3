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
from retrieval.batches import Batches, Steps
from retrieval.cards import write_card
from retrieval.export import export
from retrieval.losses import Cosine, InfoNCE, Judged, Loss, MeanSquared, Mixture
from retrieval.models import CURVES, LOG, WEIGHTS, ModelConfig, check_seals, seal
from retrieval.plots import plot_training
from retrieval.predictors import build
from retrieval.predictors.base import Predictor
from retrieval.recipes import Recipe, TowersRecipe
from retrieval.search import Searcher
from retrieval.sequences import CONTEXT, Sequences, needed
from retrieval.towers import kept_of
from retrieval.training import Outcome, Schedule, forget, train
from retrieval.weights import load_weights, write_weights
from store.database import ArticleRow
from store.generations import MANIFEST, seal_of
from store.records import LookaheadError, Split

WATCHED = 4000  # validation windows; enough for ± .01 in R@5
BANK = 40_000  # chunks they are looked for among, at most: a small bank flatters, and prefers other models
SAME_COSINE = 0.005  # to the mean vector's, with predictions that hardly differ: collapsed
# a spread is 1 − length of the mean; predictions are held against the targets' (MiniLM: about .5, others: .1)
HARDLY, LEAST_SPREAD = 0.4, 0.04
_AT_ONCE, _PASSAGES = 128, 8192


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
        self._steps = Steps(batches)
        self._watched = watched
        self._loss = loss_of(recipe)
        self._device = device
        self.per_epoch = self._steps.per_epoch

    def loss(self, step: int) -> Tensor:
        batch, _, _ = self._steps.at(step)
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
        self.copy_last = self._judge(self._context[:, -1], self._bank)
        truths = self._bank[self._target]
        mean = torch.nn.functional.normalize(truths.mean(dim=0), dim=0)
        self.mean_cosine = float((truths @ mean).mean())
        self.spread = float(1 - truths.mean(dim=0).norm())

    def figures(self, model: Predictor, passages: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Of the model in its present state. With a P tower the target is looked for among `passages` of the chunks;
        "cosine" is that to the chunk as the encoder made it all the same."""
        with torch.no_grad():
            blocks = range(0, self.windows, _AT_ONCE)
            pairs = ((self._context[at : at + _AT_ONCE], self._mask[at : at + _AT_ONCE]) for at in blocks)
            predicted = torch.cat([model(context, mask) for context, mask in pairs])
            if passages is None:
                return self._judge(predicted, self._bank)
            bank = torch.cat([passages(rows) for rows in torch.split(self._bank, _PASSAGES)])
            truths = bank[self._target]
            return {
                **self._judge(predicted, bank),
                "kept": float((bank * self._bank).sum(dim=1).mean()),  # what is left of the encoder's space
                "passage_cosine": float((predicted * truths).sum(dim=1).mean()),
                "passage_spread": float(1 - truths.mean(dim=0).norm()),
            }

    def _judge(self, predicted: Tensor, bank: Tensor) -> dict[str, float]:
        blocks = range(0, self.windows, _AT_ONCE)
        ranks = torch.cat([self._ranks(predicted[at : at + _AT_ONCE], bank, at) for at in blocks])
        return {
            "MRR": float(torch.where(ranks <= 50, 1.0 / ranks, 0.0).mean()),
            **{f"R@{k}": float((ranks <= k).float().mean()) for k in (1, 5, 20)},
            "cosine": float((predicted * self._bank[self._target]).sum(dim=1).mean()),
            "spread": float(1 - predicted.mean(dim=0).norm()),
        }

    def _ranks(self, predicted: Tensor, bank: Tensor, at: int) -> Tensor:
        """Ties count as ahead, or a constant prediction would look perfect; so does all where a score is no number."""
        scores = predicted @ bank.T
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
        towers = "passage_spread" in figures
        cosine = figures["passage_cosine" if towers else "cosine"]
        spread = figures["passage_spread"] if towers else self.spread
        mean_cosine = 1 - spread if towers else self.mean_cosine  # the same: a mean's length is its mean cosine
        near = abs(cosine - mean_cosine) <= SAME_COSINE and figures["spread"] < HARDLY * spread
        least = LEAST_SPREAD * self.spread  # two towers can collapse into one point
        if not near and figures["spread"] >= LEAST_SPREAD * spread and spread >= least:
            return None
        remedy = (
            "lower --rate" if towers else "start at the context (--anchored), lower --rate, or train with --contrast"
        )
        return (
            f"the predictions have collapsed: their cosine to the truth is {cosine:.3f}, the mean vector's "
            f"is {mean_cosine:.3f}, and they differ from each other by {figures['spread']:.3f} only; {remedy}"
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
    given = material(searcher, recipe, limit, where)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build(kind, given.sequences.dim, anchored=anchored, options=options)
    if start is not None:
        _begin_with(start, model, kind, searcher.fingerprint)
    model.to(where)
    task = PredictorTask(model, given.batches, given.watched, recipe, where)
    schedule = schedule_of(recipe, task.per_epoch)
    config = ModelConfig(
        kind=kind,
        dim=given.sequences.dim,
        context=CONTEXT,
        anchored=anchored,
        options=options or {},
        encoder=searcher.fingerprint,
        chunking=searcher.generation.manifest.facts["chunking"],
        parameters=sum(value.numel() for value in model.parameters() if value.requires_grad),
        trained={"data": given.data, "recipe": asdict(recipe), "command": command},
    )
    note(
        f"{kind}{' anchored' if anchored else ''}: {config.parameters:,} parameters, {given.said}, "
        f"{schedule.steps:,} steps"
    )
    identity = {**identity_of(config, searcher), "start": str(start)}
    outcome = train(task, schedule, folder, log=folder / LOG, identity=identity, quiet=quiet)
    given.refuse_collapse(outcome)
    model.to("cpu").eval()
    write_weights(folder / WEIGHTS, model, half=half)
    if half:  # what is stored is what is judged and exported
        load_weights(folder / WEIGHTS, model)
    export(model, folder, config.dim)
    return finished(folder, name, config, outcome, given, began)


@dataclass(frozen=True, slots=True)
class Material:
    """What a training is given: the training articles, their batches, and the validation windows to be watched on."""

    collection: str
    sequences: Sequences
    batches: Batches
    watched: Watched

    @property
    def data(self) -> dict[str, Any]:
        """As a model's config tells it."""
        return {
            "collection": self.collection,
            "train_articles": len(self.sequences.articles),
            "train_windows": self.batches.total,
            "valid_windows": self.watched.windows,
        }

    @property
    def said(self) -> str:
        return (
            f"{self.batches.total:,} windows of {len(self.sequences.articles):,} articles, "
            f"watched on {self.watched.windows:,} windows"
        )

    def refuse_collapse(self, outcome: Outcome) -> None:
        collapsed = self.watched.collapse(outcome.best)
        if collapsed:
            raise LookaheadError(collapsed)


def material(searcher: Searcher, recipe: Recipe | TowersRecipe, limit: int | None, device: torch.device) -> Material:
    """Of a collection; one without windows to train on or to be watched on is refused."""
    collection = searcher.generation.path.parent.name
    sequences = Sequences(some_articles(searcher.store.articles(Split.TRAIN), limit, recipe.seed), searcher.vectors)
    needed(sequences, Split.TRAIN, collection)
    valid = Sequences(searcher.store.articles(Split.VALID), searcher.vectors)
    needed(valid, Split.VALID, collection)
    batches = Batches(sequences, windows=recipe.windows, run=recipe.run, short=recipe.short, seed=recipe.seed)
    return Material(collection, sequences, batches, Watched(valid, device))


def schedule_of(recipe: Recipe | TowersRecipe, per_epoch: int) -> Schedule:
    steps = max(1, round(recipe.epochs * per_epoch))
    return Schedule(
        steps=steps,
        every=max(1, steps // recipe.checks),
        rate=recipe.rate,
        decay=recipe.decay,
        ema=recipe.ema,
        patience=recipe.patience,
        seed=recipe.seed,
        precision=recipe.precision,
        score=recipe.watch,
        per_epoch=per_epoch,
    )


def identity_of(config: ModelConfig, searcher: Searcher) -> dict[str, Any]:
    """What a checkpoint must be of to be taken up."""
    identity = {key: value for key, value in config.as_json().items() if key in _IDENTITY}
    identity |= {key: config.trained[key] for key in ("data", "recipe")}
    return {**identity, "generation": seal_of(searcher.generation.path / MANIFEST).sha256}


def finished(folder: Path, name: str, config: ModelConfig, outcome: Outcome, given: Material, began: float) -> Trained:
    """Writes what is left of a model when its weights and graphs are there, config.json last."""
    watched = given.watched
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
    plot_training(outcome.history, watched.copy_last, folder / CURVES, f"{name} on {given.collection}")
    write_card(folder, name, config)
    config.write(folder)
    forget(folder)
    return Trained(config, outcome, watched.copy_last, seconds, peak_bytes())


def _begin_with(start: Path, model: Predictor, kind: str, encoder: Fingerprint) -> None:
    """Loads the weights of a model folder, of two towers those of the Q tower; those of another kind or for another
    encoder are refused with both named."""
    config = ModelConfig.read(start)
    if config.kind != kind:
        raise LookaheadError(f"{start} holds a predictor {config.kind}, not {kind}; take another --from")
    if config.encoder != encoder:
        raise LookaheadError(f"{start} is for {config.encoder}, the collection's vectors are from {encoder}")
    check_seals(start, config, (WEIGHTS,))
    load_weights(start / WEIGHTS, kept_of(model, config.tower))


_IDENTITY = ("kind", "dim", "context", "anchored", "options", "tower", "encoder", "chunking", "parameters")


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
