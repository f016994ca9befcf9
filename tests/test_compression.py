"""Compressed planes: the same voxels, refused when they aren't what they say, and fewer bytes."""

import builtins
import collections
import contextlib
import json
import sys

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from live_restore.client import Control, Subscriber
from live_restore.compression import can_compress, compress, decompress_into
from live_restore.errors import ProtocolError
from live_restore.profile import PublishSettings
from live_restore.sinks.publisher import Publisher
from tests.conftest import make_restored, make_volume, wait_for

RNG = np.random.default_rng(0)
SMOOTH = (100 + 50 * np.sin(np.arange(3 * 64 * 80) / 500)).reshape(3, 64, 80)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (64, 80), (3, 1000), (1000, 3)])
def test_a_plane_comes_back_as_it_was(dtype, shape):
    plane = RNG.integers(0, 255, shape).astype(dtype)
    out = np.empty_like(plane)
    decompress_into(compress(plane), out)
    np.testing.assert_array_equal(out, plane)


@pytest.mark.parametrize("other", [(64, 79), (64, 81), (1, 1), (640, 80)])
def test_a_plane_of_another_size_is_refused(other):
    out = np.full((64 * 80 * 100,), 7, "u2")
    small = out[: other[0] * other[1]].reshape(other)
    with pytest.raises(ProtocolError, match="compressed plane"):
        decompress_into(compress(SMOOTH[0].astype("u2")), small)
    assert (out[other[0] * other[1] :] == 7).all()


@given(st.binary(max_size=200))
def test_what_is_not_blosc2_is_refused(junk):
    with pytest.raises(ProtocolError, match="compressed plane"):
        decompress_into(junk, np.empty((8, 9), "u2"))


GOOD = compress(RNG.integers(0, 99, (16, 16)).astype("u2"))


@settings(max_examples=500)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1))
def test_a_damaged_chunk_does_no_harm(changes):
    chunk = bytearray(GOOD)
    for at, value in changes:
        chunk[at] = value
    guarded = np.full(3 * 256, 7, "u2")
    with contextlib.suppress(ProtocolError):
        decompress_into(bytes(chunk), guarded[256:512].reshape(16, 16))
    assert (guarded[:256] == 7).all()
    assert (guarded[512:] == 7).all()


def smooth():
    return make_restored(make_volume(SMOOTH.astype("u2")))


def test_viewers_get_what_they_ask_for(endpoints):
    sent = smooth()
    with (
        Publisher(PublishSettings(endpoint=endpoints[0], control=endpoints[1])) as publisher,
        Subscriber(endpoints[0]) as plain,
        Subscriber(endpoints[0], encoding="blosc2") as packed,
        Control(endpoints[1]) as control,
    ):
        wait_for(lambda: publisher.viewers >= 2, "both viewers")
        publisher.send(sent)
        for viewer, encoding in ((plain, "raw"), (packed, "blosc2")):
            got = next(viewer.volumes(10))
            assert got.header.encoding == encoding
            np.testing.assert_array_equal(got.data, sent.data)
        asked = control.latest("DAPI", encoding="blosc2")
        assert asked.header.encoding == "blosc2"
        np.testing.assert_array_equal(asked.data, sent.data)
        assert control.sequence(0, "DAPI").header.encoding == "raw"
        assert control.status()["encodings"] == ["raw", "blosc2"]


def test_fewer_bytes_travel(endpoints):
    sizes = {}
    with Publisher(PublishSettings(endpoint=endpoints[0], control=endpoints[1])) as publisher:
        publisher.send(smooth())
        for encoding in ("raw", "blosc2"):
            request = {"get": "latest", "channel": "DAPI", "encoding": encoding}
            with zmq.Context() as context, context.socket(zmq.REQ) as socket:
                socket.connect(endpoints[1])
                socket.send(json.dumps(request).encode())
                assert socket.poll(10_000)
                topic, _, *planes = socket.recv_multipart()
            assert topic.startswith({"raw": b"volume/", "blosc2": b"compressed/"}[encoding])
            sizes[encoding] = sum(len(plane) for plane in planes)
    assert sizes["blosc2"] < sizes["raw"] / 2


def test_gaps_are_filled_with_compressed_volumes(endpoints):
    with Publisher(PublishSettings(endpoint=endpoints[0], control=endpoints[1])) as publisher:
        for _ in range(3):
            publisher.send(smooth())
        with Subscriber(
            endpoints[0], encoding="blosc2", control=endpoints[1], from_start=True
        ) as viewer:
            wait_for(lambda: publisher.viewers, "the viewer")
            publisher.send(smooth())
            got = [next(viewer.volumes(10)) for _ in range(4)]
    assert [one.header.sequence for one in got] == [0, 1, 2, 3]
    assert {one.header.encoding for one in got} == {"blosc2"}


@pytest.fixture
def no_blosc2(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "imagecodecs":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "imagecodecs", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)


def test_where_blosc2_is_missing_both_sides_say_what_to_install(no_blosc2, endpoints, caplog):
    assert not can_compress()
    with pytest.raises(ProtocolError, match=r"live-restore\[compression\]"):
        decompress_into(GOOD, np.empty((16, 16), "u2"))
    with (
        Publisher(PublishSettings(endpoint=endpoints[0], control=endpoints[1])) as publisher,
        Subscriber(endpoints[0], encoding="blosc2") as packed,
        Control(endpoints[1]) as control,
    ):
        wait_for(lambda: publisher.viewers, "the viewer")
        for _ in range(2):
            publisher.send(smooth())
        with pytest.raises(ProtocolError, match=r"can't compress.*live-restore\[compression\]"):
            control.latest("DAPI", encoding="blosc2")
        with pytest.raises(ProtocolError, match=r"can't compress"):
            collections.deque(iter(lambda: packed.receive(10), None), maxlen=0)
    assert caplog.text.count("a viewer asks for compressed volumes") == 1
