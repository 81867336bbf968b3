"""Our inverter: a vector becomes a few pseudo-tokens, a small encoder-decoder writes a text after them.

The shape is vec2text's InversionModel and its corrector (Morris et al. 2023, arXiv 2310.06816) in one network: where
there is a hypothesis, its vector, how far that is off and its tokens stand beside the target's pseudo-tokens. Layers
are BERT's, so that they can begin as the encoder's own; a decoder layer's attention sees the encoder's states and the
text so far at once, through the same maps. It does not know how it is trained, nor which of its texts is best.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from index.dense import normalised
from index.fast import precisions
from retrieval.inverters import AGAIN, WORDS, FoundInverter, check_seals
from retrieval.losses import TokenLoss
from retrieval.models import WEIGHTS
from retrieval.weights import load_weights
from retrieval.words import NONE, Words
from store.records import LookaheadError

Floats = NDArray[np.float32]

_AT_ONCE = 64  # vectors; more leave the caches
_HIDDEN = -1e9
_TEMPERATURE = 0.5
_BETTER = 2  # texts made of a hypothesis: its correction and a drawn one


def _penalty(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, _HIDDEN)


@dataclass(frozen=True, slots=True)
class Shape:
    """`dim` is a vector's, `words` the tokens there are, `longest` the tokens of the longest text; `pseudo` tokens
    stand for a vector, `read` layers look at them and `write` layers write."""

    dim: int
    words: int
    longest: int
    width: int = 384
    inner: int = 1536
    heads: int = 12
    pseudo: int = 8
    read: int = 2
    write: int = 6

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Layer(nn.Module):
    """A layer of BERT (Devlin et al. 2018), whose attention may see more than the states it changes."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.inner = nn.Linear(shape.width, shape.inner)
        self.outer = nn.Linear(shape.inner, shape.width)
        self.last_norm = nn.LayerNorm(shape.width, eps=1e-12)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Of states (B, S, W), each (B, heads, S, W / heads)."""
        return self._heads(self.key(states)), self._heads(self.value(states))

    def forward(self, states: Tensor, seen: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """States (B, T, W) after a look at keys and values of (B, heads, S, ·); `mask`, which is added to the logits
        (…, T, S), is 0 for what each may see and `_HIDDEN` for the rest."""
        keys, values = seen
        # texts are short: torch's own kernel for this took four times as long in bfloat16, forth and back
        attended = (self._query(states) @ keys.transpose(2, 3) + mask).softmax(dim=3).to(values.dtype) @ values
        return self._changed(states, attended.transpose(1, 2).flatten(2))

    def look(self, states: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor]) -> Tensor:
        """As `forward`, for the last tokens (B, N, W) of N texts a vector: all see its memory, of (B, heads, M, ·), and
        each its own `past`, of (T, B, N, heads, ·), itself the last of it."""
        query = self._query(states)
        far = query @ memory[0].transpose(2, 3) + mask
        # many small products: matrix products of their own were a third slower
        near = (past[0] * query.transpose(1, 2)).sum(dim=4).permute(1, 3, 2, 0)
        weights = torch.cat([far, near], dim=3).softmax(dim=3).to(states.dtype)
        to_memory, to_past = weights[..., : far.shape[3]], weights[..., far.shape[3] :]
        attended = (to_memory @ memory[1]).transpose(1, 2)
        attended = attended + (to_past.permute(3, 0, 2, 1)[..., None] * past[1]).sum(dim=0)
        return self._changed(states, attended.flatten(2))

    def _query(self, states: Tensor) -> Tensor:
        scale: float = (self.heads / states.shape[-1]) ** 0.5
        return self._heads(self.query(states)) * scale

    def _changed(self, states: Tensor, attended: Tensor) -> Tensor:
        states = self.norm(states + self.out(attended))
        changed: Tensor = self.last_norm(states + self.outer(functional.gelu(self.inner(states))))
        return changed

    def _heads(self, states: Tensor) -> Tensor:
        return states.reshape(*states.shape[:2], self.heads, -1).transpose(1, 2)


class Pseudo(nn.Module):
    """A vector (B, D) as a few tokens (B, pseudo, W)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.first = nn.Linear(shape.dim, shape.width)
        self.second = nn.Linear(shape.width, shape.pseudo * shape.width)

    def forward(self, vectors: Tensor) -> Tensor:
        # a unit vector's numbers are about 1 / √D; the map sees them as about 1
        hidden = functional.gelu(self.first(vectors * self.shape.dim**0.5))
        told: Tensor = self.second(hidden).reshape(len(vectors), self.shape.pseudo, self.shape.width)
        return told


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Tokens (B, T) with NONE behind the end, and the vector (B, D) that their text turned out to have."""

    ids: Tensor
    vectors: Tensor


class _Layers(nn.ModuleList):
    def __iter__(self) -> Iterator[Layer]:  # torch's own gives Any
        return super().__iter__()  # type: ignore[return-value]


class InverterNetwork(nn.Module):
    """Vectors (B, D) and texts so far to the logits of the next token."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.table = nn.Embedding(shape.words + 1, shape.width)  # the last is the end, and the beginning
        self.places = nn.Embedding(shape.longest + 1, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.target = Pseudo(shape)
        self.reached = Pseudo(shape)
        self.missing = Pseudo(shape)
        self.pseudo_norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.reading = _Layers(Layer(shape) for _ in range(shape.read))
        self.writing = _Layers(Layer(shape) for _ in range(shape.write))
        self.head = nn.Linear(shape.width, shape.width)
        self.head_norm = nn.LayerNorm(shape.width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(shape.words + 1))
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def memory(self, targets: Tensor, hypothesis: Hypothesis | None = None) -> tuple[Tensor, Tensor]:
        """What is written from, (B, M, W), and which of it is there (B, M)."""
        parts = [self.target(targets)]
        there = [torch.ones(parts[0].shape[:2], dtype=torch.bool, device=targets.device)]
        if hypothesis is not None:
            parts += [self.reached(hypothesis.vectors), self.missing(targets - hypothesis.vectors)]
            there += there * 2
        states = self.pseudo_norm(torch.cat(parts, dim=1))
        if hypothesis is not None:
            states = torch.cat([states, self._placed(hypothesis.ids.clamp(min=0))], dim=1)
            there.append(hypothesis.ids != NONE)
        seen = torch.cat(there, dim=1)
        mask = _penalty(seen, states.dtype)[:, None, None]
        for layer in self.reading:
            states = layer(states, layer.keys_values(states), mask)
        return states, seen

    def forward(self, targets: Tensor, ids: Tensor, hypothesis: Hypothesis | None = None) -> Tensor:
        """The loss of texts (B, T) as `Words.ids` gives them: the mean cross-entropy of a token."""
        memory, there = self.memory(targets, hypothesis)
        before = torch.cat([ids.new_full((len(ids), 1), self.shape.words), ids[:, :-1]], dim=1).clamp(min=0)
        states = self._placed(before)
        length = states.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        seen = torch.cat([there[:, None].expand(-1, length, -1), causal.expand(len(ids), -1, -1)], dim=2)
        mask = _penalty(seen, states.dtype)[:, None]
        for layer in self.writing:
            whole = torch.cat([memory, states], dim=1)
            states = layer(states, layer.keys_values(whole), mask)
        wanted = ids != NONE
        loss: Tensor = TokenLoss.apply(  # type: ignore[no-untyped-call]
            self._last(states[wanted]), self.table.weight, self.bias, ids[wanted]
        )
        return loss

    def _last(self, states: Tensor) -> Tensor:
        """What the table is compared with, from the last layer's states."""
        last: Tensor = self.head_norm(functional.gelu(self.head(states)))
        return last

    def logits(self, states: Tensor) -> Tensor:
        """(…, words + 1) from the last layer's states (…, W)."""
        return functional.linear(self._last(states), self.table.weight, self.bias)

    def _placed(self, ids: Tensor, place: int | None = None) -> Tensor:
        """States (B, T, W) of tokens (B, T), one behind the other, or all at one place."""
        places = torch.arange(ids.shape[1], device=ids.device) if place is None else ids.new_tensor([place])
        told: Tensor = self.norm(self.table(ids) + self.places(places))
        return told

    @torch.no_grad()
    def write(self, targets: Tensor, width: int, hypothesis: Hypothesis | None = None) -> Tensor:
        """`width` texts for each vector, (B, width, T) ids with ends: the first takes the likeliest token each time,
        the others draw theirs. No two tokens stand side by side twice in a text.

        Whoever keeps the text whose vector comes nearest gains more from eight that were drawn than from the eight of
        a beam search, which hardly differ: cosine .75 against .70 on validation spans. The draws are the same for
        every vector, so that a text does not depend on which others are written beside it.
        """
        states, there = self.memory(targets, hypothesis)
        memory = [layer.keys_values(states) for layer in self.writing]
        mask = _penalty(there, states.dtype)[:, None, None]
        many, end, most, device = len(targets), self.shape.words, self.shape.longest + 1, targets.device
        heads, part = self.shape.heads, self.shape.width // self.shape.heads
        luck = _luck(most, width, end + 1).to(device)
        # time first: what is there lies together
        past = torch.zeros(most, len(memory), 2, many, width, heads, part, dtype=states.dtype, device=device)
        ids = torch.full((many, width, 1), end, device=device)
        ended = torch.zeros(many, width, dtype=torch.bool, device=device)
        for place in range(most):
            states = self._placed(ids[:, :, -1], place)
            for number, layer in enumerate(self.writing):
                past[place, number, 0] = layer.key(states).reshape(many, width, heads, part)
                past[place, number, 1] = layer.value(states).reshape(many, width, heads, part)
                so_far = past[: place + 1, number]
                states = layer.look(states, memory[number], mask, (so_far[:, 0], so_far[:, 1]))
            logits = self.logits(states).float()
            if place == self.shape.longest:
                logits[..., :end] = -torch.inf
            else:
                _ban_repeats(logits, ids)
            following = logits.add_(luck[place]).argmax(dim=2).masked_fill(ended, end)
            ids = torch.cat([ids, following[..., None]], dim=2)
            ended |= following == end
            if bool(ended.all()):
                break
        return ids[:, :, 1:]


@functools.lru_cache(maxsize=2)
def _luck(most: int, width: int, tokens: int) -> Tensor:
    """(most, width, tokens) of Gumbel noise: the largest of logits and noise is a draw from their softmax, here at a
    lower temperature. The first text has none."""
    drawn = torch.rand(most, width, tokens, generator=torch.Generator().manual_seed(0))
    luck = -_TEMPERATURE * (-drawn.clamp(min=1e-30).log()).clamp(min=1e-30).log()
    luck[:, 0] = 0.0
    return luck


def _ban_repeats(logits: Tensor, ids: Tensor) -> None:
    """Makes every token impossible in `logits` (B, N, words + 1) that has already followed the last of `ids`
    (B, N, 1 + T), whose first is the beginning; an end has never been followed."""
    before, followed = ids[:, :, 1:-1], ids[:, :, 2:]
    again = before == ids[:, :, -1:]
    logits.scatter_add_(2, followed, torch.where(again, _HIDDEN, 0.0))


class OwnInverter:
    """A trained network with its tokens, for vectors as numpy has them; of those only the directions count, since it
    was trained on unit vectors. `longest` is counted in the encoder's tokens."""

    def __init__(self, found: FoundInverter, network: InverterNetwork, words: Words) -> None:
        self.found = found
        self.name = found.name
        self.space = found.config.encoder
        self.longest = found.config.longest
        self.network = network
        self.words = words

    @classmethod
    def open(cls, found: FoundInverter, *, exact: bool = False) -> OwnInverter:
        """Its files are checked first. Unless `exact` it computes in bfloat16 where the machine does so natively: half
        the bytes to read a token, and other texts only where two are as good."""
        check_seals(found)
        config = found.config
        try:
            words = Words(Tokenizer.from_file(str(found.folder / WORDS)))
            shape = Shape(**config.options)
            network = InverterNetwork(shape)
            if (shape.dim, shape.words, shape.width % shape.heads) != (config.encoder.dim, words.size, 0):
                raise ValueError(f"{shape} for {words.size} tokens and {config.encoder.dim} numbers")
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise LookaheadError(
                f"{found.folder} describes no inverter of ours ({str(error)[:80]}); {AGAIN}"
            ) from error
        load_weights(found.folder / WEIGHTS, network)
        network.eval()
        if words.unknown is not None:
            with torch.no_grad():
                network.bias[words.unknown] = _HIDDEN  # it is no word
        if not exact and "bf16" in precisions():
            network.bfloat16()
        return cls(found, network, words)

    def probe(self) -> Floats:
        return np.array(self.found.config.probe, dtype=np.float32)

    def propose(self, targets: Floats, width: int) -> list[list[str]]:
        return [
            text
            for start in range(0, len(targets), _AT_ONCE)
            for text in self._written(_unit(targets[start : start + _AT_ONCE]), width, None)
        ]

    def correct(self, targets: Floats, texts: Sequence[str], vectors: Floats, width: int) -> list[list[str]]:
        told: list[list[str]] = []
        for start in range(0, len(targets), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            ids = torch.from_numpy(self.words.ids(texts[some], self.network.shape.longest))
            hypothesis = Hypothesis(ids, _unit(vectors[some]))
            told += self._written(_unit(targets[some]), min(width, _BETTER), hypothesis)
        return told

    def _written(self, targets: Tensor, width: int, hypothesis: Hypothesis | None) -> list[list[str]]:
        kind = self.network.bias.dtype
        if hypothesis is not None:
            hypothesis = Hypothesis(hypothesis.ids, hypothesis.vectors.to(kind))
        ids = self.network.write(targets.to(kind), width, hypothesis)
        flat = self.words.texts(ids.flatten(0, 1).tolist())
        return [flat[start : start + width] for start in range(0, len(flat), width)]


def _unit(vectors: Floats) -> Tensor:
    return torch.from_numpy(normalised(vectors))
