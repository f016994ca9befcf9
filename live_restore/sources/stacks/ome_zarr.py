"""Reads finished OME-Zarr z-stacks, 0.4 and 0.5: single images and bioformats2raw's layout."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Container, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.sources.stacks.contents import (
    channel_names,
    cut,
    num_planes_at_once,
    read_type,
    wanted,
)
from live_restore.sources.stacks.zarr_chunks import has_gaps
from live_restore.sources.stacks.zarr_metadata import OmeZarrImage, images
from live_restore.volume import AcquisitionInfo, Plane, VoxelSize

if TYPE_CHECKING:
    import zarr

__all__ = ["ZARR_SUFFIXES", "OmeZarrStack"]

logger = logging.getLogger(__name__)

ZARR_SUFFIXES = (".zarr",)
"""Names of folders that are opened."""

_Result = TypeVar("_Result")


class OmeZarrStack:
    """An open OME-Zarr folder of one or more z-stacks.

    The images of bioformats2raw's layout are positions, as far as they are of one shape and type.
    zarr's own background threads aren't started: what decodes runs here and ends with the stack.

    Parameters
    ----------
    path : pathlib.Path
        The folder.
    acquisition : str
        Name to give to it.
    voxel_size_um : tuple of float, optional
        ``(z, y, x)`` for folders that don't say theirs.

    Attributes
    ----------
    info : AcquisitionInfo
        Shape, names and voxel size; uint8, uint16 or float32 (other types are converted to float32).

    Raises
    ------
    SourceError
        Not a whole z-stack: what was found instead, and what to do.
    """

    def __init__(
        self, path: Path, acquisition: str, voxel_size_um: VoxelSize | None = None
    ) -> None:
        self._path = path
        self._runner = asyncio.Runner()
        try:
            self._open(acquisition, voxel_size_um)
        except BaseException:
            self._runner.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.close()

    @property
    def num_times(self) -> int:
        """Time points in the folder."""
        return self._images[0].size("t")

    @property
    def has_gaps(self) -> bool:
        """Whether chunks aren't there: they hold nothing but the fill value, or are yet to come."""
        return any(has_gaps(image.found.array) for image in self._images)

    def planes(self, settled: Container[tuple[str, int, str]] = ()) -> Iterator[Plane]:
        """All planes, stack by stack, each read when it is asked for.

        A stack is decoded as a whole, a large one by as many planes as share chunks.

        Parameters
        ----------
        settled : container of tuple
            Position, time and channel of stacks that aren't wanted.

        Raises
        ------
        SourceError
            A plane can't be read.
        """
        num_planes = self.info.shape_zyx[0]
        for (p, time, c), key in wanted(self.info, self.num_times, settled):
            image = self._images[p]
            step = num_planes_at_once(self.info.shape_zyx, image.dtype.itemsize, image.chunk_planes)
            for z in range(0, num_planes, step):
                part = self._run(
                    image.read(time, c, slice(z, min(z + step, num_planes))),
                    f"planes from {z} of {key} can't be read",
                )
                yield from cut(self.info, key, z, part)

    def _open(self, acquisition: str, voxel_size_um: VoxelSize | None) -> None:
        stacks, refusals = [], []
        for found in images(self._path):
            if not (found.array / _array_metadata(found)).is_file():
                raise SourceError(
                    f"{self._path}: the array {found.array.relative_to(self._path)} that it announces "
                    "isn't there; if it is still being written, wait, otherwise write it again"
                )
            array = self._run(_open_array(found), f"array {found.array.name} can't be opened")
            refusal = _refusal(found, array.shape, array.dtype)
            if refusal:
                refusals.append(refusal)
            else:
                stacks.append(_Image(found, array))
        if not stacks:
            raise SourceError(f"{self._path}: {refusals[0]}")
        first = stacks[0]
        self._images = [s for s in stacks if s.is_alike(first)]
        num_others = len(stacks) + len(refusals) - len(self._images)
        if num_others:
            logger.warning(
                "%s: %d of its images are left alone, they aren't z-stacks of shape %s and type %s",
                *(self._path, num_others, first.array.shape, first.dtype),
            )
        self.info = AcquisitionInfo(
            acquisition=acquisition,
            shape_zyx=(first.size("z"), first.size("y"), first.size("x")),
            dtype=read_type(first.dtype),
            voxel_size_um=first.found.voxel_size_um or voxel_size_um,
            channels=channel_names(first.found.channels, first.size("c")),
            positions=tuple(image.found.name for image in self._images),
            num_times=first.size("t"),
            origin=str(self._path),
        )

    def _run(self, reading: Coroutine[Any, Any, _Result], problem: str) -> _Result:
        """Wait for zarr; whatever it raises, and it raises nearly anything, is told as ours."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._runner.run(reading)
        except Exception as error:
            raise SourceError(
                f"{self._path}: {problem} ({type(error).__name__}: {error}); if it is still being "
                "written, wait, otherwise write it again"
            ) from error
        finally:
            reading.close()  # one that couldn't even begin would complain later


@dataclass(frozen=True, slots=True)
class _Image:
    """An array and what the metadata tell of it."""

    found: OmeZarrImage
    array: zarr.AsyncArray[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    @property
    def chunk_planes(self) -> int:
        """Planes that are decoded together."""
        return int(self.array.chunks[self.found.axes.index("z")])

    def size(self, axis: str) -> int:
        axes = self.found.axes
        return int(self.array.shape[axes.index(axis)]) if axis in axes else 1

    def is_alike(self, other: Self) -> bool:
        """Whether both can be positions of one acquisition."""
        same_shape = all(self.size(axis) == other.size(axis) for axis in "tczyx")
        return same_shape and self.dtype == other.dtype

    async def read(self, time: int, channel: int, z: slice) -> NDArray[Any]:
        """A part of one stack, as (Z, Y, X)."""
        places: dict[str, int | slice] = {"t": time, "c": channel, "z": z}
        part = np.asarray(
            await self.array.getitem(tuple(places.get(a, slice(None)) for a in self.found.axes))
        )
        left = [axis for axis in self.found.axes if axis in "zyx"]
        return part.transpose([left.index(axis) for axis in "zyx"])


def _array_metadata(found: OmeZarrImage) -> str:
    return "zarr.json" if found.zarr_format == 3 else ".zarray"


async def _open_array(found: OmeZarrImage) -> zarr.AsyncArray[Any]:
    import zarr.api.asynchronous

    return await zarr.api.asynchronous.open_array(
        store=found.array, mode="r", zarr_format=3 if found.zarr_format == 3 else 2
    )


def _refusal(found: OmeZarrImage, shape: tuple[int, ...], dtype: Any) -> str | None:
    """Why an image isn't z-stacks, None if it is."""
    axes = found.axes
    told = f"axes ({', '.join(axes)}), shape {shape}"
    if {"s", "rgb", "rgba"} & set(axes):
        return f"a colour image ({told}); split the colours and save the raw channels"
    if len(axes) != len(shape):
        return f"{len(axes)} axes for an array of shape {shape}; write it again"
    if len(set(axes)) < len(axes) or not set(axes) <= set("tczyx"):
        return f"{told} can't be read as times, channels and planes; name them of t, c, z, y, x"
    if not {"y", "x"} <= set(axes):
        return f"{told} are not of a z-stack of planes"
    sizes = dict(zip(axes, shape, strict=True))
    if sizes.get("z", 1) < 2:
        return (
            f"a 2D image ({told}); a z-stack has at least two planes. If its time or channel axis is "
            "really z, save it with the right axes"
        )
    if 0 in shape:
        return f"an empty array ({told}); wait until it is written, or write it again"
    if np.dtype(dtype).kind not in "uif":
        return f"voxels of type {dtype} can't be restored; save them as integers or floats"
    return None
