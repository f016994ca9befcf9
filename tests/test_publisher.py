"""Publisher and client together, over real sockets."""

import json
import threading
import time
import weakref
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import zmq

from live_restore.client import (
    Announcement,
    Control,
    EndHeader,
    Heartbeat,
    Preview,
    SkippedHeader,
    StartHeader,
    Subscriber,
    VolumeMessage,
)
from live_restore.errors import ProtocolError, SinkError
from live_restore.profile import PublishSettings, SimulatedSource
from live_restore.sinks import publisher as publisher_module
from live_restore.sinks import streams as streams_module
from live_restore.sinks.control_port import ControlPort
from live_restore.sinks.publisher import Publisher
from live_restore.sinks.streams import Numbered, Streams
from live_restore.sources.simulated import simulated_microscope
from live_restore.volume import AcquisitionEnd, Skipped, SourceState, VolumeKey
from tests.conftest import make_info, make_restored, make_volume, wait_for

HEARTBEATS_S = 4.0  # in which at least one comes, also on a busy machine


@contextmanager
def publishing(endpoints, **settings):
    data, control = endpoints
    with Publisher(PublishSettings(endpoint=data, control=control, **settings)) as publisher:
        yield publisher


@pytest.fixture
def made(monkeypatch):
    """Kind and family of all that is made into frames to be published."""
    made = []
    make = publisher_module.frames_of

    def frames_of(family, topic, header, data):
        made.append((header.kind, family))
        return make(family, topic, header, data)

    monkeypatch.setattr(publisher_module, "frames_of", frames_of)
    return made


def wait_for_viewers(publisher, count):
    wait_for(lambda: publisher.viewers >= count, f"{count} viewers")


def test_restored_and_raw_arrive_bit_identical(endpoints):
    restored = [make_restored(time=t) for t in range(5)]
    with (
        publishing(endpoints) as publisher,
        Subscriber(endpoints[0], ("restored", "raw")) as viewer,
    ):
        wait_for_viewers(publisher, 2)
        got = []
        for one in restored:
            publisher.send(one)
            got += [next(viewer.volumes(5)), next(viewer.volumes(5))]
    assert [(m.header.kind, m.header.sequence) for m in got] == [
        (kind, n) for n in range(5) for kind in ("restored", "raw")
    ]
    for n, one in enumerate(restored):
        np.testing.assert_array_equal(got[2 * n].data, one.data)
        np.testing.assert_array_equal(got[2 * n + 1].data, one.raw.data)
        assert got[2 * n].header.time == one.key.time
        assert got[2 * n].header.voxel_size_um == one.info.voxel_size_um


def test_events_of_an_acquisition_arrive_in_order(endpoints):
    with publishing(endpoints) as publisher, Subscriber(endpoints[0]) as viewer:
        wait_for_viewers(publisher, 1)
        for item in (
            make_info(channels=("DAPI", "µ/2")),
            make_restored(),
            Skipped(VolumeKey("run", "0", 1, "µ/2"), "because"),
            AcquisitionEnd("run"),
            make_info(acquisition="next"),
        ):
            publisher.send(item)
        heard = [viewer.receive(5) for _ in range(7)]
        got = [message for message in heard if not isinstance(message, Heartbeat)][:4]
        beat = heard[-1]
    assert [type(m) for m in got] == [StartHeader, VolumeMessage, SkippedHeader, EndHeader]
    assert isinstance(beat, Heartbeat)
    assert beat.skipped == 1
    assert beat.running == ("next",)
    assert got[0].channels == ("DAPI", "µ/2")
    assert (got[2].channel, got[2].reason) == ("µ/2", "because")


def test_a_viewer_may_choose_one_stream(endpoints):
    with (
        publishing(endpoints) as publisher,
        Subscriber(endpoints[0], position="0", channel="c1") as viewer,
    ):
        wait_for_viewers(publisher, 1)
        for channel in ("c1", "c10", "c1"):
            publisher.send(make_restored(make_volume(channel=channel)))
        assert [m.header.channel for m in viewer.volumes(1)] == ["c1", "c1"]
        assert viewer.missed == 0


def test_raw_volumes_are_made_only_for_who_wants_them(endpoints, made):
    with publishing(endpoints) as publisher, Subscriber(endpoints[0]) as viewer:
        wait_for_viewers(publisher, 1)
        publisher.send(make_restored())
        assert [m.header.kind for m in viewer.volumes(1)] == ["restored"]
        assert {kind for kind, _ in made} == {"restored"}


def test_a_viewer_may_be_told_only_and_ask_for_the_latest(endpoints, made):
    with (
        publishing(endpoints) as publisher,
        Subscriber(endpoints[0], ("restored", "raw"), family="announce") as viewer,
        Control(endpoints[1]) as control,
    ):
        wait_for_viewers(publisher, 2)
        for time_point in range(3):
            publisher.send(make_restored(time=time_point))
        heard = [viewer.receive(5) for _ in range(7)]
        told = [m for m in heard if isinstance(m, Announcement)]
        assert [(m.header.kind, m.header.time) for m in told] == [
            (kind, t) for t in range(3) for kind in ("restored", "raw")
        ]
        assert {family for _, family in made} == {"announce"}
        assert control.latest(told[-1].header.channel).header.time == 2
        assert viewer.missed == 0


def test_a_preview_is_three_maximum_projections(endpoints):
    data = np.random.default_rng(0).integers(0, 60000, (3, 4, 5)).astype("u2")
    with (
        publishing(endpoints) as publisher,
        Subscriber(endpoints[0], ("raw",), family="preview") as viewer,
    ):
        wait_for_viewers(publisher, 1)
        publisher.send(make_restored(make_volume(data)))
        previews = []
        while not previews:
            message = viewer.receive(5)
            previews = [message] if isinstance(message, Preview) else []
    np.testing.assert_array_equal(previews[0].xy, data.max(axis=0))
    np.testing.assert_array_equal(previews[0].xz, data.max(axis=1))
    np.testing.assert_array_equal(previews[0].yz, data.max(axis=2))
    assert previews[0].header.shape == (3, 4, 5)


def test_a_late_viewer_gets_the_latest_through_the_control_port(endpoints):
    with publishing(endpoints) as publisher, Control(endpoints[1]) as control:
        for time_point in range(3):
            publisher.send(make_restored(time=time_point))
        latest = control.latest("DAPI")
        assert latest.header.sequence == 2
        raw = control.sequence(1, "DAPI", kind="raw")
        np.testing.assert_array_equal(raw.data, make_volume(time=1).data)
        catalog = control.catalog()
        assert catalog["streams"] == [
            {"position": "0", "channel": "DAPI", "last": 2, "held": [0, 1, 2]}
        ]
        status = control.status()
        assert status["session"] == publisher.session
        assert status["model"]["precision"] == "float32"
        with pytest.raises(ProtocolError, match="isn't held"):
            control.sequence(7, "DAPI")
        with pytest.raises(ProtocolError, match="isn't held"):
            control.latest("no such channel")


def test_missed_volumes_are_fetched_and_given_in_order(endpoints):
    with publishing(endpoints) as publisher:
        for time_point in range(3):
            publisher.send(make_restored(time=time_point))
        with Subscriber(endpoints[0], control=endpoints[1], from_start=True) as viewer:
            wait_for_viewers(publisher, 1)
            publisher.send(make_restored(time=3))
            got = list(viewer.volumes(HEARTBEATS_S))
            assert viewer.missed == 0
    assert [m.header.sequence for m in got] == [0, 1, 2, 3]
    for message in got:
        np.testing.assert_array_equal(message.data, make_restored(time=message.header.time).data)


def test_a_heartbeat_tells_of_a_volume_that_nothing_followed(endpoints):
    with publishing(endpoints) as publisher:
        publisher.send(make_restored())  # while nobody listens
        with Subscriber(endpoints[0], from_start=True) as without_control:
            assert list(without_control.volumes(HEARTBEATS_S)) == []
            assert without_control.missed == 1
        with Subscriber(endpoints[0], control=endpoints[1], from_start=True) as viewer:
            assert [m.header.sequence for m in viewer.volumes(HEARTBEATS_S)] == [0]


UNSPEAKABLE = "caf\udce9"  # as a file's name that isn't UTF-8 is read


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(make_info(acquisition=UNSPEAKABLE), id="acquisition"),
        pytest.param(make_restored(make_volume(channel=UNSPEAKABLE)), id="channel"),
        pytest.param(Skipped(VolumeKey("run", UNSPEAKABLE, 0, "DAPI"), "late"), id="position"),
        pytest.param(AcquisitionEnd("run", UNSPEAKABLE), id="reason"),
    ],
)
def test_what_cannot_be_said_is_refused_and_the_port_lives(endpoints, item):
    with (
        publishing(endpoints) as publisher,
        Subscriber(endpoints[0]) as viewer,
        Control(endpoints[1]) as control,
    ):
        wait_for_viewers(publisher, 1)
        with pytest.raises(SinkError, match="can't publish"):
            publisher.send(item)
        for _ in range(2):
            assert isinstance(viewer.receive(HEARTBEATS_S), Heartbeat)
        publisher.send(make_restored())
        assert [one["channel"] for one in control.catalog()["streams"]] == ["DAPI"]


def test_a_heartbeat_that_cannot_be_said_is_told_once_and_the_port_lives(endpoints, caplog):
    with (
        publishing(endpoints) as publisher,
        Subscriber(endpoints[0]) as viewer,
        Control(endpoints[1]) as control,
    ):
        wait_for_viewers(publisher, 1)
        publisher.send(SourceState(f"watching {UNSPEAKABLE}"))
        wait_for(lambda: "no heartbeats are sent" in caplog.text, "the error")
        time.sleep(1.5)  # another heartbeat's time
        assert caplog.text.count("no heartbeats are sent") == 1
        assert control.status()["session"] == publisher.session
        publisher.send(SourceState("watching"))
        heard = [viewer.receive(HEARTBEATS_S) for _ in range(3)]
        assert heard[-1].source == "watching"


def test_a_refusal_in_any_words_is_said(endpoints):
    port = ControlPort("session", Streams(0), ("raw",), {}, None, dict)
    topic, body = port._refusal("refused", f"{UNSPEAKABLE} isn't there")
    assert (topic, json.loads(body)["message"]) == (b"error/", r"caf\udce9 isn't there")


def test_the_history_is_bounded_in_bytes(endpoints):
    with publishing(endpoints, history_mb=1) as publisher, Control(endpoints[1]) as control:
        for time_point in range(5):
            data = np.full((4, 128, 256), time_point, "u2")  # 256 KiB, twice: raw and restored
            publisher.send(make_restored(make_volume(data, time_point)))
        assert control.catalog()["streams"][0]["held"] == [3, 4]
        with pytest.raises(ProtocolError, match="isn't held"):
            control.sequence(0, "DAPI")


@pytest.mark.parametrize(("shape", "most"), [((16, 512, 512), 30), ((16, 1024, 1024), 8)])
def test_a_viewer_that_does_not_read_holds_little_and_holds_up_nobody(endpoints, shape, most):
    volume = make_restored(make_volume(np.zeros(shape, "u2")))
    with (
        publishing(endpoints) as publisher,
        Subscriber(endpoints[0]) as stalled,
        Subscriber(endpoints[0]) as viewer,
    ):
        wait_for_viewers(publisher, 2)
        for number in range(40):
            publisher.send(volume)
            assert next(viewer.volumes(10)).header.sequence == number
        waited = list(stalled.volumes(HEARTBEATS_S))
    # High-water marks on both sides (64 MiB here, two volumes there), and the kernel's buffers.
    assert 1 <= len(waited) <= most
    assert len(waited) + stalled.missed == 40


def test_a_burst_of_small_volumes_and_events_loses_nothing(endpoints):
    with publishing(endpoints) as publisher, Subscriber(endpoints[0]) as viewer:
        wait_for_viewers(publisher, 1)
        publisher.send(make_info())
        for time_point in range(40):
            publisher.send(make_restored(time=time_point))
        publisher.send(AcquisitionEnd("run"))
        got = [viewer.receive(5) for _ in range(42)]
    assert [m.header.time for m in got if isinstance(m, VolumeMessage)] == list(range(40))
    assert viewer.missed == 0


def test_large_volumes_arrive_after_any_number_of_small_messages(endpoints):
    """ZeroMQ's account of what a viewer has read may lag by half the high-water mark, not more."""
    large = make_restored(make_volume(np.zeros((16, 1024, 1024), "u2")))
    with publishing(endpoints) as publisher, Subscriber(endpoints[0]) as viewer:
        wait_for_viewers(publisher, 1)
        for sequence, count in enumerate((20, 3, 2, 1, 0, 0, 7)):
            for _ in range(count):
                publisher.send(make_info())
                assert viewer.receive(5) is not None
            publisher.send(large)
            assert next(viewer.volumes(10)).header.sequence == sequence
    assert viewer.missed == 0


def test_a_restarted_publisher_is_a_new_session(endpoints):
    with Subscriber(endpoints[0]) as viewer:
        sessions = []
        for _ in range(2):
            with publishing(endpoints) as publisher:
                # A client that isn't in a call doesn't renew its subscriptions.
                wait_for(lambda: viewer.receive(0.05) and publisher.viewers, "the viewer")
                publisher.send(make_restored())
                message = next(viewer.volumes(5))
                assert message.header.sequence == 0
                assert message.missed == 0
                sessions.append(viewer.session)
        assert len(set(sessions)) == 2


@pytest.mark.parametrize("which", [0, 1])
def test_an_endpoint_in_use_is_an_error_with_a_remedy(endpoints, which):
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.bind(endpoints[which])
        with pytest.raises(SinkError, match=r"another live-restore|Another live-restore"):
            Publisher(PublishSettings(endpoint=endpoints[0], control=endpoints[1])).__enter__()


def test_a_closed_endpoint_can_be_opened_again(endpoints):
    for _ in range(3):
        with publishing(endpoints):
            time.sleep(0.01)


@pytest.mark.parametrize(
    "request_frames",
    [
        pytest.param([b""], id="empty"),
        pytest.param([b"{"], id="broken"),
        pytest.param([b"[]"], id="list"),
        pytest.param([b'{"get": "everything"}'], id="unknown"),
        pytest.param([b'{"get": "sequence", "sequence": "x"}'], id="type"),
        pytest.param([b"\xff" * 100], id="binary"),
        pytest.param([b"a", b"b", b"c"], id="many frames"),
        pytest.param([b'{"get": "latest", "channel": "\\ud800"}'], id="surrogate"),
    ],
)
def test_a_bad_request_is_refused_and_the_port_lives(endpoints, request_frames):
    with publishing(endpoints), zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoints[1])
        socket.send_multipart(request_frames)
        assert socket.poll(5000)
        reply = socket.recv_multipart()
        assert b"error/" in reply
        body = json.loads(reply[-1])
        assert body["code"] in ("bad_request", "not_held")
        with Control(endpoints[1]) as control:
            assert control.catalog()["streams"] == []


def test_a_plain_req_client_gets_its_answer(endpoints):
    with (
        publishing(endpoints) as publisher,
        zmq.Context() as context,
        context.socket(zmq.REQ) as socket,
    ):
        publisher.send(make_restored())
        socket.linger = 0
        socket.connect(endpoints[1])
        socket.send(b'{"get": "latest", "channel": "DAPI"}')
        assert socket.poll(5000)
        topic, header, *planes = socket.recv_multipart()
    assert topic == b"volume/restored/0/DAPI/"
    assert b"".join(planes) == make_restored().data.tobytes()
    assert json.loads(header)["type"] == "uint16"


def test_no_daemon_is_said_in_words(endpoints):
    with (
        Control(endpoints[1], timeout_s=0.2) as control,
        pytest.raises(ProtocolError, match="is the daemon"),
    ):
        control.status()
    with Subscriber(endpoints[0]) as viewer:
        assert viewer.receive(0.1) is None


def test_a_dead_control_port_is_waited_for_once(endpoints, monkeypatch):
    asked = []
    ask = Control.ask
    monkeypatch.setattr(Control, "ask", lambda self, *rest: asked.append(1) or ask(self, *rest))
    with Publisher(PublishSettings(endpoint=endpoints[0], control=None)) as publisher:
        for time_point in range(20):
            publisher.send(make_restored(time=time_point))
        with Subscriber(endpoints[0], control=endpoints[1], from_start=True) as viewer:
            viewer._control._timeout_s = 0.2
            wait_for_viewers(publisher, 1)
            publisher.send(make_restored(time=20))
            message = next(viewer.volumes(10))
    assert (message.header.time, message.missed, viewer.missed) == (20, 20, 20)
    assert len(asked) == 1


def test_publishing_from_two_threads_loses_nothing(endpoints):
    with (
        publishing(endpoints) as publisher,
        Subscriber(endpoints[0], control=endpoints[1], from_start=True) as viewer,
    ):
        wait_for_viewers(publisher, 1)

        def publish(channel):
            for time_point in range(20):
                publisher.send(make_restored(make_volume(time=time_point, channel=channel)))

        threads = [threading.Thread(target=publish, args=(c,)) for c in ("a", "b")]
        for thread in threads:
            thread.start()
        got = list(viewer.volumes(HEARTBEATS_S))
        for thread in threads:
            thread.join()
    for channel in ("a", "b"):
        assert [m.header.sequence for m in got if m.header.channel == channel] == list(range(20))


def test_clients_that_never_read_their_replies_hold_few_volumes(endpoints, monkeypatch):
    """48 clients ask for 8 volumes each; what they don't read may not keep all that ever was."""
    answered, made = [], []
    answer = ControlPort.answer
    monkeypatch.setattr(
        ControlPort, "answer", lambda self, socket: (answer(self, socket), answered.append(1))[0]
    )
    ask = json.dumps({"get": "latest", "channel": "DAPI"}).encode()
    with publishing(endpoints, history_mb=32) as publisher, zmq.Context() as context:
        clients = []
        for number in range(16):
            one = make_restored(make_volume(np.zeros((16, 512, 512), "u2"), number))  # 2 x 8 MiB
            made.append(weakref.ref(one.data))
            publisher.send(one)
            del one
            for _ in range(3):
                client = context.socket(zmq.DEALER)
                client.linger, client.rcvhwm = 0, 1
                client.setsockopt(zmq.RCVBUF, 4096)
                client.connect(endpoints[1])
                for _ in range(8):
                    client.send(ask)
                clients.append(client)
            wait_for(lambda: len(answered) >= 8 * len(clients), "all to be answered")
        # Two of the history, and twice its 32 MiB of 8 MiB each for those who don't read.
        assert sum(data() is not None for data in made) <= 2 + 8
        with Control(endpoints[1]) as control:
            assert control.status()["session"] == publisher.session
        for client in clients:
            client.close()

        def is_served():
            with Control(endpoints[1]) as control, suppress(ProtocolError):
                return control.latest("DAPI").header.time == 15

        wait_for(is_served, "room for those who read, once the others are gone")


def test_a_client_that_reads_is_served_beside_those_that_do_not(endpoints):
    ask = json.dumps({"get": "latest", "channel": "DAPI"}).encode()
    with (
        publishing(endpoints) as publisher,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as stalled,
    ):
        publisher.send(make_restored(make_volume(np.zeros((8, 512, 512), "u2"))))
        stalled.linger, stalled.rcvhwm = 0, 1
        stalled.setsockopt(zmq.RCVBUF, 4096)
        stalled.connect(endpoints[1])
        for _ in range(50):
            stalled.send(ask)
        with Control(endpoints[1]) as control:
            for _ in range(10):
                assert control.latest("DAPI").data.shape == (8, 512, 512)
        told = []
        while len(told) < 50:
            assert stalled.poll(10_000)
            topic, body, *_ = stalled.recv_multipart()
            told.append(topic if topic != b"error/" else json.loads(body)["message"])
            if len(told) > 2 and isinstance(told[-1], str):
                break
        assert "read the 2 volumes first" in told[-1]


def test_messages_that_are_no_subscriptions_leave_viewers_alone(endpoints):
    with (
        publishing(endpoints) as publisher,
        Subscriber(endpoints[0]) as viewer,
        zmq.Context() as context,
        context.socket(zmq.XSUB) as hostile,
    ):
        wait_for_viewers(publisher, 1)
        hostile.linger = 0
        hostile.connect(endpoints[0])
        for first in range(2, 256):
            hostile.send(bytes([first]) + b"volume/restored/")
        hostile.send(b"\x01mine/")
        wait_for(lambda: publisher.viewers and b"mine/" in publisher._subscriptions, "all of it")
        publisher.send(make_restored())
        assert next(viewer.volumes(5)).header.sequence == 0


def test_more_different_subscriptions_than_are_kept_lose_nobody_a_volume(endpoints, monkeypatch):
    monkeypatch.setattr(publisher_module, "_MOST_PREFIXES", 50)
    with (
        publishing(endpoints) as publisher,
        zmq.Context() as context,
        context.socket(zmq.SUB) as many,
    ):
        many.linger = 0
        many.connect(endpoints[0])
        for number in range(200):
            many.subscribe(f"nothing/{number}/")
        wait_for(lambda: publisher.viewers == 0 and len(publisher._subscriptions) >= 50, "them")
        with Subscriber(endpoints[0]) as viewer:
            wait_for(lambda: viewer.receive(0.1), "a heartbeat")
            publisher.send(make_restored())
            assert next(viewer.volumes(5)).header.sequence == 0
        assert len(publisher._subscriptions) <= 50


def test_a_heartbeat_names_the_topics_that_were_published_last(endpoints, monkeypatch):
    monkeypatch.setattr(publisher_module, "_MOST_TOPICS", 3)
    with publishing(endpoints) as publisher, Subscriber(endpoints[0]) as viewer:
        wait_for_viewers(publisher, 1)
        for number in (*range(9), 7):
            publisher.send(make_restored(make_volume(channel=f"c{number}")))
        assert publisher._last == {
            "volume/raw/0/c8/": 0,
            "volume/restored/0/c7/": 1,
            "volume/raw/0/c7/": 1,
        }
        assert len(list(viewer.volumes(1))) == 10


def test_streams_that_are_numbered_are_bounded(monkeypatch):
    monkeypatch.setattr(streams_module, "_MOST_STREAMS", 10)
    streams = Streams(10**9)
    numbers = [
        streams.keep(make_restored(make_volume(channel=f"c{n % 11 if n < 22 else 5}"))).sequence
        for n in range(25)
    ]
    assert len(streams.catalog()) == 10
    assert numbers == [0] * 22 + [1, 2, 3]


def test_sampled_percentiles_agree_with_exact_ones():
    """Off by less than 2 % of the range that they span: contrast doesn't show it."""
    microscope = simulated_microscope(SimulatedSource(kind="simulated", shape_zyx=(12, 192, 192)))
    for channel in ("microtubules", "nuclei"):
        stack = np.tile(microscope.stack(0, channel), (1, 4, 3))
        for data in (np.clip(stack, 0, 255).astype("u1"), stack, stack.astype("f4") / 3):
            low, high = np.percentile(data, [0.1, 99.9])
            got = Numbered(0, make_restored(make_volume(data))).statistics("raw")
            assert abs(got.p0_1 - low) <= max(1.0, 0.02 * (high - low))
            assert abs(got.p99_9 - high) <= max(1.0, 0.02 * (high - low))
            assert (got.min, got.max) == (data.min(), data.max())


def test_statistics_are_measured_once_per_volume_and_kind(endpoints, monkeypatch):
    measured = []
    measure = streams_module._measured
    monkeypatch.setattr(
        streams_module, "_measured", lambda data: measured.append(data) or measure(data)
    )
    one = make_restored()
    with (
        publishing(endpoints) as publisher,
        Control(endpoints[1]) as control,
        Subscriber(endpoints[0]) as volumes,
        Subscriber(endpoints[0], family="announce") as told,
        Subscriber(endpoints[0], family="preview") as previews,
    ):
        wait_for_viewers(publisher, 3)
        publisher.send(one)
        for _ in range(3):
            restored, raw = control.latest("DAPI"), control.latest("DAPI", kind="raw")
        assert [id(data) for data in measured] == [id(one.data), id(one.raw.data)]
        assert restored.header.statistics.max == one.data.max()
        assert raw.header.statistics.max == one.raw.data.max()
        heard = next(volumes.volumes(5))
        assert heard.header.statistics == restored.header.statistics
        assert told.receive(5) is not None
        assert previews.receive(5) is not None


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (3, 7, 11), (5, 64, 65)])
def test_percentiles_of_few_voxels_are_those_of_numpy(dtype, shape):
    data = np.random.default_rng(1).gamma(1.5, 40, shape).clip(0, 255).astype(dtype)
    got = Numbered(0, make_restored(make_volume(data))).statistics("raw")
    assert (got.p0_1, got.p99_9) == pytest.approx(tuple(np.percentile(data, [0.1, 99.9])))
    assert (got.min, got.max) == (data.min(), data.max())
