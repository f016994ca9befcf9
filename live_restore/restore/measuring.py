"""How fast a model restores here, against what this machine can do at all."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from live_restore.restore.devices import DTYPES
from live_restore.restore.loss import lacks_memory
from live_restore.restore.model import Architecture
from live_restore.restore.rcan import channels_last
from live_restore.restore.restorer import RcanRestorer
from live_restore.volume import AcquisitionInfo, GrowingVolume, Volume, VolumeKey, utc_now

__all__ = ["Limits", "Speed", "measure_limits", "measure_speed"]

_MATMUL = {"cpu": 1536, "cuda": 8192}
_COPY_BYTES = 2**28
_PLANES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device reaches in the simplest work.

    Attributes
    ----------
    flop_per_s : float
        In a product of large matrices, in the restorer's precision.
    bytes_per_s : float
        Read and written, in a copy of a large array.
    """

    flop_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for one volume.

    Attributes
    ----------
    num_voxels : int
        Of the volume.
    whole_s : float
        From a whole volume to a restored one.
    percentiles_s, network_s : float
        Of that.
    early_s : float or None
        After the last plane, where restoration began while planes arrived; None where that can't
        be (more than one tile).
    eager_s : float or None
        The plain network in PyTorch, in the same precision, without percentiles and counts; None
        where it ran out of memory.
    flop, nbytes : float
        Computed, and read or written at the least by one layer after another.
    """

    num_voxels: int
    whole_s: float
    percentiles_s: float
    network_s: float
    early_s: float | None
    eager_s: float | None
    flop: float
    nbytes: float


def measure_limits(restorer: RcanRestorer) -> Limits:
    """A matrix product and a copy, timed on the restorer's device."""
    device, dtype = restorer.device, DTYPES[restorer.precision]
    size = _MATMUL[device.type]
    a = torch.randn((size, size), device=device).to(dtype)
    source = torch.zeros(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    matmul_s = _median(lambda: torch.mm(a, a), device, 5)
    copy_s = _median(lambda: target.copy_(source), device, 5)
    return Limits(2 * size**3 / matmul_s, 2 * _COPY_BYTES / copy_s)


def measure_speed(
    restorer: RcanRestorer, shape_zyx: tuple[int, int, int], repeats: int = 3
) -> Speed:
    """Restore simulated counts as the volumes of a time-lapse.

    Parameters
    ----------
    restorer : RcanRestorer
        Entered, with an attention that looks at the previous volume.
    shape_zyx : tuple of int
        Of the volumes.
    repeats : int
        Medians of so many.
    """
    rng = np.random.default_rng(0)
    data = 10 * rng.poisson(20, shape_zyx).astype(np.uint16)
    first = _volume(data, 0)
    restorer.restore(first)  # buffers are made, and the stream is known
    whole = [restorer.restore(_volume(data, 1 + n)).timing_s for n in range(repeats)]
    early = [_early(restorer, _volume(data, 1 + repeats + n)) for n in range(repeats)]
    architecture = restorer.model.card.architecture
    num_voxels = int(np.prod(shape_zyx))
    return Speed(
        num_voxels,
        statistics.median(one["restoring"] for one in whole),
        statistics.median(one["percentiles"] for one in whole),
        statistics.median(one["network"] for one in whole),
        None if None in early else statistics.median(one for one in early if one is not None),
        _eager_s(restorer, data, repeats),
        num_voxels * flop_per_voxel(architecture),
        num_voxels * _elements_per_voxel(architecture) * DTYPES[restorer.precision].itemsize,
    )


def flop_per_voxel(architecture: Architecture) -> float:
    """Of all 3×3×3 convolutions, a multiplication and an addition each."""
    channels = architecture.num_channels
    ends = architecture.in_channels + architecture.out_channels
    return 2.0 * 27 * channels * (_num_inner(architecture) * channels + ends)


def _num_inner(architecture: Architecture) -> int:
    groups, blocks = architecture.num_residual_groups, architecture.num_residual_blocks
    return groups * (2 * blocks + (groups > 1)) + 1


def _elements_per_voxel(architecture: Architecture) -> float:
    """Each inner convolution reads features and writes some; every other one reads what it adds to."""
    groups, blocks = architecture.num_residual_groups, architecture.num_residual_blocks
    added = _num_inner(architecture) - groups * blocks
    return architecture.num_channels * (2.0 * _num_inner(architecture) + added + 2)


def _early(restorer: RcanRestorer, volume: Volume) -> float | None:
    """Seconds after the last plane, when each is worked on as it comes."""
    num_planes, began = volume.info.shape_zyx[0], False
    for z in range(1, num_planes):
        growing = GrowingVolume(volume.key, volume.info, volume.data, z)
        began |= restorer.advance([growing])
    return restorer.restore(volume).timing_s["restoring"] if began else None


def _eager_s(restorer: RcanRestorer, data: NDArray[np.uint16], repeats: int) -> float | None:
    device, dtype = restorer.device, DTYPES[restorer.precision]
    network = channels_last(copy.deepcopy(restorer.model.network).to(device, dtype))
    volume = torch.from_numpy(data.astype(np.float32) / 400)[None, None].to(device, dtype)
    volume = volume.contiguous(memory_format=torch.channels_last_3d)
    try:
        return _median(lambda: network(volume), device, repeats)
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        return None


def _median(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            _wait(device)
            started = time.perf_counter()
            work()
            _wait(device)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _volume(data: NDArray[np.uint16], number: int) -> Volume:
    nz, ny, nx = data.shape
    info = AcquisitionInfo("bench", (nz, ny, nx), data.dtype, None, ("C0",))
    key = VolumeKey(info.acquisition, "0", number, "C0")
    return Volume(key, info, data, None, utc_now(), time.monotonic())
