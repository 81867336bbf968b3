"""What a grid file asks for, and what it may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.sweep import Budget, Config
from retrieval.sweep_grid import budget_of, crossed, named, read_grid
from store.records import LookaheadError


def written(folder: Path, text: str) -> Path:
    (folder / "sweep.toml").write_text(text, encoding="utf-8")
    return folder / "sweep.toml"


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(seconds=90)),
        ("30m", Budget(seconds=1800)),
        ("1.5h", Budget(seconds=5400)),
        ("2 m", Budget(seconds=120)),
        ("5000 steps", Budget(steps=5000)),
        ("1 step", Budget(steps=1)),
        ("5000", Budget(steps=5000)),
    ],
)
def test_a_budget_is_time_or_steps(text: str, budget: Budget) -> None:
    assert budget_of(text) == budget


@pytest.mark.parametrize("text", ["", "0", "0s", "-3m", "3d", "1.5 steps", "m", "2m 3s"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(LookaheadError, match=r"expected one such as 90s, 30m, 2h or "):
        budget_of(text)


def test_a_grid_is_every_combination_and_the_list_comes_after(tmp_path: Path) -> None:
    grid = read_grid(
        written(
            tmp_path,
            """
            [sweep]
            budget = "2m"
            seeds = 2
            halving = 3
            [base]
            rate = 0.5
            [grid]
            width = [64, 128]
            norm = ["pre", "post"]
            [[config]]
            name = "wide"
            width = 512
            rate = 0.1
            [[config]]
            depth = 3
            """,
        )
    )
    assert grid.configs == (
        Config("width 64, pre", {"rate": 0.5, "width": 64, "norm": "pre"}),
        Config("width 64, post", {"rate": 0.5, "width": 64, "norm": "post"}),
        Config("width 128, pre", {"rate": 0.5, "width": 128, "norm": "pre"}),
        Config("width 128, post", {"rate": 0.5, "width": 128, "norm": "post"}),
        Config("wide", {"rate": 0.1, "width": 512}),
        Config("depth 3", {"rate": 0.5, "depth": 3}),
    )
    assert (grid.budget, grid.seeds, grid.halving) == (Budget(seconds=120), 2, 3)


def test_a_list_alone_is_a_sweep(tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path, "[[config]]\nwidth = 2"))
    assert grid.configs == (Config("width 2", {"width": 2}),)
    assert (grid.budget, grid.seeds, grid.halving) == (None, None, None)


def test_names_tell_what_differs() -> None:
    assert (
        named({"kind": "gru", "width": 64, "rate": 0.001, "anchored": False})
        == "gru, width 64, rate 0.001, no anchored"
    )
    assert [config.name for config in crossed({"a": [1, 2], "b": [True]}, {})] == ["a 1, b", "a 2, b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sweeps]\nseeds = 1", "there is no section sweeps; there are: base, config, grid, sweep"),
        ("[sweep]\nworkers = 1", "there is no key in [sweep] workers; there are: budget, halving, seeds"),
        ("[grid]\nwidth = 64", "[grid] width is 64; expected a list of values"),
        ("[grid]\nwidth = []", "[grid] width is []; expected a list of values"),
        ("[grid]\nwidth = [[1]]", "width is [1]; expected a number, a word, or true or false"),
        ("[config]\nwidth = 1", "expected [[config]], in double brackets, for each configuration"),
        ("[[config]]\nday = 2020-01-01", "day is datetime.date(2020, 1, 1); expected a number"),
        ("base = 3", "expected a table [base], found 3"),
        ("[base]\nwidth = 1", "neither a [grid] nor a [[config]] is in it"),
        ('[sweep]\nbudget = "soon"\n[grid]\nwidth = [1]', 'a budget of "soon"; expected'),
        ("[sweep]\nseeds = 0\n[grid]\nwidth = [1]", "[sweep] seeds is 0; expected a whole number of at least 1"),
        ("[sweep]\nhalving = 1\n[grid]\nwidth = [1]", "[sweep] halving is 1; expected a whole number of at least 2"),
        ("[sweep]\nseeds = true\n[grid]\nwidth = [1]", "[sweep] seeds is True; expected"),
        ("[grid]\na = " + str(list(range(99))) + "\nb = " + str(list(range(99))), "9,801 configurations; a sweep has"),
        ("[grid", "Expected"),
    ],
)
def test_what_a_grid_may_not_say_is_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(LookaheadError) as refused:
        read_grid(path)
    assert str(refused.value).startswith(f"{path}: {said}")
    assert "\n" not in str(refused.value)


def test_a_grid_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LookaheadError, match=r"sweep\.toml: No such file or directory"):
        read_grid(tmp_path / "sweep.toml")


@pytest.mark.parametrize("listed", ["[1, 2]", '["wide"]'])
def test_a_list_of_something_else_than_tables_is_refused(tmp_path: Path, listed: str) -> None:
    with pytest.raises(LookaheadError) as refused:
        read_grid(written(tmp_path, f"config = {listed}"))
    assert "\n" not in str(refused.value)
