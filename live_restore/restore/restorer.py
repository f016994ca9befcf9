"""Restores whole volumes with a 3D RCAN on a GPU or on the processor."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from live_restore.errors import RestoreError
from live_restore.restore.intensity import IntensityRange, LinearFit, measure_range
from live_restore.restore.model import Model
from live_restore.restore.rcan import RCAN3D
from live_restore.restore.tiling import Tiles, blend, plan_tiles
from live_restore.volume import ModelUse, Restored, Volume

__all__ = ["Precision", "RcanRestorer", "choose_device", "choose_precision", "largest_tile"]

logger = logging.getLogger(__name__)

Precision = Literal["auto", "float16", "bfloat16", "float32"]
OutputDtype = Literal["uint16", "float32"]

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
# For the activations of one tile. On the processor small tiles win: glibc maps each tensor above
# 32 MB anew, and page faults took half the time with tiles of 32 x 512 x 512 (16 channels).
_CPU_BUDGET_BYTES = 2**28
_CUDA_BUDGET_SHARE = 0.5  # of the memory that is free at start
_LIVE_TENSORS = 6  # feature tensors alive at once in eager inference, workspaces included
# Rounding to whole counts cost 2.6 dB at a width of about 20 counts, 0.3 dB at 33 (simulated nuclei).
_FEWEST_COUNTS_TO_ROUND = 64
_DEEPEST_TILE = {"cpu": 32, "cuda": 64}
_NARROWEST_TILE, _WIDEST_TILE = 96, 1024


class RcanRestorer:
    """A loaded model, warm on its device.

    Parameters
    ----------
    model : Model
        From `load_model`.
    device : str
        "auto", "cpu", "cuda" or "cuda:N".
    precision : str
        "auto", "float16", "bfloat16" or "float32".
    output_dtype : {"uint16", "float32"}
        Restored intensities are in the raw volume's counts either way.
    tile_zyx : tuple of int, optional
        Largest tile; chosen from the model and the memory otherwise.

    Raises
    ------
    RestoreError
        The device isn't there, or can't do this precision.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        precision: Precision = "auto",
        output_dtype: OutputDtype = "uint16",
        tile_zyx: tuple[int, int, int] | None = None,
    ) -> None:
        self.model = model
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.output_dtype = output_dtype
        self._tile_zyx = tile_zyx
        self._budget = _CPU_BUDGET_BYTES
        self._warned_of_rounding = False
        self._warned_of_fit = False
        self._network = model.network

    def __enter__(self) -> Self:
        dtype = _DTYPES[self.precision]
        # PyTorch's channels-last layout is the fast one on tensor cores and on the processor.
        network = copy.deepcopy(self.model.network)  # the model keeps its float32 weights
        self._network = channels_last(network.to(device=self.device, dtype=dtype))
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            free, _ = torch.cuda.mem_get_info(self.device)
            self._budget = int(_CUDA_BUDGET_SHARE * free)
        started = time.monotonic()
        self._restore_tile(np.zeros((8, 32, 32), dtype=np.float32))
        logger.info(
            "model %s on %s in %s, warm after %.1f s",
            self.model.card.name,
            self.device_name,
            self.precision,
            time.monotonic() - started,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._network = self.model.network

    @property
    def device_name(self) -> str:
        """For people: the GPU's name, or "cpu"."""
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        return str(self.device)

    def plan(self, shape_zyx: tuple[int, int, int]) -> Tiles:
        """The tiles of a volume; the same for each volume of a shape while this restorer lives."""
        architecture = self.model.card.architecture
        largest = self._tile_zyx or largest_tile(
            min(shape_zyx[0], _DEEPEST_TILE[self.device.type]),
            architecture.num_channels * _DTYPES[self.precision].itemsize,
            self._budget,
        )
        radius = architecture.receptive_radius
        overlap = (min(radius, 8), min(2 * radius, 32), min(2 * radius, 32))
        return plan_tiles(shape_zyx, largest, overlap)

    def model_use(self, shape_zyx: tuple[int, int, int]) -> ModelUse:
        """How volumes of this shape are restored: their provenance."""
        return ModelUse(
            self.model.card.name,
            self.model.sha256,
            self.precision,
            self.device_name,
            self.plan(shape_zyx).tile_zyx,
        )

    def restore(self, volume: Volume) -> Restored:
        """Restore one volume.

        Parameters
        ----------
        volume : Volume
            uint8, uint16 or any other real dtype.

        Returns
        -------
        Restored
            Data in the raw volume's own counts, read-only.

        Raises
        ------
        RestoreError
            The network's output isn't finite, or the device failed.
        """
        started = time.monotonic()
        try:
            data, intensity = self._restore_data(_without_gaps(volume))
            if volume.missing:
                data.flags.writeable = True
                data[list(volume.missing)] = 0
                data.flags.writeable = False
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise RestoreError(
                f"{volume.key}: not enough memory on {self.device} for tiles of "
                f"{self.plan(volume.info.shape_zyx).tile_zyx}: set a smaller tile_zyx in [model] "
                f"({error})"
            ) from error
        except RestoreError as error:
            raise RestoreError(f"{volume.key}: {error}") from error
        finished = time.monotonic()
        return Restored(
            key=volume.key,
            info=volume.info,
            data=data,
            raw=volume,
            model=self.model_use(volume.info.shape_zyx),
            intensity=intensity,
            timing_s={
                "waiting": started - volume.received_s,
                "restoring": finished - started,
            },
        )

    def _restore_data(self, raw: NDArray[Any]) -> tuple[NDArray[Any], tuple[float, float]]:
        norm = self.model.card.normalisation
        span = measure_range(raw, norm.low_percent, norm.high_percent, norm.epsilon)
        nz, ny, nx = raw.shape
        tiles = self.plan((nz, ny, nx))
        out = np.empty(raw.shape, dtype=self.output_dtype)
        if out.dtype == np.uint16 and span.width < _FEWEST_COUNTS_TO_ROUND:
            self._warn_of_rounding(span.width)

        def one(where: tuple[slice, slice, slice]) -> NDArray[np.float32]:
            return self._restore_tile(span.normalise(raw[where]))

        for rows, counts in self._in_counts(raw, span, blend(tiles, one)):
            if out.dtype == np.uint16:
                np.clip(np.rint(counts, out=counts), 0, 65535, out=counts)
            out[:, rows] = counts
        out.flags.writeable = False
        return out, (span.low, span.high)

    def _in_counts(
        self,
        raw: NDArray[Any],
        span: IntensityRange,
        bands: Iterable[tuple[slice, NDArray[np.float32]]],
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The network's output in counts, band by band.

        A network whose targets were normalised by the input's percentiles gives them directly. One
        whose targets were normalised by their own gives an unknown unit: its output is kept until
        the line that fits it to the raw volume is known.
        """
        if self.model.card.normalisation.target == "input":
            for rows, band in bands:
                yield rows, self._finite(span.counts(band))
            return
        fit = LinearFit()
        whole = np.empty(raw.shape, dtype=np.float32)
        for rows, band in bands:
            fit.add(self._finite(band), raw[:, rows])
            whole[:, rows] = band
        line = fit.line()
        if line is None:
            self._warn_of_fit()
            line = span.width, span.low
        whole *= np.float32(line[0])
        whole += np.float32(line[1])
        yield slice(None), self._finite(whole)

    def _finite(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(values).all():
            raise RestoreError(
                f"the network gave values that aren't finite numbers in {self.precision}: "
                'set precision = "float32" in [model], and check the raw data for NaN'
            )
        return values

    def _warn_of_fit(self) -> None:
        if not self._warned_of_fit:
            self._warned_of_fit = True
            logger.warning(
                "model %s gave a volume that doesn't rise with the raw one (a flat volume, or not "
                "what it was trained for): its intensities can't be fitted to counts; the raw "
                "volume's percentiles are used instead",
                self.model.card.name,
            )

    def _warn_of_rounding(self, width: float) -> None:
        if not self._warned_of_rounding:
            self._warned_of_rounding = True
            logger.warning(
                "the raw signal spans only %.0f counts: rounding the restored one to whole counts "
                "loses detail; choose float32 (output_dtype in [model], or --dtype)",
                width,
            )

    def _restore_tile(self, tile: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            tensor = torch.from_numpy(tile)[None, None].to(
                device=self.device, dtype=_DTYPES[self.precision]
            )
            restored = self._network(tensor.contiguous(memory_format=torch.channels_last_3d))
            return np.asarray(restored[0, 0].float().cpu().numpy(), dtype=np.float32)


def channels_last(network: RCAN3D) -> RCAN3D:
    """The network with its weights in the layout (N, Z, Y, X, C), converted in place."""
    for parameter in network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network


def _without_gaps(volume: Volume) -> NDArray[Any]:
    """Its data, where missing planes are as the nearest that came: zeros would drag the others down."""
    if not volume.missing:
        return volume.data
    came = np.setdiff1d(np.arange(volume.data.shape[0]), volume.missing)
    nearest = [came[np.abs(came - z).argmin()] for z in range(volume.data.shape[0])]
    return volume.data[nearest]


def choose_device(device: str) -> torch.device:
    """The torch device behind a profile's word.

    Raises
    ------
    RestoreError
        A GPU is asked for that isn't there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(device.partition(":")[2] or 0)
        if index >= found:
            build = "is built without CUDA" if torch.version.cuda is None else "sees no such GPU"
            raise RestoreError(
                f"device {device}: {found} GPUs found; PyTorch {torch.__version__} {build}. Check "
                'nvidia-smi, install the CUDA build of PyTorch, or set device = "auto"'
            )
    return torch.device(device)


def choose_precision(precision: Precision, device: torch.device) -> str:
    """float16 on a GPU and float32 on the processor, unless said otherwise.

    Raises
    ------
    RestoreError
        float16 on the processor.
    """
    if precision == "auto":
        return "float16" if device.type == "cuda" else "float32"
    if precision == "float16" and device.type == "cpu":
        raise RestoreError(
            'precision float16 needs a GPU: on the processor use "bfloat16" or "float32"'
        )
    return precision


def largest_tile(depth: int, bytes_per_voxel: int, budget_bytes: int) -> tuple[int, int, int]:
    """The largest tile whose activations fit in memory: of a given depth, square in the plane.

    Parameters
    ----------
    depth : int
        Planes.
    bytes_per_voxel : int
        Of one feature tensor: channels times bytes of each.
    budget_bytes : int
        For all tensors that live at once.
    """
    voxels = budget_bytes // (_LIVE_TENSORS * bytes_per_voxel)
    side = int(math.sqrt(voxels / depth)) // 16 * 16
    side = min(max(side, _NARROWEST_TILE), _WIDEST_TILE)
    return depth, side, side
