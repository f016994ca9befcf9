"""The envelope: what it says, what it is bound to, and its file."""

from __future__ import annotations

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from live_restore.errors import CalibrationError
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.envelope import (
    Envelope,
    EnvelopeCard,
    Rung,
    Specimen,
    bound_margin,
    envelope_beside,
)
from live_restore.guard.shift import Likeness
from live_restore.volume import ModelUse

CAMERA = CameraCalibration(camera="Orca", mode="16 bit", gain=2.0, offset=100.0, read_noise=1.5)
LADDER = ((64.0, 0.1), (16.0, 0.2), (4.0, 0.4), (1.0, 0.8))  # signal, worst tenth


def specimen(ladder=LADDER, channel="DAPI"):
    rungs = tuple(Rung(signal=s, nrmse=w / 1.2, worst=w, estimate=w / 1.3) for s, w in ladder)
    return Specimen(channel=channel, num_acquisitions=12, curve=(0, 0.16, 0), photon_ladder=rungs)


def card(**changes):
    fields = {
        "model_name": "mine",
        "model_sha256": "a" * 64,
        "camera": CAMERA,
        "voxel_size_um": (0.3, 0.1, 0.1),
        "shape_zyx": (16, 64, 64),
        "tile_zyx": (16, 32, 32),
        "attention": "whole",
        "truth": "unseen photons",
        "specimens": (specimen(),),
        "excesses": tuple(np.linspace(-0.1, 0.05, 12)),
    }
    return EnvelopeCard(**(fields | changes))


def use(sha256="a" * 64, tile=(16, 32, 32), attention="whole"):
    return ModelUse("mine", sha256, "float32", "cpu", tile, attention)


# The bound


@pytest.mark.parametrize(
    ("excesses", "margin", "coverage"),
    [
        pytest.param([], 0.0, None, id="none"),
        pytest.param([0.03], 0.03, None, id="one"),
        pytest.param([-0.1] * 7 + [0.04], 0.04, None, id="eight are too few"),
        pytest.param([0.0] * 8 + [0.05], 0.05, 0.9, id="nine: the largest"),
        pytest.param([0.01] * 18 + [0.05], 0.01, 0.9, id="nineteen: the largest but one"),
        pytest.param([0.05, *[0.0] * 9], 0.05, 0.9, id="ten, unsorted: the largest"),
        pytest.param([-0.1] * 9, 0.0, 0.9, id="never below the estimate"),
    ],
)
def test_a_bound_is_stated_from_nine_acquisitions_on(excesses, margin, coverage):
    assert bound_margin(excesses) == (margin, coverage)


def test_the_bound_covers_what_it_says():
    rng = np.random.default_rng(0)
    excesses = rng.lognormal(-3, 0.2, (4000, 20))
    covered = [new <= bound_margin(list(old))[0] for *old, new in excesses]
    # 19 acquisitions: exactly 0.9 to 0.95, and a standard error of 0.005.
    assert 0.885 < np.mean(covered) < 0.965


# The ladder


def test_the_signal_for_an_error_lies_between_rungs():
    one = specimen()
    assert one.signal_for(0.2) == pytest.approx(16.0)
    # Error as one over the root of the signal: exactly so between these.
    assert one.signal_for(0.3) == pytest.approx(4 * (0.4 / 0.3) ** 2)
    assert one.signal_for(0.1) == pytest.approx(64.0)
    assert one.signal_for(0.09) is None
    assert one.signal_for(0.9) == 1.0
    assert one.signal_range == (1.0, 64.0)


def test_a_rung_that_fails_ends_the_ladder_however_good_those_below_are():
    one = specimen(((64.0, 0.1), (16.0, 0.5), (4.0, 0.2), (1.0, 0.2)))
    assert 16.0 < one.signal_for(0.3) < 64.0
    assert specimen(((64.0, 0.5), (16.0, 0.1))).signal_for(0.3) is None


# What it is bound to


@pytest.mark.parametrize(
    ("attention", "used", "camera", "expected"),
    [
        pytest.param("whole", use(), CAMERA, "", id="fits"),
        pytest.param("whole", use(tile=(8, 8, 8)), CAMERA, "", id="other tiles, whole attention"),
        pytest.param("whole", use(sha256="b" * 64), CAMERA, "another model file", id="model"),
        pytest.param("whole", use(), None, "names no camera calibration", id="no camera"),
        pytest.param(
            "whole",
            use(),
            CAMERA.model_copy(update={"mode": "12 bit"}),
            r"Orca \(16 bit\), this is Orca \(12 bit\)",
            id="mode",
        ),
        pytest.param("whole", use(attention="tile"), CAMERA, "these are", id="attention"),
        pytest.param("tile", use(attention="tile"), CAMERA, "", id="same tiles"),
        pytest.param(
            "tile", use(tile=(8, 8, 8), attention="tile"), CAMERA, r"\(8, 8, 8\)", id="tiles"
        ),
    ],
)
def test_what_it_is_not_of_is_said(attention, used, camera, expected):
    found = Envelope(card(attention=attention), {}, {}).mismatch(used, camera)
    if not expected:
        assert found == ""
    else:
        assert re.search(expected, found)


def test_voxels_are_compared_where_both_are_known():
    envelope = Envelope(card(), {}, {})
    assert envelope.voxel_ratio((0.3, 0.1, 0.1)) == pytest.approx(1)
    assert envelope.voxel_ratio((0.3, 0.1, 0.2)) == pytest.approx(2)
    assert envelope.voxel_ratio((0.1, 0.1, 0.1)) == pytest.approx(3)
    assert envelope.voxel_ratio(None) is None
    assert Envelope(card(voxel_size_um=None), {}, {}).voxel_ratio((1, 1, 1)) is None


# Its file


def test_it_is_the_same_from_its_file(tmp_path):
    rng = np.random.default_rng(0)
    signals = np.geomspace(1, 50, 40)
    kin = Likeness.of(signals, rng.normal(0, 1, (40, 6)))
    both = card(specimens=(specimen(), specimen(channel="GFP/µ")))
    path = tmp_path / "new" / "mine.envelope"
    Envelope(both, {"GFP/µ": kin}, {"DAPI": kin}).save(path)
    found = Envelope.load(path)
    assert found.card == both
    assert set(found.likeness) == {"GFP/µ"}
    assert set(found.fineness) == {"DAPI"}
    row = rng.normal(0, 1, 6)
    # Kept in float32.
    assert found.likeness["GFP/µ"].distance(7, row) == pytest.approx(kin.distance(7, row), rel=1e-4)
    assert (found.margin, found.coverage) == (max(both.excesses), 0.9)
    assert found.bound(0.2) == 0.2 + found.margin
    assert found.bound(0.99) == 1.0
    assert [one.name for one in path.parent.iterdir()] == ["mine.envelope"]
    assert envelope_beside(tmp_path / "mine.safetensors") == tmp_path / "mine.envelope"


@pytest.mark.parametrize("damage", ["gone", "empty", "text", "cut", "no card", "wrong card", "key"])
def test_a_damaged_file_is_refused(damage, tmp_path):
    path = tmp_path / "mine.envelope"
    Envelope(card(), {}, {}).save(path)
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage in ("empty", "text", "cut"):
        path.write_bytes({"empty": b"", "text": b"no envelope at all", "cut": whole[:60]}[damage])
    else:
        metadata = {
            "no card": {},
            "wrong card": {"live_restore.envelope": "{}"},
            "key": {
                "live_restore.envelope": card().model_dump_json().replace('"excesses"', '"excess"')
            },
        }[damage]
        save_file({"a": np.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CalibrationError, match=r"mine\.envelope: isn't an envelope"):
        Envelope.load(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match="can't be written"):
        Envelope(card(), {}, {}).save(tmp_path / "file" / "mine.envelope")
