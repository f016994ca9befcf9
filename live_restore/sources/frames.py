"""Files of identical exposures, from whatever program saved them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tifffile
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.sources.stacks.tiff import TIFF_SUFFIXES, Complaints

__all__ = ["find_frame_files", "read_frames"]


def read_frames(path: Path) -> NDArray[Any]:
    """All frames of a TIFF file, ``(N, Y, X)``, N = 1 for a single image, in the camera's own type.

    Whether the file calls its frames times, planes or pages doesn't matter.

    Raises
    ------
    SourceError
        Not a readable file of frames of one camera.
    """
    try:
        with Complaints() as complaints, tifffile.TiffFile(path) as tiff:
            everything = list(tiff.series)
            if not everything:
                raise SourceError(f"{path}: holds no image")
            first = everything[0]
            axes, shape = first.axes, first.shape
            # Three or four frames may look like the planes of a colour image; a real one has its last axis.
            if axes[-2:] != "YX" or first.dtype.kind not in "uif":
                raise SourceError(
                    f"{path}: axes {axes} of shape {shape}, type {first.dtype}; expected grey frames of one "
                    "camera. Save them as the camera gives them"
                )
            if len(everything) > 1 or dict(zip(axes, shape, strict=True)).get("C", 1) > 1:
                raise SourceError(
                    f"{path}: holds several channels, positions or sizes (axes {axes}, {len(everything)} "
                    "series); save one channel of one position to a file"
                )
            data: NDArray[Any] = first.asarray()
            complaints.check(path)
    except SourceError:
        raise
    except (
        tifffile.TiffFileError,
        ValueError,
        OSError,
        struct.error,
        KeyError,
        IndexError,
    ) as error:
        raise SourceError(
            f"{path}: not a readable TIFF file ({type(error).__name__}: {error}); save it again"
        ) from error
    return data.reshape(-1, *data.shape[-2:])


def find_frame_files(folder: Path, prefixes: Sequence[str]) -> dict[str, list[Path]]:
    """TIFF files in a folder and in those inside it, by the prefix of the first part of their path.

    ``dark_1.tif`` and Micro-Manager's ``dark_1/Default/img_…_z000.tif`` both are of "dark". Letters count
    alike, small or capital.
    """
    found: dict[str, list[Path]] = {prefix: [] for prefix in prefixes}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in TIFF_SUFFIXES:
            continue
        first = path.relative_to(folder).parts[0].lower()
        for prefix in prefixes:
            if first.startswith(prefix):
                found[prefix].append(path)
    return found
