"""A lower dose made from a high-dose stack, photon by photon."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal

__all__ = ["blur", "thin"]

Electrons = NDArray[np.float32]


def thin(
    electrons: Electrons,
    dose: float,
    read_noise_electrons: float,
    rng: np.random.Generator,
    blurred: Electrons | None = None,
) -> tuple[Electrons, Electrons]:
    """Take photons away.

    Of the photoelectrons each is kept with the probability of the dose; those that were not kept
    are an independent second exposure and the truth to learn from: of the same expectation, without the
    raw half's noise, so that noise is never learned (Lehtinen et al., Noise2Noise, ICML 2018).

    With e photoelectrons measured with the variance q of the read-out, n = round(max(e, 0)) and p the
    dose: A ~ Binomial(n, p) + p (e - n) has the mean p e and shares read-out noise with e - A. Noise of
    variance p (1 - p) (q - n + e), added to A and taken from e - A, makes the two uncorrelated (where n is above e,
    as in the dark, the binomial scatters more than light would, by as much); (1 - p) q more gives A the
    read-out noise of a real exposure.

    Parameters
    ----------
    electrons : ndarray of float32, any shape
        Photoelectrons of the high-dose stack.
    dose : float
        Fraction of the light that is kept, in (0, 1).
    read_noise_electrons : float
        Standard deviation of the camera's read-out.
    rng : numpy.random.Generator
        Source of the noise.
    blurred : ndarray of float32, optional
        The stack with the blur that the raw half shall have (from `blur`). Blurring took the
        stack's own noise away, so that photons are drawn anew, and the truth is the whole stack.

    Returns
    -------
    raw, truth : ndarray of float32
        Photoelectrons at the low dose; both have the same expectation but for the blur.
    """
    variance = read_noise_electrons**2
    if blurred is not None:
        raw = rng.poisson(np.maximum(blurred, 0) * dose).astype(np.float32)
        return raw + _noise(electrons.shape, variance, rng), electrons * np.float32(dose)
    whole = np.rint(np.maximum(electrons, 0))
    raw = rng.binomial(whole.astype(np.int64), dose).astype(np.float32)
    raw += np.float32(dose) * (electrons - whole)
    left = np.maximum(variance - (whole - electrons), 0)
    raw += np.sqrt(np.float32(dose * (1 - dose)) * left) * rng.standard_normal(
        electrons.shape, dtype=np.float32
    )
    truth = (electrons - raw) * np.float32(dose / (1 - dose))
    return raw + _noise(electrons.shape, (1 - dose) * variance, rng), truth


def blur(electrons: Electrons, psf: NDArray[np.float32]) -> Electrons:
    """A stack ``(Z, Y, X)`` convolved with a PSF of odd sizes that sums to 1, mirrored at its borders."""
    pad = [(size // 2, size // 2) for size in psf.shape]
    padded = np.pad(electrons, pad, mode="symmetric")
    return np.asarray(signal.fftconvolve(padded, psf, mode="valid"), dtype=np.float32)


def _noise(shape: tuple[int, ...], variance: float, rng: np.random.Generator) -> Electrons:
    return np.float32(variance**0.5) * rng.standard_normal(shape, dtype=np.float32)
