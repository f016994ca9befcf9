"""Fluorescent specimens that move, from sparse filaments to dense tissue.

Each is given in micrometres and laid onto any voxel grid, so that voxel size and field of view are
free. A specimen is a function of its seed and of time alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from live_restore.simulation import structures, textures
from live_restore.simulation.grid import Grid

__all__ = ["SPECIMEN_KINDS", "Grid", "Specimen"]

_KINDS: dict[str, Callable[[Grid, np.random.Generator, float, float], NDArray[np.float64]]] = {
    "filaments": structures.filaments,
    "membranes": structures.membranes,
    "vesicles": structures.vesicles,
    "nuclei": structures.nuclei,
    "tissue": textures.tissue,
    "compartments": textures.compartments,
    "envelopes": textures.envelopes,
    "reticulum": textures.reticulum,
    "granules": textures.granules,
}

SPECIMEN_KINDS: tuple[str, ...] = tuple(_KINDS)
"""What `Specimen` can be."""


@dataclass(frozen=True, slots=True)
class Specimen:
    """One structure, the same at each call.

    Parameters
    ----------
    kind : str
        One of `SPECIMEN_KINDS`.
    seed : int
        Which specimen.
    crowding : float
        How much of it: 1 is usual, 0.3 sparse, 3 dense.
    size : float
        Factor on all lengths: 1 for the structures of a single cell.
    is_confined : bool
        Only inside of some cells, with nothing around them.
    grain : float
        Contrast (standard deviation of the logarithm) of structure too fine for the grid: voxel by voxel,
        before the blur.
    """

    kind: str
    seed: int
    crowding: float = 1.0
    size: float = 1.0
    is_confined: bool = False
    grain: float = 0.0

    def density(self, grid: Grid, time_s: float = 0.0) -> NDArray[np.float32]:
        """Fluorophores per voxel in arbitrary units.

        Parameters
        ----------
        grid : Grid
            Where to lay it.
        time_s : float
            Specimens move on the scale of seconds to minutes.

        Returns
        -------
        ndarray of float32, (Z, Y, X)

        Raises
        ------
        KeyError
            Unknown kind.
        """
        rng = np.random.default_rng([self.seed, sum(self.kind.encode())])
        z, y, x = grid.voxel_size_um
        grid = Grid(grid.shape_zyx, (z / self.size, y / self.size, x / self.size))
        density = _KINDS[self.kind](grid, rng, self.crowding, time_s)
        if self.is_confined:
            density = density * textures.cell_mask(grid, rng, time_s)
        if self.grain:
            density = density * np.exp(self.grain * rng.standard_normal(grid.shape_zyx))
        return density.astype(np.float32)
