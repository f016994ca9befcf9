"""How fine the raw volume's structures are, whatever the noise: its autocorrelation beside the centre.

Noise of a camera is independent from voxel to voxel: it adds to the variance, and to no other
autocovariance. So these tell of blur, haze and voxel size at a dose at which nothing is to be seen by
eye, without a network. Ratios of their differences tell most: of structures of several micrometres,
blurred by 2 voxels, 0.96 (area under the curve, at 6 photoelectrons), where the restored volume's
spectrum told 0.72.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.guard.sums import Moments

__all__ = ["texture"]

_LAGS = 1, 2, 3, 6, 14  # voxels, along y and x
_LEAST_SURE = 3.0  # standard errors that a difference is taken to have at least
_MOST_PLANES = 32
_MOST_VOXELS = 1_500_000


def texture(raw: NDArray[Any], moments: Moments, gain: float) -> NDArray[np.float64] | None:
    """How the autocovariance falls off: four ratios of its differences.

    With C(k) at k voxels along y and x: (C1 - C2) and (C2 - C3) over (C1 - C6), (C1 - C6) over
    (C1 - C14), and along z (C1 - C2) over (C1 - C14).

    Parameters
    ----------
    raw : ndarray, (Z, Y, X)
        Counts.
    moments : Moments
        Of it.
    gain : float
        Counts per photoelectron.

    Returns
    -------
    ndarray or None
        None for volumes too small for these lags.
    """
    nz, ny, nx = raw.shape
    if min(ny, nx) < 2 * _LAGS[-1] or nz < 4:
        return None
    num_planes = min(max(_MOST_VOXELS // (ny * nx), 4), _MOST_PLANES, nz)
    start = (nz - num_planes) // 2
    data = raw[start : start + num_planes].astype(np.float32)
    data -= np.float32(data.mean(dtype=np.float64))
    c1, c2, c3, c6, c14 = (
        (_mean_product(data[:, k:], data[:, :-k]) + _mean_product(data[:, :, k:], data[:, :, :-k]))
        / 2
        for k in _LAGS
    )
    z1, z2 = (_mean_product(data[k:], data[:-k]) for k in (1, 2))
    # Each product of neighbours scatters by the whole variance.
    least = _LEAST_SURE * moments.var_raw * gain**2 / np.sqrt(data.size)
    near, far = max(c1 - c6, least), max(c1 - c14, least)
    return np.array([(c1 - c2) / near, (c2 - c3) / near, near / far, (z1 - z2) / far])


def _mean_product(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.mean([np.vdot(a, b) for a, b in zip(one, other, strict=True)]) / one[0].size)
