"""Training a predictor on a small collection: what is written, that it resumes, and when it stops."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from index.build import Choices, ingest
from retrieval import train_predictor as subject
from retrieval.batches import Batches
from retrieval.models import CARD, CONFIG, CURVES, GRAPH, LOG, WEIGHTS, ModelConfig, check_seals
from retrieval.predictors import build
from retrieval.predictors.base import Predictor
from retrieval.recipes import Recipe, recipe_for
from retrieval.runtime import CompiledPredictor
from retrieval.search import Searcher
from retrieval.sequences import Sequences
from retrieval.train_predictor import Trained, Watched, _begin_with, loss_of, some_articles, train_predictor
from retrieval.training import CHECKPOINT, HEARTBEAT
from retrieval.weights import load_weights
from store.generations import Collection
from store.records import LookaheadError, Split
from store.sources import open_source
from store.staging import making

QUICK = Recipe(epochs=2, windows=64, run=16, checks=2, rate=3e-3, patience=0)


def story(page: int) -> str:
    """Twelve sentences of ten words; a word lives for three of them, so neighbours have much in common."""
    return " ".join(
        " ".join(f"w{page}x{(9 * place + word) // 3}" for word in range(9)) + f" end{page}." for place in range(12)
    )


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    folder = tmp_path_factory.mktemp("train")
    rows = ({"page_id": page, "title": f"Page {page}", "text": story(page)} for page in range(1, 61))
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    collection = Collection(folder / "collections" / "tales")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
    ingest(collection, [open_source(folder / "pages.jsonl", "jsonl")], choices)
    with Searcher.open(collection) as one:
        yield one


def trained(searcher: Searcher, folder: Path, kind: str = "residual", recipe: Recipe = QUICK) -> Trained:
    folder.mkdir(exist_ok=True)
    return train_predictor(
        searcher,
        folder,
        kind,
        name=kind,
        recipe=recipe,
        anchored=True,
        options={"rank": 8},
        command="typed",
        quiet=True,
    )


@pytest.fixture(scope="module")
def made(searcher: Searcher, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    folder = tmp_path_factory.mktemp("made")
    return folder, trained(searcher, folder)


# -- what is written -----------------------------------------------------------------------------------------


def test_a_model_folder_holds_all_of_a_model_and_nothing_of_its_making(made: tuple[Path, Trained]) -> None:
    folder, _ = made
    assert {path.name for path in folder.iterdir()} == {
        CONFIG, WEIGHTS, GRAPH, "predictor.bin", CARD, LOG, CURVES,
    }  # fmt: skip
    config = ModelConfig.read(folder)
    check_seals(folder, config)
    assert (config.kind, config.dim, config.anchored) == ("residual", 128, True)
    assert config.trained["data"]["collection"] == "tales"
    assert config.trained["command"] == "typed"
    assert config.trained["recipe"] == json.loads(json.dumps({**vars_of(QUICK)}))
    assert (folder / CURVES).read_bytes().startswith(b"\x89PNG")


def vars_of(recipe: Recipe) -> dict[str, object]:
    return {name: getattr(recipe, name) for name in Recipe.__slots__}


def test_the_card_says_data_command_seed_figures_and_licence(made: tuple[Path, Trained]) -> None:
    card = (made[0] / CARD).read_text(encoding="utf-8")
    for said in ("collection `tales`", "`typed`", "| seed | 0 |", "copy-last", "Apache-2.0", "training articles only"):
        assert said in card


def test_only_training_articles_are_trained_on(searcher: Searcher, made: tuple[Path, Trained]) -> None:
    rows = searcher.store.articles(Split.TRAIN)
    data = made[1].config.trained["data"]
    assert data["train_articles"] == len(rows)
    assert data["train_windows"] == sum(row.chunk_count - 1 for row in rows)


def test_torch_and_openvino_predict_the_same(searcher: Searcher, made: tuple[Path, Trained]) -> None:
    folder, _ = made
    model = build("residual", 128, anchored=True, options={"rank": 8}).eval()
    load_weights(folder / WEIGHTS, model)
    these = Sequences(searcher.store.articles(Split.TEST), searcher.vectors)
    context, mask = these.contexts(these.windows(1))
    with torch.no_grad():
        ours = model(torch.from_numpy(context), torch.from_numpy(mask)).numpy()
    theirs = CompiledPredictor.open(folder).predict(context, mask)
    assert ((ours * theirs).sum(axis=1) > 0.999).all()


def test_a_checkpoint_of_another_class_is_refused_by_name(made: tuple[Path, Trained]) -> None:
    with pytest.raises(LookaheadError, match="is not of a Anchored of this size"):
        load_weights(made[0] / WEIGHTS, build("residual", 128, anchored=True, options={"rank": 9}))
    with pytest.raises(LookaheadError, match="is not of a AMN of this size"):
        load_weights(made[0] / WEIGHTS, build("amn", 128, anchored=False))


def test_training_does_not_begin_with_weights_for_other_vectors(
    searcher: Searcher, made: tuple[Path, Trained], tmp_path: Path
) -> None:
    shutil.copytree(made[0], tmp_path / "other")
    config = ModelConfig.read(made[0])
    replace(config, encoder=replace(config.encoder, model="another")).write(tmp_path / "other")
    model = build("residual", 128, anchored=True, options={"rank": 8})
    with pytest.raises(LookaheadError, match=r"is for another.*, the collection's vectors are from "):
        _begin_with(tmp_path / "other", model, "residual", searcher.fingerprint)
    config.write(tmp_path / "other")
    _begin_with(tmp_path / "other", model, "residual", searcher.fingerprint)
    (tmp_path / "other" / WEIGHTS).write_bytes(b"x")
    with pytest.raises(LookaheadError, match="is damaged"):
        _begin_with(tmp_path / "other", model, "residual", searcher.fingerprint)


def test_it_gets_better_than_copying_the_last_chunk(made: tuple[Path, Trained]) -> None:
    _, result = made
    assert result.outcome.best["MRR"] > result.copy_last["MRR"]


# -- the same again ------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights(searcher: Searcher, made: tuple[Path, Trained], tmp_path: Path) -> None:
    trained(searcher, tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (made[0] / WEIGHTS).read_bytes()
    trained(searcher, tmp_path / "other", recipe=replace(QUICK, seed=1))
    assert (tmp_path / "other" / WEIGHTS).read_bytes() != (made[0] / WEIGHTS).read_bytes()


def test_a_killed_training_goes_on_to_the_same_weights(
    searcher: Searcher, made: tuple[Path, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = subject.PredictorTask.loss
    last = made[1].outcome.steps - 1

    def killed(task: subject.PredictorTask, step: int) -> Tensor:
        if step == last:
            raise KeyboardInterrupt
        return whole(task, step)

    monkeypatch.setattr(subject.PredictorTask, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(searcher, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, LOG, HEARTBEAT}
    steps: list[int] = []

    def counted(task: subject.PredictorTask, step: int) -> Tensor:
        steps.append(step)
        return whole(task, step)

    monkeypatch.setattr(subject.PredictorTask, "loss", counted)
    trained(searcher, tmp_path)
    assert steps[0] > 0
    assert (tmp_path / WEIGHTS).read_bytes() == (made[0] / WEIGHTS).read_bytes()


# -- what it is watched on -----------------------------------------------------------------------------------


class Constant(Predictor):
    """Foretells the same whatever came before."""

    def __init__(self, vector: Tensor) -> None:
        super().__init__(len(vector))
        self.vector = nn.Parameter(vector)

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        return self.vector.expand(len(context), -1)


class Telling(Predictor):
    """Knows the answers."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__(answers.shape[1])
        self.answers = answers

    def raw(self, context: Tensor, mask: Tensor) -> Tensor:
        return self.answers[: len(context)]


@pytest.fixture(scope="module")
def valid(searcher: Searcher) -> Sequences:
    return Sequences(searcher.store.articles(Split.VALID), searcher.vectors)


def test_an_oracle_is_right_every_time(valid: Sequences) -> None:
    figures = Watched(valid, torch.device("cpu")).figures(Telling(torch.from_numpy(valid.unit(valid.windows().target))))
    assert figures["MRR"] == figures["R@1"] == 1
    assert figures["cosine"] == pytest.approx(1)


def test_a_constant_prediction_has_collapsed_and_says_so(valid: Sequences) -> None:
    watched = Watched(valid, torch.device("cpu"))
    mean = torch.from_numpy(valid.unit(valid.windows().target)).mean(dim=0)
    for vector in (mean, torch.randn(128, generator=torch.Generator().manual_seed(1))):
        said = watched.collapse(watched.figures(Constant(vector)))
        assert said is not None
        assert "collapsed" in said
        assert f"the mean vector's is {watched.mean_cosine:.3f}" in said


def test_a_prediction_that_is_no_number_comes_last(valid: Sequences) -> None:
    figures = Watched(valid, torch.device("cpu")).figures(Constant(torch.full((128,), torch.nan)))
    assert figures["R@20"] == 0
    assert figures["MRR"] == pytest.approx(1 / len(valid.ids()) if len(valid.ids()) <= 50 else 0)


def test_targets_that_hardly_differ_do_not_prove_a_collapse(valid: Sequences) -> None:
    watched = Watched(valid, torch.device("cpu"))
    told = {**watched.copy_last, "cosine": watched.mean_cosine, "spread": 0.03}
    assert watched.collapse(told) is not None
    watched.spread = 0.06  # an encoder whose vectors all point nearly the same way
    assert watched.collapse(told) is None
    first = valid.only([0])
    one = Watched(Sequences([replace(first.articles[0], chunk_count=6)], valid._vectors), torch.device("cpu"))
    assert one.windows == 1
    assert one.collapse(one.copy_last) is None


def test_copying_the_last_chunk_is_no_collapse_even_with_the_mean_vectors_cosine(valid: Sequences) -> None:
    watched = Watched(valid, torch.device("cpu"))
    assert watched.collapse(watched.copy_last) is None
    assert watched.collapse({**watched.copy_last, "cosine": watched.mean_cosine}) is None


def test_a_collapsed_training_writes_no_model(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "build", lambda *_, **__: Constant(torch.ones(128)))
    with pytest.raises(LookaheadError, match="the predictions have collapsed"):
        trained(searcher, tmp_path)
    assert not (tmp_path / CONFIG).exists()


def test_ranks_agree_with_a_slow_count(valid: Sequences) -> None:
    watched = Watched(valid, torch.device("cpu"))
    windows, ids = valid.windows(), valid.ids()
    bank = valid.unit(ids)
    context, _ = valid.contexts(windows)
    ranks = []
    for place, target in enumerate(windows.target.tolist()):
        scores = bank @ context[place, -1]
        rivals = [score for chunk, score in zip(ids.tolist(), scores, strict=True) if not target - 5 <= chunk <= target]
        ranks.append(1 + sum(score >= scores[ids.tolist().index(target)] for score in rivals))
    assert watched.copy_last["R@5"] == pytest.approx(np.mean([rank <= 5 for rank in ranks]))
    assert watched.copy_last["MRR"] == pytest.approx(np.mean([1 / rank if rank <= 50 else 0 for rank in ranks]))


def test_only_so_many_windows_are_watched(valid: Sequences) -> None:
    assert 9 <= Watched(valid, torch.device("cpu"), windows=9).windows < 9 + 12


def test_a_windows_own_context_and_nothing_else_is_no_negative(searcher: Searcher, valid: Sequences) -> None:
    these = Sequences(searcher.store.articles(Split.TRAIN), searcher.vectors)
    batches = Batches(these, windows=64, run=16, short=0.5, seed=0)
    cpu = torch.device("cpu")
    task = subject.PredictorTask(
        build("residual", 128, anchored=True), batches, Watched(valid, cpu), replace(QUICK, seed=0), cpu
    )
    judged: list[subject.Judged] = []

    def kept(predicted: Tensor, these: subject.Judged) -> Tensor:
        judged.append(these)
        return predicted.sum()

    task._loss = kept
    task.loss(0)
    batch = batches.read(batches.epoch(0)[0], 0, 0)
    for row, masked in enumerate(judged[0].masked):
        assert masked.nonzero()[:, 0].tolist() == batch.context[row][batch.mask[row]].tolist()
    assert judged[0].target.tolist() == batch.target.tolist()


# -- choices -------------------------------------------------------------------------------------------------


def test_a_limit_takes_whole_articles(searcher: Searcher) -> None:
    rows = searcher.store.articles(Split.TRAIN)
    some = some_articles(rows, 30, seed=0)
    assert sum(row.chunk_count - 1 for row in some) >= 30 > sum(row.chunk_count - 1 for row in some[:-1])
    assert some == sorted(some, key=lambda row: row.first_chunk)
    assert some_articles(rows, None, seed=0) == rows
    assert some_articles(rows, 30, seed=1) != some


def test_a_split_without_windows_is_one_sentence(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "some_articles", lambda *_: [])
    with pytest.raises(LookaheadError, match="none of the 0 articles in the train split has 6 chunks"):
        trained(searcher, tmp_path)


def test_a_recipe_is_changed_only_where_asked() -> None:
    assert recipe_for("amn", {"rate": 0.5, "seed": None}).rate == 0.5
    assert recipe_for("amn", {"rate": None}) == recipe_for("amn", {})
    with pytest.raises(LookaheadError, match="nothing to train for"):
        recipe_for("amn", {"contrast": 0.0})
    with pytest.raises(ValueError, match="no taste"):
        recipe_for("amn", {"taste": 1})


def test_the_machines_precision_is_taken_unless_a_predictor_has_its_own() -> None:
    assert recipe_for("gru", {}, native="bf16").precision == "bf16"
    assert recipe_for("amn", {}, native="bf16").precision == "f32"
    assert recipe_for("amn", {"precision": "bf16"}).precision == "bf16"


def test_losses_are_weighted_as_the_recipe_says() -> None:
    bank = torch.eye(3)
    these = subject.Judged(bank, torch.tensor([0]), torch.zeros(1, 3, dtype=torch.bool))
    both = loss_of(Recipe(contrast=0, cosine=2, mse=3))
    assert both(bank[[1]], these).item() == pytest.approx(5)


# -- where it is made ----------------------------------------------------------------------------------------


def test_a_model_takes_its_place_only_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "amn").mkdir()
    (tmp_path / "amn" / "old").touch()
    with pytest.raises(LookaheadError, match="half"), making(tmp_path, "amn") as folder:  # noqa: PT012
        (folder / "new").touch()
        raise LookaheadError("half")
    assert [path.name for path in (tmp_path / "amn").iterdir()] == ["old"]
    with making(tmp_path, "amn") as folder:
        assert (folder / "new").exists()
    assert [path.name for path in (tmp_path / "amn").iterdir()] == ["new"]


def test_restart_forgets_what_was_half_made(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), making(tmp_path, "amn") as folder:  # noqa: PT012
        (folder / "half").touch()
        raise KeyboardInterrupt
    with making(tmp_path, "amn", restart=True) as folder:
        assert not (folder / "half").exists()


def test_a_model_whose_successor_was_killed_between_two_renames_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "amn").mkdir()
    (tmp_path / "amn" / "old").touch()
    rename = os.rename

    def killed(source: Path, place: Path) -> None:
        if source.name.startswith(".making"):
            raise KeyboardInterrupt
        rename(source, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt), making(tmp_path, "amn") as folder:
            (folder / "new").touch()
    assert not (tmp_path / "amn").exists()
    with making(tmp_path, "amn"):
        assert (tmp_path / "amn" / "old").exists()
    assert [path.name for path in (tmp_path / "amn").iterdir()] == ["new"]


def test_what_was_being_written_when_a_maker_was_killed_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), making(tmp_path, "amn") as folder:  # noqa: PT012
        for name in (CHECKPOINT, f"{CHECKPOINT}.123.tmp"):
            (folder / name).touch()
        (folder / ".export-1").mkdir()
        (folder / ".export-1" / GRAPH).touch()
        raise KeyboardInterrupt
    with making(tmp_path, "amn") as folder:
        assert [path.name for path in folder.iterdir()] == [CHECKPOINT]


def test_a_second_maker_of_the_same_model_is_refused(tmp_path: Path) -> None:
    with making(tmp_path, "amn"):
        with pytest.raises(LookaheadError, match="amn is being made by another process; wait"), making(tmp_path, "amn"):
            pass
        with making(tmp_path, "gru"):
            pass


def test_a_refused_training_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError), making(tmp_path, "amn"):
        raise LookaheadError("no windows")
    assert [path.name for path in tmp_path.iterdir()] == [".amn.lock"]
