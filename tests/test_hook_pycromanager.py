"""Our hook in people's own scripts: the real pycromanager and core, in processes of their own."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import zlib

import numpy as np
import pytest
from ndstorage import Dataset

from live_restore.client import Subscriber, VolumeMessage
from live_restore.messages import EndHeader
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane
from tests.conftest import ROOT, daemon, wait_for
from tests.hooked_acquisition import CHANNELS, SLICES, stamp
from tests.ingesting import IngestingProcess, free_endpoint, ingesting

ANSWER_S = 60.0
PLANE_MB = 0.5  # 512 x 512, 16 bit


class Script:
    """A script that acquires; see `tests.hooked_acquisition`."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hooked_acquisition"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONHASHSEED": "0"},  # ndstorage writes sets in their order
        )
        self._answer()

    def __call__(self, do, **more):
        self.process.stdin.write(json.dumps({"do": do} | more).encode() + b"\n")
        return self._answer()

    def _answer(self):
        assert select.select([self.process.stdout], [], [], ANSWER_S)[0], "the script hangs"
        line = self.process.stdout.readline()
        assert line, f"the script ended with {self.process.wait()}"
        return json.loads(line)

    def acquire(self, folder=None, times=(0, 1), **changes):
        """One acquisition from its beginning to its end."""
        self("begin", folder=str(folder) if folder else None, **changes)
        self("acquire", times=list(times))
        return self("end")

    def leave(self):
        """Let the script come to its end; its exit code."""
        self.process.stdin.close()
        return self.process.wait(ANSWER_S)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def running_script():
    script = Script()
    yield script
    script.kill()


@pytest.fixture
def script(running_script):
    """The same process for many tests, as after its start."""
    yield running_script
    running_script("restore")
    running_script("hook")


@pytest.fixture
def own_script():
    script = Script()
    yield script
    script.kill()


def saved_planes(folder, planes):
    """What pycromanager saved of these planes."""
    (path,) = folder.iterdir()
    dataset = Dataset(str(path))
    try:
        return [dataset.read_image(time=p.key.time, channel=p.key.channel, z=p.z) for p in planes]
    finally:
        dataset.close()


def all_bytes(folder):
    """Of each file, without the second in which pycromanager began it."""
    return {
        path.relative_to(folder): re.sub(
            rb'"DateAndTime": "[^"]+"', b"", path.read_bytes(), count=1
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


PLAN = [
    {"axes": {"time": t, "channel": c, "z": z}, "z": 0.25 * z}
    for t in range(2)
    for c in CHANNELS
    for z in range(SLICES)
]


@pytest.mark.parametrize(
    "known",
    [
        pytest.param({}, id="nothing known"),
        pytest.param({"num_slices": SLICES, "pixel_size_um": 0.1}, id="sizes known"),
        pytest.param({"events": PLAN, "name": "cells"}, id="events known"),
    ],
)
def test_planes_arrive_bit_identical_to_what_pycromanager_saved(script, tmp_path, known):
    """Each frame of the camera is another; the hook itself is pycromanager's function."""
    with ingesting() as daemon:
        script("hook", endpoint=daemon.endpoint, **known)
        script.acquire(tmp_path, direct=True)
        planes = daemon.await_planes(16)
        (end,) = daemon.await_ends()
    (info,) = daemon.of(AcquisitionInfo)
    assert daemon.events.index(info) < daemon.events.index(planes[0])
    assert info.shape_zyx == (SLICES, 512, 512)
    assert info.dtype == np.uint16
    pixel = known.get("pixel_size_um", 1.0)
    assert info.voxel_size_um == (0.25, pixel, pixel)
    assert re.fullmatch(known.get("name", "acquisition") + r"_\d{8}_\d{6}_\d{3}", info.acquisition)
    assert info.origin == "Micro-Manager camera Camera"
    assert end == AcquisitionEnd(info.acquisition, "finished")
    assert len(planes) == 16
    assert len({plane.data.tobytes() for plane in planes}) == 16
    assert {plane.exposure_ms for plane in planes} == {1}
    assert not any(plane.data.flags.writeable for plane in planes)
    np.testing.assert_array_equal([plane.data for plane in planes], saved_planes(tmp_path, planes))


def test_the_end_is_told_by_the_end_of_pycromanager_s_thread_alone(script):
    """Nothing is known of the acquisition, and it is not ended while it merely pauses."""
    with ingesting() as daemon:
        script("hook", endpoint=daemon.endpoint)
        script("begin")
        script("acquire", times=[0])
        script("acquire", times=[1])
        daemon.await_planes(16)
        assert daemon.of(AcquisitionEnd) == []
        script("end")
        assert [end.reason for end in daemon.await_ends()] == ["finished"]


def test_one_hook_serves_two_acquisitions_in_a_row(script):
    with ingesting() as daemon:
        script("hook", endpoint=daemon.endpoint)
        script.acquire()
        script.acquire(times=[0])
        ends = daemon.await_ends(2)
    infos = daemon.of(AcquisitionInfo)
    assert len({info.acquisition for info in infos}) == 2
    assert [end.acquisition for end in ends] == [info.acquisition for info in infos]
    per_run = [
        sum(plane.key.acquisition == info.acquisition for plane in daemon.of(Plane))
        for info in infos
    ]
    assert per_run == [16, 8]


@pytest.fixture(scope="module")
def without_hook(running_script, tmp_path_factory):
    """The bytes of all files of an acquisition without a hook."""
    folder = tmp_path_factory.mktemp("without")
    running_script("hook")
    running_script.acquire(folder, stamp=True)
    return all_bytes(folder)


def assert_same_files(folder, without_hook):
    """Every byte of every file: index, headers, pixels, metadata; the file's ``DateAndTime`` alone
    is left out.

    Pixels are stamped by their place, and the two clocks in each image's metadata, ``Time`` and
    ``ElapsedTime-ms``, by a fixed time, before the hook sees them: nothing that differs between two
    runs by nature is left.
    """
    found = all_bytes(folder)
    assert {path.suffix for path in found} == {".index", ".tif"}
    assert {path: zlib.crc32(content) for path, content in found.items()} == {
        path: zlib.crc32(content) for path, content in without_hook.items()
    }
    assert found == without_hook


def test_saved_files_are_the_same_with_a_daemon_that_reads(script, tmp_path, without_hook):
    with ingesting() as daemon:
        script("hook", endpoint=daemon.endpoint)
        script.acquire(tmp_path, stamp=True)
        daemon.await_ends()
        for plane in daemon.await_planes(16):
            axes = {"time": plane.key.time, "channel": plane.key.channel, "z": plane.z}
            np.testing.assert_array_equal(plane.data, stamp(axes, (512, 512), "u2"))
    assert_same_files(tmp_path, without_hook)


def test_saved_files_are_the_same_without_a_daemon(script, tmp_path, without_hook, endpoints):
    script("hook", endpoint=endpoints[0])
    script.acquire(tmp_path, stamp=True)
    assert_same_files(tmp_path, without_hook)


@pytest.mark.parametrize(
    "name", ["read_pycromanager", "PlaneHeader", "utc_now", "_Run", "PlanesEnd", "np"]
)
def test_a_fault_inside_the_hook_leaves_acquisition_and_files_alone(
    script, tmp_path, without_hook, name
):
    with ingesting() as daemon:
        script("hook", endpoint=daemon.endpoint)
        script("sabotage", name=name)
        script.acquire(tmp_path, stamp=True)
        script("restore")
        # The same hook is at work again afterwards.
        script.acquire()
        daemon.await_ends()
        # Where only the end's word is at fault, the first acquisition's planes come too.
        expected = 32 if name == "PlanesEnd" else 16
        assert len(daemon.await_planes(expected)) == expected
    assert_same_files(tmp_path, without_hook)


def test_a_stopped_daemon_costs_planes_and_nothing_else(script, tmp_path, without_hook, endpoints):
    """24 MB of planes, 4 MB may be on their way, and the rest of the way holds a few."""
    times = range(6)
    with IngestingProcess(endpoints[0]) as daemon:
        script("hook", endpoint=endpoints[0], memory_mb=4, num_slices=SLICES)
        script.acquire()
        wait_for(daemon.ends, "the first acquisition")
        daemon.pause()
        script.acquire(tmp_path / "short", stamp=True)
        script.acquire(tmp_path / "long", times)
        daemon.go_on()
        number = sum(8 * n for n in (2, 2, len(times)))

        def missed():
            told = re.findall(r"before plane \d+, (\d+) w", "".join(daemon.log))
            return sum(int(count) for count in told)

        wait_for(lambda: len(daemon.planes()) + missed() >= number, "word of each plane")
        # How much the system holds on the way decides whether the last one had any.
        names = {plane["acquisition"] for plane in daemon.planes()}
        wait_for(lambda: {end["acquisition"] for end in daemon.ends()} == names, "their ends")
        arrived = len(daemon.planes())
        assert arrived + missed() == number
        assert missed() > 0
        assert arrived >= 16 + 4 / PLANE_MB
    assert_same_files(tmp_path / "short", without_hook)
    assert len({plane["crc32"] for plane in daemon.planes()}) == arrived


def test_a_script_ends_by_itself_beside_a_stopped_daemon(own_script, endpoints):
    with IngestingProcess(endpoints[0]) as daemon:
        own_script("hook", endpoint=endpoints[0], memory_mb=2)
        own_script.acquire(times=[0])
        wait_for(daemon.ends, "the first acquisition")
        daemon.pause()
        own_script.acquire(times=range(4))
        assert own_script.leave() == 0


def test_a_daemon_that_is_started_anew_in_mid_acquisition_takes_the_rest(script, endpoints):
    script("hook", endpoint=endpoints[0])
    script("begin")
    script("acquire", times=[0])  # nobody is there yet
    with IngestingProcess(endpoints[0]) as first:
        times = acquire_until(script, first.planes, 1)
        first.pause()  # planes that are on their way to it are lost with it
        script("acquire", times=[times])
    with IngestingProcess(endpoints[0]) as second:
        times = acquire_until(script, second.planes, times + 1)
        script("end")
        wait_for(second.ends, "the end")
        wait_for(lambda: any("weren't sent" in line for line in second.log), "what was lost")
    assert first.planes()[0]["acquisition"] == second.planes()[0]["acquisition"]
    firsts, seconds = [
        {(p["time"], p["channel"], p["z"]) for p in one.planes()} for one in (first, second)
    ]
    assert firsts.isdisjoint(seconds)
    assert (times - 1, "FITC", SLICES - 1) in seconds


def acquire_until(script, arrived, time):
    """Acquire time points until one arrives; the next time point."""

    def acquire():
        nonlocal time
        script("acquire", times=[time])
        time += 1
        return arrived()

    wait_for(acquire, "planes")
    return time


def test_planes_are_restored_by_a_daemon_beside_the_script(script, tmp_path, endpoints, tiny_model):
    """The whole way: pycromanager, `live-restore run` and a viewer."""
    profile = tmp_path / "ingest.toml"
    port = free_endpoint()
    profile.write_text(
        f"[source]\nkind = 'ingest'\nendpoint = '{port}'\npixel_size_um = 0.1\n"
        f"[model]\npath = '{tiny_model.path}'\ndevice = 'cpu'\n"
        f"[publish]\nendpoint = '{endpoints[0]}'\ncontrol = '{endpoints[1]}'\n",
        encoding="utf-8",
    )
    with (
        daemon(profile) as process,
        Subscriber(
            endpoints[0], ("restored", "raw"), control=endpoints[1], from_start=True
        ) as viewer,
    ):
        assert any("ready" in line for line in process.stderr)
        script("set", name="Binning", value="4")
        script("hook", endpoint=port)
        script.acquire(tmp_path / "saved", direct=True)
        script("set", name="Binning", value="1")
        got = []
        while not got or not isinstance(got[-1], EndHeader):
            got.append(viewer.receive(60))
            assert got[-1] is not None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0
    volumes = [one for one in got if isinstance(one, VolumeMessage)]
    assert {(v.header.kind, v.header.time, v.header.channel) for v in volumes} == {
        (k, t, c) for k in ("raw", "restored") for t in range(2) for c in CHANNELS
    }
    dataset = Dataset(str(next((tmp_path / "saved").iterdir())))
    for header, data in ((volume.header, volume.data) for volume in volumes):
        assert header.voxel_size_um == (0.25, 4.0, 4.0)
        assert data.shape == (SLICES, 128, 128)
        if header.kind == "raw":
            planes = [
                dataset.read_image(time=header.time, channel=header.channel, z=z)
                for z in range(SLICES)
            ]
            np.testing.assert_array_equal(data, planes)
    dataset.close()
