import logging

import numpy as np
import pytest
import tifffile

from live_restore.errors import ProfileError, SourceError
from live_restore.restore.model import Normalisation
from live_restore.simulation import Camera, SimulatedMicroscope
from live_restore.thinning import blur, thin
from live_restore.train.config import FolderPairs, Patches, SimulatedPairs, ThinnedPairs, Validation
from live_restore.train.measured import FolderOrigin, ThinnedOrigin
from live_restore.train.pairs import cut_patch, normalise_pair
from live_restore.train.simulated import SimulatedOrigin, expose_pair, simulate_volume
from live_restore.train.statistics import log_spectrum, spectral_centroid

CAMERA = {"gain_counts_per_electron": 2.0, "offset_counts": 100, "read_noise_electrons": 1.5}


def write(path, volume, spacing=0.3):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(
        path, volume, imagej=True, metadata={"axes": "ZYX", "spacing": spacing, "unit": "um"}
    )


def folder_origin(root, **validation):
    return FolderOrigin(
        FolderPairs(low=root / "low", high=root / "high"),
        Normalisation(),
        Validation(**validation),
        seed=1,
    )


@pytest.fixture
def pairs(tmp_path):
    """Two fields of view at two times each; the high half has three times the counts and another offset."""
    settings = SimulatedPairs(shape_zyx=(8, 40, 40), num_volumes=1, num_validation=4)
    rates = iter(SimulatedOrigin(settings, Normalisation(), 1).lively())
    rng = np.random.default_rng(0)
    for field in "ab":
        for time in range(2):
            rate = next(rates)
            low = Camera().expose(rate * 20, rng)
            high = (3 * Camera().expected_counts(rate * 20) + 50).astype("u2")
            write(tmp_path / "low" / f"{field}_t{time}.tif", low)
            write(tmp_path / "high" / f"{field}_t{time}.tif", high)
    return tmp_path


def test_time_points_of_a_field_are_on_one_side(pairs):
    origin = folder_origin(pairs)
    assert len(origin.held_out) == 2
    assert len({one.field_of_view for one in origin.held_out}) == 1
    assert folder_origin(pairs, fields=("b",)).held_out[0].field_of_view == "b"


def test_the_truth_is_brought_to_the_counts_of_the_raw_half(pairs):
    for one in folder_origin(pairs).held_out:
        assert one.pair.truth.mean() == pytest.approx(one.pair.raw.mean(), rel=0.01)
        slope = np.cov(one.pair.raw.ravel(), one.pair.truth.ravel())[0, 1] / one.pair.truth.var()
        assert slope == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("validation", "error", "expected"),
    [
        pytest.param({"fields": ("c",)}, ProfileError, "no field of view is called c", id="unknown"),
        pytest.param({"fields": ("a", "b")}, ProfileError, "all fields", id="all"),
        pytest.param({"field_of_view": "()"}, SourceError, "one field of view", id="single"),
    ],
)  # fmt: skip
def test_a_split_that_cannot_be_is_refused(validation, error, expected, pairs):
    with pytest.raises(error, match=expected):
        folder_origin(pairs, **validation)


def test_a_file_without_partner_is_named(pairs):
    (pairs / "high" / "b_t1.tif").unlink()
    with pytest.raises(SourceError, match="b_t1"):
        folder_origin(pairs)


def test_a_shifted_pair_is_warned_of(tmp_path, caplog):
    for seed, shift in (("1", 0), ("2", 2)):
        microscope = SimulatedMicroscope((12, 80, 80), seed=int(seed))
        truth = np.roll(microscope.truth(0, "microtubules"), shift, axis=2)
        write(tmp_path / "low" / f"cell_{seed}.tif", microscope.stack(0, "microtubules"))
        write(tmp_path / "high" / f"cell_{seed}.tif", truth)
    with caplog.at_level(logging.WARNING):
        folder_origin(tmp_path)
    (warning,) = caplog.records
    assert "cell_2" in warning.message
    assert "+2.0) voxels" in warning.message


def test_voxel_sizes_that_differ_are_told(pairs, caplog):
    for half in ("low", "high"):
        path = pairs / half / "a_t0.tif"
        write(path, tifffile.imread(path), spacing=0.6)
    origin = folder_origin(pairs)
    assert origin.voxel_size_um is None
    assert "voxel sizes" in caplog.text


def test_patches_show_the_foreground_and_are_the_same_for_one_seed(pairs):
    origin = folder_origin(pairs)
    patches = Patches(shape_zyx=(16, 16, 16), min_foreground=0.3)
    first = origin.draw(patches, np.random.default_rng(5))
    again = origin.draw(patches, np.random.default_rng(5))
    assert first.raw.shape == first.truth.shape == (8, 16, 16)  # no deeper than the volumes
    np.testing.assert_array_equal(first.raw, again.raw)
    assert first.raw.flags.c_contiguous


def test_the_patch_rule_finds_the_only_bright_corner():
    truth = np.zeros((4, 64, 64), "f4")
    truth[:, 48:, 48:] = 100
    pair = normalise_pair(truth, truth, Normalisation())
    shares = [
        cut_patch(
            pair,
            (4, 16, 16),
            Patches(min_foreground=0.5, tries=tries),
            np.random.default_rng(seed),
        ).truth.mean()
        for tries in (1, 200)
        for seed in range(20)
    ]
    assert np.mean(shares[20:]) > 0.4 > np.mean(shares[:20])


def test_halves_are_turned_and_mirrored_together():
    rng = np.random.default_rng(0)
    volume = rng.uniform(0, 100, (8, 32, 32)).astype("f4")
    pair = normalise_pair(volume, 3 * volume, Normalisation(target="own"))
    plain = 0
    for seed in range(20):
        patch = cut_patch(pair, (8, 16, 16), Patches(flip="zyx"), np.random.default_rng(seed))
        np.testing.assert_allclose(patch.raw, patch.truth, atol=1e-5)
        plain += patch.raw[0, 0, 0] < patch.raw[0, 0, 1]
    assert 0 < plain < 20


def test_a_simulated_pair_is_in_the_units_of_its_noisy_half():
    rng = np.random.default_rng(0)
    rate = simulate_volume(SimulatedPairs(shape_zyx=(8, 40, 40)), rng)
    pair = expose_pair(rate, 50.0, Camera(), Normalisation(), rng)
    # The noise has no mean, so that both halves have the same.
    assert pair.raw.mean() == pytest.approx(pair.truth.mean(), rel=0.01)
    assert pair.raw.std() > pair.truth.std()
    assert pair.truth_range == pair.raw_range
    assert pair.photoelectrons == pytest.approx(50 * 0.82)


def test_simulated_volumes_differ_and_can_be_had_again():
    settings = SimulatedPairs(num_volumes=4, num_validation=1, shape_zyx=(8, 24, 24))
    first, again = (SimulatedOrigin(settings, Normalisation(), 1) for _ in range(2))
    assert len({volume.tobytes() for volume in first.volumes}) == 4
    np.testing.assert_array_equal(first.volumes, again.volumes)
    assert [one.name for one in first.held_out] == ["5_photons", "10_photons", "20_photons"]
    assert (SimulatedOrigin(settings, Normalisation(), 2).volumes[0] != first.volumes[0]).any()


def test_a_grainy_truth_differs_from_voxel_to_voxel():
    settings = SimulatedPairs(shape_zyx=(8, 40, 40))
    steps = []
    for share in (0.0, 1.0):
        rng = np.random.default_rng(2)
        rate = simulate_volume(settings.model_copy(update={"grainy": share}), rng)
        steps.append(np.abs(np.diff(rate, axis=2)).mean())
    assert steps[1] > 1.5 * steps[0]


@pytest.mark.parametrize("dose", [0.05, 0.5])
@pytest.mark.parametrize("signal", [0.0, 0.3, 2.0, 40.0])
def test_thinned_photons_are_those_of_a_lower_dose(dose, signal):
    rng = np.random.default_rng(0)
    n = 400_000
    electrons = (rng.poisson(signal, n) + 1.5 * rng.standard_normal(n)).astype("f4")
    raw, truth = thin(electrons, dose, 1.5, rng)
    # Sampling errors; in the dark 0.4 % more, where read noise lies far below zero.
    assert raw.mean() == pytest.approx(dose * signal, rel=0.02, abs=0.01)
    assert truth.mean() == pytest.approx(dose * signal, rel=0.02, abs=0.01)
    assert raw.var() == pytest.approx(dose * signal + 1.5**2, rel=0.012)
    correlation = np.corrcoef(raw, truth)[0, 1]
    assert abs(correlation) < 0.01, "what is learned must not know the raw half's noise"


def test_a_blurred_half_is_blurred_and_its_truth_is_sharp():
    rng = np.random.default_rng(0)
    sharp = np.zeros((5, 32, 32), "f4")
    sharp[2, 16, 16] = 4e5
    psf = np.ones((1, 3, 3), "f4") / 9
    blurred = blur(sharp, psf)
    assert blurred.shape == sharp.shape
    assert blurred.sum() == pytest.approx(sharp.sum())
    raw, truth = thin(sharp, 0.1, 0.0, rng, blurred)
    assert raw[2, 15:18, 15:18].mean() == pytest.approx(4e4 / 9, rel=0.05)
    assert truth[2, 16, 16] == pytest.approx(4e4)


def test_thinned_stacks_are_drawn_at_their_dose(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        write(
            tmp_path / "high" / f"{name}.tif", (100 + 2 * rng.poisson(60, (8, 32, 32))).astype("u2")
        )
    settings = ThinnedPairs(high=tmp_path / "high", camera=CAMERA, dose=(0.25, 0.25))
    origin = ThinnedOrigin(settings, Normalisation(), Validation(), 1)
    (one,) = origin.held_out
    assert one.name == "dose_0.25"
    assert (one.pair.raw.mean() - 100) / 2 == pytest.approx(15, rel=0.03)
    assert (one.pair.truth.mean() - 100) / 2 == pytest.approx(15, rel=0.03)
    patch = origin.draw(Patches(shape_zyx=(8, 16, 16)), rng)
    assert patch.raw.std() > 1.5 * patch.truth.std() * np.sqrt(0.25)


def test_a_wrong_offset_is_refused(tmp_path):
    for name in "ab":
        write(tmp_path / "high" / f"{name}.tif", np.full((4, 16, 16), 90, "u2"))
    settings = ThinnedPairs(high=tmp_path / "high", camera=CAMERA)
    with pytest.raises(ProfileError, match="offset_counts = 100"):
        ThinnedOrigin(settings, Normalisation(), Validation(), 1)


def test_a_blur_needs_a_voxel_size(tmp_path):
    for name in "ab":
        tifffile.imwrite(
            tmp_path / f"{name}.tif", np.full((5, 16, 16), 300, "u2"), photometric="minisblack"
        )
    psf = {"numerical_aperture": 1.2, "refractive_index": 1.33, "wavelength_um": 0.52}
    settings = ThinnedPairs(high=tmp_path, camera=CAMERA, psf=psf)
    with pytest.raises(ProfileError, match="voxel_size_um"):
        ThinnedOrigin(settings, Normalisation(), Validation(), 1)


def test_sharpness_is_seen_in_the_spectrum():
    rng = np.random.default_rng(0)
    sharp = rng.standard_normal((8, 32, 32)).astype("f4")
    smooth = blur(sharp, np.ones((1, 5, 5), "f4") / 25)
    assert spectral_centroid(sharp) > 1.5 * spectral_centroid(smooth)
    assert spectral_centroid(5 * sharp + 3) == pytest.approx(spectral_centroid(sharp), rel=1e-3)
    difference = log_spectrum(sharp) - log_spectrum(smooth)
    assert difference[12] > 0.5 > 0 > difference[1]
