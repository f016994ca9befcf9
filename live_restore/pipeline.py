"""What connects the stages: a bounded queue with a stated policy, and a thread that empties it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Literal, TypeVar

__all__ = ["Order", "QueueClosedError", "Stage", "VolumeQueue"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

Order = Literal["strict", "live"]
"""``strict``: first in, first out, the producer waits. ``live``: newest first."""


class QueueClosedError(Exception):
    """Something was put into a queue that takes nothing more."""


class VolumeQueue(Generic[T]):
    """A queue bounded in bytes.

    With order ``strict`` items leave as they came and `put` waits for room. With ``live`` the
    newest leaves first, older ones when there is time; when room runs out the oldest waiting is
    passed over, or the producer waits where nothing may be. A single item larger than the bound is taken when the queue is empty.

    Parameters
    ----------
    capacity_bytes : int
        Bound.
    order : {"strict", "live"}
        Policy.
    nbytes : callable
        Size of an item.
    on_passed_over : callable, optional
        Called with each item that leaves without being taken, from the producer's thread. Without
        it `put` waits for room in both orders.
    """

    def __init__(
        self,
        capacity_bytes: int,
        order: Order,
        nbytes: Callable[[T], int],
        on_passed_over: Callable[[T], None] | None = None,
    ) -> None:
        self._capacity = capacity_bytes
        self._order = order
        self._nbytes = nbytes
        self._on_passed_over = on_passed_over
        self._items: deque[T] = deque()
        self._held = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Add an item; thread-safe.

        Raises
        ------
        QueueClosedError
            Before or while waiting for room.
        """
        size = self._nbytes(item)
        passed_over = []
        with self._changed:
            while self._items and self._held + size > self._capacity and not self._closed:
                if self._on_passed_over is not None and self._order == "live":
                    passed_over.append(self._pop(newest=False))
                else:
                    self._changed.wait()
            if self._closed:
                raise QueueClosedError
            self._items.append(item)
            self._held += size
            self._changed.notify_all()
        if self._on_passed_over is not None:
            for old in passed_over:
                self._on_passed_over(old)

    def close(self) -> None:
        """Take nothing more; what is inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[T]:
        """Close, and give back everything that was still waiting."""
        with self._changed:
            left = list(self._items)
            self._items.clear()
            self._held = 0
            self._closed = True
            self._changed.notify_all()
        return left

    def __iter__(self) -> Iterator[T]:
        """Take items until the queue is closed and empty."""
        while True:
            with self._changed:
                while not self._items and not self._closed:
                    self._changed.wait()
                if not self._items:
                    return
                item = self._pop(newest=self._order == "live")
                self._changed.notify_all()
            yield item

    def _pop(self, newest: bool) -> T:
        item = self._items.pop() if newest else self._items.popleft()
        self._held -= self._nbytes(item)
        return item


class Stage(threading.Thread, Generic[T]):
    """A thread that does its work on each item of a queue until the queue is closed.

    One bad item doesn't end it, several in a row do.

    Parameters
    ----------
    name : str
        Of the thread, for logs.
    queue : VolumeQueue
        Emptied by this stage alone.
    work : callable
        Called with each item, from this thread.
    on_failure : callable
        Called with item and exception when `work` raised, from this thread.
    on_end : callable
        Called last, from this thread, also after a failure.
    max_failures : int
        So many in a row end the stage.

    Attributes
    ----------
    error : BaseException or None
        What ended the stage before its time.
    """

    def __init__(
        self,
        name: str,
        queue: VolumeQueue[T],
        work: Callable[[T], None],
        on_failure: Callable[[T, Exception], None],
        on_end: Callable[[], None],
        max_failures: int = 5,
    ) -> None:
        super().__init__(name=name)
        self.queue = queue
        self.error: BaseException | None = None
        self._work = work
        self._on_failure = on_failure
        self._on_end = on_end
        self._max_failures = max_failures

    def run(self) -> None:
        """Work until the queue is closed and empty, or too much has failed."""
        failures = 0
        try:
            for item in self.queue:
                try:
                    self._work(item)
                    failures = 0
                except Exception as error:
                    failures += 1
                    self._on_failure(item, error)
                    if failures >= self._max_failures:
                        raise
        except Exception as error:  # noqa: BLE001 - kept for whoever supervises
            self.error = error
            logger.error("stage %s ends after %d failures in a row", self.name, failures)
        finally:
            self._on_end()
