"""Indicators, likeness, dose curves and verdicts: each with what it is for and what it must leave alone."""

import math

import numpy as np
import pytest
from scipy import ndimage

from live_restore.guard.camera import CameraCalibration
from live_restore.guard.dose import MARGIN, Bleaching, DoseCurve, advise
from live_restore.guard.indicators import Indicators, clipped_fractions, noise_signs
from live_restore.guard.shift import Likeness, shrunk_covariance
from live_restore.guard.sums import Moments
from live_restore.guard.texture import texture
from live_restore.guard.verdict import Findings, rule
from live_restore.simulation import Camera, SimulatedMicroscope

CAMERA = CameraCalibration(camera="simulated", gain=2.17, offset=100.0, read_noise=1.6)


@pytest.fixture(scope="module")
def light():
    scope = SimulatedMicroscope(shape_zyx=(16, 96, 96), peak_photons=20, seed=3)
    return (scope.truth(0, "nuclei") - 100) / np.float32(2.17 * 0.82)


def exposed(light, **camera):
    return Camera(**camera).expose(light, np.random.default_rng(0))


# --- clipping ---


def test_saturation_is_seen_by_the_pile_at_the_top(light):
    raw = exposed(light)
    cut = np.minimum(raw, np.uint16(np.percentile(raw, 99.5)))
    assert clipped_fractions(raw, None)[0] == 0
    assert clipped_fractions(cut, None)[0] == pytest.approx(0.005, rel=0.3)


def test_a_known_saturation_needs_no_pile():
    raw = np.arange(1000, dtype=np.uint16).reshape(10, 10, 10)
    assert clipped_fractions(raw, 990.0)[0] == pytest.approx(0.01)


def test_a_camera_that_is_full_before_it_should_be_is_seen(light):
    raw = exposed(light)
    cut = np.minimum(raw, np.uint16(np.percentile(raw, 99.5)))
    assert clipped_fractions(cut, 65535.0)[0] == pytest.approx(0.005, rel=0.3)


def test_an_eight_bit_camera_at_its_end(light):
    raw = np.clip(exposed(light).astype(float) - 60, 0, 255).astype(np.uint8)
    assert clipped_fractions(np.maximum(raw, 1), None)[0] == 0
    assert clipped_fractions(np.where(raw > 70, 255, raw).astype(np.uint8), None)[0] > 0


def test_a_background_that_is_cut_off_is_seen(light):
    raw = exposed(light)
    assert clipped_fractions(raw, None)[1] == 0
    assert clipped_fractions(np.maximum(raw, np.uint16(103)), None)[1] > 0.2


def test_a_constant_volume_is_neither(light):
    assert clipped_fractions(np.full((4, 8, 8), 7, np.uint16), None)[1] == 0


# --- the noise ---


def signs_of(raw, truth_counts, camera=CAMERA):
    return noise_signs(raw, truth_counts, (1.0, 0.0), camera)


def test_a_camera_as_calibrated_has_a_ratio_of_one(light):
    correlation, ratio, below = signs_of(exposed(light), Camera().expected_counts(light))
    assert abs(correlation) < 0.02
    assert ratio == pytest.approx(1.0, abs=0.03)
    assert below < 0.5


@pytest.mark.parametrize(("factor", "is_more"), [(0.67, False), (1.5, True), (2.0, True)])
def test_a_wrong_gain_shows_in_the_ratio(light, factor, is_more):
    gain = 2.17 * factor
    raw = exposed(light, gain_counts_per_electron=gain)
    truth = Camera(gain_counts_per_electron=gain).expected_counts(light)
    _, ratio, _ = signs_of(raw, truth)
    assert ratio > 1.1 if is_more else ratio < 0.9


def test_a_smoothing_camera_shows_in_the_correlation(light):
    raw = ndimage.gaussian_filter(exposed(light).astype(np.float32), (0, 0.6, 0.6))
    correlation, ratio, _ = signs_of(raw, Camera().expected_counts(light))
    assert correlation > 0.2
    assert ratio < 0.8


def test_correlation_is_seen_without_a_calibration_too(light):
    truth = Camera().expected_counts(light)
    raw = exposed(light)
    smoothed = ndimage.gaussian_filter(raw.astype(np.float32), (0, 0.6, 0.6))
    assert abs(signs_of(raw, truth, None)[0]) < 0.03
    assert signs_of(smoothed, truth, None)[0] > 0.2


def test_an_offset_that_is_too_high_shows_in_the_dark(light):
    raw = exposed(light)
    wrong = CAMERA.model_copy(update={"offset": 112.0})
    assert signs_of(raw, Camera().expected_counts(light), wrong)[2] > 2


# --- likeness ---


def test_a_shrunk_covariance_lies_between_the_sample_and_a_sphere():
    rng = np.random.default_rng(0)
    true = np.diag([9.0, 4.0, 1.0, 1.0])
    few, many = (rng.multivariate_normal(np.zeros(4), true, size=n) for n in (8, 20_000))
    assert shrunk_covariance(many) == pytest.approx(true, abs=0.2)
    shrunk = shrunk_covariance(few)
    assert np.linalg.cond(shrunk) < np.linalg.cond(few.T @ few / 8)
    assert np.trace(shrunk) == pytest.approx(np.trace(few.T @ few / 8))


def test_what_is_unlike_is_further_away_than_what_was_learnt_from():
    rng = np.random.default_rng(0)
    signals = np.exp(rng.uniform(0, 4, 200))
    features = np.stack([np.log(signals), np.log(signals) ** 2, np.ones(200)], 1)
    features += 0.1 * rng.standard_normal(features.shape)
    kin = Likeness.of(signals, features)
    usual = [kin.distance(s, f) for s, f in zip(signals, features, strict=True)]
    assert np.sqrt(np.mean(np.square(usual))) == pytest.approx(1.0, abs=0.15)
    assert kin.distance(signals[0], features[0] + [0, 0, 1.0]) > 3
    # The same features at another signal are unlike as well.
    assert kin.distance(signals[0] * 20, features[0]) > 3


def test_few_volumes_teach_nothing():
    assert Likeness.of(np.ones(11), np.ones((11, 2))) is None


def test_texture_tells_blur_and_not_dose(light):
    def of(rate, photons):
        raw = exposed(rate * np.float32(photons))
        return texture(raw, Moments.of(raw, raw, CAMERA), CAMERA.gain)

    sharp, blurred = light / 20, ndimage.gaussian_filter(light, (1, 2, 2)) / 20
    assert of(sharp, 20)[0] == pytest.approx(of(sharp, 80)[0], abs=0.15)
    assert of(blurred, 20)[0] < of(sharp, 20)[0] - 0.3
    assert texture(np.zeros((2, 96, 96), np.uint16), None, 1.0) is None


# --- dose ---


def test_a_curve_gives_back_what_made_it():
    curve = DoseCurve(0.01, 0.03, 0.002)
    fitted = DoseCurve.fit({d: curve.nrmse(d) for d in (1.0, 0.5, 0.25, 0.125)})
    assert (fitted.b, fitted.c, fitted.d) == pytest.approx((0.01, 0.03, 0.002), rel=1e-4)
    assert curve.nrmse(curve.dose_for(0.3)) == pytest.approx(0.3)
    assert curve.floor == pytest.approx(0.1)
    assert curve.dose_for(0.09) is None


CURVE = DoseCurve(0.001, 0.015, 0.0005)
LESS = {d: CURVE.nrmse(d) for d in (0.5, 0.25, 0.125)}


def test_less_light_is_advised_with_a_margin():
    advice = advise(0.35, CURVE.nrmse(1.0), LESS)
    assert CURVE.nrmse(advice.lowest) == pytest.approx(0.35 / MARGIN, rel=0.02)
    assert advice.headroom == pytest.approx(1 / advice.lowest)
    assert "less light" in advice.text


def test_nothing_is_said_of_doses_below_those_that_were_tried():
    advice = advise(0.9, CURVE.nrmse(1.0), LESS)
    assert advice.lowest == 0.125
    assert advice.text.startswith("at least")


def test_nothing_is_advised_below_where_the_model_was_shown_to_hold():
    assert advise(0.35, CURVE.nrmse(1.0), LESS, held=0.4).lowest == 0.4
    assert advise(0.35, CURVE.nrmse(1.0), LESS, held=1.7).text == "keep the dose"


def test_a_trial_that_failed_is_not_overruled_by_the_curve():
    errors = LESS | {0.5: 0.6}
    assert advise(0.35, 0.15, errors).lowest >= 0.5


def test_more_light_is_needed():
    advice = advise(0.15, 0.2, {0.5: 0.27, 0.25: 0.38, 0.125: 0.54})
    assert 1.5 < advice.lowest < 4
    assert "times the light" in advice.text


def test_more_light_will_not_help_at_the_floor():
    flat = {0.5: 0.305, 0.25: 0.315, 0.125: 0.33}
    advice = advise(0.2, 0.3, flat)
    assert advice.is_floor
    assert advice.lowest is None
    assert "will not help" in advice.text


def test_at_the_target_the_dose_is_kept():
    assert advise(0.35, 0.33, {}).lowest == 1.0


def test_bleaching_ends_it_when_the_signal_is_too_low():
    bleaching, rng = Bleaching(), np.random.default_rng(0)
    for t in range(30):
        bleaching.add(10.0 * t, 20 * math.exp(-10 * t / 600) * (1 + 0.02 * rng.standard_normal()))
    left = bleaching.time_left_s(5.0)
    assert left == pytest.approx(600 * math.log(20 / 5) - 290, rel=0.1)


def test_a_steady_signal_has_no_end():
    bleaching, rng = Bleaching(), np.random.default_rng(1)
    for t in range(30):
        bleaching.add(10.0 * t, 20 * (1 + 0.05 * rng.standard_normal()))
    assert bleaching.time_left_s(5.0) is None
    assert Bleaching().time_left_s(5.0) is None


# --- verdicts without an envelope; those with one are tested beside it ---

FINE = Indicators(0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("indicators", "words"),
    [
        (Indicators(0.01, 0.0, 0.0, 1.0, 0.0), "saturated"),
        (Indicators(0.0, 0.0, 0.3, 1.0, 0.0), "correlated"),
        (Indicators(0.0, 0.0, 0.0, 1.4, 0.0), "gain"),
        (Indicators(0.0, 0.0, 0.0, 0.6, 0.0), "gain"),
        (Indicators(0.0, 0.0, 0.0, 1.0, 5.0), "offset"),
        (Indicators(0.0, 0.0, math.nan, 1.0, 0.0), "correlated"),
    ],
)
def test_what_spoils_the_estimate_is_red_without_an_envelope_too(indicators, words):
    ruling = rule(Findings(indicators), None, "", 0.35)
    assert ruling.verdict == "red"
    assert not ruling.is_valid
    assert words in ruling.reasons[0]
    assert ruling.severity > 1


def test_correlated_residuals_alone_are_no_verdict_on_an_unknown_camera():
    ruling = rule(Findings(Indicators(0.0, 0.0, 0.3)), None, "", 0.35)
    assert ruling.verdict == "uncalibrated"
    assert not ruling.is_valid
    assert any("correlated" in one for one in ruling.reasons)


def test_without_an_envelope_nothing_is_green():
    ruling = rule(Findings(FINE, True, 10.0, 0.1), None, "", 0.35)
    assert ruling.verdict == "uncalibrated"
    assert ruling.is_valid
    assert any("blur" in one for one in ruling.blind_to)


def test_an_invisible_signal_is_red():
    ruling = rule(Findings(FINE, False), None, "", 0.35)
    assert ruling.verdict == "red"
    assert "no signal" in ruling.reasons[0]
