"""What of a running service is measured when Prometheus asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from live_restore.delivery import Delivery
from live_restore.interfaces import Sink, Source
from live_restore.pipeline import VolumeQueue
from live_restore.reloading import ReloadingRestorer
from live_restore.sinks.publisher import Publisher
from live_restore.sources.assembler import Assembler
from live_restore.sources.ingest import Ingest
from live_restore.spool import Spool

if TYPE_CHECKING:
    from live_restore.metrics import Metrics

__all__ = ["monitor"]

_Numbers = dict[tuple[str, ...], float]


def monitor(
    metrics: Metrics | None,
    source: Source,
    assembler: Assembler,
    inbox: VolumeQueue[Any],
    spool: Spool | None,
    restorer: ReloadingRestorer,
    deliveries: Mapping[str, Delivery],
    sinks: Mapping[str, Sink],
) -> None:
    """Have the parts of a service watched, if there are metrics."""
    if metrics is None:
        return
    queues: dict[str, VolumeQueue[Any]] = {"restore": inbox}
    queues |= {name: one.queue for name, one in deliveries.items()}
    metrics.watch(
        "gauge",
        "queue_items",
        "What waits in front of each stage, volumes on disk included.",
        lambda: {(name,): len(one) for name, one in queues.items()},
        "queue",
    )
    metrics.watch(
        "gauge",
        "queue_bytes",
        "Memory of what waits in front of each stage.",
        lambda: {(name,): one.nbytes for name, one in queues.items()},
        "queue",
    )
    metrics.watch(
        "gauge", "unfinished_volumes", "Volumes that lack planes.", lambda: assembler.num_open
    )
    metrics.watch("gauge", "unfinished_bytes", "Their memory.", lambda: assembler.nbytes)
    metrics.watch(
        "gauge",
        "running_acquisitions",
        "Acquisitions that began and did not end.",
        lambda: len(assembler.running),
    )
    if spool is not None:
        metrics.watch(
            "gauge", "spool_volumes", "Volumes that wait on disk.", lambda: spool.num_volumes
        )
        metrics.watch("gauge", "spool_bytes", "Their size on disk.", lambda: spool.nbytes)
    metrics.watch(
        "gauge",
        "gpu_memory_bytes",
        "Memory of the GPUs in use: allocated, reserved, free, total.",
        _gpu_memory,
        "device",
        "kind",
    )
    metrics.watch(
        "counter",
        "model_reloads",
        "Orders to read the profile's model again, by what became of them.",
        lambda: {(outcome,): count for outcome, count in restorer.reloads.items()},
        "outcome",
    )
    publisher = sinks.get("publish")
    if isinstance(publisher, Publisher):
        metrics.describe(publisher.session)
        metrics.watch("gauge", "viewers", "Subscriptions to volumes.", lambda: publisher.viewers)

    def refused() -> _Numbers:
        numbers: _Numbers = {}
        if isinstance(source, Ingest):
            numbers["ingest",] = source.num_refused
        if isinstance(publisher, Publisher):
            numbers["control",] = publisher.num_refused
        return numbers

    metrics.watch("counter", "refused_messages", "Malformed messages, by port.", refused, "port")


def _gpu_memory() -> _Numbers:
    from live_restore.restore.gpu_memory import gpu_memory  # torch, which the restorer has loaded

    return gpu_memory()
