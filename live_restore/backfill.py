"""Tells volumes that are restored when there is time from those that a live view shows."""

from __future__ import annotations

import math

from live_restore.volume import Volume

__all__ = ["Backfill"]

_MOST_STREAMS = (
    32_768  # positions and channels; of those that got no volume for longest nothing is known
)


class Backfill:
    """Remembers the newest volume of each position and channel; used from one thread."""

    def __init__(self) -> None:
        self._latest_s: dict[tuple[str, str], float] = {}

    def is_backfill(self, volume: Volume) -> bool:
        """Whether a newer one of its position and channel went before."""
        stream = volume.key.position, volume.key.channel
        latest_s = self._latest_s.pop(stream, -math.inf)
        self._latest_s[stream] = max(latest_s, volume.received_s if volume.is_live else -math.inf)
        if len(self._latest_s) > _MOST_STREAMS:
            del self._latest_s[next(iter(self._latest_s))]
        return not volume.is_live or volume.received_s < latest_s
