"""Matched low-dose and noise-free volumes from the physical simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from live_restore.restore.intensity import measure_range
from live_restore.restore.model import Normalisation
from live_restore.simulation import SPECIMEN_KINDS, Camera, Optics, Specimen
from live_restore.simulation.microscope import photon_rate
from live_restore.simulation.specimen import Grid
from live_restore.train.config import SimulatedPairs

__all__ = ["Pair", "draw_camera", "expose_pair", "simulate_volume"]

_MIX = (1, 1, 1, 2, 2, 3)  # how many kinds of specimen share a volume


@dataclass(frozen=True, slots=True)
class Pair:
    """A noisy volume and its noise-free truth, both normalised by the noisy one's percentiles."""

    noisy: NDArray[np.float32]
    truth: NDArray[np.float32]


def simulate_volume(settings: SimulatedPairs, rng: np.random.Generator) -> NDArray[np.float32]:
    """A noise-free volume, ``(Z, Y, X)`` float32, with its bright structures near 1."""
    aperture = rng.uniform(*settings.numerical_aperture)
    index = 1.33 if aperture < 1.25 else 1.518
    optics = Optics(
        numerical_aperture=aperture,
        refractive_index=index,
        wavelength_um=rng.uniform(*settings.wavelength_um),
        modality=("widefield", "confocal", "light_sheet")[rng.integers(3)],
        sheet_thickness_um=rng.uniform(1.0, 3.0),
    )
    lateral = math.exp(rng.uniform(*np.log(settings.voxel_yx_um)))
    axial = max(lateral, math.exp(rng.uniform(*np.log(settings.voxel_z_um))))
    grid = Grid(settings.shape_zyx, (axial, lateral, lateral))
    kinds = rng.choice(SPECIMEN_KINDS, size=_MIX[rng.integers(len(_MIX))], replace=False)
    crowding = math.exp(rng.uniform(math.log(0.4), math.log(4.0)))
    specimens = tuple(
        (Specimen(str(kind), int(rng.integers(2**31)), crowding), rng.uniform(0.3, 1.0))
        for kind in kinds
    )
    haze = rng.uniform(*settings.haze) ** 2 / max(settings.haze[1], 1e-9)
    return photon_rate(specimens, optics, grid, haze=haze)


def draw_camera(settings: SimulatedPairs, rng: np.random.Generator) -> Camera:
    """A camera from the ranges of `settings`."""
    return Camera(
        quantum_efficiency=rng.uniform(*settings.quantum_efficiency),
        gain_counts_per_electron=math.exp(rng.uniform(*np.log(settings.gain_counts_per_electron))),
        read_noise_electrons=rng.uniform(*settings.read_noise_electrons),
    )


def expose_pair(
    rate: NDArray[np.float32],
    peak_photons: float,
    camera: Camera,
    normalisation: Normalisation,
    rng: np.random.Generator,
) -> Pair:
    """Photograph a noise-free volume at a given dose.

    Parameters
    ----------
    rate : ndarray of float32, (Z, Y, X)
        From `simulate_volume`.
    peak_photons : float
        Photons per voxel where `rate` is 1.
    camera : Camera
        Adds its noise.
    normalisation : Normalisation
        Applied to both with the noisy volume's percentiles: the network learns to return
        intensities in the units that it was given.
    rng : numpy.random.Generator
        Source of the noise.
    """
    photons = rate * np.float32(peak_photons)
    noisy = camera.expose(photons, rng)
    span = measure_range(
        noisy, normalisation.low_percent, normalisation.high_percent, normalisation.epsilon
    )
    return Pair(span.normalise(noisy), span.normalise(camera.expected_counts(photons)))
