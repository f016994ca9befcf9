"""What a raw and a restored volume have in common, in photoelectrons: means, variances, covariance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.guard.camera import CameraCalibration

__all__ = ["Moments"]


@dataclass(frozen=True, slots=True)
class Moments:
    """First and second moments of a pair of volumes, in photoelectrons.

    Attributes
    ----------
    num_voxels : int
        In each.
    mean_raw, mean_restored : float
        In photoelectrons.
    var_raw, var_restored, covariance : float
        In photoelectrons².
    """

    num_voxels: int
    mean_raw: float
    mean_restored: float
    var_raw: float
    var_restored: float
    covariance: float

    @classmethod
    def of(cls, raw: NDArray[Any], restored: NDArray[Any], camera: CameraCalibration) -> Moments:
        """Measure them, plane by plane.

        Parameters
        ----------
        raw, restored : ndarray, (Z, Y, X)
            Counts of any real dtype, same shape; not modified.
        camera : CameraCalibration
            Turns counts into photoelectrons.
        """
        # Sums about a point within the data keep their digits in float32.
        origin = np.float32(raw[raw.shape[0] // 2].mean(dtype=np.float64))
        sums = np.zeros(5)
        for raw_plane, restored_plane in zip(raw, restored, strict=True):
            e = (raw_plane - origin).ravel()
            f = (restored_plane - origin).ravel()
            sums += (e.sum(), f.sum(), np.dot(e, e), np.dot(f, f), np.dot(e, f))
        n = raw.size
        e_mean, f_mean, ee, ff, ef = (float(one) for one in sums / n)
        scale = camera.gain
        base = float(origin) - camera.offset
        return cls(
            n,
            (e_mean + base) / scale,
            (f_mean + base) / scale,
            max(ee - e_mean**2, 0.0) / scale**2,
            max(ff - f_mean**2, 0.0) / scale**2,
            (ef - e_mean * f_mean) / scale**2,
        )

    def noise(self, camera: CameraCalibration) -> float:
        """Mean variance of the noise: shot noise of the mean signal, and the read-out."""
        return max(self.mean_raw, 0.0) + camera.variance

    def signal_variance(self, camera: CameraCalibration) -> float:
        """Variance of the noise-free volume; around 0, also below, where nothing is to be seen."""
        return self.var_raw - self.noise(camera)

    def is_visible(self, camera: CameraCalibration) -> bool:
        """Whether the volume varies by more than its noise can: five standard deviations of that."""
        least = 5 * math.sqrt(2 / self.num_voxels) * self.noise(camera)
        return self.signal_variance(camera) > least

    def gain(self, overfit: float) -> float:
        """By which the restored volume is multiplied to fit the truth best; `overfit` as in `nrmse`."""
        return max((self.covariance - overfit) / max(self.var_restored, 1e-12), 0.0)

    def nrmse(
        self, camera: CameraCalibration, overfit: float, overfit_error: float = 0.0
    ) -> float | None:
        """Root mean squared error of the restored volume over the standard deviation of the truth.

        The restored volume is taken at its best gain and offset, so that this is √(1 - ρ²) with
        its correlation ρ to the truth, of which cov(restored, truth) = cov(restored, raw) - D: Stein's
        unbiased risk estimate (Stein, Ann. Statist. 9, 1135 (1981)), solved for a free gain.

        Parameters
        ----------
        camera : CameraCalibration
            Says how noisy the raw volume is.
        overfit : float
            D, the covariance of the restored volume with the raw one's noise, in photoelectrons²; see
            `Leverage`.
        overfit_error : float
            Its standard error. An error as small as what can't be told from none is never claimed.

        Returns
        -------
        float or None
            None where no signal is to be seen.
        """
        signal = self.signal_variance(camera)
        if not self.is_visible(camera) or not self.var_restored > 0:
            return None
        common = self.covariance - overfit
        if common <= 0:
            return 1.0
        share = common**2 / (self.var_restored * signal)
        by_noise = math.sqrt(2 / self.num_voxels) * self.noise(camera) / signal
        by_overfit = 2 * overfit_error / common
        least = share * math.hypot(by_noise, by_overfit)
        return math.sqrt(min(max(1 - share, least, 1e-6), 1.0))
