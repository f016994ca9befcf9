import math

import numpy as np
import pytest

from live_restore.quality import nrmse, psnr, ssim

RNG = np.random.default_rng(0)
TRUTH = RNG.random((12, 40, 40))


def test_a_perfect_volume_is_perfect():
    assert psnr(TRUTH, TRUTH) > 200
    assert ssim(TRUTH, TRUTH) == pytest.approx(1)
    assert nrmse(TRUTH, TRUTH) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("score", [psnr, ssim, nrmse])
def test_offset_and_gain_are_no_error(score):
    noisy = TRUTH + RNG.normal(0, 0.1, TRUTH.shape)
    assert score(7 * noisy - 30, TRUTH) == pytest.approx(score(noisy, TRUTH), rel=1e-9)


def test_psnr_is_the_noise_against_the_truths_percentiles():
    # A long truth, so that the fitted slope is close to its expectation.
    truth = RNG.random((20, 100, 100))
    noisy = truth + RNG.normal(0, 0.02, truth.shape)
    low, high = np.percentile(truth, [2, 99.9])
    assert psnr(noisy, truth) == pytest.approx(-20 * math.log10(0.02 / (high - low)), abs=0.1)


def test_ssim_is_what_its_definition_says_at_one_voxel():
    image = TRUTH + RNG.normal(0, 0.3, TRUTH.shape)
    low, high = np.percentile(TRUTH, [2, 99.9])
    y = (TRUTH - low) / (high - low)
    a, b = np.polyfit(image.ravel(), y.ravel(), 1)
    x = a * image + b
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = taps[:, None, None] * taps[:, None] * taps
    window /= window.sum()
    z, r, c = 6, 20, 20
    cut = (slice(z - 5, z + 6), slice(r - 5, r + 6), slice(c - 5, c + 6))
    mx, my = (window * x[cut]).sum(), (window * y[cut]).sum()
    vx, vy = (window * x[cut] ** 2).sum() - mx**2, (window * y[cut] ** 2).sum() - my**2
    cov = (window * x[cut] * y[cut]).sum() - mx * my
    c1, c2 = 1e-4, 9e-4
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    from live_restore import quality

    assert quality.ssim_map(image, TRUTH)[z, r, c] == pytest.approx(expected, rel=1e-6)
    assert 0 < ssim(image, TRUTH) < 1


def test_flat_stacks_are_scored_plane_by_plane():
    thin = TRUTH[:3]
    noisy = thin + RNG.normal(0, 0.1, thin.shape)
    per_plane = ssim(noisy, thin)
    assert 0 < per_plane < 1


def test_volumes_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        psnr(TRUTH, TRUTH[:-1])
