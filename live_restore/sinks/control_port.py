"""What the control port answers: requests for volumes that are held, and commands."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from live_restore import messages, protocol
from live_restore.authentication import Authentication
from live_restore.errors import LiveRestoreError, ProtocolError
from live_restore.protocol import Frame
from live_restore.sinks.streams import Streams
from live_restore.sinks.volume_frames import volume_frames

__all__ = ["NOT_COMPRESSED", "ControlPort"]

logger = logging.getLogger(__name__)

NOT_COMPRESSED = (
    'this daemon can\'t compress; install it there: pip install "live-restore[compression]"'
)
_OPTIONS: dict[int, int] = {
    zmq.MAXMSGSIZE: 64 * 1024,  # bytes of a request
    zmq.RCVHWM: 8,  # requests that wait, of each client
}
_MOST_FRAMES = 3  # identity, delimiter, request
_LARGE_BYTES = 64 * 1024  # replies above it are counted until their client has taken them
_MOST_UNREAD_EACH = 2  # of one client
_ALWAYS_UNREAD = 4  # of all, whatever their size


class ControlPort:
    """Answers clients; used from one thread alone, but for `num_refused`.

    What clients ask for and don't read stays in memory: each client is given `_MOST_UNREAD_EACH` large
    replies before it takes any, all together twice what the history holds (or four replies).

    Parameters
    ----------
    session : str
        Of the publisher.
    streams : Streams
        Volumes that can be had.
    encodings : tuple of str
        How their planes can be packed.
    commands : mapping of str to callable
        What authorised clients may have done, see `Publisher`.
    doorman : Authentication
        Knows who is authorised.
    status : callable
        The body of the reply to "status".

    Attributes
    ----------
    num_refused : int
        Messages so far that were no requests.
    """

    options = _OPTIONS

    def __init__(
        self,
        session: str,
        streams: Streams,
        encodings: tuple[str, ...],
        commands: Mapping[str, Callable[[], str]],
        doorman: Authentication,
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        self.num_refused = 0
        self._session = session
        self._streams = streams
        self._encodings = encodings
        self._commands = commands
        self._doorman = doorman
        self._status = status
        self._unread: dict[bytes, deque[tuple[zmq.MessageTracker, int]]] = {}

    def answer(self, socket: zmq.Socket[bytes]) -> None:
        """Take one request and answer it; a bad one gets a refusal, and never an exception."""
        identity, request, count = _received(socket)
        try:
            if count > _MOST_FRAMES:
                raise ProtocolError(f"a request is one frame of JSON, {count - 1} frames came")
            frames = self._reply(identity, request)
        except ProtocolError as error:
            self.num_refused += 1
            frames = self._refusal("bad_request", str(error))
        except LiveRestoreError as error:
            frames = self._refusal("refused", str(error))
        except Exception as error:
            logger.exception("control request failed")
            frames = self._refusal("internal", f"{type(error).__name__}: {error}")
        # REQ clients send an empty delimiter and want it back; DEALER clients need none.
        delimiter: list[Frame] = [b""] if count > 2 else []
        nbytes = sum(memoryview(frame).nbytes for frame in frames)
        try:
            tracker = socket.send_multipart(
                [identity, *delimiter, *frames], zmq.NOBLOCK, copy=False, track=True
            )
        except zmq.Again:
            logger.debug("a control client doesn't read its replies: this one is dropped")
            return
        if nbytes > _LARGE_BYTES and isinstance(tracker, zmq.MessageTracker):
            self._unread.setdefault(identity, deque()).append((tracker, nbytes))

    def _reply(self, identity: bytes, frame: zmq.Frame) -> list[Frame]:
        request = protocol.parse_request(frame.bytes)
        if isinstance(request, messages.Command):
            return self._obey(request, frame)
        if request.get == "catalog":
            return _json("catalog/", {"session": self._session, "streams": self._streams.catalog()})
        if request.get == "status":
            return _json("status/", self._status())
        if request.encoding not in self._encodings:
            return self._refusal("refused", NOT_COMPRESSED)
        stream = (request.position, request.channel)
        wanted = request.sequence if request.get == "sequence" else None
        found = self._streams.find(stream, wanted)
        if found is None:
            held = self._streams.held(stream)
            what = "latest" if wanted is None else f"sequence {wanted}"
            return self._refusal(
                "not_held", f"{what} of {stream!s:.600} isn't held (any more)", held
            )
        if why := self._full(identity, found.data(request.kind).nbytes):
            return self._refusal("refused", why)
        return volume_frames(self._session, request.kind, found, request.encoding)

    def _full(self, identity: bytes, nbytes: int) -> str | None:
        """Why a client can't be given a reply of a size now."""
        for one, replies in tuple(self._unread.items()):
            while replies and replies[0][0].done:
                replies.popleft()
            if not replies:
                del self._unread[one]
        if len(self._unread.get(identity, ())) >= _MOST_UNREAD_EACH:
            return f"read the {_MOST_UNREAD_EACH} volumes first that were asked for before"
        sizes = [size for replies in self._unread.values() for _, size in replies]
        if len(sizes) >= _ALWAYS_UNREAD and sum(sizes) + nbytes > 2 * self._streams.capacity_bytes:
            return (
                f"{len(sizes)} volumes are on their way to clients that don't read them; ask again "
                "when they have, or are gone"
            )
        return None

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
        reply = messages.CommandReply(session=self._session, did=command.do, message=words)
        return protocol.encode("done/", reply)

    def _refusal(self, code: str, message: str, held: tuple[int, ...] = ()) -> list[Frame]:
        sayable = message.encode(errors="backslashreplace").decode()
        reply = messages.ErrorReply.model_validate(
            {"session": self._session, "code": code, "message": sayable, "held": held}
        )
        return protocol.encode("error/", reply)


def _received(socket: zmq.Socket[bytes]) -> tuple[bytes, zmq.Frame, int]:
    """Who sends, the last frame, and how many there are: those between are let go one by one."""
    frame: zmq.Frame = socket.recv(copy=False)
    identity, count = frame.bytes, 1
    while socket.getsockopt(zmq.RCVMORE):
        frame = socket.recv(copy=False)
        count += 1
    return identity, frame, count


def _json(topic: str, body: Mapping[str, Any]) -> list[Frame]:
    return [topic.encode(), protocol.to_json(body)]
