"""What a viewer does with what it hears, as far as it needs no socket: the cores' common part.

A core is told each message, and says what to do next: hand a message on, or ask the control port.
Who owns the sockets, blocking or with asyncio, does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from live_restore.errors import ProtocolError
from live_restore.messages import (
    Announcement,
    Encoding,
    Heartbeat,
    Kind,
    Message,
    Preview,
    VolumeMessage,
)
from live_restore.protocol import ReceivedVolume, names_in_topic

__all__ = [
    "Ask",
    "Core",
    "Reply",
    "Stream",
    "check_encoding",
    "latest_request",
    "sequence_request",
    "session_of",
    "stream_of",
    "told_by",
]

Reply = VolumeMessage | dict[str, Any]
"""A volume, or the body of any other answer."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to the control port.

    Attributes
    ----------
    request : dict
        As in the protocol.
    patience_s : float or None
        How long to wait for the answer, instead of the usual time.
    """

    request: dict[str, Any]
    patience_s: float | None = None


class Core(Protocol):
    """Decides; see the module."""

    session: str | None
    is_greedy: bool
    """Wants to know all that has come before it says what is next."""

    def take(self, message: Message | ReceivedVolume) -> None:
        """A message came; may raise `ProtocolError`."""

    def next(self) -> Message | ReceivedVolume | Ask | None:
        """What to do: hand on, ask and call `answer`, or wait for a message."""

    def answer(self, reply: Reply | ProtocolError) -> None:
        """What the last `Ask` of `next` brought."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Volumes that are numbered together."""

    kind: Kind
    position: str
    channel: str


def stream_of(topic: str) -> Stream:
    """The stream of a volume's, announcement's or preview's topic."""
    position, channel = names_in_topic(topic)
    return Stream("raw" if topic.split("/")[1] == "raw" else "restored", position, channel)


def told_by(beat: Heartbeat, family: str) -> dict[str, int]:
    """The last sequence of each stream, by its topic in a family.

    A heartbeat names the volumes of all streams, the topics of other families only where somebody
    listened.
    """
    return {
        family + topic.removeprefix("volume"): last
        for topic, last in beat.sequences.items()
        if topic.startswith("volume/")
    }


def session_of(message: Message | ReceivedVolume) -> str:
    """The daemon's session in which a message was sent."""
    if isinstance(message, VolumeMessage | ReceivedVolume | Announcement | Preview):
        return message.header.session
    return message.session


def check_encoding(wanted: Encoding, beat: Heartbeat) -> None:
    """Raise `ProtocolError` if the daemon can't pack planes as wanted."""
    known: Sequence[str] = beat.encodings
    if wanted not in known:
        raise ProtocolError(
            f"{wanted} volumes were asked for, and this daemon can't compress: install it there "
            '(pip install "live-restore[compression]"), or do without'
        )


def latest_request(
    channel: str, position: str = "0", kind: Kind = "restored", encoding: Encoding = "raw"
) -> dict[str, Any]:
    """Asks for the newest volume of a stream."""
    return {
        "get": "latest",
        "kind": kind,
        "position": position,
        "channel": channel,
        "encoding": encoding,
    }


def sequence_request(
    number: int,
    channel: str,
    position: str = "0",
    kind: Kind = "restored",
    encoding: Encoding = "raw",
) -> dict[str, Any]:
    """Asks for one volume of a stream."""
    wanted = {"get": "sequence", "sequence": number}
    return latest_request(channel, position, kind, encoding) | wanted
