"""Volumes that are on their way, so that an acquisition's end is told after the last of them."""

from __future__ import annotations

import threading
from collections import Counter

from live_restore.volume import AcquisitionEnd, VolumeKey

__all__ = ["Outstanding"]


class Outstanding:
    """Counts the volumes of each acquisition that were seen and not settled; thread-safe."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._ends: dict[str, AcquisitionEnd] = {}
        self._lock = threading.Lock()

    def start(self, acquisition: str) -> None:
        """An acquisition begins, maybe once more."""
        with self._lock:
            self._ends.pop(acquisition, None)

    def add(self, key: VolumeKey) -> None:
        """A volume was seen."""
        with self._lock:
            self._count[key.acquisition] += 1

    def end(self, end: AcquisitionEnd) -> bool:
        """Remember an end; whether nothing is outstanding any more."""
        with self._lock:
            if self._count[end.acquisition]:
                self._ends[end.acquisition] = end
                return False
            del self._count[end.acquisition]
            return True

    def settle(self, key: VolumeKey) -> AcquisitionEnd | None:
        """One less; the acquisition's end if that was the last one."""
        with self._lock:
            self._count[key.acquisition] -= 1
            if self._count[key.acquisition] == 0 and key.acquisition in self._ends:
                del self._count[key.acquisition]
                return self._ends.pop(key.acquisition)
            return None
