"""The ingest port, version 1: what programs that have planes send to the daemon. No sockets here.

A plane is one multipart message: ``plane/``, header (JSON), one frame of pixels, C order,
little-endian. ``end/`` and ``source/`` are topic and header alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from live_restore.errors import ProtocolError

__all__ = [
    "MAX_PLANE_BYTES",
    "MAX_SLICES",
    "LightWord",
    "PlaneHeader",
    "PlaneMessage",
    "PlanesEnd",
    "SourceHeader",
    "decode_plane",
    "encode_plane",
    "encode_word",
]

MAX_PLANE_BYTES = 2**30
MAX_SLICES = 100_000
_MAX_HEADER_BYTES = 2**20
_MAX_TEXT = 2000  # characters that are kept of what is for people

_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Text = Annotated[str, AfterValidator(lambda text: text[:_MAX_TEXT])]


class _FromSender(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", use_attribute_docstrings=True, allow_inf_nan=False
    )

    v: Literal[1] = 1
    """Version of the protocol."""
    sender: str = Field(min_length=1, max_length=64)
    """Who sends: any text that nobody else has."""


class PlaneHeader(_FromSender):
    """What stands before a plane that is sent to the ingest port.

    Each plane says all of it, so that a daemon that starts in mid-acquisition knows as much.
    """

    number: _Count = 0
    """Counts the planes of this sender, also those it couldn't send."""
    acquisition: _Name
    """Name of the acquisition, another one for each."""
    position: _Name = "0"
    """Name of the position."""
    time: _Count = 0
    """Time point, from 0."""
    channel: _Name = "camera"
    """Name of the channel."""
    z: int = Field(ge=0, lt=MAX_SLICES)
    """Index in the stack, from 0."""
    type: Literal["uint8", "uint16", "float32"]
    """numpy's name of the pixel type; little-endian."""
    shape: tuple[int, int] | tuple[int, int, int]
    """[y, x] of the one frame that follows; [y, x, 3 or 4] of an RGB camera."""
    num_slices: int | None = Field(None, ge=1, le=MAX_SLICES)
    """Planes per stack; null when unknown: it is then learned from the first stacks."""
    num_times: int | None = Field(None, ge=1, lt=2**63)
    """Time points, where known."""
    channels: tuple[_Name, ...] = ()
    """Names of all channels, where known."""
    positions: tuple[_Name, ...] = ()
    """Names of all positions, where known."""
    pixel_size_um: float | None = Field(None, gt=0)
    """Null when unknown."""
    z_step_um: float | None = Field(None, gt=0)
    """Distance between planes; null when unknown."""
    exposure_ms: float | None = None
    """Null when unknown."""
    power: float | None = None
    """What the property of the light's power stood at; null when unknown."""
    acquired_at: datetime | None = None
    """When it was exposed, UTC."""
    origin: _Text = ""
    """Camera or program, for people."""

    @field_validator("acquired_at")
    @classmethod
    def _in_utc(cls, at: datetime | None) -> datetime | None:
        return at if at is None or at.tzinfo is not None else at.replace(tzinfo=UTC)

    @model_validator(mode="after")
    def _plausible_size(self) -> Self:
        if min(self.shape) < 1 or self.nbytes > MAX_PLANE_BYTES:
            raise ValueError(f"shape {self.shape}: from 1 pixel to {MAX_PLANE_BYTES >> 20} MiB")
        if len(self.shape) == 3 and self.shape[2] not in (3, 4):
            raise ValueError(f"shape {self.shape}: a colour image has 3 or 4 values per pixel")
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of the plane."""
        return math.prod(self.shape) * np.dtype(self.type).itemsize


class PlanesEnd(_FromSender):
    """A sender's word that no more planes of an acquisition will come."""

    acquisition: _Name
    """Its name."""
    number: _Count | None = None
    """How many planes this sender counted until then, also those it couldn't send."""
    reason: _Text = "finished"
    """finished, or why not."""


class LightWord(BaseModel):
    """What one control of the light stands at."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", use_attribute_docstrings=True, allow_inf_nan=False
    )

    channel: str = Field("", max_length=256)
    """Whose exposure; empty for a property, which all channels share."""
    value: float
    """In milliseconds, or in the property's own unit."""
    own: float
    """What the user had set."""
    lowest: float | None = None
    """The device's own limit, where it has one."""
    highest: float | None = None
    """Likewise."""
    is_start: bool = False
    """What an acquisition begins with."""
    is_ours: bool = False
    """It was asked for by the daemon; otherwise the user set it."""
    problem: _Text = ""
    """Why it couldn't be set as it was asked for."""


class SourceHeader(_FromSender):
    """A sender's sign of life."""

    state: _Text = ""
    """What it is doing, for people."""
    error: _Text = ""
    """Why it can't go on."""
    ended: _Text = ""
    """How what it was asked to do ended: finished, stopped, or what went wrong."""
    light: LightWord | None = None
    """What the light stands at, where the daemon may change it."""


PlaneMessage = tuple[PlaneHeader, NDArray[Any]]
"""A plane: header, and (Y, X) or (Y, X, 3 or 4) pixels, read-only."""

_WORDS: dict[bytes, type[PlanesEnd] | type[SourceHeader]] = {
    b"end/": PlanesEnd,
    b"source/": SourceHeader,
}


def encode_plane(header: PlaneHeader, data: NDArray[Any]) -> list[bytes | memoryview]:
    """Frames of a plane; the last is a view of `data` if that is contiguous and little-endian."""
    wire = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<"))
    return [b"plane/", header.model_dump_json().encode(), wire.reshape(-1).view(np.uint8).data]


def encode_word(word: PlanesEnd | SourceHeader) -> list[bytes | memoryview]:
    """Frames of what a sender says beside planes."""
    topic = b"end/" if isinstance(word, PlanesEnd) else b"source/"
    return [topic, word.model_dump_json().encode()]


def decode_plane(
    frames: Sequence[bytes | memoryview],
) -> PlaneMessage | PlanesEnd | SourceHeader:
    """What a sender said.

    Parameters
    ----------
    frames : sequence of bytes-like
        As received; a plane's pixels stay a view of the last one.

    Raises
    ------
    ProtocolError
        Anything else; the text says what was expected.
    """
    if not 2 <= len(frames) <= 3:
        raise ProtocolError(f"expected topic, header and a plane, {len(frames)} frames came")
    topic, text = bytes(frames[0][:16]), frames[1]
    if len(text) > _MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {len(text)} bytes; at most {_MAX_HEADER_BYTES}")
    try:
        if topic in _WORDS:
            return _WORDS[topic].model_validate_json(bytes(text))
        if topic != b"plane/" or len(frames) != 3:
            raise ProtocolError(f"expected plane/, end/ or source/, {topic!r} came")
        header = PlaneHeader.model_validate_json(bytes(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "header"
        raise ProtocolError(f"{topic.decode()}: {where}: {first['msg']}") from error
    size = memoryview(frames[2]).nbytes
    if size != header.nbytes:
        raise ProtocolError(
            f"plane {header.z} of {header.acquisition}: {header.type} {header.shape} should have "
            f"{header.nbytes} bytes, it has {size}"
        )
    data = np.frombuffer(frames[2], np.dtype(header.type).newbyteorder("<"))
    data = data.reshape(header.shape).astype(header.type, copy=False)
    data.flags.writeable = False
    return header, data
