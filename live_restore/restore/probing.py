"""Parts of a volume that was just restored, restored once more: with other noise, or with less light."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from live_restore.restore.engine import Engine, Pooled
from live_restore.restore.intensity import IntensityRange, LinearFit, measure_range
from live_restore.restore.model import Normalisation

__all__ = ["PartRestorer"]

Counts = NDArray[np.float32]


@dataclass(frozen=True)
class PartRestorer:
    """Restores parts as a volume was; counts in, counts out.

    Attributes
    ----------
    engine : Engine
        That restored it.
    normalisation : Normalisation
        Of the model.
    span : IntensityRange
        That normalised the volume.
    attention : list of Tensor or None
        What the volume's attention looked at; each part by itself where tiles do.
    step : float
        Counts to which the volume will be rounded; 0 for none.
    """

    engine: Engine
    normalisation: Normalisation
    span: IntensityRange
    attention: Pooled | None
    step: float = 0.0

    def as_volume(self, counts: Counts) -> Counts:
        """A part, with the normalisation and the attention of its volume.

        Parameters
        ----------
        counts : ndarray of float32, (Z, Y, X)
            As the camera gave, or with some noise more.
        """
        return self._restored(counts, self.span, self.attention)

    def by_itself(self, counts: Counts, like: Counts) -> Counts:
        """A part at another dose, with an attention that looks at it alone.

        Parameters
        ----------
        counts : ndarray of float32, (Z, Y, X)
            At that dose.
        like : ndarray of float32, (Z, Y, X)
            A fair sample of the whole volume at that dose, whose percentiles normalise.
        """
        norm = self.normalisation
        span = measure_range(like, norm.low_percent, norm.high_percent, norm.epsilon)
        return self._restored(counts, span, None)

    @cached_property
    def pooled(self) -> NDArray[np.float32] | None:
        """What the attention looked at, block after block."""
        if self.attention is None:
            return None
        return np.concatenate([one.float().cpu().numpy().reshape(-1) for one in self.attention])

    def _restored(self, counts: Counts, span: IntensityRange, attention: Pooled | None) -> Counts:
        out = self.engine.part(torch.from_numpy(span.normalise(counts)), attention)
        if self.normalisation.target == "input":
            return span.counts(out)
        fit = LinearFit()
        fit.add(out, counts)
        gain, offset = fit.line() or (span.width, span.low)
        return np.asarray(out * np.float32(gain) + np.float32(offset))
