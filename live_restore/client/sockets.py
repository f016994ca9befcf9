"""The sockets of a client: the only place that knows ZeroMQ's options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import zmq

from live_restore.keys import ClientKeys

__all__ = ["prepare_request", "prepare_subscription", "views"]

_DROPPED_LINK = {  # found by the system within half a minute, also while this process sleeps
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 3,
}


def prepare_subscription(
    socket: zmq.Socket[Any],
    endpoint: str,
    keys: ClientKeys | None,
    topics: Iterable[str],
    high_water_mark: int,
) -> None:
    """Subscribe a SUB socket, and connect it.

    Parameters
    ----------
    socket : zmq.Socket
        New.
    endpoint : str
        Data port.
    keys : ClientKeys or None
        For a daemon that asks for them.
    topics : iterable of str
        Beginnings of topics.
    high_water_mark : int
        Messages that may wait here.
    """
    # Only for receiving: subscriptions are sent, and must not be lost.
    socket.setsockopt(zmq.RCVHWM, high_water_mark)
    for option, value in _DROPPED_LINK.items():
        socket.setsockopt(option, value)
    for topic in topics:
        socket.subscribe(topic)
    _connect(socket, endpoint, keys)


def prepare_request(
    socket: zmq.Socket[Any], endpoint: str, keys: ClientKeys | None, timeout_s: float
) -> None:
    """Connect a DEALER socket to the control port.

    Parameters
    ----------
    socket : zmq.Socket
        New.
    endpoint : str
        Control port.
    keys : ClientKeys or None
        For a daemon that asks for them.
    timeout_s : float
        How long sending may wait: without end, were the port one of another kind, which hangs up.
    """
    socket.sndtimeo = round(timeout_s * 1000)
    _connect(socket, endpoint, keys)


def views(frames: Iterable[Any]) -> list[memoryview]:
    """What is in frames that were received without a copy."""
    return [frame.buffer for frame in frames]


def _connect(socket: zmq.Socket[Any], endpoint: str, keys: ClientKeys | None) -> None:
    socket.linger = 0
    if keys:
        keys.secure(socket)
    socket.connect(endpoint)
