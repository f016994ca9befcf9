"""A simulated low-dose microscope whose ground truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from live_restore.simulation.camera import Camera
from live_restore.simulation.optics import Optics
from live_restore.simulation.specimen import Grid, Specimen

__all__ = ["SimulatedMicroscope", "photon_rate"]

_PSF_HALF_WIDTH_UM = (2.4, 1.6)  # axial, lateral: beyond it lies less than 2 % of the light


def photon_rate(
    specimens: tuple[tuple[Specimen, float], ...],
    optics: Optics,
    grid: Grid,
    time_s: float = 0.0,
    haze: float = 0.0,
) -> NDArray[np.float32]:
    """The blurred, noise-free image of a mixture of specimens.

    Parameters
    ----------
    specimens : tuple of (Specimen, float)
        Each structure and its relative brightness.
    optics : Optics
        Blurs them.
    grid : Grid
        The image's voxels; light from around the field is included.
    time_s : float
        When.
    haze : float
        Even background as a fraction of the brightest structure.

    Returns
    -------
    ndarray of float32, (Z, Y, X)
        Its 99.9th percentile is 1 + `haze`.
    """
    half = [
        max(2, round(extent / voxel))
        for extent, voxel in zip(
            (_PSF_HALF_WIDTH_UM[0], _PSF_HALF_WIDTH_UM[1], _PSF_HALF_WIDTH_UM[1]),
            grid.voxel_size_um,
            strict=True,
        )
    ]
    psf_shape = (2 * half[0] + 1, 2 * half[1] + 1, 2 * half[2] + 1)
    nz, ny, nx = grid.shape_zyx
    wide = Grid((nz + 2 * half[0], ny + 2 * half[1], nx + 2 * half[2]), grid.voxel_size_um)
    density = np.zeros(wide.shape_zyx, dtype=np.float32)
    for specimen, brightness in specimens:
        one = specimen.density(wide, time_s)
        lit = one[one > 0.01 * one.max()]
        if lit.size:
            density += np.float32(brightness / float(np.percentile(lit, 80))) * one
    image = optics.image(density, optics.psf(psf_shape, grid.voxel_size_um))
    peak = max(float(np.percentile(image, 99.9)), 1e-9)
    return np.asarray(image / np.float32(peak) + np.float32(haze), dtype=np.float32)


@dataclass(frozen=True)
class SimulatedMicroscope:
    """Z-stacks of moving specimens at a chosen light dose.

    The same seed gives the same specimen, motion and noise, in any process: a viewer can compute
    the truth of what a daemon acquired.

    Parameters
    ----------
    shape_zyx : tuple of int
        Planes, rows, columns.
    voxel_size_um : tuple of float
        ``(z, y, x)``.
    channels : tuple of str
        Names; their specimens follow from `seed`.
    peak_photons : float
        Photons per voxel at the 99.9th percentile of the noise-free image.
    interval_s : float
        Specimen time between two time points.
    seed : int
        Which specimen and which noise.
    """

    shape_zyx: tuple[int, int, int] = (24, 144, 144)
    voxel_size_um: tuple[float, float, float] = (0.3, 0.13, 0.13)
    channels: tuple[str, ...] = ("microtubules", "nuclei")
    peak_photons: float = 12.0
    interval_s: float = 2.0
    seed: int = 7
    camera: Camera = field(default_factory=Camera)
    haze: float = 0.04

    def truth(self, time: int, channel: str, dose: float = 1.0) -> NDArray[np.float32]:
        """Noise-free counts of one volume, ``(Z, Y, X)`` float32, in camera counts.

        Parameters
        ----------
        time : int
            Time point.
        channel : str
            One of `channels`.
        dose : float
            Times the light of `peak_photons`.

        Raises
        ------
        ValueError
            `channel` is none of `channels`.
        """
        return self.camera.expected_counts(self._photons(time, channel) * np.float32(dose))

    def stack(self, time: int, channel: str, dose: float = 1.0) -> NDArray[np.uint16]:
        """One noisy volume, ``(Z, Y, X)`` uint16, in camera counts; parameters as of `truth`."""
        rng = np.random.default_rng([self.seed, time, self.channels.index(channel)])
        return self.camera.expose(self._photons(time, channel) * np.float32(dose), rng)

    def _photons(self, time: int, channel: str) -> NDArray[np.float32]:
        index = self.channels.index(channel)
        seed = 1000 * self.seed + index
        mixtures = (
            ((Specimen("filaments", seed, 1.6), 1.0), (Specimen("vesicles", seed, 0.3), 0.5)),
            ((Specimen("nuclei", seed, 1.5), 1.0), (Specimen("membranes", seed, 0.8), 0.5)),
        )
        optics = Optics(wavelength_um=0.52 + 0.08 * (index % 2))
        rate = photon_rate(
            mixtures[index % len(mixtures)],
            optics,
            Grid(self.shape_zyx, self.voxel_size_um),
            time * self.interval_s,
            self.haze,
        )
        return rate * np.float32(self.peak_photons)
