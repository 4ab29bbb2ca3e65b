"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PATH = "/monitoring/prometheus/metrics"
"""Where TensorFlow Serving has them."""


class Metrics:
    """Counters of one server.

    Args:
        waiting: rows that wait to be computed.
        versions: model -> number of its versions in service.
    """

    def __init__(self, waiting: Callable[[], int], versions: Callable[[], dict[str, int]]) -> None:
        self._registry = registry = CollectorRegistry()
        self._versions = versions
        seconds = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
        self._requests = Counter(
            "moa_tf_requests",
            "Requests answered",
            ["model", "method", "entrypoint", "status"],
            registry=registry,
        )
        self._latency = Histogram(
            "moa_tf_request_seconds",
            "From the request's last byte to the answer",
            ["model", "method", "entrypoint"],
            buckets=seconds,
            registry=registry,
        )
        self._rows = Counter("moa_tf_rows", "Rows computed", ["model", "signature"], registry=registry)
        self._batches = Histogram(
            "moa_tf_batch_rows",
            "Rows of a batch",
            ["model", "signature"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=registry,
        )
        self._joined = Counter(
            "moa_tf_batch_requests", "Requests in batches", ["model", "signature"], registry=registry
        )
        Gauge("moa_tf_waiting_rows", "Rows that wait", registry=registry).set_function(waiting)
        self._loaded = Gauge("moa_tf_versions", "Versions in service", ["model"], registry=registry)

    def answered(self, model: str, method: str, entrypoint: str, status: str, seconds: float) -> None:
        """A request. `model` is one that is served, or '' lest clients make up labels."""
        self._requests.labels(model, method, entrypoint, status).inc()
        self._latency.labels(model, method, entrypoint).observe(seconds)

    def computed(self, model: str, signature: str, rows: int, requests: int) -> None:
        """A batch."""
        self._rows.labels(model, signature).inc(rows)
        self._batches.labels(model, signature).observe(rows)
        self._joined.labels(model, signature).inc(requests)

    def page(self) -> bytes:
        """The text format."""
        self._loaded.clear()
        for model, number in self._versions().items():
            self._loaded.labels(model).set(number)
        return generate_latest(self._registry)
