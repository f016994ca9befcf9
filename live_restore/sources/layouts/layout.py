"""What the ways in which acquisitions are laid out on disk have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from live_restore.sources.layouts.plane import PlaneOnDisk

__all__ = ["Layout", "LayoutInfo"]


@dataclass(frozen=True, slots=True)
class LayoutInfo:
    """What is known of an acquisition so far; None and empty where it isn't.

    Attributes
    ----------
    num_slices, num_times : int or None
        Planes per stack and time points, as planned.
    channels, positions : tuple of str
        Names: as planned, or those that were met so far.
    pixel_size_um, z_step_um : float or None
        Sizes.
    """

    num_slices: int | None = None
    num_times: int | None = None
    channels: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    z_step_um: float | None = None


class Layout(Protocol):
    """One acquisition on disk, finished or still growing. Used from one thread.

    Attributes
    ----------
    name : str
        Of the way in which it is laid out, for people.
    path : pathlib.Path
        The acquisition's folder, the same whichever of its files it was recognised by.
    """

    name: str
    path: Path

    def info(self) -> LayoutInfo:
        """What is known so far: of planes that `poll` gave, and of the files' headers."""
        ...

    def poll(self) -> Iterator[PlaneOnDisk]:
        """Planes that have become whole since the last poll, each once.

        Read lazily: what isn't taken from the iterator comes with the next poll. Nothing is kept
        open between polls.

        Raises
        ------
        SourceError
            A file vanished, can't be read or is damaged. Poll again: what is lost for good was
            told this once and isn't tried again, what came back goes on.
        """
        ...

    def is_ended(self) -> bool | None:
        """Whether the files say that the acquisition is over *and* `poll` has given all of it.

        As of the last poll that was taken to its end. None when the files can't tell.
        """
        ...

    def close(self) -> None:
        """Let go of the acquisition. Planes that were given can still be read."""
        ...
