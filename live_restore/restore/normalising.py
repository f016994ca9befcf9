"""The normalisation of a stream of volumes: steady, so that a time-lapse doesn't flicker."""

from __future__ import annotations

from collections import deque
from typing import Literal

from live_restore.restore.intensity import IntensityRange

__all__ = ["NormalisationMode", "SteadyRange"]

NormalisationMode = Literal["running", "locked", "per_volume"]
"""``per_volume``: each by its own percentiles, as published. ``running``: by the mean of the last few
before it. ``locked``: by the mean of the first few, for the rest of the acquisition."""

_FACTOR = 2.0  # of the width
_SHIFT = 0.5  # of the low end, in widths


class SteadyRange:
    """The counts that become 0 and 1, of one position and channel over time.

    A volume is normalised by those before it, so that it can be restored before its last plane is
    there; the first by itself. One that is unlike those before it is too, in mode ``running``,
    and begins a new average.

    Parameters
    ----------
    mode : str
        See `NormalisationMode`.
    num_volumes : int
        How many are averaged.
    """

    def __init__(self, mode: NormalisationMode, num_volumes: int) -> None:
        self._mode = mode
        self._last: deque[IntensityRange] = deque(maxlen=num_volumes)
        self._drifted = False

    @property
    def expected(self) -> IntensityRange | None:
        """For the next volume, if it is like those before it; none where it is normalised by itself."""
        if self._mode == "per_volume" or not self._last:
            return None
        n = len(self._last)
        return IntensityRange(
            sum(one.low for one in self._last) / n,
            sum(one.high for one in self._last) / n,
            self._last[0].epsilon,
        )

    def settle(
        self, own: IntensityRange, is_next: bool = True
    ) -> tuple[IntensityRange, str | None]:
        """The range for a volume, and a warning where it begins to be unlike those before it.

        Parameters
        ----------
        own : IntensityRange
            The volume's.
        is_next : bool
            It follows those before it; otherwise nothing is learnt from it.
        """
        used = self.expected
        is_alike = used is None or not is_unlike(own, used)
        if used is None or (self._mode == "running" and not is_alike):
            used = own
        before, self._drifted = self._drifted, not is_alike
        warning = None if is_alike or before else _warning(own, self.expected or own)
        if is_next and self._mode == "running":
            if not is_alike:
                self._last.clear()
            self._last.append(own)
        elif is_next and len(self._last) < (self._last.maxlen or 0):
            self._last.append(own)
        return used, warning


def _warning(own: IntensityRange, used: IntensityRange) -> str:
    return (
        f"intensities jump: their percentiles are {own.low:.0f} and {own.high:.0f} counts, of the "
        f"volumes before {used.low:.0f} and {used.high:.0f}. Check focus, light and bleaching"
    )


def is_unlike(own: IntensityRange, used: IntensityRange) -> bool:
    """Whether a volume's own range differs so much from the one in use that a model may not hold."""
    ratio = own.width / used.width
    return not 1 / _FACTOR <= ratio <= _FACTOR or abs(own.low - used.low) > _SHIFT * used.width
