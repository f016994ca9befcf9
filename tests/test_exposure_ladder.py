"""A ladder of light, on simulated fields whose truth, bleaching and drift are known."""

import numpy as np
import pytest

from live_restore.characterize.climbing import advise_ladder, climb
from live_restore.characterize.exposure_ladder import (
    Bleach,
    Drift,
    LadderField,
    LadderStep,
    Truth,
    check_linear,
    measure_camera,
)
from live_restore.characterize.ladder import Pusher, true_nrmse
from live_restore.characterize.ladder_folder import LadderCard
from live_restore.characterize.ladder_report import sentences
from live_restore.errors import CalibrationError
from live_restore.guard.camera import find_camera
from live_restore.guard.dose import MARGIN_ALIKE
from live_restore.restore.manner import Manner
from live_restore.restore.model import load_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.simulation.microscope import SimulatedMicroscope

CAMERA = find_camera("demo")
SHAPE = 12, 96, 96
VOXEL = 0.3, 0.13, 0.13
NORMAL_MS = 10.0
EXPOSURE = LadderCard(
    control="exposure", reference=NORMAL_MS, channel="", fields=("0",), voxel_size_um=None
)
_rates = {}


def rate_of(seed, size=0):
    """Photons per voxel of a normal stack, over its brightest."""
    if (seed, size) not in _rates:
        nz, ny, nx = SHAPE
        scope = SimulatedMicroscope((nz, ny + size, nx + size), VOXEL, peak_photons=1.0, seed=seed)
        _rates[seed, size] = scope._photons(0, "microtubules")
    return _rates[seed, size]


def ladder(
    bleaching=0.0,
    *,
    doses=(1 / 16, 1 / 4, 1.0),
    repeats=2,
    peak=150.0,
    seed=7,
    drift=0,
    crooked=1.0,
):
    """A field as the microscope would take it; each stack bleaches those after it."""
    photons, rng, spent, steps = rate_of(seed, 8), np.random.default_rng(seed), 0.0, []
    for number, dose in enumerate([*doses, doses[0]]):
        stacks = []
        for _ in range(repeats):
            left = np.exp(-bleaching * (spent + dose / 2))
            moved = round(drift * number / len(doses))
            seen = photons[:, 4 + moved :, 4:][:, : SHAPE[1], : SHAPE[2]]
            light = dose**crooked
            stacks.append(SimulatedMicroscope().camera.expose(seen * peak * light * left, rng))
            spent += dose
        steps.append(LadderStep(NORMAL_MS * dose, dose, tuple(stacks)))
    return LadderField(f"field {seed}", "DAPI", VOXEL, tuple(steps[:-1]), steps[-1])


def clean(dose, seed=7):
    """Photoelectrons without noise."""
    inner = rate_of(seed, 8)[:, 4:-4, 4:-4]
    return (0.82 * 150.0 * dose * inner).astype(np.float32)


@pytest.mark.parametrize("planted", [0.0, 0.03, 0.06])
def test_planted_bleaching_is_found(planted):
    """Within four of the standard errors that it states, themselves below 1 % of the signal per normal stack."""
    field = ladder(planted)
    found = Bleach.measure(field, Truth(field, CAMERA))
    assert found.rate == pytest.approx(planted, abs=4 * found.rate_error)
    assert found.rate_error < 0.01
    spent = 2 * (1 / 16 + 1 / 4 + 1 + 1 / 16)
    assert found.total_dose == pytest.approx(spent)
    assert found.left(spent) == pytest.approx(1 - found.lost)


@pytest.mark.parametrize(("planted", "is_told"), [(0.0, False), (0.055, True)])
def test_bleaching_is_told_of(planted, is_told):
    field, warnings = ladder(planted), []
    Bleach.measure(field, Truth(field, CAMERA)).check(field.name, warnings)
    assert bool(warnings) == is_told


@pytest.mark.parametrize(
    ("planted", "expected"), [(0.2, "bleached by"), (-0.2, "became brighter by")]
)
def test_a_truth_that_changed_is_refused(planted, expected):
    field = ladder(planted)
    with pytest.raises(CalibrationError, match=expected):
        Bleach.measure(field, Truth(field, CAMERA)).check(field.name, [])


@pytest.mark.parametrize(
    ("drift", "is_told", "is_refused"), [(0, False, False), (1, True, False), (4, True, True)]
)
def test_drift_is_measured_told_of_and_refused(drift, is_told, is_refused):
    """Within a third of a voxel: the lowest step has 9 photons where it is brightest."""
    found, warnings = Drift.measure(ladder(drift=drift)), []
    # What lay at y lies at y - drift later.
    assert found.voxels == pytest.approx((0, -drift, 0), abs=0.34)
    if is_refused:
        with pytest.raises(CalibrationError, match="moved by"):
            found.check("field", warnings)
    else:
        found.check("field", warnings)
        assert bool(warnings) == is_told


def test_an_empty_field_has_nothing_to_restore():
    with pytest.raises(CalibrationError, match="no signal to restore"):
        Truth(ladder(peak=0.0), CAMERA)


def test_a_lowest_step_that_shows_nothing_is_refused():
    field = ladder(doses=(1e-4, 0.3, 1.0))
    with pytest.raises(CalibrationError, match="begin with more light"):
        Bleach.measure(field, Truth(field, CAMERA))


@pytest.mark.parametrize(("crooked", "num"), [(1.0, 0), (1.3, 1)])
def test_light_that_does_not_follow_its_setting_is_told_of(crooked, num):
    field = ladder(0.02, crooked=crooked)
    truth = Truth(field, CAMERA)
    said = check_linear(field, truth, Bleach.measure(field, truth))
    assert len(said) == num
    assert all("0.66 times at 2.5" in one or "at 0.625" in one for one in said)


@pytest.mark.parametrize("doses", [(1.0,), (1.0, 1.0), (1.0, 0.5)])
def test_steps_that_are_none_are_refused(doses):
    with pytest.raises(CalibrationError, match="low to high"):
        ladder(doses=doses)


def test_the_camera_is_calibrated_from_the_ladder_itself():
    rng = np.random.default_rng(1)
    dark = SimulatedMicroscope().camera.expose(np.zeros((10, *SHAPE[1:])), rng)
    found = measure_camera([ladder(0.02, peak=600)], [dark])
    camera = found.calibration("simulated")
    assert camera.gain == pytest.approx(2.17, abs=4 * camera.gain_error * 2.17)
    assert camera.gain_error < 0.03
    assert camera.offset == pytest.approx(100, abs=0.1)
    assert camera.read_noise == pytest.approx(1.6, abs=0.05)
    with pytest.raises(CalibrationError, match="two repeats at least"):
        measure_camera([ladder(repeats=1)], [dark])


class Keeping(RcanRestorer):
    """Keeps the true error of each volume against the noise-free one, which no microscope has."""

    def __enter__(self):
        self.exact = []
        return super().__enter__()

    def restore(self, volume):
        restored, truth = super().restore(volume), clean(1.0)
        variance = float(truth.var(dtype=np.float64))
        self.exact.append(true_nrmse(restored.data, truth, variance))
        return restored


@pytest.fixture(scope="module")
def climbed():
    """A field that bleaches, climbed with the default model; the exact errors beside it."""
    pusher = Pusher(CAMERA)
    with Keeping(load_model("default"), "cpu", "auto", "float32", Manner(), pusher) as restorer:
        field = ladder(0.02, doses=(1 / 16, 1 / 4, 1.0))
        found = climb(restorer, pusher, field, CAMERA)
        return found, restorer.exact


def test_errors_are_those_against_the_noise_free_truth(climbed):
    """Within 6 %: on these volumes of 110 000 voxels the truth's own noise leaves about 3."""
    found, exact = climbed
    assert len(found.results) == len(exact) == 6
    for result, true in zip(found.results, exact, strict=True):
        assert result.outcome.nrmse == pytest.approx(true, rel=0.06)
        assert result.outcome.found.error == pytest.approx(true, rel=0.35)  # of one small volume


def test_doses_are_those_of_a_fresh_specimen(climbed):
    spent = 2 * (1 / 16 + 1 / 4) + 0.5
    top = climbed[0].results[0]
    assert top.value == NORMAL_MS
    assert top.dose == pytest.approx(np.exp(-0.02 * spent), abs=0.03)


@pytest.mark.parametrize("target", [0.25, 0.35, 0.5])
def test_advice_is_right_within_a_step(climbed, target):
    """By the exact errors, which it doesn't know."""
    found, exact = climbed
    advice = advise_ladder([found], target)
    values = [row.value for row in advice.rows]
    means = {
        value: np.mean(
            [
                e
                for e, r in zip(exact, found.results, strict=True)
                if f"{r.value:.3g}" == f"{value:.3g}"
            ]
        )
        for value in values
    }
    right = min(value for value in values if means[value] * MARGIN_ALIKE <= target)
    assert advice.enough is not None
    assert abs(values.index(advice.enough.value) - values.index(right)) <= 1
    assert means[advice.enough.value] <= target
    said = " ".join(sentences(advice, EXPOSURE, 1))
    assert f"{advice.enough.value:g} ms is enough" in said
    assert "1 field of view" in said


def test_a_target_out_of_reach_is_told_of(climbed):
    advice = advise_ladder([climbed[0]], 0.01)
    said = sentences(advice, EXPOSURE, 1)[0]
    assert advice.enough is None
    assert "More light will not help" in said or "are needed" in said
    assert advice.is_floor == ("will not help" in said)


def test_two_photons_take_the_root_of_the_dose():
    card = LadderCard(
        control="Laser-Power",
        reference=20.0,
        photons_absorbed=2,
        channel="",
        fields=("0",),
        voxel_size_um=None,
    )
    assert card.dose_of(10.0) == 0.25
    assert card.value_for(0.25) == 10.0
    assert (
        LadderCard.model_validate(card.model_dump() | {"control": "exposure"}).dose_of(10.0) == 0.5
    )
