"""The published transformer encoder: four layers that look both ways (13,659,904 parameters at 768).

It does not know a chunk's place in the article: positions count back from the target.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from retrieval.predictors.base import Predictor, sinusoids

WIDTH = 512


class TransformerEncoder(Predictor):
    positions: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.into = nn.Linear(dim, WIDTH)
        self.register_buffer("positions", sinusoids(WIDTH), persistent=False)
        self.below = nn.ModuleList(_layer() for _ in range(3))
        self.top = _layer()
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.1), nn.Linear(WIDTH, dim))

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        states = self.into(context) + self.positions
        for layer in self.below:
            states = layer(states, src_key_padding_mask=~mask)
        prediction: Tensor = self.head(last_state(self.top, states, ~mask))
        return prediction


def last_state(layer: nn.TransformerEncoderLayer, states: Tensor, hidden: Tensor) -> Tensor:
    """What an encoder layer gives for the last state (B, 512), without four fifths of the top layer's work."""
    state = states[:, -1:]
    seen = layer.self_attn(state, states, states, key_padding_mask=hidden, need_weights=False)[0]
    state = layer.norm1(state + layer.dropout1(seen))
    further = layer.linear2(layer.dropout(functional.relu(layer.linear1(state))))
    result: Tensor = layer.norm2(state + layer.dropout2(further)).squeeze(1)
    return result


def _layer() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(WIDTH, nhead=8, dim_feedforward=2048, dropout=0.1, batch_first=True)
