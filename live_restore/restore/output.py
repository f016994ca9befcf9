"""A network's output, as it comes, back in camera counts."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from live_restore.errors import RestoreError
from live_restore.restore.intensity import IntensityRange, LinearFit

__all__ = ["CountsOutput", "NotFiniteError", "OutputDtype", "rounded"]

OutputDtype = Literal["uint16", "float32"]


class NotFiniteError(RestoreError):
    """A network gave infinity or NaN."""


class CountsOutput:
    """Takes a volume part by part.

    A network whose targets were normalised by the input's percentiles gives counts directly. One
    whose targets were normalised by their own gives an unknown unit: its output is kept until the
    line that fits it to the raw volume is known.

    Parameters
    ----------
    raw : ndarray, (Z, Y, X)
        What was restored.
    span : IntensityRange
        What normalised it.
    target : {"input", "own"}
        Whose percentiles normalised the targets of the training.
    dtype : {"uint16", "float32"}
        Of the result.
    """

    def __init__(
        self,
        raw: NDArray[Any],
        span: IntensityRange,
        target: Literal["input", "own"],
        dtype: OutputDtype,
    ) -> None:
        self._raw = raw
        self._span = span
        self._out = np.empty(raw.shape, dtype=dtype)
        self._fit: LinearFit | None = None
        if target == "own":
            self._fit = LinearFit()
            self._whole = np.empty(raw.shape, dtype=np.float32)

    def add(self, where: tuple[slice, ...], restored: Tensor) -> None:
        """Take in a part, normalised, float32, not modified.

        Raises
        ------
        NotFiniteError
            Not all of it are finite numbers.
        """
        values = restored.cpu().numpy()
        if self._fit is None:
            for out, plane in zip(self._out[where], values, strict=True):
                self._put(out, self._span.counts(plane))
            return
        _check(values)
        self._fit.add(values, self._raw[where])
        self._whole[where] = values

    def finish(self) -> tuple[NDArray[Any], bool]:
        """The volume, read-only, and whether its intensities could be fitted (or needn't be).

        Raises
        ------
        NotFiniteError
            Not all of it are finite numbers.
        """
        is_fitted = True
        if self._fit is not None:
            line = self._fit.line()
            is_fitted = line is not None
            gain, offset = line or (self._span.width, self._span.low)
            for out, plane in zip(self._out, self._whole, strict=True):
                plane *= np.float32(gain)
                plane += np.float32(offset)
                self._put(out, plane)
        self._out.flags.writeable = False
        return self._out, is_fitted

    def _put(self, out: NDArray[Any], counts: NDArray[np.float32]) -> None:
        _check(counts)
        if out.dtype == np.uint16:
            np.clip(np.rint(counts, out=counts), 0, 65535, out=counts)
        out[...] = counts


def rounded(counts: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Counts as whole numbers, read-only."""
    out = np.empty(counts.shape, np.uint16)
    for into, plane in zip(out, counts, strict=True):
        into[...] = np.clip(np.rint(plane), 0, 65535)
    out.flags.writeable = False
    return out


def _check(values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise NotFiniteError("the network gave values that aren't finite numbers")
