"""Runs a network over whole volumes, in as many tiles as the memory asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from live_restore.restore.attention import Part
from live_restore.restore.devices import DTYPES, free_bytes, open_operators
from live_restore.restore.model import Architecture
from live_restore.restore.rcan import RCAN3D
from live_restore.restore.sweep import PreparedNetwork, Sweep, sweep_nbytes
from live_restore.restore.tiling import Tiles, blend, own_parts, plan_tiles

__all__ = ["Engine", "Image", "Pooled", "Where"]

_SHARE = 0.4  # of the memory that is free at start; the rest is for volumes and for other programs
_MOST_BYTES = 2**33  # on the processor: an acquisition may want the rest
_NARROWEST = 96
_MOST_SMALL = 4  # shapes of parts whose buffers are kept
PUBLISHED_TILE = 16, 256, 256  # that pools alone: the patch of the published training

Where = tuple[slice, slice, slice]
Image = Callable[[Where], Tensor]
"""From slices of a volume, with both ends, to its normalised intensities there, float32."""
Pooled = list[Tensor]
"""What the attention of each block looks at: the means of its second convolution's channels."""


class Engine:
    """A network on a device in one precision.

    Parameters
    ----------
    network : RCAN3D
        float32; not modified.
    architecture : Architecture
        Of the network.
    device : torch.device
        Where.
    precision : {"float16", "bfloat16", "float32"}
        Of the features; intensities are float32 at both ends.
    tile_zyx : tuple of int, optional
        Largest tile; otherwise chosen from the memory that is free now, or, where tiles pool, the
        patch of the published training.
    pools_tiles : bool
        Each tile's attention looks at that tile alone, and tiles are blended, as published.
    memory_bytes : int, optional
        What the engine may take; otherwise a share of what is free now.

    Attributes
    ----------
    pooled : list of Tensor or None
        What the attention would look at of the volume that was run last; none where tiles pool.
    """

    def __init__(
        self,
        network: RCAN3D,
        architecture: Architecture,
        device: torch.device,
        precision: str,
        tile_zyx: tuple[int, int, int] | None = None,
        pools_tiles: bool = False,
        memory_bytes: int | None = None,
    ) -> None:
        self.precision = precision
        self.device = device
        self.pools_tiles = pools_tiles
        self._dtype = DTYPES[precision]
        self._architecture = architecture
        self._tile_zyx = tile_zyx
        self._budget = memory_bytes or int(_SHARE * free_bytes(device))
        if device.type == "cpu" and memory_bytes is None:
            self._budget = min(self._budget, _MOST_BYTES)
        self._network = PreparedNetwork(
            network,
            open_operators(device, self._dtype),
            open_operators(device, torch.float32),
        )
        self._free: dict[tuple[int, int, int], list[Sweep]] = {}
        self._small: dict[tuple[int, int, int], Sweep] = {}
        self.pooled: Pooled | None = None

    def plan(self, shape_zyx: tuple[int, int, int]) -> Tiles:
        """The tiles of a volume; the same for each volume of a shape until `shrink`."""
        radius = self._architecture.receptive_radius
        nz, ny, nx = shape_zyx
        if self.pools_tiles:
            tz, ty, tx = self._tile_zyx or PUBLISHED_TILE
            overlap = (min(radius, tz // 4), min(radius, ty // 4), min(radius, tx // 4))
            return plan_tiles(shape_zyx, (tz, ty, tx), overlap)
        if self._tile_zyx is not None:
            largest = nz, *self._tile_zyx[1:]
        elif self._nbytes(shape_zyx) <= self._budget:
            largest = shape_zyx
        else:
            side = max(ny, nx)
            while side > self._narrowest and self._nbytes((nz, min(side, ny), min(side, nx))) > (
                self._budget
            ):
                side -= 16
            largest = nz, max(side, self._narrowest), max(side, self._narrowest)
        return plan_tiles(shape_zyx, largest, (0, 2 * radius, 2 * radius))

    def shrink(self, shape_zyx: tuple[int, int, int]) -> bool:
        """Make the tiles of such volumes smaller from now on; whether that is possible."""
        self._free.clear()
        before = self.plan(shape_zyx).tile_zyx
        if self._tile_zyx is not None:
            z, y, x = self._tile_zyx
            least = self._narrowest
            self._tile_zyx = z, min(y, max(y // 2, least)), min(x, max(x // 2, least))
        self._budget = min(self._budget, self._nbytes(before)) // 2
        return self.plan(shape_zyx).tile_zyx < before

    def run(
        self,
        image: Image,
        shape_zyx: tuple[int, int, int],
        pooled: Pooled | None,
        begun: Sweep | None = None,
    ) -> Iterator[tuple[Where, Tensor]]:
        """Restore a volume once.

        Parameters
        ----------
        image : callable
            Gives the normalised volume, part by part.
        shape_zyx : tuple of int
            Of the volume.
        pooled : list of Tensor or None
            What the attention looks at. Without it that is this volume, or, where that doesn't fit
            into memory, each tile by itself.
        begun : Sweep, optional
            The volume in one tile, with that attention, which some planes were put into already; not
            used where tiles became smaller since.

        Yields
        ------
        where : tuple of slice
            In the volume; each voxel once.
        restored : Tensor
            Normalised intensities, float32, on the engine's device; valid until the next step.
        """
        tiles = self.plan(shape_zyx)
        if self.pools_tiles:
            yield from self._blended(image, tiles)
            return
        if begun is not None and begun.shape_zyx != tiles.tile_zyx:
            begun = None
        ys, xs = own_parts(tiles.y), own_parts(tiles.x)
        sums: list[Tensor] = []
        for (y0, own_y), (x0, own_x) in product(ys, xs):
            _, ty, tx = tiles.tile_zyx
            part = Part(
                (own_y.start - y0, own_y.stop - y0),
                (own_x.start - x0, own_x.stop - x0),
                (
                    (own_y.start == 0, own_y.stop == shape_zyx[1]),
                    (own_x.start == 0, own_x.stop == shape_zyx[2]),
                ),
            )
            rows, columns = slice(y0, y0 + ty), slice(x0, x0 + tx)
            sweep = begun or self.take(tiles.tile_zyx)
            if begun is None:
                sweep.begin(pooled, part)
            start = sweep.num_given
            sweep.put(start, image((slice(start, shape_zyx[0]), rows, columns)))
            sweep.complete()
            yield (slice(0, shape_zyx[0]), own_y, own_x), part.of(sweep.output)
            totals = sweep.totals()
            sums = [a + b for a, b in zip(sums, totals, strict=True)] if sums else totals
            self.give_back(sweep)
        num_voxels = math.prod(shape_zyx)
        self.pooled = self._network.means(sums, num_voxels)

    def part(self, image: Tensor, pooled: Pooled | None = None) -> NDArray[np.float32]:
        """Restore a small normalised volume, or a part of one, in one piece.

        Parameters
        ----------
        image : Tensor, (Z, Y, X)
            float32, on the engine's device or the processor.
        pooled : list of Tensor or None
            What the attention looks at; the part itself without it.
        """
        nz, ny, nx = image.shape
        shape = nz, ny, nx
        if shape not in self._small:
            if len(self._small) >= _MOST_SMALL:
                self._small.clear()
            self._small[shape] = Sweep(self._network, shape)
        sweep = self._small[shape]
        sweep.begin(pooled)
        sweep.put(0, image.to(self.device))
        sweep.complete()
        return np.array(sweep.output.cpu().numpy())

    def take(self, shape_zyx: tuple[int, int, int]) -> Sweep:
        """Buffers for a volume or tile of this shape."""
        free = self._free.get(shape_zyx)
        if free:
            return free.pop()
        self._free.clear()  # of other shapes: the memory is for one
        return Sweep(self._network, shape_zyx)

    def has_room(self, shape_zyx: tuple[int, int, int], num_taken: int) -> bool:
        """Whether one more volume of this shape may be under way."""
        return not num_taken or (num_taken + 1) * self._nbytes(shape_zyx) <= self._budget

    def give_back(self, sweep: Sweep) -> None:
        """Keep buffers for the next volume."""
        self._free.setdefault(sweep.shape_zyx, []).append(sweep)

    def disagreement(self, one: Pooled, other: Pooled) -> float:
        """The largest difference that two poolings make to the weight of any channel, of 1."""
        return self._network.disagreement(one, other)

    def _blended(self, image: Image, tiles: Tiles) -> Iterator[tuple[Where, Tensor]]:
        sweep = self.take(tiles.tile_zyx)

        def one(where: Where) -> NDArray[np.float32]:
            sweep.begin()
            sweep.put(0, image(where))
            sweep.complete()
            return sweep.output.cpu().numpy()

        for rows, band in blend(tiles, one):
            yield (slice(0, tiles.z.size), rows, slice(0, tiles.x.size)), torch.from_numpy(band)
        self.pooled = None
        self.give_back(sweep)

    def _nbytes(self, shape_zyx: tuple[int, int, int]) -> int:
        return sweep_nbytes(
            self._architecture.num_channels, self._dtype.itemsize, shape_zyx, self.device
        )

    @property
    def _narrowest(self) -> int:
        return max(_NARROWEST, 4 * self._architecture.receptive_radius)
