"""Classical methods at their best: each chooses its parameters per volume with the truth in hand.

Nobody has the truth at the microscope, so that these figures are bounds: what the method could give
if somebody guessed its parameters right ("oracle"). A model has no such help.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from live_restore.quality import psnr
from live_restore.registration import liveliest_part

__all__ = [
    "Filtered",
    "gaussian",
    "gaussian_psf",
    "has_scikit_image",
    "richardson_lucy",
    "total_variation",
]

Image = NDArray[np.float32]
Choice = TypeVar("Choice")

# Parameters are searched on a part of large volumes only, where the truth varies most.
_SEARCHED_ZYX = (64, 256, 256)

_WIDTHS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_AXIAL_SHARES = (0.3, 0.6, 1.0)

_ITERATIONS = (1, 2, 3, 5, 8, 12, 20)
_BACKGROUND_PERCENT = (1.0, 50.0)

# Weights in units of the noise. Stacks thinned to 3 and to 10 photons were best between 0.6 and 1.4;
# a loose tolerance, which stops early, was better on one of three, a tight one on two (by up to 2 dB).
_WEIGHTS = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.2)
_TOLERANCES = (2e-4, 2e-5)


@dataclass(frozen=True, slots=True, eq=False)
class Filtered:
    """A method's result.

    Attributes
    ----------
    volume : ndarray, (Z, Y, X)
        In any affine scale of the noisy volume's counts.
    parameter : str
        What was chosen, for people; empty if there was nothing to choose.
    """

    volume: NDArray[Any]
    parameter: str = ""


def has_scikit_image() -> bool:
    """Whether `richardson_lucy` and `total_variation` can be used."""
    return importlib.util.find_spec("skimage") is not None


def gaussian(noisy: NDArray[Any], truth: NDArray[Any]) -> Filtered:
    """The best Gaussian filter: width and its axial share of PSNR's choice.

    Parameters
    ----------
    noisy, truth : ndarray, (Z, Y, X)
        Same shape, any real dtype; not modified.
    """

    def smooth(image: Image, width: tuple[float, float]) -> Image:
        z, yx = width
        return np.asarray(ndimage.gaussian_filter(image, (z, yx, yx)), dtype=np.float32)

    widths = [(share * width, width) for share in _AXIAL_SHARES for width in _WIDTHS]
    volume, (z, yx) = _best(noisy, truth, widths, smooth)
    return Filtered(volume, f"sigma {z:.2g} axial, {yx:.2g} lateral voxels")


def richardson_lucy(
    noisy: NDArray[Any], truth: NDArray[Any], psf: NDArray[np.floating] | None = None
) -> Filtered:
    """The best Richardson-Lucy deconvolution (scikit-image): iterations and background of PSNR's choice.

    It wants intensities without background: a percentile of the volume is subtracted, what falls
    below is 0, and edges are mirrored, since scikit-image takes the world outside for dark.

    Parameters
    ----------
    noisy, truth : ndarray, (Z, Y, X)
        Same shape, any real dtype; not modified.
    psf : ndarray, (Z, Y, X), optional
        Point spread function of odd shape that sums to 1; `gaussian_psf` otherwise.

    Raises
    ------
    ImportError
        scikit-image isn't installed; see `has_scikit_image`.
    """
    from skimage import restoration

    iterate: Any = restoration.richardson_lucy
    kernel = np.asarray(gaussian_psf() if psf is None else psf, dtype=np.float32)
    half = [n // 2 for n in kernel.shape]
    high = float(np.percentile(noisy, 99.9))
    backgrounds = [float(np.percentile(noisy, percent)) for percent in _BACKGROUND_PERCENT]

    def deconvolve(image: Image, choice: tuple[float, int]) -> Image:
        low, iterations = choice
        signal = np.clip((image - low) / max(high - low, 1e-6), 0, None).astype(np.float32)
        mirrored = np.pad(signal, [(n, n) for n in half], mode="symmetric")
        sharp = iterate(mirrored, kernel, num_iter=iterations, clip=False)
        inner = tuple(slice(n, n + size) for n, size in zip(half, image.shape, strict=True))
        return np.asarray(sharp[inner], dtype=np.float32)

    choices = list(itertools.product(backgrounds, _ITERATIONS))
    volume, (low, iterations) = _best(noisy, truth, choices, deconvolve)
    return Filtered(volume, f"{iterations} iterations, background {low:.4g} counts")


def total_variation(noisy: NDArray[Any], truth: NDArray[Any]) -> Filtered:
    """The best total variation denoising (Chambolle, scikit-image): weight and tolerance of PSNR's choice.

    On plain counts: on most stacks thinned to 3 and to 10 photons this was 0.1 to 2 dB better than after
    variance stabilisation (on one of three, with one tolerance, 0.5 dB worse).

    Parameters
    ----------
    noisy, truth : ndarray, (Z, Y, X)
        Same shape, any real dtype; not modified.

    Raises
    ------
    ImportError
        scikit-image isn't installed; see `has_scikit_image`.
    """
    from skimage import restoration

    chambolle: Any = restoration.denoise_tv_chambolle
    noise = _noise(noisy)

    def denoise(image: Image, choice: tuple[float, float]) -> Image:
        weight, tolerance = choice
        smooth = chambolle(image, weight=weight * noise, eps=tolerance, max_num_iter=200)
        return np.asarray(smooth, dtype=np.float32)

    choices = list(itertools.product(_WEIGHTS, _TOLERANCES))
    volume, (weight, tolerance) = _best(noisy, truth, choices, denoise)
    return Filtered(volume, f"weight {weight:g} x noise, tolerance {tolerance:g}")


def gaussian_psf(sigma_zyx: tuple[float, float, float] = (2.0, 1.0, 1.0)) -> NDArray[np.float32]:
    """A point spread function for want of a measured one, ``(Z, Y, X)``; it sums to 1."""
    grid = np.meshgrid(
        *(np.arange(-np.ceil(3 * s), np.ceil(3 * s) + 1) / s for s in sigma_zyx), indexing="ij"
    )
    psf = np.exp(-0.5 * sum(axis**2 for axis in grid))
    return np.asarray(psf / psf.sum(), dtype=np.float32)


def _best(
    noisy: NDArray[Any],
    truth: NDArray[Any],
    choices: Iterable[Choice],
    method: Callable[[Image, Choice], Image],
) -> tuple[Image, Choice]:
    """The result of the choice with the highest PSNR, and the choice."""
    part = liveliest_part(truth, _SEARCHED_ZYX)
    image = np.asarray(noisy, dtype=np.float32)
    cropped, truth_there = np.ascontiguousarray(image[part]), truth[part]
    best = max(choices, key=lambda choice: psnr(method(cropped, choice), truth_there))
    return method(image, best), best


def _noise(image: NDArray[Any]) -> float:
    """Standard deviation of the noise, from what differs between neighbours in a row."""
    steps = np.diff(np.asarray(image, dtype=np.float32), axis=2)
    robust = 1.4826 * float(np.median(np.abs(steps)))
    return max((robust or float(steps.std())) / math.sqrt(2), 1e-6)
