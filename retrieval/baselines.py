"""What a model must beat: the next vector guessed without a network, from five numbers at most or one matrix.

It does not know how a guess is judged, nor what a trained model is. What has to be fitted is fitted on windows of the
train split alone. Missing chunks of a short context count as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.progress import bar
from retrieval.sequences import CONTEXT, Bools, Floats, Ints, Sequences, Windows
from store.records import LookaheadError

# (context (n, 5, D) of unit rows, nearest chunk last; mask (n, 5), false where there is none) → (n, D) of any length
Predicts = Callable[[Floats, Bools], Floats]

DECAY = (0.1, 0.12, 0.16, 0.22, 0.4)
MOST = 100_000  # train windows looked at; five numbers need fewer, and ridge gains nothing in the third digit
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of ridge, in units of the mean of the Gram matrix's diagonal
_CHOOSING = 4_000  # validation windows on which ridge's penalty is chosen
_BATCH = 4_096

COPY_LAST, CONTEXT_MEAN, DECAYED_MEAN = "copy-last", "context mean", "decayed mean"
MEAN_VECTOR, LEAST_SQUARES, RIDGE = "mean vector", "least-squares weights", "ridge"
BASELINES = (COPY_LAST, CONTEXT_MEAN, DECAYED_MEAN, LEAST_SQUARES, RIDGE, MEAN_VECTOR)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Five fixed weights, the last for the nearest chunk; those of missing chunks are shared out among the others,
    which a cosine does not see."""

    weights: tuple[float, ...]

    def __call__(self, context: Floats, mask: Bools) -> Floats:
        weights = np.where(mask, np.array(self.weights, dtype=np.float32), np.float32(0))
        mixed: Floats = np.einsum("nt,ntd->nd", weights, context)
        return mixed


@dataclass(frozen=True, slots=True)
class Constant:
    """The same vector whatever the context: what a collapsed network predicts."""

    vector: Floats

    def __call__(self, context: Floats, mask: Bools) -> Floats:
        return np.tile(self.vector, (len(context), 1))


@dataclass(frozen=True, slots=True)
class Linear:
    """One matrix (5·D, D) over the whole context; ridge regression when it was fitted with `penalty`."""

    matrix: Floats
    penalty: float

    def __call__(self, context: Floats, mask: Bools) -> Floats:
        predicted: Floats = (context * mask[:, :, None]).reshape(len(context), -1) @ self.matrix
        return predicted


def copy_last(context: Floats, mask: Bools) -> Floats:
    """The last chunk, which is always there."""
    return context[:, -1]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The baselines by name, and in words what the fit found (for the foot of a table)."""

    predict: dict[str, Predicts]
    said: tuple[str, ...]


def fitted(
    train: Sequences,
    valid: Sequences | None = None,
    *,
    seed: int,
    shortest: int = CONTEXT,
    most: int = MOST,
    quiet: bool = True,
) -> Fitted:
    """All baselines, fitted on up to `most` windows of `train`, drawn with `seed`.

    Ridge's penalty is the one with the best cosine on windows of `valid`; without any it is 1.
    """
    windows = _drawn(train.windows(shortest), most, seed)
    if not len(windows):
        raise LookaheadError("the train split has no window to fit the baselines on; ingest more articles")
    moments = _moments(train, windows, quiet=quiet)
    weights = moments.weights()
    solved = {penalty: moments.matrix(penalty) for penalty in (PENALTIES if valid is not None else (1.0,))}
    ridge, cosine = next(iter(solved.values())), None
    chosen_on = _drawn(valid.windows(shortest), _CHOOSING, seed) if valid is not None else Windows(*_NOTHING)
    if valid is not None and len(chosen_on):
        cosines = {penalty: mean_cosine(linear, valid, chosen_on) for penalty, linear in solved.items()}
        ridge, cosine = solved[max(cosines, key=lambda penalty: cosines[penalty])], max(cosines.values())
    elif valid is not None:
        ridge = solved[1.0]
    return Fitted(
        {
            COPY_LAST: copy_last,
            CONTEXT_MEAN: Mixture((1 / CONTEXT,) * CONTEXT),
            DECAYED_MEAN: Mixture(DECAY),
            LEAST_SQUARES: Mixture(weights),
            RIDGE: ridge,
            MEAN_VECTOR: Constant(moments.mean()),
        },
        (
            f"baselines were fitted on {len(windows):,} windows of the train split; least-squares weights, nearest "
            f"chunk last: {' '.join(f'{weight:.3f}' for weight in weights)}",
            f"ridge's penalty is {ridge.penalty:g} times the mean of its Gram matrix's diagonal, "
            + (
                f"chosen by cosine ({cosine:.4f}) on {len(chosen_on):,} windows of the validation split"
                if cosine is not None
                else "not chosen: no validation window was there for it"
            ),
        ),
    )


def mean_cosine(predict: Predicts, sequences: Sequences, windows: Windows) -> float:
    """Mean cosine of predictions to their targets."""
    total = 0.0
    for batch in _batches(windows):
        predicted = predict(*sequences.contexts(batch))
        target = sequences.unit(batch.target)
        lengths = np.maximum(np.linalg.norm(predicted, axis=1), 1e-12)
        total += float((np.einsum("nd,nd->n", predicted, target) / lengths).sum())
    return total / len(windows)


_NOTHING: tuple[Ints, Ints, Ints] = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class _Moments:
    """Sums over windows: XᵀX (5·D, 5·D) and XᵀY (5·D, D) of the flattened contexts X and the targets Y, and Σ Y."""

    gram: Floats
    cross: Floats
    total: NDArray[np.float64]
    count: int

    def mean(self) -> Floats:
        return np.asarray(self.total / self.count, dtype=np.float32)

    def weights(self) -> tuple[float, ...]:
        """The w that make Σ |Σₜ wₜ xₜ − y|² least; their normal equations are traces of the blocks of the sums."""
        dim = len(self.total)
        gram = np.einsum("sdtd->st", self.gram.reshape(CONTEXT, dim, CONTEXT, dim).astype(np.float64))
        cross = np.einsum("tdd->t", self.cross.reshape(CONTEXT, dim, dim).astype(np.float64))
        return tuple(float(weight) for weight in np.linalg.lstsq(gram, cross, rcond=None)[0])

    def matrix(self, penalty: float) -> Linear:
        gram = self.gram.astype(np.float64)
        places = np.arange(len(gram))
        gram[places, places] += penalty * max(float(np.trace(self.gram)) / len(gram), 1e-12)
        return Linear(np.linalg.solve(gram, self.cross.astype(np.float64)).astype(np.float32), penalty)


def _moments(sequences: Sequences, windows: Windows, *, quiet: bool) -> _Moments:
    wide = CONTEXT * sequences.dim
    gram, cross = np.zeros((wide, wide), np.float32), np.zeros((wide, sequences.dim), np.float32)
    total = np.zeros(sequences.dim)
    with bar("fitting baselines", len(windows), "windows", quiet=quiet) as shown:
        for batch in _batches(windows):
            flat = sequences.contexts(batch)[0].reshape(len(batch), wide)
            target = sequences.unit(batch.target)
            gram += flat.T @ flat
            cross += flat.T @ target
            total += target.sum(axis=0, dtype=np.float64)
            shown.update(len(batch))
    return _Moments(gram, cross, total, len(windows))


def _drawn(windows: Windows, most: int, seed: int) -> Windows:
    """At most so many of the windows, in their order: reading goes through the shards once."""
    if len(windows) <= most:
        return windows
    return windows[np.sort(np.random.default_rng(seed).choice(len(windows), most, replace=False))]


def _batches(windows: Windows) -> Iterator[Windows]:
    for start in range(0, len(windows), _BATCH):
        yield windows[start : start + _BATCH]
