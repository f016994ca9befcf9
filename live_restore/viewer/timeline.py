"""What a viewer knows of a daemon without a single voxel: streams, time points, what was lost."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from live_restore.messages import (
    Announcement,
    EndHeader,
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

__all__ = ["Known", "Timeline"]

_MOST_POINTS = 400  # of a position
_MOST_POSITIONS = 1024
_MOST_SKIPS = 4096


@dataclass(slots=True)
class Known:
    """One channel of a time point.

    Attributes
    ----------
    sequence : int
        Its number in its stream.
    kinds : set of {"restored", "raw"}
        Which of the two volumes can be asked for.
    is_backfill : bool
        It was restored late.
    """

    sequence: int
    kinds: set[Kind] = field(default_factory=set)
    is_backfill: bool = False


Point = tuple[str, int]
"""Acquisition and time point."""


class Timeline:
    """Told each message that comes; asked by pages.

    Attributes
    ----------
    session : str or None
        Of the daemon; with another one all but the counts begins anew.
    source : str
        What the daemon's source is doing.
    running : tuple of str
        Acquisitions.
    num_received, num_skipped, num_backfilled, num_missed : int
        Volumes since this viewer began: heard of, skipped by the daemon, restored late, and published but not
        heard of here.
    """

    def __init__(self) -> None:
        self.session: str | None = None
        self.source = ""
        self.running: tuple[str, ...] = ()
        self.num_received = self.num_skipped = self.num_backfilled = self.num_missed = 0
        self._heard_at: float | None = None
        self._channels: dict[str, tuple[str, ...]] = {}  # by acquisition, in its own order
        self._points: OrderedDict[str, OrderedDict[Point, dict[str, Known]]] = OrderedDict()
        self._skipped: OrderedDict[tuple[str, str, str, int], str] = OrderedDict()
        self._last: dict[tuple[str, str], int] = {}
        self._newest: dict[tuple[str, str], Point] = {}

    @property
    def silence_s(self) -> float | None:
        """Seconds since the daemon was last heard; None while it never was."""
        return None if self._heard_at is None else time.monotonic() - self._heard_at

    def take(self, message: Message) -> bool:
        """Note a message; whether the daemon turned out to be another one than before."""
        self._heard_at = time.monotonic()
        if isinstance(message, VolumeMessage | Announcement | Preview):
            is_new = self._meet(message.header.session)
        else:
            is_new = self._meet(message.session)
        match message:
            case VolumeMessage() | Announcement():
                self._volume(message.header)
            case Heartbeat():
                self.source, self.running = message.source, message.running
                self._catch_up(message)
            case SkippedHeader():
                self._skip(message)
            case StartHeader():
                self._channels[message.acquisition] = message.channels
                while len(self._channels) > _MOST_POSITIONS:
                    del self._channels[next(iter(self._channels))]
                self.running = (*self.running, message.acquisition)
            case EndHeader():
                self.running = tuple(a for a in self.running if a != message.acquisition)
        return is_new

    def positions(self) -> list[str]:
        """Names, in the order in which they came up."""
        return list(self._points)

    def points(self, position: str) -> list[Point]:
        """Time points of a position that something is known of, the oldest first."""
        return list(self._points.get(position, ()))

    def channels(self, position: str) -> list[str]:
        """Names of a position's channels, in the acquisition's own order where that is known."""
        points = self._points.get(position) or OrderedDict()
        found = {name: None for channels in points.values() for name in channels}
        order: tuple[str, ...] = ()
        if points:
            order = self._channels.get(next(reversed(points))[0], ())
        return sorted(found, key=lambda one: order.index(one) if one in order else len(order))

    def newest(self, position: str, channel: str) -> tuple[Point, Known] | None:
        """The newest volume of a stream that came live; where none did, the one that was restored last."""
        point = self._newest.get((position, channel))
        if point is None:
            return None
        known = self.at(position, channel, point)
        return None if known is None else (point, known)

    def at(self, position: str, channel: str, point: Point) -> Known | None:
        """The volume at a time point."""
        points = self._points.get(position)
        return None if points is None else points.get(point, {}).get(channel)

    def why_skipped(self, position: str, channel: str, point: Point) -> str:
        """The daemon's reason; empty where it didn't skip the volume."""
        return self._skipped.get((position, channel, *point), "")

    def last_skipped(self) -> dict[str, Any] | None:
        """The last volume that wasn't restored."""
        if not self._skipped:
            return None
        (position, channel, acquisition, point), reason = next(reversed(self._skipped.items()))
        return {
            "position": position,
            "channel": channel,
            "acquisition": acquisition,
            "time": point,
            "reason": reason,
        }

    def forget(self, position: str, channel: str, point: Point) -> None:
        """A volume can't be had any more."""
        points = self._points.get(position)
        if points is None or point not in points:
            return
        points[point].pop(channel, None)
        if not points[point]:
            del points[point]

    # --- what came ---

    def _meet(self, session: str) -> bool:
        if session == self.session:
            return False
        self.session = session
        self._points.clear()
        self._skipped.clear()
        self._last.clear()
        self._newest.clear()
        return True

    def _volume(self, header: Header) -> None:
        stream = header.position, header.channel
        point = header.acquisition, header.time
        points = self._points.setdefault(header.position, OrderedDict())
        known = points.setdefault(point, {}).setdefault(header.channel, Known(header.sequence))
        if not known.kinds:
            self.num_received += 1
            self.num_backfilled += header.backfill
        known.sequence, known.is_backfill = header.sequence, header.backfill
        # Raw volumes lie beside their restored ones; some publishers have nothing but raw ones.
        known.kinds |= {"raw", header.kind}
        self._skipped.pop((header.position, header.channel, *point), None)
        before = self._last.get(stream)
        if before is None or header.sequence > before:
            self.num_missed += 0 if before is None else header.sequence - before - 1
            self._last[stream] = header.sequence
        if header.backfill:
            self._sort(points)
        # What was restored late is older than what came live, if anything did.
        newest = self.newest(*stream)
        if newest is None or (header.backfill, -header.sequence) <= (
            newest[1].is_backfill,
            -newest[1].sequence,
        ):
            self._newest[stream] = point
        while len(points) > _MOST_POINTS:
            points.popitem(last=False)
        while len(self._points) > _MOST_POSITIONS:
            self._points.popitem(last=False)

    def _sort(self, points: OrderedDict[Point, dict[str, Known]]) -> None:
        """Into the order of time, acquisitions in the order in which they came."""
        order = {acquisition: n for n, (acquisition, _) in enumerate(reversed(points))}
        for point in sorted(points, key=lambda one: (-order[one[0]], one[1])):
            points.move_to_end(point)

    def _skip(self, header: SkippedHeader) -> None:
        self.num_skipped += 1
        key = header.position, header.channel, header.acquisition, header.time
        self._skipped[key] = header.reason
        if len(self._skipped) > _MOST_SKIPS:
            self._skipped.popitem(last=False)

    def _catch_up(self, beat: Heartbeat) -> None:
        """Volumes that only heartbeats tell of were missed."""
        for (position, channel), last in self._last.items():
            topic = topic_of("volume/restored", position, channel)
            told = beat.sequences.get(topic, last)
            if told > last:
                self.num_missed += told - last
                self._last[position, channel] = told
