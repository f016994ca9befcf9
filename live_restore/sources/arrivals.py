"""Files on their way: seen, standing still, taken up one by one."""

from __future__ import annotations

import heapq
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from live_restore.sources.stacks import is_folder_stack, stack_version
from live_restore.sources.taken import Taken

__all__ = ["Arrival", "Arrivals"]

_Standing = tuple[int | str, ...]


@dataclass(slots=True, eq=False)
class Arrival:
    """A file that wasn't taken up yet, as it was last seen.

    Attributes
    ----------
    path : pathlib.Path
        A file, or a folder that is a stack.
    version : str
        Tells it from the same file with other content.
    is_live : bool
        It is new; otherwise it has time.
    since_s : float
        Since when it is known to stand still, on the monotonic clock.
    mtime_ns : int
        When it was written last, by its file system's clock.
    """

    path: Path
    version: str
    is_live: bool
    since_s: float
    mtime_ns: int
    standing: _Standing | None

    @property
    def age_s(self) -> float:
        """For how long nothing was written to it; below 0 where clocks differ."""
        return time.time() - self.mtime_ns / 1e9


class Arrivals:
    """Files until they are taken up, and which were.

    Parameters
    ----------
    settle_s : float
        For how long a file has to stand still.
    is_there : callable
        Whether the folder that holds them all is there: what vanished with it wasn't deleted.
    is_done : callable, optional
        Whether the ledger knows all of a file, in one version, to be settled.

    Attributes
    ----------
    taken : Taken
        Files that were taken up or left alone.
    """

    def __init__(
        self,
        settle_s: float,
        is_there: Callable[[], bool],
        is_done: Callable[[Path, str], bool] = lambda *_: False,
    ) -> None:
        self._settle_s = settle_s
        self._is_there = is_there
        self.taken = Taken(is_done, is_there)
        self._waiting: dict[Path, Arrival] = {}
        # What is no longer in `_waiting` counts no more.
        self._clock: list[tuple[float, int, Arrival]] = []
        self._new: list[tuple[int, int, Arrival]] = []
        self._old: list[tuple[int, str, int, Arrival]] = []
        self._numbers = count()

    def see(self, path: Path, *, is_live: bool, is_touched: bool = False) -> None:
        """A file is there, or something happened to it.

        Parameters
        ----------
        path : pathlib.Path
            A file, or a folder that is a stack.
        is_live : bool
            If it is new, whether that matters.
        is_touched : bool
            Something in it was written.
        """
        version = stack_version(path)
        known = self._waiting.get(path)
        if version is None:
            if known is not None and self._is_there():
                del self._waiting[path]
            return
        is_taken = self.taken.holds(path, version)
        if known is None:
            if is_taken:
                return
        elif known.version == version and not (is_touched and _is_folder(path)):
            return
        else:
            is_live = True  # it is being written
        standing = None if _is_folder(path) else (version,)
        arrival = Arrival(path, version, is_live, time.monotonic(), _mtime_ns(path), standing)
        self._waiting[path] = arrival
        self.postpone(arrival, arrival.since_s + self._settle_s)

    def drop(self, path: Path) -> None:
        """It is to be taken otherwise, or vanished."""
        self._waiting.pop(path, None)

    def settle(self, arrival: Arrival) -> None:
        """It is taken up."""
        self._waiting.pop(arrival.path, None)
        self.taken.note(arrival.path, arrival.version)

    def leave(self, arrival: Arrival) -> None:
        """It is done, or can't be taken: left alone until it changes."""
        self._waiting.pop(arrival.path, None)
        self.taken.note_done(arrival.path, arrival.version)

    def settle_unseen(self, path: Path) -> None:
        """Leave a file alone until it changes, also when it goes and comes back."""
        version = stack_version(path)
        if version is not None:
            self.taken.keep(path, version)

    def forget(self, path: Path) -> None:
        """Take it up once more when it is seen."""
        self.taken.forget(path)

    def postpone(self, arrival: Arrival, until_s: float) -> None:
        """Have it come again as due at a time on the monotonic clock."""
        heapq.heappush(self._clock, (until_s, next(self._numbers), arrival))

    def due(self) -> Iterator[Arrival]:
        """Files that stood still for long enough: hand each to `ready`, or `drop` it."""
        while self._clock and self._clock[0][0] <= time.monotonic():
            _, _, arrival = heapq.heappop(self._clock)
            if self._waiting.get(arrival.path) is not arrival:
                continue
            if arrival.standing is None:  # a folder is measured twice
                arrival.standing = _measure(arrival.path)
                self.postpone(arrival, time.monotonic() + self._settle_s)
                continue
            yield arrival

    def ready(self, arrival: Arrival) -> None:
        """It may be taken up when its turn comes."""
        if arrival.is_live:
            heapq.heappush(self._new, (-arrival.mtime_ns, next(self._numbers), arrival))
        else:
            place = (arrival.mtime_ns, str(arrival.path), next(self._numbers), arrival)
            heapq.heappush(self._old, place)

    @property
    def next_due_s(self) -> float:
        """When `due` gives something, on the monotonic clock."""
        return self._clock[0][0] if self._clock else math.inf

    @property
    def has_new(self) -> bool:
        """Whether `next_new` may give one."""
        return bool(self._new)

    @property
    def oldest_ns(self) -> float:
        """When the one that `next_old` gives was written; infinity without one."""
        return self._old[0][0] if self._old else math.inf

    def next_new(self) -> Arrival | None:
        """The newest of those that are live."""
        return self._still_standing(heapq.heappop(self._new)[-1]) if self._new else None

    def next_old(self) -> Arrival | None:
        """The oldest of those that aren't."""
        return self._still_standing(heapq.heappop(self._old)[-1]) if self._old else None

    def _still_standing(self, arrival: Arrival) -> Arrival | None:
        """A file, if nothing happened to it while it waited."""
        if self._waiting.get(arrival.path) is not arrival:
            return None
        standing = _measure(arrival.path)
        if standing == arrival.standing:
            return arrival
        if standing is not None:
            self.drop(arrival.path)
            self.see(arrival.path, is_live=True)
        elif self._is_there():
            self.drop(arrival.path)
        else:
            self.ready(arrival)
        return None


def _measure(path: Path) -> _Standing | None:
    """What is the same as long as nothing is written; None where nothing is."""
    version = stack_version(path)
    if version is None or not _is_folder(path):
        return None if version is None else (version,)
    number = size = latest_ns = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - there are many
            except OSError:
                continue  # it was renamed: the next measure differs
            number += 1
            size += status.st_size
            latest_ns = max(latest_ns, status.st_mtime_ns)
    return version, number, size, latest_ns


def _is_folder(path: Path) -> bool:
    return is_folder_stack(path.name) and path.is_dir()


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # it just vanished, which is noticed later
