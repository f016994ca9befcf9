"""A bound on what is logged: of lines of one kind only a few per time, then their number."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

__all__ = ["RepeatLimit"]

_MOST_KINDS = 1000


@dataclass(slots=True)
class _Kind:
    began_s: float
    num_lines: int = 0


class RepeatLimit(logging.Filter):
    """Lets through so many lines of one kind per time, and tells how many it kept back.

    Two are of one kind when they differ in what is put into them alone. Those for debugging pass.

    Parameters
    ----------
    most : int
        Of one kind, within `every_s`.
    every_s : float
        Seconds.
    """

    def __init__(self, most: int = 20, every_s: float = 10.0) -> None:
        super().__init__()
        self._most = most
        self._every_s = every_s
        self._kinds: dict[tuple[str, str], _Kind] = {}  # the one that began first is first
        self._num_kept_back = 0  # and not told of yet
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by the handler with each line, from any thread."""
        with self._lock:
            self._forget_old(time.monotonic())
            if record.levelno >= logging.INFO and not self._has_room_for(record):
                return False
            num_kept_back, self._num_kept_back = self._num_kept_back, 0
        if num_kept_back:
            record.msg = (
                f"({num_kept_back} lines aren't shown: at most {self._most} of one kind are, "
                f"within {self._every_s:g} s) {record.getMessage()}"
            )
            record.args = ()
        return True

    def _has_room_for(self, record: logging.LogRecord) -> bool:
        kind = self._kinds.setdefault((record.name, str(record.msg)[:200]), _Kind(time.monotonic()))
        kind.num_lines += 1
        return kind.num_lines <= self._most

    def _forget_old(self, now: float) -> None:
        """Forget kinds whose time is over, and count what of them was kept back."""
        while self._kinds:
            oldest = next(iter(self._kinds))
            kind = self._kinds[oldest]
            if now - kind.began_s < self._every_s and len(self._kinds) < _MOST_KINDS:
                break
            self._num_kept_back += max(0, kind.num_lines - self._most)
            del self._kinds[oldest]
