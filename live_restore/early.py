"""Work on volumes whose planes still come: what is done by then isn't left for after the last plane."""

from __future__ import annotations

import threading
from collections.abc import Callable

from live_restore.interfaces import Restorer
from live_restore.volume import GrowingVolume, VolumeKey

__all__ = ["Early"]


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
        with self._lock:
            growing = tuple(self._growing.values())
        return self._restorer.advance(growing)

    def settle(self, key: VolumeKey) -> None:
        """A volume was restored, or won't be."""
        with self._lock:
            self._growing.pop(key, None)
