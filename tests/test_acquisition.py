"""A real MMCore with its demonstration camera, through pycromanager."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
from ndstorage import Dataset

from live_restore.cli.profiles import find_profile
from live_restore.errors import SourceError
from live_restore.interfaces import StopSignal
from live_restore.profile import AcquisitionSource
from live_restore.sources import acquisition
from live_restore.sources.acquisition import OwnAcquisition
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, SourceState
from tests.conftest import daemon, live_restore, wait_for

pytest.importorskip("mm_test_adapters")


def settings(**changes):
    fields = {
        "kind": "acquisition",
        "channels": ("DAPI", "FITC"),
        "num_slices": 4,
        "num_times": 2,
        "z_step_um": 0.3,
        "exposure_ms": 1,
        "pixel_size_um": 0.1,
        "properties": {"Camera-PixelType": "16bit"},
    }
    return AcquisitionSource.model_validate(fields | changes)


def acquire(stop=None, **changes):
    with OwnAcquisition(settings(**changes)) as source:
        events = source.events(stop or StopSignal())
        return [event for event in events if not isinstance(event, SourceState)]


def test_a_time_lapse_on_a_real_core_arrives_whole_and_a_second_one_too():
    for _ in range(2):
        events = acquire()
        info, end = events[0], events[-1]
        assert isinstance(info, AcquisitionInfo)
        assert isinstance(end, AcquisitionEnd)
        assert end.reason == "finished"
        assert info.shape_zyx == (4, 512, 512)
        assert info.dtype == np.uint16
        assert info.voxel_size_um == (0.3, 0.1, 0.1)
        places = {(p.key.time, p.key.channel, p.z) for p in events if isinstance(p, Plane)}
        assert len(events) == 2 + 16
        assert places == {(t, c, z) for t in range(2) for c in ("DAPI", "FITC") for z in range(4)}
        assert not any(p.data.flags.writeable for p in events if isinstance(p, Plane))


def test_an_eight_bit_camera_and_a_single_channel_are_taken():
    events = acquire(channels=(), properties={"Camera-PixelType": "8bit"}, num_times=1)
    assert events[0].dtype == np.uint8
    assert events[0].channels == ("camera",)
    assert {p.key.channel for p in events if isinstance(p, Plane)} == {"camera"}


@pytest.mark.parametrize("sequences", ["No", "Yes"])
def test_planes_are_what_pycromanager_saves(tmp_path, sequences):
    """Software and hardware-sequenced z; each frame of this camera is another."""
    noise = {
        "Camera-PixelType": "16bit",
        "Camera-Mode": "Noise",
        "Z-UseSequences": sequences,
    }
    events = acquire(
        save_folder=str(tmp_path),
        properties=noise,
        positions=[{"x_um": 0, "y_um": 0, "name": "cell A"}, {"x_um": 5, "y_um": 0}],
        exposure_ms=(2, 1),
    )
    assert events[0].positions == ("cell A", "1")
    assert events[-1].reason == "finished"
    planes = [event for event in events if isinstance(event, Plane)]
    assert len(planes) == 2 * 2 * 2 * 4
    assert len({plane.data.tobytes() for plane in planes}) == len(planes)
    assert {plane.exposure_ms for plane in planes if plane.key.channel == "FITC"} == {1}
    with saved(tmp_path) as dataset:
        for plane in planes:
            key = plane.key
            expected = dataset.read_image(
                position=key.position, time=key.time, channel=key.channel, z=plane.z
            )
            np.testing.assert_array_equal(plane.data, expected)


def test_an_acquisition_that_is_saved_outlives_this_program(tmp_path):
    fields = settings(save_folder=str(tmp_path), num_times=20, interval_s=0.1, name="long")
    code = (
        "import sys, os\n"
        "from live_restore.interfaces import StopSignal\n"
        "from live_restore.profile import AcquisitionSource\n"
        "from live_restore.sources.acquisition import OwnAcquisition\n"
        "from live_restore.volume import Plane\n"
        "source = OwnAcquisition(AcquisitionSource.model_validate_json(sys.argv[1]))\n"
        "with source:\n"
        "    for event in source.events(StopSignal()):\n"
        "        if isinstance(event, Plane):\n"
        "            os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, fields.model_dump_json()], check=False)
    assert ended.returncode == -9
    # The index is written whole only when the acquisition has ended by itself.
    index = wait_for(lambda: list(tmp_path.glob("long*/NDTiff.index")), "the dataset")[0]
    wait_for(lambda: len(whole_images(index)) == 20 * 2 * 4, "all planes on disk")


def test_when_restoration_fails_the_acquisition_goes_on_to_disk(tmp_path):
    stop = StopSignal()
    with OwnAcquisition(
        settings(save_folder=str(tmp_path), num_times=10, interval_s=0.1)
    ) as source:
        for event in source.events(stop):
            if isinstance(event, Plane):
                stop.fail()
            last = event
    assert "the acquisition itself goes on" in last.reason
    index = wait_for(lambda: list(tmp_path.glob("*/NDTiff.index")), "the dataset")[0]
    wait_for(lambda: len(whole_images(index)) == 10 * 2 * 4, "all planes on disk")


def begun(source, stop):
    """Its events after the first plane."""
    events = source.events(stop)
    next(event for event in events if isinstance(event, Plane))
    return events


def test_when_nobody_takes_its_planes_the_acquisition_goes_on_to_disk(tmp_path, caplog):
    """As when a stage died: its queue is closed before anybody sets the signal."""
    saving = settings(save_folder=str(tmp_path), num_times=10, interval_s=0.1)
    with OwnAcquisition(saving) as source:
        begun(source, StopSignal()).close()
    assert "the acquisition goes on without this program" in caplog.text
    index = wait_for(lambda: list(tmp_path.glob("*/NDTiff.index")), "the dataset")[0]
    wait_for(lambda: len(whole_images(index)) == 10 * 2 * 4, "all planes on disk")


@pytest.mark.parametrize("is_saved", [True, False])
def test_who_asked_to_stop_or_does_not_save_gets_no_more_light(tmp_path, caplog, is_saved):
    """However the events end: what is asked for twice closes them."""
    stop = StopSignal()
    folder = {"save_folder": str(tmp_path)} if is_saved else {}
    with OwnAcquisition(settings(num_times=1000, interval_s=0.2, **folder)) as source:
        events = begun(source, stop)
        if is_saved:
            stop.set()
        events.close()
        assert not source._child.is_left
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 20
    assert "killed" not in caplog.text


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes can't be held here")
def test_an_acquiring_process_that_does_not_stop_is_killed(monkeypatch, caplog):
    monkeypatch.setattr(acquisition, "_STOP_S", 2.0)
    monkeypatch.setattr(acquisition, "_END_S", 0.5)
    stop = StopSignal()
    with OwnAcquisition(settings(num_times=1000, interval_s=0.1)) as source:
        events = begun(source, stop)
        os.kill(source._child.pid, signal.SIGSTOP)
        stop.set()
        with pytest.raises(SourceError, match="told to stop 2 s ago and doesn't"):
            list(events)
        assert source._child.is_alive
    assert "is killed" in caplog.text
    assert not source._child.is_alive


def test_an_acquiring_process_that_dies_is_an_error_that_says_so():
    with OwnAcquisition(settings(num_times=1000, interval_s=0.1)) as source:
        events = source.events(StopSignal())
        for event in events:
            if isinstance(event, Plane):
                os.kill(source._child.pid, 9)
                break
        with pytest.raises(SourceError, match="ended with code"):
            list(events)


@contextmanager
def saved(folder):
    dataset = Dataset(str(next(folder.iterdir())))
    try:
        yield dataset
    finally:
        dataset.close()


def whole_images(index):
    """The records of an NDTiff index that are there so far."""
    content, at, found = index.read_bytes(), 0, []
    while at + 4 <= len(content):
        (length,) = struct.unpack_from("<I", content, at)
        if length == 0 or at + 4 + length + 4 > len(content):
            break
        axes = content[at + 4 : at + 4 + length]
        (name,) = struct.unpack_from("<I", content, at + 4 + length)
        at += 8 + length + name + 32
        if at <= len(content):
            found.append(axes)
    return found


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3, 1.0])
def test_stopping_aborts_the_acquisition(after_s):
    stop = StopSignal()
    timer = threading.Timer(after_s, stop.set)
    timer.start()
    events = acquire(stop, num_times=1000, interval_s=0.2)
    timer.join()
    assert len(events) < 1000
    if events:
        assert events[-1] == AcquisitionEnd(events[0].acquisition, "stopped")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"channels": ("DAPY",)}, "'DAPY' is no preset of the group", id="channel"),
        pytest.param({"config_file": "none.cfg"}, "can't be started", id="configuration"),
        pytest.param({"micro_manager": "/nowhere"}, "isn't there", id="folder"),
        pytest.param({"properties": {"Camera-Pixel": "1"}}, "Camera-Pixel", id="property"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_acquired(changes, expected):
    with pytest.raises(SourceError) as caught:
        acquire(**changes)
    assert expected in str(caught.value)


def test_the_democam_profile_arrives_whole_in_another_process(tmp_path, endpoints):
    """`live-restore run profiles/democam.toml` beside `live-restore listen --json`."""
    text = find_profile("democam").read_text(encoding="utf-8")
    text = text.replace("tcp://127.0.0.1:5556", endpoints[0]).replace(
        "tcp://127.0.0.1:5557", endpoints[1]
    )
    text = text.replace("interval_s = 1.0", "interval_s = 0.0\nsave_folder = 'saved'")
    profile = tmp_path / "democam.toml"
    profile.write_text(text, encoding="utf-8")
    with daemon(profile) as process:
        heard = live_restore(
            "listen", endpoints[0], "--control", endpoints[1], "--from-start", "--json", "--raw", "--checksums",
            "--count", 12, "--timeout", 100,
        )  # fmt: skip
        assert heard.returncode == 0, heard.stderr
        assert process.wait(60) == 0
    headers = [json.loads(line) for line in heard.stdout.splitlines()]
    assert {(h["kind"], h["time"], h["channel"]) for h in headers} == {
        (k, t, c) for k in ("raw", "restored") for t in range(3) for c in ("DAPI", "FITC")
    }
    with saved(tmp_path / "saved") as dataset:
        for header in headers:
            if header["kind"] == "raw":
                planes = [
                    dataset.read_image(time=header["time"], channel=header["channel"], z=z)
                    for z in range(10)
                ]
                checksums = [zlib.crc32(np.ascontiguousarray(plane)) for plane in planes]
                assert header["received"]["plane_crc32"] == checksums
                assert header["voxel_size_um"] == [0.5, 0.13, 0.13]
                assert header["exposure_ms"] == 10
