"""Planes that never came: what the network sees in their place, and what is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.volume import Volume

__all__ = ["with_gaps", "without_gaps"]


def without_gaps(volume: Volume) -> NDArray[Any]:
    """Its data, where missing planes are as the nearest that came: zeros would drag the others down."""
    if not volume.missing:
        return volume.data
    came = np.setdiff1d(np.arange(volume.data.shape[0]), volume.missing)
    nearest = [came[np.abs(came - z).argmin()] for z in range(volume.data.shape[0])]
    return volume.data[nearest]


def with_gaps(data: NDArray[Any], volume: Volume) -> NDArray[Any]:
    """Zero where planes are missing; made in place."""
    if volume.missing:
        data.flags.writeable = True
        data[list(volume.missing)] = 0
        data.flags.writeable = False
    return data
