"""Percentile normalisation: from camera counts to about [0, 1] and back.

Published with the 3D RCAN: ``(x - P2) / (P99.9 - P2 + epsilon)``, percentiles of the raw volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["IntensityRange", "measure_range", "percentiles"]

_FLOAT_SAMPLES = 4_000_000


@dataclass(frozen=True, slots=True)
class IntensityRange:
    """The counts that become 0 and 1 in front of the network."""

    low: float
    high: float
    epsilon: float = 1e-6

    @property
    def width(self) -> float:
        """Counts per normalised unit, above 0."""
        return self.high - self.low + self.epsilon

    def normalise(self, counts: NDArray[Any]) -> NDArray[np.float32]:
        """Counts of any dtype and shape to float32 of about [0, 1], not clipped."""
        out = counts.astype(np.float32)
        out -= np.float32(self.low)
        out *= np.float32(1.0 / self.width)
        return out

    def counts(self, normalised: NDArray[np.float32]) -> NDArray[np.float32]:
        """The way back: normalised float32 to counts, float32."""
        return np.asarray(normalised * np.float32(self.width) + np.float32(self.low))


def percentiles(volume: NDArray[Any], q: tuple[float, ...]) -> tuple[float, ...]:
    """Percentiles with linear interpolation, in memory that doesn't grow with the volume.

    Exact for 8- and 16-bit unsigned integers (a histogram, plane by plane). Other dtypes are
    sampled evenly down to about four million voxels.

    Parameters
    ----------
    volume : ndarray, (Z, Y, X)
        Not modified; NaN and infinity are ignored.
    q : tuple of float
        In percent.

    Returns
    -------
    tuple of float
        One per `q`; zeros when no voxel is finite.
    """
    if volume.dtype in (np.uint8, np.uint16):
        return _histogram_percentiles(volume, q)
    step = max(1, round((volume.size / _FLOAT_SAMPLES) ** 0.5))
    sample = np.asarray(volume[:, ::step, ::step], dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return tuple(0.0 for _ in q)
    return tuple(float(p) for p in np.percentile(sample, q))


def _histogram_percentiles(volume: NDArray[Any], q: tuple[float, ...]) -> tuple[float, ...]:
    bins = np.iinfo(volume.dtype).max + 1
    histogram = np.zeros(bins, dtype=np.int64)
    for plane in volume:
        histogram += np.bincount(plane.ravel(), minlength=bins)
    cumulative = np.cumsum(histogram)
    out = []
    for percent in q:
        rank = (volume.size - 1) * percent / 100.0
        below, above = np.searchsorted(cumulative, [np.floor(rank), np.ceil(rank)], side="right")
        out.append(float(below + (above - below) * (rank - np.floor(rank))))
    return tuple(out)


def measure_range(
    volume: NDArray[Any], low_percent: float, high_percent: float, epsilon: float = 1e-6
) -> IntensityRange:
    """The normalisation of one volume.

    A volume without contrast (all counts equal) gets a width of one count, so that noise-free
    input isn't blown up.
    """
    low, high = percentiles(volume, (low_percent, high_percent))
    if high <= low:
        high = low + 1.0
    return IntensityRange(low, high, epsilon)
