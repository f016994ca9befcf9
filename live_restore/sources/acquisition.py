"""An acquisition that this program runs itself, in a process of its own, through pycromanager.

The process acquires and saves; what it sees it also sends here, without ever waiting for us. When
this program fails, an acquisition that is saved goes on to its end.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Generator
from types import TracebackType
from typing import Self

from live_restore.errors import SourceError
from live_restore.interfaces import Event, StopSignal
from live_restore.light import Adjustment, LightReading
from live_restore.plane_protocol import PlanesEnd, SourceHeader
from live_restore.profile import AcquisitionSource, DoseSettings
from live_restore.sources.child import ChildProcess
from live_restore.sources.incoming import Incoming
from live_restore.sources.micro_manager_folder import micro_manager_folder
from live_restore.sources.plane_port import PlanePort
from live_restore.sources.variation import Variation
from live_restore.volume import SourceState

__all__ = ["ACQUIRE", "END", "STOP", "OwnAcquisition"]

logger = logging.getLogger(__name__)

ACQUIRE, STOP, END = "acquire", "stop", "end"
"""What the acquiring process is told."""

_TICK_S = 1.0
_START_S = 120.0  # hardware may home its stages first
_STOP_S = 60.0  # from the word to stop, or the last plane after it, to the end
_END_S = 30.0


class OwnAcquisition:
    """A source that acquires.

    Parameters
    ----------
    settings : AcquisitionSource
        What to acquire.
    dose : DoseSettings, optional
        What of the light is watched and may be changed.
    """

    is_durable = False

    def __init__(self, settings: AcquisitionSource, dose: DoseSettings | None = None) -> None:
        self._settings = settings
        self._dose = dose or DoseSettings()
        self._id = uuid.uuid4().hex
        self._port = PlanePort(only_from=self._id)
        self._incoming = Incoming()

    def __enter__(self) -> Self:
        settings = self._settings
        folder = ""
        if settings.backend == "python":
            folder = str(micro_manager_folder(settings.micro_manager))
        self._port.__enter__()
        try:
            self._child = ChildProcess(
                "live_restore.sources.acquiring",
                {
                    "settings": settings.model_dump(mode="json"),
                    "micro_manager": folder,
                    "endpoint": self._port.endpoint,
                    "sender": self._id,
                    "dose": self._dose.model_dump(mode="json"),
                },
            )
            try:
                self._await_core()
            except BaseException:
                self._child.kill()
                raise
        except BaseException:
            self._port.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._child.is_left:
            if error is not None and self._settings.save_folder is None:
                self._child.tell(STOP)  # its planes go nowhere, and light kills
            self._child.tell(END)
            if not self._child.await_end(_END_S):
                logger.warning("the acquiring process doesn't end by itself and is killed")
                self._child.kill()
        self._port.__exit__(kind, error, traceback)

    def adjust(self, adjustment: Adjustment) -> None:
        """See `Adjustable.adjust`."""
        self._child.tell_adjustment(adjustment)

    def events(
        self, stop: StopSignal, variation: Variation | None = None
    ) -> Generator[Event, None, None]:
        """See `Source.events`; may be called again, and for other acquisitions than the profile's too."""
        stop.call(self._port.wake)
        self._child.tell(f"{ACQUIRE} {variation.as_word()}" if variation else ACQUIRE)
        is_saved = self._settings.save_folder is not None and variation is None
        try:
            reason = yield from self._until_end(stop, is_saved=is_saved)
        except BaseException as error:  # this was closed or failed: nobody takes what comes
            is_asked_for = stop.is_set() and not stop.has_failed
            if is_saved and not is_asked_for and not isinstance(error, KeyboardInterrupt):
                self._leave()
            else:
                self._child.tell(STOP)
            raise
        yield from self._incoming.end_idle(0.0, reason)
        if reason not in ("finished", "stopped") and not self._child.is_left:
            raise SourceError(f"{self._settings.name}: the acquisition failed: {reason}")

    def _until_end(self, stop: StopSignal, *, is_saved: bool) -> Generator[Event, None, str]:
        """What comes; then how it ended."""
        reason = ""
        give_up_s = math.inf
        while not reason:
            if stop.is_set() and give_up_s == math.inf:
                if stop.has_failed and is_saved:
                    self._leave()
                    return "restoration failed; the acquisition itself goes on"
                self._child.tell(STOP)
                give_up_s = time.monotonic() + _STOP_S
            match self._port.receive(_TICK_S):
                case None:
                    yield SourceState("acquiring")
                    if not self._child.is_alive:
                        reason = f"the acquiring process ended with code {self._child.exit_code}"
                    elif time.monotonic() > give_up_s:
                        reason = (
                            f"it was told to stop {_STOP_S:g} s ago and doesn't. See whether the camera, "
                            "the stage or Micro-Manager hangs"
                        )
                case PlanesEnd() as word:
                    yield from self._incoming.end(word)
                case SourceHeader(light=light) if light is not None:
                    yield LightReading(**light.model_dump())
                case SourceHeader(ended=reason):
                    continue
                case header, data:
                    yield from self._incoming.plane(header, data)
                    if give_up_s != math.inf:  # what it had before it was told
                        give_up_s = time.monotonic() + _STOP_S
        return reason

    def _leave(self) -> None:
        if not self._child.is_alive:
            return
        logger.warning(
            "the acquisition goes on without this program, to its end, and is saved in %s",
            self._settings.save_folder,
        )
        self._child.leave()

    def _await_core(self) -> None:
        """Until the hardware is ready.

        Raises
        ------
        SourceError
            It can't be had; the text says why and what to do.
        """
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            match self._port.receive(_TICK_S):
                case SourceHeader(error=error) if error:
                    raise SourceError(error)
                case SourceHeader():
                    return
                case None if not self._child.is_alive:
                    raise SourceError(
                        f"the acquiring process ended with code {self._child.exit_code} while it "
                        "loaded the hardware; its last words are above. Load the same configuration "
                        "in Micro-Manager itself"
                    )
        raise SourceError(
            f"the hardware wasn't ready within {_START_S:g} s: load {self._settings.config_file} in "
            "Micro-Manager itself and see what it waits for"
        )
