"""The receiving end of the ingest port."""

from __future__ import annotations

import logging
import math
import time
import uuid
from types import TracebackType
from typing import Self

import zmq

from live_restore.authentication import Authentication
from live_restore.errors import KeyFileError, ProtocolError, SourceError
from live_restore.keys import KeyFolder
from live_restore.plane_protocol import (
    MAX_PLANE_BYTES,
    PlaneMessage,
    PlanesEnd,
    SourceHeader,
    decode_plane,
)

__all__ = ["PlanePort"]

logger = logging.getLogger(__name__)

_WAITING_PLANES = 16  # in ZeroMQ's own queue; the rest waits at the senders
_MOST_FRAMES = 3  # topic, header, pixels
_HANDSHAKE_MS = 5000  # a connection that doesn't speak ZeroMQ is closed after it
_TELL_REFUSED_EVERY_S = 10.0


class PlanePort:
    """A PULL socket that takes planes from senders; enter it to open it.

    Parameters
    ----------
    endpoint : str
        ``tcp://127.0.0.1:*`` for any free port.
    only_from : str, optional
        The one sender that is listened to; all are, without it.
    keys : KeyFolder, optional
        Only senders and operators on its list are let in.

    Attributes
    ----------
    endpoint : str
        With its port, once opened.
    num_refused : int
        Messages so far that were none.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:*",
        only_from: str | None = None,
        keys: KeyFolder | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._only_from = only_from
        self._keys = keys
        self.num_refused = 0
        self._next_tell = 0.0

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        self._planes: zmq.Socket[bytes] = self._context.socket(zmq.PULL)
        self._planes.setsockopt(zmq.RCVHWM, _WAITING_PLANES)
        self._planes.setsockopt(zmq.MAXMSGSIZE, MAX_PLANE_BYTES)
        self._planes.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        self._wake_name = f"inproc://{uuid.uuid4().hex}"
        self._woken: zmq.Socket[bytes] = self._context.socket(zmq.PULL)
        self._woken.bind(self._wake_name)
        self._doorman = Authentication(self._context, self._keys, ("sender", "operator"))
        try:
            self._doorman.__enter__()
            self._doorman.secure(self._planes)
            self._planes.bind(self.endpoint)
        except KeyFileError:
            self._close()
            raise
        except zmq.ZMQError as error:
            self._close()
            raise SourceError(
                f"endpoint {self.endpoint}: can't be opened ({error}). Another live-restore may be "
                "running; stop it, or set another port in [source]"
            ) from error
        self.endpoint = self._planes.getsockopt_string(zmq.LAST_ENDPOINT)
        self._poller = zmq.Poller()
        self._poller.register(self._planes, zmq.POLLIN)
        self._poller.register(self._woken, zmq.POLLIN)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def wake(self) -> None:
        """End a `receive` that waits; from any thread, and harmless once this port is closed."""
        try:
            with self._context.socket(zmq.PUSH) as waker:
                waker.connect(self._wake_name)
                waker.send(b"", zmq.NOBLOCK)
        except zmq.ZMQError as error:
            logger.debug("nobody waits for planes on %s any more: %s", self.endpoint, error)

    def receive(self, timeout_s: float) -> PlaneMessage | PlanesEnd | SourceHeader | None:
        """What comes next, or None after `timeout_s` or when woken.

        Bad messages are passed over, and counted in the log.
        """
        deadline = time.monotonic() + timeout_s
        left_s = timeout_s
        while left_s >= 0:
            ready = dict(self._poller.poll(math.ceil(left_s * 1000)))
            if self._woken in ready:
                self._woken.recv()
                return None
            if self._planes not in ready:
                return None
            frames, count = self._take()
            try:
                if count > _MOST_FRAMES:
                    raise ProtocolError(f"expected topic, header and a plane, {count} frames came")
                message = decode_plane(frames)
            except ProtocolError as error:
                self._tell_refused(str(error))
            else:
                sender = message[0].sender if isinstance(message, tuple) else message.sender
                if self._only_from in (None, sender):
                    return message
                self._tell_refused("from a stranger")
            left_s = deadline - time.monotonic()
        return None

    def _take(self) -> tuple[list[memoryview], int]:
        """A message's first frames, and how many it has: the others are let go one by one."""
        frames: list[memoryview] = []
        count = 0
        while not count or self._planes.getsockopt(zmq.RCVMORE):
            frame = self._planes.recv(copy=False)
            count += 1
            if count <= _MOST_FRAMES:
                frames.append(frame.buffer)
        return frames, count

    def _close(self) -> None:
        self._doorman.__exit__(None, None, None)
        self._context.destroy(linger=0)

    def _tell_refused(self, why: str) -> None:
        self.num_refused += 1
        if time.monotonic() >= self._next_tell:
            self._next_tell = time.monotonic() + _TELL_REFUSED_EVERY_S
            logger.warning(
                "%s: %d messages refused so far: %s", self.endpoint, self.num_refused, why[:500]
            )
