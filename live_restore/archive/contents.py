"""What a file of stacks or a dataset holds, and which of it was restored before."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from live_restore.archive.jobs import Job, PlanesOfVolume, Recipe
from live_restore.archive.search import Found
from live_restore.errors import SourceError
from live_restore.ledger import Ledger, Origin, Place
from live_restore.sinks.writer import output_path
from live_restore.sources.incoming import Defaults
from live_restore.sources.layouts import Layout, LayoutInfo, PlaneOnDisk
from live_restore.sources.stacks import open_stack, stack_suffix, stack_version
from live_restore.volume import AcquisitionInfo, VolumeKey

__all__ = ["Contents", "look_into"]

_Raw = tuple[VolumeKey, Path | PlanesOfVolume]


@dataclass(frozen=True, slots=True)
class Contents:
    """A file or dataset as far as it is to be restored.

    Attributes
    ----------
    found : Found
        Which.
    origin : Origin
        The same for the ledger.
    jobs : tuple of Job
        A volume each.
    num_before : int
        Volumes that were restored before.
    problems : tuple of str
        What can't be read of it.
    """

    found: Found
    origin: Origin
    jobs: tuple[Job, ...] = ()
    num_before: int = 0
    problems: tuple[str, ...] = ()


def look_into(found: Found, recipe: Recipe, ledger: Ledger, replaces: bool = False) -> Contents:
    """What is to be done of a file or dataset; it isn't opened if that is nothing.

    Parameters
    ----------
    found : Found
        Which.
    recipe : Recipe
        Where its results go, and how they are made.
    ledger : Ledger
        Knows what was restored before.
    replaces : bool
        Results of other raw data may be replaced.
    """
    origin = Origin(str(found.path))
    try:
        origin = origin._replace(version=f"{_version(found)}-{recipe.digest}")
        settled = ledger.settled(origin)
        if ledger.is_done(origin):
            return Contents(found, origin, num_before=len(settled))
        info, volumes, problems = _volumes(found, recipe)
        jobs = [
            Job(key, origin, recipe.output / output_path(key, info), raw)
            for key, raw in volumes
            if (key.position, key.time, key.channel) not in settled
        ]
        for job in jobs:
            _check_replaced(job.output, found.path, replaces)
    except OSError as error:
        return Contents(found, origin, problems=(f"{found.path}: {error.strerror or error}",))
    except SourceError as error:
        return Contents(found, origin, problems=(str(error),))
    return Contents(found, origin, tuple(jobs), len(volumes) - len(jobs), problems)


def _version(found: Found) -> str:
    """Tells a file or dataset from the same with other content."""
    if found.layout is None:
        version = stack_version(found.path)
        if version is None:
            raise SourceError(f"{found.path}: no such file, or one that may not be read")
        return version
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(found.path):
        folders.sort()
        # What Micro-Manager keeps beside the images, as how they are displayed, doesn't count.
        for name in sorted(name for name in names if stack_suffix(name)):
            path = Path(folder, name)
            stat = path.stat()
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _volumes(found: Found, recipe: Recipe) -> tuple[AcquisitionInfo, list[_Raw], tuple[str, ...]]:
    if found.layout is not None:
        return _volumes_of_dataset(found, found.layout, recipe)
    with open_stack(found.path, found.name, recipe.voxel_size_um) as stack:
        info, num_times = stack.info, stack.num_times
    places = (
        (position, time, channel)
        for position in info.positions
        for time in range(num_times)
        for channel in info.channels
    )
    return info, [(VolumeKey(found.name, *place), found.path) for place in places], ()


def _volumes_of_dataset(
    found: Found, layout: Layout, recipe: Recipe
) -> tuple[AcquisitionInfo, list[_Raw], tuple[str, ...]]:
    problems: dict[str, None] = {}
    planes: dict[Place, list[PlaneOnDisk]] = {}
    for plane in _planes(layout, problems):
        planes.setdefault((plane.position, plane.time, plane.channel), []).append(plane)
    if not planes:
        raise SourceError(
            next(iter(problems), f"{found.path}: an acquisition ({layout.name}) without any image")
        )
    known = layout.info()
    info = _info(found, known, [plane for stack in planes.values() for plane in stack], recipe)
    volumes: list[_Raw] = [
        (VolumeKey(found.name, *place), PlanesOfVolume(info, tuple(stack)))
        for place, stack in planes.items()
    ]
    return info, volumes, tuple(problems)


def _planes(layout: Layout, problems: dict[str, None]) -> Iterator[PlaneOnDisk]:
    """All planes; what is damaged is told of once by `Layout.poll`, and the rest comes after it."""
    while True:
        has_grown = False
        try:
            for plane in layout.poll():
                has_grown = True
                yield plane
        except SourceError as error:
            if not has_grown and str(error) in problems:
                return
            problems[str(error)] = None
        else:
            return


def _info(
    found: Found, known: LayoutInfo, planes: list[PlaneOnDisk], recipe: Recipe
) -> AcquisitionInfo:
    """What a watched folder announces of a dataset, where all of its planes are there."""
    first = planes[0]
    num_slices = known.num_slices or max(0, *(plane.z for plane in planes)) + 1
    voxel = recipe.voxel_size_um
    defaults = Defaults(None, voxel[2] if voxel else None, voxel[0] if voxel else None)
    return AcquisitionInfo(
        acquisition=found.name,
        shape_zyx=(num_slices, first.pixels.shape[0], first.pixels.shape[1]),
        dtype=first.pixels.dtype.newbyteorder("="),
        voxel_size_um=defaults.voxel_size_um(
            first.pixel_size_um or known.pixel_size_um, known.z_step_um, num_slices
        ),
        channels=known.channels or tuple(dict.fromkeys(plane.channel for plane in planes)),
        positions=known.positions or tuple(dict.fromkeys(plane.position for plane in planes)),
        num_times=known.num_times,
        origin=str(found.path),
    )


def _check_replaced(output: Path, raw: Path, replaces: bool) -> None:
    """A result may take the place of an older one of the same raw data, and of nothing else.

    Raises
    ------
    SourceError
        It would.
    """
    if not output.exists():
        return
    if output.resolve() == raw.resolve():
        raise SourceError(f"{raw}: would be replaced by its own result; choose another --output")
    if not replaces and (other := _raw_of(output)) != str(raw):
        what = f"a result of {other}" if other else "not one of its results"
        raise SourceError(
            f"{raw}: its result would replace {output}, which is {what}; choose another --output, or "
            "have it replaced with --again"
        )


def _raw_of(output: Path) -> str | None:
    """Where a result says that it comes from; None when it isn't one."""
    try:
        with tifffile.TiffFile(output) as tiff:
            root = ElementTree.fromstring(tiff.ome_metadata or "<none/>")  # noqa: S314 - as in stacks
    except (tifffile.TiffFileError, ElementTree.ParseError, ValueError, OSError):
        return None
    return next((one.text for one in root.iterfind(".//{*}M[@K='raw']")), None)
