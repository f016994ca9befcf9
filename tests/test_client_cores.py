"""What viewers do with what they hear, without sockets."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from live_restore.client.arrays import ReusedArrays
from live_restore.client.asks import Ask, Stream, stream_of
from live_restore.client.following import Following
from live_restore.client.newest import Newest
from live_restore.errors import NoAnswerError, ProtocolError, RefusedError
from live_restore.messages import (
    Announcement,
    Header,
    Heartbeat,
    SkippedHeader,
    Statistics,
    VolumeMessage,
)
from live_restore.protocol import ReceivedVolume

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOPIC = "volume/restored/0/c/"


def header(number=0, session="a", channel="c", backfill=False, **changes):
    fields = {
        "session": session,
        "type": "uint16",
        "shape": (1, 1, 1),
        "kind": "restored",
        "sequence": number,
        "acquisition": "run",
        "position": "0",
        "time": number,
        "channel": channel,
        "voxel_size_um": None,
        "acquired_at": None,
        "received_at": NOW,
        "published_at": NOW,
        "backfill": backfill,
        "statistics": Statistics(min=0, max=0, p0_1=0, p99_9=0),
    }
    return Header(**fields | changes)


def volume(number=0, session="a", channel="c", **changes):
    head = header(number, session, channel, **changes)
    return VolumeMessage(f"volume/restored/0/{channel}/", head, np.zeros((1, 1, 1), "u2"))


def arrived(number=0, session="a", channel="c", **changes):
    """The same volume, as the data port brings it."""
    sent = volume(number, session, channel, **changes)
    return ReceivedVolume(sent.topic, sent.header, [bytes(2)])


def announcement(number=0, session="a", channel="c", **changes):
    return Announcement(
        f"announce/restored/0/{channel}/", header(number, session, channel, **changes)
    )


def heartbeat(last=None, session="a", topic=TOPIC, encodings=("raw",)):
    sequences = {} if last is None else {topic: last}
    return Heartbeat(session=session, at=NOW, sequences=sequences, encodings=encodings)


def skipped(session="a"):
    return SkippedHeader(
        session=session, acquisition="run", position="0", time=0, channel="c", reason="-", at=NOW
    )


def following(can_ask=True, from_start=False, topics=("volume/restored/",), encoding="raw"):
    return Following(topics, encoding, can_ask, from_start)


def steps(core, answer=None):
    """All that a core wants to do now; `answer` gives the reply to a request."""
    done = []
    while (step := core.next()) is not None:
        if isinstance(step, Ask):
            done.append(step.request.get("sequence", step.request["get"]))
            core.answer(answer(step.request))
        else:
            done.append(step)
    return done


def numbers(done):
    return [one.header.sequence for one in done if isinstance(one, VolumeMessage | ReceivedVolume)]


def holding(lowest, session="a"):
    """Answers of a daemon that holds all from a number on."""

    def answer(request):
        number = request["sequence"]
        if number >= lowest:
            return volume(number, session)
        return RefusedError("not held", "not_held", tuple(range(lowest, lowest + 100)))

    return answer


def test_volumes_in_order_are_handed_on_and_nothing_is_asked():
    core = following()
    for number in (5, 6, 7):
        core.take(arrived(number))
        assert numbers(steps(core)) == [number]
    assert core.missed == 0


def test_a_gap_is_asked_for_volume_by_volume_and_given_in_order():
    core = following()
    core.take(arrived(3))
    core.take(arrived(6))
    done = steps(core, holding(0))
    assert [one if isinstance(one, int) else one.header.sequence for one in done] == [
        3,
        4,
        4,
        5,
        5,
        6,
    ]
    assert core.missed == 0


def test_what_is_not_held_any_more_is_asked_for_once_and_counted():
    core = following(from_start=True)
    core.take(arrived(10))
    done = steps(core, holding(8))
    assert [one for one in done if isinstance(one, int)] == [0, 8, 9]
    assert numbers(done) == [8, 9, 10]
    assert [one.missed for one in done if isinstance(one, VolumeMessage | ReceivedVolume)] == [
        8,
        0,
        0,
    ]
    assert core.missed == 8


def test_a_dead_control_port_is_asked_once_and_all_is_counted():
    core = following(from_start=True)
    core.take(arrived(5))
    core.take(arrived(9))
    done = steps(core, lambda request: NoAnswerError("-"))
    assert [one for one in done if isinstance(one, int)] == [0]
    assert [(one.header.sequence, one.missed) for one in done if not isinstance(one, int)] == [
        (5, 5),
        (9, 3),
    ]
    assert core.missed == 8


@pytest.mark.parametrize(
    "reply",
    [
        volume(3, session="b"),
        volume(2),
        {"streams": []},
        ProtocolError("unreadable"),
        RefusedError("-", "internal"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_not_shown(reply):
    core = following()
    core.take(arrived(2))
    steps(core)
    core.take(arrived(4))
    done = steps(core, lambda request: reply)
    assert numbers(done) == [4]
    assert core.missed == 1
    assert done[-1].missed == 1


def test_a_volume_that_was_asked_for_and_comes_late_is_not_given_twice():
    core = following()
    core.take(arrived(0))
    core.take(heartbeat(1))
    assert numbers(steps(core, holding(0))) == [0, 1]
    core.take(arrived(1))
    core.take(arrived(2))
    assert numbers(steps(core)) == [2]


def test_a_heartbeat_ahead_tells_of_volumes_that_nothing_followed():
    core = following(can_ask=False)
    core.take(arrived(0))
    core.take(heartbeat(4))
    steps(core)
    assert core.missed == 4
    core.take(arrived(5))
    assert steps(core)[0].missed == 4


def test_only_the_topics_that_were_subscribed_to_can_have_gaps():
    core = following(topics=("volume/restored/0/c/",), from_start=True, can_ask=False)
    core.take(heartbeat(4, topic="volume/restored/0/c1/"))
    core.take(heartbeat(4, topic="preview/restored/0/c/"))
    assert core.missed == 0


def test_a_restarted_daemon_counts_from_zero_and_what_it_published_alone_is_a_gap():
    core = following()
    core.take(arrived(7))
    steps(core)
    core.take(arrived(2, session="b"))
    assert core.session == "b"
    assert numbers(steps(core, holding(0, session="b"))) == [0, 1, 2]
    assert core.missed == 0


def test_what_a_daemon_that_is_gone_had_is_counted_and_not_asked_of_the_next():
    core = following()
    core.take(arrived(0))
    core.take(arrived(3))
    core.take(arrived(0, session="b"))
    done = steps(core, lambda request: pytest.fail("asked"))
    assert numbers(done) == [0, 3, 0]
    assert core.missed == 2


def test_a_daemon_that_cannot_compress_is_an_error_with_a_remedy():
    core = following(topics=("compressed/restored/",), encoding="blosc2")
    core.take(heartbeat(encodings=("raw", "blosc2")))
    with pytest.raises(ProtocolError, match=r"can't compress.*live-restore\[compression\]"):
        core.take(heartbeat())


def test_a_heartbeat_names_volumes_that_are_wanted_compressed():
    core = following(topics=("compressed/restored/",), encoding="blosc2", from_start=True)
    core.take(heartbeat(0, encodings=("raw", "blosc2")))
    done = steps(core, lambda request: volume(request["sequence"], encoding=request["encoding"]))
    assert [(v.topic, v.header.encoding) for v in done if isinstance(v, VolumeMessage)] == [
        ("compressed/restored/0/c/", "blosc2")
    ]


@given(
    st.lists(st.sampled_from(["arrives", "dropped", "dropped, heartbeat", "restart"]), max_size=40),
    st.booleans(),
    st.integers(1, 6),
)
def test_whatever_is_dropped_each_volume_is_given_once_in_order_or_counted(fates, can_ask, room):
    core = following(can_ask, from_start=True)
    session, last, given, published = 0, -1, [], 0

    def answer(request):
        held = tuple(range(max(0, last + 1 - room), last + 1))
        number = request["sequence"]
        if number in held:
            return volume(number, str(session))
        return RefusedError("-", "not_held", held)

    def note():
        given.extend(
            (one.header.session, one.header.sequence)
            for one in steps(core, answer)
            if isinstance(one, VolumeMessage | ReceivedVolume)
        )

    for fate in [*fates, "arrives"]:
        if fate == "restart":
            core.take(heartbeat(last if last >= 0 else None, str(session)))
            note()
            session, last = session + 1, -1
            continue
        last += 1
        published += 1
        if fate == "arrives":
            core.take(arrived(last, str(session)))
        elif fate == "dropped, heartbeat":
            core.take(heartbeat(last, str(session)))
        note()
    assert given == sorted(set(given), key=lambda one: (int(one[0]), one[1]))
    assert len(given) + core.missed == published


def newest(topics=("announce/restored/",), kinds=("restored",), encoding="raw"):
    core = Newest(topics, kinds, encoding)
    assert steps(core, lambda request: NoAnswerError("-")) == ["catalog"]
    core.take(heartbeat(encodings=("raw", "blosc2")))
    done = steps(core, lambda request: {"session": "a", "streams": []})
    assert done[1:] == ["catalog"]
    return core


def test_streams_that_are_there_already_are_given_at_once():
    core = Newest(("announce/restored/", "announce/raw/"), ("restored", "raw"), "raw")
    catalog = {
        "session": "a",
        "streams": [{"position": "0", "channel": c, "last": 4, "held": [4]} for c in "cd"],
    }
    done = steps(
        core,
        lambda request: (
            catalog
            if request["get"] == "catalog"
            else volume(4, channel=request["channel"], kind=request["kind"])
        ),
    )
    assert [
        (v.header.channel, v.header.kind)
        for v in done
        if isinstance(v, VolumeMessage | ReceivedVolume)
    ] == [(c, kind) for c in "cd" for kind in ("restored", "raw")]


def test_only_the_newest_is_asked_for():
    core = newest()
    for number in range(4):
        core.take(announcement(number))
    done = steps(core, lambda request: volume(6))
    assert numbers(done) == [6]
    for number in (4, 5, 6):
        core.take(announcement(number))
    assert steps(core) == []


def test_streams_take_turns_and_events_come_first():
    core = newest()
    core.take(announcement(0, channel="b"))
    core.take(announcement(0, channel="c"))
    core.take(announcement(1, channel="b"))
    core.take(skipped())
    done = steps(core, lambda request: volume(1, channel=request["channel"]))
    assert isinstance(done[0], SkippedHeader)
    assert [
        one.header.channel for one in done if isinstance(one, VolumeMessage | ReceivedVolume)
    ] == ["b", "c"]


def test_volumes_that_are_restored_late_are_not_news():
    core = newest()
    core.take(announcement(3, backfill=True))
    assert steps(core) == []


@pytest.mark.parametrize("reply", [NoAnswerError("-"), RefusedError("-", "not_held"), volume(2)])
def test_news_that_cannot_be_had_are_dropped_until_there_are_others(reply):
    core = newest()
    core.take(announcement(3))
    assert isinstance(core.next(), Ask)
    core.answer(reply)
    assert "latest" not in steps(core)
    core.take(announcement(4))
    assert numbers(steps(core, lambda request: volume(4))) == [4]


def test_a_heartbeat_tells_of_an_announcement_that_was_lost():
    core = newest()
    core.take(heartbeat(5))
    assert numbers(steps(core, lambda request: volume(5))) == [5]


def test_the_streams_of_a_restarted_daemon_are_looked_at_anew():
    core = newest()
    core.take(announcement(5))
    assert numbers(steps(core, lambda request: volume(5))) == [5]
    core.take(heartbeat(session="b"))
    catalog = {
        "session": "b",
        "streams": [{"position": "0", "channel": "c", "last": 0, "held": [0]}],
    }
    done = steps(
        core,
        lambda request: catalog if request["get"] == "catalog" else volume(0, session="b"),
    )
    assert numbers(done) == [0]
    assert core.session == "b"


@pytest.mark.parametrize(
    "catalog", [{}, {"session": 1, "streams": []}, {"session": "a", "streams": [{"position": 3}]}]
)
def test_a_catalog_that_is_none_does_no_harm(catalog):
    core = Newest(("announce/",), ("restored",), "raw")
    assert steps(core, lambda request: catalog) == ["catalog"]


@pytest.mark.parametrize(
    ("topic", "stream"),
    [
        ("volume/restored/0/c/", Stream("restored", "0", "c")),
        ("announce/raw/Pos%2F1/%C2%B5/", Stream("raw", "Pos/1", "µ")),
    ],
)
def test_a_stream_is_in_its_topics(topic, stream):
    assert stream_of(topic) == stream


def test_arrays_are_filled_in_turn_and_made_anew_for_another_shape():
    give = ReusedArrays(2)
    first, second, third = (give(header()) for _ in range(3))
    assert first is third
    assert first is not second
    assert give(header(shape=(2, 3, 4))).shape == (2, 3, 4)
    assert give(header(type="float32")).dtype == "f4"
    with pytest.raises(ValueError, match="at least one"):
        ReusedArrays(0)
