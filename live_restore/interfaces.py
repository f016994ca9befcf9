"""The three seams of the program: where volumes come from, what restores them, where they go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from live_restore.light import Adjustment, LightReading
from live_restore.volume import (
    AcquisitionEnd,
    AcquisitionInfo,
    GrowingVolume,
    Plane,
    Restored,
    Skipped,
    SourceState,
    Volume,
)

__all__ = ["Adjustable", "Event", "Item", "Restorer", "Sink", "Source", "StopSignal"]

Event = AcquisitionInfo | Plane | AcquisitionEnd | SourceState | LightReading
"""What a source tells."""

Item = AcquisitionInfo | Restored | Skipped | AcquisitionEnd | SourceState
"""What a sink is sent."""


class StopSignal(threading.Event):
    """An event that also wakes whoever waits for something else.

    Attributes
    ----------
    has_failed : bool
        Set because this program can't go on, not because anybody asked: what goes on without it
        may.
    """

    def __init__(self) -> None:
        super().__init__()
        self.has_failed = False
        self._wake: list[Callable[[], None]] = []

    def call(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when the signal is set, from the setter's thread; at once if it is."""
        self._wake.append(wake)
        if self.is_set():
            wake()

    def fail(self) -> None:
        """Set the signal, since this program can't go on; nobody asked for it."""
        self.has_failed = self.has_failed or not self.is_set()
        self.set()

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

        Each acquisition is announced before its first plane. A source that waits for others
        gives a `SourceState` about once a second while nothing comes, so that stacks which wait
        for planes can be given up in time. Called once, from the source
        thread; ends soon after `stop` is set. Trouble with single files or planes is logged and
        passed over; `SourceError` means that nothing more can come.
        """
        ...


@runtime_checkable
class Adjustable(Protocol):
    """What a source can do besides, if it reaches the microscope: change the light."""

    def adjust(self, adjustment: Adjustment) -> None:
        """Ask for other light, from the next volume on; from any thread, and never waits.

        What came of it is told by a `LightReading` among the source's events. Before anything is asked for,
        there is one for each control of the light; one that isn't ours tells that the user's hand was there,
        and what was asked for before it is passed over. When the acquisition ends, or this program does, even
        by a kill, the user's own value is given back where the hardware can still be reached.
        """
        ...


class Restorer(_Context, Protocol):
    """Turns raw volumes into restored ones. Entering loads and warms the model.

    Attributes
    ----------
    num_workers : int
        How many volumes it can restore at once.
    """

    @property
    def num_workers(self) -> int:
        """See above."""
        ...

    def restore(self, volume: Volume) -> Restored:
        """Restore one volume; called from as many threads at once as it has workers.

        Raises
        ------
        RestoreError
            This volume can't be restored; the next one may.
        """
        ...

    def advance(self, growing: Sequence[GrowingVolume]) -> bool:
        """Do some of the work on volumes whose planes still come; what was begun of others is dropped.

        Called when nothing whole waits, by one thread at a time, and not beside `restore` where there is
        one worker. Gives whether there was something to do.
        """
        ...


class Sink(_Context, Protocol):
    """Where restored volumes go. Entering opens it, or raises `SinkError`."""

    def send(self, item: Item) -> None:
        """Take one item; called from this sink's own thread, in order.

        Raises
        ------
        SinkError
            This item couldn't be delivered; the next one may. With a `SourceState`, which comes about
            once a second: what was the matter with the last one still is.
        """
        ...
