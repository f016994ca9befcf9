"""The three seams of the program: where volumes come from, what restores them, where they go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Protocol, Self

from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, Restored, Skipped, Volume

__all__ = ["Event", "Item", "Restorer", "Sink", "Source", "StopSignal"]

Event = AcquisitionInfo | Plane | AcquisitionEnd
"""What a source tells."""

Item = AcquisitionInfo | Restored | Skipped | AcquisitionEnd
"""What a sink is sent."""


class StopSignal(threading.Event):
    """An event that also wakes whoever waits for something else."""

    def __init__(self) -> None:
        super().__init__()
        self._wake: list[Callable[[], None]] = []

    def call(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when the signal is set, from the setter's thread; at once if it is."""
        self._wake.append(wake)
        if self.is_set():
            wake()

    def set(self) -> None:
        """Set the signal and wake all."""
        super().set()
        for wake in tuple(self._wake):
            wake()


class _Context(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


class Source(_Context, Protocol):
    """Where planes come from. Entering opens it, or raises `SourceError`.

    Attributes
    ----------
    is_durable : bool
        What it delivers can be had again, so that it may be made to wait.
    """

    is_durable: bool

    def events(self, stop: StopSignal) -> Generator[Event, None, None]:
        """Acquisitions and their planes, in the order in which they become known.

        Each acquisition is announced before its first plane. Called once, from the source
        thread; ends soon after `stop` is set. Trouble with single files or planes is logged and
        passed over; `SourceError` means that nothing more can come.
        """
        ...


class Restorer(_Context, Protocol):
    """Turns raw volumes into restored ones. Entering loads and warms the model."""

    def restore(self, volume: Volume) -> Restored:
        """Restore one volume; called from the restore thread only.

        Raises
        ------
        RestoreError
            This volume can't be restored; the next one may.
        """
        ...


class Sink(_Context, Protocol):
    """Where restored volumes go. Entering opens it, or raises `SinkError`."""

    def send(self, item: Item) -> None:
        """Take one item; called from this sink's own thread, in order.

        Raises
        ------
        SinkError
            This item couldn't be delivered; the next one may.
        """
        ...
