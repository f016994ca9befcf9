"""By how much a model sharpens: the Gaussian that blurs what it restored back to the raw volume's sharpness.

With A the light that was restored, B independent light of the same volume and f the restoration of A,
cross-spectra hold no noise: T(k) = <f B*> / <A B*> is the model's transfer of structure. A model that only
takes noise away has T ≤ 1, falling towards fine detail; one that deconvolves has T > 1 there. The Gaussian
H = exp(-½ Σ σᵢ² kᵢ²) that best undoes it minimises ∫ |H T - a|² |t|² with free gain a, the squared error of H f
to the raw volume's own structure. To fit H f to the raw counts themselves would reward any smoothing of noise
that a model left.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from live_restore.characterize.ladder import Step, as_volume, at_step
from live_restore.characterize.stacks import HighDose
from live_restore.guard.camera import CameraCalibration
from live_restore.volume import Restored, Volume

__all__ = ["measure_transfer", "transfer_between"]

logger = logging.getLogger(__name__)

_DOSE = 0.5  # both halves know the structure equally well
_BINS_Z, _BINS_XY = 6, 16
_LEAST_SIGMA = 0.3
"""In voxels: less changes even the finest detail, at Nyquist's frequency, by less than a third, and detail at half of
it by about a tenth. Of simulated filaments and nuclei identity came out at 0.07 at most, and the default model, trained to
take noise away only, at 0.08; filaments that were blurred by 1 and 1.5 voxels in plane and unblurred exactly came out at
0.98 and 1.51 (by 2 at 1.77)."""
_LEAST_GAIN = 0.02
"""By which the square of the error must fall: less changes an NRMSE of 0.35 by less than 0.03. Nuclei, which hold next to no
fine detail, can be sharpened by 1.5 voxels without reaching it."""
_MOST_SIGMA = 4.0
_Array = NDArray[np.float64]


class _Restorer(Protocol):
    def restore(self, volume: Volume) -> Restored:
        """One volume."""
        ...


def measure_transfer(
    restorer: _Restorer, stacks: Iterable[HighDose], camera: CameraCalibration, seed: int = 0
) -> tuple[float, float, float]:
    """The Gaussian that blurs restored volumes back, from high-dose stacks at half of their light.

    Parameters
    ----------
    restorer : object
        Restores volumes.
    stacks : iterable of HighDose
        A few.
    camera : CameraCalibration
        Of them.
    seed : int
        Of the split.

    Returns
    -------
    tuple of float
        Standard deviations (z, y, x) in voxels; zeros for a model that doesn't sharpen.
    """
    cross, own = np.zeros((2, _BINS_Z, _BINS_XY))
    for index, stack in enumerate(stacks):
        rng = np.random.default_rng([seed, index, 1])
        at = at_step(camera.electrons(stack.counts), Step(_DOSE), camera, rng)
        counts = np.clip(np.rint(at.raw * camera.gain + camera.offset), 0, 65535)
        restored = restorer.restore(as_volume(stack, counts.astype(np.uint16), "transfer"))
        scale = float(at.unseen.astype(np.float64).var()) or 1.0
        f_b, a_b = _cross_spectra(camera.electrons(restored.data), at.raw, at.unseen)
        cross, own = cross + f_b / scale, own + a_b / scale
    found = _fit(cross, own)
    logger.info("the model sharpens by (%.2f, %.2f, %.2f) voxels", *found)
    return found


def transfer_between(
    restored: NDArray[Any], raw: NDArray[Any], unseen: NDArray[Any]
) -> tuple[float, float, float]:
    """The same, from one volume.

    Parameters
    ----------
    restored, raw, unseen : ndarray, (Z, Y, X)
        The restoration of `raw`; `unseen` is independent light of the same volume. In any linear units.
    """
    return _fit(*_cross_spectra(restored, raw, unseen))


def _cross_spectra(
    restored: NDArray[Any], raw: NDArray[Any], unseen: NDArray[Any]
) -> tuple[_Array, _Array]:
    """Of restored and unseen, of raw and unseen: ``(z frequencies, lateral frequencies)``, means of their bins."""
    window = np.ones((1, 1, 1))
    for axis, size in enumerate(raw.shape):
        shape = [1, 1, 1]
        shape[axis] = size
        window = window * np.hanning(size + 2)[1:-1].reshape(shape)

    def spectrum(data: NDArray[Any]) -> NDArray[np.complex128]:
        values = data.astype(np.float64)
        values -= float((values * window).sum() / window.sum())
        return np.asarray(np.fft.rfftn(values * window))

    of_unseen = np.conj(spectrum(unseen))
    bins, num = _bins(raw.shape)
    sums = [
        np.bincount(bins.ravel(), (spectrum(one) * of_unseen).real.ravel(), num.size)
        for one in (restored, raw)
    ]
    means = [(one / np.maximum(num, 1)).reshape(_BINS_Z, _BINS_XY) for one in sums]
    # Few of a small volume's frequencies fall into some bins: each counts by how many there are.
    weight = (num / num.sum()).reshape(_BINS_Z, _BINS_XY)
    return means[0] * weight, means[1] * weight


def _bins(shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    nz, ny, nx = shape
    kz = np.abs(np.fft.fftfreq(nz))[:, None, None]
    lateral = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx)[None, :])[None]
    at_z = np.minimum((kz * 2 * _BINS_Z).astype(np.int64), _BINS_Z - 1)
    at_xy = np.minimum((lateral * 2 * _BINS_XY).astype(np.int64), _BINS_XY - 1)
    bins = at_z * _BINS_XY + at_xy
    return bins, np.bincount(bins.ravel(), minlength=_BINS_Z * _BINS_XY)


def _fit(cross: _Array, own: _Array) -> tuple[float, float, float]:
    """The Gaussian that brings `cross` nearest to `own`."""
    kz = (np.pi * (np.arange(_BINS_Z) + 0.5) / _BINS_Z)[:, None]
    lateral = (np.pi * (np.arange(_BINS_XY) + 0.5) / _BINS_XY)[None]
    power = np.maximum(own, 0.0)
    # Where there is no structure to be transferred, the quotient is noise.
    is_known = power > 1e-3 * power.max()
    if power.max() <= 0:
        return 0.0, 0.0, 0.0
    transfer = np.where(is_known, cross / np.where(is_known, own, 1.0), 0.0)
    weight = np.where(is_known, power, 0.0)
    weight /= weight.sum()

    def misfit(sigma: Any) -> float:
        f = transfer * np.exp(-0.5 * ((sigma[0] * kz) ** 2 + (sigma[1] * lateral) ** 2))
        ff = float((weight * f * f).sum())
        common = float((weight * f).sum())
        return 1 - common**2 / ff if ff > 0 else 1.0

    best = min(
        (
            minimize(misfit, start, method="L-BFGS-B", bounds=[(0, _MOST_SIGMA)] * 2)
            for start in ((0.1, 0.1), (1.0, 1.0), (0.1, 1.0), (1.0, 0.1))
        ),
        key=lambda one: float(one.fun),
    )
    sigma = [float(one) if one >= _LEAST_SIGMA else 0.0 for one in best.x]
    if misfit((0.0, 0.0)) - misfit(sigma) < _LEAST_GAIN:
        return 0.0, 0.0, 0.0
    return round(sigma[0], 3), round(sigma[1], 3), round(sigma[1], 3)
