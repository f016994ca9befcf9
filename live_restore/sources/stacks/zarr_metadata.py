"""Reads what an OME-Zarr folder tells of its images: where they lie, axes, names, voxel size."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from live_restore.errors import SourceError
from live_restore.sources.stacks.contents import MICROMETRES, voxel_size
from live_restore.volume import VoxelSize

__all__ = ["ZARR_METADATA_FILES", "OmeZarrImage", "images", "read_json"]

ZARR_METADATA_FILES = ("zarr.json", ".zattrs", ".zgroup")
"""Where a group's metadata stand, of zarr 3 and 2; the first that is there counts."""


@dataclass(frozen=True, slots=True)
class OmeZarrImage:
    """One image of a folder, at its full resolution.

    Attributes
    ----------
    name : str
        Number of its series, ``0`` where there is one image only.
    array : pathlib.Path
        The folder of its array.
    zarr_format : int
        2 or 3.
    axes : tuple of str
        Names in the array's order, in lower case.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``, None where the folder doesn't tell it with its units.
    channels : tuple of str
        Names as written; there may be too few or none.
    """

    name: str
    array: Path
    zarr_format: int
    axes: tuple[str, ...]
    voxel_size_um: VoxelSize | None
    channels: tuple[str, ...]


def images(root: Path) -> list[OmeZarrImage]:
    """The images of an OME-Zarr folder, in order; their arrays may still be missing.

    Raises
    ------
    SourceError
        Damaged, half-written, or of another kind: what was found, and what to do.
    """
    if not root.is_dir():
        raise SourceError(f"{root}: not a folder, as an OME-Zarr image is; unpack it first")
    attributes, _ = _group(root)
    if "plate" in attributes or "well" in attributes:
        kind = "plate" if "plate" in attributes else "well"
        raise SourceError(
            f"{root}: a {kind} of a screen (HCS); give its single fields, which are OME-Zarr images too"
        )
    if "labels" in attributes or "image-label" in attributes:
        raise SourceError(f"{root}: labels (a segmentation), not raw data; give the image itself")
    if "multiscales" in attributes:
        return [_image(root, root, "0")]
    if "bioformats2raw.layout" not in attributes:
        raise SourceError(
            f"{root}: holds no OME-Zarr image (no 'multiscales' in its metadata); if it is still "
            "being written, wait, otherwise write it as OME-Zarr 0.4 or 0.5"
        )
    series = _series(root)
    if not series:
        raise SourceError(f"{root}: holds no image; wait until it is written, or write it again")
    return [_image(root, root / name, name) for name in series]


def read_json(path: Path) -> dict[str, Any]:
    """A metadata file.

    Raises
    ------
    SourceError
        Missing, cut short or not a JSON object: wait until it is written, or write it again.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:  # what isn't UTF-8 is a ValueError too
        raise SourceError(
            f"{path}: metadata missing, damaged or cut short ({type(error).__name__}: {error}); wait "
            "until it is written, or write it again"
        ) from error
    if not isinstance(content, dict):
        raise SourceError(
            f"{path}: a {type(content).__name__}, expected a JSON object; write it again"
        )
    return content


def _group(folder: Path) -> tuple[dict[str, Any], int]:
    """The OME attributes of a group, and its zarr format."""
    if (folder / "zarr.json").exists():
        content = read_json(folder / "zarr.json")
        if content.get("node_type") == "array":
            raise _bare(folder)
        attributes = content.get("attributes", {})
        return attributes.get("ome", attributes), 3
    if (folder / ".zarray").exists():
        raise _bare(folder)
    if (folder / ".zattrs").exists():
        return read_json(folder / ".zattrs"), 2
    if (folder / ".zgroup").exists():
        return {}, 2
    raise SourceError(
        f"{folder}: no zarr metadata (expected zarr.json, or .zgroup and .zattrs); if it is still "
        "being written, wait, otherwise write it again"
    )


def _bare(folder: Path) -> SourceError:
    return SourceError(
        f"{folder}: a bare zarr array, which doesn't tell its axes; write it as OME-Zarr 0.4 or 0.5"
    )


def _series(root: Path) -> list[str]:
    """Names of the folders of a bioformats2raw layout's images."""
    if any((root / "OME" / name).exists() for name in ZARR_METADATA_FILES):
        listed = _group(root / "OME")[0].get("series")
        if listed:
            return [str(name) for name in listed]
    count = 0
    while (root / str(count)).is_dir():
        count += 1
    return [str(number) for number in range(count)]


def _image(root: Path, folder: Path, name: str) -> OmeZarrImage:
    attributes, zarr_format = _group(folder)
    try:
        multiscale = attributes["multiscales"][0]
        if "axes" not in multiscale:
            raise SourceError(
                f"{folder}: OME-Zarr {multiscale.get('version', attributes.get('version', '?'))}, "
                "which names its axes otherwise; expected 0.4 or 0.5: write it as one of these"
            )
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in multiscale["axes"]]
        level = multiscale["datasets"][0]
        channels = attributes.get("omero", {}).get("channels", [])
        return OmeZarrImage(
            name=name,
            array=folder / level["path"],
            zarr_format=zarr_format,
            axes=tuple(axis["name"].lower() for axis in axes),
            voxel_size_um=_voxel(axes, level, multiscale),
            channels=tuple(str(channel.get("label", "")) for channel in channels),
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise SourceError(
            f"{folder}: OME metadata incomplete or damaged ({type(error).__name__}: {error}) in "
            f"{root.name}; write it again"
        ) from error


def _voxel(
    axes: list[dict[str, Any]], level: dict[str, Any], multiscale: dict[str, Any]
) -> VoxelSize | None:
    """The level's scale times that of all levels, in µm; a unit that isn't told is unknown."""
    scale = [1.0] * len(axes)
    num_scales = 0
    for holder in (level, multiscale):
        for transformation in holder.get("coordinateTransformations") or []:
            if transformation.get("type") != "scale":
                continue
            factors = transformation.get("scale")
            if not isinstance(factors, list) or len(factors) != len(axes):
                return None  # in a file of its own, or damaged
            scale = [a * float(b) for a, b in zip(scale, factors, strict=True)]
            num_scales += 1
    names = [axis["name"].lower() for axis in axes]
    if not num_scales or not set("zyx") <= set(names):
        return None
    voxel = []
    for name in "zyx":
        place = names.index(name)
        unit = MICROMETRES.get(str(axes[place].get("unit")).lower(), math.nan)
        voxel.append(scale[place] * unit)
    return voxel_size(voxel)
