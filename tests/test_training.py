"""The training loop: it learns, stops when it should, and a killed run ends where an uninterrupted one does."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from retrieval.training import CHECKPOINT, HEARTBEAT, STEPS, Outcome, Schedule, forget, train
from store.records import LookaheadError


class Line(nn.Module):
    """y = w x + b, with dropout so that randomness matters."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 1)
        self.drop = nn.Dropout(0.2)
        with torch.no_grad():
            self.map.weight.copy_(torch.tensor([[0.5, -0.5, 0.25]]))
            self.map.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.map(self.drop(x))


class Fitting:
    """A task that fits the sum of three numbers; it can be killed at a step or fed figures."""

    def __init__(self, *, killed_at: int | None = None, scores: list[float] | None = None) -> None:
        self.model = Line()
        self.killed_at = killed_at
        self.scores = scores
        self.checked: list[int] = []
        self.steps: list[int] = []
        self.weights: list[Tensor] = []

    def loss(self, step: int) -> Tensor:
        if step == self.killed_at:
            raise KeyboardInterrupt
        self.steps.append(step)
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        return (self.model(x) - x.sum(dim=1, keepdim=True)).square().mean()

    def validate(self, step: int) -> dict[str, float]:
        assert not self.model.training
        self.checked.append(step)
        self.weights.append(self.model.map.weight.detach().clone())
        if self.scores is not None:
            return {"MRR": self.scores[len(self.checked) - 1]}
        return {"MRR": -float((self.model.map.weight - 1).square().sum().detach())}

    def trouble(self, figures: dict[str, float], progress: float) -> str | None:
        return "all is lost" if figures["MRR"] == -99 else None


def run(task: Fitting, folder: Path, schedule: Schedule, **identity: str) -> Outcome:
    return train(task, schedule, folder, log=folder / "log.jsonl", identity=dict(identity), quiet=True)


SCHEDULE = Schedule(steps=60, every=10, rate=0.05)


def test_it_learns(tmp_path: Path) -> None:
    task = Fitting()
    outcome = run(task, tmp_path, Schedule(steps=300, every=50, rate=0.05))
    assert outcome.best["MRR"] > -0.1  # from -3.1
    assert task.checked == [50, 100, 150, 200, 250, 300]


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("killed_at", [3, 10, 25, 59])
def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, killed_at: int, ema: float) -> None:
    schedule = Schedule(steps=60, every=10, rate=0.05, ema=ema)
    whole = Fitting()
    expected = run(whole, tmp_path / "whole", schedule)
    with pytest.raises(KeyboardInterrupt):
        run(Fitting(killed_at=killed_at), tmp_path / "killed", schedule)
    again = Fitting()
    outcome = run(again, tmp_path / "killed", schedule)
    assert again.steps[0] == killed_at // 10 * 10  # from the last validation, not from the start
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert outcome.history == expected.history
    assert (outcome.best, outcome.best_step) == (expected.best, expected.best_step)
    assert (tmp_path / "killed" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()


def test_the_weights_kept_are_those_of_the_best_validation(tmp_path: Path) -> None:
    task = Fitting(scores=[1.0, 5.0, 2.0, 3.0, 4.0, 0.0])
    outcome = run(task, tmp_path, SCHEDULE)
    assert outcome.best == {"MRR": 5.0}
    assert outcome.best_step == 20
    assert torch.equal(task.model.map.weight.detach(), task.weights[1])


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    task = Fitting(scores=[1.0, 3.0, 2.0, 2.5, 9.0, 9.0])
    outcome = run(task, tmp_path, Schedule(steps=60, every=10, rate=0.05, patience=2))
    assert outcome.steps == 40
    assert outcome.ended == "no better MRR in 2 validations"


def test_a_run_killed_after_its_patience_ended_has_ended(tmp_path: Path) -> None:
    schedule = Schedule(steps=60, every=10, rate=0.05, patience=2)
    first = run(Fitting(scores=[1.0, 3.0, 2.0, 2.5, 9.0, 9.0]), tmp_path, schedule)  # nobody took the checkpoint away
    again = Fitting(scores=[9.0, 9.0])
    outcome = run(again, tmp_path, schedule)
    assert again.steps == []
    assert (outcome.best, outcome.steps, outcome.ended) == (first.best, first.steps, first.ended)


def test_trouble_stops_a_run_with_its_reason_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match="stopped at step 20: all is lost"):
        run(Fitting(scores=[1.0, -99.0]), tmp_path, SCHEDULE)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_loss_that_is_no_number_stops_a_run(tmp_path: Path) -> None:
    task = Fitting()
    with torch.no_grad():
        task.model.map.bias.fill_(math.inf)
    with pytest.raises(LookaheadError, match=r"the loss is .* at step 1; try a lower --rate"):
        run(task, tmp_path, SCHEDULE)


def test_a_loss_that_is_no_number_leaves_no_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    class Falling(Fitting):
        def loss(self, step: int) -> Tensor:
            return super().loss(step) * (math.nan if step == 15 else 1)

    with pytest.raises(LookaheadError, match="the loss is nan at step 16"):
        run(Falling(), tmp_path, SCHEDULE)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Fitting(killed_at=20), tmp_path, SCHEDULE, data="wiki")
    with pytest.raises(LookaheadError, match=r"different: data\); train under another --name, or add --restart"):
        run(Fitting(), tmp_path, SCHEDULE, data="other")
    forget(tmp_path)
    assert run(Fitting(), tmp_path, SCHEDULE, data="other").steps == 60


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"nothing of the kind")
    with pytest.raises(LookaheadError, match=r"checkpoint\.safetensors is damaged; add --restart"):
        run(Fitting(), tmp_path, SCHEDULE)


def test_the_log_has_a_line_a_validation(tmp_path: Path) -> None:
    run(Fitting(), tmp_path, SCHEDULE)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
    assert set(lines[0]) == {"step", "loss", "rate", "MRR"}


def test_nobody_elses_randomness_is_touched(tmp_path: Path) -> None:
    task = Fitting()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(task, tmp_path, SCHEDULE)
    assert torch.equal(torch.rand(3), expected)


@given(st.integers(1, 500), st.floats(0.0, 0.5))
def test_the_rate_rises_then_falls_and_stays_within_its_bounds(steps: int, warm_up: float) -> None:
    schedule = Schedule(steps=steps, every=1, rate=2.0, lowest=0.1, warm_up=warm_up)
    rates = [schedule.rate_at(step) for step in range(steps)]
    assert max(rates) <= 2.0
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates[top:]) >= 0.2


def test_biases_and_gains_do_not_decay(tmp_path: Path) -> None:
    class Still(Fitting):
        def loss(self, step: int) -> Tensor:
            return 0 * (self.model.map.weight.sum() + self.model.map.bias.sum())

    task = Still()
    with torch.no_grad():
        task.model.map.bias.fill_(1.0)
    task.scores = [1.0, 2.0]
    run(task, tmp_path, Schedule(steps=2, every=1, rate=0.1, decay=1.0, lowest=1.0))
    assert task.model.map.bias.item() == 1.0
    assert task.model.map.weight[0, 0].item() < 0.5


# -- what a task may add --------------------------------------------------------------------------------------


class Counting(Fitting):
    """Its loss depends on how many steps it remembers, and it tells every second one."""

    def __init__(self, *, killed_at: int | None = None) -> None:
        super().__init__(killed_at=killed_at)
        self.count = torch.zeros(2)

    def loss(self, step: int) -> Tensor:
        loss = super().loss(step)
        self.count[step % 2] += 1
        return loss * (1 + self.count[0] / 10)

    def told(self) -> dict[str, float]:
        return {"even": float(self.count[0])} if self.steps[-1] % 2 == 0 else {}

    def memory(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def recall(self, memory: dict[str, Tensor]) -> None:
        self.count = memory["count"]


def test_what_a_task_remembers_and_tells_outlives_a_kill(tmp_path: Path) -> None:
    expected = run(Counting(), tmp_path / "whole", SCHEDULE)
    with pytest.raises(KeyboardInterrupt):
        run(Counting(killed_at=47), tmp_path / "killed", SCHEDULE)
    outcome = run(Counting(), tmp_path / "killed", SCHEDULE)
    assert outcome.history == expected.history
    for name in ("log.jsonl", STEPS):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "whole" / STEPS).read_text().splitlines()]
    assert [(line["step"], line["even"]) for line in lines] == [(2 * at + 1, at + 1) for at in range(30)]
    assert [line["even"] for line in outcome.history] == [3, 8, 13, 18, 23, 28]  # means of five


def test_the_heartbeat_says_how_far_a_training_is_and_goes_with_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        beating(Counting(killed_at=25), tmp_path, 0.0)
    told = json.loads((tmp_path / HEARTBEAT).read_text())
    assert (told["step"], told["steps"], told["epoch"]) == (25, 60, 2.5)
    assert told["rate"] == SCHEDULE.rate_at(24)
    assert told["valid"]["step"] == 20
    assert told["told"] == {"step": 25, "loss": told["loss"], "even": 13}
    assert told["seconds"] >= 0
    assert datetime.fromisoformat(told["time"]).tzinfo is not None
    forget(tmp_path)
    assert [path.name for path in tmp_path.glob("*.json")] == []


def test_hearts_beat_at_most_so_often(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        beating(Fitting(killed_at=25), tmp_path, 1e6)
    told = json.loads((tmp_path / HEARTBEAT).read_text())
    assert (told["step"], told["valid"], told["told"]) == (1, {}, {})


def beating(task: Fitting, folder: Path, beat: float) -> None:
    schedule = replace(SCHEDULE, per_epoch=10)
    train(task, schedule, folder, log=folder / "log.jsonl", identity={}, quiet=True, beat=beat)


def test_a_task_that_tells_nothing_leaves_no_file_of_it(tmp_path: Path) -> None:
    run(Fitting(), tmp_path, SCHEDULE)
    assert not (tmp_path / STEPS).exists()
