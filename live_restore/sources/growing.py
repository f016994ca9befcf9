"""An acquisition on disk that is taken while it is being written."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError

from live_restore.errors import SourceError
from live_restore.interfaces import Event, StopSignal
from live_restore.plane_protocol import PlaneHeader, PlanesEnd
from live_restore.sources.incoming import Defaults, Incoming
from live_restore.sources.known import Known
from live_restore.sources.layouts import Layout, PlaneOnDisk
from live_restore.sources.layouts.plane import EncodedPixels
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane

__all__ = ["Growing"]

logger = logging.getLogger(__name__)

_BUSY_S = 0.02  # between looks while planes come: half of what a stack may be late
_QUIET_S = 0.5
_BUSY_FOR_S = 10.0
_LEAST_S = 0.005  # between looks when the file system tells of each write
_AT_ONCE = 1000  # planes that one look learns of: others wait meanwhile
_SENDER = "folder"


class Growing:
    """One acquisition on disk. `look` learns which planes are whole, `give` reads and gives them.

    Planes that were there at the start have time: new ones are given before them, together with what
    was there of their own stacks. Until the acquisition can be announced all come in their order,
    since how many planes its stacks have may have to be learned from that.

    Parameters
    ----------
    layout : Layout
        Reads it.
    name : str
        Of the acquisition.
    defaults : Defaults
        What its files may not tell.
    idle_s : float
        It is over when nothing came for so long, where its files don't tell that it is.
    known : Known, optional
        What an earlier run knew of it.
    is_old : bool
        It was there at the start, and is looked at only when it is touched or told to `begin`.

    Attributes
    ----------
    has_begun : bool
        It is looked at.
    is_over : bool
        It has ended; planes that come nevertheless begin it anew.
    next_look_s : float
        When to `look` again, on the monotonic clock; after its end only when it is touched.
    turn : int
        For whoever lets several take turns.
    num_acquisitions : int
        How many were announced.
    """

    def __init__(
        self,
        layout: Layout,
        name: str,
        defaults: Defaults,
        idle_s: float,
        known: Known | None = None,
        *,
        is_old: bool = False,
    ) -> None:
        self.has_begun = not is_old
        self.is_over = False
        self.next_look_s = math.inf if is_old else 0.0
        self.turn = self.num_acquisitions = 0
        self._layout = layout
        self._name = name
        self._incoming = Incoming(defaults)
        self._idle_s = idle_s
        self._known = known or Known()
        self._undecided: list[PlaneOnDisk] = []  # until it is seen whether it is the known one
        self._new: deque[PlaneOnDisk] = deque()
        self._old: deque[PlaneOnDisk] = deque()
        self._are_live: deque[bool] = deque()  # of planes that `_incoming` holds back
        self._poll: Iterator[PlaneOnDisk] | None = None  # one that isn't through
        self._is_first_look = is_old
        self._old_files: set[str] = set()
        self._latest: tuple[str, int] | None = None  # place of the latest new plane
        self._is_urgent = False  # it may still be written
        self._is_touched = False
        self._is_announced = False
        self._is_away = False
        self._ending: str | None = None
        self._looked_s = 0.0
        self._grew_s = time.monotonic()
        self._number = 0
        self._told: set[str] = set()
        logger.info("%s: %s in %s", name, layout.name, layout.path)

    @property
    def has_new(self) -> bool:
        """Whether something that is new can be given."""
        return self._ending is not None or (bool(self._new) and not self._is_away)

    @property
    def has_old(self) -> bool:
        """Whether something that has time can be given."""
        return bool(self._old) and not self._is_away

    def begin(self, *, is_urgent: bool = False) -> None:
        """Look at one that was there at the start; all of it at once when it may still be written."""
        self._is_urgent |= is_urgent
        if not self.has_begun:
            self.has_begun = True
            self._grew_s = time.monotonic()
            self.next_look_s = 0.0

    def know_as_old(self, path: Path) -> None:
        """A file that holds a single plane was there at the start."""
        self._old_files.add(str(path))

    def touch(self) -> None:
        """The file system tells that something was written."""
        self._is_touched = True
        self.begin(is_urgent=True)
        self.look_soon()

    def look_soon(self) -> None:
        """Have it looked at again, should nothing have told of a change."""
        if self.has_begun:
            self.next_look_s = min(self.next_look_s, self._looked_s + _LEAST_S)

    def resume(self) -> None:
        """Its folder was away and is back."""
        self._grew_s = time.monotonic()
        self.look_soon()

    def vanish(self) -> bool:
        """It was deleted or moved away for good, whatever lies in its place now; whether its end is still to be given."""
        self.close()
        if self._is_announced and not self.is_over:
            self._end("it was deleted or moved away")
        return self._ending is not None

    def look(self) -> None:
        """Learn which planes have become whole, and whether it has ended."""
        self._is_away = not os.path.exists(self._layout.path)  # noqa: PTH110 - never raises
        is_through = self._is_away or self._look_further()
        now = self._looked_s = time.monotonic()
        quiet_s = now - self._grew_s
        if not is_through:
            # What nobody writes any more is learned bit by bit, so as to hold little.
            must_wait = self._is_first_look and not self._is_urgent and self._old
            self.next_look_s = math.inf if must_wait else now
            return
        if not self.is_over:
            if quiet_s > self._idle_s and (self._is_away or not self._has_planes):
                self._end(f"no planes for {self._idle_s:g} s")
            elif not self._is_away and not self._has_planes and self._layout.is_ended():
                self._end("finished")
        wait_s = _BUSY_S if quiet_s < _BUSY_FOR_S and not self._is_away else _QUIET_S
        self.next_look_s = math.inf if self.is_over else now + wait_s

    def give(self, stop: StopSignal) -> Iterator[Event]:
        """The planes of one time point at one position, or the end; ends soon after `stop` is set."""
        if self._ending is not None:
            word = PlanesEnd(sender=_SENDER, acquisition=self._name, reason=self._ending)
            self._ending = None
            yield from self._mark(self._incoming.end(word))
            return
        is_live = bool(self._new) and (self._is_announced or not self._old)
        planes = self._new if is_live else self._old
        place = _place(planes[0])
        while planes and _place(planes[0]) == place and not stop.is_set():
            try:
                data = planes[0].read()
            except SourceError as error:
                if not os.path.exists(self._layout.path):  # noqa: PTH110 - never raises
                    self._is_away = True
                    self.next_look_s = time.monotonic() + _QUIET_S
                    return
                self._tell(str(error))
                planes.popleft()
                continue
            self._known.see(planes[0], data)
            yield from self._mark(self._take(planes.popleft(), data, is_live))
        self._grew_s = time.monotonic()
        if not planes:
            self.look_soon()

    def close(self) -> None:
        """Let go of its files."""
        self._poll = None
        self._layout.close()

    @property
    def _has_planes(self) -> bool:
        return bool(self._new or self._old)

    def _look_further(self) -> bool:
        """Learn of some planes; whether those are all for now."""
        num_learned = 0
        try:
            if self._poll is None:
                self._poll = self._layout.poll()
            for plane in islice(self._poll, _AT_ONCE):
                num_learned += 1
                self._learn(plane)
            if num_learned == _AT_ONCE:
                return False
            is_whole = True
            if self._undecided:
                self._decide()
        except SourceError as error:
            self._tell(str(error))
            is_whole = num_learned == 0
        self._poll = None
        if is_whole and self._is_first_look:
            self._is_first_look = False
            if self._is_touched and self._old:
                latest = max(plane.time for plane in self._old)
                self._prefer(lambda plane: plane.time == latest)
        return True

    def _learn(self, plane: PlaneOnDisk) -> None:
        self._grew_s = time.monotonic()
        self.is_over = False
        if self._known.is_undecided:
            self._undecided.append(plane)
            if self._known.recognise(plane):
                self._decide()
            return
        if (plane.position, plane.time, plane.channel) in self._known.settled:
            return
        if self._has_planes and isinstance(plane.pixels, EncodedPixels):
            # What waits holds no pixels, though it has to be decoded once more.
            plane = replace(plane, pixels=EncodedPixels(plane.pixels.path))
        file = str(plane.pixels.path)
        if self._is_first_look or file in self._old_files:
            self._old_files.discard(file)
            self._old.append(plane)
        else:
            if self._old and _place(plane) != self._latest:
                self._latest = _place(plane)
                self._prefer(lambda old: _place(old) == _place(plane))
            self._new.append(plane)

    def _decide(self) -> None:
        self._known.decide()
        undecided, self._undecided = self._undecided, []
        for plane in undecided:
            self._learn(plane)

    def _prefer(self, is_wanted: Callable[[PlaneOnDisk], bool]) -> None:
        """Planes of a stack that is being written are wanted with its new ones."""
        self._new.extendleft(reversed([plane for plane in self._old if is_wanted(plane)]))
        self._old = deque(plane for plane in self._old if not is_wanted(plane))

    def _take(self, plane: PlaneOnDisk, data: NDArray[Any], is_live: bool) -> Iterator[Event]:
        info = self._layout.info()
        try:
            header = PlaneHeader.model_validate(
                {
                    "sender": _SENDER,
                    "number": self._number,
                    "acquisition": self._name,
                    "position": plane.position,
                    "time": plane.time,
                    "channel": plane.channel,
                    "z": plane.z,
                    "type": data.dtype.name,
                    "shape": data.shape,
                    "num_slices": info.num_slices,
                    "num_times": info.num_times,
                    "channels": info.channels,
                    "positions": info.positions,
                    "pixel_size_um": plane.pixel_size_um or info.pixel_size_um,
                    "z_step_um": info.z_step_um,
                    "exposure_ms": plane.exposure_ms,
                    "origin": str(self._layout.path),
                }
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            self._tell(f"{self._layout.path}: planes can't be taken: {where}: {first['msg']}")
            return
        self._number += 1
        self._are_live.append(is_live)
        yield from self._incoming.plane(header, data)

    def _mark(self, events: Iterator[Event]) -> Iterator[Event]:
        """Planes come out in the order in which they went in: each with whether it is live."""
        for event in events:
            match event:
                case Plane():
                    is_live = self._are_live.popleft()
                    yield event if is_live else replace(event, is_live=False)
                    continue
                case AcquisitionInfo():
                    self._is_announced = True
                    self.num_acquisitions += 1
                case AcquisitionEnd():
                    self._is_announced = False
                    self._are_live.clear()
            yield event

    def _end(self, reason: str) -> None:
        self.is_over = True
        self._ending = reason
        self._new.clear()
        self._old.clear()

    def _tell(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            logger.warning("%s", problem)


def _place(plane: PlaneOnDisk) -> tuple[str, int]:
    return plane.position, plane.time
