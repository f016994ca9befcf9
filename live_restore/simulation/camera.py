"""From photons to camera counts: quantum efficiency, shot noise, read noise, gain, offset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Camera"]


@dataclass(frozen=True, slots=True)
class Camera:
    """A scientific camera as a linear detector with Poisson and Gaussian noise.

    Parameters
    ----------
    quantum_efficiency : float
        Photoelectrons per photon, in (0, 1].
    gain_counts_per_electron : float
        Counts (ADU) per photoelectron.
    offset_counts : float
        Counts of an unexposed pixel.
    read_noise_electrons : float
        Standard deviation of the read-out, in photoelectrons.
    bit_depth : int
        Counts are clipped to ``2**bit_depth - 1``.
    """

    quantum_efficiency: float = 0.82
    gain_counts_per_electron: float = 2.17
    offset_counts: float = 100.0
    read_noise_electrons: float = 1.6
    bit_depth: int = 16

    def expected_counts(self, photons: NDArray[np.floating]) -> NDArray[np.float32]:
        """Mean counts that `photons` (any shape, photons per voxel) give: the noise-free image."""
        counts = self.offset_counts + self.gain_counts_per_electron * self.quantum_efficiency * (
            photons.astype(np.float32, copy=False)
        )
        return np.asarray(counts, dtype=np.float32)

    def expose(self, photons: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.uint16]:
        """One noisy exposure.

        Parameters
        ----------
        photons : ndarray, any shape
            Expected photons per voxel, not negative.
        rng : numpy.random.Generator
            Source of the noise.

        Returns
        -------
        ndarray of uint16, same shape
            Camera counts.
        """
        electrons = rng.poisson(self.quantum_efficiency * photons).astype(np.float32)
        electrons += np.float32(self.read_noise_electrons) * rng.standard_normal(
            photons.shape, dtype=np.float32
        )
        counts = self.offset_counts + self.gain_counts_per_electron * electrons
        return np.asarray(np.clip(np.rint(counts), 0, 2**self.bit_depth - 1), dtype=np.uint16)
