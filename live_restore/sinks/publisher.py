"""Publishes volumes to viewers: the data port, and the control port for latecomers.

One lock guards the data socket: the sink's thread sends volumes, the port thread heartbeats. A
send never waits: a viewer that doesn't keep up loses volumes, nobody else notices.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import zmq
from pydantic import BaseModel

from live_restore import messages, protocol
from live_restore.authentication import Authentication
from live_restore.compression import can_compress
from live_restore.errors import LiveRestoreError, ProtocolError, SinkError
from live_restore.interfaces import Item
from live_restore.keys import open_key_folder
from live_restore.messages import Family, Kind
from live_restore.profile import PublishSettings
from live_restore.protocol import Frame, topic_of
from live_restore.sinks.streams import Streams
from live_restore.sinks.volume_frames import described, frames_of, start_header, volume_frames
from live_restore.volume import (
    AcquisitionEnd,
    AcquisitionInfo,
    Restored,
    Skipped,
    SourceState,
    utc_now,
)

__all__ = ["Publisher"]

logger = logging.getLogger(__name__)

# Messages that wait for each viewer. Never changed later: lowering it while ZeroMQ's account of what
# a viewer has read lags would shut that viewer out for ever (decision 3).
_HIGH_WATER_MARK = 4
_PACE_S = 0.01
_HEARTBEAT_S = 1.0
_KINDS: tuple[Kind, ...] = ("restored", "raw")
_FAMILIES: tuple[Family, ...] = ("announce", "volume", "compressed", "preview")
_NOT_COMPRESSED = (
    'this daemon can\'t compress; install it there: pip install "live-restore[compression]"'
)
_LARGEST_REQUEST = 64 * 1024  # bytes


class Publisher:
    """A sink that publishes.

    Parameters
    ----------
    settings : PublishSettings
        Endpoints, history and keys.
    commands : mapping of str to callable, optional
        What to do when an authorised client commands it; each says in words what happens now, or
        raises `LiveRestoreError`. Called from the port thread, and must be quick.

    Attributes
    ----------
    session : str
        Changes whenever a publisher is made.
    """

    def __init__(
        self, settings: PublishSettings, commands: Mapping[str, Callable[[], str]] | None = None
    ) -> None:
        self.session = uuid.uuid4().hex
        self._settings = settings
        self._commands = commands or {}
        self._encodings = ("raw", "blosc2") if can_compress() else ("raw",)
        self._streams = Streams(settings.history_mb * 2**20)
        self._subscriptions: dict[bytes, int] = {}
        self._sent: dict[str, int] = {}  # last sequence of each topic
        self._skipped = 0
        self._source = ""  # what it is doing
        self._running: dict[str, None] = {}  # an ordered set of acquisitions
        self._underway: deque[zmq.MessageTracker] = deque()
        self._is_held_up = False  # by a viewer that doesn't read
        self._lock = threading.Lock()
        self._has_told_not_compressed = False

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        self._doorman = Authentication(
            self._context, open_key_folder(self._settings.keys), ("viewer", "operator")
        )
        try:
            self._doorman.__enter__()
            # XPUB_VERBOSER reports every subscription, so that viewers can be counted.
            self._data = self._bind(zmq.XPUB, self._settings.endpoint, {zmq.XPUB_VERBOSER: 1})
            self._control: zmq.Socket[bytes] | None = None
            if self._settings.control is not None:
                self._control = self._bind(
                    zmq.ROUTER, self._settings.control, {zmq.MAXMSGSIZE: _LARGEST_REQUEST}
                )
            self._closing = self._context.socket(zmq.PAIR)
            self._closing.bind("inproc://closing")
        except BaseException:
            self._doorman.__exit__(None, None, None)
            self._context.destroy(linger=0)
            raise
        self._port = threading.Thread(target=self._serve, name="publish-port")
        self._port.start()
        logger.info("publishing on %s", self._settings.endpoint)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._context.socket(zmq.PAIR) as wake:
            wake.connect("inproc://closing")
            wake.send(b"")
            self._port.join()
        self._doorman.__exit__(kind, error, traceback)
        # Linger: what live viewers have not yet taken may still leave.
        self._context.destroy(linger=1000)

    @property
    def viewers(self) -> int:
        """Subscriptions to volumes, announcements and previews: one or more per viewer."""
        self._read_subscriptions()
        families = [f"{family}/".encode() for family in _FAMILIES]
        return sum(
            count
            for topic, count in tuple(self._subscriptions.items())
            if any(_concerns(topic, family) for family in families)
        )

    def send(self, item: Item) -> None:
        """Publish one item to whoever subscribed; never waits.

        Raises
        ------
        SinkError
            It can't be said in this protocol.
        """
        try:
            match item:
                case Restored():
                    self._publish_volume(item)
                case Skipped(key, reason, at):
                    self._skipped += 1
                    header = messages.SkippedHeader(
                        session=self.session,
                        acquisition=key.acquisition,
                        position=key.position,
                        time=key.time,
                        channel=key.channel,
                        reason=reason,
                        at=at,
                    )
                    self._publish(topic_of("skipped", key.position, key.channel), header)
                case AcquisitionInfo(acquisition):
                    self._running[acquisition] = None
                    self._publish("system/start/", start_header(self.session, item))
                case SourceState(text):
                    self._source = text
                case AcquisitionEnd(acquisition, reason):
                    self._running.pop(acquisition, None)
                    self._publish(
                        "system/end/",
                        messages.EndHeader(
                            session=self.session,
                            acquisition=acquisition,
                            reason=reason,
                            at=utc_now(),
                        ),
                    )
        except (ValueError, ProtocolError) as error:
            raise SinkError(f"can't publish {item!r:.200}: {error}") from error

    def _bind(self, kind: int, endpoint: str, options: dict[int, int]) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        # Only for sending: a receiving bound on an XPUB socket loses viewers' subscriptions.
        socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MARK)
        socket.copy_threshold = 0  # each message is tracked, so none is copied
        for option, value in options.items():
            socket.setsockopt(option, value)
        self._doorman.secure(socket)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise SinkError(
                f"endpoint {endpoint}: can't be opened ({error}). Another live-restore may be "
                "running; stop it, or set another port in [publish]"
            ) from error
        return socket

    def _publish_volume(self, restored: Restored) -> None:
        self._read_subscriptions()
        sequence = self._streams.keep(restored)
        for kind in _KINDS:
            topics = {
                family: topic_of(f"{family}/{kind}", restored.key.position, restored.key.channel)
                for family in _FAMILIES
            }
            wanted = {f: topic for f, topic in topics.items() if self._is_wanted(topic)}
            if "compressed" in wanted and "blosc2" not in self._encodings:
                del wanted["compressed"]
                self._tell_not_compressed()
            if not wanted:
                continue
            header, data = described(self.session, kind, sequence, restored)
            for family, topic in wanted.items():
                frames = frames_of(family, topic, header, data)
                with self._lock:
                    self._send(frames)
                    self._sent[topic] = sequence

    def _publish(self, topic: str, header: BaseModel) -> None:
        with self._lock:
            self._send(protocol.encode(topic, header))

    def _send(self, frames: list[Frame]) -> None:
        """To all viewers, under the lock.

        In a burst the messages before are given a moment to leave, else viewers that do read would
        lose some too. A viewer that doesn't read is waited for once, not with each message.
        """
        if len(self._underway) == _HIGH_WATER_MARK - 1:
            self._is_held_up = not _is_sent(
                self._underway.popleft(), 0.0 if self._is_held_up else _PACE_S
            )
        # Only when asked for events ZeroMQ looks at once at what viewers have taken.
        self._data.getsockopt(zmq.EVENTS)
        tracker = self._data.send_multipart(frames, copy=False, track=True)
        if isinstance(tracker, zmq.MessageTracker):
            self._underway.append(tracker)

    def _beat(self) -> None:
        """A heartbeat; under the lock, so that it never names a volume that leaves after it."""
        with self._lock:
            beat = messages.Heartbeat(
                session=self.session,
                at=utc_now(),
                sequences=dict(self._sent),
                skipped=self._skipped,
                running=tuple(self._running),
                source=self._source,
                encodings=self._encodings,
            )
            self._send(protocol.encode("system/heartbeat/", beat))

    def _tell_not_compressed(self) -> None:
        if not self._has_told_not_compressed:
            self._has_told_not_compressed = True
            logger.warning("a viewer asks for compressed volumes: %s", _NOT_COMPRESSED)

    def _is_wanted(self, topic: str) -> bool:
        return any(topic.encode().startswith(prefix) for prefix in tuple(self._subscriptions))

    def _read_subscriptions(self) -> None:
        with self._lock:
            while self._data.poll(0):
                message = self._data.recv()
                change, prefix = message[:1], message[1:]
                count = self._subscriptions.get(prefix, 0) + (1 if change == b"\x01" else -1)
                if count > 0:
                    self._subscriptions[prefix] = count
                else:
                    self._subscriptions.pop(prefix, None)

    def _serve(self) -> None:
        """The port thread: heartbeats, and answers on the control port."""
        poller = zmq.Poller()
        poller.register(self._closing, zmq.POLLIN)
        if self._control is not None:
            poller.register(self._control, zmq.POLLIN)
        next_beat = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= next_beat:
                self._read_subscriptions()
                self._beat()
                next_beat = now + _HEARTBEAT_S
            ready = dict(poller.poll(math.ceil(max(0.0, next_beat - time.monotonic()) * 1000)))
            if self._closing in ready:
                return
            if self._control is not None and self._control in ready:
                self._answer(self._control)

    def _answer(self, control: zmq.Socket[bytes]) -> None:
        """One request; a bad one gets a refusal, and never an exception."""
        first, *request = control.recv_multipart(copy=False)
        identity = first.bytes
        try:
            frames = self._reply(request[-1] if request else first)
        except ProtocolError as error:
            frames = self._refusal("bad_request", str(error))
        except LiveRestoreError as error:
            frames = self._refusal("refused", str(error))
        except Exception as error:
            logger.exception("control request failed")
            frames = self._refusal("internal", f"{type(error).__name__}: {error}")
        # REQ clients send an empty delimiter and want it back; DEALER clients need none.
        delimiter: list[Frame] = [b""] if len(request) > 1 else []
        try:
            control.send_multipart([identity, *delimiter, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            logger.debug("a control client doesn't read its replies: this one is dropped")

    def _reply(self, frame: zmq.Frame) -> list[Frame]:
        request = protocol.parse_request(frame.bytes)
        if isinstance(request, messages.Command):
            return self._obey(request, frame)
        if request.get == "catalog":
            return _json("catalog/", {"session": self.session, "streams": self._streams.catalog()})
        if request.get == "status":
            status = {
                "session": self.session,
                "at": utc_now().isoformat(),
                "viewers": self.viewers,
                "source": self._source,
                "encodings": self._encodings,
            }
            return _json("status/", status)
        if request.encoding not in self._encodings:
            return self._refusal("refused", _NOT_COMPRESSED)
        stream = (request.position, request.channel)
        wanted = request.sequence if request.get == "sequence" else None
        found = self._streams.find(stream, wanted)
        if found is None:
            held = self._streams.held(stream)
            what = "latest" if wanted is None else f"sequence {wanted}"
            return self._refusal("not_held", f"{what} of {stream} isn't held (any more)", held)
        return volume_frames(self.session, request.kind, *found, request.encoding)

    def _obey(self, command: messages.Command, frame: zmq.Frame) -> list[Frame]:
        if not self._doorman.is_operator(frame):
            return self._refusal(
                "not_authorised",
                f"{command.do}: only an operator's key may give commands, to a daemon with keys "
                "(live-restore keys); otherwise stop or reload it where it was started",
            )
        if command.do not in self._commands:
            return self._refusal("refused", f"{command.do}: this program can't do it")
        logger.info("%s, as commanded on the control port", command.do)
        words = self._commands[command.do]()
        reply = messages.CommandReply(session=self.session, did=command.do, message=words)
        return protocol.encode("done/", reply)

    def _refusal(self, code: str, message: str, held: tuple[int, ...] = ()) -> list[Frame]:
        reply = messages.ErrorReply.model_validate(
            {"session": self.session, "code": code, "message": message, "held": held}
        )
        return protocol.encode("error/", reply)


def _is_sent(message: zmq.MessageTracker, patience_s: float) -> bool:
    """Whether a message has left for all viewers within some seconds."""
    try:
        message.wait(patience_s)
    except zmq.NotDone:
        return False
    return True


def _concerns(prefix: bytes, topic: bytes) -> bool:
    return topic.startswith(prefix) or prefix.startswith(topic)


def _json(topic: str, body: dict[str, Any]) -> list[Frame]:
    return [topic.encode(), protocol.to_json(body)]
