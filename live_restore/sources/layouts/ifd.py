"""TIFF image file directories (IFDs), read from a file that is still growing.

TIFF Revision 6.0, section 2. tifffile isn't used: it reads ahead, caches, and takes bytes that
aren't written yet for the end of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from live_restore.sources.layouts.plane import LARGEST_PLANE_BYTES, Pixels
from live_restore.sources.layouts.raw_file import DamagedFileError, RawFile

__all__ = [
    "ByteOrder",
    "Directory",
    "Field",
    "read_byte_order",
    "read_directory",
    "read_first_directory",
]

ByteOrder = Literal["<", ">"]

_ORDERS: Mapping[bytes, ByteOrder] = {b"II*\0": "<", b"MM\0*": ">"}
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I"}
_RATIONAL = 5
_TEXTS = (1, 2)  # bytes and ASCII; some programs write UTF-8 into either
# Micro-Manager writes 13 to 17 fields; the standard knows fewer than 100.
_MOST_FIELDS = 512
_FIRST_POINTER = 4
_USUAL_BYTES = 2 + 17 * 12 + 4
# A strip per row, and OME-XML of some thousand planes.
_MOST_NUMBERS = 2**20
_LARGEST_TEXT_BYTES = 2**22

_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _SAMPLE_FORMAT = 256, 257, 259, 277, 339
_STRIP_OFFSETS, _STRIP_BYTE_COUNTS = 273, 279
_FLOAT = 3


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of a directory.

    Attributes
    ----------
    kind, count : int
        TIFF field type, and how many values of it.
    offset : int
        Where its values lie in the file.
    value : bytes
        The entry's own 4 bytes.
    """

    kind: int
    count: int
    offset: int
    value: bytes

    @property
    def nbytes(self) -> int:
        """Bytes of its values; 0 for a type that TIFF doesn't know."""
        return self.count * _ITEM_BYTES.get(self.kind, 0)


@dataclass(frozen=True, slots=True)
class Directory:
    """What a TIFF file says of one image.

    Attributes
    ----------
    order : str
        Byte order, ``"<"`` or ``">"``.
    raw : bytes
        All of it: two reads that differ were torn.
    fields : mapping of int to Field
        By tag.
    next_pointer : int
        Byte at which the next directory's offset is written.
    """

    order: ByteOrder
    raw: bytes
    fields: Mapping[int, Field]
    next_pointer: int

    def number(self, tag: int) -> int | None:
        """A field's only value; None where there is none."""
        field = self.fields.get(tag)
        if field is None or field.count != 1 or field.kind not in _NUMBERS:
            return None
        return int(struct.unpack_from(self.order + _NUMBERS[field.kind], field.value)[0])

    def numbers(self, file: RawFile, tag: int) -> tuple[int, ...]:
        """All of a field's values, wherever they lie; none where they aren't (yet) there."""
        field = self.fields.get(tag)
        if field is None or field.kind not in _NUMBERS or not 0 < field.count <= _MOST_NUMBERS:
            return ()
        raw = field.value if field.nbytes <= 4 else file.read(field.offset, field.nbytes)
        if len(raw) < field.nbytes:
            return ()
        return struct.unpack(
            f"{self.order}{field.count}{_NUMBERS[field.kind]}", raw[: field.nbytes]
        )

    def alike(self, file: RawFile, tag: int) -> int | None:
        """The value that all of a field's values have; None where they have none in common."""
        values = set(self.numbers(file, tag))
        return values.pop() if len(values) == 1 else None

    def ratio(self, file: RawFile, tag: int) -> float | None:
        """A field's only value, a fraction; None where there is none."""
        field = self.fields.get(tag)
        if field is None or field.kind != _RATIONAL or field.count != 1:
            return None
        raw = file.read(field.offset, field.nbytes)
        above, below = struct.unpack(self.order + "II", raw) if len(raw) == 8 else (0, 0)
        return above / below if below else None

    def text(self, file: RawFile, tag: int) -> str:
        """A field's text; empty where there is none."""
        field = self.fields.get(tag)
        if field is None or field.kind not in _TEXTS or field.nbytes > _LARGEST_TEXT_BYTES:
            return ""
        raw = file.read(field.offset, field.nbytes).rstrip(b"\0")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode("latin-1")  # ImageJ's µ

    def pixels(self, file: RawFile) -> Pixels | None:
        """Where the image's pixels lie, or None as long as that isn't written.

        The number of bytes decides on the pixels' type: NDTiff's Python writer says 16 bits of
        8-bit images.

        Raises
        ------
        DamagedFileError
            Compressed, in several strips, or sizes that contradict each other. Only final once
            the directory is known to be whole.
        """
        width, height = self.number(_WIDTH), self.number(_HEIGHT)
        strips = self.fields.get(_STRIP_OFFSETS)
        if not (width and height and strips and strips.count):
            return None
        if strips.count > 1:
            raise DamagedFileError(
                f"{file.path}: an image in {strips.count} strips, Micro-Manager writes one. Was the "
                "file saved again by another program? Give the original"
            )
        offset, nbytes = self.number(_STRIP_OFFSETS), self.number(_STRIP_BYTE_COUNTS)
        if not (offset and nbytes):
            return None
        if (compression := self.number(_COMPRESSION) or 1) != 1:
            raise DamagedFileError(
                f"{file.path}: an image is compressed (TIFF scheme {compression}), which can't be read "
                "while it is acquired. Switch compression off in Micro-Manager's saving options"
            )
        samples = self.number(_SAMPLES) or 1
        itemsize, rest = divmod(nbytes, width * height * samples)
        if rest or itemsize not in (1, 2, 4) or samples > 4 or nbytes > LARGEST_PLANE_BYTES:
            raise DamagedFileError(
                f"{file.path}: an image of {width} x {height} pixels with {samples} samples each and "
                f"{nbytes} bytes at byte {offset}, expected 1, 2 or 4 bytes per sample: the file is "
                "damaged there"
            )
        letter = "f" if itemsize == 4 and self.number(_SAMPLE_FORMAT) == _FLOAT else "u"
        shape = (height, width) if samples == 1 else (height, width, samples)
        return Pixels(file.path, offset, shape, np.dtype(f"{self.order}{letter}{itemsize}"))


def read_byte_order(file: RawFile) -> ByteOrder | None:
    """The file's byte order; None when it isn't (yet) a TIFF file."""
    return _ORDERS.get(file.read(0, 4))


def read_first_directory(file: RawFile) -> Directory | None:
    """The file's first directory, or None as long as it isn't all there. See `read_directory`."""
    order = read_byte_order(file)
    pointer = file.read(_FIRST_POINTER, 4)
    if order is None or len(pointer) < 4:
        return None
    (offset,) = struct.unpack(order + "I", pointer)
    return read_directory(file, offset, order) if offset else None


def read_directory(file: RawFile, offset: int, order: ByteOrder) -> Directory | None:
    """The directory at a byte, or None as long as it isn't all there.

    What is given may still be half written: in files that are laid out beforehand, zeros stand for
    bytes that will come.

    Raises
    ------
    DamagedFileError
        No directory can be there.
    """
    raw = file.read(offset, _USUAL_BYTES)
    if len(raw) < 2:
        return None
    (count,) = struct.unpack_from(order + "H", raw)
    if count == 0:
        return None
    if count > _MOST_FIELDS:
        raise DamagedFileError(
            f"{file.path}: an image directory of {count} entries at byte {offset}, expected about 13: "
            "the file is damaged there"
        )
    end = 2 + 12 * count + 4
    raw = (raw if end <= _USUAL_BYTES else file.read(offset, end))[:end]
    if len(raw) < end:
        return None
    fields: dict[int, Field] = {}
    for at in range(2, 2 + 12 * count, 12):
        tag, kind, values, elsewhere = struct.unpack_from(order + "HHII", raw, at)
        field = Field(kind, values, elsewhere, raw[at + 8 : at + 12])
        if field.nbytes <= 4:
            field = Field(kind, values, offset + at + 8, field.value)
        # 1.4 has its description twice, for OME and for ImageJ: the first is the one to look at.
        fields.setdefault(tag, field)
    return Directory(order, raw, fields, offset + end - 4)
