"""The closed loop on a real MMCore with its demonstration camera."""

import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from ndstorage import Dataset

from live_restore import reloading
from live_restore import service as service_module
from live_restore.client import Control
from live_restore.keys import KeyFolder
from live_restore.profile import parse_profile
from live_restore.service import Service
from live_restore.volume import Restored
from tests.conftest import daemon, live_restore, wait_for
from tests.test_acquisition import whole_images
from tests.test_adjusting import acquisition
from tests.test_dose_control import RED, assessment
from tests.test_service import Collector, FakeRestorer


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
        monkeypatch.setattr(reloading, "open_restorer", lambda *_: Judging(finds))
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
