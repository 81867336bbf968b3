"""Pictures of an evaluation, as PNG files.

It does not know how a rank was found; matplotlib is imported only when something is drawn.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Hashable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from retrieval.metrics import Ranks, bootstrap_interval, recall_at
from store.generations import write_atomically

DEEPEST = 50
_TICKS = (1, 2, 3, 5, 10, 20, 50)
# Okabe and Ito's colours, which the colour-blind tell apart; each has its own dashes too, for paper in grey.
_STYLES = (
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#E69F00", "-"),
    ("#56B4E9", "--"),
)


def plot_recall_curves(
    rows: Mapping[str, Ranks],
    path: Path,
    title: str,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> None:
    """Draws R@k for k from 1 to 50 on a logarithmic axis, one line a row with its 95 % interval, to a PNG file.

    `groups` are those of `bootstrap_interval`. The vertical axis begins at the tenth below the lowest interval.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # the canvas that needs no screen, without pyplot's global state
    axes = figure.add_subplot()
    cuts = np.arange(1, DEEPEST + 1)
    lines, labels, lowest = [], [], 1.0
    styles = dict(zip(rows, cycle(_STYLES), strict=False))  # by the order given: a row looks alike in every picture
    for name, ranks in _best_first(rows):
        color, dashes = styles[name]
        found = [recall_at(ranks, int(k)) for k in cuts]
        low, high = np.array([bootstrap_interval(values, groups, seed=seed) for values in found]).T
        axes.fill_between(cuts, low, high, color=color, alpha=0.15, linewidth=0)
        means = [values.mean() for values in found]
        lines += axes.plot(cuts, means, color=color, linestyle=dashes, linewidth=1.8)
        labels.append(f"{name}  (R@1 {means[0]:.3f})")
        lowest = min(lowest, float(low.min()))
    axes.set_xscale("log")
    axes.set_xlim(1, DEEPEST)
    axes.set_xticks(_TICKS, [str(tick) for tick in _TICKS])
    axes.minorticks_off()
    bottom = min(0.9, max(0.0, math.floor(10 * lowest) / 10))
    axes.set_ylim(bottom, 1.0 + 0.02 * (1 - bottom))
    axes.set_xlabel("k: results looked at")
    axes.set_ylabel("R@k: questions with a right one among them")
    axes.set_title(textwrap.fill(title, 80), loc="left", fontsize=11, parse_math=False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(lines, labels, loc="lower right", frameon=False, title="shaded: 95 % interval")
    legend.set_alignment("left")
    for label in legend.get_texts():
        label.set_parse_math(False)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a title in a script the font lacks
        figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


def _best_first(rows: Mapping[str, Ranks]) -> list[tuple[str, Ranks]]:
    """In the order of their R@1, so that the legend reads as the lines lie."""
    return sorted(rows.items(), key=lambda row: -float(recall_at(row[1], 1).mean()))
