"""Training a reranker: it finds a planted order, its lists are honest, and what was interrupted goes on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from planted import CHUNKS, DIM, copy_last, planted
from tiny_articles import article_rows, vectors_of, wandering
from torch import Tensor

from retrieval import rerank_lists
from retrieval import train_reranker as subject
from retrieval.candidates import Choice
from retrieval.models import CARD, CONFIG, LOG, WEIGHTS, Model, ModelConfig
from retrieval.pipeline import Pipeline
from retrieval.rerank_features import Told
from retrieval.rerank_lists import LISTS, PASSAGES, Lists, kept_lists, lists_in
from retrieval.reranker import build_reranker
from retrieval.rerankers import RerankerConfig, check_seals, find_reranker
from retrieval.runtime import CompiledReranker
from retrieval.search import Searcher
from retrieval.sequences import Sequences, Windows
from retrieval.train_reranker import RerankRecipe, RerankTask, Trained, WatchedLists, train_reranker
from retrieval.training import CHECKPOINT
from retrieval.weights import load_weights
from store.generations import MANIFEST, DamageWarning
from store.records import LookaheadError, Split

QUICK = RerankRecipe(epochs=3, batch=16, depth=12, rate=1e-2, ema=0.9, checks=3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return copy_last(tmp_path_factory.mktemp("models") / "copy")


@pytest.fixture(scope="module")
def pipeline(model: Model) -> Pipeline:
    return Pipeline.open(model, (), rerank=False)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def sequences(searcher: Searcher) -> Sequences:
    return Sequences(searcher.store.articles(Split.TRAIN), searcher.vectors)


@pytest.fixture(scope="module")
def lists(pipeline: Pipeline, sequences: Sequences) -> Lists:
    """Of the first ten chains and their decoys."""
    some = sequences.only(range(30))
    return lists_in(pipeline.choosing(Choice(12, 0.7)), some, some.windows(), 12)[0]


@pytest.fixture(scope="module")
def watched(pipeline: Pipeline, searcher: Searcher) -> WatchedLists:
    valid = Sequences(searcher.store.articles(Split.VALID), searcher.vectors)
    return WatchedLists(pipeline.choosing(Choice(12, 0.7)), valid, QUICK, CPU)


def trained(
    searcher: Searcher, folder: Path, model: Model, pipeline: Pipeline, recipe: RerankRecipe = QUICK
) -> Trained:
    return train_reranker(searcher, folder, model, pipeline, recipe=recipe, command="typed", quiet=True)


@pytest.fixture(scope="module")
def made(
    searcher: Searcher, model: Model, pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Trained]:
    folder = tmp_path_factory.mktemp("rerankers") / model.name
    return folder, trained(searcher, folder, model, pipeline)


@pytest.fixture
def unexported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph takes seconds to make; what the weights are shows without."""

    def written(network: object, folder: Path, dim: int, depth: int) -> None:
        for name in ("reranker.xml", "reranker.bin"):
            (folder / name).touch()

    monkeypatch.setattr(subject, "export_reranker", written)


def task_of(
    lists: Lists,
    pipeline: Pipeline,
    sequences: Sequences,
    watched: WatchedLists,
    recipe: RerankRecipe = QUICK,
    passages: NDArray[np.float16] | None = None,
) -> RerankTask:
    if passages is None:
        passages = sequences.unit(sequences.ids()).astype(np.float16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_reranker(recipe.kind).eval()
    return RerankTask(network, pipeline, sequences, lists, passages, watched, recipe, CPU)


# -- what is learnt ------------------------------------------------------------------------------------------


def test_a_planted_order_is_learnt(made: tuple[Path, Trained]) -> None:
    _, result = made
    assert (result.first["R@1"], result.first["MRR"]) == (0, 0.5)  # the decoy always, then the truth
    assert result.first["seen MRR"] == pytest.approx(1 / 3)  # before both the last chunk itself
    assert result.outcome.best["R@1"] > 0.95
    assert result.outcome.best["seen R@1"] > 0.95


def test_the_graph_on_disk_has_learnt_it_too(
    made: tuple[Path, Trained], searcher: Searcher, pipeline: Pipeline
) -> None:
    compiled = CompiledReranker.open(made[0])
    assert (compiled.dim, compiled.depth) == (DIM, QUICK.depth)
    valid = Sequences(searcher.store.articles(Split.VALID), searcher.vectors)
    asked = valid.windows()
    lists, _ = lists_in(pipeline.choosing(Choice(12, 0.7)), valid, asked, 12)
    ids, present = lists.choose(12, np.zeros(len(lists), dtype=bool))
    context, mask = valid.contexts(asked)
    rows = valid.unit(np.maximum(ids, 0).ravel()).reshape(*ids.shape, DIM)
    scores = compiled.scores(context, mask, pipeline.predict(context, mask), rows, rows, present)
    first = np.take_along_axis(ids, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    assert (first == asked.target).mean() > 0.95
    # the weights beside it are those of the graph
    network = build_reranker(QUICK.kind).eval()
    load_weights(made[0] / WEIGHTS, network)
    arrays = (context, mask, pipeline.predict(context, mask), rows, rows, present)
    assert (network.scale != 1).all()  # fitted to lists before it learnt
    with torch.no_grad():
        ours = network(*(torch.from_numpy(one) for one in arrays)).numpy()
    assert np.abs(ours - scores)[present].max() < 0.01


@pytest.mark.usefixtures("unexported")
@pytest.mark.parametrize("kind", ["mlp"])
def test_the_other_kind_learns_it_as_well(
    searcher: Searcher, model: Model, pipeline: Pipeline, tmp_path: Path, kind: str
) -> None:
    result = trained(searcher, tmp_path, model, pipeline, replace(QUICK, kind=kind))
    assert result.outcome.best["R@1"] > 0.95
    assert result.config.options == {"kind": kind}


def test_a_reranker_that_makes_it_worse_is_stopped(watched: WatchedLists) -> None:
    task = RerankTask.__new__(RerankTask)
    task._watched = watched
    first = watched.first["MRR"]
    assert task.trouble({"MRR": first - 0.2}, 0.1) is None
    said = task.trouble({"MRR": first - 0.2}, 0.3)
    assert said is not None
    assert "worse than the prediction does (MRR 0.300 against 0.500)" in said
    assert task.trouble({"MRR": first - 0.005}, 1.0) is None  # comes and goes


# -- what is written -----------------------------------------------------------------------------------------


def test_a_folder_holds_all_of_a_reranker_and_nothing_of_its_making(made: tuple[Path, Trained], model: Model) -> None:
    folder, result = made
    assert {path.name for path in folder.iterdir()} == {
        CONFIG, WEIGHTS, CARD, LOG, "reranker.xml", "reranker.bin",
    }  # fmt: skip
    config = RerankerConfig.read(folder)
    check_seals(folder, config)
    assert config == RerankerConfig(**{name: getattr(result.config, name) for name in RerankerConfig.__slots__})
    assert (config.over, config.over_seal) == ("copy", model.config.seals[WEIGHTS])
    assert (config.dim, config.depth, config.blend) == (DIM, 12, 0.7)
    assert config.parameters == 73_097
    assert config.trained["data"] == {"collection": "planted", "train_articles": 180, "train_windows": 300}
    assert (config.trained["lists"], config.trained["in_list"], config.trained["valid_windows"]) == (300, 1.0, 60)
    assert config.trained["command"] == "typed"
    assert config.trained["recipe"] == {name: getattr(QUICK, name) for name in RerankRecipe.__slots__}
    assert config.trained["first"] == result.first


def test_the_card_says_over_what_on_what_and_with_which_figures(made: tuple[Path, Trained]) -> None:
    card = (made[0] / CARD).read_text(encoding="utf-8")
    for said in ("# Reranker over copy", "collection `planted`", "`typed`", "300 lists, of which 100.0 %", "| 0.500 |"):
        assert said in card


def test_it_is_found_for_its_model_and_not_when_the_models_weights_are_others(
    made: tuple[Path, Trained], model: Model, tmp_path: Path
) -> None:
    folders = [made[0].parent]
    found = find_reranker(model, folders)
    assert found is not None
    assert found.folder == made[0]
    assert Pipeline.open(model, folders).choice == Choice(12, 0.7)
    shutil.copytree(model.folder, tmp_path / "copy")
    (tmp_path / "copy" / WEIGHTS).write_bytes(b"trained again")
    write_again = replace(model.config, seals={**model.config.seals, WEIGHTS: "0" * 64})
    write_again.write(tmp_path / "copy")
    other = Model("copy", tmp_path / "copy", ModelConfig.read(tmp_path / "copy"), shipped=False)
    with pytest.warns(DamageWarning, match="copy goes without a reranker"):
        assert find_reranker(other, folders) is None
    with pytest.raises(LookaheadError, match="is over other weights of copy"):
        find_reranker(other, folders, needed=True)


@pytest.mark.usefixtures("unexported")
def test_it_says_beforehand_what_it_will_do(
    searcher: Searcher, model: Model, pipeline: Pipeline, tmp_path: Path
) -> None:
    said: list[str] = []
    recipe = replace(QUICK, kind="mlp", epochs=0.2, checks=1)
    train_reranker(searcher, tmp_path, model, pipeline, recipe=recipe, limit=100, quiet=True, note=said.append)
    [sentence] = said
    assert sentence.startswith("mlp reranker over copy: 6,145 parameters, ")
    assert sentence.endswith(" 100.0 % hold the next chunk, watched on 60 windows, 1 steps")
    config = RerankerConfig.read(tmp_path)
    assert 0 < config.trained["lists"] < 300


# -- the lists -----------------------------------------------------------------------------------------------


def test_a_list_begins_with_the_context_the_decoy_and_the_truth(pipeline: Pipeline, sequences: Sequences) -> None:
    some = sequences.only(range(30))
    lists, _ = lists_in(pipeline, some, some.windows(), 12)
    assert lists.ids.shape == (50, 12 + 5)
    for target, best in zip(lists.target.tolist(), lists.ids[:, :3].tolist(), strict=True):
        assert best == [target - 1, target - 1 + CHUNKS, target]  # decoys stand behind their chain


@pytest.mark.parametrize("seen", [0.0, 1.0])
def test_the_own_context_is_in_the_lists_only_where_it_is_seen(
    lists: Lists, pipeline: Pipeline, sequences: Sequences, watched: WatchedLists, seen: float
) -> None:
    task = task_of(lists, pipeline, sequences, watched, replace(QUICK, seen=seen, short=0.0))
    for step in range(task.per_epoch):
        told, ids, target = task.read(step)
        back = torch.from_numpy(target[:, None] - ids)
        own = (back >= 1) & (back <= 5) & told.present
        assert own.any(dim=1).tolist() == [seen == 1.0] * len(target)
        in_context = told.features[..., subject.NAMES.index("in the context")] == 1
        assert torch.equal(in_context, own)


def test_of_a_shortened_context_only_what_is_left_of_it_is_left_out(
    lists: Lists, pipeline: Pipeline, sequences: Sequences, watched: WatchedLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Windows] = []
    whole = subject._told

    def kept(pipeline: Pipeline, sequences: Sequences, windows: Windows, *rest: object) -> Told:
        asked.append(windows)
        return whole(pipeline, sequences, windows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(subject, "_told", kept)
    told, ids, target = task_of(lists, pipeline, sequences, watched, replace(QUICK, seen=0.0, short=1.0)).read(0)
    length = asked[0].length
    assert set(length.tolist()) == {1, 2, 3, 4, 5}
    back = torch.from_numpy(target[:, None] - ids)
    inside = (back >= 1) & (back <= torch.from_numpy(length)[:, None]) & told.present
    before = (back >= 1) & (back <= 5) & told.present
    assert not inside.any()
    assert before[length < 3].any()


def test_lists_are_told_of_by_vectors_alone(
    lists: Lists, pipeline: Pipeline, searcher: Searcher, sequences: Sequences, tmp_path: Path
) -> None:
    """The same candidates under other ids, in other articles, in another order: the same rows."""
    ids, present = lists.choose(12, np.ones(len(lists), dtype=bool))
    ids, present, asked = ids[:8], present[:8], sequences.windows()[:8]
    rows = sequences.unit(np.arange(600))
    context = {chunk for target in asked.target.tolist() for chunk in range(target - 5, target + 1)}
    free = np.array([chunk for chunk in range(600) if chunk not in context])
    elsewhere = np.arange(600)
    elsewhere[free] = np.random.default_rng(0).permutation(free)
    moved = np.empty_like(rows)
    moved[elsewhere] = rows
    others = Sequences(article_rows([100] * 6), vectors_of(tmp_path / "moved", moved))
    passages = rows[ids]
    order = np.random.default_rng(1).permutation(12)
    told = subject._told(pipeline, sequences, asked, ids, present, passages, CPU)
    again = subject._told(pipeline, others, asked, elsewhere[ids][:, order], present[:, order], passages[:, order], CPU)
    assert (elsewhere[ids] != ids).mean() > 0.3
    assert torch.allclose(again.features, told.features[:, order], atol=1e-5)
    assert torch.allclose(again.among, told.among[:, order][:, :, order], atol=1e-5)


def test_groups_are_of_whole_articles_each_in_one(sequences: Sequences) -> None:
    groups = list(rerank_lists._groups(sequences, 300, 0))
    assert len(groups) == 4
    ids = np.concatenate([group.ids() for group in groups])
    assert sorted(ids.tolist()) == sequences.ids().tolist()
    assert all(abs(len(group.ids()) - 300) < 60 for group in groups)
    assert all((np.diff(group.ids()) > 0).all() for group in groups)  # in the order of their chunks


def test_a_group_without_a_window_makes_no_list(sequences: Sequences) -> None:
    decoys = sequences.only([number for number in range(60) if number % 3])
    assert list(rerank_lists._groups(decoys, 50, 0)) == []


def test_choosing_keeps_the_order_and_says_where_there_is_no_more() -> None:
    ids = np.array([[8, 9, 10, 11, 3, 7], [8, 9, 10, 11, 3, -1]], dtype=np.int32)
    lists = Lists(np.array([10, 4]), np.array([2, 1]), ids)
    chosen, present = lists.choose(4, np.array([False, False]))
    assert chosen[0].tolist() == [10, 11, 3, 7]
    assert chosen[1].tolist() == [8, 9, 10, 11]  # 3 is the context
    assert present.all()
    chosen, present = lists.choose(6, np.array([True, False]))
    assert chosen[0].tolist() == ids[0].tolist()
    assert present.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert lists.holding(4).tolist() == [True, False]


def test_a_truth_that_only_the_own_context_pushes_out_is_held() -> None:
    lists = Lists(np.array([5]), np.array([5]), np.array([[0, 1, 2, 3, 4, 9, 5]], dtype=np.int32))
    assert lists.holding(2).tolist() == [True]
    assert lists.holding(1).tolist() == [False]


def test_small_banks_make_short_lists(pipeline: Pipeline, sequences: Sequences) -> None:
    few = sequences.only([0])
    lists, passages = lists_in(pipeline, few, few.windows(), 12)
    assert lists.ids.shape == (5, 17)
    assert (lists.ids[:, :10] >= 0).all()
    assert (lists.ids[:, 10:] == -1).all()
    assert passages.shape == (10, DIM)


def test_the_recipe_says_how_candidates_are_chosen(
    searcher: Searcher, model: Model, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices: list[Choice] = []

    def noted(folder: Path, facts: object, pipeline: Pipeline, *_: object, **__: object) -> None:
        choices.append(pipeline.choice)
        raise KeyboardInterrupt

    monkeypatch.setattr(subject, "kept_lists", noted)
    with pytest.raises(KeyboardInterrupt):
        trained(searcher, tmp_path, model, pipeline.choosing(Choice(50, 0.1, assist=3)))
    assert choices == [Choice(12, 0.7)]


# -- the truth in a list -------------------------------------------------------------------------------------


def test_a_twin_of_the_target_is_no_rival_and_the_target_is_not_its_own(tmp_path: Path) -> None:
    rows = np.concatenate(wandering([8, 8]))
    rows[12] = rows[6] * 2  # the same direction, and 13 nearly so
    rows[13] = rows[6] + 0.02 * np.linalg.norm(rows[6]) * np.eye(24, dtype=np.float32)[0]
    sequences = Sequences(article_rows([8, 8]), vectors_of(tmp_path, rows))
    ids = np.array([[12, 3, 6, 13, 1], [12, 3, 13, 1, -1]])
    twins, place, there = subject._truth(sequences, ids, np.array([6, 6]))
    assert twins.tolist() == [[True, False, False, True, False], [True, False, True, False, False]]
    assert (int(place[0]), there.tolist()) == (2, [True, False])


def test_twins_and_absent_candidates_do_not_count_in_the_loss(
    pipeline: Pipeline, sequences: Sequences, watched: WatchedLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all scores are equal, the loss is the logarithm of how many count."""
    few = sequences.only([0])  # ten chunks: without the context five are left for twelve places
    lists, _ = lists_in(pipeline, few, few.windows(), 12)
    task = task_of(lists, pipeline, sequences, watched, replace(QUICK, batch=5, seen=0.0, short=0.0))
    monkeypatch.setattr(task.model, "scores", lambda told: 0 * told.features[..., 0])
    assert float(task.loss(0)) == pytest.approx(np.log(5))
    monkeypatch.setattr(subject, "DUPLICATE", 0.45)  # some of a chain are nearer to each other, some not
    count = []
    for row, one in zip(*task.read(0)[1:], strict=True):
        near = sequences.unit(row[:5]) @ sequences.unit(np.array([one]))[0]
        count.append(1 + int((near < 0.45).sum()))
    assert len(set(count)) > 1
    assert float(task.loss(0)) == pytest.approx(np.mean(np.log(count)))


def test_a_list_without_the_truth_teaches_nothing(
    lists: Lists, pipeline: Pipeline, sequences: Sequences, watched: WatchedLists
) -> None:
    recipe = replace(QUICK, batch=4, seen=0.0, short=0.0)
    ids = lists.ids[:4].copy()
    ids[ids == lists.target[:4, None]] = -1
    never = Lists(lists.target[:4], lists.length[:4], ids)
    loss = task_of(never, pipeline, sequences, watched, recipe).loss(0)
    assert float(loss.detach()) == 0.0  # and not a number that is none
    some = Lists(lists.target[:4], lists.length[:4], np.concatenate([ids[:2], lists.ids[2:4]]))
    only = task_of(lists[2:4], pipeline, sequences, watched, replace(recipe, batch=2)).loss(0)
    both = task_of(some, pipeline, sequences, watched, recipe).loss(0)
    assert float(both.detach()) == pytest.approx(float(only.detach()), abs=1e-5)


def test_only_lists_with_the_truth_are_learnt_from(
    searcher: Searcher, model: Model, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, given = subject.kept_lists, []

    def spoiled(*arguments: object, **named: object) -> tuple[Lists, object]:
        lists, passages = whole(*arguments, **named)  # type: ignore[arg-type]
        ids = np.where(np.arange(len(lists))[:, None] % 2 & (lists.ids == lists.target[:, None]), -1, lists.ids)
        return Lists(lists.target, lists.length, ids), passages

    def noted(self: RerankTask, step: int) -> Tensor:
        given.append(len(self._lists))
        raise KeyboardInterrupt

    monkeypatch.setattr(subject, "kept_lists", spoiled)
    monkeypatch.setattr(RerankTask, "loss", noted)
    with pytest.raises(KeyboardInterrupt):
        trained(searcher, tmp_path, model, pipeline)
    assert given == [150]


def test_a_model_that_finds_nothing_is_not_reranked(
    searcher: Searcher, model: Model, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lists, "holding", lambda self, depth: np.zeros(len(self), dtype=bool))
    with pytest.raises(LookaheadError, match="planted: no list of candidates holds the true next chunk"):
        trained(searcher, tmp_path, model, pipeline)
    assert not (tmp_path / CONFIG).exists()


# -- what it is watched on -----------------------------------------------------------------------------------


def test_ranks_count_ties_as_ahead_and_what_is_in_no_list_as_never() -> None:
    scores = torch.tensor([[3.0, 2.0, 2.0, 9.0], [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0], [torch.nan, 0, 0, 0]])
    present = torch.tensor([[True, True, True, False], [True] * 4, [True] * 4, [True] * 4])
    place = torch.tensor([1, 0, 4, 0])
    assert subject._ranks(scores, present, place).tolist() == [3.0, 4.0, torch.inf, 4.0]


def test_the_watched_figures_agree_with_a_slow_count(
    watched: WatchedLists, searcher: Searcher, pipeline: Pipeline
) -> None:
    assert watched.windows == 60
    valid = Sequences(searcher.store.articles(Split.VALID), searcher.vectors)
    bank = valid.unit(valid.ids())
    for view, first in (("", 1), ("seen ", 0)):
        ranks = []
        for target in valid.windows().target.tolist():
            scores = dict(
                zip(valid.ids().tolist(), (bank @ valid.unit(np.array([target - 1]))[0]).tolist(), strict=True)
            )
            for back in range(1, 6) if first else ():
                del scores[target - back]
            ranks.append(sum(score >= scores[target] for score in scores.values()))
        assert watched.first[f"{view}MRR"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
        assert watched.first[f"{view}R@1"] == pytest.approx(np.mean([rank <= 1 for rank in ranks]))


def test_an_untrained_reranker_has_the_figures_of_the_prediction(watched: WatchedLists) -> None:
    assert watched.figures(build_reranker("list").eval()) == pytest.approx(watched.first)


def test_only_so_many_windows_are_watched_and_only_so_many_chunks(
    pipeline: Pipeline, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    valid = Sequences(searcher.store.articles(Split.VALID), searcher.vectors)
    banks: list[int] = []
    whole = subject.lists_in

    def noted(pipeline: Pipeline, bank: Sequences, *rest: object) -> object:
        banks.append(len(bank.ids()))
        return whole(pipeline, bank, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(subject, "lists_in", noted)
    few = WatchedLists(pipeline, valid, replace(QUICK, bank=100), CPU, windows=8)
    assert 5 <= few.windows <= 10
    assert 60 <= banks[0] <= 100


# -- interrupted ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unexported")
def test_the_same_seed_gives_the_same_weights_and_another_gives_others(
    searcher: Searcher, model: Model, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(QUICK, kind="mlp", epochs=0.3, checks=1)
    for name, recipe in (("one", short), ("again", short), ("other", replace(short, seed=1))):
        trained(searcher, tmp_path / name, model, pipeline, recipe)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "one" / WEIGHTS).read_bytes()
    assert (tmp_path / "other" / WEIGHTS).read_bytes() != (tmp_path / "one" / WEIGHTS).read_bytes()
    begun: list[float] = []

    def noted(self: RerankTask, step: int) -> Tensor:
        begun.append(float(next(self.model.parameters()).detach().sum()))
        raise KeyboardInterrupt

    monkeypatch.setattr(RerankTask, "loss", noted)
    for seed in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            trained(searcher, tmp_path / f"begun-{seed}", model, pipeline, replace(short, seed=seed))
    assert begun[0] != begun[1]


@pytest.mark.usefixtures("unexported")
def test_a_killed_training_goes_on_to_the_same_weights(
    searcher: Searcher, model: Model, pipeline: Pipeline, made: tuple[Path, Trained], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = RerankTask.loss
    last = made[1].outcome.steps - 1

    def killed(task: RerankTask, step: int) -> Tensor:
        if step == last:
            raise KeyboardInterrupt
        return whole(task, step)

    monkeypatch.setattr(RerankTask, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(searcher, tmp_path, model, pipeline)
    assert {path.name for path in tmp_path.iterdir()} >= {CHECKPOINT, LISTS, PASSAGES, LOG}
    steps: list[int] = []

    def counted(task: RerankTask, step: int) -> Tensor:
        steps.append(step)
        return whole(task, step)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the lists were made again")

    monkeypatch.setattr(RerankTask, "loss", counted)
    monkeypatch.setattr(rerank_lists, "lists_in", never)
    manifest = searcher.generation.path / MANIFEST
    manifest.write_bytes(b'{"other": "articles, under the same name"}')
    with pytest.raises(LookaheadError, match=r"holds another training that was interrupted"):
        trained(searcher, tmp_path, model, pipeline)
    manifest.write_bytes(b"{}")
    with pytest.raises(LookaheadError, match=r"holds another training that was interrupted.*add --restart"):
        trained(searcher, tmp_path, model, pipeline, replace(QUICK, rate=3e-3))
    trained(searcher, tmp_path, model, pipeline)
    assert steps[0] > 0
    assert (tmp_path / WEIGHTS).read_bytes() == (made[0] / WEIGHTS).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in made[0].iterdir()}


class Kept:
    """`kept_lists` in one folder, and how many groups it has made lists of."""

    def __init__(self, folder: Path, pipeline: Pipeline, sequences: Sequences) -> None:
        self.folder, self.groups, self.die_at = folder, 0, -1
        self._pipeline, self._sequences = pipeline, sequences

    def lists_in(self, *arguments: object) -> object:
        if self.groups == self.die_at:
            raise KeyboardInterrupt
        self.groups += 1
        return lists_in(*arguments)  # type: ignore[arg-type]

    def __call__(self, facts: str) -> tuple[Lists, NDArray[np.float16]]:
        return kept_lists(
            self.folder,
            {"facts": facts},
            self._pipeline,
            self._sequences,
            2_000,
            depth=12,
            bank=300,
            seed=0,
            quiet=True,
        )


@pytest.fixture
def keeping(tmp_path: Path, pipeline: Pipeline, sequences: Sequences, monkeypatch: pytest.MonkeyPatch) -> Kept:
    one = Kept(tmp_path, pipeline, sequences)
    monkeypatch.setattr(rerank_lists, "lists_in", one.lists_in)
    return one


def same(one: Lists, other: Lists) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("target", "length", "ids"))


def test_lists_of_all_windows_and_the_passages_of_all_chunks_are_kept(keeping: Kept, sequences: Sequences) -> None:
    lists, passages = keeping("a")
    assert sorted(lists.target.tolist()) == sequences.windows().target.tolist()
    assert passages.shape == (2_000, DIM)
    ids = sequences.ids()
    assert np.abs(passages[ids] - sequences.unit(ids)).max() < 1e-3


def test_lists_are_taken_up_again_and_made_anew_when_the_facts_are_others(keeping: Kept) -> None:
    lists, passages = keeping("a")
    assert keeping.groups == 4
    again, the_same = keeping("a")
    assert keeping.groups == 4
    assert same(lists, again)
    assert np.array_equal(passages, the_same)
    keeping("b")
    assert keeping.groups == 8


def test_half_made_lists_are_begun_again(keeping: Kept) -> None:
    keeping.die_at = 2
    with pytest.raises(KeyboardInterrupt):
        keeping("a")
    keeping.die_at = -1
    lists, _ = keeping("a")
    assert keeping.groups == 2 + 4
    assert len(lists) == 300


def test_lists_whose_passages_another_making_has_begun_to_write_over_are_made_again(keeping: Kept) -> None:
    _, passages = keeping("a")
    wanted = np.array(passages)
    keeping.die_at = 6
    with pytest.raises(KeyboardInterrupt):
        keeping("b")
    keeping.die_at = -1
    assert np.array_equal(keeping("a")[1], wanted)


@pytest.mark.parametrize(("name", "left"), [(LISTS, 0), (LISTS, 1_000), (PASSAGES, 0), (PASSAGES, 1_000)])
def test_kept_lists_that_were_cut_off_are_made_again(keeping: Kept, name: str, left: int) -> None:
    lists, passages = keeping("a")
    wanted = np.array(passages)
    whole = (keeping.folder / name).read_bytes()
    (keeping.folder / name).unlink()
    (keeping.folder / name).write_bytes(whole[:left])
    (keeping.folder / CHECKPOINT).touch()
    again, the_same = keeping("a")
    assert keeping.groups == 8
    assert same(lists, again)
    assert np.array_equal(the_same, wanted)


# -- what cannot be trained ----------------------------------------------------------------------------------


def test_a_split_without_windows_is_one_sentence(
    searcher: Searcher, model: Model, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "some_articles", lambda *_: [])
    with pytest.raises(LookaheadError, match="none of the 0 articles in the train split has 6 chunks"):
        trained(searcher, tmp_path, model, pipeline)
