"""The light of acquisitions in a Micro-Manager that isn't ours, through the unmodified bridge's client."""

import os
import signal
import subprocess
import sys

import pytest

from live_restore.light import Adjustment, LightReading
from live_restore.profile import DoseSettings
from live_restore.volume import AcquisitionEnd
from tests.conftest import wait_for
from tests.followed import MicroManagerProcess, following

DOSE = DoseSettings(control="down", device_property="Laser-Power")


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch):
    monkeypatch.setattr("live_restore.sources.micromanager._TICK_S", 0.2)


@pytest.fixture
def micro_manager():
    with MicroManagerProcess() as process:
        yield process


def readings(followed, **like):
    return [
        one
        for one in followed.of(LightReading)
        if all(getattr(one, name) == value for name, value in like.items())
    ]


def test_light_changes_while_the_acquisition_rests_and_comes_back_at_its_end(micro_manager):
    """Three time points of two stacks of twelve planes."""
    with following(micro_manager.port, DOSE) as followed:
        wait_for(lambda: readings(followed, is_start=True), "the first reading")
        micro_manager.start(images=20)
        followed.await_planes(20)
        followed.source.adjust(Adjustment("", 7.0))
        micro_manager.tell("images", up_to=24)  # whole: now it rests
        (ours,) = wait_for(lambda: readings(followed, is_ours=True), "other light")
        assert (ours.value, ours.own, ours.lowest, ours.highest) == (7.0, 10.0, 1.0, 100.0)
        assert micro_manager.light() == 7.0
        micro_manager.tell("images", up_to=72)
        followed.await_ends()
        wait_for(lambda: len(readings(followed, is_ours=True)) == 2, "the user's light")
        assert micro_manager.light() == 10.0
    powers = {(v.key.time, v.power) for v in followed.volumes()}
    # What the first stack, there before it was found, was taken with isn't known.
    assert powers <= {(0, None), (0, 10.0), (1, 7.0), (2, 7.0)}
    assert {(1, 7.0), (2, 7.0)} <= powers


def test_nothing_is_set_in_the_middle_of_a_stack_nor_beyond_any_limit(micro_manager):
    with following(micro_manager.port, DOSE) as followed:
        micro_manager.start(images=20)
        followed.await_planes(20)
        followed.source.adjust(Adjustment("", 0.001))
        calls = micro_manager.calls()["getNumImages"]
        wait_for(lambda: micro_manager.calls()["getNumImages"] > calls + 50, "half a second")
        assert micro_manager.light() == 10.0
        micro_manager.tell("images", up_to=24)
        wait_for(lambda: readings(followed, is_ours=True, value=1.0), "the device's least")
        followed.source.adjust(Adjustment("", 1000.0))
        wait_for(lambda: readings(followed, is_ours=True, value=10.0), "no more than the user's")


def test_the_users_hand_wins_over_what_is_asked_for(micro_manager):
    with following(micro_manager.port, DOSE) as followed:
        micro_manager.start(images=20)
        followed.await_planes(20)
        followed.source.adjust(Adjustment("", 7.0))
        micro_manager.tell("light", value=4.0)
        wait_for(lambda: readings(followed, value=4.0, own=4.0, is_ours=False), "his hand")
        micro_manager.tell("images", up_to=72)
        followed.await_ends()
        assert micro_manager.light() == 4.0
    assert not readings(followed, is_ours=True)


def test_what_is_set_between_acquisitions_is_what_the_next_begins_with(micro_manager):
    with following(micro_manager.port, DOSE) as followed:
        wait_for(lambda: readings(followed, is_start=True, own=10.0), "the first reading")
        micro_manager.tell("light", value=30.0)
        micro_manager.start()
        followed.await_ends()
    assert readings(followed, is_start=True, own=30.0)
    assert {v.power for v in followed.volumes()} <= {None, 30.0}  # it was over when it was found


def lowered(followed, micro_manager):
    micro_manager.start(images=24)
    followed.await_planes(24)
    followed.source.adjust(Adjustment("", 7.0))
    wait_for(lambda: readings(followed, is_ours=True, value=7.0), "other light")


def test_the_end_of_the_program_gives_the_light_back(micro_manager):
    with following(micro_manager.port, DOSE) as followed:
        lowered(followed, micro_manager)
    assert micro_manager.light() == 10.0


def test_a_new_connection_knows_what_is_the_users_own(micro_manager):
    with following(micro_manager.port, DOSE) as followed:
        lowered(followed, micro_manager)
        number = len(readings(followed, is_start=True))
        os.kill(followed.child, signal.SIGKILL)
        wait_for(lambda: len(readings(followed, is_start=True)) > number, "another connection")
        assert readings(followed)[-1].own == 10.0
        assert readings(followed)[-1].value == 7.0
    assert micro_manager.light() == 10.0


def test_a_hand_that_was_there_between_two_connections_is_his(micro_manager):
    with following(micro_manager.port, DOSE) as followed:
        lowered(followed, micro_manager)
        micro_manager.process.send_signal(signal.SIGSTOP)  # no connection until it is changed
        os.kill(followed.child, signal.SIGKILL)
        micro_manager.tell("light", value=5.0)
        micro_manager.process.send_signal(signal.SIGCONT)
        wait_for(lambda: readings(followed, value=5.0, own=5.0, is_start=False), "his hand")
    assert micro_manager.light() == 5.0


def test_light_that_cannot_be_given_back_is_told(micro_manager, caplog):
    with following(micro_manager.port, DOSE, silence_s=1.0) as followed:
        lowered(followed, micro_manager)
        micro_manager.kill()
        followed.await_state("turn on Tools > Options")
    assert "set it back to your own 10 by hand" in caplog.text


def test_a_property_that_is_not_there_is_told(micro_manager):
    dose = DoseSettings(control="down", device_property="Lamp-Power")
    with following(micro_manager.port, dose) as followed:
        followed.await_state("property Lamp-Power can't be read as a number")
        assert not followed.of(AcquisitionEnd)


_SOURCE = """
import sys
from live_restore.interfaces import StopSignal
from live_restore.light import Adjustment
from live_restore.profile import DoseSettings, MicroManagerSource
from live_restore.sources.micromanager import MicroManager
from live_restore.volume import Plane
dose = DoseSettings(control="down", device_property="Laser-Power")
settings = MicroManagerSource(kind="micromanager", port=int(sys.argv[1]), poll_ms=10)
number = 0
with MicroManager(settings, dose) as source:
    for event in source.events(StopSignal()):
        number += isinstance(event, Plane)
        if number == 24:
            source.adjust(Adjustment("", 7.0))
"""


def test_a_killed_daemon_leaves_the_users_light(micro_manager):
    parent = subprocess.Popen([sys.executable, "-c", _SOURCE, str(micro_manager.port)])
    try:
        wait_for(lambda: micro_manager.calls()["isAcquisitionRunning"], "the follower")
        micro_manager.start(images=24)
        wait_for(lambda: micro_manager.light() == 7.0, "other light")
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: micro_manager.light() == 10.0, "the user's own")
