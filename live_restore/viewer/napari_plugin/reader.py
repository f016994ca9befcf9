"""Reads the OME-TIFF files that this program writes, with their scale and what the guard found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from live_restore.matched import stack_volumes
from live_restore.sources.stacks.tiff import TiffStack

__all__ = ["get_reader"]

LayerData = tuple[NDArray[Any], dict[str, Any], str]

_OURS = "restored_by"


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """For napari: what reads a file, or None where it isn't one of ours.

    Parameters
    ----------
    path : str or sequence of str
        One file, or several.
    """
    paths = [path] if isinstance(path, str) else list(path)
    if paths and all(_OURS in _annotations(Path(one)) for one in paths):
        return _read
    return None


def _read(path: str | Sequence[str]) -> list[LayerData]:
    paths = [path] if isinstance(path, str) else list(path)
    return [layer for one in paths for layer in _layers(Path(one))]


def _layers(path: Path) -> list[LayerData]:
    """One per channel: (Z, Y, X), or (T, Z, Y, X) of several time points."""
    annotations = _annotations(path)
    name = path.name.removesuffix(".tiff").removesuffix(".tif").removesuffix(".ome")
    volumes: dict[str, list[NDArray[Any]]] = {}
    with TiffStack(path, name) as stack:
        voxel = stack.info.voxel_size_um
        for key, data in stack_volumes(stack):
            volumes.setdefault(key.channel, []).append(data)
    layers = []
    for channel, times in volumes.items():
        data = times[0] if len(times) == 1 else np.stack(times)
        num_more = data.ndim - 3
        about: dict[str, Any] = {
            "name": f"{name} {channel}" if channel else name,
            "scale": (1.0,) * num_more + (voxel or (1.0, 1.0, 1.0)),
            "units": ("pixel",) * num_more + (("µm",) * 3 if voxel else ("pixel",) * 3),
            "axis_labels": ("t", "z", "y", "x")[-data.ndim :],
            "metadata": {"live_restore": annotations},
        }
        layers.append((data, about, "image"))
    return layers


def _annotations(path: Path) -> dict[str, str]:
    """What a file says of how it was made; empty where it can't be read or says nothing."""
    try:
        with tifffile.TiffFile(path) as tiff:
            text = tiff.ome_metadata
        if not text:
            return {}
        # Expat expands no external entities.
        root = ElementTree.fromstring(text)  # noqa: S314
    except (OSError, tifffile.TiffFileError, ElementTree.ParseError):
        return {}
    return {
        one.get("K", ""): one.text or "" for one in root.iter() if one.tag.rpartition("}")[2] == "M"
    }
