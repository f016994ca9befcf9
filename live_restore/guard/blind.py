"""Gain and offset guessed from a single z-stack: the variance of its finest detail against brightness.

Noise is what high differences leave of a stack; what they leave of a specimen that the optics have
blurred is little, as long as it isn't bright and full of fine detail. Two further differences tell how
much that is: fine structure shrinks with each order, noise doesn't. Blocks are sorted by the mean of the
blocks around them, which knows nothing of their own noise. Chosen by experiment on simulated and real
stacks; figures in docs/calibration.md. The idea of differences: Immerkaer, *Fast noise variance
estimation*, CVIU 64, 300 (1996).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d, uniform_filter

from live_restore.errors import CalibrationError
from live_restore.guard.exposures import Exposures, find_saturation
from live_restore.guard.levels import Level
from live_restore.guard.photon_transfer import PhotonTransfer
from live_restore.guard.transfer_fit import QUANTISATION, TransferLine

__all__ = ["ASSUMED_READ_NOISE", "estimate_blindly"]

ASSUMED_READ_NOISE = 1.6
"""Photoelectrons: of today's scientific CMOS cameras."""

_SECOND, _FOURTH = np.array([1.0, -2, 1]), np.array([1.0, -4, 6, -4, 1])
_FINEST = (_FOURTH, _SECOND)  # in plane, along z
_COARSER = ((_SECOND, None), (_SECOND, _SECOND), (_FOURTH, None))
_BLOCK = 4  # pixels of a side
_LEVELS = 16
_FEWEST_BLOCKS, _FEWEST_LEVELS = 12, 4
_MARGIN = 2  # pixels at the border that differences can't be taken of
_TOLERANCE = 0.03  # of a variance
_ROUNDS = 20
_LEAST_ERROR = 0.15  # of the gain
_DOUBTFUL, _WORTHLESS = 1.2, 2.0  # times as much variance by coarser differences

_Stack = NDArray[np.float32]
_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    mean: _Array
    variance: _Array
    weight: _Array  # independent voxels


def estimate_blindly(
    name: str,
    stack: NDArray[Any],
    offset: float | None = None,
    read_noise: float = ASSUMED_READ_NOISE,
) -> PhotonTransfer:
    """Gain and offset of the camera that took a stack; read noise can't be had.

    Parameters
    ----------
    name : str
        For messages.
    stack : ndarray, (Z, Y, X)
        Raw counts, three planes at least; not modified.
    offset : float, optional
        Counts, where it is known; else where the line meets the variance of the read noise.
    read_noise : float
        Photoelectrons, taken as given.

    Raises
    ------
    CalibrationError
        This stack can't tell.
    """
    if stack.ndim != 3 or stack.shape[0] < 3 or min(stack.shape[1:]) < 10 * _BLOCK:
        raise CalibrationError(
            f"{name}: shape {stack.shape}; expected a z-stack of three planes or more, each of "
            f"{10 * _BLOCK} x {10 * _BLOCK} pixels at least"
        )
    saturation = find_saturation([Exposures(name, stack)])
    points = _measure(stack, saturation, _FINEST)
    if len(points.mean) < _FEWEST_LEVELS:
        raise CalibrationError(
            f"{name}: too few levels of brightness ({len(points.mean)}, expected {_FEWEST_LEVELS}): take a "
            "larger stack, with background and bright structures"
        )
    gain, gain_error, floor = _fit(points)
    ratio = max(_fit(_measure(stack, saturation, one))[0] for one in _COARSER) / gain
    if gain <= 1e-6 or ratio > _WORTHLESS or gain_error > 0.3 * gain:
        raise CalibrationError(
            f"{name}: noise can't be told from structure ({ratio:.1f} times as much by coarser differences, "
            f"gain {gain:.2g} ± {gain_error:.1g}). Estimate from a stack with less light or less fine "
            "structure; better, calibrate from dark frames and pairs of identical exposures"
        )
    source = "assumed" if read_noise == ASSUMED_READ_NOISE else "given"
    warnings = [
        f"An estimate from one stack: its gain is within 15 % usually; read noise was {source}, not measured."
    ]
    if ratio > _DOUBTFUL:
        warnings.append(
            f"{name}: fine structure counts as noise, {ratio - 1:.0%} more by coarser differences: the gain may be "
            "too high by about as much. Estimate from a stack with less light."
        )
    dark = QUANTISATION + (gain * read_noise) ** 2
    if offset is None:
        lowest = float(points.mean[0])
        offset = lowest - (floor + gain * lowest - dark) / gain
    line = TransferLine(
        gain=gain,
        gain_error=gain * max(_LEAST_ERROR, ratio - 1, gain_error / gain),
        floor=dark,
        read_noise=read_noise,
        read_noise_error=0.0,
        chi_square=float("nan"),
        curvature=0.0,
        curvature_error=float("inf"),
        errors=tuple(float(one) for one in points.variance * np.sqrt(2 / points.weight)),
    )
    levels = tuple(
        Level(name, float(mean - offset), float(variance), int(weight))
        for mean, variance, weight in zip(points.mean, points.variance, points.weight, strict=True)
    )
    return PhotonTransfer(
        line, levels, float(offset), None, saturation, None, tuple(warnings), "blind"
    )


def _measure(
    stack: NDArray[Any],
    saturation: float | None,
    differences: tuple[NDArray[np.float64], NDArray[np.float64] | None],
) -> _Points:
    """Mean and variance of noise at some levels of brightness."""
    in_plane, along_z = differences
    counts = stack.astype(np.float32)
    residual = convolve1d(convolve1d(counts, in_plane, axis=1), in_plane, axis=2)
    scale, dependence = float(in_plane @ in_plane), _dependence(in_plane) ** 2
    inner = (slice(None), slice(_MARGIN, -_MARGIN), slice(_MARGIN, -_MARGIN))
    if along_z is not None:
        residual = convolve1d(residual, along_z, axis=0)
        scale *= float(np.sqrt(along_z @ along_z))
        dependence *= _dependence(along_z)
        inner = (slice(1, -1), *inner[1:])
    residual /= np.float32(scale)
    means, variances = _blocks(counts[inner]), _blocks(residual[inner] ** 2)
    arounds = (9 * uniform_filter(means, (0, 3, 3)) - means) / 8
    is_taken = np.ones(means.shape, dtype=bool)
    if saturation is not None:
        is_taken = _blocks((counts[inner] >= saturation).astype(np.float32)) == 0
    taken = is_taken[:, 1:-1, 1:-1]
    mean, variance, around = (
        one[:, 1:-1, 1:-1][taken].astype(np.float64) for one in (means, variances, arounds)
    )
    if around.size == 0:
        return _Points(*(np.empty(0) for _ in range(3)))
    order = np.sqrt(around - around.min())
    low, high = np.quantile(order, [0.001, 0.999])
    edges = np.linspace(low, high, _LEVELS + 1)
    level = np.searchsorted(edges, order) - 1
    rows = [
        (mean[level == k].mean(), variance[level == k].mean(), number)
        for k in range(_LEVELS)
        if (number := int((level == k).sum())) >= _FEWEST_BLOCKS
    ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return _Points(table[0], table[1], table[2] * _BLOCK**2 / dependence)


def _fit(points: _Points) -> tuple[float, float, float]:
    """Slope, its standard error, and the value at zero counts; what lies above the line counts less."""
    x, y = points.mean, points.variance
    if len(x) < _FEWEST_LEVELS:
        return 0.0, float("inf"), 0.0
    basis = np.stack([x - x[0], np.ones_like(x)], axis=1)
    spread = np.sqrt(2 / points.weight + _TOLERANCE**2)
    model, trust = np.maximum(y, 1e-6), np.ones_like(x)
    for _ in range(_ROUNDS):
        weight = trust / (spread * model) ** 2
        inverse = np.linalg.pinv(basis.T @ (basis * weight[:, None]))
        slope, floor = np.maximum(inverse @ (basis.T @ (weight * y)), 1e-6)
        model = np.maximum(basis @ [slope, floor], 1e-6)
        above = np.maximum((y - model) / (model * spread), 0)
        trust = 1 / (1 + (above / 2) ** 2)
    return float(slope), float(np.sqrt(inverse[0, 0])), float(floor - slope * x[0])


def _dependence(kernel: NDArray[np.float64]) -> float:
    """How many times fewer independent values neighbouring differences are."""
    product = np.correlate(kernel, kernel, "full")
    return float(np.sum(product**2) / np.sum(kernel**2) ** 2)


def _blocks(volume: _Stack) -> _Stack:
    nz, ny, nx = volume.shape
    ny, nx = ny // _BLOCK, nx // _BLOCK
    cut = volume[:, : ny * _BLOCK, : nx * _BLOCK]
    mean: _Stack = cut.reshape(nz, ny, _BLOCK, nx, _BLOCK).mean((2, 4))
    return mean
