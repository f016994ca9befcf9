"""Specimens made of single objects: clouds of fluorophores in micrometres, laid onto a grid.

Each function takes a grid, a random generator, how crowded it is and the time in seconds, and gives
fluorophores per voxel, ``(Z, Y, X)`` float64, not negative.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from live_restore.simulation.grid import Grid

__all__ = ["filaments", "membranes", "nuclei", "vesicles"]

Points = NDArray[np.float64]


def _splat(points: Points, weights: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Deposit weighted points (n, 3) in µm onto the eight voxels around each."""
    shape = np.asarray(grid.shape_zyx)
    position = points / np.asarray(grid.voxel_size_um) - 0.5
    low = np.floor(position).astype(np.int64)
    fraction = position - low
    out = np.zeros(int(np.prod(shape)))
    for corner in np.ndindex(2, 2, 2):
        voxel = low + corner
        share = np.prod(np.where(corner, fraction, 1 - fraction), axis=1) * weights
        inside = np.all((voxel >= 0) & (voxel < shape), axis=1)
        flat = np.ravel_multi_index(tuple(voxel[inside].T), grid.shape_zyx)
        out += np.bincount(flat, weights=share[inside], minlength=out.size)
    return out.reshape(grid.shape_zyx)


def _count(grid: Grid, per_area: float, crowding: float, rng: np.random.Generator) -> int:
    """How many objects of a kind lie in the grid, given a number per 100 µm² of the plane."""
    area = grid.size_um[1] * grid.size_um[2] / 100.0
    return max(1, int(rng.poisson(max(per_area * crowding * area, 1.0))))


def filaments(
    grid: Grid, rng: np.random.Generator, crowding: float, time_s: float
) -> NDArray[np.float64]:
    """Microtubules: long, gently bent, swaying."""
    n = _count(grid, 12.0, crowding, rng)
    step_um = 0.5 * min(grid.voxel_size_um)
    length_um = rng.uniform(8.0, 30.0)
    steps = int(length_um / step_um)
    persistence_um = rng.uniform(4.0, 20.0)
    azimuth = rng.uniform(0, 2 * math.pi, (n, 1)) + np.cumsum(
        rng.normal(0, math.sqrt(2 * step_um / persistence_um), (n, steps)), axis=1
    )
    tilt = rng.normal(0, 0.25, (n, 1)) + ndimage.gaussian_filter1d(
        rng.normal(0, 1.5, (n, steps)), 2.0 / step_um, axis=1
    )
    directions = np.stack(
        [np.sin(tilt), np.cos(tilt) * np.sin(azimuth), np.cos(tilt) * np.cos(azimuth)], axis=-1
    )
    margin = np.array([0.0, 0.3, 0.3]) * length_um
    start = rng.uniform(-margin, grid.size_um + margin, (n, 3))
    points = start[:, None, :] + np.cumsum(directions * step_um, axis=1)
    # Bending waves travel along each filament; the normal lies in the plane.
    arc = np.arange(steps) * step_um
    phase = rng.uniform(0, 2 * math.pi, (n, 1))
    speed = rng.uniform(0.05, 0.2, (n, 1))
    sway = 0.25 * np.sin(2 * math.pi * (arc / 6.0 - speed * time_s) + phase)
    points[..., 1] += sway * np.cos(azimuth)
    points[..., 2] -= sway * np.sin(azimuth)
    brightness = rng.lognormal(0, 0.35, (n, 1)) * np.ones((1, steps))
    return _splat(points.reshape(-1, 3), brightness.ravel(), grid)


def membranes(
    grid: Grid, rng: np.random.Generator, crowding: float, time_s: float
) -> NDArray[np.float64]:
    """Bumpy shells of cells and organelles."""
    n = _count(grid, 1.2, crowding, rng)
    out = np.zeros(grid.shape_zyx)
    spacing_um = 0.6 * min(grid.voxel_size_um)
    for _ in range(n):
        radius = rng.uniform(1.5, 6.0)
        centre = rng.uniform(-0.1, 1.1, 3) * grid.size_um
        axes = rng.uniform(0.6, 1.2, 3) * np.array([0.7, 1.0, 1.0])
        count = min(int(4 * math.pi * (radius / spacing_um) ** 2), 150_000)
        i = np.arange(count) + 0.5
        polar = 1 - 2 * i / count
        azimuth = math.pi * (1 + math.sqrt(5)) * i
        ring = np.sqrt(1 - polar**2)
        unit = np.stack([polar, ring * np.sin(azimuth), ring * np.cos(azimuth)], axis=1)
        waves = rng.normal(0, 2.5, (5, 3))
        phases = rng.uniform(0, 2 * math.pi, 5)
        bumps = 0.06 * np.cos(unit @ waves.T + phases + 0.3 * time_s).sum(axis=1)
        points = centre + radius * unit * axes * (1 + bumps)[:, None]
        points += rng.normal(0, 0.5 * spacing_um, points.shape)  # else the spiral shows as moiré
        patchy = 1 + 0.4 * np.cos(unit @ rng.normal(0, 4, 3) + rng.uniform(0, 6))
        brightness = rng.lognormal(0, 0.4) * patchy * spacing_um**2
        out += _splat(points, brightness, grid)
    return out


def vesicles(
    grid: Grid, rng: np.random.Generator, crowding: float, time_s: float
) -> NDArray[np.float64]:
    """Small full or hollow spheres, in clusters and alone, drifting."""
    n = _count(grid, 40.0, crowding, rng)
    cluster = rng.uniform(0, 1, (max(1, n // 25), 3)) * grid.size_um
    spread = rng.uniform(0.8, 5.0)
    centres = cluster[rng.integers(0, len(cluster), n)] + rng.normal(0, spread, (n, 3)) * np.array(
        [0.5, 1.0, 1.0]
    )
    scattered = rng.uniform(0, 1, n) < 0.4
    centres[scattered] = rng.uniform(0, 1, (int(scattered.sum()), 3)) * grid.size_um
    velocity = rng.normal(0, 0.08, (n, 3)) * np.array([0.3, 1.0, 1.0])
    centres += velocity * time_s + 0.1 * np.sin(rng.uniform(0.2, 1.0, (n, 3)) * time_s)
    centres[:, 1:] = np.mod(centres[:, 1:], grid.size_um[1:])
    radius = rng.uniform(0.05, 0.45, n)
    samples = 48
    offset = rng.normal(0, 1, (n, samples, 3))
    offset /= np.linalg.norm(offset, axis=2, keepdims=True)
    is_hollow = rng.uniform() < 0.3
    depth = np.ones((n, samples, 1)) if is_hollow else rng.uniform(0, 1, (n, samples, 1)) ** (1 / 3)
    points = centres[:, None, :] + offset * depth * radius[:, None, None]
    brightness = rng.lognormal(0, 0.6, (n, 1)) * radius[:, None] ** 1.5 * np.ones((1, samples))
    return _splat(points.reshape(-1, 3), brightness.ravel(), grid)


def nuclei(
    grid: Grid, rng: np.random.Generator, crowding: float, time_s: float
) -> NDArray[np.float64]:
    """Ellipsoids with a texture of chromatin."""
    n = _count(grid, 1.0, crowding, rng)
    out = np.zeros(grid.shape_zyx)
    axes_um = [
        (np.arange(s) + 0.5) * v for s, v in zip(grid.shape_zyx, grid.voxel_size_um, strict=True)
    ]
    for _ in range(n):
        radii = rng.uniform(2.0, 5.0) * rng.uniform(0.7, 1.2, 3) * np.array([0.7, 1.0, 1.0])
        centre = rng.uniform(-0.05, 1.05, 3) * grid.size_um
        centre[1:] += rng.normal(0, 0.02, 2) * time_s
        angle = rng.uniform(0, math.pi) + 0.01 * time_s
        waves = rng.normal(0, 1, (24, 3)) * rng.uniform(1.5, 9.0, (24, 1))
        phases = rng.uniform(0, 2 * math.pi, 24)
        contrast, brightness = rng.uniform(0.2, 0.9), rng.lognormal(0, 0.3)
        reach = float(radii.max()) * 1.2
        window = tuple(
            slice(*np.searchsorted(a, [c - reach, c + reach]))
            for a, c in zip(axes_um, centre, strict=True)
        )
        z, y, x = np.meshgrid(
            *(a[w] - c for a, w, c in zip(axes_um, window, centre, strict=True)), indexing="ij"
        )
        if z.size == 0:
            continue
        along = math.cos(angle) * y + math.sin(angle) * x
        across = math.cos(angle) * x - math.sin(angle) * y
        distance = np.sqrt((z / radii[0]) ** 2 + (along / radii[1]) ** 2 + (across / radii[2]) ** 2)
        soft = 1 / (1 + np.exp(np.clip((distance - 1) * radii.min() / 0.1, -50, 50)))
        relative = np.stack([z, along, across], axis=-1)
        texture = np.zeros(z.shape)
        for wave, phase in zip(waves, phases, strict=True):
            texture += np.cos(relative @ wave + phase)
        out[window] += brightness * soft * np.exp(contrast * texture / math.sqrt(12))
    return out
