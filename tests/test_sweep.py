"""The sweep's runner: what is kept, what a kill costs, who gets which share of the budget, and who a second seed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_fakes import Adding

from retrieval import sweep_workers
from retrieval.sweep import (
    RESULTS,
    SWEEP,
    Asked,
    Budget,
    Config,
    Done,
    folder_for,
    fronts_of,
    identity_of,
    read_results,
    sweep,
)
from retrieval.sweep_fronts import front
from retrieval.sweep_workers import Room, ended
from store.records import LookaheadError

# dev 11, 22, 33 (thousandths): the wider and deeper, the better
LADDER = tuple(Config(f"{size}", {"width": size, "depth": size}) for size in (1, 2, 3))
STEPS = Asked(LADDER, Budget(steps=100))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def run(task: Adding, folder: Path, asked: Asked = STEPS, workers: int = 1) -> list[Done]:
    return sweep(task, asked, folder, workers=workers, quiet=True)


def pairs(dones: list[Done]) -> list[tuple[str, int, int]]:
    return [(done.config, done.seed, done.share) for done in dones]


def test_every_configuration_is_trained_and_kept(tmp_path: Path) -> None:
    heard: list[str] = []
    dones = sweep(Adding(), STEPS, tmp_path, workers=1, quiet=True, told=lambda done: heard.append(done.config))
    assert pairs(dones) == [(name, seed, 1) for name in "123" for seed in (0, 1)]  # all three are on a front
    assert heard == ["1", "2", "3", "1", "2", "3"]
    assert read_results(tmp_path) == dones
    assert dones[4].result is not None
    assert dones[4].result.figures["dev"] == pytest.approx(0.033)
    assert [path.name for path in (tmp_path / "configs").rglob("*") if path.is_file()] == []


def test_a_second_seed_is_for_those_on_a_front(tmp_path: Path) -> None:
    # 5x1 (dev 15) is dearer than 2x2 (dev 22) by parameters, and by time beaten by 1x1's equal: 2x1 is on no front
    configs = [Config(f"{w}x{d}", {"width": w, "depth": d}) for w, d in ((1, 2), (5, 2), (4, 3), (4, 4), (3, 5))]
    dones = run(Adding(noise=0.0), tmp_path, Asked(tuple(configs), Budget(steps=100)))
    # parameters: 1x2 (.021 for 100), 3x5 (.053 for 300); seconds: 5x2 (.025 in 2 s), 4x3, 4x4, 3x5
    assert [done.config for done in dones if done.seed == 1] == ["1x2", "5x2", "4x3", "4x4", "3x5"]
    more = Asked((*configs, Config("2x2", {"width": 2, "depth": 2})), Budget(steps=100))
    dones = run(Adding(noise=0.0), tmp_path / "more", more)
    assert "2x2" in {done.config for done in dones if done.seed == 1}  # .022 for 200
    worse = Asked((*configs, Config("6x2", {"width": 4, "depth": 2})), Budget(steps=100))
    dones = run(Adding(noise=0.0), tmp_path / "worse", worse)
    assert "6x2" not in {done.config for done in dones if done.seed == 1}  # 3x5 is smaller, 5x2 as fast


def test_a_second_seed_that_changes_a_front_brings_others_onto_it(tmp_path: Path) -> None:
    configs = (Config("first", {"width": 2, "depth": 1}), Config("next", {"width": 3, "depth": 1}))
    asked = Asked((*configs, Config("cheap", {"width": 1, "depth": 1})), Budget(steps=100))
    dones = run(Adding(noise=-4.0), tmp_path, asked)
    # "next" leads by 13 to 12 and 11, falls to 11 on the mean, and "first" and "cheap" are asked again in turn
    assert {done.config for done in dones if done.seed == 1} == {"first", "next", "cheap"}


def test_seeds_are_asked_of_all(tmp_path: Path) -> None:
    dones = run(Adding(), tmp_path, replace(STEPS, seeds=3))
    assert pairs(dones) == [(name, seed, 1) for name in "123" for seed in (0, 1, 2)]


@pytest.mark.parametrize("killed_at", [0, 50, 100, 250, 420, 599])
def test_a_resumed_sweep_equals_an_uninterrupted_one(tmp_path: Path, killed_at: int) -> None:
    whole, killed, again = Adding(), Adding(killed_at=killed_at), Adding()
    expected = run(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(killed, tmp_path / "killed")
    assert len(read_results(tmp_path / "killed")) == killed_at // 100
    assert run(again, tmp_path / "killed") == expected
    assert (tmp_path / "killed" / RESULTS).read_bytes() == (tmp_path / "whole" / RESULTS).read_bytes()
    assert again.ran[0][3] == killed_at % 100  # goes on from its checkpoint
    assert killed.done + again.done == whole.done == 600


def test_a_result_left_by_a_worker_whose_sweep_was_killed_is_taken(tmp_path: Path) -> None:
    expected = run(Adding(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Adding(killed_at=0), tmp_path / "killed")
    (tmp_path / "killed/configs/000/seed-0-share-1/done.json").write_text(json.dumps(expected[0].as_json()))
    again = Adding()
    assert run(again, tmp_path / "killed") == expected
    assert again.done == 500


def test_a_finished_sweep_trains_nothing_again(tmp_path: Path) -> None:
    expected = run(Adding(), tmp_path)
    again = Adding()
    assert run(again, tmp_path) == expected
    assert again.ran == []


def test_seconds_become_steps_once(tmp_path: Path) -> None:
    asked = Asked(LADDER, Budget(seconds=12.0))
    task = Adding(killed_at=20)
    with pytest.raises(KeyboardInterrupt):
        run(task, tmp_path, asked)
    assert task.measured == [12.0]
    again = Adding()
    dones = run(again, tmp_path, asked)
    assert again.measured == [12.0, 12.0]  # of the other two
    assert again.ran[0] == ("1x1", 0, 108, 20)
    assert [done.result.steps for done in dones if done.result is not None] == [108, 108, 54, 54, 36, 36]


def test_halving_gives_the_best_more(tmp_path: Path) -> None:
    configs = tuple(Config(f"{size}", {"width": size}) for size in range(1, 10))
    task = Adding()
    dones = run(task, tmp_path, Asked(configs, Budget(steps=90), halving=3))
    assert [(done.config, done.share) for done in dones if done.seed == 0] == [
        *((str(size), 9) for size in range(1, 7)),
        *(("7", 9), ("7", 3), ("8", 9), ("8", 3), ("9", 9), ("9", 3), ("9", 1)),
    ]
    assert [steps for _, _, steps, _ in task.ran] == [10] * 9 + [30] * 3 + [90] * 2  # the last with two seeds


def test_halving_resumed_equals_halving(tmp_path: Path) -> None:
    configs = tuple(Config(f"{size}", {"width": size}) for size in range(1, 10))
    asked = Asked(configs, Budget(steps=90), halving=3)
    expected = run(Adding(), tmp_path / "whole", asked)
    with pytest.raises(KeyboardInterrupt):
        run(Adding(killed_at=130), tmp_path / "killed", asked)
    assert run(Adding(), tmp_path / "killed", asked) == expected


def test_one_that_fails_is_marked_and_not_tried_again(tmp_path: Path) -> None:
    asked = Asked((Config("bad", {"ends": "badly"}), *LADDER), Budget(steps=100))
    dones = run(Adding(), tmp_path, asked)
    assert (dones[0].config, dones[0].failed, dones[0].result) == ("bad", "the loss is nan at step 3", None)
    assert len(dones) == 7
    again = Adding()
    assert run(again, tmp_path, asked) == dones
    assert again.ran == []


def test_what_was_lost_is_tried_again(tmp_path: Path) -> None:
    dones = run(Adding(), tmp_path)
    lost = [replace(dones[0], result=None, failed="its process was killed by signal 9", lost=True), *dones[1:]]
    (tmp_path / RESULTS).write_text("".join(json.dumps(done.as_json()) + "\n" for done in lost))
    again = Adding()
    assert run(again, tmp_path) == dones
    assert [ran[:2] for ran in again.ran] == [("1x1", 0)]


def test_another_sweep_in_the_folder_is_refused(tmp_path: Path) -> None:
    run(Adding(), tmp_path)
    with pytest.raises(LookaheadError, match=r"holds another sweep \(different: data\); give another --out"):
        run(Adding(source="there"), tmp_path)
    with pytest.raises(LookaheadError, match=r"holds another sweep \(different: configs, budget\)"):
        run(Adding(), tmp_path, Asked(LADDER[:2], Budget(steps=99)))


def test_a_sweep_is_found_again_by_what_was_asked(tmp_path: Path) -> None:
    one = folder_for(tmp_path, identity_of(Adding(), STEPS))
    assert one.parent == tmp_path / "sweeps"
    assert one.name.startswith("adding-")
    assert folder_for(tmp_path, identity_of(Adding(), STEPS)) == one
    assert folder_for(tmp_path, identity_of(Adding(source="there"), STEPS)) != one


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        ((), "there is no configuration to train; give a grid or a preset"),
        ((*LADDER, Config("odd", {"hight": 3})), "configuration odd: there is no hight"),
        ((*LADDER, Config("2", {"width": 9})), "two configurations are called 2; give one another name"),
        ((*LADDER, Config("two", {"width": 2, "depth": 2})), "configurations 2 and two are the same; leave one out"),
        ((*LADDER, Config("vast", {"width": 10**12})), "configuration vast needs about 1000000.0 GB of memory and"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_training(
    tmp_path: Path, configs: tuple[Config, ...], said: str
) -> None:
    task = Adding()
    with pytest.raises(LookaheadError) as refused:
        run(task, tmp_path / "new", Asked(configs, Budget(steps=100)))
    assert str(refused.value).startswith(said)
    assert task.ran == []
    assert not (tmp_path / "new").exists()


def test_a_folder_is_swept_by_one_at_a_time(tmp_path: Path) -> None:
    class Nested(Adding):
        def steps_for(self, values: object, seconds: float) -> int:
            with pytest.raises(LookaheadError, match="is being swept by another process; wait until it is done"):
                run(Adding(), tmp_path)
            return 1

    run(Nested(), tmp_path, Asked(LADDER[:1], Budget(seconds=1.0)))


@pytest.mark.parametrize("file", [RESULTS, SWEEP])
def test_a_damaged_file_is_named(tmp_path: Path, file: str) -> None:
    run(Adding(), tmp_path)
    (tmp_path / file).write_text('{"config": ')
    with pytest.raises(LookaheadError, match=f"{file} is damaged; remove"):
        run(Adding(), tmp_path)


def test_a_figure_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    dones = run(Adding(noise=float("nan")), tmp_path, Asked(LADDER[:1], Budget(steps=100)))
    assert [done.failed for done in dones] == ["a figure is not a finite number"]


# -- fronts ------------------------------------------------------------------------------------------------------------


def test_a_front_holds_what_nothing_beats() -> None:
    points = {"small": (1.0, 0.1), "better": (2.0, 0.3), "worse": (3.0, 0.2), "best": (9.0, 0.5), "dear": (10.0, 0.5)}
    assert front(points) == ["small", "better", "best"]
    assert front({}) == []


def test_costs_that_are_the_same_are_not_cheaper() -> None:
    assert front({"one": (1.0, 0.1), "other": (1.04, 0.2)}) == ["one", "other"]
    assert front({"one": (1.0, 0.1), "other": (1.04, 0.2)}, same=1.05) == ["other"]
    assert front({"one": (1.0, 0.2), "other": (1.04, 0.2)}, same=1.05) == ["one", "other"]


def test_a_configuration_of_which_a_seed_failed_is_on_no_front(tmp_path: Path) -> None:
    dones = run(Adding(), tmp_path)
    assert fronts_of(dones, Adding.columns[0]) == {"parameters": ["1", "2", "3"], "seconds": ["1", "2", "3"]}
    half = [replace(done, result=None, failed="so") if pairs([done]) == [("2", 1, 1)] else done for done in dones]
    assert fronts_of(half, Adding.columns[0]) == {"parameters": ["1", "3"], "seconds": ["1", "3"]}


# -- processes ---------------------------------------------------------------------------------------------------------


def test_workers_are_bounded_by_cores_work_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(sweep_workers, "free_memory", lambda: 1000)
    assert Room.here([100] * 20, None) == Room(800, 8, 1)
    assert Room.here([100] * 3, None) == Room(800, 3, 2)
    assert Room.here([300, 100, 100, 300, 200], None) == Room(800, 3, 2)  # the two largest and the next but one fit
    assert Room.here([900], None) == Room(800, 1, 8)
    assert Room.here([100] * 20, 4) == Room(800, 4, 2)


def test_memory_that_is_free_is_some() -> None:
    assert 10**7 < sweep_workers.free_memory() < 10**14


def _mark(item: tuple[Path, int]) -> None:
    path, number = item
    with (path / "order").open("a") as file:
        file.write(f"{number} ")
    if number == 2:
        os._exit(3)


@pytest.mark.slow
def test_work_that_must_wait_for_memory_lets_others_pass(tmp_path: Path) -> None:
    items = [(tmp_path, number) for number in range(4)]
    told = list(ended(_mark, items, [60, 90, 30, 900], Room(100, 2, 1)))
    assert sorted((number, died) for (_, number), died in told) == [
        (0, ""), (1, ""), (2, "its process ended with code 3"), (3, ""),
    ]  # fmt: skip
    begun = [int(number) for number in (tmp_path / "order").read_text().split()]
    assert set(begun[:2]) == {0, 2}
    assert begun[2:] == [1, 3]  # each alone


@pytest.mark.slow
def test_workers_train_what_one_would_and_one_that_dies_costs_only_its_own(tmp_path: Path) -> None:
    asked = Asked((*LADDER, Config("dead", {"width": 3, "depth": 7, "ends": "killed"})), Budget(steps=100))
    expected = run(Adding(), tmp_path / "alone")
    dones = run(Adding(), tmp_path / "two", asked, workers=2)
    assert dones[:6] == expected
    assert [(done.config, done.failed, done.lost) for done in dones[6:]] == [
        ("dead", "its process was killed by signal 9", True)
    ]
    assert (tmp_path / "two/configs/003/seed-0-share-1/checkpoint").read_text() == "4"  # to go on from
