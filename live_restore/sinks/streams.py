"""Numbers the volumes of each stream, and holds the last few for whoever asks again."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from live_restore.volume import Restored

__all__ = ["Streams"]


class Streams:
    """Sequence numbers, and the last few volumes of all streams; thread-safe.

    A stream is ``(position, channel)``; its volumes are numbered from 0.

    Parameters
    ----------
    capacity_bytes : int
        Volumes are held up to this size in all; the newest is held whatever its size.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._held: deque[tuple[tuple[str, str], int, Restored]] = deque()
        self._nbytes = 0
        self._last: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def keep(self, restored: Restored) -> int:
        """Hold a volume; its number."""
        stream = (restored.key.position, restored.key.channel)
        with self._lock:
            sequence = self._last.get(stream, -1) + 1
            self._last[stream] = sequence
            self._held.append((stream, sequence, restored))
            self._nbytes += restored.nbytes
            while self._nbytes > self._capacity and len(self._held) > 1:
                self._nbytes -= self._held.popleft()[2].nbytes
        return sequence

    def find(self, stream: tuple[str, str], sequence: int | None) -> tuple[int, Restored] | None:
        """A held volume and its number: the one of a number, or the newest.

        The newest that came live, if there is one: what is restored late is older than it.
        """
        with self._lock:
            found = [
                (number, restored)
                for held, number, restored in reversed(self._held)
                if held == stream and sequence in (None, number)
            ]
        return next((one for one in found if not one[1].is_backfill), found[0] if found else None)

    def held(self, stream: tuple[str, str]) -> tuple[int, ...]:
        """Numbers of a stream that are held."""
        with self._lock:
            return tuple(number for held, number, _ in self._held if held == stream)

    def last(self) -> dict[tuple[str, str], int]:
        """The last number of each stream."""
        with self._lock:
            return dict(self._last)

    def catalog(self) -> list[dict[str, Any]]:
        """All streams, for the control port."""
        return [
            {"position": p, "channel": c, "last": last, "held": self.held((p, c))}
            for (p, c), last in self.last().items()
        ]
