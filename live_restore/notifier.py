"""Tells the system's service manager how the service is: systemd's notification protocol.

A datagram of lines ``NAME=value`` to the socket named in ``NOTIFY_SOCKET`` (sd_notify(3)). Without that variable nobody
is told anything, and all of this costs nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier"]

logger = logging.getLogger(__name__)

_MOST_STATUS = 400  # characters


class Notifier:
    """Speaks to the service manager, from any thread; never waits, and never fails.

    Parameters
    ----------
    address : str
        Of the manager's socket, a path or ``@`` and an abstract name; empty for none.
    watchdog_s : float or None
        How often it wants to hear that the service lives; None where it doesn't watch.

    Attributes
    ----------
    watchdog_s : float or None
        As given.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._has_failed = False
        self._status = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """As the manager that started this process asks for it."""
        watchdog_s = None
        pid = environment.get("WATCHDOG_PID")
        if pid in (None, str(os.getpid())):
            text = environment.get("WATCHDOG_USEC", "")
            watchdog_s = int(text) / 1e6 if text.isdecimal() and int(text) > 0 else None
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_s)

    @property
    def is_heard(self) -> bool:
        """There is a manager to be told."""
        return bool(self._address) and hasattr(socket, "AF_UNIX")

    def ready(self) -> None:
        """Volumes can come; also after a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The profile is read again; `ready` ends that."""
        # Of the monotonic clock as systemd reads it; needed since 253, ignored before.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """Starting or stopping takes longer; it will be done, or extended again, within this time."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def alive(self) -> None:
        """The watchdog's food."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """What the service does, in words, if that is news."""
        line = " ".join(text.split())[:_MOST_STATUS]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def _send(self, *lines: str) -> None:
        if not self.is_heard:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                logger.warning(
                    "the service manager can't be told how the service is (%s)", error.strerror
                )
        else:
            self._has_failed = False
