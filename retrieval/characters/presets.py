"""Lists of next-character configurations by name: the published table, and what we add to it.

It trains nothing and imports no torch. Eight shapes were published: seven by their exact parameter counts, of the
eighth only that it is 256 wide and looked diverged; depth and feed-forward are ours there (the four layers of the other
widths, four times the width). Heads, learning rate, dropout and training text were not published. Two rows looked
diverged, trained post-norm without warm-up, so the five rows we add repeat the depths of width 128, and the 256-wide
one, with pre-norm and warm-up: whether depth pays is then a question of one column.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrieval.sweep import Config, Value
from store.records import LookaheadError


@dataclass(frozen=True, slots=True)
class Row:
    """A configuration and what was published of it: parameters, Top-1 and Top-3 in per cent (0: not told)."""

    config: Config
    parameters: int = 0
    top1: float = 0.0
    top3: float = 0.0
    ours: bool = False


def _row(width: int, depth: int, ff: int, parameters: int = 0, top1: float = 0.0, top3: float = 0.0) -> Row:
    values: dict[str, Value] = {"width": width, "depth": depth, "ff": ff, "norm": "post", "warm_up": 0.0}
    name = f"d{width} L{depth} ff{ff}" + ("" if parameters else " (only the width published)")
    return Row(Config(name, values), parameters, top1, top3)


def _our_row(width: int, depth: int, ff: int) -> Row:
    values: dict[str, Value] = {"width": width, "depth": depth, "ff": ff, "norm": "pre", "warm_up": 0.1}
    return Row(Config(f"d{width} L{depth} ff{ff} pre-norm (ours)", values), ours=True)


PUBLISHED = (
    _row(128, 12, 512, 2_399_310, 52.93, 77.10),
    _row(128, 8, 512, 1_606_222),
    _row(128, 4, 512, 813_134, 49.07, 74.97),
    _row(128, 2, 1024, 679_758, 47.82, 73.99),
    _row(128, 2, 512, 416_590, 43.69, 71.37),
    _row(64, 4, 256, 209_998, 41.34, 67.12),
    _row(32, 2, 512, 80_398, 35.18, 60.17),
    _row(256, 4, 1024),
    _our_row(128, 2, 512),
    _our_row(128, 4, 512),
    _our_row(128, 8, 512),
    _our_row(128, 12, 512),
    _our_row(256, 4, 1024),
)
PRESETS = {"published": PUBLISHED}


def preset(name: str) -> list[Config]:
    """The configurations of a preset, in the order of its table."""
    if name not in PRESETS:
        raise LookaheadError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
    return [row.config for row in PRESETS[name]]
