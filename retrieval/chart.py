"""Many dimensions on paper: points in the plane of their two widest directions (PCA).

It does not know what the points stand for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_NOTHING = 1e-6  # of the length of the longest row: spread below that is the noise of single precision


@dataclass(frozen=True, slots=True)
class Chart:
    """Points (n, 2), their mean at the origin, and which share of their spread each of the two directions tells: the
    first at least as much as the second, both together at most 1."""

    points: Floats
    explained: tuple[float, float]


def chart_of(rows: Floats) -> Chart:
    """The rows (n, D) as their first two principal components have them.

    A component may point either way: here its largest entry is positive, so that the same rows always draw the same
    chart. Where rows are alike, or one is all there is, they lie on a line or in one point, and nothing is explained by
    what is not there.
    """
    exact = rows.astype(np.float64)
    longest = np.linalg.norm(exact, axis=1).max(initial=0.0)
    centred = exact - exact.mean(axis=0) if len(exact) else exact
    points = np.zeros((len(exact), 2))
    shares = [0.0, 0.0]
    if len(exact) > 1 and np.linalg.norm(centred, axis=1).max() > _NOTHING * longest:
        _, spread, axes = np.linalg.svd(centred, full_matrices=False)
        kept = axes[:2]
        largest = np.abs(kept).argmax(axis=1)
        kept *= np.sign(kept[np.arange(len(kept)), largest])[:, None]
        points[:, : len(kept)] = centred @ kept.T
        for place, one in enumerate((spread**2 / (spread**2).sum())[:2].tolist()):
            shares[place] = float(one)
    return Chart(points.astype(np.float32), (shares[0], shares[1]))
