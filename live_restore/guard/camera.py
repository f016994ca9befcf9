"""A camera's calibration: what turns counts into photoelectrons, and how noisy they are."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from live_restore.errors import CalibrationError

__all__ = ["CameraCalibration", "camera_folder", "find_camera", "known_cameras"]

_SUFFIX = ".camera.json"
_UNSAFE = re.compile(r"[^\w.-]+")


class CameraCalibration(BaseModel):
    """One camera in one mode as a linear detector with Poisson and Gaussian noise.

    Source: photon transfer, Janesick, *Photon Transfer* (SPIE, 2007): variance = gain * (mean - offset) +
    (gain * read noise)².
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    camera: str = Field(min_length=1)
    """What it is called."""
    mode: str = ""
    """Of the read-out: whatever changes gain, offset or noise, as "16 bit, low noise, binning 2"."""
    gain: float = Field(gt=0)
    """Counts per photoelectron."""
    offset: float
    """Counts of a pixel that no light falls on."""
    read_noise: float = Field(ge=0)
    """Standard deviation of the read-out, in photoelectrons."""
    saturation: float | None = None
    """Counts from which a pixel is full; without it, seen from the volume itself."""
    gain_error: float | None = None
    """Standard error of the gain, as a fraction of it."""
    offset_error: float | None = None
    """Standard error of the offset, in counts."""
    read_noise_error: float | None = None
    """Standard error of the read noise, in photoelectrons."""
    method: Literal["photon transfer", "blind", "known"] = "photon transfer"
    """"blind" is an estimate from one stack, within 15 % usually and 30 % at worst; "known" was told."""
    exposure_ms: float | None = None
    """Of the dark frames: the offset of a long exposure holds its dark current."""
    measured_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    """UTC."""
    remark: str = ""
    """For people."""

    @property
    def name(self) -> str:
        """Camera and mode, for people."""
        return f"{self.camera} ({self.mode})" if self.mode else self.camera

    @property
    def variance(self) -> float:
        """Of the noise of a pixel without light, in photoelectrons²: read noise and whole counts."""
        return self.read_noise**2 + 1 / (12 * self.gain**2)

    def electrons(self, counts: NDArray[Any]) -> NDArray[np.float32]:
        """Photoelectrons of counts, float32 of the same shape."""
        electrons = counts.astype(np.float32)
        electrons -= np.float32(self.offset)
        electrons *= np.float32(1 / self.gain)
        return electrons

    def fits(self, other: CameraCalibration) -> bool:
        """Whether both are of the same camera and mode."""
        return (self.camera, self.mode) == (other.camera, other.mode)

    def save(self, path: Path | None = None) -> Path:
        """Write it; without a path, into the user's folder, by camera and mode.

        Raises
        ------
        CalibrationError
            It can't be written.
        """
        name = _UNSAFE.sub("-", f"{self.camera}-{self.mode}" if self.mode else self.camera)
        path = path or camera_folder() / (name.strip("-").lower() + _SUFFIX)
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise CalibrationError(f"{path}: can't be written ({error.strerror})") from error
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one.

        Raises
        ------
        CalibrationError
            There is none, or it is damaged.
        """
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise CalibrationError(
                f"{path}: isn't a camera calibration ({str(error).splitlines()[0]}). Make one with "
                "live-restore calibrate"
            ) from error


def camera_folder() -> Path:
    """The folder whose calibrations are known by name; it need not exist.

    ``LIVE_RESTORE_CAMERAS`` in the environment names another.
    """
    other = os.environ.get("LIVE_RESTORE_CAMERAS")
    return Path(other).expanduser() if other else user_data_path("live-restore") / "cameras"


def known_cameras() -> list[str]:
    """The names of the calibrations that are known, the demonstration microscope's first."""
    names = sorted(one.name.removesuffix(_SUFFIX) for one in camera_folder().glob(f"*{_SUFFIX}"))
    return ["demo", *names]


def find_camera(path: str | Path) -> CameraCalibration:
    """The calibration behind a path or a name; ``demo`` is the simulated microscope's camera.

    Raises
    ------
    CalibrationError
        There is none; the message lists the names that are known.
    """
    file = Path(path)
    if file.is_file():
        return CameraCalibration.load(file)
    if len(file.parts) == 1:
        named = camera_folder() / f"{file.name}{_SUFFIX}"
        if named.is_file():
            return CameraCalibration.load(named)
    if str(path) == "demo":
        return CameraCalibration.load(
            Path(str(files("live_restore") / "models" / f"demo{_SUFFIX}"))
        )
    raise CalibrationError(
        f"camera {path}: no such file, and no calibration of that name ({', '.join(known_cameras())}; "
        f"those in {camera_folder()} count). Make one with live-restore calibrate"
    )
