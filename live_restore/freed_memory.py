"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import sys
import time

__all__ = ["FreedMemory", "give_back"]


def give_back() -> None:
    """Give freed memory back to the system, where its C library keeps it.

    glibc keeps what lies between pieces in use, and doesn't always find a use for it: with glibc 2.36, a daemon that
    restored small volumes on a CPU grew by 0.2 to 0.5 MiB with each of them (benchmarks/steady.py). Takes some milliseconds.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


class FreedMemory:
    """Gives it back now and then, for what runs for months.

    Parameters
    ----------
    every_s : float
        Seconds from one time to the next.
    """

    def __init__(self, every_s: float = 20.0) -> None:
        self._every_s = every_s
        self._given_at = time.monotonic()

    def tick(self) -> None:
        """Called often, as after each volume."""
        now = time.monotonic()
        if now - self._given_at >= self._every_s:
            self._given_at = now
            give_back()
