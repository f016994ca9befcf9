import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live_restore.restore.tiling import blend, plan_axis, plan_tiles


@given(size=st.integers(1, 300), largest=st.integers(1, 80), overlap=st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_tiles_cover_the_axis_from_edge_to_edge(size, largest, overlap):
    axis = plan_axis(size, largest, overlap)
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.tile == size
    assert axis.tile <= max(largest, 1)
    total = np.zeros(size)
    for index, start in enumerate(axis.starts):
        weights = axis.weights(index)
        assert weights.min() > 0
        total[start : start + axis.tile] += weights
    np.testing.assert_allclose(total, 1, atol=1e-5)  # float32 weights


@pytest.mark.parametrize(
    ("size", "largest", "overlap"), [(2048, 256, 32), (1920, 256, 32), (50, 32, 8)]
)
def test_neighbours_overlap_at_least_as_asked(size, largest, overlap):
    axis = plan_axis(size, largest, overlap)
    gaps = [b - a for a, b in zip(axis.starts, axis.starts[1:], strict=False)]
    assert max(gaps) <= axis.tile - overlap


def test_a_volume_that_fits_is_one_tile():
    tiles = plan_tiles((10, 20, 30), (16, 32, 32), (2, 8, 8))
    assert len(tiles) == 1
    assert tiles.tile_zyx == (10, 20, 30)


def test_little_is_computed_twice():
    # The published tiler computes 2.77 times this volume.
    tiles = plan_tiles((12, 1550, 1920), (12, 256, 256), (0, 32, 32))
    computed = len(tiles) * np.prod(tiles.tile_zyx)
    assert computed / (12 * 1550 * 1920) < 1.4


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    largest=st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)),
    overlap=st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)),
)
@settings(max_examples=60, deadline=None)
def test_blending_untouched_tiles_gives_the_volume_back(shape, largest, overlap):
    volume = np.random.default_rng(0).random(shape, dtype=np.float32)
    out = np.full(shape, np.nan, np.float32)
    for rows, band in blend(
        plan_tiles(shape, largest, overlap), lambda where: volume[where].copy()
    ):
        assert np.isnan(out[:, rows]).all(), "each row is given once"
        out[:, rows] = band
    np.testing.assert_allclose(out, volume, atol=1e-5)  # float32 sums of up to eight tiles
