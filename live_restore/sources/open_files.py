"""Finished files that are open: the latest one's stacks go first, then those it interrupted."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from live_restore.errors import SourceError
from live_restore.interfaces import Event
from live_restore.ledger import Ledger, Origin, Place
from live_restore.profile import FolderSource
from live_restore.sources.arrivals import Arrival, Arrivals
from live_restore.sources.finished import Finished
from live_restore.sources.stacks import Stack, open_stack, stack_suffix

__all__ = ["OpenFiles"]

logger = logging.getLogger(__name__)

_MOST = 4
_OPEN_RETRY_S = 5.0  # a file that doesn't open may still be on its way: warn only after this
_BUSY_S = 0.2  # until a file is tried again that is open as it was before
_MAY_PASS = frozenset(  # troubles that leave no trace in a file's time when they are over
    {
        *(errno.EACCES, errno.EPERM, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EMFILE),
        *(errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTUNREACH),
    }
)


class OpenFiles:
    """The finished files that are being taken, a few at most.

    Parameters
    ----------
    settings : FolderSource
        How files are taken.
    arrivals : Arrivals
        Where files come from: it is told which were taken up.
    name : callable
        Gives a file's acquisition its name.
    ledger : Ledger, optional
        Knows what was restored before this program started.
    """

    def __init__(
        self,
        settings: FolderSource,
        arrivals: Arrivals,
        name: Callable[[Path], str],
        ledger: Ledger | None = None,
    ) -> None:
        self._settings = settings
        self._arrivals = arrivals
        self._name = name
        self._ledger = ledger
        self._open: list[Finished] = []
        self._denied: set[Path] = set()
        self._interrupted: dict[Path, tuple[str, set[Place]]] = {}  # version, what was given

    @property
    def is_full(self) -> bool:
        """Whether no other may interrupt them."""
        return len(self._open) >= _MOST

    @property
    def latest(self) -> list[Finished]:
        """The one whose turn it is, if there is one."""
        return self._open[-1:]

    @property
    def paths(self) -> set[Path]:
        """Which are open."""
        return {one.path for one in self._open}

    def take_up(self, arrival: Arrival) -> None:
        """Open a file whose turn has come; one that can't be taken is told of."""
        path = arrival.path
        if stack_suffix(path.name) is None:
            logger.warning("%s: not a known kind of stack, left alone", path)
            self._arrivals.leave(arrival)
            return
        if path in self.paths:  # it was changed, and that will be noticed
            self._arrivals.postpone(arrival, time.monotonic() + _BUSY_S)
            return
        origin = Origin(str(path), arrival.version)
        if self._ledger and self._ledger.is_done(origin):
            logger.debug("%s: restored before", path)
            self._arrivals.leave(arrival)
            return
        with ExitStack() as opened:
            try:
                stack = opened.enter_context(
                    open_stack(path, self._name(path), self._settings.voxel_size_um)
                )
                has_gaps = stack.has_gaps
            except (SourceError, OSError) as error:
                self._tell_unopened(arrival, error)
                return
            if has_gaps and not self._is_idle(arrival):
                return
            self._open.append(self._take(arrival, stack, opened.pop_all()))
        if has_gaps:
            logger.warning(
                "%s: parts of it were never written; they are taken as zeros. Was the acquisition stopped, "
                "or is it still being copied?",
                path,
            )

    def put_away(self, finished: Finished) -> bool:
        """One is over; whether it is wanted again when it is seen."""
        self._open.remove(finished)
        if finished.is_wanted_again:
            self._interrupted[finished.path] = finished.version, finished.given
        return finished.is_wanted_again

    def forget(self, path: Path) -> None:
        """All of a file's stacks are wanted when it comes again."""
        self._interrupted.pop(path, None)

    def end(self, reason: str) -> Iterator[Event]:
        """The ends of all."""
        while self._open:
            yield from self._open.pop().end(reason)

    def close(self) -> None:
        """Close all."""
        for one in self._open:
            one.close()

    def _take(self, arrival: Arrival, stack: Stack, opened: ExitStack) -> Finished:
        path, version = arrival.path, arrival.version
        logger.info("%s: %s", path.name, _describe(stack))
        self._arrivals.settle(arrival)
        self._denied.discard(path)
        unwanted: set[Place] = set()
        if self._ledger:
            unwanted |= self._ledger.settled(Origin(str(path), version))
        interrupted_version, given = self._interrupted.pop(path, ("", set()))
        if interrupted_version == version:
            unwanted |= given
        return Finished(path, version, stack, opened, is_live=arrival.is_live, unwanted=unwanted)

    def _is_idle(self, arrival: Arrival) -> bool:
        """Whether a stack with gaps has stood still for so long that they won't be filled."""
        idle_s = self._settings.idle_s
        still_s = max(time.monotonic() - arrival.since_s, arrival.age_s)
        if still_s < idle_s:
            self._arrivals.postpone(arrival, time.monotonic() + idle_s - still_s)
        return still_s >= idle_s

    def _tell_unopened(self, arrival: Arrival, error: Exception) -> None:
        """A file that can't be opened is left alone, unless that may change without a trace."""
        path = arrival.path
        cause = error if isinstance(error, OSError) else error.__cause__
        is_lacking = isinstance(cause, FileNotFoundError)  # it, or what it is made of
        if is_lacking and not os.path.exists(path):  # noqa: PTH110 - never raises
            self._arrivals.drop(path)  # it is listed again when it is back
        elif 0 <= arrival.age_s < _OPEN_RETRY_S:  # slow writers pause in mid-file
            self._arrivals.postpone(arrival, time.monotonic() + _OPEN_RETRY_S - arrival.age_s)
        elif isinstance(cause, OSError) and (is_lacking or cause.errno in _MAY_PASS):
            self._arrivals.drop(path)
            if path not in self._denied:
                self._denied.add(path)
                logger.warning(
                    "%s: can't be read (%s). See to its permissions, or to the disk or share that it "
                    "lies on; it is tried again at each re-scan",
                    path,
                    cause.strerror or cause,
                )
        else:
            logger.warning("%s, left alone", error)
            self._arrivals.leave(arrival)


def _describe(stack: Stack) -> str:
    info = stack.info
    voxel = info.voxel_size_um
    size = " x ".join(f"{v:.3g}" for v in voxel) + " um" if voxel else "voxel size unknown"
    counts = {
        "positions": len(info.positions),
        "time points": stack.num_times,
        "channels": len(info.channels),
    }
    several = "".join(f"{n} {name}, " for name, n in counts.items() if n > 1)
    return f"{several}{info.shape_zyx} {info.dtype}, {size}"
