"""What the kinds of files that hold whole z-stacks have in common, and which reader is whose."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from live_restore.sources.stacks.tiff import TIFF_SUFFIXES, TiffStack
from live_restore.volume import AcquisitionInfo, Plane, VoxelSize

__all__ = ["Stack", "open_stack", "stack_suffix"]


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
    """The suffix by which a file is taken for one that holds z-stacks, None where there is none.

    ``cell.ome.tif`` gives ``.ome.tif``.
    """
    lower = name.lower()
    for suffix in TIFF_SUFFIXES:
        for whole in (".ome" + suffix, suffix):
            if lower.endswith(whole):
                return name[-len(whole) :]
    return None


def open_stack(path: Path, acquisition: str, voxel_size_um: VoxelSize | None = None) -> Stack:
    """A file that holds z-stacks, open; close it by leaving it.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    acquisition : str
        Name to give to it.
    voxel_size_um : tuple of float, optional
        ``(z, y, x)`` for files that don't say theirs.

    Raises
    ------
    SourceError
        Not one or more whole z-stacks: what was found instead, and what to do.
    """
    return TiffStack(path, acquisition, voxel_size_um)
