"""Metrics in Prometheus's form, at ``/metrics`` where the setting asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from core import activity
from core.errors import MissingDependencyError
from core.ui.operation.route_names import METRICS_PATH

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Metrics:
    """Counts of one running app.

    Args:
        gauges: What is read at each visit of ``/metrics``: a number by its name and description.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
    """

    def __init__(self, gauges: Mapping[tuple[str, str], Callable[[], float]]) -> None:
        """Start at nothing."""
        try:
            from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
        except ImportError as error:
            raise MissingDependencyError("prometheus-client", "TWOLENS_METRICS") from error
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "twolens_requests",
            "Requests that were answered.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "twolens_request_seconds",
            "From a request's head to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._upload_bytes = Counter(
            "twolens_upload_bytes", "Bytes of uploads that arrived.", registry=self._registry
        )
        self._registry.register(_Activity(gauges))
        ProcessCollector(registry=self._registry)

    def answered(self, route: str, method: str, status: int, seconds: float, received: int) -> None:
        """Count one request.

        Args:
            route: Its name.
            method: Of HTTP; a made-up one counts as ``other``.
            status: Of the answer.
            seconds: How long it took.
            received: Bytes of its body.
        """
        known = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if route == "upload":
            self._upload_bytes.inc(received)

    def route(self) -> Route:
        """Return ``/metrics``."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        def metrics(_: Request) -> Response:
            return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

        return Route(METRICS_PATH, metrics, methods=["GET", "HEAD"])


class _Activity:
    """Gives what is counted elsewhere in the form that a registry asks for."""

    def __init__(self, gauges: Mapping[tuple[str, str], Callable[[], float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        searches = CounterMetricFamily(
            "twolens_searches", "Searches that a lens answered.", labels=["lens"]
        )
        for lens, count in activity.searches().items():
            searches.add_metric([lens], count)
        captions = CounterMetricFamily(
            "twolens_captions", "Captions that a captioner wrote.", labels=["captioner"]
        )
        for captioner, count in activity.captions().items():
            captions.add_metric([captioner], count)
        yield from (searches, captions)
        for (name, description), value in self._gauges.items():
            yield GaugeMetricFamily(name, description, value=value())
