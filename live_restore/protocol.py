"""The wire, version 1: messages to frames and back. No sockets here.

A volume is one multipart message: topic, header (JSON), then one frame per plane, C order,
little-endian. Everything else is topic and header alone. Nothing is ever pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Discriminator, Tag, TypeAdapter, ValidationError

from live_restore.compression import compress, decompress_into
from live_restore.errors import ProtocolError
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
    "Frame",
    "decode",
    "encode",
    "encode_preview",
    "encode_volume",
    "header_schema",
    "names_in_topic",
    "parse_request",
    "to_json",
    "topic_of",
]

VERSION = 1

Frame = bytes | memoryview
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
    if topic.startswith(("volume/", "compressed/")):
        return _decode_volume(topic, _parse(topic, Header, text), frames[2:], out)
    if topic.startswith("announce/"):
        return Announcement(topic, _parse(topic, Header, text))
    if topic.startswith("preview/"):
        return _decode_preview(topic, _parse(topic, Header, text), frames[2:])
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
    images: list[Any] = list(planes)
    if header.encoding == "raw":  # their sizes are looked at before memory is taken for them
        images = [
            _image(f"{topic}: plane {z}", header, plane, (ny, nx)) for z, plane in enumerate(planes)
        ]
    if out is None or out.shape != header.shape or out.dtype != np.dtype(header.type):
        try:
            out = np.empty(header.shape, dtype=header.type)
        except MemoryError as error:
            raise ProtocolError(f"{topic}: {header.type} {header.shape}: {error}") from error
    for z, image in enumerate(images):
        if header.encoding == "raw":
            out[z] = image
        else:
            decompress_into(image, out[z])
    return VolumeMessage(topic, header, out)


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
    """A reply's body."""
    return json.dumps(body).encode()


def header_schema() -> str:
    """The JSON schema of `Header`, as kept in the documentation."""
    return json.dumps(Header.model_json_schema(), indent=2, sort_keys=True) + "\n"
