"""Micro-Manager's image stack files: OME-TIFF files with an index map, of versions 1.4 and 2.

A dataset is one file per position, or one for all, each continued in others when it is full. None of
that matters here: every file has its own index map, which says where each of its images belongs. An
image's entry is written before the image itself. The OME-XML is written when the whole acquisition
ends, so that nothing before then can rely on it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from live_restore.errors import SourceError
from live_restore.sources.layouts.growing_folder import GrowingFolder
from live_restore.sources.layouts.ifd import ByteOrder, read_byte_order, read_directory
from live_restore.sources.layouts.layout import LayoutInfo
from live_restore.sources.layouts.metadata import (
    Known,
    parse_object,
    read_whole_image,
    whole_pixels,
)
from live_restore.sources.layouts.plane import PlaneOnDisk
from live_restore.sources.layouts.raw_file import DamagedFileError, RawFile

__all__ = ["MMStack"]

_FILE = re.compile(r"(?P<prefix>.*)MMStack(?:_.*)?(?:\.ome)?\.tif")
_HEAD_BYTES = 40
_INDEX_MAP_POINTER_MAGIC = 54773648
_INDEX_MAP_MAGIC = 3453623
_SUMMARY_MAGIC = 2355492
_LARGEST_SUMMARY_BYTES = 2**24
_IMAGE_DESCRIPTION = 270
_ENTRY = "iiiiI"  # channel, z, time, position, offset of the image's directory
_ENTRY_BYTES = 20
# A writer is at most a few images ahead of its metadata. Entries of a file that is being copied may
# all be there before their images are.
_MOST_WAITING = 64


class MMStack:
    """See `Layout`.

    Parameters
    ----------
    path : pathlib.Path
        The dataset's folder.
    prefix : str
        What the files' names begin with.
    summary : mapping
        What the dataset says of itself.
    """

    name = "Micro-Manager image stack file"

    def __init__(self, path: Path, prefix: str, summary: Mapping[str, Any]) -> None:
        self.path = path
        pattern = re.compile(re.escape(prefix) + _FILE.pattern.removeprefix("(?P<prefix>.*)"))
        self._folder = GrowingFolder(path, pattern)
        self._files: list[_StackFile] = []
        self._known = Known()
        self._known.announce(summary)

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """The dataset that a folder or file is of, if it is one and a file of it has begun."""
        folder = path
        if not path.is_dir():
            folder = path.parent
            if not _FILE.fullmatch(path.name):
                return None
        files = GrowingFolder(folder, _FILE).new()
        prefixes = {match["prefix"] for match in files}
        if len(prefixes) != 1:
            return None  # several acquisitions in one folder: copied there when they were finished
        for match in sorted(files, key=lambda match: match.string):
            with RawFile(folder / match.string) as file:
                head = _Head.read(file)
                summary = head.read_summary(file) if head else None
            if summary is not None:
                return cls(folder, prefixes.pop(), summary)
        return None

    def info(self) -> LayoutInfo:
        """See `Layout.info`."""
        return self._known.info()

    def poll(self) -> Iterator[PlaneOnDisk]:
        """See `Layout.poll`."""
        for name in sorted(match.string for match in self._folder.new()):
            self._files.append(_StackFile(self.path / name, self._known))
        first_error = None
        for file in self._files:
            try:
                yield from file.poll()
            except SourceError as error:  # the other positions go on
                first_error = first_error or error
        if first_error is not None:
            raise first_error

    def is_ended(self) -> bool | None:
        """See `Layout.is_ended`. All files are closed at the end, those that were full too."""
        return bool(self._files) and all(file.is_ended for file in self._files)

    def close(self) -> None:
        """See `Layout.close`."""


@dataclass(frozen=True, slots=True)
class _Head:
    """A file's first bytes.

    Attributes
    ----------
    order : str
        Byte order.
    first_image : int
        Byte of the first image's directory; the index map ends before.
    index_map : int
        Byte of the index map.
    summary_bytes : int
        Length of the summary, which follows.
    """

    order: ByteOrder
    first_image: int
    index_map: int
    summary_bytes: int

    @classmethod
    def read(cls, file: RawFile) -> Self | None:
        """None when this isn't (yet) an image stack file."""
        order = read_byte_order(file)
        raw = file.read(0, _HEAD_BYTES)
        if order is None or len(raw) < _HEAD_BYTES:
            return None
        numbers = struct.unpack(order + "10I", raw)
        first, magic, index_map, summary_magic, summary_bytes = (
            numbers[i] for i in (1, 2, 3, 8, 9)
        )
        if magic != _INDEX_MAP_POINTER_MAGIC or summary_magic != _SUMMARY_MAGIC:
            return None
        if not _HEAD_BYTES <= index_map < first or summary_bytes > _LARGEST_SUMMARY_BYTES:
            return None
        return cls(order, first, index_map, summary_bytes)

    def read_summary(self, file: RawFile) -> dict[str, Any] | None:
        """What the dataset says of itself; None as long as that isn't written."""
        return parse_object(file.read(_HEAD_BYTES, self.summary_bytes))

    def is_closed(self, file: RawFile) -> bool:
        """Whether the file's description is there, which is written last."""
        try:
            directory = read_directory(file, self.first_image, self.order)
        except DamagedFileError:
            return False
        field = directory and directory.fields.get(_IMAGE_DESCRIPTION)
        return bool(field and field.nbytes and file.read(field.offset, 1).strip(b"\0"))


class _StackFile:
    """One file, read as far as its index map goes.

    Attributes
    ----------
    is_ended : bool
        It was closed and its planes were given, as of the last poll.
    """

    def __init__(self, path: Path, known: Known) -> None:
        self.path = path
        self.is_ended = False
        self._known = known
        self._head: _Head | None = None
        self._next_entry = 0
        self._waiting: list[int] = []  # where the entries of images lie that aren't whole

    def poll(self) -> Iterator[PlaneOnDisk]:
        """See `Layout.poll`."""
        with RawFile(self.path) as file:
            self._head = self._head or _Head.read(file)
            if self._head is None:
                return
            head = self._head
            is_closed = head.is_closed(file)  # before the entries: what comes after counts as more
            while True:
                are_all_read = self._read_entries(file, head)
                num_waiting = len(self._waiting)
                yield from self._take_whole_ones(file, head)
                if are_all_read or len(self._waiting) == num_waiting:
                    break
            self.is_ended = is_closed and not self._waiting

    def _read_entries(self, file: RawFile, head: _Head) -> bool:
        """Note new entries; whether that was all of them."""
        if not self._next_entry:
            (magic,) = struct.unpack(head.order + "I", file.read(head.index_map, 4).ljust(4, b"\0"))
            if magic != _INDEX_MAP_MAGIC:
                return True
            self._next_entry = head.index_map + 8
        num_left = (head.first_image - self._next_entry) // _ENTRY_BYTES
        count = min(num_left, _MOST_WAITING - len(self._waiting))
        raw = file.read(self._next_entry, count * _ENTRY_BYTES)
        for at in range(0, len(raw) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
            if not any(raw[at + 16 : at + 20]):
                return True
            self._waiting.append(self._next_entry)
            self._next_entry += _ENTRY_BYTES
        return len(raw) < _ENTRY_BYTES

    def _take_whole_ones(self, file: RawFile, head: _Head) -> Iterator[PlaneOnDisk]:
        for place in tuple(self._waiting):
            try:
                plane = self._plane(file, head, place)
            except DamagedFileError:
                self._waiting.remove(place)
                raise
            if plane is not None:
                self._waiting.remove(place)
                yield plane

    def _plane(self, file: RawFile, head: _Head, place: int) -> PlaneOnDisk | None:
        """The plane of an entry, or None as long as it isn't whole."""
        raw = file.read(place, _ENTRY_BYTES)
        if len(raw) < _ENTRY_BYTES:
            return None
        *indices, offset = struct.unpack(head.order + _ENTRY, raw)
        # Early versions 2 say -1 of an axis that the acquisition doesn't have.
        channel, z, time, position = (max(0, index) for index in indices)
        if offset < head.first_image:
            return None  # half written
        try:
            image = read_whole_image(file, offset, head.order)
        except DamagedFileError:
            return None  # from an offset that was half written
        if image is None or file.read(place, _ENTRY_BYTES) != raw:
            return None
        directory, metadata = image
        pixels = whole_pixels(file, directory)
        return self._known.plane(
            self._known.positions.of(position, metadata.get("PositionName")),
            time,
            self._known.channels.of(channel, metadata.get("Channel")),
            z,
            metadata,
            pixels,
        )
