"""One high-dose volume, at less and less light, and more and more blurred."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from live_restore.assessment import Assessment
from live_restore.characterize.stacks import HighDose, Label
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.guard import Guard, Measurement
from live_restore.guard.look import Probe
from live_restore.restore.restorer import RcanRestorer
from live_restore.thinning import thin
from live_restore.volume import AcquisitionInfo, Restored, Volume, VolumeKey, utc_now

__all__ = [
    "BLURS",
    "AtStep",
    "Outcome",
    "Pusher",
    "Step",
    "as_volume",
    "at_step",
    "blur_steps",
    "doses_for",
    "signal_of",
    "true_nrmse",
]

BLURS = 0.7, 1.0, 1.5, 2.0, 3.0
"""Standard deviations of the blur ladder, in lateral voxels."""

_MOST = 0.8  # of the photons: the others are the truth
_STEPS = 9
_LEAST_SIGNAL = 0.7  # photoelectrons; no model has held there
_BLURRED_AT = 30.0  # photoelectrons: enough for the blur to be what is wrong
_BRIGHTEST = 0.98
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples fill a step evenly, however many there are
_PARTS = 4  # as the guard probes of a stream's first volume


_NOTHING = np.empty((0, 0), dtype=np.float32)


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
    stack : Label
        Which; its voxels aren't kept.
    step : Step
        At which.
    signal : float
        Photoelectrons per voxel in bright structures, from the high-dose stack.
    nrmse : float
        True one.
    found : Measurement
        What the guard measured.
    raw, restored : ndarray of float32, (Y, X)
        Maximum projections; empty in a `bare` outcome.
    """

    stack: Label
    step: Step
    signal: float
    nrmse: float
    found: Measurement
    raw: NDArray[np.float32]
    restored: NDArray[np.float32]

    def bare(self) -> Outcome:
        """The same without its projections."""
        return replace(self, raw=_NOTHING, restored=_NOTHING)


@dataclass(frozen=True, slots=True, eq=False)
class AtStep:
    """A stack at a step, in photoelectrons.

    Attributes
    ----------
    raw, unseen : ndarray of float32, (Z, Y, X)
        What the camera would have given, and independent light of the same expectation but for the blur.
    unseen_noise : float
        Variance of the noise of `unseen`.
    """

    raw: NDArray[np.float32]
    unseen: NDArray[np.float32]
    unseen_noise: float


class Pusher:
    """Restores volumes of a ladder, with a guard that measures and doesn't judge.

    It is the examiner of the restorer that it pushes.

    Parameters
    ----------
    camera : CameraCalibration
        Of the stacks.
    seed : int
        Of the noise.

    Attributes
    ----------
    guard : Guard
        Measures.
    measured : Measurement or None
        What it measured last.
    """

    def __init__(self, camera: CameraCalibration, seed: int = 0) -> None:
        self._camera = camera
        self._seed = seed
        self._transfer_sigma = (0.0, 0.0, 0.0)
        self.guard = Guard(camera)
        self.measured: Measurement | None = None

    def blur_back(self, transfer_sigma: tuple[float, float, float]) -> None:
        """From now on, compare with unseen light what is blurred back to its sharpness.

        Parameters
        ----------
        transfer_sigma : tuple of float
            From `measure_transfer`.
        """
        self._transfer_sigma = transfer_sigma
        self.guard = Guard(self._camera, transfer_sigma=transfer_sigma)

    def push(
        self, restorer: RcanRestorer, stack: HighDose, steps: Sequence[Step]
    ) -> Iterator[Outcome]:
        """Each step of one stack's ladder."""
        camera = self._camera
        electrons = camera.electrons(stack.counts)
        brightness = signal_of(electrons)
        truth = None if stack.truth is None else _Truth.of(stack.truth, camera)
        for index, step in enumerate(steps):
            rng = np.random.default_rng([self._seed, index, hash_of(stack.name)])
            at = at_step(electrons, step, camera, rng)
            counts = np.clip(np.rint(at.raw * camera.gain + camera.offset), 0, 65535)
            volume = as_volume(stack, counts.astype(np.uint16), str(index))
            restored = restorer.restore(volume).data
            if self.measured is None:
                raise RuntimeError("the examiner of the restorer isn't this one")
            if truth is not None:
                nrmse = true_nrmse(restored, truth.electrons, truth.signal_variance)
            else:
                # Unseen light is as sharp as the raw volume, no sharper.
                matched = ndimage.gaussian_filter(restored, self._transfer_sigma, truncate=3.0)
                variance = float(at.unseen.var(dtype=np.float64)) - at.unseen_noise
                nrmse = true_nrmse(matched, at.unseen, variance)
            yield Outcome(
                stack.label,
                step,
                brightness * step.dose,
                nrmse,
                self.measured,
                counts.max(axis=0).astype(np.float32),
                restored.max(axis=0).astype(np.float32),
            )

    def examine(self, restored: Restored, probe: Probe, restoring_s: float) -> Assessment:  # noqa: ARG002
        """See `Examiner`: notes what the guard measures."""
        self.measured = self.guard.measure(restored, probe, num_parts=_PARTS)
        return Assessment("uncalibrated")


def doses_for(stack: HighDose, camera: CameraCalibration, number: int = 0) -> list[float]:
    """Fractions of a stack's light, from most of it to too little, in equal ratios.

    Stacks begin at different places within a step, so that together they show what lies between the rungs.

    Parameters
    ----------
    stack : HighDose
        Which.
    camera : CameraCalibration
        Of it.
    number : int
        How many stacks came before it.
    """
    brightness = signal_of(camera.electrons(stack.counts))
    least = min(_LEAST_SIGNAL / max(brightness, 1e-6), _MOST / 4)
    steps = (np.arange(_STEPS) + number * _GOLDEN % 1) / (_STEPS - 0.5)
    return [float(one) for one in _MOST * (least / _MOST) ** steps]


def blur_steps(doses: Sequence[float], brightness: float) -> list[Step]:
    """The blur ladder, at the dose of the photon ladder that is nearest to thirty photoelectrons."""
    possible = [one for one in doses if one <= 0.5] or [0.5]
    dose = min(possible, key=lambda one: abs(math.log(max(one * brightness, 1e-6) / _BLURRED_AT)))
    return [Step(dose, blur) for blur in BLURS]


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


def at_step(
    electrons: NDArray[np.float32],
    step: Step,
    camera: CameraCalibration,
    rng: np.random.Generator,
) -> AtStep:
    """A stack at a step.

    A blurred one is made from one half of the light, and compared with the other, sharp: blurring leaves some of a
    voxel's noise in it, which would look like truth.
    """
    noise = math.sqrt(camera.variance)
    if not step.blur:
        raw, unseen = thin(electrons, step.dose, noise, rng)
        return AtStep(raw, unseen, _unseen_noise(electrons, step.dose, camera))
    half, unseen = thin(electrons, 0.5, noise, rng)
    blurred = ndimage.gaussian_filter(half, (step.blur / 2, step.blur, step.blur))
    few = rng.poisson(np.maximum(blurred, 0) * (2 * step.dose)).astype(np.float32)
    few += np.float32(noise) * rng.standard_normal(few.shape, dtype=np.float32)
    scale = 2 * step.dose
    unseen_noise = _unseen_noise(electrons, 0.5, camera) * scale**2
    return AtStep(few, unseen * np.float32(scale), unseen_noise)


def as_volume(stack: HighDose, counts: NDArray[np.uint16], name: str) -> Volume:
    """A volume for the restorer, of an acquisition of its own."""
    info = AcquisitionInfo(
        f"{stack.name} {name}",
        stack.shape_zyx,
        counts.dtype,
        stack.voxel_size_um,
        (stack.channel,),
    )
    key = VolumeKey(info.acquisition, "0", 0, stack.channel)
    return Volume(key, info, counts, None, utc_now(), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    electrons: NDArray[np.float32]
    signal_variance: float

    @classmethod
    def of(cls, truth: NDArray[Any], camera: CameraCalibration) -> _Truth:
        electrons = camera.electrons(truth)
        variance = float(electrons.var(dtype=np.float64))
        if truth.dtype.kind != "f":
            # Of a camera: with the noise of its own.
            mean = float(electrons.mean(dtype=np.float64))
            variance -= max(mean, 0.0) + camera.variance
        return cls(electrons, variance)


def _unseen_noise(electrons: NDArray[np.float32], dose: float, camera: CameraCalibration) -> float:
    """Variance of the noise of `thin`'s second volume.

    Of each photon chance decided whether it came, which makes (1 - p)² of the stack's own variance, and whether it
    was kept, p (1 - p) of the whole photoelectrons that were split; as much of the read-out.
    """
    mean = max(float(electrons.mean(dtype=np.float64)), 0.0)
    whole = float(np.rint(np.maximum(electrons, 0)).mean(dtype=np.float64))
    left = (1 - dose) ** 2 * (mean + camera.variance)
    left += dose * (1 - dose) * (whole + camera.variance)
    return left * (dose / (1 - dose)) ** 2
