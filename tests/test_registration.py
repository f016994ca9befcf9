import numpy as np
import pytest
from scipy import fft, ndimage

from live_restore.registration import measure_shift
from live_restore.simulation import Camera, Optics, Specimen
from live_restore.simulation.microscope import photon_rate
from live_restore.simulation.specimen import Grid

CAMERA = Camera()


def shifted_pair(kind, shift, low_photons, high_photons=100.0):
    """Crops of a simulated specimen and of the same, moved by a Fourier shift, each with noise."""
    specimens = ((Specimen(kind, 1), 1.0),)
    rate = photon_rate(specimens, Optics(), Grid((28, 112, 112), (0.3, 0.13, 0.13)), haze=0.05)
    moved = fft.ifftn(ndimage.fourier_shift(fft.fftn(rate), shift)).real.clip(0)
    inner = (slice(4, -4), slice(8, -8), slice(8, -8))
    rng = np.random.default_rng(0)
    return (
        CAMERA.expose(rate[inner] * low_photons, rng),
        CAMERA.expose(moved[inner] * high_photons, rng),
    )


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, -3, 2), (0, 0.5, -0.5), (0.5, -4.5, 6.25)])
@pytest.mark.parametrize(
    ("kind", "photons", "tolerance"),
    [
        # A tenth of a voxel where there is detail; at 3 photons noise alone moves the peak so far.
        ("filaments", 10.0, 0.1),
        ("filaments", 3.0, 0.15),
        ("tissue", 5.0, 0.1),
    ],
)
def test_a_shift_is_measured_at_low_dose(kind, photons, tolerance, shift):
    measured = measure_shift(*shifted_pair(kind, shift, photons))
    np.testing.assert_allclose(measured, shift, atol=tolerance)


def test_hot_pixels_do_not_hide_a_shift():
    low, high = shifted_pair("filaments", (0, -3, 2), 10.0)
    hot = np.random.default_rng(1).random(low.shape[1:]) > 0.9997
    low[:, hot] += 3000
    high[:, hot] += 3000
    np.testing.assert_allclose(measure_shift(low, high), (0, -3, 2), atol=0.15)


def test_noise_alone_has_no_shift():
    rng = np.random.default_rng(0)
    assert np.isnan(measure_shift(rng.poisson(5, (16, 64, 64)), rng.poisson(5, (16, 64, 64)))).all()
    assert np.isnan(measure_shift(np.zeros((4, 16, 16)), np.zeros((4, 16, 16)))).all()


@pytest.mark.parametrize("shape", [(2, 9, 8), (3, 5, 5), (2, 64, 64)])
def test_small_volumes_are_measured_too(shape):
    volume = np.random.default_rng(0).random(shape)
    shift = measure_shift(volume, np.roll(volume, 1, axis=0))
    assert len(shift) == 3


def test_of_a_large_volume_a_part_is_measured(monkeypatch):
    monkeypatch.setattr("live_restore.registration._LARGEST_MEASURED_ZYX", (16, 48, 48))
    shift = (0.0, 1.0, -2.0)
    measured = measure_shift(*shifted_pair("filaments", shift, 10.0))
    np.testing.assert_allclose(measured, shift, atol=0.25)  # a fifth of the voxels
