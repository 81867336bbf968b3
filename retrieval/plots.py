"""Pictures of an evaluation, as PNG files.

It does not know how a rank was found; matplotlib is imported only when something is drawn.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrieval.metrics import Floats, Ranks, Resampled, bootstrap_interval, recall_at
from retrieval.reports import Estimate
from store.generations import write_atomically

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

DEEPEST = 50
_TICKS = (1, 2, 3, 5, 10, 20, 50)
# Okabe and Ito's colours, which the colour-blind tell apart; each has its own dashes too, for paper in grey.
_COLORS, _DASHES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), ("-", "--", "-.", ":")
_STYLES = tuple((_COLORS[i % 6], _DASHES[(i + i // 6) % 4]) for i in range(24))


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
    figure, axes = _empty(title)
    cuts = np.arange(1, DEEPEST + 1)
    interval = _intervals(groups, seed)
    lines, labels, lowest = [], [], 1.0
    styles = dict(zip(rows, cycle(_STYLES), strict=False))  # by the order given: a row looks alike in every picture
    for name, ranks in _best_first(rows):
        color, dashes = styles[name]
        found = [recall_at(ranks, int(k)) for k in cuts]
        low, high = np.array([interval(values) for values in found]).T
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
    _save(figure, axes.legend(lines, labels, loc="lower right", title="shaded: 95 % interval"), path)


def plot_rank_histogram(rows: Mapping[str, Ranks], path: Path, title: str) -> None:
    """Draws how often the right one came at which rank, in bins that double in width, to a PNG file.

    A question that found nothing is in no bin but in the shares.
    """
    figure, axes = _empty(title)
    deepest = max((rank for ranks in rows.values() for rank in ranks if rank is not None), default=1)
    edges = 2 ** np.arange(math.floor(math.log2(deepest)) + 2)
    lines, labels = [], []
    for (name, ranks), (color, dashes) in zip(rows.items(), cycle(_STYLES), strict=False):
        found = [rank for rank in ranks if rank is not None]
        share = np.histogram(found, edges)[0] / len(ranks)
        lines.append(axes.stairs(share, edges, color=color, linestyle=dashes, linewidth=1.8))
        middle = f"{np.median(found):,.0f}" if found else "none"
        labels.append(f"{name}  (median {middle})")
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, edges[-1])
    shown = edges[:: math.ceil(len(edges) / 10)].tolist()
    axes.set_xticks(shown, [f"{edge:,}" for edge in shown])
    axes.minorticks_off()
    axes.set_ylim(0)
    axes.set_xlabel("rank of the right one (a bin is from one power of two to below the next)")
    axes.set_ylabel("share of questions")
    _save(figure, axes.legend(lines, labels, loc="upper right"), path)


def plot_training(
    history: Sequence[Mapping[str, float]], copy_last: Mapping[str, float], path: Path, title: str
) -> None:
    """Draws a training's validations by step: MRR, R@5 and cosine, copy-last as level lines, and the loss on an axis
    of its own, to a PNG file."""
    figure, axes = _empty(title)
    steps = [line["step"] for line in history]
    lines, labels = [], []
    for (name, color), dashes in zip(zip(("MRR", "R@5", "cosine"), _COLORS, strict=False), _DASHES, strict=False):
        lines += axes.plot(steps, [line[name] for line in history], color=color, linestyle=dashes, marker=".")
        labels.append(f"{name}  ({max(line[name] for line in history):.3f} at best)")
        axes.axhline(copy_last[name], color=color, linewidth=0.8, alpha=0.6)
    axes.set_xlabel("step (thin level lines: copying the last chunk)")
    axes.set_ylabel("on validation articles")
    beside = axes.twinx()
    beside.spines["top"].set_visible(False)
    lines += beside.plot(steps, [line["loss"] for line in history], color="#777777", linewidth=1.2)
    labels.append("loss on training windows (right axis)")
    beside.set_ylabel("loss")
    _save(figure, axes.legend(lines, labels, loc="lower right"), path)


def plot_inverter(stages: Sequence[Sequence[Mapping[str, float]]], path: Path, title: str) -> None:
    """Draws the validations of both stages of an inverter's training one behind the other: token F1 and cosine of what
    it writes, and the likelihood of the true texts on an axis of its own, to a PNG file."""
    figure, axes = _empty(title)
    behind = [0.0, *(max(line["step"] for line in stage) for stage in stages)]
    at = [line["step"] + behind[number] for number, stage in enumerate(stages) for line in stage]
    history = [line for stage in stages for line in stage]
    lines, labels = [], []
    for (name, color), dashes in zip(zip(("F1", "cosine"), _COLORS, strict=False), _DASHES, strict=False):
        for kind, width in ((name, 1.2), (f"corrected {name}", 2.4)):
            there = [(step, line[kind]) for step, line in zip(at, history, strict=True) if kind in line]
            if there:
                lines += axes.plot(
                    *zip(*there, strict=True), color=color, linestyle=dashes, marker=".", linewidth=width
                )
                labels.append(f"{kind}  ({max(value for _, value in there):.3f} at best)")
    axes.axvline(behind[1], color="#777777", linewidth=0.8)
    axes.set_xlabel("step (upright line: the second stage begins)")
    axes.set_ylabel("on validation articles")
    beside = axes.twinx()
    beside.spines["top"].set_visible(False)
    lines += beside.plot(at, [line["likelihood"] for line in history], color="#777777", linewidth=1.2)
    labels.append("log-likelihood, nats a token (right axis)")
    beside.set_ylabel("nats")
    _save(figure, axes.legend(lines, labels, loc="lower right"), path)


def plot_distillation(history: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Draws a distillation's validations by step: cosine to the teacher, fit and STS, as far as they were watched, and
    the loss on an axis of its own, to a PNG file. What is below 0 is left out."""
    figure, axes = _empty(title)
    steps = [line["step"] for line in history]
    lines, labels = [], []
    named = zip(("cosine", "fit", "STS"), _COLORS, _DASHES, strict=False)
    for name, color, dashes in ((name, color, dashes) for name, color, dashes in named if name in history[0]):
        lines += axes.plot(steps, [line[name] for line in history], color=color, linestyle=dashes, marker=".")
        labels.append(f"{name}  ({max(line[name] for line in history):.3f} at best)")
    lowest = min(line[name] for line in history for name in ("cosine", "fit", "STS") if name in line)
    axes.set_ylim(min(0.9, max(0.0, math.floor(10 * lowest) / 10)), 1.01)
    axes.set_xlabel("step")
    axes.set_ylabel("on validation articles (STS: dev pairs)")
    beside = axes.twinx()
    beside.spines["top"].set_visible(False)
    lines += beside.plot(steps, [line["loss"] for line in history], color="#777777", linewidth=1.2)
    labels.append("loss on training texts (right axis)")
    beside.set_ylabel("loss")
    _save(figure, axes.legend(lines, labels, loc="lower right"), path)


def _intervals(groups: Sequence[Hashable] | None, seed: int) -> Callable[[Floats], tuple[float, float]]:
    """From one value a question to its interval; groups are drawn once for all values that come."""
    if groups is None:
        return lambda values: bootstrap_interval(values, seed=seed)
    number = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    resampled = Resampled.of(np.array([number[group] for group in groups], dtype=np.int64), seed=seed)
    return lambda values: resampled.mean(values)[1:]


def plot_growth(
    sizes: Sequence[int],
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], float, float]]],
    path: Path,
    title: str,
) -> None:
    """Draws what grows with the size, both axes logarithmic, a panel for each unit, to a PNG file. `panels` are unit →
    name → (value at each size, exponent, factor) of the line through them, factor · size^exponent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    ends = np.array([min(sizes), max(sizes)], dtype=float)
    for axes, (unit, quantities) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for (name, (values, exponent, factor)), (color, dashes) in zip(
            quantities.items(), cycle(_STYLES), strict=False
        ):
            axes.plot(sizes, values, "o", color=color, markersize=5)
            axes.plot(ends, factor * ends**exponent, dashes, color=color, label=f"{name}  ~ size^{exponent:.1f}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("chunks")
        axes.set_ylabel(unit)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8, frameon=False)
        for label in legend.get_texts():
            label.set_parse_math(False)
    _write(figure, path)


def _empty(title: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # the canvas that needs no screen, without pyplot's global state
    axes = figure.add_subplot()
    axes.set_title(textwrap.fill(title, 80), loc="left", fontsize=11, parse_math=False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, legend: Legend, path: Path) -> None:
    legend.set_alignment("left")
    legend.get_frame().set(edgecolor="none", alpha=0.8)  # a line behind it still shows, and the words can be read
    for label in legend.get_texts():
        label.set_parse_math(False)
        label.set_fontsize(10 if len(legend.get_texts()) <= 8 else 7)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a title in a script the font lacks
        figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


def _best_first(rows: Mapping[str, Ranks]) -> list[tuple[str, Ranks]]:
    """In the order of their R@1, so that the legend reads as the lines lie."""
    return sorted(rows.items(), key=lambda row: -float(recall_at(row[1], 1).mean()))


def plot_leaderboard(
    points: Mapping[str, tuple[float, float]], baseline: tuple[str, float], path: Path, title: str, runtime: str
) -> None:
    """Draws R@5 against the milliseconds of a single query on a logarithmic axis, to a PNG file: up and to the left is
    better. `points` are name → (ms, R@5); the baseline, (name, R@5), takes no time worth drawing and is a line."""
    figure, axes = _empty(title)
    name, level = baseline
    line = axes.axhline(level, color="#555555", linestyle="--", linewidth=1.2)
    heights = [level, *(height for _, height in points.values())]
    room = max(max(heights) - min(heights), 0.01)
    for place, (model, (wait, height)) in enumerate(sorted(points.items(), key=lambda point: point[1])):
        axes.plot([wait], [height], "o", color=_COLORS[place % len(_COLORS)], markersize=7)
        crowded = any(  # by one above it
            wait / 3 < other < 3 * wait and 0 < (above - height or wait - other) < 0.07 * room
            for other, above in points.values()
        )
        label = axes.annotate(
            model, (wait, height), (0, -16 if crowded else 7), textcoords="offset points", ha="center", fontsize=9
        )
        label.set_parse_math(False)
    waits = [wait for wait, _ in points.values()]
    left, right = min(waits) / 2, max(waits) * 2
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    ticks = [base * 10.0**power for power in range(-4, 5) for base in (1, 2, 5) if left <= base * 10.0**power <= right]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(max(0.0, min(heights) - 0.15 * room), max(heights) + 0.15 * room)
    axes.set_xlabel(f"ms for a single query, median ({runtime})")
    axes.set_ylabel("R@5")
    _save(figure, axes.legend([line], [f"{name}  (R@5 {level:.3f})"], loc="best"), path)


def plot_quality_speed(
    points: Mapping[str, tuple[float, Estimate]], path: Path, title: str, *, speed: str, quality: str
) -> None:
    """Draws a measure of quality with its interval against speed on a logarithmic axis, to a PNG file: up and to the
    right is better. `points` are name → (speed, quality); `speed` and `quality` say what the axes are."""
    figure, axes = _empty(title)
    lines, labels = [], []
    styles = dict(zip(points, cycle(zip(_COLORS, "osD^vP", strict=True)), strict=False))  # by the order given
    for name, (rate, level) in sorted(points.items(), key=lambda point: -point[1][1].mean):
        color, marker = styles[name]
        ends = [[max(0.0, level.mean - level.low)], [max(0.0, level.high - level.mean)]]
        bars = None if any(math.isnan(end) for (end,) in ends) else ends
        lines.append(axes.errorbar([rate], [level.mean], yerr=bars, fmt=marker, color=color, markersize=8, capsize=4))
        labels.append(f"{name}  ({level.mean:.3f} at {rate:,.0f})")
    rates = [rate for rate, _ in points.values()]
    left, right = min(rates) / 2, max(rates) * 2
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    ticks = [base * 10.0**power for power in range(-2, 8) for base in (1, 2, 5) if left <= base * 10.0**power <= right]
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(speed)
    axes.set_ylabel(quality)
    _save(figure, axes.legend(lines, labels, loc="best", title="bars: 95 % interval"), path)


def plot_front(
    points: Mapping[str, tuple[float, float, float]],
    front: Sequence[str],
    lines: Mapping[str, float],
    path: Path,
    title: str,
    *,
    cost: str,
    quality: str,
) -> None:
    """Draws quality against cost on a logarithmic axis, to a PNG file, with the front joined and named. `points` are
    name → (cost, quality, half the length of its bar), `lines` the level lines; `cost` and `quality` say what the axes
    are."""
    figure, axes = _empty(title)
    others = [point for name, point in points.items() if name not in front]
    held: list[Artist | ErrorbarContainer] = []
    labels = []
    if others:
        x, y, error = zip(*others, strict=True)
        held.append(axes.errorbar(x, y, yerr=error, fmt="o", color="#999999", markersize=5, capsize=2))
        labels.append("others")
    if front:
        x, y, error = zip(*(points[name] for name in front), strict=True)
        held.append(axes.errorbar(x, y, yerr=error, fmt="o-", color=_COLORS[0], markersize=6, capsize=2))
        labels.append("front: nothing is better and cheaper")
    for place, name in enumerate(front):
        across, up, _ = points[name]
        side = (5, -11) if place % 2 else (-5, 7)  # neighbours on a front lie close
        at = "left" if place % 2 else "right"
        label = axes.annotate(name, (across, up), side, textcoords="offset points", ha=at, fontsize=7)
        label.set_parse_math(False)
    for (name, level), dashes in zip(lines.items(), cycle(_DASHES[1:]), strict=False):
        held.append(axes.axhline(level, color="#555555", linestyle=dashes, linewidth=1.2))
        labels.append(f"{name}  ({level:.3f})")
    costs = [point[0] for point in points.values()]
    left, right = min(costs) / 1.6, max(costs) * 1.6
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    ticks = [base * 10.0**power for power in range(-2, 10) for base in (1, 2, 5) if left <= base * 10.0**power <= right]
    axes.set_xticks(ticks, [f"{tick:,g}" if tick < 1e6 else f"{tick / 1e6:g}M" for tick in ticks])
    axes.minorticks_off()
    axes.margins(y=0.12)
    axes.set_xlabel(cost)
    axes.set_ylabel(quality)
    _save(figure, axes.legend(held, labels, loc="best"), path)
