"""What pycromanager's hooks do to the light, inside of the acquiring process."""

import pytest

from live_restore.errors import SourceError
from live_restore.light import Adjustment
from live_restore.profile import AcquisitionSource, DoseSettings
from live_restore.sources.adjusting import AcquisitionLight


class FakeCore:
    """As Micro-Manager's core, with one laser."""

    def __init__(self, value="10.0000", preset_sets=False):
        self.value, self.preset_sets, self.exposure = value, preset_sets, 10.0
        self.is_refusing = False

    def get_property(self, device, name):
        return self.value

    def set_property(self, device, name, text):
        if self.is_refusing:
            raise RuntimeError("interlock open")
        self.value = text

    def wait_for_device(self, device):
        return None

    def is_property_read_only(self, device, name):
        return self.value == "read only"

    def get_property_type(self, device, name):
        return 2 if "." in self.value else 3

    def has_property_limits(self, device, name):
        return device == "Laser"

    def get_property_lower_limit(self, device, name):
        return 2.0

    def get_property_upper_limit(self, device, name):
        return 50.0

    def get_camera_device(self):
        return "Camera"

    def get_exposure(self):
        return self.exposure

    def set_exposure(self, value):
        self.exposure = value

    def get_config_data(self, group, preset):
        return self

    def is_property_included(self, device, name):
        return self.preset_sets


def acquisition(**changes):
    fields = {"kind": "acquisition", "channels": ("DAPI", "FITC"), "exposure_ms": (10, 5)}
    return AcquisitionSource.model_validate(fields | changes)


class Acquiring:
    """Drives the hooks as an acquisition engine would."""

    def __init__(self, name="Laser-Power", core=None, **table):
        self.core = core or FakeCore()
        fields = {"control": "down", "device_property": name} | table
        self.told = []
        dose = DoseSettings.model_validate(fields)
        self.light = AcquisitionLight(self.core, dose, acquisition(), self.told.append)

    def volume(self, time=0, channel="DAPI", first=0, exposure=10.0):
        """A sequence of three planes; exposures as they are taken."""
        events = [
            {"axes": {"time": time, "channel": channel, "z": z}, "exposure": exposure}
            for z in range(first, first + 3)
        ]
        events = self.light.before_hardware(events)
        self.core.exposure = events[0]["exposure"]
        assert self.light.after_hardware(events) is events
        return [one["exposure"] for one in events]


def test_a_property_is_set_before_a_volume_and_read_back():
    acquiring = Acquiring()
    acquiring.volume(0)
    acquiring.light.ask(Adjustment("", 7.0))
    acquiring.volume(0, first=3)  # the same volume goes on
    assert acquiring.core.value == "10.0000"
    acquiring.volume(1)
    assert (acquiring.core.value, acquiring.told[-1].value) == ("7", 7.0)
    assert acquiring.told[-1].is_ours
    assert acquiring.light.power_of({"time": 1, "channel": "DAPI"}) == 7.0
    assert acquiring.light.power_of({"time": 0, "channel": "DAPI"}) == 10.0
    acquiring.light.finish()
    assert float(acquiring.core.value) == 10.0


@pytest.mark.parametrize(("asked", "expected"), [(1000.0, 10.0), (0.5, 2.0)])
def test_what_is_asked_for_is_bounded_by_the_device_and_the_users_own(asked, expected):
    acquiring = Acquiring()
    acquiring.volume(0)
    acquiring.light.ask(Adjustment("", asked))
    acquiring.volume(1)
    assert float(acquiring.core.value) == expected


def test_whole_numbers_are_rounded_towards_what_was():
    acquiring = Acquiring(core=FakeCore("10"))
    acquiring.light.ask(Adjustment("", 6.3))
    acquiring.volume(0)
    assert (acquiring.core.value, acquiring.told[-1].problem) == ("7", "")


def test_his_hand_wins_over_what_is_asked_for():
    acquiring = Acquiring()
    acquiring.volume(0)
    acquiring.light.ask(Adjustment("", 7.0))
    acquiring.core.value = "4.0"
    acquiring.volume(1)
    acquiring.volume(2)
    acquiring.light.finish()
    assert float(acquiring.core.value) == 4.0
    assert [(one.value, one.own, one.is_ours) for one in acquiring.told] == [(4.0, 4.0, False)]


def test_an_exposure_set_by_hand_becomes_his_channel_s():
    acquiring = Acquiring("exposure")
    acquiring.volume(0, "DAPI")
    acquiring.core.exposure = 3.0
    assert acquiring.volume(1, "DAPI") == [3.0] * 3
    assert acquiring.volume(1, "FITC") == [5.0] * 3
    assert [(one.channel, one.own) for one in acquiring.told] == [("DAPI", 3.0)]


def test_each_channel_has_its_own_exposure():
    acquiring = Acquiring("exposure")
    acquiring.light.ask(Adjustment("FITC", 4.0))
    assert acquiring.volume(0, "DAPI") == [10.0] * 3
    assert acquiring.volume(0, "FITC") == [4.0] * 3
    acquiring.light.give_back()
    assert acquiring.volume(1, "FITC") == [5.0] * 3


def test_a_hardware_sequence_of_one_exposure_stays_one():
    """A camera that can't sequence exposures would abort the acquisition."""
    acquiring = Acquiring("exposure")
    events = [
        {"axes": {"channel": channel, "z": z}, "exposure": 10.0}
        for channel in ("DAPI", "FITC")
        for z in range(2)
    ]
    assert {one["exposure"] for one in acquiring.light.before_hardware(events)} == {10.0}


def test_a_device_that_refuses_and_an_event_of_any_kind_stop_no_acquisition(caplog):
    acquiring = Acquiring()
    acquiring.core.is_refusing = True
    acquiring.light.ask(Adjustment("", 7.0))
    acquiring.volume(0)
    assert acquiring.told[-1].problem == "asked for 7, it stands at 10"
    acquiring.core.value = "gone"
    for event in ({}, {"special": "sequence-end"}, {"axes": {"z": 0}}, {"axes": {}}):
        assert acquiring.light.before_hardware(event) is event
        assert acquiring.light.after_hardware(event) is event


@pytest.mark.parametrize(
    ("core", "expected"),
    [
        (FakeCore("high"), "can't be read as a number"),
        (FakeCore(preset_sets=True), "the preset 'DAPI' of 'Channel' sets it too"),
    ],
)
def test_a_property_that_cannot_be_controlled_is_refused(core, expected):
    with pytest.raises(SourceError, match=expected):
        Acquiring(core=core)
