"""Noise at each level of light: variance of the difference of identical exposures against their mean.

Pixels are put into levels by the mean of their neighbours, which knows nothing of a pixel's own noise:
sorted by their own mean, those with much noise upwards would gather in the bright levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, uniform_filter

from live_restore.errors import CalibrationError
from live_restore.guard.exposures import Exposures

__all__ = ["Dark", "Level", "lag_1", "measure_dark", "measure_levels"]

_MOST_LEVELS = 24  # of one series
_FINEST = 0.02  # of the brightest level's root: an even field isn't cut up
_FEWEST = 300  # pixels of a level
_RING = 5  # pixels of a side of the neighbourhood
_ODD = 8.0  # standard deviations from which a pixel's own offset counts as a defect
_SATURATED = 2e-4  # of a level's pixels: clipping them costs about 1 % of the variance
_LARGEST_CHANGE = 0.05  # of the light between the frames of a pair
_HARMLESS_CHANGE = 0.1  # standard deviations of the noise

_Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Dark:
    """What dark frames tell.

    Attributes
    ----------
    offset, offset_error : float
        Mean, counts, with its standard error.
    variance, variance_error : float
        Of the noise, counts²; a fixed pattern isn't noise.
    lag_1 : float
        Correlation of the noise of neighbouring pixels.
    clipped : float
        Fraction of pixels at zero counts.
    pattern : ndarray of float32, (Y, X)
        Offset of each pixel.
    is_defect : ndarray of bool, (Y, X)
        Pixels whose offset is far from the others'.
    num_frames : int
        From which all this was measured.
    exposure_ms : float or None
        Where all frames have the same.
    """

    offset: float
    offset_error: float
    variance: float
    variance_error: float
    lag_1: float
    clipped: float
    pattern: _Image
    is_defect: NDArray[np.bool_]
    num_frames: int
    exposure_ms: float | None


@dataclass(frozen=True, slots=True)
class Level:
    """Pixels that got about the same light.

    Attributes
    ----------
    series : str
        Where they are from.
    signal : float
        Mean above the offset, counts.
    variance : float
        Of the noise, counts².
    num_pixels : int
        Pixels, each pair's counted.
    lag_1 : float
        Correlation of the noise of neighbours along a row.
    is_saturated : bool
        Some pixels are full: not used.
    """

    series: str
    signal: float
    variance: float
    num_pixels: int
    lag_1: float = 0.0
    is_saturated: bool = False


def measure_dark(series: Sequence[Exposures]) -> Dark:
    """Offset and noise without light.

    Parameters
    ----------
    series : sequence of Exposures
        Dark frames, alike.
    """
    num_frames = sum(len(one.frames) for one in series)
    total = np.zeros(series[0].frames.shape[1:], dtype=np.float64)
    for one in series:
        for frame in one.frames:
            total += frame
    pattern = (total / num_frames).astype(np.float32)
    middle = float(np.median(pattern))
    # Without noise to speak of, a pixel may differ from the others by the camera's step.
    spread = max(1.4826 * float(np.median(np.abs(pattern - middle))), 0.5)
    is_defect = np.abs(pattern - middle) > _ODD * spread
    good = ~is_defect
    squares, products = [], []
    for one in series:
        for first, second in one.pairs():
            difference = first - second
            difference -= difference[good].mean()
            squares.append(np.square(difference[good], dtype=np.float64) / 2)
            products.append(lag_1(difference, good))
    all_squares = np.concatenate(squares)
    variance = float(all_squares.mean())
    means = [float(frame[good].mean()) for one in series for frame in one.frames]
    error = variance / (num_frames * int(good.sum())) + float(np.var(means, ddof=1)) / num_frames
    # Rounding to whole counts averages out only where there is noise to speak of, or a pattern.
    rounding = np.exp(-2 * np.pi**2 * (max(variance - 1 / 12, 0) + float(pattern[good].var())))
    zeros = sum(int(np.count_nonzero(one.frames <= 0)) for one in series)
    exposures = {one.exposure_ms for one in series}
    return Dark(
        offset=float(np.mean(means)),
        offset_error=float(np.sqrt(error) + rounding / np.pi),
        variance=variance,
        variance_error=float(all_squares.std() / np.sqrt(all_squares.size)),
        lag_1=float(np.mean(products)),
        clipped=zeros / sum(one.frames.size for one in series),
        pattern=pattern,
        is_defect=is_defect,
        num_frames=num_frames,
        exposure_ms=exposures.pop() if len(exposures) == 1 else None,
    )


def measure_levels(
    series: Exposures, offset: _Image, is_defect: NDArray[np.bool_], saturation: float | None
) -> tuple[list[Level], float]:
    """Levels of one series, and by how much the light changed within its pairs.

    Parameters
    ----------
    series : Exposures
        Lit frames.
    offset : ndarray of float32, (Y, X)
        Counts of each pixel without light.
    is_defect : ndarray of bool, (Y, X)
        Pixels that don't count, nor their neighbours.
    saturation : float or None
        Counts from which a pixel is full.

    Returns
    -------
    list of Level
        From dark to bright, saturated ones too.
    float
        Largest change of the light between the frames of a pair, as a fraction; it was corrected.

    Raises
    ------
    CalibrationError
        The frames of a pair differ by more than can be corrected.
    """
    good = maximum_filter(is_defect, _RING) == 0
    border = _RING // 2
    good[:border], good[-border:], good[:, :border], good[:, -border:] = (False,) * 4
    sums = np.zeros((6, _MOST_LEVELS))
    edges: _Image | None = None
    largest = 0.0
    for number, (first, second) in enumerate(series.pairs()):
        is_full = np.zeros(first.shape, dtype=bool)
        if saturation is not None:
            is_full = (first >= saturation) | (second >= saturation)
        first, second, change = _equalised(series, number, first - offset, second - offset, good)
        largest = max(largest, change)
        mean: _Image = (first + second) / np.float32(2)
        difference = first - second
        around = np.sqrt(np.maximum(_ring_mean(mean), 0))
        if edges is None:
            edges = _edges(around[good])
        level = np.searchsorted(edges, around) - 1
        taken = good & (level >= 0) & (level < len(edges) - 1)
        places = level[taken]
        right = np.roll(difference, -1, axis=1)
        for row, weights in enumerate(
            (
                None,
                mean[taken],
                difference[taken] ** 2,
                is_full[taken],
                (difference * right)[taken],
                right[taken] ** 2,
            )
        ):
            sums[row] += np.bincount(places, weights, minlength=_MOST_LEVELS)
    found = [
        Level(
            series=series.name,
            signal=float(mean / count),
            variance=float(square / 2 / count),
            num_pixels=int(count),
            lag_1=float(product / max(np.sqrt(square * beside), 1e-12)),
            is_saturated=bool(full > _SATURATED * count),
        )
        for count, mean, square, full, product, beside in sums.T
        if count >= _FEWEST
    ]
    return found, largest


def lag_1(difference: _Image, good: NDArray[np.bool_]) -> float:
    """Correlation of neighbours, along rows or columns, whichever is stronger."""
    clean = np.where(good, difference, np.float32(0))
    power = float(np.square(clean, dtype=np.float64).mean())
    along = [
        float((clean[:, 1:] * clean[:, :-1]).mean(dtype=np.float64)),
        float((clean[1:] * clean[:-1]).mean(dtype=np.float64)),
    ]
    return max(along, key=abs) / power if power > 0 else 0.0


def _edges(roots: _Image) -> _Image:
    """Between levels, evenly in the root of the signal, in which shot noise is the same everywhere."""
    low, high = np.quantile(roots, [0.001, 0.9995])
    number = int(np.clip((high - low) / max(_FINEST * high, 1e-6), 1, _MOST_LEVELS))
    return np.linspace(low, max(high, low + 1e-6), number + 1, dtype=np.float32)


def _ring_mean(image: _Image) -> _Image:
    """Mean of each pixel's neighbours, without itself."""
    count = _RING**2
    mean: _Image = (count * uniform_filter(image, _RING) - image) / np.float32(count - 1)
    return mean


def _equalised(
    series: Exposures, number: int, first: _Image, second: _Image, good: NDArray[np.bool_]
) -> tuple[_Image, _Image, float]:
    """Both frames at their common light, and by which fraction it had changed."""
    before, after = float(first[good].mean()), float(second[good].mean())
    noise = float((first - second)[good].std()) / np.sqrt(2)
    if min(before, after) <= 0 or abs(after - before) < _HARMLESS_CHANGE * noise:
        return first, second + np.float32(before - after), 0.0
    change = after / before - 1
    if abs(change) > _LARGEST_CHANGE:
        raise CalibrationError(
            f"{series.name}: frames {2 * number} and {2 * number + 1} differ by {change:+.1%} in light; "
            f"identical exposures are expected, within {_LARGEST_CHANGE:.0%}. Let the lamp warm up, "
            "bleach the specimen or take one that doesn't, turn room light off"
        )
    factor = np.float32(np.sqrt(after / before))
    return first * factor, second / factor, abs(change)
