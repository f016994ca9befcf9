"""A thread that hears a daemon for a window, and fetches what the window asks for: one thing at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from live_restore.client import ClientKeys, Control, Subscriber
from live_restore.errors import ProtocolError
from live_restore.messages import Catalog, Kind
from live_restore.viewer.history import Held, History, VolumeName
from live_restore.viewer.timeline import Point, Timeline

__all__ = ["Follower"]

logger = logging.getLogger(__name__)

_KINDS: tuple[Kind, ...] = ("restored", "raw")
_LISTEN_S = 0.2
_HISTORY_BYTES = 2**30


class Follower:
    """Hears announcements, and hands volumes over when the one before was taken.

    Parameters
    ----------
    endpoint, control : str
        Ports of the daemon.
    hand_over : callable
        Given the volumes of one channel and the timeline; called in the follower's thread, and must only pass
        them on. `taken` is to be called when they are shown.
    keys : ClientKeys, optional
        For a daemon that asks for them.
    """

    def __init__(
        self,
        endpoint: str,
        control: str,
        hand_over: Callable[[list[Held]], None],
        keys: ClientKeys | None = None,
    ) -> None:
        self.timeline = Timeline()
        self._lock = threading.Lock()
        self._history = History(_HISTORY_BYTES)
        self._subscriber = Subscriber(endpoint, _KINDS, family="announce", keys=keys)
        self._control = Control(control, keys=keys)
        self._hand_over = hand_over
        self._stop = threading.Event()
        self._is_free = threading.Event()
        self._is_free.set()
        self._wanted: tuple[str | None, Point | None] = (None, None)
        self._sent: dict[tuple[Kind, str, str], tuple[str | None, int]] = {}
        self._thread = threading.Thread(target=self._run, name="napari-follower")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread has."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def taken(self) -> None:
        """The window has shown what it was given."""
        self._is_free.set()

    def want(self, position: str | None, point: Point | None) -> None:
        """Show this position, the first one without; this time point, the newest without."""
        with self._lock:
            self._wanted = position, point
            self._sent.clear()

    def _run(self) -> None:
        with self._subscriber, self._control:
            while not self._stop.is_set():
                try:
                    message = self._subscriber.receive(_LISTEN_S)
                except ProtocolError as error:
                    logger.warning("%s", error)
                    continue
                if message is not None and self.timeline.take(message):
                    self._history.clear()
                    self._look_around()
                if self._is_free.is_set():
                    self._show_next()

    def _show_next(self) -> None:
        with self._lock:
            position, point = self._wanted
        timeline = self.timeline
        position = position if position in timeline.positions() else None
        position = position or next(iter(timeline.positions()), None)
        if position is None:
            return
        for channel in timeline.channels(position):
            if point is None:
                newest = timeline.newest(position, channel)
                known = None if newest is None else newest[1]
            else:
                known = timeline.at(position, channel, point)
            if known is None:
                continue
            found = []
            for kind in _KINDS:
                key, mark = (kind, position, channel), (timeline.session, known.sequence)
                if kind in known.kinds and self._sent.get(key) != mark:
                    self._sent[key] = mark
                    held = self._volume(VolumeName(kind, position, channel, known.sequence))
                    found += [] if held is None else [held]
            if found:
                self._is_free.clear()
                self._hand_over(found)
                return

    def _volume(self, name: VolumeName) -> Held | None:
        held = self._history.find(name)
        if held is None:
            try:
                message = self._control.sequence(
                    name.sequence, name.channel, name.position, name.kind
                )
            except ProtocolError as error:
                logger.debug("%s: %s", name, error)
                return None
            held = Held(message)
            self._history.keep(name, held)
        return held

    def _look_around(self) -> None:
        """What was there before."""
        try:
            for stream in Catalog.model_validate(self._control.catalog()).streams:
                self.timeline.take(self._control.latest(stream.channel, stream.position))
        except (ProtocolError, ValueError) as error:
            logger.debug("nothing from before: %s", error)
