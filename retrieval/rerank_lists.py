"""The lists of candidates that a reranker learns from: what a model finds for windows, made once and kept meanwhile.

It does not know what is told of a candidate (`rerank_features`), nor what is learned (`train_reranker`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from index.fast import precisions
from index.progress import bar
from retrieval.pipeline import Pipeline
from retrieval.sequences import CONTEXT, Bools, Floats, Ints, Sequences, Windows
from retrieval.training import CHECKPOINT
from store.generations import write_atomically
from store.records import LookaheadError

LISTS, PASSAGES = "lists.npz", "passages.npy"  # made before training begins, gone when it has ended
_QUERIES, _ROWS = 1_024, 8_192

Half = NDArray[np.float16]
Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Lists:
    """For windows with targets (n,) and contexts of `length` (n,) chunks, the ids (n, depth + 5) of the best chunks by
    the first score, the context among them, best first; -1 where there are no more."""

    target: Ints
    length: Ints
    ids: Ids

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, places: Ints | Bools | slice) -> Lists:
        return Lists(self.target[places], self.length[places], self.ids[places])

    def choose(self, depth: int, seen: Bools) -> tuple[Ints, Bools]:
        """(ids (n, depth), present (n, depth)): the own context stays in where `seen` (n,), else it is left out."""
        back = self.target[:, None] - self.ids
        own = (back >= 1) & (back <= self.length[:, None]) & ~seen[:, None]
        keep = (self.ids >= 0) & ~own
        order = np.argsort(~keep, axis=1, kind="stable")[:, :depth]
        ids = np.take_along_axis(self.ids, order, axis=1).astype(np.int64)
        return ids, np.take_along_axis(keep, order, axis=1)

    def holding(self, depth: int) -> Bools:
        """Whether the target (n,) is among the first `depth` that are not the window's own context."""
        ids, present = self.choose(depth, np.zeros(len(self), dtype=bool))
        told: Bools = ((ids == self.target[:, None]) & present).any(axis=1)
        return told


def lists_in(
    pipeline: Pipeline,
    sequences: Sequences,
    windows: Windows,
    depth: int,
    tick: Callable[[int], object] = lambda _: None,
) -> tuple[Lists, Floats]:
    """The lists of windows among all chunks of `sequences`, and those chunks' passages (m, D), article by article."""
    ids = sequences.ids()
    rows = np.concatenate([sequences.unit(ids[at : at + _ROWS]) for at in range(0, len(ids), _ROWS)])
    passages = pipeline.passages(rows)
    # half the digits choose the candidates twice as fast; which of the last places is taken is chance anyway
    digits = torch.bfloat16 if "bf16" in precisions() else torch.float32
    keys = torch.from_numpy(pipeline.keys(rows, passages)).to(digits)
    many = min(depth + CONTEXT, len(ids))
    found = np.full((len(windows), depth + CONTEXT), -1, dtype=np.int32)
    for start in range(0, len(windows), _QUERIES):
        some = windows[start : start + _QUERIES]
        context, mask = sequences.contexts(some)
        queries = pipeline.queries(context, mask, pipeline.predict(context, mask))
        scores = torch.from_numpy(queries).to(digits) @ keys.T
        best = scores.float().topk(many, dim=1).indices.numpy()
        found[start : start + len(some), :many] = ids[best]
        tick(len(some))
    return Lists(windows.target, windows.length, found), passages


def kept_lists(
    folder: Path,
    facts: dict[str, Any],
    pipeline: Pipeline,
    sequences: Sequences,
    rows: int,
    *,
    depth: int,
    bank: int,
    seed: int,
    quiet: bool,
) -> tuple[Lists, Half]:
    """The lists of all windows, and the passages of those chunks as an array (rows, D) by chunk id.

    Those that an interrupted training left in `folder` are taken up when they are whole and of the same `facts`, and
    made anew otherwise, unless that training had begun to learn: it is not thrown away unasked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = np.frombuffer(json.dumps(facts, sort_keys=True).encode(), dtype=np.uint8)
    held = _held(folder)
    if held is not None and np.array_equal(held[0], told):
        return held[1:]
    if held is not None and (folder / CHECKPOINT).exists():
        raise LookaheadError(
            f"{folder} holds another training that was interrupted; give its command again to go on with it, "
            "or add --restart to begin this one"
        )
    (folder / LISTS).unlink(missing_ok=True)  # before the passages change: the file says that both are whole
    passages = np.lib.format.open_memmap(folder / PASSAGES, "w+", np.float16, (rows, sequences.dim))
    parts = []
    with bar("lists of candidates", len(sequences.windows()), "windows", quiet=quiet) as shown:
        for part in _groups(sequences, bank, seed):
            lists, found = lists_in(pipeline, part, part.windows(), depth, shown.update)
            passages[part.ids()] = found
            parts.append(lists)
    passages.flush()
    lists = Lists(*(np.concatenate([getattr(one, name) for one in parts]) for name in ("target", "length", "ids")))
    raw = io.BytesIO()
    np.savez(raw, facts=told, target=lists.target, length=lists.length, ids=lists.ids)
    write_atomically(folder / LISTS, raw.getvalue())
    return lists, passages


def _held(folder: Path) -> tuple[NDArray[np.uint8], Lists, Half] | None:
    """The facts, lists and passages that an earlier making left; None where there are none, or they are damaged."""
    try:
        with (folder / LISTS).open("rb") as file, np.load(file) as held:
            lists = Lists(held["target"], held["length"], held["ids"])
            return held["facts"], lists, np.load(folder / PASSAGES, mmap_mode="r")
    except (OSError, EOFError, KeyError, ValueError, BadZipFile):
        return None


def forget_lists(folder: Path) -> None:
    """Removes what `kept_lists` has kept."""
    for name in (LISTS, PASSAGES):
        (folder / name).unlink(missing_ok=True)


def _groups(sequences: Sequences, bank: int, seed: int) -> Iterator[Sequences]:
    """Whole articles in groups of about as many chunks as a bank has: near-misses are as near as they will be."""
    many = max(1, round(int(sequences.count.sum()) / bank))
    order = np.random.default_rng(seed).permutation(len(sequences.articles))
    for number in range(many):
        part = sequences.only(np.sort(order[number::many]).tolist())
        if len(part.windows()):
            yield part
