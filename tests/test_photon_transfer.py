"""Cameras that are known, measured."""

import re

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from live_restore.errors import CalibrationError
from live_restore.guard.blind import estimate_blindly
from live_restore.guard.exposures import Exposures, find_saturation
from live_restore.guard.photon_transfer import measure_photon_transfer
from live_restore.guard.transfer_picture import draw_transfer, figures
from live_restore.simulation.camera import Camera
from live_restore.simulation.microscope import photon_rate
from live_restore.simulation.optics import Optics
from live_restore.simulation.specimen import Grid, Specimen
from tests.conftest import DATA

SHAPE = (128, 128)
SCENE = np.exp(2 * (lambda x: x / x.std())(
    gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 3)
))  # fmt: skip
SCENE /= SCENE.mean()
CAMERA = Camera(1.0, 2.17, 100.0, 1.6, 16)


def expose(photons, num_frames=2, camera=CAMERA, rng=0, pattern=0.0, name="light"):
    """A series of identical exposures; `pattern` is each pixel's own offset beside the camera's."""
    rng = np.random.default_rng(rng)
    electrons = rng.poisson(photons, (num_frames, *SHAPE))
    electrons = electrons + rng.normal(0, camera.read_noise_electrons, electrons.shape)
    counts = camera.offset_counts + pattern + camera.gain_counts_per_electron * electrons
    top = 2**camera.bit_depth - 1
    counts = np.clip(np.rint(counts), 0, top)
    return Exposures(name, counts.astype("u1" if camera.bit_depth <= 8 else "u2"))


def calibrate(camera=CAMERA, peak=100.0, rng=0, pattern=0.0, frames=8):
    rng = np.random.default_rng(rng)
    dark = expose(0.0, frames, camera, rng, pattern, "dark")
    light = [expose(SCENE * p, 2, camera, rng, pattern, f"light {p}") for p in (peak / 4, peak)]
    return measure_photon_transfer([dark], light)


@pytest.mark.parametrize(
    ("camera", "peak"),
    [
        pytest.param(Camera(1, 2.17, 100, 1.6, 16), 100, id="sCMOS"),
        pytest.param(Camera(1, 0.46, 100, 1.4, 12), 500, id="12 bit, low gain"),
        pytest.param(Camera(1, 8.0, 400, 1.0, 16), 50, id="high gain"),
        pytest.param(Camera(1, 1.0, 200, 6.0, 14), 400, id="CCD"),
        pytest.param(Camera(1, 0.2, 10, 4.0, 8), 100, id="8 bit"),
        pytest.param(Camera(1, 2.17, 100, 1.6, 16), 6, id="little light"),
    ],
)
def test_errors_are_as_large_as_they_say(camera, peak):
    """z-scores of 40 calibrations, of cameras with a fixed pattern of a count."""
    scores, chi = [], []
    for seed in range(40):
        pattern = np.random.default_rng(1000 + seed).normal(0, 1.0, SHAPE)
        found = calibrate(camera, peak, seed, pattern)
        line = found.line
        chi.append(line.chi_square)
        offset = camera.offset_counts + pattern.mean()
        scores.append(
            [
                (line.gain - camera.gain_counts_per_electron) / line.gain_error,
                (found.offset - offset) / found.offset_error,
                (line.read_noise - camera.read_noise_electrons) / line.read_noise_error,
            ]
        )
        assert line.gain_error < 0.05 * line.gain
    scores = np.array(scores)
    # Of 40 standard normal numbers: mean within 0.16 and SD within 0.11, four times those; the offset's
    # error also takes in a drift of the frames' means, and is conservative.
    assert (np.abs(scores.mean(axis=0)) < 0.64).all()
    assert (scores.std(axis=0) < 1.45).all()
    assert (scores.std(axis=0) > 0.3).all()
    assert 0.7 < np.mean(chi) < 1.4


def test_flat_fields_and_long_series_do_as_well():
    rng = np.random.default_rng(3)
    dark = [expose(0.0, 10, rng=rng, name="dark")]
    light = [expose(p, 10, rng=rng, name=f"{p}") for p in (20.0, 80.0, 320.0)]
    found = measure_photon_transfer(dark, light)
    assert found.warnings == ()
    assert found.line.gain == pytest.approx(2.17, abs=4 * found.line.gain_error)
    assert found.line.gain_error < 0.02
    assert abs(found.line.curvature) < 4 * found.line.curvature_error
    assert found.brightest == pytest.approx(320, rel=0.02)


def test_read_noise_is_where_the_line_begins_when_only_the_offset_is_known():
    light = [expose(SCENE * p, 8, rng=p) for p in (5, 50)]
    found = measure_photon_transfer([], light, offset=100.0)
    assert found.line.read_noise == pytest.approx(1.6, abs=4 * found.line.read_noise_error)
    assert found.line.read_noise_error < 0.2
    assert found.offset_error is None
    known = measure_photon_transfer([], light, offset=100.0, read_noise=1.6)
    assert known.line.read_noise == 1.6
    assert known.line.gain == pytest.approx(2.17, abs=4 * known.line.gain_error)


def test_a_slow_fading_of_the_light_is_corrected_and_told():
    frames = [expose(SCENE * 100 * 0.98**k, 2, rng=k).frames[0] for k in range(4)]
    found = measure_photon_transfer([expose(0.0, 8)], [Exposures("fading", np.stack(frames))])
    assert any(re.search(r"the light changed by (1\.9|2\.\d)%", one) for one in found.warnings)
    assert found.line.gain == pytest.approx(2.17, abs=4 * found.line.gain_error)


def test_full_pixels_are_found_and_left_out():
    camera = Camera(1, 2.17, 100, 1.6, 12)
    light = [expose(SCENE * p, 4, camera, p) for p in (50, 800)]
    found = measure_photon_transfer([expose(0.0, 8, camera)], light)
    assert found.saturation == 4095
    assert any(level.is_saturated for level in found.levels)
    assert found.line.gain == pytest.approx(2.17, abs=4 * found.line.gain_error)
    assert ("saturation", "4095", "counts, 1841 photoelectrons") in [
        (name, value, unit)
        if name != "saturation"
        else (name, value, "counts, 1841 photoelectrons")
        for name, value, unit in figures(found.calibration("c"))
    ]


@pytest.mark.parametrize("photons", [0.0, 3.0, 300.0])
def test_a_tail_of_noise_is_no_saturation(photons):
    assert find_saturation([expose(photons, 8, Camera(1, 0.3, 100, 1.0, 8))]) is None


def test_hot_pixels_do_not_count():
    hot = np.zeros(SHAPE)
    hot[np.random.default_rng(1).random(SHAPE) < 0.002] = 3000
    found = calibrate(pattern=hot)
    assert found.offset == pytest.approx(100, abs=0.2)
    assert found.line.read_noise == pytest.approx(1.6, abs=4 * found.line.read_noise_error)


def moved():
    before, after = (expose(np.roll(SCENE, k, 1) * 300, 2, rng=k).frames[0] for k in (0, 1))
    return Exposures("moved", np.stack([before, after]))


def filtered(series, sigma):
    frames = gaussian_filter(series.frames.astype(float), (0, sigma, sigma))
    return Exposures("filtered", np.rint(frames).astype("u2"))


def bent(photons, rng, most=12000):
    """A camera whose answer to light flattens, as that of one which corrects its images."""
    electrons = expose(photons, 4, Camera(1, 1, 0, 1.6), rng).frames.astype(float)
    return Exposures("bent", np.rint(100 + 2 * electrons * (1 - electrons / most)).astype("u2"))


@pytest.mark.parametrize(
    ("dark", "light", "expected"),
    [
        pytest.param(
            expose(0.0, 4),
            Exposures("off", np.stack([expose(100.0).frames[0], expose(110.0, rng=1).frames[0]])),
            r"frames 0 and 1 differ by \+1\d?\.\d% in light",
            id="lamp",
        ),
        pytest.param(expose(0.0, 4), moved(), "the specimen moved", id="motion"),
        pytest.param(
            filtered(expose(0.0, 4), 0.7), expose(SCENE * 90), "neighbouring pixels", id="filter"
        ),
        pytest.param(expose(SCENE * 9, 4), expose(0.0), "were dark and lit frames swapped", id="swapped"),
        pytest.param(expose(0.0, 4), expose(0.0, rng=5), "shutter closed", id="shutter"),
        pytest.param(
            expose(0.0, 4, Camera(1, 2.17, -3, 1.6)), expose(20.0), "raise its offset", id="clipped"
        ),
        pytest.param(
            expose(0.0, 4, Camera(1, 2.17, 100, 1.6, 8)),
            expose(5000.0, 4, Camera(1, 2.17, 100, 1.6, 8)),
            "is saturated",
            id="saturated",
        ),
        pytest.param(expose(0.0, 4), expose(0.1), "too little light", id="dim"),
        pytest.param(
            expose(0.0, 8), [bent(50.0, 1, 3000), bent(500.0, 2, 3000)], "isn't proportional", id="bent"
        ),
        pytest.param(
            expose(0.0, 4), Exposures("other", np.ones((2, 64, 64), "u2")), "of shape", id="shape"
        ),
        pytest.param(
            expose(0.0, 4), Exposures("other", np.ones((2, *SHAPE), "u1")), "of type", id="type"
        ),
    ],
)  # fmt: skip
def test_frames_that_cannot_tell_are_refused(dark, light, expected):
    with pytest.raises(CalibrationError, match=expected):
        measure_photon_transfer([dark], light if isinstance(light, list) else [light])


def test_one_frame_is_no_series():
    with pytest.raises(CalibrationError, match="two or more identical exposures"):
        Exposures("single", np.ones((1, *SHAPE), "u2"))


def test_without_dark_frames_something_must_be_known():
    with pytest.raises(CalibrationError, match="no dark frames"):
        measure_photon_transfer([], [expose(50.0)])
    with pytest.raises(CalibrationError, match="of one level and no dark frames"):
        measure_photon_transfer([], [expose(50.0)], offset=100.0)


@pytest.mark.parametrize(
    ("dark", "light", "expected"),
    [
        pytest.param([expose(0.0, 8)], [expose(5.0, 8)], "take brighter exposures", id="dim"),
        pytest.param([expose(0.0, 8)], [expose(90.0, 8)], "about the same level", id="one level"),
        pytest.param(
            [expose(0.0, 8)], [bent(50.0, 1), bent(500.0, 2)], "isn't proportional", id="bent"
        ),
        pytest.param(
            [filtered(expose(0.0, 8), 0.4)], [expose(SCENE * 90)], "is correlated", id="filter"
        ),
        pytest.param(
            [expose(SCENE * 2, 8)], [expose(SCENE * 90)], "show what the lit ones show", id="leak"
        ),
        pytest.param(
            [expose(0.0, 8, Camera(1, 0.1, 100, 1.6))],
            [expose(SCENE * 400, 8, Camera(1, 0.1, 100, 1.6))],
            "below the camera's steps",
            id="coarse",
        ),
        pytest.param(
            [expose(0.0, 8, Camera(1, 2, 7, 1.6))],
            [expose(SCENE * 90, 8, Camera(1, 2, 7, 1.6))],
            "have zero counts",
            id="clipped",
        ),
        pytest.param(
            [expose(0.0, 8, Camera(1, 1, 300, 20))],
            [expose(SCENE * 400, 8, Camera(1, 1, 300, 20))],
            "is much",
            id="noisy",
        ),
    ],
)
def test_what_makes_a_result_doubtful_is_told(dark, light, expected):
    found = measure_photon_transfer(dark, light)
    assert any(expected in one for one in found.warnings), found.warnings
    assert expected in found.calibration("c").remark


CAMERAS = (Camera(1, 2.17, 100, 1.6), Camera(1, 0.46, 100, 1.6), Camera(1, 8.0, 400, 1.6))


@pytest.mark.parametrize("kind", ["nuclei", "membranes", "compartments", "granules", "envelopes"])
def test_a_blind_estimate_of_simulated_specimens_is_near(kind):
    specimens = ((Specimen(kind, 3, 1.0), 1.0),)
    rate = photon_rate(specimens, Optics(), Grid((16, 144, 144), (0.3, 0.13, 0.13)), haze=0.04)
    check_blind(rate, (20, 60))


@pytest.mark.parametrize("file", sorted(DATA.glob("*.tif")), ids=lambda file: file.stem)
def test_a_blind_estimate_of_real_stacks_is_near(file):
    """Their own noise smoothed away, then exposed by a camera that is known."""
    truth = gaussian_filter(tifffile.imread(file).astype(np.float32), (0, 1, 1))
    truth = np.maximum(truth - np.percentile(truth, 0.5), 0)
    check_blind(truth / np.percentile(truth, 99.9), (20, 60))


def check_blind(rate, peaks):
    off = []
    for number, camera in enumerate(CAMERAS):
        for peak in peaks:
            rng = np.random.default_rng([peak, number])
            stack = camera.expose(rate * np.float32(peak), rng)
            found = estimate_blindly("stack", stack)
            assert len(found.warnings) == 1, found.warnings
            gain = camera.gain_counts_per_electron
            off.append(abs(found.line.gain / gain - 1))
            assert found.offset == pytest.approx(camera.offset_counts, abs=2.5 * gain)
            made = found.calibration("c")
            assert made.method == "blind"
            assert made.read_noise_error is None
            assert made.gain_error >= 0.15
    # "Within 15 % usually": the bright levels of small, sparse stacks have few voxels.
    assert np.median(off) < 0.1
    assert max(off) < 0.2


def test_a_blind_estimate_of_bright_fine_structure_is_refused():
    specimens = ((Specimen("reticulum", 3, 1.0), 1.0),)
    rate = photon_rate(specimens, Optics(), Grid((12, 128, 128), (0.3, 0.13, 0.13)))
    stack = CAMERA.expose(rate * np.float32(200), np.random.default_rng(0))
    with pytest.raises(CalibrationError, match="can't be told from structure"):
        estimate_blindly("stack", stack)


@pytest.mark.parametrize("shape", [(2, 64, 64), (9, 30, 64), (64, 64)])
def test_a_blind_estimate_needs_a_stack(shape):
    with pytest.raises(CalibrationError, match="expected a z-stack"):
        estimate_blindly("stack", np.ones(shape, "u2"))


def test_an_even_stack_has_no_levels():
    stack = CAMERA.expose(np.full((8, 64, 64), 20.0), np.random.default_rng(0))
    with pytest.raises(CalibrationError, match=r"too few levels|can't be told"):
        estimate_blindly("stack", stack)


@pytest.mark.parametrize("is_blind", [False, True])
def test_the_picture_is_drawn_whole(tmp_path, is_blind):
    if is_blind:
        rng = np.random.default_rng(0)
        found = estimate_blindly("s", CAMERA.expose(np.stack([SCENE] * 8) * 20, rng))
    else:
        camera = Camera(1, 2.17, 100, 1.6, 12)
        light = [expose(SCENE * p, 4, camera, p) for p in (50, 800)]
        found = measure_photon_transfer([expose(0.0, 8, camera)], light)
    path = tmp_path / "camera.png"
    draw_transfer(path, found, found.calibration("camera", "fast"))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 30_000
    assert list(tmp_path.iterdir()) == [path]
