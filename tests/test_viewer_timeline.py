"""What a viewer knows of a daemon, and what it holds."""

import numpy as np
import pytest

from live_restore.messages import (
    Announcement,
    EndHeader,
    Header,
    Heartbeat,
    SkippedHeader,
    StartHeader,
    Statistics,
    VolumeMessage,
)
from live_restore.viewer.history import Held, History, VolumeName
from live_restore.viewer.pictures import View, images_of, packed
from live_restore.viewer.timeline import Timeline
from live_restore.volume import utc_now


def header(sequence, time=None, channel="c", position="0", session="s", shape=(3, 4, 5), **changes):
    fields = {
        "session": session,
        "type": "uint16",
        "shape": shape,
        "kind": "restored",
        "sequence": sequence,
        "acquisition": "run",
        "position": position,
        "time": sequence if time is None else time,
        "channel": channel,
        "voxel_size_um": (0.3, 0.1, 0.1),
        "acquired_at": None,
        "received_at": utc_now(),
        "published_at": utc_now(),
        "statistics": Statistics(min=0, max=100, p0_1=1, p99_9=90),
    }
    return Header(**(fields | changes))


def announced(*args, **changes):
    one = header(*args, **changes)
    return Announcement(f"announce/{one.kind}/{one.position}/{one.channel}/", one)


def skipped(time, channel="c", session="s"):
    return SkippedHeader(
        session=session,
        acquisition="run",
        position="0",
        time=time,
        channel=channel,
        reason="because",
        at=utc_now(),
    )


def beat(session="s", **sequences):
    told = {f"volume/restored/0/{channel}/": last for channel, last in sequences.items()}
    return Heartbeat(
        session=session, at=utc_now(), sequences=told, source="watching", running=("run",)
    )


def told(*messages):
    timeline = Timeline()
    for message in messages:
        timeline.take(message)
    return timeline


def test_what_came_last_is_newest_unless_it_was_restored_late():
    timeline = told(announced(0), announced(1, time=3), announced(2, time=2, backfill=True))
    assert timeline.newest("0", "c")[0] == ("run", 3)
    assert timeline.points("0") == [("run", 0), ("run", 2), ("run", 3)]
    assert (timeline.num_received, timeline.num_backfilled, timeline.num_missed) == (3, 1, 0)


def test_a_stream_that_was_only_made_up_for_shows_that():
    timeline = told(announced(0, time=4, backfill=True), announced(1, time=2, backfill=True))
    assert timeline.newest("0", "c")[0] == ("run", 2)
    timeline.take(announced(2, time=1))
    timeline.take(announced(3, time=3, backfill=True))
    assert timeline.newest("0", "c")[0] == ("run", 1)


def test_raw_and_restored_are_one_volume_in_the_count():
    timeline = told(announced(0), announced(0, kind="raw"), announced(1, kind="raw"))
    assert timeline.num_received == 2
    assert timeline.at("0", "c", ("run", 0)).kinds == {"raw", "restored"}
    assert timeline.at("0", "c", ("run", 1)).kinds == {"raw"}


@pytest.mark.parametrize(
    ("messages", "missed"),
    [
        ([announced(0), announced(3)], 2),
        ([announced(0), beat(c=2)], 2),
        ([announced(0), beat(c=2), announced(3)], 2),
        ([announced(5), beat(c=5)], 0),
        ([announced(0), beat(d=9)], 0),
    ],
)
def test_volumes_that_were_not_heard_of_are_counted(messages, missed):
    assert told(*messages).num_missed == missed


def test_another_session_begins_anew_and_says_so():
    timeline = told(announced(0), skipped(1))
    assert timeline.take(announced(0, channel="d", session="t"))
    assert not timeline.take(beat("t"))
    assert timeline.channels("0") == ["d"]
    assert timeline.last_skipped() is None
    assert timeline.num_skipped == 1  # since this viewer began


def test_channels_come_in_the_acquisitions_own_order():
    start = StartHeader(
        session="s",
        acquisition="run",
        shape=(3, 4, 5),
        type="uint16",
        voxel_size_um=None,
        channels=("b", "a"),
        positions=("0",),
        num_times=None,
        started_at=utc_now(),
    )
    timeline = told(start, announced(0, channel="a"), announced(0, channel="b"))
    assert timeline.channels("0") == ["b", "a"]
    assert timeline.running == ("run",)
    timeline.take(EndHeader(session="s", acquisition="run", reason="finished", at=utc_now()))
    assert timeline.running == ()


def test_a_skipped_volume_has_its_reason_until_it_is_restored_after_all():
    timeline = told(announced(0), skipped(1))
    assert timeline.why_skipped("0", "c", ("run", 1)) == "because"
    assert timeline.last_skipped()["time"] == 1
    timeline.take(announced(1, time=1, backfill=True))
    assert timeline.why_skipped("0", "c", ("run", 1)) == ""
    assert timeline.last_skipped() is None


def test_old_time_points_are_let_go():
    timeline = told(*(announced(n) for n in range(1000)))
    assert timeline.points("0")[0] == ("run", 600)
    assert timeline.newest("0", "c")[0] == ("run", 999)


def test_what_is_held_no_more_can_be_forgotten():
    timeline = told(announced(0), announced(1), announced(1, channel="d"))
    timeline.forget("0", "c", ("run", 0))
    timeline.forget("0", "c", ("run", 1))
    timeline.forget("0", "c", ("run", 7))
    assert timeline.points("0") == [("run", 1)]
    assert timeline.at("0", "c", ("run", 1)) is None
    assert timeline.newest("0", "c") is None


def test_silence_is_measured_since_the_last_message_and_unknown_before():
    timeline = Timeline()
    assert timeline.silence_s is None
    timeline.take(beat())
    assert timeline.silence_s >= 0


# History


def held(sequence=0, data=None, **changes):
    data = np.arange(60, dtype="u2").reshape(3, 4, 5) if data is None else data
    about = header(sequence, shape=data.shape, **changes)
    return Held(VolumeMessage("volume/restored/0/c/", about, data))


def name(sequence):
    return VolumeName("restored", "0", "c", sequence)


def test_history_keeps_what_was_shown_last_up_to_its_size():
    history = History(2 * 120)
    for sequence in range(2):
        history.keep(name(sequence), held(sequence))
    assert history.find(name(0)) is not None  # shown again
    history.keep(name(2), held(2))
    assert [history.find(name(n)) is not None for n in range(3)] == [True, False, True]
    assert history.nbytes == 240
    history.keep(name(2), held(2))
    assert (len(history), history.nbytes) == (2, 240)
    history.clear()
    assert (len(history), history.nbytes) == (0, 0)


def test_the_last_volume_is_held_whatever_its_size():
    history = History(1)
    history.keep(name(0), held(0))
    history.keep(name(1), held(1))
    assert history.find(name(1)) is not None
    assert len(history) == 1


def test_projections_are_maxima():
    one = held(data=np.random.default_rng(0).integers(0, 999, (3, 4, 5)).astype("u2"))
    for axis, projection in enumerate(one.projections):
        np.testing.assert_array_equal(projection, one.data.max(axis=axis))


# Pictures


def counts(image):
    return image.data.astype(float) * image.scale + image.base


def test_a_slice_is_the_plane_at_its_place():
    one = held()
    for part, z in ((0, 0), (0.34, 1), (0.99, 2), (1, 2)):
        (image,) = images_of(one, View(z=part))
        np.testing.assert_allclose(counts(image), one.data[z], atol=0.05)


def test_orthogonal_planes_stand_as_they_are_drawn():
    one = held()
    images = {i.plane: counts(i) for i in images_of(one, View(mode="ortho", z=0, y=0.3, x=0.9))}
    np.testing.assert_allclose(images["xy"], one.data[0], atol=0.05)
    np.testing.assert_allclose(images["xz"], one.data[:, 1], atol=0.05)
    np.testing.assert_allclose(images["yz"], one.data[:, :, 4].T, atol=0.05)


def test_projections_are_sent_like_planes():
    one = held()
    images = {i.plane: counts(i) for i in images_of(one, View(mode="max"))}
    np.testing.assert_allclose(images["yz"], one.data.max(axis=2).T, atol=0.05)


@pytest.mark.parametrize("shape", [(3, 4, 5), (20, 33, 64), (17, 16, 70)])
def test_a_block_keeps_its_maxima_where_it_is_too_large(shape):
    one = held(data=np.random.default_rng(0).integers(0, 100, shape).astype("u2"))
    (image,) = images_of(one, View(mode="block", most_side=16))
    assert max(image.data.shape) <= 16
    assert counts(image).max() == pytest.approx(one.data.max(), abs=0.05)
    nz, ny, nx = (-(-n // 16) for n in shape)
    first = one.data[:nz, :ny, :nx].max()
    assert counts(image)[0, 0, 0] == pytest.approx(first, abs=0.05)


@pytest.mark.parametrize("base", [0.0, 50_000.0, -3.0])
def test_half_precision_shows_differences_of_a_thousandth_of_the_range(base):
    data = (base + np.linspace(0, 200, 60)).astype("f4").reshape(3, 4, 5)
    limits = Statistics(min=data.min(), max=data.max(), p0_1=data.min(), p99_9=data.max())
    one = held(data=data, type="float32", statistics=limits)
    (image,) = images_of(one, View(z=0.5))
    np.testing.assert_allclose(counts(image), data[1], atol=0.1)


def test_not_a_number_is_drawn_black():
    data = np.full((3, 4, 5), np.nan, "f4")
    flat = Statistics(min=0, max=0, p0_1=0, p99_9=0)
    (image,) = images_of(held(data=data, type="float32", statistics=flat), View())
    assert not image.data.any()


def test_a_message_holds_its_arrays_where_its_header_says():
    import json
    import struct

    one = held(data=np.arange(45, dtype="u2").reshape(3, 3, 5))
    images = [("raw", i) for i in images_of(one, View(mode="ortho"))]
    message = packed({"number": 1}, images)
    (length,) = struct.unpack_from("<I", message)
    about = json.loads(message[4 : 4 + length])
    assert about["number"] == 1
    for entry, (_, image) in zip(about["images"], images, strict=True):
        start = 4 + length + entry["offset"]
        assert start % 8 == 0
        size = int(np.prod(entry["shape"]))
        found = np.frombuffer(message, "<f2", size, start).reshape(entry["shape"])
        np.testing.assert_array_equal(found, image.data)
