"""Every volume of the streams that are followed, in order, with its gaps repaired or counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from live_restore.client.asks import (
    Ask,
    Reply,
    check_encoding,
    sequence_request,
    session_of,
    stream_of,
    told_by,
)
from live_restore.errors import NoAnswerError, ProtocolError, RefusedError
from live_restore.messages import Encoding, Heartbeat, Message, VolumeMessage
from live_restore.protocol import ReceivedVolume

__all__ = ["Following"]

_VOLUME_TOPICS = ("volume/", "compressed/")


@dataclass(slots=True)
class _Gap:
    """Numbers `start` to `until` - 1 of a topic, to be asked for or given up."""

    topic: str
    start: int
    until: int
    can_ask: bool


class Following:
    """Decides what a `Subscriber` does.

    Parameters
    ----------
    topics : sequence of str
        Beginnings of what is subscribed to.
    encoding : {"raw", "blosc2"}
        How planes are wanted.
    can_ask : bool
        There is a control port: gaps are asked for there.
    from_start : bool
        What was published before the first volume received is a gap too.

    Attributes
    ----------
    session : str or None
        Of the daemon last heard.
    missed : int
        Volumes that were published and could not be had.
    """

    is_greedy = False

    def __init__(
        self, topics: Sequence[str], encoding: Encoding, can_ask: bool, from_start: bool
    ) -> None:
        self.session: str | None = None
        self.missed = 0
        # Announcements and previews are of the present: only volumes are asked for later.
        self._topics = tuple(topic for topic in topics if topic.startswith(_VOLUME_TOPICS))
        self._family = "volume" if encoding == "raw" else "compressed"
        self._encoding = encoding
        self._can_ask = can_ask
        self._counts_from_zero = from_start
        self._next: dict[str, int] = {}
        self._lost: dict[str, int] = {}  # since the last volume of each topic
        self._steps: deque[Message | ReceivedVolume | _Gap] = deque()

    def take(self, message: Message | ReceivedVolume) -> None:
        """See `Core.take`."""
        self._meet(session_of(message))
        if isinstance(message, Heartbeat):
            check_encoding(self._encoding, message)
            for topic, last in told_by(message, self._family).items():
                if topic.startswith(self._topics):
                    self._expect(topic, last + 1)
        elif isinstance(message, ReceivedVolume):
            number = message.header.sequence
            self._expect(message.topic, number)
            if number < self._next[message.topic]:
                return  # had already been asked for
            self._next[message.topic] = number + 1
        self._steps.append(message)

    def next(self) -> Message | ReceivedVolume | Ask | None:
        """See `Core.next`."""
        while self._steps:
            step = self._steps[0]
            if isinstance(step, _Gap) and not step.can_ask:
                self._lose(step, step.until)
            if isinstance(step, _Gap) and step.start < step.until:
                wanted = stream_of(step.topic)
                return Ask(
                    sequence_request(
                        step.start, wanted.channel, wanted.position, wanted.kind, self._encoding
                    )
                )
            self._steps.popleft()
            if isinstance(step, VolumeMessage | ReceivedVolume):
                return replace(step, missed=self._lost.pop(step.topic, 0))
            if not isinstance(step, _Gap):
                return step
        return None

    def answer(self, reply: Reply | ProtocolError) -> None:
        """See `Core.answer`."""
        gap = self._steps[0]
        assert isinstance(gap, _Gap)  # noqa: S101 - by the order of calls
        if isinstance(reply, NoAnswerError):
            # Nor would it answer for the rest.
            self._give_up_gaps()
        elif isinstance(reply, RefusedError):
            self._lose(gap, min((n for n in reply.held if n > gap.start), default=gap.until))
        elif (
            isinstance(reply, VolumeMessage)
            and reply.header.session == self.session
            and reply.header.sequence == gap.start
        ):
            gap.start += 1
            self._steps.appendleft(replace(reply, topic=gap.topic))
        else:
            self._lose(gap, gap.start + 1)

    def _meet(self, session: str) -> None:
        if session == self.session:
            return
        # What a restarted daemon published until it was found again is a gap.
        self._counts_from_zero = self._counts_from_zero or self.session is not None
        self.session = session
        self._next.clear()
        self._give_up_gaps()

    def _expect(self, topic: str, number: int) -> None:
        """All before `number` should be here by now."""
        start = self._next.get(topic, 0 if self._counts_from_zero else number)
        self._next[topic] = max(start, number)
        if start < number:
            self._steps.append(_Gap(topic, start, number, self._can_ask))

    def _give_up_gaps(self) -> None:
        for step in self._steps:
            if isinstance(step, _Gap):
                step.can_ask = False

    def _lose(self, gap: _Gap, until: int) -> None:
        until = min(until, gap.until)
        count = until - gap.start
        gap.start = until
        self.missed += count
        self._lost[gap.topic] = self._lost.get(gap.topic, 0) + count
