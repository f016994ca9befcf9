"""Work on volumes whose planes still come: what is done by then isn't left for after the last plane."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from live_restore.interfaces import Restorer
from live_restore.volume import GrowingVolume, VolumeKey

__all__ = ["Early"]

logger = logging.getLogger(__name__)


class Early:
    """The volumes that grow, from the source thread to the restore thread.

    Parameters
    ----------
    restorer : Restorer
        Does the work.
    """

    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer
        self._growing: dict[VolumeKey, GrowingVolume] = {}
        self._has_failed = False
        self._lock = threading.Lock()

    def watch(self, nudge: Callable[[], None]) -> Callable[[GrowingVolume], None]:
        """What is to be called with each volume that has grown; it calls `nudge` for `work`."""

        def grown(volume: GrowingVolume) -> None:
            with self._lock:
                self._growing[volume.key] = volume
            nudge()

        return grown

    def work(self) -> bool:
        """Do some of it; whether there was any. Called from the restore thread."""
        if self._has_failed:
            return False
        with self._lock:
            growing = tuple(self._growing.values())
        try:
            return self._restorer.advance(growing)
        except Exception:  # a whole volume that fails is dealt with; nobody would miss this one
            logger.exception("from now on volumes wait for their last plane")
            self._has_failed = True
            return False

    def settle(self, key: VolumeKey) -> None:
        """A volume was restored, or won't be."""
        with self._lock:
            self._growing.pop(key, None)
