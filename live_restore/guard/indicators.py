"""Signs, seen without the network, that the camera's model of the noise doesn't hold for a volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.guard.camera import CameraCalibration

__all__ = ["Indicators", "clipped_fractions", "noise_signs"]

_PILE = 4  # times as many voxels at the last value as at the ones before it
_MOST_COUNTED = 4_000_000
_MOST_LOOKED_AT = 400_000
_DEVIATION_OF_LAPLACIAN = np.float32(1 / np.sqrt(1.25))  # neighbours weigh a quarter each
_MEDIAN_OF_NORMAL = 0.6745


@dataclass(frozen=True, slots=True)
class Indicators:
    """What was seen.

    Attributes
    ----------
    saturated : float
        Fraction of voxels at the most that the camera can count.
    cut_off : float
        Fraction of voxels at the least value, where many are piled up.
    correlation : float
        Largest correlation of the residual's neighbours along y or x, by absolute value, beyond what the
        restoration makes of it; 0 for a camera.
    noise_ratio : float or None
        Noise found over noise expected; 1 when gain and read noise are right. None without a
        calibration.
    below_offset : float or None
        By how many standard deviations of the read-out the darkest hundredth of the voxels lies below
        the offset; None without a calibration.
    """

    saturated: float
    cut_off: float
    correlation: float
    noise_ratio: float | None = None
    below_offset: float | None = None


def clipped_fractions(raw: NDArray[Any], saturation: float | None) -> tuple[float, float]:
    """Fractions of voxels that are too bright, and too dark, to be told from others.

    Parameters
    ----------
    raw : ndarray, (Z, Y, X)
        Counts.
    saturation : float or None
        Counts from which a pixel is full, where known. A pile-up of equal values at the upper end is seen
        without.

    Returns
    -------
    tuple of float
        Saturated and cut off.
    """
    step = max(1, round(raw.size / _MOST_COUNTED))
    some = raw[::step]
    if some.dtype.kind == "f":
        limit = saturation if saturation is not None else np.inf
        return float(np.count_nonzero(some >= limit)) / some.size, 0.0
    least, most = int(some.min()), int(some.max())

    def count(value: int) -> int:
        return int(np.count_nonzero(some == value))

    at_most, before = count(most), max(count(most - 1), count(most - 2))
    full = at_most if at_most > _PILE * max(before, 1) else 0
    if saturation is not None:
        full = max(full, int(np.count_nonzero(some >= saturation)))
    at_least = count(least)
    cut = at_least if at_least > _PILE * max(count(least + 1), 1) and most > least else 0
    return float(full) / some.size, float(cut) / some.size


def noise_signs(
    raw: NDArray[Any],
    restored: NDArray[Any],
    line: tuple[float, float],
    camera: CameraCalibration | None,
    leverage: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
) -> tuple[float, float | None, float | None]:
    """Correlation, ratio and offset of the noise, from what the restoration took away.

    Parameters
    ----------
    raw, restored : ndarray, (Z, Y, X)
        Counts.
    line : tuple of float
        Gain and offset that fit `restored` to `raw`, in the camera's photoelectrons, or in counts.
    camera : CameraCalibration or None
        What noise there should be.
    leverage : callable, optional
        From restored photoelectrons to how much of its noise each voxel kept. What was kept isn't in the
        residual; and since neighbours share it, theirs are a little less alike than noise is.

    Returns
    -------
    correlation : float
        See `Indicators`.
    noise_ratio, below_offset : float or None
        See `Indicators`.
    """
    ratios, products, squares, dark, kept = [], np.zeros(2), np.zeros(1), [], [0.0]
    for z in _some_planes(raw.shape):
        if camera is None:
            e, f = raw[z].astype(np.float32), restored[z].astype(np.float32)
            residual = e - (np.float32(line[0]) * f + np.float32(line[1]))
            # The noise rises with the signal, about as its root.
            level = np.maximum(f - np.float32(np.percentile(f[::4, ::4], 1)), 0)
            residual /= np.sqrt(level + np.float32(level.mean() + 1e-3))
        else:
            e, f = camera.electrons(raw[z]), camera.electrons(restored[z])
            mean = np.float32(line[0]) * f + np.float32(line[1])
            residual = e - mean
            residual /= np.sqrt(np.maximum(mean, 0) + np.float32(camera.variance))
            dark.append(float(np.percentile(e[::3, ::3], 1.0)))
            if leverage is not None:
                share = leverage(f)
                residual /= np.sqrt(1 - share)
                kept.append(float(share.mean()))
        residual -= residual.mean()
        products[0] += np.vdot(residual[1:], residual[:-1]) / residual[1:].size
        products[1] += np.vdot(residual[:, 1:], residual[:, :-1]) / residual[:, 1:].size
        squares += np.vdot(residual, residual) / residual.size
        if camera is not None and min(residual.shape) > 2:
            around = residual[:-2, 1:-1] + residual[2:, 1:-1]
            around += residual[1:-1, :-2]
            around += residual[1:-1, 2:]
            laplacian = residual[1:-1, 1:-1] - np.float32(0.25) * around
            ratios.append(float(np.median(np.abs(laplacian))))
    correlation = float(max(products / max(squares[0], 1e-12), key=abs))
    if correlation < 0:
        correlation = min(correlation + float(np.mean(kept[1:] or kept)), 0.0)
    if camera is None or not ratios:
        return correlation, None, None
    ratio = float(np.median(ratios)) * float(_DEVIATION_OF_LAPLACIAN) / _MEDIAN_OF_NORMAL
    # The darkest hundredth of a pixel without light lies 2.33 standard deviations below the offset.
    below = -float(np.median(dark)) / float(np.sqrt(camera.variance)) - 2.33
    return correlation, ratio, below


def _some_planes(shape: tuple[int, ...]) -> list[int]:
    """Indices of planes, evenly over the volume."""
    nz = shape[0]
    wanted = max(2, min(8, nz, _MOST_LOOKED_AT // max(shape[1] * shape[2], 1)))
    return sorted({round((k + 0.5) * nz / wanted - 0.5) for k in range(wanted)})
