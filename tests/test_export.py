"""Every predictor as an OpenVINO graph: the same answers in batches of any size, whole files or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from index.graphs import ov
from retrieval.export import export, export_tower
from retrieval.predictors import KINDS, build
from retrieval.predictors.base import Anchored, Predictor
from retrieval.towers import TOWERS, IdentityTower, PassageTower, build_tower
from store.records import LookaheadError

DIM = 16
QUICK = ["amn", "lstm", "residual", "transformer-encoder"]  # one of each way to be traced; the others are slow


def predictor(kind: str, *, anchored: bool) -> Predictor:
    """One with random weights, whose net has as much to say as the anchor."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(kind, DIM, anchored=anchored).eval()
    if isinstance(model, Anchored):
        torch.nn.init.constant_(model.gain, 1.0)
    return model


def compiled(folder: Path) -> ov.CompiledModel:
    return ov.Core().compile_model(folder / "predictor.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check_same(model: Predictor, folder: Path) -> None:
    """Compares the two on batches of other sizes than the one traced, each row with another length of context."""
    graph = compiled(folder)
    for size in (1, 5, 7, 64):
        chance = torch.Generator().manual_seed(size + 100)
        context = functional.normalize(torch.randn(size, 5, DIM, generator=chance), dim=-1)
        mask = torch.arange(5) >= torch.randint(0, 5, (size, 1), generator=chance)
        with torch.no_grad():
            wanted = model(context, mask).numpy()
        found = graph([context.numpy(), mask.numpy()])[0]
        assert found.shape == (size, DIM)
        assert (found * wanted).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_an_anchored_predictor_answers_alike_in_both(tmp_path: Path, kind: str) -> None:
    model = predictor(kind, anchored=True)
    export(model, tmp_path, DIM)
    check_same(model, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_predictor_as_published_answers_alike_in_both(tmp_path: Path, kind: str) -> None:
    model = predictor(kind, anchored=False)
    export(model, tmp_path, DIM)
    check_same(model, tmp_path)


class CopyLast(Predictor):
    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        return context[:, -1]


def test_the_graph_says_what_it_takes_and_gives_and_stands_alone(tmp_path: Path) -> None:
    export(CopyLast(DIM).eval(), tmp_path / "new", DIM)
    assert names(tmp_path / "new") == {"predictor.xml", "predictor.bin"}
    graph = compiled(tmp_path / "new")
    ports = [(port.get_any_name(), str(port.get_partial_shape()), port.get_element_type()) for port in graph.inputs]
    assert ports == [("context", f"[?,5,{DIM}]", ov.Type.f32), ("mask", "[?,5]", ov.Type.boolean)]
    assert (graph.output().get_any_name(), str(graph.output().get_partial_shape())) == ("prediction", f"[?,{DIM}]")


class Moody(Predictor):
    """Answers one question in another way than several, which a trace cannot hold."""

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        return -context[:, -1] if len(context) == 1 else context[:, -1]


def test_copying_the_last_chunk_is_copied(tmp_path: Path) -> None:
    export(CopyLast(3).eval(), tmp_path, 3)
    context = np.zeros((1, 5, 3), dtype=np.float32)
    context[0, 3:] = [[9, 9, 9], [0, 3, 4]]
    found = compiled(tmp_path)([context, np.array([[False, False, False, False, True]])])[0]
    assert found.ravel().tolist() == pytest.approx([0, 0.6, 0.8])


def test_a_graph_that_answers_otherwise_is_refused_and_the_one_before_stays(tmp_path: Path) -> None:
    export(CopyLast(3).eval(), tmp_path, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(LookaheadError, match=r"of Moody differs from the trained model \(cosine -1"):
        export(Moody(3).eval(), tmp_path, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_predictor_that_is_still_training_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="dropout"):
        export(predictor("mlp", anchored=False).train(), tmp_path, DIM)
    assert names(tmp_path) == set()


# -- P towers ------------------------------------------------------------------------------------------------


class Backwards(PassageTower):
    """Answers one question in another way than several, or as it was."""

    def raw(self, vectors: Tensor) -> Tensor:
        return -vectors if len(vectors) == 1 else vectors


@pytest.mark.parametrize("kind", TOWERS)
def test_a_p_tower_answers_alike_in_both(tmp_path: Path, kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = build_tower(kind, DIM).eval()
    if isinstance(tower, IdentityTower):
        torch.nn.init.constant_(tower.gain, 3.0)
    export_tower(tower, tmp_path)
    assert names(tmp_path) == {"tower.xml", "tower.bin"}
    graph = ov.Core().compile_model(tmp_path / "tower.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (port,) = graph.inputs
    assert (port.get_any_name(), str(port.get_partial_shape())) == ("vectors", f"[?,{DIM}]")
    assert str(graph.output().get_partial_shape()) == f"[?,{DIM}]"
    for size in (1, 5, 64):
        vectors = functional.normalize(torch.randn(size, DIM, generator=torch.Generator().manual_seed(size)), dim=1)
        with torch.no_grad():
            wanted = tower(vectors).numpy()
        assert (graph([vectors.numpy()])[0] * wanted).sum(axis=1).min() > 0.9999
        assert size == 1 or (vectors.numpy() * wanted).sum(axis=1).min() < 0.9999


def test_a_p_tower_whose_graph_answers_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match=r"of Backwards differs from the trained model \(cosine -1"):
        export_tower(Backwards(3).eval(), tmp_path)
    assert names(tmp_path) == set()
