"""How far a faster arithmetic is from plain float32, measured when a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from live_restore.quality import psnr
from live_restore.restore.engine import Engine
from live_restore.restore.intensity import measure_range
from live_restore.restore.model import Model
from live_restore.simulation import SimulatedMicroscope

__all__ = ["Certificate", "certify"]

_PROBE = SimulatedMicroscope(shape_zyx=(12, 48, 56), seed=11)


@dataclass(frozen=True, slots=True)
class Certificate:
    """On a simulated probe volume, in units of its intensity range.

    Attributes
    ----------
    largest, mean : float
        Absolute difference from the reference in float32.
    psnr_db : float
        PSNR against the probe's truth, minus the reference's.
    """

    largest: float
    mean: float
    psnr_db: float

    def __str__(self) -> str:
        return (
            f"differs from float32 by at most {self.largest:.1e} and on average {self.mean:.1e} of the "
            f"intensity range, {self.psnr_db:+.3f} dB"
        )


def certify(engine: Engine, model: Model) -> Certificate:
    """Restore the probe with the engine and with the network as it was written down."""
    raw, truth = _PROBE.stack(0, "nuclei"), _PROBE.truth(0, "nuclei")
    norm = model.card.normalisation
    span = measure_range(raw, norm.low_percent, norm.high_percent, norm.epsilon)
    image = torch.from_numpy(span.normalise(raw))
    fast = engine.part(image)
    with torch.inference_mode():
        plain = model.network(image[None, None])[0, 0].numpy()
    difference = np.abs(fast - plain)
    return Certificate(
        float(difference.max()),
        float(difference.mean()),
        float(psnr(fast, truth) - psnr(plain, truth)),
    )
