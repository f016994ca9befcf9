"""Volumes that wait on disk, since memory is full and they can't be had again.

One file per volume: a line of JSON that says which, then its voxels in numpy's format. A file has its
name only when it is whole, so that what a killed program leaves is restored by the next one.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from live_restore.errors import SpoolError
from live_restore.volume import AcquisitionInfo, Volume, VolumeKey

__all__ = ["Spool", "Spooled"]

logger = logging.getLogger(__name__)

_SUFFIX = ".volume"
_LARGEST_HEAD_BYTES = 2**23  # a hundred thousand names of positions
_MOST_FILES = 100_000


@dataclass(frozen=True, slots=True)
class Spooled:
    """Stands for a volume that lies on disk.

    Attributes
    ----------
    key : VolumeKey
        Which.
    path : pathlib.Path
        Its file.
    file_nbytes : int
        Its size.
    is_left_over : bool
        Of an earlier run.
    held_nbytes : int
        In memory: none.
    """

    key: VolumeKey
    path: Path
    file_nbytes: int
    is_left_over: bool = False
    held_nbytes: int = 0

    def load(self) -> Volume:
        """Read a volume back; it stays on disk until the spool discards it.

        Raises
        ------
        SpoolError
            Its file is gone or damaged.
        """
        try:
            with self.path.open("rb") as file:
                head = _read_head(file)
                data = np.lib.format.read_array(file, allow_pickle=False)
            return _volume(head, data, head["is_live"] and not self.is_left_over)
        except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError) as error:
            raise SpoolError(
                f"{self.path}: a volume that waited on disk can't be read back "
                f"({type(error).__name__}: {error}). Was the file changed, or is the disk failing?"
            ) from error


class Spool:
    """A folder of volumes that wait. Entering makes the folder; leaving removes it when it is empty.

    Used from several threads, each with its own volumes.

    Parameters
    ----------
    folder : pathlib.Path
        Of one running program alone.
    limit_bytes : int
        What may lie in it.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._held: dict[Path, int] = {}
        self._nbytes = 0
        self._lock = threading.Lock()
        self._last_number = 0
        self._is_refused = False  # the disk can't; told once until it can

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for part in self._folder.glob("*.part"):
                part.unlink()
            self._held = {p: p.stat().st_size for p in self._folder.glob(f"*{_SUFFIX}")}
            self._nbytes = sum(self._held.values())
        except OSError as error:
            raise SpoolError(
                f"folder {self._folder}: volumes can't be kept there when memory is full "
                f"({error.strerror or error}). Make it writable, or set spool_mb = 0 in [queue]"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._held:
            try:
                self._folder.rmdir()
            except OSError as failure:
                logger.debug("folder %s: not removed (%s)", self._folder, failure)

    @property
    def num_volumes(self) -> int:
        """Volumes that wait."""
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes of their files."""
        return self._nbytes

    def keep(self, volume: Volume | Spooled) -> Spooled | None:
        """Write a volume to disk if it isn't there; None when the limit is reached or the disk refuses."""
        if isinstance(volume, Spooled):
            return volume
        with self._lock:
            if self._nbytes + volume.nbytes > self._limit or len(self._held) >= _MOST_FILES:
                return None
        self._last_number = max(time.time_ns(), self._last_number + 1)
        path = self._folder / f"{self._last_number:020d}{_SUFFIX}"
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                file.write(json.dumps(_head(volume)).encode() + b"\n")
                np.lib.format.write_array(file, volume.data, allow_pickle=False)
                size = file.tell()
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            if not self._is_refused:
                logger.error(
                    "folder %s: volumes can't be kept there though memory is full (%s). Free space "
                    "on its disk: what doesn't fit in memory is passed over",
                    self._folder,
                    error.strerror or error,
                )
            self._is_refused = True
            return None
        self._is_refused = False
        with self._lock:
            self._held[path] = size
            self._nbytes += size
        logger.debug("%s: waits on disk", volume.key)
        return Spooled(volume.key, path, size)

    def discard(self, spooled: Spooled) -> None:
        """Remove a volume that is wanted no more."""
        with self._lock:
            self._nbytes -= self._held.pop(spooled.path, 0)
        try:
            spooled.path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning(
                "%s: can't be removed (%s); it is restored again at the next start",
                spooled.path,
                error.strerror or error,
            )

    def put_aside(self, path: Path) -> None:
        """Give a file that can't be read another name; what is in it stays, for a person to look at."""
        with self._lock:
            self._nbytes -= self._held.pop(path, 0)
        aside = path.with_suffix(".damaged")
        try:
            path.replace(aside)
        except OSError as error:
            logger.warning("%s: keeps its name (%s)", path, error.strerror or error)
        else:
            logger.error(
                "%s: kept as %s; with its old name the next start tries again", path, aside.name
            )

    def left_over(self) -> Iterator[tuple[Spooled, AcquisitionInfo]]:
        """What an earlier run left, the oldest first; a damaged file is told of and put aside."""
        for path in sorted(self._held):
            try:
                with path.open("rb") as file:
                    head = _read_head(file)
                key, info = VolumeKey(**head["key"]), _info(head["info"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.error("%s: a volume that waited on disk is damaged (%s)", path, error)
                self.put_aside(path)
                continue
            yield Spooled(key, path, self._held[path], is_left_over=True), info


def _head(volume: Volume) -> dict[str, Any]:
    info = volume.info
    return {
        "key": {
            name: getattr(volume.key, name)
            for name in ("acquisition", "position", "time", "channel")
        },
        "info": {
            "acquisition": info.acquisition,
            "shape_zyx": info.shape_zyx,
            "dtype": info.dtype.str,
            "voxel_size_um": info.voxel_size_um,
            "channels": info.channels,
            "positions": info.positions,
            "num_times": info.num_times,
            "started_at": info.started_at.isoformat(),
            "origin": info.origin,
            "version": info.version,
        },
        "acquired_at": volume.acquired_at.isoformat() if volume.acquired_at else None,
        "received_at": volume.received_at.isoformat(),
        "received_s": volume.received_s,
        "exposure_ms": volume.exposure_ms,
        "power": volume.power,
        "missing": volume.missing,
        "is_live": volume.is_live,
    }


def _read_head(file: BinaryIO) -> dict[str, Any]:
    head = json.loads(file.readline(_LARGEST_HEAD_BYTES))
    if not isinstance(head, dict):
        raise ValueError(  # noqa: TRY004 - of what is in a file
            "its first line isn't a JSON object"
        )
    return head


def _info(head: dict[str, Any]) -> AcquisitionInfo:
    voxel = head["voxel_size_um"]
    nz, ny, nx = head["shape_zyx"]
    return AcquisitionInfo(
        acquisition=head["acquisition"],
        shape_zyx=(nz, ny, nx),
        dtype=np.dtype(head["dtype"]),
        voxel_size_um=(voxel[0], voxel[1], voxel[2]) if voxel else None,
        channels=tuple(head["channels"]),
        positions=tuple(head["positions"]),
        num_times=head["num_times"],
        started_at=datetime.fromisoformat(head["started_at"]),
        origin=head["origin"],
        version=head["version"],
    )


def _volume(head: dict[str, Any], data: np.ndarray[Any, Any], is_live: bool) -> Volume:
    acquired_at = head["acquired_at"]
    info = _info(head["info"])
    if data.shape != info.shape_zyx or data.dtype != info.dtype:
        raise ValueError(f"{data.shape} {data.dtype} instead of {info.shape_zyx} {info.dtype}")
    data.flags.writeable = False
    return Volume(
        key=VolumeKey(**head["key"]),
        info=info,
        data=data,
        acquired_at=datetime.fromisoformat(acquired_at) if acquired_at else None,
        received_at=datetime.fromisoformat(head["received_at"]),
        received_s=min(head["received_s"], time.monotonic()),  # may be of before a reboot
        exposure_ms=head["exposure_ms"],
        power=head.get("power"),
        missing=tuple(head["missing"]),
        is_live=is_live,
    )
