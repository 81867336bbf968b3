"""Next-character models: the published shapes to a parameter, no look ahead, fair figures, and resuming to the bit."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from retrieval.characters.model import CharacterModel
from retrieval.characters.presets import PUBLISHED, Row
from retrieval.characters.task import KEYS, CharactersTask, _Shape, _shares, _Training
from retrieval.characters.texts import Corpus, Units
from retrieval.characters.vocabulary import PAD, SIZE, UNK, Vocabulary
from retrieval.sweep import Result, SweepTask, Value
from retrieval.training import CHECKPOINT
from store.records import LookaheadError, Split

TINY: dict[str, Value] = {"width": 8, "depth": 1, "heads": 2, "ff": 16, "length": 12, "batch": 6, "rate": 0.02}
VOCABULARY = Vocabulary("abcdefgh")


def corpus(**texts: str) -> Corpus:
    """Each language's text again and again: train, dev and test are alike, so that what is learned shows."""
    units = {
        language: {split: Units.of([VOCABULARY.encode(text * 20)] * 3) for split in Split}
        for language, text in texts.items()
    }
    return Corpus(VOCABULARY, units, dict.fromkeys(texts, "here"))


TASK = CharactersTask(corpus(en="abcd"))
BOTH = CharactersTask(corpus(en="abcd", es="efgh"))


def size_of(model: CharacterModel) -> int:
    return sum(value.numel() for value in model.parameters())


def trained(folder: Path, task: CharactersTask = TASK, *, steps: int = 12, seed: int = 0, **values: Value) -> Result:
    return task.run({**TINY, **values}, seed, steps, folder, quiet=True)


# -- the model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in PUBLISHED if row.parameters], ids=lambda row: row.config.name)
def test_a_published_shape_has_its_published_parameters(row: Row) -> None:
    assert TASK.parameters(row.config.values) == row.parameters
    assert size_of(_Shape.of(TASK.checked(row.config.values)).model()) == row.parameters


def test_seven_counts_were_published() -> None:
    counts = sorted(row.parameters for row in PUBLISHED if row.parameters)
    assert counts == [80_398, 209_998, 416_590, 679_758, 813_134, 1_606_222, 2_399_310]


def test_a_pre_norm_model_has_a_norm_more_at_its_end() -> None:
    assert TASK.parameters({"norm": "pre"}) == TASK.parameters({}) + 2 * 128
    assert TASK.parameters({"norm": "pre"}) == size_of(_Shape.of(TASK.checked({"norm": "pre"})).model())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_no_score_depends_on_what_comes_after(norm_first: bool, training: bool) -> None:
    torch.manual_seed(0)
    model = CharacterModel(16, 2, 4, 32, dropout=0.0, norm_first=norm_first, length=10).train(training)
    first = torch.randint(2, SIZE, (3, 10))
    other = first.clone()
    other[:, 6:] = PAD
    with torch.no_grad():  # where torch takes a faster way of its own
        apart = (model(first) - model(other)).abs().amax(dim=(0, 2))
    assert apart[:6].max() < 1e-5
    assert apart[6:].min() > 1e-3
    assert (model(first) - model(first.flip(1)).flip(1)).abs().max() > 1e-3  # and places make a difference


def test_layers_do_not_begin_as_copies_of_one() -> None:
    model = CharacterModel(16, 2, 4, 32, dropout=0.0, norm_first=False, length=4)
    one, other = (layer.linear1.weight for layer in model.encoder.layers)
    assert not torch.equal(one, other)


# -- configurations --------------------------------------------------------------------------------------


def test_defaults_are_filled_in_and_the_feed_forward_is_four_times_as_wide() -> None:
    assert TASK.checked({"width": 64, "dropout": 0}) == {**KEYS, "width": 64, "ff": 256, "dropout": 0.0}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"widht": 64}, r"characters have no widht; there are: width, depth, heads, .*"),
        ({"width": 64, "heads": 6}, "width = 64 is not a multiple of heads = 6"),
        ({"width": 9, "heads": 3}, "width = 9: sinusoidal positions need an even width"),
        ({"width": "64"}, "width = '64': expected a whole number"),
        ({"depth": 2.5}, "depth = 2.5: expected a whole number"),
        ({"depth": True}, "depth = True: expected a whole number"),
        ({"depth": 0}, "depth = 0: expected 1 to 128"),
        ({"rate": "fast"}, "rate = 'fast': expected a number"),
        ({"rate": math.nan}, "rate = nan: expected a finite number"),
        ({"dropout": 1}, r"dropout = 1\.0: expected 0 to 0\.9"),
        ({"norm": "both"}, "norm = 'both': expected 'post' or 'pre'"),
        ({"precision": "f16"}, "precision = 'f16': expected 'f32' or 'bf16'"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(values: dict[str, Value], said: str) -> None:
    with pytest.raises(LookaheadError, match=f"^{said}$"):
        TASK.checked(values)


def test_every_row_of_the_preset_can_be_trained() -> None:
    for row in PUBLISHED:
        assert TASK.checked(row.config.values)["heads"] == 4


def test_the_task_is_one_a_sweep_can_send_to_a_worker() -> None:
    task: SweepTask = pickle.loads(pickle.dumps(BOTH))
    assert task.data == BOTH.data
    assert task.checked({}) == BOTH.checked({})


def test_more_memory_is_asked_for_a_larger_model_and_for_dropout() -> None:
    small, deep = TASK.memory({"depth": 2}), TASK.memory({"depth": 12})
    assert 450e6 < small < deep < 2e9
    assert TASK.memory({"depth": 2, "dropout": 0.1}) > small


# -- training --------------------------------------------------------------------------------------------


def test_a_text_that_repeats_itself_is_learned(tmp_path: Path) -> None:
    result = trained(tmp_path, steps=60)
    assert result.figures["dev_top1"] > 0.95
    assert result.figures["dev_loss"] < 0.5
    assert result.parameters == TASK.parameters(TINY)
    assert (result.steps, len(result.history)) == (60, 4)
    assert result.history[0]["dev_loss"] > result.history[-1]["dev_loss"]


def test_a_run_has_every_column_and_blocks_that_give_its_figure(tmp_path: Path) -> None:
    result = trained(tmp_path, BOTH)
    assert set(result.figures) == {column.figure for column in BOTH.columns}
    assert list(result.groups) == list(result.samples) == ["en", "es"]
    for language, blocks in result.samples.items():
        assert blocks.sizes == [79.0, 79.0, 79.0]  # every character of a unit but its first
        assert sum(blocks.sums) / sum(blocks.sizes) == pytest.approx(result.groups[language]["test_top1"])
    for column in BOTH.columns:
        mean = (result.groups["en"][column.figure] + result.groups["es"][column.figure]) / 2
        assert result.figures[column.figure] == pytest.approx(mean)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_killed_run_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    whole = trained(tmp_path / "whole", BOTH, dropout=dropout)
    loss = _Training.loss

    def dying(self: _Training, step: int) -> torch.Tensor:
        if step == 8:
            raise KeyboardInterrupt
        return loss(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(_Training, "loss", dying)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "killed", BOTH, dropout=dropout)
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    again = trained(tmp_path / "killed", BOTH, dropout=dropout)
    assert (again.figures, again.groups, again.samples) == (whole.figures, whole.groups, whole.samples)
    assert again.history == whole.history
    once_more = trained(tmp_path / "killed", BOTH, dropout=dropout)  # killed after its last step, before it was told
    assert once_more.figures == whole.figures


def test_a_seed_is_another_model_and_the_same_seed_the_same(tmp_path: Path) -> None:
    first, again, other = (
        trained(tmp_path / str(place), seed=seed, steps=4).figures["dev_loss"] for place, seed in enumerate((0, 0, 1))
    )
    assert first == again != other


def test_a_model_that_learns_nothing_is_a_row_all_the_same(tmp_path: Path) -> None:
    assert trained(tmp_path, rate=1e-8).figures["dev_top1"] < 0.9


def test_half_precision_trains(tmp_path: Path) -> None:
    assert trained(tmp_path, steps=60, precision="bf16").figures["dev_top1"] > 0.9


def test_more_steps_fit_into_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 10_000.0, 0.25).tolist())  # whatever is timed takes a quarter of a second
    monkeypatch.setattr("retrieval.characters.task.time.perf_counter", lambda: next(clock))
    held = 3 * math.ceil(79 / 12) / min(3 * math.ceil(79 / 12), 4096 // 12)  # a validation in parts that are timed
    assert held == 1
    assert TASK.steps_for(TINY, 60) == int((60 - 4 * 0.25) / 0.25)
    assert TASK.steps_for(TINY, 0.01) == 1


# -- judging ---------------------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """Scores the symbols in the same order wherever it stands: a first, then b, then c; UNK and padding above all."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        scores = -torch.arange(SIZE, dtype=torch.float32)
        return scores.expand(*symbols.shape, SIZE).clone()


def training_of(model: torch.nn.Module, *texts: str, seed: int = 0) -> _Training:
    held = {split: Units.of(map(VOCABULARY.encode, texts)) for split in Split}
    shape = _Shape.of(TASK.checked(TINY))
    return _Training(model, Corpus(VOCABULARY, {"en": held}, {"en": "here"}), shape, seed)  # type: ignore[arg-type]


def judged(model: torch.nn.Module, *texts: str) -> dict[str, float]:
    return training_of(model, *texts).judged("en", Split.TEST).figures("test")


def test_each_step_has_windows_of_its_own_and_so_has_each_seed() -> None:
    text = "".join(np.random.default_rng(0).choice(list("abcdefgh"), size=500))
    one, other = training_of(Fixed(), text), training_of(Fixed(), text, seed=1)
    losses = [float(loss) for loss in (one.loss(0), one.loss(1), other.loss(0))]
    assert len(set(losses)) == 3
    assert float(one.loss(0)) == losses[0]


def test_characters_are_ranked_among_characters() -> None:
    assert judged(Fixed(), "habcd") == pytest.approx({"test_top1": 1 / 4, "test_top3": 3 / 4, "test_loss": 3.5 + LOG_Z})


LOG_Z = math.log(sum(math.exp(-place) for place in range(SIZE)))


def test_a_character_without_a_symbol_is_missed_but_counts() -> None:
    assert VOCABULARY.encode("?")[0] == UNK
    found = judged(Fixed(), "ha?")
    assert (found["test_top1"], found["test_top3"]) == (0.5, 0.5)


def test_padding_of_a_short_unit_does_not_count() -> None:
    assert judged(Fixed(), "ha", "habcdefg" * 3)["test_top1"] == pytest.approx((1 + 3) / (1 + 23))


def test_scores_that_are_all_the_same_find_nothing() -> None:
    class Constant(Fixed):
        def forward(self, symbols: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*symbols.shape, SIZE)

    assert judged(Constant(), "habcd")["test_top3"] == 0


def test_languages_take_turns_with_the_windows_that_do_not_go_evenly() -> None:
    assert [_shares(5, 2, step) for step in range(2)] == [[3, 2], [2, 3]]
    assert [_shares(4, 2, step) for step in range(2)] == [[2, 2], [2, 2]]
    assert [sum(column) for column in zip(*(_shares(1, 3, step) for step in range(3)), strict=True)] == [1, 1, 1]


def test_what_counting_predicts_stands_beside_the_models() -> None:
    rows = BOTH.references()
    assert rows["bigram"]["test_top1"] == 1.0  # a then b, always
    assert rows["most frequent"]["en test_top1"] == pytest.approx(60 / 237)  # b of 79 targets a unit: 20 times
    assert rows["most frequent"]["test_top3"] == pytest.approx(180 / 237)
