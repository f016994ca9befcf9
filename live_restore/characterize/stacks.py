"""High-dose stacks to push a model with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.matched import field_of_view, stack_volumes
from live_restore.sources.stacks.tiff import TIFF_SUFFIXES, TiffStack
from live_restore.volume import VoxelSize

__all__ = ["HighDose", "Label", "StackFile", "TruthKind", "read_stacks", "survey", "truth_kind"]

TruthKind = Literal["unseen photons", "matched stacks", "simulation"]
"""What restored volumes are compared with: the photons of the same stack that the network wasn't shown, a
second stack of the same field, or the noise-free volume."""

_OME = re.compile(r"(?i)\.ome$")
_VOXEL_TOLERANCE = 0.01
_LISTED = 4


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of a stack without its voxels; see `HighDose`.

    Attributes
    ----------
    name, field_of_view, channel : str
        As there.
    shape_zyx : tuple of int
        Planes, rows, columns.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``.
    """

    name: str
    field_of_view: str
    channel: str
    shape_zyx: tuple[int, int, int]
    voxel_size_um: VoxelSize | None


@dataclass(frozen=True, slots=True, eq=False)
class HighDose:
    """One high-dose volume.

    Attributes
    ----------
    name : str
        For people; no two of a run have the same.
    field_of_view : str
        Volumes of one field are no independent acquisitions.
    channel : str
        Name.
    counts : ndarray, (Z, Y, X)
        As the camera gave.
    truth : ndarray or None
        Counts of a second stack of the same field, or, in float32, of the noise-free volume.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``.
    """

    name: str
    field_of_view: str
    channel: str
    counts: NDArray[Any]
    truth: NDArray[Any] | None
    voxel_size_um: VoxelSize | None

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Planes, rows, columns."""
        nz, ny, nx = self.counts.shape
        return nz, ny, nx

    @property
    def label(self) -> Label:
        """The same without its voxels."""
        return Label(
            self.name, self.field_of_view, self.channel, self.shape_zyx, self.voxel_size_um
        )


@dataclass(frozen=True, slots=True)
class StackFile:
    """A file, before its voxels are read.

    Attributes
    ----------
    path : pathlib.Path
        Where.
    name : str
        Path below the folder that was given, without suffix.
    shape_zyx : tuple of int
        Of each volume.
    dtype : numpy.dtype
        Of the counts.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``.
    channels : tuple of str
        Names.
    num_volumes : int
        In it, of all channels.
    """

    path: Path
    name: str
    shape_zyx: tuple[int, int, int]
    dtype: np.dtype[Any]
    voxel_size_um: VoxelSize | None
    channels: tuple[str, ...]
    num_volumes: int


def survey(
    paths: Iterable[Path],
    truth: Path | None = None,
    voxel_size_um: VoxelSize | None = None,
    channel: str | None = None,
) -> list[StackFile]:
    """What there is to read; raises what `read_stacks` would raise of files, and of voxels that differ.

    Parameters
    ----------
    paths, truth, voxel_size_um, channel
        As for `read_stacks`.

    Raises
    ------
    SourceError
        As there; or the files are of different voxel sizes, which one envelope can't be for.
    """
    found = []
    for path, name in _named_files(paths, truth):
        with TiffStack(path, name, voxel_size_um) as stack:
            info = stack.info
            names = info.channels
            if channel is not None and len(names) > 1 and channel not in names:
                raise SourceError(
                    f"{path}: has no channel {channel}, only {', '.join(names)}; name one of them"
                )
            num = stack.num_times * len(info.positions)
            num *= 1 if channel is not None else len(names)
            voxel = info.voxel_size_um
            found.append(StackFile(path, name, info.shape_zyx, info.dtype, voxel, names, num))
    _check_voxels(found)
    return found


def truth_kind(truth: Path | None) -> TruthKind:
    """What volumes of a folder or file are: whole counts come from a camera, others from a simulation.

    Raises
    ------
    SourceError
        There is no TIFF file.
    """
    if truth is None:
        return "unseen photons"
    path = _files(truth)
    if not path:
        raise SourceError(f"{truth}: holds no TIFF file")
    with TiffStack(path[0], path[0].stem) as stack:
        return "simulation" if stack.info.dtype.kind == "f" else "matched stacks"


def read_stacks(
    paths: Iterable[Path],
    truth: Path | None = None,
    voxel_size_um: VoxelSize | None = None,
    channel: str | None = None,
) -> Iterator[HighDose]:
    """Each volume of TIFF files, read when it is asked for.

    Parameters
    ----------
    paths : iterable of pathlib.Path
        Files and folders.
    truth : pathlib.Path, optional
        Folder of stacks of the same names: whole counts of a second exposure, or the noise-free volume in
        float32.
    voxel_size_um : tuple of float, optional
        For files that don't say theirs.
    channel : str, optional
        The only one that is wanted of files that hold several; the name of the others'.

    Raises
    ------
    SourceError
        There are none, one can't be read, or lacks its truth.
    """
    for file, name in _named_files(paths, truth):
        with ExitStack() as opened:
            stack = opened.enter_context(TiffStack(file, name, voxel_size_um))
            matching = None
            if truth is not None:
                matching = opened.enter_context(_partner(file, stack, truth, voxel_size_um))
            truths = stack_volumes(matching) if matching else None
            several = len(stack.info.channels) > 1
            for key, counts in stack_volumes(stack):
                true = next(truths, (None, None))[1] if truths else None
                if several and channel not in (None, key.channel):
                    continue
                words, where = [name], [field_of_view(name)]
                if len(stack.info.positions) > 1:
                    words.append(f"position {key.position}")
                    where.append(f"position {key.position}")
                words += [f"time {key.time}"] * (stack.num_times > 1)
                words += [key.channel] * several
                yield HighDose(
                    " ".join(words),
                    " ".join(where),
                    key.channel if several else channel or "",
                    counts,
                    true,
                    stack.info.voxel_size_um,
                )


def _partner(
    file: Path, stack: TiffStack, truth: Path, voxel_size_um: VoxelSize | None
) -> TiffStack:
    partner = truth / file.name if truth.is_dir() else truth
    if not partner.is_file():
        raise SourceError(f"{partner}: no such file; each stack needs its truth, of the same name")
    matching = TiffStack(partner, partner.stem, voxel_size_um)
    if matching.info.shape_zyx != stack.info.shape_zyx:
        raise SourceError(
            f"{file} and {partner} differ in shape: {stack.info.shape_zyx} and {matching.info.shape_zyx}"
        )
    return matching


def _named_files(paths: Iterable[Path], truth: Path | None) -> list[tuple[Path, str]]:
    """Files with names of their own, each once, those of the truth left out."""
    paths = list(paths)
    taken = {one.resolve() for one in _files(truth)} if truth is not None else set()
    found: list[tuple[Path, str]] = []
    names: set[str] = set()
    for path in paths:
        for file in _files(path):
            if file.resolve() in taken:
                continue
            taken.add(file.resolve())
            relative = file.relative_to(path) if path.is_dir() else Path(file.name)
            name = relative.with_name(_OME.sub("", relative.stem) or relative.name).as_posix()
            if name in names:  # of another folder
                name = file.with_name(Path(name).name).as_posix()
            names.add(name)
            found.append((file, name))
    if not found:
        raise SourceError(f"no TIFF file in {', '.join(map(str, paths))}: give high-dose z-stacks")
    return found


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(one for one in path.rglob("*") if one.suffix.lower() in TIFF_SUFFIXES)
    if not path.is_file():
        raise SourceError(f"{path}: no such file or folder")
    return [path]


def _check_voxels(files: list[StackFile]) -> None:
    groups: list[list[StackFile]] = []
    for file in files:
        for group in groups:
            if _is_alike(file.voxel_size_um, group[0].voxel_size_um):
                group.append(file)
                break
        else:
            groups.append([file])
    if len(groups) > 1:
        listed = "; ".join(
            f"{_um(group[0].voxel_size_um)}: {', '.join(one.name for one in group[:_LISTED])}"
            + (f" and {len(group) - _LISTED} more" if len(group) > _LISTED else "")
            for group in groups
        )
        raise SourceError(
            f"the stacks' voxels differ ({listed}): an envelope is for one magnification and z-step. "
            "Characterize them one after the other"
        )


def _is_alike(one: VoxelSize | None, other: VoxelSize | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=_VOXEL_TOLERANCE, atol=0))


def _um(voxel: VoxelSize | None) -> str:
    return " x ".join(f"{one:.4g}" for one in voxel) + " µm" if voxel else "unknown voxel size"
