"""The published LSTM: two layers of 512, the last step through one Linear (5,120,768 parameters at 768).

It does not know how long a context could have been: a short one is a short sequence.
"""

from __future__ import annotations

from torch import Tensor, nn

from retrieval.predictors.base import Predictor, at, to_front


class LSTM(Predictor):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.lstm = nn.LSTM(dim, 512, num_layers=2, batch_first=True)
        self.head = nn.Linear(512, dim)

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        steps, last = to_front(context, mask)
        prediction: Tensor = self.head(at(self.lstm(steps)[0], last))
        return prediction
