"""The published next-character model: embedding, sinusoidal positions, causal nn.TransformerEncoder, linear to 78.

It does not know text. Post-norm is the published form; pre-norm ends in a norm of its own, as in GPT-2, and so has
2 × width parameters more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval.characters.vocabulary import SIZE
from retrieval.predictors.base import sinusoids


class CharacterModel(nn.Module):
    """Symbols (B, T) → scores (B, T, 78) of the symbol after each. T is at most `length`; padding stands behind."""

    positions: Tensor
    hidden: Tensor

    def __init__(
        self, width: int, depth: int, heads: int, ff: int, *, dropout: float, norm_first: bool, length: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SIZE, width)
        self.register_buffer("positions", sinusoids(width, length), persistent=False)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        self.register_buffer("hidden", later, persistent=False)
        layer = nn.TransformerEncoderLayer(width, heads, ff, dropout, batch_first=True, norm_first=norm_first)
        norm = nn.LayerNorm(width) if norm_first else None
        self.encoder = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)
        for value in self.encoder.parameters():  # else every layer starts as a copy of one; torch's manual asks for it
            if value.ndim > 1:
                nn.init.xavier_uniform_(value)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(width, SIZE)

    def forward(self, symbols: Tensor) -> Tensor:
        long = symbols.shape[1]
        states = self.drop(self.embedding(symbols) + self.positions[:long])
        # padding needs no mask of its own: it stands behind, and nothing looks ahead
        states = self.encoder(states, mask=self.hidden[:long, :long], is_causal=True)
        scores: Tensor = self.out(states)
        return scores
