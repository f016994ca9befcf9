"""Raw counts and restored ones on a GPU: what is done to each voxel beside the network is done there."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from live_restore.restore.intensity import (
    IntensityRange,
    as_range,
    histogram_percentiles,
    measure_range,
)
from live_restore.restore.loss import lacks_memory
from live_restore.restore.model import Normalisation
from live_restore.restore.output import CountsOutput, NotFiniteError, OutputDtype
from live_restore.restore.transfer import Transfer

__all__ = ["DeviceOutput", "DeviceVolume", "HostVolume", "RawVolume", "open_output", "open_volume"]

_ON_DEVICE = (np.dtype(np.uint8), np.dtype(np.uint16))


class HostVolume:
    """A raw volume that is normalised by the processor.

    Parameters
    ----------
    raw : ndarray, (Z, Y, X)
        Any real dtype; not modified.
    """

    def __init__(self, raw: NDArray[Any]) -> None:
        self._raw = raw

    def measure(self, norm: Normalisation) -> IntensityRange:
        """Its range, from its percentiles."""
        return measure_range(self._raw, norm.low_percent, norm.high_percent, norm.epsilon)

    def image(self, span: IntensityRange, where: tuple[slice, ...]) -> Tensor:
        """A part of it, normalised, float32."""
        return torch.from_numpy(span.normalise(self._raw[where]))


class DeviceVolume:
    """A raw volume of whole numbers that is normalised by the GPU.

    Parameters
    ----------
    raw : ndarray of uint8 or uint16, (Z, Y, X)
        Copied.
    transfer : Transfer
        To the GPU.
    """

    def __init__(self, raw: NDArray[Any], transfer: Transfer) -> None:
        self._counts = transfer.upload(raw)

    def measure(self, norm: Normalisation) -> IntensityRange:
        """Its range, from its percentiles."""
        bins = torch.iinfo(self._counts.dtype).max + 1
        histogram = torch.zeros(bins, dtype=torch.int64, device=self._counts.device)
        for plane in self._counts:
            histogram += torch.bincount(plane.reshape(-1).to(torch.int32), minlength=bins)
        q = (norm.low_percent, norm.high_percent)
        low, high = histogram_percentiles(histogram.cpu().numpy(), q)
        return as_range(low, high, norm.epsilon)

    def image(self, span: IntensityRange, where: tuple[slice, ...]) -> Tensor:
        """A part of it, normalised, float32, on the GPU."""
        counts = self._counts[where].to(torch.float32)
        return counts.sub_(span.low).mul_(1.0 / span.width)


class DeviceOutput:
    """As `CountsOutput`, for a network that gives counts directly, on the GPU.

    Parameters
    ----------
    shape_zyx : tuple of int
        Of the volume.
    span : IntensityRange
        What normalised it.
    dtype : {"uint16", "float32"}
        Of the result.
    transfer : Transfer
        From the GPU.
    """

    def __init__(
        self,
        shape_zyx: tuple[int, int, int],
        span: IntensityRange,
        dtype: OutputDtype,
        transfer: Transfer,
    ) -> None:
        self._span = span
        self._transfer = transfer
        of = {"uint16": torch.uint16, "float32": torch.float32}[dtype]
        self._out = torch.empty(shape_zyx, dtype=of, device=transfer.device)
        self._is_finite = torch.ones((), dtype=torch.bool, device=transfer.device)

    def add(self, where: tuple[slice, ...], values: Tensor) -> None:
        """Take in a part, normalised, not modified."""
        counts = values * self._span.width + self._span.low
        self._is_finite &= counts.isfinite().all()
        if self._out.dtype == torch.uint16:
            counts = counts.round_().clamp_(0, 65535)
        self._out[where] = counts.to(self._out.dtype)

    def finish(self) -> tuple[NDArray[Any], bool]:
        """See `CountsOutput.finish`."""
        out = self._transfer.download(self._out)
        if not bool(self._is_finite):
            raise NotFiniteError("the network gave values that aren't finite numbers")
        out.flags.writeable = False
        return out, True


RawVolume = HostVolume | DeviceVolume


def open_volume(raw: NDArray[Any], transfer: Transfer | None) -> RawVolume:
    """A raw volume where it is best normalised: on the GPU, if it is of whole numbers and there is room."""
    if transfer is not None and raw.dtype in _ON_DEVICE:
        try:
            return DeviceVolume(raw, transfer)
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
    return HostVolume(raw)


def open_output(
    raw: NDArray[Any],
    span: IntensityRange,
    target: Literal["input", "own"],
    dtype: OutputDtype,
    transfer: Transfer | None,
) -> CountsOutput | DeviceOutput:
    """Where the network's output goes; parameters as of `CountsOutput`."""
    if transfer is not None and target == "input":
        nz, ny, nx = raw.shape
        return DeviceOutput((nz, ny, nx), span, dtype, transfer)
    return CountsOutput(raw, span, target, dtype)
