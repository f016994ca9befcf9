"""Where restored volumes go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from live_restore.interfaces import Sink
from live_restore.profile import Profile
from live_restore.sinks.publisher import Publisher
from live_restore.sinks.writer import Writer

__all__ = ["open_sinks"]


def open_sinks(
    profile: Profile,
    commands: Mapping[str, Callable[[], str]] | None = None,
    status: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, Sink]:
    """The sinks that a profile asks for, by name; enter each to open it.

    Parameters
    ----------
    profile : Profile
        What is asked for.
    commands : mapping of str to callable, optional
        What the control port's authorised clients can have done, see `Publisher`.
    status : mapping of str to callable, optional
        What else the control port's status tells, likewise.
    """
    sinks: dict[str, Sink] = {}
    if profile.publish is not None:
        sinks["publish"] = Publisher(profile.publish, commands, status)
    if profile.write is not None:
        sinks["write"] = Writer(profile.write)
    return sinks
