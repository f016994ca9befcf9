import logging
from dataclasses import replace

import numpy as np
import psutil
import pytest

from live_restore.sources import assembler as assembler_module
from live_restore.sources.assembler import Assembler, room_for_stacks
from live_restore.volume import Plane, Skipped, Volume, VolumeKey
from tests.conftest import make_info

DATA = np.arange(3 * 4 * 5, dtype="u2").reshape(3, 4, 5)


def plane(z, time=0, channel="DAPI", data=None, run="run"):
    return Plane(VolumeKey(run, "0", time, channel), z, DATA[z % 3] if data is None else data)


@pytest.fixture
def assembler():
    one = Assembler()
    one.start(make_info())
    return one


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_planes_in_any_order_make_their_volume(assembler, order):
    settled = [s for z in order for s in assembler.add(plane(z))]
    assert len(settled) == 1
    assert isinstance(settled[0], Volume)
    np.testing.assert_array_equal(settled[0].data, DATA)
    assert not settled[0].data.flags.writeable


def test_interleaved_channels_and_times_make_their_own_volumes(assembler):
    settled = []
    for z in range(3):
        for time in range(2):
            for channel in ("DAPI", "FITC"):
                settled += assembler.add(plane(z, time, channel, DATA[z] + 100 * time))
    assert len({s.key for s in settled}) == 4
    for volume in settled:
        np.testing.assert_array_equal(volume.data, DATA + 100 * volume.key.time)


def test_a_late_plane_completes_its_own_volume(assembler):
    early = [assembler.add(plane(z, time=0)) for z in (0, 1)]
    later = [s for z in range(3) for s in assembler.add(plane(z, time=1))]
    assert early == [[], []]
    assert [s.key.time for s in later] == [1]
    assert [s.key.time for s in assembler.add(plane(2, time=0))] == [0]


def test_a_doubled_plane_is_left_out_and_the_first_kept(assembler, caplog):
    assembler.add(plane(0))
    assembler.add(plane(0, data=DATA[0] + 9))
    settled = [s for z in (1, 2) for s in assembler.add(plane(z))]
    np.testing.assert_array_equal(settled[0].data, DATA)
    assert "came twice" in caplog.text


def test_a_plane_of_a_finished_volume_is_left_out(assembler, caplog):
    for z in range(3):
        assembler.add(plane(z))
    assert assembler.add(plane(1)) == []
    assert "again or too late" in caplog.text
    assert assembler.end("run") == []


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        pytest.param(plane(1, data=np.zeros((2, 5), "u2")), "its volume is (4, 5)", id="ROI"),
        pytest.param(plane(1, data=np.zeros((4, 5), "u1")), "its volume is uint16", id="bit depth"),
        pytest.param(plane(1, data=np.zeros((4, 5, 3), "u2")), "colour image", id="RGB"),
    ],
)
def test_a_plane_that_does_not_fit_spoils_its_volume_alone(assembler, wrong, expected):
    settled = [s for p in (plane(0), wrong, plane(2)) for s in assembler.add(p)]
    assert len(settled) == 1
    assert isinstance(settled[0], Skipped)
    assert expected in settled[0].reason
    settled = [s for z in range(3) for s in assembler.add(plane(z, time=1))]
    assert isinstance(settled[0], Volume)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(np.arange(3 * 2 * 5, dtype="u2").reshape(3, 2, 5), id="ROI"),
        pytest.param(DATA.astype("u1"), id="bit depth"),
    ],
)
def test_a_camera_that_is_set_otherwise_between_volumes_is_followed(assembler, caplog, changed):
    before = [s for z in range(3) for s in assembler.add(plane(z))]
    after = [s for z in range(3) for s in assembler.add(plane(z, time=1, data=changed[z]))]
    later = [s for z in range(3) for s in assembler.add(plane(z, time=2, data=changed[z]))]
    np.testing.assert_array_equal(before[0].data, DATA)
    for volume in (*after, *later):
        np.testing.assert_array_equal(volume.data, changed)
        assert volume.data.dtype == changed.dtype == volume.info.dtype
        assert volume.info.shape_zyx == changed.shape
    assert caplog.text.count("set otherwise") == 1


def test_a_camera_set_otherwise_in_mid_stack_spoils_that_stack_alone(assembler):
    small = np.zeros((2, 5), "u2")
    settled = [
        s for p in (plane(0), plane(1, data=small), plane(2, data=small)) for s in assembler.add(p)
    ]
    assert [type(s) for s in settled] == [Skipped]
    settled = [s for z in range(3) for s in assembler.add(plane(z, time=1, data=small))]
    assert settled[0].data.shape == (3, 2, 5)


def test_colour_planes_only_are_skipped_with_what_to_do(assembler):
    colour = np.zeros((4, 5, 3), "u1")
    settled = [s for z in range(3) for s in assembler.add(plane(z, data=colour))]
    assert [type(s) for s in settled] == [Skipped]
    assert "only grayscale" in settled[0].reason


def test_a_plane_beyond_the_stack_spoils_its_volume(assembler):
    settled = [s for z in (0, 1, 7, 2) for s in assembler.add(plane(z))]
    assert "announced 3 planes" in settled[0].reason


def test_an_aborted_stack_is_reported_with_what_is_missing(assembler):
    assembler.add(plane(1))
    skipped = assembler.end("run")
    assert len(skipped) == 1
    assert skipped[0].reason == "2 of 3 planes are missing: 0, 2"


def test_a_stack_without_news_is_given_up_in_time():
    assembler = Assembler(timeout_s=0.0)
    assembler.start(make_info())
    assembler.add(plane(1))
    given_up = list(assembler.give_up_overdue())
    assert [s.reason for s in given_up] == ["no plane for 0 s: 2 of 3 planes are missing: 0, 2"]
    assert list(assembler.give_up_overdue()) == []
    assert assembler.end("run") == []


def test_a_stack_that_got_a_plane_lately_is_waited_for(assembler):
    assembler.add(plane(1))
    assert list(assembler.give_up_overdue()) == []


def test_a_partial_stack_is_handed_on_where_it_is_wanted(caplog):
    assembler = Assembler(restores_partial=True)
    assembler.start(make_info())
    assembler.add(plane(1))
    (volume,) = assembler.end("run")
    assert volume.missing == (0, 2)
    np.testing.assert_array_equal(volume.data[1], DATA[1])
    assert not volume.data[[0, 2]].any()
    assert "2 of 3 planes are missing: 0, 2" in caplog.text


def test_a_spoilt_stack_is_not_handed_on_even_where_partial_ones_are():
    assembler = Assembler(restores_partial=True)
    assembler.start(make_info())
    assembler.add(plane(0))
    assembler.add(plane(1, data=np.zeros((2, 5), "u2")))
    assert [type(s) for s in assembler.end("run")] == [Skipped]


def test_exposure_and_time_of_the_first_plane_travel_on(assembler):
    first = replace(plane(0), exposure_ms=12.5)
    settled = [s for p in (first, plane(1), plane(2)) for s in assembler.add(p)]
    assert settled[0].exposure_ms == 12.5


def test_starting_an_acquisition_anew_gives_up_what_was_open(assembler):
    assembler.add(plane(1))
    assert len(assembler.start(make_info())) == 1
    assert len([s for z in range(3) for s in assembler.add(plane(z))]) == 1


def test_a_plane_of_no_announced_acquisition_is_left_out(assembler, caplog):
    with caplog.at_level(logging.WARNING):
        assert assembler.add(plane(0, run="other")) == []
    assert "no announced acquisition" in caplog.text


def test_unfinished_volumes_are_bounded_in_memory():
    assembler = Assembler(memory_bytes=2 * DATA.nbytes)
    assembler.start(make_info())
    assert assembler.add(plane(0, time=0)) == []
    assert assembler.add(plane(0, time=1)) == []
    given_up = assembler.add(plane(0, time=2))
    assert [s.key.time for s in given_up] == [0]
    assert "bound memory" in given_up[0].reason


def test_the_stack_that_waited_longest_makes_room():
    assembler = Assembler(memory_bytes=2 * DATA.nbytes)
    assembler.start(make_info())
    for time in (0, 1, 0):  # time 0 got a plane last
        assembler.add(plane(0 if time or not assembler._open else 1, time=time))
    assert [s.key.time for s in assembler.add(plane(0, time=2))] == [1]


def test_a_volume_larger_than_memory_takes_no_room_from_the_others(caplog):
    assembler = Assembler(memory_bytes=2**20, largest_bytes=2**20)
    assembler.start(make_info())
    assembler.start(make_info((100_000, 4, 5), acquisition="huge"))
    assert assembler.add(plane(0)) == []
    (skipped,) = assembler.add(plane(1, run="huge"))
    assert isinstance(skipped, Skipped)
    assert skipped.cause == "too_large"
    assert "(100000, 4, 5) uint16 is 3 MiB: more than the 1 MiB" in skipped.reason
    assert "memory_mb in [stacks] to 4 or more" in skipped.reason
    assert assembler.add(plane(2, run="huge")) == []  # told once
    settled = [s for z in (1, 2) for s in assembler.add(plane(z))]
    np.testing.assert_array_equal(settled[0].data, DATA)
    assert assembler.nbytes == assembler.num_open == 0


def test_a_volume_for_which_there_is_no_memory_is_skipped():
    assembler = Assembler()
    assembler.start(make_info((100_000, 2**20, 2**20)))
    huge = np.broadcast_to(np.zeros(1, "u2"), (2**20, 2**20))
    (skipped,) = assembler.add(plane(0, data=huge))
    assert "no memory for it" in skipped.reason


def test_of_a_large_volume_from_a_folder_only_memory_decides():
    assembler = Assembler(memory_bytes=DATA.nbytes - 1)
    assembler.start(make_info())
    settled = [s for z in range(3) for s in assembler.add(plane(z))]
    np.testing.assert_array_equal(settled[0].data, DATA)


def test_the_number_of_unfinished_volumes_is_bounded(monkeypatch):
    monkeypatch.setattr(assembler_module, "_MOST_OPEN", 3)
    assembler = Assembler()
    assembler.start(make_info())
    settled = [s for time in range(10) for s in assembler.add(plane(0, time=time))]
    assert [s.key.time for s in settled] == list(range(7))
    assert assembler.num_open == 3
    assert assembler.nbytes == 3 * DATA.nbytes


def test_wrong_planes_again_and_again_are_told_of_once(assembler, caplog):
    for _ in range(100):
        assembler.add(plane(7))
    assert caplog.text.count("the acquisition announced 3 planes") == 1
    settled = [s for z in range(3) for s in assembler.add(plane(z))]
    assert [s.cause for s in settled] == ["mismatch"]


def test_stacks_may_take_a_quarter_of_the_memory_unless_told_otherwise():
    assert room_for_stacks(3) == 3 * 2**20
    assert room_for_stacks(None) == psutil.virtual_memory().total // 4


def growth_of(planes, **options):
    seen = []
    assembler = Assembler(
        on_growth=lambda one: seen.append((one.num_planes, one.data.shape[0])), **options
    )
    assembler.start(make_info(DATA.shape))
    for z in planes:
        assembler.add(plane(z))
    return seen, assembler


def test_growth_is_told_of_plane_by_plane_without_gaps():
    nz = DATA.shape[0]
    assert nz == 3
    assert growth_of([0, 1, 2])[0] == [(1, nz), (2, nz), (0, 0)]
    assert growth_of([1, 0, 2])[0] == [(2, nz), (0, 0)]
    assert growth_of([2, 1])[0] == []


def test_a_volume_that_is_given_up_grows_no_more():
    seen, assembler = growth_of([0])
    assembler.end("run")
    assert seen == [(1, 3), (0, 0)]


def test_what_was_there_before_is_not_told_of():
    seen = []
    assembler = Assembler(on_growth=seen.append)
    assembler.start(make_info(DATA.shape))
    for z in range(3):
        assembler.add(replace(plane(z), is_live=False))
    assert seen == []
