"""Edge-aligned overlapping tiles, and their blending.

No tile hangs over the edge: along each axis the tiles are equal, the first starts at 0, the last
ends at the last voxel, and the overlap is spread evenly. In an overlap the weights of the two
tiles are linear ramps; at the volume's own border there is none. Because tiles form a product
grid, per-axis weights that add up to 1 make the whole blend add up to 1: no weight volume is held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axis", "Tiles", "blend", "own_parts", "plan_axis", "plan_tiles"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Axis:
    """Tiles along one axis.

    Attributes
    ----------
    size : int
        Voxels of the volume.
    tile : int
        Voxels of each tile.
    starts : tuple of int
        Where each begins, ascending, the first 0.
    """

    size: int
    tile: int
    starts: tuple[int, ...]

    def weights(self, index: int) -> Array:
        """Weights of one tile, ``(tile,)`` float32; over all tiles they add up to 1 everywhere."""
        inside = np.arange(self.tile) + self.starts[index]
        total = np.zeros(self.tile)
        for other in range(len(self.starts)):
            total += self._ramp(other, inside)
        return (self._ramp(index, inside) / total).astype(np.float32)

    def _ramp(self, index: int, at: NDArray[np.int_]) -> NDArray[np.float64]:
        start = self.starts[index]
        ramp = np.where((at >= start) & (at < start + self.tile), 1.0, 0.0)
        if index > 0:
            overlap = self.starts[index - 1] + self.tile - start
            ramp = np.minimum(ramp, (at - start + 0.5) / max(overlap, 1))
        if index + 1 < len(self.starts):
            overlap = start + self.tile - self.starts[index + 1]
            ramp = np.minimum(ramp, (start + self.tile - at - 0.5) / max(overlap, 1))
        return np.maximum(ramp, 0.0)


def plan_axis(size: int, largest: int, overlap: int) -> Axis:
    """Fewest equal tiles of at most `largest` voxels that overlap by at least `overlap`.

    Tiles are then made as small as that number allows, so that little is computed twice.
    """
    if size <= largest:
        return Axis(size, size, (0,))
    overlap = min(overlap, largest // 2)
    count = math.ceil((size - overlap) / (largest - overlap))
    tile = math.ceil((size + (count - 1) * overlap) / count)
    starts = tuple(round(i * (size - tile) / (count - 1)) for i in range(count))
    return Axis(size, tile, starts)


def own_parts(axis: Axis) -> list[tuple[int, slice]]:
    """Where each tile starts, and what of the volume is its own: up to the middle of each overlap."""
    cuts = [
        (after + before + axis.tile) // 2
        for before, after in zip(axis.starts, axis.starts[1:], strict=False)
    ]
    edges = [0, *cuts, axis.size]
    return [(start, slice(*edges[i : i + 2])) for i, start in enumerate(axis.starts)]


@dataclass(frozen=True, slots=True)
class Tiles:
    """A product grid of tiles over a volume, axes ``(Z, Y, X)``."""

    z: Axis
    y: Axis
    x: Axis

    @property
    def tile_zyx(self) -> tuple[int, int, int]:
        """Shape of each tile."""
        return (self.z.tile, self.y.tile, self.x.tile)

    def __len__(self) -> int:
        return len(self.z.starts) * len(self.y.starts) * len(self.x.starts)


def plan_tiles(
    shape_zyx: tuple[int, int, int],
    largest_zyx: tuple[int, int, int],
    overlap_zyx: tuple[int, int, int],
) -> Tiles:
    """Tiles for a volume; see `plan_axis`."""
    return Tiles(
        *(
            plan_axis(size, largest, overlap)
            for size, largest, overlap in zip(shape_zyx, largest_zyx, overlap_zyx, strict=True)
        )
    )


def blend(
    tiles: Tiles, restore_tile: Callable[[tuple[slice, slice, slice]], Array]
) -> Iterator[tuple[slice, Array]]:
    """Restore tile by tile and give finished rows as soon as no later tile touches them.

    Rows are ranges of Y over all of Z and X, so that no more than one band of tiles is held in
    float32, whatever the volume's size.

    Parameters
    ----------
    tiles : Tiles
        The plan.
    restore_tile : callable
        From the slices of a tile to its restored voxels, float32 of the tile's shape.

    Yields
    ------
    rows : slice
        Along Y.
    band : ndarray of float32, (Z, rows, X)
        Blended; valid until the next step.
    """
    band = np.zeros((tiles.z.size, tiles.y.tile, tiles.x.size), dtype=np.float32)
    for j, y0 in enumerate(tiles.y.starts):
        for i, z0 in enumerate(tiles.z.starts):
            for k, x0 in enumerate(tiles.x.starts):
                z, x = slice(z0, z0 + tiles.z.tile), slice(x0, x0 + tiles.x.tile)
                restored = restore_tile((z, slice(y0, y0 + tiles.y.tile), x))
                weighted = restored * tiles.z.weights(i)[:, None, None]
                weighted *= tiles.y.weights(j)[:, None]
                weighted *= tiles.x.weights(k)
                band[z, :, x] += weighted
        is_last = j + 1 == len(tiles.y.starts)
        done = tiles.y.tile if is_last else tiles.y.starts[j + 1] - y0
        yield slice(y0, y0 + done), band[:, :done]
        if not is_last:
            kept = tiles.y.tile - done
            band[:, :kept] = band[:, done:].copy()
            band[:, kept:] = 0
