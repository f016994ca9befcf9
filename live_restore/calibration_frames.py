"""Frames to calibrate a camera from: out of files, a folder that fills, or the microscope itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import CalibrationError, SourceError
from live_restore.guard.exposures import Exposures
from live_restore.interfaces import StopSignal
from live_restore.profile import AcquisitionSource
from live_restore.sources.acquisition import OwnAcquisition
from live_restore.sources.frames import find_frame_files, read_frames
from live_restore.sources.variation import Variation
from live_restore.volume import Plane

__all__ = ["CalibrationFolder", "LiveCamera", "read_series", "read_stack"]

logger = logging.getLogger(__name__)

_DARK, _LIGHT = "dark", "light"
_FEWEST_FRAMES = 2
_POLL_S = 0.5


def read_series(paths: Sequence[Path], exposure_ms: float | None = None) -> list[Exposures]:
    """Series of identical exposures out of files.

    Each file of several frames is one; files of a single frame in one folder are one together.

    Raises
    ------
    SourceError
        A file can't be read.
    CalibrationError
        A single frame is all there is.
    """
    series: list[Exposures] = []
    frames = [(path, read_frames(path)) for path in paths]
    many = [(path, data) for path, data in frames if len(data) > 1]
    single = [(path, data) for path, data in frames if len(data) == 1]
    series += [Exposures(str(path), data, exposure_ms) for path, data in many]
    for folder, group in groupby(single, key=lambda one: one[0].parent):
        files = list(group)
        name = str(folder) if len(files) > 1 else str(files[0][0])
        if len(files) < _FEWEST_FRAMES:
            raise CalibrationError(
                f"{name}: a single frame; expected two or more identical exposures: save a series (a time "
                "lapse without interval) as one file"
            )
        shapes = {data.shape for _, data in files}
        if len(shapes) > 1:
            raise CalibrationError(
                f"{name}: frames of different shapes, {sorted(s[1:] for s in shapes)}; take all with one "
                "region of interest and binning"
            )
        series.append(Exposures(name, np.concatenate([data for _, data in files]), exposure_ms))
    return series


def read_stack(path: Path) -> NDArray[Any]:
    """One z-stack, ``(Z, Y, X)``, in the camera's own type."""
    return read_frames(path)


@dataclass
class CalibrationFolder:
    """A folder into which frames are saved meanwhile, ``dark*.tif`` and ``light*.tif``.

    Parameters
    ----------
    path : pathlib.Path
        The folder.
    settle_s : float
        A file counts when its size and time stood still for so long and it opens whole.
    """

    path: Path
    settle_s: float = 1.0
    _seen: dict[Path, tuple[tuple[int, int], float]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _known: dict[tuple[object, ...], list[Exposures]] = field(default_factory=dict)

    def await_series(
        self,
        num_light: int,
        needs_dark: bool,
        tell: Callable[[str], None],
        timeout_s: float | None = None,
    ) -> tuple[list[Exposures], list[Exposures]]:
        """Dark and lit series, as soon as there are enough and none is being written.

        Parameters
        ----------
        num_light : int
            Lit series that are wanted.
        needs_dark : bool
            Whether a dark series is wanted too.
        tell : callable
            Called with a line for people whenever something came.
        timeout_s : float, optional
            How long to wait.

        Raises
        ------
        SourceError
            There is no such folder, or not enough came in time.
        """
        if not self.path.is_dir():
            raise SourceError(f"folder {self.path}: isn't there or isn't a folder; make it first")
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        while True:
            is_settled, files = self._look()
            dark, light = (self._read(files[kind], kind, tell) for kind in (_DARK, _LIGHT))
            if is_settled and len(light) >= num_light and (dark or not needs_dark):
                return dark, light
            if deadline is not None and time.monotonic() > deadline:
                raise SourceError(
                    f"folder {self.path}: {len(dark)} dark and {len(light)} lit series within {timeout_s:g} s; "
                    f"expected {int(needs_dark)} or more dark and {num_light} lit. Save them as dark*.tif and "
                    "light*.tif, each a series of identical exposures"
                )
            time.sleep(_POLL_S)

    def _look(self) -> tuple[bool, dict[str, list[Path]]]:
        """Files that stood still, and whether all do."""
        found = find_frame_files(self.path, (_DARK, _LIGHT))
        now = time.monotonic()
        settled: dict[str, list[Path]] = {_DARK: [], _LIGHT: []}
        is_settled = True
        for kind, paths in found.items():
            for path in paths:
                try:
                    status = path.stat()
                except OSError:  # gone meanwhile
                    continue
                version = status.st_size, status.st_mtime_ns
                known, since = self._seen.get(path, (None, now))
                if known != version:
                    since = now
                self._seen[path] = version, since
                if now - since >= self.settle_s:
                    settled[kind].append(path)
                else:
                    is_settled = False
        return is_settled, settled

    def _read(
        self, paths: Iterable[Path], kind: str, tell: Callable[[str], None]
    ) -> list[Exposures]:
        series: list[Exposures] = []
        by_folder: dict[Path, list[Path]] = {}
        for path in paths:
            by_folder.setdefault(path.parent, []).append(path)
        for files in by_folder.values():
            versions = tuple((path, self._seen[path][0]) for path in files)
            if versions not in self._known:
                try:
                    self._known[versions] = read_series(files)
                except (SourceError, CalibrationError) as error:
                    self._known[versions] = []
                    self._tell(str(error), tell)
            series += self._known[versions]
        for one in series:
            self._tell(f"{kind}: {one.name}, {len(one.frames)} frames", tell)
        return series

    def _tell(self, text: str, tell: Callable[[str], None]) -> None:
        if text not in self._told:
            self._told.add(text)
            tell(text)


class LiveCamera:
    """The camera of a profile's own acquisition, exposed at will.

    Its hardware is loaded once, in the acquisition's process.

    Parameters
    ----------
    settings : AcquisitionSource
        Of the profile. Of its channels the first sets the light's way; the stage stays where it is, the focus
        goes to the middle of the stack.
    num_frames : int
        Per series.
    """

    def __init__(self, settings: AcquisitionSource, num_frames: int) -> None:
        middle = settings.z_start_um + settings.z_step_um * (settings.num_slices - 1) / 2
        exposure = settings.exposure_ms
        self._settings = settings.model_copy(
            update={
                "name": "calibration",
                "channels": settings.channels[:1],
                "positions": (),
                "num_slices": 1,
                "num_times": num_frames,
                "interval_s": 0.0,
                "z_start_um": middle,
                "exposure_ms": exposure[0] if isinstance(exposure, tuple) else exposure,
                "save_folder": None,
            }
        )
        self._source = OwnAcquisition(self._settings)

    def __enter__(self) -> Self:
        self._source.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._source.__exit__(kind, error, traceback)

    def expose(self, name: str, exposure_ms: float) -> Exposures:
        """One series.

        Raises
        ------
        SourceError
            The acquisition failed.
        """
        events = self._source.events(StopSignal(), Variation(exposure_ms))
        frames = [event.data for event in events if isinstance(event, Plane)]
        expected = self._settings.num_times
        if len(frames) < expected:
            raise SourceError(
                f"{name}: {len(frames)} of {expected} frames came from the camera; see the messages above"
            )
        logger.info("%s: %d frames of %g ms", name, len(frames), exposure_ms)
        return Exposures(name, np.stack(frames), exposure_ms)
