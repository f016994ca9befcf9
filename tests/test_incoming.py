"""Acquisitions from planes that are sent, without sockets."""

import itertools
import logging

import numpy as np
import pytest

from live_restore.plane_protocol import PlaneHeader, PlanesEnd
from live_restore.sources import incoming as incoming_module
from live_restore.sources.assembler import Assembler
from live_restore.sources.incoming import Defaults, Incoming
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, Skipped, Volume

PIXELS = np.arange(12, dtype="u2").reshape(3, 4)


class Sender:
    """Sends planes of one acquisition after the other, straight into `Incoming`."""

    def __init__(self, incoming, sender="s", acquisition="a", **known):
        self.incoming = incoming
        self.sender = sender
        self.acquisition = acquisition
        self.known = {"pixel_size_um": 0.1, "z_step_um": 0.5} | known
        self.number = 0

    def plane(self, z, time=0, channel="c", position="0", data=PIXELS, **changes):
        fields = self.known | changes
        header = PlaneHeader(
            sender=self.sender, number=self.number, acquisition=self.acquisition,
            time=time, channel=channel, position=position, z=z,
            type=data.dtype.name, shape=data.shape, **fields,
        )  # fmt: skip
        self.number += 1
        return list(self.incoming.plane(header, data))

    def planes(self, *places, **changes):
        """Planes at (time, channel, z)."""
        return [e for t, c, z in places for e in self.plane(z, t, c, **changes)]

    def lose(self, planes):
        """Planes that couldn't be sent."""
        self.number += planes

    def end(self, reason="finished", number=None):
        return list(
            self.incoming.end(
                PlanesEnd(
                    sender=self.sender, acquisition=self.acquisition, reason=reason, number=number
                )
            )
        )


@pytest.fixture
def incoming():
    return Incoming()


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def lapse(order, times=2, channels="AB", slices=3):
    """Places of a time lapse, as (time, channel, z), in a given order of loops."""
    sizes = {"t": range(times), "c": channels, "z": range(slices)}
    for at in itertools.product(*(sizes[axis] for axis in order)):
        place = dict(zip(order, at, strict=True))
        yield place["t"], place["c"], place["z"]


def test_a_sender_that_knows_everything_is_announced_with_its_first_plane(incoming):
    sender = Sender(
        incoming, num_slices=3, num_times=2, channels=("A", "B"), positions=("0",), origin="camera"
    )
    first = sender.plane(0, 0, "A")
    assert [type(event) for event in first] == [AcquisitionInfo, Plane]
    info = first[0]
    assert info.acquisition == "a"
    assert info.shape_zyx == (3, 3, 4)
    assert info.dtype == np.uint16
    assert info.voxel_size_um == (0.5, 0.1, 0.1)
    assert info.channels == ("A", "B")
    assert info.num_times == 2
    assert info.origin == "camera"
    rest = sender.planes(*list(lapse("tcz"))[1:])
    assert rest[-1] == AcquisitionEnd("a", "finished")
    assert len(of(Plane, rest)) == 11
    assert incoming.running == ()


STACKS = {
    "stack after stack": (list(lapse("tcz")), 4),
    "channels within slices": (list(lapse("tzc")), 7),
    "time points within channels": (list(lapse("ctz")), 4),
    "one channel": (list(lapse("tcz", channels="A")), 4),
    "from the top": ([(t, "A", z) for t in range(3) for z in (2, 1, 0)], 4),
    "up and down": ([(0, "A", z) for z in (0, 1, 2)] + [(1, "A", z) for z in (2, 1, 0)], 4),
    "joined in mid-stack": ([(0, "A", 1), (0, "A", 2), *lapse("tcz")][:12], 6),
    "a channel of one plane": (
        [p for t in range(2) for p in [(t, "A", 1), *((t, "B", z) for z in range(3))]], 5),
    "a channel of the first plane": (
        [p for t in range(2) for p in [(t, "A", 0), *((t, "B", z) for z in range(3))]], 5),
}  # fmt: skip


@pytest.mark.parametrize(("places", "announced_at"), STACKS.values(), ids=STACKS)
def test_the_number_of_planes_is_learned_from_stacks_that_are_whole(incoming, places, announced_at):
    sender = Sender(incoming)
    events = sender.planes(*places[: announced_at - 1])
    assert events == []
    events = sender.planes(places[announced_at - 1])
    assert events[0].shape_zyx == (3, 3, 4)
    assert len(of(Plane, events)) == announced_at
    events += sender.planes(*places[announced_at:]) + sender.end()
    given = [(p.key.time, p.key.channel, p.z) for p in of(Plane, events)]
    assert given == places
    assert events[-1] == AcquisitionEnd("a", "finished")


def test_single_planes_over_time_are_stacks_of_one(incoming):
    sender = Sender(incoming)
    assert sender.planes((0, "A", 0), (0, "B", 0)) == []
    info, *planes = sender.planes((1, "A", 0))
    assert info.shape_zyx[0] == 1
    assert info.channels == ("A", "B")
    assert len(planes) == 3


def test_a_stack_whose_last_planes_were_lost_does_not_teach_their_number(incoming, caplog):
    sender = Sender(incoming)
    sender.planes((0, "A", 0), (0, "A", 1))
    sender.lose(1)
    assert sender.planes((1, "A", 0), (1, "A", 1), (1, "A", 2)) == []
    info, *_ = sender.planes((2, "A", 0))
    assert info.shape_zyx[0] == 3
    assert "a: before plane 3, 1 weren't sent" in caplog.text


def test_an_acquisition_of_one_stack_is_learned_by_its_end(incoming):
    sender = Sender(incoming)
    assert sender.planes(*lapse("tcz", 1, "A", 4)) == []
    info, *planes, end = sender.end("stopped")
    assert info.shape_zyx[0] == 4
    assert len(planes) == 4
    assert end == AcquisitionEnd("a", "stopped")


def test_one_plane_of_a_stack_that_is_known_to_have_more_is_no_whole_stack(incoming):
    """It is held back, since the step isn't known yet; then the acquisition is aborted."""
    sender = Sender(incoming, num_slices=5, z_step_um=None)
    assert sender.plane(0) == []
    info, _, _ = sender.end("stopped")
    assert info.shape_zyx[0] == 5


@pytest.mark.parametrize(
    ("places", "knows_from"),
    [
        pytest.param(list(lapse("tcz")), 2, id="stack after stack"),
        pytest.param(list(lapse("tzc")), 3, id="channels within slices"),
    ],
)
def test_the_step_is_learned_from_the_second_plane_of_a_stack(incoming, places, knows_from):
    sender = Sender(incoming, num_slices=3, z_step_um=None)
    assert sender.planes(*places[: knows_from - 1]) == []
    events = sender.planes(places[knows_from - 1], z_step_um=0.25)
    assert events[0].voxel_size_um == (0.25, 0.1, 0.1)
    assert len(of(Plane, events)) == knows_from


@pytest.mark.parametrize(
    ("known", "defaults", "expected"),
    [
        pytest.param({"z_step_um": None}, {}, None, id="no step"),
        pytest.param({"pixel_size_um": None}, {}, None, id="no pixel size"),
        pytest.param(
            {"pixel_size_um": None, "z_step_um": None},
            {"pixel_size_um": 0.2, "z_step_um": 0.7},
            (0.7, 0.2, 0.2),
            id="from the profile",
        ),
        pytest.param({}, {"pixel_size_um": 9, "z_step_um": 9}, (0.5, 0.1, 0.1), id="the sender's"),
        pytest.param(
            {"z_step_um": None, "num_slices": 1}, {}, (0.1, 0.1, 0.1), id="one plane has no step"
        ),
    ],
)
def test_the_voxel_size_is_the_sender_s_or_the_profile_s(known, defaults, expected):
    sender = Sender(Incoming(Defaults(**defaults)), **({"num_slices": 2} | known))
    events = sender.plane(0) + sender.plane(1)
    assert events[0].voxel_size_um == expected
    assert len(of(Plane, events)) == 2


def test_the_profile_s_number_of_planes_is_believed_at_once():
    sender = Sender(Incoming(Defaults(num_slices=7)))
    info, _ = sender.plane(0)
    assert info.shape_zyx[0] == 7


def test_planes_lost_on_the_way_are_told_and_counted(incoming, caplog):
    sender = Sender(incoming, num_slices=3)
    sender.lose(2)
    sender.plane(2)
    assert "a: before plane 2, 2 weren't sent" in caplog.text
    caplog.clear()
    sender.plane(0, 1)
    assert not caplog.records
    sender.lose(1)
    sender.plane(2, 1)
    assert "a: before plane 5, 1 weren't sent" in caplog.text
    sender.lose(5)
    sender.end(number=11)
    assert "a: before plane 11, 5 weren't sent" in caplog.text
    caplog.clear()
    sender.acquisition = "next"
    sender.plane(0)
    assert not caplog.records


def test_an_acquisition_with_lost_planes_ends_with_its_sender_s_word(incoming):
    sender = Sender(incoming, num_slices=2, num_times=2, channels=("c",), positions=("0",))
    sender.planes((0, "c", 0), (0, "c", 1))
    sender.lose(1)
    assert of(AcquisitionEnd, sender.planes((1, "c", 1))) == []
    assert sender.end() == [AcquisitionEnd("a", "finished")]
    assert sender.end() == []


def test_an_acquisition_that_falls_silent_ends(incoming, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("live_restore.sources.incoming.time.monotonic", lambda: now[0])
    busy = Sender(incoming, "busy", "busy", num_slices=3)
    silent = Sender(incoming, "silent", "silent", num_slices=3)
    busy.plane(0)
    silent.plane(0)
    now[0] += 8
    busy.plane(1)
    now[0] += 3
    assert list(incoming.end_idle(10, "no planes")) == [AcquisitionEnd("silent", "no planes")]
    assert incoming.running == ("busy",)
    # One that goes on after all is another: the first was told to be over.
    assert silent.plane(1)[0].acquisition == "silent~2"
    assert {e.acquisition for e in incoming.end_idle(0, "stopped")} == {"busy", "silent~2"}


def test_two_senders_may_use_the_same_name(incoming):
    one, two = Sender(incoming, "one", num_slices=2), Sender(incoming, "two", num_slices=2)
    names = [one.plane(0)[0].acquisition, two.plane(0)[0].acquisition]
    assert names == ["a", "a~2"]
    assert {p.key.acquisition for p in two.plane(1)} == {"a~2"}
    assert one.end() == [AcquisitionEnd("a")]
    assert two.end() == [AcquisitionEnd("a~2")]


def test_memory_is_bounded_while_the_number_of_planes_is_unknown(caplog):
    """One position after another, each plane another channel: nothing tells how many there are."""
    incoming = Incoming(Defaults(memory_bytes=64_000))
    sender = Sender(incoming)
    data = np.zeros((64, 64), "u2")
    for z in range(20):
        assert sender.plane(z, data=data) == []
    told = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 1
    assert "Set num_slices in [source]" in told[0].message
    assert incoming._held_bytes == 0
    assert sender.end() == []
    other = Sender(incoming, "other", "other", num_slices=2)
    assert len(other.plane(0)) == 2


def test_planes_without_pixels_to_speak_of_are_bounded_too():
    incoming = Incoming(Defaults(memory_bytes=2**20))
    sender = Sender(incoming)
    for z in range(1000):
        sender.plane(z, data=np.zeros((1, 1), "u1"))
    assert incoming._held_bytes == 0


def test_a_plane_larger_than_the_memory_is_announced_when_its_stack_is_known():
    incoming = Incoming(Defaults(memory_bytes=10))
    events = Sender(incoming, num_slices=2, z_step_um=None).plane(0)
    assert [type(event) for event in events] == [AcquisitionInfo, Plane]


def test_what_one_acquisition_holds_is_free_again_when_it_ends():
    incoming = Incoming(Defaults(memory_bytes=2**20))
    sender = Sender(incoming)
    for run in range(50):
        sender.acquisition = f"run {run}"
        sender.planes(*lapse("tcz", 1, "A", 20))
        assert incoming._held_bytes > 0
        events = sender.end()
        assert events[0].shape_zyx[0] == 20
        assert incoming._held_bytes == 0


def test_colour_planes_arrive_and_their_stacks_are_skipped(incoming):
    sender, assembler = Sender(incoming, num_slices=2), Assembler()
    colours = np.zeros((3, 4, 3), "u1")
    info, *planes = sender.plane(0, data=colours) + sender.plane(1, data=colours)
    assert info.shape_zyx == (2, 3, 4)
    assembler.start(info)
    (settled,) = [one for plane in planes for one in assembler.add(plane)]
    assert isinstance(settled, Skipped)
    assert "colour image" in settled.reason


def test_of_very_many_acquisitions_the_quietest_is_ended(incoming):
    events = []
    for i in range(300):
        events += Sender(incoming, f"sender {i}", f"run {i}", num_slices=2).plane(0)
    assert len(of(AcquisitionInfo, events)) == 300
    ended = [end.acquisition for end in of(AcquisitionEnd, events)]
    assert ended == [f"run {i}" for i in range(300 - 64)]
    assert len(incoming.running) == 64
    assert len(incoming._next_number) <= 64


def test_held_planes_make_the_volumes_that_were_sent(incoming):
    """Through the assembler, each plane other pixels."""
    sender, assembler = Sender(incoming), Assembler()
    rng = np.random.default_rng(0)
    places = list(lapse("tzc", 3, "ABC", 4))
    sent = {place: rng.integers(0, 60_000, (3, 4)).astype("u2") for place in places}
    events = [e for (t, c, z), d in sent.items() for e in sender.plane(z, t, c, data=d)]
    volumes = []
    for event in events + sender.end():
        match event:
            case AcquisitionInfo():
                volumes += assembler.start(event)
            case Plane():
                volumes += assembler.add(event)
    assert len(volumes) == 9
    for volume in volumes:
        assert isinstance(volume, Volume)
        expected = [sent[volume.key.time, volume.key.channel, z] for z in range(4)]
        np.testing.assert_array_equal(volume.data, expected)


def test_names_of_acquisitions_are_remembered_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(incoming_module, "_REMEMBERED_NAMES", 10)
    incoming = Incoming()
    for number in range(100):
        sender = Sender(incoming, acquisition=f"a {number}", num_slices=1)
        sender.plane(0)
        sender.end()
    assert len(incoming._names) == 10
    again = Sender(incoming, sender="other", acquisition="a 99", num_slices=1)
    assert [e.acquisition for e in again.plane(0) if isinstance(e, AcquisitionInfo)] == ["a 99~2"]


def test_acquisitions_with_too_many_names_end_the_quietest(monkeypatch):
    monkeypatch.setattr(incoming_module, "_NAMES_BYTES", 10_000)
    incoming = Incoming()
    names = tuple(f"position {i}" for i in range(50))
    ended = []
    for number in range(10):
        sender = Sender(incoming, acquisition=f"a {number}", num_slices=2, positions=names)
        ended += [e for e in sender.plane(0) if isinstance(e, AcquisitionEnd)]
    assert [e.acquisition for e in ended] == [f"a {n}" for n in range(8)]
    assert incoming.running == ("a 8", "a 9")


def test_what_is_held_back_does_not_keep_what_it_came_in():
    """A small plane's frame lies in a larger piece of memory, with its header and its neighbours."""
    received = np.zeros(8192, "u1")
    incoming = Incoming()
    sender = Sender(incoming)
    assert sender.plane(0, data=received[:12].view("u2").reshape(2, 3)) == []
    (one,) = incoming._running.values()
    assert not np.shares_memory(one.held[0].data, received)
    assert not one.held[0].data.flags.writeable


def test_what_was_learned_of_stacks_goes_with_the_planes():
    incoming = Incoming(Defaults(memory_bytes=100_000))
    sender = Sender(incoming)
    for time in range(100):  # single planes in the middle: how many there are can't be learned
        sender.plane(5, time=time)
    (one,) = incoming._running.values()
    assert one.is_refused
    assert not one.held
    assert not one.stacks._planes
