"""Matched low- and high-dose volumes: found, read, checked against each other, for training and scoring."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import ProfileError, SourceError
from live_restore.registration import measure_shift
from live_restore.sources.stacks.tiff import TIFF_SUFFIXES, TiffStack
from live_restore.volume import VolumeKey, VoxelSize

__all__ = [
    "FIELD_OF_VIEW",
    "MatchedFiles",
    "MatchedPair",
    "check_registration",
    "field_of_view",
    "match_folders",
    "measure_shift",
    "read_folder",
    "read_pairs",
    "stack_volumes",
]

logger = logging.getLogger(__name__)

FIELD_OF_VIEW = r"(?i)^(.*?)(?:(?:^|[/ _.-]+)t(?:ime)?(?:point)?[_-]?\d+(?:[ _.-]+c(?:h(?:annel)?)?[_-]?\d+)?)?$"
"""What of a file's name is its field of view: all but a time token at its end (``_t012``, ``-T3``,
``_time05``, also ``_t012_c1``)."""

_LOW_WORDS = "low lr lowres lowsnr lowdose raw noisy noise input source bad"
_HIGH_WORDS = (
    "high hr highres highsnr highdose gt truth groundtruth ground clean target good ref reference"
)
_WORDS = frozenset(f"{_LOW_WORDS} {_HIGH_WORDS} snr dose exposure".split())
_LISTED = 10
_VOXEL_TOLERANCE = 0.01
_ALARMING_VOXELS = 0.5


@dataclass(frozen=True, slots=True)
class MatchedFiles:
    """A low-dose file and the high-dose file of the same volumes.

    Attributes
    ----------
    name : str
        What both are called: path below their folders with ``/``, without suffix and without the
        words that tell low from high.
    low, high : pathlib.Path
        The files.
    """

    name: str
    low: Path
    high: Path


@dataclass(frozen=True, slots=True, eq=False)
class MatchedPair:
    """One volume at low and at high dose.

    Attributes
    ----------
    name : str
        For people: the files' name, then position, time and channel where there are several.
    field_of_view : str
        What must not be split between training and validation.
    low, high : ndarray, (Z, Y, X)
        Camera counts, uint8, uint16 or float32, finite, of the same shape, read-only.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``, where either file knows it.
    files : MatchedFiles
        Where they come from.
    """

    name: str
    field_of_view: str
    low: NDArray[Any]
    high: NDArray[Any]
    voxel_size_um: VoxelSize | None
    files: MatchedFiles


def match_folders(low: Path, high: Path) -> list[MatchedFiles]:
    """TIFF files of two folders, matched by name.

    Both are searched recursively. Files match whose paths below their folders are equal but for
    the suffix; the others are compared without the words that tell low from high dose ("raw",
    "low", "noisy", "input", "high", "gt", "truth", "clean", "target", …).

    Parameters
    ----------
    low, high : pathlib.Path
        Folders; one may lie inside the other.

    Returns
    -------
    list of MatchedFiles
        Sorted by name, never empty.

    Raises
    ------
    SourceError
        A folder is missing or empty, files have no partner or more than one.
    """
    for folder, option in ((low, "low-dose"), (high, "high-dose")):
        if not folder.is_dir():
            raise SourceError(f"{option} folder {folder}: no such folder")
    if low.resolve() == high.resolve():
        raise SourceError(
            f"{low}: given as low-dose and as high-dose folder; put the two into folders of their own"
        )
    low_files, high_files = _files(low, without=high), _files(high, without=low)
    matched = [
        MatchedFiles(name, low_files.pop(name), high_files.pop(name))
        for name in sorted(low_files.keys() & high_files.keys())
    ]
    low_keys, high_keys = _by_key(low_files, low), _by_key(high_files, high)
    for key in low_keys.keys() & high_keys.keys():
        low_name, high_name = low_keys.pop(key), high_keys.pop(key)
        name = "/".join(filter(None, ("_".join(part) for part in _tokens(low_name))))
        matched.append(MatchedFiles(name or low_name, low_files[low_name], high_files[high_name]))
    if low_keys or high_keys:
        raise SourceError(
            "each low-dose file needs a high-dose file of the same name and the other way round. "
            + _listed(low_keys.values(), low)
            + _listed(high_keys.values(), high)
            + "Rename them, or move them out of the folders"
        )
    return sorted(matched, key=lambda one: one.name)


def read_pairs(
    files: Iterable[MatchedFiles],
    field_pattern: str = FIELD_OF_VIEW,
    voxel_size_um: VoxelSize | None = None,
) -> Iterator[MatchedPair]:
    """Each volume of each file, one per position, time and channel, read when it is asked for.

    Parameters
    ----------
    files : iterable of MatchedFiles
        From `match_folders`.
    field_pattern : str
        See `field_of_view`. Positions within a file are fields of view of their own.
    voxel_size_um : tuple of float, optional
        ``(z, y, x)`` for files that don't say theirs.

    Raises
    ------
    SourceError
        A file can't be read, its halves differ in shape, axes or voxel size, or a voxel isn't
        finite.
    ProfileError
        `field_pattern` can't be used.
    """
    for one in files:
        with (
            TiffStack(one.low, one.name, voxel_size_um) as low,
            TiffStack(one.high, one.name, voxel_size_um) as high,
        ):
            _check_halves(one, low, high)
            info = low.info
            voxel = info.voxel_size_um or high.info.voxel_size_um
            field = field_of_view(one.name, field_pattern)
            halves = zip(stack_volumes(low), stack_volumes(high), strict=True)
            for (key, low_data), (_, high_data) in halves:
                name, where = _names(one.name, field, low, key)
                _check_finite(one.low, name, low_data)
                _check_finite(one.high, name, high_data)
                yield MatchedPair(name, where, low_data, high_data, voxel, one)


def read_folder(
    folder: Path, field_pattern: str = FIELD_OF_VIEW
) -> Iterator[tuple[str, str, NDArray[Any], VoxelSize | None]]:
    """Each volume of each TIFF file below a folder, read when it is asked for.

    Yields
    ------
    name, field_of_view : str
        As in `MatchedPair`.
    volume : ndarray, (Z, Y, X)
        Camera counts, read-only.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``, where the file knows it.

    Raises
    ------
    SourceError
        The folder is missing or empty, a file can't be read, or a voxel isn't finite.
    ProfileError
        `field_pattern` can't be used.
    """
    if not folder.is_dir():
        raise SourceError(f"folder {folder}: no such folder")
    for name, path in _files(folder).items():
        with TiffStack(path, name) as stack:
            field = field_of_view(name, field_pattern)
            for key, data in stack_volumes(stack):
                label, where = _names(name, field, stack, key)
                _check_finite(path, label, data)
                yield label, where, data, stack.info.voxel_size_um


def field_of_view(name: str, pattern: str = FIELD_OF_VIEW) -> str:
    """The field of view that a file's name belongs to.

    Parameters
    ----------
    name : str
        From `MatchedFiles`.
    pattern : str
        Regular expression with one group, searched in `name`; the group is the field of view, the
        folder itself (``.``) if it is empty. The default, `FIELD_OF_VIEW`, keeps the time points of
        one field on one side of a split.

    Raises
    ------
    ProfileError
        `pattern` isn't a regular expression with one group.
    SourceError
        `pattern` isn't found in `name`.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ProfileError(
            f"field of view pattern {pattern!r}: not a regular expression ({error})"
        ) from error
    if expression.groups != 1:
        raise ProfileError(
            f"field of view pattern {pattern!r}: has {expression.groups} groups and needs one, around "
            "the part of a file name that is the field of view"
        )
    match = expression.search(name)
    if match is None or match[1] is None:
        raise SourceError(f"{name}: the field of view pattern {pattern!r} isn't found in this name")
    return match[1] or "."


def check_registration(pair: MatchedPair) -> tuple[float, float, float]:
    """Measure the shift between the halves and warn of one above half a voxel.

    Returns
    -------
    tuple of float
        As from `measure_shift`.
    """
    shift = measure_shift(pair.low, pair.high)
    if any(abs(one) > _ALARMING_VOXELS for one in shift):
        um = ""
        if pair.voxel_size_um:
            parts = zip(shift, pair.voxel_size_um, strict=True)
            um = " = ({:+.2f}, {:+.2f}, {:+.2f}) µm".format(*(s * v for s, v in parts))
        logger.warning(
            "%s: the high-dose volume lies (%+.1f, %+.1f, %+.1f) voxels (z, y, x)%s from the "
            "low-dose one. A model learns such a shift as blur, and scores suffer from it: register "
            "the two, or acquire them plane by plane in turn",
            pair.name,
            *shift,
            um,
        )
    return shift


def _names(name: str, field: str, stack: TiffStack, key: VolumeKey) -> tuple[str, str]:
    """What a volume of a file is called, and its field of view."""
    info = stack.info
    names, where = [name], [field]
    if len(info.positions) > 1:
        names.append(f"position {key.position}")
        where.append(f"position {key.position}")
    if stack.num_times > 1:
        names.append(f"time {key.time}")
    if len(info.channels) > 1:
        names.append(key.channel)
    return " ".join(names), " ".join(where)


def _files(folder: Path, without: Path | None = None) -> dict[str, Path]:
    """TIFF files below a folder by name: their relative path without suffix."""
    nested = without.resolve() if without else None
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in TIFF_SUFFIXES or not path.is_file():
            continue
        if (
            nested
            and nested.is_relative_to(folder.resolve())
            and path.resolve().is_relative_to(nested)
        ):
            continue
        relative = path.relative_to(folder)
        stem = re.sub(r"(?i)\.ome$", "", relative.stem)
        name = relative.with_name(stem or relative.name).as_posix()
        if name in found:
            raise SourceError(
                f"{found[name]} and {path} have one name, {name}; move one of them away"
            )
        found[name] = path
    if not found:
        raise SourceError(
            f"{folder}: holds no TIFF file ({', '.join(TIFF_SUFFIXES)}), neither do its subfolders"
        )
    return found


def _tokens(name: str) -> tuple[tuple[str, ...], ...]:
    """The words of each part of a path, those that tell low from high left out."""
    parts = (re.split(r"[^0-9A-Za-zÀ-ž]+", part) for part in name.split("/"))
    kept = (tuple(word for word in part if word and word.lower() not in _WORDS) for part in parts)
    return tuple(part for part in kept if part)


def _by_key(files: dict[str, Path], folder: Path) -> dict[tuple[tuple[str, ...], ...], str]:
    """Names by what is left of them without the usual words."""
    keys: dict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
    for name in files:
        keys[tuple(tuple(word.lower() for word in part) for part in _tokens(name))].append(name)
    for names in keys.values():
        if len(names) > 1:
            raise SourceError(
                f"{folder}: {_some(names)} are alike without the words that tell low from high "
                "dose, so their partners can't be told; give low- and high-dose files the same names"
            )
    return {key: names[0] for key, names in keys.items()}


def _listed(names: Iterable[str], folder: Path) -> str:
    found = sorted(names)
    return f"Without a partner in {folder}: {_some(found)}. " if found else ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _check_halves(files: MatchedFiles, low: TiffStack, high: TiffStack) -> None:
    """Both files hold the same volumes, as far as can be told before reading them."""
    both = f"{files.low} (low dose) and {files.high} (high dose)"
    if low.info.shape_zyx != high.info.shape_zyx:
        raise SourceError(
            f"{both} differ in shape: {low.info.shape_zyx} and {high.info.shape_zyx} (z, y, x). "
            "Matched volumes have a partner for each voxel: crop or resample one of them"
        )
    for what, of_low, of_high in (
        ("times", low.num_times, high.num_times),
        ("channels", len(low.info.channels), len(high.info.channels)),
        ("positions", len(low.info.positions), len(high.info.positions)),
    ):
        if of_low != of_high:
            raise SourceError(
                f"{both} differ in their number of {what}: {of_low} and {of_high}. Save the same "
                f"{what} in both"
            )
    names = low.info.channels, high.info.channels
    if names[0] != names[1] and set(names[0]) == set(names[1]):
        raise SourceError(
            f"{both} hold their channels in different order: {', '.join(names[0])} and "
            f"{', '.join(names[1])}. Save them in the same order"
        )
    voxels = low.info.voxel_size_um, high.info.voxel_size_um
    known = [np.asarray(voxel) for voxel in voxels if voxel]
    if len(known) == 2 and not np.allclose(known[0], known[1], rtol=_VOXEL_TOLERANCE, atol=0):
        sizes = " and ".join(" x ".join(f"{one:.4g}" for one in voxel) for voxel in known)
        raise SourceError(
            f"{both} differ in voxel size: {sizes} µm (z, y, x), more than "
            f"{_VOXEL_TOLERANCE:.0%}. Correct the wrong file's metadata, or resample one of them"
        )


def stack_volumes(stack: TiffStack) -> Iterator[tuple[VolumeKey, NDArray[Any]]]:
    """Each volume of a file, read when it is asked for, read-only."""
    planes = stack.planes()
    while batch := list(islice(planes, stack.info.shape_zyx[0])):
        data = np.stack([plane.data for plane in batch])
        data.flags.writeable = False
        yield batch[0].key, data


def _check_finite(path: Path, name: str, data: NDArray[Any]) -> None:
    wrong = data.size - int(np.isfinite(data).sum()) if data.dtype.kind == "f" else 0
    if wrong:
        raise SourceError(
            f"{path}: {wrong} of {data.size} voxels of {name} aren't finite numbers; replace them"
        )
