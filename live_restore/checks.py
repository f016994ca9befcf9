"""Tries everything that a profile needs, without acquiring or restoring anything of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import zmq

from live_restore.errors import LiveRestoreError, SourceError
from live_restore.guard import open_guard
from live_restore.profile import (
    AcquisitionSource,
    FolderSource,
    IngestSource,
    MicroManagerSource,
    Profile,
    PublishSettings,
    WriteSettings,
)
from live_restore.record import open_metrics
from live_restore.restore import open_restorer
from live_restore.restore.model_folder import find_model
from live_restore.sinks.publisher import Publisher
from live_restore.sinks.writer import Writer
from live_restore.sources import open_source
from live_restore.sources.bridge.inquiry import BRIDGE_MB_PER_S, inquire

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
    if isinstance(profile.source, MicroManagerSource):
        yield from _check_micro_manager(profile.source)
    else:
        is_folder = isinstance(profile.source, FolderSource)
        yield _try("source.path" if is_folder else "source", lambda: _check_source(profile))
    yield _try("model.path", lambda: _check_model(profile))
    yield _try("guard", lambda: _check_guard(profile))
    publish, write = profile.publish, profile.write
    if publish is not None:
        yield _try("publish.endpoint", lambda: _check_publish(publish))
    if profile.metrics is not None:
        yield _try("metrics.port", lambda: _check_metrics(profile))
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
                if profile.source.backend == "java":
                    return (
                        f"Micro-Manager answers on port {profile.source.port}; channels are known"
                    )
                return f"Micro-Manager ({folder}) starts with {config}; its channels are known"
            case IngestSource(endpoint=endpoint):
                return f"{endpoint} can be opened for planes"
            case _:
                return f"{type(source).__name__.lower()} microscope"


def _check_micro_manager(settings: MicroManagerSource) -> Iterator[Finding]:
    """Whether it can be followed, and whether that will be fast enough."""
    try:
        told = inquire(settings.port)
    except SourceError as error:
        yield Finding("source.port", False, str(error))
        return
    version = f"Micro-Manager {told.version or '(version not told)'}"
    yield Finding("source.port", True, f"{version} answers on port {settings.port}")
    if told.is_displayed is not None:
        yield Finding(
            "display",
            told.is_displayed,
            "the next acquisition has a window, by which it is found"
            if told.is_displayed
            else "the next acquisition has no window, by which it is found surely: turn on Display "
            "in the acquisition dialog's settings",
        )
    if told.save_path is not None:
        mode = f" ({told.save_mode})" if told.save_mode else ""
        saved = f"the next acquisition is saved in {told.save_path}{mode}"
        yield Finding(
            "saving",
            True,
            saved if told.save_path else "the next acquisition isn't saved: it is in memory only",
        )
    rate = told.most_mb_per_s
    if rate is not None:
        size = (
            f"{told.height} x {told.width} every {told.exposure_ms:g} ms: at most {rate:.0f} MB/s"
        )
        is_slow = rate <= BRIDGE_MB_PER_S
        carries = f"Micro-Manager's bridge carries about {BRIDGE_MB_PER_S:g}"
        if is_slow:
            found = f"{size}; {carries}"
        elif told.save_path:
            found = f"{size}; {carries}: where it falls behind, the saved files are read instead"
        else:
            found = f"{size}; {carries}: have the acquisition saved, so that its files can be read"
        yield Finding("rate", is_slow or told.save_path != "", found)


def _check_model(profile: Profile) -> str:
    with open_restorer(profile.model) as restorer:
        card = restorer.model.card
        return f"{card.name} runs on {restorer.device_name} in {restorer.precision}"


def _check_guard(profile: Profile) -> str:
    guard = open_guard(profile.guard, find_model(profile.model.path))
    camera = f"camera {guard.camera.name}" if guard.camera else "no camera calibration"
    if guard.envelope is None:
        return f"{camera}; no envelope: no verdicts, see live-restore characterize"
    card = guard.envelope.card
    if guard.camera is None or not card.camera.fits(guard.camera):
        return (
            f"{camera}; the envelope is of {card.camera.name}: no verdicts. Calibrate your camera and "
            "characterize the model with it"
        )
    coverage = guard.envelope.coverage
    sure = f"its bound covers {coverage:.0%}" if coverage else "too few for a coverage"
    return f"{camera}; envelope of {card.num_acquisitions} acquisitions, {sure}"


def _check_publish(settings: PublishSettings) -> str:
    with Publisher(settings):
        ports = [port for port in (settings.endpoint, settings.control) if port]
        return f"{' and '.join(ports)} can be opened"


def _check_metrics(profile: Profile) -> str:
    with open_metrics(profile) or nullcontext():
        return "the port for metrics can be opened"


def _check_write(settings: WriteSettings) -> str:
    with Writer(settings):
        return f"folder {settings.folder} can be written to"
