"""The line of photon transfer: variance against signal, weighted, robust, with honest errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from live_restore.guard.levels import Level

__all__ = ["QUANTISATION", "TransferLine", "fit_line"]

QUANTISATION = 1 / 12
"""Variance, counts², that whole counts add."""

_MODEL_ERROR = 0.005  # of a variance: no camera is a line to better than this
_HUBER = 2.5  # standard errors, beyond which a level counts less
_ROUNDS = 30

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TransferLine:
    """variance = `gain` * signal + `floor`, in counts.

    Attributes
    ----------
    gain, gain_error : float
        Counts per photoelectron, and its standard error.
    floor : float
        Variance without light, counts².
    read_noise, read_noise_error : float
        Photoelectrons; zero where the floor is no higher than what whole counts add.
    chi_square : float
        Mean squared deviation of the levels in their standard errors: 1 for a perfect line.
    curvature, curvature_error : float
        By which fraction the variance at the brightest level is off a line through the dark ones.
    errors : tuple of float
        Standard error of each level's variance, counts².
    """

    gain: float
    gain_error: float
    floor: float
    read_noise: float
    read_noise_error: float
    chi_square: float
    curvature: float
    curvature_error: float
    errors: tuple[float, ...]

    def variance(self, signal: _Array) -> _Array:
        """On the line."""
        return self.gain * signal + self.floor


def fit_line(
    levels: Sequence[Level],
    dark: Level | None = None,
    dark_frames: int = 2,
    read_noise: float | None = None,
) -> TransferLine:
    """Fit by iteratively reweighted least squares with Huber's weights.

    The standard error of a level takes in that the mean of the same pixels is its abscissa: with
    Poisson noise most of the two errors cancels, var(y - gain x) = (2 v² + gain² v0 / 2) / n.

    Parameters
    ----------
    levels : sequence of Level
        Lit ones, none saturated; at least one, two without `dark` and `read_noise`.
    dark : Level, optional
        Of signal 0, from dark frames.
    dark_frames : int
        From how many frames the offset of each pixel is known.
    read_noise : float, optional
        Photoelectrons, where there are no dark frames.
    """
    known = [dark] if dark is not None else []
    x, y, n = (
        np.array([getattr(one, name) for one in (*known, *levels)], dtype=np.float64)
        for name in ("signal", "variance", "num_pixels")
    )
    is_lit = np.arange(len(x)) >= len(known)
    gain = max(float(np.median(y[is_lit] / np.maximum(x[is_lit], 1e-6))), 1e-6)
    floor = dark.variance if dark is not None else 0.0
    for _ in range(_ROUNDS):
        model = np.maximum(gain * x + floor, 1e-6)
        variance = 2 * model**2 / n
        variance[is_lit] += gain**2 * max(floor, 0) * (0.5 + 1 / dark_frames) / n[is_lit]
        variance += _rounding_error(model) ** 2
        weights = 1 / (variance + (_MODEL_ERROR * model) ** 2)
        weights = weights * _huber((y - gain * x - floor) * np.sqrt(weights))
        before = gain
        if read_noise is not None:
            floor = (gain * read_noise) ** 2 + QUANTISATION
            basis = x[:, None]
            (gain,), covariance = _solve(basis, y - floor, weights, variance)
        else:
            basis = np.stack([x, np.ones_like(x)], axis=1)
            (gain, floor), covariance = _solve(basis, y, weights, variance)
        gain = max(float(gain), 1e-9)
        if abs(gain - before) < 1e-9 * gain:
            break
    residual = y - gain * x - floor
    freedom = len(x) - basis.shape[1]
    chi_square = float(np.sum(residual**2 / variance) / freedom) if freedom else 1.0
    covariance = covariance * max(1.0, chi_square)
    noise, noise_error = read_noise or 0.0, 0.0
    if read_noise is None:
        noise, noise_error = _read_noise(gain, float(floor), covariance)
    curvature, curvature_error = _curvature(x, y, weights, variance, gain)
    return TransferLine(
        gain,
        float(np.sqrt(covariance[0, 0])),
        float(floor),
        noise,
        noise_error,
        chi_square,
        curvature,
        curvature_error,
        tuple(float(one) for one in np.sqrt(variance[is_lit])),
    )


def _rounding_error(variance: _Array) -> _Array:
    """By how much whole counts may add other than 1/12, counts²: much where the noise is below one.

    Amplitude of the first harmonic of Sheppard's correction for Gaussian noise (Widrow & Kollár,
    *Quantization Noise*, 2008).
    """
    unrounded = np.maximum(variance - QUANTISATION, 0)
    return np.asarray((4 * unrounded + 1 / np.pi**2) * np.exp(-2 * np.pi**2 * unrounded))


def _huber(deviation: _Array) -> _Array:
    scale = max(1.0, 1.4826 * float(np.median(np.abs(deviation))))
    return np.asarray(np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(deviation), 1e-9)))


def _solve(basis: _Array, y: _Array, weights: _Array, variance: _Array) -> tuple[_Array, _Array]:
    """Weighted least squares; the covariance is the sandwich, since weights aren't 1 / variance."""
    weighted = basis * weights[:, None]
    inverse = np.linalg.pinv(basis.T @ weighted)
    middle = weighted.T @ (weighted * variance[:, None])
    return inverse @ (weighted.T @ y), inverse @ middle @ inverse


def _read_noise(gain: float, floor: float, covariance: _Array) -> tuple[float, float]:
    squared = (floor - QUANTISATION) / gain**2
    slope = np.array([-2 * squared / gain, 1 / gain**2])
    error = float(np.sqrt(slope @ covariance @ slope))
    noise = float(np.sqrt(max(squared, 0.0)))
    # Of a square root near zero: as far as one standard error of the square takes it.
    return noise, min(error / (2 * noise) if noise > 0 else np.inf, float(np.sqrt(error)))


def _curvature(
    x: _Array, y: _Array, weights: _Array, variance: _Array, gain: float
) -> tuple[float, float]:
    if len(x) < 3:
        return 0.0, float("inf")
    top = float(x.max())
    basis = np.stack([x / top, (x / top) ** 2, np.ones_like(x)], axis=1)
    values, covariance = _solve(basis, y, weights, variance)
    freedom = len(x) - 3
    left = float(np.sum((y - basis @ values) ** 2 / variance) / freedom) if freedom else 1.0
    scale = gain * top
    return float(values[1]) / scale, float(np.sqrt(covariance[1, 1] * max(1.0, left))) / scale
