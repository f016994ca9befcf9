"""Tries everything that a profile needs, without acquiring or restoring anything of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zmq

from live_restore.errors import LiveRestoreError
from live_restore.profile import AcquisitionSource, FolderSource, Profile
from live_restore.restore import open_restorer
from live_restore.sinks.publisher import Publisher
from live_restore.sinks.writer import Writer
from live_restore.sources import open_source

__all__ = ["Finding", "check_profile"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes
    ----------
    what : str
        The profile's key or table.
    is_good : bool
        Whether it worked.
    found : str
        What was found, or what is wrong and its remedy.
    """

    what: str
    is_good: bool
    found: str


def check_profile(profile: Profile) -> Iterator[Finding]:
    """Try what a profile needs, one thing after the other; no failure stops the others."""
    yield _try("source", lambda: _check_source(profile))
    yield _try("model", lambda: _check_model(profile))
    if profile.publish is not None:
        yield _try("publish", lambda: _check_publish(profile))
    if profile.write is not None:
        yield _try("write", lambda: _check_write(profile))


def _try(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except (LiveRestoreError, OSError, zmq.ZMQError) as error:
        return Finding(what, False, str(error))


def _check_source(profile: Profile) -> str:
    with open_source(profile) as source:
        match profile.source:
            case FolderSource(path=path):
                return f"folder {path.resolve()} can be watched"
            case AcquisitionSource(micro_manager=folder, config_file=config):
                return f"Micro-Manager ({folder}) starts with {config}; its channels are known"
            case _:
                return f"{type(source).__name__.lower()} microscope"


def _check_model(profile: Profile) -> str:
    with open_restorer(profile.model) as restorer:
        card = restorer.model.card
        return f"{card.name} runs on {restorer.device_name} in {restorer.precision}"


def _check_publish(profile: Profile) -> str:
    assert profile.publish is not None  # noqa: S101
    with Publisher(profile.publish):
        return f"{profile.publish.endpoint} is free"


def _check_write(profile: Profile) -> str:
    assert profile.write is not None  # noqa: S101
    folder: Path = profile.write.folder
    with Writer(profile.write):
        return f"folder {folder} can be written to"
