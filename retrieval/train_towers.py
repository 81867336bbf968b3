"""Trains a Q tower over contexts and a P tower over candidates, against each other and hard negatives.

It knows batches, who is compared with whom, and when near misses are mined; which ids are negatives is decided in
`negatives`, the loop is in `training`, and what both trainers share in `train_predictor`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from index.dense import nearest
from retrieval.batches import Batch, Batches, Steps, places_of
from retrieval.export import export, export_tower
from retrieval.models import LOG, WEIGHTS, ModelConfig
from retrieval.negatives import DUPLICATE, NONE, Asked, NearMisses, Participation, SameArticle, Turn, passed
from retrieval.predictors import build
from retrieval.recipes import TowersRecipe
from retrieval.search import Searcher
from retrieval.sequences import CONTEXT, Floats, Ints, Sequences
from retrieval.towers import Towers, build_tower
from retrieval.train_predictor import Trained, Watched, finished, identity_of, material, schedule_of
from retrieval.training import train
from retrieval.weights import load_weights, write_weights

MINED = 100  # nearest chunks of a window that are looked at for near misses
_NEVER = -1e9  # a logit that no softmax sees
_NEARLY = DUPLICATE - 0.01  # what bfloat16 may make of DUPLICATE; exact cosines decide from there
_AT_ONCE = 4096


class TowersTask:
    """Two towers, their batches, and the validation windows they are watched on.

    A step finds each window's next chunk among all chunks of the batch's runs, hard negatives and passages remembered
    (InfoNCE). What a window's own context holds, and what says the same as its target, is no negative of it; that is
    decided by ids, and every candidate goes through the P tower as it is now (remembered ones as it was).
    """

    def __init__(
        self,
        towers: Towers,
        sequences: Sequences,
        batches: Batches,
        watched: Watched,
        recipe: TowersRecipe,
        device: torch.device,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.model = towers
        self._sequences = sequences
        self._steps = Steps(batches)
        self._watched = watched
        self._recipe = recipe
        self._device = device
        self._note = note
        self.per_epoch = self._steps.per_epoch
        steps = schedule_of(recipe, self.per_epoch).steps
        self._turn = Turn(steps, recipe.hard_from, self.per_epoch)
        self._same = SameArticle(sequences, many=recipe.negatives, neighbours=recipe.neighbours, seed=recipe.seed)
        self._mined = NearMisses.none(recipe.near_misses)
        self._ring = Ring.empty(sequences.dim, device)
        self._told: dict[str, float] = {}
        self._weights = Weights(sequences, recipe.length_correction)

    def loss(self, step: int) -> Tensor:
        read, epoch, number = self._steps.at(step)
        batch = read.once()
        asked = Asked(batch.ids[batch.target], batch.mask.sum(axis=1))
        hard = self._hard(step, asked, epoch, number)
        whole = batch.with_chunks(hard, self._sequences.unit)
        fresh = len(whole.ids) - len(batch.ids)
        bank = torch.from_numpy(whole.bank).to(self._device)
        places = torch.from_numpy(whole.context).to(self._device)
        mask = torch.from_numpy(whole.mask).to(self._device)
        target = torch.from_numpy(whole.target).to(self._device)

        predicted = self.model.query(bank[places], mask)
        passages = self.model.passages(bank)
        chunks, others = bank, passages
        kept = self._ring.without(whole.ids)  # what is in the bank is there as it is now
        if len(kept.ids):
            chunks, others = torch.cat([bank, kept.chunks]), torch.cat([passages, kept.passages.to(passages.dtype)])
        temperature = self.model.temperature()
        logits = (predicted / temperature @ others.T).float()
        logits[self._excluded(whole, kept.ids)] = _NEVER
        logits[alike(chunks, target)] = _NEVER
        self._tell(logits, temperature, places_of(hard, whole.ids), fresh, step)
        if self._recipe.memory:
            self._ring = self._ring.pushed(whole.ids, bank, passages.detach().float(), self._recipe.memory)

        weights = self._weights.of(asked.target, self._device)
        loss = _crossed(logits, target, weights)
        if self._recipe.symmetric:  # the chunk finds its window; who may not be whose negative is the same
            back = logits.index_select(1, target).T
            loss = loss + self._recipe.symmetric * _crossed(back, torch.arange(len(target)).to(target), weights)
        return loss

    def validate(self, step: int) -> dict[str, float]:
        passages = None if self.model.passage is None else self.model.passages
        return self._watched.figures(self.model.query, passages)

    def trouble(self, figures: dict[str, float], progress: float) -> str | None:
        return self._watched.collapse(figures) if progress >= 0.2 else None

    def told(self) -> dict[str, float]:
        return self._told

    def memory(self) -> dict[str, Tensor]:
        mined, ring = self._mined, self._ring
        told = {"mined.target": mined.target, "mined.ids": mined.ids, "mined.step": np.array(mined.step)}
        told["ring.ids"] = ring.ids
        arrays = {name: torch.from_numpy(value) for name, value in told.items()}
        return {**arrays, "ring.chunks": ring.chunks, "ring.passages": ring.passages}

    def recall(self, memory: dict[str, Tensor]) -> None:
        step = int(memory["mined.step"])
        self._mined = NearMisses(memory["mined.target"].numpy(), memory["mined.ids"].numpy(), step)
        chunks, passages = (memory[f"ring.{name}"].to(self._device) for name in ("chunks", "passages"))
        self._ring = Ring(memory["ring.ids"].numpy(), chunks, passages)

    def _hard(self, step: int, asked: Asked, epoch: int, number: int) -> Ints:
        """(B, K) ids of hard negatives, none before their turn."""
        recipe = self._recipe
        if not (recipe.negatives or recipe.near_misses) or not self._turn.has_come(step):
            return np.full((len(asked.target), 0), NONE)
        drawn = self._same.draw(asked, epoch, number)
        if not recipe.near_misses:
            return drawn
        due = self._turn.mined_at(step)
        if self._mined.step != due:
            assert due == step, f"near misses of step {self._mined.step} at step {step}, expected those of {due}"
            began = time.perf_counter()
            self._mined = mine(
                self.model,
                self._sequences,
                step=step,
                many=recipe.near_misses,
                neighbours=recipe.neighbours,
                device=self._device,
            )
            having = float((self._mined.ids != NONE).any(axis=1).mean())
            self._note(
                f"step {step:,}: mined near misses of {having:.0%} of the windows, {time.perf_counter() - began:.0f} s"
            )
        near = self._mined.of(asked.target)
        again = (near[:, :, None] == drawn[:, None, :]).any(axis=2)
        return np.concatenate([drawn, np.where(again, NONE, near)], axis=1)

    def _excluded(self, batch: Batch, others: Ints) -> tuple[Tensor, Tensor]:
        """(rows, columns) of what must not be a negative of a window: its own context and, where asked, the chunk after
        its target. The one before it is its context; `others` are the ids of the columns behind the batch's."""
        row, _ = np.nonzero(batch.mask)
        column = batch.context[batch.mask]
        if not self._recipe.neighbours:
            after = places_of(self._same.after(batch.ids[batch.target]), np.concatenate([batch.ids, others]))
            beside = np.flatnonzero(after >= 0)
            row, column = np.concatenate([row, beside]), np.concatenate([column, after[beside]])
        return torch.from_numpy(row).to(self._device), torch.from_numpy(column).to(self._device)

    def _tell(self, logits: Tensor, temperature: Tensor | float, hard: Ints, fresh: int, step: int) -> None:
        """Keeps what this step has to tell; raises where hard negatives were due and none took part."""
        recipe = self._recipe
        at = float(temperature.detach()) if isinstance(temperature, Tensor) else temperature
        self._told = {"temperature": at} if recipe.learned else {}
        if not (recipe.negatives or recipe.near_misses):
            return
        if not self._turn.has_come(step):
            self._told["negatives"] = 0.0
            return
        columns = torch.from_numpy(hard).to(self._device)
        scores = logits.detach().gather(1, columns.clamp(min=0))
        scores = scores.masked_fill((columns < 0) | (scores <= _NEVER / 2), torch.nan) * at
        took = Participation.of(scores.cpu().numpy(), fresh)
        self._told |= {"negatives": took.negatives, "negatives_score": took.score, "negatives_fresh": took.fresh}


class Ring:
    """The newest passages of earlier batches, each chunk once: `ids` (n,), the `chunks` (n, D) as the encoder made them
    and the `passages` (n, D) as the P tower did then (cross-batch memory, Wang et al., arXiv 1912.06798)."""

    def __init__(self, ids: Ints, chunks: Tensor, passages: Tensor) -> None:
        self.ids = ids
        self.chunks = chunks
        self.passages = passages

    @classmethod
    def empty(cls, dim: int, device: torch.device) -> Ring:
        return cls(np.zeros(0, dtype=np.int64), *(torch.zeros(0, dim, device=device) for _ in range(2)))

    def without(self, ids: Ints) -> Ring:
        if not len(self.ids):
            return self
        kept = np.flatnonzero(~np.isin(self.ids, ids))
        rows = torch.from_numpy(kept).to(self.chunks.device)
        return Ring(self.ids[kept], self.chunks[rows], self.passages[rows])

    def pushed(self, ids: Ints, chunks: Tensor, passages: Tensor, most: int) -> Ring:
        """With a batch's, those there before it in front; the last `most` of all."""
        old = self.without(ids)
        return Ring(
            np.concatenate([old.ids, ids])[-most:],
            torch.cat([old.chunks, chunks])[-most:],
            torch.cat([old.passages, passages])[-most:],
        )


class Weights:
    """What a window counts: (windows of its article)^−power, 1 in the mean over all windows."""

    def __init__(self, sequences: Sequences, power: float) -> None:
        order = np.argsort(sequences.first, kind="stable")
        windows = np.maximum(sequences.count[order] - 1, 0).astype(np.float64)
        raw = np.maximum(windows, 1) ** -power
        self._first = sequences.first[order]
        self._weight = (raw / np.average(raw, weights=windows)).astype(np.float32)
        self._alike = power == 0

    def of(self, target: Ints, device: torch.device) -> Tensor | None:
        """(B,), or None where all count the same."""
        if self._alike:
            return None
        return torch.from_numpy(self._weight[np.searchsorted(self._first, target, side="right") - 1]).to(device)


def alike(chunks: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) of the chunks (M, D) that say the same as a window's target, a row of them (B,).

    They are few, so that a half precision product may propose them before exact cosines decide.
    """
    with torch.no_grad():
        near = chunks[target] @ chunks.T >= _NEARLY
        row, column = near.scatter_(1, target[:, None], False).nonzero(as_tuple=True)
        same = (chunks[target[row]] * chunks[column]).sum(dim=1) >= DUPLICATE
        return row[same], column[same]


def _crossed(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return functional.cross_entropy(logits, target)
    return (weights * functional.cross_entropy(logits, target, reduction="none")).mean()


def mine(
    towers: Towers, sequences: Sequences, *, step: int, many: int, neighbours: bool, device: torch.device
) -> NearMisses:
    """The near misses of every window with the towers as they are now: chunks of any article that come near it and are
    still wrong (see `passed`)."""
    windows = sequences.windows(1)
    windows = windows[np.argsort(windows.target)]
    ids = np.sort(sequences.ids())
    training = towers.training
    towers.eval()
    bank = np.empty((len(ids), sequences.dim), dtype=np.float16)
    # in all digits, whatever the step computes in: hundredths of a score decide who is a near miss
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for at in range(0, len(ids), _AT_ONCE):
            chunks = torch.from_numpy(sequences.unit(ids[at : at + _AT_ONCE])).to(device)
            bank[at : at + _AT_ONCE] = towers.passages(chunks).float().cpu().numpy()
    positive: list[Floats] = []

    def queries() -> Iterator[Floats]:
        for at in range(0, len(windows), _AT_ONCE):
            these = windows[at : at + _AT_ONCE]
            context, mask = (torch.from_numpy(one).to(device) for one in sequences.contexts(these))
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                asked = towers.query(context, mask).float().cpu().numpy()
            positive.append(np.einsum("nd,nd->n", asked, bank[np.searchsorted(ids, these.target)], dtype=np.float32))
            yield asked

    found = np.full((len(windows), many), NONE)
    for number, (rows, scores) in enumerate(nearest(bank, queries(), MINED)):
        block = slice(number * _AT_ONCE, (number + 1) * _AT_ONCE)
        found[block] = passed(
            Asked(windows.target[block], windows.length[block]),
            positive[number],
            np.where(rows >= 0, ids[rows], NONE),
            scores,
            sequences.unit,
            many=many,
            neighbours=neighbours,
        )
    towers.train(training)
    return NearMisses(windows.target, found, step)


def train_towers(
    searcher: Searcher,
    folder: Path,
    backbone: str,
    *,
    name: str,
    recipe: TowersRecipe,
    tower: str | None = "identity",
    tower_options: dict[str, Any] | None = None,
    anchored: bool = True,
    options: dict[str, Any] | None = None,
    limit: int | None = None,
    device: str = "cpu",
    half: bool = False,
    command: str = "",
    quiet: bool = False,
    note: Callable[[str], object] = lambda _: None,
) -> Trained:
    """Trains both towers, exports them to OpenVINO and writes all of a model into `folder`, config.json last.

    `tower` None leaves candidates as they are: a plain predictor by the same recipe. The rest is as in
    `train_predictor`.
    """
    began = time.perf_counter()
    where = torch.device(device)
    given = material(searcher, recipe, limit, where)
    dim = given.sequences.dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        query = build(backbone, dim, anchored=anchored, options=options)
        passage = None if tower is None else build_tower(tower, dim, tower_options)
    towers = Towers(query, passage, recipe.temperature, learned=recipe.learned).to(where)
    task = TowersTask(towers, given.sequences, given.batches, given.watched, recipe, where, note)
    schedule = schedule_of(recipe, task.per_epoch)
    config = ModelConfig(
        kind=backbone,
        dim=dim,
        context=CONTEXT,
        anchored=anchored,
        options=options or {},
        encoder=searcher.fingerprint,
        chunking=searcher.generation.manifest.facts["chunking"],
        parameters=towers.parameters_kept(),
        trained={"data": given.data, "recipe": asdict(recipe), "command": command},
        tower={} if tower is None else {"kind": tower, "options": tower_options or {}},
    )
    note(
        f"Q {backbone}{' anchored' if anchored else ''}, P {tower or 'none'}: {config.parameters:,} parameters, "
        f"{given.said}, {schedule.steps:,} steps"
    )
    outcome = train(task, schedule, folder, log=folder / LOG, identity=identity_of(config, searcher), quiet=quiet)
    given.refuse_collapse(outcome)
    towers.to("cpu").eval()
    kept = towers.kept()
    write_weights(folder / WEIGHTS, kept, half=half)
    if half:  # what is stored is what is judged and exported
        load_weights(folder / WEIGHTS, kept)
    export(query, folder, dim)
    if passage is not None:
        export_tower(passage, folder)
    return finished(folder, name, config, outcome, given, began)
