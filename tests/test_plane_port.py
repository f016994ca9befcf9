"""The receiving end of the ingest port, over real sockets."""

import logging

import numpy as np
import zmq

from live_restore.plane_protocol import PlaneHeader, encode_plane
from live_restore.sources.plane_port import PlanePort

PLANE = np.arange(12, dtype="u2").reshape(3, 4)
GOOD = encode_plane(
    PlaneHeader(sender="s", acquisition="a", z=0, type="uint16", shape=(3, 4)), PLANE
)


def test_a_message_of_any_number_of_frames_is_refused_and_the_next_one_taken(caplog):
    with PlanePort() as port, zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger = 0
        push.connect(port.endpoint)
        push.send_multipart([*GOOD, *[b""] * 50_000])
        push.send_multipart(GOOD)
        _, data = port.receive(30)
        assert port.num_refused == 1
    np.testing.assert_array_equal(data, PLANE)
    assert "50003 frames came" in caplog.text


def test_refusals_are_told_once_per_ten_seconds_with_their_number(caplog):
    with PlanePort() as port, zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger = 0
        push.connect(port.endpoint)
        with caplog.at_level(logging.WARNING):
            for _ in range(500):
                push.send(b"nonsense")
            push.send_multipart(GOOD)
            assert port.receive(30) is not None
        assert port.num_refused == 500
    assert 1 <= caplog.text.count("messages refused") <= 10
