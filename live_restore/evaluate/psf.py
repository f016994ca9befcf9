"""A point spread function from a file, ready to deconvolve with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from live_restore.errors import SourceError
from live_restore.matched import MatchedPair
from live_restore.sources.stacks.tiff import TiffStack
from live_restore.volume import VoxelSize

__all__ = ["PointSpread", "read_psf"]

_VOXEL_TOLERANCE = 0.05  # a measured one is hardly known better


@dataclass(frozen=True, slots=True, eq=False)
class PointSpread:
    """A point spread function.

    Attributes
    ----------
    kernel : ndarray of float32, (Z, Y, X)
        Of odd shape, its peak in the middle, not negative; it sums to 1.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``, where the file says it.
    path : pathlib.Path
        The file.
    """

    kernel: NDArray[np.float32]
    voxel_size_um: VoxelSize | None
    path: Path

    def check_voxels(self, pair: MatchedPair) -> None:
        """Raise `SourceError` if it is sampled otherwise than the volumes."""
        own, theirs = self.voxel_size_um, pair.voxel_size_um
        if own and theirs and not np.allclose(own, theirs, rtol=_VOXEL_TOLERANCE, atol=0):
            raise SourceError(
                f"--psf {self.path}: its voxels are {_text(own)} µm (z, y, x), those of {pair.name} "
                f"{_text(theirs)} µm; resample it to the volumes' voxels"
            )


def read_psf(path: Path) -> PointSpread:
    """The image of a point, from a TIFF z-stack; its background is taken off.

    Raises
    ------
    SourceError
        No such file, not one z-stack, or nothing bright in it.
    """
    if not path.is_file():
        raise SourceError(f"--psf {path}: no such file")
    with TiffStack(path, "psf") as stack:
        info = stack.info
        planes = [plane.data for plane in stack.planes()]
    if len(planes) != info.shape_zyx[0]:
        raise SourceError(
            f"--psf {path}: holds {len(planes) // info.shape_zyx[0]} volumes; a point spread function "
            "is one"
        )
    image = np.stack(planes).astype(np.float64)
    inside = np.zeros(image.shape, dtype=bool)
    inside[1:-1, 1:-1, 1:-1] = True
    image = np.clip(image - np.median(image[~inside]), 0, None)
    if not (np.isfinite(image).all() and image.any()):
        raise SourceError(
            f"--psf {path}: holds no bright point, or voxels that aren't finite numbers"
        )
    smooth = ndimage.gaussian_filter(image, 1.0)
    peak = np.unravel_index(int(smooth.argmax()), image.shape)
    half = [min(p, n - 1 - p) for p, n in zip(peak, image.shape, strict=True)]
    kernel = image[tuple(slice(p - h, p + h + 1) for p, h in zip(peak, half, strict=True))]
    return PointSpread((kernel / kernel.sum()).astype(np.float32), info.voxel_size_um, path)


def _text(voxel: VoxelSize) -> str:
    return " x ".join(f"{one:.4g}" for one in voxel)
