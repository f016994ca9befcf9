"""How fine a volume's structures are: its power by spatial frequency."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["NUM_BINS", "log_spectrum", "spectral_centroid"]

_LATERAL_BINS, _AXIAL_BINS = 16, 8

NUM_BINS = _LATERAL_BINS + _AXIAL_BINS
"""Of a spectrum."""


def log_spectrum(volume: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log10 of the power by spatial frequency: 16 lateral bins, then 8 axial ones, up to Nyquist.

    The power is relative to the total without the mean, so that brightness doesn't matter; a
    Hann window keeps the borders out.
    """
    power, lateral, axial = _power(volume)
    out = []
    for frequency, bins in ((lateral, _LATERAL_BINS), (axial, _AXIAL_BINS)):
        index = np.minimum((frequency / 0.5 * bins).astype(int), bins)
        sums = np.bincount(index.ravel(), power.ravel(), bins + 1)[:bins]
        counts = np.bincount(index.ravel(), minlength=bins + 1)[:bins]
        out.append(np.log10(sums / np.maximum(counts, 1) + 1e-12))
    return np.concatenate(out)


def spectral_centroid(volume: NDArray[np.float32]) -> float:
    """Mean lateral frequency, weighted by amplitude, in cycles per voxel: the sharper the higher."""
    power, lateral, _ = _power(volume)
    amplitude = np.sqrt(power)
    return float((amplitude * lateral).sum() / max(float(amplitude.sum()), 1e-12))


def _power(
    volume: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Relative power and the lateral and axial frequency of each component, in cycles per voxel."""
    data = volume.astype(np.float64)
    for axis, size in enumerate(volume.shape):
        window = np.hanning(size + 2)[1:-1]
        data = (data - data.mean()) * np.expand_dims(window, [a for a in range(3) if a != axis])
    power = np.abs(fft.fftn(data)) ** 2
    power[0, 0, 0] = 0
    fz, fy, fx = (np.abs(fft.fftfreq(size)) for size in volume.shape)
    lateral = np.broadcast_to(np.hypot(fy[:, None], fx), volume.shape)
    axial = np.broadcast_to(fz[:, None, None], volume.shape)
    return power / max(float(power.sum()), 1e-12), lateral, axial
