"""High-dose stacks to push a model with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.matched import field_of_view, stack_volumes
from live_restore.sources.stacks.tiff import TIFF_SUFFIXES, TiffStack
from live_restore.volume import VoxelSize

__all__ = ["HighDose", "TruthKind", "read_stacks"]

TruthKind = Literal["unseen photons", "matched stacks", "simulation"]
"""What restored volumes are compared with: the photons of the same stack that the network wasn't shown, a
second stack of the same field, or the noise-free volume."""


@dataclass(frozen=True, slots=True, eq=False)
class HighDose:
    """One high-dose volume.

    Attributes
    ----------
    name : str
        For people.
    field_of_view : str
        Volumes of one field are no independent acquisitions.
    channel : str
        Name.
    counts : ndarray, (Z, Y, X)
        As the camera gave.
    truth : ndarray or None
        Counts of a second stack of the same field, or of the noise-free volume.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``.
    """

    name: str
    field_of_view: str
    channel: str
    counts: NDArray[Any]
    truth: NDArray[Any] | None
    voxel_size_um: VoxelSize | None


def read_stacks(
    paths: Iterable[Path],
    truth: Path | None = None,
    voxel_size_um: VoxelSize | None = None,
) -> Iterator[HighDose]:
    """Each volume of TIFF files, read when it is asked for.

    Parameters
    ----------
    paths : iterable of pathlib.Path
        Files and folders.
    truth : pathlib.Path, optional
        Folder of stacks of the same names.
    voxel_size_um : tuple of float, optional
        For files that don't say theirs.

    Raises
    ------
    SourceError
        There are none, one can't be read, or lacks its truth.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise SourceError(f"no TIFF file in {', '.join(map(str, paths))}: give high-dose z-stacks")
    for file in files:
        with ExitStack() as opened:
            stack = opened.enter_context(TiffStack(file, file.stem, voxel_size_um))
            matching = None
            if truth is not None:
                partner = truth / file.name if truth.is_dir() else truth
                if not partner.is_file():
                    raise SourceError(
                        f"{partner}: no such file; each stack needs its truth, of the same name"
                    )
                matching = opened.enter_context(TiffStack(partner, partner.stem, voxel_size_um))
                if matching.info.shape_zyx != stack.info.shape_zyx:
                    raise SourceError(
                        f"{file} and {partner} differ in shape: {stack.info.shape_zyx} and "
                        f"{matching.info.shape_zyx}"
                    )
            truths = stack_volumes(matching) if matching else None
            for key, counts in stack_volumes(stack):
                true = next(truths, (None, None))[1] if truths else None
                several = len(stack.info.channels) > 1 or stack.num_times > 1
                name = f"{file.stem} {key.time} {key.channel}" if several else file.stem
                yield HighDose(
                    name,
                    f"{field_of_view(file.stem)} {key.position}",
                    key.channel if len(stack.info.channels) > 1 else "",
                    counts,
                    true,
                    stack.info.voxel_size_um,
                )


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(one for one in path.rglob("*") if one.suffix.lower() in TIFF_SUFFIXES)
    if not path.is_file():
        raise SourceError(f"{path}: no such file or folder")
    return [path]
