"""Compiled networks: what the graph says and nothing else, short contexts, many at once, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_models import SUM, write_graph, write_model
from tiny_pipelines import (
    AGAINST_PREDICTION,
    BY_LAST,
    halved,
    write_reranker,
    write_reranker_graph,
    write_tower_graph,
    write_towers,
)

from index.dense import normalised
from index.hashing import HashingEncoder
from retrieval import runtime
from retrieval.models import CONFIG, GRAPH, GRAPH_WEIGHTS, TOWER, TOWER_WEIGHTS, ModelConfig, seal
from retrieval.rerankers import RERANKER, RERANKER_WEIGHTS, RerankerConfig
from retrieval.rerankers import seal as reranker_seal
from retrieval.runtime import CompiledPredictor, CompiledReranker, CompiledTower
from store.records import LookaheadError

DIM = 128
DECAYED = (0.1, 0.12, 0.16, 0.22, 0.4)
KINDS = (BY_LAST, AGAINST_PREDICTION)
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> CompiledPredictor:
    return CompiledPredictor.open(write_model(tmp_path_factory.mktemp("runtime") / "decayed", DECAYED), precision="f32")


def unit(rng: np.random.Generator, *shape: int) -> Floats:
    drawn = rng.standard_normal((*shape, DIM)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True), dtype=np.float32)


def expected(context: Floats, mask: NDArray[np.bool_]) -> Floats:
    """The decayed mixture, one chunk at a time."""
    out = np.zeros((len(context), DIM), dtype=np.float64)
    length = context.shape[1]
    for row in range(len(context)):
        for place in range(length):
            if mask[row, place]:
                out[row] += DECAYED[5 - length + place] * context[row, place]
    return np.asarray(out / np.linalg.norm(out, axis=1, keepdims=True), dtype=np.float32)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_it_answers_as_the_graph_says_with_unit_rows(
    opened: CompiledPredictor, seed: int, length: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    context = unit(rng, count, length)
    there = rng.integers(1, length + 1, count)
    mask = np.arange(-length, 0) >= -there[:, None]
    answer = opened.predict(context, mask)
    assert answer.shape == (count, DIM)
    assert answer.dtype == np.float32
    assert answer == pytest.approx(expected(context, mask), abs=1e-6)
    assert np.linalg.norm(answer, axis=1) == pytest.approx(1.0, abs=1e-6)


def test_a_short_context_is_a_long_one_with_nothing_in_front(opened: CompiledPredictor) -> None:
    short = unit(np.random.default_rng(1), 3, 2)
    padded = np.concatenate([np.zeros((3, 3, DIM), dtype=np.float32), short], axis=1)
    mask = np.tile([False, False, False, True, True], (3, 1))
    assert np.array_equal(opened.predict(short, np.ones((3, 2), dtype=bool)), opened.predict(padded, mask))


def test_one_chunk_is_its_own_mixture(opened: CompiledPredictor) -> None:
    one = np.zeros((1, 1, DIM), dtype=np.float32)
    one[0, 0, 7] = 1.0
    assert opened.predict(one, np.ones((1, 1), dtype=bool))[0].tolist() == one[0, 0].tolist()


@pytest.mark.parametrize("junk", [3.0, np.nan, np.inf])
def test_what_stands_where_the_mask_is_false_makes_no_difference(opened: CompiledPredictor, junk: float) -> None:
    context = unit(np.random.default_rng(2), 4, 5)
    mask = np.tile([False, False, True, True, True], (4, 1))
    before = opened.predict(context, mask)
    context[:, :2] = junk
    assert np.array_equal(opened.predict(context, mask), before)
    assert np.isnan(context).any() == np.isnan(junk)  # and what was handed in is left alone


def test_many_are_answered_as_each_alone(opened: CompiledPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    context = unit(np.random.default_rng(3), 23, 5)
    mask = np.arange(-5, 0) >= -(np.arange(23) % 5 + 1)[:, None]
    alone = np.concatenate([opened.predict(context[row : row + 1], mask[row : row + 1]) for row in range(23)])
    monkeypatch.setattr(runtime, "BATCH", 7)  # 7, 7, 7 and 2
    assert opened.predict(context, mask) == pytest.approx(alone, abs=1e-6)
    assert opened.predict(context[:0], mask[:0]).shape == (0, DIM)


def test_the_same_question_has_the_same_answer_to_the_last_bit(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "sum", SUM)
    context, mask = unit(np.random.default_rng(4), 9, 5), np.ones((9, 5), dtype=bool)
    first = CompiledPredictor.open(folder).predict(context, mask)
    assert np.array_equal(CompiledPredictor.open(folder).predict(context, mask), first)


def test_a_mask_of_numbers_in_the_graph_is_served_too(tmp_path: Path, opened: CompiledPredictor) -> None:
    folder = write_model(tmp_path / "amn")
    write_graph(folder / GRAPH, DIM, DECAYED, mask_type=np.float32)
    replace(ModelConfig.read(folder), seals=seal(folder)).write(folder)
    context = unit(np.random.default_rng(5), 3, 5)
    mask = np.tile([False, True, True, True, True], (3, 1))
    assert np.array_equal(
        CompiledPredictor.open(folder, precision="f32").predict(context, mask), opened.predict(context, mask)
    )


def test_openvino_may_choose_the_precision(tmp_path: Path, opened: CompiledPredictor) -> None:
    context, mask = unit(np.random.default_rng(6), 3, 5), np.ones((3, 5), dtype=bool)
    free = CompiledPredictor.open(write_model(tmp_path / "decayed", DECAYED), precision=None)
    assert free.predict(context, mask) == pytest.approx(opened.predict(context, mask), abs=2e-2)


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "mask", "said"),
    [
        ((2, 5, 64), (2, 5), r"takes \(n, up to 5, 128\), the context is \(2, 5, 64\)"),
        ((5, 128), (5,), r"takes \(n, up to 5, 128\), the context is \(5, 128\)"),
        ((2, 6, 128), (2, 6), "takes 1 to 5 chunks, the context has 6"),
        ((2, 0, 128), (2, 0), "takes 1 to 5 chunks, the context has 0"),
        ((2, 5, 128), (2, 4), r"is \(2, 5\), not \(2, 4\)"),
        ((2, 5, 128), (5, 2), r"is \(2, 5\), not \(5, 2\)"),
    ],
)
def test_a_context_of_another_shape_is_refused_with_both_named(
    opened: CompiledPredictor, context: tuple[int, ...], mask: tuple[int, ...], said: str
) -> None:
    with pytest.raises(LookaheadError, match=said):
        opened.predict(np.zeros(context, dtype=np.float32), np.ones(mask, dtype=bool))


@pytest.mark.parametrize("mask", [[False] * 5, [True, True, True, True, False], [True, False, True, True, True]])
def test_chunks_are_missing_in_front_only(opened: CompiledPredictor, mask: list[bool]) -> None:
    with pytest.raises(LookaheadError, match="missing in front of a context only"):
        opened.predict(np.zeros((1, 5, DIM), dtype=np.float32), np.array([mask]))


def test_a_damaged_graph_is_not_compiled(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "amn")
    raw = bytearray((folder / GRAPH_WEIGHTS).read_bytes())
    raw[100] ^= 1
    (folder / GRAPH_WEIGHTS).write_bytes(raw)
    with pytest.raises(LookaheadError, match=r"predictor\.bin is damaged"):
        CompiledPredictor.open(folder)


def test_a_model_without_a_graph_says_so(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "amn")
    (folder / GRAPH).unlink()
    with pytest.raises(LookaheadError, match=r"cannot read .*predictor\.xml: No such file"):
        CompiledPredictor.open(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(LookaheadError, match="there is no model in"):
        CompiledPredictor.open(folder)


def test_a_sealed_file_that_is_no_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "amn")
    (folder / GRAPH).write_text("<net></net>")
    replace(ModelConfig.read(folder), seals=seal(folder)).write(folder)
    with pytest.raises(LookaheadError, match=r"cannot load .*predictor\.xml: .*train the model again") as told:
        CompiledPredictor.open(folder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("dim", "length"), [(64, 5), (128, 4)])
def test_a_graph_of_another_shape_than_its_config_is_refused(tmp_path: Path, dim: int, length: int) -> None:
    folder = write_model(tmp_path / "amn")
    write_graph(folder / GRAPH, dim, (1.0,) * length)
    replace(ModelConfig.read(folder), seals=seal(folder)).write(folder)
    with pytest.raises(LookaheadError, match=rf"\[\?,{length},{dim}\].*expected context \[\?,5,128\]"):
        CompiledPredictor.open(folder)


def test_the_tiny_models_are_of_the_dimension_of_the_tests_encoder() -> None:
    assert HashingEncoder().dim == DIM


# -- the P tower ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> CompiledTower:
    return CompiledTower.open(write_towers(tmp_path_factory.mktemp("tower") / "towers"))


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_a_tower_answers_as_its_graph_says_with_unit_rows(tower: CompiledTower, seed: int, count: int) -> None:
    vectors = unit(np.random.default_rng(seed), count)
    passages = tower.passages(vectors)
    assert passages.shape == (count, DIM)
    assert passages.dtype == np.float32
    assert passages == pytest.approx(normalised(vectors @ halved(DIM)), abs=1e-6)
    assert np.linalg.norm(passages, axis=1) == pytest.approx(1.0, abs=1e-6)


def test_many_vectors_are_answered_block_by_block(tower: CompiledTower, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(np.random.default_rng(7), 23)
    whole = tower.passages(vectors)
    monkeypatch.setattr(runtime, "_ROWS", 7)  # 7, 7, 7 and 2
    assert tower.passages(vectors) == pytest.approx(whole, abs=1e-6)
    assert tower.passages(vectors.astype(np.float16).astype(np.float32)[::2]).shape == (12, DIM)  # not in one piece


def test_a_tower_computes_in_float32(tower: CompiledTower) -> None:
    """What it gives is kept: bfloat16 would be off in the third digit."""
    vectors = unit(np.random.default_rng(8), 200)
    assert np.abs(tower.passages(vectors) - normalised(vectors @ halved(DIM))).max() < 1e-6


@pytest.mark.parametrize("shape", [(2, 64), (128,), (1, 2, 128)])
def test_vectors_of_another_shape_are_refused(tower: CompiledTower, shape: tuple[int, ...]) -> None:
    with pytest.raises(LookaheadError, match=rf"the P tower takes \(n, 128\), the vectors are \({shape[0]},"):
        tower.passages(np.zeros(shape, dtype=np.float32))


def test_a_damaged_missing_or_other_tower_is_refused(tmp_path: Path) -> None:
    folder = write_towers(tmp_path / "towers")
    raw = (folder / TOWER_WEIGHTS).read_bytes()
    (folder / TOWER_WEIGHTS).write_bytes(bytes([raw[0] ^ 1]) + raw[1:])
    with pytest.raises(LookaheadError, match=r"tower\.bin is damaged"):
        CompiledTower.open(folder)
    CompiledPredictor.open(folder)  # which is whole
    write_tower_graph(folder / TOWER, np.eye(64, dtype=np.float32))
    replace(ModelConfig.read(folder), seals=seal(folder)).write(folder)
    with pytest.raises(LookaheadError, match=r"tower\.xml takes vectors \[\?,64\].*expected vectors \[\?,128\]"):
        CompiledTower.open(folder)
    (folder / TOWER).unlink()
    with pytest.raises(LookaheadError, match=r"cannot read .*tower\.xml"):
        CompiledTower.open(folder)
    with pytest.raises(LookaheadError, match=r"has no checksum of tower\.xml"):
        CompiledTower.open(write_model(tmp_path / "plain"))


# -- the reranker --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CompiledReranker]:
    folder = tmp_path_factory.mktemp("reranker")
    model = write_model(folder / "amn")
    return {kind: CompiledReranker.open(write_reranker(folder / kind, model, kind)) for kind in KINDS}


def lists(seed: int, count: int, width: int) -> tuple[Floats, NDArray[np.bool_], Floats, Floats, Floats]:
    """(context, mask, prediction, candidates, passages)."""
    rng = np.random.default_rng(seed)
    return (
        unit(rng, count, 5),
        np.ones((count, 5), dtype=bool),
        unit(rng, count),
        unit(rng, count, width),
        unit(rng, count, width),
    )


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(1, 6))
def test_a_reranker_scores_each_candidate_as_its_graph_says(
    rerankers: dict[str, CompiledReranker], seed: int, count: int, width: int
) -> None:
    context, mask, prediction, candidates, passages = lists(seed, count, width)
    present = np.random.default_rng(seed).random((count, width)) < 0.8
    expected = {
        BY_LAST: 10 * np.einsum("nmd,nd->nm", candidates, context[:, -1]),
        AGAINST_PREDICTION: -10 * np.einsum("nmd,nd->nm", passages, prediction),
    }
    for kind, reranker in rerankers.items():
        scores = reranker.scores(context, mask, prediction, candidates, passages, present)
        assert scores.shape == (count, width)
        assert scores.dtype == np.float32
        assert scores[present] == pytest.approx(expected[kind][present], abs=1e-4)
        assert (scores[~present] == -np.inf).all()


def test_many_lists_are_scored_as_each_alone(
    rerankers: dict[str, CompiledReranker], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, mask, prediction, candidates, passages = lists(9, 11, 4)
    present = np.ones((11, 4), dtype=bool)
    reranker = rerankers[BY_LAST]

    def scores(rows: slice) -> Floats:
        some = (context[rows], mask[rows], prediction[rows], candidates[rows], passages[rows], present[rows])
        return reranker.scores(*some)

    alone = np.concatenate([scores(slice(row, row + 1)) for row in range(11)])
    monkeypatch.setattr(runtime, "_LISTS", 4)
    assert scores(slice(None)) == pytest.approx(alone, abs=1e-5)


def test_a_list_that_is_too_long_or_of_other_shapes_is_refused(rerankers: dict[str, CompiledReranker]) -> None:
    reranker = rerankers[BY_LAST]
    context, mask, prediction, candidates, passages = lists(10, 2, 7)
    with pytest.raises(LookaheadError, match=r"takes \(n, up to 6, 128\), the candidates are \(2, 7, 128\)"):
        reranker.scores(context, mask, prediction, candidates, passages, np.ones((2, 7), dtype=bool))
    with pytest.raises(LookaheadError, match=r"the candidates are \(2, 7, 128\)"):
        reranker.scores(context, mask, prediction, candidates, passages, np.ones((2, 5), dtype=bool))
    with pytest.raises(LookaheadError, match=r"takes \(n, up to 6, 128\)"):
        reranker.scores(context, mask, prediction, candidates[:, :3], passages[:, :2], np.ones((2, 3), dtype=bool))


def test_a_damaged_or_other_reranker_is_refused(tmp_path: Path) -> None:
    folder = write_reranker(tmp_path / "reranker", write_model(tmp_path / "amn"))
    raw = (folder / RERANKER_WEIGHTS).read_bytes()
    (folder / RERANKER_WEIGHTS).write_bytes(bytes([raw[0] ^ 1]) + raw[1:])
    with pytest.raises(LookaheadError, match=r"reranker\.bin is damaged"):
        CompiledReranker.open(folder)
    write_reranker_graph(folder / RERANKER, DIM, 9)
    replace(RerankerConfig.read(folder), seals=reranker_seal(folder)).write(folder)
    with pytest.raises(LookaheadError, match=r"candidates \[\?,9,128\].*expected .*candidates \[\?,6,128\]"):
        CompiledReranker.open(folder)
