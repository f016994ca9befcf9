"""Counts the frames that an ND2 file holds; its readers give zeros for those it lacks."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

__all__ = ["num_frames_held"]

_SIGNATURE = b"ND2 CHUNK MAP SIGNATURE 0000001!"
_END = struct.Struct("<32sQ")  # the file's last bytes: this signature, and where the map begins


def num_frames_held(path: Path) -> int | None:
    """Frames that are listed in the map at the file's end.

    Returns
    -------
    int or None
        None for a file that has no such map, as the oldest.

    Raises
    ------
    OSError
        It can't be read: close what holds it.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) - _END.size
        file.seek(max(0, end))
        last = file.read()
        if len(last) < _END.size or not last.startswith(_SIGNATURE):
            return None
        file.seek(_END.unpack(last)[1])
        return len(set(re.findall(rb"ImageDataSeq\|(\d+)!", file.read())))
