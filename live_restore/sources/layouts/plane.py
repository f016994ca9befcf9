"""A plane that lies whole on disk."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.sources.layouts.raw_file import RawFile

__all__ = ["Pixels", "PlaneOnDisk"]


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where a plane's pixels lie.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    offset : int
        Byte at which they begin.
    shape : tuple of int
        ``(Y, X)``, or ``(Y, X, 3)`` or ``(Y, X, 4)`` of a colour camera.
    dtype : numpy.dtype
        As on disk.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def end(self) -> int:
        """Byte after the last one."""
        return self.offset + prod(self.shape) * self.dtype.itemsize

    def read(self) -> NDArray[Any]:
        """The pixels, read-only, in native byte order.

        Raises
        ------
        SourceError
            The file is gone, can't be read, or is shorter than it was.
        """
        with RawFile(self.path) as file:
            data = file.read(self.offset, self.end - self.offset)
        if len(data) != self.end - self.offset:
            raise SourceError(
                f"{self.path}: {self.end - self.offset} bytes of pixels were whole at byte "
                f"{self.offset}, now only {len(data)} are there. Was the file changed or replaced? "
                "Acquired files must be left as they are"
            )
        pixels = np.frombuffer(data, self.dtype).reshape(self.shape)
        pixels = pixels.astype(self.dtype.newbyteorder("="), copy=False)
        pixels.flags.writeable = False
        return pixels


@dataclass(frozen=True, slots=True)
class PlaneOnDisk:
    """One camera image that is whole on disk, and its place.

    Attributes
    ----------
    position, channel : str
        Names; the index where the acquisition has none.
    time, z : int
        Indices. They start at 0, but where the microscope was driven by hand (explore) `z` may be
        negative.
    exposure_ms, z_um, pixel_size_um : float or None
        Where the files tell.
    pixels : Pixels
        Where they lie.
    """

    position: str
    time: int
    channel: str
    z: int
    exposure_ms: float | None
    z_um: float | None
    pixel_size_um: float | None
    pixels: Pixels

    def read(self) -> NDArray[Any]:
        """Its pixels, ``(Y, X)`` or ``(Y, X, 3 | 4)``, read-only; from disk each time.

        Raises
        ------
        SourceError
            The file is gone, can't be read, or is shorter than it was.
        """
        return self.pixels.read()
