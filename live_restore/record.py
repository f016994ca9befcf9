"""The service's notes in its ledger, by the keys of its volumes."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from platformdirs import user_state_path

from live_restore.errors import LedgerError, MetricsError
from live_restore.ledger import Ledger, Origin
from live_restore.profile import (
    AcquisitionSource,
    FolderSource,
    IngestSource,
    MicroManagerSource,
    Profile,
    SimulatedSource,
)
from live_restore.sinks.writer import output_path
from live_restore.spool import Spool
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Restored, Skipped, VolumeKey

if TYPE_CHECKING:
    from live_restore.metrics import Metrics

__all__ = [
    "Record",
    "claimed_ledger",
    "dose_log_file",
    "ledger_file",
    "open_ledger",
    "open_metrics",
    "open_spool",
]

logger = logging.getLogger(__name__)

_REMEMBERED = 10_000  # acquisitions that have ended and of which no volume waits


def ledger_file(profile: Profile) -> Path | None:
    """Where a profile's ledger lies; None for a simulated microscope, which keeps none.

    Another watched or written folder, Micro-Manager's other port or another one for planes have another ledger,
    whatever the profile is called.
    """
    source = profile.source
    if isinstance(source, SimulatedSource):
        return None
    name = source.path.resolve().name if isinstance(source, FolderSource) else source.kind
    parts = [source.kind, str(profile.write.folder.resolve()) if profile.write else ""]
    parts.append(str(source.path.resolve()) if isinstance(source, FolderSource) else "")
    match source:
        case IngestSource(endpoint=place):
            parts.append(place)
        case MicroManagerSource(port=port) | AcquisitionSource(port=port):
            parts.append(str(port))
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    folder = profile.ledger.folder or user_state_path("live-restore")
    return folder / f"{name}-{digest}.sqlite"


def dose_log_file(profile: Profile) -> Path | None:
    """Where each step of a profile's dose control is noted, beside its ledger; None where it has none."""
    file = ledger_file(profile)
    return file.with_suffix(".dose.jsonl") if file and profile.dose.control != "off" else None


@contextmanager
def claimed_ledger(profile: Profile) -> Iterator[Ledger | None]:
    """A profile's ledger, open; while this lasts, it and the spool beside it are this program's alone.

    Raises
    ------
    LedgerError
        They are another's, or the ledger can't be opened.
    """
    file = ledger_file(profile)
    if file is None:
        yield None
        return
    lock = FileLock(file.with_suffix(".lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LedgerError(
            f"ledger {file}: another live-restore runs with it. Stop that one, or give this profile "
            "another folder in [ledger]"
        ) from error
    except (
        OSError,
        NotImplementedError,
    ) as error:  # read-only, as the ledger will say, or a file system without locks
        logger.warning("ledger %s: not locked (%s)", file, error)
    try:
        with Ledger(file, is_written=profile.write is not None) as ledger:
            yield ledger
    finally:
        lock.release()


def open_ledger(profile: Profile) -> Ledger | None:
    """A profile's ledger; enter it to open it."""
    file = ledger_file(profile)
    return Ledger(file, is_written=profile.write is not None) if file is not None else None


def open_spool(profile: Profile) -> Spool | None:
    """Where a profile's volumes wait on disk, beside its ledger; enter it to open it."""
    file, spool_mb = ledger_file(profile), profile.queue.spool_mb
    return Spool(file.with_suffix(".spool"), spool_mb * 2**20) if file and spool_mb else None


def open_metrics(profile: Profile) -> Metrics | None:
    """A profile's metrics; enter them to serve them. None where it wants none.

    Raises
    ------
    MetricsError
        This installation can't.
    """
    if profile.metrics is None:
        return None
    try:
        from live_restore.metrics import Metrics
    except ModuleNotFoundError as error:
        raise MetricsError(
            f'metrics: {error.name} isn\'t installed: pip install "live-restore[metrics]", or leave '
            "the table [metrics] out of the profile"
        ) from error
    return Metrics(profile.metrics.port)


class Record:
    """Writes down what becomes of each volume; thread-safe.

    Parameters
    ----------
    ledger : Ledger or None
        Where; nowhere without one.
    profile : Profile
        Says where volumes are written.
    metrics : Metrics, optional
        Counts the same.
    """

    def __init__(
        self, ledger: Ledger | None, profile: Profile, metrics: Metrics | None = None
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._folder = profile.write.folder if profile.write else Path()
        self._is_folder = isinstance(profile.source, FolderSource)
        self._origins: dict[str, Origin] = {}
        self._ended: deque[str] = deque()
        self._waiting: Counter[str] = Counter()  # volumes that were seen and not settled
        self._lock = threading.Lock()

    def start(self, info: AcquisitionInfo) -> None:
        """An acquisition began."""
        name = info.origin if self._is_folder else info.acquisition
        with self._lock:
            self._origins[info.acquisition] = Origin(name, info.version)

    def end(self, end: AcquisitionEnd) -> None:
        """All planes of an acquisition came."""
        if self._ledger and end.reason == "finished" and end.acquisition in self._origins:
            self._ledger.note_end(self._origins[end.acquisition])
        with self._lock:
            self._ended.append(end.acquisition)
            if len(self._ended) > _REMEMBERED:
                longest = self._ended.popleft()
                if self._waiting[longest]:
                    self._ended.append(longest)
                else:
                    del self._waiting[longest]
                    self._origins.pop(longest, None)

    def seen(self, key: VolumeKey) -> None:
        """A volume came, whole or not."""
        if self._metrics:
            self._metrics.seen()
        with self._lock:
            self._waiting[key.acquisition] += 1
        if self._ledger:
            self._ledger.note_seen(self._origin(key), key)

    def restored(self, restored: Restored) -> None:
        """It was restored."""
        if self._metrics:
            self._metrics.restored(restored)
        if self._ledger:
            self._ledger.note_restored(self._origin(restored.key), restored.key)
        self._settle(restored.key)

    def skipped(self, skipped: Skipped) -> None:
        """It was not."""
        if self._metrics:
            self._metrics.skipped(skipped)
        if self._ledger:
            origin = self._origin(skipped.key)
            self._ledger.note_skipped(
                origin, skipped.key, skipped.reason, is_final=skipped.is_final
            )
        self._settle(skipped.key)

    def sent(self, sink: str, restored: Restored, seconds: float) -> None:
        """A sink took it within some seconds."""
        if self._metrics:
            self._metrics.sent(sink, restored, seconds)
        if self._ledger is None:
            return
        origin = self._origin(restored.key)
        if sink == "write":
            output = self._folder / output_path(restored.key, restored.info)
            self._ledger.note_written(origin, restored.key, output)
        elif sink == "publish":
            self._ledger.note_published(origin, restored.key)

    def unsent(self, sink: str, restored: Restored, reason: str) -> None:
        """A sink couldn't take it."""
        if self._metrics:
            self._metrics.unsent(sink)
        if self._ledger and sink == "write":
            origin = self._origin(restored.key)
            self._ledger.note_skipped(origin, restored.key, reason, is_final=False)

    def recovered(self, sink: str) -> None:
        """A sink takes volumes again: those that it couldn't take may come once more."""
        if self._ledger and sink == "write":
            self._ledger.retry_unwritten()

    def _settle(self, key: VolumeKey) -> None:
        with self._lock:
            self._waiting[key.acquisition] -= 1

    def _origin(self, key: VolumeKey) -> Origin:
        """Where a volume comes from; of an acquisition long forgotten only its name is known."""
        return self._origins.get(key.acquisition) or Origin(key.acquisition)
