"""A volume's passes through the network: until its attention looked at what it should, in tiles that memory is enough for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from live_restore.errors import RestoreError
from live_restore.restore.engine import Engine, Pooled
from live_restore.restore.loss import lacks_memory
from live_restore.restore.manner import AttentionMode
from live_restore.restore.output import NotFiniteError
from live_restore.restore.sweep import Sweep

__all__ = ["Once", "Result", "restore_in_memory"]

logger = logging.getLogger(__name__)

_MOST_PASSES = 4
# Differences of a channel's weight, of 1. The first leaves tiles within 1e-4 of the whole volume (of the
# intensity range, largest; on the fly brain), the second within 0.01, on average 5e-4.
_AGREES = 1e-3
_AGREES_WITH_PREVIOUS = 0.05

Once = Callable[[Pooled | None, Sweep | None], NDArray[Any]]
"""One pass: from what the attention looks at, and what was begun with that, to the restored volume."""


@dataclass(slots=True)
class Result:
    """A restored volume.

    Attributes
    ----------
    data : ndarray, (Z, Y, X)
        Counts.
    attention : {"whole", "previous", "tile"}
        What it looked at.
    pooled : list of Tensor or None
        What the attention of the next volume may look at.
    remarks : list of str
        What was unusual.
    """

    data: NDArray[Any]
    attention: AttentionMode
    pooled: Pooled | None
    remarks: list[str] = field(default_factory=list)


def restore_in_memory(
    engine: Engine,
    shape_zyx: tuple[int, int, int],
    previous: Pooled | None,
    once: Once,
    begun: Sweep | None,
    let_go: Callable[[], None],
) -> Result:
    """The result, in smaller tiles if memory runs out.

    Parameters
    ----------
    engine : Engine
        What `once` runs.
    shape_zyx : tuple of int
        Of the volume.
    previous : list of Tensor or None
        What the attention may look at, of the volume before.
    once : callable
        Restores the volume once.
    begun : Sweep or None
        The volume, as far as it went with `previous` before it was whole.
    let_go : callable
        Called where memory runs out: frees what was begun of other volumes.

    Raises
    ------
    RestoreError
        Memory isn't enough for the smallest tiles, or the network's features aren't finite.
    """
    remarks: list[str] = []
    while True:
        try:
            result = _agreeing(engine, shape_zyx, previous, once, begun)
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            let_go()
            before, begun = engine.plan(shape_zyx).tile_zyx, None
            if not engine.shrink(shape_zyx):
                raise RestoreError(
                    f"not enough memory on {engine.device} for tiles of {before}: set a smaller "
                    f"tile_zyx in [model], or close other programs ({error})"
                ) from error
            remark = f"memory ran out: tiles are {engine.plan(shape_zyx).tile_zyx} from now on"
            logger.warning("%s, before they were %s", remark, before)
            remarks.append(remark)
            continue
        result.remarks += remarks
        return result


def _agreeing(
    engine: Engine,
    shape_zyx: tuple[int, int, int],
    previous: Pooled | None,
    once: Once,
    begun: Sweep | None,
) -> Result:
    """The result with an attention that looked at what it should."""
    pooled, tolerance = previous, _AGREES_WITH_PREVIOUS
    is_whole = len(engine.plan(shape_zyx)) == 1
    for _ in range(_MOST_PASSES):
        data = once(pooled, begun)
        begun = None
        seen = engine.pooled
        if seen is None:
            return Result(data, "tile", None)
        if not all(bool(one.isfinite().all()) for one in seen):
            raise NotFiniteError("the network's features aren't finite numbers")
        if pooled is None and is_whole:
            break
        if pooled is not None and engine.disagreement(pooled, seen) <= tolerance:
            break
        pooled, tolerance = seen, _AGREES
    is_previous = pooled is not None and pooled is previous
    return Result(data, "previous" if is_previous else "whole", seen)
