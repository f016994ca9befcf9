"""How much worse less light would be, found out on the present volume by taking photons away.

Of a part's photoelectrons a fraction p is kept; what the network makes of them is compared with those
that were not kept, which it never saw (Lehtinen et al., Noise2Noise, ICML 2018; data thinning: Neufeld et al.,
JMLR 25 (2024)). Only the difference between the two restorations, of all and of few photons, is
averaged, in classes of brightness: it has far less noise than either error.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from live_restore.guard.camera import CameraCalibration
from live_restore.guard.leverage import Restore
from live_restore.guard.parts import Part
from live_restore.guard.sums import Moments
from live_restore.thinning import thin

__all__ = ["DOSES", "Thinned"]

DOSES = 0.5, 0.25, 0.125
"""Fractions of the present dose that are tried."""

_CLASSES = np.array([0.5, 0.75, 0.9, 0.97, 0.993])  # quantiles of brightness between classes
_KEPT = 0.85
_PRIOR_VOXELS = 20.0


@dataclass(slots=True)
class Thinned:
    """What a dose does, from all parts of a stream so far.

    Attributes
    ----------
    num_parts : dict of float to int
        How often each dose was tried.
    """

    num_parts: dict[float, int] = field(default_factory=dict)
    _sums: dict[float, NDArray[np.float64]] = field(default_factory=dict)

    def fade(self) -> None:
        """A new volume begins: what earlier ones said counts less."""
        for sums in self._sums.values():
            sums *= _KEPT

    def probe(
        self,
        dose: float,
        raw: NDArray[np.float32],
        base: NDArray[np.float32],
        edges: NDArray[np.float32],
        centre: float,
        camera: CameraCalibration,
        restore: Restore,
        inside: Part,
        rng: np.random.Generator,
    ) -> None:
        """Try a dose on one part: one pass of the network.

        Parameters
        ----------
        dose : float
            One of `DOSES`.
        raw, base : ndarray of float32, (Z, Y, X)
            Photoelectrons: the part, and what the network made of it.
        edges : ndarray of float32
            From `classes`.
        centre : float
            Mean photoelectrons per voxel of the volume.
        camera : CameraCalibration
            Its noise.
        restore : callable
            Photoelectrons at this dose to restored photoelectrons at this dose.
        inside : tuple of slice
            What of the part counts.
        rng : numpy.random.Generator
            Takes photons away.
        """
        noise = float(np.sqrt(camera.variance))
        few, others = thin(raw, dose, noise, rng)
        restored = (restore(few) / np.float32(dose))[inside].reshape(-1)
        before = base[inside].reshape(-1)
        unseen = (others / np.float32(dose))[inside].reshape(-1)
        change = restored - before
        rows = np.stack(
            [
                np.ones_like(change),
                change,
                change * (restored + before - np.float32(2 * centre)),
                change * (unseen - np.float32(centre)),
            ]
        )
        which = np.searchsorted(edges, before)
        sums = self._sums.setdefault(dose, np.zeros((4, len(edges) + 1)))
        for row, total in zip(rows, sums, strict=True):
            total += np.bincount(which, row, minlength=len(edges) + 1)
        self.num_parts[dose] = self.num_parts.get(dose, 0) + 1

    def nrmse(self, dose: float, moments: Moments, camera: CameraCalibration) -> float | None:
        """What the NRMSE of the whole volume would be at a dose.

        Returns
        -------
        float or None
            None before the dose was tried, or where nothing is to be seen.
        """
        sums = self._sums.get(dose)
        if sums is None or not moments.is_visible(camera):
            return None
        shares = np.diff([0.0, *_CLASSES, 1.0])
        overall = sums.sum(axis=1) / max(sums[0].sum(), 1.0)
        means = (sums + _PRIOR_VOXELS * overall[:, None]) / (sums[0] + _PRIOR_VOXELS)
        _, change, of_square, of_product = means @ shares
        shift = moments.mean_restored - moments.mean_raw
        variance = moments.var_restored + of_square - 2 * shift * change - change**2
        common = moments.covariance + of_product
        if common <= 0 or variance <= 0:
            return 1.0
        signal = moments.signal_variance(camera)
        return float(np.sqrt(np.clip(1 - common**2 / (variance * signal), 1e-6, 1.0)))


def classes(restored: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where classes of brightness meet, in photoelectrons, from a fair sample of the volume."""
    return np.asarray(np.quantile(restored, _CLASSES), dtype=np.float32)
