"""Our hook in people's own scripts: the real pycromanager and core, in processes of their own."""

import json
import logging
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import weakref
import zlib

import numpy as np
import pytest
from ndstorage import Dataset

from live_restore.client import Subscriber, VolumeMessage
from live_restore.errors import SourceError
from live_restore.hook import publish_planes
from live_restore.messages import EndHeader
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane
from tests.conftest import daemon, wait_for
from tests.hooked_acquisition import CHANNELS, SLICES, stamp
from tests.ingesting import IngestingProcess, free_endpoint, ingesting

ANSWER_S = 60.0
PLANE_MB = 0.5  # 512 x 512, 16 bit


class Script:
    """A script that acquires; see `tests.hooked_acquisition`."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hooked_acquisition"],
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
        wait_for(lambda: len(daemon.ends()) == 3, "the end of those that weren't listened to")
        number = sum(8 * n for n in (2, 2, len(times)))
        arrived = len(daemon.planes())
        missed = [
            int(number) for number in re.findall(r"before plane \d+, (\d+) w", "".join(daemon.log))
        ]
        assert arrived + sum(missed) == number
        assert sum(missed) > 0
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


# --- without a microscope ---


def metadata(z=0, time=0, **changes):
    return {"Axes": {"time": time, "channel": "c", "z": z}, "Exposure": 1.0} | changes


IMAGE = np.arange(12, dtype="u2").reshape(3, 4)


def test_image_and_metadata_come_back_as_the_very_same_objects():
    with ingesting(num_slices=2, z_step_um=1) as daemon:
        hook = publish_planes(daemon.endpoint)
        image, told = IMAGE.copy(), metadata()
        before = dict(told)
        back = hook(image, told)
        assert back[0] is image
        assert back[1] is told
        assert told == before
        np.testing.assert_array_equal(image, IMAGE)
        hook(image, metadata(1), queue.Queue())  # pycromanager gives a third, its event queue
        hook.finish()
        daemon.await_ends()


def test_without_a_daemon_nothing_is_kept(endpoints, caplog):
    hook = publish_planes(endpoints[0])
    images = [IMAGE.copy() for _ in range(50)]
    kept = [weakref.ref(image) for image in images]
    for z, image in enumerate(images):
        hook(image, metadata(z))
    del images, image
    assert not any(reference() is not None for reference in kept)
    told = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 2
    assert "(10 so far)" in told[1]


def test_images_are_let_go_once_they_are_sent():
    with ingesting(num_slices=100, z_step_um=1) as daemon:
        hook = publish_planes(daemon.endpoint)
        images = [np.full((64, 64), z, "u2") for z in range(100)]
        kept = [weakref.ref(image) for image in images]
        for z, image in enumerate(images):
            hook(image, metadata(z))
        daemon.await_planes(100)
        del images, image
        wait_for(lambda: all(one() is None for one in kept), "the images to be let go")
        hook.finish()


@pytest.mark.parametrize(
    ("image", "told"),
    [
        pytest.param(IMAGE.astype("f8"), metadata(), id="pixel type"),
        pytest.param(IMAGE[0], metadata(), id="a line"),
        pytest.param(np.empty((0, 4), "u2"), metadata(), id="no pixels"),
        pytest.param("no image", metadata(), id="text"),
        pytest.param(None, None, id="nothing"),
        pytest.param(IMAGE, metadata(-1), id="z below 0"),
        pytest.param(IMAGE, {"Axes": 5}, id="axes"),
        pytest.param(IMAGE, object(), id="strange metadata"),
        pytest.param(IMAGE, metadata(Axes={"channel": "c" * 1000}), id="endless name"),
        pytest.param(IMAGE, metadata(Axes={"channel": "\ud800"}), id="no text"),
    ],
)
def test_what_cannot_be_sent_is_counted_and_never_raises(image, told, caplog):
    with ingesting(num_slices=2, z_step_um=1) as daemon:
        hook = publish_planes(daemon.endpoint)
        hook(IMAGE, metadata(0))
        assert hook(image, told) == (image, told) or image is not None
        hook(IMAGE, metadata(1))
        daemon.await_planes(2)
        hook.finish()
        daemon.await_ends()
    assert "a plane couldn't be sent; the acquisition goes on (1 so far)" in caplog.text
    assert "before plane 2, 1 weren't sent" in caplog.text


@pytest.mark.parametrize(
    "told", [{"Exposure": float("nan")}, {"PixelSize_um": "nan"}, {"ZPosition_um_Intended": "inf"}]
)
def test_numbers_that_are_none_do_not_cost_the_plane(told):
    with ingesting(num_slices=1, pixel_size_um=0.3) as daemon:
        hook = publish_planes(daemon.endpoint)
        hook(IMAGE, metadata(**told))
        daemon.await_planes(1)
        hook.finish()
        daemon.await_ends()
    assert daemon.of(AcquisitionInfo)[0].voxel_size_um == (0.3, 0.3, 0.3)


def test_a_colour_camera_s_images_arrive():
    colours = np.random.default_rng(0).integers(0, 255, (3, 4, 3)).astype("u1")
    with ingesting(num_slices=1) as daemon:
        hook = publish_planes(daemon.endpoint)
        hook(colours, metadata())
        (plane,) = daemon.await_planes(1)
        np.testing.assert_array_equal(plane.data, colours)
        hook.finish()


def test_the_step_is_read_from_heights_in_any_direction_and_rounded():
    with ingesting(num_slices=3, pixel_size_um=0.1) as daemon:
        hook = publish_planes(daemon.endpoint)
        for run, sign in enumerate((1, -1)):
            for z in range(3):
                hook(IMAGE, metadata(z, run, ZPosition_um_Intended=7.7 + sign * 0.1 * z))
            hook.finish()
        daemon.await_ends(2)
    assert [info.voxel_size_um[0] for info in daemon.of(AcquisitionInfo)] == [0.1, 0.1]


def test_a_script_that_ends_in_mid_acquisition_says_so():
    code = (
        "import sys, numpy as np\n"
        "from live_restore.hook import publish_planes\n"
        "hook = publish_planes(sys.argv[1], num_slices=9, z_step_um=1)\n"
        "hook(np.zeros((3, 4), 'u2'), {'Axes': {'z': 0}})\n"
    )
    with ingesting() as daemon:
        done = subprocess.run([sys.executable, "-c", code, daemon.endpoint], check=False)
        assert done.returncode == 0
        (end,) = daemon.await_ends()
        assert end.reason == "the script ended"


def test_the_thread_that_brings_planes_tells_acquisitions_apart():
    with ingesting(num_slices=2, z_step_um=1) as daemon:
        hook = publish_planes(daemon.endpoint)
        for _ in range(3):
            thread = threading.Thread(target=lambda: [hook(IMAGE, metadata(z)) for z in range(2)])
            thread.start()
            thread.join()
        ends = daemon.await_ends(3)
    assert {end.reason for end in ends} == {"finished"}
    assert len({end.acquisition for end in ends}) == 3


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        pytest.param({"num_slices": -3}, "num_slices", id="planes"),
        pytest.param({"pixel_size_um": 0.0}, "pixel_size_um", id="pixel size"),
        pytest.param({"z_step_um": float("nan")}, "z_step_um", id="step"),
        pytest.param({"name": ""}, "acquisition", id="name"),
    ],
)
def test_a_plan_that_cannot_be_is_said_before_anything_is_acquired(wrong, expected):
    with pytest.raises(ValueError, match=expected):
        publish_planes(**wrong)


def test_an_endpoint_that_is_none_is_said_before_anything_is_acquired():
    with pytest.raises(SourceError, match=r"endpoint nowhere: nothing can be sent there"):
        publish_planes("nowhere")


# --- pymmcore-plus ---


def test_a_sequence_of_pymmcore_plus_arrives_and_ends():
    """The call that ``frameReady`` makes, over useq's own events."""
    useq = pytest.importorskip("useq")
    sequence = useq.MDASequence(
        axis_order="tpcz",
        channels=["DAPI", "FITC"],
        stage_positions=[{"x": 0, "name": "A"}, {"x": 1, "name": "A"}],
        z_plan={"range": 1, "step": 0.5},
        time_plan={"interval": 0, "loops": 2},
    )
    told = {"format": "frame-dict", "pixel_size_um": 0.1, "exposure_ms": 9.0, "camera_device": "C"}
    rng = np.random.default_rng(0)
    with ingesting() as daemon:
        hook = publish_planes(daemon.endpoint)
        sent = [(rng.integers(0, 60_000, (8, 9)).astype("u2"), event) for event in sequence]
        for image, event in sent:
            hook(image, event, told)
        planes = daemon.await_planes(len(sent))
        daemon.await_ends()  # by their number
        hook.finish(sequence)  # as sequenceFinished calls it
    (info,) = daemon.of(AcquisitionInfo)
    assert info.shape_zyx == (3, 8, 9)
    assert info.voxel_size_um == (0.5, 0.1, 0.1)
    assert info.positions == ("A", "A (2)")
    assert info.channels == ("DAPI", "FITC")
    assert [(p.key.time, p.key.channel, p.z) for p in planes] == [
        (e.index["t"], e.channel.config, e.index["z"]) for _, e in sent
    ]
    np.testing.assert_array_equal([p.data for p in planes], [image for image, _ in sent])
    assert len(daemon.of(AcquisitionEnd)) == 1


def test_two_sequences_of_pymmcore_plus_are_two_acquisitions():
    useq = pytest.importorskip("useq")
    with ingesting() as daemon:
        hook = publish_planes(daemon.endpoint)
        for _ in range(2):
            # Of the second channel only the middle plane is acquired: no number tells the end.
            sequence = useq.MDASequence(
                channels=["A", {"config": "B", "do_stack": False}],
                z_plan={"range": 1, "step": 0.5},
            )
            for event in sequence:
                hook(IMAGE, event, {})
        (first,) = daemon.await_ends()
        hook.finish()
        _, second = daemon.await_ends(2)
    assert first.acquisition != second.acquisition
    assert len(daemon.of(Plane)) == 8


def test_a_real_pymmcore_plus_runs_with_the_hook(tmp_path):
    pytest.importorskip("pymmcore_plus")
    code = (
        "import os, sys, mm_test_adapters\n"
        "from pymmcore_plus import CMMCorePlus\n"
        "from useq import MDASequence\n"
        "from live_restore.hook import publish_planes\n"
        "folder = str(mm_test_adapters.device_adapter_path())\n"
        "core = CMMCorePlus(mm_path=folder)\n"
        "core.loadSystemConfiguration(os.path.join(folder, 'MMConfig_demo.cfg'))\n"
        "core.setProperty('Camera', 'Mode', 'Noise')\n"
        "hook = publish_planes(sys.argv[1])\n"
        "core.mda.events.frameReady.connect(hook)\n"
        "core.mda.events.sequenceFinished.connect(hook.finish)\n"
        "core.mda.run(MDASequence(channels=['DAPI'], z_plan={'range': 1, 'step': 0.25}))\n"
    )
    with ingesting() as daemon:
        done = subprocess.run([sys.executable, "-c", code, daemon.endpoint], check=False)
        assert done.returncode == 0
        assert [end.reason for end in daemon.await_ends()] == ["finished"]
    (info,) = daemon.of(AcquisitionInfo)
    assert info.shape_zyx == (5, 512, 512)
    assert info.voxel_size_um == (0.25, 1.0, 1.0)
    assert len(daemon.of(Plane)) == 5
