"""Trust: how much light a volume had, how far its restoration is from the truth, and what to do."""

from __future__ import annotations

from pathlib import Path

from live_restore.guard.camera import find_camera
from live_restore.guard.envelope import Envelope, envelope_beside
from live_restore.guard.guard import Guard
from live_restore.profile import GuardSettings

__all__ = ["Guard", "open_guard"]


def open_guard(settings: GuardSettings, model: Path) -> Guard:
    """The guard that a profile asks for.

    Parameters
    ----------
    settings : GuardSettings
        What is asked for.
    model : pathlib.Path
        File of the model whose volumes are judged.

    Raises
    ------
    CalibrationError
        The camera's calibration or the envelope can't be read.
    """
    camera = find_camera(settings.camera) if settings.camera else None
    path = settings.envelope
    if path is not None and str(path) == "default":
        beside = envelope_beside(model)
        path = beside if beside.is_file() else None
    envelope = Envelope.load(path) if path is not None else None
    return Guard(camera, envelope, settings.target_nrmse, settings.budget)
