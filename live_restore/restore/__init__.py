"""Restoring volumes with a 3D RCAN. `open_restorer` imports torch; this module alone doesn't."""

from __future__ import annotations

from typing import TYPE_CHECKING

from live_restore.profile import ModelSettings

if TYPE_CHECKING:
    from live_restore.restore.restorer import RcanRestorer

__all__ = ["open_restorer"]


def open_restorer(settings: ModelSettings) -> RcanRestorer:
    """The restorer that a profile asks for; enter it to move the model to its device.

    Raises
    ------
    ModelError, RestoreError
        The model can't be loaded, or the device isn't there.
    """
    from live_restore.restore.manner import Manner
    from live_restore.restore.model import load_model
    from live_restore.restore.restorer import RcanRestorer

    manner = Manner(
        settings.tile_zyx,
        settings.attention,
        settings.normalisation,
        settings.normalisation_volumes,
        settings.largest_difference,
        settings.memory_mb * 2**20 if settings.memory_mb else None,
    )
    return RcanRestorer(
        load_model(settings.path),
        settings.device,
        settings.precision,
        settings.output_dtype,
        manner,
    )
