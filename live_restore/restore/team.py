"""Several GPUs of one computer, each with a restorer of its own."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from live_restore.restore.model import Model
from live_restore.restore.restorer import RcanRestorer
from live_restore.volume import GrowingVolume, Restored, Volume

__all__ = ["RestorerTeam"]


class RestorerTeam:
    """Restores as many volumes at once as it has members; each takes the next volume that comes.

    A member remembers what it restored itself: its "previous" volume of a stream may be a few before.
    Planes of volumes that still grow aren't worked on, since who will restore them isn't known.

    Parameters
    ----------
    members : sequence of RcanRestorer
        One per device.
    """

    def __init__(self, members: Sequence[RcanRestorer]) -> None:
        self.members = tuple(members)
        self._idle: queue.SimpleQueue[RcanRestorer] = queue.SimpleQueue()
        self._entered = ExitStack()

    @property
    def model(self) -> Model:
        """All have the same."""
        return self.members[0].model

    @property
    def device_name(self) -> str:
        """For people: those of all."""
        return ", ".join(member.device_name for member in self.members)

    @property
    def precision(self) -> str:
        """All have the same, unless their GPUs are unlike each other."""
        return ", ".join(dict.fromkeys(member.precision for member in self.members))

    @property
    def num_workers(self) -> int:
        """How many members it has."""
        return len(self.members)

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            for member in self.members:
                self._idle.put(opening.enter_context(member))
            self._entered = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered.close()

    def restore(self, volume: Volume) -> Restored:
        """See `Restorer.restore`; waits for a member where all are at work."""
        member = self._idle.get()
        try:
            return member.restore(volume)
        finally:
            self._idle.put(member)

    def advance(self, growing: Sequence[GrowingVolume]) -> bool:  # noqa: ARG002
        """Nothing."""
        return False
