import subprocess
import sys

import numpy as np
import pytest

from live_restore.simulation import SPECIMEN_KINDS, Camera, Optics, SimulatedMicroscope, Specimen
from live_restore.simulation.specimen import Grid

GRID = Grid((12, 48, 40), (0.3, 0.15, 0.15))


def width_at_half(profile, step):
    """Full width at half maximum of a peaked profile, by linear interpolation."""
    half = profile.max() / 2
    above = np.flatnonzero(profile >= half)
    left, right = above[0], above[-1]
    before = (profile[left] - half) / (profile[left] - profile[left - 1])
    after = (profile[right] - half) / (profile[right] - profile[right + 1])
    return (right - left + before + after) * step


@pytest.mark.parametrize("aperture", [0.8, 1.2])
def test_the_widefield_psf_is_as_wide_as_theory_says(aperture):
    optics = Optics(aperture, 1.33, 0.52, "widefield")
    psf = optics.psf((41, 65, 65), (0.1, 0.03, 0.03))
    assert psf.sum() == pytest.approx(1, abs=1e-5)
    assert np.unravel_index(psf.argmax(), psf.shape) == (20, 32, 32)
    np.testing.assert_allclose(psf, psf[:, ::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(psf, psf[::-1], atol=1e-6)
    # Airy disk: 0.51 wavelength / NA (paraxial; a few percent off at high NA).
    assert width_at_half(psf[20, 32], 0.03) == pytest.approx(0.51 * 0.52 / aperture, rel=0.1)


def test_the_confocal_psf_is_narrower_than_the_widefield_one():
    widths = {}
    for modality in ("widefield", "confocal", "light_sheet"):
        psf = Optics(modality=modality).psf((41, 65, 65), (0.1, 0.03, 0.03))
        widths[modality] = width_at_half(psf[:, 32, 32], 0.1)
    assert widths["confocal"] < 0.8 * widths["widefield"]
    assert widths["light_sheet"] < widths["widefield"]


def test_coarse_voxels_collect_the_light_of_fine_ones():
    optics = Optics(modality="widefield")
    coarse = optics.psf((1, 21, 21), (0.3, 0.3, 0.3))
    fine = optics.psf((1, 63, 63), (0.3, 0.1, 0.1))
    binned = fine.reshape(1, 21, 3, 21, 3).sum(axis=(2, 4))
    np.testing.assert_allclose(coarse, binned, atol=0.01)  # the field's edge is cut elsewhere


def test_a_point_images_to_the_psf():
    optics = Optics()
    psf = optics.psf((5, 7, 7), (0.3, 0.1, 0.1))
    density = np.zeros((9, 13, 13), "f4")
    density[4, 6, 6] = 2
    np.testing.assert_allclose(optics.image(density, psf), 2 * psf, atol=1e-6)


def test_camera_noise_follows_the_photon_transfer_curve():
    camera = Camera(0.8, 2.0, 100, 1.5)
    rng = np.random.default_rng(0)
    for photons in (0.0, 5.0, 100.0):
        counts = camera.expose(np.full((400, 400), photons, "f4"), rng).astype(float)
        assert counts.mean() == pytest.approx(100 + 2.0 * 0.8 * photons, abs=0.1)
        # shot and read noise, and 1/12 from rounding; 160,000 samples are good to 0.4 % (1 sigma)
        variance = 2.0**2 * (0.8 * photons + 1.5**2) + 1 / 12
        assert counts.var() == pytest.approx(variance, rel=0.02)
    assert camera.expected_counts(np.float32(5)) == pytest.approx(108)


def test_a_camera_saturates():
    counts = Camera(bit_depth=12).expose(np.full(10, 1e5, "f4"), np.random.default_rng(0))
    assert (counts == 4095).all()


@pytest.mark.parametrize("kind", SPECIMEN_KINDS)
def test_a_specimen_is_there_and_moves(kind):
    first = Specimen(kind, 5).density(GRID)
    assert first.shape == GRID.shape_zyx
    assert np.isfinite(first).all()
    assert first.min() >= 0
    assert first.max() > 0
    np.testing.assert_array_equal(first, Specimen(kind, 5).density(GRID))
    assert (first != Specimen(kind, 5).density(GRID, time_s=10.0)).any()
    assert (first != Specimen(kind, 6).density(GRID)).any()


def test_an_unknown_specimen_is_refused():
    with pytest.raises(KeyError):
        Specimen("unicorn", 1).density(GRID)


def test_a_dose_is_what_it_says():
    microscope = SimulatedMicroscope((12, 64, 64), peak_photons=20, haze=0)
    truth = microscope.truth(0, "nuclei")
    camera = microscope.camera
    peak = (np.percentile(truth, 99.9) - camera.offset_counts) / (
        camera.gain_counts_per_electron * camera.quantum_efficiency
    )
    assert peak == pytest.approx(20, rel=0.01)


def test_another_process_sees_the_same_specimen():
    code = (
        "from live_restore.simulation import SimulatedMicroscope as M; import zlib;"
        "m = M((6, 32, 32)); print(zlib.crc32(m.stack(3, 'nuclei')), zlib.crc32(m.truth(3, 'nuclei')))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1


def test_channels_times_and_seeds_differ():
    microscope = SimulatedMicroscope((4, 24, 24))
    stacks = [microscope.stack(t, c).tobytes() for t in range(2) for c in microscope.channels]
    stacks.append(SimulatedMicroscope((4, 24, 24), seed=8).stack(0, "nuclei").tobytes())
    assert len(set(stacks)) == 5
