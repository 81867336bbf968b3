"""What a service counts of itself, for Prometheus. It keeps a registry of its own, and knows no request and no lane."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = {"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"}  # a client can make any other up
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH = (1, 2, 4, 8, 16, 32, 64)


class Meters:
    """Counters of one app; safe to use from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "lookahead_requests",
            "Requests answered; 499 is one whose client went before its answer.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "lookahead_request_seconds",
            "From a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "lookahead_requests_in_flight", "Requests begun and not ended.", registry=self._registry
        )
        self._waiting = Gauge("lookahead_lane_waiting", "Asked and not begun.", ["lane"], registry=self._registry)
        self._batch = Histogram(
            "lookahead_lane_batch_size",
            "How many were worked on together.",
            ["lane"],
            buckets=_BATCH,
            registry=self._registry,
        )
        self._refused = Counter(
            "lookahead_lane_refused", "Answered 429: the line was full.", ["lane"], registry=self._registry
        )
        self._generations = Gauge(
            "lookahead_generations_open", "Generations of collections held open.", registry=self._registry
        )

    def begun(self) -> None:
        self._in_flight.inc()

    def ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is a template such as /api/chunks/{chunk_id}: a label for every path would never end."""
        self._in_flight.dec()
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def watch_lane(self, lane: str, waiting: Callable[[], int]) -> None:
        """`waiting` is called whenever somebody wants to know, from any thread."""
        self._waiting.labels(lane).set_function(waiting)

    def lane_batch(self, lane: str, size: int) -> None:
        self._batch.labels(lane).observe(size)

    def lane_refused(self, lane: str) -> None:
        self._refused.labels(lane).inc()

    def generations_open(self, count: int) -> None:
        self._generations.set(count)

    def text(self) -> bytes:
        """Everything, as CONTENT_TYPE."""
        return generate_latest(self._registry)
