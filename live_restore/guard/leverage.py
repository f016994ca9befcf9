"""How far a restored volume follows the noise of its raw one, measured on a few small parts of it.

The covariance D of the restored volume with the noise is what Stein's unbiased risk estimate needs
beside the data. It is measured as Ramani, Blu and Unser do (IEEE TIP 17, 1540 (2008)): a little more
noise on the raw volume, and how much of it comes back. What comes back of a voxel's noise, its
leverage, follows its brightness: with s, its signal over its noise, about a + b s / (s + 3) +
c s² / (s² + 9). Such a line through a few parts, bright and dim, gave D within 13 % (one standard
deviation; -3 to +8 % in the middle half) on real and simulated volumes from 3 to 48 photons, from 7 % of their voxels;
without the last term it was 4 to 15 % too low where structures are sparse. Volumes of one stream share the line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from live_restore.guard.parts import Part

__all__ = ["Brightness", "Leverage"]

_STEP = np.float32(
    0.3
)  # of the noise's standard deviation; at 1.0 the network is no longer straight
_HALF = np.float32(3.0)
# What a line weighs, before the first part, in voxels: none that was seen was far from it.
_PRIOR = np.array([0.02, 0.2, 0.1])
_PRIOR_VOXELS = np.array([300.0, 30.0, 30.0])
_BLOCK = 8
_KEPT = 0.85  # of what earlier volumes said, per volume

Restore = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Restores a part of a volume as the whole was: photoelectrons to photoelectrons."""


@dataclass(frozen=True, slots=True)
class Brightness:
    """What leverage is a function of.

    Attributes
    ----------
    background : float
        Photoelectrons per voxel where there is least.
    read_variance : float
        Of the camera, in photoelectrons².
    """

    background: float
    read_variance: float

    def variance(self, restored: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of each voxel's noise, in photoelectrons²."""
        return np.maximum(restored, np.float32(0)) + np.float32(self.read_variance)

    def regressors(self, restored: NDArray[np.float32]) -> NDArray[np.float32]:
        """The variance times 1, s / (s + 3) and s² / (s² + 9): shape ``(3, voxels)``."""
        flat = restored.reshape(-1)
        variance = self.variance(flat)
        s = np.maximum(flat - np.float32(self.background), 0) / np.sqrt(variance)
        square = s * s
        return np.stack(
            [variance, variance * (s / (s + _HALF)), variance * (square / (square + _HALF**2))]
        )


@dataclass(slots=True)
class Leverage:
    """The line, from all parts of a stream so far.

    Attributes
    ----------
    num_parts : int
        How many were probed.
    """

    num_parts: int = 0
    _matrix: NDArray[np.float64] = field(default_factory=lambda: np.diag(_PRIOR_VOXELS))
    _vector: NDArray[np.float64] = field(default_factory=lambda: _PRIOR_VOXELS * _PRIOR)
    _scatter: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))

    def fade(self) -> None:
        """A new volume begins: what earlier ones said counts less."""
        self._matrix *= _KEPT
        self._vector *= _KEPT
        self._scatter *= _KEPT**2

    def probe(
        self,
        raw: NDArray[np.float32],
        brightness: Brightness,
        restore: Restore,
        inside: Part,
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        """Measure it on one part: two passes of the network.

        Parameters
        ----------
        raw : ndarray of float32, (Z, Y, X)
            Photoelectrons.
        brightness : Brightness
            Of the volume.
        restore : callable
            Photoelectrons to photoelectrons, as the whole volume was restored.
        inside : tuple of slice
            What of the part counts.
        rng : numpy.random.Generator
            Of the noise.

        Returns
        -------
        ndarray of float32, (Z, Y, X)
            The part, restored.
        """
        base = restore(raw)
        signs = rng.integers(0, 2, size=raw.shape, dtype=np.int8).astype(np.float32) * 2 - 1
        noise = np.sqrt(brightness.variance(base)) * signs
        moved = restore(raw + _STEP * noise)
        follows = (noise * (moved - base))[inside].reshape(-1) / _STEP
        x = brightness.regressors(base[inside])
        weight = 1 / (x[0] * (_PRIOR @ (x / x[0])))
        weighted = x * weight
        matrix, vector = weighted @ x.T, weighted @ follows
        line = np.linalg.solve(self._matrix + matrix, self._vector + vector)
        residual = weighted * (follows - line @ x)
        self._matrix += matrix
        self._vector += vector
        # What one voxel's noise does to its neighbours makes residuals alike over some voxels.
        blocks = _block_sums(residual.reshape(3, *base[inside].shape))
        self._scatter += blocks @ blocks.T
        self.num_parts += 1
        return base

    def of(self, restored: NDArray[np.float32], brightness: Brightness) -> NDArray[np.float32]:
        """Of each voxel, between 0 and 0.9, in the shape of `restored`, which is in photoelectrons."""
        x = brightness.regressors(restored)
        line = np.linalg.solve(self._matrix, self._vector).astype(np.float32)
        follows = np.clip((line @ x) / x[0], 0, np.float32(0.9))
        return np.asarray(follows.reshape(restored.shape))

    def overfit(self, restored: NDArray[np.float32], brightness: Brightness) -> tuple[float, float]:
        """D, the covariance of a restored volume with its raw one's noise, and its standard error.

        Parameters
        ----------
        restored : ndarray of float32, any shape
            Photoelectrons, a fair sample of the volume.
        brightness : Brightness
            Of the volume.

        Returns
        -------
        tuple of float
            In photoelectrons².
        """
        mean = brightness.regressors(restored).mean(axis=1, dtype=np.float64)
        line = np.linalg.solve(self._matrix, self._vector)
        to_mean = np.linalg.solve(self._matrix, mean)
        error = math.sqrt(max(float(to_mean @ self._scatter @ to_mean), 0.0))
        return max(float(line @ mean), 0.0), error


def _block_sums(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sums over blocks of 8 x 8 x 8 voxels: ``(3, Z, Y, X)`` to ``(3, blocks)``."""
    out = np.asarray(values, dtype=np.float64)
    for axis in (1, 2, 3):
        out = np.add.reduceat(out, np.arange(0, out.shape[axis], _BLOCK), axis=axis)
    return np.asarray(out.reshape(3, -1))
