"""Restores whole volumes with a 3D RCAN on a GPU or on the processor."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from live_restore.assessment import Assessment
from live_restore.errors import RestoreError
from live_restore.freed_memory import FreedMemory
from live_restore.restore.certificate import Certificate, certify
from live_restore.restore.device_volume import RawVolume, open_output, open_volume
from live_restore.restore.devices import Precision, choose_device, choose_precision, device_name
from live_restore.restore.engine import Engine, Pooled
from live_restore.restore.gaps import with_gaps, without_gaps
from live_restore.restore.history import History
from live_restore.restore.intensity import IntensityRange
from live_restore.restore.loss import lacks_memory, telling_of_loss
from live_restore.restore.manner import Manner
from live_restore.restore.model import Model
from live_restore.restore.normalising import SteadyRange
from live_restore.restore.output import NotFiniteError, OutputDtype, rounded
from live_restore.restore.passes import Result, restore_in_memory
from live_restore.restore.probing import PartRestorer
from live_restore.restore.sweep import Sweep
from live_restore.restore.tiling import Tiles
from live_restore.restore.transfer import Transfer
from live_restore.restore.underway import Underway
from live_restore.volume import GrowingVolume, ModelUse, Restored, Volume, VolumeKey

__all__ = ["Examiner", "RcanRestorer"]

logger = logging.getLogger(__name__)

# Rounding to whole counts cost 2.6 dB at a width of about 20 counts, 0.3 dB at 33 (simulated nuclei).
_FEWEST_COUNTS_TO_ROUND = 64
# Rounding hides from the guard how far the network follows the noise: an error of 0.6 was taken for 0.2 at 30.
_FEWEST_COUNTS_TO_JUDGE = 1024


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be restored, and with what."""

    raw: NDArray[Any]
    counts: RawVolume  # the same, where it is normalised
    span: IntensityRange
    pooled: Pooled | None  # of the volume before

    @property
    def shape(self) -> tuple[int, int, int]:
        nz, ny, nx = self.raw.shape
        return nz, ny, nx


class Examiner(Protocol):
    """Judges restored volumes, by restoring parts of them once more."""

    def examine(self, restored: Restored, probe: PartRestorer, restoring_s: float) -> Assessment:
        """What is to be thought of a volume, whose restoration took so long."""
        ...


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
    manner : Manner, optional
        Further choices.
    examiner : Examiner, optional
        Judges each volume.

    Attributes
    ----------
    precision : str
        In use.
    certificate : Certificate
        How far that is from float32; from entering on.

    Raises
    ------
    RestoreError
        The device isn't there, or can't do this precision; on entering, the precision is too far
        from float32, or the model doesn't fit into the device's memory.
    """

    certificate: Certificate
    num_workers = 1

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        precision: Precision = "auto",
        output_dtype: OutputDtype = "uint16",
        manner: Manner | None = None,
        examiner: Examiner | None = None,
    ) -> None:
        self.model = model
        self._examiner = examiner
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.output_dtype = output_dtype
        self.manner = manner or Manner()
        self._may_fall_back = precision == "auto"
        self._warned: set[str] = set()
        self._engines: dict[str, Engine] = {}
        self._transfer: Transfer | None = None
        self._network_s = 0.0
        self._freed = FreedMemory()
        self._history = History(
            lambda: SteadyRange(self.manner.normalisation, self.manner.normalisation_volumes)
        )
        self._underway = Underway(lambda: self._engine(self.precision), self._history)

    def __enter__(self) -> Self:
        started = time.monotonic()
        try:
            with telling_of_loss():
                self._warm_up()
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            self._engines.clear()
            self._transfer = None
            raise RestoreError(_too_full(self.model.card.name, self.device, error)) from error
        logger.info(
            "model %s on %s in %s, warm after %.1f s: %s",
            self.model.card.name,
            self.device_name,
            self.precision,
            time.monotonic() - started,
            self.certificate,
        )
        return self

    def _warm_up(self) -> None:
        if self.device.type == "cuda":
            self._transfer = Transfer(self.device)
        try:
            self.certificate = self._certify()
        except RestoreError as error:
            if not self._may_fall_back or self.precision == "float32":
                raise
            logger.warning("%s; float32 is used", error)
            self._engines.clear()
            self.precision = "float32"
            self.certificate = self._certify()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._underway.clear()
        self._engines.clear()

    @property
    def device_name(self) -> str:
        """For people: the GPU's name, or "cpu"."""
        return device_name(self.device)

    def plan(self, shape_zyx: tuple[int, int, int]) -> Tiles:
        """The tiles of a volume; the same for each of a shape, unless memory runs out."""
        return self._engine(self.precision).plan(shape_zyx)

    def model_use(self, shape_zyx: tuple[int, int, int]) -> ModelUse:
        """How volumes of this shape are restored: their provenance."""
        return self._use(self.precision, shape_zyx, self.manner.attention)

    def _use(
        self, precision: str, shape_zyx: tuple[int, int, int], attention: str, remark: str = ""
    ) -> ModelUse:
        return ModelUse(
            self.model.card.name,
            self.model.sha256,
            precision,
            self.device_name,
            self._engine(precision).plan(shape_zyx).tile_zyx,
            attention,
            self.manner.normalisation,
            remark,
            self.certificate.largest if precision == self.precision else None,
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
            The network's output isn't finite in float32 either, or memory isn't enough for the
            smallest tiles.
        """
        started = time.monotonic()
        self._network_s = 0.0
        raw = without_gaps(volume)
        counts = open_volume(raw, self._transfer)
        own = counts.measure(self.model.card.normalisation)
        measured = time.monotonic()
        stream = self._history.of_volume(volume)
        is_next = stream.is_next(volume)
        span, warning = stream.range.settle(own, is_next)
        looks_back = self.manner.attention == "previous" and not warning
        work = _Work(raw, counts, span, stream.pooled if looks_back else None)
        try:
            result, precision = self._in_any_precision(volume.key, work)
        except RestoreError as error:
            raise RestoreError(f"{volume.key}: {error}") from error
        if warning:
            logger.warning("%s: %s", volume.key, warning)
            result.remarks.append(warning)
        if is_next:
            stream.newest, stream.pooled = volume.key.time, result.pooled
        finished = time.monotonic()
        restored = Restored(
            key=volume.key,
            info=volume.info,
            data=with_gaps(result.data, volume),
            raw=volume,
            model=self._use(precision, work.shape, result.attention, "; ".join(result.remarks)),
            intensity=(span.low, span.high),
            timing_s={
                "waiting": started - volume.received_s,
                "restoring": finished - started,
                "percentiles": measured - started,
                "network": self._network_s,
            },
        )
        engine, norm = self._engine(precision), self.model.card.normalisation
        rounds = result.data.dtype != self.output_dtype
        probe = PartRestorer(engine, norm, span, result.pooled, float(rounds))
        restored = self._examined(restored, probe)
        self._freed.tick()
        return replace(restored, data=rounded(restored.data)) if rounds else restored

    def _examined(self, restored: Restored, probe: PartRestorer) -> Restored:
        """A volume with what the guard thinks of it; a guard that fails doesn't take the volume with it."""
        if self._examiner is None:
            return restored
        started = time.monotonic()
        try:
            found = self._examiner.examine(restored, probe, restored.timing_s["restoring"])
        except Exception:
            logger.exception("%s: can't be judged", restored.key)
            return restored
        timing = {**restored.timing_s, "judging": time.monotonic() - started}
        return replace(restored, assessment=found, timing_s=timing)

    def advance(self, growing: Sequence[GrowingVolume]) -> bool:
        """See `Restorer.advance`; only for an attention that looks at the previous volume."""
        return self.manner.attention == "previous" and self._underway.advance(growing)

    def _in_any_precision(self, key: VolumeKey, work: _Work) -> tuple[Result, str]:
        """The result in the precision in use, or in float32 where that overflows."""
        if self.output_dtype == "uint16" and work.span.width < _FEWEST_COUNTS_TO_ROUND:
            self._warn_once(
                f"the raw signal spans only {work.span.width:.0f} counts: rounding the restored one to whole "
                "counts loses detail; choose float32 (output_dtype in [model], or --dtype)",
                "rounding",
            )
        begun = self._underway.take(key, work.span, work.pooled)
        try:
            return self._in_memory(self.precision, work, begun), self.precision
        except NotFiniteError as error:
            if self.precision == "float32":
                raise NotFiniteError(f"{error}: check the raw data for NaN") from error
        if work.raw.dtype.kind == "f" and not np.isfinite(work.raw).all():
            raise NotFiniteError("the raw data isn't finite: check it for NaN")
        remark = f"{self.precision} overflowed: restored in float32"
        self._warn_once(
            f'{remark}; set precision = "float32" in [model] if it happens often', remark
        )
        try:
            result = self._in_memory("float32", work)
        except NotFiniteError as error:
            raise NotFiniteError(f"{error}, in float32 either: check model and raw data") from error
        result.remarks.append(remark)
        return result, "float32"

    def _in_memory(self, precision: str, work: _Work, begun: Sweep | None = None) -> Result:
        """See `restore_in_memory`."""
        engine = self._engine(precision)
        once = partial(self._once, engine, work)
        let_go = self._underway.clear
        return restore_in_memory(engine, work.shape, work.pooled, once, begun, let_go)

    def _once(
        self, engine: Engine, work: _Work, pooled: Pooled | None, begun: Sweep | None
    ) -> NDArray[Any]:
        target = self.model.card.normalisation.target
        dtype = self.output_dtype
        if self._examiner is not None and work.span.width < _FEWEST_COUNTS_TO_JUDGE:
            dtype = "float32"  # rounded when it was judged
        out = open_output(work.raw, work.span, target, dtype, self._transfer)
        image = partial(work.counts.image, work.span)
        restored = engine.run(image, work.shape, pooled, begun)
        while True:
            started = time.monotonic()
            part = next(restored, None)
            self._network_s += time.monotonic() - started
            if part is None:
                break
            out.add(*part)
        data, is_fitted = out.finish()
        if not is_fitted:
            self._warn_once(
                f"model {self.model.card.name} gave a volume that doesn't rise with the raw one (a flat "
                "volume, or not what it was trained for): its intensities can't be fitted to counts; "
                "the raw volume's percentiles are used instead",
                "fit",
            )
        return data

    def _engine(self, precision: str) -> Engine:
        if precision not in self._engines:
            self._engines[precision] = Engine(
                self.model.network,
                self.model.card.architecture,
                self.device,
                precision,
                self.manner.largest_tile(self.model.card),
                self.manner.attention == "tile",
                self.manner.memory_bytes,
            )
        return self._engines[precision]

    def _certify(self) -> Certificate:
        certificate = certify(self._engine(self.precision), self.model)
        if not certificate.largest <= self.manner.largest_difference:
            raise RestoreError(
                f"model {self.model.card.name} in {self.precision} on {self.device_name} {certificate}: "
                f"more than largest_difference = {self.manner.largest_difference:g} in [model] allows"
            )
        return certificate

    def _warn_once(self, text: str, kind: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s", text)


def _too_full(model: str, device: torch.device, error: BaseException) -> str:
    """That a model can't even be loaded."""
    came = (str(error).strip() or "no more is given").splitlines()[0]
    if device.type == "cuda":
        remedy = "close the programs that nvidia-smi lists, or set another device in [model]"
    else:
        remedy = "close other programs"
    return f"model {model} should be loaded on {device}, and memory there isn't enough ({came}): {remedy}"
