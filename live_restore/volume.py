"""The values that travel through the program: planes, volumes, and what became of them.

All are frozen; their arrays are read-only and ownership passes on with them. Axes are always
``(Z, Y, X)``; points in time are UTC, durations come from a monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from live_restore.assessment import Assessment
from live_restore.light import Light

__all__ = [
    "AcquisitionEnd",
    "AcquisitionInfo",
    "GrowingVolume",
    "ModelUse",
    "Plane",
    "Restored",
    "SkipCause",
    "Skipped",
    "SourceState",
    "Volume",
    "VolumeKey",
    "VoxelSize",
    "utc_now",
]

_LEAST_BYTES = 4096  # that any volume takes, however few voxels it has

VoxelSize = tuple[float, float, float]
"""``(z, y, x)`` in µm."""

SkipCause = Literal[
    "incomplete", "mismatch", "too_large", "too_slow", "stopped", "refused", "failed"
]
"""Why a volume isn't restored: planes never came, or don't fit it; it is larger than memory; newer ones went
first and there was no more room; the program ended; the restorer said why it can't; it failed unforeseen."""


def utc_now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, order=True)
class VolumeKey:
    """Which volume: acquisition, position, time point (from 0), channel."""

    acquisition: str
    position: str
    time: int
    channel: str

    def __str__(self) -> str:
        return f"{self.acquisition} position {self.position} time {self.time} {self.channel}"


@dataclass(frozen=True, slots=True)
class AcquisitionInfo:
    """What a source knows of an acquisition before its first plane.

    Attributes
    ----------
    acquisition : str
        Its name, unique while the program runs.
    shape_zyx : tuple of int
        Of each volume, as planned; a volume whose camera was set otherwise has its own.
    dtype : numpy.dtype
        Of each plane, as planned; native byte order.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``; None when neither source nor profile knows it.
    channels, positions : tuple of str
        Names.
    num_times : int or None
        Time points, where known beforehand.
    started_at : datetime
        UTC.
    origin : str
        Where it comes from, for people: a file, a camera.
    version : str
        Of the file, by its size and time; empty where there is none.
    names_nbytes : int
        About what the names of channels and positions take in memory.
    """

    acquisition: str
    shape_zyx: tuple[int, int, int]
    dtype: np.dtype[Any]
    voxel_size_um: VoxelSize | None
    channels: tuple[str, ...]
    positions: tuple[str, ...] = ("0",)
    num_times: int | None = None
    started_at: datetime = field(default_factory=utc_now)
    origin: str = ""
    version: str = ""
    names_nbytes: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = (*self.channels, *self.positions)
        object.__setattr__(self, "names_nbytes", sum(64 + len(name) for name in names))

    @property
    def volume_nbytes(self) -> int:
        """Bytes of one volume."""
        return math.prod(self.shape_zyx) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class AcquisitionEnd:
    """No more planes of this acquisition will come."""

    acquisition: str
    reason: str = "finished"


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One camera image and its place.

    Attributes
    ----------
    key : VolumeKey
        The volume it belongs to.
    z : int
        Index in the stack, from 0.
    data : ndarray, (Y, X)
        Never written to by anybody. An RGB camera's has a third axis; its stacks are skipped.
    received_at : datetime
        When it reached this program.
    acquired_at : datetime or None
        When it was exposed, where the source knows.
    exposure_ms : float or None
        For how long, where the source knows.
    power : float or None
        What the property of the light's power stood at, where the source reads one.
    is_live : bool
        It was just acquired; otherwise it was there before this program, and has time.
    """

    key: VolumeKey
    z: int
    data: NDArray[Any]
    received_at: datetime = field(default_factory=utc_now)
    acquired_at: datetime | None = None
    exposure_ms: float | None = None
    power: float | None = None
    is_live: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One whole z-stack of one channel at one time.

    Attributes
    ----------
    key : VolumeKey
        Which.
    info : AcquisitionInfo
        Its acquisition.
    data : ndarray, (Z, Y, X)
        Camera counts, read-only.
    acquired_at : datetime or None
        Of its first plane.
    received_at : datetime
        Of its last plane.
    received_s : float
        The same on the monotonic clock.
    exposure_ms, power : float or None
        Of its first plane.
    missing : tuple of int
        Planes that never came, zero in `data`; only where the profile wants partial stacks.
    is_live : bool
        It was just acquired; otherwise it was there before this program, and has time.
    """

    key: VolumeKey
    info: AcquisitionInfo
    data: NDArray[Any]
    acquired_at: datetime | None
    received_at: datetime
    received_s: float
    exposure_ms: float | None = None
    missing: tuple[int, ...] = ()
    is_live: bool = True
    power: float | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return int(self.data.nbytes)

    @property
    def held_nbytes(self) -> int:
        """About what it takes in memory: the more of its data and of the names that come with it."""
        return max(_LEAST_BYTES, self.nbytes, self.info.names_nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class GrowingVolume:
    """A volume whose planes still come.

    Attributes
    ----------
    key : VolumeKey
        Which.
    info : AcquisitionInfo
        Its acquisition.
    data : ndarray, (Z, Y, X)
        Written to by others; its first `num_planes` planes aren't any more. Empty when it is whole.
    num_planes : int
        So many have come, from 0 without a gap; 0 when it is whole, and waits for restoration.
    """

    key: VolumeKey
    info: AcquisitionInfo
    data: NDArray[Any]
    num_planes: int


@dataclass(frozen=True, slots=True)
class ModelUse:
    """Which model restored a volume and how: a result's provenance.

    Attributes
    ----------
    name, sha256 : str
        Of the model.
    precision, device : str
        float16, bfloat16 or float32; where.
    tile_zyx : tuple of int
        Shape of each tile.
    attention : str
        What the channel attention looked at: ``whole``, ``previous`` or ``tile``.
    normalisation : str
        ``running``, ``locked`` or ``per_volume``.
    remark : str
        What was unusual, for people.
    difference : float or None
        The largest from float32, on a probe volume and of its intensity range; measured when the
        model was loaded.
    """

    name: str
    sha256: str
    precision: str
    device: str
    tile_zyx: tuple[int, int, int]
    attention: str = "whole"
    normalisation: str = "per_volume"
    remark: str = ""
    difference: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A restored volume beside its raw one.

    Attributes
    ----------
    key : VolumeKey
        Which.
    info : AcquisitionInfo
        Its acquisition.
    data : ndarray, (Z, Y, X)
        Restored intensities in the raw volume's own counts, uint16 or float32, read-only.
    raw : Volume
        What the camera gave.
    model : ModelUse
        How it was made.
    intensity : tuple of float
        Counts that were 0 and 1 in front of the network.
    timing_s : mapping of str to float
        Seconds spent ``waiting`` and ``restoring``; of the latter for ``percentiles`` and in the
        ``network``.
    is_backfill : bool
        Newer ones were restored before it.
    assessment : Assessment or None
        What the guard found; None where nobody looked.
    light : Light or None
        What it cost; None where nobody counted.
    """

    key: VolumeKey
    info: AcquisitionInfo
    data: NDArray[Any]
    raw: Volume
    model: ModelUse
    intensity: tuple[float, float]
    timing_s: Mapping[str, float]
    is_backfill: bool = False
    assessment: Assessment | None = None
    light: Light | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of restored and raw data."""
        return int(self.data.nbytes) + self.raw.nbytes

    @property
    def held_nbytes(self) -> int:
        """About what it takes in memory: the more of its data and of the names that come with it."""
        return max(_LEAST_BYTES, self.nbytes, self.info.names_nbytes)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A volume that was seen and not restored, and why.

    Attributes
    ----------
    key : VolumeKey
        Which.
    reason : str
        In words.
    at : datetime
        UTC.
    is_final : bool
        It can't be restored; otherwise it may when it is seen again.
    cause : str
        The class that the reason belongs to.
    """

    key: VolumeKey
    reason: str
    at: datetime = field(default_factory=utc_now)
    is_final: bool = False
    cause: SkipCause = "failed"


@dataclass(frozen=True, slots=True)
class SourceState:
    """What a source is doing while nothing comes, for people.

    Attributes
    ----------
    text : str
        As "waiting for Micro-Manager on port 4827".
    """

    text: str
