"""A closer look at a volume: parts of it restored once more, and its bright structures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from live_restore.guard.camera import CameraCalibration
from live_restore.guard.leverage import Brightness, Leverage
from live_restore.guard.parts import PROBE_ZYX, Sample, choose_part
from live_restore.guard.sums import Moments
from live_restore.guard.thinned import DOSES, Thinned, classes
from live_restore.thinning import thin

__all__ = ["Look", "Probe", "sample_of", "signal_of", "with_rounding"]

_BRIGHTEST = 0.98  # quantile of the restored volume from which structures count as bright

Electrons = NDArray[np.float32]


class Probe(Protocol):
    """Restores parts of a volume that was just restored; counts in, counts out, float32."""

    def as_volume(self, counts: NDArray[np.float32]) -> NDArray[np.float32]:
        """As the volume was: same normalisation, same attention."""
        ...

    def by_itself(
        self, counts: NDArray[np.float32], like: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Normalised by the percentiles of `like`, and with an attention that looks at the part alone."""
        ...

    @property
    def step(self) -> float:
        """Counts to which the volume will be rounded; 0 for none."""
        ...

    @property
    def pooled(self) -> NDArray[np.float32] | None:
        """What the attention looked at of the volume; None where each tile looks at itself."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A volume that is being probed; photoelectrons, but for `raw`."""

    raw: NDArray[Any]
    sample: Sample
    brightness: Brightness
    moments: Moments
    camera: CameraCalibration
    probe: Probe
    blurred_back: Callable[[NDArray[Any]], NDArray[Any]]
    rng: np.random.Generator

    def error(self, leverage: Leverage) -> None:
        """See `Leverage.probe`: two passes of the network."""
        where, inside = self._choose()
        raw = self.camera.electrons(self.raw[where])
        leverage.probe(raw, self.brightness, self._through(self.probe.as_volume), inside, self.rng)

    def dose(self, thinned: Thinned) -> None:
        """See `Thinned.probe`, at all doses: a pass for each, and one more."""
        where, inside = self._choose()
        raw = self.camera.electrons(self.raw[where])
        everywhere = self.camera.electrons(_sampled(self.raw, self.sample.stride))
        noise = float(np.sqrt(self.camera.variance))
        whole = partial(self.probe.by_itself, like=self._counts(everywhere))
        base = self._through(whole)(raw)
        edges = classes(self.sample.values)
        for dose in DOSES:
            few, _ = thin(everywhere, dose, noise, self.rng)
            less = partial(self.probe.by_itself, like=self._counts(few))
            thinned.probe(
                dose,
                raw,
                base,
                edges,
                self.moments.mean_raw,
                self.camera,
                self._through(less),
                inside,
                self.rng,
            )

    def _choose(self) -> Any:
        x = self.brightness.regressors(self.sample.values)
        # Where what follows the noise is: mostly in bright structures.
        weights = (x[0] * np.float32(0.02) + x[1] * np.float32(0.2)).reshape(
            self.sample.values.shape
        )
        return choose_part(self.sample, weights, self.raw.shape, PROBE_ZYX, self.rng)

    def _through(
        self, restore: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    ) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        return lambda electrons: self.camera.electrons(
            self.blurred_back(restore(self._counts(electrons)))
        )

    def _counts(self, electrons: NDArray[np.float32]) -> NDArray[np.float32]:
        return electrons * np.float32(self.camera.gain) + np.float32(self.camera.offset)


def signal_of(
    raw: NDArray[Any],
    sample: Sample,
    camera: CameraCalibration,
    overfit: float,
    moments: Moments,
) -> float:
    """Photoelectrons per voxel in the bright structures, above the median.

    The restored volume says where they are. Where it follows the noise, the raw one is brighter there by chance:
    by as much as the noise's slope on it says, which is taken off.
    """
    electrons = camera.electrons(_sampled(raw, sample.stride))
    restored = sample.values
    bright = restored >= np.quantile(restored, _BRIGHTEST)
    by_chance = overfit / max(moments.var_restored, 1e-12)
    excess = float(restored[bright].mean()) - moments.mean_restored
    median = float(np.median(restored)) - moments.mean_restored
    background = moments.mean_raw + moments.gain(overfit) * median
    return max(float(electrons[bright].mean()) - background - by_chance * excess, 0.0)


def with_rounding(
    nrmse: float | None, sample: Sample, camera: CameraCalibration, step: float
) -> float | None:
    """An error with that of rounding to `step` counts added: both lower the correlation with the truth."""
    restored = sample.values
    if nrmse is None or step <= 0 or not np.ptp(restored) > 0:
        return nrmse
    rounded = np.rint((restored * np.float32(camera.gain) + np.float32(camera.offset)) / step)
    if not np.ptp(rounded) > 0:
        return 1.0
    kept = float(np.corrcoef(restored.ravel(), rounded.ravel())[0, 1]) ** 2
    return math.sqrt(min(1 - (1 - nrmse**2) * kept, 1.0))


def sample_of(data: NDArray[Any], camera: CameraCalibration) -> Sample:
    """Every few voxels of a volume of counts, in photoelectrons."""
    stride = Sample.stride_of(data.shape)
    return Sample(camera.electrons(_sampled(data, stride)), stride)


def _sampled(data: NDArray[Any], stride: tuple[int, int, int]) -> NDArray[Any]:
    return data[:: stride[0], :: stride[1], :: stride[2]]
