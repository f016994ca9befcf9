"""The sending end of the ingest port: planes leave without copies and, if wanted, without waiting."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq
import zmq.utils.garbage  # now, so that its exit handler runs after those of this class's users
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.keys import ClientKeys
from live_restore.plane_protocol import (
    PlaneHeader,
    PlanesEnd,
    SourceHeader,
    encode_plane,
    encode_word,
)

__all__ = ["PlaneSender"]

_WAIT_MS = 500
_NEVER_COPY = 0


class PlaneSender:
    """A PUSH socket for planes; thread-safe.

    While nobody listens nothing is kept: planes go to a daemon that is there, or nowhere.

    Parameters
    ----------
    endpoint : str
        Of the daemon's ingest port.
    memory_bytes : int
        Planes that may be on their way at once; one larger than it may travel alone.
    keys : ClientKeys, optional
        For a daemon that lets in only those on its list.

    Raises
    ------
    SourceError
        `endpoint` is none.
    """

    def __init__(self, endpoint: str, memory_bytes: int, keys: ClientKeys | None = None) -> None:
        self._memory = memory_bytes
        self._underway: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._held = 0
        self._lock = threading.Lock()
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # only to a daemon that is connected
        self._socket.setsockopt(zmq.SNDHWM, 0)  # bounded here, in bytes
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.copy_threshold = _NEVER_COPY
        if keys is not None:
            keys.secure(self._socket)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise SourceError(
                f"endpoint {endpoint}: nothing can be sent there ({error}); expected one as "
                "tcp://127.0.0.1:5558"
            ) from error

    def await_daemon(self, timeout_s: float) -> bool:
        """Wait until a daemon is connected; whether one is."""
        with self._lock:
            return bool(self._socket.poll(round(timeout_s * 1000), zmq.POLLOUT))

    def offer(self, header: PlaneHeader, data: NDArray[Any]) -> bool:
        """Send a plane if that needs no waiting.

        Parameters
        ----------
        header : PlaneHeader
            What it is.
        data : ndarray
            Its pixels; referred to, not copied, until they have left. Must not be changed.

        Returns
        -------
        bool
            False where no daemon is there, or too much is on its way to it already.
        """
        with self._lock:
            if not self._has_room(header.nbytes):
                return False
            return self._offer(encode_plane(header, data), header.nbytes)

    def send(
        self, header: PlaneHeader, data: NDArray[Any], goes_on: Callable[[], bool] = lambda: True
    ) -> bool:
        """Send a plane, waiting as long as it takes.

        Parameters
        ----------
        header, data
            As in `offer`.
        goes_on : callable
            Asked twice a second; False ends the waiting.

        Returns
        -------
        bool
            Whether it was sent.
        """
        frames = encode_plane(header, data)
        while goes_on():
            with self._lock:
                if self._offer(frames, header.nbytes):
                    return True
                if self._socket.closed:
                    return False
                oldest = self._underway[0][0] if self._underway else None
                if oldest is None:  # only a daemon is wanting
                    self._socket.poll(_WAIT_MS, zmq.POLLOUT)
            if oldest is not None:
                _await(oldest)
        return False

    def say(self, word: PlanesEnd | SourceHeader) -> bool:
        """Send a word beside planes if that needs no waiting; whether it was sent.

        A word is small and goes also where planes have filled the memory.
        """
        with self._lock:
            return self._offer(encode_word(word), 0)

    def await_sent(self, goes_on: Callable[[], bool] = lambda: True) -> bool:
        """Wait until everything has left this process; `goes_on` as in `send`."""
        while goes_on():
            with self._lock:
                waiting = next((one for one, _ in self._underway if not one.done), None)
            if waiting is None:
                return True
            _await(waiting)
        return False

    def close(self, linger_s: float = 2.0) -> None:
        """Give what is on its way a moment to leave, and end; more than once is harmless."""
        with self._lock:
            self._underway.clear()
            self._context.destroy(linger=round(linger_s * 1000))

    def _has_room(self, nbytes: int) -> bool:
        """Whether a daemon is there and so much more may be on its way to it."""
        while self._underway and self._underway[0][0].done:
            self._held -= self._underway.popleft()[1]
        if self._socket.closed or (nbytes and self._held and self._held + nbytes > self._memory):
            return False
        return bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLOUT)

    def _offer(self, frames: list[bytes | memoryview], nbytes: int) -> bool:
        if not self._has_room(nbytes):
            return False
        *head, last = frames
        with contextlib.suppress(zmq.Again):  # a daemon that left just now
            self._socket.send_multipart(head, zmq.NOBLOCK | zmq.SNDMORE)
            tracker = self._socket.send(last, zmq.NOBLOCK, copy=False, track=True)
            if isinstance(tracker, zmq.MessageTracker):
                self._underway.append((tracker, nbytes))
                self._held += nbytes
            return True
        return False


def _await(message: zmq.MessageTracker) -> None:
    """Wait until a message has left, or for as long as nobody need be asked."""
    with contextlib.suppress(zmq.NotDone):
        message.wait(_WAIT_MS / 1000)
