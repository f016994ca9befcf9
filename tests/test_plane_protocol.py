"""The ingest port's messages, without sockets."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live_restore.errors import ProtocolError
from live_restore.plane_protocol import (
    MAX_PLANE_BYTES,
    MAX_SLICES,
    PlaneHeader,
    PlanesEnd,
    SourceHeader,
    decode_plane,
    encode_plane,
    encode_word,
)

TYPES = ("uint8", "uint16", "float32")
SHAPES = ((5, 7), (1, 1), (4, 3, 3), (4, 3, 4))


def noise(shape, dtype):
    return (np.random.default_rng(0).random(shape) * 250).astype(dtype)


def header(data, **changes):
    fields = {"sender": "s", "acquisition": "a", "z": 2, "type": data.dtype.name}
    return PlaneHeader(**(fields | {"shape": data.shape} | changes))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_plane_comes_back_as_it_was(shape, dtype):
    data = noise(shape, dtype)
    sent = header(data, number=7, time=3, channel="561@20%", position="Größe", z_step_um=0.3)
    received, back = decode_plane(encode_plane(sent, data))
    assert received == sent
    assert back.dtype == data.dtype
    assert back.dtype.isnative
    assert not back.flags.writeable
    np.testing.assert_array_equal(back, data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(noise((6, 8), ">u2"), id="big-endian"),
        pytest.param(noise((6, 8), ">f4"), id="big-endian float"),
        pytest.param(noise((6, 8), "u2").T, id="transposed"),
        pytest.param(noise((6, 8), "u2")[::-1, ::2], id="every second, upside down"),
        pytest.param(noise((6, 8, 4), "u1")[..., :3], id="colours of four"),
        pytest.param(noise((6, 8), ">u2")[:, 1:5], id="big-endian part"),
        pytest.param(np.broadcast_to(noise((1, 8), "u2"), (6, 8)), id="broadcast"),
    ],
)
def test_arrays_laid_out_otherwise_arrive_the_same(data):
    before = data.copy()
    _, back = decode_plane(encode_plane(header(data), data))
    np.testing.assert_array_equal(back, data)
    np.testing.assert_array_equal(data, before)


def test_a_plane_in_order_is_sent_without_a_copy():
    data = noise((6, 8), "u2")
    data.flags.writeable = False
    frame = encode_plane(header(data), data)[2]
    assert np.shares_memory(np.frombuffer(frame, "u2"), data)


@pytest.mark.parametrize(
    "word",
    [
        PlanesEnd(sender="s", acquisition="a", reason="stopped", number=3),
        PlanesEnd(sender="s", acquisition="a"),
        SourceHeader(sender="s", state="ready"),
        SourceHeader(sender="s", error="no hardware", ended="failed"),
    ],
)
def test_a_word_comes_back_as_it_was(word):
    assert decode_plane(encode_word(word)) == word


GOOD = encode_plane(header(noise((4, 6), "u2")), noise((4, 6), "u2"))
FIELDS = json.loads(bytes(GOOD[1]))


def with_fields(**changes):
    return [GOOD[0], json.dumps(FIELDS | changes).encode(), GOOD[2]]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        pytest.param([], "0 frames came", id="nothing"),
        pytest.param([b"plane/"], "1 frames came", id="topic alone"),
        pytest.param([*GOOD, b""], "4 frames came", id="a frame too many"),
        pytest.param(GOOD[:2], "b'plane/' came", id="without pixels"),
        pytest.param([b"end/", b"{}"], "end/: sender", id="an empty word"),
        pytest.param([b"other/", *GOOD[1:]], "b'other/' came", id="unknown topic"),
        pytest.param([b"plane/" * 1000, *GOOD[1:]], "expected plane/", id="endless topic"),
        pytest.param([GOOD[0], b"\xff\xfe", GOOD[2]], "plane/: header", id="no text"),
        pytest.param([GOOD[0], b"[" * 100_000, GOOD[2]], "plane/: header", id="deep"),
        pytest.param([GOOD[0], b"null", GOOD[2]], "plane/: header", id="null"),
        pytest.param([*GOOD[:2], GOOD[2][:-1]], "should have 48 bytes, it has 47", id="cut"),
        pytest.param([*GOOD[:2], bytes(49)], "should have 48 bytes, it has 49", id="too long"),
        pytest.param(with_fields(v=2), "plane/: v", id="another version"),
        pytest.param(with_fields(shape=[2**40, 2**40]), "1024 MiB", id="huge plane"),
        pytest.param(with_fields(shape=[0, 6]), "from 1 pixel", id="no pixels"),
        pytest.param(with_fields(shape=[-4, -6]), "from 1 pixel", id="negative"),
        pytest.param(with_fields(shape=[4, 3, 2]), "3 or 4 values", id="two colours"),
        pytest.param(with_fields(shape=[24]), "shape", id="one axis"),
        pytest.param(with_fields(type="complex128"), "plane/: type", id="type"),
        pytest.param(with_fields(type="object"), "plane/: type", id="objects"),
        pytest.param(with_fields(z=-1), "plane/: z", id="z below 0"),
        pytest.param(with_fields(z=MAX_SLICES), "plane/: z", id="z beyond all"),
        pytest.param(with_fields(time=10**30), "plane/: time", id="time beyond all"),
        pytest.param(with_fields(number=-1), "plane/: number", id="number"),
        pytest.param(with_fields(num_times=0), "plane/: num_times", id="no time points"),
        pytest.param(with_fields(num_slices=0), "plane/: num_slices", id="no planes"),
        pytest.param(with_fields(z_step_um=float("inf")), "plane/: z_step_um", id="infinite"),
        pytest.param(with_fields(pixel_size_um=float("nan")), "plane/: pixel_size_um", id="nan"),
        pytest.param(with_fields(position=""), "plane/: position", id="no name"),
        pytest.param(with_fields(sender="s" * 65), "plane/: sender", id="long sender"),
    ],
)
def test_what_is_no_message_is_an_error_that_says_why(frames, expected):
    with pytest.raises(ProtocolError) as caught:
        decode_plane(frames)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_huge_header_is_refused_unread():
    frames = with_fields(origin="x" * 2**21)
    with pytest.raises(ProtocolError, match="a header of 2097"):
        decode_plane(frames)


def test_a_header_of_a_hundred_thousand_positions_is_taken():
    """As large as headers may be: a plate's worth of names is no error."""
    names = [str(i) for i in range(100_000)]
    received, _ = decode_plane(with_fields(positions=names))
    assert len(received.positions) == 100_000


def test_a_plane_larger_than_any_camera_s_is_not_even_described():
    with pytest.raises(ValueError, match="1024 MiB"):
        PlaneHeader(sender="s", acquisition="a", z=0, type="uint8", shape=(1, MAX_PLANE_BYTES + 1))


def test_fields_of_a_later_program_are_passed_over():
    received, _ = decode_plane(with_fields(numerical_aperture=1.4))
    assert received.acquisition == "a"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
topics = st.sampled_from([b"plane/", b"end/", b"source/", b"plan", b""]) | st.binary(max_size=8)


def survives(frames):
    with suppress(ProtocolError):
        decode_plane(frames)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=5))
def test_random_bytes_are_nothing_worse_than_a_protocol_error(frames):
    survives(frames)


@settings(deadline=None)
@given(
    topics,
    st.dictionaries(st.sampled_from(sorted(FIELDS)), values, max_size=4),
    st.binary(max_size=64),
)
def test_random_fields_are_nothing_worse_than_a_protocol_error(topic, changes, pixels):
    text = json.dumps(FIELDS | changes).encode()
    survives([topic, text, pixels])
    survives([topic, text])


@settings(deadline=None)
@given(st.integers(0, 2), st.integers(0, 400), st.binary(max_size=4))
def test_cut_and_spoilt_frames_are_nothing_worse_than_a_protocol_error(which, at, with_bytes):
    frames = [bytes(frame) for frame in GOOD]
    frame = frames[which]
    survives([*frames[:which], frame[:at], *frames[which + 1 :]])
    frames[which] = frame[:at] + with_bytes + frame[at + len(with_bytes) :]
    survives(frames)


def test_what_is_said_for_people_is_cut_and_not_refused():
    words = {"sender": "s", "acquisition": "a", "reason": "x" * 100_000}
    assert len(decode_plane([b"end/", json.dumps(words).encode()]).reason) == 2000
    received, _ = decode_plane(with_fields(origin="x" * 100_000))
    assert len(received.origin) == 2000


def test_times_without_a_zone_are_utc():
    received, _ = decode_plane(with_fields(acquired_at="2024-01-01T00:00:00"))
    assert received.acquired_at.isoformat() == "2024-01-01T00:00:00+00:00"
