"""What Micro-Manager's JSON says of an acquisition and of its planes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from live_restore.sources.layouts.ifd import ByteOrder, Directory, read_directory
from live_restore.sources.layouts.layout import LayoutInfo
from live_restore.sources.layouts.plane import Pixels, PlaneOnDisk
from live_restore.sources.layouts.raw_file import DamagedFileError, RawFile

__all__ = ["Known", "Names", "parse_object", "read_whole_image", "whole_pixels"]

_PLANE_METADATA_TAG = 51123
_LARGEST_JSON_BYTES = 2**24  # real ones have some KB per plane, a list of positions some hundred
_LARGEST_PLAN = 10**6


def parse_object(raw: bytes) -> dict[str, Any] | None:
    """The JSON object in some bytes, NULs after it left out; None as long as it isn't whole."""
    raw = raw.rstrip(b"\0 \t\r\n")
    if not raw.endswith(b"}"):
        return None
    try:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode("latin-1")  # some Java writers take the system's encoding
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_whole_image(
    file: RawFile, offset: int, order: ByteOrder
) -> tuple[Directory, dict[str, Any]] | None:
    """An image's directory and metadata, or None as long as the image isn't whole.

    Micro-Manager writes directory, pixels and metadata in this order: the image is whole when the
    metadata are. What led to them may have been read while it was written, so that it has to read the
    same once more.

    Raises
    ------
    DamagedFileError
        No directory can be at `offset`.
    """
    directory = read_directory(file, offset, order)
    field = directory.fields.get(_PLANE_METADATA_TAG) if directory else None
    if directory is None or field is None or not 2 <= field.nbytes <= _LARGEST_JSON_BYTES:
        return None
    metadata = parse_object(file.read(field.offset, field.nbytes))
    if metadata is None or read_directory(file, offset, order) != directory:
        return None
    return directory, metadata


def whole_pixels(file: RawFile, directory: Directory) -> Pixels:
    """Where a whole image's pixels lie.

    Raises
    ------
    DamagedFileError
        Nowhere, or not before the metadata, whose presence then doesn't tell that they are whole.
    """
    pixels = directory.pixels(file)
    metadata_at = directory.fields[_PLANE_METADATA_TAG].offset
    if pixels is None or pixels.end > metadata_at:
        raise DamagedFileError(
            f"{file.path}: an image's metadata are at byte {metadata_at}, its pixels "
            + (f"end at byte {pixels.end}, expected before" if pixels else "nowhere")
            + ": the file is damaged there"
        )
    return pixels


class Names:
    """Names of channels or positions, that files only give an index of.

    A name once given to an index stays, and belongs to it alone.
    """

    def __init__(self) -> None:
        self._announced: tuple[str, ...] = ()
        self._by_index: dict[tuple[int | str, str], str] = {}

    def announce(self, names: Iterable[object]) -> None:
        """Take the acquisition's own list of names, if it is one."""
        texts = tuple(name for name in names if isinstance(name, str) and name)
        if len(set(texts)) == len(texts):
            self._announced = texts

    def of(
        self,
        index: int | str,
        said: object = None,
        otherwise: str | None = None,
        others: Mapping[str, object] | None = None,
    ) -> str:
        """The name that belongs to an index.

        Parameters
        ----------
        index : int or str
            In the acquisition's list; a str is a name itself.
        said : object
            What the plane itself calls it.
        otherwise : str, optional
            For one that has no name; the index by default.
        others : mapping, optional
            Further axes to be told apart by, as a mosaic's rows and columns.
        """
        rest = "".join(f" {axis}{value}" for axis, value in sorted((others or {}).items()))
        key = (index, rest)
        if key not in self._by_index:
            if isinstance(index, str):
                name = index
            elif 0 <= index < len(self._announced):
                name = self._announced[index]
            else:
                name = said if isinstance(said, str) and said else otherwise or str(index)
            name += rest
            self._by_index[key] = f"{name} ({index})" if name in self.met else name
        return self._by_index[key]

    @property
    def met(self) -> tuple[str, ...]:
        """Those that were given."""
        return tuple(self._by_index.values())

    @property
    def known(self) -> tuple[str, ...]:
        """Those announced; those met so far where the acquisition goes by others."""
        return self._announced if set(self.met) <= set(self._announced) else self.met


class Known:
    """What is known of an acquisition, growing with each plane."""

    def __init__(self) -> None:
        self.channels = Names()
        self.positions = Names()
        self._summary: Mapping[str, Any] = {}
        self._heights: dict[int, float] = {}
        self._pixel_size_um: float | None = None

    def announce(self, summary: Mapping[str, Any]) -> None:
        """Take the acquisition's summary."""
        self._summary = summary
        self.channels.announce(_list(summary.get("ChNames")))
        stage = summary.get("StagePositions") or summary.get("InitialPositionList")
        labels = [_entry(position, "Label", "label") for position in _list(stage)]
        self.positions.announce(labels)

    def plane(
        self,
        position: str,
        time: int,
        channel: str,
        z: int,
        metadata: Mapping[str, Any],
        pixels: Pixels,
    ) -> PlaneOnDisk:
        """A plane with what its metadata say, remembered for the acquisition."""
        z_um = _number(_entry(metadata, "ZPosition_um_Intended", "ZPositionUm"))
        pixel_size_um = _positive(_entry(metadata, "PixelSizeUm", "PixelSize_um"))
        exposure_ms = _positive(_entry(metadata, "Exposure-ms", "Exposure"))
        if z_um is not None and len(self._heights) < 2:
            self._heights.setdefault(z, z_um)
        self._pixel_size_um = self._pixel_size_um or pixel_size_um
        return PlaneOnDisk(position, time, channel, z, exposure_ms, z_um, pixel_size_um, pixels)

    def info(self) -> LayoutInfo:
        """See `Layout.info`."""
        summary = self._summary
        planned = summary.get("IntendedDimensions")
        planned = planned if isinstance(planned, dict) else {}
        return LayoutInfo(
            num_slices=_size(planned.get("z")) or _size(summary.get("Slices")),
            num_times=_size(planned.get("time")) or _size(summary.get("Frames")),
            channels=self.channels.known,
            positions=self.positions.known,
            pixel_size_um=self._pixel_size_um
            or _positive(_entry(summary, "PixelSizeUm", "PixelSize_um")),
            z_step_um=_positive(_entry(summary, "z-step_um")) or self._step_between_planes(),
        )

    def _step_between_planes(self) -> float | None:
        if len(self._heights) < 2:
            return None
        (z0, first), (z1, second) = self._heights.items()
        return _positive(abs(second - first) / abs(z1 - z0))


def _entry(mapping: object, *keys: str) -> Any:
    """The first of some entries that is there, taken out of its wrapping."""
    if isinstance(mapping, dict):
        for key in keys:
            value = mapping.get(key)
            # Versions of Micro-Manager 2 wrap values, each in its own way.
            if isinstance(value, dict):
                value = value.get("PropVal", value.get("scalar"))
            if value is not None:
                return value
    return None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: object) -> float | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def _positive(value: object) -> float | None:
    """A size; Micro-Manager says 0 or -1 of what it doesn't know."""
    number = _number(value)
    return number if number is not None and number > 0 else None


def _size(value: object) -> int | None:
    return value if type(value) is int and 0 < value <= _LARGEST_PLAN else None
