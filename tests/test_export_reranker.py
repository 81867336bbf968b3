"""A reranker as an OpenVINO graph: the same scores for lists of any length, whole files or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_rerank_features import Question, drawn
from test_reranker import opinionated
from torch import Tensor

from index.graphs import ov
from retrieval.export_reranker import export_reranker
from retrieval.models import WEIGHTS
from retrieval.rerank_features import Told
from retrieval.reranker import RERANKERS, MLPReranker
from retrieval.rerankers import RerankerConfig, seal
from retrieval.runtime import CompiledReranker
from store.records import LookaheadError

DIM, DEPTH = 12, 16
WITHIN = 0.005  # of a score


def opened(folder: Path) -> CompiledReranker:
    """As it is found on disk, over some model."""
    (folder / WEIGHTS).write_bytes(b"weights")
    config = RerankerConfig("tiny", "", DIM, DEPTH, 0.7, {"kind": "list"}, 1, seals=seal(folder))
    config.write(folder)
    return CompiledReranker.open(folder)


def asked(compiled: CompiledReranker, question: Question) -> Tensor:
    return torch.from_numpy(compiled.scores(*(one.numpy() for one in question)))


@pytest.fixture(scope="module", params=RERANKERS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[MLPReranker, Path]:
    model, folder = opinionated(request.param), tmp_path_factory.mktemp("exported")
    export_reranker(model, folder, DIM, DEPTH)
    assert isinstance(model, RERANKERS[request.param])
    return model, folder  # type: ignore[return-value]


@pytest.mark.parametrize("many", [1, 2, 9, DEPTH])
def test_lists_up_to_the_depth_are_scored_as_torch_scores_them(both: tuple[MLPReranker, Path], many: int) -> None:
    model, folder = both
    compiled = opened(folder)
    for size in (1, 3, 70):  # 64 go through at once
        question = drawn(many + size, lists=size, many=max(many, 2))
        question = (*question[:3], *(one[:, :many] for one in question[3:]))  # type: ignore[assignment]
        present = question[-1]
        with torch.no_grad():
            wanted = model(*question)
        found = asked(compiled, question)
        assert found.shape == (size, many)
        assert (found - wanted)[present].abs().max() <= WITHIN
        assert torch.equal(found == -torch.inf, ~present)


def test_what_is_no_number_where_nothing_is_harms_no_other_score(both: tuple[MLPReranker, Path]) -> None:
    compiled = opened(both[1])
    context, mask, prediction, candidates, passages, present = drawn(3, lists=4, many=DEPTH)
    known = asked(compiled, (context, mask, prediction, candidates, passages, present))
    gone = ~present.unsqueeze(-1)
    candidates, passages = candidates.masked_fill(gone, torch.nan), passages.masked_fill(gone, torch.nan)
    context = context.masked_fill(~mask.unsqueeze(-1), torch.nan)
    assert torch.equal(asked(compiled, (context, mask, prediction, candidates, passages, present)), known)


def test_scores_are_numbers_for_vectors_of_zeros_and_lists_of_equals(both: tuple[MLPReranker, Path]) -> None:
    model, folder = both
    compiled = opened(folder)
    context, mask, prediction, candidates, passages, _ = drawn(3, lists=2, many=DEPTH)
    present = torch.ones(2, DEPTH, dtype=torch.bool)
    nothing = tuple(torch.zeros_like(one) for one in (context, prediction, candidates, passages))
    equal = candidates[:, :1].expand_as(candidates).contiguous()
    for question in (
        (nothing[0], mask, *nothing[1:], present),
        (context, mask, prediction, equal, equal, present),
    ):
        with torch.no_grad():
            wanted = model(*question)
        found = asked(compiled, question)
        assert found.isfinite().all()
        assert (found - wanted).abs().max() <= WITHIN


def test_a_list_in_which_nothing_is_does_not_harm_the_others(both: tuple[MLPReranker, Path]) -> None:
    compiled = opened(both[1])
    question = drawn(3, lists=3, many=DEPTH)
    known = asked(compiled, question)
    question[-1][1] = False
    found = asked(compiled, question)
    assert torch.equal(found[[0, 2]], known[[0, 2]])
    assert (found[1] == -torch.inf).all()


def test_the_graph_says_what_it_takes_and_gives(both: tuple[MLPReranker, Path]) -> None:
    graph = ov.Core().read_model(both[1] / "reranker.xml")
    ports = {port.get_any_name(): str(port.get_partial_shape()) for port in graph.inputs}
    assert ports == {
        "context": f"[?,5,{DIM}]",
        "mask": "[?,5]",
        "prediction": f"[?,{DIM}]",
        "candidates": f"[?,{DEPTH},{DIM}]",
        "passages": f"[?,{DEPTH},{DIM}]",
        "present": f"[?,{DEPTH}]",
    }
    assert graph.output().get_any_name() == "scores"
    assert str(graph.output().get_partial_shape()) == f"[?,{DEPTH}]"


class Moody(MLPReranker):
    """Scores one list in another way than several, which a trace cannot hold."""

    def judged(self, told: Told) -> Tensor:
        return told.features[..., 0] * 0 + (0.2 if len(told.features) == 1 else 0.0)


class Undecided(MLPReranker):
    def judged(self, told: Told) -> Tensor:
        return told.features[..., 0] * torch.nan


@pytest.mark.parametrize(("model", "said"), [(Moody, r"Moody .* by 0\.2"), (Undecided, "Undecided .* by nan")])
def test_a_graph_that_scores_otherwise_is_refused_and_the_one_before_stays(
    tmp_path: Path, model: type[MLPReranker], said: str
) -> None:
    (tmp_path / "reranker.xml").write_text("the one before")
    with pytest.raises(LookaheadError, match=f"of {said}.*, expected at most 0.01"):
        export_reranker(model().eval(), tmp_path, DIM, DEPTH)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the one before"]


def test_a_reranker_that_is_still_training_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="dropout"):
        export_reranker(MLPReranker().train(), tmp_path, DIM, DEPTH)
    assert not list(tmp_path.iterdir())
