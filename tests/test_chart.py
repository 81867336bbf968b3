"""The chart: distances in the plane it draws, what it explains, and that it does not depend on chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from retrieval.chart import chart_of

Floats = NDArray[np.float32]

# a cross whose long bar is the third axis and whose short one the first
CROSS = np.array([[0, 0, 3], [0, 0, -3], [1, 0, 0], [-1, 0, 0]], dtype=np.float32)
ROWS = arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 6)), elements=st.floats(-1, 1, width=16))


def distances(points: Floats) -> Floats:
    found: Floats = np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=2)
    return found


def test_the_widest_direction_is_the_first_and_both_tell_their_shares() -> None:
    chart = chart_of(CROSS + np.float32(7))
    assert chart.points.tolist() == pytest.approx(np.array([[3, 0], [-3, 0], [0, 1], [0, -1]]), abs=1e-6)
    assert chart.explained == pytest.approx((18 / 20, 2 / 20))


def test_a_third_direction_is_left_out_of_both_shares() -> None:
    rows = np.concatenate([CROSS, np.array([[0, 0.5, 0], [0, -0.5, 0]], dtype=np.float32)])
    chart = chart_of(rows)
    assert chart.explained == pytest.approx((18 / 20.5, 2 / 20.5))
    assert chart.points[4:].tolist() == pytest.approx(np.zeros((2, 2)), abs=1e-6)


def test_the_largest_entry_of_a_direction_points_to_the_right_and_up() -> None:
    assert chart_of(CROSS).points[0].tolist() == pytest.approx([3, 0])
    assert chart_of(-CROSS).points[0].tolist() == pytest.approx([-3, 0])  # not turned round with its points


@pytest.mark.parametrize(
    ("rows", "explained"),
    [([[0.6, 0.8]], (0, 0)), ([[0.6, 0.8]] * 3, (0, 0)), ([[1.0], [3.0]], (1, 0)), ([[0, 1], [1, 0]], (1, 0))],
)
def test_what_is_not_there_explains_nothing(rows: list[list[float]], explained: tuple[float, float]) -> None:
    chart = chart_of(np.array(rows, dtype=np.float32))
    assert chart.explained == pytest.approx(explained)
    assert chart.points.shape == (len(rows), 2)
    assert np.abs(chart.points[:, 1]).max() < 1e-6


def test_no_point_is_no_chart() -> None:
    chart = chart_of(np.zeros((0, 4), dtype=np.float32))
    assert chart.points.shape == (0, 2)
    assert chart.explained == (0, 0)


@given(ROWS)
def test_the_plane_shortens_distances_only_and_the_same_rows_draw_the_same_chart(rows: Floats) -> None:
    chart = chart_of(rows)
    assert (distances(chart.points) <= distances(rows) + 1e-4).all()
    assert np.abs(chart.points.mean(axis=0)).max() < 1e-5
    first, second = chart.explained
    assert 0 <= second <= first <= first + second <= 1 + 1e-9
    assert chart_of(rows.copy()).points.tobytes() == chart.points.tobytes()
    if rows.shape[1] <= 2:
        assert distances(chart.points) == pytest.approx(distances(rows), abs=1e-4)
