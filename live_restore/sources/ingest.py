"""Planes that other programs send, as a source."""

from __future__ import annotations

import time
from collections.abc import Generator
from types import TracebackType
from typing import Self

from live_restore.interfaces import Event, StopSignal
from live_restore.keys import open_key_folder
from live_restore.plane_protocol import PlanesEnd, SourceHeader
from live_restore.profile import IngestSource
from live_restore.sources.incoming import Defaults, Incoming
from live_restore.sources.plane_port import PlanePort
from live_restore.volume import SourceState

__all__ = ["Ingest"]

_TICK_S = 1.0


class Ingest:
    """A source that takes planes at a port.

    Parameters
    ----------
    settings : IngestSource
        Which port, and what senders don't know.
    """

    is_durable = False

    def __init__(self, settings: IngestSource) -> None:
        self._settings = settings
        self._port = PlanePort(settings.endpoint, keys=open_key_folder(settings.keys))

    def __enter__(self) -> Self:
        self._port.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._port.__exit__(kind, error, traceback)

    @property
    def num_refused(self) -> int:
        """Messages so far that were none."""
        return self._port.num_refused

    def events(self, stop: StopSignal) -> Generator[Event, None, None]:
        """See `Source.events`."""
        settings = self._settings
        incoming = Incoming(
            Defaults(
                settings.num_slices,
                settings.pixel_size_um,
                settings.z_step_um,
                settings.memory_mb * 2**20,
            )
        )
        stop.call(self._port.wake)
        next_tick = time.monotonic()
        while not stop.is_set():
            match self._port.receive(max(0.0, next_tick - time.monotonic())):
                case PlanesEnd() as word:
                    yield from incoming.end(word)
                case header, data:
                    yield from incoming.plane(header, data)
                case None | SourceHeader():
                    pass
            if time.monotonic() >= next_tick:  # also while planes come: others may be silent
                next_tick = time.monotonic() + _TICK_S
                yield from incoming.end_idle(
                    settings.idle_s, f"no planes for {settings.idle_s:g} s"
                )
                yield SourceState(self._state(incoming))
        yield from incoming.end_idle(0.0, "stopped")

    def _state(self, incoming: Incoming) -> str:
        if incoming.running:
            return f"taking planes of {', '.join(incoming.running)}"
        return f"waiting for planes on {self._port.endpoint}"
