"""Series of identical exposures: what a camera is calibrated from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import CalibrationError

__all__ = ["Exposures", "check_alike", "find_saturation"]

_FEWEST_PIXELS = 32  # of a side: below it no level has enough of them
_PILED_UP = 20  # pixels at the top value
_PILE = 3.0  # times as many as of any value just below
_BELOW = 8  # values below the top


@dataclass(frozen=True, slots=True, eq=False)
class Exposures:
    """Frames that differ by noise alone.

    Parameters
    ----------
    name : str
        For messages.
    frames : ndarray, (N, Y, X)
        Camera counts, at least two frames, in the order in which they were taken; not modified.
    exposure_ms : float, optional
        Of each frame.

    Raises
    ------
    CalibrationError
        Too few or too small frames.
    """

    name: str
    frames: NDArray[Any]
    exposure_ms: float | None = None

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if len(shape) != 3 or shape[0] < 2 or min(shape[1:]) < _FEWEST_PIXELS:
            raise CalibrationError(
                f"{self.name}: frames of shape {shape}; expected two or more identical exposures of at "
                f"least {_FEWEST_PIXELS} x {_FEWEST_PIXELS} pixels, (frames, rows, columns)"
            )

    def pairs(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Each frame with the one after it, no frame twice: slow drift doesn't count then."""
        for number, (one, other) in enumerate(pairwise(self.frames)):
            if number % 2 == 0:
                yield one.astype(np.float32), other.astype(np.float32)

    @property
    def num_pairs(self) -> int:
        """How many `pairs` gives."""
        return len(self.frames) // 2


def check_alike(series: Sequence[Exposures]) -> None:
    """All are of one camera in one mode, as far as frames tell.

    Raises
    ------
    CalibrationError
        They differ in size or type.
    """
    first = series[0]
    for one in series[1:]:
        for what, its, expected in (
            ("of shape", one.frames.shape[1:], first.frames.shape[1:]),
            ("of type", one.frames.dtype, first.frames.dtype),
        ):
            if its != expected:
                raise CalibrationError(
                    f"{one.name}: frames {what} {its}, those of {first.name} are {expected}: take all "
                    "with one region of interest, binning and bit depth"
                )


def find_saturation(series: Sequence[Exposures]) -> float | None:
    """The count at which pixels pile up, None where they don't.

    A tail of noise thins out towards its top value; pixels that are full all have the same one.
    """
    if series[0].frames.dtype.kind not in "ui":
        return None
    top = max(int(one.frames.max()) for one in series)
    numbers = np.zeros(_BELOW + 1, dtype=np.int64)
    for one in series:
        high = one.frames[one.frames >= max(0, top - _BELOW)]
        numbers += np.bincount(top - high.astype(np.int64), minlength=_BELOW + 1)[: _BELOW + 1]
    piled_up = numbers[0] >= _PILED_UP and numbers[0] > _PILE * numbers[1:].max()
    return float(top) if piled_up else None
