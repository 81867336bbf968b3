"""The baselines: exact values, the fits against their textbook formulas, short contexts, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_articles import article_rows, sequences_of, vectors_of, wandering

from retrieval import baselines
from retrieval.baselines import (
    CONTEXT_MEAN,
    COPY_LAST,
    DECAY,
    DECAYED_MEAN,
    LEAST_SQUARES,
    MEAN_VECTOR,
    PENALTIES,
    RIDGE,
    Constant,
    Linear,
    Mixture,
    copy_last,
    fitted,
    mean_cosine,
)
from retrieval.sequences import Bools, Floats, Sequences, Windows
from store.records import LookaheadError


def one_context(length: int = 5) -> tuple[Floats, Bools]:
    """Chunk t lies on axis t; those before the last `length` are missing."""
    mask = (np.arange(5) >= 5 - length)[None]
    return np.eye(5, 6, dtype=np.float32)[None] * mask[:, :, None], mask


def design(sequences: Sequences, windows: Windows) -> tuple[Floats, Floats]:
    context, _ = sequences.contexts(windows)
    return context.astype(np.float64), sequences.unit(windows.target).astype(np.float64)


def test_copy_last_is_the_last_chunk() -> None:
    assert copy_last(*one_context()).tolist() == [[0, 0, 0, 0, 1, 0]]


def test_a_mixture_weighs_each_chunk() -> None:
    assert Mixture(DECAY)(*one_context())[0].tolist() == pytest.approx([0.1, 0.12, 0.16, 0.22, 0.4, 0])
    assert Mixture(DECAY)(*one_context(2))[0].tolist() == pytest.approx([0, 0, 0, 0.22, 0.4, 0])


def test_a_constant_ignores_its_context() -> None:
    vector = np.arange(6, dtype=np.float32)
    assert Constant(vector)(*one_context()).tolist() == [vector.tolist()]


@given(seed=st.integers(0, 1000), length=st.integers(1, 5))
def test_what_stands_where_a_chunk_is_missing_makes_no_difference(seed: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    context, mask = rng.normal(size=(3, 5, 4)).astype(np.float32), np.tile(np.arange(5) >= 5 - length, (3, 1))
    clean = context * mask[:, :, None]
    for predict in (copy_last, Mixture(DECAY), Linear(rng.normal(size=(20, 4)).astype(np.float32), 1.0)):
        assert predict(context, mask) == pytest.approx(predict(clean, mask))


def test_the_fits_are_those_of_the_textbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_BATCH", 7)
    sequences = sequences_of(tmp_path, wandering([30, 12, 3, 25], dim=6))
    windows = sequences.windows()
    context, target = design(sequences, windows)
    found = fitted(sequences, seed=0)

    columns = context.transpose(0, 2, 1).reshape(-1, 5)
    weights = np.linalg.lstsq(columns, target.reshape(-1), rcond=None)[0]
    mixture = found.predict[LEAST_SQUARES]
    assert isinstance(mixture, Mixture)
    assert mixture.weights == pytest.approx(weights, abs=1e-4)

    flat = context.reshape(len(windows), -1)
    gram = flat.T @ flat
    matrix = np.linalg.solve(gram + np.eye(30) * np.trace(gram) / 30, flat.T @ target)
    ridge = found.predict[RIDGE]
    assert isinstance(ridge, Linear)
    assert ridge.penalty == 1
    assert ridge.matrix == pytest.approx(matrix, abs=1e-4)
    assert "no validation window was there for it" in found.said[1]

    mean = found.predict[MEAN_VECTOR](*sequences.contexts(windows[:1]))[0]
    assert mean == pytest.approx(target.mean(axis=0), abs=1e-5)
    assert list(found.predict) == [COPY_LAST, CONTEXT_MEAN, DECAYED_MEAN, LEAST_SQUARES, RIDGE, MEAN_VECTOR]


def test_short_contexts_are_fitted_with_zeros(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, wandering([4, 3, 7, 5], dim=4))
    context, target = design(sequences, sequences.windows(1))
    weights = np.linalg.lstsq(context.transpose(0, 2, 1).reshape(-1, 5), target.reshape(-1), rcond=None)[0]
    mixture = fitted(sequences, seed=0, shortest=1).predict[LEAST_SQUARES]
    assert isinstance(mixture, Mixture)
    assert mixture.weights == pytest.approx(weights, abs=1e-4)


def test_the_penalty_is_the_one_with_the_best_cosine_on_validation_windows(tmp_path: Path) -> None:
    train = sequences_of(tmp_path / "train", wandering([30, 12, 25], dim=8))
    valid = sequences_of(tmp_path / "valid", wandering([20, 20], dim=8, seed=5))
    ridge = fitted(train, valid, seed=0).predict[RIDGE]
    assert isinstance(ridge, Linear)
    context, target = design(train, train.windows())
    flat = context.reshape(len(context), -1)
    gram = flat.T @ flat
    cosines = {}
    for penalty in PENALTIES:
        matrix = np.linalg.solve(gram + np.eye(40) * penalty * np.trace(gram) / 40, flat.T @ target)
        cosines[penalty] = mean_cosine(Linear(matrix.astype(np.float32), penalty), valid, valid.windows())
    assert ridge.penalty == max(cosines, key=lambda penalty: cosines[penalty])
    assert len(set(cosines.values())) == len(PENALTIES)


def test_a_rule_that_two_numbers_describe_is_found(tmp_path: Path) -> None:
    turn = 0.5  # chunks on a circle: the next is 2·cos(turn) times the last, less the one before
    articles = []
    for seed in range(6):
        plane = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 2)))[0].T
        angles = turn * np.arange(20)[:, None]
        articles.append((np.cos(angles) * plane[0] + np.sin(angles) * plane[1]).astype(np.float32))
    sequences = sequences_of(tmp_path, articles)
    found = fitted(sequences, seed=0)
    windows = sequences.windows()
    assert mean_cosine(found.predict[LEAST_SQUARES], sequences, windows) > 0.999
    assert mean_cosine(found.predict[COPY_LAST], sequences, windows) == pytest.approx(np.cos(turn), abs=1e-3)


def test_only_so_many_windows_are_looked_at_and_the_seed_says_which(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, wandering([40, 40], dim=6))
    weights = {
        seed: fitted(sequences, seed=seed, most=20).predict[LEAST_SQUARES].weights  # type: ignore[attr-defined]
        for seed in (1, 2)
    }
    assert weights[1] != weights[2]
    assert weights[1] == fitted(sequences, seed=1, most=20).predict[LEAST_SQUARES].weights  # type: ignore[attr-defined]
    assert "20 windows" in fitted(sequences, seed=1, most=20).said[0]


def test_a_train_split_without_windows_is_refused(tmp_path: Path) -> None:
    sequences = Sequences(article_rows([3, 5]), vectors_of(tmp_path, np.ones((8, 2), np.float32)))
    with pytest.raises(LookaheadError, match="the train split has no window to fit the baselines on"):
        fitted(sequences, seed=0)


def test_a_validation_split_without_windows_leaves_the_penalty_at_one(tmp_path: Path) -> None:
    train = sequences_of(tmp_path / "train", wandering([30], dim=8))
    valid = sequences_of(tmp_path / "valid", wandering([4], dim=8))
    ridge = fitted(train, valid, seed=0).predict[RIDGE]
    assert isinstance(ridge, Linear)
    assert ridge.penalty == 1
