"""Restoring volumes with a 3D RCAN. `open_restorer` imports torch; this module alone doesn't."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from live_restore.profile import ModelSettings

if TYPE_CHECKING:
    from live_restore.restore.restorer import Examiner, RcanRestorer
    from live_restore.restore.team import RestorerTeam

__all__ = ["open_restorer"]


def open_restorer(
    settings: ModelSettings, open_examiner: Callable[[Path], Examiner] | None = None
) -> RcanRestorer | RestorerTeam:
    """The restorer that a profile asks for; enter it to move the model to its device.

    Parameters
    ----------
    settings : ModelSettings
        What restores.
    open_examiner : callable, optional
        From the model's file to who judges its volumes; called once per device.

    Raises
    ------
    ModelError, RestoreError
        The model can't be loaded, or the device isn't there.
    """
    import torch

    from live_restore.restore.manner import Manner
    from live_restore.restore.model import load_model
    from live_restore.restore.restorer import RcanRestorer
    from live_restore.restore.team import RestorerTeam

    manner = Manner(
        settings.tile_zyx,
        settings.attention,
        settings.normalisation,
        settings.normalisation_volumes,
        settings.largest_difference,
        settings.memory_mb * 2**20 if settings.memory_mb else None,
    )
    if settings.threads:
        torch.set_num_threads(settings.threads)
    model = load_model(settings.path)
    members = [
        RcanRestorer(
            model,
            device,
            settings.precision,
            settings.output_dtype,
            manner,
            open_examiner(model.path) if open_examiner else None,
        )
        for device in settings.device.split(",")
    ]
    return members[0] if len(members) == 1 else RestorerTeam(members)
