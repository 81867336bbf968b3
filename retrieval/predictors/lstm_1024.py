"""The published wide LSTM: two layers of 1,024 and a hidden layer behind them (17,581,824 parameters at 768).

It does not know how long a context could have been: a short one is a short sequence.
"""

from __future__ import annotations

from torch import Tensor, nn

from retrieval.predictors.base import Predictor, at, to_front


class WideLSTM(Predictor):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.lstm = nn.LSTM(dim, 1024, num_layers=2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Dropout(0.1), nn.Linear(1024, dim))

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        steps, last = to_front(context, mask)
        prediction: Tensor = self.head(at(self.lstm(steps)[0], last))
        return prediction
