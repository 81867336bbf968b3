"""What a sweep's report says: orders, fronts, the spread from seed to seed, and no finding that a seed explains."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from retrieval.plots import plot_front
from retrieval.reports import Estimate
from retrieval.sweep import Blocks, Column, Done, Result, Value
from retrieval.sweep_report import Spread, SweepReport, gap_between, spread_of

COLUMNS = (Column("dev", "Top-1 (dev)"), Column("loss", "loss", higher=False), Column("test", "Top-1"))


def done(
    config: str,
    dev: float,
    *,
    seed: int = 0,
    share: int = 1,
    parameters: int = 100,
    seconds: float = 1.0,
    loss: float = 1,
) -> Done:
    samples = {"en": Blocks([2.0, 2.0], [4.0, 4.0]), "es": Blocks([1.0, 1.0], [4.0, 4.0])}
    groups = {"en": {"test": 0.5}, "es": {"test": 0.25}, "en: bigram": {"test": 0.3}}
    figures = {"dev": dev, "loss": loss, "test": dev}
    return Done(config, seed, share, Result(figures, groups, parameters, seconds, 10, [], samples))


def report(dones: list[Done], configs: dict[str, dict[str, Value]] | None = None, **more: Any) -> SweepReport:
    asked = {
        "task": "adding",
        "data": {"source": "here", "windows": 1234},
        "configs": configs or {one.config: {} for one in dones},
        "budget": {"seconds": None, "steps": 1000},
        "seeds": 1,
        "halving": 0,
        "command": "lookahead sweep adding",
        **more,
    }
    return SweepReport.of(asked, dones, COLUMNS, COLUMNS[2], {"copy": {"dev": 0.3}})


# a spread of .01 with 2 degrees of freedom: two means of two seeds differ beyond 4.30 · .01 = .043
SMALL = [done("small", 0.40 + sign * 0.01 / math.sqrt(2), seed=seed) for seed, sign in ((0, 1), (1, -1))]
LARGE = [
    done("large", 0.50 + sign * 0.01 / math.sqrt(2), seed=seed, parameters=300, seconds=4, loss=0.5)
    for seed, sign in ((0, 1), (1, -1))
]
MIDDLE = [done("middle", 0.42, parameters=200, seconds=2)]


def test_rows_are_means_over_seeds() -> None:
    rows = {row.name: row for row in report([*SMALL, *LARGE, *MIDDLE]).rows}
    assert (rows["large"].seeds, rows["middle"].seeds) == (2, 1)
    assert rows["large"].figures["dev"] == pytest.approx(0.5)
    assert rows["large"].fronts == ("parameters", "seconds")


def test_each_figure_has_its_order() -> None:
    told = report([*SMALL, *LARGE, *MIDDLE]).as_json()
    assert told["orders"] == {
        "dev": ["large", "middle", "small"],
        "loss": ["large", "small", "middle"],
        "test": ["large", "middle", "small"],
        "parameters": ["small", "middle", "large"],
        "seconds": ["small", "middle", "large"],
    }
    assert told["fronts"] == {"parameters": ["small", "middle", "large"], "seconds": ["small", "middle", "large"]}
    json.dumps(told, allow_nan=False)


def test_the_spread_is_pooled_over_those_with_several_seeds() -> None:
    assert spread_of([*SMALL, *LARGE, *MIDDLE], "dev") == Spread(pytest.approx(0.01), 2)  # type: ignore[arg-type]
    three = [done("a", value, seed=seed) for seed, value in enumerate((0.1, 0.2, 0.3))]
    assert spread_of([*three, done("b", 0.9)], "dev") == Spread(pytest.approx(0.1), 2)  # type: ignore[arg-type]
    assert spread_of(MIDDLE, "dev") == Spread(0.0, 0)


def test_how_far_apart_seeds_may_set_two_means() -> None:
    assert Spread(0.01, 2).between(2, 2) == pytest.approx(0.0430)
    assert Spread(0.01, 2).between(1, 1) == pytest.approx(0.0430 * math.sqrt(2))
    assert Spread(0.01, 100).between(2, 2) == pytest.approx(0.01985)
    assert Spread(0.0, 0).between(2, 2) == math.inf
    assert Spread(0.0, 5).between(2, 2) == math.inf


def test_findings_state_what_seeds_do_not_explain() -> None:
    said = report([*SMALL, *LARGE, *MIDDLE]).findings()
    # large − middle: .08 > 4.30 · .01 · √1.5 = .053; middle − small: .02 is less
    assert said.startswith("large has the best Top-1 (dev), .500 (Top-1 .500), farther from every other than seeds")
    assert "against parameters: middle → large +.080 for 1.5 × as much." in said
    assert "small → middle" not in said
    assert "Top-1 (dev) of large less that of copy +.200." in said
    assert "Top-1 of large: en − es +.250 (+.250 to +.250)." in said


def test_findings_state_nothing_that_seeds_explain() -> None:
    near = [done("near", 0.495, parameters=250, seconds=3)]
    said = report([*SMALL, *LARGE, *near]).findings()
    assert "; seeds may explain why near lies behind it." in said
    assert "small → near +.095 for 2.5 × as much" in said
    assert "near → large" not in said


def test_without_two_seeds_no_difference_is_stated() -> None:
    said = report([done("one", 0.1), done("two", 0.9, parameters=200)]).findings()
    assert said.startswith("two has the best Top-1 (dev), .900 (Top-1 .900), but seeds may explain why the others lie")
    assert "No difference is stated: no configuration has two seeds" in said
    assert "→" not in said
    same = [done(name, 0.1, seed=seed) for name in ("one", "two") for seed in (0, 1)]
    assert "No difference is stated: seeds agree to the last digit" in report(same).findings()


def test_a_key_is_judged_where_nothing_else_differs() -> None:
    configs: dict[str, dict[str, Value]] = {
        "small": {"depth": 2, "width": 8},
        "large": {"depth": 4, "width": 8},
        "middle": {"depth": 2, "width": 9},
        "other": {"depth": 4, "width": 9},
    }
    other = [done("other", 0.54)]
    said = report([*SMALL, *LARGE, *MIDDLE, *other], configs).findings()
    # depth: (.10 + .12) / 2 = .11 > 4.30 · .01 · √(.5² · (.5 + .5 + 1 + 1)); width: .03 is less
    assert "All else equal, Top-1 (dev): depth 2 → 4 +.110 (2 pairs); of 2 differences looked at" in said
    assert "width" not in said


def test_keys_that_change_together_are_no_pair() -> None:
    configs: dict[str, dict[str, Value]] = {"small": {"depth": 2, "width": 8}, "large": {"depth": 4, "width": 9}}
    assert "All else equal" not in report([*SMALL, *LARGE], configs).findings()


def test_less_of_the_budget_comes_after_all_of_it() -> None:
    told = report([done("early", 0.9, share=9), *SMALL, *LARGE], halving=3)
    assert [row.name for row in told.ordered("dev")] == ["large", "small", "early"]
    assert "1/9 of the budget" in told.table()
    assert "early" not in told.findings()
    assert set(told.points("parameters")) == {"small", "large"}


def test_a_failure_is_told_with_its_reason() -> None:
    told = report([*SMALL, Done("bad", 0, 1, failed="the loss is nan at step 3")])
    assert "2 configurations, 1,000 steps each; 1 failed" in told.table()
    assert "failed: bad: the loss is nan at step 3" in told.table()
    assert told.ordered("parameters")[-1].name == "bad"
    assert report([Done("bad", 0, 1, failed="so")]).findings() == "No configuration was trained to its end."


def test_a_gap_comes_with_its_interval() -> None:
    samples = {"en": Blocks([4.0, 0.0], [4.0, 4.0]), "es": Blocks([1.0, 1.0], [4.0, 4.0])}
    estimates, gap = gap_between(samples, 0)
    assert estimates == {"en": Estimate(0.5, 0.0, 1.0), "es": Estimate(0.25, 0.25, 0.25)}
    assert gap == ("en", "es", Estimate(0.25, -0.25, 0.75))
    assert gap_between({"all": samples["en"]}, 0) == ({"all": Estimate(0.5, 0.0, 1.0)}, None)


def test_blocks_weigh_by_their_size() -> None:
    estimates, _ = gap_between({"en": Blocks([9.0, 0.0], [9.0, 1.0])}, 0)
    assert estimates["en"].mean == pytest.approx(0.9)


def test_a_gap_whose_interval_holds_zero_is_no_finding() -> None:
    wide = {"en": Blocks([4.0, 0.0], [4.0, 4.0]), "es": Blocks([1.0, 1.0], [4.0, 4.0])}
    result = Result({"dev": 0.5, "loss": 1.0, "test": 0.5}, {}, 1, 1.0, 1, [], wide)
    told = report([Done("one", 0, 1, result)])
    assert "en − es" not in told.findings()
    assert "Top-1 of one: en − es +.250 (-.250 to +.750)" in told.table()


def test_markdown_has_a_table_for_each_figure_and_one_of_groups() -> None:
    told = report([*SMALL, *LARGE]).markdown()
    headings = [line.removeprefix("## ") for line in told.splitlines() if line.startswith("## ")]
    assert headings == [
        *(f"By {name}" for name in ("Top-1 (dev)", "loss", "Top-1", "parameters", "time")),
        "By group",
    ]
    assert "| large | .500 | .500 | .500 | 300 | 4 s | 10 | 2 | P T |" in told
    assert "| copy | .300 |  |  |  |  |  |  |  |" in told
    assert "| large | .500 | .250 | en − es +.250 (+.250 to +.250) |" in told


def test_a_name_with_a_bar_does_not_break_a_table() -> None:
    assert "| a\\|b | .400 |" in report([done("a|b", 0.4)]).markdown()


def test_a_front_is_drawn(tmp_path: Path) -> None:
    told = report([*SMALL, *LARGE, *MIDDLE, done("worse", 0.1, parameters=1000, seconds=9)])
    front = [row.name for row in told.front("parameters")]
    plot_front(
        told.points("parameters"), front, {"copy": 0.3}, tmp_path / "x.png", "a title", cost="cost", quality="quality"
    )
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_few_blocks_tell_less_than_many() -> None:
    """Two blocks that agree are no proof that all would."""
    halves, forties = [50.0, 40.0], [45.0, 35.0]
    alone = gap_between({"en": Blocks([50.0], [100.0]), "es": Blocks([40.0], [100.0])}, 0)
    few = gap_between({"en": Blocks(halves, [100.0] * 2), "es": Blocks(forties, [100.0] * 2)}, 0)
    many = gap_between({"en": Blocks(halves * 20, [100.0] * 40), "es": Blocks(forties * 20, [100.0] * 40)}, 0)
    (_, _, one), (_, _, two), (_, _, forty) = (gap for _, gap in (alone, few, many))
    assert one.low <= 0 <= one.high
    assert two.high - two.low > 4 * (forty.high - forty.low)
    assert few[0]["en"].low == 0.0  # .45 less .05 · 12.71 / 1.96 · √2, where drawing again alone would say .40
