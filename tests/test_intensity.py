import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live_restore.restore.intensity import LinearFit, measure_range, percentiles


@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    dtype=st.sampled_from(["u1", "u2"]),
    high=st.sampled_from([1, 5, 255]),
)
@settings(max_examples=100, deadline=None)
def test_percentiles_of_integers_are_numpys(seed, shape, dtype, high):
    volume = np.random.default_rng(seed).integers(0, high + 1, shape).astype(dtype)
    q = (0.0, 2.0, 37.5, 99.9, 100.0)
    np.testing.assert_allclose(percentiles(volume, q), np.percentile(volume, q), atol=1e-9)


def test_percentiles_of_floats_ignore_what_is_not_finite():
    volume = np.linspace(0, 1, 1000, dtype="f4").reshape(10, 10, 10)
    volume[0, 0, 0], volume[1, 1, 1] = np.nan, np.inf
    low, high = percentiles(volume, (0, 100))
    assert low == pytest.approx(0.001, abs=1e-3)
    assert high == 1


def test_a_volume_of_nothing_finite_has_percentiles():
    assert percentiles(np.full((2, 2, 2), np.nan), (2, 99)) == (0, 0)


def test_normalising_and_back_is_the_identity():
    volume = np.random.default_rng(0).integers(90, 4000, (4, 20, 20)).astype("u2")
    span = measure_range(volume, 2, 99.9)
    normalised = span.normalise(volume)
    assert np.percentile(normalised, 2) == pytest.approx(0, abs=1e-6)
    assert np.percentile(normalised, 99.9) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(span.counts(normalised), volume, rtol=1e-5)


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_flat_volume_is_not_blown_up(value):
    volume = np.full((2, 3, 4), value, "u2")
    normalised = measure_range(volume, 2, 99.9).normalise(volume)
    assert np.abs(normalised).max() == 0


def test_a_fit_from_parts_is_the_fit_of_the_whole():
    rng = np.random.default_rng(0)
    values = rng.random((6, 20, 30)).astype(np.float32)
    # A small spread on a large offset, as of a camera's counts.
    counts = (60000 + 20 * values + rng.normal(0, 1, values.shape)).astype(np.float32)
    fit = LinearFit()
    for rows in (slice(0, 7), slice(7, 20)):
        fit.add(values[:, rows], counts[:, rows])
    expected = np.polyfit(values.ravel().astype(float), counts.ravel().astype(float), 1)
    np.testing.assert_allclose(fit.line(), expected, rtol=1e-9)


@pytest.mark.parametrize("gain", [-1.0, 0.0])
def test_no_line_is_fitted_to_what_does_not_rise(gain):
    values = np.random.default_rng(0).random((2, 5, 5)).astype(np.float32)
    fit = LinearFit()
    assert fit.line() is None
    fit.add(values, gain * values)
    assert fit.line() is None
    flat = LinearFit()
    flat.add(np.full_like(values, 0.3), values)
    assert flat.line() is None
