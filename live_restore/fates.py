"""What becomes of each volume that was seen: told, noted, counted, or kept for the next run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from live_restore.delivery import Delivery
from live_restore.interfaces import Item
from live_restore.outstanding import Outstanding
from live_restore.record import Record
from live_restore.spool import Spool, Spooled
from live_restore.volume import AcquisitionEnd, Restored, Skipped, Volume, VolumeKey

__all__ = ["Fates", "Waiting"]

logger = logging.getLogger(__name__)

Waiting = Volume | Spooled
"""What waits for restoration, in memory or on disk."""


class Fates:
    """Settles the volumes of a service; thread-safe.

    Parameters
    ----------
    counts : collections.Counter
        The service's.
    record : Record
        Where it is noted.
    spool : Spool or None
        Where volumes can be kept on disk.
    deliveries : mapping of str to Delivery
        The sinks, which are told.
    comes_again : bool
        What the source gives it gives again to the next run, unless that was restored.
    on_settled : callable
        Called with the key of each volume that is settled.
    """

    def __init__(
        self,
        counts: Counter[str],
        record: Record,
        spool: Spool | None,
        deliveries: Mapping[str, Delivery],
        comes_again: bool,
        on_settled: Callable[[VolumeKey], None],
    ) -> None:
        self._counts = counts
        self._record = record
        self._spool = spool
        self._deliveries = deliveries
        self._comes_again = comes_again
        self._on_settled = on_settled
        self._outstanding = Outstanding()

    def send(self, item: Item) -> None:
        """Tell all sinks."""
        for delivery in self._deliveries.values():
            delivery.put(item)

    def start(self, acquisition: str) -> None:
        """An acquisition begins, maybe once more."""
        self._outstanding.start(acquisition)

    def end(self, end: AcquisitionEnd) -> None:
        """It ends, which is told after its last volume."""
        if self._outstanding.end(end):
            self.send(end)

    def seen(self, key: VolumeKey) -> None:
        """A volume came, whole or not."""
        self._counts["seen"] += 1
        self._outstanding.add(key)
        self._record.seen(key)

    def skip(self, skipped: Skipped) -> None:
        """It isn't restored."""
        self._counts["skipped"] += 1
        logger.warning("%s: skipped: %s", skipped.key, skipped.reason)
        self._record.skipped(skipped)
        self.send(skipped)
        self.settle(skipped.key)

    def leave(self, key: VolumeKey) -> None:
        """The next run restores it."""
        self._counts["left for the next start"] += 1
        self.settle(key)

    def settle(self, key: VolumeKey) -> None:
        """Nothing more becomes of it in this run."""
        self._on_settled(key)
        if end := self._outstanding.settle(key):
            self.send(end)

    def left_over(self) -> Iterator[Spooled]:
        """What an earlier run kept on disk."""
        number = 0
        for spooled, info in self._spool.left_over() if self._spool else ():
            number += 1
            self._record.start(info)
            self.seen(spooled.key)
            yield spooled
        if number:
            logger.info("%d volumes waited on disk since the last run", number)

    def keep(self, volume: Waiting) -> Spooled | None:
        """Move a volume to disk; None where it can't be."""
        return self._spool.keep(volume) if self._spool else None

    def keep_or_skip(self, volume: Waiting, reason: str) -> None:
        """What becomes of a volume that this run doesn't restore any more."""
        if self._comes_again or self.keep(volume) is not None:
            logger.debug("%s: %s, left for the next start", volume.key, reason)
            self.leave(volume.key)
        else:
            self.skip(Skipped(volume.key, reason, cause="stopped"))

    def give_up(self, volume: Waiting, skipped: Skipped) -> None:
        """It isn't restored, by this run or another."""
        self.skip(skipped)
        self.discard(volume)

    def give_up_unreadable(self, volume: Waiting, reason: str) -> None:
        """Its copy on disk can't be read, and may be the only one."""
        self.skip(Skipped(volume.key, reason, is_final=True, cause="refused"))
        if isinstance(volume, Spooled) and self._spool:
            self._spool.put_aside(volume.path)

    def unsent(self, sink: str, restored: Restored) -> None:
        """It was restored, and a sink ends before it: viewers go without, the writer gets it from the next run."""
        if sink == "write":
            self._counts["restored"] -= 1
            self.keep_or_skip(restored.raw, "restored, and not written when the service ended")

    def discard(self, volume: Waiting) -> None:
        """Its copy on disk is wanted no more."""
        if isinstance(volume, Spooled) and self._spool:
            self._spool.discard(volume)
