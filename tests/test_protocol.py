import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live_restore import protocol
from live_restore.errors import ProtocolError
from live_restore.messages import Header, VolumeMessage
from live_restore.protocol import decode, encode_volume, topic_of
from live_restore.sinks.streams import Numbered
from live_restore.sinks.volume_frames import volume_frames
from tests.conftest import make_restored, make_volume


def frames_of(data, kind="raw"):
    restored = make_restored(make_volume(data))
    return [bytes(f) for f in volume_frames("s", kind, Numbered(3, restored))]


@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    dtype=st.sampled_from(["u1", "u2", "f4"]),
    is_strided=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_a_volume_survives_the_wire(shape, dtype, is_strided):
    data = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)
    if is_strided:
        data = data[:, ::-1]
    message = decode(frames_of(data))
    assert isinstance(message, VolumeMessage)
    assert message.header.sequence == 3
    assert message.header.shape == data.shape
    assert message.data.dtype == data.dtype
    np.testing.assert_array_equal(message.data, data)


def test_the_planes_are_the_frames_in_c_order_and_little_endian():
    data = np.arange(2 * 3 * 4, dtype="u2").reshape(2, 3, 4)
    frames = frames_of(data)
    assert len(frames) == 2 + 2
    assert b"".join(frames[2:]) == data.astype("<u2").tobytes()


def test_big_endian_voxels_are_sent_little_endian():
    data = np.arange(8, dtype=">u2").reshape(2, 2, 2)
    header = decode(frames_of(data.astype("u2"))).header
    frames = encode_volume("volume/raw/0/c/", header, data)
    assert b"".join(bytes(f) for f in frames[2:]) == data.astype("<u2").tobytes()


def test_a_volume_is_decoded_into_the_given_array():
    data = np.arange(8, dtype="u2").reshape(2, 2, 2)
    out = np.zeros_like(data)
    asked = []
    assert decode(frames_of(data), lambda header: asked.append(header) or out).data is out
    np.testing.assert_array_equal(out, data)
    assert asked[0].shape == (2, 2, 2)


@pytest.mark.parametrize("other", [np.zeros((1, 2, 2), "u2"), np.zeros((2, 2, 2), "f4")])
def test_a_given_array_that_does_not_fit_is_an_error(other):
    with pytest.raises(ValueError, match=r"uint16 \(2, 2, 2\) is needed"):
        decode(frames_of(np.arange(8, dtype="u2").reshape(2, 2, 2)), lambda header: other)


def spoil(frames, **changes):
    header = json.loads(frames[1]) | changes
    return [frames[0], json.dumps(header).encode(), *frames[2:]]


GOOD = frames_of(np.arange(24, dtype="u2").reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        pytest.param([], "0 frames", id="nothing"),
        pytest.param([b"volume/"], "1 frames", id="topic only"),
        pytest.param([b"\xff\xff", b"{}"], "UTF-8", id="binary topic"),
        pytest.param([b"other/", b"{}"], "unknown topic", id="unknown topic"),
        pytest.param([GOOD[0], b"{"], "header", id="broken JSON"),
        pytest.param([GOOD[0], b"{}"], "session", id="empty header"),
        pytest.param(GOOD[:-1], "2 planes announced, 1 came", id="plane missing"),
        pytest.param([*GOOD, b"x"], "3 came", id="plane too many"),
        pytest.param(
            [*GOOD[:-1], GOOD[-1][:-1]], "should have 24 bytes, it has 23", id="short plane"
        ),
        pytest.param(spoil(GOOD, v=2), "v: ", id="version"),
        pytest.param(spoil(GOOD, type="object"), "type", id="dtype"),
        pytest.param(spoil(GOOD, shape=[2, 3, -4]), "shape", id="negative shape"),
        pytest.param(spoil(GOOD, shape=[2, 2**20, 2**20]), "GiB", id="giant shape"),
        pytest.param(spoil(GOOD, encoding="pickle"), "encoding", id="encoding"),
        pytest.param([b"system/heartbeat/", b"[]"], "heartbeat", id="bad heartbeat"),
        pytest.param([b"preview/raw/0/c/", *GOOD[1:]], "3 projections, 2 came", id="preview"),
        pytest.param([b"preview/raw/0/c/", *GOOD[1:], b"x"], "XZ should have", id="projection"),
    ],
)
def test_a_malformed_message_is_refused_with_the_reason(frames, expected):
    with pytest.raises(ProtocolError) as caught:
        decode(frames)
    assert expected in str(caught.value)


@given(frames=st.lists(st.binary(max_size=200), max_size=5))
@settings(max_examples=300, deadline=None)
def test_random_frames_raise_only_protocol_errors(frames):
    with pytest.raises(ProtocolError):
        decode(frames)


@given(
    header=st.dictionaries(
        st.sampled_from(list(Header.model_fields)), st.none() | st.integers() | st.text()
    )
)
@settings(max_examples=200, deadline=None)
def test_random_headers_raise_only_protocol_errors(header):
    frames = [GOOD[0], json.dumps(json.loads(GOOD[1]) | header).encode(), *GOOD[2:]]
    try:
        message = decode(frames)
    except ProtocolError:
        return
    assert message.data.shape == (2, 3, 4)


def test_unknown_keys_are_ignored():
    assert decode(spoil(GOOD, invented_later=1)).header.sequence == 3


def test_no_name_is_the_beginning_of_another_topic():
    topics = [topic_of("volume/raw", "1", c) for c in ("c1", "c10", "c1/x", "c1 ", "µ", "")]
    for one in topics:
        assert sum(other.startswith(one) for other in topics) == 1


@given(position=st.text(max_size=8), channel=st.text(max_size=8))
def test_names_survive_the_topic(position, channel):
    if position and channel and "\ud800" not in position + channel:
        try:
            topic = topic_of("volume/raw", position, channel)
        except UnicodeEncodeError:
            return
        assert protocol.names_in_topic(topic) == (position, channel)


def test_a_header_that_does_not_describe_its_volume_is_not_sent():
    header = decode(GOOD).header
    with pytest.raises(ProtocolError, match="the header says"):
        encode_volume("t/", header, np.zeros((1, 3, 4), "u2"))


def test_the_documented_schema_is_the_present_one():
    file = Path(__file__).parents[1] / "docs" / "header.schema.json"
    assert file.read_text(encoding="utf-8") == protocol.header_schema()


def test_memory_is_taken_only_for_planes_that_came():
    """A header may announce what it likes; frames that don't fit are noticed first."""
    frames = spoil(GOOD, shape=[2, 2**17, 2**17])  # 64 GiB
    with pytest.raises(ProtocolError, match="should have 34359738368 bytes, it has 24"):
        decode(frames)


def test_a_volume_for_which_there_is_no_memory_is_refused(monkeypatch):
    def refuse(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr(protocol.np, "empty", refuse)
    with pytest.raises(ProtocolError, match="no room"):
        decode(GOOD)


@pytest.mark.parametrize("sequence", [-1, 2**63, 10**30])
def test_a_request_for_a_number_that_no_volume_has_is_refused(sequence):
    with pytest.raises(ProtocolError, match="sequence"):
        protocol.parse_request(json.dumps({"get": "sequence", "sequence": sequence}).encode())
