"""The next-vector predictors, one file a model, by name. Importing this package loads no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from store.records import LookaheadError

if TYPE_CHECKING:
    from retrieval.predictors.base import Predictor

# name → module:class; the first eight are the published ones, with their exact parameter counts
KINDS = {
    "amn": "amn:AMN",
    "gru": "gru:GRU",
    "lstm": "lstm:LSTM",
    "lstm-1024": "lstm_1024:WideLSTM",
    "mlp": "mlp:MLP",
    "transformer": "transformer:Transformer",
    "transformer-encoder": "transformer_encoder:TransformerEncoder",
    "mamba": "mamba:Mamba",
    "residual": "residual:Residual",
}


def build(kind: str, dim: int, *, anchored: bool, options: dict[str, Any] | None = None) -> Predictor:
    """A predictor with fresh weights (seed torch first). `options` are the class's own keyword arguments."""
    if kind not in KINDS:
        raise LookaheadError(f"there is no predictor {kind!r}; there are: {', '.join(KINDS)}")
    from retrieval.predictors.base import Anchored

    module, name = KINDS[kind].split(":")
    net: Predictor = getattr(importlib.import_module(f"retrieval.predictors.{module}"), name)(dim, **(options or {}))
    return Anchored(net) if anchored else net
