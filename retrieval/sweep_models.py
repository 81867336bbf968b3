"""Next-vector predictors whose depth, width and context can be chosen: at the published ones they are those models.

They do not know how they are trained. All see at most the nearest `context` chunks; older ones make no difference.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from retrieval.predictors.base import Predictor, at, sinusoids, to_front
from retrieval.sequences import CONTEXT


class Near(Predictor):
    """Hides all but the nearest chunks from a model that can do with fewer."""

    def __init__(self, net: Predictor, context: int) -> None:
        super().__init__(net.dim)
        self.net = net
        self._older = CONTEXT - context

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        mask = mask.clone()
        mask[:, : self._older] = False
        return self.net.raw(context.masked_fill(~mask.unsqueeze(-1), 0.0), mask)


class Layers(Predictor):
    """`depth` hidden layers over the nearest chunks side by side; the published MLP has one of 1,024."""

    def __init__(self, dim: int, *, depth: int, width: int, context: int) -> None:
        super().__init__(dim)
        self._context = context
        sizes = [context * dim, *(width for _ in range(depth))]
        hidden = [part for into, out in pairwise(sizes) for part in (nn.Linear(into, out), nn.ReLU(), nn.Dropout(0.1))]
        self.net = nn.Sequential(*hidden, nn.Linear(width, dim))

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        prediction: Tensor = self.net(context[:, -self._context :].flatten(1))
        return prediction


class Recurrent(Predictor):
    """`depth` LSTM layers of `width`, the last step through one Linear; the published one has two of 512."""

    def __init__(self, dim: int, *, depth: int, width: int) -> None:
        super().__init__(dim)
        self.lstm = nn.LSTM(dim, width, num_layers=depth, batch_first=True)
        self.head = nn.Linear(width, dim)

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        steps, last = to_front(context, mask)
        prediction: Tensor = self.head(at(self.lstm(steps)[0], last))
        return prediction


class Gated(Predictor):
    """`depth` one-layer GRU blocks of `width` with residual and LayerNorm; the published one has four of 512."""

    def __init__(self, dim: int, *, depth: int, width: int) -> None:
        super().__init__(dim)
        self.into = nn.Linear(dim, width)
        self.gru = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.head = nn.Linear(width, dim)

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        steps, last = to_front(context, mask)
        states = self.into(steps)
        for gru, norm in zip(self.gru, self.norms, strict=True):
            states = norm(states + gru(states)[0])
        prediction: Tensor = self.head(at(states, last))
        return prediction


class Encoder(Predictor):
    """`depth` nn.TransformerEncoder layers of `width` that look both ways, feed-forward four times as wide; the
    published one has four of 512, post-norm."""

    positions: Tensor

    def __init__(self, dim: int, *, depth: int, width: int, heads: int, norm_first: bool) -> None:
        super().__init__(dim)
        self.into = nn.Linear(dim, width)
        self.register_buffer("positions", sinusoids(width), persistent=False)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.1, batch_first=True, norm_first=norm_first)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, dim))

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        states = self.into(context) + self.positions
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=~mask)
        prediction: Tensor = self.head(self.norm(states[:, -1]))
        return prediction
