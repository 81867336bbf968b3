"""Our inverter: a vector becomes a few pseudo-tokens, a small encoder-decoder writes a text after them.

The shape is vec2text's InversionModel and its corrector (Morris et al. 2023, arXiv 2310.06816) in one network: where
there is a hypothesis, its vector, how far that is off and its tokens stand beside the target's pseudo-tokens. Layers
are BERT's, so that they can begin as the encoder's own; a decoder layer's attention sees the encoder's states and the
text so far at once, through the same maps. It does not know how it is trained, nor which of its texts is best.
"""

from __future__ import annotations

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
from index.encoder import Fingerprint
from retrieval.inverters import AGAIN, WORDS, FoundInverter, check_seals
from retrieval.losses import TokenLoss
from retrieval.models import WEIGHTS
from retrieval.weights import load_weights
from retrieval.words import NONE, Words
from store.records import LookaheadError

Floats = NDArray[np.float32]

_AT_ONCE = 64  # vectors; more leave the caches
_HIDDEN = -1e9


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
        query = self._heads(self.query(states)) * (self.heads / states.shape[-1]) ** 0.5
        # texts are short: torch's own kernel for this took four times as long in bfloat16, forth and back
        attended = (query @ keys.transpose(2, 3) + mask).softmax(dim=3).to(values.dtype) @ values
        states = self.norm(states + self.out(attended.transpose(1, 2).flatten(2)))
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

    def _placed(self, ids: Tensor, start: int = 0) -> Tensor:
        places = torch.arange(start, start + ids.shape[1], device=ids.device)
        told: Tensor = self.norm(self.table(ids) + self.places(places))
        return told

    @torch.no_grad()
    def write(self, targets: Tensor, width: int, hypothesis: Hypothesis | None = None) -> Tensor:
        """The `width` likeliest texts by beam search, (B, width, T) ids with ends; by log-likelihood over length."""
        memory, there = self.memory(targets, hypothesis)
        many, end, device = len(targets), self.shape.words, targets.device
        mask = _penalty(there, memory.dtype).repeat_interleave(width, dim=0)[:, None, None]
        seen = [
            tuple(part.repeat_interleave(width, dim=0) for part in layer.keys_values(memory)) for layer in self.writing
        ]
        scores = torch.full((many, width), -torch.inf, device=device)
        scores[:, 0] = 0.0  # at first all beams are the same text
        ids = torch.full((many * width, 1), end, device=device)
        ended = torch.zeros(many * width, dtype=torch.bool, device=device)
        lengths = torch.zeros(many * width, device=device)
        rows = torch.arange(many, device=device)[:, None] * width
        for place in range(self.shape.longest + 1):
            states = self._placed(ids[:, -1:], place)
            mask = functional.pad(mask, (0, 1))
            for number, layer in enumerate(self.writing):
                keys, values = layer.keys_values(states)
                seen[number] = (torch.cat([seen[number][0], keys], dim=2), torch.cat([seen[number][1], values], dim=2))
                states = layer(states, seen[number], mask)
            likely = self.logits(states[:, 0]).float().log_softmax(dim=1)
            if place == self.shape.longest:
                likely[:, :end] = -torch.inf
            likely[ended] = -torch.inf
            likely[ended, end] = 0.0
            total = (scores.reshape(-1, 1) + likely).reshape(many, -1)
            scores, best = total.topk(width, dim=1)
            came = (rows + best // (end + 1)).reshape(-1)
            token = (best % (end + 1)).reshape(-1)
            ids = torch.cat([ids[came], token[:, None]], dim=1)
            lengths = lengths[came] + ~ended[came]
            ended = ended[came] | (token == end)
            if bool(ended.all()):
                break
            if width > 1:
                seen = [(keys[came], values[came]) for keys, values in seen]
        order = (scores / lengths.reshape(many, width)).argsort(dim=1, descending=True, stable=True)
        return ids[:, 1:].reshape(many, width, -1).gather(1, order[..., None].expand(-1, -1, ids.shape[1] - 1))


class OwnInverter:
    """A trained network with its tokens, for vectors as numpy has them; of those only the directions count, since it
    was trained on unit vectors. `longest` is counted in the encoder's tokens."""

    def __init__(
        self, name: str, space: Fingerprint, longest: int, probe: Floats, network: InverterNetwork, words: Words
    ) -> None:
        self.name = name
        self.space = space
        self.longest = longest
        self.network = network
        self.words = words
        self._probe = probe

    @classmethod
    def open(cls, found: FoundInverter) -> OwnInverter:
        """Its files are checked first."""
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
        probe = np.array(config.probe, dtype=np.float32)
        return cls(found.name, config.encoder, config.longest, probe, network, words)

    def probe(self) -> Floats:
        return self._probe

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
            told += self._written(_unit(targets[some]), width, Hypothesis(ids, _unit(vectors[some])))
        return told

    def _written(self, targets: Tensor, width: int, hypothesis: Hypothesis | None) -> list[list[str]]:
        ids = self.network.write(targets, width, hypothesis)
        flat = self.words.texts(ids.flatten(0, 1).tolist())
        return [flat[start : start + width] for start in range(0, len(flat), width)]


def _unit(vectors: Floats) -> Tensor:
    return torch.from_numpy(normalised(vectors))
