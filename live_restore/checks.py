"""Tries everything that a profile needs, without acquiring or restoring anything of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zmq

from live_restore.errors import LiveRestoreError
from live_restore.profile import (
    AcquisitionSource,
    FolderSource,
    Profile,
    PublishSettings,
    WriteSettings,
)
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
        The profile's key.
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
    is_folder = isinstance(profile.source, FolderSource)
    yield _try("source.path" if is_folder else "source", lambda: _check_source(profile))
    yield _try("model.path", lambda: _check_model(profile))
    publish, write = profile.publish, profile.write
    if publish is not None:
        yield _try("publish.endpoint", lambda: _check_publish(publish))
    if write is not None:
        yield _try("write.folder", lambda: _check_write(write))


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


def _check_publish(settings: PublishSettings) -> str:
    with Publisher(settings):
        ports = [port for port in (settings.endpoint, settings.control) if port]
        return f"{' and '.join(ports)} can be opened"


def _check_write(settings: WriteSettings) -> str:
    with Writer(settings):
        return f"folder {settings.folder} can be written to"
