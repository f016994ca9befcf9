"""How fine the raw volume's structures are, whatever the noise: its autocorrelation beside the centre.

Noise of a camera is independent from voxel to voxel: it adds to the variance, and to no other
autocovariance. So these tell of blur, haze and voxel size at a dose at which nothing is to be seen by
eye, without a network. The logarithm of one ratio of their differences tells most: simulated nuclei of
several micrometres, blurred by 2 voxels, were all beyond the limit that no sharp one passed (12 to 50
photoelectrons); the restored volume's spectrum told them hardly at all.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.guard.sums import Moments

__all__ = ["texture"]

_LAGS = 1, 3, 6  # voxels, along y and x
_MOST_PLANES = 32
_MOST_VOXELS = 1_500_000


def texture(raw: NDArray[Any], moments: Moments, gain: float) -> NDArray[np.float64] | None:
    """How fine the structures are: the logarithm of (C1 - C3) / (C1 - C6), C(k) the autocovariance at k voxels.

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
    ndarray or None, (1,)
        None for volumes too small for these lags.
    """
    nz, ny, nx = raw.shape
    if min(ny, nx) < 4 * _LAGS[-1] or nz < 4:
        return None
    num_planes = min(max(_MOST_VOXELS // (ny * nx), 4), _MOST_PLANES, nz)
    start = (nz - num_planes) // 2
    data = raw[start : start + num_planes].astype(np.float32)
    data -= np.float32(data.mean(dtype=np.float64))
    c1, c3, c6 = (
        (_mean_product(data[:, k:], data[:, :-k]) + _mean_product(data[:, :, k:], data[:, :, :-k]))
        / 2
        for k in _LAGS
    )
    # Each product of neighbours scatters by the whole variance: what is below can't be told.
    least = moments.var_raw * gain**2 / math.sqrt(data.size)
    return np.array([math.log(max(c1 - c3, least) / max(c1 - c6, 3 * least))])


def _mean_product(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.mean([np.vdot(a, b) for a, b in zip(one, other, strict=True)]) / one[0].size)
