"""Pairs from the physical simulation: noisy and noise-free volumes of simulated specimens."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from live_restore.restore.model import Normalisation
from live_restore.simulation import SPECIMEN_KINDS, Camera, Optics, Specimen
from live_restore.simulation.microscope import photon_rate
from live_restore.simulation.specimen import Grid
from live_restore.train.config import Patches, SimulatedPairs
from live_restore.train.pairs import HeldOut, Pair, Patch, cut_patch, fit_shape, normalise_pair

__all__ = ["SimulatedOrigin", "draw_camera", "expose_pair", "simulate_volume"]

VALIDATION_PHOTONS = (5.0, 10.0, 20.0)
"""Photons per voxel in the bright structures of held-out volumes, each volume at each dose."""

_LEAST_CONTRAST = 0.1  # of 1, the brightness of a volume's bright structures
_BRIGHTEST = 6.0
_GRAIN_PHOTONS = (8.0, 400.0)
_MIX = (1, 1, 1, 2, 2, 3)  # how many kinds of specimen share a volume


class SimulatedOrigin:
    """Draws pairs from simulated volumes; dose, camera and noise are new each time."""

    def __init__(self, settings: SimulatedPairs, normalisation: Normalisation, seed: int) -> None:
        self._settings = settings
        self._normalisation = normalisation
        self._seed = seed

    @property
    def voxel_size_um(self) -> None:
        """None: each volume has its own."""

    @cached_property
    def volumes(self) -> list[NDArray[np.float16]]:
        """Noise-free volumes with their bright structures near 1."""
        with ThreadPoolExecutor(os.cpu_count(), "simulating") as workers:
            simulate = partial(self._simulate, self._settings, 0)
            return list(workers.map(simulate, range(self._settings.num_volumes)))

    @cached_property
    def held_out(self) -> list[HeldOut]:
        """Each held-out specimen at each of `VALIDATION_PHOTONS`."""
        out = []
        for index, rate in enumerate(
            itertools.islice(self.lively(), self._settings.num_validation)
        ):
            rng = np.random.default_rng([self._seed, 2, index])
            for photons in VALIDATION_PHOTONS:
                camera = draw_camera(self._settings, rng)
                pair = expose_pair(
                    rate.astype(np.float32), photons, camera, self._normalisation, rng
                )
                out.append(HeldOut(f"{photons:g}_photons", str(index), pair))
        return out

    def lively(self) -> Iterator[NDArray[np.float16]]:
        """Endless held-out volumes that show something, without grain.

        A field of view with nothing in it (a few in a hundred) teaches what nothing looks like, but
        can't be scored; neither can grain, which no method can predict.
        """
        smooth = self._settings.model_copy(update={"grainy": 0.0})
        rates = (self._simulate(smooth, 1, index) for index in itertools.count())
        return (rate for rate in rates if np.ptp(rate) > _LEAST_CONTRAST)

    def draw(self, patches: Patches, rng: np.random.Generator) -> Patch:
        """A patch of a volume at a dose and with a camera drawn from the settings."""
        settings = self._settings
        rate = self.volumes[rng.integers(len(self.volumes))].astype(np.float32)
        photons = math.exp(rng.uniform(*np.log(settings.peak_photons)))
        camera = draw_camera(settings, rng)
        pair = expose_pair(rate, photons, camera, self._normalisation, rng)
        return cut_patch(pair, fit_shape(patches.shape_zyx, [rate]), patches, rng)

    def describe(self) -> str:
        """In words, for the model's card."""
        s = self._settings
        return (
            f"{s.num_volumes} simulated volumes of {s.shape_zyx} voxels: {', '.join(SPECIMEN_KINDS)}, "
            "alone and mixed, sparse and dense; widefield, confocal and light-sheet PSFs (NA "
            f"{s.numerical_aperture[0]:g} to {s.numerical_aperture[1]:g}); voxels "
            f"{s.voxel_z_um[0]:g} to {s.voxel_z_um[1]:g} um axially, {s.voxel_yx_um[0]:g} to "
            f"{s.voxel_yx_um[1]:g} um laterally; {s.peak_photons[0]:g} to {s.peak_photons[1]:g} "
            f"photons per voxel in bright structures; read noise {s.read_noise_electrons[0]:g} to "
            f"{s.read_noise_electrons[1]:g} electrons; {s.grainy:.0%} of them with the photon noise "
            "of a measured stack in the truth. No real specimen."
        )

    def _simulate(self, settings: SimulatedPairs, part: int, index: int) -> NDArray[np.float16]:
        rng = np.random.default_rng([self._seed, part, index])
        return simulate_volume(settings, rng).astype(np.float16)


def simulate_volume(settings: SimulatedPairs, rng: np.random.Generator) -> NDArray[np.float32]:
    """A noise-free volume, ``(Z, Y, X)`` float32, with its bright structures near 1."""
    aperture = rng.uniform(*settings.numerical_aperture)
    optics = Optics(
        numerical_aperture=aperture,
        refractive_index=1.33 if aperture < 1.25 else 1.518,
        wavelength_um=rng.uniform(*settings.wavelength_um),
        modality=("widefield", "confocal", "light_sheet")[rng.integers(3)],
        sheet_thickness_um=rng.uniform(1.0, 3.0),
    )
    lateral = math.exp(rng.uniform(*np.log(settings.voxel_yx_um)))
    axial = max(lateral, math.exp(rng.uniform(*np.log(settings.voxel_z_um))))
    grid = Grid(settings.shape_zyx, (axial, lateral, lateral))
    size = lateral / math.exp(rng.uniform(*np.log(settings.structure_voxel_um)))
    is_confined = bool(rng.uniform() < 0.4)
    kinds = rng.choice(SPECIMEN_KINDS, size=_MIX[rng.integers(len(_MIX))], replace=False)
    crowding = math.exp(rng.uniform(math.log(0.4), math.log(4.0)))
    seed = int(rng.integers(2**31))  # confined to the same cells
    grain = max(0.0, float(rng.uniform(-0.5, 0.6)))
    specimens = tuple(
        (Specimen(str(kind), seed, crowding, size, is_confined, grain), rng.uniform(0.3, 1.0))
        for kind in kinds
    )
    rate = photon_rate(specimens, optics, grid)
    rate /= max(1.0, float(rate.max()) / _BRIGHTEST)  # a few spots in an empty field
    # Light is lost with depth; what is out of focus comes back as an even or a rolling haze.
    depth = np.linspace(0, rng.uniform(0, 1.0) ** 2 * rng.choice([-1, 1]), grid.shape_zyx[0])
    rate *= np.exp(depth - depth.max()).astype(np.float32)[:, None, None]
    if rng.uniform() < 2 / 3:
        even, rolling = rng.uniform(0, 1, 2) ** 2 * settings.haze
        out_of_focus = ndimage.gaussian_filter(rate, np.array([4.0, 12.0, 12.0]))
        rate += (
            np.float32(even) + np.float32(rolling / max(out_of_focus.max(), 1e-9)) * out_of_focus
        )
    if settings.grainy and rng.uniform() < settings.grainy:
        photons = math.exp(rng.uniform(*np.log(_GRAIN_PHOTONS)))
        rate = rng.poisson(rate * photons).astype(np.float32) / np.float32(photons)
    return rate


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
        With the target "input", the network learns to return intensities in the units that it was
        given (decision 2).
    rng : numpy.random.Generator
        Source of the noise.
    """
    photons = rate * np.float32(peak_photons)
    raw = camera.expose(photons, rng)
    signal = camera.quantum_efficiency * peak_photons
    return normalise_pair(raw, camera.expected_counts(photons), normalisation, signal)
