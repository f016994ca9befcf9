"""NDTiff datasets, versions 2 and 3, as Micro-Manager and pycromanager write them.

Each file is a chain of image directories, each followed by its pixels and its metadata. The index
file beside them is only asked for what isn't there, the axes of images that Micro-Manager itself
saves: pycromanager's writer holds it back for hundreds of milliseconds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from live_restore.sources.layouts.growing_folder import GrowingFolder
from live_restore.sources.layouts.ifd import ByteOrder, read_byte_order
from live_restore.sources.layouts.layout import LayoutInfo
from live_restore.sources.layouts.metadata import (
    Known,
    parse_object,
    read_whole_image,
    whole_pixels,
)
from live_restore.sources.layouts.ndtiff_index import NDTiffIndex
from live_restore.sources.layouts.plane import Pixels, PlaneOnDisk
from live_restore.sources.layouts.raw_file import DamagedFileError, RawFile

__all__ = ["NDTiff"]

_FILE = re.compile(r"(?P<prefix>.*)NDTiffStack(?:_(?P<number>\d+))?\.tif")
_INDEX = "NDTiff.index"
_MAGIC = 483729
_SUMMARY_MAGIC = 2355492
# Where the summary's magic number lies; version 3 put the minor version before it.
_SUMMARY_AT = {2: 16, 3: 20}
_FIRST_POINTER = 4
_LARGEST_SUMMARY_BYTES = 2**24
# Writers begin another file when the next plane and 5 MB don't fit into 4 GiB: a file that ends
# earlier than this ends the dataset, whatever its next plane would have been.
_MAY_GO_ON_FROM = 2**32 - 2**30


class NDTiff:
    """See `Layout`.

    Parameters
    ----------
    path : pathlib.Path
        The dataset's folder.
    folder : pathlib.Path
        The one in it that holds its files.
    prefix : str
        What the files' names begin with.
    summary : mapping
        What the dataset says of itself.
    """

    name = "NDTiff"

    def __init__(self, path: Path, folder: Path, prefix: str, summary: Mapping[str, Any]) -> None:
        self.path = path
        pattern = re.compile(re.escape(prefix) + _FILE.pattern.removeprefix("(?P<prefix>.*)"))
        self._folder = GrowingFolder(folder, pattern)
        self._chains: list[_Chain] = []
        self._index = NDTiffIndex(folder / _INDEX)
        self._known = Known()
        self._known.announce(summary)

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """The dataset that a folder or file is of, if it is one and a file of it has begun."""
        folder = path if path.is_dir() else path.parent
        if folder.name == "Full resolution":
            folder = folder.parent
        dataset = folder
        if not path.is_dir() and not _FILE.fullmatch(path.name) and path.name != _INDEX:
            return None
        if (folder / "Full resolution").is_dir():
            folder = folder / "Full resolution"
        files = GrowingFolder(folder, _FILE).new()
        prefixes = {match["prefix"] for match in files}
        if len(prefixes) != 1:
            return None  # several acquisitions in one folder: nothing writes that
        with RawFile(folder / min(files, key=_number).string) as file:
            summary = _read_summary(file)
        return None if summary is None else cls(dataset, folder, prefixes.pop(), summary)

    def info(self) -> LayoutInfo:
        """See `Layout.info`."""
        return self._known.info()

    def poll(self) -> Iterator[PlaneOnDisk]:
        """See `Layout.poll`."""
        new = self._folder.new()
        for match in sorted(new, key=_number):
            self._chains.append(_Chain(self._folder.path / match.string, self._index, self._known))
        for chain in self._chains:
            # The last one is looked at again, should its writer go on after all.
            if not chain.is_ended or chain is self._chains[-1]:
                yield from chain.poll()

    def is_ended(self) -> bool | None:
        """See `Layout.is_ended`; None where the last file may have been full."""
        if not self._chains or not all(chain.is_ended for chain in self._chains):
            return False
        return True if self._chains[-1].end < _MAY_GO_ON_FROM else None

    def close(self) -> None:
        """See `Layout.close`."""


class _Chain:
    """One file, read as far as its planes are whole.

    Attributes
    ----------
    is_ended : bool
        Its last plane was given, as of the last poll.
    end : int
        Byte after the last plane that was given.
    """

    def __init__(self, path: Path, index: NDTiffIndex, known: Known) -> None:
        self.path = path
        self.is_ended = False
        self.end = 0
        self._is_given_up = False
        self._index = index
        self._known = known
        self._order: ByteOrder | None = None
        self._pointer = _FIRST_POINTER  # where the next image's offset is written

    def poll(self) -> Iterator[PlaneOnDisk]:
        """See `Layout.poll`."""
        if self._is_given_up:
            return
        with RawFile(self.path) as file:
            try:
                self._order = self._order or read_byte_order(file)
                while self._order and (found := self._next(file, self._order)):
                    yield found
            except DamagedFileError:
                self.is_ended = self._is_given_up = True
                raise

    def _next(self, file: RawFile, order: ByteOrder) -> PlaneOnDisk | None:
        offset = _read_number(file, self._pointer, order)
        if not offset:
            self.is_ended = offset == 0 and self._pointer != _FIRST_POINTER
            return None
        self.is_ended = False
        if offset <= self._pointer:
            raise DamagedFileError(
                f"{self.path}: byte {self._pointer} says that the next image is at byte {offset}, "
                "expected a later one: the file is damaged there. Its planes up to there were taken"
            )
        image = read_whole_image(file, offset, order)
        if image is None:
            return None
        directory, metadata = image
        pixels = whole_pixels(file, directory)
        axes = metadata.get("Axes")
        if not isinstance(axes, dict):
            axes = self._index.take(self.path.name, pixels.offset)
        if axes is None:
            return None
        plane = self._plane(dict(axes), metadata, pixels)
        self._pointer, self.end = directory.next_pointer, pixels.end
        return plane

    def _plane(
        self, axes: dict[str, Any], metadata: Mapping[str, Any], pixels: Pixels
    ) -> PlaneOnDisk:
        time, z = (self._whole_number(axes, axis) for axis in ("time", "z"))
        channel = self._known.channels.of(
            _name_or_index(axes.pop("channel", 0)), metadata.get("Channel"), "camera"
        )
        # Axes that aren't ours, as a mosaic's rows and columns, tell positions apart too.
        position = self._known.positions.of(
            _name_or_index(axes.pop("position", 0)), metadata.get("PositionName"), others=axes
        )
        return self._known.plane(position, time, channel, z, metadata, pixels)

    def _whole_number(self, axes: dict[str, Any], axis: str) -> int:
        value = axes.pop(axis, 0)
        if type(value) is not int:
            raise DamagedFileError(
                f"{self.path}: a plane's axis {axis} is {value!r}, expected a whole number. The file is "
                f"left there; number the axis {axis} from 0 in the script that acquires"
            )
        return value


def _read_summary(file: RawFile) -> dict[str, Any] | None:
    """The dataset's summary; None when this isn't (yet) an NDTiff file of a version that is known."""
    order = read_byte_order(file)
    head = file.read(0, 28)
    if order is None or len(head) < 28:
        return None
    magic, version = struct.unpack_from(order + "II", head, 8)
    if magic != _MAGIC or version not in _SUMMARY_AT:
        return None
    at = _SUMMARY_AT[version]
    summary_magic, nbytes = struct.unpack_from(order + "II", head, at)
    if summary_magic != _SUMMARY_MAGIC or nbytes > _LARGEST_SUMMARY_BYTES:
        return None
    return parse_object(file.read(at + 8, nbytes))


def _read_number(file: RawFile, offset: int, order: ByteOrder) -> int | None:
    """The number at a byte; None where the file ends before."""
    raw = file.read(offset, 4)
    return int(struct.unpack(order + "I", raw)[0]) if len(raw) == 4 else None


def _number(match: re.Match[str]) -> int:
    return int(match["number"] or 0)


def _name_or_index(value: object) -> int | str:
    return value if type(value) is int or isinstance(value, str) else str(value)
