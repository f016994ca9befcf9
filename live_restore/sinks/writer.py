"""Writes restored volumes as OME-TIFF: whole or absent, with voxel size, names and provenance."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

from live_restore import __version__
from live_restore.assessment import Assessment
from live_restore.errors import SinkError
from live_restore.interfaces import Item
from live_restore.light import Light
from live_restore.profile import WriteSettings
from live_restore.volume import (
    AcquisitionInfo,
    ModelUse,
    Restored,
    SourceState,
    VolumeKey,
    VoxelSize,
)

__all__ = ["Writer", "output_path", "provenance", "write_ome_tiff"]

_UNNAMED = ("0", "camera", "C0")  # positions and channels that nobody gave a name
_LOOK_AGAIN_S = 5.0
_UNSAFE = re.compile(r'[<>:"|?*\x00-\x1f/\\]')


class Writer:
    """A sink that writes one OME-TIFF per volume."""

    def __init__(self, settings: WriteSettings) -> None:
        self._folder = settings.folder
        self._unwritten_bytes = 0  # of the last volume, where it couldn't be written
        self._next_look_s = 0.0

    def __enter__(self) -> Self:
        try:
            self._probe()
        except OSError as error:
            raise SinkError(
                f"folder {self._folder}: can't be written to ({error.strerror}). Make it writable "
                "or name another one in [write]"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing stays open between volumes."""

    def send(self, item: Item) -> None:
        """Write a restored volume; other items aren't written.

        Raises
        ------
        SinkError
            It can't be written; nothing half-written is left under its name. With a `SourceState`:
            neither could the last one be now.
        """
        if isinstance(item, SourceState) and self._unwritten_bytes:
            self._look_again()
        if not isinstance(item, Restored):
            return
        path = self._folder / output_path(item.key, item.info)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_ome_tiff(
                path,
                item.data,
                (1, 1, *item.data.shape),
                item.data.dtype,
                item.info.voxel_size_um,
                (item.key.channel,),
                provenance(item.model, item.info.origin)
                | _found(item.assessment)
                | {
                    "acquisition": item.key.acquisition,
                    "position": item.key.position,
                    "time": str(item.key.time),
                    "received_at": item.raw.received_at.isoformat(),
                }
                | _light(item.light),
            )
        except OSError as error:
            self._unwritten_bytes = max(1, item.data.nbytes)
            raise SinkError(
                f"{item.key}: can't be written to {path} ({_reason(error)}). Free space or "
                "mend the folder; the raw data is untouched"
            ) from error
        self._unwritten_bytes = 0

    def _probe(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        probe = self._folder / ".live-restore.part"
        probe.write_bytes(b"")
        probe.unlink()

    def _look_again(self) -> None:
        """See whether the last volume could be written now."""
        now = time.monotonic()
        if now >= self._next_look_s:
            self._next_look_s = now + _LOOK_AGAIN_S
            try:
                self._probe()
                if shutil.disk_usage(self._folder).free > 2 * self._unwritten_bytes:
                    self._unwritten_bytes = 0
                    return
            except OSError as error:
                raise SinkError(f"folder {self._folder}: still can't be written to") from error
        raise SinkError(f"folder {self._folder}: still can't take volumes")


def output_path(key: VolumeKey, info: AcquisitionInfo) -> Path:
    """Where a volume is written, relative to the output folder.

    ``<acquisition>.ome.tif`` when that names it, else a folder of the acquisition's name with one
    file per volume; position, time and channel appear where there is more than one, or one that
    wasn't announced.
    """
    names = PurePosixPath(key.acquisition).parts or ("_",)  # "." has none
    acquisition = Path(*(_safe(part) for part in names))
    # Where nobody planned ahead, others may follow those that are known so far.
    is_open = info.num_times is None
    parts = []
    if _is_needed(key.position, info.positions, is_open):
        parts.append(_safe(key.position))
    if is_open or info.num_times != 1 or key.time:
        parts.append(f"t{key.time:04d}")
    if _is_needed(key.channel, info.channels, is_open):
        parts.append(_safe(key.channel))
    if not parts:
        return acquisition.with_name(acquisition.name + ".ome.tif")
    return acquisition / ("_".join([acquisition.name, *parts]) + ".ome.tif")


def _is_needed(name: str, announced: tuple[str, ...], is_open: bool) -> bool:
    """Whether a position or channel appears in a file's name."""
    return len(announced) > 1 or name not in announced or (is_open and name not in _UNNAMED)


def provenance(model: ModelUse, origin: str) -> dict[str, str]:
    """What made a restored volume, for its file."""
    return {
        "restored_by": f"live_restore {__version__}",
        "model": model.name,
        "model_sha256": model.sha256,
        "precision": model.precision,
        "device": model.device,
        "tile_zyx": "x".join(str(size) for size in model.tile_zyx),
        "attention": model.attention,
        "normalisation": model.normalisation,
        "remark": model.remark or "none",
        "difference_from_float32": "unknown"
        if model.difference is None
        else f"{model.difference:.1e}",
        "raw": origin,
    }


def _found(assessment: Assessment | None) -> dict[str, str]:
    """What the guard found of a volume, for its file."""
    if assessment is None:
        return {}
    told = {
        "signal_photoelectrons": assessment.signal,
        "nrmse_estimate": assessment.error,
        "nrmse_bound": assessment.error_bound,
        "nrmse_bound_coverage": assessment.coverage,
    }
    return {
        "verdict": assessment.verdict,
        "verdict_reasons": "; ".join(assessment.reasons) or "none",
    } | {name: f"{value:.4g}" for name, value in told.items() if value is not None}


def _light(light: Light | None) -> dict[str, str]:
    """What light a volume got, for its file; nothing where it isn't known."""
    if light is None or light.exposure_ms is None:
        return {}
    told = {
        "exposure_ms": light.exposure_ms,
        "power": light.power,
        "dose": light.dose,
        "dose_of_position": light.total,
        "light_of_own": light.of_own,
    }
    return {name: f"{value:.6g}" for name, value in told.items() if value is not None} | {
        "dose_unit": light.unit
    }


def write_ome_tiff(
    path: Path,
    planes: NDArray[Any] | Iterable[NDArray[Any]],
    shape_tczyx: tuple[int, ...],
    dtype: np.dtype[Any],
    voxel_size_um: VoxelSize | None,
    channels: tuple[str, ...],
    annotations: Mapping[str, str],
) -> None:
    """Write an OME-TIFF under a temporary name, flush it to disk, then give it its name.

    Parameters
    ----------
    path : pathlib.Path
        Replaced if it exists.
    planes : ndarray or iterable of ndarray (Y, X)
        All planes in the order of `shape_tczyx`.
    shape_tczyx : tuple of int
        Times, channels, planes, rows, columns.
    dtype : numpy.dtype
        Of the planes.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``.
    channels : tuple of str
        One name per channel.
    annotations : mapping of str to str
        Kept as an OME map annotation.

    Raises
    ------
    OSError
        The disk is full or the folder can't be written to.
    """
    metadata: dict[str, Any] = {
        "axes": "TCZYX",
        # The same volume gives the same file, and none tells this computer's address.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([path.name, dict(annotations)]))),
        "Channel": {"Name": list(channels)},
        "MapAnnotation": dict(annotations),
    }
    if voxel_size_um is not None:
        for axis, size in zip("ZYX", voxel_size_um, strict=True):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    part = path.with_name(path.name + ".part")
    nbytes = int(np.prod(shape_tczyx)) * dtype.itemsize
    data = planes.reshape(shape_tczyx) if isinstance(planes, np.ndarray) else iter(planes)
    try:
        with part.open("wb") as file:
            with tifffile.TiffWriter(file, ome=True, bigtiff=nbytes > 2**32 - 2**25) as tiff:
                tiff.write(
                    data,
                    shape=shape_tczyx,
                    dtype=dtype,
                    photometric="minisblack",
                    metadata=metadata,
                )
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _reason(error: OSError) -> str:
    """In words; numpy, which writes the planes, tells of a full disk by two numbers alone."""
    if error.errno is None and "requested and" in str(error):
        return os.strerror(errno.ENOSPC)
    return error.strerror or str(error)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows has no such call; NTFS journals the rename itself
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safe(name: str) -> str:
    """One part of a path, without what a file system refuses or takes for another folder."""
    name = _UNSAFE.sub("_", name)
    return "_" if name in ("", ".", "..") else name
