"""A real MMCore with its demonstration camera, through pycromanager."""

import json
import threading
import zlib

import numpy as np
import pytest

from live_restore.cli.profiles import find_profile
from live_restore.errors import SourceError
from live_restore.interfaces import StopSignal
from live_restore.profile import AcquisitionSource
from live_restore.sources.acquisition import OwnAcquisition
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane
from tests.conftest import daemon, live_restore

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
        return list(source.events(stop or StopSignal()))


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
        pytest.param({"properties": {"Camera-Pixel": "1"}}, "can't be started", id="property"),
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
    from ndstorage import Dataset

    saved = Dataset(str(next((tmp_path / "saved").iterdir())))
    try:
        for header in headers:
            if header["kind"] == "raw":
                planes = [
                    saved.read_image(time=header["time"], channel=header["channel"], z=z)
                    for z in range(10)
                ]
                checksums = [zlib.crc32(np.ascontiguousarray(plane)) for plane in planes]
                assert header["received"]["plane_crc32"] == checksums
                assert header["voxel_size_um"] == [0.5, 0.13, 0.13]
    finally:
        saved.close()
