"""Whether stacks can be characterised with: raw, of the camera that is named, bright enough, not too bright."""

from __future__ import annotations

from collections.abc import Sequence

from live_restore.characterize.ladder import signal_of
from live_restore.characterize.stacks import HighDose, StackFile
from live_restore.errors import CalibrationError
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.indicators import Indicators, clipped_fractions

__all__ = ["FEWEST_FIELDS", "check_files", "check_noise", "check_stack"]

FEWEST_FIELDS = 9
"""Fields of view from which a coverage of 0.9 can be stated."""

_HIGH_DOSE = 30.0  # photoelectrons
_LEAST_DOSE = 5.0  # below it a ladder has no rungs
_SATURATED, _HARDLY_SATURATED = 0.001, 0.0001  # as the guard's verdict has them
_CUT_OFF = 0.02
_NOISE_RATIO = (0.72, 1.3)
"""Beyond it a stack isn't of this calibration. A restored volume follows some of the noise and lacks some structure:
of simulated filaments and nuclei at 40 to 150 photoelectrons 0.90 to 0.94 was seen with the right gain, 1.34 to 1.41 and 0.59
to 0.63 with half and twice as much, 0.30 after a shift by half a pixel, 0.08 after a Gaussian filter of one."""
_BELOW_OFFSET = 4.0  # standard deviations of the read-out; -3 to -5 was seen, 10 of counts halved
_DOUBTFUL_RATIO = (0.82, 1.15)
_CORRELATION = 0.2  # calibrate refuses it in dark frames too


def check_files(files: Sequence[StackFile], camera: CameraCalibration, attention: str) -> list[str]:
    """What can be told before anything is read.

    Returns
    -------
    list of str
        Warnings.

    Raises
    ------
    CalibrationError
        What the files hold isn't raw, or the shapes can't go together.
    """
    for file in files:
        if file.dtype.kind == "f":
            raise CalibrationError(
                f"{file.path}: its type isn't that of a camera, which gives whole counts; averaged, "
                "filtered or restored stacks can't be used. Give the raw ones"
            )
        full = camera.saturation
        if file.dtype.itemsize == 1 and (full is None or full > 255):
            raise CalibrationError(
                f"{file.path}: 8 bit, but the camera {camera.name} wasn't calibrated in a mode of 8 bit: "
                "exported for display, the counts are no longer the camera's. Save raw stacks of 16 bit"
            )
    shapes = sorted({file.shape_zyx for file in files})
    if len(shapes) == 1:
        return []
    listed = ", ".join("x".join(map(str, one)) for one in shapes[:6])
    if attention == "tile":
        raise CalibrationError(
            f"the stacks' shapes differ ({listed}): with attention per tile an envelope is for one shape. "
            "Characterize them one after the other"
        )
    return [f"the stacks' shapes differ ({listed}); the envelope names the first"]


def check_stack(stack: HighDose, camera: CameraCalibration) -> list[str]:
    """What can be told of a stack before it is restored.

    Returns
    -------
    list of str
        Warnings.

    Raises
    ------
    CalibrationError
        It is saturated or too dim.
    """
    saturated, cut_off = clipped_fractions(stack.counts, camera.saturation)
    # Also at another limit than the camera's, as of a file of fewer bits.
    saturated = max(saturated, clipped_fractions(stack.counts, None)[0])
    if saturated > _SATURATED:
        raise CalibrationError(
            f"{stack.name}: {saturated:.2%} of the voxels are saturated, so that its brightest structures "
            "aren't known. Leave it out, or acquire it with less light"
        )
    signal = signal_of(camera.electrons(stack.counts))
    if signal < _LEAST_DOSE:
        raise CalibrationError(
            f"{stack.name}: {signal:.1f} photoelectrons per voxel in its bright structures above the rest, no "
            f"high dose: light can be taken away from {_HIGH_DOSE:.0f} and more only. Acquire with more "
            f"light, or check gain and offset of the calibration {camera.name}"
        )
    warnings = []
    if signal < _HIGH_DOSE:
        warnings.append(
            f"{stack.name}: {signal:.0f} photoelectrons per voxel in its bright structures aren't many; nothing "
            "will be known of how the model does with more light than that"
        )
    if saturated > _HARDLY_SATURATED:
        warnings.append(f"{stack.name}: {saturated:.2%} of the voxels are saturated")
    if cut_off > _CUT_OFF:
        warnings.append(
            f"{stack.name}: {cut_off:.0%} of the voxels have the lowest count there is; the camera's offset "
            "is cut off"
        )
    return warnings


def check_noise(stack: HighDose, seen: Indicators, camera: CameraCalibration) -> list[str]:
    """What the restoration of the whole stack left of it: the camera's noise, or something else.

    Returns
    -------
    list of str
        Warnings.

    Raises
    ------
    CalibrationError
        It isn't raw, or of another camera or mode.
    """
    ratio = seen.noise_ratio or 1.0
    if abs(seen.correlation) > _CORRELATION:
        raise CalibrationError(
            f"{stack.name}: the noise of neighbouring pixels is correlated ({seen.correlation:+.2f}), so it "
            "isn't raw: filtered, resampled, binned, deconvolved, or from a camera that corrects its images; or the "
            "model takes structure away, which restoring this stack would show"
        )
    if (seen.below_offset or 0.0) > _BELOW_OFFSET:
        raise CalibrationError(
            f"{stack.name}: its darkest voxels lie far below the {camera.offset:.0f} counts of the calibration "
            f"{camera.name} without light: another camera or mode, a background that was taken off, or counts "
            "that were scaled. Give raw stacks, or calibrate again (live-restore calibrate)"
        )
    if not _NOISE_RATIO[0] <= ratio <= _NOISE_RATIO[1]:
        raise CalibrationError(
            f"{stack.name}: its noise is {ratio:.2f} times what the calibration {camera.name} says: another "
            "camera or mode, a wrong gain, or no raw data. Calibrate the mode that it was taken with "
            "(live-restore calibrate)"
        )
    if not _DOUBTFUL_RATIO[0] <= ratio <= _DOUBTFUL_RATIO[1]:
        return [
            f"{stack.name}: its noise is {ratio:.2f} times what the calibration {camera.name} says; check "
            "that it is of this mode"
        ]
    return []
