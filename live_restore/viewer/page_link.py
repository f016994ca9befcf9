"""One page: told what is new when it has drawn what it was sent before, and never sooner."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from live_restore.messages import Header, Kind
from live_restore.viewer.feed import Feed
from live_restore.viewer.history import Held, VolumeName
from live_restore.viewer.pictures import Image, View, images_of, packed
from live_restore.viewer.timeline import Known, Point, Timeline

__all__ = ["PageLink"]

logger = logging.getLogger(__name__)

_STATUS_EVERY_S = 1.0
_SHOWN = ("restored", "raw")


class _Drawn(BaseModel):
    """The page has drawn a message."""

    drawn: int


class _Wish(BaseModel):
    """The page wants to see something else."""

    view: View


@dataclass(frozen=True, slots=True)
class _Due:
    """A picture that the page lacks."""

    channel: str
    point: Point
    known: Known


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """One channel of a time point, as it is sent."""

    about: dict[str, Any]
    images: list[tuple[Kind, Image]]


class PageLink:
    """The slot of one page: at most one message is on its way to it.

    Pictures aren't queued: what is composed when the page is ready is what is newest then. Channels take turns.

    Parameters
    ----------
    feed : Feed
        Where volumes come from.
    send : callable
        Sends bytes to the page, and returns when they have left.
    """

    def __init__(self, feed: Feed, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._feed = feed
        self._send = send
        self._view = View()
        self._news = asyncio.Event()
        self._is_ready = asyncio.Event()
        self._is_ready.set()
        self._number = 0
        self._sent: dict[str, tuple[str | None, int, Point, int, int]] = {}  # the last turn is last
        self._status = ""
        self._status_at = 0.0

    async def serve(self, requests: AsyncIterator[str | bytes]) -> None:
        """Serve the page until its requests end."""
        forget = self._feed.listen(self._news.set)
        tasks = [
            asyncio.create_task(self._send_all()),
            asyncio.create_task(self._take_all(requests)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            forget()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- from the page ---

    async def _take_all(self, requests: AsyncIterator[str | bytes]) -> None:
        async for request in requests:
            self._take(request)

    def _take(self, request: str | bytes) -> None:
        try:
            body = json.loads(request)
            if "drawn" in body:
                if _Drawn.model_validate(body).drawn == self._number:
                    self._is_ready.set()
                return
            self._view = _Wish.model_validate(body).view
        except (ValueError, TypeError, ValidationError) as error:
            logger.warning("a page asked for what isn't known: %.300s", str(error))
            return
        self._news.set()

    # --- to the page ---

    async def _send_all(self) -> None:
        making: asyncio.Task[_Picture] | None = None
        try:
            while True:
                await self._is_ready.wait()
                making = making or self._begin()
                await self._wait(making)
                picture = None
                if making is not None and making.done():
                    picture, making = making.result(), None
                message = self._compose(picture)
                if message is not None:
                    self._is_ready.clear()
                    self._number += 1
                    await self._send(message)
        finally:
            if making is not None:
                making.cancel()

    async def _wait(self, making: asyncio.Task[_Picture] | None) -> None:
        """Until the picture that is being made, or else news; not long, so that the page hears from this program."""
        waiting: asyncio.Task[Any] = making or asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait([waiting], timeout=_STATUS_EVERY_S)
        finally:
            if waiting is not making:
                waiting.cancel()
        self._news.clear()

    def _begin(self) -> asyncio.Task[_Picture] | None:
        """Begin to make the picture that the page lacks, if it lacks one."""
        view, position = self._view, self._position()
        due = None if position is None else self._due(view, position)
        if due is None or position is None:
            return None
        # Noted before it is waited for: what comes meanwhile is news.
        self._sent.pop(due.channel, None)
        self._sent[due.channel] = self._mark(view, position, due)
        return asyncio.create_task(self._make(view, position, due))

    async def _make(self, view: View, position: str, due: _Due) -> _Picture:
        session = self._feed.timeline.session
        found = await self._volumes(view, position, due)
        images: list[tuple[Kind, Image]] = []
        for held in found:
            made = await asyncio.to_thread(images_of, held, view)
            images += [(held.header.kind, one) for one in made]
        about = _about(view, position, due, found, session, self._feed.timeline)
        return _Picture(about, images)

    def _compose(self, picture: _Picture | None) -> bytes | None:
        status = self._status_of(self._position())
        text = json.dumps(status)
        is_late = time.monotonic() - self._status_at > _STATUS_EVERY_S
        if picture is None and not is_late and text == self._status:
            return None
        self._status, self._status_at = text, time.monotonic()
        silence_s = self._feed.timeline.silence_s
        silence_ms = None if silence_s is None else round(silence_s * 1000)
        header: dict[str, Any] = {
            "number": self._number + 1,
            "status": status | {"silence_ms": silence_ms},
        }
        if picture is None:
            return packed(header, [])
        return packed(header | {"picture": picture.about}, picture.images)

    def _position(self) -> str | None:
        positions = self._feed.timeline.positions()
        if self._view.position in positions:
            return self._view.position
        return next(iter(positions), None)

    def _due(self, view: View, position: str) -> _Due | None:
        """The picture that is lacking: of the channel whose turn was longest ago."""
        timeline = self._feed.timeline
        channels = [
            one
            for one in timeline.channels(position)
            if view.channels is None or one in view.channels
        ]
        order = list(self._sent)
        for channel in sorted(channels, key=lambda one: order.index(one) if one in order else -1):
            if view.point is not None:
                known = timeline.at(position, channel, view.point)
                due = None if known is None else _Due(channel, view.point, known)
            else:
                newest = timeline.newest(position, channel)
                due = None if newest is None else _Due(channel, *newest)
            if due is not None and self._sent.get(channel) != self._mark(view, position, due):
                return due
        return None

    def _mark(
        self, view: View, position: str, due: _Due
    ) -> tuple[str | None, int, Point, int, int]:
        kinds = sum(1 << _SHOWN.index(one) for one in due.known.kinds)
        stream = f"{self._feed.timeline.session}/{position}"
        return stream, view.revision, due.point, due.known.sequence, kinds

    async def _volumes(self, view: View, position: str, due: _Due) -> list[Held]:
        found = []
        for kind in view.kinds:
            if kind in due.known.kinds:
                name = VolumeName(kind, position, due.channel, due.known.sequence)
                held = await self._feed.volume(name)
                if held is not None:
                    found.append(held)
        if not found and view.point is not None:
            self._feed.timeline.forget(position, due.channel, due.point)
        return found

    def _status_of(self, position: str | None) -> dict[str, Any]:
        timeline = self._feed.timeline
        body: dict[str, Any] = {
            "endpoint": self._feed.endpoint,
            "session": timeline.session,
            "source": timeline.source,
            "running": timeline.running,
            "received": timeline.num_received,
            "skipped": timeline.num_skipped,
            "backfilled": timeline.num_backfilled,
            "missed": timeline.num_missed,
            "last_skipped": timeline.last_skipped(),
            "positions": timeline.positions(),
            "position": position,
        }
        if position is not None:
            body["channels"] = timeline.channels(position)
            body["points"] = timeline.points(position)
        return body


def _about(
    view: View,
    position: str,
    due: _Due,
    found: list[Held],
    session: str | None,
    timeline: Timeline,
) -> dict[str, Any]:
    """What stands beside a picture."""
    headers: dict[str, Header] = {held.header.kind: held.header for held in found}
    return {
        "revision": view.revision,
        "session": session,
        "position": position,
        "channel": due.channel,
        "acquisition": due.point[0],
        "time": due.point[1],
        "sequence": due.known.sequence,
        "is_live": view.point is None,
        "age_ms": {kind: _age_ms(one) for kind, one in headers.items()},
        "headers": {kind: one.model_dump(mode="json") for kind, one in headers.items()},
        "why_not": timeline.why_skipped(position, due.channel, due.point),
    }


def _age_ms(header: Header) -> int:
    """Since the last plane reached the daemon; by this PC's clock."""
    now = datetime.now(header.received_at.tzinfo)
    return round((now - header.received_at).total_seconds() * 1000)
