"""Volumes of which some planes went through the network before the last one came."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from live_restore.restore.engine import Engine, Pooled
from live_restore.restore.history import History
from live_restore.restore.intensity import IntensityRange
from live_restore.restore.loss import is_loss, lacks_memory
from live_restore.restore.sweep import Sweep
from live_restore.volume import GrowingVolume, VolumeKey

__all__ = ["Underway"]

logger = logging.getLogger(__name__)

_FEWEST_PLANES = 4  # at once


@dataclass(slots=True)
class _Begun:
    sweep: Sweep
    span: IntensityRange
    pooled: Pooled


class Underway:
    """Begins volumes with the normalisation and the attention of the one before, which must be known.

    Parameters
    ----------
    engine : callable
        Gives the engine in use.
    history : History
        Of the streams.
    """

    def __init__(self, engine: Callable[[], Engine], history: History) -> None:
        self._engine = engine
        self._history = history
        self._begun: dict[VolumeKey, _Begun] = {}
        self._waiting: set[VolumeKey] = set()  # for their last plane

    def advance(self, growing: Sequence[GrowingVolume]) -> bool:
        """See `Restorer.advance`. Volumes that take more than one tile wait for their last plane.

        So do those that fail at a device, which `Restorer.restore` deals with: the others may go on.
        """
        keys = {one.key for one in growing}
        self._waiting &= keys
        for key in self._begun.keys() - keys:
            self._engine().give_back(self._begun.pop(key).sweep)
        for one in growing:
            if one.key in self._waiting:
                continue
            try:
                if self._advance(one):
                    return True
            except Exception as error:
                self._begun.pop(one.key, None)  # half done
                if not lacks_memory(error) and not is_loss(error):
                    self.clear()  # nobody may ask for them any more
                    raise
                self._waiting.add(one.key)
                logger.warning("%s: waits for its last plane: %s", one.key, error)
        return False

    def _advance(self, growing: GrowingVolume) -> bool:
        begun = self._begun.get(growing.key) or self._begin(growing)
        if begun is None or growing.num_planes - begun.sweep.num_given < _FEWEST_PLANES:
            return False
        sweep, num_planes = begun.sweep, growing.num_planes
        planes = begun.span.normalise(growing.data[sweep.num_given : num_planes])
        sweep.put(sweep.num_given, torch.from_numpy(planes))
        sweep.advance(num_planes)
        return True

    def take(self, key: VolumeKey, span: IntensityRange, pooled: Pooled | None) -> Sweep | None:
        """What was begun of a volume, if it was with this normalisation and attention."""
        begun = self._begun.pop(key, None)
        if begun is None:
            return None
        if begun.span != span or begun.pooled is not pooled:
            self._engine().give_back(begun.sweep)
            return None
        return begun.sweep

    def clear(self) -> None:
        """Forget all."""
        self._begun.clear()

    def _begin(self, growing: GrowingVolume) -> _Begun | None:
        shape = growing.info.shape_zyx
        stream = self._history.of(growing.key, growing.info)
        span, pooled = stream.range.expected, stream.pooled
        if span is None or pooled is None or growing.num_planes < _FEWEST_PLANES:
            return None
        engine = self._engine()
        if len(engine.plan(shape)) > 1 or not engine.has_room(shape, len(self._begun)):
            return None
        begun = _Begun(engine.take(shape), span, pooled)
        begun.sweep.begin(pooled)
        self._begun[growing.key] = begun
        return begun
