"""What a volume looks like to the network, and how fine it is, for comparison with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.guard.envelope import Envelope, Specimen
from live_restore.guard.parts import Sample
from live_restore.guard.spectrum import log_spectrum

__all__ = ["SPECTRUM_ZYX", "Features", "Kin", "features_of"]

SPECTRUM_ZYX = 16, 64, 64
"""What the spectrum is of: the part with the most light."""


@dataclass(frozen=True, slots=True)
class Kin:
    """The specimen of an envelope that a volume is most like.

    Attributes
    ----------
    specimen : Specimen
        Which.
    likeness, fineness : float or None
        Distances; None where the envelope doesn't know such features.
    """

    specimen: Specimen
    likeness: float | None
    fineness: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Of one volume.

    Attributes
    ----------
    pooled : ndarray or None
        Means of the network's channels in front of each attention.
    spectrum : ndarray or None
        Log power of the restored volume; None where it is too small.
    """

    pooled: NDArray[np.float64] | None
    spectrum: NDArray[np.float64] | None

    def nearest(self, envelope: Envelope, signal: float, channel: str) -> Kin:
        """The specimen of the channel's name, or the one that is nearest."""
        kins = []
        for specimen in envelope.card.specimens:
            name = specimen.channel
            likeness = _distance(envelope.likeness.get(name), signal, self.pooled)
            fineness = _distance(envelope.fineness.get(name), signal, self.spectrum)
            kins.append(Kin(specimen, likeness, fineness))
        named = [kin for kin in kins if kin.specimen.channel == channel]
        if named:
            return named[0]
        return min(
            kins,
            key=lambda kin: max(
                (kin.likeness or 0.0) / kin.specimen.limits.likeness,
                (kin.fineness or 0.0) / kin.specimen.limits.fineness,
            ),
        )


def features_of(
    restored: NDArray[Any], sample: Sample, pooled: NDArray[np.float32] | None
) -> Features:
    """Measure them.

    Parameters
    ----------
    restored : ndarray, (Z, Y, X)
        Counts.
    sample : Sample
        Of it.
    pooled : ndarray or None
        From the network.
    """
    where = []
    for axis, (size, wanted) in enumerate(zip(restored.shape, SPECTRUM_ZYX, strict=True)):
        others = tuple(a for a in range(3) if a != axis)
        profile = sample.values.sum(axis=others, dtype=np.float64)
        step = sample.stride[axis]
        length = min(size, wanted)
        num = min(max(1, length // step), profile.size)
        sums = np.convolve(profile - profile.min(), np.ones(num), mode="valid")
        start = min(int(np.argmax(sums)) * step, size - length)
        where.append(slice(start, start + length))
    block = restored[where[0], where[1], where[2]].astype(np.float32)
    is_large = all(s >= w // 2 for s, w in zip(block.shape, SPECTRUM_ZYX, strict=True))
    return Features(
        None if pooled is None else np.asarray(pooled, dtype=np.float64),
        log_spectrum(block) if is_large else None,
    )


def _distance(one: Any, signal: float, features: NDArray[np.float64] | None) -> float | None:
    if one is None or features is None or features.size != one.precision.shape[0]:
        return None
    return float(one.distance(signal, features))
