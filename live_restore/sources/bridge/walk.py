"""Which planes of a running acquisition to ask for next. No bridge here.

Micro-Manager can't tell what it has: only how many images, and whether a certain one is there. So
the follower walks along the order in which planes are acquired, newest first, and what it leaves
behind is asked for when nothing new waits. An acquisition may leave planes out (a channel without
z-stack, skipped frames): they are asked for once, and once more at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Grid", "Place", "PlaneSet", "Walk", "newest_visit"]

_MOST_MISSES = (
    256  # in a row: about a quarter of a second of asking; a gap as wide ends with its visit
)
_USUAL_ORDER = ("time", "position", "channel", "z")


class Place(NamedTuple):
    """Of a plane: indices from 0."""

    time: int
    position: int
    channel: int
    z: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The planes that an acquisition plans.

    Attributes
    ----------
    num_times, num_positions, num_channels, num_slices : int
        How many of each.
    order : tuple of str
        The axes time, position, channel and z, the one that changes most slowly first. A visit is
        what lies within one time and position: their axes always come before channel and z.
    """

    num_times: int = 1
    num_positions: int = 1
    num_channels: int = 1
    num_slices: int = 1
    order: tuple[str, str, str, str] = _USUAL_ORDER

    @property
    def visit_size(self) -> int:
        """Planes of one visit."""
        return self.num_channels * self.num_slices

    @property
    def num_visits(self) -> int:
        """Of all times and positions."""
        return self.num_times * self.num_positions

    @property
    def num_planes(self) -> int:
        """Of all."""
        return self.num_visits * self.visit_size

    def length(self, axis: str) -> int:
        """How many there are along an axis."""
        return {
            "time": self.num_times,
            "position": self.num_positions,
            "channel": self.num_channels,
            "z": self.num_slices,
        }[axis]

    def number(self, place: Place) -> int:
        """Names a plane by one number, whatever the order."""
        at = place.time * self.num_positions + place.position
        return (at * self.num_channels + place.channel) * self.num_slices + place.z

    def step(self, place: Place) -> int:
        """How many planes are acquired before this one, were none left out."""
        step = 0
        for axis in self.order:
            step = step * self.length(axis) + int(getattr(place, axis))
        return step

    def place(self, step: int) -> Place:
        """The plane that is acquired after `step` others, were none left out."""
        at = {}
        for axis in reversed(self.order):
            step, at[axis] = divmod(step, self.length(axis))
        return Place(at["time"], at["position"], at["channel"], at["z"])


class PlaneSet:
    """Numbers of planes, one bit each.

    Parameters
    ----------
    ranges : iterable of int
        As from `ranges`.
    """

    def __init__(self, ranges: Iterable[int] = ()) -> None:
        self._bits = bytearray()
        self._size = 0
        bounds = iter(ranges)
        for start, stop in zip(bounds, bounds, strict=True):
            for number in range(start, stop):
                self.add(number)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, number: int) -> bool:
        byte = number >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (number & 7) & 1)

    def add(self, number: int) -> bool:
        """Put a number in; whether it was new."""
        if number in self:
            return False
        byte = number >> 3
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits)))
        self._bits[byte] |= 1 << (number & 7)
        self._size += 1
        return True

    def ranges(self) -> list[int]:
        """First and last + 1 of each run of numbers, one after the other."""
        bounds: list[int] = []
        for number in range(len(self._bits) * 8):
            if number not in self:
                continue
            if bounds and bounds[-1] == number:
                bounds[-1] += 1
            else:
                bounds += [number, number + 1]
        return bounds


class Walk:
    """The way through an acquisition: `ask` what to ask for, then `answer` whether it was there.

    Parameters
    ----------
    grid : Grid
        What is planned.
    delivered : PlaneSet
        Numbers of the planes that need not be asked for; those found are added.
    """

    def __init__(self, grid: Grid, delivered: PlaneSet) -> None:
        self._grid = grid
        self._delivered = delivered
        self._cursor = 0  # every step before it was found, or lies in a gap or among the absent
        self._ahead = 0
        self._misses = 0
        self._new = 0  # images that came since the last round
        self._num_images = 0
        self._newest = 0
        # First step and last + 1; the last gap is the newest.
        self._gaps: list[tuple[int, int]] = []
        self._absent: list[tuple[int, int]] = []
        self._asked: tuple[int, bool] | None = None
        self._is_idle = True

    @property
    def num_found(self) -> int:
        """Planes that were there."""
        return len(self._delivered)

    @property
    def is_idle(self) -> bool:
        """Whether there was nothing to ask for when it was asked last."""
        return self._is_idle

    @property
    def is_whole(self) -> bool:
        """Whether the last visit was reached as far as the first: nothing was cut off.

        Planes that are left out on purpose can't be told from an abort within a single visit.
        """
        last = self._grid.num_visits - 1
        return self.num_found == self._grid.num_planes or (
            last > 0 and 0 < self._reach(0) <= self._reach(last)
        )

    def begin(self, num_images: int, newest: Callable[[], int]) -> None:
        """Begin a round of asking.

        Parameters
        ----------
        num_images : int
            That exist now.
        newest : callable
            Gives the newest visit of which a plane exists; called only where it matters.
        """
        size = self._grid.visit_size
        new = max(0, num_images - self._num_images)
        self._new += new
        self._num_images = num_images
        if new and (self._cursor % size == 0 or num_images - self.num_found > size):
            self._newest = max(self._newest, min(newest(), self._grid.num_visits - 1))
        if new:
            self._misses = 0
            self._ahead = self._cursor

    def finish(self, num_images: int, next_index: Callable[[str], int]) -> None:
        """Nothing more is acquired: what was passed over is asked for once more.

        Parameters
        ----------
        num_images : int
            That exist.
        next_index : callable
            The highest index along an axis, plus 1.
        """
        grid = self._grid
        outer, inner = grid.order[:2]
        num_outer = min(max(1, next_index(outer)), grid.length(outer))
        end = max(self._cursor, num_outer * grid.length(inner) * grid.visit_size)
        self._gaps = [*self._absent, *self._gaps, (self._cursor, end)]
        self._absent = []
        self._cursor = self._ahead = end
        self._num_images = num_images
        self._new = 0

    def ask(self) -> Place | None:
        """The plane to ask for; None when all that exist were found, or none is left to ask for."""
        step, is_live = None, False
        if self._num_images > self.num_found:
            step = self._live_step()
            is_live = step is not None
            if step is None:
                step = self._gap_step()
        self._is_idle = step is None
        if step is None:
            return None
        self._asked = step, is_live
        return self._grid.place(step)

    def answer(self, *, exists: bool) -> None:
        """Say whether the plane that was asked for is there."""
        if self._asked is None:
            raise ValueError("answer() without ask()")
        (step, is_live), self._asked = self._asked, None
        if exists:
            self._delivered.add(self._number(step))
        if not is_live:
            if not exists:
                _append(self._absent, step)
        elif exists:
            self._pass_to(step + 1, gap_end=step)
            self._new -= 1
            self._misses = 0
        else:
            self._ahead += 1
            self._misses += 1

    def _live_step(self) -> int | None:
        """The next one to look for at the front, as long as new ones may be there."""
        size = self._grid.visit_size
        while self._new > 0 and self._ahead < self._grid.num_planes:
            if self._ahead % size == 0 and self._newest > self._cursor // size:
                self._jump()
                continue
            if self._number(self._ahead) not in self._delivered:
                has_later = self._newest > self._ahead // size
                if has_later or self._misses < min(size, _MOST_MISSES):
                    return self._ahead
                break
            if self._ahead == self._cursor:
                self._cursor += 1
            self._ahead += 1
        self._new = 0
        return None

    def _gap_step(self) -> int | None:
        """The next one of those left behind: newest visit first, each from its beginning."""
        while self._gaps:
            start, stop = self._gaps.pop()
            if start == stop:
                continue
            visit = (stop - 1) // self._grid.visit_size * self._grid.visit_size
            if start < visit:
                self._gaps.append((start, visit))
                start = visit
            if start + 1 < stop:
                self._gaps.append((start + 1, stop))
            if self._number(start) not in self._delivered:
                return start
        return None

    def _jump(self) -> None:
        """To the newest visit; what lies between becomes a gap."""
        first = self._newest * self._grid.visit_size
        if first > self._cursor:
            self._pass_to(first, gap_end=first)

    def _pass_to(self, cursor: int, gap_end: int) -> None:
        if gap_end > self._cursor:
            self._gaps.append((self._cursor, gap_end))
        self._cursor = self._ahead = max(cursor, self._cursor)

    def _number(self, step: int) -> int:
        return self._grid.number(self._grid.place(step))

    def _reach(self, visit: int) -> int:
        """How many steps of a visit there are up to the last that was found."""
        size = self._grid.visit_size
        for step in reversed(range(visit * size, (visit + 1) * size)):
            if self._number(step) in self._delivered:
                return step - visit * size + 1
        return 0


def newest_visit(
    grid: Grid, next_index: Callable[[str], int], exists: Callable[[Place], bool]
) -> int:
    """The newest visit of which a plane exists, asking as little as possible.

    Parameters
    ----------
    grid : Grid
        What is planned.
    next_index : callable
        The highest index along an axis, plus 1.
    exists : callable
        Whether a plane is there.
    """
    outer, inner = grid.order[:2]
    if grid.length(outer) == 1:
        return max(0, next_index(inner) - 1)
    first = max(0, next_index(outer) - 1) * grid.length(inner)
    low, high = first, first + grid.length(inner) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if exists(grid.place(middle * grid.visit_size)):
            low = middle
        else:
            high = middle - 1
    return low


def _append(ranges: list[tuple[int, int]], step: int) -> None:
    if ranges and ranges[-1][1] == step:
        ranges[-1] = ranges[-1][0], step + 1
    else:
        ranges.append((step, step + 1))
