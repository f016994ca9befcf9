"""The clients in docs/clients, in three languages, over real sockets: all do the same."""

import json
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import pytest
import zmq

from live_restore.keys import KeyFolder
from live_restore.profile import PublishSettings
from live_restore.sinks.publisher import Publisher
from live_restore.sinks.streams import Numbered
from live_restore.sinks.volume_frames import volume_frames
from live_restore.volume import AcquisitionEnd, Skipped, VolumeKey
from tests.client_programs import LANGUAGES, Hostile, Relay, Running, malformed_messages
from tests.conftest import daemon, make_restored, make_volume, wait_for


@pytest.fixture(params=LANGUAGES)
def command(request, built_client):
    return built_client(request.param)


@pytest.fixture
def client(command, tmp_path):
    """Starts a client."""
    with ExitStack() as stack:

        def start(data, control, *arguments):
            running = Running(command, tmp_path / "client", data, control, *arguments)
            return stack.enter_context(running)

        yield start


@contextmanager
def publishing(endpoints, **settings):
    data, control = endpoints
    with Publisher(PublishSettings(endpoint=data, control=control, **settings)) as publisher:
        yield publisher


def voxels(dtype, seed=0, shape=(3, 4, 5)):
    rng = np.random.default_rng(seed)
    if dtype == "f4":
        return rng.normal(0, 1000, shape).astype("f4")
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def whole(volume):
    """As if restored to what it was, so that all values of its type occur."""
    return replace(make_restored(volume), data=volume.data)


def numbers(lines):
    return [(line["sequence"], line["how"]) for line in lines]


def test_volumes_of_all_types_and_events_arrive_as_they_were_sent(endpoints, client):
    key = {"acquisition": "cell 1, 37 °C", "channel": "µ/2 %"}
    types = enumerate(("u1", "u2", "f4"))
    sent = [whole(make_volume(voxels(t), time=n, **key)) for n, t in types]
    with publishing(endpoints) as publisher:
        viewer = client(*endpoints, "--count", 5)
        viewer.join(publisher)
        publisher.send(sent[0].info)
        for number, one in enumerate(sent, 1):
            publisher.send(one)
            viewer.wait_for("volume", number)
        publisher.send(Skipped(VolumeKey("run", "0", 3, key["channel"]), "because"))
        publisher.send(AcquisitionEnd("run"))
        publisher.send(make_restored(make_volume(time=9, channel="other")))
        assert viewer.ended()[0] == 0
    lines = viewer.lines
    kinds = ["start", *["volume"] * 3, "skipped", "end", "volume"]
    assert [line["event"] for line in lines] == kinds
    assert (lines[0]["shape"], lines[0]["channels"]) == ([3, 4, 5], ["DAPI"])
    assert (lines[0]["acquisition"], lines[0]["type"]) == (key["acquisition"], "uint8")
    for number, (line, one) in enumerate(zip(viewer.of("volume"), sent, strict=False)):
        data = one.data
        assert (line["sequence"], line["time"], line["how"]) == (number, number, "published")
        assert line["session"] == publisher.session
        assert {name: line[name] for name in key} == key
        assert (line["position"], line["kind"]) == ("0", "restored")
        assert (line["shape"], line["type"]) == ([3, 4, 5], data.dtype.name)
        # Floats are summed in another order.
        assert line["sum"] == pytest.approx(data.sum(dtype="f8"), rel=1e-12, abs=0)
        assert (line["min"], line["max"]) == (data.min(), data.max())
        assert line["brightest"] == list(np.unravel_index(data.argmax(), data.shape))
    assert (lines[4]["channel"], lines[4]["time"]) == (key["channel"], 3)
    assert lines[4]["reason"] == "because"
    assert (lines[5]["acquisition"], lines[5]["reason"]) == ("run", "finished")


def test_what_is_no_number_is_said_as_null_and_raw_volumes_can_be_had(endpoints, client):
    data = voxels("f4")
    data[1, 2, 3] = np.nan
    with publishing(endpoints) as publisher:
        viewer = client(*endpoints, "--kind", "raw")
        viewer.join(publisher)
        publisher.send(make_restored(make_volume(data)))
        (line,) = viewer.wait_for("volume")
    assert (line["kind"], line["sum"]) == ("raw", None)


def test_gaps_are_repaired_when_the_next_volume_shows_them_or_a_heartbeat(endpoints, client):
    sent = [make_restored(time=t) for t in range(6)]
    with (
        publishing(endpoints) as publisher,
        Relay(endpoints[0], "volume/restored/", "system/") as relay,
    ):
        relay.drops = lambda topic, header: header.get("sequence") in (1, 2, 4, 5)
        viewer = client(relay.endpoint, endpoints[1])
        viewer.join(publisher, relay)
        for number, one in enumerate(sent):
            publisher.send(one)
            if number == 3:
                viewer.wait_for("volume", 4, relay.pump)
        viewer.wait_for("volume", 6, relay.pump)
        relay.repeat()  # as what is under way while it is fetched
        publisher.send(make_restored(time=6))
        lines = viewer.wait_for("volume", 7, relay.pump)
    ways = ["published", "repaired", "repaired", "published", "repaired", "repaired"]
    assert numbers(lines[:6]) == list(enumerate(ways))
    assert [line["sequence"] for line in lines[6:]] == [6]
    assert [line["sum"] for line in lines[:6]] == [one.data.sum() for one in sent]
    assert viewer.of("lost", "malformed", "refused", "unanswered") == []


def test_what_is_not_held_any_more_is_told_of_as_lost(endpoints, client):
    large = [make_restored(make_volume(voxels("u2", t, (4, 256, 256)), t)) for t in range(4)]
    with (
        publishing(endpoints, history_mb=2) as publisher,  # two of them
        Relay(endpoints[0], "volume/restored/", "system/") as relay,
    ):
        relay.drops = lambda topic, header: header.get("sequence") in (0, 1, 2)
        viewer = client(relay.endpoint, endpoints[1])
        viewer.join(publisher, relay)
        for one in large:
            publisher.send(one)
        lines = viewer.wait_for("volume", 2, relay.pump)
        (lost,) = viewer.wait_for("lost")
    assert numbers(lines) == [(2, "repaired"), (3, "published")]
    assert (lost["position"], lost["channel"], lost["count"]) == ("0", "DAPI", 2)


def test_the_latest_alone_is_asked_for_when_something_new_is_announced(endpoints, client):
    with (
        publishing(endpoints) as publisher,
        Relay(endpoints[0], "announce/restored/", "system/") as relay,
    ):
        relay.drops = lambda topic, header: header.get("sequence") == 6
        viewer = client(relay.endpoint, endpoints[1], "--latest")
        viewer.join(publisher, relay)
        for time in range(3):
            publisher.send(make_restored(time=time))
        viewer.wait_for("volume", pump=relay.pump)
        for time in range(3, 6):
            publisher.send(make_restored(time=time))
        lines = viewer.wait_for("volume", 2, relay.pump)
        publisher.send(make_restored(time=6))  # its announcement gets lost: a heartbeat tells
        lines = viewer.wait_for("volume", 3, relay.pump)
        assert not any(topic.startswith("volume/") for topic in relay.subscriptions)
    assert numbers(lines) == [(n, "latest") for n in (2, 5, 6)]
    assert [line["passed"] for line in lines] == [2, 2, 0]
    assert lines[-1]["sum"] == make_restored(time=6).data.sum()


def test_who_comes_late_has_the_latest_at_once_and_a_new_session_counts_anew(endpoints, client):
    with publishing(endpoints) as first:
        for time in range(3):
            first.send(make_restored(time=time))
        viewer = client(*endpoints)
        viewer.wait_for("volume")
        wait_for(lambda: first.viewers, "the subscription")
        first.send(make_restored(time=3))
        lines = viewer.wait_for("volume", 2)
        assert numbers(lines) == [(2, "latest"), (3, "published")]
    with publishing(endpoints) as second:
        for time in range(3):
            second.send(make_restored(time=time))  # nobody is there yet
        viewer.wait_for("session", 2)
        viewer.wait_for("volume", 5)
        second.send(make_restored(time=3))
        lines = viewer.wait_for("volume", 6)[2:]
    assert [line["session"] for line in viewer.of("session")] == [first.session, second.session]
    assert [line["sequence"] for line in lines] == [0, 1, 2, 3]
    assert {line["session"] for line in lines} == {second.session}
    assert viewer.of("lost") == []


def frames_of_volume(number, session="s"):
    frames = volume_frames(session, "restored", Numbered(number, make_restored(time=number)))
    return [bytes(frame) for frame in frames]


NO_STREAMS = [b"catalog/", b'{"session": "s", "streams": []}']


def test_malformed_messages_are_told_of_and_passed_over(client):
    topic, header, *planes = frames_of_volume(1)
    cases = malformed_messages(topic, json.loads(header), planes)
    with Hostile() as hostile:
        hostile.replies = [NO_STREAMS]
        viewer = client(*hostile.endpoints, "--count", 2)
        hostile.wait_for_viewer()
        hostile.send(frames_of_volume(0))
        viewer.wait_for("volume", 1, hostile.pump)
        for number, (case, message) in enumerate(cases.items(), 1):
            hostile.send(message)
            if number % 10 == 0 or number == len(cases):
                told = viewer.wait_for("malformed", number, hostile.pump)
                assert len(told) == number, f"{case}, or one of the nine before it"
        extra = json.dumps(json.loads(header) | {"unheard": {"of": [1, None]}}).encode()
        hostile.send([topic, extra, *planes])
        assert viewer.ended()[0] == 0, viewer.said()
    assert [line["event"] for line in viewer.lines if line["event"] != "malformed"] == [
        "session",
        "volume",
        "volume",
    ]
    assert all(line["reason"] for line in viewer.of("malformed"))
    assert viewer.lines[-1]["sum"] == make_restored(time=1).data.sum()


def test_a_control_port_that_answers_nonsense_costs_what_it_was_asked_for_alone(client):
    stream = {"position": "0", "channel": "DAPI", "last": 9}
    other = json.dumps({"session": "s", "code": "internal", "message": "broken"}).encode()

    def catalog(**changes):
        return [b"catalog/", json.dumps({"session": "s", "streams": [stream | changes]}).encode()]

    topic, header, *planes = frames_of_volume(0)
    malformed = {
        "nothing": [b""],
        "no JSON": [b"catalog/", b"\xff"],
        "no streams": [b"catalog/", b'{"session": "s"}'],
        "streams that are none": [b"catalog/", b'{"session": "s", "streams": [1, null]}'],
        "no list of what is held": catalog(),
        "a list of words": catalog(held=["a", None, [1]]),
        "a last that is none": catalog(last="x", held=[]),
    }
    with Hostile() as hostile:
        hostile.replies = [NO_STREAMS]
        viewer = client(*hostile.endpoints)
        hostile.wait_for_viewer()
        hostile.send(frames_of_volume(0))
        viewer.wait_for("volume", 1, hostile.pump)
        number = 0
        for case, reply in malformed.items():
            number += 2
            hostile.replies = [reply]
            hostile.send(frames_of_volume(number))
            viewer.wait_for("volume", number // 2 + 1, hostile.pump)
            assert len(viewer.of("malformed")) == number // 2, (case, viewer.said())
        restarted = [topic, header.replace(b'"session":"s"', b'"session":"t"'), *planes]
        answers = [
            ("malformed", [topic, header, *planes]),  # another volume than was asked for
            ("refused", [b"error/", other]),
            ("refused", restarted),
            ("unanswered", None),
        ]
        for kind, answer in answers:
            before = len(viewer.of(kind))
            number += 2
            hostile.replies = [catalog(held=[number - 1]), *([answer] if answer else [])]
            hostile.send(frames_of_volume(number))
            viewer.wait_for("volume", number // 2 + 1, hostile.pump)
            assert len(viewer.of(kind)) == before + 1, (kind, viewer.said())
    assert [line["sequence"] for line in viewer.of("volume")] == list(range(0, number + 1, 2))
    assert [line["count"] for line in viewer.of("lost")] == [1] * (number // 2)


def test_keys_let_in_who_is_on_the_list_and_nobody_else(endpoints, built_client, tmp_path):
    folder = KeyFolder(tmp_path / "keys")
    folder.init()
    folder.add("alice", "viewer", tmp_path / "alice.keys")
    public, secret = (key.decode() for key in zmq.curve_keypair())
    stranger = f'server = "{folder.public().decode()}"\npublic = "{public}"\nsecret = "{secret}"\n'
    (tmp_path / "stranger.keys").write_text(stranger)
    with publishing(endpoints, keys=folder.folder) as publisher, ExitStack() as stack:

        def start(language, name, *arguments):
            where = tmp_path / f"{language} {name}"
            return stack.enter_context(
                Running(built_client(language), where, *endpoints, *arguments)
            )

        viewers, others = [], []
        for language in ("python", "cpp"):
            viewers.append(start(language, "alice", "--keys", tmp_path / "alice.keys"))
            others.append(start(language, "stranger", "--keys", tmp_path / "stranger.keys"))
            others.append(start(language, "nobody"))
        for viewer in viewers:
            viewer.join(publisher)
        for number in range(2):
            publisher.send(make_restored(time=number))
            for viewer in viewers:
                viewer.wait_for("volume", number + 1)
        for other in others:
            other.wait_for("silent")
            assert [line["event"] for line in other.lines] == ["silent"]
        assert publisher.viewers == 2
        for viewer in viewers:
            assert viewer.of("silent", "unanswered") == []


def test_java_says_so_where_its_library_knows_no_keys(endpoints, built_client, tmp_path):
    keys = tmp_path / "alice.keys"
    keys.write_text("".join(f'{name} = "{"0" * 40}"\n' for name in ("server", "public", "secret")))
    with Running(built_client("java"), tmp_path / "java", *endpoints, "--keys", keys) as viewer:
        status, told = viewer.ended()
    assert status == 2
    assert "JeroMQ doesn't know CURVE" in told
    assert "SSH tunnel" in told


def test_wrong_options_are_told_of(endpoints, client, tmp_path):
    for arguments in (["--nonsense"], ["--keys", str(tmp_path / "none")], ["--data", "nonsense"]):
        status, told = client(*endpoints, *arguments).ended()
        assert status == 2, (arguments, told)
        assert "Traceback" not in told
        assert told.strip()


def test_a_daemon_that_dies_is_missed_and_found_again_when_it_restarts(
    endpoints, built_client, tmp_path, tiny_model
):
    profile = tmp_path / "p.toml"
    profile.write_text(
        "[source]\nkind = 'simulated'\nshape_zyx = [4, 16, 16]\ninterval_s = 0.2\nchannels = ['c']\n"
        f"[model]\npath = '{tiny_model.path}'\n"
        f"[publish]\nendpoint = '{endpoints[0]}'\ncontrol = '{endpoints[1]}'\n",
        encoding="utf-8",
    )
    with ExitStack() as stack:
        viewers = [
            stack.enter_context(Running(built_client(one), tmp_path / one, *endpoints))
            for one in LANGUAGES
        ]
        with daemon(profile):
            for viewer in viewers:
                viewer.wait_for("volume", 3)
        before = [len(viewer.of("silent")) for viewer in viewers]  # while it wasn't up yet
        for viewer, count in zip(viewers, before, strict=True):
            viewer.wait_for("silent", count + 1)
        with daemon(profile):
            for viewer in viewers:
                viewer.wait_for("session", 2)
                wait_for(lambda viewer=viewer: new_session(viewer)[2:], "three new volumes")
    first, second = (line["session"] for line in viewers[0].of("session"))
    for viewer in viewers:
        assert [line["session"] for line in viewer.of("session")] == [first, second]
        lines = viewer.of("volume")
        for session in (first, second):
            came = [line["sequence"] for line in lines if line["session"] == session]
            start = came[0] if session == first else 0
            assert came == list(range(start, start + len(came)))
        assert viewer.of("lost", "malformed") == []
    told = [{(v["session"], v["sequence"]): v["sum"] for v in one.of("volume")} for one in viewers]
    common = set.intersection(*(set(one) for one in told))
    assert len(common) >= 4
    assert all(told[0][one] == told[1][one] == told[2][one] for one in common)


def new_session(viewer):
    """Volumes since the daemon restarted."""
    second = viewer.of("session")[1]["session"]
    return [line for line in viewer.of("volume") if line["session"] == second]
