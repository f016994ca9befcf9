"""The index file of an NDTiff dataset, read as far as it is written."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from live_restore.sources.layouts.metadata import parse_object
from live_restore.sources.layouts.raw_file import RawFile

__all__ = ["NDTiffIndex"]

_BYTES_PER_READ = 2**13  # some 50 records; one is never longer
# Pixels' offset, width, height, type and compression, then metadata's offset, length, compression.
_NUMBERS = struct.Struct("<8I")


class NDTiffIndex:
    """Tells the axes of images, by file and by where their pixels begin.

    Micro-Manager's own NDTiff files (unlike those of its acquisition engines and of pycromanager)
    name an image's axes nowhere else. Java writes it image by image, into a file of zeros;
    pycromanager holds it back.

    Parameters
    ----------
    path : pathlib.Path
        The file, which may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._axes: dict[tuple[str, int], dict[str, Any]] = {}

    def take(self, file_name: str, pixels_at: int) -> dict[str, Any] | None:
        """An image's axes, given once; None as long as they aren't written.

        Raises
        ------
        SourceError
            The index can't be read.
        """
        place = file_name, pixels_at
        if place not in self._axes and os.path.exists(self._path):  # noqa: PTH110 - never raises
            with RawFile(self._path) as file:
                while self._read(file) and place not in self._axes:
                    pass
        return self._axes.pop(place, None)

    def _read(self, file: RawFile) -> bool:
        """Take in some more records; whether there was one."""
        raw = file.read(self._offset, _BYTES_PER_READ)
        at = 0
        while (end := self._take_in(raw, at)) is not None:
            at = end
        self._offset += at
        return at > 0

    def _take_in(self, raw: bytes, at: int) -> int | None:
        """Take in the record at a byte, and give the byte after it; None as long as it isn't whole."""
        texts = []
        for _ in ("axes", "file name"):
            nbytes = int.from_bytes(raw[at : at + 4], "little")
            text = raw[at + 4 : at + 4 + nbytes]
            if not nbytes or len(text) < nbytes:
                return None
            texts.append(text)
            at += 4 + nbytes
        axes = parse_object(texts[0])
        if axes is None or len(raw) < at + _NUMBERS.size:
            return None
        pixels_at, *_, metadata_at, metadata_bytes, _ = _NUMBERS.unpack_from(raw, at)
        if not (pixels_at and metadata_at and metadata_bytes):
            return None
        self._axes[texts[1].decode(errors="replace"), pixels_at] = axes
        return at + _NUMBERS.size
