"""Percentile normalisation: from camera counts to about [0, 1] and back.

Published with the 3D RCAN: ``(x - P2) / (P99.9 - P2 + epsilon)``, percentiles of the raw volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IntensityRange",
    "LinearFit",
    "as_range",
    "histogram_percentiles",
    "measure_range",
    "percentiles",
]

_FLOAT_SAMPLES = 4_000_000
_FLOAT32_STEP = float(np.finfo(np.float32).eps)


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


class LinearFit:
    """Least squares of ``counts = gain * values + offset``, from sums over parts as they come.

    The values are the regressor: noise in the counts doesn't bias the gain.
    """

    def __init__(self) -> None:
        self._origin: tuple[float, float] | None = None
        self._sums = np.zeros(5)  # number, values, counts, values squared, values times counts

    def add(self, values: NDArray[np.float32], counts: NDArray[Any]) -> None:
        """Take in one more part: two arrays of the same shape ``(Z, Y, X)``, not modified."""
        if self._origin is None:
            # Sums about a point within the data keep their digits when the spread is small.
            self._origin = float(values[0].mean(dtype=float)), float(counts[0].mean(dtype=float))
        for value_plane, count_plane in zip(values, counts, strict=True):
            v = value_plane.astype(np.float64).ravel() - self._origin[0]
            c = count_plane.astype(np.float64).ravel() - self._origin[1]
            self._sums += (v.size, v.sum(), c.sum(), np.dot(v, v), np.dot(v, c))

    def line(self) -> tuple[float, float] | None:
        """Gain and offset; none where the values are flat, or don't rise with the counts."""
        if self._origin is None:
            return None
        n, v, c, vv, vc = self._sums
        variance, covariance = vv / n - (v / n) ** 2, vc / n - (v / n) * (c / n)
        # What float32 can't tell from a constant has no slope.
        resolution = _FLOAT32_STEP * (abs(self._origin[0]) + abs(v / n))
        if not variance > resolution**2:
            return None
        gain = covariance / variance
        if not (np.isfinite(gain) and gain > 0):
            return None
        return float(gain), float(self._origin[1] + c / n - gain * (self._origin[0] + v / n))


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
    return histogram_percentiles(histogram, q)


def histogram_percentiles(histogram: NDArray[np.int64], q: tuple[float, ...]) -> tuple[float, ...]:
    """Percentiles with linear interpolation of whole numbers, from how often each occurs."""
    cumulative = np.cumsum(histogram)
    out = []
    for percent in q:
        rank = (cumulative[-1] - 1) * percent / 100.0
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
    return as_range(low, high, epsilon)


def as_range(low: float, high: float, epsilon: float = 1e-6) -> IntensityRange:
    """Between two percentiles, at least one count wide where they are equal."""
    if high <= low:
        high = low + 1.0
    return IntensityRange(low, high, epsilon)
