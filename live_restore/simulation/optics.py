"""The point spread function and the image that it makes of a specimen.

Scalar diffraction from the pupil (Gibson & Lanni 1991 without aberrations; Goodman, *Introduction
to Fourier Optics*, chapter 6): each plane of the PSF is the squared modulus of the Fourier
transform of a pupil that carries the defocus phase ``2 pi z sqrt((n / wavelength)^2 - k^2)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

__all__ = ["Modality", "Optics"]

Modality = Literal["widefield", "confocal", "light_sheet"]


@dataclass(frozen=True, slots=True)
class Optics:
    """An objective and a way of illuminating.

    Parameters
    ----------
    numerical_aperture : float
        Of the detection objective.
    refractive_index : float
        Of the immersion; above `numerical_aperture`.
    wavelength_um : float
        Emission wavelength in vacuum.
    modality : {"widefield", "confocal", "light_sheet"}
        Confocal multiplies detection with an excitation PSF at 0.92 of the emission wavelength
        (a small pinhole); light sheet with a Gaussian sheet.
    sheet_thickness_um : float
        Full width at half maximum of the light sheet.
    """

    numerical_aperture: float = 1.2
    refractive_index: float = 1.33
    wavelength_um: float = 0.52
    modality: Modality = "confocal"
    sheet_thickness_um: float = 1.5

    def psf(
        self, shape_zyx: tuple[int, int, int], voxel_size_um: tuple[float, float, float]
    ) -> NDArray[np.float32]:
        """The point spread function, centred, summing to 1.

        Parameters
        ----------
        shape_zyx : tuple of int
            Odd sizes, so that there is a centre voxel.
        voxel_size_um : tuple of float
            ``(z, y, x)``; y and x must be equal.

        Returns
        -------
        ndarray of float32, (Z, Y, X)
        """
        psf = self._detection(shape_zyx, voxel_size_um, self.wavelength_um)
        if self.modality == "confocal":
            psf = psf * self._detection(shape_zyx, voxel_size_um, 0.92 * self.wavelength_um)
        elif self.modality == "light_sheet":
            z_um = (np.arange(shape_zyx[0]) - shape_zyx[0] // 2) * voxel_size_um[0]
            sigma = self.sheet_thickness_um / (2 * math.sqrt(2 * math.log(2)))
            psf = psf * np.exp(-0.5 * (z_um / sigma) ** 2)[:, None, None]
        return np.asarray(psf / psf.sum(), dtype=np.float32)

    def _detection(
        self,
        shape_zyx: tuple[int, int, int],
        voxel_size_um: tuple[float, float, float],
        wavelength_um: float,
    ) -> NDArray[np.float64]:
        nz, ny, nx = shape_zyx
        dz, dy, _ = voxel_size_um
        # The intensity's band limit is 2 NA / wavelength: sample finer than its Nyquist step,
        # then bin to the camera's voxels.
        fine = max(1, math.ceil(4 * self.numerical_aperture * dy / wavelength_um))
        fine += 1 - fine % 2  # odd, so that the centre stays a centre
        n = max(ny, nx) * fine
        k = fft.fftfreq(n, d=dy / fine)
        k2 = k[:, None] ** 2 + k[None, :] ** 2
        inside = k2 <= (self.numerical_aperture / wavelength_um) ** 2
        kz = np.sqrt(np.where(inside, (self.refractive_index / wavelength_um) ** 2 - k2, 0.0))
        apodisation = inside * np.sqrt(kz * wavelength_um / self.refractive_index)
        z_um = (np.arange(nz) - nz // 2) * dz
        planes = []
        for z in z_um:
            field = fft.fftshift(fft.ifft2(apodisation * np.exp(2j * np.pi * z * kz)))
            intensity = np.abs(field) ** 2
            # fftshift puts the origin at n // 2; with n odd or even, roll it to the centre voxel.
            shift = (n - 1) // 2 - n // 2
            intensity = np.roll(intensity, (shift, shift), axis=(0, 1))
            size = max(ny, nx)
            binned = intensity.reshape(size, fine, size, fine).sum(axis=(1, 3))
            y0, x0 = (size - ny) // 2, (size - nx) // 2
            planes.append(binned[y0 : y0 + ny, x0 : x0 + nx])
        return np.stack(planes)

    def image(self, density: NDArray[np.float32], psf: NDArray[np.float32]) -> NDArray[np.float32]:
        """The blurred image of a specimen.

        Parameters
        ----------
        density : ndarray of float32, (Z + pz - 1, Y + py - 1, X + px - 1)
            Fluorophore density, wider than the image by the PSF, so that out-of-field light counts.
        psf : ndarray of float32, (pz, py, px)
            From `psf`.

        Returns
        -------
        ndarray of float32, (Z, Y, X)
            Not negative.
        """
        blurred = signal.fftconvolve(density, psf, mode="valid")
        return np.maximum(blurred, 0).astype(np.float32)
