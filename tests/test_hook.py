"""Our hook without a microscope: what it takes, what it never does, and what it tells."""

import logging
import queue
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from live_restore.errors import SourceError
from live_restore.hook import publish_planes
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane
from tests.conftest import wait_for
from tests.ingesting import ingesting


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
