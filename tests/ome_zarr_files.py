"""Writes OME-Zarr folders for tests, with zarr itself and without leaving its threads behind."""

from __future__ import annotations

import asyncio
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr.api.asynchronous
from numpy.typing import NDArray

_KINDS = {"t": "time", "c": "channel"}


def multiscales(
    axes: str = "tczyx",
    scale: list[float] | None = None,
    unit: str | None = "micrometer",
    num_levels: int = 1,
    whole_scale: list[float] | None = None,
    names: tuple[str, ...] = (),
    version: str = "0.4",
) -> dict[str, Any]:
    """The OME attributes of one image."""
    described: list[dict[str, str]] = []
    for axis in axes:
        described.append({"name": axis, "type": _KINDS.get(axis, "space")})
        if axis in "zyx" and unit:
            described[-1]["unit"] = unit
    levels = []
    for level in range(num_levels):
        factors = [
            v * (2**level if a in "yx" else 1) for v, a in zip(scale or (), axes, strict=False)
        ]
        levels.append({"path": str(level)})
        if scale:
            levels[-1]["coordinateTransformations"] = [{"type": "scale", "scale": factors}]
    image: dict[str, Any] = {"version": version, "axes": described, "datasets": levels}
    if whole_scale:
        image["coordinateTransformations"] = [{"type": "scale", "scale": whole_scale}]
    out: dict[str, Any] = {"multiscales": [image]}
    if names:
        out["omero"] = {"channels": [{"label": name, "color": "FFFFFF"} for name in names]}
    return out


def write_group(folder: Path, attributes: dict[str, Any], zarr_format: int = 2) -> None:
    """The metadata of a group."""
    folder.mkdir(parents=True, exist_ok=True)
    if zarr_format == 2:
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps(attributes))
        return
    content = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"ome": {"version": "0.5"} | attributes},
    }
    (folder / "zarr.json").write_text(json.dumps(content))


def write_array(
    folder: Path,
    data: NDArray[Any],
    zarr_format: int = 2,
    chunks: tuple[int, ...] | None = None,
    shards: tuple[int, ...] | None = None,
    separator: str = "/",
    part: Any = ...,
    **options: Any,
) -> None:
    """An array of the shape of `data`, of which only `part` is written."""
    encoding = {"name": "default" if zarr_format == 3 else "v2", "separator": separator}
    whole = (*(1 for _ in data.shape[:-2]), *data.shape[-2:])

    async def write() -> None:
        array = await zarr.api.asynchronous.create_array(
            store=folder,
            shape=data.shape,
            dtype=data.dtype,
            chunks=chunks or whole,
            shards=shards,
            zarr_format=zarr_format,
            chunk_key_encoding=encoding,
            overwrite=True,
            **options,
        )
        await array.setitem(part, np.ascontiguousarray(data)[part])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(write())


def write_image(
    folder: Path,
    data: NDArray[Any],
    axes: str = "tczyx",
    zarr_format: int = 2,
    attributes: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """A single image, as OME-Zarr 0.4 (zarr 2) or 0.5 (zarr 3)."""
    write_group(folder, multiscales(axes) if attributes is None else attributes, zarr_format)
    write_array(folder / "0", data, zarr_format, **options)
