"""What light each volume and each position got: exposure times power, summed over planes."""

from __future__ import annotations

import threading

from live_restore.light import Light
from live_restore.volume import Plane, Volume, VolumeKey

__all__ = ["DoseLedger"]

_MOST_POSITIONS = 32_768
_MOST_VOLUMES = 100_000  # that came in part, and of which nothing more was heard

_Sum = float | None
"""None once something unknown was added."""


class DoseLedger:
    """Counts the light of all planes that come, also of those that are never restored; thread-safe.

    Planes that never reached this program aren't counted, nor what was spent outside of acquisitions, as by live
    viewing.

    Parameters
    ----------
    power : str or None
        Property that tells the light's power; it counts as 1 where none does.
    """

    def __init__(self, power: str | None = None) -> None:
        self.unit = f"ms x {power}" if power else "ms"
        self._needs_power = power is not None
        self._volumes: dict[
            VolumeKey, tuple[_Sum, _Sum]
        ] = {}  # its own, and its position's until then
        self._positions: dict[tuple[str, str], _Sum] = {}
        self._lock = threading.Lock()

    def count(self, plane: Plane) -> None:
        """Take a plane."""
        exposure, power = plane.exposure_ms, plane.power if self._needs_power else 1.0
        dose = None if exposure is None or power is None else exposure * power
        key, position = plane.key, (plane.key.acquisition, plane.key.position)
        with self._lock:
            total = _plus(self._positions.pop(position, 0.0), dose)
            self._positions[position] = total
            own, _ = self._volumes.get(key, (0.0, 0.0))
            self._volumes[key] = _plus(own, dose), total
            if len(self._positions) > _MOST_POSITIONS:
                del self._positions[next(iter(self._positions))]
            if len(self._volumes) > _MOST_VOLUMES:
                del self._volumes[next(iter(self._volumes))]

    def light_of(self, volume: Volume, of_own: float | None = None) -> Light:
        """What a volume got."""
        with self._lock:
            dose, total = self._volumes.get(volume.key, (None, None))
        return Light(volume.exposure_ms, volume.power, self.unit, dose, total, of_own)

    def settle(self, key: VolumeKey) -> None:
        """A volume was restored, or won't be: its own sum isn't asked for any more."""
        with self._lock:
            self._volumes.pop(key, None)


def _plus(total: _Sum, dose: _Sum) -> _Sum:
    return None if total is None or dose is None else total + dose
