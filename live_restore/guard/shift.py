"""Whether a volume looks, to the network, like those that it was characterised with.

Features that the network computes anyway, and the spectrum of what it restored, compared with those of
the calibration volumes of about the same signal: a Mahalanobis distance with a covariance shrunk as Ledoit
and Wolf do (J. Multivariate Anal. 88, 365 (2004)). It says "unlike", never "how wrong": with the error
itself it hardly correlates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Likeness", "shrunk_covariance"]

Array = NDArray[np.float64]

_FEWEST_ROWS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """Feature vectors as a function of signal, and how far they scatter about it.

    Attributes
    ----------
    coefficients : ndarray, (3, features)
        Of 1, x and x², x the logarithm of the signal.
    precision : ndarray, (features, features)
        Inverse of the shrunk covariance about that, over the number of features.
    range : tuple of float
        Of x.
    """

    coefficients: Array
    precision: Array
    range: tuple[float, float]

    @classmethod
    def fit(cls, signals: Array, features: Array) -> Likeness | None:
        """Learn from calibration volumes.

        Parameters
        ----------
        signals : ndarray, (rows,)
            Photoelectrons, positive.
        features : ndarray, (rows, features)
            Of each volume.

        Returns
        -------
        Likeness or None
            None from fewer than twelve volumes.
        """
        if len(signals) < _FEWEST_ROWS:
            return None
        x = np.log(signals)
        basis = _basis(x)
        coefficients, *_ = np.linalg.lstsq(basis, features, rcond=None)
        residuals = features - basis @ coefficients
        covariance = shrunk_covariance(residuals) * len(x) / max(len(x) - 3, 1)
        precision = np.linalg.inv(covariance) / features.shape[1]
        return cls(
            np.asarray(coefficients), np.asarray(precision), (float(x.min()), float(x.max()))
        )

    def distance(self, signal: float, features: Array) -> float:
        """Root mean square deviation, in standard deviations: about 1 for what it learnt from."""
        x = np.clip(np.log(max(signal, 1e-6)), *self.range)
        away = features - (_basis(np.array([x])) @ self.coefficients)[0]
        return float(np.sqrt(max(away @ self.precision @ away, 0.0)))


def shrunk_covariance(rows: Array) -> Array:
    """The Ledoit-Wolf covariance of centred rows, ``(features, features)``."""
    n, p = rows.shape
    sample = rows.T @ rows / n
    scale = float(np.trace(sample)) / p
    spread = float(np.sum((sample - scale * np.eye(p)) ** 2))
    squares = np.sum(rows**2, axis=1)
    noise = (float(np.sum(squares**2)) / n - float(np.sum(sample**2))) / n
    share = min(max(noise / spread, 0.0), 1.0) if spread > 0 else 1.0
    return np.asarray((1 - share) * sample + (share * scale + 1e-12) * np.eye(p))


def _basis(x: Array) -> Array:
    return np.stack([np.ones_like(x), x, x**2], axis=1)
