"""The end of an acquisition that Micro-Manager runs, which it doesn't tell."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from live_restore.sources.bridge.studio import Store, Studio

__all__ = ["EndOfAcquisition"]

_LOOK_EVERY_S = 1.0
_SETTLE_S = 5.0  # images may still be on their way through the user's processors after the last


class EndOfAcquisition:
    """Whether an acquisition is over; asked for once a second, however often it is wanted.

    Parameters
    ----------
    studio : Studio
        The connection.
    store : Store
        The acquisition's.
    """

    def __init__(self, studio: Studio, store: Store) -> None:
        self._studio = studio
        self._store = store
        self._next_look = 0.0
        self._quiet: tuple[int, float] | None = None  # images, and since when

    def is_reached(self) -> bool:
        """Whether no more images will come."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK_EVERY_S
        if self._store.is_frozen:
            return True
        if self._studio.is_acquiring():
            self._quiet = None
            return False
        num_images = self._store.num_images
        if self._quiet is None or self._quiet[0] != num_images:
            self._quiet = num_images, now
        return now - self._quiet[1] > _SETTLE_S
