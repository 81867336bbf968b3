"""A sweep's task: next-character models of any shape, trained on all languages alike, judged language by language.

It does not know which shapes are compared, nor what a report says of them; the loop is `retrieval.training`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from retrieval.characters.baselines import COUNTED, ORDERS, Hits, baselines
from retrieval.characters.model import CharacterModel
from retrieval.characters.texts import Corpus
from retrieval.characters.vocabulary import PAD, SIZE, UNK, Symbols
from retrieval.sweep import Blocks, Column, Result, Value
from retrieval.training import Schedule, train
from store.records import LookaheadError, Split

KEYS: dict[str, Value] = {
    "width": 128,
    "depth": 4,
    "heads": 4,
    "ff": 0,  # 0: four times the width
    "dropout": 0.0,
    "norm": "post",
    "warm_up": 0.0,
    "rate": 3e-3,
    "decay": 0.01,
    "batch": 16,
    "length": 64,
    "checks": 4,
    "precision": "f32",
}
COLUMNS = (
    Column("dev_top1", "Top-1 (dev)"),
    Column("dev_top3", "Top-3 (dev)"),
    Column("dev_loss", "loss (dev)", higher=False),
    Column("test_top1", "Top-1 (test)"),
    Column("test_top3", "Top-3 (test)"),
)
LOG = "log.jsonl"
_WORDS = {"norm": ("post", "pre"), "precision": ("f32", "bf16")}
# key → (least, most), both allowed; what is whole has whole bounds
_BOUNDS: dict[str, tuple[float, float]] = {
    "width": (2, 4096),
    "depth": (1, 128),
    "heads": (1, 256),
    "ff": (0, 65_536),
    "dropout": (0, 0.9),
    "warm_up": (0, 0.9),
    "rate": (1e-8, 1),
    "decay": (0, 100),
    "batch": (1, 8192),
    "length": (2, 4096),
    "checks": (1, 1000),
}
_AT_ONCE = 4096  # characters judged in one go
_TORCH = 450 << 20  # bytes of a process that has loaded torch and trained next to nothing


class CharactersTask:
    """Next-character prediction. All languages have the same part in every batch and in every figure of the whole, so
    that a small one counts; `groups` are the languages."""

    name = "characters"
    keys: Mapping[str, Value] = KEYS
    columns = COLUMNS
    sampled = Column("test_top1", "Top-1 (test)")

    def __init__(self, corpus: Corpus, *, device: str = "cpu") -> None:
        self.corpus = corpus
        self._device = device

    @property
    def data(self) -> dict[str, Any]:
        return self.corpus.data

    def checked(self, values: Mapping[str, Value]) -> dict[str, Value]:
        unknown = sorted(values.keys() - KEYS.keys())
        if unknown:
            raise LookaheadError(f"characters have no {', '.join(unknown)}; there are: {', '.join(KEYS)}")
        given = {key: _of_its_kind(key, values.get(key, default), default) for key, default in KEYS.items()}
        for key, words in _WORDS.items():
            if given[key] not in words:
                raise LookaheadError(f"{key} = {given[key]!r}: expected {' or '.join(map(repr, words))}")
        for key, (least, most) in _BOUNDS.items():
            if not least <= float(given[key]) <= most:
                raise LookaheadError(f"{key} = {given[key]}: expected {least:g} to {most:g}")
        shape = _Shape.of(given)
        if shape.width % shape.heads:
            raise LookaheadError(f"width = {shape.width} is not a multiple of heads = {shape.heads}")
        if shape.width % 2:
            raise LookaheadError(f"width = {shape.width}: sinusoidal positions need an even width")
        return {**given, "ff": shape.ff}

    def parameters(self, values: Mapping[str, Value]) -> int:
        return _Shape.of(self.checked(values)).parameters

    def memory(self, values: Mapping[str, Value]) -> int:
        shape = _Shape.of(self.checked(values))
        layer = 14 * shape.width + 2 * shape.ff  # floats a symbol that the way back needs
        if shape.dropout:  # attention's weights are then written out, with their masks
            layer += 3 * shape.heads * shape.length + 3 * shape.width + shape.ff
        training, judging = (
            symbols * (layers * layer + 4 * SIZE)
            for symbols, layers in ((shape.batch * shape.length, shape.depth), (_AT_ONCE, 1))
        )
        # of each parameter: itself, its gradient, AdamW's two, the best so far, and most of them again in a checkpoint
        floats = max(training, judging) + 10 * shape.parameters
        corpus = sum(units.symbols.nbytes for splits in self.corpus.languages.values() for units in splits.values())
        return _TORCH + 4 * floats + 2 * corpus

    def steps_for(self, values: Mapping[str, Value], seconds: float) -> int:
        training = self._training(values, seed=0)
        shape = _Shape.of(self.checked(values))
        half = torch.autocast(self._device, dtype=torch.bfloat16, enabled=shape.precision == "bf16")
        optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-5)

        def step(number: int) -> None:
            optimizer.zero_grad(set_to_none=True)
            with half:
                loss = training.loss(number)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
            optimizer.step()

        for number in range(2):
            step(number)
        took = _timed(step, at_most=min(3.0, seconds / 10))
        training.model.eval()
        judging = training.seconds_to_validate(at_most=min(1.0, seconds / 20))
        left = seconds - judging * shape.checks
        return max(1, int(max(left, seconds / 10) / took))

    def run(self, values: Mapping[str, Value], seed: int, steps: int, folder: Path, *, quiet: bool) -> Result:
        checked = self.checked(values)
        training = self._training(checked, seed)
        shape = _Shape.of(checked)
        schedule = Schedule(
            steps=steps,
            every=max(1, -(-steps // shape.checks)),
            rate=shape.rate,
            warm_up=shape.warm_up,
            decay=shape.decay,
            seed=seed,
            precision=shape.precision,
            score="dev_top1",
        )
        identity = {"task": self.name, "values": checked, "data": self.data}
        outcome = train(training, schedule, folder, log=folder / LOG, identity=identity, quiet=quiet)
        found = {language: training.judged(language, Split.TEST) for language in self.corpus.languages}
        dev = {language: training.judged(language, Split.VALID) for language in self.corpus.languages}
        groups = {language: {**dev[language].figures("dev"), **one.figures("test")} for language, one in found.items()}
        figures = {column.figure: fmean(group[column.figure] for group in groups.values()) for column in COLUMNS}
        samples = {language: Blocks(one.hits.top1.tolist(), one.hits.size.tolist()) for language, one in found.items()}
        parameters = sum(value.numel() for value in training.model.parameters())
        return Result(figures, groups, parameters, outcome.seconds, outcome.steps, outcome.history, samples)

    def references(self) -> dict[str, dict[str, float]]:
        """What counting alone predicts, on the mean of the languages, and by language ("en dev_top1"). It takes some
        seconds."""
        counted = baselines(self.corpus)
        rows: dict[str, dict[str, float]] = {}
        for name in ORDERS:
            by_language = {language: found[name] for language, found in counted.items()}
            mean = {figure: fmean(one[figure] for one in by_language.values()) for figure in COUNTED}
            each = {f"{language} {figure}": one[figure] for language, one in by_language.items() for figure in COUNTED}
            rows[name] = {**mean, **each}
        return rows

    def _training(self, values: Mapping[str, Value], seed: int) -> _Training:
        shape = _Shape.of(self.checked(values))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = shape.model()
        return _Training(model.to(self._device), self.corpus, shape, seed)


@dataclass(frozen=True, slots=True)
class _Shape:
    """A checked configuration."""

    width: int
    depth: int
    heads: int
    ff: int
    dropout: float
    norm_first: bool
    warm_up: float
    rate: float
    decay: float
    batch: int
    length: int
    checks: int
    precision: str

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> Self:
        whole = {key: int(values[key]) for key in ("width", "depth", "heads", "ff", "batch", "length", "checks")}
        whole["ff"] = whole["ff"] or 4 * whole["width"]
        dropout, warm_up, rate, decay = (float(values[key]) for key in ("dropout", "warm_up", "rate", "decay"))
        return cls(
            **whole,
            dropout=dropout,
            norm_first=values["norm"] == "pre",
            warm_up=warm_up,
            rate=rate,
            decay=decay,
            precision=str(values["precision"]),
        )

    @property
    def parameters(self) -> int:
        """By arithmetic: a model without memory ("meta") would make torch load for seconds."""
        attention = 4 * (self.width + 1) * self.width
        forward = self.width * self.ff + self.ff + self.ff * self.width + self.width
        norm = 2 * self.width
        rest = SIZE * self.width + (self.width + 1) * SIZE
        return self.depth * (attention + forward + 2 * norm) + rest + norm * self.norm_first

    def model(self) -> CharacterModel:
        return CharacterModel(
            self.width,
            self.depth,
            self.heads,
            self.ff,
            dropout=self.dropout,
            norm_first=self.norm_first,
            length=self.length,
        )


@dataclass(frozen=True, slots=True)
class _Judged:
    """A language's dev or test, predicted: hits by unit, and the mean loss of a character in nats."""

    hits: Hits
    loss: float

    def figures(self, part: str) -> dict[str, float]:
        return {f"{part}_{name}": value for name, value in {**self.hits.figures, "loss": self.loss}.items()}


class _Training:
    """A model and the text it is trained and watched on, as the training loop asks for it."""

    def __init__(self, model: CharacterModel, corpus: Corpus, shape: _Shape, seed: int) -> None:
        self.model = model
        self._corpus = corpus
        self._shape = shape
        self._seed = seed
        self._device = next(model.parameters()).device

    def loss(self, step: int) -> Tensor:
        """Of the characters that follow, UNK among them; each language has the same share of the windows, and where
        they do not go evenly the languages take turns with the odd ones."""
        random = np.random.default_rng([self._seed, step])
        languages = list(self._corpus.languages.values())
        rows = [
            splits[Split.TRAIN].drawn(random, many, self._shape.length)
            for splits, many in zip(languages, _shares(self._shape.batch, len(languages), step), strict=True)
        ]
        symbols = torch.from_numpy(np.concatenate(rows)).to(self._device).long()
        scores = self.model(symbols[:, :-1])
        with torch.autocast(self._device.type, enabled=False):
            return functional.cross_entropy(scores.float().flatten(0, 1), symbols[:, 1:].flatten(), ignore_index=PAD)

    def validate(self, step: int) -> dict[str, float]:
        every = [self.judged(language, Split.VALID).figures("dev") for language in self._corpus.languages]
        whole = {figure: fmean(figures[figure] for figures in every) for figure in every[0]}
        each = zip(self._corpus.languages, every, strict=True)
        return {**whole, **{f"{language}_top1": figures["dev_top1"] for language, figures in each}}

    def trouble(self, figures: dict[str, float], progress: float) -> str | None:
        """A model that has learned nothing is a row of the table: published ones looked so too."""
        return None

    def judged(self, language: str, split: Split) -> _Judged:
        """Each character but a unit's first is predicted once, from at most `length` characters before it: those of
        its window, so half of that on the mean."""
        units = self._corpus.languages[language][split]
        symbols, unit = units.windows(self._shape.length)
        ranks, losses = self._predicted(symbols)
        there = symbols[:, 1:] != PAD
        hits = Hits.of(ranks[there], symbols[:, 1:][there], np.repeat(unit, there.sum(axis=1)), len(units))
        return _Judged(hits, float(losses[there].mean()))

    def seconds_to_validate(self, at_most: float) -> float:
        """Of a whole validation, from timing a part of it."""
        windows = [splits[Split.VALID].windows(self._shape.length)[0] for splits in self._corpus.languages.values()]
        some = windows[0][: max(1, _AT_ONCE // self._shape.length)]
        return _timed(lambda _: self._predicted(some), at_most=at_most) * sum(map(len, windows)) / len(some)

    @torch.no_grad()
    def _predicted(self, symbols: Symbols) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Rank from 1 among the characters (ties, and what is no number, count as ahead) and loss of each target."""
        ranks, losses = [], []
        rows = max(1, _AT_ONCE // self._shape.length)
        for start in range(0, len(symbols), rows):
            block = torch.from_numpy(symbols[start : start + rows]).to(self._device).long()
            scores, targets = self.model(block[:, :-1]).float(), block[:, 1:]
            losses.append(functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none"))
            own = scores.gather(2, targets.unsqueeze(2))
            scores[:, :, [PAD, UNK]] = -math.inf  # neither is a character; a target that is UNK is missed anyway
            ranks.append((~(scores < own)).sum(dim=2).flatten())
        shape = (len(symbols), self._shape.length)
        return torch.cat(ranks).cpu().numpy().reshape(shape), torch.cat(losses).cpu().numpy().reshape(shape)


def _of_its_kind(key: str, value: Value, default: Value) -> Value:
    """The value, a whole number as a fraction where fractions are meant; True is no number."""
    right = type(value) is type(default) or (type(default) is float and type(value) is int)
    if not right:
        kinds = {int: "a whole number", float: "a number", str: "a word in quotes", bool: "true or false"}
        raise LookaheadError(f"{key} = {value!r}: expected {kinds[type(default)]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise LookaheadError(f"{key} = {value}: expected a finite number")
    return float(value) if isinstance(default, float) else value


def _shares(batch: int, languages: int, step: int) -> list[int]:
    """How many windows of a batch each language has."""
    return [batch // languages + ((place + step) % languages < batch % languages) for place in range(languages)]


def _timed(work: Callable[[int], object], *, at_most: float) -> float:
    """Seconds that the work takes: the median of 3 times or more, as many as fit."""
    took: list[float] = []
    while len(took) < 3 or sum(took) < at_most:
        began = time.perf_counter()
        work(len(took))
        took.append(time.perf_counter() - began)
    return median(took)
