"""A finished file that is taken stack by stack."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

from live_restore.errors import SourceError
from live_restore.interfaces import Event, StopSignal
from live_restore.ledger import Place
from live_restore.sources.stacks import Stack, is_folder_stack, stack_version
from live_restore.volume import AcquisitionEnd, Plane

__all__ = ["Finished"]

logger = logging.getLogger(__name__)


class Finished:
    """One open file of stacks, of which each comes whole.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    version : str
        As of when it was found to stand still.
    stack : Stack
        Reads it.
    opened : contextlib.ExitStack
        Closes it.
    is_live : bool
        It is new; otherwise it has time.
    unwanted : container of Place
        Stacks that aren't wanted.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    version : str
        As given.
    is_over : bool
        All of it was given, or no more can be.
    is_wanted_again : bool
        It was replaced or vanished before it was given whole.
    given : set of Place
        Stacks that were given whole.
    turn : int
        For whoever lets several take turns.
    """

    def __init__(
        self,
        path: Path,
        version: str,
        stack: Stack,
        opened: ExitStack,
        *,
        is_live: bool,
        unwanted: Container[Place] = (),
    ) -> None:
        self.path = path
        self.version = version
        self.is_over = self.is_wanted_again = False
        self.given: set[Place] = set()
        self.turn = 0
        self._is_live = is_live
        self._info = replace(stack.info, version=version)
        self._opened = opened
        self._is_announced = False
        self._is_withheld = False
        self._planes = stack.planes(unwanted)
        places = product(stack.info.positions, range(stack.num_times), stack.info.channels)
        self._num_left = sum(1 for place in places if place not in unwanted)

    @property
    def has_new(self) -> bool:
        """Whether what it gives next is new."""
        return self._is_live and not self.is_over

    @property
    def has_old(self) -> bool:
        """Whether what it gives next has time."""
        return not self._is_live and not self.is_over

    def give(self, stop: StopSignal) -> Iterator[Event]:
        """The planes of its next stack, and its end after the last one; ends soon after `stop` is set."""
        problem = ""
        if not self._is_announced:
            self._is_announced = True
            yield self._info
        try:
            if self._num_left:
                yield from self._give_next(stop)
                if stop.is_set() and self._num_left:
                    return
        except (SourceError, OSError) as error:
            problem = str(error)
        version = stack_version(self.path)
        if version is None and (problem or self._is_withheld):
            problem = f"{self.path}: vanished while it was read; taken again when it is back"
            self.is_wanted_again = True
        elif version not in (None, self.version):
            problem = f"{self.path}: was changed or replaced while it was read; taken again"
            self.is_wanted_again = True
        if problem:
            logger.warning("%s", problem)
        if problem or not self._num_left:
            yield from self.end(problem or "finished")

    def end(self, reason: str) -> Iterator[Event]:
        """Its end, whatever it has left."""
        self.is_over = True
        self.close()
        if self._is_announced:
            yield AcquisitionEnd(self._info.acquisition, reason)

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def _give_next(self, stop: StopSignal) -> Iterator[Event]:
        """Give a stack, unless the file was changed or replaced meanwhile.

        Its last plane comes when that is known, so that no volume is made of two files, nor of parts
        of a folder that had gone.
        """
        last: Plane | None = None
        for plane in islice(self._planes, self._info.shape_zyx[0]):
            if stop.is_set():
                return
            if last is not None:
                yield last
            last = plane if self._is_live else replace(plane, is_live=False)
        version = stack_version(self.path)
        is_deleted_file = version is None and not is_folder_stack(self.path.name)
        self._is_withheld = version != self.version and not is_deleted_file
        if self._is_withheld:
            return
        self._num_left -= 1
        if last is not None:
            yield last
            self.given.add((last.key.position, last.key.time, last.key.channel))
