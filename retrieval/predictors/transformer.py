"""The published transformer: four decoder layers over the context, which is also their memory (17,867,520 at 768).

It does not know a chunk's place in the article: positions count back from the target.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.predictors.base import Predictor, at, sinusoids, to_front
from retrieval.sequences import CONTEXT

WIDTH = 512


class Transformer(Predictor):
    """Each layer attends to the layer below and to the input, in both cases not to what comes later."""

    positions: Tensor
    later: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.into = nn.Linear(dim, WIDTH)
        self.register_buffer("positions", sinusoids(WIDTH), persistent=False)
        self.register_buffer("later", torch.ones(CONTEXT, CONTEXT).triu(1).bool(), persistent=False)
        self.below = nn.ModuleList(_layer() for _ in range(3))
        self.top = _layer()
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, dim))

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        # positions first, so that the last chunk has the same one in contexts of every length
        memory, last = to_front(self.into(context) + self.positions, mask)
        states = memory
        for layer in self.below:
            states = layer(states, memory, tgt_mask=self.later, memory_mask=self.later)
        prediction: Tensor = self.head(state_at(self.top, states, memory, last))
        return prediction


def state_at(layer: nn.TransformerDecoderLayer, states: Tensor, memory: Tensor, place: Tensor) -> Tensor:
    """What a decoder layer gives for the state at each row's place (B,), which sees none behind it: (B, 512).

    The same as computing the whole layer and picking one state, without four fifths of the top layer's work.
    """
    hidden = torch.arange(states.shape[1], device=place.device) > place.unsqueeze(1)
    state = at(states, place).unsqueeze(1)
    seen = layer.self_attn(state, states, states, key_padding_mask=hidden, need_weights=False)[0]
    state = layer.norm1(state + layer.dropout1(seen))
    seen = layer.multihead_attn(state, memory, memory, key_padding_mask=hidden, need_weights=False)[0]
    state = layer.norm2(state + layer.dropout2(seen))
    further = layer.linear2(layer.dropout(functional.relu(layer.linear1(state))))
    result: Tensor = layer.norm3(state + layer.dropout3(further)).squeeze(1)
    return result


def _layer() -> nn.TransformerDecoderLayer:
    return nn.TransformerDecoderLayer(WIDTH, nhead=8, dim_feedforward=2048, dropout=0.1, batch_first=True)
