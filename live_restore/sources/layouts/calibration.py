"""How large pixels are, as the descriptions in TIFF files of several programs tell."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from xml.etree import ElementTree

from live_restore.sources.layouts.ifd import Directory, read_first_directory
from live_restore.sources.layouts.raw_file import RawFile

__all__ = ["Calibration", "imagej_entry", "read_description"]

_DESCRIPTION, _X_RESOLUTION = 270, 282
_MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "\\u00b5m": 1.0,
    "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25400.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Calibration:
    """Sizes that a file tells; None where it doesn't.

    Attributes
    ----------
    pixel_size_um, z_step_um : float or None
        Sizes.
    """

    pixel_size_um: float | None = None
    z_step_um: float | None = None

    @classmethod
    def of(cls, path: Path) -> Self:
        """What a file's OME-XML or ImageJ's description tells.

        Raises
        ------
        SourceError
            The file is gone, can't be read or is damaged.
        """
        with RawFile(path) as file:
            directory = read_first_directory(file)
            if directory is None:
                return cls()
            text = read_description(file, directory)
            resolution = directory.ratio(file, _X_RESOLUTION)
        if text.startswith("ImageJ="):
            unit = _MICROMETRES.get((imagej_entry(text, "unit") or "").lower(), math.nan)
            pixel = unit / resolution if resolution else math.nan
            return cls(_size(pixel), _size(_number(imagej_entry(text, "spacing")) * unit))
        if "<OME" in text:
            return cls(*_ome_sizes(text))
        return cls()


def read_description(file: RawFile, directory: Directory) -> str:
    """What the file's writer says of the image; empty where nothing."""
    return directory.text(file, _DESCRIPTION)


def imagej_entry(description: str, name: str) -> str | None:
    """A line of ImageJ's description, as ``images=24``; None where there is none."""
    if not description.startswith("ImageJ="):
        return None
    line = re.search(rf"^{name}=(.*?)\r?$", description, re.MULTILINE)
    return line[1] if line else None


def _ome_sizes(xml: str) -> tuple[float | None, float | None]:
    try:
        # Today's expat refuses entities that grow without bound.
        pixels = ElementTree.fromstring(xml).find("{*}Image/{*}Pixels")  # noqa: S314
    except (ElementTree.ParseError, ValueError):
        return None, None
    if pixels is None:
        return None, None
    sizes = []
    for axis in "XZ":
        unit = _MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").lower(), math.nan)
        sizes.append(_size(_number(pixels.get(f"PhysicalSize{axis}")) * unit))
    return sizes[0], sizes[1]


def _number(text: str | None) -> float:
    try:
        return float(text or math.nan)
    except ValueError:
        return math.nan


def _size(number: float) -> float | None:
    return number if 0 < number < math.inf else None
