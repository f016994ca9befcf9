"""The wire, version 1: messages to frames and back. No sockets here.

A volume is one multipart message: topic, header (JSON), then one frame per plane, C order,
little-endian. Everything else is topic and header alone. Nothing is ever pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Discriminator, Tag, TypeAdapter, ValidationError

from live_restore.compression import compress, decompress_into
from live_restore.errors import ProtocolError, RefusedError
from live_restore.messages import (
    Announcement,
    Command,
    EndHeader,
    ErrorReply,
    Header,
    Heartbeat,
    Message,
    Preview,
    Request,
    SkippedHeader,
    StartHeader,
    VolumeMessage,
)

__all__ = [
    "VERSION",
    "Allocate",
    "Frame",
    "ReceivedVolume",
    "decode",
    "encode",
    "encode_preview",
    "encode_volume",
    "header_schema",
    "names_in_topic",
    "parse",
    "parse_body",
    "parse_request",
    "to_json",
    "topic_of",
]

VERSION = 1

Frame = bytes | memoryview

Allocate = Callable[[Header], NDArray[Any]]
"""Gives the array that a volume's voxels are put in, by its header: writable, its shape and dtype."""

_M = TypeVar("_M", bound=BaseModel)

_REQUEST: TypeAdapter[Request | Command] = TypeAdapter(
    Annotated[
        Annotated[Request, Tag("get")] | Annotated[Command, Tag("do")],
        Discriminator(lambda body: "do" if isinstance(body, dict) and "do" in body else "get"),
    ]
)

_HEADERS: Mapping[str, type[SkippedHeader | StartHeader | EndHeader | Heartbeat]] = {
    "skipped/": SkippedHeader,
    "system/start/": StartHeader,
    "system/end/": EndHeader,
    "system/heartbeat/": Heartbeat,
}


@dataclass(frozen=True, slots=True, eq=False)
class ReceivedVolume:
    """A volume as it came.

    Attributes
    ----------
    topic : str
        As published.
    header : Header
        What it is.
    planes : sequence of bytes-like
        Its frames, as many and, unless packed, as large as the header says.
    missed : int
        As of `VolumeMessage`.
    """

    topic: str
    header: Header
    planes: Sequence[bytes | memoryview]
    missed: int = 0

    def decode(self, into: Allocate | None = None) -> VolumeMessage:
        """Put the voxels into an array; raises as `live_restore.protocol.decode` does."""
        header = self.header
        out = into(header) if into else self._new_array()
        if out.shape != header.shape or out.dtype != np.dtype(header.type):
            raise ValueError(
                f"{self.topic}: an array of {header.type} {header.shape} is needed, `into` gave "
                f"{out.dtype} {out.shape}"
            )
        for z, plane in enumerate(self.planes):
            if header.encoding == "blosc2":
                decompress_into(plane, out[z])
            else:
                out[z] = _image(f"{self.topic}: plane {z}", header, plane, header.shape[1:])
        return VolumeMessage(self.topic, header, out, self.missed)

    def _new_array(self) -> NDArray[Any]:
        shape, dtype = self.header.shape, self.header.type
        try:
            return np.empty(shape, dtype=dtype)
        except MemoryError as error:
            raise ProtocolError(f"{self.topic}: {dtype} {shape}: {error}") from error


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
    """Frames of a volume; its planes are views of `data` on little-endian PCs, or packed as the header says.

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
    if header.encoding == "blosc2":
        return [*encode(topic, header), *(compress(plane) for plane in wire)]
    return [*encode(topic, header), *(memoryview(plane) for plane in wire)]


def encode_preview(topic: str, header: Header, data: NDArray[Any]) -> list[Frame]:
    """Frames of a volume's maximum projections, XY, XZ and YZ."""
    dtype = data.dtype.newbyteorder("<")
    maxima: list[Any] = [np.ascontiguousarray(data.max(axis=a), dtype=dtype) for a in range(3)]
    return [*encode(topic, header), *(memoryview(image) for image in maxima)]


def decode(frames: Sequence[bytes | memoryview], into: Allocate | None = None) -> Message:
    """The message in a list of frames.

    Parameters
    ----------
    frames : sequence of bytes-like
        As received.
    into : callable, optional
        Gives the array for the voxels of a volume, by its header; a new one is made without it.

    Raises
    ------
    ProtocolError
        Anything else than a message of this version; the text says what was expected.
    RefusedError
        The message is a refusal.
    ValueError
        `into` gave an array of another shape or dtype.
    """
    message = parse(frames)
    return message.decode(into) if isinstance(message, ReceivedVolume) else message


def parse(frames: Sequence[bytes | memoryview]) -> Message | ReceivedVolume:
    """The message in a list of frames; the voxels of a volume stay in them for now.

    Raises
    ------
    ProtocolError
        As of `decode`.
    """
    if len(frames) < 2:
        raise ProtocolError(f"a message has a topic and a header, this one {len(frames)} frames")
    try:
        topic = bytes(frames[0]).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"the topic isn't UTF-8: {error}") from error
    text = bytes(frames[1])
    if topic.startswith(("volume/", "compressed/")):
        return _receive_volume(topic, _parse(topic, Header, text), frames[2:])
    if topic.startswith("announce/"):
        return Announcement(topic, _parse(topic, Header, text))
    if topic.startswith("preview/"):
        return _decode_preview(topic, _parse(topic, Header, text), frames[2:])
    for prefix, header in _HEADERS.items():
        if topic.startswith(prefix):
            return _parse(topic, header, text)
    if topic == "error/":
        reply = _parse(topic, ErrorReply, text)
        raise RefusedError(f"the daemon refused: {reply.message}", reply.code, reply.held)
    raise ProtocolError(f"unknown topic {topic[:80]!r}; the daemon may be newer than this client")


def _receive_volume(
    topic: str, header: Header, planes: Sequence[bytes | memoryview]
) -> ReceivedVolume:
    nz, ny, nx = header.shape
    if len(planes) != nz:
        raise ProtocolError(f"{topic}: {nz} planes announced, {len(planes)} came")
    if header.encoding == "raw":
        for z, plane in enumerate(planes):
            _image(f"{topic}: plane {z}", header, plane, (ny, nx))
    return ReceivedVolume(topic, header, planes)


def _decode_preview(topic: str, header: Header, images: Sequence[bytes | memoryview]) -> Preview:
    nz, ny, nx = header.shape
    if len(images) != 3:
        raise ProtocolError(f"{topic}: a preview has 3 projections, {len(images)} came")
    shapes = ((ny, nx), (nz, nx), (nz, ny))
    xy, xz, yz = (
        _image(f"{topic}: {name}", header, image, shape).astype(header.type)
        for name, image, shape in zip(("XY", "XZ", "YZ"), images, shapes, strict=True)
    )
    return Preview(topic, header, xy, xz, yz)


def _image(
    what: str, header: Header, frame: bytes | memoryview, shape: tuple[int, int]
) -> NDArray[Any]:
    """One frame as an image; a view of the frame."""
    dtype = np.dtype(header.type).newbyteorder("<")
    expected, size = shape[0] * shape[1] * dtype.itemsize, memoryview(frame).nbytes
    if size != expected:
        raise ProtocolError(f"{what} should have {expected} bytes, it has {size}")
    return np.frombuffer(frame, dtype=dtype).reshape(shape)


def _parse(topic: str, model: type[_M], text: bytes) -> _M:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "header"
        raise ProtocolError(
            f"{topic}: {where}: {first['msg']}; this client speaks protocol {VERSION}"
        ) from error


def parse_request(text: bytes) -> Request | Command:
    """A client's request or command.

    Raises
    ------
    ProtocolError
        Not a request.
    """
    try:
        return _REQUEST.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "request"
        raise ProtocolError(f"{where}: {first['msg']}") from error


def to_json(body: Mapping[str, Any]) -> bytes:
    """A request, or a reply's body."""
    return json.dumps(body).encode()


def parse_body(topic: str, text: bytes) -> dict[str, Any]:
    """The body of an answer that isn't a volume.

    Raises
    ------
    ProtocolError
        Not a JSON object.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{topic}: not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ProtocolError(f"{topic}: a JSON object was expected, a {type(body).__name__} came")
    return body


def header_schema() -> str:
    """The JSON schema of `Header`, as kept in the documentation."""
    return json.dumps(Header.model_json_schema(), indent=2, sort_keys=True) + "\n"
