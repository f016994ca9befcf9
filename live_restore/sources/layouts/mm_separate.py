"""Micro-Manager's separate image files: one TIFF file per plane, a folder per position.

An acquisition without positions may lie in the dataset's folder itself.

Names are those of version 2, ``img_channel000_position000_time000000000_z000.tif``, and of 1.4,
``img_000000000_DAPI_000.tif`` (time, channel, z).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

from live_restore.errors import SourceError
from live_restore.sources.layouts.growing_folder import GrowingFolder
from live_restore.sources.layouts.ifd import Directory, read_first_directory
from live_restore.sources.layouts.layout import LayoutInfo
from live_restore.sources.layouts.metadata import Known, parse_object
from live_restore.sources.layouts.plane import PlaneOnDisk
from live_restore.sources.layouts.raw_file import DamagedFileError, RawFile

__all__ = ["MMSeparate"]

_METADATA = "metadata.txt"
_IMAGE = re.compile(
    r"img(?P<axes>(?:_[a-zA-Z ]+\d+)+)\.tif|img_(?P<time>\d{9,})_(?P<channel>.*)_(?P<z>\d{3,})\.tif"
)
_AXIS = re.compile(r"_([a-zA-Z ]+)(\d+)")
_IMAGES_ASKED = 8  # for their position: some may be half written or cut short
_IMAGEJ_METADATA = 50839
_IMAGEJ_HEAD = {">": b"IJIJinfo", "<": b"JIJIofni"}
_LARGEST_METADATA_BYTES = 2**22
_LARGEST_SUMMARY_BYTES = 2**20
# The file's own closing brace after an entry's, both unindented: no entry ends like that by itself.
_CLOSED = re.compile(rb"\n}\s*\n}\s*$")


class MMSeparate:
    """See `Layout`.

    Parameters
    ----------
    path : pathlib.Path
        The dataset's folder.
    """

    name = "Micro-Manager separate image files"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = GrowingFolder(path, re.compile(".*"))
        self._unknown: set[str] = set()  # what lies in it and isn't known to be a position
        self._positions: list[_PositionFolder] = []
        self._has_own_images = False
        self._known = Known()
        self._has_summary = False
        self._is_ended = False
        self._find_positions()

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """The dataset that a folder or file is of, if it is one and has an image that has begun."""
        if not path.is_dir():
            if not (_IMAGE.fullmatch(path.name) or path.name == _METADATA):
                return None
            path = path.parent
        if _has_metadata(path):
            name = _position_name(path)
            dataset = path.parent if name == path.name else path
            return None if name is None else cls(dataset)
        is_dataset = any(_is_position(folder) for folder in path.iterdir())
        return cls(path) if is_dataset else None

    def info(self) -> LayoutInfo:
        """See `Layout.info`."""
        return self._known.info()

    def poll(self) -> Iterator[PlaneOnDisk]:
        """See `Layout.poll`."""
        self._find_positions()
        are_closed = [position.is_closed() for position in self._positions]  # before the images
        first_error = None
        for position in self._positions:
            try:
                yield from position.poll()
            except SourceError as error:  # the other positions go on
                first_error = first_error or error
        if first_error is not None:
            raise first_error
        self._is_ended = bool(are_closed) and all(are_closed)

    def is_ended(self) -> bool | None:
        """See `Layout.is_ended`."""
        return self._is_ended

    def close(self) -> None:
        """See `Layout.close`."""

    def _find_positions(self) -> None:
        if not self._positions and _has_metadata(self.path):
            self._positions.append(_PositionFolder(self.path, None, self._known))
            self._has_own_images = True
        if not self._has_own_images:
            self._unknown |= {match.string for match in self._folder.new()}
        for name in sorted(self._unknown):
            if _is_position(self.path / name):
                self._unknown.remove(name)
                self._positions.append(_PositionFolder(self.path / name, name, self._known))
        if not self._has_summary and self._positions:
            summary = _read_summary(self._positions[0].path / _METADATA)
            if summary is not None:
                self._known.announce(summary)
                self._has_summary = True


@dataclass(frozen=True, slots=True)
class _Place:
    """What an image's name says."""

    name: str
    time: int
    channel: int | str
    z: int
    position: int = 0
    others: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, match: re.Match[str]) -> Self:
        if match["axes"] is None:
            return cls(match.string, int(match["time"]), match["channel"], int(match["z"]))
        axes = {axis: int(index) for axis, index in _AXIS.findall(match["axes"])}
        time, channel, z, position = (
            axes.pop(axis, 0) for axis in ("time", "channel", "z", "position")
        )
        return cls(match.string, time, channel, z, position, axes)


class _PositionFolder:
    """One position's images; of all positions where the folder has no position's name."""

    def __init__(self, path: Path, name: str | None, known: Known) -> None:
        self.path = path
        self._name = name
        self._known = known
        self._folder = GrowingFolder(path, _IMAGE)
        self._waiting: dict[str, _Place] = {}

    def poll(self) -> Iterator[PlaneOnDisk]:
        """See `Layout.poll`."""
        new = [_Place.of(match) for match in self._folder.new()]
        # Stack by stack, for those that were there before we were.
        new.sort(key=lambda place: (place.time, str(place.channel), str(place.others), place.z))
        self._waiting |= {place.name: place for place in new}
        first_error = None
        for name, place in tuple(self._waiting.items()):
            try:
                plane = self._plane(place)
            except SourceError as error:  # the other images go on
                first_error = first_error or error
                del self._waiting[name]
                if not isinstance(error, DamagedFileError):
                    self._folder.forget(name)  # it may come back
                continue
            if plane is not None:
                del self._waiting[name]
                yield plane
        if first_error is not None:
            raise first_error

    def is_closed(self) -> bool:
        """Whether the position's metadata file is finished, and so the position."""
        try:
            with RawFile(self.path / _METADATA) as file:
                return _CLOSED.search(file.read(max(0, file.size - 64), 64)) is not None
        except SourceError:
            return False  # what matters, the folder or its images, is told when they are read

    def _plane(self, place: _Place) -> PlaneOnDisk | None:
        """An image's plane, or None as long as it isn't whole."""
        with RawFile(self.path / place.name) as file:
            directory = read_first_directory(file)
            pixels = directory.pixels(file) if directory else None
            if directory is None or pixels is None or pixels.end > file.size:
                return None
            # The pixels are written last. What led to them may have been read half written.
            if read_first_directory(file) != directory:
                return None
            metadata = _read_imagej_info(file, directory) or {}
        position = self._known.positions.of(
            place.position if self._name is None else self._name,
            metadata.get("PositionName"),
            others=place.others,
        )
        channel = self._known.channels.of(place.channel, metadata.get("Channel"), "camera")
        return self._known.plane(position, place.time, channel, place.z, metadata, pixels)


def _has_metadata(folder: Path) -> bool:
    try:
        return (folder / _METADATA).is_file()
    except OSError:
        return False  # not ours to read


def _is_position(folder: Path) -> bool:
    """Whether a folder was made for a position, as its images say."""
    try:
        return _has_metadata(folder) and _position_name(folder) == folder.name
    except (OSError, SourceError):
        return False  # not now


def _position_name(folder: Path) -> str | None:
    """The position that a folder's images are of; None as long as no image says so."""
    with os.scandir(folder) as entries:
        images = (entry.name for entry in entries if _IMAGE.fullmatch(entry.name))
        for name in islice(images, _IMAGES_ASKED):
            with RawFile(folder / name) as file:
                directory = read_first_directory(file)
                metadata = _read_imagej_info(file, directory) if directory else None
            if metadata is not None:
                return str(metadata.get("PositionName", ""))
    return None


def _read_summary(path: Path) -> dict[str, Any] | None:
    """What the acquisition says of itself, at the head of a file that is JSON only at its end."""
    with RawFile(path) as file:
        text = file.read(0, _LARGEST_SUMMARY_BYTES).decode(errors="replace")
    head = re.match(r'\s*{\s*"Summary"\s*:\s*', text)
    if head is None:
        return None
    try:
        summary, _ = json.JSONDecoder().raw_decode(text, head.end())
    except (ValueError, RecursionError):
        return None
    return summary if isinstance(summary, dict) else None


def _read_imagej_info(file: RawFile, directory: Directory) -> dict[str, Any] | None:
    """The JSON that lies in ImageJ's description of an image."""
    field = directory.fields.get(_IMAGEJ_METADATA)
    if field is None or field.nbytes > _LARGEST_METADATA_BYTES:
        return None
    raw = file.read(field.offset, field.nbytes)
    # Magic and type, the number of such texts, the text in UTF-16 without a mark.
    if raw[:8] != _IMAGEJ_HEAD[directory.order] or len(raw) < 12:
        return None
    encoding = "utf-16-be" if directory.order == ">" else "utf-16-le"
    return parse_object(raw[12:].decode(encoding, errors="replace").encode())
