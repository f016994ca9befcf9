"""Photon transfer: a camera's gain, offset and read noise from identical exposures.

Source: Janesick, *Photon Transfer* (SPIE, 2007): variance = gain * (mean - offset) + (gain * read noise)².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import CalibrationError
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.exposures import Exposures, check_alike, find_saturation
from live_restore.guard.levels import Dark, Level, measure_dark, measure_levels
from live_restore.guard.transfer_checks import (
    check_correlation,
    check_dark,
    check_leak,
    check_line,
    check_lit,
    has_levels,
)
from live_restore.guard.transfer_fit import TransferLine, fit_line

__all__ = ["PhotonTransfer", "measure_photon_transfer"]

_DRIFTING = 0.005  # change of the light that is told of


@dataclass(frozen=True, slots=True, eq=False)
class PhotonTransfer:
    """What was measured of a camera.

    Attributes
    ----------
    line : TransferLine
        The fit.
    levels : tuple of Level
        What it was fitted to, and saturated ones.
    offset, offset_error : float
        Counts of a pixel without light.
    saturation : float or None
        Counts of a full pixel, where some were.
    exposure_ms : float or None
        Of the dark frames.
    warnings : tuple of str
        What makes the result doubtful, and what to do.
    method : str
        "photon transfer" or "blind".
    """

    line: TransferLine
    levels: tuple[Level, ...]
    offset: float
    offset_error: float | None
    saturation: float | None
    exposure_ms: float | None
    warnings: tuple[str, ...]
    method: str = "photon transfer"

    @property
    def brightest(self) -> float:
        """Photoelectrons of the brightest level that was used."""
        used = [level.signal for level in self.levels if not level.is_saturated]
        return max(used) / self.line.gain

    def calibration(self, camera: str, mode: str = "", remark: str = "") -> CameraCalibration:
        """As profiles name it."""
        line = self.line
        return CameraCalibration.model_validate(
            {
                "camera": camera,
                "mode": mode,
                "gain": line.gain,
                "offset": self.offset,
                "read_noise": line.read_noise,
                "saturation": self.saturation,
                "gain_error": line.gain_error / line.gain,
                "offset_error": self.offset_error,
                "read_noise_error": line.read_noise_error or None,
                "method": self.method,
                "exposure_ms": self.exposure_ms,
                "remark": remark or " ".join(self.warnings),
            }
        )


def measure_photon_transfer(
    dark: Sequence[Exposures],
    light: Sequence[Exposures],
    offset: float | None = None,
    read_noise: float | None = None,
) -> PhotonTransfer:
    """Calibrate from dark frames and series of identical exposures.

    Parameters
    ----------
    dark : sequence of Exposures
        Without light; may be empty where `offset` is given.
    light : sequence of Exposures
        One or more levels; a specimen's own contrast gives more of them.
    offset, read_noise : float, optional
        Counts and photoelectrons, where there are no dark frames. Without `read_noise` it is where the
        line meets zero signal, and needs dim levels.

    Raises
    ------
    CalibrationError
        These frames can't tell; the message says why and what to take instead.
    """
    if not light:
        raise CalibrationError("no lit frames: a pair of identical exposures is needed at least")
    check_alike([*dark, *light])
    saturation = find_saturation(light)
    warnings: list[str] = []
    if dark:
        darkness = measure_dark(dark)
        check_dark(darkness, warnings)
        pattern, is_defect = darkness.pattern, darkness.is_defect
    elif offset is not None:
        shape = light[0].frames.shape[1:]
        darkness = None
        pattern = np.full(shape, offset, dtype=np.float32)
        is_defect = np.zeros(shape, dtype=bool)
    else:
        raise CalibrationError(
            "no dark frames: take some with the light off, or give offset and read noise as the "
            "camera's data sheet has them (--offset, --read-noise), or estimate from one z-stack (--stack)"
        )
    levels = [
        level
        for one in light
        for level in _levels(one, darkness, pattern, is_defect, saturation, warnings)
    ]
    used = [level for level in levels if not level.is_saturated and level.signal > 0]
    if not used:
        raise CalibrationError(
            f"all of {', '.join(one.name for one in light)} is saturated or without light"
            + (f" (pixels are full at {saturation:g} counts)" if saturation else "")
            + ": take exposures between a tenth and three quarters of the full range"
        )
    if darkness is None:
        # Only what the two unknowns need.
        if read_noise is None and not has_levels(used):
            raise CalibrationError(
                "lit frames of one level and no dark frames: read noise can't be told from them. Take "
                "dark frames, or give --read-noise as the camera's data sheet has it"
            )
        line = fit_line(used, read_noise=read_noise)
    else:
        pixels = darkness.num_frames // 2 * int((~is_defect).sum())
        floor = Level("dark", 0.0, darkness.variance, pixels)
        line = fit_line(used, floor, darkness.num_frames)
        check_leak(darkness, light, line.gain, warnings)
    check_correlation(used, darkness.lag_1 if darkness else 0.0, darkness is not None, warnings)
    check_line(line, used, darkness, warnings)
    return PhotonTransfer(
        line=line,
        levels=tuple(levels),
        offset=darkness.offset if darkness else float(pattern.flat[0]),
        offset_error=darkness.offset_error if darkness else None,
        saturation=saturation,
        exposure_ms=darkness.exposure_ms if darkness else None,
        warnings=tuple(warnings),
    )


def _levels(
    series: Exposures,
    dark: Dark | None,
    offset: NDArray[np.float32],
    is_defect: NDArray[np.bool_],
    saturation: float | None,
    warnings: list[str],
) -> list[Level]:
    """Of one lit series."""
    check_lit(series, dark, float(offset.mean()))
    levels, change = measure_levels(series, offset, is_defect, saturation)
    if change > _DRIFTING:
        warnings.append(
            f"{series.name}: the light changed by {change:.1%} within a pair; it was corrected. Let the lamp "
            "warm up, or take less bleaching specimens."
        )
    return levels
