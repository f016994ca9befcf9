"""The guard as a whole: on volumes that a known network restored, and on those of the shipped model."""

import logging
import time

import numpy as np
import pytest
from scipy import ndimage

from live_restore.assessment import Assessment
from live_restore.guard import open_guard
from live_restore.guard.camera import CameraCalibration, find_camera
from live_restore.guard.envelope import Envelope, EnvelopeCard, Rung, Specimen
from live_restore.guard.guard import Guard
from live_restore.message_parts import AssessmentHeader
from live_restore.profile import GuardSettings
from live_restore.restore.model import load_model, shipped_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.simulation import SimulatedMicroscope
from live_restore.volume import AcquisitionInfo, ModelUse, Restored, Volume, VolumeKey, utc_now

SHAPE = (16, 96, 96)
USE = ModelUse("smoother", "0" * 64, "float32", "cpu", SHAPE)


def smooth(counts):
    return ndimage.gaussian_filter(counts.astype(np.float32), (0.8, 1, 1))


class Smoother:
    """A network that is known by heart, and counts how often it was asked."""

    step = 0.0
    pooled = None

    def __init__(self):
        self.num_passes = 0

    def as_volume(self, counts):
        self.num_passes += 1
        return smooth(counts)

    def by_itself(self, counts, like):
        self.num_passes += 1
        return smooth(counts)


def restored(photons=20, point=0, channel="nuclei", raw=None, **more):
    scope = SimulatedMicroscope(shape_zyx=SHAPE, peak_photons=photons, seed=3)
    whole = scope.stack(point, channel)
    counts = whole if raw is None else raw
    info = AcquisitionInfo("test", SHAPE, counts.dtype, (0.3, 0.13, 0.13), (channel,))
    volume = Volume(
        VolumeKey("test", "0", point, channel),
        info,
        counts,
        utc_now(),
        utc_now(),
        10.0 * point,
        **more,
    )
    data = smooth(whole if volume.missing else counts)
    return Restored(volume.key, info, data, volume, USE, (100.0, 200.0), {})


@pytest.fixture
def camera():
    return find_camera("demo")


def envelope(camera, **more):
    """One that a good volume of the smoother is inside of."""
    ladder = [(100.0, 0.1), (10.0, 0.25), (3.0, 0.34), (1.0, 0.7)]
    rungs = tuple(Rung(signal=s, nrmse=e, worst=e, estimate=e) for s, e in ladder)
    specimen = Specimen(
        channel="nuclei", num_acquisitions=12, curve=(0.0, 0.6, 0.0), photon_ladder=rungs
    )
    card = EnvelopeCard(
        model_name="smoother",
        model_sha256=USE.sha256,
        camera=camera,
        voxel_size_um=(0.3, 0.13, 0.13),
        shape_zyx=SHAPE,
        tile_zyx=SHAPE,
        attention="whole",
        truth="simulation",
        specimens=(specimen,),
        excesses=tuple(np.linspace(-0.1, 0.04, 19)),
        **more,
    )
    return Envelope(card, {}, {})


def test_a_volume_with_light_enough_is_green(camera):
    found = Guard(camera, envelope(camera)).examine(restored(40), Smoother(), 100.0)
    assert (found.verdict, found.reasons) == ("green", ())
    assert found.is_valid
    assert found.error < found.error_bound < 0.35
    assert (found.coverage, found.num_acquisitions) == (0.9, 19)
    assert found.signal == pytest.approx(0.82 * 40 * 0.8, rel=0.3)
    assert found.severity < 1
    assert found.dose.lowest < 1
    assert found.blind_to  # green doesn't mean sharp


def test_a_volume_with_too_little_light_is_red_and_says_from_where_it_would_hold(camera):
    found = Guard(camera, envelope(camera)).examine(restored(3), Smoother(), 100.0)
    assert found.verdict == "red"
    assert "photoelectrons per voxel; this model was shown to hold from" in " ".join(found.reasons)
    assert found.severity > 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_sha256": "1" * 64}, "another model file"),
        ({"attention": "tile"}, "attention"),
        (
            {"camera": CameraCalibration(camera="other", gain=1, offset=0, read_noise=1)},
            "camera other",
        ),
    ],
)
def test_an_envelope_of_something_else_says_nothing(camera, change, words):
    other = envelope(camera)
    other.card = other.card.model_copy(update=change)
    found = Guard(camera, other).examine(restored(40), Smoother(), 100.0)
    assert found.verdict == "uncalibrated"
    assert words in found.reasons[0]
    assert found.error is not None  # the estimate needs the camera alone
    assert (found.error_bound, found.coverage) == (None, None)


def test_without_a_camera_little_can_be_said_and_that_is_said():
    found = Guard().examine(restored(40), Smoother(), 100.0)
    assert found.verdict == "uncalibrated"
    assert (found.signal, found.error, found.dose) == (None, None, None)
    saturated = np.minimum(restored(40).raw.data, np.uint16(115))
    assert Guard().examine(restored(raw=saturated), Smoother(), 100.0).verdict == "red"


def test_few_acquisitions_give_a_bound_without_a_coverage(camera):
    few = envelope(camera)
    few.card = few.card.model_copy(update={"excesses": (-0.05, 0.01, 0.03)})
    found = Guard(camera, few).examine(restored(40), Smoother(), 100.0)
    assert found.error_bound == pytest.approx(found.error + 0.03)
    assert (found.coverage, found.num_acquisitions) == (None, 3)


def test_an_invalid_volume_has_no_coverage_and_no_advice(camera):
    raw = restored(40).raw.data
    saturated = np.minimum(raw, np.uint16(np.percentile(raw, 99)))
    found = Guard(camera, envelope(camera)).examine(restored(40, raw=saturated), Smoother(), 100.0)
    assert found.verdict == "red"
    assert (found.is_valid, found.coverage, found.dose) == (False, None, None)


def test_a_blind_calibration_gives_no_advice_on_dose(camera):
    blind = camera.model_copy(update={"method": "blind"})
    found = Guard(blind, envelope(blind)).examine(restored(40), Smoother(), 100.0)
    assert found.error is not None
    assert found.dose is None


def test_voxels_of_another_size_are_not_green(camera):
    other = envelope(camera)
    other.card = other.card.model_copy(update={"voxel_size_um": (0.3, 0.2, 0.2)})
    found = Guard(camera, other).examine(restored(40), Smoother(), 100.0)
    assert found.verdict == "amber"
    assert "1.5 times" in found.reasons[0]


def test_missing_planes_are_left_out_and_named(camera):
    raw = restored(40).raw.data.copy()
    raw[[3, 4]] = 0
    found = Guard(camera, envelope(camera)).examine(
        restored(40, raw=raw, missing=(3, 4)), Smoother(), 100.0
    )
    assert found.verdict == "amber"
    assert "2 planes never came" in found.reasons[0]
    assert found.is_valid


def test_without_a_budget_nothing_is_probed(camera):
    probe = Smoother()
    found = Guard(camera, envelope(camera), budget=0.0).examine(restored(40), probe, 100.0)
    assert probe.num_passes == 0
    assert found.error is None
    assert found.signal is not None


def test_a_stream_is_probed_at_its_start_and_then_as_the_budget_allows(camera):
    guard, probe = Guard(camera, envelope(camera), budget=0.1), Smoother()
    guard.examine(restored(40, 0), probe, restoring_s=1e-3)
    first = probe.num_passes
    assert first == 3 * 2 + 4  # three parts for the error, one for the dose
    guard.examine(restored(40, 1), probe, restoring_s=1e-3)
    assert probe.num_passes == first  # in debt
    guard.examine(restored(40, 2), probe, restoring_s=1e4)
    assert probe.num_passes > first


def test_sums_that_take_too_long_are_over_fewer_planes(camera, monkeypatch):
    monkeypatch.setattr("live_restore.guard.guard._FEWEST_SUMMED", restored().raw.data.size // 4)
    guard = Guard(camera, envelope(camera))
    found = [guard.examine(restored(40, t), Smoother(), restoring_s=1e-6) for t in range(4)]
    (stream,) = guard._streams.values()
    assert stream.step == 4
    assert found[3].verdict == "green"
    assert found[3].error == pytest.approx(found[0].error, rel=0.2)


def test_light_of_another_strength_begins_anew(camera):
    guard, probe = Guard(camera, envelope(camera)), Smoother()
    guard.examine(restored(40, 0, exposure_ms=10.0), probe, 1e-3)
    first = probe.num_passes
    guard.examine(restored(20, 1, exposure_ms=5.0), probe, 1e-3)
    assert probe.num_passes == 2 * first


def test_the_same_volume_has_the_same_verdict(camera):
    one, other = (
        Guard(camera, envelope(camera)).examine(restored(40), Smoother(), 1e-3) for _ in range(2)
    )
    assert one == other


def test_a_sharpening_model_is_compared_at_the_raw_volumes_sharpness(camera):
    sharpening = envelope(camera, sharpens=True, transfer_sigma=(0.5, 1.0, 1.0))
    found = Guard(camera, sharpening).examine(restored(40), Smoother(), 100.0)
    assert found.error is not None
    assert any("sharpening" in one for one in found.blind_to)


# --- beside the restorer ---


def volume_of(raw, point=0):
    info = AcquisitionInfo("test", raw.shape, raw.dtype, (0.3, 0.13, 0.13), ("nuclei",))
    return Volume(
        VolumeKey("test", "0", point, "nuclei"), info, raw, utc_now(), utc_now(), time.monotonic()
    )


def test_the_shipped_model_comes_with_its_envelope():
    guard = open_guard(GuardSettings(camera="demo"), shipped_model())
    assert guard.envelope.card.model_sha256 == load_model("default").sha256
    assert guard.envelope.coverage == 0.9
    scope = SimulatedMicroscope(peak_photons=40, seed=901)
    with RcanRestorer(load_model("default"), "cpu", examiner=guard) as restorer:
        bright = restorer.restore(volume_of(scope.stack(0, "nuclei")))
        dark = restorer.restore(volume_of(scope.stack(0, "nuclei", 0.02)))
    assert bright.assessment.verdict == "green"
    assert dark.assessment.verdict == "red"
    assert bright.data.dtype == dark.data.dtype == np.uint16
    assert bright.timing_s["judging"] > 0
    header = AssessmentHeader.of(bright.assessment)
    assert header.dose.headroom == pytest.approx(bright.assessment.dose.headroom)
    assert AssessmentHeader.model_validate_json(header.model_dump_json()) == header


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_guard_changes_no_voxel(tiny_model, dtype):
    raw = SimulatedMicroscope(shape_zyx=SHAPE).stack(0, "nuclei")
    results = []
    for examiner in (None, Guard(find_camera("demo"))):
        with RcanRestorer(tiny_model, "cpu", output_dtype=dtype, examiner=examiner) as restorer:
            results.append(restorer.restore(volume_of(raw)).data)
    assert results[0].dtype == results[1].dtype == dtype
    np.testing.assert_array_equal(*results)
    assert not results[1].flags.writeable


def test_a_guard_that_fails_loses_no_volume(tiny_model, caplog):
    class Broken:
        def examine(self, restored, probe, restoring_s) -> Assessment:
            raise ZeroDivisionError("planted")

    raw = SimulatedMicroscope(shape_zyx=SHAPE).stack(0, "nuclei")
    with (
        RcanRestorer(tiny_model, "cpu", examiner=Broken()) as restorer,
        caplog.at_level(logging.ERROR),
    ):
        result = restorer.restore(volume_of(raw))
    assert result.assessment is None
    assert result.data.dtype == np.uint16
    assert "can't be judged" in caplog.text


def test_tiles_that_pool_alone_are_judged_too(tiny_model):
    from live_restore.restore.manner import Manner

    raw = SimulatedMicroscope(shape_zyx=SHAPE).stack(0, "nuclei")
    with RcanRestorer(
        tiny_model, "cpu", manner=Manner(attention="tile"), examiner=Guard(find_camera("demo"))
    ) as restorer:
        found = restorer.restore(volume_of(raw)).assessment
    assert found.error is not None  # of a network that has learnt nothing
