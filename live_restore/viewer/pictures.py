"""From volumes to what a page draws: slices, projections, or a block; in half precision.

A page never gets more than it shows, so that it works over a slow link, and its memory stays as it is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from live_restore.messages import Kind
from live_restore.viewer.history import Held

__all__ = ["Image", "Mode", "View", "images_of", "packed"]

Mode = Literal["slice", "ortho", "max", "block"]
"""One slice; three orthogonal ones; three maximum projections; the volume itself."""

_ALIGNMENT = 8  # bytes: arrays in a browser begin at multiples of their items'


class View(BaseModel):
    """What a page wants to see."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    revision: int = Field(0, ge=0)
    """Counts the page's wishes: with another one all pictures are sent again."""
    position: str | None = None
    """Name; the first one without."""
    channels: tuple[str, ...] | None = None
    """Names; all without."""
    kinds: tuple[Kind, ...] = ("raw", "restored")
    """Raw, restored or both."""
    mode: Mode = "slice"
    """Of the pictures."""
    z: float = Field(0.5, ge=0, le=1)
    """Where slices lie, as a fraction of the volume."""
    y: float = Field(0.5, ge=0, le=1)
    """Likewise."""
    x: float = Field(0.5, ge=0, le=1)
    """Likewise."""
    point: tuple[str, int] | None = None
    """Acquisition and time point; the newest without."""
    most_side: int = Field(256, ge=16, le=2048)
    """Voxels of a block's longest side."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One array that a page draws.

    Attributes
    ----------
    plane : {"xy", "xz", "yz", "block"}
        Its axes; of "yz" the rows are y, the columns z, as it stands beside "xy".
    data : ndarray of float16
        ``(rows, columns)`` or ``(Z, Y, X)``: (counts - base) / scale.
    base, scale : float
        In counts.
    """

    plane: Literal["xy", "xz", "yz", "block"]
    data: NDArray[np.float16]
    base: float
    scale: float


def images_of(held: Held, view: View) -> list[Image]:
    """What a view shows of a volume.

    Parameters
    ----------
    held : Held
        The volume.
    view : View
        Mode, and where slices lie.
    """
    data = held.data
    statistics = held.header.statistics
    base, scale = statistics.min, max(statistics.max - statistics.min, 1e-6)
    z, y, x = (
        min(int(part * size), size - 1)
        for part, size in zip((view.z, view.y, view.x), data.shape, strict=True)
    )
    planes: dict[Literal["xy", "xz", "yz", "block"], NDArray[Any]]
    match view.mode:
        case "slice":
            planes = {"xy": data[z]}
        case "ortho":
            planes = {"xy": data[z], "xz": data[:, y], "yz": data[:, :, x].T}
        case "max":
            xy, xz, zy = held.projections
            planes = {"xy": xy, "xz": xz, "yz": zy.T}
        case "block":
            planes = {"block": _pooled(data, view.most_side)}
    return [Image(name, _half(one, base, scale), base, scale) for name, one in planes.items()]


def packed(header: Mapping[str, Any], images: Iterable[tuple[Kind, Image]]) -> bytes:
    """A message for a page: its length, a header as JSON, and the arrays.

    Parameters
    ----------
    header : mapping
        JSON values; ``images`` is added: kind, plane, shape, base, scale and offset (in bytes, from the end of
        the header) of each.
    images : iterable of tuple
        Kind and image.
    """
    listed, parts, offset = [], [], 0
    for kind, one in images:
        about = {"kind": kind, "plane": one.plane, "shape": one.data.shape, "offset": offset}
        listed.append(about | {"base": one.base, "scale": one.scale})
        filled = one.data.nbytes + -one.data.nbytes % _ALIGNMENT
        parts.append((np.ascontiguousarray(one.data).data, filled - one.data.nbytes))
        offset += filled
    text = json.dumps({**header, "images": listed}).encode()
    text += b" " * (-(len(text) + 4) % _ALIGNMENT)
    chunks: list[bytes | memoryview] = [struct.pack("<I", len(text)), text]
    for array, filling in parts:
        chunks += [array.cast("B"), bytes(filling)]
    return b"".join(chunks)


def _half(data: NDArray[Any], base: float, scale: float) -> NDArray[np.float16]:
    values = data.astype(np.float32)
    values -= np.float32(base)
    values /= np.float32(scale)
    return np.nan_to_num(values, copy=False).astype("<f2")


def _pooled(data: NDArray[Any], most_side: int) -> NDArray[Any]:
    """Maxima of blocks of voxels, such that no side has more than `most_side`."""
    out = data
    for axis in range(3):
        factor = -(-out.shape[axis] // most_side)
        if factor > 1:
            rows = np.moveaxis(out, axis, 0)
            largest = rows[::factor].copy()
            for start in range(1, factor):
                more = rows[start::factor]
                np.maximum(largest[: len(more)], more, out=largest[: len(more)])
            out = np.moveaxis(largest, 0, axis)
    return out
