"""Puts planes together into volumes: by their axes, never by the order in which they arrive."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from live_restore.volume import (
    AcquisitionInfo,
    GrowingVolume,
    Plane,
    Skipped,
    Volume,
    VolumeKey,
    utc_now,
)

__all__ = ["Assembler", "Settled", "room_for_stacks"]

logger = logging.getLogger(__name__)

_REMEMBERED_VOLUMES = 10_000
_MOST_OPEN = 20_000  # unfinished volumes, which take memory even when they are of one voxel

Settled = Volume | Skipped
"""What became of the planes of a volume."""


@dataclass(slots=True)
class _Open:
    """A volume that still lacks planes."""

    info: AcquisitionInfo
    data: NDArray[Any]
    came: NDArray[np.bool_]  # (Z,)
    num_missing: int
    touched_s: float
    num_in_a_row: int = 0  # from plane 0
    received_at: datetime = field(default_factory=utc_now)
    acquired_at: datetime | None = None
    exposure_ms: float | None = None
    power: float | None = None
    is_live: bool = False
    wrong: str | None = None  # what was first

    @property
    def missing(self) -> list[int]:
        return [int(z) for z in np.flatnonzero(~self.came)]


class Assembler:
    """Volumes from planes.

    Late, doubled and out-of-order planes are its business alone. A camera that was set to another
    ROI, binning or bit depth between two volumes is followed; a plane that doesn't fit its own
    volume spoils that one, which is then reported as skipped with the reason.

    Parameters
    ----------
    memory_bytes : int
        Bound on unfinished volumes; the one that waited longest for a plane is given up beyond it.
    largest_bytes : int, optional
        A volume that alone is larger is reported as skipped and takes no room; without it, it is
        taken when it is the only one.
    timeout_s : float
        A volume that lacks planes and got none for so long is given up by `give_up_overdue`.
    restores_partial : bool
        A volume that is given up is handed on with its missing planes zero, if it has any plane
        and all that it has fit; otherwise it is reported as skipped.
    on_growth : callable, optional
        Called with each live volume that has got further without a gap, and isn't whole yet; once
        more, without planes, when it is whole or given up.
    """

    def __init__(
        self,
        memory_bytes: int = 2**31,
        timeout_s: float = 300.0,
        restores_partial: bool = False,
        largest_bytes: int | None = None,
        on_growth: Callable[[GrowingVolume], None] | None = None,
    ) -> None:
        self._on_growth = on_growth
        self._memory = memory_bytes
        self._largest = largest_bytes
        self._timeout_s = timeout_s
        self._restores_partial = restores_partial
        self._infos: dict[str, AcquisitionInfo] = {}
        self._open: dict[VolumeKey, _Open] = {}  # the one touched last is last
        self._closed: dict[VolumeKey, None] = {}  # an ordered set of volumes that are over
        self._nbytes = 0

    @property
    def num_open(self) -> int:
        """Volumes that still lack planes."""
        return len(self._open)

    @property
    def nbytes(self) -> int:
        """Bytes of them."""
        return self._nbytes

    @property
    def running(self) -> tuple[str, ...]:
        """Acquisitions that started and did not end."""
        return tuple(self._infos)

    def start(self, info: AcquisitionInfo) -> list[Settled]:
        """Learn of an acquisition; starting one anew gives up what was open of it."""
        settled = self.end(info.acquisition)
        self._infos[info.acquisition] = info
        return settled

    def add(self, plane: Plane) -> list[Settled]:
        """Take a plane; give what is settled by it: its volume, or volumes that are given up."""
        info = self._infos.get(plane.key.acquisition)
        if info is None:
            logger.warning("%s plane %d: of no announced acquisition, left out", plane.key, plane.z)
            return []
        if plane.key in self._closed:
            logger.warning("%s plane %d: came again or too late, left out", plane.key, plane.z)
            return []
        settled: list[Settled] = []
        volume = self._open.pop(plane.key, None)
        if volume is None:
            info = self._followed(plane, info)
            if refusal := self._refusal(info):
                self._close(plane.key)
                return [Skipped(plane.key, refusal, cause="too_large")]
            settled += self._make_room(info.volume_nbytes)
            try:
                volume = _begin(plane, info)
            except (MemoryError, ValueError) as error:
                self._close(plane.key)
                reason = f"{_told(info)}: there is no memory for it ({error})"
                return [*settled, Skipped(plane.key, reason, cause="too_large")]
            self._nbytes += volume.data.nbytes
        self._open[plane.key] = volume
        _put(volume, plane)
        if not volume.num_missing:
            settled.append(self._finish(plane.key))
        elif self._on_growth and _grew(volume) and volume.is_live and not volume.wrong:
            self._on_growth(GrowingVolume(plane.key, volume.info, volume.data, volume.num_in_a_row))
        return settled

    def give_up_overdue(self) -> Iterator[Settled]:
        """Give up the volumes that waited for a plane for too long."""
        limit = time.monotonic() - self._timeout_s
        while self._open:
            longest = next(iter(self._open))
            if self._open[longest].touched_s >= limit:
                return
            yield self._give_up(longest, f"no plane for {self._timeout_s:g} s: ")

    def end(self, acquisition: str) -> list[Settled]:
        """The acquisition is over: what of it still lacks planes is given up."""
        keys = [key for key in self._open if key.acquisition == acquisition]
        self._infos.pop(acquisition, None)
        settled = [self._give_up(key) for key in keys]
        for key in [key for key in self._closed if key.acquisition == acquisition]:
            del self._closed[key]
        return settled

    def _followed(self, plane: Plane, info: AcquisitionInfo) -> AcquisitionInfo:
        """The acquisition as a volume's first plane is, which may differ from what was announced."""
        nz, shape, dtype = info.shape_zyx[0], plane.data.shape, plane.data.dtype
        if len(shape) == 2 and (shape != info.shape_zyx[1:] or dtype != info.dtype):
            logger.warning(
                "%s: planes are %s %s now, before they were %s %s: the camera was set otherwise",
                plane.key,
                shape,
                dtype,
                info.shape_zyx[1:],
                info.dtype,
            )
            info = replace(info, shape_zyx=(nz, shape[0], shape[1]), dtype=dtype)
            self._infos[info.acquisition] = info
        return info

    def _refusal(self, info: AcquisitionInfo) -> str | None:
        """Why a volume can't be waited for, however much else is given up."""
        nbytes = info.volume_nbytes
        if self._largest is None or nbytes <= self._largest:
            return None
        return (
            f"{_told(info)}: more than the {self._largest >> 20} MiB that unfinished stacks may "
            f"take; set memory_mb in [stacks] to {(nbytes >> 20) + 1} or more"
        )

    def _finish(self, key: VolumeKey) -> Settled:
        volume = self._open[key]
        if volume.wrong:
            return self._give_up(key)
        self._remove(key)
        return _volume(key, volume)

    def _make_room(self, nbytes: int) -> list[Settled]:
        given_up: list[Settled] = []
        while self._open and (
            self._nbytes + nbytes > self._memory or len(self._open) >= _MOST_OPEN
        ):
            longest = next(iter(self._open))
            given_up.append(self._give_up(longest, "given up to bound memory: "))
        return given_up

    def _give_up(self, key: VolumeKey, why: str = "") -> Settled:
        volume = self._remove(key)
        if volume.wrong:
            return Skipped(key, why + volume.wrong, cause="mismatch")
        total = volume.data.shape[0]
        missing = volume.missing
        listed = ", ".join(str(z) for z in missing[:8]) + (", …" if len(missing) > 8 else "")
        reason = f"{why}{len(missing)} of {total} planes are missing: {listed}"
        if not self._restores_partial:
            return Skipped(key, reason, cause="incomplete")
        logger.warning("%s: %s; restored all the same", key, reason)
        return _volume(key, volume)

    def _remove(self, key: VolumeKey) -> _Open:
        volume = self._open.pop(key)
        self._nbytes -= volume.data.nbytes
        if self._on_growth and volume.is_live:
            nothing = np.empty((0, *volume.data.shape[1:]), volume.data.dtype)
            self._on_growth(GrowingVolume(key, volume.info, nothing, 0))
        self._close(key)
        return volume

    def _close(self, key: VolumeKey) -> None:
        self._closed[key] = None
        if len(self._closed) > _REMEMBERED_VOLUMES:
            del self._closed[next(iter(self._closed))]


def room_for_stacks(memory_mb: int | None) -> int:
    """Bytes that unfinished volumes may take: so many MiB, or a quarter of this computer's memory."""
    return (memory_mb << 20) if memory_mb else int(psutil.virtual_memory().total) // 4


def _told(info: AcquisitionInfo) -> str:
    return f"a stack of {info.shape_zyx} {info.dtype} is {info.volume_nbytes >> 20} MiB"


def _begin(plane: Plane, info: AcquisitionInfo) -> _Open:
    """A volume without planes yet.

    Raises
    ------
    MemoryError, ValueError
        There is no such array.
    """
    return _Open(
        info=info,
        data=np.zeros(info.shape_zyx, dtype=info.dtype),
        came=np.zeros(info.shape_zyx[0], dtype=np.bool_),
        num_missing=info.shape_zyx[0],
        touched_s=time.monotonic(),
        received_at=plane.received_at,
    )


def _put(volume: _Open, plane: Plane) -> None:
    """A plane into its volume, or what is wrong with it."""
    volume.touched_s = time.monotonic()
    volume.received_at = plane.received_at
    volume.is_live |= plane.is_live
    problem = _misfit(plane, volume.data)
    if problem:
        if not volume.wrong:
            logger.warning("%s: %s", plane.key, problem)
            volume.wrong = problem
        if not 0 <= plane.z < volume.data.shape[0]:
            return
    elif volume.came[plane.z]:
        logger.warning("%s plane %d: came twice, the first is kept", plane.key, plane.z)
    else:
        volume.data[plane.z] = plane.data
        volume.acquired_at = volume.acquired_at or plane.acquired_at
        volume.exposure_ms = volume.exposure_ms or plane.exposure_ms
        volume.power = plane.power if volume.power is None else volume.power
    volume.num_missing -= not volume.came[plane.z]
    volume.came[plane.z] = True


def _grew(volume: _Open) -> bool:
    before = volume.num_in_a_row
    while volume.num_in_a_row < len(volume.came) and volume.came[volume.num_in_a_row]:
        volume.num_in_a_row += 1
    return volume.num_in_a_row > before


def _volume(key: VolumeKey, volume: _Open) -> Volume:
    volume.data.flags.writeable = False
    return Volume(
        key=key,
        info=volume.info,
        data=volume.data,
        acquired_at=volume.acquired_at,
        received_at=volume.received_at,
        received_s=volume.touched_s,
        exposure_ms=volume.exposure_ms,
        missing=tuple(volume.missing),
        is_live=volume.is_live,
        power=volume.power,
    )


def _misfit(plane: Plane, data: NDArray[Any]) -> str | None:
    """Why a plane can't be part of its volume."""
    nz, ny, nx = data.shape
    if not 0 <= plane.z < nz:
        return f"plane {plane.z}: the acquisition announced {nz} planes, from 0"
    if plane.data.ndim != 2:
        return (
            f"plane {plane.z} of {nz} is {plane.data.shape}, a colour image: only grayscale is "
            'restored; set the camera\'s pixel type to "8bit" or "16bit"'
        )
    if plane.data.shape != (ny, nx):
        return (
            f"plane {plane.z} of {nz} is {plane.data.shape}, its volume is {(ny, nx)}: check the "
            "camera's ROI and binning"
        )
    if plane.data.dtype != data.dtype:
        return (
            f"plane {plane.z} of {nz} is {plane.data.dtype}, its volume is {data.dtype}: check the "
            "camera's bit depth"
        )
    return None
