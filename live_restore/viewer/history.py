"""Volumes that were shown lately, and their projections."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.messages import Header, Kind, VolumeMessage

__all__ = ["Held", "History", "VolumeName"]


@dataclass(frozen=True, slots=True)
class VolumeName:
    """Which volume of a daemon's session.

    Attributes
    ----------
    kind : {"restored", "raw"}
        Which of the two.
    position, channel : str
        The stream.
    sequence : int
        Its number there.
    """

    kind: Kind
    position: str
    channel: str
    sequence: int


class Held:
    """A volume in memory.

    Attributes
    ----------
    header : Header
        As received.
    data : ndarray, (Z, Y, X)
        As received, little-endian.
    """

    def __init__(self, message: VolumeMessage) -> None:
        self.header: Header = message.header
        self.data: NDArray[Any] = message.data
        self._projections: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = None
        self._lock = threading.Lock()

    @property
    def projections(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Maxima along z, y and x: (Y, X), (Z, X) and (Z, Y); made when first asked for, from any thread."""
        with self._lock:
            if self._projections is None:
                data = self.data
                along_y = np.stack([plane.max(axis=0) for plane in data])
                along_x = np.stack([plane.max(axis=1) for plane in data])
                self._projections = data.max(axis=0), along_y, along_x
            return self._projections


class History:
    """The volumes that were shown last, up to a size.

    Parameters
    ----------
    capacity_bytes : int
        Of all together; the last one is held whatever its size.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._held: OrderedDict[VolumeName, Held] = OrderedDict()
        self._nbytes = 0

    def __len__(self) -> int:
        """How many volumes are held."""
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes of all volumes that are held."""
        return self._nbytes

    def keep(self, name: VolumeName, held: Held) -> None:
        """Hold one more, and let go those that were shown longest ago."""
        before = self._held.pop(name, None)
        if before is not None:
            self._nbytes -= before.data.nbytes
        self._held[name] = held
        self._nbytes += held.data.nbytes
        while self._nbytes > self._capacity_bytes and len(self._held) > 1:
            _, oldest = self._held.popitem(last=False)
            self._nbytes -= oldest.data.nbytes

    def find(self, name: VolumeName) -> Held | None:
        """One that is held, which counts as shown again."""
        held = self._held.get(name)
        if held is not None:
            self._held.move_to_end(name)
        return held

    def clear(self) -> None:
        """Let all go."""
        self._held.clear()
        self._nbytes = 0
