"""Plain reads from a file that somebody else is writing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from live_restore.errors import SourceError

__all__ = ["DamagedFileError", "RawFile", "SeveralImagesError"]


class DamagedFileError(SourceError):
    """Bytes that no writer leaves, or in a way that can't be read: looking again doesn't help."""


class SeveralImagesError(DamagedFileError):
    """A file that should hold one image holds more.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    num_images : int, optional
        As far as it is known.
    """

    def __init__(self, path: Path, num_images: int | None = None) -> None:
        super().__init__(
            f"{path}: holds {num_images or 'several'} images, but by the pattern in [source] it is a "
            "single plane. If its files are whole stacks, leave the pattern out and they are taken when "
            "they are finished"
        )


class RawFile:
    """A file opened for unbuffered reading.

    It is opened for each look: a network share shows what others wrote only to those who open
    anew, and Windows lets nobody rename a folder in which a file is open.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Raises
    ------
    SourceError
        It is gone or can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # reading from a pipe might never end
                raise DamagedFileError(f"{path}: is no file, expected an image. Take it away")
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise SourceError(
                f"{path}: was there and is gone. Acquired files must stay where they are while they "
                "are restored; if it lies on a network share, see whether that is connected"
            ) from error
        except OSError as error:
            raise self._unreadable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """Bytes; says nothing of a file that its writer laid out beforehand."""
        try:
            return os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise self._unreadable(error) from error

    @property
    def stamp(self) -> tuple[int, int]:
        """Its size and its time of modification in ns: both may stand still while it is written."""
        try:
            status = os.fstat(self._file.fileno())
        except OSError as error:
            raise self._unreadable(error) from error
        return status.st_size, status.st_mtime_ns

    def read(self, offset: int, count: int) -> bytes:
        """The bytes from `offset` on; fewer than `count` where the file ends earlier.

        Raises
        ------
        SourceError
            The disk or the share doesn't deliver.
        """
        # What is asked for may come from damaged bytes: no memory for more than there is.
        count = min(count, self.size - offset)
        parts = []
        try:
            self._file.seek(offset)
            while count > 0 and (part := self._file.read(count)):
                parts.append(part)
                count -= len(part)
        except OSError as error:
            raise self._unreadable(error) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _unreadable(self, error: OSError) -> SourceError:
        return SourceError(
            f"{self.path}: can't be read ({error.strerror or error}). See to its permissions, and to "
            "the disk or share that it lies on"
        )
