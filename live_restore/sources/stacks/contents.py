"""What the readers of whole stacks agree on: order of planes, types, names, units, portions."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.volume import AcquisitionInfo, Plane, VolumeKey, VoxelSize

__all__ = [
    "MICROMETRES",
    "channel_names",
    "cut",
    "num_planes_at_once",
    "read_type",
    "voxel_size",
    "wanted",
]

MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "\\u00b5m": 1.0,
    "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25400.0, "in": 25400.0,
    "micrometre": 1.0, "nanometer": 1e-3, "nanometre": 1e-3, "picometer": 1e-6, "angstrom": 1e-4,
    "millimeter": 1e3, "millimetre": 1e3, "centimeter": 1e4, "meter": 1e6, "metre": 1e6,
}  # fmt: skip
"""Units of length, in lower case, and what one of each is in µm."""

_MOST_AT_ONCE = 2**30
# A stack of at most so many bytes is decoded as a whole; of a larger one only a part is held.


def wanted(
    info: AcquisitionInfo, num_times: int, settled: Container[tuple[str, int, str]]
) -> Iterator[tuple[tuple[int, int, int], VolumeKey]]:
    """The stacks to read, in order: position, time and channel as numbers, and the volume's key.

    Parameters
    ----------
    info : AcquisitionInfo
        Of the file.
    num_times : int
        Time points in it.
    settled : container of tuple
        Position, time and channel of stacks that aren't wanted.
    """
    for p, position in enumerate(info.positions):
        for time in range(num_times):
            for c, channel in enumerate(info.channels):
                if (position, time, channel) not in settled:
                    yield (p, time, c), VolumeKey(info.acquisition, position, time, channel)


def cut(info: AcquisitionInfo, key: VolumeKey, first_z: int, part: NDArray[Any]) -> Iterator[Plane]:
    """The planes of a part of a stack, each a copy of its own.

    Parameters
    ----------
    info : AcquisitionInfo
        Tells the planes' type.
    key : VolumeKey
        The stack.
    first_z : int
        Number of the part's first plane.
    part : ndarray, (Z, Y, X)
        As decoded, of any type and order.
    """
    for z, data in enumerate(part, first_z):
        plane = np.array(data, dtype=info.dtype, order="C")
        plane.flags.writeable = False
        yield Plane(key, z, plane)


def num_planes_at_once(shape_zyx: tuple[int, int, int], itemsize: int, step: int = 1) -> int:
    """How many planes to decode together.

    Parameters
    ----------
    shape_zyx : tuple of int
        Of the stack.
    itemsize : int
        Bytes of a voxel.
    step : int
        Planes that the file holds in one piece.

    Returns
    -------
    int
        The whole stack if it isn't too large, otherwise as many pieces as fit, one plane at least.
    """
    num_planes, ny, nx = shape_zyx
    fit = _MOST_AT_ONCE // max(1, ny * nx * itemsize)
    if fit >= num_planes:
        return num_planes
    return max(1, fit - fit % step if fit >= step else 1)


def read_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that voxels of another are read as: uint8, uint16 or float32, in native order."""
    native = dtype.newbyteorder("=")
    return native if native in (np.uint8, np.uint16, np.float32) else np.dtype(np.float32)


def channel_names(names: Sequence[str], num_channels: int) -> tuple[str, ...]:
    """A file's own names if they tell its channels apart, otherwise ``C0`` and so on."""
    if len(names) == num_channels and all(names) and len(set(names)) == num_channels:
        return tuple(names)
    return tuple(f"C{c}" for c in range(num_channels))


def voxel_size(zyx: Sequence[float]) -> VoxelSize | None:
    """A voxel size in µm, None if a part of it is unknown or impossible."""
    z, y, x = zyx
    return (z, y, x) if all(np.isfinite(v) and v > 0 for v in zyx) else None
