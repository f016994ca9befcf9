"""From a configuration to where its pairs come from."""

from __future__ import annotations

from live_restore.train.config import SimulatedPairs, TrainConfig
from live_restore.train.measured import FolderOrigin, ThinnedOrigin
from live_restore.train.pairs import Origin
from live_restore.train.simulated import SimulatedOrigin

__all__ = ["open_origin"]


def open_origin(config: TrainConfig) -> Origin:
    """Read or simulate the volumes of a training run.

    Raises
    ------
    SourceError, ProfileError
        Folders, files or settings that can't be used.
    """
    if config.pairs is not None:
        return FolderOrigin(config.pairs, config.normalisation, config.validation, config.seed)
    if config.thinning is not None:
        return ThinnedOrigin(config.thinning, config.normalisation, config.validation, config.seed)
    simulation = (
        config.simulation or SimulatedPairs()
    )  # the configuration has exactly one of the three
    return SimulatedOrigin(simulation, config.normalisation, config.seed)
