"""An acquisition on disk that is taken while it is being written."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Container, Iterator

from pydantic import ValidationError

from live_restore.errors import SourceError
from live_restore.interfaces import Event, StopSignal
from live_restore.ledger import Place
from live_restore.plane_protocol import PlaneHeader, PlanesEnd
from live_restore.sources.incoming import Defaults, Incoming
from live_restore.sources.layouts import Layout, PlaneOnDisk

__all__ = ["Growing"]

logger = logging.getLogger(__name__)

_BUSY_S = 0.02  # between looks while planes come: half of what a stack may be late
_QUIET_S = 0.5
_BUSY_FOR_S = 10.0
_LEAST_S = 0.005  # between looks when the file system tells of each write
_SENDER = "folder"


class Growing:
    """One acquisition on disk.

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
    settled : container of Place
        Stacks that aren't wanted.

    Attributes
    ----------
    is_over : bool
        It has ended; planes that come nevertheless begin it anew.
    next_look_s : float
        When to `poll` again, on the monotonic clock; after its end only when it is touched.
    """

    def __init__(
        self,
        layout: Layout,
        name: str,
        defaults: Defaults,
        idle_s: float,
        settled: Container[Place] = frozenset(),
    ) -> None:
        self._settled = settled
        self.is_over = False
        self.next_look_s = 0.0
        self._layout = layout
        self._name = name
        self._incoming = Incoming(defaults)
        self._idle_s = idle_s
        self._looked_s = 0.0
        self._grew_s = time.monotonic()
        self._number = 0
        self._told: set[str] = set()
        logger.info("%s: %s in %s", name, layout.name, layout.path)

    def touch(self) -> None:
        """The file system tells that something was written."""
        self.next_look_s = min(self.next_look_s, self._looked_s + _LEAST_S)

    def poll(self, stop: StopSignal) -> Iterator[Event]:
        """Take the planes that have become whole; ends soon after `stop` is set."""
        try:
            for plane in self._layout.poll():
                yield from self._take(plane)
                if stop.is_set():
                    yield from self._incoming.end_idle(0.0, "stopped")
                    return
        except SourceError as error:
            self._tell(str(error))
        now = self._looked_s = time.monotonic()
        quiet_s = now - self._grew_s
        if not self.is_over:
            if self._layout.is_ended():
                yield from self._end("finished")
            elif quiet_s > self._idle_s:
                yield from self._end(f"no planes for {self._idle_s:g} s")
        wait_s = _BUSY_S if quiet_s < _BUSY_FOR_S else _QUIET_S
        self.next_look_s = math.inf if self.is_over else now + wait_s

    def close(self) -> None:
        """Let go of its files."""
        self._layout.close()

    def _take(self, plane: PlaneOnDisk) -> Iterator[Event]:
        self._grew_s = time.monotonic()
        self.is_over = False
        if (plane.position, plane.time, plane.channel) in self._settled:
            return
        info = self._layout.info()
        try:
            data = plane.read()
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
        yield from self._incoming.plane(header, data)

    def _end(self, reason: str) -> Iterator[Event]:
        self.is_over = True
        word = PlanesEnd(sender=_SENDER, acquisition=self._name, reason=reason)
        yield from self._incoming.end(word)

    def _tell(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            logger.warning("%s", problem)
