"""Whether a volume looks like those that the model was characterised with.

Features of it are compared with those of the calibration volumes of about the same signal: a
Mahalanobis distance with a covariance shrunk as Ledoit and Wolf do (J. Multivariate Anal. 88, 365
(2004)). It says "unlike", never "how wrong": with the error itself it hardly correlates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Likeness", "shrunk_covariance"]

Array = NDArray[np.float64]

_FEWEST_ROWS = 12
_NEAREST = 40  # in signal: with less light features scatter more


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """Features of calibration volumes, by their signal.

    Attributes
    ----------
    signals : ndarray, (rows,)
        Photoelectrons, positive.
    features : ndarray, (rows, features)
        Of each volume.
    """

    signals: Array
    features: Array

    @classmethod
    def of(cls, signals: Array, features: Array) -> Likeness | None:
        """From calibration volumes; None from fewer than twelve, which teach nothing."""
        return cls(signals, features) if len(signals) >= _FEWEST_ROWS else None

    def distance(self, signal: float, features: Array) -> float:
        """Root mean square deviation from those of about the same signal, in their standard deviations.

        Parameters
        ----------
        signal : float
            Photoelectrons; beyond those of the calibration their nearest end counts.
        features : ndarray, (features,)
            Of the volume.
        """
        x = np.log(self.signals)
        at = float(np.clip(np.log(max(signal, 1e-6)), x.min(), x.max()))
        near = np.argsort(np.abs(x - at), kind="stable")[:_NEAREST]
        basis = np.stack([np.ones(len(near)), x[near] - at], axis=1)
        line, *_ = np.linalg.lstsq(basis, self.features[near], rcond=None)
        residuals = self.features[near] - basis @ line
        # In units of each feature's own scatter: shrunk as they come, the fine ones would drown.
        scatter = residuals.std(axis=0) + 1e-9
        rows = residuals / scatter
        away = (features - line[0]) / scatter
        covariance = shrunk_covariance(rows) * len(near) / max(len(near) - 2, 1)
        return float(np.sqrt(max(away @ np.linalg.solve(covariance, away), 0.0) / len(away)))


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
