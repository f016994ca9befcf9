"""Reads finished z-stacks in microscope makers' own files, with the reader plug-ins of bioio."""

from __future__ import annotations

import importlib
import logging
import math
import warnings
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.sources.stacks.contents import (
    channel_names,
    cut,
    num_planes_at_once,
    read_type,
    voxel_size,
    wanted,
)
from live_restore.sources.stacks.nd2_frames import num_frames_held
from live_restore.volume import AcquisitionInfo, Plane, VoxelSize

__all__ = ["BIOIO_SUFFIXES", "BioioStack"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Plugin:
    """A package that reads one maker's files.

    Attributes
    ----------
    package : str
        Name to install it by.
    is_our_extra : bool
        It comes with our extra; otherwise its licence makes it the user's own choice.
    reads_planes : bool
        It has to be told to read plane by plane where a stack is large.
    """

    package: str
    is_our_extra: bool = True
    reads_planes: bool = False

    @property
    def module(self) -> str:
        return self.package.replace("-", "_")


_DELTAVISION = _Plugin("bioio-dv")
_PLUGINS = {
    ".nd2": _Plugin("bioio-nd2"),
    ".lif": _Plugin("bioio-lif", reads_planes=True),
    ".dv": _DELTAVISION,
    ".r3d": _DELTAVISION,
    ".czi": _Plugin("bioio-czi", is_our_extra=False, reads_planes=True),
}
BIOIO_SUFFIXES = tuple(_PLUGINS)
"""File names that are opened."""

_LOUD = ("bioio", "bioio_base", "bioio_nd2", "bioio_lif", "bioio_dv", "bioio_czi", "nd2", "liffile")


class BioioStack:
    """An open file of a microscope's maker, of one or more z-stacks.

    Scenes are positions, as far as they are of one shape and type. The file is opened for each
    reading only, so it may be moved or deleted in between.

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

    Raises
    ------
    SourceError
        Not a whole z-stack, or what reads it isn't installed: what to do.
    """

    def __init__(
        self, path: Path, acquisition: str, voxel_size_um: VoxelSize | None = None
    ) -> None:
        self._path = path
        self._plugin = _PLUGINS[path.suffix.lower()]
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: the file is empty; save it again")
        reader = self._reader()
        with self._told("damaged, cut short or not of its suffix's kind"):
            self._image = self._opened(reader)
            self._open(reader, acquisition, voxel_size_um)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The plug-ins open the file for each reading and close it after; what they keep goes here.
        self._image = None

    @property
    def num_times(self) -> int:
        """Time points in the file."""
        return self._scenes[0].sizes["T"]

    @property
    def has_gaps(self) -> bool:
        """Whether an ND2 file lacks frames that it announces, as after a stop: zeros are read there.

        Always false for the others, whose readers fail where planes are missing.
        """
        if self._plugin.module != "bioio_nd2":
            return False
        with self._told("its map of frames can't be read"):
            num_held = num_frames_held(self._path)
        return num_held is not None and num_held < self._num_frames

    def planes(self, settled: Container[tuple[str, int, str]] = ()) -> Iterator[Plane]:
        """All planes, stack by stack, each read when it is asked for.

        A stack is read as a whole, a large one plane by plane.

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
            scene = self._scenes[p]
            step = self._step(scene)
            for z in range(0, num_planes, step):
                with self._told(f"planes from {z} of {key} can't be read"):
                    part = self._read(scene, time, c, slice(z, min(z + step, num_planes)))
                yield from cut(self.info, key, z, part)

    def _open(self, reader: Any, acquisition: str, voxel_size_um: VoxelSize | None) -> None:
        scenes = [self._scene(number) for number in range(len(self._image.scenes))]
        if not scenes:
            raise SourceError(f"{self._path}: holds no image")
        refusals = [_refusal(scene) for scene in scenes]
        if None not in refusals:
            raise SourceError(f"{self._path}: {refusals[0]}")
        first = scenes[refusals.index(None)]
        self._scenes = [scene for scene in scenes if scene.is_alike(first)]
        num_others = len(scenes) - len(self._scenes)
        if num_others:
            logger.warning(
                "%s: %d of its images are left alone, they aren't z-stacks of shape %s and type %s",
                *(self._path, num_others, tuple(first.sizes.values()), first.dtype),
            )
        if self._plugin.reads_planes and self._step(first) < first.sizes["Z"]:
            self._image = self._opened(reader, chunk_dims=["Y", "X"])
        self._image.set_scene(first.number)
        self._current = first.number
        self._num_frames = sum(scene.sizes["T"] * scene.sizes["Z"] for scene in scenes)
        self.info = AcquisitionInfo(
            acquisition=acquisition,
            shape_zyx=first.shape_zyx,
            dtype=read_type(first.dtype),
            voxel_size_um=_voxel(self._image, self._plugin) or voxel_size_um,
            channels=channel_names(_names(self._image.reader), first.sizes["C"]),
            positions=tuple(str(scene.number) for scene in self._scenes),
            num_times=first.sizes["T"],
            origin=str(self._path),
        )

    def _reader(self) -> Any:
        """The class that reads the file."""
        plugin = self._plugin
        with self._told(f"{plugin.package} can't be loaded"):
            try:
                importlib.import_module("bioio")
                return importlib.import_module(plugin.module).Reader
            except ImportError as error:
                raise SourceError(f"{self._path}: {_how_to_install(plugin)} ({error})") from error

    def _opened(self, reader: Any, **options: Any) -> Any:
        bioio = importlib.import_module("bioio")
        # Tiles aren't stitched: a stitched image is no longer what the camera saw.
        return bioio.BioImage(self._path, reader=reader, reconstruct_mosaic=False, **options)

    def _scene(self, number: int) -> _Scene:
        self._image.set_scene(number)
        dims = self._image.reader.dims
        sizes = dict(zip(dims.order, map(int, dims.shape), strict=True))
        return _Scene(
            number,
            {axis: sizes.pop(axis, 1) for axis in "TCZYX"},
            {axis: size for axis, size in sizes.items() if size > 1 or axis == "S"},
            np.dtype(self._image.dtype),
        )

    def _step(self, scene: _Scene) -> int:
        whole = num_planes_at_once(scene.shape_zyx, scene.dtype.itemsize)
        return whole if whole == scene.sizes["Z"] else 1

    def _read(self, scene: _Scene, time: int, channel: int, z: slice) -> NDArray[Any]:
        if self._current != scene.number:
            self._image.set_scene(scene.number)
            self._current = scene.number
        stack = self._image.get_image_dask_data("ZYX", T=time, C=channel)
        part: NDArray[Any] = np.asarray(stack[z].compute(scheduler="synchronous"))
        expected = (z.stop - z.start, *self.info.shape_zyx[1:])
        if part.shape != expected:
            raise SourceError(
                f"{self._path}: planes of shape {part.shape}, the file announces {expected}; save it "
                "again"
            )
        return part

    @contextmanager
    def _told(self, problem: str) -> Iterator[None]:
        """The libraries are kept quiet; whatever they raise is told as ours."""
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(
                f"{self._path}: {problem} ({type(error).__name__}: {error}); if it is still being "
                "written, wait, otherwise save it again or export it as OME-TIFF"
            ) from error


@dataclass(frozen=True, slots=True)
class _Scene:
    """One image of a file, and what is known of it without reading it."""

    number: int
    sizes: dict[str, int]  # of T, C, Z, Y, X
    others: dict[str, int]  # axes that z-stacks don't have
    dtype: np.dtype[Any]

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        return self.sizes["Z"], self.sizes["Y"], self.sizes["X"]

    def is_alike(self, other: Self) -> bool:
        """Whether both can be positions of one acquisition."""
        return (self.sizes, self.others, self.dtype) == (other.sizes, other.others, other.dtype)


def _how_to_install(plugin: _Plugin) -> str:
    install = 'pip install "live-restore[bioio]"'
    if plugin.is_our_extra:
        return f"reading it needs bioio and {plugin.package}; install them: {install}"
    return (
        f"reading it needs bioio and {plugin.package}. That plug-in is under the GPL and therefore not "
        f"installed by us; if this suits you: {install} {plugin.package}"
    )


def _voxel(image: Any, plugin: _Plugin) -> VoxelSize | None:
    """A file's voxel size in µm; Leica's z may run down, and Nikon's 1 is said where none is known."""
    size_um = [abs(v or math.nan) for v in image.physical_pixel_sizes]
    if plugin.module == "bioio_nd2" and size_um[1:] == [1.0, 1.0]:
        return None
    return voxel_size(size_um)


def _names(reader: Any) -> list[str]:
    """What a file calls its channels; numbers, and what bioio makes up, are no names."""
    names = [str(n) if isinstance(n, str) else "" for n in reader.channel_names or ()]
    return ["" if name.startswith("Channel:") else name for name in names]


def _refusal(scene: _Scene) -> str | None:
    """Why an image isn't z-stacks, None if it is."""
    sizes = {axis: size for axis, size in (scene.sizes | scene.others).items() if size > 1}
    told = ", ".join(f"{axis} {size}" for axis, size in sizes.items())
    if "S" in scene.others:
        return (
            f"a colour image (RGB; {told}), not a z-stack of one channel each; split the colours and "
            "save the raw channels"
        )
    if "M" in scene.others:
        return f"a mosaic of tiles ({told}); save its tiles, or the stitched image, as OME-TIFF"
    if scene.others:
        return (
            f"axes ({told}) can't be read as times, channels and planes; export the single stacks as "
            "OME-TIFF"
        )
    if scene.sizes["Z"] < 2:
        return f"a 2D image ({told}); a z-stack has at least two planes"
    if 0 in scene.sizes.values():
        return "an empty image; save the file again"
    if scene.dtype.kind not in "uif":
        return f"voxels of type {scene.dtype} can't be restored"
    return None
