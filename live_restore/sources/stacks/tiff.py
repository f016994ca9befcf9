"""Reads finished TIFF z-stacks: OME-TIFF, ImageJ hyperstacks and plain multi-page files."""

from __future__ import annotations

import logging
import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.sources.stacks.contents import (
    MICROMETRES,
    channel_names,
    read_type,
    voxel_size,
    wanted,
)
from live_restore.volume import AcquisitionInfo, Plane, VoxelSize

__all__ = ["TIFF_SUFFIXES", "Complaints", "TiffStack"]

TIFF_SUFFIXES = (".tif", ".tiff", ".btf")
"""File names that are opened."""

_AXES_IN_ORDER = "TCZYX"


class TiffStack:
    """An open TIFF file of one or more z-stacks.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    acquisition : str
        Name to give to it.
    voxel_size_um : tuple of float, optional
        ``(z, y, x)`` for files that don't say theirs.

    Attributes
    ----------
    info : AcquisitionInfo
        Shape, names and voxel size; uint8, uint16 or float32 (other types are converted to float32).
    has_gaps : bool
        False: a file that lacks planes isn't opened.

    Raises
    ------
    SourceError
        Not a whole z-stack: what was found instead, and what to do.
    """

    has_gaps = False

    def __init__(
        self, path: Path, acquisition: str, voxel_size_um: VoxelSize | None = None
    ) -> None:
        self._path = path
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: the file is empty; save it again")
        with Complaints() as complaints:
            try:
                self._tiff = tifffile.TiffFile(path)
            except (tifffile.TiffFileError, ValueError, OSError, struct.error) as error:
                raise SourceError(f"{path}: not a readable TIFF file ({error})") from error
            try:
                self._open(acquisition, voxel_size_um)
                complaints.check(path)
            except SourceError:
                self._tiff.close()
                raise
            except Exception as error:  # tifffile raises nearly anything on damaged files
                self._tiff.close()
                raise SourceError(
                    f"{path}: damaged or cut short ({type(error).__name__}: {error}); save it again"
                ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._tiff.close()

    @property
    def num_times(self) -> int:
        """Time points in the file."""
        return self._layout.num_times

    def planes(self, settled: Container[tuple[str, int, str]] = ()) -> Iterator[Plane]:
        """All planes, stack by stack, each read when it is asked for.

        Parameters
        ----------
        settled : container of tuple
            Position, time and channel of stacks that aren't wanted.

        Raises
        ------
        SourceError
            A plane can't be read.
        """
        info = self.info
        for (p, time, c), key in wanted(info, self.num_times, settled):
            for z in range(info.shape_zyx[0]):
                yield Plane(key, z, self._read(self._series[p], (time, c, z)))

    def _open(self, acquisition: str, voxel_size_um: VoxelSize | None) -> None:
        everything = list(self._tiff.series)
        if not everything:
            raise SourceError(f"{self._path}: holds no image")
        first = everything[0]
        announced = (self._tiff.imagej_metadata or {}).get("images", 1)
        held = int(np.prod(first.shape[:-2]))
        if held < announced:
            raise SourceError(
                f"{self._path}: cut short, only {held} of {announced} planes are there; copy or save "
                "it again"
            )
        self._series = [s for s in everything if (s.shape, s.dtype) == (first.shape, first.dtype)]
        if len(self._series) < len(everything) and not self._tiff.is_ome:
            raise SourceError(
                f"{self._path}: holds images of different shapes, the first {first.shape}; a z-stack's "
                "planes are all alike"
            )
        self._layout = _Layout.of(first, self._path)
        for series in self._series:
            _check_whole(series, self._tiff, self._path)
        num_positions = len(self._series)
        names, voxel = _metadata(self._tiff)
        self.info = AcquisitionInfo(
            acquisition=acquisition,
            shape_zyx=self._layout.shape_zyx,
            dtype=read_type(first.dtype),
            voxel_size_um=voxel or voxel_size_um,
            channels=channel_names(names, self._layout.num_channels),
            positions=tuple(str(p) for p in range(num_positions)),
            num_times=self._layout.num_times,
            origin=str(self._path),
        )

    def _read(self, series: tifffile.TiffPageSeries, tcz: tuple[int, int, int]) -> NDArray[Any]:
        index = self._layout.page_index(tcz)
        try:
            if series.dataoffset is not None:
                _, ny, nx = self.info.shape_zyx
                size = ny * nx * series.dtype.itemsize
                raw = self._tiff.filehandle.read_array(
                    series.dtype.newbyteorder(self._tiff.byteorder),
                    count=ny * nx,
                    offset=series.dataoffset + index * size,
                )
                plane = raw.reshape(ny, nx)
            else:
                page = series.pages[index]
                if page is None:
                    raise SourceError("it is missing")
                plane = page.asarray()
        except Exception as error:
            raise SourceError(
                f"{self._path}: plane {index} can't be read ({type(error).__name__}: {error}); "
                "save the file again; if it is compressed, pip install imagecodecs, or save it without"
            ) from error
        plane = np.ascontiguousarray(plane.reshape(self.info.shape_zyx[1:]), dtype=self.info.dtype)
        plane.flags.writeable = False
        return plane


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a file's pages map to time, channel and z."""

    axes: str  # the leading ones, in the file's order, a letter of T, C, Z each
    sizes: tuple[int, ...]
    shape_zyx: tuple[int, int, int]
    num_times: int
    num_channels: int

    @classmethod
    def of(cls, series: tifffile.TiffPageSeries, path: Path) -> Self:
        axes, shape = series.axes, series.shape
        if series.dtype.kind not in "uif":
            raise SourceError(f"{path}: voxels of type {series.dtype} can't be restored")
        if "S" in axes:
            raise SourceError(
                f"{path}: a colour image (RGB), not a z-stack of one channel each; split the colours "
                "and save the raw channels"
            )
        if axes[-2:] != "YX":
            raise SourceError(f"{path}: axes {axes} are not of a z-stack of planes")
        leading = [(a, n) for a, n in zip(axes[:-2], shape[:-2], strict=True) if n > 1]
        # Files that don't name their page axis: a multi-page file is taken for a z-stack.
        named = {a for a, _ in leading}
        leading = [("Z" if a in "IQ" and "Z" not in named else a, n) for a, n in leading]
        letters = "".join(a for a, _ in leading)
        sizes = dict(leading)
        if sizes.get("Z", 1) < 2:
            raise SourceError(
                f"{path}: a 2D image (axes {axes}, shape {shape}); a z-stack has at least two planes. "
                "If its time or channel axis is really z, save it with the right axes"
            )
        if len(sizes) != len(leading) or not set(letters) <= set(_AXES_IN_ORDER):
            raise SourceError(
                f"{path}: axes {axes} of shape {shape} can't be read as times, channels and planes"
            )
        return cls(
            letters,
            tuple(n for _, n in leading),
            (sizes["Z"], shape[-2], shape[-1]),
            sizes.get("T", 1),
            sizes.get("C", 1),
        )

    def page_index(self, tcz: tuple[int, int, int]) -> int:
        """Number of a plane in the file's own order."""
        place = dict(zip("TCZ", tcz, strict=True))
        index = 0
        for axis, size in zip(self.axes, self.sizes, strict=True):
            index = index * size + place[axis]
        return index


class Complaints(logging.Handler):
    """What tifffile logs in this thread while a file is opened: it tells of damage only there."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._heard: list[str] = []

    def __enter__(self) -> Self:
        logging.getLogger("tifffile").addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        logging.getLogger("tifffile").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Remember what was logged."""
        self._heard.append(record.getMessage())

    def check(self, path: Path) -> None:
        """Raise if anything was heard."""
        if self._heard:
            raise SourceError(f"{path}: damaged or cut short ({self._heard[0]}); save it again")


def _check_whole(series: tifffile.TiffPageSeries, tiff: tifffile.TiffFile, path: Path) -> None:
    """Each plane that the file announces is in it."""
    size = tiff.filehandle.size
    if series.dataoffset is not None:
        end = series.dataoffset + series.nbytes
    else:
        # The last page first: a file that is cut short lacks it.
        end = 0
        for page in reversed(series.pages):
            if page is None:
                raise SourceError(f"{path}: a plane that the file announces is missing")
            ends = zip(page.dataoffsets, page.databytecounts, strict=True)
            end = max([end, *(offset + count for offset, count in ends)])
    if end > size:
        raise SourceError(
            f"{path}: cut short, only {size} of {end} bytes are there; copy or save it again"
        )


def _metadata(tiff: tifffile.TiffFile) -> tuple[tuple[str, ...], VoxelSize | None]:
    """Channel names and voxel size, as far as the file tells."""
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_metadata(tiff.ome_metadata)
    if tiff.is_imagej:
        return (), _imagej_voxel(tiff)
    return (), None


def _ome_metadata(xml: str) -> tuple[tuple[str, ...], VoxelSize | None]:
    # Today's expat refuses entities that grow without bound.
    pixels = ElementTree.fromstring(xml).find("{*}Image/{*}Pixels")  # noqa: S314
    if pixels is None:
        return (), None
    names = tuple(channel.get("Name", "") for channel in pixels.findall("{*}Channel"))
    voxel = []
    for axis in "ZYX":
        size = float(pixels.get(f"PhysicalSize{axis}", "nan"))
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        voxel.append(size * MICROMETRES.get(unit.lower(), float("nan")))
    return names, voxel_size(voxel)


def _imagej_voxel(tiff: tifffile.TiffFile) -> VoxelSize | None:
    metadata = tiff.imagej_metadata or {}
    unit = MICROMETRES.get(str(metadata.get("unit", "")).lower(), float("nan"))
    voxel = [float(metadata.get("spacing", "nan")) * unit]
    for name in ("YResolution", "XResolution"):
        tag = tiff.pages.first.tags.get(name)
        pixels, units = tag.value if tag is not None else (0, 1)
        voxel.append(units / pixels * unit if pixels else float("nan"))
    return voxel_size(voxel)
