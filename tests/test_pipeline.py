"""The parts of a model put together: which are opened, the first score, and who orders a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import COPY_LAST, write_model
from tiny_pipelines import AGAINST_PREDICTION, halved, write_reranker, write_towers

from index.dense import normalised
from retrieval.candidates import Choice, decayed
from retrieval.models import Model, ModelConfig
from retrieval.pipeline import Pipeline
from store.records import LookaheadError

DIM = 128
Floats = NDArray[np.float32]


def unit(seed: int, *shape: int) -> Floats:
    drawn = np.random.default_rng(seed).standard_normal((*shape, DIM)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True), dtype=np.float32)


CONTEXT, MASK = unit(0, 3, 5), np.ones((3, 5), dtype=bool)
ROWS = unit(1, 8)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return in_folder(write_model(tmp_path_factory.mktemp("pipeline") / "plain", COPY_LAST))


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """With a reranker beside it that turns a list of six around."""
    folder = tmp_path_factory.mktemp("pipeline")
    model = write_towers(folder / "towers")
    write_reranker(folder / "rerankers" / "towers", model, AGAINST_PREDICTION, blend=0.5)
    return in_folder(model)


def in_folder(folder: Path) -> Model:
    return Model(folder.name, folder, ModelConfig.read(folder), shipped=False)


def folders(model: Model) -> Sequence[Path]:
    return [model.folder.parent / "nowhere", model.folder.parent / "rerankers"]


def test_a_plain_predictor_has_no_other_part_and_compares_with_chunks_as_they_are(plain: Model) -> None:
    pipeline = Pipeline.open(plain, folders(plain))
    assert (pipeline.tower, pipeline.reranker, pipeline.choice) == (None, None, Choice())
    prediction = pipeline.predict(CONTEXT, MASK)
    assert prediction == pytest.approx(CONTEXT[:, -1], abs=1e-2)
    assert pipeline.passages(ROWS) is ROWS
    assert pipeline.queries(CONTEXT, MASK, prediction) is prediction
    assert pipeline.keys(ROWS, ROWS) is ROWS


def test_with_a_p_tower_candidates_go_through_it(towers: Model) -> None:
    pipeline = Pipeline.open(towers, folders(towers), rerank=False)
    assert pipeline.reranker is None
    assert pipeline.choice == Choice()
    assert pipeline.passages(ROWS) == pytest.approx(normalised(ROWS @ halved(DIM)), abs=1e-6)


def test_a_reranker_brings_its_own_depth_and_blend(towers: Model) -> None:
    for rerank in (None, True):
        pipeline = Pipeline.open(towers, folders(towers), rerank=rerank)
        assert pipeline.reranker is not None
        assert pipeline.choice == Choice(depth=6, blend=0.5)
    without = pipeline.without_reranker()
    assert (without.reranker, without.choice.blend, without.tower) == (None, 0.0, pipeline.tower)
    assert pipeline.choosing(Choice(depth=3)).choice.depth == 3


def test_where_a_reranker_is_asked_for_there_must_be_one(plain: Model) -> None:
    with pytest.raises(LookaheadError, match="no reranker over model plain; run: lookahead train reranker"):
        Pipeline.open(plain, folders(plain), rerank=True)


def test_the_first_score_is_the_predictions_and_so_much_of_the_decayed_means(towers: Model) -> None:
    pipeline = Pipeline.open(towers, folders(towers))
    prediction, passages = pipeline.predict(CONTEXT, MASK), pipeline.passages(ROWS)
    queries, keys = pipeline.queries(CONTEXT, MASK, prediction), pipeline.keys(ROWS, passages)
    assert (queries.shape, keys.shape) == ((3, 2 * DIM), (8, 2 * DIM))
    expected = prediction @ passages.T + 0.5 * decayed(CONTEXT, MASK) @ ROWS.T
    assert queries @ keys.T == pytest.approx(expected, abs=1e-6)


def test_without_a_reranker_a_list_is_ordered_by_the_cosine_to_the_prediction(plain: Model) -> None:
    pipeline = Pipeline.open(plain, ())
    prediction = unit(2, 3)
    rows = unit(3, 3, 4)
    present = np.array([[True] * 4, [True, True, False, False], [False] * 4])
    scores = pipeline.rerank(CONTEXT, MASK, 3 * prediction, rows, rows, present)
    expected = np.array([rows[query] @ prediction[query] for query in range(3)])
    assert scores[present] == pytest.approx(expected[present], abs=1e-6)
    assert (scores[~present] == -np.inf).all()


def test_with_one_the_reranker_decides(towers: Model) -> None:
    pipeline = Pipeline.open(towers, folders(towers))
    prediction, rows, passages = unit(2, 3), unit(3, 3, 6), unit(4, 3, 6)
    scores = pipeline.rerank(CONTEXT, MASK, prediction, rows, passages, np.ones((3, 6), dtype=bool))
    assert scores == pytest.approx(-10 * np.einsum("nmd,nd->nm", passages, prediction), abs=1e-4)
