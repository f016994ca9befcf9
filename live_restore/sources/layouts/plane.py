"""A plane that lies whole on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.sources.layouts.raw_file import DamagedFileError, RawFile, SeveralImagesError

__all__ = ["LARGEST_PLANE_BYTES", "EncodedPixels", "Pixels", "PlaneOnDisk"]

LARGEST_PLANE_BYTES = 2**30
"""The largest cameras give 0.3 GB per image. More comes from damaged bytes."""


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
class EncodedPixels:
    """A TIFF file's only image that doesn't lie there pixel by pixel: compressed, or in tiles.

    Attributes
    ----------
    path : pathlib.Path
        The file; it is whole.
    decoded : numpy.ndarray or None
        The image, read-only, if it was decoded to see that the file is whole.
    """

    path: Path
    decoded: NDArray[Any] | None = field(default=None, compare=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """As `Pixels.shape`; raises as `read` does."""
        if self.decoded is not None:
            return self.decoded.shape
        with self._page() as page:
            return page.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As `read` gives them; raises as that does."""
        if self.decoded is not None:
            return self.decoded.dtype
        with self._page() as page:
            return page.dtype.newbyteorder("=") if page.dtype else np.dtype(np.void)

    def read(self) -> NDArray[Any]:
        """The pixels, ``(Y, X)`` or ``(Y, X, samples)``, read-only, in native byte order.

        Raises
        ------
        SourceError
            The file is gone, can't be read, or doesn't decode to one image.
        """
        if self.decoded is not None:
            return self.decoded
        with self._page() as page:
            pixels = page.asarray(maxworkers=1)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        pixels.flags.writeable = False
        return pixels

    @contextmanager
    def _page(self) -> Iterator[tifffile.TiffPage]:
        """The image in the open file; what goes wrong with it becomes a SourceError."""
        with RawFile(self.path):  # gone, or not to be read: told in the same words as of any file
            pass
        try:
            with tifffile.TiffFile(self.path) as tiff:
                if len(tiff.pages) > 1:
                    raise SeveralImagesError(self.path, len(tiff.pages))
                page = tiff.pages.first
                if page.axes not in ("YX", "YXS"):
                    raise DamagedFileError(
                        f"{self.path}: an image with axes {page.axes} of shape {page.shape}, expected "
                        "YX, one plane of one channel. Save it so"
                    )
                if page.nbytes > LARGEST_PLANE_BYTES:
                    raise DamagedFileError(
                        f"{self.path}: an image of shape {page.shape} and {page.nbytes} bytes, expected "
                        f"at most {LARGEST_PLANE_BYTES}: the file is damaged"
                    )
                yield page
        except SourceError:
            raise
        except Exception as error:  # tifffile raises nearly anything on damaged files
            raise DamagedFileError(
                f"{self.path}: can't be decoded ({type(error).__name__}: {error}). Save it again; if "
                "it is compressed, pip install imagecodecs, or save it without"
            ) from error


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
    pixels : Pixels or EncodedPixels
        Where they lie.
    """

    position: str
    time: int
    channel: str
    z: int
    exposure_ms: float | None
    z_um: float | None
    pixel_size_um: float | None
    pixels: Pixels | EncodedPixels

    def read(self) -> NDArray[Any]:
        """Its pixels, ``(Y, X)`` or ``(Y, X, 3 | 4)``, read-only; from disk each time.

        Raises
        ------
        SourceError
            The file is gone, can't be read, or is shorter than it was.
        """
        return self.pixels.read()
