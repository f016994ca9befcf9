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
from live_restore.errors import ProtocolError, SinkError
from live_restore.interfaces import Item
from live_restore.keys import open_key_folder
from live_restore.messages import Family, Kind
from live_restore.profile import PublishSettings
from live_restore.protocol import Frame, topic_of
from live_restore.sinks.control_port import NOT_COMPRESSED, ControlPort
from live_restore.sinks.streams import Streams
from live_restore.sinks.volume_frames import described, frames_of, model_header, start_header
from live_restore.volume import (
    AcquisitionEnd,
    AcquisitionInfo,
    ModelUse,
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
_DATA_OPTIONS: dict[int, int] = {
    zmq.XPUB_VERBOSER: 1,  # reports every subscription, so that viewers can be counted
    zmq.MAXMSGSIZE: 8192,  # bytes of a subscription
}
_HANDSHAKE_MS = 5000  # a connection that doesn't speak ZeroMQ is closed after it
_CHANGES = {b"\x01": 1, b"\x00": -1}  # other messages than subscriptions say nothing
_MOST_PREFIXES = 4096  # different ones that viewers subscribe to; beyond it everything is sent
_MOST_TOPICS = 2048  # in a heartbeat


class Publisher:
    """A sink that publishes.

    Parameters
    ----------
    settings : PublishSettings
        Endpoints, history and keys.
    commands : mapping of str to callable, optional
        What to do when an authorised client commands it; each says in words what happens now, or
        raises `LiveRestoreError`. Called from the port thread, and must be quick.
    status : mapping of str to callable, optional
        What else is told to who asks for the status: JSON values. Likewise.

    Attributes
    ----------
    session : str
        Changes whenever a publisher is made.
    """

    def __init__(
        self,
        settings: PublishSettings,
        commands: Mapping[str, Callable[[], str]] | None = None,
        status: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        self.session = uuid.uuid4().hex
        self._settings = settings
        self._commands = commands or {}
        self._more_status = status or {}
        self._encodings = ("raw", "blosc2") if can_compress() else ("raw",)
        self._streams = Streams(settings.history_mb * 2**20)
        self._subscriptions: dict[bytes, int] = {}
        self._last: dict[str, int] = {}  # sequence of each topic; the last published is last
        self._skipped = 0
        self._model: ModelUse | None = None  # of the last volume
        self._source = ""  # what it is doing
        self._running: dict[str, None] = {}  # an ordered set of acquisitions
        self._underway: deque[zmq.MessageTracker] = deque()
        self._is_held_up = False  # by a viewer that doesn't read
        self._lock = threading.Lock()
        self._has_told_not_compressed = False
        self._has_told_no_beat = False

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        self._doorman = Authentication(
            self._context, open_key_folder(self._settings.keys), ("viewer", "operator")
        )
        try:
            self._doorman.__enter__()
            self._data = self._bind(zmq.XPUB, self._settings.endpoint, _DATA_OPTIONS)
            self._control: zmq.Socket[bytes] | None = None
            if self._settings.control is not None:
                self._control = self._bind(zmq.ROUTER, self._settings.control, ControlPort.options)
            self._answering = ControlPort(
                self.session,
                self._streams,
                self._encodings,
                self._commands,
                self._doorman,
                self._status,
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

    @property
    def num_refused(self) -> int:
        """Messages on the control port that were no requests."""
        return self._answering.num_refused

    def _status(self) -> dict[str, Any]:
        return {
            "session": self.session,
            "at": utc_now().isoformat(),
            "viewers": self.viewers,
            "source": self._source,
            "encodings": self._encodings,
            "model": self._model and model_header(self._model).model_dump(mode="json"),
        } | {name: tell() for name, tell in self._more_status.items()}

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
                    frames = protocol.encode("system/start/", start_header(self.session, item))
                    with self._lock:  # a name that can't be said is in no heartbeat either
                        self._send(frames)
                        self._running[acquisition] = None
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
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
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
        stream = restored.key.position, restored.key.channel
        topics_of = {  # first of all: what can't be named isn't held either
            kind: {family: topic_of(f"{family}/{kind}", *stream) for family in _FAMILIES}
            for kind in _KINDS
        }
        self._model = restored.model
        numbered = self._streams.keep(restored)
        for kind, topics in topics_of.items():
            wanted = {f: topic for f, topic in topics.items() if self._is_wanted(topic)}
            if "compressed" in wanted and "blosc2" not in self._encodings:
                del wanted["compressed"]
                self._tell_not_compressed()
            if wanted:
                header = described(self.session, kind, numbered)
            for family, topic in wanted.items():
                frames = frames_of(family, topic, header, numbered.data(kind))
                with self._lock:
                    self._send(frames)
                    self._note(topic, numbered.sequence)
            with self._lock:  # also where nobody listened: who comes later can ask for it
                self._note(topics["volume"], numbered.sequence)

    def _note(self, topic: str, sequence: int) -> None:
        """For heartbeats, under the lock."""
        self._last.pop(topic, None)
        self._last[topic] = sequence
        if len(self._last) > _MOST_TOPICS:
            del self._last[next(iter(self._last))]

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
                sequences=dict(self._last),
                skipped=self._skipped,
                running=tuple(self._running),
                source=self._source,
                encodings=self._encodings,
            )
            self._send(protocol.encode("system/heartbeat/", beat))

    def _beat_or_tell(self) -> None:
        """A heartbeat; where it can't be said, that is told once: what viewers ask is answered still."""
        try:
            self._beat()
        except (ValueError, ProtocolError) as error:
            if not self._has_told_no_beat:
                logger.error("no heartbeats are sent meanwhile: %s", error)
            self._has_told_no_beat = True
        else:
            self._has_told_no_beat = False

    def _tell_not_compressed(self) -> None:
        if not self._has_told_not_compressed:
            self._has_told_not_compressed = True
            logger.warning("a viewer asks for compressed volumes: %s", NOT_COMPRESSED)

    def _is_wanted(self, topic: str) -> bool:
        if len(self._subscriptions) >= _MOST_PREFIXES:
            return True  # not all are known; ZeroMQ sends nobody what he didn't ask for
        return any(topic.encode().startswith(prefix) for prefix in tuple(self._subscriptions))

    def _read_subscriptions(self) -> None:
        with self._lock:
            while self._data.poll(0):
                message = self._data.recv()
                change, prefix = _CHANGES.get(message[:1], 0), message[1:]
                count = self._subscriptions.get(prefix, 0) + change
                if count <= 0:
                    self._subscriptions.pop(prefix, None)
                elif prefix in self._subscriptions or len(self._subscriptions) < _MOST_PREFIXES:
                    self._subscriptions[prefix] = count

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
                self._beat_or_tell()
                next_beat = now + _HEARTBEAT_S
            ready = dict(poller.poll(math.ceil(max(0.0, next_beat - time.monotonic()) * 1000)))
            if self._closing in ready:
                return
            if self._control is not None and self._control in ready:
                self._answering.answer(self._control)


def _is_sent(message: zmq.MessageTracker, patience_s: float) -> bool:
    """Whether a message has left for all viewers within some seconds."""
    try:
        message.wait(patience_s)
    except zmq.NotDone:
        return False
    return True


def _concerns(prefix: bytes, topic: bytes) -> bool:
    return topic.startswith(prefix) or prefix.startswith(topic)
