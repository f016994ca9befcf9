"""Who gets in with which key, over real sockets, and what operators alone may command."""

import errno
import json
import logging
import os
import signal
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import zmq
from pydantic import ValidationError

from live_restore.client import Control, Heartbeat, Subscriber, VolumeMessage
from live_restore.errors import KeyFileError, NoAnswerError, ProtocolError
from live_restore.hook import publish_planes
from live_restore.keys import ClientKeys, KeyFolder
from live_restore.profile import PublishSettings
from live_restore.restore.model import save_model
from live_restore.sinks.publisher import Publisher
from live_restore.sources.plane_port import PlanePort
from tests.conftest import daemon, live_restore, make_restored, wait_for

NOT_IN_S = 1.5  # a client with the right key hears a heartbeat within a second


@pytest.fixture
def folder(tmp_path):
    keys = KeyFolder(tmp_path / "keys")
    keys.init()
    return keys


@pytest.fixture
def made(folder, tmp_path):
    """Makes the keys of a client."""

    def make(name, role="viewer"):
        folder.add(name, role, tmp_path / f"{name}.keys")
        return ClientKeys.load(tmp_path / f"{name}.keys")

    return make


@contextmanager
def publishing(endpoints, folder, commands=None):
    settings = PublishSettings(endpoint=endpoints[0], control=endpoints[1], keys=folder.folder)
    with Publisher(settings, commands) as publisher:
        yield publisher


def assert_not_in(control_endpoint, keys):
    with (
        Control(control_endpoint, timeout_s=NOT_IN_S, keys=keys) as control,
        pytest.raises(NoAnswerError),
    ):
        control.status()


def strangers(folder):
    public, secret = zmq.curve_keypair()
    other, _ = zmq.curve_keypair()
    own = folder.own_client()
    return {
        "unknown key": ClientKeys(public, secret, folder.public()),
        "no key": None,
        "another daemon's key": ClientKeys(own.public, own.secret, other),
    }


def test_who_is_on_the_list_watches_and_asks(endpoints, folder, made):
    alice = made("alice")
    with publishing(endpoints, folder) as publisher:
        with Subscriber(endpoints[0], keys=alice) as viewer:
            wait_for(lambda: publisher.viewers, "the viewer")
            sent = make_restored()
            publisher.send(sent)
            got = next(viewer.volumes(10))
            np.testing.assert_array_equal(got.data, sent.data)
        with Control(endpoints[1], keys=alice) as control:
            np.testing.assert_array_equal(control.latest("DAPI").data, sent.data)


@pytest.mark.parametrize("kind", ["unknown key", "no key", "another daemon's key"])
def test_nobody_else_gets_in(endpoints, folder, made, caplog, kind):
    alice, stranger = made("alice"), strangers(folder)[kind]
    with publishing(endpoints, folder) as publisher:
        publisher.send(make_restored())
        with (
            Subscriber(endpoints[0], keys=stranger) as outside,
            Subscriber(endpoints[0], keys=alice) as inside,
        ):
            assert isinstance(inside.receive(10), Heartbeat)
            assert outside.receive(NOT_IN_S) is None
            assert isinstance(inside.receive(10), Heartbeat)  # and harms nobody
        assert_not_in(endpoints[1], stranger)
        assert publisher.viewers == 0
    if kind == "unknown key":
        told = [r.message for r in caplog.records if "refused so far" in r.message]
        assert 1 <= len(told) <= 3  # ZeroMQ tries again ten times a second
        assert stranger.public.decode() in told[0]


def test_plain_frames_are_not_understood(endpoints, folder, made):
    """Not even ZeroMQ's."""
    import socket

    made("alice")
    host, port = endpoints[1].removeprefix("tcp://").split(":")
    with publishing(endpoints, folder):
        with socket.create_connection((host, int(port))) as plain:
            plain.sendall(b'{"get": "status"}\r\n')
            plain.settimeout(10)
            received = b""
            with suppress(ConnectionResetError):
                while part := plain.recv(1000):  # the greeting, and the end
                    received += part
        assert b"session" not in received
        with Control(endpoints[1], keys=folder.own_client()) as control:
            assert control.status()["session"]


def test_the_list_is_read_anew_at_each_connection(endpoints, folder, made):
    with publishing(endpoints, folder):
        late = made("late")
        with Control(endpoints[1], keys=late) as control:
            assert control.status()["session"]
        folder.remove("late")
        assert_not_in(endpoints[1], late)


def test_a_list_that_becomes_unreadable_lets_nobody_in_and_comes_back(
    endpoints, folder, made, caplog
):
    alice = made("alice")
    file = folder.folder / "allowed" / "alice.toml"
    text = file.read_text()
    with publishing(endpoints, folder):
        file.write_text("nonsense")
        assert_not_in(endpoints[1], alice)
        assert "can't be read as a key file" in caplog.text
        file.write_text(text)
        with Control(endpoints[1], timeout_s=10, keys=alice) as control:
            assert control.status()["session"]


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(errno.EACCES, id="permission"),
        pytest.param(errno.EIO, id="disk"),
        pytest.param(errno.ESTALE, id="share"),
    ],
)
@pytest.mark.parametrize("what", ["own", "list"])
def test_keys_that_cannot_be_reached_let_nobody_in_and_come_back(
    endpoints, folder, made, caplog, monkeypatch, what, number
):
    alice, done = made("alice", "operator"), []
    away = folder.folder / ("daemon.toml" if what == "own" else "allowed")
    with (
        publishing(endpoints, folder, {"drain": lambda: done.append(1) or "draining"}),
        zmq.Context() as context,
        context.socket(zmq.DEALER) as connected,
    ):
        connected.linger = 0
        alice.secure(connected)
        connected.connect(endpoints[1])
        with monkeypatch.context() as patch:
            for request, answer in (({"get": "status"}, b"status/"), ({"do": "drain"}, b"error/")):
                connected.send(json.dumps(request).encode())
                assert connected.poll(10_000)
                assert connected.recv_multipart()[0] == answer
                make_unreachable(patch, away, number)
            assert_not_in(endpoints[1], alice)
        assert f"1 connections refused so far: key {away}" in caplog.text
        assert f"a command is refused, since {away}" in caplog.text
        with Control(endpoints[1], timeout_s=10, keys=alice) as control:
            assert control.drain()
    assert done == [1]


def make_unreachable(patch, away, number):
    """Whatever looks at a file or folder fails, as on a share that is gone."""
    for name in ("stat", "open", "iterdir", "_scandir", "read_text"):
        real = getattr(Path, name, None)
        if real is not None:
            patch.setattr(Path, name, failing(real, away, number))


def failing(real, away, number):
    def fail(path, *rest, **more):
        if path == away:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *rest, **more)

    return fail


def test_without_its_own_keys_a_daemon_does_not_start(endpoints, tmp_path):
    with (
        pytest.raises(KeyFileError, match="live-restore keys init"),
        publishing(endpoints, KeyFolder(tmp_path / "none")),
    ):
        pass


def test_an_empty_list_is_warned_of(endpoints, folder, caplog):
    with publishing(endpoints, folder):
        assert "nobody is on the list yet" in caplog.text


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:5556", "tcp://*:5556", "tcp://192.168.0.7:5556"]
)
def test_other_addresses_need_keys(address, tmp_path):
    for field in ("endpoint", "control"):
        with pytest.raises(ValidationError, match="without keys only loopback"):
            PublishSettings(**{field: address})
        settings = PublishSettings(**{field: address, "keys": tmp_path})
        assert getattr(settings, field) == address


def test_a_daemon_on_all_addresses_without_keys_refuses_to_start(tmp_path):
    profile = tmp_path / "p.toml"
    profile.write_text('[source]\nkind = "simulated"\n[publish]\nendpoint = "tcp://0.0.0.0:5556"\n')
    refused = live_restore("run", profile)
    assert refused.returncode == 2
    assert "publish.endpoint = 'tcp://0.0.0.0:5556'" in refused.stderr
    assert "live-restore keys init" in refused.stderr
    profile.write_text(profile.read_text() + f"keys = '{tmp_path / 'keys'}'\n")
    refused = live_restore("run", profile)
    assert refused.returncode == 3
    assert "the daemon has no keys yet" in refused.stderr


def ask(endpoint, request, keys):
    context = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        if keys:
            keys.secure(socket)
        socket.connect(endpoint)
        socket.send(json.dumps(request).encode())
        assert socket.poll(10_000)
        topic, body = socket.recv_multipart()
        return topic, json.loads(body)
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("word", ["reload", "drain"])
def test_only_operators_give_commands(endpoints, folder, made, word):
    done = []
    commands = {word: lambda: done.append(word) or f"{word} begins"}
    viewer, operator = made("alice"), made("bob", "operator")
    with publishing(endpoints, folder, commands):
        topic, body = ask(endpoints[1], {"do": word}, viewer)
        assert (topic, body["code"]) == (b"error/", "not_authorised")
        assert done == []
        for keys in (operator, folder.own_client()):
            topic, body = ask(endpoints[1], {"do": word}, keys)
            assert (topic, body["did"], body["message"]) == (b"done/", word, f"{word} begins")
        assert done == [word, word]
        other = "drain" if word == "reload" else "reload"
        assert ask(endpoints[1], {"do": other}, operator)[1]["code"] == "refused"
        assert ask(endpoints[1], {"do": "explode"}, operator)[1]["code"] == "bad_request"


def test_without_keys_nobody_gives_commands(endpoints):
    done = []
    settings = PublishSettings(endpoint=endpoints[0], control=endpoints[1])
    with Publisher(settings, {"drain": lambda: done.append(1) or ""}):
        topic, body = ask(endpoints[1], {"do": "drain"}, None)
        assert (topic, body["code"]) == (b"error/", "not_authorised")
        with Control(endpoints[1]) as control, pytest.raises(ProtocolError, match="operator's key"):
            control.drain()
    assert done == []


def test_senders_send_planes_and_viewers_do_not(folder, made, tmp_path):
    sender, viewer = made("microscope", "sender"), made("alice")
    image = np.arange(12, dtype="u2").reshape(3, 4)
    axes = {"Axes": {"time": 0, "channel": "c", "z": 0}}
    with PlanePort(keys=folder) as port:
        for file, keys in (("microscope.keys", sender), ("alice.keys", viewer), (None, None)):
            hook = publish_planes(port.endpoint, num_slices=1, keys=file and tmp_path / file)
            received = None
            for _ in range(50 if keys is sender else 5):  # until it is connected
                hook(image, axes)
                received = port.receive(0.2) or received
                if received:
                    break
            hook.finish()
            assert (received is not None) == (keys is sender), file
            while port.receive(0.2) is not None:
                pass


def test_a_senders_key_does_not_open_the_control_port(endpoints, folder, made):
    sender = made("microscope", "sender")
    with publishing(endpoints, folder):
        assert_not_in(endpoints[1], sender)


@pytest.fixture
def running(endpoints, folder, tmp_path, tiny_model):
    """A daemon with keys, that simulates volumes for ever."""
    profile = tmp_path / "p.toml"
    model = tmp_path / "first.safetensors"
    save_model(model, tiny_model.network, tiny_model.card)
    profile.write_text(
        "[source]\nkind = 'simulated'\nshape_zyx = [3, 16, 16]\nexposure_ms = 0\ninterval_s = 0.05\nchannels = ['DAPI']\n"
        f"[model]\npath = '{model}'\ndevice = 'cpu'\n"
        f"[publish]\nendpoint = '{endpoints[0]}'\ncontrol = '{endpoints[1]}'\nkeys = '{folder.folder}'\n"
    )
    card = tiny_model.card.model_copy(update={"name": "second"})
    save_model(tmp_path / "second.safetensors", tiny_model.network, card)
    with daemon(profile) as process:
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")))
        reader.start()
        wait_for(lambda: any("ready" in line for line in lines), "the daemon")
        yield profile, process, lines
        process.kill()
        reader.join()


def names_of(viewer, until):
    """Model names of the volumes that come, until one is `until`."""
    names = []
    for message in viewer.volumes(60):
        assert isinstance(message, VolumeMessage)
        names.append((message.header.model.name, message.header.sequence, message.missed))
        if names[-1][0] == until:
            return names
    raise AssertionError(f"no volume of {until}: {names}")


@pytest.mark.parametrize("how", ["command", "signal"])
def test_reload_swaps_the_model_between_two_volumes(running, endpoints, folder, how):
    profile, process, lines = running
    if how == "signal" and not hasattr(signal, "SIGHUP"):
        pytest.skip("this system has no SIGHUP")
    with Subscriber(endpoints[0], keys=folder.own_client()) as viewer:
        next(viewer.volumes(30))
        good = profile.read_text()
        profile.write_text(good.replace("first", "third"))
        told = live_restore("reload", profile)  # there is no such file: the one in use stays
        assert told.returncode == 0
        wait_for(lambda: any("the model isn't reloaded" in line for line in lines), "the refusal")
        profile.write_text(good.replace("[model]", "[modle]"))
        assert live_restore("reload", profile).returncode == 2
        profile.write_text(good.replace("interval_s = 0.05", "interval_s = 0.06"))
        told = live_restore("reload", profile)
        assert told.returncode == 3
        assert "[source] changed, and can't change while the daemon runs" in told.stderr
        profile.write_text(good.replace("first", "second"))
        if how == "signal":
            os.kill(process.pid, signal.SIGHUP)
        else:
            told = live_restore("reload", profile)
            assert (told.returncode, told.stderr) == (0, "")
            assert "loading model" in told.stdout
        names = names_of(viewer, "second")
    assert {name for name, *_ in names[:-1]} <= {"tiny"}
    assert not any(missed for *_, missed in names)
    assert process.poll() is None


def test_drain_ends_the_daemon_in_order(running):
    profile, process, lines = running
    told = live_restore("drain", profile)
    assert told.returncode == 0, told.stderr
    assert "then the daemon ends" in told.stdout
    assert process.wait(60) == 0
    wait_for(lambda: any("done: volumes" in line for line in lines), "its last words")


def test_status_of_a_daemon_with_keys(running):
    profile, *_ = running
    status = live_restore("status", profile)
    assert "doesn't answer" not in status.stdout


def test_logging_of_the_doorman_is_quiet(endpoints, folder, made, caplog):
    caplog.set_level(logging.DEBUG)
    with publishing(endpoints, folder), Control(endpoints[1], keys=made("alice")) as control:
        control.status()
    assert not [r for r in caplog.records if ".zap" in r.name]
