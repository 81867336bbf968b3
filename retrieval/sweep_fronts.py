"""Which configurations earn their cost: nothing at hand is both better and cheaper.

It does not know what the cost is, nor how quality was measured.
"""

from __future__ import annotations

from collections.abc import Mapping

SAME = 1.05  # times that differ by a twentieth are the same time: the clock of a busy machine tells no more


def front(points: Mapping[str, tuple[float, float]], *, same: float = 1.0) -> list[str]:
    """Of name → (cost, quality), those that no other one beats, cheapest first.

    One beats another that is better at no higher cost, or as good at a lower one; costs within the factor `same` are
    equal.
    """

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        (cost, quality), (their_cost, their_quality) = one, other
        if quality > their_quality:
            return cost <= same * their_cost
        return quality == their_quality and same * cost < their_cost

    left = [name for name, point in points.items() if not any(beats(other, point) for other in points.values())]
    return sorted(left, key=lambda name: (points[name][0], -points[name][1], name))
