"""Progress bars with rates and time left, on stderr, for anything that takes over a second.

They know nothing of the work. `quiet` turns them off.
"""

from __future__ import annotations

import sys
from typing import Any


def bar(what: str, total: int | None, unit: str, *, quiet: bool, scale: bool = False) -> Any:
    """A tqdm bar that appears after a second; use it with `with` and call `update(n)`."""
    from tqdm import tqdm  # here: a search draws no bar, and need not wait for it

    return tqdm(
        desc=what,
        total=total,
        unit=f" {unit}",
        unit_scale=scale,
        unit_divisor=1024 if unit == "B" else 1000,
        delay=1,
        disable=quiet,
        file=sys.stderr,
        dynamic_ncols=True,
        smoothing=0.05,
        mininterval=0.5 if sys.stderr.isatty() else 10,
    )


def say(sentence: str, *, quiet: bool) -> None:
    """A line between the bars."""
    if not quiet:
        from tqdm import tqdm

        tqdm.write(sentence, file=sys.stderr)
