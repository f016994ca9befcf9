"""A sink with its own thread and queue, so that none holds up the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from live_restore.errors import SinkError
from live_restore.interfaces import Item, Sink
from live_restore.pipeline import QueueClosedError, Stage, VolumeQueue
from live_restore.record import Record
from live_restore.volume import AcquisitionInfo, Restored, SourceState

__all__ = ["Delivery"]

logger = logging.getLogger(__name__)

_QUEUE_BYTES = 2**30
_ITEM_BYTES = 1024  # at least, of any item


class Delivery(Stage[Item]):
    """The thread that sends what is restored to one sink, and notes whether it got there.

    Parameters
    ----------
    name : str
        Of the sink.
    sink : Sink
        Where to.
    record : Record
        Where it is noted.
    on_end : callable
        Called with this last, from its thread.
    on_dropped : callable
        Called with each restored volume that isn't sent, since this has ended or is told to end.

    Attributes
    ----------
    num_failures : int
        Items that couldn't be sent.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        record: Record,
        on_end: Callable[[Delivery], None],
        on_dropped: Callable[[Delivery, Restored], None],
    ) -> None:
        self.num_failures = 0
        self._sink = sink
        self._record = record
        self._on_dropped = on_dropped
        self._has_failed = False
        super().__init__(
            name,
            VolumeQueue(_QUEUE_BYTES, "strict", _held_nbytes),
            self._deliver,
            self._failed,
            lambda: self._ended(on_end),
        )

    def put(self, item: Item) -> None:
        """Queue an item. Restored volumes wait for room, and nothing else does: planes come beside it.

        What a source does, which is told once a second, is left out while there is no room.
        """
        is_volume = isinstance(item, Restored)
        if isinstance(item, SourceState) and self.queue.nbytes >= _QUEUE_BYTES:
            return
        try:
            self.queue.put(item, waits=is_volume)
        except QueueClosedError:
            if isinstance(item, Restored):
                self._drop(item)

    def drop(self) -> None:
        """Take nothing more, and drop what waits."""
        for item in self.queue.clear():
            if isinstance(item, Restored):
                self._drop(item)

    def _drop(self, restored: Restored) -> None:
        logger.warning("%s: restored, and not sent to %s, which ends", restored.key, self.name)
        self._on_dropped(self, restored)

    def _deliver(self, item: Item) -> None:
        started = time.monotonic()
        try:
            self._sink.send(item)
        except SinkError as error:
            if not isinstance(item, SourceState):  # with those it only tells that it still can't
                logger.error("%s", error)
                self._note_failure(item, error)
            return
        if isinstance(item, Restored):
            self._record.sent(self.name, item, time.monotonic() - started)
        if self._has_failed:
            self._has_failed = False
            logger.info("%s: works again", self.name)
            self._record.recovered(self.name)

    def _failed(self, item: Item, error: Exception) -> None:
        logger.error("%s: %.200r failed", self.name, item, exc_info=error)
        self._note_failure(item, error)

    def _note_failure(self, item: Item, error: Exception) -> None:
        self.num_failures += 1
        self._has_failed = True
        if isinstance(item, Restored):
            self._record.unsent(self.name, item, str(error))

    def _ended(self, on_end: Callable[[Delivery], None]) -> None:
        self.drop()
        on_end(self)


def _held_nbytes(item: Item) -> int:
    match item:
        case Restored():
            return item.held_nbytes
        case AcquisitionInfo():
            return max(_ITEM_BYTES, item.names_nbytes)
        case _:
            return _ITEM_BYTES
