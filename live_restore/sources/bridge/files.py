"""The files of an acquisition that is too fast for the bridge. No bridge here."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.sources.bridge.plan import Plan
from live_restore.sources.bridge.walk import Place

if TYPE_CHECKING:
    from live_restore.sources.layouts import Layout, PlaneOnDisk

__all__ = ["FilesOnDisk", "Lag"]

logger = logging.getLogger(__name__)

_WINDOW_S = 4.0  # a pause of Micro-Manager's memory management or a slow disk is over by then
_SAMPLE_S = 0.5
_BEHIND_S = 2.0  # of fetching; what is less than that behind may still catch up between two stacks


class Lag:
    """Whether the bridge falls behind for good."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()

    def note(self, now_s: float, num_images: int, num_fetched: int) -> bool:
        """Take what exists and what was fetched; whether the bridge can't keep up.

        That is: for a few seconds it fell ever further behind, and what waits is more than it
        carries in seconds. An acquisition that was found late is behind too, but catches up.

        Parameters
        ----------
        now_s : float
            On a monotonic clock.
        num_images, num_fetched : int
            So far.
        """
        samples = self._samples
        if not samples or now_s - samples[-1][0] >= _SAMPLE_S:
            samples.append((now_s, num_images, num_fetched))
        while len(samples) > 2 and now_s - samples[1][0] >= _WINDOW_S:
            samples.popleft()
        first, last = samples[0], samples[-1]
        span = last[0] - first[0]
        if span < _WINDOW_S - _SAMPLE_S:
            return False
        waiting = [images - fetched for _, images, fetched in samples]
        is_growing = all(b > a for a, b in zip(waiting, list(waiting)[1:], strict=False))
        fetched_per_s = (last[2] - first[2]) / span
        return is_growing and waiting[-1] > _BEHIND_S * fetched_per_s


class FilesOnDisk:
    """An acquisition's planes as they come to disk.

    Parameters
    ----------
    layout : Layout
        Reads the files.
    plan : Plan
        Of the acquisition.
    """

    def __init__(self, layout: Layout, plan: Plan) -> None:
        self.path = layout.path
        self._layout = layout
        self._plan = plan
        self._told: set[str] = set()

    @classmethod
    def at(cls, path: Path | None, plan: Plan) -> FilesOnDisk | None:
        """Those at a path; None where there are none, or none that can be read while they grow."""
        # What most acquisitions never need isn't loaded.
        from live_restore.sources.layouts import recognise

        layout = recognise(path) if path is not None and path.exists() else None
        return cls(layout, plan) if layout is not None else None

    def poll(self) -> Iterator[tuple[Place, PlaneOnDisk]]:
        """Planes that have become whole since the last poll, and their places."""
        try:
            for plane in self._layout.poll():
                place = self._place(plane)
                if place is not None:
                    yield place, plane
        except SourceError as error:
            self._tell(str(error))

    def read(self, plane: PlaneOnDisk) -> NDArray[Any] | None:
        """A plane's pixels; None where they are gone, which is told."""
        try:
            return plane.read()
        except SourceError as error:
            self._tell(str(error))
            return None

    def close(self) -> None:
        """Let go of the files."""
        self._layout.close()

    def _place(self, plane: PlaneOnDisk) -> Place | None:
        grid = self._plan.grid
        place = Place(
            plane.time,
            _index(plane.position, self._plan.positions),
            _index(plane.channel, self._plan.channels),
            plane.z,
        )
        limits = (grid.num_times, grid.num_positions, grid.num_channels, grid.num_slices)
        if all(0 <= index < limit for index, limit in zip(place, limits, strict=True)):
            return place
        self._tell(
            f"{self.path}: position {plane.position!r}, channel {plane.channel!r} isn't among what "
            "Micro-Manager announced; such planes are fetched from it instead"
        )
        return None

    def _tell(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            logger.warning("%s", problem)


def _index(name: str, names: tuple[str, ...]) -> int:
    """Which of the names it is; files may hold the number instead, or nothing for a single one."""
    if name in names:
        return names.index(name)
    if len(names) == 1:
        return 0
    return int(name) if name.isdecimal() else -1
