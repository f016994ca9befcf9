"""How close a volume is to the truth: PSNR, SSIM and NRMSE, with the field's conventions.

Before scoring, a volume is fitted to the truth by an affine rescaling, as CARE does (Weigert et
al., Nature Methods 15, 1090 (2018)): neither offset nor gain of an image is an error. The truth is
normalised by its 2nd and 99.9th percentiles, and that range is 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = [
    "CONVENTION",
    "FEWEST_PLANES_3D",
    "affine_fit",
    "affine_to_truth",
    "normalise_truth",
    "nrmse",
    "psnr",
    "ssim",
    "ssim_map",
]

CONVENTION = (
    "PSNR with range 1 = percentiles 2 to 99.9 of the truth; SSIM 3D, Gaussian sigma 1.5 in 11 taps; "
    "each volume fitted affinely to the truth first"
)
"""What to print beside each figure."""

FEWEST_PLANES_3D = 11
"""Volumes of fewer planes get the mean of their planes' SSIM."""

Volume = NDArray[np.floating] | NDArray[np.integer]


def normalise_truth(truth: Volume) -> NDArray[np.float64]:
    """The truth with its 2nd percentile at 0 and its 99.9th at 1, not clipped."""
    low, high = np.percentile(truth, [2.0, 99.9])
    return np.asarray((np.asarray(truth, dtype=np.float64) - low) / max(high - low, 1e-6))


def affine_fit(image: Volume, truth: Volume) -> tuple[float, float]:
    """Gain and offset that bring `image` closest to `truth` by least squares; gain 0 for a flat image.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if image.shape != truth.shape:
        raise ValueError(f"image {image.shape} and truth {truth.shape} differ in shape")
    x = np.asarray(image, dtype=np.float64)
    y = np.asarray(truth, dtype=np.float64)
    x_mean, y_mean = float(x.mean()), float(y.mean())
    variance = float(np.mean((x - x_mean) ** 2))
    gain = float(np.mean((x - x_mean) * (y - y_mean))) / variance if variance > 0 else 0.0
    return gain, y_mean - gain * x_mean


def affine_to_truth(image: Volume, truth: Volume) -> NDArray[np.float64]:
    """``gain * image + offset`` of `affine_fit`.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    gain, offset = affine_fit(image, truth)
    return np.asarray(gain * np.asarray(image, dtype=np.float64) + offset)


def psnr(image: Volume, truth: Volume) -> float:
    """Peak signal-to-noise ratio in dB; infinite for a perfect match. See `CONVENTION`."""
    reference = normalise_truth(truth)
    mse = float(np.mean((affine_to_truth(image, reference) - reference) ** 2))
    return math.inf if mse == 0 else -10 * math.log10(mse)


def nrmse(image: Volume, truth: Volume) -> float:
    """Root mean squared error over the truth's range from minimum to maximum."""
    reference = normalise_truth(truth)
    rmse = math.sqrt(float(np.mean((affine_to_truth(image, reference) - reference) ** 2)))
    return rmse / float(np.ptp(reference))


def ssim(image: Volume, truth: Volume) -> float:
    """Structural similarity (Wang et al., IEEE TIP 13, 600 (2004)), mean over voxels.

    In 3D where there are at least 11 planes, else the mean over planes.

    Parameters
    ----------
    image, truth : ndarray, (Z, Y, X)
        Same shape; `image` is fitted to `truth` first.

    Returns
    -------
    float
        1 for a perfect match.
    """
    return float(ssim_map(image, truth).mean())


def ssim_map(image: Volume, truth: Volume) -> NDArray[np.float64]:
    """Structural similarity at each voxel, ``(Z, Y, X)``; `ssim` is its mean."""
    reference = normalise_truth(truth)
    fitted = affine_to_truth(image, reference)
    sigma = (1.5 if truth.shape[0] >= FEWEST_PLANES_3D else 0.0, 1.5, 1.5)

    def local(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.gaussian_filter(x, sigma, radius=5))

    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = local(fitted), local(reference)
    var_x = local(fitted * fitted) - mean_x**2
    var_y = local(reference * reference) - mean_y**2
    covariance = local(fitted * reference) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return np.asarray(similarity)
