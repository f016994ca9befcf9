"""What the kinds of files that hold whole z-stacks have in common, and which reader is whose."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from live_restore.errors import SourceError
from live_restore.sources.stacks.bioio_file import BIOIO_SUFFIXES, BioioStack
from live_restore.sources.stacks.ome_zarr import ZARR_SUFFIXES, OmeZarrStack
from live_restore.sources.stacks.tiff import TIFF_SUFFIXES, TiffStack
from live_restore.sources.stacks.zarr_metadata import ZARR_METADATA_FILES
from live_restore.volume import AcquisitionInfo, Plane, VoxelSize

__all__ = [
    "FOLDER_SUFFIXES",
    "Stack",
    "is_folder_stack",
    "open_stack",
    "stack_suffix",
    "stack_version",
]

FOLDER_SUFFIXES = ZARR_SUFFIXES
"""Suffixes of folders that are one "file" of stacks."""

_WITH_OME = (*TIFF_SUFFIXES, *ZARR_SUFFIXES)  # these may have ``.ome`` before them


class Stack(Protocol):
    """An open file of one or more z-stacks. Used from one thread; leaving it closes the file.

    Attributes
    ----------
    info : AcquisitionInfo
        Shape, names and voxel size; uint8, uint16 or float32 (other types are converted to float32).
    """

    info: AcquisitionInfo

    @property
    def num_times(self) -> int:
        """Time points in the file."""
        ...

    @property
    def has_gaps(self) -> bool:
        """Whether parts of it aren't there: they are empty, or they are still to be written.

        Looked up anew each time, so it is false once the last part has come. Planes of such parts
        are read as what the file calls empty, mostly zeros.

        Raises
        ------
        SourceError
            The file can't be read any more, or not yet.
        """
        ...

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
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


def stack_suffix(name: str) -> str | None:
    """The suffix by which a file or folder is taken for one that holds z-stacks, None if it isn't.

    ``cell.ome.tif`` gives ``.ome.tif``. Of `FOLDER_SUFFIXES` are folders, of all others files.
    """
    lower = name.lower()
    for whole in (*(".ome" + suffix for suffix in _WITH_OME), *_WITH_OME, *BIOIO_SUFFIXES):
        if lower.endswith(whole):
            return name[-len(whole) :]
    return None


def is_folder_stack(name: str) -> bool:
    """Whether a folder of this name is one file of stacks, to be taken as a whole."""
    return name.lower().endswith(FOLDER_SUFFIXES)


def stack_version(path: Path) -> str | None:
    """Tells a file or folder of stacks from the same one with other content, by size and time.

    Parameters
    ----------
    path : pathlib.Path
        A file, or a folder with one of `FOLDER_SUFFIXES`, whose metadata are looked at.

    Returns
    -------
    str or None
        None if it isn't there, or may not be looked at.
    """
    names = ZARR_METADATA_FILES if is_folder_stack(path.name) and path.is_dir() else ("",)
    for name in names:
        try:
            stat = (path / name).stat()
        except OSError:
            continue
        return f"{stat.st_size}-{stat.st_mtime_ns}"
    return None


def open_stack(path: Path, acquisition: str, voxel_size_um: VoxelSize | None = None) -> Stack:
    """A file or folder that holds z-stacks, open; close it by leaving it.

    Parameters
    ----------
    path : pathlib.Path
        The file or folder; its suffix tells its kind.
    acquisition : str
        Name to give to it.
    voxel_size_um : tuple of float, optional
        ``(z, y, x)`` for files that don't say theirs.

    Raises
    ------
    SourceError
        Not one or more whole z-stacks: what was found instead, and what to do.
    """
    lower = path.name.lower()
    if lower.endswith(TIFF_SUFFIXES):
        return TiffStack(path, acquisition, voxel_size_um)
    if lower.endswith(ZARR_SUFFIXES):
        return OmeZarrStack(path, acquisition, voxel_size_um)
    if lower.endswith(BIOIO_SUFFIXES):
        return BioioStack(path, acquisition, voxel_size_um)
    known = ", ".join((*TIFF_SUFFIXES, *ZARR_SUFFIXES, *BIOIO_SUFFIXES))
    raise SourceError(
        f"{path}: not a known kind of stack (expected {known}); export it as OME-TIFF or OME-Zarr"
    )
