"""Specimens that fill space: dense tissue, compartments, reticula and granules from random fields.

Same arguments and results as in `structures`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from live_restore.simulation.grid import Grid

__all__ = ["cell_mask", "compartments", "envelopes", "granules", "reticulum", "tissue"]

Field = NDArray[np.float64]

_DRIFT_UM_PER_S = (0.0, 0.05, 0.03)


def random_field(
    grid: Grid, rng: np.random.Generator, scale_um: float, time_s: float = 0.0
) -> Field:
    """White noise smoothed by a Gaussian of standard deviation `scale_um`, mean 0 and variance 1.

    Periodic; drifts slowly in the plane.
    """
    noise = rng.standard_normal(grid.shape_zyx, dtype=np.float32)
    spectrum = fft.rfftn(noise)
    for axis, (size, voxel) in enumerate(zip(grid.shape_zyx, grid.voxel_size_um, strict=True)):
        frequency = fft.rfftfreq(size, voxel) if axis == 2 else fft.fftfreq(size, voxel)
        transfer = np.exp(-2 * (math.pi * scale_um * frequency) ** 2)
        phase = np.exp(-2j * math.pi * frequency * _DRIFT_UM_PER_S[axis] * time_s)
        spectrum *= np.expand_dims(transfer * phase, [a for a in range(3) if a != axis])
    field = fft.irfftn(spectrum, s=grid.shape_zyx).astype(np.float64)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-9))


def cell_mask(grid: Grid, rng: np.random.Generator, time_s: float) -> Field:
    """1 inside of some smooth cells and 0 outside, with soft edges."""
    field = random_field(grid, rng, rng.uniform(1.5, 5.0), time_s)
    return _sigmoid((field - rng.uniform(-0.8, 0.7)) / rng.uniform(0.02, 0.2))


def tissue(grid: Grid, rng: np.random.Generator, crowding: float, time_s: float) -> Field:
    """Dense texture at several scales."""
    base_um = math.exp(rng.uniform(math.log(0.08), math.log(0.5)))
    parts = [
        random_field(grid, rng, base_um * ratio, time_s) * rng.uniform(0.4, 1.2)
        for ratio in (1.0, 2.5, 6.0)
    ]
    sharpness = rng.uniform(0.3, 1.2)
    return np.asarray(np.exp(sharpness * np.sum(parts, axis=0)) * min(crowding, 3.0))


def reticulum(grid: Grid, rng: np.random.Generator, crowding: float, time_s: float) -> Field:
    """A labyrinth of sheets, or a network of tubules, as of the endoplasmic reticulum."""
    scale_um = rng.uniform(0.2, 0.9) / math.sqrt(max(crowding, 0.3))
    width = rng.uniform(0.15, 0.5)
    level = random_field(grid, rng, scale_um, time_s) ** 2
    if rng.uniform() < 0.5:
        level += random_field(grid, rng, scale_um, time_s) ** 2
    patches = random_field(grid, rng, 5 * scale_um, time_s)
    return np.asarray(np.exp(-level / width**2 + rng.uniform(0, 0.8) * patches))


def granules(grid: Grid, rng: np.random.Generator, crowding: float, time_s: float) -> Field:
    """Packed small bodies of similar size, from a few to half of the volume."""
    scale_um = rng.uniform(0.12, 0.5)
    threshold = rng.uniform(1.0, 2.4) - 0.4 * math.log(crowding)
    bodies = _sigmoid((random_field(grid, rng, scale_um, time_s) - threshold) / 0.15)
    brightness = random_field(grid, rng, 1.5 * scale_um, time_s)
    return np.asarray(bodies * np.exp(rng.uniform(0, 0.8) * brightness))


def compartments(grid: Grid, rng: np.random.Generator, crowding: float, time_s: float) -> Field:
    """Regions with sharp borders, each with its own brightness and grain, some of them empty."""
    fields = _regions(grid, rng, crowding, time_s)
    region = np.argmax(fields, axis=0)
    out = np.zeros(grid.shape_zyx)
    fine_um = math.exp(rng.uniform(math.log(0.06), math.log(0.5)))
    grain = random_field(grid, rng, fine_um, time_s) + rng.uniform(0, 1) * random_field(
        grid, rng, 3 * fine_um, time_s
    )
    for label in range(1, len(fields)):
        brightness, contrast = rng.lognormal(-0.3, 0.8), rng.uniform(0.05, 0.7)
        where = region == label
        out[where] = brightness * np.exp(contrast * grain[where])
    return out


def envelopes(grid: Grid, rng: np.random.Generator, crowding: float, time_s: float) -> Field:
    """Thin, patchy borders between regions, as of an epithelium or of nuclear envelopes."""
    fields = _regions(grid, rng, crowding, time_s)
    ordered = np.partition(fields, -2, axis=0)
    gap = (ordered[-1] - ordered[-2]) / rng.uniform(0.05, 0.2)
    speckle = random_field(grid, rng, rng.uniform(0.08, 0.4), time_s)
    return np.asarray(np.exp(-(gap**2) + rng.uniform(0.1, 1.0) * speckle))


def _regions(grid: Grid, rng: np.random.Generator, crowding: float, time_s: float) -> Field:
    """Smooth fields, one per kind of region: a voxel belongs to the highest."""
    scale_um = rng.uniform(0.8, 3.5) / math.sqrt(max(crowding, 0.3))
    count = int(rng.integers(3, 6))
    return np.stack([random_field(grid, rng, scale_um, time_s) for _ in range(count)])


def _sigmoid(x: Field) -> Field:
    return np.asarray(1 / (1 + np.exp(np.clip(-x, -50, 50))))
