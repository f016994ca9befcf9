"""The doorman of a daemon's sockets: lets in clients with a key on the list, and nobody else."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any, Self

import zmq
from zmq.auth.thread import ThreadAuthenticator

from live_restore.errors import KeyFileError
from live_restore.keys import KeyFolder, Role

__all__ = ["Authentication"]

logger = logging.getLogger(__name__)

_TELL_EVERY_S = 10.0
_USER_ID = "User-Id"  # as ZeroMQ calls it; CURVE's is the public key in Z85


class Authentication:
    """Checks keys at each new connection to the sockets of a context; enter it before they bind.

    The list is read anew each time, so that a client can be added or removed while the daemon
    runs. Without keys everybody is let in: for sockets that only this PC can reach.

    Parameters
    ----------
    context : zmq.Context
        Of the sockets.
    folder : KeyFolder or None
        The daemon's keys.
    roles : tuple of {"viewer", "sender", "operator"}
        Who is let in.
    """

    def __init__(
        self, context: zmq.Context[Any], folder: KeyFolder | None, roles: tuple[Role, ...]
    ) -> None:
        self._context = context
        self._folder = folder
        self._roles = roles
        self._refused = 0
        self._next_tell = 0.0
        self._thread: ThreadAuthenticator | None = None

    def __enter__(self) -> Self:
        """Begin.

        Raises
        ------
        KeyFileError
            The keys can't be read.
        """
        if self._folder is not None:
            self._folder.public()
            if not self._folder.clients():
                logger.warning(
                    "%s: nobody is on the list yet; add somebody: live-restore keys add",
                    self._folder.folder,
                )
            self._thread = ThreadAuthenticator(self._context, log=_QUIET)
            self._thread.start()
            self._thread.configure_curve_callback("*", self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.stop()

    def secure(self, socket: zmq.Socket[Any]) -> None:
        """Ask keys of all who connect to a socket, before it binds.

        Raises
        ------
        KeyFileError
            The keys can't be read.
        """
        if self._folder is not None:
            self._folder.secure(socket)

    def is_operator(self, frame: zmq.Frame) -> bool:
        """Whether a received frame came from a client that may give commands."""
        if self._folder is None:
            return False
        try:
            return self._folder.role_of(str(frame.get(_USER_ID)).encode()) == "operator"
        except (KeyFileError, OSError) as error:
            logger.error("a command is refused, since %s", error)
            return False

    def callback(self, _domain: str, key: bytes) -> bool:
        """Whether this public key is let in; called by ZeroMQ's thread for each new connection."""
        try:
            role = self._folder.role_of(key) if self._folder is not None else None
        except (KeyFileError, OSError) as error:  # anything raised would end ZeroMQ's thread
            self._tell_refused(str(error))
            return False
        if role is None:
            self._tell_refused(f"{key.decode()} isn't on the list")
            return False
        if role not in self._roles:
            self._tell_refused(f"{key.decode()} is a {role}, not a {' or '.join(self._roles)}")
            return False
        return True

    def _tell_refused(self, why: str) -> None:
        """Clients try again many times per second."""
        self._refused += 1
        if time.monotonic() >= self._next_tell:
            self._next_tell = time.monotonic() + _TELL_EVERY_S
            logger.warning("%d connections refused so far: key %s", self._refused, why)


_QUIET = logging.getLogger(f"{__name__}.zap")
_QUIET.setLevel(logging.WARNING)  # a line per connection otherwise
