"""Puts planes together into volumes: by their axes, never by the order in which they arrive."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.volume import AcquisitionInfo, Plane, Skipped, Volume, VolumeKey

__all__ = ["Assembler"]

logger = logging.getLogger(__name__)

_REMEMBERED_VOLUMES = 10_000


@dataclass(slots=True)
class _Open:
    """A volume that still lacks planes."""

    data: NDArray[Any]
    missing: set[int]
    acquired_at: datetime | None = None
    wrong: list[str] = field(default_factory=list)


class Assembler:
    """Volumes from planes.

    Late, doubled and out-of-order planes are its business alone. A plane that doesn't fit its
    acquisition spoils its volume, which is then reported as skipped with the reason.

    Parameters
    ----------
    memory_bytes : int
        Bound on unfinished volumes; the oldest is given up beyond it.
    """

    def __init__(self, memory_bytes: int = 2**31) -> None:
        self._memory = memory_bytes
        self._infos: dict[str, AcquisitionInfo] = {}
        self._open: dict[VolumeKey, _Open] = {}
        self._closed: dict[VolumeKey, None] = {}  # an ordered set of volumes that are over

    @property
    def running(self) -> tuple[str, ...]:
        """Acquisitions that started and did not end."""
        return tuple(self._infos)

    def start(self, info: AcquisitionInfo) -> list[Skipped]:
        """Learn of an acquisition; starting one anew gives up what was open of it."""
        skipped = self.end(info.acquisition)
        self._infos[info.acquisition] = info
        return skipped

    def add(self, plane: Plane) -> list[Volume | Skipped]:
        """Take a plane; give what is settled by it: its volume, or volumes that are given up."""
        info = self._infos.get(plane.key.acquisition)
        if info is None:
            logger.warning("%s plane %d: of no announced acquisition, left out", plane.key, plane.z)
            return []
        if plane.key in self._closed:
            logger.warning("%s plane %d: came again or too late, left out", plane.key, plane.z)
            return []
        settled: list[Volume | Skipped] = []
        volume = self._open.get(plane.key)
        if volume is None:
            settled += self._make_room(info.volume_nbytes)
            data = np.empty(info.shape_zyx, dtype=info.dtype)
            volume = _Open(data, set(range(info.shape_zyx[0])))
            self._open[plane.key] = volume
        problem = _misfit(plane, info)
        if problem:
            logger.warning("%s: %s", plane.key, problem)
            volume.wrong.append(problem)
        elif plane.z not in volume.missing:
            logger.warning("%s plane %d: came twice, the first is kept", plane.key, plane.z)
        else:
            volume.data[plane.z] = plane.data
            volume.acquired_at = volume.acquired_at or plane.acquired_at
        volume.missing.discard(plane.z)
        if not volume.missing:
            settled.append(self._finish(plane, info))
        return settled

    def end(self, acquisition: str) -> list[Skipped]:
        """The acquisition is over: what of it still lacks planes is given up."""
        keys = [key for key in self._open if key.acquisition == acquisition]
        self._infos.pop(acquisition, None)
        skipped = [self._give_up(key) for key in keys]
        for key in [key for key in self._closed if key.acquisition == acquisition]:
            del self._closed[key]
        return skipped

    def _finish(self, plane: Plane, info: AcquisitionInfo) -> Volume | Skipped:
        volume = self._open[plane.key]
        if volume.wrong:
            return self._give_up(plane.key)
        del self._open[plane.key]
        self._close(plane.key)
        volume.data.flags.writeable = False
        return Volume(
            key=plane.key,
            info=info,
            data=volume.data,
            acquired_at=volume.acquired_at,
            received_at=plane.received_at,
            received_s=time.monotonic(),
        )

    def _make_room(self, nbytes: int) -> list[Volume | Skipped]:
        given_up: list[Volume | Skipped] = []
        held = sum(volume.data.nbytes for volume in self._open.values())
        while self._open and held + nbytes > self._memory:
            oldest = next(iter(self._open))
            held -= self._open[oldest].data.nbytes
            given_up.append(self._give_up(oldest, "given up to bound memory: "))
        return given_up

    def _give_up(self, key: VolumeKey, why: str = "") -> Skipped:
        volume = self._open.pop(key)
        self._close(key)
        total = volume.data.shape[0]
        if volume.wrong:
            return Skipped(key, why + volume.wrong[0])
        missing = sorted(volume.missing)
        listed = ", ".join(str(z) for z in missing[:8]) + (", …" if len(missing) > 8 else "")
        return Skipped(key, f"{why}{len(missing)} of {total} planes are missing: {listed}")

    def _close(self, key: VolumeKey) -> None:
        self._closed[key] = None
        if len(self._closed) > _REMEMBERED_VOLUMES:
            del self._closed[next(iter(self._closed))]


def _misfit(plane: Plane, info: AcquisitionInfo) -> str | None:
    """Why a plane can't be part of its volume."""
    nz, ny, nx = info.shape_zyx
    if not 0 <= plane.z < nz:
        return f"plane {plane.z}: the acquisition announced {nz} planes, from 0"
    if plane.data.shape != (ny, nx):
        return (
            f"plane {plane.z} of {nz} is {plane.data.shape}, the acquisition announced {(ny, nx)}: "
            "check the camera's ROI and binning"
        )
    if plane.data.dtype != info.dtype:
        return (
            f"plane {plane.z} of {nz} is {plane.data.dtype}, the acquisition announced "
            f"{info.dtype}: check the camera's bit depth"
        )
    return None
