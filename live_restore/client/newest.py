"""Only the newest volume of each stream, asked for when the viewer is ready for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from pydantic import ValidationError

from live_restore.client.asks import (
    Ask,
    Reply,
    Stream,
    check_encoding,
    latest_request,
    session_of,
    stream_of,
    told_by,
)
from live_restore.errors import ProtocolError
from live_restore.messages import (
    Announcement,
    Catalog,
    Encoding,
    Heartbeat,
    Kind,
    Message,
    VolumeMessage,
)
from live_restore.protocol import ReceivedVolume, topic_of

__all__ = ["Newest"]

_FIRST_PATIENCE_S = 0.5  # a daemon that is there answers in milliseconds


class Newest:
    """Decides what a `Latest` does.

    Parameters
    ----------
    topics : sequence of str
        Beginnings of the announcements that are subscribed to.
    kinds : sequence of {"restored", "raw"}
        Which volumes.
    encoding : {"raw", "blosc2"}
        How planes are wanted.

    Attributes
    ----------
    session : str or None
        Of the daemon last heard.
    """

    is_greedy = True

    def __init__(self, topics: Sequence[str], kinds: Sequence[Kind], encoding: Encoding) -> None:
        self.session: str | None = None
        self._topics = tuple(topics)
        self._kinds = kinds
        self._encoding = encoding
        self._seen: dict[Stream, int] = {}  # the last number handed on, or not to be had
        self._news: dict[Stream, int] = {}  # announced and not asked for, the oldest news first
        self._ready: deque[Message | ReceivedVolume] = deque()
        self._heard: str | None = None  # session of the last message
        self._must_look_around = True  # what is there from before?
        self._asked: Stream | None = None

    def take(self, message: Message | ReceivedVolume) -> None:
        """See `Core.take`."""
        session = session_of(message)
        self._meet(session)
        if session != self._heard:
            # Only now is it sure that nothing goes past unheard.
            self._heard = session
            self._must_look_around = True
        if isinstance(message, Announcement):
            # Older volumes that are made up for aren't what is to be seen now.
            if not message.header.backfill:
                self._hear(stream_of(message.topic), message.header.sequence)
            return
        if isinstance(message, Heartbeat):
            check_encoding(self._encoding, message)
            for topic, last in told_by(message, "announce").items():
                if topic.startswith(self._topics):
                    self._hear(stream_of(topic), last)
        self._ready.append(message)

    def next(self) -> Message | ReceivedVolume | Ask | None:
        """See `Core.next`."""
        if self._ready:
            return self._ready.popleft()
        if self._must_look_around:
            self._asked = None
            return Ask({"get": "catalog"}, _FIRST_PATIENCE_S)
        if self._news:
            self._asked = next(iter(self._news))
            stream = self._asked
            return Ask(latest_request(stream.channel, stream.position, stream.kind, self._encoding))
        return None

    def answer(self, reply: Reply | ProtocolError) -> None:
        """See `Core.answer`."""
        if self._asked is None:
            self._must_look_around = False
            if isinstance(reply, dict):
                with suppress(ValidationError):  # then heartbeats tell
                    self._look_around(Catalog.model_validate(reply))
            return
        announced = self._news.pop(self._asked, -1)
        if isinstance(reply, VolumeMessage):
            self._meet(reply.header.session)
            if reply.header.sequence > self._seen.get(self._asked, -1):
                self._ready.append(reply)
            announced = max(announced, reply.header.sequence)
        self._seen[self._asked] = max(announced, self._seen.get(self._asked, -1))

    def _meet(self, session: str) -> None:
        if session == self.session:
            return
        self.session = session
        self._seen.clear()
        self._news.clear()

    def _hear(self, stream: Stream, number: int) -> None:
        if number > self._seen.get(stream, -1):
            self._news[stream] = number

    def _look_around(self, catalog: Catalog) -> None:
        """Streams that there are already are news."""
        self._meet(catalog.session)
        self._must_look_around = False
        for one in catalog.streams:
            for kind in self._kinds:
                topic = topic_of(f"announce/{kind}", one.position, one.channel)
                if topic.startswith(self._topics):
                    self._hear(Stream(kind, one.position, one.channel), one.last)
