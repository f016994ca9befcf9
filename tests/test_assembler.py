import logging

import numpy as np
import pytest

from live_restore.sources.assembler import Assembler
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
        pytest.param(plane(1, data=np.zeros((2, 5), "u2")), "announced (4, 5)", id="ROI"),
        pytest.param(plane(1, data=np.zeros((4, 5), "u1")), "announced uint16", id="bit depth"),
        pytest.param(plane(1, data=np.zeros((4, 5, 3), "u2")), "(4, 5, 3)", id="RGB"),
    ],
)
def test_a_plane_that_does_not_fit_spoils_its_volume_alone(assembler, wrong, expected):
    settled = [s for p in (plane(0), wrong, plane(2)) for s in assembler.add(p)]
    assert len(settled) == 1
    assert isinstance(settled[0], Skipped)
    assert expected in settled[0].reason
    settled = [s for z in range(3) for s in assembler.add(plane(z, time=1))]
    assert isinstance(settled[0], Volume)


def test_a_plane_beyond_the_stack_spoils_its_volume(assembler):
    settled = [s for z in (0, 1, 7, 2) for s in assembler.add(plane(z))]
    assert "announced 3 planes" in settled[0].reason


def test_an_aborted_stack_is_reported_with_what_is_missing(assembler):
    assembler.add(plane(1))
    skipped = assembler.end("run")
    assert len(skipped) == 1
    assert skipped[0].reason == "2 of 3 planes are missing: 0, 2"


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
