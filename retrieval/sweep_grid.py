"""Which configurations a sweep is asked for: a TOML file with a grid, a list, or both, and a budget.

It does not know what the keys mean; the task checks them.

    [sweep]                  # all of it may be given at the command line instead
    budget = "10m"           # or "90s", "2h", "5000 steps", for one configuration
    seeds = 1
    halving = 3
    [base]                   # of every configuration, unless it says otherwise
    dropout = 0.1
    [grid]                   # every combination
    width = [64, 128]
    depth = [2, 4]
    [[config]]               # and these
    name = "wide"
    width = 512
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.sweep import Budget, Config, Value
from store.records import LookaheadError

MOST = 1_000  # configurations: a grid of more is a slip of the pen

_BUDGET = re.compile(r"(\d+(?:\.\d+)?) ?(s|m|h)|(\d+)(?: steps?)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_SECTIONS = {"sweep", "base", "grid", "config"}
_SWEEP = {"budget", "seeds", "halving"}


@dataclass(frozen=True, slots=True)
class Grid:
    """What a file says; None where it says nothing."""

    configs: tuple[Config, ...]
    budget: Budget | None = None
    seeds: int | None = None
    halving: int | None = None


def budget_of(text: str) -> Budget:
    """ "90s", "30m", "1.5h" of time, or "5000 steps" or "5000" steps."""
    found = _BUDGET.fullmatch(text.strip())
    amount = float(found[1] or found[3]) if found else 0.0
    if not found or not amount:
        raise LookaheadError(f'a budget of "{text}"; expected one such as 90s, 30m, 2h or "5000 steps"')
    if found[2]:
        return Budget(seconds=amount * _SECONDS[found[2]])
    return Budget(steps=int(amount))


def read_grid(path: Path) -> Grid:
    """The configurations of the grid in the order of its keys, then those of the list."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LookaheadError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LookaheadError(f"{path}: {error}") from error
    try:
        return _grid(raw)
    except LookaheadError as error:
        raise LookaheadError(f"{path}: {error}") from error


def crossed(axes: Mapping[str, Sequence[Value]], base: Mapping[str, Value]) -> list[Config]:
    """Every combination of values, over `base`, named by them; the last key changes fastest."""
    pairs = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [Config(named(pair), {**base, **pair}) for pair in pairs]


def named(values: Mapping[str, Value]) -> str:
    """ "width 64, depth 2"; a yes or no is named where it is yes, with a "no" before it where it is not."""
    words = []
    for key, value in values.items():
        if isinstance(value, bool):
            words.append(key if value else f"no {key}")
        else:
            words.append(value if isinstance(value, str) else f"{key} {value}")
    return ", ".join(words)


def _grid(raw: Mapping[str, Any]) -> Grid:
    _refuse(raw, _SECTIONS, "section")
    told, base, axes = (_table(raw, section) for section in ("sweep", "base", "grid"))
    _refuse(told, _SWEEP, "key in [sweep]")
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise LookaheadError(f"[grid] {key} is {values!r}; expected a list of values")
        for value in values:
            _value(key, value)
    listed = raw.get("config", [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise LookaheadError("expected [[config]], in double brackets, for each configuration")
    for key, value in base.items():
        _value(key, value)
    many = len(listed) + bool(axes) * math.prod(len(values) for values in axes.values())
    if many > MOST:
        raise LookaheadError(f"{many:,} configurations; a sweep has {MOST:,} at most")
    configs = crossed(axes, base) if axes else []
    for number, one in enumerate(listed, 1):
        values = {key: value for key, value in one.items() if key != "name"}
        name = one.get("name") or named({key: _value(key, value) for key, value in values.items()})
        configs.append(Config(str(name or f"configuration {number}"), {**base, **values}))
    if not configs:
        raise LookaheadError("neither a [grid] nor a [[config]] is in it")
    budget = told.get("budget")
    return Grid(
        tuple(configs),
        None if budget is None else budget_of(str(budget)),
        _count(told, "seeds", 1),
        _count(told, "halving", 2),
    )


def _refuse(found: Mapping[str, Any], known: set[str], what: str) -> None:
    for key in found:
        if key not in known:
            raise LookaheadError(f"there is no {what} {key}; there are: {', '.join(sorted(known))}")


def _table(raw: Mapping[str, Any], section: str) -> dict[str, Any]:
    table = raw.get(section, {})
    if not isinstance(table, dict):
        raise LookaheadError(f"expected a table [{section}], found {table!r}")
    return table


def _value(key: str, value: Any) -> Value:
    if not isinstance(value, (int, float, str, bool)):
        raise LookaheadError(f"{key} is {value!r}; expected a number, a word, or true or false")
    return value


def _count(told: Mapping[str, Any], key: str, least: int) -> int | None:
    value = told.get(key)
    if value is None:
        return None
    if type(value) is not int or value < least:
        raise LookaheadError(f"[sweep] {key} is {value!r}; expected a whole number of at least {least}")
    return value
