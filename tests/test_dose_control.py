"""The closed loop: what the guard finds, the rules, a source, the log, the switch."""

import json
import threading
from dataclasses import replace

import pytest

from live_restore.assessment import Assessment, DoseAdvice
from live_restore.dose_control import DoseControl
from live_restore.errors import ProfileError
from live_restore.light import Adjustment, Light, LightReading
from live_restore.profile import DoseSettings
from live_restore.volume import Plane
from tests.conftest import make_restored, make_volume


def assessment(lowest, verdict="green", **changes):
    return Assessment(verdict, dose=DoseAdvice(0.35, lowest), **changes)


RED = Assessment("red", ("saturated: 3 % of the voxels",))


class Bench:
    """A microscope that does what it is asked for at once, and a dose control that watches it."""

    def __init__(self, folder, **table):
        fields = {"control": "down", "interval_s": 0.0} | table
        self.settings = DoseSettings.model_validate(fields)
        self.log = folder / "state" / "loop.dose.jsonl"
        self.control = DoseControl(self.settings, self.log)
        self.asked = []
        self.light = {"DAPI": 10.0, "FITC": 20.0}
        self.own = dict(self.light)
        self.follows = True
        self.time = 0

    def __enter__(self):
        self.control.__enter__()
        self.control.connect(self)
        for channel in self.light:
            self.tell(channel, is_start=True)
        return self

    def __exit__(self, *error):
        self.control.__exit__(*error)

    def adjust(self, adjustment: Adjustment) -> None:
        self.asked.append((adjustment.channel, adjustment.value))
        if self.follows:
            self.light[adjustment.channel] = adjustment.value
        problem = "" if self.follows else "asked for other light, it stands still"
        self.tell(adjustment.channel, is_ours=True, problem=problem)

    def tell(self, channel, **more):
        value, own = self.light[channel], self.own[channel]
        self.control.reading(LightReading(channel, value, own, **more))

    def hand(self, channel, value):
        self.light[channel] = self.own[channel] = value
        self.tell(channel)

    def volume(self, found, channel="DAPI"):
        """A volume is taken with the present light, restored and assessed; as it is published."""
        volume = make_volume(time=self.time, channel=channel)
        self.time += 1
        for z in range(volume.data.shape[0]):
            plane = Plane(volume.key, z, volume.data[z], exposure_ms=self.light[channel])
            self.control.plane(plane)
        self.control.seen(volume.key)
        restored = make_restored(replace(volume, exposure_ms=self.light[channel]))
        published = self.control.restored(replace(restored, assessment=found))
        self.control.settle(volume.key)
        self.settle()
        return published

    def volumes(self, number, found, channel="DAPI"):
        return [self.volume(found, channel) for _ in range(number)][-1]

    def settle(self):
        """Until everything that was told is considered, twice: readings come of what was asked for."""
        for _ in range(2):
            done = threading.Event()
            self.control._tasks.put(done.set)
            assert done.wait(20)

    def lines(self):
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    @property
    def frozen(self):
        self.settle()
        return self.control.status()["frozen"]


def test_light_is_lowered_step_by_step_to_what_is_needed_and_each_step_is_noted(tmp_path):
    with Bench(tmp_path, least=4.0) as bench:
        bench.volumes(2, assessment(0.5))
        assert bench.light == {"DAPI": 7.0, "FITC": 20.0}
        published = bench.volumes(8, assessment(0.5))
        assert bench.asked == [("DAPI", 7.0), ("DAPI", 4.9), ("DAPI", 4.0)]
        assert published.light.of_own == pytest.approx(0.4)
        assert bench.control.status()["lights"][0] == {
            "channel": "DAPI",
            "value": 4.0,
            "own": 10.0,
            "remark": "the limit is reached",
        }
    lines = bench.lines()
    assert [line["what"] for line in lines[:4]] == ["start", "start", "set", "stands at"]
    assert (lines[2]["from"], lines[2]["to"], lines[2]["channel"]) == (10.0, 7.0, "DAPI")
    assert "met with 0.50 of the present dose" in lines[2]["reason"]
    assert lines[2]["after"] == "run position 0 time 1 DAPI"


def test_a_dry_run_asks_for_nothing_and_says_what_it_would(tmp_path, caplog):
    caplog.set_level("INFO")
    with Bench(tmp_path, control="dry-run") as bench:
        bench.volumes(6, assessment(0.5))
        bench.volume(RED)
        assert bench.frozen
        assert not bench.asked
    assert "dry run: exposure of DAPI would go from 10 to 7" in caplog.text
    assert {line["what"] for line in bench.lines()} == {"start", "propose", "frozen"}


def test_a_red_flag_of_one_channel_gives_all_light_back_until_switched_on(tmp_path, caplog):
    with Bench(tmp_path) as bench:
        for channel in ("DAPI", "FITC"):
            bench.volumes(2, assessment(0.7), channel)
        assert bench.light == {"DAPI": 7.0, "FITC": pytest.approx(14.0)}
        bench.volume(RED)
        assert bench.light == {"DAPI": 10.0, "FITC": 20.0}
        bench.volumes(4, assessment(0.5))
        assert bench.light == {"DAPI": 10.0, "FITC": 20.0}
        assert bench.frozen == "red flag in 0 DAPI: saturated: 3 % of the voxels"
        bench.control.switch_on()
        bench.volumes(2, assessment(0.5))
        assert bench.light["DAPI"] == 7.0
    assert "goes back from 7 to your own 10: red flag" in caplog.text
    assert "frozen until it is switched on again (live-restore dose on)" in caplog.text


def test_switched_off_your_own_light_comes_back(tmp_path):
    with Bench(tmp_path) as bench:
        bench.volumes(2, assessment(0.7))
        assert "comes back" in bench.control.switch_off()
        bench.settle()
        assert bench.light["DAPI"] == 10.0
        bench.volumes(4, assessment(0.5))
        assert bench.light["DAPI"] == 10.0
        assert bench.frozen == "switched off"


def test_the_users_switch_is_told_rather_than_what_froze_it_before(tmp_path):
    with Bench(tmp_path) as bench:
        bench.volume(RED)
        bench.control.switch_off()
        bench.settle()
        assert bench.frozen == "switched off"
        bench.control.switch_on()
        bench.settle()
        assert bench.frozen == ""


def test_control_off_in_a_reloaded_profile_gives_the_light_back(tmp_path):
    with Bench(tmp_path) as bench:
        bench.volumes(2, assessment(0.7))
        bench.control.change(bench.settings.model_copy(update={"control": "off"}))
        bench.settle()
        assert bench.light["DAPI"] == 10.0
        with pytest.raises(ProfileError, match='the profile says control = "off"'):
            bench.control.switch_on()
        bench.control.change(bench.settings)
        bench.volumes(2, assessment(0.7))
        assert bench.light["DAPI"] == 7.0


def test_what_only_a_restart_can_change_is_refused(tmp_path):
    with Bench(tmp_path) as bench:
        for change in ({"device_property": "Laser-Power"}, {"power_property": "Laser-Power"}):
            with pytest.raises(ProfileError, match="restart it"):
                bench.control.change(bench.settings.model_copy(update=change))
    off = DoseControl(DoseSettings())
    with off, pytest.raises(ProfileError, match="restart it"):
        off.change(bench.settings)


def test_the_users_hand_ends_it_and_what_he_set_stays(tmp_path, caplog):
    with Bench(tmp_path) as bench:
        bench.volumes(2, assessment(0.7))
        bench.hand("DAPI", 5.0)
        bench.volumes(4, assessment(0.5))
        assert bench.light["DAPI"] == 5.0
        assert bench.frozen == "you have changed the light yourself"
        published = bench.volume(assessment(0.5))
        assert published.light.of_own == 1.0
    assert "you have changed it from 7 to 5" in caplog.text


def test_a_device_that_does_not_follow_ends_it(tmp_path, caplog):
    with Bench(tmp_path) as bench:
        bench.follows = False
        bench.volumes(4, assessment(0.7))
        assert "doesn't follow" in bench.frozen
        assert bench.light["DAPI"] == 10.0
        assert bench.asked == [("DAPI", 7.0)]


def test_an_error_of_ours_gives_the_light_back(tmp_path, monkeypatch, caplog):
    with Bench(tmp_path) as bench:
        bench.volumes(2, assessment(0.7))
        monkeypatch.setattr(
            "live_restore.guard.control.DoseRules.judge", lambda *_: 1 / 0, raising=True
        )
        bench.volume(assessment(0.7))
        assert bench.light["DAPI"] == 10.0
        assert "it failed" in bench.frozen


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "state").write_text("a file")
    with Bench(tmp_path) as bench:
        bench.volumes(2, assessment(0.7))
        assert bench.light["DAPI"] == 7.0
    assert "isn't noted" in caplog.text


def test_without_control_nothing_runs_and_light_is_counted_all_the_same():
    control = DoseControl(DoseSettings())
    with control:
        volume = make_volume()
        for z in range(3):
            control.plane(Plane(volume.key, z, volume.data[z], exposure_ms=5.0))
        restored = control.restored(make_restored(replace(volume, exposure_ms=5.0)))
        assert restored.light == Light(5.0, None, "ms", 15.0, 15.0)
        assert not control._worker.is_alive()
