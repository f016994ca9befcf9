"""The wire, version 1: messages to frames and back. No sockets here.

A volume is one multipart message: topic, header (JSON), then one frame per plane, C order,
little-endian. Everything else is topic and header alone. Nothing is ever pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from live_restore.errors import ProtocolError

__all__ = [
    "MAX_VOLUME_BYTES",
    "VERSION",
    "EndHeader",
    "ErrorReply",
    "Header",
    "Heartbeat",
    "Kind",
    "Message",
    "ModelHeader",
    "Request",
    "SkippedHeader",
    "StartHeader",
    "Statistics",
    "VolumeMessage",
    "decode",
    "encode",
    "encode_volume",
    "topic_of",
]

VERSION = 1
MAX_VOLUME_BYTES = 64 * 2**30

Kind = Literal["restored", "raw"]
Frame = bytes | memoryview
_M = TypeVar("_M", bound=BaseModel)


class _Message(BaseModel):
    # Clients ignore keys that they don't know, so that adding one breaks nobody.
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    v: Literal[1] = 1
    """Version of the protocol; changes only when old clients would break."""
    session: str
    """Changes whenever the daemon starts."""


class ModelHeader(BaseModel):
    """Which model made a restored volume."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    name: str
    """From the model's card."""
    sha256: str
    """Of the model file."""
    precision: str
    """float16, bfloat16 or float32."""
    device: str
    """Where it ran."""
    tile: tuple[int, int, int]
    """Tile shape (z, y, x); with another one the result differs slightly."""


class Statistics(BaseModel):
    """Of the voxels in this message, for contrast."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    min: float
    """Smallest."""
    max: float
    """Largest."""
    p0_1: float
    """0.1st percentile."""
    p99_9: float
    """99.9th percentile."""


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
    encoding: Literal["raw"] = "raw"
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
    """Last sequence of each topic."""
    skipped: int = 0
    """Volumes skipped in this session: a viewer that fell behind may have missed being told."""
    running: tuple[str, ...] = ()
    """Acquisitions that started and did not end yet; likewise."""


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
    sequence: int = 0
    """Which volume, for `get` "sequence"."""


class ErrorReply(_Message):
    """The control port's refusal."""

    code: Literal["bad_request", "not_held", "internal"]
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


Message = VolumeMessage | SkippedHeader | StartHeader | EndHeader | Heartbeat

_HEADERS: Mapping[str, type[SkippedHeader | StartHeader | EndHeader | Heartbeat]] = {
    "skipped/": SkippedHeader,
    "system/start/": StartHeader,
    "system/end/": EndHeader,
    "system/heartbeat/": Heartbeat,
}


def topic_of(kind: str, position: str | None = None, channel: str | None = None) -> str:
    """A topic, or the beginning of one.

    Each part ends in ``/`` and is percent-encoded, so that no name is the beginning of another.

    Parameters
    ----------
    kind : str
        As ``volume/restored`` or ``skipped``.
    position, channel : str, optional
        Left out, from the right, for the topics of all.
    """
    parts = [kind] + [quote(name, safe="") for name in (position, channel) if name is not None]
    return "/".join(parts) + "/"


def names_in_topic(topic: str) -> tuple[str, str]:
    """Position and channel of a volume's or skip's topic."""
    position, channel = topic.rstrip("/").split("/")[-2:]
    return unquote(position), unquote(channel)


def encode(topic: str, header: BaseModel) -> list[Frame]:
    """Frames of a message without planes."""
    return [topic.encode(), header.model_dump_json().encode()]


def encode_volume(topic: str, header: Header, data: NDArray[Any]) -> list[Frame]:
    """Frames of a volume; the planes are views of `data`, nothing is copied on little-endian PCs.

    Raises
    ------
    ProtocolError
        `data` isn't what `header` says.
    """
    if data.shape != header.shape or data.dtype.name != header.type:
        raise ProtocolError(
            f"{topic}: the header says {header.type} {header.shape}, the volume is "
            f"{data.dtype.name} {data.shape}"
        )
    wire = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<"))
    return [*encode(topic, header), *(memoryview(plane) for plane in wire)]


def decode(frames: Sequence[bytes | memoryview], out: NDArray[Any] | None = None) -> Message:
    """The message in a list of frames.

    Parameters
    ----------
    frames : sequence of bytes-like
        As received.
    out : ndarray, optional
        Where to put a volume's voxels; used when shape and dtype fit, else a new array is made.

    Raises
    ------
    ProtocolError
        Anything else than a message of this version; the text says what was expected.
    """
    if len(frames) < 2:
        raise ProtocolError(f"a message has a topic and a header, this one {len(frames)} frames")
    try:
        topic = bytes(frames[0]).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"the topic isn't UTF-8: {error}") from error
    text = bytes(frames[1])
    if topic.startswith("volume/"):
        return _decode_volume(topic, _parse(topic, Header, text), frames[2:], out)
    for prefix, header in _HEADERS.items():
        if topic.startswith(prefix):
            return _parse(topic, header, text)
    if topic == "error/":
        reply = _parse(topic, ErrorReply, text)
        raise ProtocolError(f"the daemon refused: {reply.message}")
    raise ProtocolError(f"unknown topic {topic[:80]!r}; the daemon may be newer than this client")


def _decode_volume(
    topic: str, header: Header, planes: Sequence[bytes | memoryview], out: NDArray[Any] | None
) -> VolumeMessage:
    nz, ny, nx = header.shape
    if len(planes) != nz:
        raise ProtocolError(f"{topic}: {nz} planes announced, {len(planes)} came")
    wire_dtype = np.dtype(header.type).newbyteorder("<")
    expected = ny * nx * wire_dtype.itemsize
    if out is None or out.shape != header.shape or out.dtype != np.dtype(header.type):
        out = np.empty(header.shape, dtype=header.type)
    for z, plane in enumerate(planes):
        size = memoryview(plane).nbytes
        if size != expected:
            raise ProtocolError(f"{topic}: plane {z} should have {expected} bytes, it has {size}")
        out[z] = np.frombuffer(plane, dtype=wire_dtype).reshape(ny, nx)
    return VolumeMessage(topic, header, out)


def _parse(topic: str, model: type[_M], text: bytes) -> _M:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "header"
        raise ProtocolError(
            f"{topic}: {where}: {first['msg']}; this client speaks protocol {VERSION}"
        ) from error


def parse_request(text: bytes) -> Request:
    """A client's request.

    Raises
    ------
    ProtocolError
        Not a request.
    """
    try:
        return Request.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "request"
        raise ProtocolError(f"{where}: {first['msg']}") from error


def to_json(body: Mapping[str, Any]) -> bytes:
    """A reply's body."""
    return json.dumps(body).encode()


def header_schema() -> str:
    """The JSON schema of `Header`, as kept in the documentation."""
    return json.dumps(Header.model_json_schema(), indent=2, sort_keys=True) + "\n"
