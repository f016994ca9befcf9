"""Acquisitions of one TIFF file per plane, whose names a pattern in the profile tells.

Any program may have written them. What the names say is all that is known of them: the dataset's
folder is the one above all that the pattern tells, and files that differ only at a ``*`` are the same
plane.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self

from live_restore.errors import SourceError
from live_restore.profile.pattern import NamePattern
from live_restore.sources.layouts.calibration import Calibration
from live_restore.sources.layouts.growing_tree import GrowingTree
from live_restore.sources.layouts.layout import LayoutInfo
from live_restore.sources.layouts.plane import EncodedPixels, Pixels, PlaneOnDisk
from live_restore.sources.layouts.raw_file import DamagedFileError, SeveralImagesError
from live_restore.sources.layouts.single_image import Age, SingleImage

__all__ = ["PlaneFiles"]

_POSITION, _CHANNEL = "0", "camera"  # where the pattern doesn't tell
# Names come in nearly the order in which they count: a 0 that doesn't come in this time won't.
_FIRST_NAMES_S = 1.0
# Files that are looked at for the first time in one poll: each is looked at twice before it is taken.
_MOST_FIRST_LOOKS = 64


class PlaneFiles:
    """See `Layout`.

    Parameters
    ----------
    path : pathlib.Path
        The dataset's folder.
    pattern : NamePattern
        What the paths of its files in it are like.
    is_finished : bool
        Nobody writes it any more: a single `poll` gives all that is there.
    """

    name = "one file per plane"

    def __init__(self, path: Path, pattern: NamePattern, is_finished: bool = False) -> None:
        self.path = path
        self._is_finished = is_finished
        self._pattern = pattern
        self._tree = GrowingTree(path, pattern)
        self._is_first_listing = True
        self._old: dict[str, _File] = {}  # there before we were: the others go first
        self._young: dict[str, _File] = {}
        self._taken: dict[_Place, str] = {}
        self._time, self._z = _Axis("time"), _Axis("z")
        self._named_s: float | None = None  # when the first file was seen
        self._channels: dict[str, None] = {}
        self._positions: dict[str, None] = {}
        self._calibration: Calibration | None = None
        self._untold: deque[SourceError] = deque()
        self._told: set[str] = set()

    @classmethod
    def at(cls, path: Path, pattern: NamePattern, is_finished: bool = False) -> Self | None:
        """The dataset that a folder or file is of, if a file fits the pattern there."""
        depth = len(pattern.folders)
        if not path.is_dir():
            is_one = pattern.fit(path.parts) is not None and path.is_file()
            return cls(path.parents[depth], pattern, is_finished) if is_one else None
        for level, dataset in zip(range(depth + 1), (path, *path.parents), strict=False):
            above, below = pattern.folders[:level], (*pattern.folders[level:], pattern.file)
            names = path.parts[len(path.parts) - level :]
            is_above = all(map(re.Pattern.fullmatch, above, names))
            if is_above and _holds(path, below):
                return cls(dataset, pattern, is_finished)
        return None

    def info(self) -> LayoutInfo:
        """See `Layout.info`."""
        calibration = self._calibration or Calibration()
        return LayoutInfo(
            channels=tuple(self._channels),
            positions=tuple(self._positions),
            pixel_size_um=calibration.pixel_size_um,
            z_step_um=calibration.z_step_um,
        )

    def poll(self) -> Iterator[PlaneOnDisk]:
        """See `Layout.poll`."""
        problem = self._find()
        if self._has_settled_axes():
            for files in (self._young, self._old):
                yield from self._poll(files)
        if self._untold:
            raise self._untold.popleft()
        if problem is not None:
            raise problem

    def is_ended(self) -> bool | None:
        """See `Layout.is_ended`; such files never tell."""
        return None

    def close(self) -> None:
        """See `Layout.close`."""

    def _find(self) -> SourceError | None:
        """Take note of files that are new; give why a folder couldn't be listed."""
        found, problem = self._tree.new()
        # Stack by stack, for those that were there before we were.
        new = sorted((_Place.of(one.said), one.name) for one in found)
        files = self._old if self._is_first_listing else self._young
        age: Age = "old" if self._is_first_listing else "young"
        if self._is_finished:
            age = "finished"
        for place, name in new:
            files[name] = _File(place, SingleImage(self.path / name, age))
            self._time.see(place.time)
            self._z.see(place.z)
            self._positions.setdefault(place.position)
            self._channels.setdefault(place.channel)
        if new and self._named_s is None:
            self._named_s = time.monotonic()
        self._is_first_listing &= problem is not None
        return problem

    def _has_settled_axes(self) -> bool:
        if self._named_s is None:
            return False
        is_late = self._is_finished or time.monotonic() - self._named_s > _FIRST_NAMES_S
        self._time.settle(is_late)
        self._z.settle(is_late)
        return self._time.first is not None and self._z.first is not None

    def _poll(self, files: dict[str, _File]) -> Iterator[PlaneOnDisk]:
        num_first_looks = 0
        for name, file in tuple(files.items()):
            if file.place in self._taken:
                del files[name]
                self._tell_of_two(self._taken[file.place], name)
                continue
            now = time.monotonic()
            if not file.image.is_due(now):
                continue
            num_first_looks += file.image.is_unseen and not self._is_finished
            if num_first_looks > _MOST_FIRST_LOOKS:
                return
            try:
                pixels = file.image.look(now)
            except SourceError as error:  # the other files go on
                del files[name]
                if not isinstance(error, DamagedFileError):
                    self._tree.forget(name)  # it may come back
                if not self._is_renamed(file.place, error):
                    self._tell(error, "several" if isinstance(error, SeveralImagesError) else "")
                continue
            if pixels is not None:
                del files[name]
                self._taken[file.place] = name
                plane = self._plane(file.place, pixels)
                if plane is not None:
                    yield plane

    def _is_renamed(self, place: _Place, error: SourceError) -> bool:
        """Whether a file is gone because it has another name now, as when it was finished."""
        waiting = chain(self._young.values(), self._old.values())
        return isinstance(error.__cause__, FileNotFoundError) and any(
            file.place == place for file in waiting
        )

    def _plane(self, place: _Place, pixels: Pixels | EncodedPixels) -> PlaneOnDisk | None:
        indices = {
            axis.name: axis.index(n) for axis, n in ((self._time, place.time), (self._z, place.z))
        }
        for name, index in indices.items():
            if index < 0:
                self._tell(_counts_from_zero(pixels.path, name), name)
                return None
        if self._calibration is None:
            self._calibration = _calibration(pixels.path)
        return PlaneOnDisk(
            place.position,
            indices["time"],
            place.channel,
            indices["z"],
            exposure_ms=None,
            z_um=None,
            pixel_size_um=self._calibration.pixel_size_um,
            pixels=pixels,
        )

    def _tell(self, error: SourceError, once: str = "") -> None:
        """Have an error raised by this poll or a later one; only the first of those named alike."""
        if once not in self._told:
            self._untold.append(error)
        if once:
            self._told.add(once)

    def _tell_of_two(self, first: str, second: str) -> None:
        if not (self.path / second).exists():
            return  # renamed
        error = SourceError(
            f"folder {self.path}: {first} and {second} are the same plane by the pattern "
            f"{self._pattern.text!r}; the first is taken and the second left out, and so with any others "
            "alike. Put {position} where their names differ, or each acquisition in a folder of its own"
        )
        self._tell(error, "two")


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """What a file's name says, as it counts."""

    time: int
    position: str
    channel: str
    z: int

    @classmethod
    def of(cls, said: Mapping[str, str]) -> Self:
        return cls(
            int(said.get("time", 0)),
            said.get("position", _POSITION),
            said.get("channel", _CHANNEL),
            int(said["z"]),
        )


@dataclass(frozen=True, slots=True)
class _File:
    """A file that isn't taken yet."""

    place: _Place
    image: SingleImage


@dataclass(slots=True)
class _Axis:
    """Whether an axis counts from 0, as indices do, or from 1."""

    name: str
    least: int | None = None
    first: int | None = None  # as decided

    def see(self, number: int) -> None:
        self.least = number if self.least is None else min(number, self.least)

    def settle(self, is_late: bool) -> None:
        """Decide if that is possible: a 0 tells, that there is none only some time."""
        if self.first is None and (self.least == 0 or is_late):
            self.first = 1 if self.least == 1 else 0

    def index(self, number: int) -> int:
        return number - (self.first or 0)


def _holds(folder: Path, expressions: Sequence[re.Pattern[str]]) -> bool:
    """Whether a file in a folder, or in folders in it, has a path of names like these."""
    expression, *rest = expressions
    with os.scandir(folder) as entries:
        fitting = (entry for entry in entries if expression.fullmatch(entry.name))
        return any(
            (entry.is_dir() and _holds(folder / entry.name, rest)) if rest else entry.is_file()
            for entry in fitting
        )


def _calibration(path: Path) -> Calibration:
    try:
        return Calibration.of(path)
    except SourceError:
        return Calibration()


def _counts_from_zero(path: Path, axis: str) -> SourceError:
    return SourceError(
        f"{path}: {axis} is 0, but the first files' began with 1, which was therefore taken for the "
        f"first: files with {axis} 0 are left out. Start live-restore anew when they are all there, and "
        "next time have it run before the acquisition begins"
    )
