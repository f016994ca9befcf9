"""The closed loop: what the guard finds, the rules, a source, the log, the switch."""

import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import tifffile
from ndstorage import Dataset

from live_restore import reloading
from live_restore import service as service_module
from live_restore.assessment import Assessment, DoseAdvice
from live_restore.client import Control
from live_restore.dose_control import DoseControl
from live_restore.errors import ProfileError, SourceError
from live_restore.keys import KeyFolder
from live_restore.light import Adjustment, Light, LightReading
from live_restore.profile import AcquisitionSource, DoseSettings, WriteSettings, parse_profile
from live_restore.service import Service
from live_restore.sinks.streams import Streams
from live_restore.sinks.volume_frames import described
from live_restore.sinks.writer import Writer
from live_restore.sources.adjusting import AcquisitionLight
from live_restore.volume import Plane, Restored
from tests.conftest import daemon, live_restore, make_restored, make_volume, wait_for
from tests.test_acquisition import whole_images
from tests.test_service import Collector, FakeRestorer


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


# --- the ledger ---


def test_a_position_s_dose_is_the_sum_of_all_its_channels_and_times():
    control = DoseControl(DoseSettings(power_property="Laser-Power"))
    lights = []
    for time, channel, power in ((0, "DAPI", 2.0), (0, "FITC", 3.0), (1, "DAPI", 2.0)):
        volume = make_volume(time=time, channel=channel)
        for z in range(3):
            plane = Plane(volume.key, z, volume.data[z], exposure_ms=10.0, power=power)
            control.plane(plane)
        restored = make_restored(replace(volume, exposure_ms=10.0, power=power))
        lights.append(control.restored(restored).light)
        control.settle(volume.key)
    assert [(one.dose, one.total) for one in lights] == [(60, 60), (90, 150), (60, 210)]
    assert lights[0].unit == "ms x Laser-Power"


def test_a_dose_of_which_something_is_unknown_is_unknown():
    control = DoseControl(DoseSettings())
    volume = make_volume()
    control.plane(Plane(volume.key, 0, volume.data[0], exposure_ms=10.0))
    control.plane(Plane(volume.key, 1, volume.data[1]))
    light = control.restored(make_restored(volume)).light
    assert (light.dose, light.total) == (None, None)


def test_light_travels_in_headers_and_files(tmp_path):
    light = Light(10.0, 2.5, "ms x Laser-Power", 75.0, 300.0, 0.5)
    restored = replace(make_restored(), light=light)
    header = described("s", "restored", Streams(2**20).keep(restored))
    assert header.light.model_dump() == {
        "exposure_ms": 10.0,
        "power": 2.5,
        "unit": "ms x Laser-Power",
        "dose": 75.0,
        "total": 300.0,
        "of_own": 0.5,
    }
    with Writer(WriteSettings(folder=tmp_path)) as writer:
        writer.send(restored)
    (file,) = tmp_path.glob("*.ome.tif")
    with tifffile.TiffFile(file) as tiff:
        for text in ("dose_of_position", "300", "light_of_own", "0.5", "ms x Laser-Power"):
            assert text in tiff.ome_metadata


# --- inside of the acquiring process ---


class FakeCore:
    """As Micro-Manager's core, with one laser."""

    def __init__(self, value="10.0000", preset_sets=False):
        self.value, self.preset_sets, self.exposure = value, preset_sets, 10.0
        self.is_refusing = False

    def get_property(self, device, name):
        return self.value

    def set_property(self, device, name, text):
        if self.is_refusing:
            raise RuntimeError("interlock open")
        self.value = text

    def wait_for_device(self, device):
        return None

    def is_property_read_only(self, device, name):
        return self.value == "read only"

    def get_property_type(self, device, name):
        return 2 if "." in self.value else 3

    def has_property_limits(self, device, name):
        return device == "Laser"

    def get_property_lower_limit(self, device, name):
        return 2.0

    def get_property_upper_limit(self, device, name):
        return 50.0

    def get_camera_device(self):
        return "Camera"

    def get_exposure(self):
        return self.exposure

    def set_exposure(self, value):
        self.exposure = value

    def get_config_data(self, group, preset):
        return self

    def is_property_included(self, device, name):
        return self.preset_sets


def acquisition(**changes):
    fields = {"kind": "acquisition", "channels": ("DAPI", "FITC"), "exposure_ms": (10, 5)}
    return AcquisitionSource.model_validate(fields | changes)


class Acquiring:
    """Drives the hooks as an acquisition engine would."""

    def __init__(self, name="Laser-Power", core=None, **table):
        self.core = core or FakeCore()
        fields = {"control": "down", "device_property": name} | table
        self.told = []
        dose = DoseSettings.model_validate(fields)
        self.light = AcquisitionLight(self.core, dose, acquisition(), self.told.append)

    def volume(self, time=0, channel="DAPI", first=0, exposure=10.0):
        """A sequence of three planes; exposures as they are taken."""
        events = [
            {"axes": {"time": time, "channel": channel, "z": z}, "exposure": exposure}
            for z in range(first, first + 3)
        ]
        events = self.light.before_hardware(events)
        self.core.exposure = events[0]["exposure"]
        assert self.light.after_hardware(events) is events
        return [one["exposure"] for one in events]


def test_a_property_is_set_before_a_volume_and_read_back():
    acquiring = Acquiring()
    acquiring.volume(0)
    acquiring.light.ask(Adjustment("", 7.0))
    acquiring.volume(0, first=3)  # the same volume goes on
    assert acquiring.core.value == "10.0000"
    acquiring.volume(1)
    assert (acquiring.core.value, acquiring.told[-1].value) == ("7", 7.0)
    assert acquiring.told[-1].is_ours
    assert acquiring.light.power_of({"time": 1, "channel": "DAPI"}) == 7.0
    assert acquiring.light.power_of({"time": 0, "channel": "DAPI"}) == 10.0
    acquiring.light.finish()
    assert float(acquiring.core.value) == 10.0


@pytest.mark.parametrize(("asked", "expected"), [(1000.0, 10.0), (0.5, 2.0)])
def test_what_is_asked_for_is_bounded_by_the_device_and_the_users_own(asked, expected):
    acquiring = Acquiring()
    acquiring.volume(0)
    acquiring.light.ask(Adjustment("", asked))
    acquiring.volume(1)
    assert float(acquiring.core.value) == expected


def test_whole_numbers_are_rounded_towards_what_was():
    acquiring = Acquiring(core=FakeCore("10"))
    acquiring.light.ask(Adjustment("", 6.3))
    acquiring.volume(0)
    assert (acquiring.core.value, acquiring.told[-1].problem) == ("7", "")


def test_his_hand_wins_over_what_is_asked_for():
    acquiring = Acquiring()
    acquiring.volume(0)
    acquiring.light.ask(Adjustment("", 7.0))
    acquiring.core.value = "4.0"
    acquiring.volume(1)
    acquiring.volume(2)
    acquiring.light.finish()
    assert float(acquiring.core.value) == 4.0
    assert [(one.value, one.own, one.is_ours) for one in acquiring.told] == [(4.0, 4.0, False)]


def test_an_exposure_set_by_hand_becomes_his_channel_s():
    acquiring = Acquiring("exposure")
    acquiring.volume(0, "DAPI")
    acquiring.core.exposure = 3.0
    assert acquiring.volume(1, "DAPI") == [3.0] * 3
    assert acquiring.volume(1, "FITC") == [5.0] * 3
    assert [(one.channel, one.own) for one in acquiring.told] == [("DAPI", 3.0)]


def test_each_channel_has_its_own_exposure():
    acquiring = Acquiring("exposure")
    acquiring.light.ask(Adjustment("FITC", 4.0))
    assert acquiring.volume(0, "DAPI") == [10.0] * 3
    assert acquiring.volume(0, "FITC") == [4.0] * 3
    acquiring.light.give_back()
    assert acquiring.volume(1, "FITC") == [5.0] * 3


def test_a_hardware_sequence_of_one_exposure_stays_one():
    """A camera that can't sequence exposures would abort the acquisition."""
    acquiring = Acquiring("exposure")
    events = [
        {"axes": {"channel": channel, "z": z}, "exposure": 10.0}
        for channel in ("DAPI", "FITC")
        for z in range(2)
    ]
    assert {one["exposure"] for one in acquiring.light.before_hardware(events)} == {10.0}


def test_a_device_that_refuses_and_an_event_of_any_kind_stop_no_acquisition(caplog):
    acquiring = Acquiring()
    acquiring.core.is_refusing = True
    acquiring.light.ask(Adjustment("", 7.0))
    acquiring.volume(0)
    assert acquiring.told[-1].problem == "asked for 7, it stands at 10"
    acquiring.core.value = "gone"
    for event in ({}, {"special": "sequence-end"}, {"axes": {"z": 0}}, {"axes": {}}):
        assert acquiring.light.before_hardware(event) is event
        assert acquiring.light.after_hardware(event) is event


@pytest.mark.parametrize(
    ("core", "expected"),
    [
        (FakeCore("high"), "can't be read as a number"),
        (FakeCore(preset_sets=True), "the preset 'DAPI' of 'Channel' sets it too"),
    ],
)
def test_a_property_that_cannot_be_controlled_is_refused(core, expected):
    with pytest.raises(SourceError, match=expected):
        Acquiring(core=core)


# --- a real core ---


def profile(tmp_path, table, endpoints=None, keys="", **source):
    pytest.importorskip("mm_test_adapters")
    fields = {
        "kind": "acquisition",
        "channels": ["DAPI", "FITC"],
        "num_slices": 3,
        "num_times": 500,
        "exposure_ms": [10, 5],
        "interval_s": 0.02,
    } | source
    publish = ""
    if endpoints:
        publish = (
            f"[publish]\nkeys = '{keys}'\nendpoint = '{endpoints[0]}'\ncontrol = '{endpoints[1]}'\n"
        )
    text = "[source]\n" + "".join(f"{name} = {json.dumps(v)}\n" for name, v in fields.items())
    text += '[source.properties]\n"Camera-PixelType" = "16bit"\n' + publish
    text += "[dose]\ninterval_s = 0\n" + "".join(
        f"{n} = {json.dumps(v)}\n" for n, v in table.items()
    )
    file = tmp_path / "loop.toml"
    file.write_text(text, encoding="utf-8")
    return file


class Judging(FakeRestorer):
    """Finds what a test says of each volume."""

    def __init__(self, finds):
        super().__init__()
        self._finds = finds

    def restore(self, volume):
        return replace(super().restore(volume), assessment=self._finds(volume))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a service on the demonstration camera until a test has seen enough."""

    def run(table, finds, until, reload=None, **source):
        file = profile(tmp_path, table, **source)
        collector = Collector()
        read = lambda: parse_profile(file.read_text(encoding="utf-8"), file)  # noqa: E731
        service = Service(read(), read_profile=read)
        monkeypatch.setattr(service_module, "open_sinks", lambda *_: {"a": collector})
        monkeypatch.setattr(reloading, "open_restorer", lambda _: Judging(finds))
        results = []
        thread = threading.Thread(target=lambda: results.append(service.run()))
        thread.start()
        try:
            wait_for(lambda: until(collector.of(Restored)) or not thread.is_alive(), "the loop")
            if reload:
                text = file.read_text(encoding="utf-8")
                file.write_text(text.replace('"down"', '"off"'), encoding="utf-8")
                service.reload()
                wait_for(lambda: reload(collector.of(Restored)), "the reloaded profile")
        finally:
            service.stop()
            thread.join()
        assert results == [True]
        return collector.of(Restored)

    return run


def exposures(volumes, channel="DAPI"):
    taken = sorted((v.key.time, v.raw.exposure_ms) for v in volumes if v.key.channel == channel)
    return [exposure for _, exposure in taken]


def changes(values):
    return [value for i, value in enumerate(values) if i == 0 or value != values[i - 1]]


def test_on_a_real_core_exposure_goes_down_within_bounds_and_back_on_a_red_flag(run):
    def finds(volume):
        if volume.key.channel == "FITC":
            return assessment(1.0)
        return RED if volume.exposure_ms == 4.0 else assessment(0.5)

    volumes = run(
        {"control": "down", "least": 4.0},
        finds,
        lambda got: 4.0 in exposures(got) and exposures(got)[-1] == 10.0,
    )
    assert changes(exposures(volumes)) == [10.0, 7.0, 4.9, 4.0, 10.0]
    assert set(exposures(volumes, "FITC")) == {5.0}
    lights = {v.raw.exposure_ms: v.light.of_own for v in volumes if v.key.channel == "DAPI"}
    assert lights[7.0] == pytest.approx(0.7)
    last = max(volumes, key=lambda v: (v.light.total, v.key.time))
    assert last.light.total == pytest.approx(sum(v.light.dose for v in volumes))


def test_on_a_real_core_a_dry_run_changes_nothing(run, caplog):
    caplog.set_level("INFO")
    volumes = run(
        {"control": "dry-run"},
        lambda volume: assessment(0.3),
        lambda got: len(got) > 20,
    )
    assert set(exposures(volumes)) == {10.0}
    assert "would go from 10 to 7" in caplog.text


def test_on_a_real_core_a_property_is_lowered_and_comes_back_with_the_profile(run):
    """The camera's simulated photon flux stands for a laser's power; two photons are absorbed."""
    volumes = run(
        {"control": "down", "device_property": "Camera-Photon Flux", "photons_absorbed": 2},
        lambda volume: assessment(0.8),
        lambda got: any(v.raw.power < 40 for v in got),
        reload=lambda got: got[-1].raw.power == 50.0,
    )
    powers = [v.raw.power for v in sorted(volumes, key=lambda v: (v.key.time, v.key.channel))]
    assert changes(powers)[:2] == [50.0, pytest.approx(50 * 0.8**0.5, abs=1e-3)]
    assert powers[-1] == 50.0
    assert {v.light.unit for v in volumes} == {"ms x Camera-Photon Flux"}


_KILLED = """
import os, sys
from live_restore.interfaces import StopSignal
from live_restore.light import Adjustment
from live_restore.profile import AcquisitionSource, DoseSettings
from live_restore.sources.acquisition import OwnAcquisition
from live_restore.volume import Plane
settings = AcquisitionSource.model_validate_json(sys.argv[1])
with OwnAcquisition(settings, DoseSettings(control="down")) as source:
    for event in source.events(StopSignal()):
        if isinstance(event, Plane) and event.key.time == 0:
            source.adjust(Adjustment("camera", 4.0))
        if isinstance(event, Plane) and event.exposure_ms == 4.0:
            os.kill(os.getpid(), 9)
"""


def test_a_killed_daemon_leaves_an_acquisition_that_goes_on_with_the_users_light(tmp_path):
    pytest.importorskip("mm_test_adapters")
    settings = acquisition(
        channels=(), exposure_ms=10, num_slices=3, num_times=60, interval_s=0.05,
        properties={"Camera-PixelType": "16bit"}, save_folder=str(tmp_path),
    )  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", _KILLED, settings.model_dump_json()], check=False)
    assert ended.returncode == -9
    index = wait_for(lambda: list(tmp_path.glob("*/NDTiff.index")), "the dataset")[0]
    wait_for(lambda: len(whole_images(index)) == 60 * 3, "all planes on disk")
    dataset = Dataset(str(index.parent))
    try:
        taken = [
            [dataset.read_metadata(time=t, z=z)["Exposure"] for z in range(3)] for t in range(60)
        ]
    finally:
        dataset.close()
    assert all(len(set(stack)) == 1 for stack in taken)  # never within a volume
    assert changes([stack[0] for stack in taken]) == [10.0, 4.0, 10.0]


def test_the_switch_on_the_command_line(tmp_path, endpoints, tiny_model):
    folder = KeyFolder(tmp_path / "keys")
    folder.init()
    table = {"control": "dry-run"}
    file = profile(tmp_path, table, endpoints, tmp_path / "keys", interval_s=0.5)
    with file.open("a") as text:
        text.write(f"[model]\npath = '{tiny_model.path}'\n")
    with daemon(file) as process, Control(endpoints[1], keys=folder.own_client()) as control:
        wait_for(lambda: control.status()["dose"].get("lights"), "the light")
        assert "dose control is off" in live_restore("dose", "off", file).stdout
        wait_for(lambda: control.status()["dose"]["frozen"] == "switched off", "the switch")
        told = live_restore("dose", "status", file).stdout
        assert "dose control: dry-run, frozen: switched off" in told
        assert "exposure of DAPI: 10, 100 % of yours" in told
        assert "dose control is on" in live_restore("dose", "on", file).stdout
        process.terminate()
        assert process.wait(60) == 0
