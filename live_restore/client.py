"""For viewers: receive volumes from a running daemon. Needs numpy, pyzmq and pydantic only.

>>> from live_restore.client import Subscriber
>>> with Subscriber("tcp://127.0.0.1:5556") as subscriber:  # doctest: +SKIP
...     for message in subscriber:
...         print(message.header.channel, message.data.shape)
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import zmq

from live_restore import protocol
from live_restore.errors import NoAnswerError, ProtocolError
from live_restore.keys import ClientKeys
from live_restore.messages import (
    Announcement,
    EndHeader,
    Family,
    Header,
    Heartbeat,
    Kind,
    Message,
    Preview,
    SkippedHeader,
    StartHeader,
    VolumeMessage,
)
from live_restore.protocol import topic_of

__all__ = [
    "Announcement",
    "Control",
    "EndHeader",
    "Header",
    "Heartbeat",
    "Message",
    "Preview",
    "SkippedHeader",
    "StartHeader",
    "Subscriber",
    "VolumeMessage",
]

_HIGH_WATER_MARK = 2
_SYSTEM_TOPICS = ("skipped/", "system/")


class Control:
    """Asks the daemon's control port.

    Parameters
    ----------
    endpoint : str
        ``tcp://127.0.0.1:5557`` by default of the daemon.
    timeout_s : float
        How long to wait for each answer.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5557",
        timeout_s: float = 5.0,
        keys: ClientKeys | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._keys = keys

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)

    def latest(self, channel: str, position: str = "0", kind: Kind = "restored") -> VolumeMessage:
        """The newest volume of a stream.

        Raises
        ------
        ProtocolError
            There is none yet, or no daemon answered in time.
        """
        return self._volume(
            {"get": "latest", "kind": kind, "position": position, "channel": channel}
        )

    def sequence(
        self, number: int, channel: str, position: str = "0", kind: Kind = "restored"
    ) -> VolumeMessage:
        """One volume of a stream by its number.

        Raises
        ------
        ProtocolError
            It isn't held any more, or no daemon answered in time.
        """
        return self._volume(
            {
                "get": "sequence",
                "kind": kind,
                "position": position,
                "channel": channel,
                "sequence": number,
            }
        )

    def catalog(self) -> dict[str, Any]:
        """Streams, their last sequence and what is held."""
        return self._json({"get": "catalog"})

    def status(self) -> dict[str, Any]:
        """How the daemon is."""
        return self._json({"get": "status"})

    def reload(self) -> str:
        """Have the daemon read its profile again and use its model; what happens now, in words."""
        return str(self._json({"do": "reload"})["message"])

    def drain(self) -> str:
        """Have the daemon take no more, restore what waits, and end; what happens now, in words."""
        return str(self._json({"do": "drain"})["message"])

    def _volume(self, request: dict[str, Any]) -> VolumeMessage:
        message = protocol.decode(self._ask(request))
        if not isinstance(message, VolumeMessage):
            raise ProtocolError(f"a volume was asked for, {type(message).__name__} came")
        return message

    def _json(self, request: dict[str, Any]) -> dict[str, Any]:
        frames = self._ask(request)
        if len(frames) != 2 or frames[0] == b"error/":
            protocol.decode(frames)
            raise ProtocolError(f"unexpected answer {frames[0]!r:.80}")
        body: dict[str, Any] = json.loads(frames[1])
        return body

    def _ask(self, request: dict[str, Any]) -> list[bytes]:
        # A socket per request: a late answer can never be taken for the next one's.
        with self._context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            if self._keys:
                self._keys.secure(socket)
            socket.connect(self._endpoint)
            socket.send(protocol.to_json(request))
            if not socket.poll(int(self._timeout_s * 1000)):
                raise NoAnswerError(
                    f"no answer from {self._endpoint} within {self._timeout_s:g} s: is the daemon "
                    "running, with a control port?"
                )
            return socket.recv_multipart()


class Subscriber:
    """Receives volumes and events as they are published.

    Connecting never fails and never waits: a daemon that isn't there yet is found when it starts,
    and again when it restarts.

    Parameters
    ----------
    endpoint : str
        Data port of the daemon.
    kinds : sequence of {"restored", "raw"}
        Which volumes.
    position, channel : str, optional
        Only these; `channel` needs `position`.
    family : {"volume", "announce", "preview"}
        Whole volumes; their headers alone, for viewers that ask `Control` for the latest whenever
        they have drawn the one before; or three maximum projections, for slow links.
    control : str, optional
        Control port. With it, volumes that were missed are asked for and given in order.
    from_start : bool
        Count volumes from before the first one received as missed too.

    Attributes
    ----------
    session : str or None
        Of the daemon last heard.
    missed : int
        Volumes that were published and could not be had, in all.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5556",
        kinds: Sequence[Kind] = ("restored",),
        position: str | None = None,
        channel: str | None = None,
        control: str | None = None,
        from_start: bool = False,
        family: Family = "volume",
        keys: ClientKeys | None = None,
    ) -> None:
        if channel is not None and position is None:
            raise ValueError("a channel can only be chosen together with its position")
        self.session: str | None = None
        self.missed = 0
        self._endpoint = endpoint
        self._keys = keys
        self._topics = [topic_of(f"{family}/{kind}", position, channel) for kind in kinds]
        self._control = Control(control, keys=keys) if control else None
        self._from_start = from_start
        self._next: dict[str, int] = {}
        self._pending: deque[Message] = deque()

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB)
        # Only for receiving: subscriptions are sent, and must not be lost.
        self._socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
        for topic in (*_SYSTEM_TOPICS, *self._topics):
            self._socket.subscribe(topic)
        if self._keys:
            self._keys.secure(self._socket)
        self._socket.connect(self._endpoint)
        if self._control:
            self._control.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)
        if self._control:
            self._control.__exit__(kind, error, traceback)

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message.

        Parameters
        ----------
        timeout_s : float, optional
            How long to wait; for ever without it.

        Returns
        -------
        Message or None
            None when nothing came in time.

        Raises
        ------
        ProtocolError
            A message that isn't of this protocol came; the next call goes on with the next one.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._pending:
            wait_ms = None
            if deadline is not None:
                wait_ms = math.ceil(max(0.0, deadline - time.monotonic()) * 1000)
            if not self._socket.poll(wait_ms):
                return None
            self._take(protocol.decode(self._socket.recv_multipart()))
        return self._pending.popleft()

    def volumes(self, timeout_s: float | None = None) -> Iterator[VolumeMessage]:
        """Volumes only; ends when none came for `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            message = self.receive(left if left is None else max(left, 0.0))
            if isinstance(message, VolumeMessage):
                deadline = None if timeout_s is None else time.monotonic() + timeout_s
                yield message
            elif message is None:
                return

    def __iter__(self) -> Iterator[VolumeMessage]:
        """Volumes, for ever."""
        return self.volumes()

    def _take(self, message: Message) -> None:
        session = (
            message.header.session
            if isinstance(message, VolumeMessage | Announcement | Preview)
            else message.session
        )
        if session != self.session:
            self.session = session
            self._next.clear()
        if isinstance(message, Heartbeat):
            for topic, last in message.sequences.items():
                # Announcements and previews are of the present: only volumes are fetched later.
                is_ours = any(topic.startswith(prefix) for prefix in self._topics)
                if is_ours and topic.startswith("volume/"):
                    self._catch_up(topic, last + 1)
        elif isinstance(message, VolumeMessage):
            number = message.header.sequence
            lost = self._catch_up(message.topic, number)
            if number < self._next.get(message.topic, number):
                return  # had already been fetched through the control port
            self._next[message.topic] = number + 1
            message = VolumeMessage(message.topic, message.header, message.data, lost)
        self._pending.append(message)

    def _catch_up(self, topic: str, until: int) -> int:
        """Fetch what lies before number `until` of a topic; the number that couldn't be had."""
        start = self._next.get(topic, 0 if self._from_start else until)
        if until <= start:
            self._next.setdefault(topic, start)
            return 0
        lost = 0
        for number in range(start, until):
            try:
                fetched = self._fetch(topic, number)
            except NoAnswerError:
                lost += until - number  # nor would it answer for the rest
                break
            if fetched is None:
                lost += 1
            else:
                self._pending.append(fetched)
        self._next[topic] = until
        self.missed += lost
        return lost

    def _fetch(self, topic: str, number: int) -> VolumeMessage | None:
        if self._control is None:
            return None
        kind: Kind = "raw" if topic.startswith("volume/raw/") else "restored"
        position, channel = protocol.names_in_topic(topic)
        try:
            return self._control.sequence(number, channel, position, kind)
        except NoAnswerError:
            raise
        except ProtocolError:
            return None  # counted as missed by the caller
