"""What connects the stages: a bounded queue with a stated policy, and a thread that empties it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Generic, Literal, TypeVar

__all__ = ["Order", "QueueClosedError", "Stage", "VolumeQueue"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

Order = Literal["strict", "live"]
"""``strict``: as they came. ``live``: what was just acquired first, the rest when there is time."""


class QueueClosedError(Exception):
    """Something was put into a queue that takes nothing more."""


@dataclass(slots=True)
class _Waiting(Generic[T]):
    number: int  # counts what came
    item: T
    nbytes: int  # in memory


class VolumeQueue(Generic[T]):
    """A queue bounded in bytes.

    With order ``strict`` items leave as they came. With ``live`` the newest item of each stream
    leaves first (of several streams, the one that waited longest), and what was overtaken, or isn't
    live at all, leaves as it came when nothing else waits. When room runs out, items are moved to
    disk where they can be, those that are wanted last first; else the oldest is passed over (order ``live``) or the producer
    waits. A single item larger than the bound is taken when the queue is empty.

    Parameters
    ----------
    capacity_bytes : int
        Bound of what is in memory.
    order : {"strict", "live"}
        Policy.
    nbytes : callable
        Size of an item in memory.
    on_passed_over : callable, optional
        Called with each item that leaves without being taken, from the producer's thread. Without
        it `put` waits for room in both orders.
    stream : callable, optional
        What an item is one of; without it all are of one stream.
    to_disk : callable, optional
        Gives what stands for an item that was moved to disk, None when that can't be. Called from the
        producer's thread.
    when_idle : callable, optional
        Called from the consumer's thread when there is nothing to take, after each `nudge`, and
        again for as long as it says that it did something.
    """

    def __init__(
        self,
        capacity_bytes: int,
        order: Order,
        nbytes: Callable[[T], int],
        on_passed_over: Callable[[T], None] | None = None,
        *,
        stream: Callable[[T], Hashable] | None = None,
        to_disk: Callable[[T], T | None] | None = None,
        when_idle: Callable[[], bool] | None = None,
    ) -> None:
        self._when_idle = when_idle or (lambda: False)
        self._is_nudged = False
        self._capacity = capacity_bytes
        self._order = order
        self._nbytes = nbytes
        self._on_passed_over = on_passed_over if order == "live" else None
        self._stream = stream or (lambda _: None)
        self._to_disk = to_disk
        self._newest: dict[Hashable, _Waiting[T]] = {}  # of each stream; the longest here is first
        self._others: deque[_Waiting[T]] = deque()  # by their numbers
        self._count = 0
        self._held = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._newest) + len(self._others)

    @property
    def nbytes(self) -> int:
        """Bytes of what is in memory."""
        return self._held

    def put(self, item: T, is_live: bool = True, *, waits: bool = True) -> None:
        """Add an item; thread-safe.

        Parameters
        ----------
        item : object
            What to add.
        is_live : bool
            It is new; otherwise it has time. Matters in order ``live``.
        waits : bool
            For room. An item that doesn't is taken beyond the bound.

        Raises
        ------
        QueueClosedError
            Before or while waiting for room.
        """
        size = self._nbytes(item)
        while True:
            with self._changed:
                if self._closed:
                    raise QueueClosedError
                if not self._held or self._held + size <= self._capacity or not waits:
                    self._add(_Waiting(self._count, item, size), is_live)
                    return
                if self._move_to_disk():
                    continue
                if self._on_passed_over is None:
                    self._changed.wait()
                    continue
                passed_over = self._take_oldest()
            self._on_passed_over(passed_over)

    def nudge(self) -> None:
        """There is something to be done for a consumer that has nothing to take."""
        with self._changed:
            self._is_nudged = True
            self._changed.notify_all()

    def close(self) -> None:
        """Take nothing more; what is inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[T]:
        """Close, and give back everything that was still waiting, as it came."""
        with self._changed:
            left = sorted([*self._others, *self._newest.values()], key=lambda one: one.number)
            self._others.clear()
            self._newest.clear()
            self._held = 0
            self._closed = True
            self._changed.notify_all()
        return [one.item for one in left]

    def __iter__(self) -> Iterator[T]:
        """Take items until the queue is closed and empty."""
        while True:
            with self._changed:
                while not len(self) and not self._closed and not self._is_nudged:
                    self._changed.wait()
                one = self._take_next() if len(self) else None
                if one is None and self._closed:
                    return
                self._is_nudged = False
            if one is not None:
                yield one.item
            elif self._when_idle():
                self.nudge()

    def _add(self, one: _Waiting[T], is_live: bool) -> None:
        self._count += 1
        self._held += one.nbytes
        if is_live and self._order == "live":
            stream = self._stream(one.item)
            overtaken = self._newest.get(stream)
            self._newest[stream] = one
            if overtaken is None:
                self._changed.notify_all()
                return
            one = overtaken
        place = len(self._others)
        while place and self._others[place - 1].number > one.number:
            place -= 1
        self._others.insert(place, one)
        self._changed.notify_all()

    def _take_next(self) -> _Waiting[T]:
        first = next(iter(self._newest), None)
        one = self._newest.pop(first) if self._newest else self._others.popleft()
        self._held -= one.nbytes
        self._changed.notify_all()
        return one

    def _move_to_disk(self) -> bool:
        """Make room by moving an item to disk, the one that is wanted last."""
        in_memory = (
            one
            for one in chain(reversed(self._others), reversed(self._newest.values()))
            if one.nbytes
        )
        one = next(in_memory, None)
        if self._to_disk is None or one is None:
            return False
        moved = self._to_disk(one.item)
        if moved is None:
            return False
        one.item = moved
        self._held -= one.nbytes
        one.nbytes = 0
        return True

    def _take_oldest(self) -> T:
        longest = next(iter(self._newest), None)
        one = self._others.popleft() if self._others else self._newest.pop(longest)
        self._held -= one.nbytes
        return one.item


class Stage(threading.Thread, Generic[T]):
    """Threads that do their work on each item of a queue until the queue is closed.

    One bad item doesn't end it, several in a row do. Whatever the number of threads, what is done with
    results and failures is done by one of them at a time, in the order in which items were taken.

    Parameters
    ----------
    name : str
        Of the threads, for logs.
    queue : VolumeQueue
        Emptied by this stage alone.
    work : callable
        Called with each item; gives what is to be done with the result, if there is anything.
    on_failure : callable
        Called with item and exception when either raised.
    on_end : callable
        Called last, also after a failure.
    max_failures : int
        So many in a row end the stage.
    num_workers : int
        How many items are worked on at once.
    fatal : tuple of type
        Exceptions that end the stage at once.

    Attributes
    ----------
    error : BaseException or None
        What ended the stage before its time.
    """

    def __init__(
        self,
        name: str,
        queue: VolumeQueue[T],
        work: Callable[[T], Callable[[], None] | None],
        on_failure: Callable[[T, Exception], None],
        on_end: Callable[[], None],
        max_failures: int = 5,
        num_workers: int = 1,
        fatal: tuple[type[Exception], ...] = (),
    ) -> None:
        super().__init__(name=name)
        self.queue = queue
        self.error: BaseException | None = None
        self._work = work
        self._on_failure = on_failure
        self._on_end = on_end
        self._max_failures = max_failures
        self._num_failures = 0  # in a row
        self._num_workers = num_workers
        self._fatal = fatal
        self._items = iter(queue)
        self._taking = threading.Lock()
        self._num_taken = 0
        self._num_done = 0
        self._turn = threading.Condition()
        self._began: dict[int, float] = {}  # number of each item that is worked on

    @property
    def busy_s(self) -> float:
        """Seconds since the item was taken that was begun longest ago and isn't done; 0 where none is."""
        began = min(tuple(self._began.values()), default=None)
        return 0.0 if began is None else time.monotonic() - began

    def run(self) -> None:
        """Work until the queue is closed and empty, or too much has failed."""
        others = [
            threading.Thread(target=self._run, name=f"{self.name} {number}")
            for number in range(2, self._num_workers + 1)
        ]
        for other in others:
            other.start()
        try:
            self._run()
            for other in others:
                other.join()
        finally:
            self._on_end()

    def _run(self) -> None:
        while True:
            with self._taking:
                item = next(self._items, None) if self.error is None else None
                if item is None:
                    return
                number = self._num_taken
                self._num_taken += 1
                self._began[number] = time.monotonic()
            result: Callable[[], None] | Exception | None
            try:
                result = self._work(item)
            except Exception as error:  # noqa: BLE001 - told of when it is this item's turn
                result = error
            with self._turn:
                while self._num_done != number:
                    self._turn.wait()
                try:
                    self._settle(item, result)
                except Exception as error:  # noqa: BLE001 - kept for whoever supervises
                    self._die(error)
                self._num_done += 1
                del self._began[number]
                self._turn.notify_all()

    def _settle(self, item: T, result: Callable[[], None] | Exception | None) -> None:
        try:
            if isinstance(result, Exception):
                raise result
            if result is not None:
                result()
            self._num_failures = 0
        except Exception as error:
            self._num_failures += 1
            self._on_failure(item, error)
            if self._num_failures >= self._max_failures or isinstance(error, self._fatal):
                raise

    def _die(self, error: Exception) -> None:
        self.error = self.error or error
        self.queue.close()  # another may wait for an item
        if isinstance(error, self._fatal):
            logger.error("stage %s ends: %s", self.name, error)
        else:
            is_known = self._num_failures >= self._max_failures  # each of them was told
            logger.error(
                "stage %s ends after %d failures in a row",
                self.name,
                self._num_failures,
                exc_info=None if is_known else error,
            )
