"""What is said on the wire, version 1: the headers of all messages, as pydantic models.

Adding a key breaks nobody: clients ignore keys that they don't know.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from live_restore.message_parts import (
    AssessmentHeader,
    DoseHeader,
    LightHeader,
    ModelHeader,
    Statistics,
)

__all__ = [
    "MAX_VOLUME_BYTES",
    "Announcement",
    "AssessmentHeader",
    "Catalog",
    "Command",
    "CommandReply",
    "DoseHeader",
    "Encoding",
    "EndHeader",
    "ErrorReply",
    "Family",
    "Header",
    "Heartbeat",
    "Kind",
    "LightHeader",
    "Message",
    "ModelHeader",
    "Order",
    "Preview",
    "Request",
    "SkippedHeader",
    "StartHeader",
    "Statistics",
    "StreamEntry",
    "VolumeMessage",
]

MAX_VOLUME_BYTES = 64 * 2**30

Kind = Literal["restored", "raw"]
"""Which of the two volumes."""

Family = Literal["volume", "compressed", "announce", "preview"]
"""How much of it: all, all but each plane packed, the header alone, or three maximum projections."""

Order = Literal["reload", "drain", "dose-on", "dose-off"]
"""What a daemon can be told to do."""

Encoding = Literal["raw", "blosc2"]
"""How each plane is packed."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    v: Literal[1] = 1
    """Version of the protocol; changes only when old clients would break."""
    session: str
    """Changes whenever the daemon starts."""


class Header(_Message):
    """What stands before the planes of a volume."""

    htype: Literal["array-1.0"] = "array-1.0"
    """Of the PSI family of array streams."""
    type: Literal["uint8", "uint16", "float32"]
    """numpy's name of the voxel type; little-endian."""
    shape: tuple[int, int, int]
    """[z, y, x]; z frames of y * x voxels follow."""
    axes: Literal["ZYX"] = "ZYX"
    """Order of `shape`."""
    encoding: Encoding = "raw"
    """How each plane is packed."""
    kind: Kind
    """Restored, or as the camera gave it."""
    sequence: int = Field(ge=0)
    """Counts the volumes of this position and channel in this session, from 0; a raw volume has the
    number of its restored one."""
    acquisition: str
    """Name of the acquisition."""
    position: str
    """Name of the position."""
    time: int
    """Time point, from 0."""
    channel: str
    """Name of the channel."""
    voxel_size_um: tuple[float, float, float] | None
    """[z, y, x]; null when unknown."""
    acquired_at: datetime | None
    """When the first plane was exposed, UTC; null when the source doesn't know."""
    received_at: datetime
    """When the last plane reached the daemon, UTC."""
    published_at: datetime
    """When this message left, UTC."""
    timing: dict[str, float] = {}
    """Seconds per stage."""
    model: ModelHeader | None = None
    """Null for raw volumes."""
    exposure_ms: float | None = None
    """Of the first plane; null when the source doesn't know."""
    light: LightHeader | None = None
    """What light the volume and its position got; null when nobody counts."""
    missing: tuple[int, ...] = ()
    """Planes that never came; they are zero."""
    backfill: bool = False
    """An older volume, restored when there was time: don't jump back to it while following live."""
    assessment: AssessmentHeader | None = None
    """What the guard found; null for raw volumes."""
    intensity: tuple[float, float] | None = None
    """Raw counts that were 0 and 1 in front of the network."""
    statistics: Statistics
    """Of this volume's voxels."""

    @model_validator(mode="after")
    def _plausible_size(self) -> Self:
        if min(self.shape) < 1:
            raise ValueError(f"shape {self.shape}: each axis has at least one voxel")
        if self.nbytes > MAX_VOLUME_BYTES:
            raise ValueError(f"shape {self.shape}: more than {MAX_VOLUME_BYTES >> 30} GiB")
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of all planes."""
        nz, ny, nx = self.shape
        return nz * ny * nx * np.dtype(self.type).itemsize


class SkippedHeader(_Message):
    """A volume that was seen and not restored."""

    acquisition: str
    """Name of the acquisition."""
    position: str
    """Name of the position."""
    time: int
    """Time point."""
    channel: str
    """Name of the channel."""
    reason: str
    """In words."""
    at: datetime
    """When, UTC."""


class StartHeader(_Message):
    """An acquisition began."""

    acquisition: str
    """Its name."""
    shape: tuple[int, int, int]
    """[z, y, x] of each volume."""
    type: str
    """numpy's name of the raw voxel type."""
    voxel_size_um: tuple[float, float, float] | None
    """[z, y, x]; null when unknown."""
    channels: tuple[str, ...]
    """Names."""
    positions: tuple[str, ...]
    """Names."""
    num_times: int | None
    """Time points, where known."""
    started_at: datetime
    """UTC."""
    origin: str = ""
    """File or camera."""


class EndHeader(_Message):
    """An acquisition ended and all its volumes were published or skipped."""

    acquisition: str
    """Its name."""
    reason: str
    """finished, or why not."""
    at: datetime
    """UTC."""


class Heartbeat(_Message):
    """Once per second: the daemon lives, and how far each stream is."""

    at: datetime
    """UTC."""
    sequences: dict[str, int]
    """Last sequence of each topic; the volumes of all streams are named, whether or not somebody listened."""
    skipped: int = 0
    """Volumes skipped in this session: a viewer that fell behind may have missed being told."""
    running: tuple[str, ...] = ()
    """Acquisitions that started and did not end yet; likewise."""
    source: str = ""
    """What the source is doing while nothing comes."""
    encodings: tuple[str, ...] = ("raw",)
    """How planes can be had."""


class StreamEntry(BaseModel):
    """A stream in the catalog."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    position: str
    """Name of the position."""
    channel: str
    """Name of the channel."""
    last: int
    """Last sequence."""
    held: tuple[int, ...] = ()
    """Sequences that can be had."""


class Catalog(_Message):
    """The control port's answer to `get` "catalog"."""

    streams: tuple[StreamEntry, ...]
    """All, in the order in which they began."""


class Request(BaseModel):
    """What a client asks on the control port."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    get: Literal["latest", "sequence", "catalog", "status"]
    """What is wanted."""
    kind: Kind = "restored"
    """Restored or raw."""
    position: str = "0"
    """Which stream."""
    channel: str = ""
    """Which stream."""
    sequence: int = Field(0, ge=0, lt=2**63)
    """Which volume, for `get` "sequence"."""
    encoding: Encoding = "raw"
    """How its planes are to be packed."""


class Command(BaseModel):
    """What an authorised client tells the daemon to do on the control port."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    do: Order
    """Read the profile again and use its model and dose table; take no more, restore what waits, and end; let the
    light be changed, or give the user's own back and change nothing more."""


class CommandReply(_Message):
    """A command was taken."""

    did: Order
    """Which."""
    message: str
    """What happens now, for people."""


class ErrorReply(_Message):
    """The control port's refusal."""

    code: Literal["bad_request", "not_held", "not_authorised", "refused", "internal"]
    """For programs."""
    message: str
    """For people."""
    held: tuple[int, ...] = ()
    """Sequences of the stream that can be had."""


@dataclass(frozen=True, slots=True, eq=False)
class VolumeMessage:
    """A received volume.

    Attributes
    ----------
    topic : str
        As published.
    header : Header
        What it is.
    data : ndarray, (Z, Y, X)
        uint8, uint16 or float32; the receiver's own.
    missed : int
        Volumes of this stream that were published since the one before and not received.
    """

    topic: str
    header: Header
    data: NDArray[Any]
    missed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Announcement:
    """A volume is there to be asked for on the control port.

    Attributes
    ----------
    topic : str
        As published.
    header : Header
        The volume's.
    """

    topic: str
    header: Header


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """The three maximum projections of a volume, for slow links.

    Attributes
    ----------
    topic : str
        As published.
    header : Header
        The volume's.
    xy, xz, yz : ndarray, (Y, X), (Z, X), (Z, Y)
        Maxima along z, y and x; the receiver's own.
    """

    topic: str
    header: Header
    xy: NDArray[Any]
    xz: NDArray[Any]
    yz: NDArray[Any]


Message = (
    VolumeMessage | Announcement | Preview | SkippedHeader | StartHeader | EndHeader | Heartbeat
)
