"""One high-dose volume, at less and less light, and more and more blurred."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from live_restore.assessment import Assessment
from live_restore.characterize.stacks import HighDose
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.guard import Guard, Measurement
from live_restore.guard.look import Probe
from live_restore.restore.restorer import RcanRestorer
from live_restore.thinning import thin
from live_restore.volume import AcquisitionInfo, Restored, Volume, VolumeKey, utc_now

__all__ = ["BLURS", "Outcome", "Pusher", "Step", "doses_for", "true_nrmse"]

BLURS = 0.7, 1.0, 1.5, 2.0, 3.0
"""Standard deviations of the blur ladder, in lateral voxels."""

_MOST = 0.8  # of the photons: the others are the truth
_STEPS = 9
_LEAST_SIGNAL = 0.7  # photoelectrons; no model has held there
_BRIGHTEST = 0.98
_PARTS = 4  # as the guard probes of a stream's first volume


@dataclass(frozen=True, slots=True)
class Step:
    """A rung.

    Attributes
    ----------
    dose : float
        Fraction of the photons.
    blur : float
        Added, standard deviation in lateral voxels.
    """

    dose: float
    blur: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of one volume at one step.

    Attributes
    ----------
    stack : HighDose
        Which.
    step : Step
        At which.
    signal : float
        Photoelectrons per voxel in bright structures, from the high-dose stack.
    nrmse : float
        True one.
    found : Measurement
        What the guard measured.
    raw, restored : ndarray of float32, (Y, X)
        Maximum projections.
    """

    stack: HighDose
    step: Step
    signal: float
    nrmse: float
    found: Measurement
    raw: NDArray[np.float32]
    restored: NDArray[np.float32]


class Pusher:
    """Restores volumes of a ladder, with a guard that measures and doesn't judge.

    It is the examiner of the restorer that it pushes.

    Parameters
    ----------
    camera : CameraCalibration
        Of the stacks.
    seed : int
        Of the noise.
    """

    def __init__(self, camera: CameraCalibration, seed: int = 0) -> None:
        self._camera = camera
        self._seed = seed
        self.guard = Guard(camera)
        self.measured: Measurement | None = None

    def push(
        self, restorer: RcanRestorer, stack: HighDose, steps: Sequence[Step]
    ) -> Iterator[Outcome]:
        """Each step of one stack's ladder."""
        camera = self._camera
        electrons = camera.electrons(stack.counts)
        signal_variance = _signal_variance(electrons, camera)
        brightness = signal_of(electrons)
        for index, step in enumerate(steps):
            rng = np.random.default_rng([self._seed, index, hash_of(stack.name)])
            low, unseen = _at(electrons, step, camera, rng)
            counts = np.clip(np.rint(low * camera.gain + camera.offset), 0, 65535)
            restored = restorer.restore(_volume(stack, counts.astype(np.uint16), index))
            if self.measured is None:
                raise RuntimeError("the examiner of the restorer isn't this one")
            if stack.truth is not None:
                truth = camera.electrons(stack.truth)
                nrmse = true_nrmse(restored.data, truth, _signal_variance(truth, camera))
            else:
                nrmse = true_nrmse(restored.data, unseen, signal_variance * step.dose**2)
            yield Outcome(
                stack,
                step,
                brightness * step.dose,
                nrmse,
                self.measured,
                counts.max(axis=0).astype(np.float32),
                restored.data.max(axis=0).astype(np.float32),
            )

    def examine(self, restored: Restored, probe: Probe, restoring_s: float) -> Assessment:  # noqa: ARG002
        """See `Examiner`: notes what the guard measures."""
        self.measured = self.guard.measure(restored, probe, num_parts=_PARTS)
        return Assessment("uncalibrated")


def doses_for(stack: HighDose, camera: CameraCalibration) -> list[float]:
    """Fractions of a stack's light, from most of it to too little, in equal ratios."""
    brightness = signal_of(camera.electrons(stack.counts))
    least = min(_LEAST_SIGNAL / max(brightness, 1e-6), _MOST / 4)
    return [float(one) for one in np.geomspace(_MOST, least, _STEPS)]


def signal_of(electrons: NDArray[np.float32]) -> float:
    """Photoelectrons per voxel in the bright structures of a high-dose stack, above the median."""
    smooth = ndimage.uniform_filter(electrons, (1, 3, 3))
    bright = smooth >= np.quantile(smooth[::2, ::2, ::2], _BRIGHTEST)
    return max(float(electrons[bright].mean()) - float(np.median(smooth[::2, ::2, ::2])), 0.0)


def true_nrmse(
    restored: NDArray[Any], unseen: NDArray[np.float32], signal_variance: float
) -> float:
    """NRMSE from an independent exposure: √(1 - ρ²), ρ free of that exposure's noise.

    Parameters
    ----------
    restored : ndarray, (Z, Y, X)
        In any unit.
    unseen : ndarray of float32, (Z, Y, X)
        With noise of its own, whose variance `signal_variance` doesn't hold.
    signal_variance : float
        Of the noise-free volume behind `unseen`, in its unit squared.
    """
    f = restored.astype(np.float64)
    f -= f.mean()
    common = float(np.mean(f * (unseen - float(unseen.mean(dtype=np.float64)))))
    variance = float(np.mean(f * f))
    if common <= 0 or variance <= 0 or signal_variance <= 0:
        return 1.0
    return math.sqrt(min(max(1 - common**2 / (variance * signal_variance), 0.0), 1.0))


def hash_of(name: str) -> int:
    """The same number for the same name, in any process."""
    return sum((index + 1) * byte for index, byte in enumerate(name.encode())) % 2**31


def _signal_variance(electrons: NDArray[np.float32], camera: CameraCalibration) -> float:
    values = electrons.astype(np.float64)
    return float(values.var()) - max(float(values.mean()), 0.0) - camera.variance


def _at(
    electrons: NDArray[np.float32],
    step: Step,
    camera: CameraCalibration,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The stack at a step, and independent light of the same expectation, sharp."""
    noise = math.sqrt(camera.variance)
    if not step.blur:
        return thin(electrons, step.dose, noise, rng)
    sigma = (step.blur / 2, step.blur, step.blur)
    blurred = ndimage.gaussian_filter(electrons, sigma)
    return thin(electrons, step.dose, noise, rng, blurred)


def _volume(stack: HighDose, counts: NDArray[np.uint16], index: int) -> Volume:
    nz, ny, nx = counts.shape
    info = AcquisitionInfo(
        f"{stack.name} {index}", (nz, ny, nx), counts.dtype, stack.voxel_size_um, (stack.channel,)
    )
    key = VolumeKey(info.acquisition, "0", 0, stack.channel)
    return Volume(key, info, counts, None, utc_now(), 0.0)
