"""Trains a reranker on the lists of candidates that a model makes of training articles, listwise.

It knows what is read of a list, the loss over it, and what it is watched on; lists are made in `rerank_lists`, the loop
is in `training`, the network in `reranker`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from retrieval.candidates import Choice
from retrieval.export_reranker import export_reranker
from retrieval.losses import DUPLICATE
from retrieval.models import LOG, WEIGHTS, Model
from retrieval.pipeline import Pipeline
from retrieval.rerank_features import NAMES, Told, told_of
from retrieval.rerank_lists import Half, Lists, forget_lists, kept_lists, lists_in
from retrieval.reranker import Reranker, build_reranker
from retrieval.rerankers import RerankerConfig, seal, write_reranker_card
from retrieval.search import Searcher
from retrieval.sequences import CONTEXT, Bools, Floats, Ints, Sequences, Windows, needed
from retrieval.train_predictor import BANK, WATCHED, peak_bytes, some_articles
from retrieval.training import Outcome, Schedule, forget, train
from retrieval.weights import write_weights
from store.generations import MANIFEST, seal_of
from store.records import LookaheadError, Split

_AT_ONCE = 256
_NEVER = -1e9  # a logit that no softmax sees
_WORSE = 0.01  # of MRR, below which a reranker is no use; less comes and goes

_BY_PASSAGE = NAMES.index("prediction · passage")


@dataclass(frozen=True, slots=True)
class RerankRecipe:
    """`blend` is the weight of the decayed mean in the score that chooses candidates, `seen` the share of lists that
    hold the query's own context, `short` the share of windows with a context of random length; `bank` the chunks that
    candidates are looked for among, as in an evaluation of held-out articles. `epochs` counts passes over the lists."""

    kind: str = "list"
    epochs: float = 2.0
    batch: int = 128
    depth: int = 100
    blend: float = 0.7
    seen: float = 0.25
    short: float = 0.1
    bank: int = BANK
    rate: float = 2e-3
    decay: float = 0.05
    ema: float = 0.99
    patience: int = 0
    checks: int = 8
    seed: int = 0


class RerankTask:
    """A reranker, the lists it learns from and the validation lists it is watched on."""

    def __init__(
        self,
        model: Reranker,
        pipeline: Pipeline,
        sequences: Sequences,
        lists: Lists,
        passages: Half,
        watched: WatchedLists,
        recipe: RerankRecipe,
        device: torch.device,
    ) -> None:
        self.model = model
        self._pipeline = pipeline
        self._sequences = sequences
        self._lists = lists
        self._passages = passages
        self._watched = watched
        self._recipe = recipe
        self._device = device
        self._order: tuple[int, Ints] = (-1, np.zeros(0, np.int64))
        self.per_epoch = max(1, len(lists) // recipe.batch)

    def loss(self, step: int) -> Tensor:
        """Cross-entropy of the true next chunk among the candidates; those that say the same are left out."""
        told, ids, target = self.read(step)
        scores = self.model.scores(told).float()
        twins, place, there = _truth(self._sequences, ids, target)
        scores = scores.masked_fill(~told.present | twins.to(self._device), _NEVER)
        # a sum, divided: the mean over no list, where a small batch holds the truth nowhere, is no number
        total = functional.cross_entropy(scores[there], place[there].to(self._device), reduction="sum")
        return total / max(1, int(there.sum()))

    def read(self, step: int) -> tuple[Told, Ints, Ints]:
        """What is told of the lists of a step, the candidates' ids (B, N) and the targets (B,): a pure function of the
        seed and the step."""
        recipe = self._recipe
        epoch, number = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([recipe.seed, epoch]).permutation(len(self._lists))
        lists = self._lists[self._order[1][number * recipe.batch : (number + 1) * recipe.batch]]
        chance = np.random.default_rng([recipe.seed, epoch, number])
        seen = chance.random(len(lists)) < recipe.seen
        shorter = chance.random(len(lists)) < recipe.short
        length = np.where(shorter, chance.integers(1, lists.length + 1), lists.length)
        # what stands before a shortened context is no part of it, and may be found
        ids, present = replace(lists, length=length).choose(recipe.depth, seen)
        asked = Windows(lists.target, length, np.zeros_like(length))
        told = _told(self._pipeline, self._sequences, asked, ids, present, self._rows(ids), self._device)
        return told, ids, lists.target

    def _rows(self, ids: Ints) -> Floats:
        told: Floats = self._passages[np.maximum(ids, 0)].astype(np.float32)
        return told

    def validate(self, step: int) -> dict[str, float]:
        return self._watched.figures(self.model)

    def trouble(self, figures: dict[str, float], progress: float) -> str | None:
        """A reranker that is worse than no reranker, after a fifth of the way."""
        if progress < 0.2 or figures["MRR"] >= self._watched.first["MRR"] - _WORSE:
            return None
        return (
            f"the reranker orders worse than the prediction does (MRR {figures['MRR']:.3f} against "
            f"{self._watched.first['MRR']:.3f}); try a lower --rate"
        )


class WatchedLists:
    """The lists of about `windows` validation windows among at most `bank` chunks, own context left out and left in:
    MRR and R@k of the reranked order, 0 where the target is in no list."""

    def __init__(
        self,
        pipeline: Pipeline,
        sequences: Sequences,
        recipe: RerankRecipe,
        device: torch.device,
        *,
        windows: int = WATCHED,
    ) -> None:
        order = np.random.default_rng(0).permutation(len(sequences.articles))
        bank = sequences.only(np.sort(order[np.cumsum(sequences.count[order]) <= max(recipe.bank, windows)]).tolist())
        kept, held = np.zeros(len(bank.articles), dtype=bool), 0
        for place in np.random.default_rng(0).permutation(len(bank.articles)).tolist():
            many = max(0, int(bank.count[place]) - CONTEXT)
            kept[place] = many > 0 and held < windows
            held += many if kept[place] else 0
        asked = bank.windows()
        asked = asked[np.flatnonzero(kept[asked.article])]
        self.windows = len(asked)
        lists, passages = lists_in(pipeline, bank, asked, recipe.depth)
        self._views: dict[str, tuple[Told, Tensor]] = {}
        for view, seen in (("", False), ("seen ", True)):
            ids, present = lists.choose(recipe.depth, np.full(len(lists), seen))
            rows = np.searchsorted(bank.ids(), np.maximum(ids, bank.ids()[0]))
            blocks = [slice(at, at + _AT_ONCE) for at in range(0, len(ids), _AT_ONCE)]
            told = [
                _told(pipeline, bank, asked[some], ids[some], present[some], passages[rows[some]], device)
                for some in blocks
            ]
            place = np.where(ids == asked.target[:, None], np.arange(ids.shape[1]), ids.shape[1]).min(axis=1)
            near = torch.cat([one.among.half() for one in told])  # most of it all; only near-ties feel the digits
            whole = Told(torch.cat([one.features for one in told]), near, torch.cat([one.present for one in told]))
            self._views[view] = whole, torch.from_numpy(place).to(device)
        self.first = self._judge(lambda told: told.features[..., _BY_PASSAGE])

    def figures(self, model: Reranker) -> dict[str, float]:
        """Of the reranker in its present state."""
        with torch.no_grad():
            return self._judge(model.scores)

    def _judge(self, score: Callable[[Told], Tensor]) -> dict[str, float]:
        found: dict[str, float] = {}
        for view, (told, place) in self._views.items():
            blocks = [slice(at, at + _AT_ONCE) for at in range(0, len(place), _AT_ONCE)]
            ranks = _ranks(torch.cat([score(told[some]) for some in blocks]), told.present, place)
            found[f"{view}MRR"] = float(torch.where(ranks <= 50, 1.0 / ranks, 0.0).mean())
            found |= {f"{view}R@{k}": float((ranks <= k).float().mean()) for k in (1, 5, 20)}
        return found


def _ranks(scores: Tensor, present: Tensor, place: Tensor) -> Tensor:
    """Ranks (B,) of the candidates at `place`; infinite where that is past the list. Ties count as ahead."""
    lowered = scores.masked_fill(~present, -torch.inf)
    there = place < scores.shape[1]
    own = lowered.gather(1, place.clamp(max=scores.shape[1] - 1)[:, None])
    ranks = (~(lowered < own)).sum(dim=1).float()
    return torch.where(there, ranks, torch.inf)


def _truth(sequences: Sequences, ids: Ints, target: Ints) -> tuple[Tensor, Tensor, Tensor]:
    """For lists of ids (B, N): candidates that say the same as the target without being it (B, N), the place of the
    target (B,), and whether it is in the list (B,)."""
    hit = ids == target[:, None]
    rows = sequences.unit(np.maximum(ids, 0).ravel()).reshape(*ids.shape, -1)
    same = np.einsum("bnd,bd->bn", rows, sequences.unit(target)) >= DUPLICATE
    return torch.from_numpy(same & ~hit), torch.from_numpy(hit.argmax(axis=1)), torch.from_numpy(hit.any(axis=1))


def _told(
    pipeline: Pipeline,
    sequences: Sequences,
    windows: Windows,
    ids: Ints,
    present: Bools,
    passages: Floats,
    device: torch.device,
) -> Told:
    """What a reranker is told of lists of ids (B, N) with their passages (B, N, D)."""
    context, mask = sequences.contexts(windows)
    prediction = pipeline.predict(context, mask)
    candidates = sequences.unit(np.maximum(ids, 0).ravel()).reshape(*ids.shape, -1)
    arrays = (context, mask, prediction, candidates, passages, present)
    with torch.no_grad():
        return told_of(*(torch.from_numpy(one).to(device) for one in arrays))


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training and what it took. `first` are the figures of prediction · passage on the same lists."""

    config: RerankerConfig
    outcome: Outcome
    first: dict[str, float]
    seconds: float
    peak_bytes: int


def train_reranker(
    searcher: Searcher,
    folder: Path,
    model: Model,
    pipeline: Pipeline,
    *,
    recipe: RerankRecipe,
    limit: int | None = None,
    device: str = "cpu",
    command: str = "",
    quiet: bool = False,
    note: Callable[[str], object] = lambda _: None,
) -> Trained:
    """Makes the lists, trains, exports to OpenVINO and writes all of a reranker into `folder`, config.json last.

    `pipeline` is the model's, which chooses candidates as the recipe says; `limit` is how many training windows make
    lists, as whole articles drawn with the seed.
    """
    began = time.perf_counter()
    pipeline = pipeline.choosing(Choice(recipe.depth, recipe.blend))
    where = torch.device(device)
    collection = searcher.generation.path.parent.name
    articles = some_articles(searcher.store.articles(Split.TRAIN), limit, recipe.seed)
    sequences = Sequences(articles, searcher.vectors)
    needed(sequences, Split.TRAIN, collection)
    valid = Sequences(searcher.store.articles(Split.VALID), searcher.vectors)
    needed(valid, Split.VALID, collection)
    generation = searcher.generation
    facts = {
        "recipe": asdict(recipe),
        "data": {"collection": collection, "train_articles": len(articles), "train_windows": len(sequences.windows())},
        "over": [model.name, model.config.seals.get(WEIGHTS, "")],
        "generation": seal_of(generation.path / MANIFEST).sha256,
    }
    lists, passages = kept_lists(
        folder,
        facts,
        pipeline,
        sequences,
        len(searcher.vectors),
        depth=recipe.depth,
        bank=recipe.bank,
        seed=recipe.seed,
        quiet=quiet,
    )
    found = lists.holding(recipe.depth)
    if not found.any():
        raise LookaheadError(f"{collection}: no list of candidates holds the true next chunk; train the model longer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build_reranker(recipe.kind).to(where)
    watched = WatchedLists(pipeline, valid, recipe, where)
    task = RerankTask(network, pipeline, sequences, lists[found], passages, watched, recipe, where)
    network.fit(task.read(0)[0])
    steps = max(1, round(recipe.epochs * task.per_epoch))
    schedule = Schedule(
        steps=steps,
        every=max(1, steps // recipe.checks),
        rate=recipe.rate,
        decay=recipe.decay,
        ema=recipe.ema,
        patience=recipe.patience,
        seed=recipe.seed,
        per_epoch=task.per_epoch,
    )
    parameters = sum(value.numel() for value in network.parameters())
    note(
        f"{recipe.kind} reranker over {model.name}: {parameters:,} parameters, {len(lists):,} lists of "
        f"{len(articles):,} articles, {100 * found.mean():.1f} % hold the next chunk, watched on "
        f"{watched.windows:,} windows, {steps:,} steps"
    )
    outcome = train(task, schedule, folder, log=folder / LOG, identity=facts, quiet=quiet)
    write_weights(folder / WEIGHTS, network.cpu(), half=False)
    export_reranker(network, folder, sequences.dim, recipe.depth)
    seconds = time.perf_counter() - began
    config = RerankerConfig(
        over=model.name,
        over_seal=model.config.seals.get(WEIGHTS, ""),
        dim=sequences.dim,
        depth=recipe.depth,
        blend=recipe.blend,
        options={"kind": recipe.kind},
        parameters=parameters,
        trained={
            **facts,
            "command": command,
            "lists": len(lists),
            "in_list": float(found.mean()),
            "valid_windows": watched.windows,
            "valid": outcome.best,
            "first": watched.first,
            "best_step": outcome.best_step,
            "steps": outcome.steps,
            "ended": outcome.ended,
            "seconds": round(seconds, 1),
        },
    )
    config = replace(config, seals=seal(folder))
    write_reranker_card(folder, config)
    config.write(folder)
    forget(folder)
    forget_lists(folder)
    return Trained(config, outcome, watched.first, seconds, peak_bytes())
