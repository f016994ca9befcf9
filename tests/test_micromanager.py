"""Acquisitions in a Micro-Manager that isn't ours, through the unmodified Java bridge's client."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, Volume
from tests.conftest import wait_for
from tests.followed import MicroManagerProcess, assert_identical, following
from tests.growing_layouts import Image, Pieces, write_mm_stack
from tests.micro_manager_objects import pixels


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch):
    """The source looks after its process more often, so that tests wait less."""
    monkeypatch.setattr("live_restore.sources.micromanager._TICK_S", 0.2)


@pytest.fixture
def micro_manager() -> Iterator[MicroManagerProcess]:
    with MicroManagerProcess() as process:
        yield process


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"images": 0}, id="as it comes"),
        pytest.param({"order": "tpzc", "images": 0}, id="channels within slices"),
        pytest.param({"order": "ptcz", "positions": ["A", "B"], "images": 0}, id="position first"),
        pytest.param({"positions": ["A", "A", ""]}, id="positions of one name or none"),
        pytest.param({"dtype": "uint8"}, id="8 bit, over before it was seen"),
        pytest.param({"is_displayed": False, "images": 0}, id="not displayed"),
    ],
)
def test_an_acquisition_arrives_bit_identical(micro_manager, changes):
    with following(micro_manager.port) as followed:
        followed.await_state("waiting for an acquisition")
        acquisition = micro_manager.start(channels=["DAPI", "561@20%"], **changes)
        total = len(acquisition.places)
        for images in range(1, total + 1, 7):
            micro_manager.tell("images", up_to=images)
            if "images" in changes:
                followed.await_planes(images)
        micro_manager.tell("images", up_to=total)
        (end,) = followed.await_ends()
        assert end.reason == "finished"
    (info,) = followed.of(AcquisitionInfo)
    assert info.acquisition.startswith("cells_1_20")
    assert info.shape_zyx == (12, 24, 32)
    assert info.voxel_size_um == (0.3, 0.1, 0.1)
    assert info.channels == ("DAPI", "561@20%")
    assert info.num_times == 3
    if "A" in acquisition.positions and "" in acquisition.positions:
        assert info.positions == ("A", "A (2)", "2")
        acquisition.positions = list(info.positions)
    assert_identical(acquisition, followed.volumes())
    assert {v.exposure_ms for v in followed.volumes()} == {20.0}
    calls = micro_manager.calls()
    assert calls["getImage"] == total  # none twice


def test_micro_manager_killed_in_mid_call_costs_nothing_that_still_exists(micro_manager):
    with following(micro_manager.port, silence_s=1.5) as followed:
        acquisition = micro_manager.start(images=20)
        followed.await_planes(20)
        micro_manager.tell("hang", call="getImage")
        micro_manager.tell("images", up_to=30)
        assert micro_manager.says() == {"hung": "getImage"}
        micro_manager.kill()
        followed.await_state("doesn't answer")
        followed.await_state(f"waiting for Micro-Manager on port {micro_manager.port}: turn on")
        assert not followed.of(AcquisitionEnd)
        with MicroManagerProcess(micro_manager.port) as back:
            followed.await_state("waiting for an acquisition")
            back.start(images=40, start_time=acquisition.start_time)
            followed.await_planes(40)
            back.tell("images", up_to=72)
            assert [end.reason for end in followed.await_ends()] == ["finished"]
            assert back.calls()["getImage"] == 72 - 20  # what had arrived wasn't fetched again
    assert len(followed.of(AcquisitionInfo)) == 1
    assert_identical(acquisition, followed.volumes())


def test_a_micro_manager_that_hangs_is_left_and_found_again(micro_manager, caplog):
    caplog.set_level("INFO")
    with following(micro_manager.port, silence_s=1.5) as followed:
        acquisition = micro_manager.start(images=30)
        followed.await_planes(30)
        first = followed.child
        micro_manager.process.send_signal(signal.SIGSTOP)
        followed.await_state("doesn't answer")
        micro_manager.process.send_signal(signal.SIGCONT)
        micro_manager.tell("images", up_to=72)
        followed.await_ends()
        assert followed.child != first
    assert_identical(acquisition, followed.volumes())
    told = [record.message for record in caplog.records if "doesn't answer" in record.message]
    assert len(told) == 1


def test_an_error_in_micro_manager_costs_a_new_connection_and_no_plane(micro_manager):
    with following(micro_manager.port) as followed:
        acquisition = micro_manager.start(images=30)
        followed.await_planes(30)
        micro_manager.tell("fail", call="getImage")
        micro_manager.tell("images", up_to=40)
        followed.await_state("broke (java.io.IOException: no such luck)")
        followed.await_planes(40)
        micro_manager.tell("images", up_to=72)
        followed.await_ends()
    assert_identical(acquisition, followed.volumes())
    micro_manager.tell("tell")
    assert micro_manager.says()["held"] == []


def test_a_stranger_on_the_port_is_told_once(caplog):
    caplog.set_level("INFO")
    stranger = socket.create_server(("127.0.0.1", 0))
    with stranger, following(stranger.getsockname()[1], silence_s=1.0) as followed:
        followed.await_state("doesn't answer as Micro-Manager's server")
        first = followed.child
        wait_for(lambda: followed.source._child and followed.child != first, "another try")
    assert len([r for r in caplog.records if "doesn't answer as" in r.message]) == 1


def test_micro_manager_may_be_started_later(micro_manager):
    port = micro_manager.port
    micro_manager.kill()
    with following(port) as followed:
        followed.await_state(f"waiting for Micro-Manager on port {port}: turn on Tools > Options")
        with MicroManagerProcess(port) as late:
            acquisition = late.start()
            followed.await_ends()
    assert_identical(acquisition, followed.volumes())


def test_found_late_the_present_time_point_comes_first_and_earlier_ones_follow(micro_manager):
    acquisition = micro_manager.start(num_times=6, images=100)  # the first of time 4's second stack
    with following(micro_manager.port) as followed:
        followed.await_planes(100)
        micro_manager.tell("images", up_to=144)
        followed.await_ends()
    times = [plane.key.time for plane in followed.of(Plane)]
    assert times[:4] == [4] * 4
    assert sorted(times[4:100], reverse=True) == times[4:100]
    assert_identical(acquisition, followed.volumes())


def test_an_abort_in_mid_stack_ends_the_acquisition_and_the_next_one_is_found(micro_manager):
    with following(micro_manager.port) as followed:
        first = micro_manager.start(images=30)
        followed.await_planes(30)
        micro_manager.tell("images", up_to=31)
        micro_manager.tell("abort")
        (end,) = followed.await_ends()
        assert end.reason == "aborted after 31 of 72 planes"
        assert len(followed.volumes()) == 2
        skipped = [one for one in followed.settled if not isinstance(one, Volume)]
        assert len(skipped) == 1
        second = micro_manager.start(prefix="cells_2", num_times=2, shape=(20, 16))
        followed.await_ends(2)
        assert [info.shape_zyx for info in followed.of(AcquisitionInfo)] == [
            (12, 24, 32),
            (12, 20, 16),
        ]
        assert followed.of(AcquisitionEnd)[1].reason == "finished"
    assert_identical(second, followed.volumes()[2:])
    assert len(followed.of(AcquisitionInfo)) == 2  # the first isn't taken for a new one
    assert first.num_times == 3


def test_what_snap_and_live_show_and_what_is_opened_from_disk_is_not_followed(micro_manager):
    micro_manager.start(start_time="2020-01-01 10:00:00.000 +0000", prefix="opened")
    with following(micro_manager.port) as followed:
        followed.await_state("waiting for an acquisition")
        acquisition = micro_manager.start()
        followed.await_ends()
    assert len(followed.of(AcquisitionInfo)) == 1
    assert_identical(acquisition, followed.volumes())


def test_a_channel_without_z_stack_stops_nothing(micro_manager):
    with following(micro_manager.port) as followed:
        acquisition = micro_manager.start(images=0, single_slice=[1])
        total = len(acquisition.places)
        assert total == 3 * 13
        for images in range(total + 1):
            micro_manager.tell("images", up_to=images)
            followed.await_planes(images if images > 1 else 0)
        assert followed.await_ends()[0].reason == "finished"
    assert len(followed.volumes()) == 3
    assert {volume.key.channel for volume in followed.volumes()} == {"DAPI"}


def test_a_colour_camera_is_told_and_stops_nothing(micro_manager):
    with following(micro_manager.port) as followed:
        acquisition = micro_manager.start(is_rgb=True, num_times=1)
        followed.await_ends()
    planes = followed.of(Plane)
    assert len(planes) == 24
    assert planes[0].data.shape == (24, 32, 3)
    expected = pixels((0, 0, 0, 0), (*acquisition.shape, 4), "uint8")[..., [2, 1, 0]]
    np.testing.assert_array_equal(planes[0].data, expected)


def test_an_unknown_pixel_size_is_the_profiles(micro_manager):
    with following(micro_manager.port, pixel_size_um=0.2) as followed:
        micro_manager.start(pixel_size_um=0.0)
        followed.await_ends()
    assert followed.of(AcquisitionInfo)[0].voxel_size_um == (0.3, 0.2, 0.2)


def test_the_process_that_follows_may_be_killed(micro_manager):
    with following(micro_manager.port) as followed:
        acquisition = micro_manager.start(images=30)
        followed.await_planes(30)
        first = followed.child
        os.kill(first, signal.SIGKILL)
        micro_manager.tell("images", up_to=72)
        followed.await_ends()
        assert followed.child != first
        calls = micro_manager.calls()
    assert_identical(acquisition, followed.volumes())
    assert calls["getImage"] == 72


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("live_restore.sources.micromanager._FOLLOWER", "tests.impatient_follower")


def test_an_acquisition_that_micro_manager_lost_comes_to_its_end(micro_manager, impatient):
    with following(micro_manager.port, silence_s=1.0) as followed:
        micro_manager.start(images=30)
        followed.await_planes(30)
        micro_manager.kill()
        followed.await_state("turn on Tools > Options")
        with MicroManagerProcess(micro_manager.port) as back:
            (end,) = followed.await_ends()
            assert end.reason == "Micro-Manager has it no more, after 30 of 72 planes"
            acquisition = back.start(prefix="cells_2")
            followed.await_ends(2)
    assert_identical(acquisition, followed.volumes()[2:])


@pytest.mark.parametrize("is_saved", [True, False])
def test_what_is_too_fast_for_the_bridge_is_followed_on_disk(
    micro_manager, impatient, tmp_path, is_saved
):
    shape, places = (12, 16), list(np.ndindex(400, 1, 2, 3))
    if is_saved:
        acquired = [Image(p, t, c, z, pixels((t, p, c, z), shape)) for t, p, c, z in places]
        assert list(write_mm_stack(tmp_path, acquired, Pieces(None)))
    with following(micro_manager.port) as followed:
        acquisition = micro_manager.start(
            num_times=400,
            num_slices=3,
            shape=shape,
            images=0,
            slow_s=0.02,
            save_path=str(tmp_path) if is_saved else None,
        )
        word = "by its files" if is_saved else "with delay"
        for images in itertools.count(0, 2):
            micro_manager.tell("images", up_to=images)
            if any(word in state for state in followed.states()):
                break
            assert images < len(places)
            time.sleep(0.02)
        if is_saved:
            micro_manager.tell("images", up_to=len(places))
        else:
            micro_manager.tell("abort")
        (end,) = followed.await_ends()
        fetched = micro_manager.calls()["getImage"]
    if is_saved:
        assert end.reason == "finished"
        assert_identical(acquisition, followed.volumes())
        assert len(followed.of(Plane)) == len(places)  # none by both ways
        assert fetched < images
    else:
        assert end.reason == f"aborted after {images} of 2400 planes"
        assert fetched == images


_SOURCE = """
import sys
from live_restore.interfaces import StopSignal
from live_restore.profile import MicroManagerSource
from live_restore.sources.micromanager import MicroManager
with MicroManager(MicroManagerSource(kind="micromanager", port=int(sys.argv[1]))) as source:
    for event in source.events(StopSignal()):
        print(source._child.pid, type(event).__name__, event, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("hangs", [False, True])
def test_the_process_that_follows_does_not_outlive_its_parent(micro_manager, hangs):
    parent = subprocess.Popen(
        [sys.executable, "-c", _SOURCE, str(micro_manager.port)], stdout=subprocess.PIPE, text=True
    )
    try:
        micro_manager.start(images=30)
        line = next(line for line in parent.stdout if "following" in line)
        child = int(line.split()[0])
        if hangs:
            micro_manager.tell("hang", call="any")
            assert "hung" in micro_manager.says()
        assert is_running(child)
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not is_running(child), "the end of the process that follows")


def is_running(pid: int) -> bool:
    """A process whose parent died may stay as a zombie where nobody asks for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_micro_manager_holds_for_us_is_let_go_at_the_end(micro_manager):
    with following(micro_manager.port) as followed:
        micro_manager.start(images=30)
        followed.await_planes(30)
    micro_manager.tell("tell")
    assert micro_manager.says()["held"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_over_200_time_points(micro_manager):
    def resident_kb() -> int:
        status = Path(f"/proc/{followed.child}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    with following(micro_manager.port) as followed:
        acquisition = micro_manager.start(
            num_times=200, channels=["DAPI"], num_slices=3, shape=(64, 64), images=0, prefix="long"
        )
        resident = {}
        for time in (50, 200):
            micro_manager.tell("images", up_to=time * 3 - 1)
            wait_for(lambda n=time * 3 - 1: len(followed.of(Plane)) >= n, "planes")
            resident[time] = resident_kb()
        micro_manager.tell("images", up_to=600)
        followed.await_ends()
    assert_identical(acquisition, followed.volumes())
    # 450 planes of 8 KB, were they kept, are 3600 KB; a remembered closure for each of the objects
    # that the bridge made for them is 600 KB. Python's own arenas come in pieces of 256 KB.
    assert resident[200] - resident[50] < 384
