"""Hostile programs at the ports of a running daemon: it lives, answers, restores, and doesn't grow."""

import ast
import itertools
import json
import os
import random
import re
import socket
import threading
from collections import defaultdict, deque
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

import live_restore
from live_restore import protocol
from live_restore.errors import ProtocolError
from live_restore.plane_protocol import decode_plane
from live_restore.sinks.streams import Numbered
from live_restore.sinks.volume_frames import volume_frames
from tests import hostile_frames as hostile
from tests.conftest import daemon, make_restored, wait_for
from tests.ingesting import free_endpoint

NUMBER = int(os.environ.get("LIVE_RESTORE_FUZZ", "2400"))  # messages, of each full run 100,000
GROWTH_BYTES = 96 * 2**20  # four bounds of SMALL_MB each may fill between two looks
SMALL_MB = 16
# What is freed goes back to the system at once, so that what is kept is seen.
FRUGAL = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_MMAP_THRESHOLD_": "65536",
}


class Target:
    """A running daemon, and what honest programs want of it."""

    def __init__(self, process, data, control, ingest):
        self.process = psutil.Process(process.pid)
        self.data, self.control, self.ingest = data, control, ingest
        self.log = []
        self._popen = process
        self._numbers = itertools.count()
        self._reading = threading.Thread(target=self._read, name="log")
        self._reading.start()

    def _read(self):
        for line in self._popen.stderr:
            self.log.append(line)

    def stop(self):
        self._popen.terminate()
        self._popen.wait(120)
        self._reading.join()
        return self._popen.returncode

    def ask(self, body, timeout_ms=60_000):
        with zmq.Context() as context, context.socket(zmq.REQ) as requests:
            requests.linger = 0
            requests.connect(self.control)
            requests.send(json.dumps(body).encode())
            assert self._popen.poll() is None, "".join(self.log[-30:])
            assert requests.poll(timeout_ms), "".join(self.log[-30:])
            return requests.recv_multipart()

    def restores_a_good_volume(self, push=None):
        """Also waits until all that was sent before is dealt with."""
        number = next(self._numbers)
        data = np.random.default_rng(number).integers(0, 1000, (3, 16, 16)).astype("u2")
        with zmq.Context() as context, context.socket(zmq.PUSH) as own:
            own.connect(self.ingest)
            for frames in hostile.good_volume(number, data):
                (push or own).send_multipart(frames)
            wanted = {"get": "latest", "kind": "raw", "position": "p", "channel": "good"}

            def latest():
                topic, header, *planes = self.ask(wanted)
                if topic == b"error/" or json.loads(header)["time"] != number:
                    return None
                return planes

            planes = wait_for(latest, "the good volume", 240)
        assert b"".join(planes) == data.tobytes()

    @property
    def rss(self):
        return self.process.memory_info().rss


@pytest.fixture(scope="module")
def running(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("fuzzing")
    data, control, ingest = (free_endpoint() for _ in range(3))
    profile = folder / "p.toml"
    profile.write_text(
        f"[source]\nkind = 'ingest'\nendpoint = '{ingest}'\nmemory_mb = {SMALL_MB}\n"
        f"[model]\npath = '{tiny_model.path}'\n[write]\nfolder = 'restored'\n"
        f"[stacks]\nmemory_mb = {SMALL_MB}\n[ledger]\nfolder = 'ledger'\n"
        f"[queue]\nmemory_mb = {SMALL_MB}\nspool_mb = {SMALL_MB}\nshutdown_s = 5\n"
        f"[publish]\nendpoint = '{data}'\ncontrol = '{control}'\nhistory_mb = 16\n",
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as environment, ExitStack() as opened:
        for name, value in FRUGAL.items():
            environment.setenv(name, value)
        process = opened.enter_context(daemon(profile))
        environment.undo()
        one = Target(process, data, control, ingest)
        try:
            one.restores_a_good_volume()
            yield one
        finally:
            code = one.stop()
        assert code == 0, "".join(one.log[-30:])


@pytest.fixture
def target(running):
    """A daemon that has been through a lot, and must be well after each test."""
    yield running
    running.restores_a_good_volume()
    assert json.loads(running.ask({"get": "status"})[1])["session"]


@contextmanager
def connected(kind, endpoint):
    with zmq.Context() as context, context.socket(kind) as one:
        one.linger = 0
        one.sndtimeo = 240_000
        one.connect(endpoint)
        yield one


def message_templates():
    """What the program's loggers are called with, as patterns, and in how many modules; the longest first."""
    modules = defaultdict(set)
    for module in Path(live_restore.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name("logger")),
                    args=[ast.Constant(str() as said), *_],
                ):
                    modules[said].add(module)
    return [
        (
            re.compile(re.sub(r"%[-+ .0-9\\]*[a-z]", ".*", re.escape(said)), re.S),
            len(modules[said]),
        )
        for said in sorted(modules, key=len, reverse=True)
    ]


def assert_not_flooded(log):
    """By the log's own clock: within 10 s two periods of the limit may meet, of 20 lines of each kind."""
    templates, said = message_templates(), defaultdict(deque)
    line = re.compile(
        r"[\d-]{10} (\d\d):(\d\d):(\d\d) [A-Z]+ +(?:\(\d+ lines aren't shown: [^)]*\) )?(.*)", re.S
    )
    for text in log:
        if text.startswith("    "):  # the message above goes on
            continue
        head = line.fullmatch(text.rstrip("\n"))
        assert head, f"no line of the log: {text!r}"
        hours, minutes, seconds = (int(part) for part in head.group(1, 2, 3))
        at = 3600 * hours + 60 * minutes + seconds
        kind = next(((one, num) for one, num in templates if one.fullmatch(head[4])), None)
        assert kind, f"of no kind that the program has: {text!r}"
        times = said[kind]
        times.append(at)
        while (at - times[0]) % 86400 > 9:
            times.popleft()
        assert len(times) <= 40 * kind[1], f"the log is flooded: {text!r}"
    assert said, "hostile planes are told of"


def in_batches(number):
    """A first batch to warm up, then three more."""
    return [range(part * number // 4, (part + 1) * number // 4) for part in range(4)]


def test_hostile_planes_neither_end_the_daemon_nor_make_it_grow(target):
    rss, before = [], len(target.log)
    with connected(zmq.PUSH, target.ingest) as push:
        for batch in in_batches(NUMBER):
            for seed in batch:
                push.send_multipart(hostile.choose(random.Random(seed), hostile.PLANES))
            target.restores_a_good_volume(push)
            rss.append(target.rss)
    assert max(rss[1:]) - rss[0] < GROWTH_BYTES, rss
    assert_not_flooded(target.log[before:])


def test_hostile_requests_neither_end_the_daemon_nor_make_it_grow(target):
    rss = []
    for batch in in_batches(NUMBER):
        with connected(zmq.DEALER, target.control) as dealer:
            for seed in batch:
                dealer.send_multipart(hostile.choose(random.Random(seed), hostile.REQUESTS))
                while dealer.poll(0):
                    dealer.recv_multipart()
        target.restores_a_good_volume()
        rss.append(target.rss)
    assert max(rss[1:]) - rss[0] < GROWTH_BYTES, rss


def test_connections_that_do_not_speak_the_protocol_are_closed(target):
    ports = {
        target.ingest: b"PUSH",
        target.control: b"DEALER",
        target.data: b"SUB",
    }
    rng = random.Random(0)
    before = target.process.num_fds()
    rss = []
    for _ in range(4):
        opened = []
        for _ in range(NUMBER // 48):
            for endpoint, kind in ports.items():
                host, port = endpoint.removeprefix("tcp://").split(":")
                one = socket.create_connection((host, int(port)))
                with suppress(OSError):  # it may be closed in mid-sentence
                    one.sendall(hostile.raw_bytes(rng, kind))
                opened.append(one)
        target.restores_a_good_volume()
        for one in opened[len(opened) // 2 :]:
            one.close()
        rss.append(target.rss)
        for one in opened[: len(opened) // 2]:
            one.close()
    assert max(rss[1:]) - rss[0] < GROWTH_BYTES, rss
    wait_for(lambda: target.process.num_fds() <= before + 5, "the connections' end")


def test_half_handshakes_do_not_pile_up(target):
    before = target.process.num_fds()
    opened = []
    for endpoint in (target.ingest, target.control, target.data):
        host, port = endpoint.removeprefix("tcp://").split(":")
        for _ in range(50):
            one = socket.create_connection((host, int(port)))
            one.sendall(hostile.handshake(b"PUSH")[:40])
            opened.append(one)
    # They aren't closed here: the daemon does it.
    wait_for(lambda: target.process.num_fds() >= before + 100, "the connections")
    wait_for(lambda: target.process.num_fds() <= before + 5, "the connections' end")
    for one in opened:
        one.close()


@pytest.mark.parametrize("which", ["ingest", "control", "data"])
def test_an_oversize_frame_is_refused_by_its_head(target, which):
    kind = {"ingest": b"PUSH", "control": b"DEALER", "data": b"SUB"}[which]
    nbytes = {"ingest": 2**30 + 1, "control": 2**16 + 1, "data": 2**13 + 1}[which]
    host, port = getattr(target, which).removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as one:
        one.settimeout(60)
        one.sendall(hostile.handshake(kind))
        heard = b""
        while b"READY" not in heard:
            heard += one.recv(4096)
        one.sendall(hostile.long_frame(nbytes) + bytes(100))
        with suppress(ConnectionResetError):
            while one.recv(4096):  # until the daemon closes the connection
                pass


# --- without sockets ---

RESTORED = make_restored()
VALID = [
    [bytes(frame) for frame in volume_frames("s", kind, Numbered(3, RESTORED), encoding)]
    for kind in ("restored", "raw")
    for encoding in ("raw", "blosc2")
]


def survives(read, frames):
    with suppress(ProtocolError):
        read(frames)


@given(st.integers(0, 2**64))
@settings(max_examples=300, deadline=None)
def test_hostile_planes_are_nothing_worse_than_a_protocol_error(seed):
    survives(decode_plane, hostile.choose(random.Random(seed), hostile.PLANES))


@given(st.integers(0, 2**64))
@settings(max_examples=300, deadline=None)
def test_hostile_requests_are_nothing_worse_than_a_protocol_error(seed):
    survives(
        lambda frames: protocol.parse_request(frames[-1]),
        hostile.choose(random.Random(seed), hostile.REQUESTS),
    )


@given(st.integers(0, 2**64), st.sampled_from(VALID))
@settings(max_examples=500, deadline=None)
def test_spoilt_volumes_are_nothing_worse_than_a_protocol_error(seed, valid):
    rng = random.Random(seed)
    frames = list(valid)
    which = rng.randrange(len(frames))
    frames[which] = hostile.spoilt(rng, frames[which])
    survives(protocol.decode, frames)


@given(st.integers(0, 2**64), st.sampled_from(VALID))
@settings(max_examples=500, deadline=None)
def test_volumes_whose_header_lies_are_nothing_worse_than_a_protocol_error(seed, valid):
    rng = random.Random(seed)
    header = json.loads(valid[1])
    for _ in range(rng.choice([1, 1, 2])):
        header[rng.choice(sorted(header))] = hostile.any_value(rng)
    if rng.random() < 0.3:
        header["shape"] = [rng.choice(hostile.NUMBERS) for _ in range(3)]
    survives(protocol.decode, [valid[0], hostile._json(header), *valid[2:]])
