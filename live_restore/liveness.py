"""Whether the pipeline lives, and what it does: for the service manager and its watchdog."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from live_restore.notifier import Notifier

__all__ = ["Liveness", "Working"]

logger = logging.getLogger(__name__)

_PULSE_S = 5.0
_MOST_LOADING_S = 900.0
_STUCK_S = 600.0  # with one volume, on a GPU or at a sink
_STATUS_EVERY_S = 2.0


class Working(Protocol):
    """A part that works on one item after the other."""

    name: str

    @property
    def busy_s(self) -> float:
        """Seconds since the item was taken that was begun longest ago; 0 where none is."""


class Liveness:
    """Feeds the watchdog while the pipeline lives, and tells what it does.

    `tick` is called by the thread that supervises, about once a second: where that one hangs, the watchdog
    starves. It starves too when a part has worked on one item for ten minutes: a GPU's driver that hangs
    comes back with the process only.

    Parameters
    ----------
    notifier : Notifier
        Tells the manager.
    counts : mapping of str to int
        Volumes ``restored`` and ``skipped``.
    stuck_s : float
        How long an item may take.
    """

    def __init__(
        self, notifier: Notifier, counts: Mapping[str, int], stuck_s: float = _STUCK_S
    ) -> None:
        self._notifier = notifier
        self._counts = counts
        self._stuck_s = stuck_s
        self._parts: Callable[[], Sequence[Working]] = tuple
        self._doing: Callable[[], str] = str
        self._is_stuck = False
        self._is_ready = False
        self._is_ending = False
        self._fed_at = self._told_at = 0.0

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While the model loads the manager is asked for patience, for a quarter of an hour at most."""
        done = threading.Event()
        self._notifier.status("starting: the model loads")
        thread = threading.Thread(target=self._plead, args=(done,), name="notify")
        if self._notifier.is_heard:
            thread.start()
        try:
            yield
        finally:
            done.set()
            if thread.ident is not None:
                thread.join()

    def _plead(self, done: threading.Event) -> None:
        until = time.monotonic() + _MOST_LOADING_S
        while time.monotonic() < until:
            self._notifier.extend(4 * _PULSE_S)
            if done.wait(_PULSE_S):
                return

    def ready(self) -> None:
        """Volumes can come."""
        self._is_ready = True
        self._notifier.ready()
        self._tell("ready")

    def reloading(self, is_loading: bool) -> None:
        """A model is being loaded, or that has ended, well or not.

        The manager hears of it between `ready` and `ending` alone: before, it would take the service for started.
        """
        if not self._is_ready or self._is_ending:
            return
        if is_loading:
            self._notifier.reloading()
        else:
            self._notifier.ready()

    def watch(self, parts: Callable[[], Sequence[Working]], doing: Callable[[], str]) -> None:
        """From now on the parts that it gives have to live; `doing` says what the service does, in words."""
        self._parts, self._doing = parts, doing

    def ending(self, within_s: float) -> None:
        """The service was told to stop, and takes so long at most."""
        self._is_ending = True
        self._notifier.stopping()
        self._notifier.extend(within_s + 4 * _PULSE_S)

    def tick(self) -> None:
        """Called while the service runs, about once a second."""
        now = time.monotonic()
        stuck = [part for part in self._parts() if part.busy_s > self._stuck_s]
        if stuck and not self._is_stuck:
            logger.error(
                "%s has worked on one item for more than %.0f s: the watchdog is fed no more",
                stuck[0].name,
                self._stuck_s,
            )
        self._is_stuck = bool(stuck)
        if not stuck and now - self._fed_at >= (self._notifier.watchdog_s or 0.0) / 4:
            self._fed_at = now
            self._notifier.alive()
            if self._is_ending:
                self._notifier.extend(4 * _PULSE_S)
        if now - self._told_at >= _STATUS_EVERY_S:
            self._tell("stopping: what waits is restored" if self._is_ending else self._doing())

    def _tell(self, doing: str) -> None:
        self._told_at = time.monotonic()
        restored, skipped = self._counts["restored"], self._counts["skipped"]
        self._notifier.status(f"{doing}; {restored} volumes restored, {skipped} skipped")
