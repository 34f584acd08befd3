"""What ``/metrics`` shows: queues, stage times, batch sizes, outcomes; one registry per server."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """The server's instruments. ``docs/serving.md`` lists them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "mmx_requests",
            "Requests to /v1/predict that ended, by outcome (ok, or why not)",
            ["outcome"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "mmx_request_seconds",
            "From the complete upload to the whole answer",
            ["kind"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "mmx_stage_seconds",
            "Time of one segment (upload: of one request) in a stage",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch_size = Histogram("mmx_batch_size", "Segments in a batch", buckets=SIZES, registry=self.registry)
        self._batch_rows = Histogram(
            "mmx_batch_rows", "Tower rows in a batch", buckets=(4, 16, 32, 64, 128, 256, 512), registry=self.registry
        )
        self._replaced = Counter(
            "mmx_workers_replaced",
            "Decoding processes that were replaced, by reason",
            ["reason"],
            registry=self.registry,
        )
        self._upload_bytes = Gauge("mmx_upload_bytes", "Bytes that all uploads hold", registry=self.registry)
        self._queue = Gauge("mmx_queue", "What waits or is worked on, by queue", ["queue"], registry=self.registry)

    def watch(self, queues: Mapping[str, Callable[[], float]], upload_bytes: Callable[[], float]) -> None:
        """Show these numbers as ``mmx_queue`` and ``mmx_upload_bytes``, read when they are asked for."""
        self._upload_bytes.set_function(upload_bytes)
        for name, read in queues.items():
            self._queue.labels(name).set_function(read)

    def ended(self, outcome: str) -> None:
        """A request ended: ``ok``, ``disconnected``, or the code of its rejection."""
        self._requests.labels(outcome).inc()

    def answered(self, kind: str, seconds: float) -> None:
        """A request of a kind (media, tensors) was answered."""
        self._request_seconds.labels(kind).observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """A stage took so long."""
        self._stages.labels(name).observe(seconds)

    def batch(self, size: int, rows: int) -> None:
        """The network ran."""
        self._batch_size.observe(size)
        self._batch_rows.observe(rows)

    def replaced(self, reason: str) -> None:
        """A worker was replaced."""
        self._replaced.labels(reason).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
