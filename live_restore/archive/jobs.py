"""What there is to do, in values that are small and may be sent to other machines."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from live_restore.ledger import Origin
from live_restore.sources.layouts import PlaneOnDisk
from live_restore.volume import AcquisitionInfo, VolumeKey, VoxelSize

if TYPE_CHECKING:
    from live_restore.restore.devices import Precision
    from live_restore.restore.manner import AttentionMode
    from live_restore.restore.output import OutputDtype

__all__ = ["Job", "Outcome", "PlanesOfVolume", "Recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How volumes are restored and where they are written.

    Attributes
    ----------
    model : str
        The model's file, or "default" for the shipped one, which has another path on each machine.
    model_sha256 : str
        Of it, hexadecimal.
    output : pathlib.Path
        Folder of the results, absolute.
    device, precision, output_dtype, attention : str
        As `RcanRestorer` and its `Manner` take them.
    voxel_size_um : tuple of float or None
        ``(z, y, x)`` for files that don't say theirs.
    """

    model: str
    model_sha256: str
    output: Path
    device: str = "auto"
    precision: Precision = "auto"
    output_dtype: OutputDtype = "uint16"
    voxel_size_um: VoxelSize | None = None
    attention: AttentionMode = "whole"

    @property
    def digest(self) -> str:
        """Another one where results are others."""
        parts = (
            self.model_sha256,
            self.precision,
            self.output_dtype,
            self.voxel_size_um,
            self.attention,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class PlanesOfVolume:
    """A volume whose planes lie one by one in a dataset.

    Attributes
    ----------
    info : AcquisitionInfo
        The dataset.
    planes : tuple of PlaneOnDisk
        Those that there are; some may be missing.
    """

    info: AcquisitionInfo
    planes: tuple[PlaneOnDisk, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One volume to restore.

    Attributes
    ----------
    key : VolumeKey
        Which.
    origin : Origin
        The file or dataset, and its version with the recipe's digest, for the ledger.
    output : pathlib.Path
        Where it is written, absolute.
    raw : pathlib.Path or PlanesOfVolume
        The file that holds it among others, or its planes.
    """

    key: VolumeKey
    origin: Origin
    output: Path
    raw: Path | PlanesOfVolume


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one volume.

    Attributes
    ----------
    key, origin, output
        As in its `Job`.
    problem : str or None
        Why it isn't written.
    ends_all : bool
        No other volume could be written either.
    """

    key: VolumeKey
    origin: Origin
    output: Path
    problem: str | None = None
    ends_all: bool = False

    @classmethod
    def of(cls, job: Job, problem: str | None = None, ends_all: bool = False) -> Outcome:
        """A job's."""
        return cls(job.key, job.origin, job.output, problem, ends_all)
