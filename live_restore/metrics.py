"""Numbers for Prometheus, served over HTTP to programs of this PC.

Needs the extra ``metrics``. Names and meanings are in ``docs/metrics.md``.
"""

from __future__ import annotations

import logging
import os
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, get_args
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from live_restore import __version__
from live_restore.assessment import Verdict
from live_restore.errors import MetricsError
from live_restore.volume import ModelUse, Restored, SkipCause, Skipped

__all__ = ["Metrics"]

logger = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_MODEL_LABELS = ("name", "sha256", "precision", "device")
_MOST_REQUESTS = 8  # at once
_PATIENCE_S = 5.0  # with a program that connects and asks for nothing
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_OUTCOMES = (
    *("seen", "restored", "skipped", "failed"),
    *("published", "written", "not_published", "not_written"),
)
_SENT = {"publish": "published", "write": "written"}
_STAGES = {"publish": "publishing", "write": "writing"}


class Metrics:
    """Counts what becomes of volumes; entering it begins to serve, leaving it ends that. Thread-safe.

    Parameters
    ----------
    port : int
        Of HTTP, on loopback.

    Raises
    ------
    MetricsError
        On entering: the port can't be opened.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._registry = registry = CollectorRegistry()
        self._watched = _Watched()
        registry.register(self._watched)
        ProcessCollector(registry=registry)
        self._volumes = Counter(
            "live_restore_volumes",
            "Volumes by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self._skipped = Counter(
            "live_restore_skipped_volumes",
            "Volumes that were not restored, by cause.",
            ["cause"],
            registry=registry,
        )
        self._verdicts = Counter(
            "live_restore_verdicts",
            "Restored volumes by the guard's verdict.",
            ["verdict"],
            registry=registry,
        )
        self._stages = Histogram(
            "live_restore_stage_seconds",
            "Time that a volume spent in each stage.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._ages = Histogram(
            "live_restore_publication_age_seconds",
            "Time from a volume's last plane to its publication.",
            ["order"],
            buckets=_SECONDS,
            registry=registry,
        )
        for outcome in _OUTCOMES:  # so that each is there, with 0, from the start
            self._volumes.labels(outcome)
        for cause in get_args(SkipCause):
            self._skipped.labels(cause)
        for verdict in get_args(Verdict):
            self._verdicts.labels(verdict)

    def __enter__(self) -> Self:
        try:
            self._server = _Server((_HOST, self._port), _Handler)
        except OSError as error:
            raise MetricsError(
                f"metrics: port {self._port} of {_HOST} can't be opened ({error.strerror or error}). "
                "Another live-restore may be running; stop it, or set another port in [metrics]"
            ) from error
        self._server.set_app(make_wsgi_app(self._registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics")
        self._thread.start()
        logger.info("metrics on http://%s:%d/metrics", _HOST, self._port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def watch(
        self,
        kind: Literal["counter", "gauge"],
        name: str,
        text: str,
        value: Callable[[], float | Mapping[tuple[str, ...], float]],
        *labels: str,
    ) -> None:
        """Have a number asked for at each scrape.

        Parameters
        ----------
        kind : {"counter", "gauge"}
            Whether it only rises.
        name : str
            Without the ``live_restore_`` in front.
        text : str
            Its help.
        value : callable
            Gives it, or one for each tuple of the labels' values. Called from the server's threads.
            Where it raises `RuntimeError`, the number is left out, and that is logged once.
        *labels : str
            Names of labels.
        """
        self._watched.sources.append(_Source(kind, f"live_restore_{name}", text, value, labels))

    def describe(self, session: str) -> None:
        """Tell which run of the daemon this is."""
        self._watched.about["session"] = session

    def seen(self) -> None:
        """A volume came, whole or not."""
        self._volumes.labels("seen").inc()

    def restored(self, restored: Restored) -> None:
        """It was restored."""
        self._volumes.labels("restored").inc()
        self._watched.model = restored.model
        for stage, seconds in restored.timing_s.items():
            self._stages.labels(stage).observe(seconds)
        if restored.assessment is not None:
            self._verdicts.labels(restored.assessment.verdict).inc()

    def skipped(self, skipped: Skipped) -> None:
        """It was not."""
        self._volumes.labels("failed" if skipped.is_final else "skipped").inc()
        self._skipped.labels(skipped.cause).inc()

    def sent(self, sink: str, restored: Restored, seconds: float) -> None:
        """A sink took it within some seconds."""
        self._volumes.labels(_SENT[sink]).inc()
        self._stages.labels(_STAGES[sink]).observe(seconds)
        if sink == "publish":
            order = "backfill" if restored.is_backfill else "live"
            self._ages.labels(order).observe(time.monotonic() - restored.raw.received_s)

    def unsent(self, sink: str) -> None:
        """A sink couldn't take it."""
        self._volumes.labels(f"not_{_SENT[sink]}").inc()


@dataclass(frozen=True, slots=True)
class _Source:
    kind: Literal["counter", "gauge"]
    name: str
    text: str
    value: Callable[[], float | Mapping[tuple[str, ...], float]]
    labels: tuple[str, ...]


class _Watched(Collector):
    """What is asked for at each scrape."""

    def __init__(self) -> None:
        self.sources: list[_Source] = []
        self.about = {"version": __version__}
        self.model: ModelUse | None = None
        self._told: set[str] = set()  # names of what couldn't be read

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("live_restore", "This run of the daemon.", value=dict(self.about))
        if self.model is not None:
            model = self.model
            names = {name: str(getattr(model, name)) for name in _MODEL_LABELS}
            yield InfoMetricFamily("live_restore_model", "What restored last.", value=names)
        for one in tuple(self.sources):
            kind = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
            family = kind(one.name, one.text, labels=one.labels)
            try:
                value = one.value()
            except RuntimeError as error:  # a GPU that is lost doesn't say what memory it has
                self._tell(one.name, error)
                continue
            for labels, number in value.items() if isinstance(value, Mapping) else [((), value)]:
                family.add_metric(labels, number)
            yield family

    def _tell(self, name: str, error: RuntimeError) -> None:
        if name not in self._told:
            self._told.add(name)
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("metrics: %s is left out while it can't be read (%s)", name, line)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it would let two programs have one port

    def __init__(self, *arguments: Any) -> None:
        self._room = threading.BoundedSemaphore(_MOST_REQUESTS)
        super().__init__(*arguments)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks a name server
        self.server_name, self.server_port = _HOST, self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, _request: Any, client_address: Any) -> None:
        logger.debug("a request of %s for metrics failed", client_address, exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as its base has it
        logger.debug(format, *args)
