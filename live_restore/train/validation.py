"""How the model does on volumes it never learns from, by field of view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from live_restore.quality import psnr, ssim
from live_restore.restore.rcan import RCAN3D
from live_restore.restore.tiling import blend, plan_tiles
from live_restore.train.config import Schedule
from live_restore.train.loss import measure_loss
from live_restore.train.pairs import HeldOut

__all__ = ["Scores", "restore_normalised", "summarise", "validate"]

_LARGEST_TILE = (32, 128, 128)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of held-out volumes.

    Attributes
    ----------
    loss : float
        The training's loss of whole volumes, mean over fields of view.
    by_name : dict of str to dict
        For each name among the held-out volumes ("all" at least) the means over fields of view of
        PSNR (dB) and SSIM, raw and restored.
    """

    loss: float
    by_name: dict[str, dict[str, float]]


def validate(
    network: RCAN3D, held_out: Sequence[HeldOut], schedule: Schedule, device: str
) -> Scores:
    """Restore each held-out volume and score it, in the convention of `live_restore.quality`."""
    losses: dict[str, list[float]] = defaultdict(list)
    rows: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
    for one in held_out:
        raw = one.pair.raw_range.normalise(one.pair.raw)
        truth = one.pair.truth_range.normalise(one.pair.truth)
        restored = restore_normalised(network, raw, device)
        loss = measure_loss(
            torch.from_numpy(restored)[None, None],
            torch.from_numpy(truth)[None, None],
            torch.tensor([one.pair.contrast]),
            schedule,
        )
        losses[one.field_of_view].append(loss.item())
        score = np.array([f(v, truth) for f in (psnr, ssim) for v in (raw, restored)])
        for name in {"all", one.name}:
            rows[name, one.field_of_view].append(score)
    by_name: dict[str, dict[str, float]] = {}
    for name in ["all", *dict.fromkeys(one.name for one in held_out)]:
        fields = [np.mean(scores, axis=0) for (which, _), scores in rows.items() if which == name]
        keys = ("psnr_raw_db", "psnr_restored_db", "ssim_raw", "ssim_restored")
        mean = np.mean(fields, axis=0)
        by_name[name] = {k: round(float(v), 4) for k, v in zip(keys, mean, strict=True)}
    return Scores(float(np.mean([np.mean(one) for one in losses.values()])), by_name)


def summarise(scores: Scores) -> dict[str, float]:
    """For a model's card: ``psnr_raw_db``, … and the same ``_at_`` each dose where there are several."""
    out: dict[str, float] = {}
    for name, row in scores.by_name.items():
        end = "" if name == "all" else f"_at_{name}"
        out |= {key + end: round(value, 3) for key, value in row.items()}
    return out


def restore_normalised(
    network: RCAN3D, raw: NDArray[np.float32], device: str
) -> NDArray[np.float32]:
    """A normalised volume ``(Z, Y, X)`` through the network, tile by tile where it is large."""
    shape = (raw.shape[0], raw.shape[1], raw.shape[2])
    out = np.empty_like(raw)

    def one(where: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(raw[where]))[None, None].to(device)
            restored = network(tensor.contiguous(memory_format=torch.channels_last_3d))
            return np.asarray(restored[0, 0].float().cpu().numpy(), dtype=np.float32)

    for rows, band in blend(plan_tiles(shape, _LARGEST_TILE, (8, 16, 16)), one):
        out[:, rows] = band
    return out
