"""Acquisitions that the user starts in Micro-Manager's own window, followed without being owned.

The connection to Micro-Manager lives in a process of its own, since its bridge may hang for ever:
one that is silent is ended and started anew. What has arrived already is remembered here, so that
planes neither come twice nor are lost with it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from live_restore.interfaces import Event, StopSignal
from live_restore.light import Adjustment, LightReading, is_same
from live_restore.plane_protocol import LightWord, PlaneHeader, PlanesEnd, SourceHeader
from live_restore.profile import DoseSettings, MicroManagerSource
from live_restore.sources.bridge.walk import Grid, Place, PlaneSet
from live_restore.sources.child import ChildProcess
from live_restore.sources.incoming import Defaults, Incoming
from live_restore.sources.plane_port import PlanePort
from live_restore.volume import SourceState, utc_now

__all__ = ["MicroManager"]

logger = logging.getLogger(__name__)

_FOLLOWER = "live_restore.sources.bridge.follow"
_TICK_S = 1.0
_START_S = 30.0  # until the process says its first word, on a busy computer
_RESPAWN_S = 1.0  # at least, between two starts; more after processes that didn't live long
_RESPAWN_MOST_S = 10.0
_SHORT_LIFE_S = 30.0
_RETELL_S = 60.0  # the same word again
_MOST_TOLD = 16
_GRACE_S = 3.0
_REMEMBERED = 1000  # acquisitions that are over; Micro-Manager displays fewer


@dataclass(slots=True)
class _Arrived:
    """Planes of one acquisition that are here."""

    num_planned: int
    planes: PlaneSet = field(default_factory=PlaneSet)


class MicroManager:
    """A source that follows the acquisitions of a Micro-Manager, whether it runs or not.

    Parameters
    ----------
    settings : MicroManagerSource
        Where it is.
    dose : DoseSettings, optional
        What of the light is watched and may be changed.
    """

    is_durable = False

    def __init__(self, settings: MicroManagerSource, dose: DoseSettings | None = None) -> None:
        self._settings = settings
        self._dose = dose or DoseSettings()
        self._light: LightWord | None = None  # as it was told last
        self._id = f"micro-manager-{uuid.uuid4().hex}"
        self._port = PlanePort(only_from=self._id)
        self._child: ChildProcess | None = None
        self._spawned_s = -_RESPAWN_MOST_S
        self._respawn_s = _RESPAWN_S
        self._quiet_since: float | None = None
        self._has_spoken = False
        self._arrived: dict[str, _Arrived] = {}
        self._done: deque[str] = deque(maxlen=_REMEMBERED)
        self._told: dict[str, float] = {}
        self._state = f"connecting to Micro-Manager on port {settings.port}"

    def __enter__(self) -> Self:
        self._port.__enter__()
        self._since = utc_now().replace(microsecond=0)  # Micro-Manager may count in whole seconds
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end_child()
        self._port.__exit__(kind, error, traceback)

    def adjust(self, adjustment: Adjustment) -> None:
        """See `Adjustable.adjust`; a process that doesn't answer is passed over."""
        child = self._child
        if child is not None:
            child.tell_adjustment(adjustment)

    def events(self, stop: StopSignal) -> Generator[Event, None, None]:
        """See `Source.events`."""
        incoming = Incoming(Defaults(pixel_size_um=self._settings.pixel_size_um))
        stop.call(self._port.wake)
        try:
            while not stop.is_set():
                if self._tend_child():
                    yield SourceState(self._state)
                waited_from = time.monotonic()
                message = self._port.receive(_TICK_S)
                self._note_quiet(waited_from if message is None else None)
                match message:
                    case None:
                        yield SourceState(self._state)
                    case SourceHeader(light=light) if light is not None:
                        self._light = light
                        yield LightReading(**light.model_dump())
                    case SourceHeader(state=state):
                        self._tell(state)
                        yield SourceState(self._state)
                    case PlanesEnd() as word:
                        self._arrived.pop(word.acquisition, None)
                        self._done.append(word.acquisition)
                        yield from incoming.end(word)
                    case header, data:
                        yield from self._plane(incoming, header, data)
        finally:
            self._end_child()
            self._check_light()
        yield from incoming.end_idle(0.0, "stopped")

    def _plane(
        self, incoming: Incoming, header: PlaneHeader, data: NDArray[Any]
    ) -> Iterator[Event]:
        """Take a plane, unless it is here already: one that was on its way when a process ended."""
        grid = Grid(
            header.num_times or 1,
            len(header.positions),
            len(header.channels),
            header.num_slices or 1,
        )
        place = Place(
            header.time,
            header.positions.index(header.position),
            header.channels.index(header.channel),
            header.z,
        )
        name = header.acquisition
        if name in self._done:
            return
        arrived = self._arrived.setdefault(name, _Arrived(grid.num_planes))
        if arrived.planes.add(grid.number(place)):
            yield from incoming.plane(header, data)

    def _tend_child(self) -> bool:
        """See to it that a process follows, and one that answers; whether there is news of that."""
        child, now = self._child, time.monotonic()
        if child is not None and not child.is_alive:
            logger.debug("the process that follows Micro-Manager ended: %s", child.exit_code)
            self._give_up(child, now)
        is_silent = self._child is not None and self._is_silent()
        if child is not None and is_silent:
            self._give_up(child, now)
            self._tell(
                f"Micro-Manager on port {self._settings.port} doesn't answer: the connection is "
                "made anew until it does"
            )
        if self._child is None and now - self._spawned_s >= self._respawn_s:
            self._spawn()
        return is_silent

    def _give_up(self, child: ChildProcess, now: float) -> None:
        child.kill()
        self._child = None
        is_short = now - self._spawned_s < _SHORT_LIFE_S
        self._respawn_s = min(2 * self._respawn_s, _RESPAWN_MOST_S) if is_short else _RESPAWN_S

    def _spawn(self) -> None:
        orders = {
            "endpoint": self._port.endpoint,
            "sender": self._id,
            "port": self._settings.port,
            "poll_ms": self._settings.poll_ms,
            "silence_s": self._settings.silence_s,
            "state": self._state,
            "since": self._since.isoformat(),
            "done": list(self._done),
            "dose": self._dose.model_dump(mode="json"),
            "light": self._light and self._light.model_dump(mode="json"),
            "running": {
                name: {"planes": one.planes.ranges(), "num_planned": one.num_planned}
                for name, one in self._arrived.items()
            },
        }
        self._child = ChildProcess(_FOLLOWER, orders)
        self._spawned_s = time.monotonic()
        self._has_spoken = False
        self._quiet_since = None

    def _note_quiet(self, waited_from: float | None) -> None:
        """Silence counts only while this thread listens: what it misses meanwhile isn't silence."""
        if waited_from is None:
            self._quiet_since = None
            self._has_spoken = True
        elif self._quiet_since is None:
            self._quiet_since = waited_from

    def _is_silent(self) -> bool:
        if self._quiet_since is None:
            return False
        silence = self._settings.silence_s
        most = silence if self._has_spoken else max(silence, _START_S)
        return time.monotonic() - self._quiet_since > most

    def _end_child(self) -> None:
        """A process that is told to end lets go of what Micro-Manager holds for it."""
        if self._child is not None:
            self._child.tell("stop")
            if not self._child.await_end(_GRACE_S):
                self._child.kill()
            self._child = None

    def _check_light(self) -> None:
        """Whether the process that has ended gave the user's light back."""
        while self._is_changed and (word := self._port.receive(0.0)) is not None:
            if isinstance(word, SourceHeader) and word.light is not None:
                self._light = word.light
        if self._light is not None and self._is_changed:
            logger.warning(
                "%s stands at %g, since Micro-Manager doesn't answer: set it back to your own %g by hand",
                self._dose.device_property,
                self._light.value,
                self._light.own,
            )

    @property
    def _is_changed(self) -> bool:
        return self._light is not None and not is_same(self._light.value, self._light.own)

    def _tell(self, state: str) -> None:
        """Take a new state; only changes are told in the log, and none over and over."""
        now = time.monotonic()
        if state != self._state and now - self._told.pop(state, -_RETELL_S) >= _RETELL_S:
            logger.info("%s", state)
            self._told[state] = now
            self._told = dict(list(self._told.items())[-_MOST_TOLD:])
        self._state = state
