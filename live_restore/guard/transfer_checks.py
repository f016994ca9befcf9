"""What makes a calibration doubtful or worthless, and what to do about it.

Each check adds to the warnings, or raises `CalibrationError` where the frames can't tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import uniform_filter

from live_restore.errors import CalibrationError
from live_restore.guard.exposures import Exposures
from live_restore.guard.levels import Dark, Level
from live_restore.guard.transfer_fit import TransferLine

__all__ = [
    "check_correlation",
    "check_dark",
    "check_leak",
    "check_line",
    "check_lit",
    "has_levels",
]

_CORRELATED, _USELESS = 0.05, 0.2  # neighbours' noise, beyond the model's own limit of 0.05
_CERTAIN = 4.0  # standard errors
_DIM = 30.0  # photoelectrons of the brightest level
_UNSURE, _WORTHLESS = 0.03, 0.15  # standard error of the gain
_BENT = 0.05  # of the variance at the brightest level
_CLIPPED, _MOSTLY_CLIPPED = 0.005, 0.25  # of the dark pixels, at zero
_COARSE = 0.5  # counts of read noise
_NOISY = 15.0  # photoelectrons of read noise
_LEAK = 0.5  # photoelectrons in the dark frames
_BLOCK = 16  # pixels, over which light in dark frames is looked for


def check_dark(dark: Dark, warnings: list[str]) -> None:
    """Whether dark frames are dark and raw."""
    if dark.clipped > _MOSTLY_CLIPPED:
        raise CalibrationError(
            f"dark frames: {dark.clipped:.0%} of their pixels have zero counts, where the camera cuts off "
            "the noise: raise its offset (black level), and take all frames again"
        )
    if dark.clipped > _CLIPPED:
        warnings.append(
            f"dark frames: {dark.clipped:.1%} of their pixels have zero counts, where the camera cuts off "
            "the noise; offset and read noise are off. Raise the camera's offset (black level)."
        )
    if abs(dark.lag_1) > _USELESS:
        raise CalibrationError(
            f"dark frames: the noise of neighbouring pixels is correlated ({dark.lag_1:+.2f}, expected "
            f"within ±{_CORRELATED}): something filters or interpolates the images before they are saved, or light that changes "
            "fell on the camera. "
            "Turn off the camera's noise filter, sharpening, pixel correction, colour interpolation, "
            "rotation and any on-the-fly processor; error and dose can't be told from such images"
        )
    if abs(dark.lag_1) > _CORRELATED:
        warnings.append(
            f"dark frames: the noise of neighbouring pixels is correlated ({dark.lag_1:+.2f}); gain and "
            "what the guard makes of it are off. Turn off the camera's filters and corrections; if it stays, "
            "its rows or columns have a noise of their own."
        )


def check_lit(series: Exposures, dark: Dark | None, offset: float) -> None:
    """Whether there is light on a series."""
    mean = float(series.frames.mean(dtype=np.float64))
    least = 3 * dark.offset_error if dark else 0.0
    if mean - offset <= least:
        raise CalibrationError(
            f"{series.name}: mean {mean:.2f} counts, no brighter than without light ({offset:.2f}): was the "
            "shutter closed, or were dark and lit frames swapped?"
        )


def check_leak(dark: Dark, light: Sequence[Exposures], gain: float, warnings: list[str]) -> None:
    """Whether the dark frames show what the lit ones show."""
    brightest = max(light, key=lambda one: float(one.frames.mean()))
    lit = brightest.frames.mean(axis=0, dtype=np.float32) - dark.pattern
    spare = _BLOCK // 2
    coarse = [
        uniform_filter(np.where(dark.is_defect, np.float32(np.median(one)), one), _BLOCK)
        for one in (dark.pattern, lit)
    ]
    faint, bright = (one[spare::_BLOCK, spare::_BLOCK].ravel().astype(np.float64) for one in coarse)
    if faint.size < 16 or bright.std() < 0.02 * bright.mean():
        return
    likeness = float(np.corrcoef(faint, bright)[0, 1]) if faint.std() > 0 else 0.0
    fraction = likeness * float(faint.std() / bright.std())
    leak = fraction * float(lit.mean()) / gain
    if leak > _LEAK and likeness > max(0.5, _CERTAIN / np.sqrt(faint.size)):
        warnings.append(
            f"dark frames: they show what the lit ones show, about {leak:.1f} photoelectrons of it; offset "
            "and read noise are too high. Turn the light off or cover the camera; a shutter that opens "
            "with each exposure (auto shutter) isn't enough."
        )


def check_correlation(
    levels: Sequence[Level], dark_lag_1: float, has_dark: bool, warnings: list[str]
) -> None:
    """Of lit frames, beyond what the dark ones have: frames of a pair that aren't identical."""
    # A filter correlates lit frames as much as dark ones, a row's own read-out noise less.
    low, high = min(0.0, dark_lag_1), max(0.0, dark_lag_1)
    excess = [
        (beyond, level)
        for level in levels
        if (beyond := max(level.lag_1 - high, low - level.lag_1))
        > _CORRELATED + _CERTAIN / np.sqrt(level.num_pixels)
    ]
    if not excess:
        return
    worst, level = max(excess, key=lambda one: one[0])
    cause = (
        "the frames of a pair aren't identical: the specimen moved, bleached in places, or the light "
        "flickers"
    )
    if not has_dark:
        cause += "; or the camera filters its images"
    text = (
        f"{level.series}: at {level.signal:.0f} counts above the offset, differences of neighbouring pixels "
        f"are correlated ({worst:.2f}, expected below {_CORRELATED}): {cause}"
    )
    if worst > _USELESS:
        raise CalibrationError(f"{text}. Take a fixed specimen, or an empty, evenly lit field")
    warnings.append(f"{text}. The gain may be too high by about this fraction.")


def check_line(
    line: TransferLine, levels: Sequence[Level], dark: Dark | None, warnings: list[str]
) -> None:
    """Whether the fit is one that can be relied on."""
    top = max(level.signal for level in levels)
    relative = line.gain_error / line.gain
    by_chance = relative / np.sqrt(max(1.0, line.chi_square))
    if line.gain <= 1e-6 or by_chance > _WORTHLESS:
        raise CalibrationError(
            f"gain {line.gain:.3g} ± {line.gain_error:.2g} counts per photoelectron, from up to {top:.3g} counts "
            "above the offset: too little light or too few pixels. Take brighter or more exposures"
        )
    if relative > _WORTHLESS:
        raise CalibrationError(
            f"variance isn't proportional to the signal: {line.curvature:+.0%} at {top:.0f} counts above the offset, "
            f"expected within {_BENT:.0%}. Keep to the lower half of the camera's range, turn off what corrects "
            "or compresses its images (gamma, high dynamic range), and see that light and specimen stand still"
        )
    if relative > _UNSURE:
        warnings.append(
            f"gain known to {relative:.0%} only: take more or brighter exposures, or a larger region."
        )
    if top / line.gain < _DIM:
        warnings.append(
            f"the brightest level has {top / line.gain:.0f} photoelectrons: take brighter exposures too, of "
            "100 and more."
        )
    if not has_levels(levels):
        warnings.append(
            "all lit frames have about the same level: whether the camera is linear can't be told. Take "
            "series at two or more exposures."
        )
    elif abs(line.curvature) > max(_BENT, _CERTAIN * line.curvature_error):
        remedy = (
            "The specimen moves or bleaches in places, or the light fluctuates: take a fixed one, or an evenly "
            "lit field."
            if line.curvature > 0
            else "Keep to the lower half of the range; if it stays, the camera corrects its images."
        )
        warnings.append(
            f"variance isn't proportional to the signal: {line.curvature:+.0%} at the brightest level. {remedy}"
        )
    noise = np.sqrt(dark.variance) if dark else line.gain * line.read_noise
    if noise < _COARSE:
        warnings.append(
            f"noise without light is {noise:.2f} counts, below the camera's steps: read noise can't be told "
            "well. Use the camera's higher bit depth."
        )
    elif line.read_noise == 0:
        warnings.append("read noise can't be told from these levels: take dark frames.")
    if line.read_noise > _NOISY:
        warnings.append(
            f"read noise of {line.read_noise:.0f} photoelectrons is much: was there light on the dark frames?"
        )


def has_levels(levels: Sequence[Level]) -> bool:
    """Whether the light differs enough to tell a line's slope from where it begins."""
    signals = [level.signal for level in levels]
    return max(signals) > 2 * min(signals)
