"""What training minimises, on patches, and what chooses the best model, on held-out volumes."""

from __future__ import annotations

import torch
from torch import Tensor

from live_restore.train.config import Schedule

__all__ = ["measure_loss"]


def measure_loss(restored: Tensor, truth: Tensor, contrast: Tensor, schedule: Schedule) -> Tensor:
    """The mean loss of a batch.

    In units of each volume's own contrast ``(N,)``, as PSNR is: a low dose, whose noise is wide and whose
    signal is narrow after normalisation, counts as much as a high one. Where a few spots outshine
    their volume's 99.9th percentile, half of what the patch spans is the unit.

    Parameters
    ----------
    restored, truth : Tensor, (N, 1, Z, Y, X)
        float32, normalised.
    contrast : Tensor, (N,)
        See `Pair.contrast`.
    schedule : Schedule
        Says which loss, and whether each patch counts by its logarithm.
    """
    span = truth.amax((1, 2, 3, 4)) - truth.amin((1, 2, 3, 4))
    unit = torch.maximum(contrast, 0.5 * span).clamp(min=0.1)
    error = (restored - truth) / unit.view(-1, 1, 1, 1, 1)
    if schedule.loss == "mae":
        voxels = error.abs()
    elif schedule.loss == "charbonnier":
        voxels = torch.sqrt(error**2 + 1e-6)
    else:
        voxels = error**2
    patches = voxels.mean((1, 2, 3, 4))
    # The floor, 40 dB for squares, keeps empty patches from counting more than full ones.
    return torch.log(patches + 1e-4).mean() if schedule.balance else patches.mean()
