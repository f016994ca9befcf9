"""The voxel grid that specimens are laid on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid"]


@dataclass(frozen=True, slots=True)
class Grid:
    """A voxel grid: shape ``(Z, Y, X)`` and voxel size in µm, same order."""

    shape_zyx: tuple[int, int, int]
    voxel_size_um: tuple[float, float, float]

    @property
    def size_um(self) -> NDArray[np.float64]:
        """Edge lengths ``(z, y, x)`` in µm."""
        return np.asarray(np.multiply(self.shape_zyx, self.voxel_size_um), dtype=np.float64)
