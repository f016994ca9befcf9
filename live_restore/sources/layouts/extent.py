"""Where the only image of a TIFF file lies in it, by whatever program it was written."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from live_restore.errors import SourceError
from live_restore.sources.layouts.calibration import imagej_entry, read_description
from live_restore.sources.layouts.ifd import Directory, read_first_directory
from live_restore.sources.layouts.plane import LARGEST_PLANE_BYTES, EncodedPixels, Pixels
from live_restore.sources.layouts.raw_file import DamagedFileError, RawFile, SeveralImagesError

__all__ = ["Extent", "read_extent"]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION = 256, 257, 258, 259
_STRIPS, _TILES = (273, 279), (324, 325)  # tags of their offsets and byte counts
_SAMPLES, _PLANAR, _SAMPLE_FORMAT = 277, 284, 339
_ENTRY_BYTES = 12
_KINDS = {
    (sample_format, 8 * nbytes): f"{letter}{nbytes}"
    for sample_format, letter, sizes in (
        (1, "u", (1, 2, 4, 8)),
        (2, "i", (1, 2, 4, 8)),
        (3, "f", (2, 4, 8)),
    )
    for nbytes in sizes
}
_BIG_TIFF = (b"II+\0", b"MM\0+")


@dataclass(frozen=True, slots=True)
class Extent:
    """What of a file is needed to read its image; all of it lies in the file.

    Attributes
    ----------
    pixels : Pixels or EncodedPixels
        The image.
    end : int
        Byte after the last that is needed to read it.
    unit : int
        Bytes of what comes last: a pixel's value, an entry of the directory.
    directory : Directory or None
        What tells all this.
    """

    pixels: Pixels | EncodedPixels
    end: int
    unit: int
    directory: Directory | None


def read_extent(file: RawFile) -> tuple[Extent | None, SourceError | None]:
    """Where the image lies, None as long as it isn't all there, and why it can't be read.

    What leads to it may be half written: both are only final when another look gives the same.

    Raises
    ------
    SourceError
        The file is gone or can't be read.
    """
    try:
        if file.read(0, 4) in _BIG_TIFF:
            # Rare: left to tifffile, when it stands still.
            return Extent(EncodedPixels(file.path), file.size, 0, None), None
        directory = read_first_directory(file)
        if directory is None or not _is_written(directory):
            return None, None
        extent = _extent(file, directory)
        return (extent if extent and extent.end <= file.size else None), None
    except DamagedFileError as error:
        return None, error


def _is_written(directory: Directory) -> bool:
    """Whether no entry of a directory is still to be written."""
    return 0 not in directory.fields and all(f.kind and f.count for f in directory.fields.values())


def _extent(file: RawFile, directory: Directory) -> Extent | None:
    """How an image lies in a file by its directory; None as long as that isn't written.

    Raises
    ------
    DamagedFileError
        It can't be read as one image.
    """
    _check_single(file, directory)
    width, height = directory.number(_WIDTH), directory.number(_HEIGHT)
    is_tiled = _TILES[0] in directory.fields
    offsets, counts = (directory.numbers(file, tag) for tag in (_TILES if is_tiled else _STRIPS))
    if not (width and height and offsets and len(offsets) == len(counts)):
        return None
    if not (all(offsets) and all(counts)):
        return None
    raw = None
    if not is_tiled and (directory.number(_COMPRESSION) or 1) == 1:
        raw = _raw_pixels(file, directory, (height, width), offsets, counts)
    last = max(start + count for start, count in zip(offsets, counts, strict=True)), 1
    if raw is not None:
        last = raw.end, raw.dtype.itemsize
    needed = [last, (directory.next_pointer, _ENTRY_BYTES)]
    for tag in (_BITS, *_STRIPS, *_TILES, _SAMPLE_FORMAT):
        field = directory.fields.get(tag)
        if field is not None:
            needed.append((field.offset + field.nbytes, field.nbytes // field.count))
    end, unit = max(needed)
    return Extent(raw or EncodedPixels(file.path), end, unit, directory)


def _check_single(file: RawFile, directory: Directory) -> None:
    if any(file.read(directory.next_pointer, 4)):
        raise SeveralImagesError(file.path)
    # ImageJ's stacks may have a single directory.
    images = imagej_entry(read_description(file, directory), "images")
    if images and images.isdecimal() and int(images) > 1:
        raise SeveralImagesError(file.path, int(images))


def _raw_pixels(
    file: RawFile,
    directory: Directory,
    shape: tuple[int, int],
    offsets: tuple[int, ...],
    counts: tuple[int, ...],
) -> Pixels | None:
    """Where an image's pixels lie in one piece, None where they don't."""
    samples = directory.number(_SAMPLES) or 1
    if samples > 1 and (directory.number(_PLANAR) or 1) != 1:
        return None
    ends = [start + count for start, count in zip(offsets, counts, strict=True)]
    sample_format = directory.alike(file, _SAMPLE_FORMAT) or 1
    kind = _KINDS.get((sample_format, directory.alike(file, _BITS) or 1))
    if kind is None or list(offsets[1:]) != ends[:-1]:
        return None
    dtype = np.dtype(directory.order + kind)
    whole_shape = shape if samples == 1 else (*shape, samples)
    nbytes = prod(whole_shape) * dtype.itemsize
    if nbytes > LARGEST_PLANE_BYTES or nbytes > sum(counts):
        raise DamagedFileError(
            f"{file.path}: an image of {shape[1]} x {shape[0]} pixels with {samples} samples of "
            f"{dtype.itemsize} bytes each, and {sum(counts)} bytes for them: the file is damaged there"
        )
    return Pixels(file.path, offsets[0], whole_shape, dtype)
