"""What is compared with the calibration volumes: the network's own features, and the raw volume's texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from live_restore.guard.envelope import Envelope, Specimen
from live_restore.guard.shift import Likeness

__all__ = ["Features", "Kin"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Kin:
    """The specimen of an envelope that a volume is most like.

    Attributes
    ----------
    specimen : Specimen
        Which.
    likeness, fineness : float or None
        Distances of features and of texture; None where they can't be told.
    """

    specimen: Specimen
    likeness: float | None
    fineness: float | None

    @property
    def excess(self) -> float:
        """The larger distance over its limit."""
        limits = self.specimen.limits
        return max(
            (self.likeness or 0.0) / limits.likeness, (self.fineness or 0.0) / limits.fineness
        )

    @property
    def is_alike(self) -> bool:
        """The volume is like the envelope's, and that could be told."""
        return self.likeness is not None and self.fineness is not None and self.excess <= 1


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Of one volume.

    Attributes
    ----------
    pooled : ndarray or None
        Means of the network's channels in front of each attention: the network computes them anyway.
    texture : ndarray or None
        See `texture`.
    """

    pooled: Array | None
    texture: Array | None

    def nearest(self, envelope: Envelope, signal: float, channel: str) -> Kin:
        """The specimen of the channel's name, or the one that is nearest."""
        kins = []
        for specimen in envelope.card.specimens:
            name = specimen.channel
            likeness = _distance(envelope.likeness.get(name), signal, self.pooled)
            fineness = _distance(envelope.fineness.get(name), signal, self.texture)
            kins.append(Kin(specimen, likeness, fineness))
        named = [kin for kin in kins if kin.specimen.channel == channel]
        return named[0] if named else min(kins, key=lambda kin: kin.excess)


def _distance(kin: Likeness | None, signal: float, features: Array | None) -> float | None:
    if kin is None or features is None or features.size != kin.features.shape[1]:
        return None
    return kin.distance(signal, features)
