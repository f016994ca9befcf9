"""The estimated error against the true one, with a network that is known by heart: a Gaussian filter."""

import math

import numpy as np
import pytest
from scipy import ndimage

from live_restore.guard.camera import CameraCalibration
from live_restore.guard.leverage import Brightness, Leverage
from live_restore.guard.parts import PROBE_ZYX, Sample, choose_part
from live_restore.guard.sums import Moments
from live_restore.guard.thinned import DOSES, Thinned, classes
from live_restore.simulation import Camera, SimulatedMicroscope

CAMERA = CameraCalibration(camera="simulated", gain=2.17, offset=100.0, read_noise=1.6)
SIGMA = (0.8, 1.0, 1.0)
SHAPE = (24, 96, 96)


def smooth(electrons):
    return ndimage.gaussian_filter(electrons, SIGMA).astype(np.float32)


def exposed(photons, channel="nuclei", seed=3, shape=SHAPE):
    """Raw counts, and the truth in photoelectrons."""
    scope = SimulatedMicroscope(shape_zyx=shape, peak_photons=photons, seed=seed)
    return scope.stack(0, channel), CAMERA.electrons(scope.truth(0, channel))


def counts_of(electrons):
    return electrons * CAMERA.gain + CAMERA.offset


def true_nrmse(restored, truth):
    return math.sqrt(1 - np.corrcoef(restored.ravel(), truth.ravel())[0, 1] ** 2)


def sampled(restored):
    stride = Sample.stride_of(restored.shape)
    return Sample(restored[:: stride[0], :: stride[1], :: stride[2]], stride)


def brightness_of(sample):
    return Brightness(float(np.percentile(sample.values, 20)), CAMERA.variance)


def probed(raw, num_parts, doses=()):
    """Leverage and thinning of a volume, from some parts."""
    electrons = CAMERA.electrons(raw)
    restored = smooth(electrons)
    sample = sampled(restored)
    brightness, leverage, thinned = brightness_of(sample), Leverage(), Thinned()
    weights = brightness.regressors(sample.values)[0].reshape(sample.values.shape)
    rng = np.random.default_rng(0)
    for _ in range(num_parts):
        where, inside = choose_part(sample, weights, raw.shape, PROBE_ZYX, rng)
        base = leverage.probe(electrons[where], brightness, smooth, inside, rng)
        for dose in doses:
            edges, centre = classes(sample.values), float(electrons.mean())
            thinned.probe(dose, electrons[where], base, edges, centre, CAMERA, smooth, inside, rng)
    return leverage.overfit(sample.values, brightness), thinned, restored


def test_moments_are_those_of_the_photoelectrons():
    raw, _ = exposed(10)
    restored = counts_of(smooth(CAMERA.electrons(raw)))
    found = Moments.of(raw, restored, CAMERA)
    e, f = CAMERA.electrons(raw).astype(float), CAMERA.electrons(restored).astype(float)
    expected = (e.mean(), f.mean(), e.var(), f.var(), np.mean((e - e.mean()) * (f - f.mean())))
    got = (
        found.mean_raw,
        found.mean_restored,
        found.var_raw,
        found.var_restored,
        found.covariance,
    )
    assert got == pytest.approx(expected, rel=2e-4)  # float32 sums, plane by plane


@pytest.mark.parametrize("photons", [6, 20, 60])
def test_the_overfit_of_a_linear_filter_is_its_centre_times_the_noise(photons):
    raw, _ = exposed(photons)
    (overfit, error), _, _ = probed(raw, num_parts=4)
    impulse = np.zeros((9, 9, 9), np.float32)
    impulse[4, 4, 4] = 1
    noise = max(float(CAMERA.electrons(raw).mean()), 0) + CAMERA.variance
    expected = float(smooth(impulse)[4, 4, 4]) * noise
    assert overfit == pytest.approx(expected, rel=0.12)  # measured: 2 to 6 %
    assert 0 < error < 0.05 * expected


@pytest.mark.parametrize("channel", ["nuclei", "microtubules"])
@pytest.mark.parametrize("photons", [8, 24, 80])
def test_the_error_is_estimated_without_a_truth(photons, channel):
    raw, truth = exposed(photons, channel)
    (overfit, error), _, restored = probed(raw, num_parts=4)
    moments = Moments.of(raw, counts_of(restored), CAMERA)
    found = moments.nrmse(CAMERA, overfit, error)
    # At 8 photons the volume's own noise leaves 15 %.
    assert found == pytest.approx(true_nrmse(restored, truth), rel=0.2)


def test_the_error_at_less_light_is_found_on_the_present_volume():
    raw, truth = exposed(60)
    (overfit, _), thinned, restored = probed(raw, num_parts=4, doses=DOSES)
    moments = Moments.of(raw, counts_of(restored), CAMERA)
    assert moments.nrmse(CAMERA, overfit) is not None
    for dose in DOSES:
        less, _ = exposed(60 * dose)
        expected = true_nrmse(smooth(CAMERA.electrons(less)), truth)
        assert thinned.nrmse(dose, moments, CAMERA) == pytest.approx(expected, rel=0.2)


def test_a_dose_that_was_not_tried_has_no_error():
    raw, _ = exposed(20)
    _, thinned, restored = probed(raw, num_parts=1)
    assert thinned.nrmse(0.5, Moments.of(raw, counts_of(restored), CAMERA), CAMERA) is None


def test_noise_alone_shows_no_signal_and_has_no_error():
    rng = np.random.default_rng(0)
    raw = Camera().expose(np.full(SHAPE, 3.0, np.float32), rng)
    moments = Moments.of(raw, counts_of(smooth(CAMERA.electrons(raw))), CAMERA)
    assert not moments.is_visible(CAMERA)
    assert moments.nrmse(CAMERA, 0.0) is None


def test_an_error_that_could_not_be_told_from_none_is_not_claimed():
    raw, _ = exposed(10)
    truth = counts_of(exposed(10)[1])
    found = Moments.of(raw, truth, CAMERA).nrmse(CAMERA, 0.0)
    assert 0.01 < found < 0.2  # the truth itself, restored: not 0


def test_a_flat_restored_volume_is_all_wrong():
    raw, _ = exposed(10)
    flat = np.full(raw.shape, 120.0, np.float32)
    assert Moments.of(raw, flat, CAMERA).nrmse(CAMERA, 0.0) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(4, 20, 24), (24, 96, 96), (60, 300, 280)])
def test_parts_lie_inside_and_leave_their_cut_faces_out(shape):
    rng = np.random.default_rng(0)
    volume = np.zeros(shape, np.float32)
    sample = sampled(volume)
    for _ in range(50):
        weights = rng.random(sample.values.shape)
        where, inside = choose_part(sample, weights, shape, PROBE_ZYX, rng)
        for one, kept, size, most in zip(where, inside, shape, PROBE_ZYX, strict=True):
            assert 0 <= one.start < one.stop <= size
            assert one.stop - one.start == min(size, most)
            assert 0 <= kept.start < kept.stop <= one.stop - one.start
            assert kept.start == (0 if one.start == 0 else 4)


def test_parts_are_where_the_weights_are():
    sample = Sample(np.zeros((4, 30, 30), np.float32), (6, 10, 10))
    weights = np.zeros((4, 30, 30))
    weights[2, 25, 3] = 1
    where, _ = choose_part(sample, weights, (24, 300, 300), PROBE_ZYX, np.random.default_rng(0))
    assert where[1].start <= 250 < where[1].stop
    assert where[2].start <= 30 < where[2].stop


def test_without_weights_any_part_will_do():
    sample = Sample(np.zeros((4, 30, 30), np.float32), (6, 10, 10))
    where, _ = choose_part(
        sample, np.zeros((4, 30, 30)), (24, 300, 300), PROBE_ZYX, np.random.default_rng(0)
    )
    assert all(one.stop > one.start for one in where)
