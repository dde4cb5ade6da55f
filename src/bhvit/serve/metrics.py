"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from .pool import Pool

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, pool: Pool) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "bhvit_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "bhvit_request_seconds", "Time of a request with its body", ["route"], buckets=_SECONDS, registry=registry
        )
        self.model_seconds = Histogram(
            "bhvit_model_seconds",
            "Time to decode, prepare and run the images of a request",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.images = Counter("bhvit_images", "Images answered", ["model"], registry=registry)
        jobs = Gauge("bhvit_jobs", "Requests that run or wait for a session", registry=registry)
        jobs.set_function(lambda: pool.jobs)
        self.models = Gauge("bhvit_models", "Models that are ready", registry=registry)
        self._registry = registry

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
