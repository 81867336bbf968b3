"""Trains our inverter: first from vectors to texts, then from a vector and a first text to a better one.

It knows what is read, the loss of a step and what is watched; the loop is in `training`, the network in `inverter`.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index.conversion import transformer_weights
from index.dense import normalised
from index.encoder import Encoder, open_encoder, read_recipe
from retrieval.inversion import PROBE
from retrieval.inverter import Hypothesis, InverterNetwork, Layer, OwnInverter, Shape
from retrieval.inverters import WORDS, FoundInverter, InverterConfig, seal, write_inverter_card
from retrieval.models import CURVES, LOG, WEIGHTS
from retrieval.plots import plot_inverter
from retrieval.search import Searcher
from retrieval.span_bank import open_bank
from retrieval.spans import LONGEST, Spans, embedded, kept_rows, kept_spans, leading, spans_of, tokenizer_in
from retrieval.text_metrics import token_f1
from retrieval.train_predictor import peak_bytes, precision_for
from retrieval.training import CHECKPOINT, Outcome, Schedule, forget, train
from retrieval.weights import read_tensors, write_rounded, write_weights
from retrieval.words import Words, frequent
from store.database import ArticleRow
from store.generations import MANIFEST, seal_of, write_atomically
from store.records import LookaheadError, Split

WATCHED = 1_024  # validation spans whose likelihood is watched …
WRITTEN = 128  # … and how many of them are written
PROPOSED = "proposed"  # the first stage's weights and texts, while the second is trained
_FEWEST = 64  # training spans that an inverter can be made of
_PLAN, _DONE = "plan.json", "outcome.json"

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class InverterRecipe:
    """`hours` of training, of which `first` is the first stage's share; or `steps` of both together, whatever they
    take. `batch` texts in a step, `words` tokens at most; `pieces` of them make the longest text, since a span's 32
    tokens are the encoder's and rarer words fall apart."""

    hours: float = 1.0
    steps: int | None = None
    first: float = 0.65
    batch: int = 128
    rate: float = 5e-4
    decay: float = 0.01
    words: int = 16_000
    longest: int = LONGEST
    pieces: int = 40
    pseudo: int = 8
    read: int = 2
    write: int = 6
    checks: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Examples:
    """Vectors (n, D) of length one in half precision, and their texts' tokens (n, T); in the second stage also what was
    proposed for them: its tokens (n, T), and its vectors (n, D)."""

    vectors: NDArray[np.float16]
    ids: NDArray[np.int32]
    proposed: NDArray[np.int32] | None = None
    reached: NDArray[np.float16] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Ids, device: torch.device) -> tuple[Tensor, Tensor, Hypothesis | None]:
        """Targets (B, D), tokens (B, T) and the hypotheses, where there are any."""
        targets = _tensor(self.vectors[rows], device).float()
        ids = _tensor(self.ids[rows], device).long()
        if self.proposed is None or self.reached is None:
            return targets, ids, None
        proposed = _tensor(self.proposed[rows], device).long()
        return targets, ids, Hypothesis(proposed, _tensor(self.reached[rows], device).float())


class InverterTask:
    """A network, the examples it learns from and the validation spans it is watched on. With hypotheses each text is
    learned twice a step, with one and without, so that the first stage is not forgotten."""

    def __init__(
        self,
        model: InverterNetwork,
        examples: Examples,
        watched: Watched,
        batch: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model = model
        self._examples = examples
        self._watched = watched
        self._batch = min(batch, len(examples))
        self._seed = seed
        self._device = device
        self._order: tuple[int, Ids] = (-1, np.zeros(0, np.int64))
        self.per_epoch = len(examples) // self._batch

    def loss(self, step: int) -> Tensor:
        """The mean cross-entropy of a token."""
        targets, ids, hypothesis = self._examples.batch(self._rows(step), self._device)
        if hypothesis is None:
            return self.model(targets, ids)  # type: ignore[no-any-return]
        return (self.model(targets, ids) + self.model(targets, ids, hypothesis)) / 2  # type: ignore[no-any-return]

    def _rows(self, step: int) -> Ids:
        epoch, number = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self._examples))
        return self._order[1][number * self._batch : (number + 1) * self._batch]

    def validate(self, step: int) -> dict[str, float]:
        return self._watched.figures(self.model)

    def trouble(self, figures: dict[str, float], progress: float) -> str | None:
        """An inverter that half-way writes as well from others' vectors."""
        if progress < 0.5 or figures["likelihood"] > figures["others"] + 0.02:
            return None
        return (
            f"it writes no better from a text's vector ({figures['likelihood']:.2f} nats a token) than from another's "
            f"({figures['others']:.2f}); give it more --hours or spans"
        )


class Watched:
    """Validation spans: how likely they are from their own vectors and from others', and what is written from them."""

    def __init__(self, spans: Spans, words: Words, pieces: int, encoder: Encoder, device: torch.device) -> None:
        self.spans = spans
        self._words = words
        self._encoder = encoder
        self._device = device
        self._examples = Examples(spans.vectors, words.ids(spans.texts, pieces).astype(np.int32))
        self.correcting = False

    def figures(self, model: InverterNetwork) -> dict[str, float]:
        """`likelihood` and `others` in nats a token; F1 and cosine of the likeliest texts. Once it is `correcting` also
        the likelihood of the true texts beside those, `both` likelihoods' sum, and F1 and cosine after one step,
        whether or not that step brought them nearer."""
        rows = np.arange(len(self._examples))
        told = {}
        with torch.no_grad():
            for name, asked in (("likelihood", rows), ("others", np.roll(rows, 1))):
                losses = []
                for start in range(0, len(rows), 256):
                    some = slice(start, start + 256)
                    targets = self._examples.batch(asked[some], self._device)[0]
                    losses.append(float(model(targets, self._examples.batch(rows[some], self._device)[1])))
                told[name] = -float(np.mean(losses))
        goal = self._examples.batch(rows[:WRITTEN], self._device)[0]
        texts, vectors = self._written(model, goal, None)
        told |= self._judged(texts, vectors)
        if self.correcting:
            ids = torch.from_numpy(self._words.ids(texts, self._examples.ids.shape[1] - 1)).to(self._device)
            hypothesis = Hypothesis(ids, torch.from_numpy(vectors).to(self._device))
            with torch.no_grad():
                corrected = -float(model(goal, self._examples.batch(rows[:WRITTEN], self._device)[1], hypothesis))
            told |= {"corrected likelihood": corrected, "both": told["likelihood"] + corrected}
            texts, vectors = self._written(model, goal, hypothesis)
            told |= {f"corrected {name}": value for name, value in self._judged(texts, vectors).items()}
        return told

    def _written(self, model: InverterNetwork, goal: Tensor, hypothesis: Hypothesis | None) -> tuple[list[str], Floats]:
        texts = self._words.texts(model.write(goal, 1, hypothesis)[:, 0].tolist())
        return texts, normalised(embedded(self._encoder, texts))

    def _judged(self, texts: list[str], vectors: Floats) -> dict[str, float]:
        pairs = zip(texts, self.spans.texts, strict=False)
        cosines = (vectors * self.spans.vectors[: len(texts)].astype(np.float32)).sum(axis=1)
        return {"F1": float(np.mean([token_f1(text, true) for text, true in pairs])), "cosine": float(cosines.mean())}


@dataclass(frozen=True, slots=True)
class TrainedInverter:
    """A finished training and what it took; `first` and `second` are its stages, `valid` the figures as it is loaded
    again, its weights rounded."""

    config: InverterConfig
    first: Outcome
    second: Outcome
    valid: dict[str, float]
    seconds: float
    peak_bytes: int


def train_inverter(
    searcher: Searcher,
    folder: Path,
    *,
    name: str,
    recipe: InverterRecipe,
    limit: int | None = None,
    device: str = "cpu",
    command: str = "",
    quiet: bool = False,
    note: Callable[[str], object] = lambda _: None,
) -> TrainedInverter:
    """Cuts and embeds the spans, trains both stages and writes all of an inverter into `folder`, config.json last.

    `limit` is how many training spans are used, as whole articles drawn with the seed. What a killed training has made
    is taken up: spans, the first stage, what it proposed, and the checkpoint of the stage at hand.
    """
    began = time.perf_counter()
    where = torch.device(device)
    collection = searcher.generation.path.parent.name
    home = searcher.generation.path / "encoder"
    tokenizer = tokenizer_in(home)
    encoder = open_encoder(home, bulk=True)
    facts: dict[str, Any] = {
        "generation": seal_of(searcher.generation.path / MANIFEST).sha256,
        "longest": recipe.longest,
        "limit": limit,
        "seed": recipe.seed,
    }
    _refuse_another(folder, {**facts, "recipe": asdict(recipe)})
    articles = _drawn(searcher.store.articles(Split.TRAIN), limit, recipe.seed)
    texts = spans_of(searcher.store, articles, tokenizer, recipe.longest, quiet)
    if len(texts) < _FEWEST:
        raise LookaheadError(
            f"{collection} has {len(texts)} training spans, an inverter needs {_FEWEST} at least; ingest more articles"
        )
    watched_spans = _watched(searcher, encoder, recipe)
    if limit is None:  # embedded once for this and for every evaluation
        lead = partial(leading, tokenizer, longest=recipe.longest)
        vectors = open_bank(searcher, encoder, lead, recipe.longest, quiet=quiet).vectors
    else:
        vectors = kept_spans(folder / "spans", facts, encoder, texts, quiet=quiet).vectors
    own, kept = frequent(tokenizer, texts, recipe.words)
    words = Words(own)
    write_atomically(folder / WORDS, own.to_str().encode())
    start, heads = transformer_weights(read_recipe(home))
    shape = _shape(start, heads, encoder.dim, words.size, recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = InverterNetwork(shape)
    taken = begin_as(network, start, kept)
    network.to(where)
    examples = Examples(_unit(vectors), words.ids(texts, recipe.pieces).astype(np.int32))
    watched = Watched(watched_spans, words, recipe.pieces, encoder, where)
    parameters = sum(value.numel() for value in network.parameters())
    facts |= {"recipe": asdict(recipe), "options": shape.as_json(), "parameters": parameters}
    precision = precision_for(device)
    steps = _planned(folder, facts, network, examples, recipe, precision, where, quiet)
    note(
        f"inverter {name}: {parameters:,} parameters ({taken} layers begin as the encoder's), {words.size:,} tokens, "
        f"{len(texts):,} spans of {len(articles):,} articles, {steps[0]:,} + {steps[1]:,} steps of {recipe.batch}"
    )
    first = _stage(
        folder, "first", network, InverterTask(network, examples, watched, recipe.batch, recipe.seed, where),
        _schedule(recipe, steps[0], recipe.rate, precision, "likelihood"), facts, quiet,
    )  # fmt: skip
    asked = np.random.default_rng(recipe.seed).permutation(len(texts))[: max(_FEWEST, steps[1] * recipe.batch)]
    pairs = _proposed(folder, facts, network, words, encoder, examples, np.sort(asked), where, quiet)
    watched.correcting = True
    second = _stage(
        folder, "second", network, InverterTask(network, pairs, watched, recipe.batch, recipe.seed + 1, where),
        _schedule(recipe, steps[1], recipe.rate / 2, precision, "both"), facts, quiet,
    )  # fmt: skip
    write_rounded(folder / WEIGHTS, network.cpu())
    seconds = time.perf_counter() - began
    config = InverterConfig(
        encoder=encoder.fingerprint,
        longest=recipe.longest,
        options=shape.as_json(),
        probe=[round(float(one), 6) for one in normalised(encoder.encode([PROBE]))[0]],
        parameters=parameters,
        trained={
            "command": command,
            "data": {"collection": collection, "train_articles": len(articles), "train_spans": len(texts)},
            "recipe": asdict(recipe),
            "layers_taken": taken,
            "first": _told(first),
            "second": _told(second),
            "valid_spans": len(watched_spans),
            "written_spans": min(WRITTEN, len(watched_spans)),
            "seconds": round(first.seconds + second.seconds, 1),
            "device": device,
        },
        seals=seal(folder),
    )
    rounded = OwnInverter.open(FoundInverter(name, folder, config, shipped=False), exact=True).network
    valid = Watched(watched_spans, words, recipe.pieces, encoder, torch.device("cpu"))
    valid.correcting = True
    figures = valid.figures(rounded)
    config = replace(config, trained={**config.trained, "valid": figures})
    plot_inverter([first.history, second.history], folder / CURVES, f"{name} on {collection}")
    told = [{"stage": stage, **line} for stage, of in (("first", first), ("second", second)) for line in of.history]
    write_atomically(folder / LOG, "".join(json.dumps(line) + "\n" for line in told).encode())
    write_inverter_card(folder, name, config)
    config.write(folder)
    _forget(folder)
    return TrainedInverter(config, first, second, figures, seconds, peak_bytes())


def begin_as(network: InverterNetwork, weights: dict[str, Tensor], kept: list[int]) -> int:
    """Puts a BERT's weights, by its authors' names, where they fit: its token table (`kept` are the rows of the tokens
    there are), its positions, and its layers, as those that read and those that write. How many layers fitted.

    Rothe et al. 2020 (arXiv 1907.12461) found that an encoder-decoder gains most from such a start.
    """
    table = weights.get("embeddings.word_embeddings.weight")
    if table is None or table.shape[1] != network.shape.width or max(kept) >= len(table) or not _is_bert(weights):
        return 0
    mask = slice(101, 103)  # of BERT's own vocabulary: [CLS] begins and [SEP] ends
    with torch.no_grad():
        network.table.weight[:-1] = table[kept]
        network.table.weight[-1] = table[mask].mean(dim=0) if len(table) > 103 else table.mean(dim=0)
        places = weights["embeddings.position_embeddings.weight"][: len(network.places.weight)]
        network.places.weight[: len(places)] = places + weights["embeddings.token_type_embeddings.weight"][0]
        _copied(network.norm, weights, "embeddings.LayerNorm")
        taken = 0
        for layers in (network.reading, network.writing):
            for number, layer in enumerate(layers):
                taken += _layer_copied(layer, weights, f"encoder.layer.{number}.")
    return taken


_PLACES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "last_norm": "output.LayerNorm",
}


def _is_bert(weights: dict[str, Tensor]) -> bool:
    """MPNet, say, has tokens of that name, and layers that count otherwise."""
    wanted = ("embeddings.token_type_embeddings.weight", "encoder.layer.0.attention.self.query.weight")
    return all(name in weights for name in wanted)


def _layer_copied(layer: Layer, weights: dict[str, Tensor], prefix: str) -> bool:
    if prefix + "intermediate.dense.weight" not in weights:
        return False
    for own, theirs in _PLACES.items():
        _copied(getattr(layer, own), weights, prefix + theirs)
    return True


def _copied(module: torch.nn.Module, weights: dict[str, Tensor], name: str) -> None:
    module.load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")})


def _shape(weights: dict[str, Tensor], heads: int, dim: int, words: int, recipe: InverterRecipe) -> Shape:
    """Of the encoder's own width and heads where its layers are BERT's, so that they fit."""
    shape = Shape(dim, words, recipe.pieces, pseudo=recipe.pseudo, read=recipe.read, write=recipe.write)
    inner = weights.get("encoder.layer.0.intermediate.dense.weight")
    if inner is None or not _is_bert(weights):
        return shape
    return replace(shape, width=inner.shape[1], inner=inner.shape[0], heads=heads)


def _drawn(articles: list[ArticleRow], spans: int | None, seed: int) -> list[ArticleRow]:
    """Whole articles, drawn with the seed until they have so many chunks, in the order of their chunks."""
    if spans is None:
        return articles
    order = np.random.default_rng(seed).permutation(len(articles))
    counts = np.array([articles[place].chunk_count for place in order.tolist()])
    many = int(np.searchsorted(np.cumsum(counts), spans)) + 1
    return [articles[place] for place in sorted(order[:many].tolist())]


def _watched(searcher: Searcher, encoder: Encoder, recipe: InverterRecipe) -> Spans:
    """Leading spans of validation chunks, drawn with the seed."""
    rows = searcher.store.articles(Split.VALID)
    ids = [chunk for row in rows for chunk in range(row.first_chunk, row.first_chunk + row.chunk_count)]
    if len(ids) < 2:  # each is held against another's vector
        raise LookaheadError(
            f"there are {len(rows)} validation articles, of {len(ids)} chunks, to watch the training on, it needs 2 at "
            "least; ingest more articles"
        )
    drawn = np.random.default_rng(recipe.seed).permutation(ids)[:WATCHED]
    found = searcher.store.chunks(np.sort(drawn).tolist())
    tokenizer = tokenizer_in(searcher.generation.path / "encoder")
    order = np.random.default_rng(recipe.seed).permutation(len(found)).tolist()  # the first are those that are written
    texts = leading(tokenizer, [found[place].chunk.text for place in order], recipe.longest)
    return Spans(texts, _unit(embedded(encoder, texts).astype(np.float16)))


def _planned(
    folder: Path,
    facts: dict[str, Any],
    network: InverterNetwork,
    examples: Examples,
    recipe: InverterRecipe,
    precision: str,
    device: torch.device,
    quiet: bool,
) -> tuple[int, int]:
    """The steps of both stages: as asked, or as many as the hours hold by the speed of a few steps. A training that is
    taken up keeps to its plan, since its rate falls by it."""
    held, steps = _plan_in(folder)
    if held == json.loads(json.dumps(facts)):
        return steps
    # a step of the second stage writes from the vector alone as well, and reads more
    shares = np.array([recipe.first, (1 - recipe.first) / 2.5])
    if recipe.steps is not None:
        first = max(1, round(recipe.steps * shares[0] / shares.sum()))
        return _plan(folder, facts, (first, max(1, recipe.steps - first)))
    trial = copy.deepcopy(network)
    seconds = []
    for number in range(6):
        rows = np.arange(number * recipe.batch, (number + 1) * recipe.batch) % len(examples)
        targets, ids, _ = examples.batch(rows, device)
        began = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = trial(targets, ids)
        loss.backward()
        float(loss.detach())
        seconds.append(time.perf_counter() - began)
    one = 1.1 * float(np.median(seconds[2:]))  # the optimizer takes the tenth
    whole = shares * 3600 * recipe.hours / one
    steps = max(1, round(whole[0])), max(1, round(whole[1]))
    return _plan(folder, facts, steps)


def _plan(folder: Path, facts: dict[str, Any], steps: tuple[int, int]) -> tuple[int, int]:
    write_atomically(folder / _PLAN, json.dumps({"facts": facts, "steps": steps}).encode())
    return steps


def _plan_in(folder: Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """The facts and steps of a training that is planned there; nothing where there is none, or a damaged plan."""
    try:
        held = json.loads((folder / _PLAN).read_text(encoding="utf-8"))
        return dict(held["facts"]), (int(held["steps"][0]), int(held["steps"][1]))
    except (OSError, ValueError, LookupError, TypeError):
        return {}, (0, 0)


def _refuse_another(folder: Path, facts: dict[str, Any]) -> None:
    """Raises where another training has come as far as a checkpoint, before anything of it is lost."""
    held, _ = _plan_in(folder)
    other = [key for key, value in json.loads(json.dumps(facts)).items() if held and held.get(key) != value]
    files = [folder / stage / file for stage in ("first", "second") for file in (CHECKPOINT, _DONE)]
    if other and any(file.is_file() for file in files):
        raise LookaheadError(
            f"{folder} is of another training (different: {', '.join(other)}); "
            "train under another --name, or add --restart to begin again"
        )


def _stage(
    folder: Path,
    name: str,
    network: InverterNetwork,
    task: InverterTask,
    schedule: Schedule,
    facts: dict[str, Any],
    quiet: bool,
) -> Outcome:
    """Trains a stage, or takes up what an earlier run has made of it; the network holds its best weights."""
    place = folder / name
    done = place / _DONE
    if done.is_file():
        try:
            tensors, header = read_tensors(place / WEIGHTS)
            outcome = Outcome(**json.loads(done.read_text(encoding="utf-8")))
            if header.get("facts") == json.dumps(facts, sort_keys=True):
                network.load_state_dict(tensors)
                return outcome
        except (LookaheadError, ValueError, TypeError, RuntimeError):
            pass  # damaged: it is trained again
    outcome = train(task, schedule, place, log=folder / LOG, identity={**facts, "stage": name}, quiet=quiet)
    write_weights(place / WEIGHTS, network, half=False, header={"facts": json.dumps(facts, sort_keys=True)})
    write_atomically(done, json.dumps(asdict(outcome)).encode())
    forget(place)
    return outcome


def _schedule(recipe: InverterRecipe, steps: int, rate: float, precision: str, score: str) -> Schedule:
    return Schedule(
        steps=steps,
        every=max(1, steps // recipe.checks),
        rate=rate,
        decay=recipe.decay,
        seed=recipe.seed,
        precision=precision,
        score=score,
    )


def _proposed(
    folder: Path,
    facts: dict[str, Any],
    network: InverterNetwork,
    words: Words,
    encoder: Encoder,
    examples: Examples,
    rows: Ids,
    device: torch.device,
    quiet: bool,
) -> Examples:
    """The examples at `rows` with what the first stage writes for them, and where the encoder places that."""
    longest = examples.ids.shape[1] - 1
    quick = copy.deepcopy(network)
    if precision_for(device.type) == "bf16":
        quick = quick.bfloat16()
    kind = next(quick.parameters()).dtype

    def written(some: slice) -> NDArray[np.int32]:
        told: list[str] = []
        for start in range(some.start, some.stop, 256):
            part = rows[start : min(start + 256, some.stop)]
            goal = _tensor(examples.vectors[part], device).to(kind)
            told += words.texts(quick.write(goal, 1)[:, 0].tolist())
        return words.ids(told, longest).astype(np.int32)

    facts = {**facts, "of": "proposed"}
    ids = kept_rows(folder / PROPOSED, facts, len(rows), written, what="proposing", quiet=quiet)
    texts = words.texts([[token for token in row if token >= 0] for row in ids.tolist()])
    reached = kept_spans(folder / "reached", facts, encoder, texts, quiet=quiet)
    return Examples(examples.vectors[rows], examples.ids[rows], ids, _unit(reached.vectors))


def _unit(vectors: NDArray[np.float16]) -> NDArray[np.float16]:
    """Of length one, in blocks: all at once in single precision would be half a gigabyte."""
    blocks = [normalised(vectors[at : at + 65_536].astype(np.float32)) for at in range(0, len(vectors), 65_536)]
    return np.concatenate([block.astype(np.float16) for block in blocks])


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)


def _told(outcome: Outcome) -> dict[str, Any]:
    told = {"valid": outcome.best, "best_step": outcome.best_step, "steps": outcome.steps, "ended": outcome.ended}
    return {**told, "seconds": round(outcome.seconds, 1)}


def _forget(folder: Path) -> None:
    """Removes what was of use only while it was trained."""
    for name in ("spans", "reached", PROPOSED, "first", "second"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / _PLAN).unlink(missing_ok=True)
