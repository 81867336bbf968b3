"""Training two towers on a small collection: what is written, who is compared with whom, and that it resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from test_train_predictor import Constant, story
from tiny_articles import sequences_of, wandering
from torch import Tensor
from torch.nn import functional

from cli import main
from index.build import Choices, ingest
from retrieval import train_towers as subject
from retrieval.batches import Batch, Batches
from retrieval.models import CARD, CONFIG, CURVES, GRAPH, LOG, TOWER, WEIGHTS, ModelConfig, check_seals
from retrieval.negatives import NONE, Asked
from retrieval.predictors import build
from retrieval.recipes import RECIPES, TowersRecipe, towers_recipe_for
from retrieval.runtime import CompiledPredictor, CompiledTower
from retrieval.search import Searcher
from retrieval.sequences import Ints, Sequences
from retrieval.towers import IdentityTower, Towers, build_tower
from retrieval.train_predictor import Trained, Watched, _begin_with
from retrieval.train_towers import Ring, TowersTask, Weights, alike, mine, train_towers
from retrieval.training import CHECKPOINT, HEARTBEAT, STEPS
from retrieval.weights import load_weights
from store.generations import Collection
from store.records import LookaheadError, Split
from store.sources import open_source

QUICK = TowersRecipe(epochs=2, windows=64, run=16, checks=2, rate=3e-3, ema=0.5, patience=0)
HARD = replace(
    QUICK, negatives=2, near_misses=1, hard_from=0.2, memory=60, symmetric=0.5, learned=True, length_correction=0.5
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    rows = ({"page_id": page, "title": f"Page {page}", "text": story(page)} for page in range(1, 61))
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    choices = Choices(encoder="hashing", words=10, workers=1, quiet=True)
    ingest(Collection(folder / "collections" / "tales"), [open_source(folder / "pages.jsonl", "jsonl")], choices)
    return folder


@pytest.fixture(scope="module")
def searcher(home: Path) -> Iterator[Searcher]:
    with Searcher.open(Collection(home / "collections" / "tales")) as one:
        yield one


def trained(
    searcher: Searcher, folder: Path, recipe: TowersRecipe = QUICK, tower: str | None = "identity", half: bool = False
) -> Trained:
    folder.mkdir(exist_ok=True)
    return train_towers(
        searcher,
        folder,
        "residual",
        name="towers",
        recipe=recipe,
        tower=tower,
        tower_options=None if tower is None else {"rank": 8},
        options={"rank": 8},
        half=half,
        command="typed",
        quiet=True,
    )


@pytest.fixture(scope="module")
def made(searcher: Searcher, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    folder = tmp_path_factory.mktemp("made")
    return folder, trained(searcher, folder, half=True)


# -- what is written -----------------------------------------------------------------------------------------


def test_a_model_folder_holds_both_towers_and_nothing_of_their_making(made: tuple[Path, Trained]) -> None:
    folder, result = made
    assert {path.name for path in folder.iterdir()} == {
        CONFIG, WEIGHTS, GRAPH, "predictor.bin", TOWER, "tower.bin", CARD, LOG, CURVES,
    }  # fmt: skip
    config = ModelConfig.read(folder)
    check_seals(folder, config)
    assert (config.kind, config.anchored, config.options) == ("residual", True, {"rank": 8})
    assert config.tower == {"kind": "identity", "options": {"rank": 8}}
    assert config.parameters == sum(value.numel() for value in [*loaded(folder).parameters()])
    assert config.trained["recipe"]["temperature"] == 0.04
    card = (folder / CARD).read_text(encoding="utf-8")
    assert "through a P tower (`identity`)" in card
    assert "`tower.xml`" in card
    assert result.outcome.best["MRR"] > result.copy_last["MRR"]


def loaded(folder: Path) -> Towers:
    towers = Towers(
        build("residual", 128, anchored=True, options={"rank": 8}), build_tower("identity", 128, {"rank": 8})
    )
    load_weights(folder / WEIGHTS, towers.kept())
    return towers.eval()


def test_torch_and_openvino_answer_alike_from_weights_in_half_precision(
    searcher: Searcher, made: tuple[Path, Trained]
) -> None:
    folder, _ = made
    towers = loaded(folder)
    these = Sequences(searcher.store.articles(Split.TEST), searcher.vectors)
    context, mask = these.contexts(these.windows(1))
    rows = these.unit(these.ids())
    with torch.no_grad():
        predicted = towers.query(torch.from_numpy(context), torch.from_numpy(mask)).numpy()
        passages = towers.passages(torch.from_numpy(rows)).numpy()
    assert ((predicted * CompiledPredictor.open(folder).predict(context, mask)).sum(axis=1) > 0.999).all()
    assert ((passages * CompiledTower.open(folder).passages(rows)).sum(axis=1) > 0.9999).all()
    assert np.abs(passages - rows).max() > 1e-4  # it has left the identity


def test_without_a_p_tower_it_is_a_plain_predictor(searcher: Searcher, tmp_path: Path) -> None:
    result = trained(searcher, tmp_path, tower=None)
    assert result.config.tower == {}
    assert not (tmp_path / TOWER).exists()
    assert "kept" not in result.outcome.best
    load_weights(tmp_path / WEIGHTS, build("residual", 128, anchored=True, options={"rank": 8}))
    check_seals(tmp_path, ModelConfig.read(tmp_path))


def test_training_a_predictor_may_begin_with_the_q_tower(searcher: Searcher, made: tuple[Path, Trained]) -> None:
    folder, _ = made
    model = build("residual", 128, anchored=True, options={"rank": 8})
    _begin_with(folder, model, "residual", searcher.fingerprint)
    wanted = loaded(folder).query.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    with pytest.raises(LookaheadError, match="holds a predictor residual, not amn"):
        _begin_with(folder, build("amn", 128, anchored=False), "amn", searcher.fingerprint)


# -- the same again ------------------------------------------------------------------------------------------


def test_a_killed_training_goes_on_to_the_same_weights_and_every_step_tells_who_took_part(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("export", "export_tower"):  # another test's
        monkeypatch.setattr(subject, name, lambda *_: None)
    whole = TowersTask.loss
    expected = trained(searcher, tmp_path / "whole", HARD)
    lines = [json.loads(line) for line in (tmp_path / "whole" / STEPS).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, expected.outcome.steps + 1))
    first = round(0.2 * expected.outcome.steps)
    assert [line["negatives"] > 0 for line in lines] == [False] * first + [True] * (len(lines) - first)
    assert all(1 < line["negatives"] <= 3 and -1 <= line["negatives_score"] <= 1 for line in lines[first:])
    assert all(line["temperature"] > 0.01 for line in lines)
    assert expected.outcome.history[-1]["negatives"] > 1

    last = expected.outcome.steps - 2
    steps: list[int] = []

    def killed(task: TowersTask, step: int) -> Tensor:
        steps.append(step)
        if step == last and steps.count(last) == 1:
            raise KeyboardInterrupt
        return whole(task, step)

    monkeypatch.setattr(TowersTask, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(searcher, tmp_path / "killed", HARD)
    assert {CHECKPOINT, LOG, HEARTBEAT} <= {path.name for path in (tmp_path / "killed").iterdir()}
    before = len(steps)
    result = trained(searcher, tmp_path / "killed", HARD)
    assert 0 < steps[before] < last
    assert (tmp_path / "killed" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert result.outcome.history == expected.outcome.history
    assert (tmp_path / "killed" / STEPS).read_bytes() == (tmp_path / "whole" / STEPS).read_bytes()


# -- who is compared with whom -------------------------------------------------------------------------------


class Seen:
    """A task over wandering articles, and what its last step computed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, counts: list[int], recipe: TowersRecipe) -> None:
        vectors = wandering(counts, seed=3)
        if len(counts) > 1 and min(counts) > 4:
            vectors[1][2] = vectors[0][4]  # two chunks that say the same, in two articles
        self.sequences = sequences_of(folder, vectors)
        self.batches = Batches(self.sequences, windows=recipe.windows, run=recipe.run, short=recipe.short, seed=0)
        torch.manual_seed(0)
        self.towers = Towers(build("residual", 24, anchored=True), build_tower("identity", 24), recipe.temperature)
        assert isinstance(self.towers.passage, IdentityTower)
        torch.nn.init.constant_(self.towers.passage.gain, 1.0)
        self.towers.eval()
        watched = Watched(sequences_of(folder / "valid", wandering([12, 12], seed=9)), CPU)
        self.task = TowersTask(self.towers, self.sequences, self.batches, watched, recipe, CPU)
        self.logits: list[Tensor] = []
        self.raw: list[Tensor] = []
        self.ids: list[list[int]] = []
        crossed, passages, excluded = subject._crossed, self.towers.passages, self.task._excluded

        def kept(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
            self.logits.append(logits.detach().clone())
            return crossed(logits, target, weights)

        def through(rows: Tensor) -> Tensor:
            self.raw.append(rows)
            return passages(rows)

        def columns(batch: Batch, others: Ints) -> tuple[Tensor, Tensor]:
            self.ids.append([*batch.ids.tolist(), *others.tolist()])
            self.targets = batch.ids[batch.target].tolist()
            self.lengths = batch.mask.sum(axis=1).tolist()
            return excluded(batch, others)

        monkeypatch.setattr(subject, "_crossed", kept)
        monkeypatch.setattr(self.towers, "passages", through)
        monkeypatch.setattr(self.task, "_excluded", columns)

    def hidden(self) -> list[set[int]]:
        """The ids that are no negatives of each window of the last step."""
        last = self.logits[-1] < -1e8
        return [{one for one, no in zip(self.ids[-1], row, strict=True) if no} for row in last.tolist()]


def test_own_context_and_duplicates_are_hidden_by_id_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # runs of 4 windows: two of one article share the chunks at their border
    seen = Seen(tmp_path, monkeypatch, [20, 9], replace(QUICK, run=4, windows=26))
    assert len(seen.batches.read(seen.batches.epoch(0)[0], 0, 0).ids) > 29
    seen.task.loss(0)
    assert sorted(seen.ids[-1]) == list(range(29))  # each chunk once
    assert len(seen.targets) == 27
    twins = {4: {22}, 22: {4}}
    for target, length, hidden in zip(seen.targets, seen.lengths, seen.hidden(), strict=True):
        assert hidden == set(range(target - length, target)) | twins.get(target, set())


def test_the_chunk_after_the_target_is_hidden_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(tmp_path, monkeypatch, [20], replace(QUICK, neighbours=False))
    seen.task.loss(0)
    for target, length, hidden in zip(seen.targets, seen.lengths, seen.hidden(), strict=True):
        assert hidden == set(range(target - length, target)) | ({target + 1} if target < 19 else set())


def test_hard_negatives_go_raw_into_the_p_tower_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(tmp_path, monkeypatch, [30, 30], replace(QUICK, run=2, windows=4, negatives=3, hard_from=0.0))
    read = seen.batches.read(seen.batches.epoch(0)[0], 0, 0)
    seen.task.loss(0)
    ids = np.array(seen.ids[-1])
    assert len(set(ids.tolist())) == len(ids) > len(set(read.ids.tolist()))
    torch.testing.assert_close(seen.raw[-1], torch.from_numpy(seen.sequences.unit(ids)))
    with torch.no_grad():
        wanted = seen.towers.passage(seen.raw[-1])  # type: ignore[misc]
        predicted = seen.towers.query(torch.from_numpy(read.bank[read.context]), torch.from_numpy(read.mask))
    scores = predicted @ wanted.T / QUICK.temperature
    there = seen.logits[-1] > -1e8
    torch.testing.assert_close(seen.logits[-1][there], scores[there])
    told = seen.task.told()
    assert told["negatives"] == 3
    assert told["negatives_fresh"] == pytest.approx((len(ids) - len(np.unique(read.ids))) / 4)


def test_the_score_told_is_the_mean_cosine_of_the_hard_negatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(tmp_path, monkeypatch, [30], replace(QUICK, negatives=2, hard_from=0.0))
    seen.task.loss(0)
    drawn = seen.task._same.draw(Asked(np.array(seen.targets), np.array(seen.lengths)), 0, 0)
    scores = [
        float(row[seen.ids[-1].index(chunk)])
        for row, chunks in zip(seen.logits[-1], drawn.tolist(), strict=True)
        for chunk in chunks
        if chunk != NONE
    ]
    assert seen.task.told()["negatives"] == len(scores) / 29
    assert seen.task.told()["negatives_score"] == pytest.approx(QUICK.temperature * np.mean(scores), abs=1e-5)


def test_hard_negatives_of_which_none_takes_part_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(tmp_path, monkeypatch, [2, 2, 2], replace(QUICK, negatives=3, hard_from=0.5, epochs=4))
    seen.towers.train()
    seen.task.loss(0)
    assert seen.task.told() == {"negatives": 0.0}  # not their turn yet
    with pytest.raises(LookaheadError, match="none of the 3 hard negatives"):
        seen.task.loss(2)


def test_a_chunk_looks_for_its_window_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(tmp_path, monkeypatch, [14, 9], replace(QUICK, symmetric=0.5))
    loss = seen.task.loss(0)
    forth, back = seen.logits
    column = torch.tensor([seen.ids[-1].index(target) for target in seen.targets])
    assert torch.equal(back, forth[:, column].T)
    ways = functional.cross_entropy(forth, column), functional.cross_entropy(back, torch.arange(len(column)))
    assert loss.item() == pytest.approx((ways[0] + 0.5 * ways[1]).item())


def test_passages_of_earlier_batches_are_negatives_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(tmp_path, monkeypatch, [20, 20, 20], replace(QUICK, windows=10, run=19, short=0.0, memory=100))
    seen.task.loss(0)
    assert seen.logits[-1].shape == (19, 20)
    first = seen.ids[-1]
    read = seen.batches.read(seen.batches.epoch(0)[1], 0, 1)
    with torch.no_grad():
        before = seen.towers.passage(torch.from_numpy(seen.sequences.unit(np.array(first))))  # type: ignore[misc]
        predicted = seen.towers.query(torch.from_numpy(read.bank[read.context]), torch.from_numpy(read.mask))
        seen.towers.passage.gain.fill_(3.0)  # type: ignore[union-attr, operator]
    seen.task.loss(1)
    assert seen.ids[-1] == [*read.ids.tolist(), *first]
    remembered = seen.logits[-1][:, 20:]
    there = remembered > -1e8  # all but two chunks that say the same
    torch.testing.assert_close(remembered[there], (predicted @ before.T / QUICK.temperature)[there])
    seen.task.loss(2)
    seen.task.loss(3)  # the next epoch: its chunks are remembered, and there as they are now
    assert len(set(seen.ids[-1])) == len(seen.ids[-1]) == 60


# -- the parts -----------------------------------------------------------------------------------------------


def test_near_misses_are_those_a_slow_search_finds(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, wandering([12, 9, 2], seed=4))
    torch.manual_seed(1)
    towers = Towers(build("residual", 24, anchored=True), build_tower("identity", 24)).train()
    torch.nn.init.constant_(towers.passage.gain, 1.0)  # type: ignore[union-attr, arg-type]
    table = mine(towers, sequences, step=7, many=2, neighbours=False, device=CPU)
    assert towers.training
    assert (table.step, table.target.tolist()) == (7, [*range(1, 12), *range(13, 21), 22])
    towers.eval()
    windows, rows = sequences.windows(1), sequences.unit(np.arange(23))
    context, mask = sequences.contexts(windows)
    with torch.no_grad():
        asked = towers.query(torch.from_numpy(context), torch.from_numpy(mask)).numpy()
        bank = towers.passages(torch.from_numpy(rows)).numpy()
    for at, target in enumerate(windows.target.tolist()):
        scores = bank @ asked[at]
        fine = [
            chunk
            for chunk in np.argsort(-scores).tolist()
            if not target - windows.length[at] <= chunk <= target + 1
            and scores[chunk] <= 0.95 * scores[target]
            and rows[chunk] @ rows[target] < 0.98
        ]
        assert table.ids[at].tolist() == [*fine, NONE, NONE][:2]


def test_windows_of_long_articles_weigh_less_where_asked(tmp_path: Path) -> None:
    sequences = sequences_of(tmp_path, wandering([3, 5, 1]))  # 2 windows and 4
    weights = Weights(sequences, 1.0).of(np.array([1, 2, 4, 7]), CPU)
    assert weights is not None
    assert weights.tolist() == pytest.approx([1.5, 1.5, 0.75, 0.75])  # (2 × 1.5 + 4 × .75) / 6 = 1
    assert Weights(sequences, 0.0).of(np.array([1]), CPU) is None


def test_a_ring_holds_the_newest_passages_each_chunk_once() -> None:
    ring = Ring.empty(1, CPU)
    for ids, value in (([1, 2, 3], 0.1), ([2, 4], 0.2), ([5], 0.3)):
        rows = torch.full((len(ids), 1), value)
        ring = ring.pushed(np.array(ids), rows, 10 * rows, most=4)
    assert ring.ids.tolist() == [3, 2, 4, 5]
    assert ring.chunks[:, 0].tolist() == pytest.approx([0.1, 0.2, 0.2, 0.3])
    assert ring.passages[:, 0].tolist() == pytest.approx([1, 2, 2, 3])
    assert ring.without(np.array([4, 3, 9])).ids.tolist() == [2, 5]


@given(st.integers(0, 200), st.booleans())
def test_chunks_that_say_the_same_are_found_with_few_digits_as_with_all(seed: int, few: bool) -> None:
    chance = torch.Generator().manual_seed(seed)
    base = functional.normalize(torch.randn(6, 16, generator=chance), dim=1)
    near = functional.normalize(base.repeat(4, 1) + 0.05 * torch.randn(24, 16, generator=chance), dim=1)
    chunks = torch.cat([base, near])
    target = torch.arange(12)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=few):
        found = set(zip(*(one.tolist() for one in alike(chunks, target)), strict=True))
    cosines = (chunks[target].double() @ chunks.double().T).tolist()
    sure = {(row, at) for row in range(12) for at in range(30) if cosines[row][at] >= 0.98 + 1e-6 and at != row}
    perhaps = {(row, at) for row in range(12) for at in range(30) if cosines[row][at] >= 0.98 - 1e-6 and at != row}
    assert sure <= found <= perhaps


# -- what they are watched on --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valid(searcher: Searcher) -> Sequences:
    return Sequences(searcher.store.articles(Split.VALID), searcher.vectors)


def test_a_p_tower_that_changes_nothing_changes_no_figure(valid: Sequences) -> None:
    watched = Watched(valid, CPU)
    model = build("residual", 128, anchored=True).eval()
    plain, same = watched.figures(model), watched.figures(model, lambda rows: rows)
    assert {name: same[name] for name in plain} == plain
    assert same["kept"] == pytest.approx(1, abs=1e-5)
    assert same["passage_cosine"] == pytest.approx(plain["cosine"], abs=1e-6)
    assert same["passage_spread"] == pytest.approx(watched.spread, abs=1e-6)


def test_targets_are_looked_for_among_passages(valid: Sequences) -> None:
    watched = Watched(valid, CPU)
    model = build("residual", 128, anchored=True).eval()
    turned = watched.figures(model, lambda rows: -rows)  # the nearest is now the farthest
    assert turned["R@5"] < watched.figures(model)["R@5"]
    assert turned["kept"] == pytest.approx(-1, abs=1e-5)


def test_two_towers_that_meet_in_one_point_have_collapsed(valid: Sequences) -> None:
    watched = Watched(valid, CPU)
    point = torch.nn.functional.normalize(torch.ones(128), dim=0)
    said = watched.collapse(watched.figures(Constant(point), lambda rows: point.expand(len(rows), -1)))
    assert said is not None
    assert "collapsed" in said
    fine = build("residual", 128, anchored=True).eval()
    assert watched.collapse(watched.figures(fine, lambda rows: rows)) is None
    assert watched.collapse(watched.figures(fine, lambda rows: point.expand(len(rows), -1))) is not None


# -- at the command line -------------------------------------------------------------------------------------


def run(home: Path, *arguments: str) -> Result:
    quick = ("--epochs", "1", "--batch", "64", "--run", "16", "--checks", "2", "--ema", "0", "--patience", "0")
    command = ("--home", str(home), "train", "towers", "-c", "tales", *quick, *arguments)
    return CliRunner(catch_exceptions=False).invoke(main, command)


def test_from_the_command_to_the_next_one(home: Path) -> None:
    result = run(home, "--quiet", "--negatives", "2", "--temperature", "learned", "--no-neighbours")
    assert result.exit_code == 0, result.stderr
    said = result.stdout.splitlines()
    assert said[0].startswith("towers  ")
    assert said[1].startswith("copy-last  ")
    assert said[3].startswith("a passage keeps a cosine of ")
    assert said[-1] == "next: lookahead train reranker --over towers -c tales"
    folder = home / "collections" / "tales" / "models" / "towers"
    recipe = ModelConfig.read(folder).trained["recipe"]
    assert (recipe["negatives"], recipe["learned"], recipe["neighbours"]) == (2, True, False)
    assert (recipe["temperature"], recipe["windows"], recipe["rate"]) == (0.04, 64, 6e-3)


def test_json_is_one_object(home: Path) -> None:
    row = json.loads(run(home, "--name", "plain", "--tower", "none", "--json").stdout)
    assert row["model"] == "plain"
    assert row["valid"].keys() == row["copy_last"].keys()
    assert ModelConfig.read(Path(row["folder"])).tower == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--backbone", "amm"), "there is no predictor 'amm'"),
        (("--temperature", "hot"), "'hot' is not a valid float"),
        (("--temperature", "0"), "0.0 is not in the range x>0"),
        (("--name", "rerankers"), "cannot be called rerankers"),
    ],
)
def test_what_cannot_be_trained_is_told(home: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run(home, "--quiet", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


# -- recipes -------------------------------------------------------------------------------------------------


def test_a_backbone_learns_at_its_own_pace() -> None:
    assert towers_recipe_for("residual", {}, native="bf16") == TowersRecipe(precision="bf16")
    mamba = towers_recipe_for("mamba", {"rate": None, "run": 32})
    assert (mamba.rate, mamba.windows, mamba.run) == (RECIPES["mamba"]["rate"], RECIPES["mamba"]["windows"], 32)
    with pytest.raises(ValueError, match="no taste"):
        towers_recipe_for("residual", {"taste": 1})
