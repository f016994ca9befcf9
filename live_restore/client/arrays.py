"""Arrays that are filled again and again, for viewers that don't keep volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.messages import Header

__all__ = ["ReusedArrays"]


class ReusedArrays:
    """Gives the same few arrays in turn: no memory is asked for while volumes come.

    A new array costs more time than to copy a volume into one that is there, because the system
    maps its pages one by one. An array is filled again after `count` volumes: copy what is kept.

    Parameters
    ----------
    count : int
        How many volumes stay untouched at a time, at least 1.
    """

    def __init__(self, count: int = 2) -> None:
        if count < 1:
            raise ValueError(f"at least one array is needed, not {count}")
        self._arrays: list[NDArray[Any] | None] = [None] * count
        self._turn = 0

    def __call__(self, header: Header) -> NDArray[Any]:
        """The array for the volume that `header` describes."""
        array = self._arrays[self._turn]
        if array is None or array.shape != header.shape or array.dtype != np.dtype(header.type):
            array = self._arrays[self._turn] = np.empty(header.shape, dtype=header.type)
        self._turn = (self._turn + 1) % len(self._arrays)
        return array
