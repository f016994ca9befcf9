"""Viewers over real sockets: the newest volume, restarts, silence, arrays, asyncio."""

import asyncio
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import zmq

from live_restore.client import (
    AsyncControl,
    AsyncLatest,
    AsyncSubscriber,
    Control,
    Heartbeat,
    Latest,
    ReusedArrays,
    SkippedHeader,
    Subscriber,
    VolumeMessage,
    receiving,
)
from live_restore.client.sockets import prepare_request
from live_restore.errors import NoAnswerError, ProtocolError, RefusedError
from live_restore.profile import PublishSettings
from live_restore.sinks.publisher import Publisher
from live_restore.volume import Skipped, VolumeKey
from tests.conftest import make_restored, make_volume, wait_for

PATIENCE_S = 20.0


@contextmanager
def publishing(endpoints, **settings):
    with Publisher(
        PublishSettings(endpoint=endpoints[0], control=endpoints[1], **settings)
    ) as publisher:
        yield publisher


def send(publisher, *times, channel="DAPI", is_backfill=False):
    for time_point in times:
        restored = make_restored(make_volume(time=time_point, channel=channel))
        publisher.send(replace(restored, is_backfill=is_backfill))


def first(viewer):
    return next(viewer.volumes(PATIENCE_S))


def test_the_newest_volume_is_there_at_once_and_older_ones_are_passed_over(endpoints):
    with publishing(endpoints) as publisher:
        send(publisher, 0, 1, 2)
        with Latest(*endpoints) as viewer:
            assert first(viewer).header.time == 2
            wait_for(lambda: publisher.viewers, "the viewer")
            send(publisher, *range(3, 20))
            assert first(viewer).header.time == 19
            assert viewer.receive(0) is None or viewer.receive(0) is None
            send(publisher, 20)
            assert first(viewer).header.time == 20
            np.testing.assert_array_equal(
                first_of(viewer, publisher, 21).data, make_restored(time=21).data
            )


def first_of(viewer, publisher, time_point):
    send(publisher, time_point)
    return first(viewer)


def test_the_newest_of_each_stream_is_given_in_turn(endpoints):
    with publishing(endpoints) as publisher, Latest(*endpoints, ("restored", "raw")) as viewer:
        wait_for(lambda: publisher.viewers, "the viewer")
        for channel in ("a", "b"):
            send(publisher, 0, 1, channel=channel)
        got = [first(viewer) for _ in range(4)]
    assert {(one.header.channel, one.header.kind) for one in got} == {
        (channel, kind) for channel in "ab" for kind in ("restored", "raw")
    }
    assert {one.header.time for one in got} == {1}


def test_one_stream_may_be_chosen(endpoints):
    with publishing(endpoints) as publisher:
        for channel in ("a", "b"):
            send(publisher, 0, channel=channel)
        with Latest(*endpoints, position="0", channel="b") as viewer:
            assert [one.header.channel for one in viewer.volumes(0)] == ["b"]
    with pytest.raises(ValueError, match="position"):
        Latest(*endpoints, channel="b")


def test_what_is_restored_late_is_not_the_newest(endpoints):
    with publishing(endpoints) as publisher, Latest(*endpoints) as viewer:
        wait_for(lambda: publisher.viewers, "the viewer")
        send(publisher, 5)
        assert first(viewer).header.time == 5
        send(publisher, 1, 2, is_backfill=True)
        send(publisher, 6)
        send(publisher, 3, is_backfill=True)
        assert first(viewer).header.time == 6
        assert list(viewer.volumes(0)) == []


def test_where_all_was_restored_late_the_last_of_it_is_given(endpoints):
    with publishing(endpoints) as publisher:
        send(publisher, 1, 2, is_backfill=True)
        with Control(endpoints[1]) as control:
            assert control.latest("DAPI").header.time == 2


def test_events_come_with_the_newest(endpoints):
    with publishing(endpoints) as publisher, Latest(*endpoints) as viewer:
        wait_for(lambda: publisher.viewers, "the viewer")
        publisher.send(Skipped(VolumeKey("run", "0", 0, "DAPI"), "because"))
        messages = iter(lambda: viewer.receive(PATIENCE_S), None)
        assert next(m for m in messages if isinstance(m, SkippedHeader)).reason == "because"


def test_a_viewer_of_the_newest_goes_on_with_a_restarted_daemon(endpoints):
    sessions = []
    with Latest(*endpoints) as viewer:
        assert viewer.receive(0) is None
        for time_point in range(2):
            with publishing(endpoints) as publisher:
                send(publisher, time_point)
                assert first(viewer).header.time == time_point
                sessions.append(viewer.session)
    assert len(set(sessions)) == 2


def test_what_a_restarted_daemon_published_before_it_was_found_is_asked_for(endpoints):
    with Subscriber(endpoints[0], control=endpoints[1]) as viewer:
        with publishing(endpoints) as publisher:
            wait_for(lambda: viewer.receive(0.05) and publisher.viewers, "the viewer")
            send(publisher, 0)
            assert first(viewer).header.time == 0
        with publishing(endpoints) as publisher:
            send(publisher, 1, 2)  # before the viewer is back
            got = []

            def is_back():
                if isinstance(message := viewer.receive(0.05), VolumeMessage):
                    got.append(message)
                return publisher.viewers

            wait_for(is_back, "the viewer")
            send(publisher, 3)
            got += [first(viewer) for _ in range(3 - len(got))]
    assert [one.header.time for one in got] == [1, 2, 3]
    assert viewer.missed == 0


def test_silence_is_noticed_and_ends(endpoints, monkeypatch):
    monkeypatch.setattr(receiving, "STALE_AFTER_S", 1.5)
    with Subscriber(endpoints[0]) as viewer:
        wait_for(lambda: viewer.is_stale, "silence")
        assert viewer.receive(0) is None
        with publishing(endpoints):
            assert isinstance(viewer.receive(PATIENCE_S), Heartbeat)
            assert not viewer.is_stale
            assert viewer.silence_s < 1.5
            wait_for(lambda: viewer.silence_s > 1.5, "a viewer that is busy with something else")
            wait_for(lambda: not viewer.is_stale, "a heartbeat that waits")
        while viewer.receive(0):
            pass
        wait_for(lambda: viewer.is_stale, "silence")


def test_a_message_that_is_none_is_an_error_and_the_next_one_comes(endpoints):
    with zmq.Context() as context, context.socket(zmq.XPUB) as hostile:
        hostile.bind(endpoints[0])
        with Subscriber(endpoints[0]) as viewer:
            for _ in range(3):
                assert hostile.poll(10_000)
                hostile.recv()
            hostile.send_multipart([b"volume/restored/0/c/", b"{}"])
            hostile.send_multipart([b"volume/restored/0/c/"])
            hostile.send_multipart(
                [b"skipped/", b'{"session": "a", "acquisition": "run", "position": "0", "time": 0,'
                 b' "channel": "c", "reason": "-", "at": "2026-01-01T00:00:00Z"}']
            )  # fmt: skip
            for _ in range(2):
                with pytest.raises(ProtocolError):
                    viewer.receive(PATIENCE_S)
            assert isinstance(viewer.receive(PATIENCE_S), SkippedHeader)


def test_volumes_are_put_into_the_given_arrays(endpoints):
    arrays = ReusedArrays(2)
    with (
        publishing(endpoints) as publisher,
        Subscriber(endpoints[0], control=endpoints[1], from_start=True, into=arrays) as viewer,
        Control(endpoints[1], into=ReusedArrays(1)) as control,
    ):
        send(publisher, 0)
        wait_for(lambda: publisher.viewers, "the viewer")
        send(publisher, 1, 2)
        got = [first(viewer) for _ in range(3)]  # the first one from the control port
        assert got[0].data is got[2].data
        assert got[1].data is not got[2].data
        np.testing.assert_array_equal(got[2].data, make_restored(time=2).data)
        assert control.latest("DAPI").data is control.sequence(0, "DAPI").data


def test_a_refusal_says_what_can_be_had(endpoints):
    with publishing(endpoints) as publisher, Control(endpoints[1]) as control:
        send(publisher, 0, 1)
        with pytest.raises(RefusedError) as refused:
            control.sequence(7, "DAPI")
    assert (refused.value.code, refused.value.held) == ("not_held", (0, 1))


def test_a_viewer_that_was_not_entered_says_so(endpoints):
    with pytest.raises(RuntimeError, match="`with`"):
        Subscriber(endpoints[0]).receive(0)


def test_with_asyncio_volumes_come_in_order_and_gaps_are_filled(endpoints):
    async def watch(publisher):
        async with AsyncSubscriber(endpoints[0], control=endpoints[1], from_start=True) as viewer:
            while not publisher.viewers:
                await asyncio.sleep(0.01)
            send(publisher, 2)
            got = []
            async for message in viewer:
                got.append(message)
                if len(got) == 3:
                    break
            assert [one async for one in viewer.volumes(0)] == []
            assert not await viewer.is_stale()
            return got, viewer.missed

    with publishing(endpoints) as publisher:
        send(publisher, 0, 1)
        got, missed = asyncio.run(watch(publisher))
    assert [one.header.sequence for one in got] == [0, 1, 2]
    np.testing.assert_array_equal(got[0].data, make_restored(time=0).data)
    assert missed == 0


def test_with_asyncio_the_newest_is_given_and_several_viewers_share_a_loop(endpoints):
    async def watch():
        async with AsyncLatest(*endpoints) as one, AsyncLatest(*endpoints) as other:
            return await asyncio.gather(
                *(anext(viewer.volumes(PATIENCE_S)) for viewer in (one, other))
            )

    with publishing(endpoints) as publisher:
        send(publisher, 0, 1)
        assert [one.header.time for one in asyncio.run(watch())] == [1, 1]


def test_with_asyncio_a_cancelled_wait_loses_nothing(endpoints):
    async def watch(publisher):
        async with AsyncSubscriber(endpoints[0]) as viewer:
            while not publisher.viewers:
                await asyncio.sleep(0.01)
            got = []
            for time_point in range(30):
                waiting = asyncio.create_task(viewer.receive())
                await asyncio.sleep(0)
                send(publisher, time_point)
                await asyncio.sleep(0.001 * (time_point % 3))
                waiting.cancel()
                done = (await asyncio.gather(waiting, return_exceptions=True))[0]
                if isinstance(done, VolumeMessage):
                    got.append(done)
                got += [one async for one in viewer.volumes(0.05 if time_point == 29 else 0)]
            return [one.header.time for one in got], viewer.missed

    with publishing(endpoints) as publisher:
        got, missed = asyncio.run(watch(publisher))
    assert got == list(range(30))
    assert missed == 0


def test_with_asyncio_the_control_port_answers_and_refuses(endpoints):
    async def ask():
        async with AsyncControl(endpoints[1]) as control:
            catalog, status, latest, older = await asyncio.gather(
                control.catalog(),
                control.status(),
                control.latest("DAPI"),
                control.sequence(0, "DAPI", kind="raw"),
            )
            assert catalog["session"] == status["session"] == latest.header.session
            assert (latest.header.time, older.header.kind) == (1, "raw")
            for command in (control.reload, control.drain):
                with pytest.raises(RefusedError, match="operator"):
                    await command()
        async with AsyncControl("tcp://127.0.0.1:9", timeout_s=0.1) as nobody:
            with pytest.raises(NoAnswerError, match="is the daemon running"):
                await nobody.status()

    with publishing(endpoints) as publisher:
        send(publisher, 0, 1)
        asyncio.run(ask())


def test_where_nothing_can_be_sent_is_no_answer(monkeypatch):
    """As for a moment at a port of another kind, which hangs up."""

    def prepare_without_queue(socket, *arguments):
        socket.immediate = True
        prepare_request(socket, *arguments)

    async def ask():
        async with AsyncControl("tcp://127.0.0.1:9", timeout_s=0.1) as control:
            await control.status()

    monkeypatch.setattr("live_restore.client.control.prepare_request", prepare_without_queue)
    with (
        Control("tcp://127.0.0.1:9", timeout_s=0.1) as control,
        pytest.raises(NoAnswerError, match="is the daemon running, with a control port"),
    ):
        control.status()
    with pytest.raises(NoAnswerError, match="is the daemon running, with a control port"):
        asyncio.run(ask())
